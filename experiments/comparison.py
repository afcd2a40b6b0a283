"""Methods from results, and paired bootstrap intervals of their differences.

A method is a row, or several rows that are one method (single-task training); a `SeedRun` is what
it has with one seed. Axis letters: K runs, N dev examples, R resamples.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from experiments.result_files import is_score
from experiments.row_files import Row
from tasks import TASKS, Metrics, Task, mean_score

NUM_RESAMPLES = 2000
CHUNK = 100  # resamples at once: 100 · N counts are in memory
MEAN = "mean"  # stands for all tasks where a task's name is asked for


@dataclass
class SeedRun:
    """One method with one seed; of several rows, seconds are added and memory is the largest.

    predictions: [N] by task, 1 for right and 0 for wrong, or predicted scores. resampled: a task's
    metric in each resample, [R].
    """

    metrics: Metrics = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    training_seconds: float = 0.0
    peak_memory_mib: float = 0.0
    hardware: set[str] = field(default_factory=set)
    resampled: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, result: dict) -> None:
        self.metrics |= result["dev"]
        self.predictions |= result["predictions"]
        self.training_seconds += result["training_seconds"]
        self.peak_memory_mib = max(self.peak_memory_mib, result["peak_memory_mib"])
        self.hardware.add(result["hardware"])

    @property
    def is_complete(self) -> bool:
        return self.metrics.keys() == TASKS.keys()

    def score(self, name: str) -> float:
        """A task's deciding metric, or `MEAN`, in which nan counts 0."""
        if name == MEAN:
            return mean_score({task: self.score(task) for task in TASKS})
        return self.metrics[name][TASKS[name].metric_name]

    def resampled_score(self, name: str) -> np.ndarray:
        """The same in each resample, [R]; the tasks' resamples are independent."""
        if name == MEAN:
            return np.mean([self.resampled[task] for task in TASKS], axis=0)
        return self.resampled[name]


@dataclass
class Method:
    """A line of the tables: its title, the method it is compared with, and its runs by seed."""

    name: str
    title: str
    control: str
    runs: dict[int, SeedRun] = field(default_factory=dict)

    def seeds(self, name: str) -> list[int]:
        """Seeds that have a score of the task, or of every task for `MEAN`."""
        return sorted(
            seed
            for seed, run in self.runs.items()
            if (run.is_complete if name == MEAN else name in run.metrics)
        )

    def values(self, task_name: str, metric: str | None = None) -> np.ndarray:
        """The deciding metric, or another, by seed."""
        runs = [self.runs[seed] for seed in self.seeds(task_name)]
        if metric is None:
            return np.array([run.score(task_name) for run in runs])
        return np.array([run.metrics[task_name][metric] for run in runs])

    def relative(self, baseline: "Method", name: str) -> float:
        """training_seconds or peak_memory_mib over the baseline's: mean over the seeds that both
        have with every task and on the same hardware, nan without one. Seed by seed, as a machine
        is busier on some days.
        """
        pairs = [
            (self.runs[seed], baseline.runs[seed])
            for seed in sorted({*self.seeds(MEAN)} & {*baseline.seeds(MEAN)})
        ]
        ratios = [
            getattr(one, name) / getattr(two, name)
            for one, two in pairs
            if one.hardware == two.hardware
        ]
        return float(np.mean(ratios)) if ratios else math.nan


def gather(rows: dict[str, Row], results: list[dict]) -> dict[str, Method]:
    """Every method of the rows, those without a run too, by name."""
    methods = {row.method: Method(row.method, row.title, row.control) for row in rows.values()}
    for result in results:
        runs = methods[rows[result["row"]].method].runs
        runs.setdefault(result["seed"], SeedRun()).add(result)
    return methods


def resample(
    methods: dict[str, Method],
    labels: dict[str, np.ndarray],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> None:
    """Fill `resampled` of every run: the same resamples of a task's dev examples for all runs.

    labels: [N] of the tasks that predict scores.
    """
    for index, (name, task) in enumerate(TASKS.items()):
        runs = [run for method in methods.values() for run in method.runs.values()]
        runs = [run for run in runs if name in run.predictions]
        if not runs:
            continue
        predictions = np.stack([run.predictions[name] for run in runs])  # [K, N]
        generator = np.random.default_rng([seed, index])
        chunks = []
        for start in range(0, num_resamples, CHUNK):
            size = min(CHUNK, num_resamples - start)
            counts = draw_counts(generator, size, predictions.shape[1])
            chunks.append(resampled_metric(task, counts, predictions, labels.get(name)))
        for run, values in zip(runs, np.concatenate(chunks, axis=1)):
            run.resampled[name] = values  # [R]


def draw_counts(
    generator: np.random.Generator, num_resamples: int, num_examples: int
) -> np.ndarray:
    """How often each resample, N draws with replacement, holds each example: [R, N]."""
    drawn = generator.integers(num_examples, size=(num_resamples, num_examples))
    drawn += np.arange(num_resamples)[:, None] * num_examples  # every resample its own bins
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_examples)
    return counts.reshape(num_resamples, num_examples).astype(np.float64)


def resampled_metric(
    task: Task, counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray | None
) -> np.ndarray:
    """Accuracy, or Pearson r, of predictions [K, N] in resamples given by counts [R, N]: [K, R].

    An undefined r, of a constant, counts 0.
    """
    num_examples = counts.shape[1]
    if not is_score(task):
        return predictions @ counts.T / num_examples
    # Centred first: the differences of sums below then lose no digits.
    x = predictions - predictions.mean(axis=1, keepdims=True)  # [K, N]
    y = labels - labels.mean()  # [N]
    mean_x, mean_y = x @ counts.T / num_examples, counts @ y / num_examples  # [K, R], [R]
    covariance = (x * y) @ counts.T / num_examples - mean_x * mean_y
    variance = (x**2 @ counts.T / num_examples - mean_x**2) * (
        counts @ y**2 / num_examples - mean_y**2
    )
    is_defined = variance > 1e-12  # below: rounding of a constant
    return np.where(is_defined, covariance / np.sqrt(np.where(is_defined, variance, 1)), 0.0)


class Difference(NamedTuple):
    """Mean over seeds, its 95 % interval over dev examples, and the single seeds' differences."""

    mean: float
    interval: tuple[float, float]
    by_seed: list[float]


def difference(method: Method, control: Method | None, name: str) -> Difference | None:
    """Difference of a task's metric, or of `MEAN`, over the seeds that both have; None without such
    a seed, or of a method with itself.
    """
    if control is None or control is method:
        return None
    seeds = sorted({*method.seeds(name)} & {*control.seeds(name)})
    if not seeds:
        return None
    pairs = [(method.runs[seed], control.runs[seed]) for seed in seeds]
    values = [np.nan_to_num(one.score(name)) - np.nan_to_num(two.score(name)) for one, two in pairs]
    resampled = [one.resampled_score(name) - two.resampled_score(name) for one, two in pairs]
    by_seed = [float(value) for value in values]
    return Difference(float(np.mean(values)), interval(np.mean(resampled, axis=0)), by_seed)


def own_interval(method: Method, name: str) -> tuple[float, float]:
    """95 % interval of a method's own score over dev examples, its seeds averaged."""
    seeds = method.seeds(name)
    return interval(np.mean([method.runs[seed].resampled_score(name) for seed in seeds], axis=0))


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 percent quantiles of [R]."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
