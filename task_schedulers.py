"""Task schedulers: choose the tasks of each update, their batches and their weights.

The loss of an update is Σ weight · loss over what `next_update` returns; each loss is the mean of
its batch. A task with n batches in an update weighs 1/n in each of them, multiplied by
--task_weights. Only `encourage` uses another power of n, see `Sampled`. With several workers, each
gets its own rows of every batch, weighted by their share of the batch.

Axis letters: B batch, T tasks.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from inputs.batches import BatchSampler, Rows
from runtime import workers
from tasks import Batch, Task, Update, own_rows

COMBINE_STRATEGIES = ("none", "encourage", "force")
LEAST_PROBABILITY = 0.025  # of each task under `encourage`, before normalising


def annealed_probabilities(sizes: list[int], epoch: int, num_epochs: int) -> torch.Tensor:
    """Return the probabilities of annealed sampling (Stickland & Murray, 2019, arXiv:1902.02671).

    p_t ∝ N_t^α with α = 1 − 0.8 (e − 1)/(E − 1). A run of a single epoch uses α = 0.2, as the last
    epoch of a longer run does.

    Args:
        sizes: N_t, the number of training examples of each task.
        epoch: e, counted from 1.
        num_epochs: E.

    Returns:
        [T] float64.
    """
    alpha = 1 - 0.8 * epoch_fraction(epoch, num_epochs)
    weights = torch.tensor(sizes, dtype=torch.float64) ** alpha
    return weights / weights.sum()


def temperature_probabilities(sizes: list[int], temperature: float) -> torch.Tensor:
    """Return the probabilities of temperature sampling (Raffel et al., 2020, arXiv:1910.10683).

    p_t ∝ N_t^(1/τ). At τ = 1 they are in proportion to the sizes; the larger τ, the closer they are
    to uniform ones.

    Args:
        sizes: N_t, the number of training examples of each task.
        temperature: τ, above 0.

    Returns:
        [T] float64.
    """
    logarithms = torch.tensor(sizes, dtype=torch.float64).log()
    return (logarithms / temperature).softmax(0)  # N^(1/τ) itself would overflow at a small τ


def epoch_fraction(epoch: int, num_epochs: int) -> float:
    """Return how far an epoch is, from 0 for the first to 1 for the last; 1 for a single one.

    Args:
        epoch: the epoch, counted from 1.
        num_epochs: epochs of the whole run.
    """
    return 1.0 if num_epochs == 1 else (epoch - 1) / (num_epochs - 1)


def own_part(batch: Batch, num_rows: int) -> Batch:
    """Return this worker's rows of a batch of `num_rows` rows; a single process has all of them.

    With several workers, `is_own` [num_rows] bool is added, which marks these rows.
    """
    if workers.size() == 1:
        return batch
    is_own = torch.zeros(num_rows, dtype=torch.bool)
    is_own[workers.positions(num_rows)] = True
    return {key: own_rows(tensor, is_own) for key, tensor in batch.items()} | {"is_own": is_own}


class TaskScheduler:
    """The base of all schedulers: one batch of every task in every update.

    Args:
        data: task name -> training rows.
        batch_size: examples per batch, of all workers together.
        micro_batch_size: batches are cut into parts of at most so many examples. Each part is
            weighted by its share of the batch, so the summed gradient does not change. None cuts
            nothing.
        task_weights: task name -> weight of its loss; 1 for tasks without an entry.
        seed: seeds all generators.
        num_epochs: epochs of the whole run.
        projects: whether a projection combines the tasks' gradients, which needs several tasks in
            every update.
        combine_strategy: one of `COMBINE_STRATEGIES`, see `Sampled`.
        batches_per_update: K, see `Sampled`. It has no effect without a projection.
        temperature: τ, see `Tempered`.
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
        batches_per_update: int = 1,
        temperature: float = 1.0,
    ) -> None:
        if batch_size < workers.size():
            warnings.warn(
                f"--batch_size is {batch_size}, but there are {workers.size()} workers: "
                "some of them get no examples",
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
        self.temperature = temperature
        self.power = 1.0  # each of the n batches of a task in an update weighs n^-power
        # Each sampler has its own generator, so the order of one task's rows does not depend on the
        # other tasks.
        self.samplers = {
            name: BatchSampler(rows.lengths.max(axis=1), batch_size, seed + rows.task.number)
            for name, rows in data.items()
        }
        self.generator = torch.Generator().manual_seed(seed + 1 + self.last_number())
        self.turn = 0
        self.start_epoch(1)

    def last_number(self) -> int:
        """Return the largest of the tasks' numbers in their table."""
        return max(rows.task.number for rows in self.data.values())

    def start_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, counted from 1."""

    def num_batches(self) -> int:
        """Return the number of batches per update, before they are cut into micro-batches."""
        return len(self.names)

    def next_names(self) -> list[str]:
        """Return the task of each batch of the next update."""
        return self.names

    @property
    def mean_examples(self) -> float:
        """The mean number of examples per update."""
        sizes = [self.samplers[name].mean_batch_size for name in self.names]
        return self.num_batches() * sum(sizes) / len(sizes)

    def updates_per_epoch(self, num_examples: int) -> int:
        """Return how many updates train on `num_examples` in all, rounded, at least 1."""
        return max(1, round(num_examples / self.mean_examples))

    def next_update(self) -> Update:
        """Return the next update as [(task, batch, weight)]."""
        names = self.next_names()
        counts = Counter(names)
        return [part for name in names for part in self.next_batch(name, counts[name])]

    def next_batch(self, name: str, num_batches: int) -> Update:
        """Return the next batch of one task, cut into micro-batches.

        Args:
            name: the task.
            num_batches: how many batches this update has of the task.
        """
        rows = self.samplers[name].next_rows()
        size = self.micro_batch_size or len(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        weight = self.task_weights.get(name, 1.0) * num_batches**-self.power
        return [self.weighted(name, part, weight * len(part) / len(rows)) for part in parts]

    def weighted(self, name: str, rows: np.ndarray, weight: float) -> tuple[Task, Batch, float]:
        """Return (task, batch, weight) of this worker's part of the given rows."""
        batch = own_part(self.data[name].batch(rows), len(rows))
        return self.data[name].task, batch, weight * workers.share(len(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the samplers, of the generator, and whose turn it is."""
        samplers = {name: sampler.state_dict() for name, sampler in self.samplers.items()}
        return {"samplers": samplers, "generator": self.generator.get_state(), "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            InputError: a training file has another number of rows than when the state was saved.
        """
        for name, sampler in self.samplers.items():
            sampler.load_state_dict(state["samplers"][name])
        self.generator.set_state(state["generator"])
        self.turn = state["turn"]


class Joint(TaskScheduler):
    """One batch of every task in every update."""


class SingleTask(TaskScheduler):
    """One task alone; the others are only evaluated.

    Args:
        name: the task.
        data: task name -> training rows.
        args: the further arguments of `TaskScheduler`.
        options: the same, by name.
    """

    def __init__(self, name: str, data: dict[str, Rows], *args: Any, **options: Any) -> None:
        super().__init__({name: data[name]}, *args, **options)


class RoundRobin(TaskScheduler):
    """The tasks in turn, one per update. Under a projection: one batch of each in every update."""

    def num_batches(self) -> int:
        """Return T under a projection, else 1."""
        return len(self.names) if self.projects else 1

    def next_names(self) -> list[str]:
        """Return the task whose turn it is, or every task under a projection."""
        if self.projects:
            return self.names
        self.turn += 1
        return [self.names[(self.turn - 1) % len(self.names)]]


class Sampled(TaskScheduler):
    """One randomly drawn task per update, with uniform probabilities p.

    Under a projection, an update has K = `batches_per_update` batches, more than there are tasks
    (T): one of each task, and K − T that are drawn. `combine_strategy` says how:

        force: from p. Each of the n batches of a task weighs 1/n.
        encourage: from p' ∝ clip((p K − 1)/(K − T), 0.025, 1), so that the whole update comes close
            to p. Each of the n batches of a task weighs n^−a, a = 0.2 + 0.8 (e − 1)/(E − 1), so
            that tasks with many batches count more in early epochs e of E. A run of a single epoch
            has a = 1.
        none: only without a projection.
    """

    def start_epoch(self, epoch: int) -> None:
        """Set the probabilities of the drawn batches, and the power of their weights."""
        self.probabilities = self.task_probabilities(epoch)
        if self.projects and self.combine_strategy == "encourage":
            k, t = self.batches_per_update, len(self.names)
            rest = ((self.probabilities * k - 1) / (k - t)).clamp(LEAST_PROBABILITY, 1)
            self.probabilities = rest / rest.sum()
            self.power = 0.2 + 0.8 * epoch_fraction(epoch, self.num_epochs)

    def task_probabilities(self, epoch: int) -> torch.Tensor:
        """Return p of an epoch, [T] float64."""
        return torch.full((len(self.names),), 1 / len(self.names), dtype=torch.float64)

    def num_batches(self) -> int:
        """Return K under a projection, else 1."""
        return self.batches_per_update if self.projects else 1

    def next_names(self) -> list[str]:
        """Return every task once under a projection, followed by the drawn tasks."""
        fixed = self.names if self.projects else []
        num_drawn = self.num_batches() - len(fixed)
        drawn = torch.multinomial(
            self.probabilities, num_drawn, replacement=True, generator=self.generator
        )
        return fixed + [self.names[i] for i in drawn.tolist()]


class Annealed(Sampled):
    """Annealed sampling, see `annealed_probabilities`.

    Early epochs draw tasks in proportion to the sizes of their training files, late ones almost
    uniformly.
    """

    def task_probabilities(self, epoch: int) -> torch.Tensor:
        """Return p of an epoch, [T] float64."""
        sizes = [self.data[name].num_in_file for name in self.names]
        return annealed_probabilities(sizes, epoch, self.num_epochs)


class Tempered(Sampled):
    """Temperature sampling, see `temperature_probabilities`; the same in every epoch."""

    def task_probabilities(self, epoch: int) -> torch.Tensor:
        """Return p, [T] float64."""
        sizes = [self.data[name].num_in_file for name in self.names]
        return temperature_probabilities(sizes, self.temperature)


TASK_SCHEDULERS: dict[str, type[TaskScheduler]] = {
    "joint": Joint,
    "round_robin": RoundRobin,
    "random": Sampled,
    "pal": Annealed,
    "temperature": Tempered,
}


def scheduler_of(name: str) -> Callable[..., TaskScheduler]:
    """Return the class of a task scheduler, or the one that trains the task of this name alone."""
    return TASK_SCHEDULERS.get(name) or partial(SingleTask, name)
