"""Feed a projection from the model: each task's shared gradient becomes a row of J."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from optimizers.projections import Groups, Projection, gramians
from optimizers.stateless import Stateless
from tasks import Task


class SummedGradients(Stateless):
    """The plain form, without a projection: backward passes add up in `p.grad`; there is no J."""

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to every parameter's `grad`."""
        torch.autograd.backward(loss)

    def filled_rows(self) -> list[Tensor]:
        """Return no rows."""
        return []

    def combine(self) -> None:
        """Do nothing: `p.grad` already holds what the optimizer uses."""


class TaskGradients:
    """Collects the task gradients in J [T, P] float32 and gives the optimizer their projection.

    An update calls `backward` for each of its losses, then `combine` once. Parameters that are not
    shared, such as heads and projected attention layers, keep the plain gradient of their own task.
    Where a task is not part of the update, or its loss does not reach a shared parameter, J holds
    zeros. A shared parameter that no loss reaches gets a gradient of zeros.

    Args:
        projection: maps J to the update.
        shared: the shared parameters, in the order of J's columns.
        names: the tasks, in the order of J's rows.
        groups: parts of the shared vector; together they cover it.
        observe: called in every update, before the projection, with `gramians(J)` [G, T, T]. None
            for a run that needs them for nothing but its projection.
    """

    def __init__(
        self,
        projection: Projection,
        shared: list[nn.Parameter],
        names: list[str],
        groups: Groups,
        observe: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.projection = projection
        self.shared = shared
        self.groups = list(groups.values())
        self.observe = observe
        sizes = [p.numel() for p in shared]
        self.J = torch.zeros(len(names), sum(sizes), device=shared[0].device)
        self.rows = dict(zip(names, self.J))
        self.parts = {  # views of the rows, one in the shape of each shared parameter
            name: [part.view_as(p) for p, part in zip(shared, row.split(sizes))]
            for name, row in self.rows.items()
        }
        self.filled: set[str] = set()  # tasks with a gradient in this update
        self.inner: Tensor | None = None  # what `inner_products` has computed in this update

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to the task's row of J and to its own parameters."""
        self.clear()
        torch.autograd.backward(loss)
        reached = {
            part: p.grad
            for part, p in zip(self.parts[task.name], self.shared)
            if p.grad is not None
        }
        if task.name not in self.filled and len(reached) < len(self.shared):
            self.rows[task.name].zero_()
        if reached:
            move = torch._foreach_add_ if task.name in self.filled else torch._foreach_copy_
            move(list(reached), list(reached.values()))
        self.filled.add(task.name)
        self.clear()

    def filled_rows(self) -> list[Tensor]:
        """Return the rows of J with a gradient in this update, by reference, in J's order."""
        return [row for name, row in self.rows.items() if name in self.filled]

    def inner_products(self) -> Tensor:
        """Return `gramians(J)` [G, T, T] of this update, computed once.

        Call it after the last backward pass, and with several workers after their sum.
        """
        if self.inner is None:
            self.empty_other_rows()
            self.inner = gramians(self.J, self.groups)
        return self.inner

    def scale(self, factors: Tensor) -> None:
        """Multiply the rows of J by `factors` [T], before anyone asks for `inner_products`."""
        assert self.inner is None, "the Gramian of this update is already known"
        self.J.mul_(factors[:, None])

    def combine(self) -> None:
        """Put the projection of J into the shared parameters' `grad`; the first row is lost."""
        self.empty_other_rows()
        if self.observe is not None:
            self.observe(self.inner_products())
        self.projection(self.J, inner=self.inner, out=self.J[0])
        self.filled.clear()
        self.inner = None
        for p, part in zip(self.shared, next(iter(self.parts.values()))):
            p.grad = part

    def empty_other_rows(self) -> None:
        """Fill the rows of tasks without a gradient in this update with zeros."""
        for name, row in self.rows.items():
            if name not in self.filled:
                row.zero_()

    def clear(self) -> None:
        """Drop the gradients of the shared parameters."""
        for p in self.shared:
            p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the projection's state. J is not part of it: every update fills it anew."""
        return self.projection.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.projection.load_state_dict(state)
