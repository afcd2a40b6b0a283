"""What an evaluation writes: prediction files, and the metrics with what they are about.

Metrics and predictions on other data than the run's own, or in a folder that the user names, go to
a folder of their own. There `source-<split>.json` says whose they are.
"""

import csv
import os
import re
from argparse import Namespace
from pathlib import Path

import numpy as np

from datasets import task_file, use_data
from inputs.batches import Rows
from reporting.run_directory import check_own
from runtime import workers
from runtime.errors import InputError
from runtime.files import atomic_write, make_folder, read_json, write_json
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

    Without labels, a metrics file of earlier predictions is removed. Worker 0 writes.

    Args:
        args: the run's options.
        split: dev or test.
        data: task name -> rows.
        metrics: task name -> metrics; empty without labels.
        predictions: task name -> predictions as `Task.decode` returns them, in the rows' order.
        facts: what else metrics-<split>.json says of the run.
    """
    if not workers.is_main():
        return
    for name, rows in data.items():
        file = Path(args.predictions_path) / f"{rows.task.stem}-{split}-output.csv"
        write_predictions(file, rows.task, rows.ids, predictions[name])
    path = Path(args.run_dir) / f"metrics-{split}.json"
    if not metrics:
        path.unlink(missing_ok=True)  # it would be of other rows than the new predictions
        return
    content: dict = {"metrics": metrics, "mean": mean_score(scores(metrics)), "confusion": {}}
    content["files"] = evaluated_files(args, split)
    content["num_rows"] = {name: len(rows) for name, rows in data.items()}
    content |= facts
    for name, rows in data.items():
        if rows.task.has_confusion and rows.labels is not None:
            confusion = rows.task.confusion(predictions[name], rows.labels)
            content["confusion"][name] = confusion.tolist()
    write_json(path, content)


def evaluated_files(args: Namespace, split: str) -> dict[str, str]:
    """Return the absolute path of every task's file of a split."""
    return {
        name: os.path.abspath(task_file(args, task, split)) for name, task in args.tasks.items()
    }


def in_folder(args: Namespace, folder: Path) -> Namespace:
    """Return the options of a run whose results go to another folder."""
    places = {"run_dir": str(folder), "predictions_path": str(folder / "predictions")}
    return Namespace(**(vars(args) | places))


def redirect(args: Namespace, split: str, data_dir: str | None, output: str | None) -> None:
    """Let an evaluation read other data or write to another folder; change the options in place.

    Args:
        args: the run's options.
        split: dev or test.
        data_dir: the other data; None for the run's own.
        output: the folder; None for `on-<name of the data>` in the run.

    Raises:
        InputError: the folder has other results, or leads elsewhere by a link.
        OSError: it cannot be made.
    """
    run_dir = Path(args.run_dir)
    if data_dir is not None:
        use_data(args, split, data_dir)
    name = re.sub(r"[^\w.-]", "_", os.path.basename(os.path.realpath(args.data_dir)))[:100]
    folder = run_dir / f"on-{name or 'root'}" if output is None else Path(output)
    if output is None:
        check_own(folder, run_dir)
    check_own(folder / "predictions", folder)
    source = {"run": str(run_dir), "files": evaluated_files(args, split)}
    path = folder / f"source-{split}.json"
    found = read_json(path) if path.is_file() else None
    if found != source and holds_results(folder, split):
        whose = "other results" if found is None else f"the results of {found}"
        raise InputError(f"{folder}: holds {whose}; name another folder with --output")
    vars(args).update(vars(in_folder(args, folder)))
    if workers.is_main():
        try:
            make_folder(folder / "predictions")
            write_json(path, source)
        except OSError as error:
            raise OSError(f"{folder}: no results can be written: {error}; see --output") from None


def holds_results(folder: Path, split: str) -> bool:
    """Tell whether a folder is a run's, or holds metrics or predictions of a split."""
    names = ("args.json", f"metrics-{split}.json", f"source-{split}.json")
    if any((folder / name).exists() for name in names):
        return True
    return any((folder / "predictions").glob(f"*-{split}-output.csv"))


def write_predictions(path: Path, task: Task, ids: list[str], predictions: np.ndarray) -> None:
    """Write one line per input row, in input order, under the header `id<TAB>Predicted_…`."""
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", task.prediction_column])
        writer.writerows(zip(ids, task.written(predictions)))
