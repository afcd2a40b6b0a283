"""What a loaded run predicts for texts: the same as the run's own prediction files."""

import csv

import numpy as np
import pytest
import torch

from datasets import read_examples, task_file
from evaluation import load_run

SMALL = "--num_batches_per_epoch 2 --batch_size 4 --epochs 1 --no_tensorboard --dev_samples 8"


@pytest.fixture(scope="module")
def run(finished_run):
    return load_run(finished_run)


def texts_of(run, task, split):
    """Return the texts of a split of the run's data, as a user would pass them."""
    examples = read_examples(task_file(run.args, task, split), task)
    return [e.texts if task.is_pair else e.texts[0] for e in examples]


def assert_equals_files(run):
    for task in run.tasks.values():
        for split in ("dev", "test"):
            path = f"{run.args.predictions_path}/{task.stem}-{split}-output.csv"
            with open(path, newline="", encoding="utf-8") as file:
                written = [row[1] for row in csv.reader(file, delimiter="\t")][1:]
            found = run.predict(task.name, texts_of(run, task, split))
            assert list(map(str, found.values.tolist())) == written
            if task.label_type is float:
                assert found.probabilities is None
                continue
            assert found.probabilities.shape == (len(written), task.num_classes)
            assert (found.probabilities.argmax(axis=1) == found.values).all()
            np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)


def test_predictions_are_those_of_the_runs_files(run):
    assert_equals_files(run)


@pytest.mark.parametrize(
    "flags",
    ["--pair_encoding bi", "--extension hierarchical --segment_length 16 --pair_encoding bi"],
)
def test_predictions_are_those_of_the_files_whatever_the_encoding(train, few_rows, flags):
    directory = train(*SMALL.split(), "--data_dir", few_rows, *flags.split())
    assert_equals_files(load_run(directory))


def test_a_prediction_depends_on_neither_batch_nor_order(run):
    texts = ["a", "a long sentence about a film that nobody has seen", "who ?", "b c", "a b c d"]
    whole = run.predict("sst", texts)
    sizes = []
    hook = run.model.register_forward_pre_hook(
        lambda model, inputs: sizes.append(len(inputs[1]["input_ids"]))
    )
    try:
        parts = run.predict("sst", texts, batch_size=2)
    finally:
        hook.remove()
    assert sizes == [2, 2, 1]
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-5)
    turned = run.predict("sst", texts[::-1])
    np.testing.assert_allclose(turned.probabilities[::-1], whole.probabilities, atol=1e-5)
    assert torch.is_grad_enabled()


def test_no_texts_have_no_predictions(run):
    assert run.predict("sst", []).probabilities.shape == (0, 5)
    found = run.predict("sts", [])
    assert found.values.shape == (0,) and found.probabilities is None


@pytest.mark.parametrize(
    "task, texts, message",
    [
        ("mood", ["a"], "task 'mood': this run was trained on sst, para, sts"),
        ("sst", "a film", "texts is 'a film', expected a list with a text per example"),
        ("sst", ["a", " "], r"texts\[1\] is \"' '\", expected a text"),
        ("sst", [("a", "b")], r"texts\[0\] is .*, expected a text"),
        ("sst", [3], r"texts\[0\] is '3', expected a text"),
        ("sst", ["\ud800"], r"texts\[0\] is .*, expected a text"),
        ("para", ["a b"], r"texts\[0\] is .*, expected two texts, the sentences of a pair"),
        ("para", [("a", "b"), ("a", "b", "c")], r"texts\[1\] is .*, expected two texts"),
        ("para", [("a", None)], r"texts\[0\] is .*, expected two texts"),
    ],
)
def test_wrong_texts_are_named(run, one_line, task, texts, message):
    import re

    assert re.search(message, one_line(run.predict, task, texts))


def test_a_wrong_batch_size_is_named(run, one_line):
    for size in (0, -1, 2.0, True, None):
        message = one_line(run.predict, "sst", ["a"], size)
        assert message == f"batch_size is {size!r}, expected a positive integer"
