"""What a run prints of its scores."""

import numpy as np
import pytest

from inputs.batches import Rows
from options.task_table import built_in_tasks
from reporting.summary import baselines

SST = built_in_tasks()["sst"]


def labelled(labels: list[int], num_in_file: int) -> Rows:
    rows = Rows()
    rows.task, rows.ids, rows.labels = SST, [str(i) for i in range(len(labels))], np.array(labels)
    rows.num_in_file = num_in_file
    return rows


def test_the_baseline_is_the_largest_class_of_the_file_not_of_augmented_rows():
    train = labelled([1, 1, 0, 4, 4, 4], num_in_file=4)
    dev = labelled([1, 1, 1, 4], num_in_file=4)
    assert baselines({"sst": train}, {"sst": dev})["sst"]["accuracy"] == pytest.approx(0.75)
