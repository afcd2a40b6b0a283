"""The figure of a comparison: the mean of the dev scores over training examples."""

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from comparing.finished import FinishedRun
from runtime.errors import InputError
from tasks import Task, mean_score

if TYPE_CHECKING:
    import matplotlib.figure

MAX_EXAMPLES = 10**15


def draw_curves(runs: list[FinishedRun]) -> "matplotlib.figure.Figure":
    """Draw one curve per run, and a star at its best epoch.

    The mean is of the tasks that all runs have. An average of runs, which has no epochs, is a
    horizontal line.

    Raises:
        InputError: the runs have no task in common.
    """
    from matplotlib.figure import Figure

    first, *others = runs
    names = [name for name in first.tasks if all(name in run.tasks for run in others)]
    if not names:
        raise InputError(
            f"the runs have no task in common, so no mean can be drawn: {first.title} has "
            f"{', '.join(first.tasks)}"
        )
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, run in enumerate(runs):
        color = f"C{number % 10}"
        if not run.epochs:
            mean = mean_score({name: run.scores[name] for name in names})
            axes.axhline(mean, color=color, linestyle="--", label=label_of(run))
            continue
        examples, means = curve(run, names)
        style = "-" if number < 10 else ":"
        axes.plot(examples, means, f"o{style}", color=color, markersize=4, label=label_of(run))
        best = means.index(max(means))
        axes.plot(examples[best], means[best], "*", color=color, markersize=13)
    listed = ", ".join(f"{name} {first.tasks[name].metric_name}" for name in names)
    axes.set(xlabel="training examples", ylabel=f"dev mean of {listed}")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def label_of(run: FinishedRun) -> str:
    """Return a run's title for the legend, which reads $ as mathematics and hides a leading _."""
    title = run.title.replace("$", r"\$")
    return f" {title}" if title.startswith("_") else title


def curve(run: FinishedRun, names: list[str]) -> tuple[list[float], list[float]]:
    """Return how many examples a run had seen after each epoch, and its mean dev score then.

    Raises:
        InputError: they are no numbers of examples, or no scores.
    """
    examples = list(accumulate(sum(line["examples"].values()) for line in run.epochs))
    means = [
        mean_score({name: score_of(line, run.tasks[name]) for name in names}) for line in run.epochs
    ]
    if not all(0 <= number <= MAX_EXAMPLES for number in examples):
        raise InputError(f"{run.path}/metrics.jsonl: examples are {examples!r:.60}, not counts")
    if not all(-1 <= mean <= 1 for mean in means):
        raise InputError(f"{run.path}/metrics.jsonl: dev means are {means!r:.60}, not in [-1, 1]")
    return examples, means


def score_of(line: dict, task: Task) -> float:
    """Return a task's score in a line of metrics.jsonl, nan if it is missing or undefined."""
    value = line["dev"].get(task.name, {}).get(task.metric_name)
    return math.nan if value is None else value
