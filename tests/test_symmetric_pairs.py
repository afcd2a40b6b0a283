"""--symmetric_pairs: a pair without an order is predicted by the mean logits of both orders."""

import csv
import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

import evaluation
from datasets import load_data, read_examples, task_file, tokenize
from engine import predict_logits
from evaluation import load_run
from inputs.frozen_states import CachedRows
from options.task_table import built_in_tasks
from runtime.errors import InputError

TASKS = built_in_tasks()
PAIRS = [name for name, task in TASKS.items() if task.is_unordered_pair]


@pytest.fixture(scope="module")
def loaded(finished_run):
    return load_run(finished_run)


def rows_of(loaded, task, examples, **changes):
    """Examples as rows, under the run's options with some changes."""
    tokenizer, args = loaded.tokenizer, loaded.args
    return tokenize(Namespace(**vars(args) | changes), task, examples, tokenizer, 0)


def dev_of(loaded, task):
    return read_examples(task_file(loaded.args, task, "dev"), task)[:20]


def in_other_order(examples):
    return [replace(e, texts=(e.texts[1], e.texts[0])) for e in examples]


@pytest.mark.parametrize("max_length", [128, 12])
@pytest.mark.parametrize("name", PAIRS)
def test_logits_are_the_mean_over_both_orders(loaded, name, max_length):
    task, changes = TASKS[name], {"max_length": max_length}
    examples = dev_of(loaded, task)
    orders = [examples, in_other_order(examples)]
    one, other = (
        predict_logits(loaded.model, rows_of(loaded, task, rows, **changes)) for rows in orders
    )
    assert np.abs(one - other).max() > 1e-3
    for rows in orders:
        data = rows_of(loaded, task, rows, symmetric_pairs=True, **changes)
        found = predict_logits(loaded.model, data)
        np.testing.assert_allclose(found, (one + other) / 2, atol=1e-6)


def test_segments_are_those_of_the_swapped_texts(loaded):
    task, changes = TASKS["para"], {"extension": "hierarchical", "segment_length": 6}
    examples, numbers = dev_of(loaded, TASKS["para"]), np.array([3, 0])
    data = rows_of(loaded, task, examples, symmetric_pairs=True, **changes)
    first, second = data.orders(numbers)
    for found, texts in ((first, examples), (second, in_other_order(examples))):
        expected = rows_of(loaded, task, texts, **changes).batch(numbers)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("task", [TASKS["sst"], replace(TASKS["para"], is_ordered=True)])
def test_single_sentences_and_ordered_pairs_are_left_as_they_are(loaded, task):
    plain, same = (
        predict_logits(
            loaded.model, rows_of(loaded, task, dev_of(loaded, task), symmetric_pairs=on)
        )
        for on in (False, True)
    )
    assert np.array_equal(plain, same)


def test_states_of_a_frozen_encoder_are_kept_for_both_orders(finished_run, tmp_path):
    loaded = load_run(finished_run)
    model, task = loaded.model, TASKS["sts"]
    model.encoder.requires_grad_(False)
    data = rows_of(loaded, task, dev_of(loaded, task), symmetric_pairs=True)
    cached = CachedRows(model, data, tmp_path)
    expected = predict_logits(model, data)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    for num_passes in (2, 2):  # a block of each order, once
        np.testing.assert_allclose(predict_logits(model, cached), expected, atol=1e-6)
        assert len(calls) == num_passes


def test_training_rows_have_one_order(loaded):
    tokenizer, args = loaded.tokenizer, loaded.args
    args = Namespace(**vars(args) | {"symmetric_pairs": True})
    data = load_data(args, tokenizer, 0)
    for split, by_task in data.items():
        found = {name for name, rows in by_task.items() if rows.swapped is not None}
        assert found == (set() if split == "train" else set(PAIRS))


@pytest.fixture
def symmetric_run(run_copy):
    """A run that was trained with the flag, as far as its evaluation sees."""
    path = run_copy / "args.json"
    content = json.loads(path.read_text())
    content["options"]["symmetric_pairs"] = True
    path.write_text(json.dumps(content))
    return run_copy


def command(*flags: object) -> None:
    evaluation.main(evaluation.get_args_parser().parse_args([str(flag) for flag in flags]))


def test_evaluation_of_a_run_does_not_depend_on_the_order(symmetric_run, data_copy, tmp_path):
    """The files with the two columns of texts exchanged give the same scores and predictions."""
    found = []
    for number in range(2):
        out = tmp_path / str(number)
        command("--run", symmetric_run, "--data_dir", data_copy, "--output", out)
        found.append(json.loads((out / "metrics-dev.json").read_text())["metrics"])
        for name in PAIRS:
            path = data_copy / f"{TASKS[name].stem}-dev.csv"
            header, *lines = path.read_text().splitlines()
            one, other = TASKS[name].text_columns
            columns = {one: other, other: one}
            header = "\t".join(columns.get(cell, cell) for cell in header.split("\t"))
            path.write_text("\n".join([header, *lines]) + "\n")
    for name in TASKS:
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6, nan_ok=True)


def test_labelled_text_has_one_probability_in_both_orders(symmetric_run, tmp_path, capsys):
    path = tmp_path / "pairs.txt"
    path.write_text("who is it ?\ta b c\na b c\twho is it ?\n")
    command("--run", symmetric_run, "--task", "para", "--input", path, "--probabilities")
    one, other = list(csv.reader(capsys.readouterr().out.splitlines()[-2:], delimiter="\t"))
    assert one[:2] == other[1::-1] and one[2:] == other[2:]


def test_an_older_run_predicts_as_it_did(run_copy):
    """Its args.json does not have the option."""
    path = run_copy / "args.json"
    content = json.loads(path.read_text())
    del content["options"]["symmetric_pairs"]
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="an older version wrote it; .*symmetric_pairs is False"):
        args = load_run(run_copy).args
    assert args.symmetric_pairs is False


def test_a_saved_contradiction_is_one_line(symmetric_run):
    path = symmetric_run / "args.json"
    content = json.loads(path.read_text())
    content["options"]["pair_encoding"] = "bi"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="--symmetric_pairs needs a task whose pairs have no"):
        load_run(symmetric_run)
