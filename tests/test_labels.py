"""Labels: read from cells, as arrays and batches, and written to prediction files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from every_kind import NAMED_BINARY, TASKS

from inputs.batches import TokenizedTask
from models.pretrained import load_config, load_tokenizer
from tasks import Example, num_examples, own_rows


@pytest.mark.parametrize("name", TASKS)
def test_parse_label(name):
    task = TASKS[name]
    low, high = task.label_range
    texts = ((f"{low}", low), (f"{high}.0", high), ("1", 1), (" 1.0", 1))
    for text, value in texts:
        label = task.parse_label(text)
        if task.label_type is tuple:
            assert label == tuple(int(number == value) for number in range(3))
        else:
            assert label == value and type(label) is task.label_type
    refused = ["one", "nan", "inf", "-inf", "1e999", "0_1", str(low - 1), str(high + 1), "0x1"]
    refused += [] if task.label_type is tuple else [""]
    refused += [str(high + 0.001), "-0.001"] if task.label_type is float else ["0.5"]
    for text in refused:
        with pytest.raises(ValueError):
            task.parse_label(text)
    kind = "a number" if task.label_type is float else "an integer"
    assert f"{kind} in [{low}, {high}]" in task.label_expected
    for class_name in task.class_names or ():
        assert class_name in task.label_expected


def test_labels_may_be_the_names_of_classes():
    assert TASKS["sst"].parse_label("very positive") == 4
    assert NAMED_BINARY.parse_label("right ") == 1
    assert TASKS["subjects"].parse_label("food, travel") == (0, 1, 1)
    assert TASKS["subjects"].parse_label("2,sport") == (1, 0, 1)
    assert TASKS["subjects"].parse_label(" ") == (0, 0, 0)
    for text in ("food,food", "0,sport", "food,", "Food", "food travel"):
        with pytest.raises(ValueError):
            TASKS["subjects"].parse_label(text)


def test_a_class_that_is_called_by_a_number_has_no_other_number():
    stars = replace(TASKS["sst"], name="stars", class_names=("1", "2", "3", "4", "5"))
    assert [stars.parse_label(text) for text in ("1", " 5")] == [0, 4]
    for text in ("0", "1.0", "6"):
        with pytest.raises(ValueError, match="a class of task 'stars': 1, 2, 3, 4, 5$"):
            stars.parse_label(text)
    assert stars.written(np.array([0, 4])) == ["1", "5"]


def test_predictions_are_written_as_numbers():
    assert TASKS["sst"].written(np.array([0, 4])) == [0, 4]
    assert TASKS["sts"].written(np.array([0.5])) == [0.5]
    assert TASKS["subjects"].written(np.array([[1, 0, 1], [0, 0, 0]])) == ["0,2", ""]
    years = replace(TASKS["subjects"], class_names=("1990", "2000", "2010"))
    assert years.written(np.array([[1, 0, 1]])) == ["1990,2010"]


def test_labels_of_a_batch_have_the_kind_s_type_and_shape(tiny_model):
    tokenizer = load_tokenizer(tiny_model, load_config(tiny_model))
    examples = [Example("a", ("a film",), (1, 0, 1)), Example("b", ("it",), (0, 0, 0))]
    batch = TokenizedTask(TASKS["subjects"], examples, tokenizer, 0).batch(np.array([1, 0]))
    assert batch["labels"].tolist() == [[0, 0, 0], [1, 0, 1]]
    assert batch["labels"].dtype == torch.int64 and num_examples(batch) == 2
    own = own_rows(batch["labels"], torch.tensor([False, True]))
    assert own.tolist() == [[1, 0, 1]]
