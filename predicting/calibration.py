"""Calibrate a run: fit the temperatures of its tasks on dev, measure them, and keep them."""

import warnings
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from datasets import load_data, use_data
from engine import predict_logits
from inputs.batches import Rows
from predicting.run import Run, load_run
from predicting.temperatures import (
    HIGHEST,
    LOWEST,
    NAME,
    class_logits,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    read_temperatures,
    write_temperatures,
)
from runtime import workers
from runtime.errors import InputError
from runtime.files import read_json

MEASURES = {"nll": negative_log_likelihood, "ece": expected_calibration_error}


def calibrate_run(
    directory: str,
    data_dir: str | None,
    device: torch.device | str,
    filepath: str | None = None,
    task_names: Sequence[str] | None = None,
) -> None:
    """Fit one temperature per task with classes on all of dev, print how good it is, and keep it.

    How good it is, a temperature of one half of dev tells on the other half.

    Args:
        directory: of the run.
        data_dir: the folder of the dev files; None for the run's own.
        device: where to compute.
        filepath: as for `load_run`.
        task_names: the tasks to calibrate; None for all that have classes.

    Raises:
        InputError: the run cannot be read, or there is nothing to fit.
        OSError: calibration.json cannot be written.
    """
    run = load_run(directory, device, filepath, is_calibrated=False)
    tasks = run.chosen(task_names)
    if not any(task.has_classes for task in tasks.values()):
        raise InputError(
            f"--calibrate: {', '.join(tasks)} has no probabilities to calibrate, expected a "
            "classification or binary task"
        )
    known, report = known_calibration(run)
    run.args.tasks = {name: task for name, task in tasks.items() if task.has_classes}
    if data_dir is not None:
        use_data(run.args, "dev", data_dir)
    if run.args.smoketest:
        warnings.warn("the run is a --smoketest: only its few rows are used", stacklevel=1)
    data = load_data(run.args, run.tokenizer, run.pad_token_id, ("dev",))["dev"]
    found = {name: calibrate(run, rows) for name, rows in data.items()}
    print(format_report(found))
    known |= {name: values["temperature"] for name, values in found.items()}
    if workers.is_main():
        write_temperatures(run.directory, known, run.best, report | found)
    print(f"written to {run.directory / NAME}")


def known_calibration(run: Run) -> tuple[dict[str, float], dict]:
    """Return temperatures and measurements of an earlier calibration of the same checkpoint.

    This calibration replaces a damaged one, or one of another checkpoint.
    """
    with suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = read_temperatures(run.directory, run.tasks, run.best)
        if known:
            return known, dict(read_json(run.directory / NAME)["dev"])
    return {}, {}


def calibrate(run: Run, rows: Rows) -> dict:
    """Return the temperature of one task on all of dev, and its measurements on a half of it.

    Args:
        run: its model predicts.
        rows: dev of the task; at least two.

    Raises:
        InputError: there are fewer rows.
    """
    labels, size = rows.labels, len(rows)
    assert labels is not None, "dev rows have labels"
    if size < 2:
        raise InputError(f"--calibrate: {rows.task.name} has {size} dev rows, expected at least 2")
    name = f"dev {rows.task.name}"
    logits = predict_logits(run.model, rows, use_amp=run.args.use_amp, name=name)
    logits = class_logits(rows.task, logits)
    is_fitted = np.zeros(size, dtype=bool)  # the half on which a temperature is fitted
    is_fitted[rows.sample_rows(size // 2, run.args.seed)] = True
    half = fit_temperature(logits[is_fitted], labels[is_fitted])
    result: dict = {"temperature": fit_temperature(logits, labels), "num_rows": size}
    if not 5 * LOWEST < result["temperature"] < HIGHEST / 2:
        warnings.warn(
            f"{rows.task.name}: the temperature is {result['temperature']:.3g}, at an end of "
            f"[{LOWEST:g}, {HIGHEST:g}]: on these {size} rows the model is always right, or no "
            "better than chance",
            stacklevel=2,
        )
    held_out = logits[~is_fitted], labels[~is_fitted]
    result["held_out"] = {"temperature": half, "num_rows": len(held_out[1])}
    for measure, function in MEASURES.items():
        change = {"before": function(*held_out), "after": function(*held_out, half)}
        result["held_out"][measure] = change
    return result


def format_report(found: dict[str, dict]) -> str:
    """Return a table with one line per task: the temperature, and what it does to held-out rows."""
    width = max(6, *(len(name) + 2 for name in found))
    lines = [
        f"{'':<{width}}{'all of dev':<25}the half of dev that the temperature was not fitted on",
        f"{'task':<{width}}{'rows':<10}{'temperature':<15}{'rows':<10}"
        f"{'log-likelihood':<24}calibration error",
    ]
    for name, values in found.items():
        held_out = values["held_out"]
        nll, ece = held_out["nll"], held_out["ece"]
        likelihood = f"{-nll['before']:.4f} -> {-nll['after']:.4f}"
        lines.append(
            f"{name:<{width}}{values['num_rows']:<10}{values['temperature']:<15.4f}"
            f"{held_out['num_rows']:<10}{likelihood:<24}"
            f"{ece['before']:.4f} -> {ece['after']:.4f}"
        )
    return "\n".join(lines)
