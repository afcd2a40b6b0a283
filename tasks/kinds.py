"""The kinds of task: outputs, loss, divergence, predictions, probabilities, metrics, heads.

Axis letters: B batch, N examples, C outputs, or classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import shorten
from runtime.numbers import is_plain_number
from tasks.base import Task
from tasks.metrics import accuracy, binary_f1, macro_f1, matthews, micro_f1, pearson, spearman

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def check_shapes(logits: Tensor, labels: Tensor, num_outputs: int) -> None:
    """Assert that logits are [B, num_outputs] for labels [B].

    Without this check, logits [B, 1] and labels [B] would silently broadcast to [B, B].
    """
    expected = (labels.shape[0], num_outputs)
    assert labels.ndim == 1 and logits.shape == expected, f"{logits.shape=} for {labels.shape=}"


def check_pair(logits: Tensor, others: Tensor, num_outputs: int) -> None:
    """Assert that both are [B, num_outputs]; see `check_shapes`."""
    expected = (len(logits), num_outputs)
    assert logits.shape == others.shape == expected, f"{logits.shape=} for {others.shape=}"


def weighted_mean(losses: Tensor, labels: Tensor, class_weights: tuple[float, ...]) -> Tensor:
    """Return the mean [] of losses [B], each multiplied by the weight of its class.

    It is a mean over examples, not over weights as in PyTorch, so that the parts of a batch add up
    to the whole.
    """
    weights = weights_on(losses.device, losses.dtype, class_weights)
    return (weights[labels] * losses).mean()


@cache
def weights_on(
    device: torch.device, dtype: torch.dtype, class_weights: tuple[float, ...]
) -> Tensor:
    """Return class weights [C] on a device; they are moved there once."""
    import torch

    with torch.inference_mode(False):  # training may use them later
        return torch.tensor(class_weights, dtype=dtype, device=device)


def bernoulli_symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Return the symmetric KL divergence [B, C] of Bernoulli distributions with logits [B, C]."""
    return (logits.sigmoid() - others.sigmoid()) * (logits - others)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid of logits [N, C]."""
    import torch

    return torch.from_numpy(logits).sigmoid().numpy()


def log_mean(probabilities: list[np.ndarray]) -> np.ndarray:
    """Return the logarithm of the mean of several arrays, -inf of 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.mean(probabilities, axis=0))


