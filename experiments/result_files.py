"""One small JSON file per finished run, and all that the tables need is in it.

`results/<row>-seed<seed>-<settings key>.json` holds scores, cost and, for every dev example,
whether it was right, or its predicted score. An average of runs has all of their seeds in its name,
as in `seed1+2+3`. `results/dev_labels-<data>.json` holds the labels of the tasks that predict
scores, as numbers, and of the others the share of the largest class, once for all runs on the same
files. Neither holds a text or a path.
"""

import csv
import hashlib
import json
import math
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.precision import processor_name
from datasets import read_examples, task_file
from experiments.encoding import decode_right, decode_scores, encode_right, encode_scores
from experiments.row_files import Row
from options.task_table import built_in_tasks, file_options
from reporting.metrics_file import read_lines
from reporting.run_directory import read_options
from runtime.device import gpu_name
from runtime.errors import InputError
from runtime.files import read_json, read_text, write_json
from runtime.locks import locked
from tasks import Task

FORMAT = "multitask-bert-result-1"
# Recorded also where they are not given: later defaults must not mix with today's.
SIZES = {
    *("model_name", "epochs", "samples_per_epoch", "num_batches_per_epoch", "batch_size"),
    *("max_length", "lr", "dev_samples", "use_amp"),
}
# These change no score. What is in the data files is in the fingerprint.
NEUTRAL = {
    *("data_dir", "local_files_only", "no_test_predictions", "profiler", "save_every"),
    *("tensorboard_subfolder", "write_summary", "seed", "run_name", "logdir"),
}


class Settings(NamedTuple):
    """What all runs of a table share.

    Attributes:
        options: as `portable_options` returns them.
        data: the `fingerprint` of the data files.
    """

    options: dict[str, object]
    data: str

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that differ for any other option or data file."""
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()[:8]


def portable_options(args: Namespace) -> dict[str, object]:
    """Return the options that scores depend on: the given ones and all sizes.

    A model's directory is recorded by its last name and a digest of its files.
    """
    options = {
        name: getattr(args, name)
        for name in sorted({*SIZES, *args.given} - NEUTRAL - {*file_options(args.table.tasks)})
    }
    if Path(args.model_name).is_dir():
        options["model_name"] = local_model(Path(args.model_name).resolve())
    return options


def local_model(directory: Path) -> str:
    """Return a model directory's last name and eight digits of its files, as in `export@1f2e3d4c`.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{directory.name}@{digest.hexdigest()[:8]}"


def fingerprint(args: Namespace) -> str:
    """Return twelve hexadecimal digits of the train and dev files of all tasks. Raises OSError."""
    tasks = args.tasks.values()
    files = [task_file(args, task, split) for task in tasks for split in ("train", "dev")]
    digests = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


def has_flags_of(record: dict, row: Row, options: dict) -> bool:
    """Tell whether a result, or a run's state, is of the row's present script and flags.

    Args:
        record: the result or the state.
        row: the row.
        options: those of every run, which may replace the row's learning rate.
    """
    return (record["script"], record["flags"]) == (row.script, row.flags_with(options))


def is_of_members(result: dict, members: list[dict]) -> bool:
    """Tell whether a result averages the runs of these results, not earlier ones of their seeds.

    A result of training averages none.
    """
    return result.get("member_means", []) == [member["mean"] for member in members]


def identity(row: Row, seed: int, settings: Settings) -> dict[str, object]:
    """Return what a result file says first: what it is a result of."""
    return {
        "format": FORMAT,
        "row": row.name,
        "title": row.title,
        "seed": seed,
        "settings_key": settings.key,
        "settings": settings.options,
        "data": settings.data,
        "script": row.script,
        "flags": row.flags_with(settings.options),
    }


