"""Two figures beside the tables: score against time, and surgery against conflicts."""

from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as Line
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from matplotlib.transforms import Bbox

from benchmarks.cost_file import Costs
from experiments.comparison import MEAN, Method, differences, more_examples
from experiments.forest import BETTER_COLOR, PLAIN_COLOR, WORSE_COLOR, finding_handles
from experiments.row_files import BASELINE
from experiments.tables import number
from reporting.figures import save_png

SURGERY = "gradient surgery"  # the family whose conflicts are drawn
# Where a label may stand around its point, in typographic points; the first free place is taken.
LABEL_PLACES = [
    (dx * step, dy * step)
    for step in (7, 14, 20)  # a label farther off is not read with its point
    for dx, dy in ((1, 0), (-1, 0), (0.7, 0.8), (0.7, -0.8), (-0.7, 0.8), (-0.7, -0.8))
]
RADIUS = 3.5  # of a point, in typographic points
BASELINE_COLOR = "tab:orange"
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of ticks: exact in three decimals
NARROWEST = 4.0  # percent of updates on an axis, so that its ticks are different whole percents
FAR = 4.0  # interquartile ranges below the lower quartile, from which on a score is an outlier
LEAST_SPREAD = 0.01  # of scores, so that of equal ones a slightly lower one is no outlier
WIDE = 2.5  # the largest time over the smallest from which on a logarithmic axis has several ticks
MARKERS = "os^vDPX*<>phd"


