"""One small JSON file per finished run, and all that the tables need is in it.

`results/<row>-seed<seed>-<settings key>.json` holds scores, cost and, for every dev example,
whether it was right, or its predicted score; `results/dev_labels-<data>.json` holds the labels of
tasks that predict scores, as numbers, once for all runs on the same files. Neither holds a text or
a path.
"""

import base64
import csv
import hashlib
import json
import math
import platform
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datasets import SPLITS, read_examples, task_file
from experiments.row_files import Row
from reporting.run_directory import read_options
from runtime.errors import InputError
from runtime.files import read_json, write_json
from runtime.locks import locked
from tasks import TASKS, Task

FORMAT = "multitask-bert-result-1"
# Recorded also where they are not given: later defaults must not mix with today's.
SIZES = ("model_name", "epochs", "samples_per_epoch", "num_batches_per_epoch", "batch_size")
SIZES += ("max_length", "lr", "dev_samples")
# Change no score. What is in the data files is in the fingerprint.
NEUTRAL = {"data_dir", "local_files_only", "no_test_predictions", "profiler", "save_every"}
NEUTRAL |= {"tensorboard_subfolder", "write_summary", "seed", "run_name", "logdir"}
NEUTRAL |= {f"{name}_{split}" for name in TASKS for split in SPLITS}


