"""The tasks: where their rows live, how a label is read, and what loss, prediction and metric mean.

Adding a task is one more `Task` in `TASKS` and its three files; loaders, heads, metrics, logs,
prediction files, command line choices and tests iterate over `TASKS`. No other file knows a task's
name.

Axis letters: B batch, N examples, C outputs.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.metrics import confusion_matrix, f1_score
from torch import Tensor

Metric = Callable[[np.ndarray, np.ndarray], float]  # (predictions [N], labels [N])
Metrics = dict[str, dict[str, float]]  # task name -> metric name -> value
Batch = dict[str, Tensor]  # what `inputs.batches` describes


@dataclass(frozen=True)
class Example:
    """One row of a data file.

    Attributes:
        id: opaque text.
        texts: one or two sentences.
        label: None where the file has no label column.
    """

    id: str
    texts: tuple[str, ...]
    label: int | float | None


def num_examples(batch: Batch) -> int:
    """Return the number of examples of a batch, all workers' together."""
    return len(batch.get("is_own", batch["labels"]))


def own_rows(tensor: Tensor, is_own: Tensor) -> Tensor:
    """Return one worker's rows of a whole batch.

    Args:
        tensor: [k·B, ...], the k sequences of B rows: all first ones, then all second ones.
        is_own: [B] bool.
    """
    return tensor.unflatten(0, (-1, len(is_own)))[:, is_own].flatten(0, 1)


def check_shapes(logits: Tensor, labels: Tensor, num_outputs: int) -> None:
    """A [B, 1] against [B] would broadcast to [B, B] without a word."""
    expected = (labels.shape[0], num_outputs)
    assert labels.ndim == 1 and logits.shape == expected, f"{logits.shape=} for {labels.shape=}"


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy of logits [B, C] and class labels [B].

    weights: of the classes [C]. The mean is over examples, not over weights, so that parts of a
    batch add up to it.
    """
    check_shapes(logits, labels, logits.shape[-1])
    if weights is None:
        return F.cross_entropy(logits, labels)
    losses = F.cross_entropy(logits, labels, reduction="none")  # [B]
    return (weights.to(losses)[labels] * losses).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross entropy of one logit [B, 1] and labels 0/1 [B]."""
    check_shapes(logits, labels, 1)
    return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of one output [B, 1] and scores [B]."""
    check_shapes(logits, labels, 1)
    return F.mse_loss(logits[:, 0], labels.to(logits.dtype))


def check_pair(logits: Tensor, others: Tensor, num_outputs: int) -> None:
    """As `check_shapes`: a [B, 1] against [B] is a [B, B] divergence of all with all."""
    expected = (len(logits), num_outputs)
    assert logits.shape == others.shape == expected, f"{logits.shape=} for {others.shape=}"


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Σ (p − q)(log p − log q) over the classes, for two sets of logits [B, C] -> [B]."""
    check_pair(logits, others, logits.shape[-1])
    log_p, log_q = logits.log_softmax(1), others.log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


def bernoulli_symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """`symmetric_kl` of the Bernoulli distributions of one logit, [B, 1] twice -> [B]."""
    check_pair(logits, others, 1)
    return ((logits.sigmoid() - others.sigmoid()) * (logits - others))[:, 0]


def squared_difference(logits: Tensor, others: Tensor) -> Tensor:
    """Squared difference of two outputs [B, 1] -> [B]."""
    check_pair(logits, others, 1)
    return (logits - others).square()[:, 0]


def decode_class(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=1)


def decode_binary(logits: np.ndarray) -> np.ndarray:
    return (logits[:, 0] > 0).astype(np.int64)


def decode_score(logits: np.ndarray) -> np.ndarray:
    # Rounded here, so that metrics are computed on the very numbers the prediction file holds.
    return logits[:, 0].astype(np.float64).clip(0, 5).round(6)


def class_probability(logits: np.ndarray) -> np.ndarray:
    """Softmax probability [N] of the predicted class."""
    return torch.from_numpy(logits).softmax(dim=1).amax(dim=1).numpy()