def draw_costs(methods: dict[str, Method], costs: Costs, path: Path) -> bool:
    """Draw mean score over the time of an update: one point per method that has both.

    Args:
        methods: the methods by name.
        costs: what techniques cost.
        path: the file to write.

    Returns:
        Whether there was a point to draw.
    """
    found_costs = {name: costs.find(method.row.cost) for name, method in methods.items()}
    points = {
        name: (cost.time, methods[name].mean(MEAN))
        for name, cost in found_costs.items()
        if cost is not None and methods[name].seeds(MEAN)
    }
    if not points:
        return False
    texts, points = raise_outliers(points)
    for name in texts:
        budget = more_examples(methods[name], methods.get(BASELINE))
        texts[name] += f" ({budget.replace(' times the ', '× ')})" if budget else ""
    first = by_importance(methods, points)
    points = {name: points[name] for name in reversed(first)}  # the most important on top
    figure = Figure(figsize=(10, 8.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Up = better, left = faster", fontsize=14, weight="bold")
    times, scores = np.array([*points.values()]).T
    set_time_scale(axes, times.max() / times.min())
    axes.set_ylabel("mean of the tasks' metrics on dev")
    axes.scatter(times, scores, color=colors(methods, points), s=42, zorder=2)
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    baseline = Line2D([], [], label=BASELINE, color=BASELINE_COLOR, marker="o", linewidth=0)
    handles = [baseline, *finding_handles(linewidth=0)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=11)
    figure.draw_without_rendering()  # the layout has to stand before labels are measured
    # What finds no free place stays without a label.
    place_labels(axes, [points[name] for name in first], [texts[name] for name in first])
    save_png(figure, path)
    return True


def raise_outliers(
    points: dict[str, tuple[float, float]],
) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
    """Move points far below all others up to them, where they would press the others together.

    Args:
        points: time and score by name.

    Returns:
        The label of each point, which says the score of one that was moved, and the points.
    """
    scores = np.array([score for _, score in points.values()])
    lower, upper = np.percentile(scores, [25, 75])
    inside = scores[scores >= lower - FAR * max(upper - lower, LEAST_SPREAD)]
    floor = inside.min() - 0.15 * (inside.max() - inside.min())
    texts = {
        name: f"{name} ↓ {number(score)}" if score < floor else name
        for name, (_, score) in points.items()
    }
    return texts, {n: (time, max(score, floor)) for n, (time, score) in points.items()}


def set_time_scale(axes: Axes, ratio: float) -> None:
    """Make the axis of times logarithmic, unless it would have a single tick.

    Args:
        axes: the axes.
        ratio: the largest time over the smallest.
    """
    label = "time for as many examples, relative to the plain sum"
    if ratio < WIDE:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    else:
        label += " (logarithmic)"
        axes.set_xscale("log")  # most methods cost about as much as the baseline
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(label)


def by_importance(methods: dict[str, Method], points: dict[str, tuple[float, float]]) -> list[str]:
    """Return the names of points (time, score): the baseline, then findings, each by score."""
    found = differences(methods, MEAN)

    def place(name: str) -> tuple[bool, bool, float]:
        is_finding = name in found and found[name].is_finding
        return name != BASELINE, not is_finding, -points[name][1]

    return sorted(points, key=place)


def colors(methods: dict[str, Method], names: dict[str, tuple[float, float]]) -> list[str]:
    """Return the color of each name: those of findings, of the baseline, and one of the others."""
    found = differences(methods, MEAN)
    chosen = []
    for name in names:
        if name in found and found[name].is_finding:
            chosen.append(BETTER_COLOR if found[name].mean > 0 else WORSE_COLOR)
        else:
            chosen.append(BASELINE_COLOR if name == BASELINE else PLAIN_COLOR)
    return chosen


def place_labels(axes: Axes, points: list[tuple[float, float]], names: list[str]) -> None:
    """Put each name beside its point, where it covers no other name, point or line to a name.

    Nor does its own line cross a name or a point. A name without such a place is left out.
    """
    taken: list[Bbox] = []
    lines: list[Line] = []  # from each point to its name, in pixels
    pixels = cast(Figure, axes.get_figure(root=True)).dpi / 72  # per point of offset
    centers = axes.transData.transform(np.reshape(points, (-1, 2)))
    discs = [Bbox([xy, xy]).padded(RADIUS * pixels) for xy in centers]
    for index, (point, name) in enumerate(zip(points, names)):
        others = [disc for disc in discs if not disc.contains(*centers[index])]
        label = axes.annotate(
            name, point, LABEL_PLACES[0], textcoords="offset points", va="center", fontsize=10
        )
        for offset in LABEL_PLACES:
            label.set(position=offset, ha="left" if offset[0] > 0 else "right")
            box = label.get_window_extent()
            line = Line([centers[index], centers[index] + np.multiply(offset, pixels)])
            is_inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            is_free = not box.count_overlaps(taken) and not box.count_overlaps(discs)
            is_free &= not any(other.intersects_bbox(box) for other in lines)
            is_clear = not any(line.intersects_bbox(one) for one in [*taken, *others])
            if is_inside and is_free and is_clear:
                taken.append(box)
                lines.append(line)
                style = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray"}
                axes.annotate("", point, offset, textcoords="offset points", arrowprops=style)
                break
        else:
            label.remove()


def draw_conflicts(methods: dict[str, Method], path: Path) -> bool:
    """Draw what surgery changes over how often tasks conflict: a panel per pair, a point per run.

    A run is compared with its control of the same seed.

    Args:
        methods: the methods by name.
        path: the file to write.

    Returns:
        Whether there was a run with conflicts and such a control.
    """
    runs = [
        (method.name, one.conflicts, one.scores[MEAN] - two.scores[MEAN])
        for method in methods.values()
        if method.row.family == SURGERY and method.control in methods
        for one, two in method.pairs(methods[method.control], MEAN)
        if one.conflicts
    ]
    if not runs:
        return False
    pairs = list(runs[0][1])
    names = list(dict.fromkeys(name for name, _, _ in runs))
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, pair in zip(panels, pairs):
        for index, name in enumerate(names):
            shares = [100 * share[pair] for row, share, _ in runs if row == name]
            changes = [value for row, _, value in runs if row == name]
            style = {"marker": MARKERS[index % len(MARKERS)], "color": f"C{index % 10}"}
            axes.plot(shares, changes, **style, linestyle="", markersize=8, label=name)
        axes.axhline(0, color="black", linewidth=1)
        axes.set_title(pair.replace("-", " against "), fontsize=13)
        low, high = axes.get_xlim()
        margin = max(0, NARROWEST - (high - low)) / 2
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.tick_params(labelsize=11)
        axes.grid(alpha=0.3)
    panels[0].yaxis.set_major_locator(MultipleLocator(tick_step([value for *_, value in runs])))
    panels[0].set_ylabel("mean score − that of the control", fontsize=12)
    panels[0].yaxis.set_major_formatter(lambda value, _: number(value, "+") if value else "0")
    figure.supxlabel("updates in which the two tasks conflict", fontsize=12)
    title = "Above zero = scores above its control in that seed"
    figure.suptitle(title, fontsize=15, weight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=11)
    save_png(figure, path)
    return True


def tick_step(values: list[float]) -> float:
    """Return the smallest of `STEPS` that makes at most about seven ticks from 0 to all values."""
    spread = max(*values, 0) - min(*values, 0)
    return next((step for step in STEPS if spread <= 7 * step), STEPS[-1])
