"""Losses, predictions and metrics of every kind of task, against plain formulas."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from every_kind import DEGREES, NAMED_BINARY, TASKS
from scipy import stats

from models.heads import CosineHead
from tasks import KINDS, mean_score
from tasks import metrics as our_metrics
from tasks import scores, to_device

MIXED = {  # task -> (predictions, labels) for which all metrics differ
    "sst": ([0, 1, 1, 4, 2, 2, 0, 3], [0, 1, 2, 4, 2, 3, 1, 2]),
    "para": ([1, 0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0, 1]),
    "sts": ([0.5, 4.0, 2.25, 5.0, 3.0], [1.0, 3.5, 0.0, 4.75, 4.0]),
    "subjects": (
        [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0]],
    ),
}


def log_softmax(row):
    return [x - math.log(sum(math.exp(y) for y in row)) for x in row]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


LOSSES = {  # the formula of one example's loss
    "sst": lambda row, label: -log_softmax(row)[label],
    "para": lambda row, label: -math.log(sigmoid(row[0] if label else -row[0])),
    "sts": lambda row, label: (row[0] - label) ** 2,
    "subjects": lambda row, label: np.mean(
        [-math.log(sigmoid(x if y else -x)) for x, y in zip(row, label)]
    ),
}
DIVERGENCES = {  # the formula of one example's divergence
    "sst": lambda row, other: sum(
        (math.exp(p) - math.exp(q)) * (p - q) for p, q in zip(log_softmax(row), log_softmax(other))
    ),
    "para": lambda row, other: (sigmoid(row[0]) - sigmoid(other[0])) * (row[0] - other[0]),
    "sts": lambda row, other: (row[0] - other[0]) ** 2,
    "subjects": lambda row, other: sum(
        (sigmoid(x) - sigmoid(y)) * (x - y) for x, y in zip(row, other)
    ),
}
PROBABILITIES = {  # of every class
    "sst": lambda row: [math.exp(x) for x in log_softmax(row)],
    "para": lambda row: [sigmoid(-row[0]), sigmoid(row[0])],
    "subjects": lambda row: [sigmoid(x) for x in row],
}
DECODED = {
    "sst": lambda row: max(range(5), key=lambda i: row[i]),
    "para": lambda row: int(sigmoid(row[0]) > 0.5),
    "sts": lambda row: round(min(5.0, max(0.0, row[0])), 6),
    "subjects": lambda row: [int(sigmoid(x) > 0.5) for x in row],
}
METRICS = {
    "sst": {
        "accuracy": lambda p, y: sum(a == b for a, b in zip(p, y)) / len(y),
        "macro_f1": lambda p, y: np.mean([f1(p, y, c) for c in range(5)]),
    },
    "para": {
        "accuracy": lambda p, y: sum(a == b for a, b in zip(p, y)) / len(y),
        "f1": lambda p, y: f1(p, y, 1),
    },
    "sts": {
        "pearson": lambda p, y: stats.pearsonr(p, y).statistic,
        "spearman": lambda p, y: np.corrcoef(stats.rankdata(p), stats.rankdata(y))[0, 1],
    },
    "subjects": {
        "macro_f1": lambda p, y: np.mean([f1(*zip(*c), 1) for c in map(pairs, zip(*p), zip(*y))]),
        "accuracy": lambda p, y: sum(a == b for a, b in zip(p, y)) / len(y),
        "f1": lambda p, y: f1(sum(p, []), sum(y, []), 1),
    },
}


def pairs(predictions, labels):
    return list(zip(predictions, labels))


def f1(predictions, labels, label):
    found = [(p == label, y == label) for p, y in zip(predictions, labels)]
    return 2 * found.count((True, True)) / sum(map(sum, found))


def logits_and_labels(task, num_rows=6):
    """Return seeded logits [N, C], some outside the label range, and labels as in a batch."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_rows, task.num_outputs, generator=generator)
    if task.label_type is tuple:
        return logits, torch.randint(2, logits.shape, generator=generator)
    low, high = task.label_range
    labels = low + (high - low) * torch.rand(num_rows, generator=generator)
    return logits, labels.round().long() if task.label_type is int else labels


def test_every_kind_has_its_reference():
    for references in (MIXED, LOSSES, DIVERGENCES, DECODED, METRICS):
        assert list(references) == list(TASKS)
    assert [type(task) for task in TASKS.values()] == list(KINDS.values())
    assert {name for name, task in TASKS.items() if task.label_type is not float} == {
        *PROBABILITIES
    }


@pytest.mark.parametrize("name", TASKS)
def test_loss_is_the_mean_of_its_formula(name):
    task = TASKS[name]
    logits, labels = logits_and_labels(task)
    losses = [LOSSES[name](row, label) for row, label in zip(logits.tolist(), labels.tolist())]
    loss = task.loss(logits, labels)
    assert loss.shape == () and loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_loss_is_in_the_logits_precision(name):
    logits, labels = logits_and_labels(TASKS[name])
    assert TASKS[name].loss(logits.double(), labels).dtype == torch.float64


