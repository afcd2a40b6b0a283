"""What tasks are judged by: (predictions, labels) -> a number, of which more is better.

Predictions and labels are [N]; for tasks with several labels per example, [N, C] of 0 and 1.

SciPy and scikit-learn are imported in the functions; see `tasks` for why.
"""

import math
import random
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]
Metrics = dict[str, dict[str, float]]  # task name -> metric name -> value, the deciding one first


@cache
def sklearn_metrics() -> ModuleType:
    """Import sklearn.metrics, and leave Python's random generator as it was.

    A library that it imports draws from the generator. So a resumed process would end with another
    state of it than one that was never stopped.
    """
    state = random.getstate()
    module = import_module("sklearn.metrics")
    random.setstate(state)
    return module


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of predictions that equal their label; of several labels, all of them."""
    is_right = predictions == labels  # [N] or [N, C]
    return float(is_right.all(axis=tuple(range(1, is_right.ndim))).mean())


def binary_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 score of label 1; 0 if it is neither predicted nor present."""
    return float(sklearn_metrics().f1_score(labels, predictions, zero_division=0))


def micro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 score of all labels [N, C] together; 0 if none is predicted or present."""
    return float(sklearn_metrics().f1_score(labels, predictions, average="micro", zero_division=0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the F1 scores of all classes that are predicted or present.

    Of labels [N, C], it is the mean over all C classes.
    """
    return float(sklearn_metrics().f1_score(labels, predictions, average="macro", zero_division=0))


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Matthews' correlation coefficient; 0 if predictions or labels are constant."""
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(sklearn_metrics().matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Pearson's r; nan, with a warning, if predictions or labels are constant."""
    from scipy import stats

    return correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's rho; nan, with a warning, if predictions or labels are constant."""
    from scipy import stats

    return correlation(stats.spearmanr, predictions, labels)


def correlation(statistic: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return a correlation coefficient of SciPy; nan, with a warning, if it is undefined."""
    if len(labels) < 2 or np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        warnings.warn(
            f"{statistic.__name__} is undefined for {len(labels)} constant predictions or labels; "
            "shown as nan, counted as 0",
            stacklevel=3,
        )
        return math.nan
    return float(statistic(predictions, labels).statistic)


def mean_score(scores: dict[str, float]) -> float:
    """Return the mean of the tasks' metrics, nan counted as 0: it decides which epoch is best."""
    return sum(0.0 if math.isnan(score) else score for score in scores.values()) / len(scores)


def scores(metrics: Metrics) -> dict[str, float]:
    """Return the metric that each task is judged by: its first one."""
    return {name: next(iter(values.values())) for name, values in metrics.items()}
