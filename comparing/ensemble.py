"""An ensemble: the mean of several runs' predictions, each with its own model and tokenizer.

Axis letters: N examples, C outputs.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from comparing.finished import (
    DevRows,
    FinishedRun,
    difference_of_rows,
    difference_of_tasks,
    obstacle,
)
from datasets import load_data, read_split
from engine import predict_logits
from inputs.batches import Rows
from predicting.run import load_run
from reporting.outputs import in_folder, write_outputs
from runtime.errors import InputError
from runtime.files import write_json
from runtime.new_folder import new_directory
from tasks import Metrics


def make_ensemble(
    runs: list[FinishedRun], folder: Path, device: torch.device | str = "cpu"
) -> FinishedRun:
    """Average the predictions of runs; write metrics and prediction files into a new folder.

    Probabilities are averaged, of a regression the predicted numbers. Test rows are predicted too,
    unless one of the runs has --no_test_predictions.

    Args:
        runs: with the same tasks and dev data.
        folder: does not exist yet.
        device: where to compute.

    Returns:
        The ensemble, to be compared with its members.

    Raises:
        InputError: the runs' tasks or data differ, or one of them cannot be read.
        OSError: the folder cannot be written.
    """
    first = runs[0]
    for run in runs:
        check_same_rows(first, run)
    splits = splits_of(runs)
    if "test" in splits:
        check_same_test_rows(runs)
    data: dict[str, dict[str, Rows]] = {}
    outputs: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)  # of each run, [N, C]
    for run in runs:
        of_run = load_outputs(run, splits, device, outputs)
        data = data or of_run
    metrics, predictions = {}, {}
    for split, of_split in data.items():
        metrics[split], predictions[split] = averaged(of_split, split, outputs)
    with new_directory(folder) as partial:
        args = in_folder(first.args, partial)
        (partial / "predictions").mkdir()
        for split, of_split in data.items():
            write_outputs(args, split, of_split, metrics[split], predictions[split], {})
        write_json(partial / "ensemble.json", {"runs": [run.args.run_dir for run in runs]})
    dev = {
        name: DevRows(first.dev[name].examples, first.dev[name].labels, decoded)
        for name, decoded in predictions["dev"].items()
    }
    args = in_folder(first.args, folder)
    return FinishedRun("ensemble", str(folder), args, metrics["dev"], dev, {}, [])


def averaged(
    data: dict[str, Rows], split: str, outputs: dict[tuple[str, str], list[np.ndarray]]
) -> tuple[Metrics, dict[str, np.ndarray]]:
    """Return the metrics, where there are labels, and the predictions of the mean by task.

    Args:
        data: task name -> rows of the split.
        split: dev or test.
        outputs: (split, task name) -> the logits [N, C] of each run.
    """
    metrics, predictions = {}, {}
    for name, rows in data.items():
        predictions[name] = rows.task.decode(rows.task.average(outputs[split, name]))
        if rows.labels is not None:
            metrics[name] = rows.task.evaluate(predictions[name], rows.labels)
    return metrics, predictions


def load_outputs(
    run: FinishedRun,
    splits: tuple[str, ...],
    device: torch.device | str,
    outputs: dict[tuple[str, str], list[np.ndarray]],
) -> dict[str, dict[str, Rows]]:
    """Add the logits [N, C] of a run to those of each split and task; return its rows."""
    found = load_run(run.path, device, is_calibrated=False)
    model, tokenizer, args = found.model, found.tokenizer, found.args
    data = load_data(args, tokenizer, model.encoder.config.pad_token_id, splits)
    for split, of_split in data.items():
        for name, rows in of_split.items():
            label = f"{run.title} {split} {name}"
            outputs[split, name].append(
                predict_logits(model, rows, use_amp=args.use_amp, name=label)
            )
    return data


def splits_of(runs: list[FinishedRun]) -> tuple[str, ...]:
    """Return the splits to predict: dev and, unless one of the runs does without it, test."""
    return ("dev",) if any(run.args.no_test_predictions for run in runs) else ("dev", "test")


def check_same_rows(first: FinishedRun, run: FinishedRun) -> None:
    """Raise InputError if two runs do not predict the same dev rows for the same tasks."""
    check_same_tasks(first, run)
    for name in first.tasks:
        reason = obstacle(first, run, name)
        if reason is not None:
            raise InputError(f"{run.path}: cannot be averaged with {first.path}: {reason}")


def check_same_tasks(first: FinishedRun, run: FinishedRun) -> None:
    """Raise InputError if two runs have other tasks, or describe one of them differently."""
    reason = None
    if {*first.tasks} != {*run.tasks}:
        reason = f"its tasks are {', '.join(run.tasks)}, not {', '.join(first.tasks)}"
    for name in first.tasks.keys() & run.tasks.keys():
        reason = reason or difference_of_tasks(first.tasks[name], run.tasks[name])
    if reason is not None:
        raise InputError(f"{run.path}: cannot be averaged with {first.path}: {reason}")


def check_same_test_rows(runs: list[FinishedRun]) -> None:
    """Raise InputError if runs, which have the same tasks, do not predict the same test rows."""
    first, *others = runs
    expected = {name: read_split(first.args, task, "test") for name, task in first.tasks.items()}
    for run in others:
        for name, examples in expected.items():
            rows = read_split(run.args, run.tasks[name], "test")
            reason = difference_of_rows(examples, rows, name)
            if reason is not None:
                raise InputError(
                    f"{run.path}: cannot be averaged with {first.path}: its test data differ: "
                    f"{reason}"
                )
