"""Gradient surgery: how the tasks' gradients of the shared parameters become one update.

J stacks the task gradients of the shared parameters, [T, P]: T tasks, P shared parameters in a
fixed order. Heads and other task parameters always get their own task's plain gradient. A
projection maps J to [P], the sum of the projected gradients. All of it follows from the Gramian J
Jᵀ, [T, T]: beyond the backward passes, a projection costs one Gramian and one weighted sum of rows.
Everything runs in float32 on unscaled gradients; the small algebra on the Gramian in float64.
"""

import torch
from torch import Tensor

Orders = list[list[int]]  # orders[i]: a permutation of the tasks other than i
Groups = dict[str, slice]  # name -> part of the shared vector
CHUNK = 1 << 17  # columns at a time, so few that they stay in the cache


def gramians(J: Tensor, groups: list[slice]) -> Tensor:
    """Inner products of the rows of J [T, P], for each group of columns: [G, T, T] float64."""
    return torch.stack([gramian(J[:, group]) for group in groups])


def gramian(part: Tensor) -> Tensor:
    """[T, P] -> [T, T] float64. By chunks: one product of so flat a matrix is far slower."""
    num_chunks = part.shape[1] // CHUNK
    chunks = part[:, : num_chunks * CHUNK].unflatten(1, (num_chunks, CHUNK)).transpose(0, 1)
    rest = part[:, num_chunks * CHUNK :]
    return (chunks @ chunks.transpose(1, 2)).double().sum(0) + (rest @ rest.T).double()


def weighted_sum(
    J: Tensor, weights: Tensor, groups: list[slice], out: Tensor | None = None
) -> Tensor:
    """The rows of J [T, P], weighted by weights [G, T] group by group: [P], in `out` if given.

    `out` may be a row of J, which is then lost: every chunk is read before it is written.
    """
    out = torch.empty_like(J[0]) if out is None else out
    for w, group in zip(weights.to(J.dtype), groups):
        for start in range(group.start, group.stop, CHUNK):
            chunk = slice(start, min(start + CHUNK, group.stop))
            out[chunk] = w @ J[:, chunk]
    return out


class Projection:
    """J [T, P] -> [P], the rows' sum with weights that follow from their inner products.

    groups: parts of the shared vector that are treated by themselves; None treats all of it at
    once. Random orders come from a generator of its own: seed it; None makes one with seed 0.
    """

    def __init__(
        self,
        num_tasks: int,
        generator: torch.Generator | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.num_tasks = num_tasks
        self.generator = generator or torch.Generator().manual_seed(0)
        self.groups = None if groups is None else list(groups.values())

    def __call__(
        self,
        J: Tensor,
        orders: Orders | None = None,
        inner: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Project J. orders pins the order of the pairs; None draws it.

        inner: J Jᵀ by groups of columns that cover J, [G, T, T] float64, where it is known already;
        for a projection with groups, by these. out: as in `weighted_sum`.
        """
        groups = self.groups or [slice(0, J.shape[1])]
        inner = gramians(J, groups) if inner is None else inner
        if self.groups is None:
            inner = inner.sum(0, keepdim=True)
        return weighted_sum(J, self.weights(inner, orders), groups, out)

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Weights of the rows in the sum, [G, T], from inner [G, T, T]."""
        raise NotImplementedError

    def draw_orders(self) -> Orders:
        orders = []
        for i in range(self.num_tasks):
            others = [j for j in range(self.num_tasks) if j != i]
            shuffled = torch.randperm(len(others), generator=self.generator).tolist()
            orders.append([others[k] for k in shuffled])
        return orders

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"])


class PCGrad(Projection):
    """Projecting Conflicting Gradients (Yu et al., NeurIPS 2020, arXiv:2001.06782).

    p ← g_i; for every other task j in random order: if p·g_j < 0, p ← p − (p·g_j / ‖g_j‖²) g_j,
    with the original g_j. The update is the sum of the p, as in the paper's code, not their mean.
    """

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Row i of `mix` holds the p of task i in terms of the g."""
        [gramian] = inner
        mix = torch.eye(self.num_tasks, dtype=gramian.dtype, device=gramian.device)
        for i, others in enumerate(orders or self.draw_orders()):
            for j in others:
                dot, norm2 = mix[i] @ gramian[:, j], gramian[j, j]
                mix[i, j] -= torch.where(dot < 0, dot / norm2, 0)  # dot < 0 implies norm2 > 0
        return mix.sum(0, keepdim=True)


class GradVac(Projection):
    """Gradient Vaccine (Wang et al., ICLR 2021, arXiv:2010.05874).

    Keeps a running target cosine φ̂ for each ordered pair of tasks and turns p toward g_j when
    their cosine φ is below it: p ← p + ‖p‖ (φ̂ √(1−φ²) − φ √(1−φ̂²)) / (‖g_j‖ √(1−φ̂²)) · g_j. The
    target follows φ after every pair, turned or not; it starts at 0, so the first update equals
    PCGrad's. A pair with a zero norm is left out.

    beta: rate of the target's moving average in (0, 1]; larger forgets faster. `target` is [T, T],
    with groups [G, T, T]. Raises ValueError if beta is outside (0, 1].
    """

    def __init__(
        self,
        num_tasks: int,
        beta: float = 0.01,
        generator: torch.Generator | None = None,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(num_tasks, generator, groups)
        if not 0 < beta <= 1:
            raise ValueError(f"beta is {beta}, expected 0 < beta <= 1")
        self.beta = beta
        shape = (num_tasks, num_tasks) if groups is None else (len(groups), num_tasks, num_tasks)
        self.target = torch.zeros(shape, dtype=torch.float64)

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Moves `target`."""
        orders = orders or self.draw_orders()
        self.target = self.target.to(inner.device)
        targets = self.target.view(inner.shape)
        return torch.stack([self.turned(*pair, orders) for pair in zip(inner, targets)])

    def turned(self, gramian: Tensor, target: Tensor, orders: Orders) -> Tensor:
        """Weights [T] in one group; moves its target [T, T] in place."""
        mix = torch.eye(self.num_tasks, dtype=gramian.dtype, device=gramian.device)
        norms = gramian.diagonal().sqrt()
        for i, others in enumerate(orders):
            for j in others:
                dot = mix[i] @ gramian[:, j]
                p_norm = (mix[i] @ gramian @ mix[i]).clamp(min=0).sqrt()
                is_pair = (p_norm > 0) & (norms[j] > 0)
                cosine = (dot / (p_norm * norms[j])).clamp(-1, 1)
                turn = self.turn(cosine, target[i, j]) * p_norm / norms[j]
                mix[i, j] += torch.where(is_pair & (cosine < target[i, j]), turn, 0)
                moved = target[i, j] + self.beta * (cosine - target[i, j])
                target[i, j] = torch.where(is_pair, moved, target[i, j])
        return mix.sum(0)

    @staticmethod
    def turn(cosine: Tensor, target: Tensor) -> Tensor:
        """(φ̂ √(1−φ²) − φ √(1−φ̂²)) / √(1−φ̂²)."""
        sine, target_sine = (1 - cosine**2).sqrt(), (1 - target**2).clamp(min=1e-12).sqrt()
        return (target * sine - cosine * target_sine) / target_sine

    def state_dict(self) -> dict:
        return super().state_dict() | {"target": self.target.cpu()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.target = state["target"].clone()


class PlainSum(Projection):
    """The sum of the task gradients; where nothing reads J, `SummedGradients` saves making it."""

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        return torch.ones_like(inner[:, 0])
