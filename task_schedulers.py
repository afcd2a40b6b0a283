"""Which tasks the next update trains on, and with which weight.

The loss of an update is the sum of weight · loss over what `next_update` returns, each loss its
batch's mean.
"""

import numpy as np

from batches import Batch, BatchSampler, TokenizedTask
from tasks import TASKS, Task

Update = list[tuple[Task, Batch, float]]


class Joint:
    """One batch of every task in every update, each with weight 1 · --task_weights.

    data: task name -> training rows. micro_batch_size: a batch is cut into parts of at most so many
    examples, each weighted by its share of the batch, so that the summed gradient stays the
    batch's; None leaves it whole.
    """

    def __init__(
        self,
        data: dict[str, TokenizedTask],
        batch_size: int,
        micro_batch_size: int | None = None,
        task_weights: dict[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.data = data
        self.micro_batch_size = micro_batch_size
        self.task_weights = task_weights or {}
        # A generator a task: one task's order does not depend on the others.
        self.samplers = {
            name: BatchSampler(rows.lengths.max(axis=1), batch_size, seed + list(TASKS).index(name))
            for name, rows in data.items()
        }

    @property
    def mean_examples(self) -> float:
        """Mean number of examples an update trains on."""
        return sum(sampler.mean_batch_size for sampler in self.samplers.values())

    def updates_per_epoch(self, num_examples: int) -> int:
        """How many updates train on `num_examples` in all, to the nearest update."""
        return max(1, round(num_examples / self.mean_examples))

    def next_update(self) -> Update:
        """[(task, batch, weight)], in the tasks' order."""
        return [part for name in self.data for part in self.next_batch(name)]

    def next_batch(self, name: str) -> Update:
        """The next batch of one task, in parts."""
        rows = self.samplers[name].next_rows()
        size = self.micro_batch_size or len(rows)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        weight = self.task_weights.get(name, 1.0)
        return [self.weighted(name, part, weight * len(part) / len(rows)) for part in parts]

    def weighted(self, name: str, rows: np.ndarray, weight: float) -> tuple[Task, Batch, float]:
        return TASKS[name], self.data[name].batch(rows), weight

    def state_dict(self) -> dict:
        return {name: sampler.state_dict() for name, sampler in self.samplers.items()}

    def load_state_dict(self, state: dict) -> None:
        for name, sampler in self.samplers.items():
            sampler.load_state_dict(state[name])


TASK_SCHEDULERS = {"joint": Joint}
