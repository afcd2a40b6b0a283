"""The tasks: the files, labels, loss, predictions and metrics of each.

To add a task, add a `Task` to `TASKS` and its three files to the data directory.

Every command line needs the names of the tasks, and `--help` shall not wait for torch, SciPy or
scikit-learn. So they are imported in the functions that compute with them.

Axis letters: B batch, N examples, C outputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from runtime.numbers import is_plain_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPLITS = {"train": "train", "dev": "dev", "test": "test-student"}  # split -> end of its file name

Metric = Callable[[np.ndarray, np.ndarray], float]  # (predictions [N], labels [N])
Metrics = dict[str, dict[str, float]]  # task name -> metric name -> value
Batch = dict[str, "Tensor"]  # described in `inputs.batches`


@dataclass(frozen=True)
class Example:
    """One row of a data file.

    Attributes:
        id: any text. Ids need not be unique.
        texts: one sentence, or two.
        label: the label, or None if the file has no label column.
    """

    id: str
    texts: tuple[str, ...]
    label: int | float | None


def num_examples(batch: Batch) -> int:
    """Return the number of examples of a batch, those of all workers together."""
    return len(batch.get("is_own", batch["labels"]))


def own_rows(tensor: Tensor, is_own: Tensor) -> Tensor:
    """Select one worker's rows of a whole batch.

    Args:
        tensor: [S · B, ...], where a row has S sequences: all first ones, then all second ones.
        is_own: [B] bool, True at the rows to select.
    """
    return tensor.unflatten(0, (-1, len(is_own)))[:, is_own].flatten(0, 1)


def check_shapes(logits: Tensor, labels: Tensor, num_outputs: int) -> None:
    """Assert that logits are [B, num_outputs] for labels [B].

    Without this check, logits [B, 1] and labels [B] would silently broadcast to [B, B].
    """
    expected = (labels.shape[0], num_outputs)
    assert labels.ndim == 1 and logits.shape == expected, f"{logits.shape=} for {labels.shape=}"


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy [] of logits [B, C] and class labels [B].

    The losses are multiplied by the weights [C] of their classes and averaged over examples, not as
    in PyTorch over weights, so that the parts of a batch add up to the whole.
    """
    import torch.nn.functional as F

    check_shapes(logits, labels, logits.shape[-1])
    if weights is None:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits, labels, reduction="none")  # [B]
    return (class_weights(weights, losses.device)[labels] * losses).mean()


@cache
def class_weights(weights: Tensor, device: "torch.device") -> Tensor:
    """Return weights as float32 on a device; they are moved there once."""
    return weights.to(device).float()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean binary cross entropy [] of one logit [B, 1] and labels [B], 0 or 1."""
    import torch.nn.functional as F

    check_shapes(logits, labels, 1)
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared error [] of one output [B, 1] and scores [B]."""
    import torch.nn.functional as F

    check_shapes(logits, labels, 1)
    return F.mse_loss(logits[:, 0], labels.to(logits.dtype))


def check_pair(logits: Tensor, others: Tensor, num_outputs: int) -> None:
    """Assert that both are [B, num_outputs]; see `check_shapes`."""
    expected = (len(logits), num_outputs)
    assert logits.shape == others.shape == expected, f"{logits.shape=} for {others.shape=}"


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Return Σ (p − q)(log p − log q) over the classes, [B], of two sets of logits [B, C]."""
    check_pair(logits, others, logits.shape[-1])
    log_p, log_q = logits.log_softmax(1), others.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


def bernoulli_symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Return `symmetric_kl` [B] of the Bernoulli distributions of two sets of logits [B, 1]."""
    check_pair(logits, others, 1)
    return ((logits.sigmoid() - others.sigmoid()) * (logits - others))[:, 0]


def squared_difference(logits: Tensor, others: Tensor) -> Tensor:
    """Return the squared difference [B] of two sets of outputs [B, 1]."""
    check_pair(logits, others, 1)
    return (logits - others).square()[:, 0]


def decode_class(logits: np.ndarray) -> np.ndarray:
    """Return the class [N] with the largest of C logits [N, C]."""
    return logits.argmax(axis=1)


def decode_binary(logits: np.ndarray) -> np.ndarray:
    """Return 1 where the logit [N, 1] is above 0, else 0: [N] int64."""
    return (logits[:, 0] > 0).astype(np.int64)


def decode_score(logits: np.ndarray) -> np.ndarray:
    """Return the outputs [N, 1] as scores [N] float64, clipped to [0, 5].

    Scores are rounded as in the prediction file, so that metrics can be recomputed from it.
    """
    return logits[:, 0].astype(np.float64).clip(0, 5).round(6)


def class_probability(logits: np.ndarray) -> np.ndarray:
    """Return the softmax probability [N] of the predicted class."""
    import torch

    return torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()


