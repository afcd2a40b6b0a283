"""Finished runs read back: options, dev scores, dev predictions, and the course of the training.

A run directory may be someone else's, so everything is checked as it is read. What cannot be read
of a run, a missing dev file for example, is kept as a reason, and all else is still compared.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets import read_lines, read_split, split_record, task_file
from options.data_dir import set_data_dir
from reporting import metrics_file
from reporting.run_directory import read_options
from runtime.errors import InputError, shorten
from tasks import Example, Metrics, Task, scores


@dataclass
class DevRows:
    """The dev rows of a task, and what a run predicts for them.

    Attributes:
        examples: N rows.
        labels: [N], or [N, C] of 0 and 1.
        predictions: of the same shape.
    """

    examples: list[Example]
    labels: np.ndarray
    predictions: np.ndarray


@dataclass
class FinishedRun:
    """One run of a comparison.

    Attributes:
        title: what tables and figures call it.
        path: its directory, as the user wrote it.
        args: its options.
        metrics: its dev metrics by task.
        dev: its dev rows by task, as far as they can be read.
        obstacles: task -> why its dev rows cannot be read.
        epochs: the lines of metrics.jsonl; none for an average of runs.
    """

    title: str
    path: str
    args: Namespace
    metrics: Metrics
    dev: dict[str, DevRows]
    obstacles: dict[str, str]
    epochs: list[dict]

    @property
    def tasks(self) -> dict[str, Task]:
        """The run's tasks by name."""
        tasks: dict[str, Task] = self.args.tasks
        return tasks

    @property
    def scores(self) -> dict[str, float]:
        """The metric that each task is judged by; nan if it is undefined."""
        return scores(self.metrics)


def read_runs(paths: Sequence[str]) -> list[FinishedRun]:
    """Read finished runs.

    Raises:
        InputError: one of them is no run, or has no dev metrics; or a file of it is damaged.
    """
    return [read_run(path, title) for path, title in zip(paths, titles(paths))]


def titles(paths: Sequence[str]) -> list[str]:
    """Return a title for each run: the last part of its path, the whole path where two share it.

    A run that is named again gets a number.
    """
    names = [os.path.basename(os.path.abspath(path)) for path in paths]
    real = [os.path.abspath(path) for path in paths]
    owners: dict[str, set[str]] = {}
    for name, place in zip(names, real):
        owners.setdefault(name, set()).add(place)
    chosen: list[str] = []
    for name, path, place in zip(names, paths, real):
        title = name if len(owners[name]) == 1 else os.path.normpath(path)
        before = real[: len(chosen)].count(place)
        chosen.append(f"{title} ({before + 1})" if before else title)
    return chosen


def read_run(path: str, title: str) -> FinishedRun:
    """Read one finished run. Raises InputError as `read_runs` does."""
    args = read_options(path, needed=())
    if args.data_dir is None:
        set_data_dir(args)
    file = Path(args.run_dir) / "metrics-dev.json"
    if not file.is_file():
        raise InputError(
            f"{file}: no such file, expected a finished run; resume it, or evaluate it: "
            f"python evaluation.py --run {path}"
        )
    metrics = metrics_file.read_metrics(file, args.tasks.values())
    dev, obstacles = {}, {}
    for name, task in args.tasks.items():
        try:
            dev[name] = read_dev(args, task, metrics[name][task.metric_name])
        except InputError as error:
            obstacles[name] = str(error)
    epochs = Path(args.run_dir) / "metrics.jsonl"
    lines = metrics_file.read_lines(epochs) if os.path.lexists(epochs) else []
    return FinishedRun(title, path, args, metrics, dev, obstacles, lines)


def read_dev(args: Namespace, task: Task, score: float) -> DevRows:
    """Read a task's dev file, and a run's predictions for it.

    Args:
        args: the run's options.
        task: the task.
        score: what the run's metrics say; the predictions have to have it.

    Raises:
        InputError: a file cannot be read, or the two do not belong together.
    """
    path, examples = task_file(args, task, "dev"), read_split(args, task, "dev")
    if args.predictions_path is None:
        raise InputError("its predictions are outside the run")
    file = Path(args.predictions_path) / f"{task.stem}-dev-output.csv"
    predictions = read_predictions(file, task, [example.id for example in examples])
    labels = np.array([example.label for example in examples], dtype=task.label_dtype)
    found = task.evaluate(predictions, labels)[task.metric_name]
    if not np.isclose(found, score, rtol=0, atol=1e-6, equal_nan=True):
        raise InputError(
            f"{file}: {task.metric_name} is {found:.4f} on {path}, but {score:.4f} in "
            "metrics-dev.json; evaluate the run again"
        )
    return DevRows(examples, labels, predictions)


def read_predictions(path: Path, task: Task, ids: list[str]) -> np.ndarray:
    """Return the predictions in a prediction file, as `Task.decode` returned them.

    Args:
        path: the file.
        task: the task.
        ids: those of the rows that were predicted.

    Raises:
        InputError: the file cannot be read, a value is not allowed, or the ids are others.
    """
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row_id, value = split_record(line, 2)
            rows.append((row_id, value if number == 1 else task.parse_label(value)))
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}") from None
    header, *predicted = rows
    if header != ("id", task.prediction_column):
        raise InputError(
            f"{path}:1: the columns are {shorten(', '.join(header))}, expected id, "
            f"{task.prediction_column}"
        )
    if [row_id for row_id, _ in predicted] != ids:
        raise InputError(
            f"{path}: its {len(predicted)} ids are not those of the {len(ids)} dev rows; evaluate "
            "the run again"
        )
    kind = np.float64 if task.label_type is float else np.int64
    return np.array([value for _, value in predicted], dtype=kind)


def obstacle(first: FinishedRun, other: FinishedRun, name: str) -> str | None:
    """Return why the dev rows of two runs cannot be paired in one task; None if they can."""
    for run in (first, other):
        if name not in run.tasks:
            return f"{run.title} has no task {name}"
    reason = difference_of_tasks(first.tasks[name], other.tasks[name])
    if reason is not None:
        return reason
    for run in (first, other):
        if name in run.obstacles:
            return run.obstacles[name]
    reason = difference_of_rows(first.dev[name].examples, other.dev[name].examples, name)
    return None if reason is None else f"its dev data differ: {reason}"


def difference_of_rows(one: list[Example], two: list[Example], name: str) -> str | None:
    """Return how the second rows of a task differ from the first ones, or None."""
    if len(one) != len(two):
        return f"{len(two)} rows of {name}, not {len(one)}"
    for number, (example, counterpart) in enumerate(zip(one, two), start=1):
        if example != counterpart:
            what = "id" if example.id != counterpart.id else "label"
            what = "text" if example.texts != counterpart.texts else what
            return f"row {number} of {name} has another {what}"
    return None


def difference_of_tasks(one: Task, two: Task) -> str | None:
    """Return what of two tasks of the same name differs, as far as scores depend on it, or None."""
    if type(one) is not type(two):
        return f"task {one.name} is of another kind"
    keys = {
        "metric_name": "metric",
        "label_range": "range",
        "class_names": "classes",
        "is_pair": "number of texts",
    }
    for attribute, words in keys.items():
        if getattr(one, attribute) != getattr(two, attribute):
            return f"task {one.name} has another {words}"
    return None
