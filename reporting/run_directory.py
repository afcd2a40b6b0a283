"""A run's own directory: made as a whole or not at all, and read back to resume and evaluate."""

import csv
import errno
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from inputs.batches import Rows
from models.bert import BertConfig
from runtime import workers
from runtime.errors import InputError
from runtime.files import atomic_write, read_json, write_json
from runtime.locks import locked
from tasks import Metrics, Task, mean_score, scores

REPORTED_VERSIONS = ("torch", "numpy", "tokenizers", "safetensors", "scipy", "scikit-learn")
MOVABLE = {"filepath": "checkpoints", "predictions_path": "predictions"}


def name_run_dir(args: Namespace) -> None:
    """Set run_dir, filepath and predictions_path.

    Worker 0 chooses: the clock and the disk may look different to another one.

    Raises:
        InputError: one of them is taken.
    """
    if workers.is_main():
        choose_run_dir(args)
    names = ("run_dir", *MOVABLE)
    vars(args).update(workers.broadcast({name: getattr(args, name, None) for name in names}))


def choose_run_dir(args: Namespace) -> None:
    """Choose a free name, and folders that hold no other run's files. Raises InputError."""
    stem = args.run_name or time.strftime("run-%Y%m%d-%H%M%S")
    names = [stem] if args.run_name else [stem, *(f"{stem}-{count}" for count in range(2, 1000))]
    free = [name for name in names if not (Path(args.logdir) / name).exists()]
    if not free:
        raise InputError(
            f"{Path(args.logdir) / stem}: a run of this name exists; choose another --run_name, or "
            f"continue it: --resume {Path(args.logdir) / stem}"
        )
    args.run_dir = str(Path(args.logdir) / free[0])
    for (name, folder), pattern in zip(MOVABLE.items(), ("*.pt", "*-output.csv")):
        if getattr(args, name) is None:
            setattr(args, name, str(Path(args.run_dir) / folder))
        if any(Path(getattr(args, name)).glob(pattern)):
            raise InputError(
                f"--{name} {getattr(args, name)}: holds another run's {folder}; name an empty one"
            )


def make_run_dir(args: Namespace, config: BertConfig, tokenizer: Tokenizer) -> None:
    """Make the directory with args.json, config.json and tokenizer.json, all or nothing.

    With a checkpoint, these files are all that `evaluation.load_run` needs. Worker 0 makes it.

    Raises:
        OSError: the directory cannot be made.
        InputError: another run has taken its name.
    """
    if not workers.is_main():
        return
    check_folders(args)
    partial = Path(args.logdir) / f".partial-{secrets.token_hex(8)}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(
            f"{args.logdir}: no run directory can be made in it: {error.strerror}"
        ) from None
    contents = {"args.json": run_record(args), "config.json": config.to_dict()}
    try:
        for name, folder in MOVABLE.items():
            if Path(getattr(args, name)) == Path(args.run_dir) / folder:
                (partial / folder).mkdir()
        for name, content in contents.items():
            write_json(partial / name, content)
        with atomic_write(partial / "tokenizer.json") as file:
            file.write(tokenizer.to_str())
        os.rename(partial, args.run_dir)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise InputError(
                f"{args.run_dir}: another run has just taken this name; start again, or choose a "
                "--run_name"
            ) from None
        raise OSError(f"{args.run_dir}: cannot be made: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folders(args: Namespace) -> None:
    """Raise OSError now, and not after an epoch, if a folder beside the run's is not writable."""
    for name in MOVABLE:
        folder = Path(getattr(args, name))
        if not folder.is_relative_to(args.run_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise OSError(f"--{name} {folder}: cannot be written: {error.strerror}") from None


def run_record(args: Namespace) -> dict:
    """Return what args.json holds."""
    return {
        "script": args.script,
        "command_line": sys.argv,
        "seed": args.seed,
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "options": vars(args),
    }


def git_revision() -> str | None:
    """Return the commit of this checkout, None outside one.

    `-dirty` is added if files differ from the commit.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    return {name: version(name) for name in REPORTED_VERSIONS}


def read_options(directory: Path | str) -> Namespace:
    """Read a run's options from args.json; its folders follow if the run was moved.

    Raises:
        InputError: this is no directory of a run.
    """
    directory = Path(directory)
    if not (directory / "args.json").is_file():
        raise InputError(f"{directory}: no args.json in it, expected the directory of a run")
    record = read_json(directory / "args.json")
    if not isinstance(record.get("options"), dict) or "run_dir" not in record["options"]:
        raise InputError(f"{directory / 'args.json'}: holds no options of a run")
    args = Namespace(**record["options"])
    for name, folder in MOVABLE.items():
        if Path(getattr(args, name)) == Path(args.run_dir) / folder:
            setattr(args, name, str(directory / folder))
    args.run_dir = str(directory)
    return args


def resumed_options(given: Namespace) -> Namespace:
    """Return the run's own options, with those of the command line.

    The device is that of this command line; the script is the run's own, whichever resumes it.

    Raises:
        InputError: this is no directory of a run, or --filepath holds no last.pt.
    """
    args = read_options(given.resume)
    for name in given.given:
        setattr(args, name, getattr(given, name))
    args.resume, args.use_gpu = given.resume, given.use_gpu
    if "filepath" in given.given and not (Path(args.filepath) / "last.pt").is_file():
        raise InputError(f"--filepath {args.filepath}: no last.pt in it to resume from")
    return args


def keep_options(args: Namespace) -> None:
    """Write what --resume changed into the run's args.json, for whoever reads it next."""
    if not workers.is_main():
        return
    path = Path(args.run_dir) / "args.json"
    write_json(path, read_json(path) | {"options": vars(args)})


@contextmanager
def run_lock(directory: Path | str) -> Iterator[None]:
    """Keep other processes off a run; where there is no run, do nothing.

    Worker 0 holds the lock for all.

    Raises:
        InputError: another process is at work on the run.
    """
    path = Path(directory) / "config.json"  # never written again
    with locked(path) if path.is_file() and workers.is_main() else nullcontext():
        yield


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
