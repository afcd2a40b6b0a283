"""Loss weightings: how much the loss of each task counts, decided anew for every update.

The engine multiplies each loss of an update, and the penalty on it, by the weight of its task. Once
the losses of the whole update are known, the weighting observes them and prepares its next weights.
--task_weights multiply what a weighting gives: no method here sees them in the losses.

Weights are scaled so that equal ones are 1 each, as in the plain sum, and a learning rate keeps its
meaning; `uncertainty` alone starts as its likelihoods say. All of them stay on the model's device:
the one host read of an update, that of its losses, reads them too.

Axis letters: T tasks.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from optimizers.stateless import Stateless
from optimizers.task_gradients import SummedGradients, TaskGradients
from tasks import Batch, Task, Update, num_examples


class Unweighted(Stateless):
    """The plain form, without a loss weighting: losses keep the weights of the task scheduler.

    Attributes:
        names: the tasks whose losses are weighed; none.
        parameters: what the optimizer learns besides the model; nothing.
        logged: the weights of the last update by task, for the log; nothing.
        needs_gradients: whether the gradients of the tasks have to be kept apart.
    """

    needs_gradients = False

    def __init__(self) -> None:
        self.names: list[str] = []
        self.parameters: list[nn.Parameter] = []
        self.logged: dict[str, float] = {}

    def weighted(self, update: Update) -> Iterable[tuple[Task, Batch, float | Tensor]]:
        """Return the update as it is."""
        return update

    def observe(
        self, update: Update, losses: Tensor, gradients: SummedGradients | TaskGradients
    ) -> None:
        """Do nothing."""

    def readings(self) -> list[Tensor]:
        """Return no numbers to read from the device."""
        return []

    def take(self, values: list[float]) -> None:
        """Do nothing."""

    def after_step(self) -> None:
        """Do nothing."""

    def after_epoch(self, losses: dict[str, float]) -> None:
        """Do nothing."""


class LossWeighting(Unweighted):
    """The base of all loss weightings.

    An update calls `weighted` once and trains on what it yields, then `observe`, and `after_step`
    after the optimizer's step.

    Args:
        tasks: the tasks that the run trains on, in the order of J's rows.
        device: the model's.

    Attributes:
        weights: [T] float32, those of the current update, or of the last one between updates.
    """

    def __init__(self, tasks: list[Task], device: torch.device) -> None:
        super().__init__()
        self.names = [task.name for task in tasks]
        self.weights = torch.ones(len(tasks), device=device)

    def weighted(self, update: Update) -> Iterator[tuple[Task, Batch, Tensor]]:
        """Yield the batches of an update with their final weights [].

        Args:
            update: as the task scheduler gives it.
        """
        self.prepare()
        for task, batch, weight in update:
            yield task, batch, weight * self.weights[self.names.index(task.name)]

    def prepare(self) -> None:
        """Set the weights of the coming update; as it stands, they stay."""

    def task_losses(self, update: Update, losses: Tensor) -> Tensor:
        """Return the mean loss of each task [T], over its batches and weighted by their examples.

        A task that is not part of the update has 0.

        Args:
            update: the update.
            losses: the mean loss of each of its batches, [num batches].
        """
        table = torch.zeros(len(self.names), len(update))
        for column, (task, batch, _) in enumerate(update):
            table[self.names.index(task.name), column] = num_examples(batch)
        shares = table / table.sum(1, keepdim=True).clamp(min=1)
        return shares.to(losses.device, non_blocking=True) @ losses.float()

    def readings(self) -> list[Tensor]:
        """Return the weights [T], for the one host read of an update."""
        return [self.weights]

    def take(self, values: list[float]) -> None:
        """Keep the weights that were read, for the log."""
        self.logged = dict(zip(self.names, values))


class LearnedWeighting(LossWeighting):
    """A loss weighting with one parameter per task, which the run's optimizer learns.

    The parameters have a learning rate of their own and no weight decay. They follow the run's
    learning-rate schedule. Those of a task that is not part of an update do not move.

    Args:
        tasks: as in `LossWeighting`.
        device: the model's.
        start: the first value of every parameter.
    """

    def __init__(self, tasks: list[Task], device: torch.device, start: float) -> None:
        super().__init__(tasks, device)
        # One tensor per task: the optimizer skips those without a gradient.
        self.parameters = [nn.Parameter(torch.tensor(start, device=device)) for _ in tasks]

    def values(self) -> Tensor:
        """Return the parameters [T] without their graph."""
        return torch.stack([p.detach() for p in self.parameters])

    def set_values(self, values: Tensor) -> None:
        """Overwrite the parameters with `values` [T]."""
        with torch.no_grad():
            for p, value in zip(self.parameters, values):
                p.copy_(value)

    def set_gradients(self, update: Update, gradients: Tensor) -> None:
        """Give the parameters of the tasks of an update their gradients, from [T]."""
        present = {task.name for task, _, _ in update}
        for name, p, gradient in zip(self.names, self.parameters, gradients):
            p.grad = gradient.to(p.dtype) if name in present else None

    def state_dict(self) -> dict[str, Any]:
        """Return the parameters. Their moments are in the optimizer's state."""
        return {"values": self.values()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.set_values(state["values"])
