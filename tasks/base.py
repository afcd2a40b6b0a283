"""A task as its table describes it, and an example of it. The kinds of task are in `tasks.kinds`.

Axis letters: B batch, N examples, C outputs, or classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from runtime.errors import shorten
from runtime.numbers import is_plain_number
from tasks.metrics import Metric, sklearn_metrics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_CONFUSION_CLASSES = 200  # of a matrix with as many cells as its square
SPLITS = {"train": "train", "dev": "dev", "test": "test-student"}  # split -> end of its file name

Label = int | float | tuple[int, ...]
Batch = dict[str, "Tensor"]  # described in `inputs.batches`


@dataclass(frozen=True)
class Example:
    """One row of a data file.

    Attributes:
        id: any text. Ids need not be unique.
        texts: one sentence, or two.
        label: the label, C numbers 0 or 1 for a multilabel task, or None if the file has no label
            column.
    """

    id: str
    texts: tuple[str, ...]
    label: Label | None


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


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device, but for its lengths, without waiting for the copies."""
    moved = {key: x.to(device, non_blocking=True) for key, x in batch.items() if key != "lengths"}
    return moved | {key: batch[key] for key in batch.keys() & {"lengths"}}


@dataclass(frozen=True)
class Task:
    """One task, as a table describes it. What follows from its kind stands in the subclasses.

    Attributes:
        name: in flags, logs and tables.
        stem: its files are `<stem>-{train,dev,test-student}.csv`.
        text_columns: one or two columns with sentences.
        label_column: the column of the labels.
        prediction_column: header of the predictions in the prediction files.
        metric_name: what the task is judged by, one of `judges`.
        label_range: the lowest and the highest label; of classes, their numbers.
        class_names: names of labels 0, 1, …; None for a task without names.
        is_ordered: whether swapping the two sentences of a pair may change its label.
        aliases: other prefixes of its file flags.
        number: its place in its table, from 0. The order of its training rows is seeded by it.
        class_weights: of the loss, by class; None for equal ones.

    Class attributes:
        label_type: of a label in Python.
        reported: name -> metric that is always reported.
        extra: name -> metric that is reported only for a task that is judged by it.
        pair_head: key of `models.heads.HEADS`, for two sentence vectors.
        takes_added_layers: whether --add_layers applies to its head.
    """

    name: str
    stem: str
    text_columns: tuple[str, ...]
    label_column: str
    prediction_column: str
    metric_name: str
    label_range: tuple[float, float]
    class_names: tuple[str, ...] | None = None
    is_ordered: bool = False
    aliases: tuple[str, ...] = ()
    number: int = 0
    class_weights: tuple[float, ...] | None = None

    label_type: ClassVar[type] = int
    reported: ClassVar[dict[str, Metric]]
    extra: ClassVar[dict[str, Metric]] = {}
    pair_head: ClassVar[str] = "pair"
    takes_added_layers: ClassVar[bool] = False

    @property
    def num_outputs(self) -> int:
        """C, the outputs of the head."""
        return 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss [] of logits [B, C] and labels [B], [B, C] if there are several."""
        raise NotImplementedError

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return how far apart two outputs [B, C] of each example are, [B]. It is symmetric."""
        raise NotImplementedError

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return the predictions [N] of logits [N, C]; [N, C] if there are several per example."""
        raise NotImplementedError

    def probabilities(self, logits: np.ndarray) -> np.ndarray | None:
        """Return the probability of each class [N, number of classes]; None of a score."""
        raise NotImplementedError

    def probability(self, logits: np.ndarray) -> np.ndarray | None:
        """Return the probability [N] of the predicted value; None of a score."""
        found = self.probabilities(logits)
        return None if found is None else found.max(axis=1)

    def average(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits [N, C] of the mean of several models' probabilities, or scores.

        Args:
            outputs: the logits [N, C] of each model.
        """
        raise NotImplementedError

    def baseline(self, train_labels: np.ndarray, num_predictions: int) -> np.ndarray:
        """Predict what is most frequent in the training set, or its mean, for N examples."""
        values, counts = np.unique(train_labels, return_counts=True)
        return np.full(num_predictions, values[counts.argmax()])

    @property
    def is_pair(self) -> bool:
        """Whether an example has two sentences."""
        return len(self.text_columns) == 2

    @property
    def is_unordered_pair(self) -> bool:
        """Whether an example has two sentences, and swapping them does not change its label."""
        return self.is_pair and not self.is_ordered

    @property
    def has_classes(self) -> bool:
        """Whether a label is one of several classes."""
        return self.label_type is int

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return int(self.label_range[1]) + 1

    @property
    def label_dtype(self) -> type[np.generic]:
        """The type of labels in an array."""
        return np.float32 if self.label_type is float else np.int64

    @property
    def heads(self) -> dict[str, str]:
        """Pair encoding -> key of `models.heads.HEADS`."""
        return {"cross": "classify", "bi": self.pair_head if self.is_pair else "classify"}

    @property
    def label_expected(self) -> str:
        """The allowed labels in words, for error messages."""
        low, high = self.label_range
        kind = "a number" if self.label_type is float else "an integer"
        number = "" if self.has_numeric_names else f"{kind} in [{low}, {high}]"
        if self.class_names is None:
            return number
        names = ", ".join(self.class_names[:20]) + ", …" * (len(self.class_names) > 20)
        return f"{number} or a class of task {self.name!r}: {names}".removeprefix(" or ")

    @property
    def has_numeric_names(self) -> bool:
        """Whether a class has a number for a name: in files, a number is a name then."""
        return any(is_plain_number(name) for name in self.class_names or ())

    def parse_label(self, text: str) -> Any:
        """Read the class in a cell: its name, or its number, written 1 or 1.0.

        Raises:
            ValueError: it is anything else.
        """
        cell = text.strip()
        if self.class_names is not None and cell in self.class_names:
            return self.class_names.index(cell)
        value = float(cell) if is_plain_number(cell) and not self.has_numeric_names else math.nan
        if not 0 <= value < self.num_classes or value != int(value):
            raise ValueError(f"{shorten(text)} is not {self.label_expected}")
        return int(value)

    def class_label(self, number: int) -> str:
        """Return what stands for a class: its name if it has one, else its number."""
        return str(number) if self.class_names is None else self.class_names[number]

    def written(self, predictions: np.ndarray) -> list:
        """Return the cells of predictions in a prediction file, one for each of N examples.

        A class is written as its number, or as its name where names are numbers.
        """
        cells: list = predictions.tolist()
        return [self.class_label(cell) for cell in cells] if self.has_numeric_names else cells

    def evaluate(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return all metrics by name, the one that the task is judged by first."""
        metrics = {self.metric_name: self.metric} | self.other_metrics
        return {name: metric(predictions, labels) for name, metric in metrics.items()}

    @property
    def metric(self) -> Metric:
        """What the task is judged by."""
        return self.judges()[self.metric_name]

    @property
    def other_metrics(self) -> dict[str, Metric]:
        """What is reported beside it, by name."""
        return {name: m for name, m in self.reported.items() if name != self.metric_name}

    @classmethod
    def judges(cls) -> dict[str, Metric]:
        """Return the metrics that a task of this kind may be judged by."""
        return cls.reported | cls.extra

    def weighing_classes(self, train_labels: np.ndarray) -> Task:
        """Return a copy of the task whose loss gives the same total weight to every class.

        The weight of class c is N / (C · n_c), where n_c of the N training labels are c. A task
        without named classes is returned as it is.
        """
        if not self.has_named_classes:
            return self
        counts = np.bincount(train_labels, minlength=self.num_classes)
        weights = len(train_labels) / (self.num_classes * counts.clip(min=1))
        return replace(self, class_weights=tuple(weights.tolist()))

    @property
    def has_named_classes(self) -> bool:
        """Whether it has what --class_weights and a confusion matrix need."""
        return self.has_classes and self.class_names is not None

    @property
    def has_confusion(self) -> bool:
        """Whether it has named classes, and not too many for a matrix that somebody reads."""
        return self.has_named_classes and self.num_classes <= MAX_CONFUSION_CLASSES

    def confusion(self, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Count examples by true class (rows) and predicted class (columns): [C, C]."""
        classes = range(self.num_classes)
        counts: np.ndarray = sklearn_metrics().confusion_matrix(labels, predictions, labels=classes)
        return counts


Update = list[tuple[Task, Batch, float]]  # of one update of the weights: tasks, batches, weights