def mean_bernoulli(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits [N, C] of the mean of the Bernoulli probabilities of logits [N, C]."""
    exact = [logits.astype(np.float64) for logits in outputs]
    return log_mean([sigmoid(x) for x in exact]) - log_mean([sigmoid(-x) for x in exact])


class Classification(Task):
    """One of C classes: softmax, cross entropy, symmetric KL divergence."""

    reported = {"accuracy": accuracy, "macro_f1": macro_f1}
    extra = {"matthews": matthews}
    takes_added_layers = True

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.num_classes

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy [] of logits [B, C] and class numbers [B]."""
        import torch.nn.functional as F

        check_shapes(logits, labels, self.num_outputs)
        if self.class_weights is None:
            return F.cross_entropy(logits, labels)
        losses = F.cross_entropy(logits, labels, reduction="none")  # [B]
        return weighted_mean(losses, labels, self.class_weights)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return Σ (p − q)(log p − log q) over the classes, [B]."""
        check_pair(logits, others, self.num_outputs)
        log_p, log_q = logits.log_softmax(1), others.log_softmax(1)
        return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return the class [N] with the largest logit."""
        return logits.argmax(axis=1)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the softmax [N, C]."""
        import torch

        return torch.from_numpy(logits).softmax(dim=1).numpy()

    def average(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logarithm of the mean softmax, [N, C]."""
        return log_mean([self.probabilities(logits.astype(np.float64)) for logits in outputs])


class Binary(Task):
    """Label 0 or 1 by one logit: binary cross entropy, Bernoulli's symmetric KL divergence."""

    reported = {"accuracy": accuracy, "f1": binary_f1}
    extra = {"macro_f1": macro_f1, "matthews": matthews}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross entropy [] of logits [B, 1] and labels [B], 0 or 1."""
        import torch.nn.functional as F

        check_shapes(logits, labels, 1)
        logits, targets = logits[:, 0], labels.to(logits.dtype)
        if self.class_weights is None:
            return F.binary_cross_entropy_with_logits(logits, targets)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # [B]
        return weighted_mean(losses, labels, self.class_weights)

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return `bernoulli_symmetric_kl` [B] of logits [B, 1]."""
        check_pair(logits, others, 1)
        return bernoulli_symmetric_kl(logits, others)[:, 0]

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return 1 where the logit [N, 1] is above 0, else 0: [N] int64."""
        return (logits[:, 0] > 0).astype(np.int64)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities of labels 0 and 1, [N, 2]."""
        return np.concatenate([sigmoid(-logits), sigmoid(logits)], axis=1)

    def average(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logit of the mean probability of label 1, [N, 1]."""
        return mean_bernoulli(outputs)


class Regression(Task):
    """A number in a range: mean squared error, squared difference."""

    label_type = float
    reported = {"pearson": pearson, "spearman": spearman}
    pair_head = "cosine"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error [] of outputs [B, 1] and numbers [B]."""
        import torch.nn.functional as F

        check_shapes(logits, labels, 1)
        return F.mse_loss(logits[:, 0], labels.to(logits.dtype))

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return the squared difference [B] of two outputs [B, 1]."""
        check_pair(logits, others, 1)
        return (logits - others).square()[:, 0]

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return the outputs [N, 1] as numbers [N] float64, clipped to the range of labels.

        They are rounded as in the prediction file, so that metrics can be recomputed from it: to
        six decimals, or to as many more as a range below 1 needs.
        """
        low, high = self.label_range
        decimals = 6 + min(max(0, math.ceil(-math.log10(high - low))), 290)  # 1e308 is the largest
        numbers = logits[:, 0].astype(np.float64).clip(low, high)
        return numbers.round(decimals).clip(low, high)  # rounding may leave the range

    def probabilities(self, logits: np.ndarray) -> None:
        """Return None: a number has no probability."""

    def average(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean of the predicted numbers, [N, 1]."""
        return np.mean([self.decode(logits) for logits in outputs], axis=0)[:, None]

    def baseline(self, train_labels: np.ndarray, num_predictions: int) -> np.ndarray:
        """Predict the mean label of the training set for N examples."""
        return np.full(num_predictions, train_labels.mean())

    def parse_label(self, text: str) -> float:
        """Read a number in the range. Raises ValueError for anything else."""
        low, high = self.label_range
        value = float(text) if is_plain_number(text.strip()) else math.nan
        if not low <= value <= high:
            raise ValueError(f"{shorten(text)} is not {self.label_expected}")
        return value


class Multilabel(Task):
    """Any of C classes per example: one sigmoid per class, the mean of binary cross entropies.

    In a file, the classes of an example are separated by commas; an empty cell has none of them.
    Labels and predictions are [N, C] of 0 and 1.
    """

    label_type = tuple
    reported = {"accuracy": accuracy, "f1": micro_f1, "macro_f1": macro_f1}
    takes_added_layers = True

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.num_classes

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross entropy [] of logits and labels, both [B, C]."""
        import torch.nn.functional as F

        check_pair(logits, labels, self.num_outputs)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))

    def divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        """Return the sum over classes of `bernoulli_symmetric_kl`, [B]."""
        check_pair(logits, others, self.num_outputs)
        return bernoulli_symmetric_kl(logits, others).sum(1)

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return 1 where the logit is above 0, else 0: [N, C] int64."""
        return (logits > 0).astype(np.int64)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability that an example has each class, [N, C]."""
        return sigmoid(logits)

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability [N] of exactly the predicted classes, taken as independent."""
        return sigmoid(np.abs(logits)).prod(axis=1)

    def average(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logit of the mean probability of each class, [N, C]."""
        return mean_bernoulli(outputs)

    def baseline(self, train_labels: np.ndarray, num_predictions: int) -> np.ndarray:
        """Predict the classes of more than half of the training examples, [N, C]."""
        is_frequent = train_labels.mean(axis=0) > 0.5
        return np.tile(is_frequent.astype(np.int64), (num_predictions, 1))

    @property
    def label_expected(self) -> str:
        """The allowed labels in words, for error messages."""
        return f"classes separated by commas, or nothing, each {super().label_expected}"

    def parse_label(self, text: str) -> tuple[int, ...]:
        """Read classes separated by commas. Raises ValueError if one is unknown or stands twice."""
        parts = text.split(",") if text.strip() else []
        numbers = [super(Multilabel, self).parse_label(part) for part in parts]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"{shorten(text)} names a class twice")
        return tuple(int(number in numbers) for number in range(self.num_classes))

    def written(self, predictions: np.ndarray) -> list:
        """Return the predicted classes of each example, separated by commas."""
        rows = [np.flatnonzero(row) for row in predictions]
        return [",".join(map(str, super(Multilabel, self).written(row))) for row in rows]


KINDS: dict[str, type[Task]] = {
    "classification": Classification,
    "binary": Binary,
    "regression": Regression,
    "multilabel": Multilabel,
}