def write_result(
    path: Path,
    row: Row,
    settings: Settings,
    run_dir: Path,
    parts: list[float],
    revisions: list[str],
) -> dict:
    """Write the result file of a finished run, and add to the labels' file what it lacks.

    Args:
        path: the result file.
        row: the run's row.
        settings: what the run shares with the others of its table.
        run_dir: the run's directory.
        parts: the seconds of each of the run's processes.
        revisions: the git revisions of these processes, each once.

    Returns:
        What the result file holds.

    Raises:
        InputError: the run's outputs are missing or do not fit its dev files.
    """
    args = read_options(run_dir)
    dev = read_json(run_dir / "metrics-dev.json")
    record = read_json(run_dir / "args.json")
    facts = {
        "options": portable_options(args),
        "git_revision": record["git_revision"],  # of its first process
        "git_revisions": [*dict.fromkeys([str(record["git_revision"]), *revisions])],
        "versions": record["versions"],
        "hardware": hardware(args.use_gpu),
        **cost(run_dir),
        # Separate models each keep their own.
        **({"best_epoch": dev["best_epochs"]} if "best_epochs" in dev else {}),
        "wall_seconds": round(sum(parts), 1),
        "processes": len(parts),
        # Null where main does not report them.
        "num_parameters": dev.get("num_parameters"),
        "conflicts": dev.get("conflicts"),
    }
    return write_outcome(path, identity(row, args.seed, settings) | facts, args)


def write_outcome(path: Path, facts: dict[str, object], args: Namespace) -> dict:
    """Write a result file: the given facts, and the scores and predictions of a run directory.

    Adds to the labels' file what it lacks.

    Args:
        path: the result file.
        facts: what it says beside scores and predictions, with its `identity`.
        args: the options of the run directory.

    Returns:
        What the result file holds.

    Raises:
        InputError: the directory's outputs are missing or do not fit its dev files.
    """
    dev = read_json(Path(args.run_dir) / "metrics-dev.json")
    labels = read_labels(args)
    predictions = {name: read_predictions(args, name, labels[name]) for name in args.tasks}
    scores = {"dev": dev["metrics"], "mean": dev["mean"], "predictions": predictions}
    add_labels(path.parent / f"dev_labels-{facts['data']}.json", labels)
    write_json(path, facts | scores, make_parents=True)
    return facts | scores


def revisions_of(results: Iterable[dict]) -> list[str]:
    """Return the git revisions of all processes of some results, each once, in order."""
    return sorted(
        {str(name) for r in results for name in r.get("git_revisions", [r["git_revision"]])}
    )


def sums(parts: Iterable[dict], key: str) -> dict[str, int]:
    """Return the sum of each task's count under a key, over epochs or over runs."""
    return dict(sum((Counter(part[key]) for part in parts), Counter()))


def add_labels(path: Path, labels: dict[str, np.ndarray]) -> None:
    """Add what the labels [N] of tasks tell to the labels' file, as far as it lacks it."""
    with locked(path.with_suffix(".lock"), wait=True):  # the runs of an array add to it at once
        known = read_json(path) if path.is_file() else {"num_dev": {}, "labels": {}}
        shares = known.setdefault("majority", {})
        for name, values in labels.items():
            known["num_dev"].setdefault(name, len(values))
            if is_score(built_in_tasks()[name]):
                known["labels"].setdefault(name, encode_scores(values))
            else:
                counts = np.unique(values, return_counts=True)[1]
                shares.setdefault(name, int(counts.max()) / len(values))
        write_json(path, known, make_parents=True)


def cost(run_dir: Path) -> dict[str, object]:
    """Return best epoch, examples, updates, seconds and memory, from metrics.jsonl.

    Seconds are those of the updates that count: not those of evaluation, nor of what was trained
    again after a kill. Memory is the largest of the run's processes.
    """
    epochs = read_lines(run_dir / "metrics.jsonl")
    seconds = [sum(line["examples"].values()) / line["examples_per_second"] for line in epochs]
    return {
        # The first of equals, as in training.
        "best_epoch": max(epochs, key=lambda line: line["mean"])["epoch"],
        **{key: sums(epochs, key) for key in ("examples", "updates")},
        "training_seconds": round(sum(seconds), 2),
        "peak_memory_mib": max(line["peak_memory_mib"] for line in epochs),
    }


