"""Gradient surgery: combine the tasks' gradients of the shared parameters into one update.

The matrix J [T, P] holds one gradient per row: T tasks, P shared parameters, flattened in a fixed
order. A projection maps J to an update [P], the sum of the projected rows. Parameters of a single
task, such as its head, take no part: they keep their task's plain gradient.

Every projection here is a weighted sum of the rows of J whose weights follow from the Gramian J Jᵀ
[T, T] alone. Beyond the backward passes it costs one Gramian and one weighted sum. J holds float32
gradients without any loss scaling; the arithmetic on the Gramian is in float64.

Axis letters: T tasks, P flattened shared parameters, G groups of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from optimizers.word_gradients import WordGradients

Orders = list[list[int]]  # orders[i]: a permutation of the tasks other than i
Groups = dict[str, slice]  # name -> columns of J
CHUNK = 1 << 17  # columns of J processed at once on a CPU, few enough to stay in the cache


def gramians(J: Tensor, groups: list[slice], tables: Sequence[WordGradients] = ()) -> Tensor:
    """Return the inner products of the rows of J, separately for each group of columns.

    Args:
        J: [T, P].
        groups: G ranges of columns.
        tables: word embeddings of which only the rows of some words are filled; the rest of their
            columns in J is not read.

    Returns:
        [G, T, T] float64.
    """
    inner = []
    for group in groups:
        parts, inside = dense_parts(group, tables)
        blocks = [*(J[:, part] for part in parts), *(table.rows() for table in inside)]
        inner.append(torch.stack([gramian(block) for block in blocks]).sum(0))
    return torch.stack(inner)


def dense_parts(
    group: slice, tables: Sequence[WordGradients]
) -> tuple[list[slice], list[WordGradients]]:
    """Return the columns of a group around the tables inside it, and these tables."""
    inside = [table for table in tables if group.start <= table.columns.start < group.stop]
    starts = [group.start, *(table.columns.stop for table in inside)]
    stops = [*(table.columns.start for table in inside), group.stop]
    return [slice(*ends) for ends in zip(starts, stops) if ends[0] < ends[1]], inside


def gramian(part: Tensor) -> Tensor:
    """Return the inner products [T, T] float64 of the rows of `part` [T, columns].

    The product is taken chunk by chunk, because one product of so flat a matrix is far slower. On a
    GPU the chunks are one batch, as thousands of products would take longer to start there than to
    compute; on a CPU a batch would be copied first.
    """
    if part.device.type == "cpu":
        products = [(chunk @ chunk.T).double() for chunk in torch.split(part, CHUNK, dim=1)]
        return torch.stack(products).sum(0)
    num_chunks = part.shape[1] // CHUNK
    chunks = part[:, : num_chunks * CHUNK].view(len(part), num_chunks, CHUNK).transpose(0, 1)
    # [num_chunks, T, CHUNK] @ [num_chunks, CHUNK, T], and the columns after the last whole chunk
    rest = part[:, num_chunks * CHUNK :]
    return (chunks @ chunks.transpose(1, 2)).double().sum(0) + (rest @ rest.T).double()


def weighted_sum(
    J: Tensor,
    weights: Tensor,
    groups: list[slice],
    out: Tensor | None = None,
    tables: Sequence[WordGradients] = (),
) -> Tensor:
    """Return the weighted sum [P] of the rows of J, with separate weights in each group.

    Args:
        J: [T, P].
        weights: [G, T], on the CPU.
        groups: G ranges of columns that together cover J.
        out: [P], receives the sum; None allocates it. It may be the first row of J, which is then
            overwritten.
        tables: as in `gramians`. `out` has to be the first row of J, then.
    """
    out = torch.empty_like(J[0]) if out is None else out
    add_group = add_in_chunks if J.device.type == "cpu" else add_whole
    for w, group in zip(weights, groups):
        parts, inside = dense_parts(group, tables)
        for part in parts:
            add_group(J[:, part], w, out[part])
        for table in inside:
            table.add_up(w)
    return out


def add_in_chunks(part: Tensor, w: Tensor, out: Tensor) -> None:
    """Put w @ part [columns] into `out`, chunk by chunk: each is read before it is written."""
    w = w.to(part.dtype)
    for start in range(0, part.shape[1], CHUNK):
        chunk = slice(start, start + CHUNK)
        out[chunk] = w @ part[:, chunk]  # [T] @ [T, CHUNK] -> [CHUNK]


def add_whole(part: Tensor, w: Tensor, out: Tensor) -> None:
    """Put w @ part [columns] into `out` in T steps, as few as a GPU can start and without a copy.

    Thousands of chunks would take longer to start there than to compute.
    """
    first, *rest = w.tolist()
    torch.mul(part[0], first, out=out)
    for row, weight in zip(part[1:], rest):
        out.add_(row, alpha=weight)


class Projection:
    """A map from J [T, P] to an update [P]; a subclass defines the weights of the rows.

    Args:
        num_tasks: T.
        generator: draws the order of the pairs of tasks. Seed it for reproducible runs. None makes
            a new one with seed 0.

    Attributes:
        groups: parts of the shared vector that are treated separately, or None for the whole
            vector.
        is_plain: whether every weight is always 1.
    """

    groups: list[slice] | None = None
    is_plain = False

    def __init__(self, num_tasks: int, generator: torch.Generator | None = None) -> None:
        self.num_tasks = num_tasks
        self.generator = generator or torch.Generator().manual_seed(0)

    def __call__(self, J: Tensor, orders: Orders | None = None) -> Tensor:
        """Project J [T, P] to the update [P].

        `orders` says for each task in which order it meets the others. None draws random orders.
        """
        groups = self.groups or [slice(0, J.shape[1])]
        weights, _ = self.plan(gramians(J, groups).cpu(), orders)
        return weighted_sum(J, weights, groups)

    def plan(self, inner: Tensor, orders: Orders | None = None) -> tuple[Tensor, float]:
        """Return the weights of the rows in the update, and the squared norm of the update.

        Args:
            inner: the result of `gramians`, [G, T, T] float64 on the CPU, where arithmetic on so
                few numbers is fastest. A projection with its own groups needs it for exactly
                these, another one for any groups that cover J.
            orders: as in `__call__`.

        Returns:
            [G, T], or [1, T] without groups, and the norm.
        """
        if self.groups is None:
            inner = inner.sum(0, keepdim=True)
        weights = self.weights(inner, orders)
        products = weights[:, None] @ inner @ weights[:, :, None]  # [G, 1, 1]
        return weights, products.sum().clamp(min=0).item()

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return the weights of the rows in the sum.

        Args:
            inner: [G, T, T] float64, the Gramian of each group; G is 1 without groups.
            orders: as in `__call__`.

        Returns:
            [G, T].
        """
        raise NotImplementedError

    def draw_orders(self) -> Orders:
        """Draw a random permutation of the other tasks for each task."""
        others = [[j for j in range(self.num_tasks) if j != i] for i in range(self.num_tasks)]
        permutations = [torch.randperm(len(row), generator=self.generator) for row in others]
        return [[row[k] for k in order] for row, order in zip(others, permutations)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.generator.set_state(state["generator"])


class PCGrad(Projection):
    """Projecting Conflicting Gradients (Yu et al., NeurIPS 2020, arXiv:2001.06782).

    For each task i, p starts as its gradient g_i and meets every other task j in random order:

        p ← p − (p·g_j / ‖g_j‖²) g_j    if p·g_j < 0

    g_j is always the original gradient, before its own projection. The update is the sum of the p
    of all tasks, as in the paper's code; some implementations take their mean.

    Args:
        num_tasks: T.
        generator: draws the order of the pairs. Seed it for reproducible runs. None makes a new one
            with seed 0.
    """

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return the weights [1, T]; row i of `mix` [T, T] expresses the p of task i in the g."""
        [gramian] = inner
        mix = torch.eye(self.num_tasks, dtype=gramian.dtype)
        for i, others in enumerate(orders or self.draw_orders()):
            for j in others:
                dot, norm2 = mix[i] @ gramian[:, j], gramian[j, j]
                mix[i, j] -= torch.where(dot < 0, dot / norm2, 0)  # dot < 0 implies norm2 > 0
        return mix.sum(0, keepdim=True)


class GradVac(Projection):
    """Gradient Vaccine (Wang et al., ICLR 2021, arXiv:2010.05874).

    Each ordered pair of tasks (i, j) has a running target φ̂ for the cosine φ between p, which
    starts as g_i, and g_j. When φ is below its target, p is turned toward g_j until they meet it:

        p ← p + ‖p‖ (φ̂ √(1−φ²) − φ √(1−φ̂²)) / (‖g_j‖ √(1−φ̂²)) · g_j    if φ < φ̂
        φ̂ ← (1−β) φ̂ + β φ    always, with the φ from before the turn

    Targets start at 0, so the first update equals PCGrad's. A pair is skipped, and its target kept,
    while p or g_j is zero. The update is the sum of the p of all tasks.

    Args:
        num_tasks: T.
        beta: rate β of the moving average of the targets, in (0, 1]. Larger values forget faster.
            Paper: 0.01.
        generator: draws the order of the pairs. Seed it for reproducible runs. None makes a new one
            with seed 0.
        groups: parts of the shared vector that are treated separately, each with its own targets,
            or None for the whole vector.

    Attributes:
        target: φ̂, [T, T] float64 without groups, [G, T, T] with them.

    Raises:
        ValueError: beta is outside (0, 1].
    """

    def __init__(
        self,
        num_tasks: int,
        beta: float = 0.01,
        generator: torch.Generator | None = None,
        groups: Groups | None = None,
    ) -> None:
        super().__init__(num_tasks, generator)
        if not 0 < beta <= 1:
            raise ValueError(f"beta is {beta}, expected 0 < beta <= 1")
        self.beta = beta
        self.groups = None if groups is None else list(groups.values())
        shape = (num_tasks, num_tasks) if groups is None else (len(groups), num_tasks, num_tasks)
        self.target = torch.zeros(shape, dtype=torch.float64)

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return the weights [G, T] and move `target`."""
        orders = orders or self.draw_orders()
        targets = self.target.view(inner.shape)
        return torch.stack([self.turned(*pair, orders) for pair in zip(inner, targets)])

    def turned(self, gramian: Tensor, target: Tensor, orders: Orders) -> Tensor:
        """Return the weights [T] in one group; move its target [T, T] in place."""
        mix = torch.eye(self.num_tasks, dtype=gramian.dtype)
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
        """Return (φ̂ √(1−φ²) − φ √(1−φ̂²)) / √(1−φ̂²) [] for φ = cosine and φ̂ = target."""
        sine, target_sine = (1 - cosine**2).sqrt(), (1 - target**2).clamp(min=1e-12).sqrt()
        return (target * sine - cosine * target_sine) / target_sine

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generator and the targets."""
        return super().state_dict() | {"target": self.target}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: a target is no cosine.
        """
        super().load_state_dict(state)
        if not (state["target"].abs() <= 1 + 1e-6).all():  # their rounding errors are smaller
            raise ValueError("target holds numbers outside [-1, 1]")
        self.target = state["target"].clone()


class PlainSum(Projection):
    """The plain sum of the task gradients, for runs that need J but do not project.

    They log conflicts, or have a loss weighting that looks at task gradients. A run that does not
    need J at all uses `SummedGradients`, which saves its memory.
    """

    is_plain = True

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return ones [G, T]."""
        return torch.ones_like(inner[:, 0])
