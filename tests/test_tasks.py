"""Losses, predictions, metrics and labels of every task, against plain formulas."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn_metrics

import tasks
from datasets import read_examples
from inputs.batches import TokenizedTask
from models.pretrained import load_config, load_tokenizer
from task_table import built_in_tasks
from tasks import cross_entropy, mean_score

TASKS = built_in_tasks()

MIXED = {  # task -> (predictions, labels) for which all metrics differ
    "sst": ([0, 1, 1, 4, 2, 2, 0, 3], [0, 1, 2, 4, 2, 3, 1, 2]),
    "para": ([1, 0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0, 1]),
    "sts": ([0.5, 4.0, 2.25, 5.0, 3.0], [1.0, 3.5, 0.0, 4.75, 4.0]),
}


def log_softmax(row):
    return [x - math.log(sum(math.exp(y) for y in row)) for x in row]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


LOSSES = {  # the formula of one example's loss
    "sst": lambda row, label: -log_softmax(row)[label],
    "para": lambda row, label: -math.log(sigmoid(row[0] if label else -row[0])),
    "sts": lambda row, label: (row[0] - label) ** 2,
}
DIVERGENCES = {  # the formula of one example's divergence
    "sst": lambda row, other: sum(
        (math.exp(p) - math.exp(q)) * (p - q) for p, q in zip(log_softmax(row), log_softmax(other))
    ),
    "para": lambda row, other: (sigmoid(row[0]) - sigmoid(other[0])) * (row[0] - other[0]),
    "sts": lambda row, other: (row[0] - other[0]) ** 2,
}
PROBABILITIES = {
    "sst": lambda row: math.exp(max(log_softmax(row))),
    "para": lambda row: sigmoid(row[0]),
}
DECODED = {
    "sst": lambda row: max(range(5), key=lambda i: row[i]),
    "para": lambda row: int(sigmoid(row[0]) > 0.5),
    "sts": lambda row: round(min(5.0, max(0.0, row[0])), 6),
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
}


def f1(predictions, labels, label):
    pairs = [(p == label, y == label) for p, y in zip(predictions, labels)]
    return 2 * pairs.count((True, True)) / sum(map(sum, pairs))


def logits_and_labels(task, num_rows=6):
    """Return seeded logits [N, C], some outside the label range, and labels [N] as in a batch."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_rows, task.num_outputs, generator=generator)
    low, high = task.label_range
    labels = low + (high - low) * torch.rand(num_rows, generator=generator)
    return logits, labels.round().long() if task.label_type is int else labels


def test_every_task_has_its_reference():
    for references in (MIXED, LOSSES, DIVERGENCES, DECODED, METRICS):
        assert list(references) == list(TASKS)
    assert [name for name, task in TASKS.items() if task.probability] == list(PROBABILITIES)
    assert [task.name for task in TASKS.values()] == list(TASKS)


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
    pairs = zip(logits.tolist(), others.tolist())
    expected = [DIVERGENCES[name](row, other) for row, other in pairs]
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
def test_predictions_and_probabilities(name):
    task = TASKS[name]
    logits = logits_and_labels(task, 40)[0].numpy()
    decoded = task.decode(logits)
    assert decoded.shape == (40,) and len(set(decoded.tolist())) > 1
    assert decoded.tolist() == [DECODED[name](row) for row in logits.tolist()]
    assert np.issubdtype(decoded.dtype, np.integer if task.label_type is int else np.float64)
    if task.probability is not None:
        expected = [PROBABILITIES[name](row) for row in logits.tolist()]
        assert task.probability(logits) == pytest.approx(expected, rel=1e-5)
        assert task.probability(logits).shape == (40,)


def test_score_is_clipped_and_rounded():
    logits = np.array([[-0.5], [5.5], [0.12345678], [4.9999999], [2.5]], dtype=np.float32)
    assert TASKS["sts"].decode(logits).tolist() == [0.0, 5.0, 0.123457, 5.0, 2.5]


@pytest.mark.parametrize("name", TASKS)
def test_metrics_equal_their_definitions(name):
    task, (predictions, labels) = TASKS[name], map(np.array, MIXED[name])
    values = task.evaluate(predictions, labels)
    assert list(values) == list(METRICS[name]) and list(values)[0] == task.metric_name
    for metric, reference in METRICS[name].items():
        assert values[metric] == pytest.approx(reference(*MIXED[name]), rel=1e-12), metric
        assert type(values[metric]) is float
    assert len(set(values.values())) == len(values)
    assert values[task.metric_name] == task.metric(predictions, labels)


