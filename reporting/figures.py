"""Figures of a task's dev predictions, a confusion matrix or predicted over true scores; PNGs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inputs.batches import Rows
from runtime.files import atomic_write

if TYPE_CHECKING:
    import matplotlib.figure

MAX_COUNTED = 20  # classes up to which every cell of a confusion matrix is written out
MAX_NAMED = 60  # classes whose names fit along its sides


def dev_figures(
    data: dict[str, Rows], predictions: dict[str, np.ndarray]
) -> "dict[str, matplotlib.figure.Figure]":
    """Return a figure of every task's dev predictions by tag.

    It is a confusion matrix, or predicted over true scores.
    """
    figures = {}
    for name, rows in data.items():
        assert rows.labels is not None, "dev rows have labels"
        if rows.task.has_confusion:
            assert rows.task.class_names is not None
            confusion = rows.task.confusion(predictions[name], rows.labels)
            figures[f"confusion/{name}"] = confusion_figure(confusion, rows.task.class_names)
        elif rows.task.label_type is float:
            figures[f"scatter/{name}"] = scatter_figure(predictions[name], rows.labels)
    return figures


def scatter_figure(predictions: np.ndarray, labels: np.ndarray) -> "matplotlib.figure.Figure":
    """Draw predicted over true scores; on the diagonal they are equal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.subplots()
    low, high = min(labels.min(), predictions.min()), max(labels.max(), predictions.max())
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.scatter(labels, predictions, s=6, alpha=0.3, color="tab:blue", edgecolors="none")
    axes.set_aspect("equal")
    axes.set_xlabel("true score")
    axes.set_ylabel("predicted score")
    return figure


def confusion_figure(
    confusion: np.ndarray, class_names: tuple[str, ...]
) -> "matplotlib.figure.Figure":
    """Draw shares of each true class, one row per true class.

    Classes are numbered, not named, if there are more than `MAX_NAMED`. Up to `MAX_COUNTED`, each
    cell has its count and its share in digits: of more, nobody could read them, and drawing them
    would take minutes.
    """
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    num_classes = len(class_names)
    if num_classes <= MAX_NAMED:
        size = 10 if num_classes <= MAX_COUNTED else 6
        axes.set_xticks(range(num_classes), class_names, rotation=30, ha="right", fontsize=size)
        axes.set_yticks(range(num_classes), class_names, fontsize=size)
    cells = np.ndenumerate(confusion) if num_classes <= MAX_COUNTED else ()
    for (row, column), count in cells:
        color = "white" if shares[row, column] > 0.5 else "black"
        text = f"{count}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, label="share of the true class")
    return figure


def save_png(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write a figure atomically, as a PNG that is the same for the same figure. Raises OSError."""
    with atomic_write(path, "wb", make_parents=True) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