@pytest.mark.parametrize("name", TASKS)
def test_loss_refuses_shapes_that_would_broadcast(name):
    task = TASKS[name]
    logits, labels = logits_and_labels(task)
    traps = [
        (logits[:, 0], labels),
        (logits, labels[:, None]),
        (logits[:, 0], labels[:, None]),
        (logits[:, :1], labels[:, None]),
        (logits[:1], labels),
        (logits, labels[:1]),
        (logits[None], labels),
    ]
    if task.num_outputs == 1:
        traps.append((logits.expand(-1, 2), labels))
    for trap in traps:
        with pytest.raises(AssertionError, match="logits.shape="):
            task.loss(*trap)


@pytest.mark.parametrize("name", TASKS)
def test_divergence_is_its_formula_example_by_example(name):
    task = TASKS[name]
    logits, _ = logits_and_labels(task)
    others = logits.flip(0)
    rows = zip(logits.tolist(), others.tolist())
    expected = [DIVERGENCES[name](row, other) for row, other in rows]
    divergences = task.divergence(logits, others)
    assert divergences.tolist() == pytest.approx(expected, rel=1e-4) and min(expected) > 0
    assert torch.equal(task.divergence(others, logits), divergences)
    assert task.divergence(logits, logits).tolist() == [0] * 6
    assert task.divergence(logits.double(), others.double()).dtype == torch.float64


@pytest.mark.parametrize("name", TASKS)
def test_divergence_refuses_shapes_that_would_broadcast(name):
    task = TASKS[name]
    logits, _ = logits_and_labels(task)
    traps = [(logits, logits[:, 0]), (logits[:, 0], logits[:, 0]), (logits, logits[:1])]
    traps += [(logits[:1], logits), (logits[None], logits[None]), (logits[:, 0], logits)]
    if task.num_outputs == 1:
        traps.append((logits.expand(-1, 2), logits.expand(-1, 2)))
    else:
        traps.append((logits, logits[:, :1]))
    for trap in traps:
        with pytest.raises(AssertionError, match="logits.shape="):
            task.divergence(*trap)


@pytest.mark.parametrize("name", TASKS)
def test_predictions(name):
    task = TASKS[name]
    logits = logits_and_labels(task, 40)[0].numpy()
    decoded = task.decode(logits)
    assert len(decoded) == 40 and len({str(row) for row in decoded.tolist()}) > 1
    assert decoded.tolist() == [DECODED[name](row) for row in logits.tolist()]
    assert np.issubdtype(decoded.dtype, np.float64 if task.label_type is float else np.integer)


@pytest.mark.parametrize("name", TASKS)
def test_probability_is_that_of_the_predicted_value(name):
    task = TASKS[name]
    logits = logits_and_labels(task, 40)[0].numpy()
    if name not in PROBABILITIES:
        assert task.probability(logits) is None is task.probabilities(logits)
        return
    every = np.array([PROBABILITIES[name](row) for row in logits.tolist()])
    assert task.probabilities(logits) == pytest.approx(every, rel=1e-4)
    assert every.shape == (40, task.num_classes)
    chosen = task.decode(logits)
    if chosen.ndim == 1:
        expected = every[np.arange(40), chosen]
    else:  # each class is predicted, or not
        expected = np.where(chosen == 1, every, 1 - every).prod(axis=1)
    assert task.probability(logits) == pytest.approx(expected, rel=1e-4)


def test_score_is_clipped_to_its_own_range_and_rounded():
    logits = np.array([[-0.5], [5.5], [0.12345678], [4.9999999], [2.5]], dtype=np.float32)
    assert TASKS["sts"].decode(logits).tolist() == [0.0, 5.0, 0.123457, 5.0, 2.5]
    assert DEGREES.decode(20 * logits).tolist() == [-10.0, 60.5, 2.469136, 60.5, 50.0]
    assert DEGREES.decode(np.array([[-41.0]], np.float32)).tolist() == [-40]


@pytest.mark.parametrize("low, high", [(0.33333349, 1), (0, 1e-5), (2, 2 + 1e-9), (0, 1e-280)])
def test_rounding_keeps_a_score_in_its_range_and_its_digits(low, high):
    task = replace(TASKS["sts"], label_range=(low, high))
    logits = np.linspace(low, high, 12)[:, None]
    decoded = task.decode(logits)
    assert decoded.min() >= low and decoded.max() <= high
    assert np.abs(decoded - logits[:, 0]).max() <= 1e-6 * (high - low)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_equal_their_definitions(name):
    task, (predictions, labels) = TASKS[name], map(np.array, MIXED[name])
    values = task.evaluate(predictions, labels)
    assert list(values) == list(METRICS[name]) and list(values)[0] == task.metric_name
    for metric, reference in METRICS[name].items():
        assert values[metric] == pytest.approx(reference(*MIXED[name]), rel=1e-12), metric
        assert type(values[metric]) is float
    assert len(set(values.values())) == len(values)
    assert scores({name: values}) == {name: values[task.metric_name]}
    assert values[task.metric_name] == task.metric(predictions, labels)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_of_perfect_predictions_are_one(name):
    labels = np.array(MIXED[name][1])
    values = TASKS[name].evaluate(labels, labels).values()
    assert list(values) == pytest.approx([1] * len(values))


