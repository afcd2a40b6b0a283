"""The tables of the report, as Markdown: one line per method, grouped by family."""

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from benchmarks.cost_file import Costs
from comparing.tables import signed
from experiments.comparison import MEAN, Difference, Method, differences
from experiments.row_files import MIN_SEEDS
from options.task_table import built_in_tasks

NOT_RUN = "not run here"
NONE = "–"
BETTER, WORSE = "▲", "▼"  # marks of findings
Cell = tuple[str, float]  # text, and a value that is bold where it is the largest; nan: never


def number(value: float, sign: str = "") -> str:
    """Return a number in (-10, 10) with three decimals and without the leading zero.

    Args:
        value: the number.
        sign: "+" writes the sign of a positive number too, as `signed` does.
    """
    text = signed(value, 3) if sign else f"{value:z.3f}".replace("-", "−")
    return text.replace("0.", ".", 1)


def score_cell(values: np.ndarray) -> Cell:
    """Return the mean over seeds, ± their sample standard deviation where there are enough."""
    if not len(values):
        return NOT_RUN, math.nan
    spread = f" ± {number(values.std(ddof=1))}" if len(values) >= MIN_SEEDS else ""
    return f"{number(values.mean())}{spread}", values.mean()


def difference_text(found: Difference) -> str:
    """Return a difference with its interval and those of the seeds, a finding with its mark.

    An average has no seeds of its own, so that it is named instead.
    """
    low, high = (number(end, "+") for end in found.interval)
    text = f"{number(found.mean, '+')} [{low}, {high}]"
    if found.num_runs < len(found.by_seed):
        text += f"; one average of {len(found.by_seed)} runs"
    elif len(found.by_seed) > 1:
        text += f"; {number(min(found.by_seed), '+')} to {number(max(found.by_seed), '+')}"
    if found.is_finding:
        text = f"{BETTER if found.mean > 0 else WORSE} {text}"
    return text


def difference_cells(method: Method, found: Difference | None) -> list[Cell]:
    """Return the difference to the control, and the control's name."""
    texts = [NONE, NONE] if found is None else [difference_text(found), method.control_label]
    return [(text, math.nan) for text in texts]


def cost_cells(method: Method, costs: Costs) -> list[Cell]:
    """Return time and memory, the smallest of which are bold."""
    cost = costs.find(method.row.cost)
    if cost is None:
        return [(NONE, math.nan)] * 2
    memory = f"{cost.memory:+z.1f}".replace("-", "−")
    return [(f"{cost.time:.2f}", -round(cost.time, 2)), (memory, -round(cost.memory, 1))]


def seeds_text(method: Method, name: str) -> str:
    """Return how many seeds have the task's score, or of how many runs an average is made."""
    seeds = method.seeds(name)
    if not method.is_average:
        return {0: NONE, 1: "1 †"}.get(len(seeds), str(len(seeds)))
    num_kept = method.runs[seeds[0]].num_kept
    return f"{f'{num_kept} ' if num_kept < len(seeds) else ''}of {len(seeds)}"


def overall_table(methods: dict[str, Method], costs: Costs | None = None) -> str:
    """Return the table of all tasks, with costs if there are any."""
    names = list(built_in_tasks())
    header = ["method", "mean", *names, "difference of the mean [95 %]; by seed", "to"]
    header += ["time", "memory"] * (costs is not None) + ["seeds"]
    return format_table(methods, header, MEAN, [(name, None) for name in (MEAN, *names)], costs)


def task_table(methods: dict[str, Method], name: str) -> str:
    """Return the table of one task, with all of its metrics."""
    task = built_in_tasks()[name]
    others = [metric.replace("_", " ") for metric in task.other_metrics]
    header = ["method", task.metric_name, *others, "difference [95 %]; by seed", "to", "seeds"]
    scores = [(name, None), *((name, metric) for metric in task.other_metrics)]
    return format_table(methods, header, name, scores)


def format_table(
    methods: dict[str, Method],
    header: list[str],
    name: str,
    scores: Sequence[tuple[str, str | None]],
    costs: Costs | None = None,
) -> str:
    """Return Markdown with one line per method and one above each family.

    The best of each column is bold.

    Args:
        methods: the methods by name, in their order.
        header: the columns' titles.
        name: the task that is compared with the control, or `MEAN`.
        scores: a column each, as `Method.values` takes them.
        costs: two more columns, unless None.
    """
    found = differences(methods, name)
    lines = []
    for method in methods.values():
        cells = [(f"{method.row.title} (`{method.name}`)", math.nan)]
        cells += [score_cell(method.values(*score)) for score in scores]
        cells += difference_cells(method, found.get(method.name))
        cells += cost_cells(method, costs) if costs is not None else []
        cells.append((seeds_text(method, name), math.nan))
        lines.append(cells)
    # Of each column, as far as shown. nan equals nothing, so it is never bold.
    best = [
        max([round(x, 3) for _, x in column if x == x], default=math.nan) for column in zip(*lines)
    ]
    shown = iter(
        [f"**{text}**" if round(x, 3) == top else text for (text, x), top in zip(cells, best)]
        for cells in lines
    )
    table = [header, ["---"] * len(header)]
    for family, members in groupby(methods.values(), lambda method: method.row.family):
        table.append([f"**{family}**", *[""] * (len(header) - 1)])
        table += [next(shown) for _ in members]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
