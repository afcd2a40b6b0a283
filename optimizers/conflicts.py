"""Log how much the tasks conflict: the cosine of every pair of task gradients, at every update.

Axis letters: T tasks, G groups of parameters, U updates.
"""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from optimizers.projections import Groups

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WHOLE = "whole_model"
SMOOTHING = 0.05  # width of the plotted running mean, as a share of all updates


def cosine_tag(pair_name: str, group: str) -> str:
    """Return the TensorBoard tag of a pair's cosine.

    TensorBoard sorts by tag. This one comes after those of losses and metrics, which are fewer.
    """
    return f"train_cosine_{pair_name}/{group}"


class ConflictLog:
    """The cosines of all pairs of task gradients, for every update of a run.

    A cosine is nan where an update did not train on both tasks.

    Args:
        names: the tasks, in the order of J's rows.
        groups: parts of the shared vector by name. Both arguments are empty in a run that logs
            nothing.
    """

    def __init__(self, names: list[str], groups: Groups) -> None:
        self.pairs = list(combinations(range(len(names)), 2))
        first, second = [i for i, _ in self.pairs], [j for _, j in self.pairs]
        self.first, self.second = torch.tensor(first).long(), torch.tensor(second).long()
        self.pair_names = [f"{names[i]}-{names[j]}" for i, j in self.pairs]
        self.group_names = [WHOLE, *groups]
        self.cosines: list[Tensor] = []  # [1 + G, pairs] for each update

    def observe(self, inner: Tensor) -> None:
        """Log one update.

        Args:
            inner: J Jᵀ by groups, [G, T, T] on the CPU, of the task gradients before any
                projection.
        """
        inner = torch.cat([inner.sum(0, keepdim=True), inner])  # [1 + G, T, T]
        norms = inner.diagonal(dim1=1, dim2=2).sqrt()  # [1 + G, T]
        products = norms[:, self.first] * norms[:, self.second]  # [1 + G, pairs]
        cosines = inner[:, self.first, self.second] / products  # 0/0 is nan
        self.cosines.append(cosines.float())

    def history(self) -> Tensor:
        """Return all cosines [U, 1 + G, pairs]; group 0 is the whole model."""
        shape = (0, len(self.group_names), len(self.pairs))
        return torch.stack(self.cosines) if self.cosines else torch.zeros(shape)

    def scalars(self, first_update: int) -> list[tuple[str, float, int]]:
        """Return (tag, cosine, update) for the updates after `first_update`, without nan."""
        return [
            (cosine_tag(pair, group), cosine, first_update + offset + 1)
            for offset, update in enumerate(self.history()[first_update:].tolist())
            for group, cosines in zip(self.group_names, update)
            for pair, cosine in zip(self.pair_names, cosines)
            if cosine == cosine
        ]

    def shares(self) -> dict[str, float]:
        """Return the share of updates in conflict by pair: whole-model cosine below 0.

        Only updates that train on both tasks of a pair count.
        """
        whole = self.history()[:, 0]  # [U, pairs]
        seen = (~whole.isnan()).sum(0).clamp(min=1)
        return dict(zip(self.pair_names, ((whole < 0).sum(0) / seen).tolist()))

    def figure(self) -> "matplotlib.figure.Figure":
        """Draw one column per pair: the whole model's cosine above, a heat map of groups below."""
        from matplotlib.figure import Figure

        history = self.history().numpy()
        num_updates, num_rows, num_pairs = history.shape
        figure = Figure(figsize=(4.6 * num_pairs, 7.2), layout="constrained")
        axes = figure.subplots(2, num_pairs, squeeze=False, height_ratios=[1, 1.2], sharex=True)
        limit = max(0.1, float(np.nanquantile(np.abs(history), 0.99))) if history.size else 1
        for column, pair in enumerate(self.pair_names):
            draw_cosine(axes[0][column], history[:, 0, column], pair, limit)
            image = axes[1][column].imshow(
                history[:, 1:, column].T,
                cmap="RdBu",
                vmin=-limit,
                vmax=limit,
                aspect="auto",
                interpolation="nearest",
                extent=(0.5, num_updates + 0.5, num_rows - 1, 0),
            )
            row_names = self.group_names[1:] if column == 0 else []
            axes[1][column].set_yticks(np.arange(num_rows - 1) + 0.5, row_names)
            axes[1][column].set_xlabel("update")
        figure.colorbar(image, ax=axes[1], label="cosine of the task gradients (red: conflict)")
        return figure

    def state_dict(self) -> dict[str, Tensor]:
        """Return the cosines of all updates so far."""
        return {"cosines": self.history()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.cosines = list(state["cosines"])


def draw_cosine(axes: "matplotlib.axes.Axes", cosines: np.ndarray, pair: str, limit: float) -> None:
    """Draw one pair's cosine at every update as a thin line, and its running mean.

    Args:
        axes: where to draw.
        cosines: [U], nan where an update did not train on both tasks.
        pair: name of the pair, for the title.
        limit: largest absolute value that the vertical axis shows.
    """
    updates = np.arange(1, len(cosines) + 1)
    seen = ~np.isnan(cosines)
    axes.plot(updates[seen], cosines[seen], linewidth=0.5, alpha=0.5, color="tab:blue")
    width = max(1, int(SMOOTHING * len(cosines)))
    if seen.sum() >= 2 * width:
        mean = np.convolve(cosines[seen], np.ones(width) / width, mode="valid")
        axes.plot(updates[seen][width // 2 :][: len(mean)], mean, color="tab:blue")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(-limit, limit)
    share = (cosines[seen] < 0).mean() if seen.any() else 0
    axes.set_title(f"{pair}: {share:.0%} of updates in conflict")
    axes.set_ylabel("cosine, whole model")
