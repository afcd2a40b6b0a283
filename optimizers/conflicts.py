"""Seeing the conflict: the cosine of every pair of task gradients, whole model and per layer."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from optimizers.projections import Groups

WHOLE = "whole_model"
SMOOTHING = 0.05  # share of all updates that the drawn mean spans


def cosine_tag(pair_name: str, group: str) -> str:
    """TensorBoard's tag of a pair's cosine; it sorts behind losses and metrics, of which there are
    fewer."""
    return f"train_cosine_{pair_name}/{group}"


class ConflictLog:
    """Keeps, for every update, the cosines of all pairs of task gradients; nan for a task not
    trained on.

    names: the tasks in J's order. groups: the parts of the shared vector by name. Nothing is read
    from the device before `history` is asked for.
    """

    def __init__(self, names: list[str], groups: Groups) -> None:
        self.pairs = list(combinations(range(len(names)), 2))
        self.pair_names = [f"{names[i]}-{names[j]}" for i, j in self.pairs]
        self.group_names = [WHOLE, *groups]
        self.cosines: list[Tensor] = []

    def observe(self, inner: Tensor) -> None:
        """inner: J Jᵀ by groups, [G, T, T], of task gradients before any projection."""
        inner = torch.cat([inner.sum(0, keepdim=True), inner])  # [1 + G, T, T]
        norms = inner.diagonal(dim1=1, dim2=2).sqrt()  # [1 + G, T]
        first, second = zip(*self.pairs)
        first, second = list(first), list(second)
        cosines = inner[:, first, second] / (norms[:, first] * norms[:, second])  # 0/0 is nan
        self.cosines.append(cosines.float())

    def history(self) -> Tensor:
        """[U, 1 + G, pairs] on the CPU: updates, the whole model and each group, pairs of tasks."""
        shape = (0, len(self.group_names), len(self.pairs))
        return torch.stack([c.cpu() for c in self.cosines]) if self.cosines else torch.zeros(shape)

    def scalars(self, first_update: int) -> list[tuple[str, float, int]]:
        """(tag, cosine, update) of every update after `first_update`, those not nan."""
        return [
            (cosine_tag(pair, group), cosine, first_update + offset + 1)
            for offset, update in enumerate(self.history()[first_update:].tolist())
            for group, cosines in zip(self.group_names, update)
            for pair, cosine in zip(self.pair_names, cosines)
            if cosine == cosine
        ]

    def shares(self) -> dict[str, float]:
        """Share of updates whose whole-model gradients conflict (cosine below 0), by pair."""
        whole = self.history()[:, 0]  # [U, pairs]
        seen = (~whole.isnan()).sum(0).clamp(min=1)
        return dict(zip(self.pair_names, ((whole < 0).sum(0) / seen).tolist()))

    def figure(self) -> object:
        """Cosine per pair over updates above, a layer × update heat map per pair below."""
        from matplotlib.figure import Figure

        history = self.history().numpy()
        num_pairs = len(self.pairs)
        figure = Figure(figsize=(4.6 * num_pairs, 7.2), layout="constrained")
        axes = figure.subplots(2, num_pairs, squeeze=False, height_ratios=[1, 1.2], sharex=True)
        limit = max(0.1, float(np.nanquantile(np.abs(history), 0.99))) if history.size else 1
        for column, pair in enumerate(self.pair_names):
            self.draw_lines(axes[0][column], history[:, 0, column], pair, limit)
            image = axes[1][column].imshow(
                history[:, 1:, column].T,
                cmap="RdBu",
                vmin=-limit,
                vmax=limit,
                aspect="auto",
                interpolation="nearest",
                extent=(0.5, len(history) + 0.5, num_rows(history), 0),
            )
            ticks = np.arange(num_rows(history)) + 0.5
            axes[1][column].set_yticks(ticks, self.group_names[1:] if column == 0 else [])
            axes[1][column].set_xlabel("update")
        figure.colorbar(image, ax=axes[1], label="cosine of the task gradients (red: conflict)")
        return figure

    def draw_lines(self, axes: object, cosines: np.ndarray, pair: str, limit: float) -> None:
        """One pair's cosine of every update, thin, and its running mean."""
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

    def state_dict(self) -> dict:
        return {"cosines": self.history()}

    def load_state_dict(self, state: dict) -> None:
        self.cosines = list(state["cosines"])


def num_rows(history: np.ndarray) -> int:
    return history.shape[1] - 1
