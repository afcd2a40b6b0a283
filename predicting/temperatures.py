"""Temperature scaling (Guo et al., 2017, arXiv:1706.04599): probabilities that fit how often a task
is right.

The logits of a task are divided by one number, its temperature, before they become probabilities.
Above 1, it makes a model less sure of itself; what is predicted never changes. The temperature is
the one with the largest likelihood of dev labels. calibration.json in the run's directory keeps it.

Axis letters: N examples, C classes.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.files import read_json, write_json
from runtime.saved_values import check_keys, check_like, check_number, shown
from tasks import Task

NAME = "calibration.json"
LOWEST, HIGHEST = 0.01, 100.0  # of a temperature
NUM_BINS = 15  # of the expected calibration error, as in the paper


def class_logits(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return the logits [N, C] of all classes in float64; for a binary task, those of 0 and 1."""
    logits = logits.astype(np.float64)
    if task.num_outputs == 1:  # sigmoid(x) is the softmax of 0 and x
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return logits


def log_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return log softmax(logits / temperature), [N, C]."""
    from scipy.special import log_softmax

    found: np.ndarray = log_softmax(logits / temperature, axis=1)
    return found


def negative_log_likelihood(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> float:
    """Return the mean negative log-likelihood of labels [N] under logits [N, C]."""
    picked = log_probabilities(logits, temperature)[np.arange(len(labels)), labels]  # [N]
    return float(-picked.mean())


def expected_calibration_error(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width.

    Each bin counts as often as it has examples. The confidence of an example is the probability of
    its predicted class.
    """
    probabilities = np.exp(log_probabilities(logits, temperature))
    confidences = probabilities.max(axis=1)
    is_right = logits.argmax(axis=1) == labels
    # Bin b holds the confidences in (b / NUM_BINS, (b + 1) / NUM_BINS].
    bins = np.ceil(confidences * NUM_BINS).astype(np.int64).clip(1, NUM_BINS) - 1  # [N]
    gaps = np.bincount(bins, weights=confidences - is_right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature in [LOWEST, HIGHEST] with the lowest negative log-likelihood.

    The loss is convex in 1 / temperature, and so has a single minimum in its logarithm.

    Args:
        logits: [N, C], of at least one example.
        labels: [N], the class of each.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda exponent: negative_log_likelihood(logits, labels, float(np.exp(exponent))),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(found.x).clip(LOWEST, HIGHEST))
    is_better = found.fun < negative_log_likelihood(logits, labels)
    return temperature if is_better else 1.0  # logits that are all equal have no best one


def write_temperatures(
    directory: Path, temperatures: dict[str, float], best: dict[str, Any], report: dict[str, Any]
) -> None:
    """Write calibration.json.

    Args:
        directory: of the run.
        temperatures: by task.
        best: the checkpoint that they belong to, as `Run.best` names it.
        report: what was measured on dev, by task.
    """
    content = {"temperatures": temperatures, "checkpoint": best, "dev": report}
    write_json(directory / NAME, content)


def read_temperatures(
    directory: Path, tasks: dict[str, Task], best: dict[str, Any]
) -> dict[str, float]:
    """Return the temperatures of a run; none if it has not been calibrated.

    Warns and returns none if they belong to another checkpoint than the run's best one.

    Args:
        directory: of the run.
        tasks: the run's tasks by name.
        best: the checkpoint, as `Run.best` names it.

    Raises:
        InputError: calibration.json cannot be read, or a value in it is not allowed.
    """
    path = directory / NAME
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        check_keys(content, {"temperatures": {}, "checkpoint": {}, "dev": {}})
        temperatures, owner = content["temperatures"], content["checkpoint"]
        check_keys(owner, best, "checkpoint")
        if not isinstance(content["dev"], dict):
            raise ValueError(f"dev is {shown(content['dev'])}, expected an object")
        check_like(temperatures, {name: 1.0 for name in temperatures}, "temperatures")
        for name, value in temperatures.items():
            if name not in tasks or not tasks[name].has_classes:
                raise ValueError(f"temperatures.{name} is of no task with classes in this run")
            check_number(float(value), LOWEST, HIGHEST, f"temperatures.{name}", float)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: {error}; remove the file, or write it again with --calibrate"
        ) from None
    if owner != best:
        warnings.warn(
            f"{path}: is of another checkpoint than best.pt, so probabilities are not calibrated; "
            "fit it again with --calibrate",
            stacklevel=2,
        )
        return {}
    return {name: float(value) for name, value in temperatures.items()}
