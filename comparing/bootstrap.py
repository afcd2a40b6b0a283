"""Scores in bootstrap resamples of the dev examples: the one place that computes intervals.

Every metric is computed from how often a resample holds each example, for many resamples at once,
with matrix products in place of loops. Axis letters: R resamples, N examples, C classes, K runs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tasks.metrics import (
    Metric,
    accuracy,
    binary_f1,
    macro_f1,
    matthews,
    micro_f1,
    pearson,
    spearman,
)

NUM_RESAMPLES = 2000
CHUNK = 100  # resamples at once: 100 · N counts are in memory


def resampled_scores(
    metric: Metric, predictions: Sequence[np.ndarray], labels: np.ndarray, stream: int
) -> np.ndarray:
    """Return a metric of several runs in each resample, K x `NUM_RESAMPLES`.

    A resample holds the same examples for all runs, so differences between runs are paired.

    Args:
        metric: a key of `RESAMPLED`.
        predictions: of each of K runs, [N], or [N, C] of 0 and 1.
        labels: of the same shape.
        stream: chooses the random numbers. Tasks whose resamples shall be independent of each other
            need different ones; the same one gives the same resamples again.
    """
    generator = np.random.default_rng([0, stream])
    chunks = []
    for _ in range(NUM_RESAMPLES // CHUNK):
        counts = draw_counts(generator, CHUNK, len(labels))
        chunks.append([RESAMPLED[metric](counts, of_run, labels) for of_run in predictions])
    return np.concatenate(chunks, axis=1)


def draw_counts(
    generator: np.random.Generator, num_resamples: int, num_examples: int
) -> np.ndarray:
    """Return how often each resample, N draws with replacement, holds each example: [R, N]."""
    drawn = generator.integers(num_examples, size=(num_resamples, num_examples))
    drawn += np.arange(num_resamples)[:, None] * num_examples  # every resample has its own bins
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_examples)
    return counts.reshape(num_resamples, num_examples).astype(np.float64)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percent quantiles of [R]."""
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    return low, high


def resampled_accuracy(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the share of examples that are right [R]; of several labels, all of them."""
    is_right = (predictions == labels).reshape(len(labels), -1).all(axis=1)  # [N]
    return counts @ is_right.astype(np.float64) / len(labels)


def resampled_binary_f1(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the F1 score of label 1, [R]."""
    both, predicted, present = indicated(counts, predictions == 1, labels == 1)
    return ratio(2 * both, predicted + present)[:, 0]


def resampled_micro_f1(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the F1 score of all labels together, [R]."""
    both, predicted, present = indicated(counts, predictions == 1, labels == 1)
    return ratio(2 * both.sum(axis=1), predicted.sum(axis=1) + present.sum(axis=1))


def resampled_macro_f1(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the mean of the F1 scores of all classes that a resample holds or predicts, [R].

    Of labels [N, C], it is the mean over all C classes.
    """
    both, predicted, present = class_counts(counts, predictions, labels)
    scores = ratio(2 * both, predicted + present)  # [R, C]
    if labels.ndim == 2:
        return scores.mean(axis=1)
    num_there = (predicted + present > 0).sum(axis=1).astype(np.float64)  # [R]
    return ratio(scores.sum(axis=1), num_there)


def resampled_matthews(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return Matthews' correlation coefficient [R], for several classes Gorodkin's (2004)."""
    both, predicted, present = class_counts(counts, predictions, labels)
    total = float(len(labels))
    covariance = both.sum(axis=1) * total - (predicted * present).sum(axis=1)
    spread = total**2 - (predicted**2).sum(axis=1), total**2 - (present**2).sum(axis=1)
    return ratio(covariance, np.sqrt(spread[0] * spread[1]))


def resampled_pearson(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return Pearson's r [R]. An undefined one, that of a constant, counts as 0."""
    # Centred first: the differences of sums below then lose no digits.
    x, y = predictions - predictions.mean(), labels - labels.mean(dtype=np.float64)
    return correlations(counts, x, y)


def resampled_spearman(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return Spearman's rho [R]: Pearson's r of the ranks in each resample."""
    x, y = ranks(counts, predictions), ranks(counts, labels)  # [R, N], centred
    return correlations(counts, x, y)


def correlations(counts: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's r [R] of x and y, [N] or, other ones in each resample, [R, N]."""
    num_examples = counts.shape[1]

    def mean(values: np.ndarray) -> np.ndarray:
        total = counts @ values if values.ndim == 1 else (counts * values).sum(axis=1)
        return total / num_examples

    def variance(values: np.ndarray) -> np.ndarray:  # 0 instead of the rounding of a constant
        square = mean(values**2)
        found = square - mean(values) ** 2
        return np.where(found > 1e-12 * square, found, 0.0)

    covariance = mean(x * y) - mean(x) * mean(y)
    return ratio(covariance, np.sqrt(variance(x)) * np.sqrt(variance(y)))


def ranks(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the rank of each value in each resample, less the mean rank: [R, N].

    Equal values share the mean of their ranks, and so do the copies of an example.
    """
    _, places = np.unique(values, return_inverse=True)  # [N]: which of the different values
    sizes = np.stack([np.bincount(places, weights=of_one) for of_one in counts])
    before = sizes.cumsum(axis=1) - sizes
    return (before + (sizes + 1) / 2)[:, places] - (counts.shape[1] + 1) / 2


def class_counts(
    counts: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `indicated` for every class: of predictions [N], those that occur; of [N, C], all."""
    if labels.ndim == 2:
        return indicated(counts, predictions == 1, labels == 1)
    classes = np.union1d(predictions, labels)
    return indicated(counts, predictions[:, None] == classes, labels[:, None] == classes)


def indicated(
    counts: np.ndarray, is_predicted: np.ndarray, is_present: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the examples of a resample that are predicted and present, and each alone: [R, C].

    Args:
        counts: how often each resample holds each example, [R, N].
        is_predicted: [N] or [N, C] bool.
        is_present: of the same shape.
    """
    shape = len(is_present), -1
    predicted, present = is_predicted.reshape(shape), is_present.reshape(shape)
    one, two, three = (
        counts @ part.astype(np.float64) for part in (predicted & present, predicted, present)
    )
    return one, two, three


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


Resampled = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# Metric -> the same metric [R] of counts [R, N], predictions and labels.
RESAMPLED: dict[Metric, Resampled] = {
    accuracy: resampled_accuracy,
    binary_f1: resampled_binary_f1,
    micro_f1: resampled_micro_f1,
    macro_f1: resampled_macro_f1,
    matthews: resampled_matthews,
    pearson: resampled_pearson,
    spearman: resampled_spearman,
}
