"""Which tasks the next update trains on, and with which weight.

The loss of an update is the sum of weight · loss over what `next_update` returns, each loss its
batch's mean. A task with n batches in an update weighs 1/n each (or n^-a, see `Sampled`), times
--task_weights. Of several workers, each gets its rows of every batch, weighed by their share.
"""

import warnings
from collections import Counter
from functools import partial

import numpy as np
import torch

from inputs.batches import BatchSampler, Rows
from runtime import workers
from tasks import TASKS, Batch, Task, own_rows

Update = list[tuple[Task, Batch, float]]

COMBINE_STRATEGIES = ("none", "encourage", "force")
LEAST_PROBABILITY = 0.025  # of a task under `encourage`, before renormalising


def annealed_probabilities(sizes: list[int], epoch: int, num_epochs: int) -> torch.Tensor:
    """p_t ∝ N_t^α, α = 1 − .8 (e − 1)/(E − 1), for e = 1 … E: [T] float64 (arXiv:1902.02671).

    The last epoch's α, .2, also is the only one's.
    """
    alpha = 1 - 0.8 * epoch_fraction(epoch, num_epochs)
    weights = torch.tensor(sizes, dtype=torch.float64) ** alpha
    return weights / weights.sum()


def epoch_fraction(epoch: int, num_epochs: int) -> float:
    """From 0 in the first epoch to 1 in the last; 1 if there is only one."""
    return 1.0 if num_epochs == 1 else (epoch - 1) / (num_epochs - 1)


def own_part(batch: Batch, num_rows: int) -> Batch:
    """Return this worker's rows of a batch of `num_rows` rows; alone, the batch itself."""
    if workers.size() == 1:
        return batch
    is_own = torch.zeros(num_rows, dtype=torch.bool)
    is_own[workers.positions(num_rows)] = True
    return {key: own_rows(tensor, is_own) for key, tensor in batch.items()} | {"is_own": is_own}


