"""Tables of a comparison, as plain text: options that differ, scores, and paired differences."""

from typing import NamedTuple

import numpy as np

from comparing.bootstrap import interval, resampled_scores
from comparing.finished import FinishedRun, obstacle
from options.saved import RESOLVED
from tasks import mean_score

MEAN = "mean"
UNSET = "–"
# Where a run is, and what it is called. The tasks and the data have rows of their own.
PLACES = {*RESOLVED, "run_name", "logdir", "filepath", "predictions_path", "resume", "hpo_resume"}
MAX_WIDTH = 48  # of a cell; of a longer one, the end is shown


class Difference(NamedTuple):
    """How much higher a score is than that of the first run, with its 95 % interval."""

    value: float
    low: float
    high: float


def options_table(runs: list[FinishedRun]) -> str:
    """Return the options that are not the same for all runs, one line each."""
    found = [shown_options(run) for run in runs]
    names = dict.fromkeys(name for options in found for name in options)
    rows = [[name, *(options.get(name, UNSET) for options in found)] for name in names]
    different = [row for row in rows if len({*row[1:]}) > 1]
    if not different:
        return "options: the same in all runs"
    return aligned([["option", *(run.title for run in runs)], *different])


def shown_options(run: FinishedRun) -> dict[str, str]:
    """Return a run's options as text, with its tasks and the digests of its training files."""
    options = {name: value for name, value in vars(run.args).items() if name not in PLACES}
    options = {"script": run.args.script, "tasks": list(run.tasks)} | options
    found = {name: text_of(value) for name, value in options.items()}
    digests = run.args.data_sha256
    return found | {f"training rows of {name}": digest[:12] for name, digest in digests.items()}


def text_of(value: object) -> str:
    """Return the value of an option as a cell."""
    if value is None or value == [] or value == {}:
        return UNSET
    if isinstance(value, dict):
        value = [f"{key}={part}" for key, part in value.items()]
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= MAX_WIDTH else "…" + text[1 - MAX_WIDTH :]


def scores_table(runs: list[FinishedRun]) -> str:
    """Return every dev metric of every run, that which a task is judged by first, and the mean.

    The mean is of all tasks of a run, nan counted as 0.
    """
    names = dict.fromkeys(
        (task, metric)
        for run in runs
        for task, of_task in run.metrics.items()
        for metric in of_task
    )
    rows = [["dev", "metric", *(run.title for run in runs)]]
    for task in dict.fromkeys(task for task, _ in names):
        for metric in (metric for other, metric in names if other == task):
            values = [run.metrics.get(task, {}).get(metric) for run in runs]
            cells = [UNSET if value is None else f"{value:.4f}" for value in values]
            rows.append([task, metric, *cells])
    rows.append([MEAN, "", *(f"{mean_score(run.scores):.4f}" for run in runs)])
    return aligned(rows)


def differences_table(runs: list[FinishedRun]) -> str:
    """Return the differences to the first run, and a line for each run that cannot be paired."""
    first, *others = runs
    found, reasons = differences(first, others)
    lines = []
    names = [name for name in (*first.tasks, MEAN) if any(name in of_run for of_run in found)]
    if names:
        tasks = [name for name in names if name != MEAN]
        sizes = ", ".join(f"{name} {len(first.dev[name].labels):,}" for name in tasks)
        rows = [[f"minus {first.title}", *(run.title for run in others)]]
        rows += [[name, *(difference_text(of_run.get(name)) for of_run in found)] for name in names]
        lines = [aligned(rows), f"[95 % by paired bootstrap over dev rows: {sizes}]"]
    for run, of_run in zip(others, reasons):
        if of_run:
            what = ", ".join(of_run)
            lines.append(f"{run.title}: not paired in {what}: {next(iter(of_run.values()))}")
    return "\n".join(lines)


def differences(
    first: FinishedRun, others: list[FinishedRun]
) -> tuple[list[dict[str, Difference]], list[dict[str, str]]]:
    """Compare runs with the first one on the same dev examples.

    A task's resamples hold the same examples for all runs; those of two tasks are independent. An
    undefined correlation counts as 0.

    Returns:
        For each of the other runs, the differences by task, with `MEAN` if all of its tasks and all
        of the first run's can be paired; and for each, why tasks cannot be.
    """
    names = list(dict.fromkeys([*first.tasks, *(name for run in others for name in run.tasks)]))
    found: list[dict[str, Difference]] = [{} for _ in others]
    sums = [np.zeros(1) for _ in others]
    reasons: list[dict[str, str]] = [{} for _ in others]
    for stream, name in enumerate(names):
        paired = []
        for place, run in enumerate(others):
            if name not in first.tasks | run.tasks:
                continue
            why = obstacle(first, run, name)
            if why is None:
                paired.append(place)
            else:
                reasons[place][name] = why
        if not paired:
            continue
        rows = [first.dev[name], *(others[place].dev[name] for place in paired)]
        metric, labels = first.tasks[name].metric, rows[0].labels
        base, *resampled = resampled_scores(metric, [r.predictions for r in rows], labels, stream)
        for place, values in zip(paired, resampled):
            value, control = np.nan_to_num([others[place].scores[name], first.scores[name]])
            found[place][name] = Difference(value - control, *interval(values - base))
            sums[place] = sums[place] + values - base
    for place, run in enumerate(others):
        if found[place] and not reasons[place]:
            value = mean_score(run.scores) - mean_score(first.scores)
            found[place][MEAN] = Difference(value, *interval(sums[place] / len(first.tasks)))
    return found, reasons


def difference_text(found: Difference | None) -> str:
    """Return a difference and its interval as a cell."""
    if found is None:
        return UNSET
    value, low, high = (signed(number, 4) for number in found)
    return f"{value} [{low}, {high}]"


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign, which it keeps where it rounds to 0.

    Only 0 itself has none, so the ends of an interval tell whether it includes 0.
    """
    is_zero = abs(value) < 1e-12  # but for the rounding of a sum
    return f"{0.0 if is_zero else value:{'' if is_zero else '+'}.{decimals}f}".replace("-", "−")


def aligned(rows: list[list[str]]) -> str:
    """Return rows of cells as text with aligned columns, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