@pytest.mark.parametrize("name", TASKS)
def test_metrics_of_perfect_predictions_are_one(name):
    labels = np.array(MIXED[name][1])
    assert list(TASKS[name].evaluate(labels, labels).values()) == pytest.approx([1, 1])


def test_f1_without_any_positive_is_zero_without_a_warning():
    with warnings.catch_warnings(action="error"):
        assert TASKS["para"].evaluate(np.zeros(3), np.zeros(3)) == {"accuracy": 1.0, "f1": 0.0}
        assert TASKS["sst"].evaluate(np.array([0, 1]), np.array([1, 0]))["macro_f1"] == 0.0


@pytest.mark.parametrize("metric", [tasks.pearson, tasks.spearman])
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


@pytest.mark.parametrize("name", TASKS)
def test_baseline_is_the_majority_class_or_the_mean(name):
    task = TASKS[name]
    train_labels = np.array([0, 1, 1, 0, 1], dtype=np.int64 if task.label_type is int else None)
    expected = 1 if task.label_type is int else 0.6
    assert task.baseline(train_labels, 3).tolist() == pytest.approx([expected] * 3)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.class_names])
def test_confusion_has_true_classes_by_row(name):
    task = TASKS[name]
    predictions, labels = np.array([1, 1, 0]), np.array([0, 0, 0])
    confusion = task.confusion(predictions, labels)
    assert confusion.shape == (len(task.class_names),) * 2  # also classes that never occur
    assert len(task.class_names) == task.label_range[1] + 1 == task.num_outputs
    assert confusion[0, :2].tolist() == [1, 2] and confusion.sum() == 3


@pytest.mark.parametrize("name", TASKS)
def test_parse_label(name):
    task = TASKS[name]
    low, high = task.label_range
    for text, value in ((f"{low}", low), (f"{high}.0", high), ("1", 1), (" 1.0", 1)):
        label = task.parse_label(text)
        assert label == value and type(label) is task.label_type
    refused = ["", "one", "nan", "inf", "-inf", "1e999", "0_1", str(low - 1), str(high + 1), "0x1"]
    refused += ["0.5"] if task.label_type is int else [str(high + 0.001), "-0.001"]
    for text in refused:
        with pytest.raises(ValueError):
            task.parse_label(text)
    kind = "an integer" if task.label_type is int else "a number"
    assert task.label_expected == f"{kind} in [{low}, {high}]"


@pytest.fixture
def toxic(monkeypatch):
    """A new task of three classes, added with one entry in the table."""
    task = replace(
        TASKS["sst"],
        name="toxic",
        stem="toxic-comments",
        text_columns=("comment",),
        label_column="toxicity",
        label_range=(0, 2),
        num_outputs=3,
        loss=cross_entropy,
        class_names=("clean", "rude", "toxic"),
    )
    monkeypatch.setitem(TASKS, "toxic", task)
    return task


def test_added_task_is_read_tokenized_and_scored(toxic, parse, tiny_model, tmp_path):
    path = tmp_path / "toxic.csv"
    path.write_text('toxicity\tid\tcomment\n2\ta\t"you ""fool"""\n0\tb\tthank you\n')
    assert parse("--toxic_train", path, "--task", "toxic").toxic_train == str(path)
    examples = read_examples(path, toxic, require_labels=True)
    assert [(e.texts, e.label) for e in examples] == [(('you "fool"',), 2), (("thank you",), 0)]
    tokenizer = load_tokenizer(tiny_model, load_config(tiny_model))
    batch = TokenizedTask(toxic, examples, tokenizer, 0).batch(np.array([1, 0]))
    assert batch["labels"].tolist() == [0, 2]
    assert toxic.loss(torch.zeros(2, 3), batch["labels"]).item() == pytest.approx(math.log(3))
    confusion = toxic.confusion(np.array([2, 0]), np.array([2, 1]))
    expected = sklearn_metrics.confusion_matrix([2, 1], [2, 0], labels=[0, 1, 2])
    assert np.array_equal(confusion, expected)


def test_class_weights_count_each_class_alike():
    labels = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    task = TASKS["sst"].weighing_classes(labels)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    nll = -logits.log_softmax(1)[torch.arange(8), torch.tensor(labels)]
    by_class = [nll[labels == c].mean() for c in range(5)]
    torch.testing.assert_close(task.loss(logits, torch.tensor(labels)), sum(by_class) / 5)
    assert TASKS["sts"].weighing_classes(labels) is TASKS["sts"]