class TaskScheduler:
    """What all schedulers share: a sampler a task, weights, micro-batches, state.

    data: task name -> training rows. micro_batch_size: a batch is cut into parts of at most so many
    examples, each weighted by its share of the batch, so that the summed gradient stays the
    batch's; None leaves it whole. projects: a projection wants several tasks in every update.
    """

    def __init__(
        self,
        data: dict[str, Rows],
        batch_size: int,
        micro_batch_size: int | None = None,
        task_weights: dict[str, float] | None = None,
        seed: int = 0,
        num_epochs: int = 1,
        projects: bool = False,
        combine_strategy: str = "none",
        batches_per_update: int = 16,
    ) -> None:
        if batch_size < workers.size():
            warnings.warn(
                f"--batch_size is {batch_size} and there are {workers.size()} workers: some idle",
                stacklevel=2,
            )
        self.data = data
        self.names = list(data)
        self.micro_batch_size = micro_batch_size
        self.task_weights = task_weights or {}
        self.num_epochs = num_epochs
        self.projects = projects
        self.combine_strategy = combine_strategy
        self.batches_per_update = batches_per_update
        self.power = 1.0  # a task with n batches in an update weighs n^-power each
        # A generator a task: one task's order does not depend on the others.
        self.samplers = {
            name: BatchSampler(rows.lengths.max(axis=1), batch_size, seed + list(TASKS).index(name))
            for name, rows in data.items()
        }
        self.generator = torch.Generator().manual_seed(seed + len(TASKS))
        self.turn = 0
        self.start_epoch(1)

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 1."""

    def num_batches(self) -> int:
        """Batches in one update."""
        return len(self.names)

    def next_names(self) -> list[str]:
        """The task of each batch of the next update."""
        return self.names

    @property
    def mean_examples(self) -> float:
        """Mean number of examples an update trains on."""
        sizes = [self.samplers[name].mean_batch_size for name in self.names]
        return self.num_batches() * sum(sizes) / len(sizes)

    def updates_per_epoch(self, num_examples: int) -> int:
        """How many updates train on `num_examples` in all, to the nearest update."""
        return max(1, round(num_examples / self.mean_examples))

    def next_update(self) -> Update:
        """[(task, batch, weight)]."""
        names = self.next_names()
        counts = Counter(names)
        return [part for name in names for part in self.next_batch(name, counts[name])]

    def next_batch(self, name: str, num_batches: int) -> Update:
        """The next batch of one task, in parts; the task has `num_batches` in this update."""
        rows = self.samplers[name].next_rows()
        size = self.micro_batch_size or len(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        weight = self.task_weights.get(name, 1.0) * num_batches**-self.power
        return [self.weighted(name, part, weight * len(part) / len(rows)) for part in parts]

    def weighted(self, name: str, rows: np.ndarray, weight: float) -> tuple[Task, Batch, float]:
        batch = own_part(self.data[name].batch(rows), len(rows))
        return self.data[name].task, batch, weight * workers.share(len(rows))

    def state_dict(self) -> dict:
        samplers = {name: sampler.state_dict() for name, sampler in self.samplers.items()}
        return {"samplers": samplers, "generator": self.generator.get_state(), "turn": self.turn}

    def load_state_dict(self, state: dict) -> None:
        for name, sampler in self.samplers.items():
            sampler.load_state_dict(state["samplers"][name])
        self.generator.set_state(state["generator"])
        self.turn = state["turn"]


class Joint(TaskScheduler):
    """One batch of every task in every update."""


class SingleTask(TaskScheduler):
    """One task alone; the others are only evaluated."""

    def __init__(self, name: str, data: dict[str, Rows], *args: object, **options: object):
        super().__init__({name: data[name]}, *args, **options)


class RoundRobin(TaskScheduler):
    """The tasks in turn, one an update; under a projection, one batch of each."""

    def num_batches(self) -> int:
        return len(self.names) if self.projects else 1

    def next_names(self) -> list[str]:
        if self.projects:
            return self.names
        self.turn += 1
        return [self.names[(self.turn - 1) % len(self.names)]]


class Sampled(TaskScheduler):
    """A task drawn for every update; uniformly here.

    Under a projection, an update has K = batches_per_update batches, more than tasks: one of each,
    the rest drawn. `force` draws them with the tasks' probabilities p and weighs a task's n batches
    1/n each. `encourage` draws them
    from clip((p K − 1)/(K − T), .025, 1), renormalised, so that the whole update comes near p, and
    weighs n^-a, a = .2 + .8 (e − 1)/(E − 1), so that larger tasks count more in early epochs.
    """

    def start_epoch(self, epoch: int) -> None:
        self.probabilities = self.task_probabilities(epoch)
        if self.projects and self.combine_strategy == "encourage":
            k, t = self.batches_per_update, len(self.names)
            rest = ((self.probabilities * k - 1) / (k - t)).clamp(LEAST_PROBABILITY, 1)
            self.probabilities = rest / rest.sum()
            self.power = 0.2 + 0.8 * epoch_fraction(epoch, self.num_epochs)

    def task_probabilities(self, epoch: int) -> torch.Tensor:
        """[T] float64."""
        return torch.full((len(self.names),), 1 / len(self.names), dtype=torch.float64)

    def num_batches(self) -> int:
        return self.batches_per_update if self.projects else 1

    def next_names(self) -> list[str]:
        fixed = self.names if self.projects else []
        num_drawn = self.num_batches() - len(fixed)
        drawn = torch.multinomial(
            self.probabilities, num_drawn, replacement=True, generator=self.generator
        )
        return fixed + [self.names[i] for i in drawn.tolist()]


class Annealed(Sampled):
    """The PAL paper's annealed sampling: by training set size first, nearly uniform at the end."""

    def task_probabilities(self, epoch: int) -> torch.Tensor:
        sizes = [self.data[name].num_in_file for name in self.names]
        return annealed_probabilities(sizes, epoch, self.num_epochs)


TASK_SCHEDULERS = {
    "joint": Joint,
    "round_robin": RoundRobin,
    "random": Sampled,
    "pal": Annealed,
} | {name: partial(SingleTask, name) for name in TASKS}
