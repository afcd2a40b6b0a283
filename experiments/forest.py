"""The forest plot: the difference of every row to its control, with intervals, task by task."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.comparison import MEAN, Difference, Method, differences
from experiments.tables import number
from options.task_table import built_in_tasks
from reporting.figures import save_png

BETTER_COLOR, WORSE_COLOR, PLAIN_COLOR = "tab:blue", "tab:red", "0.6"
INCHES_PER_LINE = 0.235
EDGE = 1.12  # of its reach, where an axis ends
FAR = 1.6  # an axis ends before the farthest rows if they are so many times as far as most
Line = tuple[str, bool]  # a method's name, or a family's and True


def draw_differences(methods: dict[str, Method], path: Path) -> bool:
    """Draw one panel for the mean and one per task, in which every method has the same line.

    Args:
        methods: the methods in their order, family by family.
        path: the file to write.

    Returns:
        Whether there was a difference to draw.
    """
    found = {name: differences(methods, name) for name in (MEAN, *built_in_tasks())}
    found = {name: of_task for name, of_task in found.items() if of_task}
    shown = [m for m in methods.values() if any(m.name in of_task for of_task in found.values())]
    if not shown:
        return False
    lines: list[Line] = []
    for family, members in groupby(shown, lambda method: method.row.family):
        lines += [(family, True), *((method.name, False) for method in members)]
    figure = Figure(figsize=(12, 1.9 + INCHES_PER_LINE * len(lines)), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, of_task) in zip(panels, found.items()):
        draw_panel(axes, name, of_task, lines)
    label_lines(panels[0], lines, methods)
    figure.suptitle(
        "Right of zero = better than its control (95 % intervals)", fontsize=15, weight="bold"
    )
    handles = legend_handles()
    if any(method.row.differs_in for method in shown):
        style: dict[str, Any] = {"color": "black", "marker": r"$\ddag$", "linewidth": 0}
        handles.append(Line2D([], [], label="differs in more than one thing", **style))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=11)
    save_png(figure, path)
    return True


def draw_panel(
    axes: Axes, name: str, of_task: dict[str, Difference], lines: list[tuple[str, bool]]
) -> None:
    """Draw the differences of one task, or of `MEAN`, each at its line's number from the top."""
    reach = axis_reach(of_task)
    for y, (label, is_family) in enumerate(lines):
        if is_family:
            axes.axhline(y + 0.45, color="0.8", linewidth=0.8)
        elif label in of_task:
            draw_line(axes, y, of_task[label], reach)
    axes.axvline(0, color="black", linewidth=1)
    title = (
        f"{name}\n{built_in_tasks()[name].metric_name}" if name != MEAN else "mean\nof all tasks"
    )
    axes.set_title(title, fontsize=12)
    axes.set(xlim=(-EDGE * reach, EDGE * reach), ylim=(len(lines) - 0.4, -0.6))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: number(value, "+") if value else "0")
    axes.tick_params(axis="x", labelsize=9.5, top=True, labeltop=True)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)


def draw_line(axes: Axes, y: float, found: Difference, reach: float) -> None:
    """Draw one difference, with an arrow where some of it lies beyond the axis."""
    color = PLAIN_COLOR
    if found.is_finding:
        color = BETTER_COLOR if found.mean > 0 else WORSE_COLOR
    filled = color if found.num_runs > 1 else "white"
    # Of an average, the seeds' differences are the spread of its control alone.
    seeds = found.by_seed if found.num_runs == len(found.by_seed) else []
    for side, marker in ((-1, "<"), (1, ">")):
        farthest = max(side * value for value in (*found.interval, *seeds))
        if farthest > EDGE * reach or side * found.mean > reach:
            axes.plot(side * 1.07 * reach, y, marker=marker, color=color, mfc=filled)
    if abs(found.mean) > reach:
        side = np.sign(found.mean)
        label = axes.text(0.98 * side * reach, y, number(found.mean, "+"), va="center")
        label.set(ha="right" if side > 0 else "left", fontsize=9.5)
        label.set_color(color if found.is_finding else "0.35")
        return
    axes.plot(found.interval, (y, y), color=color, linewidth=2.2, solid_capstyle="butt")
    axes.scatter(seeds, [y + 0.27] * len(seeds), s=9, color=color, linewidths=0)
    axes.plot(found.mean, y, marker="o", markersize=6.5, color=color, mfc=filled)


def axis_reach(of_task: dict[str, Difference]) -> float:
    """Return how far an axis goes: to the farthest interval, or as far as most if it is far off."""
    ends = [max(map(abs, found.interval)) for found in of_task.values()]
    most = 1.3 * float(np.quantile(ends, 0.8))
    return max(0.01, max(ends) if max(ends) <= FAR * most else most)


def label_lines(axes: Axes, lines: list[Line], methods: dict[str, Method]) -> None:
    """Write each line's `row − control`, or the family's name in bold, left of the panel."""
    texts = [
        label if is_family else f"{label} − {methods[label].control_label}"
        for label, is_family in lines
    ]
    axes.set_yticks(range(len(lines)), texts, fontsize=10.5)
    for text, (_, is_family) in zip(axes.get_yticklabels(), lines):
        text.set_fontweight("bold" if is_family else "normal")


def legend_handles() -> list[Line2D]:
    """Return what the marks mean."""
    marks: dict[str, dict[str, Any]] = {
        "a single seed, or an average": {
            "color": PLAIN_COLOR,
            "marker": "o",
            "mfc": "white",
            "linewidth": 2.2,
        },
        "each seed's difference": {"color": "0.3", "marker": ".", "markersize": 4, "linewidth": 0},
        "beyond the axis": {"color": PLAIN_COLOR, "marker": "<", "linewidth": 0},
    }
    others = [Line2D([], [], label=label, **style) for label, style in marks.items()]
    return [*finding_handles(linewidth=2.2), *others]


def finding_handles(linewidth: float) -> list[Line2D]:
    """Return what the colors mean: points, on lines of this width."""
    colors = {"finding: better": BETTER_COLOR, "finding: worse": WORSE_COLOR}
    return [
        Line2D([], [], label=label, color=color, marker="o", linewidth=linewidth)
        for label, color in (colors | {"no finding": PLAIN_COLOR}).items()
    ]
