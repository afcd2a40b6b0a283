"""Feed a projection from the model: each task's shared gradient becomes a row of J."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from optimizers.projections import Groups, Projection, gramians, weighted_sum
from optimizers.stateless import Stateless
from optimizers.word_gradients import WordGradients
from tasks import Task


class SummedGradients(Stateless):
    """The plain form, without a projection: backward passes add up in `p.grad`; there is no J.

    Args:
        tables: word embeddings whose gradient fills only the rows of an update's words.

    Attributes:
        logged_names, logged: empty, see `TaskGradients`.
    """

    def __init__(self, tables: Sequence[nn.Embedding] = ()) -> None:
        self.logged_names: list[str] = []
        self.logged: dict[str, float] = {}
        self.tables = [WordGradients(t, torch.zeros(1, t.weight.numel())) for t in tables]

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to every parameter's `grad`."""
        for table in self.tables:
            if table.weight.grad is None:  # in the first backward pass of an update
                table.clear()
                table.weight.grad = table.grads[0]
        torch.autograd.backward(loss)

    def filled_rows(self) -> list[Tensor]:
        """Return no rows."""
        return []

    def measure(self, model: nn.Module) -> Tensor:
        """Return the norm of the gradient, [1]. Without any gradient, torch's is on the CPU."""
        self.own = [p for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in self.own if p.grad is not None])
        return norm.reshape(1).to(next(model.parameters()).device)

    def combine(self, measured: list[float], clip: float) -> float:
        """Clip `p.grad`, which holds the gradient; return the norm before that.

        Args:
            measured: the number that `measure` returned.
            clip: the largest norm; 0 leaves the gradient as it is.
        """
        [norm] = measured
        if clip and norm > clip - 1e-6:
            grads = [p.grad for p in self.own if p.grad is not None]
            torch._foreach_mul_(grads, clip_factor(norm, clip))
        return norm


def clip_factor(norm: float, clip: float) -> float:
    """Return torch's factor for clipping, min(1, clip / (norm + 1e-6)), to the bit.

    torch's own function computes it in float32 as a tensor, which a GPU's host would wait for.

    Args:
        norm: the gradient's.
        clip: the largest norm, above 0.
    """
    return min(1.0, float(np.float32(clip) * (1 / (np.float32(norm) + np.float32(1e-6)))))


