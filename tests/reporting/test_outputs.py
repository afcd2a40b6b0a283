"""What an evaluation writes."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inputs.batches import Rows
from options.task_table import built_in_tasks
from reporting.outputs import write_outputs
from tasks.base import MAX_CONFUSION_CLASSES

SST = built_in_tasks()["sst"]


@pytest.fixture
def write(tmp_path):
    """write(task, metrics): the outputs of two rows; returns the path of the metrics."""

    def outputs(task, metrics: dict) -> Path:
        rows = Rows()
        rows.task, rows.ids, rows.labels = task, ["a", "b"], np.array([0, 1])
        args = Namespace(run_dir=tmp_path, predictions_path=tmp_path, tasks={})
        write_outputs(args, "test", {"sst": rows}, metrics, {"sst": rows.labels}, {})
        assert len(list(tmp_path.glob("*-test-output.csv"))) == 1
        return tmp_path / "metrics-test.json"

    return outputs


METRICS = {"sst": {"accuracy": 1.0, "macro_f1": 1.0}}


def test_predictions_of_rows_without_labels_leave_no_metrics_of_other_rows(write):
    assert json.loads(write(SST, METRICS).read_text())["mean"] == 1
    assert not write(SST, {}).exists()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_matrix_is_written_of_classes_that_are_not_too_many(write, extra):
    num_classes = MAX_CONFUSION_CLASSES + extra
    names = tuple(map(str, range(num_classes)))
    task = replace(SST, label_range=(0, num_classes - 1), class_names=names)
    found = json.loads(write(task, METRICS).read_text())["confusion"]
    assert len(found.get("sst", [])) == (0 if extra else num_classes)
