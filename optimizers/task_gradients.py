"""Feed a projection from the model: each task's shared gradient becomes a row of J."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from optimizers.projections import Groups, Projection, gramians, weighted_sum
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

    def measure(self, model: nn.Module, clip: float) -> Tensor:
        """Clip the gradient to the norm `clip`, unless that is 0; return its norm before that, [1].

        Without any gradient, torch's norm is on the CPU.
        """
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
        return norm.reshape(1).to(next(model.parameters()).device)

    def combine(self, measured: list[float]) -> float:
        """Return the norm: `p.grad` already holds what the optimizer uses."""
        [norm] = measured
        return norm


class TaskGradients:
    """Collects the task gradients in J [T, P] float32 and gives the optimizer their projection.

    An update calls `backward` for each of its losses, then `measure` once and, with the numbers
    that were measured, `combine`. In between the host reads them from the device, together with
    whatever else it needs: there is no other read. Parameters that are not
    shared, such as heads and projected attention layers, keep the plain gradient of their own task.
    Where a task is not part of the update, or its loss does not reach a shared parameter, J holds
    zeros. A shared parameter that no loss reaches gets a gradient of zeros.

    Args:
        projection: maps J to the update.
        shared: the shared parameters, in the order of J's columns.
        names: the tasks, in the order of J's rows.
        groups: parts of the shared vector; together they cover it.
        observe: called in every update, before the projection, with `gramians(J)` [G, T, T] on the
            CPU.
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
        self.parts = {  # views of the rows, one in the shape of each shared parameter
            name: [part.view_as(p) for p, part in zip(shared, row.split(sizes))]
            for name, row in self.rows.items()
        }
        self.clip = math.inf
        self.own: list[Tensor] = []  # gradients that are not shared, between measure and combine
        self.filled: set[str] = set()  # tasks with a gradient in this update

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

    def measure(self, model: nn.Module, clip: float) -> Tensor:
        """Return on the device what `combine` needs to know of the gradients.

        Args:
            model: has the parameters that are not shared, with their gradients.
            clip: the largest norm of the combined gradient of all parameters; 0 leaves it.

        Returns:
            [1 + G · T · T] float64: the norm of the gradients that are not shared, and J Jᵀ by
            groups.
        """
        for name, row in self.rows.items():
            if name not in self.filled:
                row.zero_()
        self.filled.clear()
        self.clip = clip or math.inf
        self.own = [p.grad for p in model.parameters() if p.grad is not None]
        own_norm = nn.utils.get_total_norm(self.own).to(self.J.device, torch.float64)
        return torch.cat([own_norm.reshape(1), gramians(self.J, self.groups).flatten()])

    def combine(self, measured: list[float]) -> float:
        """Put the projection of J into the shared parameters' `grad`; the first row is lost.

        Args:
            measured: the numbers that `measure` returned.

        Returns:
            The norm of the gradient of all parameters, before clipping.
        """
        own_norm, *products = measured
        num_tasks = len(self.J)
        inner = torch.tensor(products, dtype=torch.float64).view(-1, num_tasks, num_tasks)
        self.observe(inner)
        weights, squared_norm = self.projection.plan(inner)
        norm = math.sqrt(own_norm**2 + squared_norm)
        scale = min(1.0, self.clip / (norm + 1e-6))  # as in clip_grad_norm_
        groups = self.projection.groups or [slice(0, self.J.shape[1])]
        weighted_sum(self.J, scale * weights, groups, out=self.J[0])
        for p, part in zip(self.shared, next(iter(self.parts.values()))):
            p.grad = part
        if scale < 1 and self.own:
            torch._foreach_mul_(self.own, scale)
        self.own = []
        return norm

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
