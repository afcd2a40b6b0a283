"""Methods from results, and paired bootstrap intervals of their differences.

A method is a row, or several rows that are one method (single-task training). A `SeedRun` is what
it has with one seed. Axis letters: K runs, N dev examples, R resamples.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from comparing.bootstrap import interval, resampled_scores
from experiments.result_files import is_score
from experiments.row_files import FAMILIES, MIN_SEEDS, Row
from options.task_table import built_in_tasks
from tasks import Metrics, mean_score
from tasks.metrics import accuracy

MEAN = "mean"  # stands for all tasks where a task's name is asked for
SAME_BUDGET = 0.05  # how far the examples of a method and its control may be apart
SEVERAL = "‡"  # marks a control from which a row differs in more than one thing


class SeedRun:
    """One method with one seed.

    Args:
        results: those of the method's rows.

    Attributes:
        metrics: by task.
        scores: each task's deciding metric and, if every task has one, their `MEAN`, in which nan
            counts as 0.
        predictions: [N] by task: 1 for right and 0 for wrong, or predicted scores.
        resampled: the scores in each resample, [R]; `resample` fills it.
        conflicts: by pair of tasks, the share of updates in which they conflict; empty where no
            cosines were logged.
        num_examples: how many it trained on.
        num_kept: of an average, how many of its members are in it.
    """

    def __init__(self, results: list[dict]) -> None:
        self.metrics: Metrics = dict(item for result in results for item in result["dev"].items())
        self.predictions: dict[str, np.ndarray] = dict(
            item for result in results for item in result["predictions"].items()
        )
        self.conflicts: dict[str, float] = results[0].get("conflicts") or {}
        self.num_examples = sum(sum(result["examples"].values()) for result in results)
        self.num_kept = len(results[0].get("kept_seeds", results[0].get("seeds", [])))
        self.resampled: dict[str, np.ndarray] = {}
        tasks = built_in_tasks()
        self.scores = {name: m[tasks[name].metric_name] for name, m in self.metrics.items()}
        if self.scores.keys() == tasks.keys():
            self.scores[MEAN] = mean_score(self.scores)


@dataclass
class Method:
    """A line of the tables.

    Attributes:
        name: the row, or what several rows are part of.
        row: the row, or one of them; it has the title, the family, the control.
        runs: what it has, by seed.
    """

    name: str
    row: Row
    runs: dict[int, SeedRun] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """The method that it is compared with."""
        return self.row.control

    @property
    def control_label(self) -> str:
        """What tables and figures call the control, with a mark if more than one thing differs."""
        return f"{self.control} {SEVERAL}" if self.row.differs_in else self.control

    def seeds(self, name: str) -> list[int]:
        """Return the seeds that have a score of the task, or of every task for `MEAN`."""
        return sorted(seed for seed, run in self.runs.items() if name in run.scores)

    @property
    def is_average(self) -> bool:
        """Whether its run is an average of several seeds' runs, and stands for each of them."""
        return len(set(self.runs.values())) < len(self.runs)

    def values(self, name: str, metric: str | None = None) -> np.ndarray:
        """Return a task's score, or another metric of it, by seed, but an average's once: [K]."""
        runs = dict.fromkeys(self.runs[seed] for seed in self.seeds(name))
        return np.array([run.metrics[name][metric] if metric else run.scores[name] for run in runs])

    def pairs(self, other: "Method", name: str) -> list[tuple[SeedRun, SeedRun]]:
        """Return the runs of both methods for each seed that both have, as in `seeds`."""
        seeds = sorted({*self.seeds(name)} & {*other.seeds(name)})
        return [(self.runs[seed], other.runs[seed]) for seed in seeds]

    def mean(self, name: str) -> float:
        """Return a task's score as the mean over seeds; nan without one."""
        values = self.values(name)
        return float(values.mean()) if len(values) else math.nan

    @property
    def place(self) -> tuple[int, float, str]:
        """Where it stands in every table and figure: by family, then the best mean first."""
        mean = np.nan_to_num(self.mean(MEAN), nan=-1.0)
        return FAMILIES.index(self.row.family), -float(mean), self.name


