"""Feeding a projection from the model: a task's shared gradient becomes a row of J."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks import Task


class SummedGradients:
    """No projection: the backward passes add up in `p.grad` by themselves, and no J is made."""

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to every parameter's."""
        loss.backward()

    def combine(self) -> None:
        """Leave in `p.grad` what the optimizer shall use: here it is already."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class TaskGradients:
    """Collects J [T, P], float32, and puts what `projection(J)` makes of it into the shared
    gradients.

    shared: the shared parameters, in J's order of columns. names: the tasks, in J's order of rows.
    Other parameters (heads, projected attention layers) keep the plain gradient of their own task.
    observe: called with J before it is projected. A task that an update does not train on, and a
    parameter that no task touches, are zeros in J; a parameter that no task touches gets a zero
    gradient.
    """

    def __init__(
        self,
        projection: Callable[[Tensor], Tensor],
        shared: list[nn.Parameter],
        names: list[str],
        observe: Callable[[Tensor], None] = lambda J: None,
    ) -> None:
        self.projection = projection
        self.shared = shared
        self.rows = {name: row for row, name in enumerate(names)}
        self.sizes = [p.numel() for p in shared]
        self.J = torch.zeros(len(names), sum(self.sizes), device=shared[0].device)
        self.observe = observe
        self.is_fresh = True

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to the task's row, and to its own parameters' gradients.

        The row's parts stand in for the gradients, so that the backward pass writes into J itself.
        """
        if self.is_fresh:
            self.J.zero_()
            self.is_fresh = False
        self.point_gradients_at(self.J[self.rows[task.name]])
        loss.backward()
        for p in self.shared:
            p.grad = None

    def combine(self) -> None:
        """Fill the shared parameters' `grad` with the projected sum."""
        self.observe(self.J)
        self.point_gradients_at(self.projection(self.J))
        self.is_fresh = True

    def point_gradients_at(self, vector: Tensor) -> None:
        """vector [P]: its parts become the shared parameters' gradients, without a copy."""
        for p, part in zip(self.shared, vector.split(self.sizes)):
            p.grad = part.view_as(p)

    def state_dict(self) -> dict:
        return self.projection.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.projection.load_state_dict(state)