def positive_probability(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid probability [N] of label 1."""
    import torch

    return torch.from_numpy(logits).sigmoid()[:, 0].numpy()


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of predictions that equal their label."""
    return float((predictions == labels).mean())


def binary_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 score of label 1; 0 if it is neither predicted nor present."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the F1 scores of all classes that are predicted or present."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


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


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        stem: its files are `<stem>-{train,dev,test-student}.csv`.
        text_columns: one or two columns with sentences.
        label_range: the lowest and the highest label that are allowed.
        prediction_column: header of the predictions in the prediction files.
        num_outputs: C.
        loss: (logits [B, C], labels [B]) -> mean loss []. A task with class names needs one that
            takes `weights` too, as `cross_entropy` does.
        divergence: (logits [B, C], other logits [B, C]) -> how far apart the outputs of each
            example are [B]. It is symmetric.
        decode: logits [N, C] -> predictions [N], as in the prediction file.
        probability: logits [N, C] -> probability [N] of the prediction or of label 1. None if the
            prediction is a score.
        metric: what the task is judged by; higher is better.
        other_metrics: name -> metric that is reported beside it.
        heads: pair encoding -> key of `models.heads.HEADS`.
        aliases: other prefixes of its file flags.
        takes_added_layers: whether --add_layers applies to its head.
        class_names: names of labels 0, 1, …; None for a task without a confusion matrix.
    """

    name: str
    stem: str
    text_columns: tuple[str, ...]
    label_column: str
    label_type: type[int] | type[float]
    label_range: tuple[int, int]
    prediction_column: str
    num_outputs: int
    loss: Callable[..., Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[np.ndarray], np.ndarray]
    probability: Callable[[np.ndarray], np.ndarray] | None
    metric_name: str
    metric: Metric
    other_metrics: dict[str, Metric]
    heads: dict[str, str]
    aliases: tuple[str, ...] = ()
    takes_added_layers: bool = False
    class_names: tuple[str, ...] | None = None

    @property
    def is_pair(self) -> bool:
        """Whether an example has two sentences."""
        return len(self.text_columns) == 2

    @property
    def label_expected(self) -> str:
        """The allowed labels in words, for error messages."""
        low, high = self.label_range
        kind = "an integer" if self.label_type is int else "a number"
        return f"{kind} in [{low}, {high}]"

    def parse_label(self, text: str) -> int | float:
        """Read a label; an integer may be written 1 or 1.0. Raises ValueError for anything else."""
        low, high = self.label_range
        value = float(text) if is_plain_number(text.strip()) else math.nan
        if not low <= value <= high or (self.label_type is int and value != int(value)):
            raise ValueError(f"{text!r} is not {self.label_expected}")
        return self.label_type(value)

    def baseline(self, train_labels: np.ndarray, num_predictions: int) -> np.ndarray:
        """Predict the training set's most frequent label, or its mean label, for N examples."""
        if self.label_type is int:
            values, counts = np.unique(train_labels, return_counts=True)
            return np.full(num_predictions, values[counts.argmax()])
        return np.full(num_predictions, train_labels.mean())

    def evaluate(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return all metrics by name, the task's own metric first."""
        metrics = {self.metric_name: self.metric} | self.other_metrics
        return {name: metric(predictions, labels) for name, metric in metrics.items()}

    def weighing_classes(self, train_labels: np.ndarray) -> Task:
        """Return a copy of the task whose loss gives the same total weight to every class.

        The weight of class c is N / (C · n_c), where n_c of the N training labels are c. A task
        without named classes is returned as it is.
        """
        import torch

        if self.class_names is None:
            return self
        counts = np.bincount(train_labels, minlength=self.num_outputs)
        weights = len(train_labels) / (self.num_outputs * counts.clip(min=1))
        return replace(self, loss=partial(self.loss, weights=torch.from_numpy(weights)))

    def confusion(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Count examples by true class (rows) and predicted class (columns): [C, C]."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(labels, predictions, labels=range(self.num_outputs))


TASKS: dict[str, Task] = {
    "sst": Task(
        name="sst",
        stem="sst-sentiment",
        text_columns=("sentence",),
        label_column="sentiment",
        label_type=int,
        label_range=(0, 4),
        prediction_column="Predicted_Sentiment",
        num_outputs=5,
        loss=cross_entropy,
        divergence=symmetric_kl,
        decode=decode_class,
        probability=class_probability,
        metric_name="accuracy",
        metric=accuracy,
        other_metrics={"macro_f1": macro_f1},
        heads={"cross": "classify", "bi": "classify"},
        takes_added_layers=True,
        class_names=("very negative", "negative", "neutral", "positive", "very positive"),
    ),
    "para": Task(
        name="para",
        stem="quora-paraphrase",
        text_columns=("sentence1", "sentence2"),
        label_column="is_duplicate",
        label_type=int,
        label_range=(0, 1),
        prediction_column="Predicted_Is_Paraphrase",
        num_outputs=1,
        loss=binary_cross_entropy,
        divergence=bernoulli_symmetric_kl,
        decode=decode_binary,
        probability=positive_probability,
        metric_name="accuracy",
        metric=accuracy,
        other_metrics={"f1": binary_f1},
        heads={"cross": "classify", "bi": "pair"},
        aliases=("quora",),
    ),
    "sts": Task(
        name="sts",
        stem="sts-similarity",
        text_columns=("sentence1", "sentence2"),
        label_column="similarity",
        label_type=float,
        label_range=(0, 5),
        prediction_column="Predicted_Similarity",
        num_outputs=1,
        loss=mean_squared_error,
        divergence=squared_difference,
        decode=decode_score,
        probability=None,
        metric_name="pearson",
        metric=pearson,
        other_metrics={"spearman": spearman},
        heads={"cross": "classify", "bi": "cosine"},
    ),
}


def mean_score(scores: dict[str, float]) -> float:
    """Return the mean of the tasks' metrics, nan counted as 0: it decides which epoch is best."""
    return sum(0.0 if math.isnan(score) else score for score in scores.values()) / len(scores)


def scores(metrics: Metrics) -> dict[str, float]:
    """Return the metric that each task is judged by."""
    return {name: values[TASKS[name].metric_name] for name, values in metrics.items()}
