"""Figures of dev predictions."""

from dataclasses import replace

import numpy as np
import pytest

from inputs.batches import Rows
from options.task_table import built_in_tasks
from reporting.figures import MAX_COUNTED, MAX_NAMED, confusion_figure, dev_figures
from tasks.base import MAX_CONFUSION_CLASSES

SST = built_in_tasks()["sst"]


def names_of(num_classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(num_classes))


@pytest.mark.parametrize("num_classes", [2, MAX_COUNTED, MAX_COUNTED + 1, MAX_NAMED + 1])
def test_a_matrix_says_as_much_as_can_be_read(num_classes):
    confusion = np.eye(num_classes, dtype=int) * 3
    axes = confusion_figure(confusion, names_of(num_classes)).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == (num_classes**2 if num_classes <= MAX_COUNTED else 0)
    assert not texts or texts[0] == "3\n100%"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert (labels == list(names_of(num_classes))) == (num_classes <= MAX_NAMED)
    assert axes.images[0].get_array().shape == (num_classes, num_classes)


@pytest.mark.parametrize("num_classes", [MAX_CONFUSION_CLASSES, MAX_CONFUSION_CLASSES + 1])
def test_very_many_classes_have_no_matrix(num_classes):
    rows = Rows()
    names = names_of(num_classes)
    rows.task = replace(SST, label_range=(0, num_classes - 1), class_names=names)
    rows.labels = np.array([0, num_classes - 1])
    is_small = num_classes <= MAX_CONFUSION_CLASSES
    assert rows.task.has_confusion == is_small and rows.task.has_named_classes
    assert list(dev_figures({"sst": rows}, {"sst": rows.labels})) == ["confusion/sst"] * is_small