def hardware(use_gpu: bool) -> str:
    """Return the GPU's name, or the processor's and how many threads compute on it."""
    if use_gpu:
        return gpu_name()
    num_threads = torch.get_num_threads()
    return f"{processor_name()}, {num_threads} thread{'s' * (num_threads > 1)}"


def is_score(task: Task) -> bool:
    """Tell whether the task predicts a number, not a class that is right or wrong."""
    return task.label_type is float


def read_labels(args: Namespace) -> dict[str, np.ndarray]:
    """Return the labels [N] of the dev files of the run's tasks."""
    examples = {
        name: read_examples(task_file(args, task, "dev"), task, True, args.skip_bad_rows)
        for name, task in args.tasks.items()
    }
    return {name: np.array([row.label for row in rows]) for name, rows in examples.items()}


def read_predictions(args: Namespace, name: str, labels: np.ndarray) -> str:
    """Return what a prediction file of dev holds, encoded.

    Args:
        args: the run's options.
        name: the task.
        labels: the labels of its dev file, [N].

    Raises:
        InputError: there is no such file, or it has another number of rows than dev.
    """
    path = Path(args.predictions_path) / f"{args.tasks[name].stem}-dev-output.csv"
    rows = list(csv.reader(read_text(path).splitlines(), delimiter="\t"))[1:]
    if len(rows) != len(labels):
        raise InputError(
            f"{path}: {len(rows)} predictions, expected {len(labels)}, one per dev row"
        )
    values = np.array([float(prediction) for _, prediction in rows])
    return encode_scores(values) if is_score(args.tasks[name]) else encode_right(values == labels)


def read_results(results_dir: Path) -> list[dict]:
    """Return every result, predictions decoded to [N] arrays, in the order of the files' names.

    Raises:
        InputError: a result is of another format, or does not fit its labels.
    """
    results = []
    for path in sorted(results_dir.glob("*-seed*.json")):
        result = read_json(path)
        if result.get("format") != FORMAT:
            raise InputError(f"{path}: format is {result.get('format')!r}, expected {FORMAT!r}")
        num_dev = read_labels_file(results_dir, result["data"])["num_dev"]
        for name, text in result["predictions"].items():
            is_number = is_score(built_in_tasks()[name])
            values = decode_scores(text) if is_number else decode_right(text, num_dev[name])
            if len(values) != num_dev[name]:
                raise InputError(f"{path}: {len(values)} {name} examples, expected {num_dev[name]}")
            result["predictions"][name] = values
        for metrics in result["dev"].values():
            metrics |= {key: math.nan for key, value in metrics.items() if value is None}
        results.append(result)
    return results


def read_dev_labels(results_dir: Path, data: str) -> dict[str, np.ndarray]:
    """Return the labels [N] of the tasks that predict scores, on files with this fingerprint."""
    labels = read_labels_file(results_dir, data)["labels"]
    return {name: decode_scores(text) for name, text in labels.items()}


def read_majority(results_dir: Path, data: str) -> dict[str, float]:
    """Return the score of the best constant prediction of each task on these dev files.

    That is the share of the largest class. A constant score has no correlation, which counts as 0.
    A task whose share an older labels' file lacks is left out.
    """
    found = read_labels_file(results_dir, data)
    return found.get("majority", {}) | dict.fromkeys(found["labels"], 0.0)


def read_labels_file(results_dir: Path, data: str) -> dict:
    """Return what write_result wrote about the dev files with this fingerprint.

    Raises:
        InputError: there is no such file.
    """
    path = results_dir / f"dev_labels-{data}.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file, but results on these data; restore it")
    return read_json(path)
