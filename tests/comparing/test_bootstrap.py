"""Scores in resamples equal those of scikit-learn and SciPy on the repeated rows."""

import numpy as np
import pytest

from comparing.bootstrap import RESAMPLED, draw_counts, interval, resampled_scores
from tasks import KINDS
from tasks.metrics import macro_f1, pearson

N = 30
CASES = [(kind, name) for kind, task in KINDS.items() for name in task.judges()]


def rows_of(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of N examples; rare classes are missing in some resamples."""
    generator = np.random.default_rng(seed)
    if kind == "regression":
        values = generator.normal(size=(2, N)).round(1)  # with ties
        return values[0] + values[1], values[1].astype(np.float32)
    if kind == "multilabel":
        found = generator.random((2, N, 4)) < [0.5, 0.3, 0.05, 0]
        return tuple(found.astype(np.int64))
    classes = [0, 1] if kind == "binary" else [0, 0, 1, 1, 2, 5]
    return tuple(generator.choice(classes, size=(2, N)))


@pytest.mark.parametrize("kind, name", CASES)
def test_metrics_of_resamples_equal_those_of_repeated_rows(kind, name):
    metric = KINDS[kind].judges()[name]
    predictions, labels = rows_of(kind)
    counts = draw_counts(np.random.default_rng(1), 40, N)
    assert (counts.sum(axis=1) == N).all()
    found = RESAMPLED[metric](counts, predictions, labels)
    for resample, value in zip(counts, found):
        rows = np.repeat(np.arange(N), resample.astype(int))
        assert value == pytest.approx(metric(predictions[rows], labels[rows]), abs=1e-9)


@pytest.mark.parametrize("kind, name", CASES)
def test_a_constant_prediction_has_a_finite_score(kind, name):
    metric = KINDS[kind].judges()[name]
    predictions, labels = rows_of(kind)
    constant = np.zeros_like(predictions)
    found = RESAMPLED[metric](draw_counts(np.random.default_rng(1), 40, N), constant, labels)
    expected = metric(constant, labels)  # nan counts as 0
    assert np.isfinite(found).all()
    if np.isnan(expected) or name == "matthews":
        assert (found == 0).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_a_correlation_does_not_depend_on_the_range_of_labels(scale):
    predictions, labels = rows_of("regression")
    labels = labels.astype(np.float64)
    [plain] = resampled_scores(pearson, [predictions], labels, stream=0)
    [scaled] = resampled_scores(pearson, [predictions * scale], labels * scale, stream=0)
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)
    [constant] = resampled_scores(pearson, [predictions * 0 + 0.1 * scale], labels, stream=0)
    assert (constant == 0).all()


def test_runs_share_their_resamples_and_streams_differ():
    predictions, labels = rows_of("classification")
    both = resampled_scores(macro_f1, [predictions, predictions], labels, stream=0)
    np.testing.assert_array_equal(both[0], both[1])
    again = resampled_scores(macro_f1, [predictions], labels, stream=0)
    np.testing.assert_array_equal(both[0], again[0])
    assert (resampled_scores(macro_f1, [predictions], labels, stream=1)[0] != both[0]).any()


def test_an_interval_holds_the_middle_95_percent():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))


def test_a_paired_interval_equals_scipys():
    from scipy import stats

    (one, labels), (two, _) = rows_of("regression"), rows_of("regression", seed=2)
    resampled = resampled_scores(pearson, [one, two], labels, stream=0)

    def statistic(one, two, labels):
        return stats.pearsonr(one, labels).statistic - stats.pearsonr(two, labels).statistic

    found = stats.bootstrap(
        (one, two, labels.astype(float)),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    np.testing.assert_allclose(interval(resampled[0] - resampled[1]), found, atol=0.02)