@dataclass(frozen=True)
class Settings:
    """What all runs of a table share. options: as `portable_options`. data: `fingerprint`."""

    options: dict[str, object]
    data: str

    @property
    def key(self) -> str:
        """Eight hexadecimal digits; different for any other option or data file."""
        text = json.dumps([self.options, self.data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def portable_options(args: Namespace) -> dict[str, object]:
    """The options that scores depend on: given ones and all sizes; a directory's last name alone"""
    names = sorted({*SIZES, *args.given} - NEUTRAL)
    options = {name: getattr(args, name) for name in names}
    if Path(args.model_name).is_dir():
        options["model_name"] = Path(args.model_name).resolve().name
    return options


def fingerprint(args: Namespace) -> str:
    """Twelve hexadecimal digits of the train and dev files of all tasks. Raises OSError."""
    digest = hashlib.sha256()
    for task in TASKS.values():
        for split in ("train", "dev"):
            digest.update(hashlib.sha256(task_file(args, task, split).read_bytes()).digest())
    return digest.hexdigest()[:12]


def result_path(results_dir: Path, row: Row, seed: int, settings: Settings) -> Path:
    return results_dir / f"{row.name}-seed{seed}-{settings.key}.json"


def is_finished(path: Path, row: Row) -> bool:
    """Whether `path` holds a result of the row as its file is now."""
    return path.is_file() and has_flags_of(read_json(path), row)


def has_flags_of(result: dict, row: Row) -> bool:
    """Whether a result, or the state of a run, was made with the row's present script and flags."""
    return (result["script"], result["flags"]) == (row.script, list(row.flags))


def write_result(path: Path, row: Row, settings: Settings, run_dir: Path, parts: list) -> dict:
    """Write the result file of the finished run in `run_dir`, and the labels' file if it is new.

    parts: seconds of each of the run's processes. Raises InputError for a run without outputs.
    """
    args = read_options(run_dir)
    labels = read_labels(args)
    dev = read_json(run_dir / "metrics-dev.json")
    record = read_json(run_dir / "args.json")
    result = {
        "format": FORMAT,
        "row": row.name,
        "title": row.title,
        "seed": args.seed,
        "settings_key": settings.key,
        "settings": settings.options,
        "data": settings.data,
        "script": row.script,
        "flags": list(row.flags),
        "options": portable_options(args),
        "git_revision": record["git_revision"],
        "versions": record["versions"],
        "hardware": hardware(args.use_gpu),
        "dev": dev["metrics"],
        "mean": dev["mean"],
        **cost(run_dir),
        "wall_seconds": round(sum(parts), 1),
        "processes": len(parts),
        # Null where main does not report them.
        "num_parameters": dev.get("num_parameters"),
        "conflicts": dev.get("conflicts"),
        "predictions": {name: read_predictions(args, name, labels[name]) for name in args.tasks},
    }
    labels_path = path.parent / f"dev_labels-{settings.data}.json"
    with locked(labels_path.with_suffix(".lock"), wait=True):  # runs of an array add to it at once
        known = read_json(labels_path) if labels_path.is_file() else {"num_dev": {}, "labels": {}}
        if not labels.keys() <= known["num_dev"].keys():
            known["num_dev"] |= {name: len(values) for name, values in labels.items()}
            scored = {name: values for name, values in labels.items() if is_score(TASKS[name])}
            known["labels"] |= {name: encode_scores(values) for name, values in scored.items()}
            write_json(labels_path, known)
    write_json(path, result)
    return result


def cost(run_dir: Path) -> dict[str, object]:
    """Best epoch, examples, updates, seconds and memory, from metrics.jsonl.

    Seconds are those of the updates that count: not evaluation, nor what a kill made to be trained
    again. Memory is the largest of the run's processes.
    """
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    seconds = [sum(line["examples"].values()) / line["examples_per_second"] for line in epochs]
    best = max(epochs, key=lambda line: line["mean"])  # the first of equals, as in training
    return {
        "best_epoch": best["epoch"],
        "examples": total(epochs, "examples"),
        "updates": total(epochs, "updates"),
        "training_seconds": round(sum(seconds), 2),
        "peak_memory_mib": max(line["peak_memory_mib"] for line in epochs),
    }


def total(epochs: list[dict], key: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line in epochs:
        for name, number in line[key].items():
            sums[name] = sums.get(name, 0) + number
    return sums


def hardware(use_gpu: bool) -> str:
    """The GPU's name, or the processor's and how many threads compute on it."""
    if use_gpu:
        return torch.cuda.get_device_name()
    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(": ")[2] if lines else name
    num_threads = torch.get_num_threads()
    return f"{name}, {num_threads} thread{'s' * (num_threads > 1)}"


def is_score(task: Task) -> bool:
    """Whether the task predicts a number, not a class that is right or wrong."""
    return task.label_type is float


def read_labels(args: Namespace) -> dict[str, np.ndarray]:
    """Labels [N] of the dev files of the run's tasks."""
    labels = {}
    for name in args.tasks:
        path = task_file(args, TASKS[name], "dev")
        examples = read_examples(path, TASKS[name], True, args.skip_bad_rows)
        labels[name] = np.array([example.label for example in examples])
    return labels


def read_predictions(args: Namespace, name: str, labels: np.ndarray) -> str:
    """A prediction file, encoded. Raises InputError if it has another number of rows than dev."""
    path = Path(args.predictions_path) / f"{TASKS[name].stem}-dev-output.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    if len(rows) != len(labels):
        raise InputError(f"{path}: {len(rows)} predictions, expected {len(labels)}, one a dev row")
    predictions = np.array([float(prediction) for _, prediction in rows])
    if is_score(TASKS[name]):
        return encode_scores(predictions)
    return encode_right(predictions == labels)


def encode_right(is_right: np.ndarray) -> str:
    """[N] booleans as base64 of bits, eight a byte, the first one highest."""
    return base64.b64encode(np.packbits(is_right.astype(bool)).tobytes()).decode()


def decode_right(text: str, num_examples: int) -> np.ndarray:
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=num_examples).astype(np.float64)


def encode_scores(scores: np.ndarray) -> str:
    """[N] numbers with up to four decimals, a space between: a list, but on one line of JSON."""
    return " ".join(f"{score:.4f}".rstrip("0").rstrip(".") for score in scores)


def decode_scores(text: str) -> np.ndarray:
    return np.array([float(score) for score in text.split()])


def read_results(results_dir: Path) -> list[dict]:
    """Every result, predictions decoded to [N] arrays, by file name. Raises InputError."""
    results = []
    for path in sorted(results_dir.glob("*-seed*.json")):
        result = read_json(path)
        if result.get("format") != FORMAT:
            raise InputError(f"{path}: format is {result.get('format')!r}, expected {FORMAT!r}")
        labels = read_labels_file(results_dir, result["data"])
        for name, text in result["predictions"].items():
            num_examples = labels["num_dev"][name]
            is_number = is_score(TASKS[name])
            values = decode_scores(text) if is_number else decode_right(text, num_examples)
            if len(values) != num_examples:
                raise InputError(f"{path}: {len(values)} {name} examples, expected {num_examples}")
            result["predictions"][name] = values
        for metrics in result["dev"].values():
            metrics |= {key: math.nan for key, value in metrics.items() if value is None}
        results.append(result)
    return results


def read_dev_labels(results_dir: Path, data: str) -> dict[str, np.ndarray]:
    """Labels [N] of the tasks that predict scores, on the files with this fingerprint."""
    labels = read_labels_file(results_dir, data)["labels"]
    return {name: decode_scores(text) for name, text in labels.items()}


def read_labels_file(results_dir: Path, data: str) -> dict:
    path = results_dir / f"dev_labels-{data}.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file, but results on these data; restore it")
    return read_json(path)
