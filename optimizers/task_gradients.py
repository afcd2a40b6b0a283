"""Feeding a projection from the model: a task's shared gradient becomes a row of J."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from optimizers.projections import Groups, Projection, gramians
from tasks import Task


class SummedGradients:
    """No projection: the backward passes add up in `p.grad` by themselves, and no J is made."""

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to every parameter's."""
        loss.backward()

    def filled_rows(self) -> list[Tensor]:
        """Rows of J that hold a gradient: there is no J."""
        return []

    def combine(self) -> None:
        """Leave in `p.grad` what the optimizer shall use: here it is already."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class TaskGradients:
    """Collects J [T, P], float32, and puts what the projection makes of it into the shared
    gradients.

    shared: the shared parameters, in J's order of columns. names: the tasks, in J's order of rows.
    groups: parts of the shared vector, covering it. Other parameters (heads, projected attention
    layers) keep the plain gradient of their own task. observe: called with J Jᵀ by groups, [G, T,
    T], before J is projected. A task that an update does not train on, and a parameter that no task
    touches, are zeros in J; a parameter that no task touches gets a zero gradient.
    """

    def __init__(
        self,
        projection: Projection,
        shared: list[nn.Parameter],
        names: list[str],
        groups: Groups,
        observe: Callable[[Tensor], None] = lambda inner: None,
    ) -> None:
        self.projection = projection
        self.shared = shared
        self.groups = list(groups.values())
        self.observe = observe
        sizes = [p.numel() for p in shared]
        self.J = torch.zeros(len(names), sum(sizes), device=shared[0].device)
        self.rows = dict(zip(names, self.J))
        self.parts = {  # the same memory, as the gradient of every shared parameter
            name: [part.view_as(p) for p, part in zip(shared, row.split(sizes))]
            for name, row in self.rows.items()
        }
        self.filled: set[str] = set()

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to the task's row, and to its own parameters' gradients."""
        self.clear()
        loss.backward()
        pairs = zip(self.parts[task.name], self.shared)
        touched = [(part, p.grad) for part, p in pairs if p.grad is not None]
        if task.name not in self.filled and len(touched) < len(self.shared):
            self.rows[task.name].zero_()
        if touched:
            move = torch._foreach_add_ if task.name in self.filled else torch._foreach_copy_
            move(*map(list, zip(*touched)))
        self.filled.add(task.name)
        self.clear()

    def filled_rows(self) -> list[Tensor]:
        """Rows of J that hold a gradient of this update, by reference, in J's order."""
        return [row for name, row in self.rows.items() if name in self.filled]

    def combine(self) -> None:
        """Fill the shared parameters' `grad` with the projected sum, made in the first row of J."""
        for name, row in self.rows.items():
            if name not in self.filled:
                row.zero_()
        self.filled.clear()
        inner = gramians(self.J, self.groups)
        self.observe(inner)
        self.projection(self.J, inner=inner, out=self.J[0])
        for p, part in zip(self.shared, next(iter(self.parts.values()))):
            p.grad = part

    def clear(self) -> None:
        for p in self.shared:
            p.grad = None

    def state_dict(self) -> dict:
        return self.projection.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.projection.load_state_dict(state)
