"""What an evaluation writes: prediction files, and the metrics with what they are about."""

import csv
import os
from argparse import Namespace
from pathlib import Path

import numpy as np

from inputs.batches import Rows
from runtime import workers
from runtime.files import atomic_write, write_json
from tasks import Metrics, Task, mean_score, scores


def write_outputs(
    args: Namespace,
    split: str,
    data: dict[str, Rows],
    metrics: Metrics,
    predictions: dict[str, np.ndarray],
    facts: dict[str, object],
) -> None:
    """Write the prediction files of a split and, where there are labels, metrics-<split>.json.

    Worker 0 writes.

    Args:
        args: the run's options.
        split: dev or test.
        data: task name -> rows.
        metrics: task name -> metrics; empty without labels.
        predictions: task name -> predictions [N], in the rows' order.
        facts: what else metrics-<split>.json says of the run.
    """
    if not workers.is_main():
        return
    for name, rows in data.items():
        path = Path(args.predictions_path) / f"{rows.task.stem}-{split}-output.csv"
        write_predictions(path, rows.task, rows.ids, predictions[name])
    if not metrics:
        return
    content: dict = {"metrics": metrics, "mean": mean_score(scores(metrics)), "confusion": {}}
    content["data_dir"] = os.path.abspath(args.data_dir)
    content["num_rows"] = {name: len(rows) for name, rows in data.items()}
    content |= facts
    for name, rows in data.items():
        if rows.task.class_names is not None and rows.labels is not None:
            confusion = rows.task.confusion(predictions[name], rows.labels)
            content["confusion"][name] = confusion.tolist()
    write_json(Path(args.run_dir) / f"metrics-{split}.json", content)


def write_predictions(path: Path, task: Task, ids: list[str], predictions: np.ndarray) -> None:
    """Write one line per input row, in input order, under the header `id<TAB>Predicted_…`."""
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", task.prediction_column])
        writer.writerows(zip(ids, predictions.tolist()))