def more_examples(method: Method, other: Method | None) -> str:
    """Return how many times another method's examples a method trains on; empty if on as many."""
    pairs = method.pairs(other, MEAN) if other is not None else []
    ratios = [run.num_examples / max(1, one.num_examples) for run, one in pairs]
    if not ratios or abs(np.mean(ratios) - 1) < SAME_BUDGET:
        return ""
    return f"{np.mean(ratios):.1f} times the examples"


def gather(rows: dict[str, Row], results: list[dict]) -> dict[str, Method]:
    """Return every method of the rows by name, also those without a run, in their `place`."""
    methods = {row.method: Method(row.method, row) for row in rows.values()}
    parts = defaultdict(list)
    for result in results:
        seeds = tuple(result.get("seeds", [result["seed"]]))  # several of an average
        parts[rows[result["row"]].method, seeds].append(result)
    for (name, seeds), of_one_run in parts.items():
        methods[name].runs |= dict.fromkeys(seeds, SeedRun(of_one_run))
    return dict(sorted(methods.items(), key=lambda item: item[1].place))


def resample(methods: dict[str, Method], labels: dict[str, np.ndarray]) -> None:
    """Fill `resampled` of every run.

    A task's resamples hold the same dev examples for all runs. Those of two tasks are independent.

    Args:
        methods: the methods, changed in place.
        labels: [N] of the tasks that predict scores.
    """
    every_run = [run for method in methods.values() for run in dict.fromkeys(method.runs.values())]
    for index, (name, task) in enumerate(built_in_tasks().items()):
        runs = [run for run in every_run if name in run.predictions]
        if not runs:
            continue
        predictions = [run.predictions[name] for run in runs]
        # Results keep of a class only whether it was right: what is predicted then is "right".
        metric = task.metric if is_score(task) else accuracy
        expected = labels[name] if is_score(task) else np.ones(len(predictions[0]))
        resampled = resampled_scores(metric, predictions, expected, stream=index)  # [K, R]
        for run, values in zip(runs, resampled):
            run.resampled[name] = values
    for run in every_run:
        if MEAN in run.scores:
            run.resampled[MEAN] = np.mean(
                [run.resampled[name] for name in built_in_tasks()], axis=0
            )


class Difference(NamedTuple):
    """How much better a method is than its control.

    Attributes:
        mean: over seeds.
        interval: 95 % interval over dev examples.
        by_seed: the difference of each seed.
        num_runs: how many different runs the side with fewer of them has. An average counts as one
            run, whatever the number of its members: its `by_seed` is the spread of its control.
    """

    mean: float
    interval: tuple[float, float]
    by_seed: list[float]
    num_runs: int

    @property
    def is_finding(self) -> bool:
        """Whether the interval excludes 0 and at least `MIN_SEEDS` runs all have its sign."""
        values = np.array([*self.interval, *self.by_seed])
        return self.num_runs >= MIN_SEEDS and bool((values > 0).all() or (values < 0).all())


def difference(method: Method, control: Method | None, name: str) -> Difference | None:
    """Return the difference of a task's score, or of `MEAN`, over the seeds that both have.

    None without such a seed, without a control, and of a method with itself.
    """
    if control is None or control is method:
        return None
    pairs = method.pairs(control, name)
    if not pairs:
        return None
    scores = np.nan_to_num([(one.scores[name], two.scores[name]) for one, two in pairs])
    resampled = [one.resampled[name] - two.resampled[name] for one, two in pairs]
    by_seed = scores[:, 0] - scores[:, 1]
    num_runs = min(len({*side}) for side in zip(*pairs))
    interval_of_mean = interval(np.mean(resampled, axis=0))
    return Difference(float(np.mean(by_seed)), interval_of_mean, by_seed.tolist(), num_runs)


def differences(methods: dict[str, Method], name: str) -> dict[str, Difference]:
    """Return the difference of every method that has one to its control, in the methods' order."""
    found = {
        method.name: difference(method, methods.get(method.control), name)
        for method in methods.values()
    }
    return {key: value for key, value in found.items() if value is not None}
