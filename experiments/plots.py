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
from options.task_table import built_in_tasks
from reporting.figures import save_png

# Where a label may stand around its point, in typographic points; the first free place is taken.
LABEL_PLACES = [
    (dx * step, dy * step)
    for step in (7, 14, 22, 32, 44, 58)
    for dx, dy in ((1, 0), (-1, 0), (0.7, 0.8), (0.7, -0.8), (-0.7, 0.8), (-0.7, -0.8))
]


def draw_scores(methods: list[Method], path: Path) -> None:
    """Draw every method's score as a bar with its interval: one panel per task, the best on top."""
    tasks = [name for name in built_in_tasks() if any(method.seeds(name) for method in methods)]
    height = 1.2 + 0.27 * len(methods)
    figure = Figure(figsize=(4.6 * len(tasks), height), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
        shown = [method for method in methods if method.seeds(name)]
        shown.sort(key=lambda method: method.values(name).mean())
        scores = np.array([method.values(name).mean() for method in shown])
        low, high = np.array([own_interval(method, name) for method in shown]).T
        errors = np.maximum(0, [scores - low, high - scores])
        names = [method.name for method in shown]
        axes.barh(names, scores, xerr=errors, color=colors(shown))
        margin = 0.1 * (high.max() - low.min()) or 0.05
        axes.grid(axis="x", alpha=0.3)
        axes.set(
            title=f"{name}: {built_in_tasks()[name].metric_name} on dev (axis cut)",
            xlim=(low.min() - margin, high.max() + margin),  # bars do not start at zero
            axisbelow=True,
        )
    save_png(figure, path)


def draw_costs(methods: list[Method], times: dict[str, float], path: Path) -> None:
    """Draw mean score over training time relative to the baseline: one point per method.

    Args:
        methods: the methods.
        times: relative time by method; nan for one that is not drawn.
        path: the file to write.
    """
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set(
        xscale="log",  # most methods cost about as much as the baseline
        xlabel="training time, relative to the baseline (logarithmic)",
        ylabel="mean of the tasks' metrics on dev",
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    shown = [method for method in methods if not math.isnan(times[method.name])]
    points = [(times[method.name], method.values(MEAN).mean()) for method in shown]
    axes.scatter(*np.reshape(points, (-1, 2)).T, color=colors(shown), zorder=2)
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # the layout has to stand before labels are measured
    place_labels(axes, points, [method.name for method in shown])
    save_png(figure, path)


def colors(methods: list[Method]) -> list[str]:
    """Return one color per method, another for the baseline."""
    return ["tab:orange" if method.name == BASELINE else "tab:blue" for method in methods]


def place_labels(axes: Axes, points: list[tuple[float, float]], names: list[str]) -> None:
    """Put each name beside its point, where it covers no other name or point if there is room."""
    taken: list[Bbox] = []
    centers = axes.transData.transform(np.reshape(points, (-1, 2)))
    for index, (point, name) in enumerate(zip(points, names)):
        others = np.delete(centers, index, axis=0)
        label = axes.annotate(
            name, point, LABEL_PLACES[0], textcoords="offset points", va="center", fontsize=8
        )
        for offset in LABEL_PLACES:
            label.set(position=offset, ha="left" if offset[0] > 0 else "right")
            box = label.get_window_extent()
            is_inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            if is_inside and not box.count_overlaps(taken) and not box.count_contains(others):
                break
        taken.append(box)
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray"}
        axes.annotate("", point, offset, textcoords="offset points", arrowprops=line)