def positive_probability(logits: np.ndarray) -> np.ndarray:
    """Sigmoid probability [N] of label 1."""
    return torch.from_numpy(logits).sigmoid()[:, 0].numpy()


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float((predictions == labels).mean())


def binary_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(labels, predictions, zero_division=0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson r; nan, with a warning, where predictions or labels are constant."""
    return correlation(stats.pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman rho; nan, with a warning, where predictions or labels are constant."""
    return correlation(stats.spearmanr, predictions, labels)


def correlation(statistic: Callable, predictions: np.ndarray, labels: np.ndarray) -> float:
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
    """One task. Its files are `<stem>-{train,dev,test-student}.csv`.

    label_type: int or float; labels outside `label_range` (both ends included) are errors.
    num_outputs: C. loss: (logits [B, C], labels [B]) -> mean loss []. divergence: (logits [B, C],
    other logits [B, C]) -> how far apart each example's outputs are [B]; symmetric. decode: logits
    [N, C] -> predictions [N], as in the prediction file. probability: logits [N, C] -> [N], or None
    where the prediction is a score itself. metric: what the task is judged by, higher is better;
    other_metrics are reported beside it. heads: pair encoding -> key of `models.heads.HEADS`.
    aliases: other prefixes of its file flags. takes_added_layers: --add_layers applies.
    class_names: for the confusion matrix, None without one.
    """

    name: str
    stem: str
    text_columns: tuple[str, ...]
    label_column: str
    label_type: type
    label_range: tuple[int, int]
    prediction_column: str
    num_outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
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
        return len(self.text_columns) == 2

    @property
    def label_expected(self) -> str:
        """The allowed labels in words, for error messages."""
        low, high = self.label_range
        kind = "an integer" if self.label_type is int else "a number"
        return f"{kind} in [{low}, {high}]"

    def parse_label(self, text: str) -> int | float:
        """Read a label; an integer may be written 1 or 1.0. Raises ValueError for anything else."""
        value = float(text)
        low, high = self.label_range
        is_allowed = low <= value <= high and "_" not in text  # Python reads 0_4 as 4
        if not is_allowed or (self.label_type is int and value != int(value)):
            raise ValueError(f"{text!r} is not {self.label_expected}")
        return self.label_type(value)

    def baseline(self, train_labels: np.ndarray, num_predictions: int) -> np.ndarray:
        """Predict the training set's majority class, or its mean, for every one of [N] examples."""
        if self.label_type is int:
            values, counts = np.unique(train_labels, return_counts=True)
            return np.full(num_predictions, values[counts.argmax()])
        return np.full(num_predictions, train_labels.mean())

    def evaluate(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The task's metric first, then the others, by name."""
        metrics = {self.metric_name: self.metric} | self.other_metrics
        return {name: metric(predictions, labels) for name, metric in metrics.items()}

    def weighing_classes(self, train_labels: np.ndarray) -> "Task":
        """The same task, its classes weighed N / (C · n_c): each counts alike in the loss.

        Itself, if it has no named classes.
        """
        if self.class_names is None:
            return self
        counts = np.bincount(train_labels, minlength=self.num_outputs)
        weights = len(train_labels) / (self.num_outputs * counts.clip(min=1))
        return replace(self, loss=partial(self.loss, weights=torch.from_numpy(weights)))

    def confusion(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """Counts [C, C], true class by row, predicted by column; None without class names."""
        if self.class_names is None:
            return None
        return confusion_matrix(labels, predictions, labels=range(len(self.class_names)))


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
    """Mean of the tasks' metrics, a nan counted as 0: what picks the best checkpoint."""
    return sum(0.0 if math.isnan(score) else score for score in scores.values()) / len(scores)


def scores(metrics: Metrics) -> dict[str, float]:
    """Return each task's own metric, the one it is judged by."""
    return {name: values[TASKS[name].metric_name] for name, values in metrics.items()}