def test_f1_without_any_positive_is_zero_without_a_warning():
    with warnings.catch_warnings(action="error"):
        assert TASKS["para"].evaluate(np.zeros(3), np.zeros(3)) == {"accuracy": 1.0, "f1": 0.0}
        assert TASKS["sst"].evaluate(np.array([0, 1]), np.array([1, 0]))["macro_f1"] == 0.0


@pytest.mark.parametrize("metric", [our_metrics.pearson, our_metrics.spearman])
@pytest.mark.parametrize(
    "predictions, labels",
    [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2]), ([], [])],
)
def test_correlation_of_a_constant_is_nan_with_a_warning(metric, predictions, labels):
    with pytest.warns(UserWarning, match="shown as nan, counted as 0") as caught:
        assert math.isnan(metric(np.array(predictions), np.array(labels)))
    assert len(caught) == 1 and metric.__name__ in str(caught[0].message)


def test_mean_score_counts_nan_as_zero():
    assert mean_score({"a": 0.5, "b": 0.75}) == 0.625
    assert mean_score({"a": 0.5, "b": math.nan, "c": -0.2}) == pytest.approx(0.1)
    assert mean_score({"a": math.nan}) == 0


def test_matthews_is_its_formula_and_zero_of_a_constant():
    predictions, labels = np.array([1, 0, 1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1, 0, 1])
    expected = np.corrcoef(predictions, labels)[0, 1]  # which it is, of two classes
    values = NAMED_BINARY.evaluate(predictions, labels)
    assert list(values) == ["matthews", "accuracy", "f1"]
    assert values["matthews"] == pytest.approx(expected)
    with warnings.catch_warnings(action="error"):
        assert our_metrics.matthews(np.zeros(3), labels[:3]) == 0.0


@pytest.mark.parametrize("name", ["sst", "para", "sts"])
def test_baseline_is_the_majority_class_or_the_mean(name):
    task = TASKS[name]
    train_labels = np.array([0, 1, 1, 0, 1], dtype=np.int64 if task.label_type is int else None)
    expected = 1 if task.label_type is int else 0.6
    assert task.baseline(train_labels, 3).tolist() == pytest.approx([expected] * 3)


def test_multilabel_baseline_has_the_classes_of_most_examples():
    train_labels = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]])
    assert TASKS["subjects"].baseline(train_labels, 2).tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize("task", [TASKS["sst"], NAMED_BINARY], ids=lambda task: task.name)
def test_confusion_has_true_classes_by_row(task):
    predictions, labels = np.array([1, 1, 0]), np.array([0, 0, 0])
    confusion = task.confusion(predictions, labels)
    assert confusion.shape == (len(task.class_names),) * 2  # also classes that never occur
    assert len(task.class_names) == task.label_range[1] + 1 == task.num_classes
    assert confusion[0, :2].tolist() == [1, 2] and confusion.sum() == 3


def test_class_weights_count_each_class_alike():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    task = TASKS["sst"].weighing_classes(labels)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    nll = -logits.log_softmax(1)[torch.arange(8), torch.tensor(labels)]
    by_class = [nll[labels == c].mean() for c in range(5)]
    torch.testing.assert_close(task.loss(logits, torch.tensor(labels)), sum(by_class) / 5)
    for name in ("para", "sts", "subjects"):
        assert TASKS[name].weighing_classes(labels) is TASKS[name]


def test_class_weights_of_a_binary_task():
    labels = np.array([0, 1, 1, 1])
    logits = torch.tensor([[0.5], [-1.0], [2.0], [0.1]])
    losses = [F.softplus(logits[0, 0]), F.softplus(-logits[1:, 0]).mean()]
    task = NAMED_BINARY.weighing_classes(labels)
    torch.testing.assert_close(task.loss(logits, torch.tensor(labels)), sum(losses) / 2)


def test_the_cosine_head_spans_the_range_of_labels():
    head = CosineHead(4, 1, 0, 0.0, DEGREES.label_range)
    u, v = torch.tensor([[1.0, 0], [1, 0], [1, 0]]), torch.tensor([[2.0, 0], [0, 3], [1, 1]])
    expected = [60.5, -40, -40 + 100.5 * 0.5**0.5]
    assert head(u, v)[:, 0].tolist() == pytest.approx(expected)
    assert CosineHead(4, 1, 0, 0.0)(u, v)[:, 0].tolist() == pytest.approx([5, 0, 5 * 0.5**0.5])


def test_the_lengths_of_a_batch_stay_on_the_host():
    """Shapes depend on them, and a GPU would have to be waited for."""
    batch = {"input_ids": torch.ones(2, 3).long(), "lengths": torch.tensor([3, 2])}
    moved = to_device(batch, torch.device("meta"))
    assert {name: x.device.type for name, x in moved.items()} == {
        "input_ids": "meta",
        "lengths": "cpu",
    }