class TaskGradients:
    """Collects the task gradients in J [T, P] float32 and gives the optimizer their projection.

    An update calls `backward` for each of its losses, then `measure` once and, with the numbers
    that were measured, `combine`. In between the host reads them from the device, together with
    whatever else it needs: there is no other read. Before `measure`, a loss weighting may look at
    the rows with `inner_products` or multiply them with `scale`. Parameters that are not shared,
    such as heads and projected attention layers, keep the plain gradient of their own task.
    Where a task is not part of the update, or its loss does not reach a shared parameter, J holds
    zeros. A shared parameter that no loss reaches gets a gradient of zeros.

    Args:
        projection: maps J to the update.
        shared: the shared parameters, in the order of J's columns.
        names: the tasks, in the order of J's rows.
        groups: parts of the shared vector; together they cover it.
        observe: called in every update, before the projection, with `gramians(J)` [G, T, T] on the
            CPU.
        tables: word embeddings among `shared` whose gradients fill only the rows of an update's
            words.

    Attributes:
        logged_names: the tasks whose weights are logged; none for a plain sum, which has ones.
        weights: [G, T] on the CPU, those of the rows in the last update: before clipping, and
            without the factors of a loss weighting. G is 1 without separate groups.
    """

    def __init__(
        self,
        projection: Projection,
        shared: list[nn.Parameter],
        names: list[str],
        groups: Groups,
        observe: Callable[[Tensor], None] = lambda inner: None,
        tables: Sequence[nn.Embedding] = (),
    ) -> None:
        self.projection = projection
        self.logged_names = [] if projection.is_plain else names
        self.weights = torch.ones(1, len(names), dtype=torch.float64)
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
        starts: dict[Tensor, int] = dict(zip(shared, accumulate([0, *sizes])))
        self.tables = [WordGradients(table, self.J, starts[table.weight]) for table in tables]
        self.tables.sort(key=lambda table: table.columns.start)
        self.factors = torch.ones(len(names), device=self.J.device)  # of the rows, see `scale`
        self.own: list[Tensor] = []  # gradients that are not shared, between measure and combine
        self.filled: set[str] = set()  # tasks with a gradient in this update
        self.inner: Tensor | None = None  # what `inner_products` has computed in this update

    def backward(self, task: Task, loss: Tensor) -> None:
        """Add the gradient of `loss` [] to the task's row of J and to its own parameters."""
        self.clear()
        parts: dict[Tensor, Tensor] = dict(zip(self.shared, self.parts[task.name]))
        for table in self.tables:
            if not self.filled:  # in the first backward pass of an update
                table.clear()
            table.weight.grad = parts.pop(table.weight)  # the backward pass adds rows to it
        torch.autograd.backward(loss)
        reached = {part: p.grad for p, part in parts.items() if p.grad is not None}
        if task.name not in self.filled and len(reached) < len(parts):
            torch._foreach_zero_(list(parts.values()))
        if reached:
            move = torch._foreach_add_ if task.name in self.filled else torch._foreach_copy_
            move(list(reached), list(reached.values()))
        self.filled.add(task.name)
        self.clear()

    def filled_rows(self) -> list[Tensor]:
        """Return the rows of J with a gradient in this update, by reference, in J's order."""
        return [row for name, row in self.rows.items() if name in self.filled]

    def scale(self, factors: Tensor) -> None:
        """Multiply the rows of J by `factors` [T], before anyone asks for `inner_products`.

        They stay factors: their product with J is part of the weighted sum in `combine`.
        """
        assert self.inner is None, "the Gramian of this update is already known"
        self.factors = factors

    def inner_products(self) -> Tensor:
        """Return `gramians(J)` [G, T, T] of this update on the device, computed once.

        Call it after the last backward pass, and with several workers after their sum.
        """
        if self.inner is None:
            for name, row in self.rows.items():
                if name not in self.filled:
                    row.zero_()
            inner = gramians(self.J, self.groups, self.tables)
            self.inner = inner * torch.outer(self.factors, self.factors)
        return self.inner

    def measure(self, model: nn.Module) -> Tensor:
        """Return on the device what `combine` needs to know of the gradients.

        Args:
            model: has the parameters that are not shared, with their gradients.

        Returns:
            [1 + T + G · T · T] float64: the norm of the gradients that are not shared, the factors
            of J's rows, and by groups the Gramian of the rows times their factors.
        """
        inner = self.inner_products()
        self.inner = None
        self.filled.clear()
        self.own = [p.grad for p in model.parameters() if p.grad is not None]
        own_norm = nn.utils.get_total_norm(self.own).to(self.J.device, torch.float64)
        return torch.cat([own_norm.reshape(1), self.factors, inner.flatten()])

    def combine(self, measured: list[float], clip: float) -> float:
        """Put the projection of J into the shared parameters' `grad`; the first row is lost.

        Args:
            measured: the numbers that `measure` returned.
            clip: the largest norm of the combined gradient of all parameters; 0 leaves it.

        Returns:
            The norm of the gradient of all parameters, before clipping.
        """
        num_tasks = len(self.J)
        numbers = torch.tensor(measured, dtype=torch.float64)
        factors, products = numbers[1 : 1 + num_tasks], numbers[1 + num_tasks :]
        inner = products.view(-1, num_tasks, num_tasks)
        self.observe(inner)
        self.weights, squared_norm = self.projection.plan(inner)
        norm = math.sqrt(measured[0] ** 2 + squared_norm)
        scale = min(1.0, (clip or math.inf) / (norm + 1e-6))  # as in clip_grad_norm_
        groups = self.projection.groups or [slice(0, self.J.shape[1])]
        weights = scale * factors * self.weights
        weighted_sum(self.J, weights, groups, self.J[0], self.tables)
        for p, part in zip(self.shared, next(iter(self.parts.values()))):
            p.grad = part
        if scale < 1 and self.own:
            torch._foreach_mul_(self.own, scale)
        self.own = []
        return norm

    @property
    def logged(self) -> dict[str, float]:
        """By the tasks that are logged, the weight in the last update; the mean over groups."""
        return dict(zip(self.logged_names, self.weights.mean(0).tolist()))

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
