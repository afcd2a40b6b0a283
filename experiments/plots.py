"""The two figures beside the tables: scores with intervals, and score against relative time."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox

from experiments.comparison import MEAN, Method, own_interval
from experiments.row_files import BASELINE
from runtime.files import atomic_write
from tasks import TASKS

# Where a label may stand around its point, in points, with its alignment; the first free one.
LABEL_PLACES = [
    (dx * step, dy * step)
    for step in (7, 14, 22, 32, 44, 58)
    for dx, dy in ((1, 0), (-1, 0), (0.7, 0.8), (0.7, -0.8), (-0.7, 0.8), (-0.7, -0.8))
]


def draw_scores(methods: list[Method], path: Path) -> None:
    """Bars of every method's score with its interval, a panel a task, the best on top."""
    tasks = [name for name in TASKS if any(method.seeds(name) for method in methods)]
    height = 1.2 + 0.27 * len(methods)
    figure = Figure(figsize=(4.6 * len(tasks), height), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        shown = [method for method in methods if method.seeds(name)]
        shown.sort(key=lambda method: method.values(name).mean())
        scores = [method.values(name).mean() for method in shown]
        ends = [own_interval(method, name) for method in shown]
        errors = [
            [max(0, score - low) for score, (low, _) in zip(scores, ends)],
            [max(0, high - score) for score, (_, high) in zip(scores, ends)],
        ]
        colors = [color(method) for method in shown]
        axes.barh([method.name for method in shown], scores, xerr=errors, color=colors)
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        margin = 0.1 * (high - low) or 0.05
        axes.set_xlim(low - margin, high + margin)  # bars do not start at zero, as the title says
        axes.set_title(f"{name}: {TASKS[name].metric_name} on dev (axis cut)")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    save(figure, path)


def draw_costs(methods: list[Method], times: dict[str, float], path: Path) -> None:
    """Mean score over training time relative to the baseline, a labelled point a method.

    times: by method, nan for one that is not drawn.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")  # most methods cost about as much as the baseline
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    shown = [method for method in methods if not math.isnan(times[method.name])]
    points = [(times[method.name], method.values(MEAN).mean()) for method in shown]
    colors = [color(method) for method in shown]
    axes.scatter(*np.reshape(points, (-1, 2)).T, color=colors, zorder=2)
    axes.margins(0.15)
    axes.set_xlabel("training time, relative to the baseline (logarithmic)")
    axes.set_ylabel("mean of the tasks' metrics on dev")
    axes.grid(alpha=0.3)
    place_labels(axes, points, [method.name for method in shown])
    save(figure, path)


def color(method: Method) -> str:
    return "tab:orange" if method.name == BASELINE else "tab:blue"


def place_labels(axes: Axes, points: list[tuple[float, float]], names: list[str]) -> None:
    """Put each name beside its point, where it covers no other name or point if there is room."""
    axes.figure.draw_without_rendering()  # the layout has to stand before labels are measured
    taken: list[Bbox] = []
    centers = axes.transData.transform(np.reshape(points, (-1, 2)))
    for index, (point, name) in enumerate(zip(points, names)):
        others = np.delete(centers, index, axis=0)
        for offset in LABEL_PLACES:
            side = "left" if offset[0] > 0 else "right"
            style = {"ha": side, "va": "center", "fontsize": 8, "textcoords": "offset points"}
            label = axes.annotate(name, point, offset, **style)
            box = label.get_window_extent()
            is_inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            is_free = not any(map(box.overlaps, taken)) and not box.count_contains(others)
            if (is_inside and is_free) or offset == LABEL_PLACES[-1]:
                break
            label.remove()
        taken.append(box)
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray"}
        axes.annotate("", point, offset, textcoords="offset points", arrowprops=line)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same results."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
