"""A run's own directory: made whole or not at all, and read back for resuming and evaluating."""

import errno
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenizers import Tokenizer

import workers
from checkpoint import atomic_write
from errors import InputError
from locks import locked
from models.bert import BertConfig
from models.pretrained import read_json

REPORTED_VERSIONS = ("torch", "numpy", "tokenizers", "safetensors", "scipy", "scikit-learn")
MOVABLE = {"filepath": "checkpoints", "predictions_path": "predictions"}


def name_run_dir(args: Namespace) -> None:
    """Set run_dir, filepath, predictions_path. Raises InputError if one of them is taken.

    Worker 0 chooses: the clock and the disk may look different to another one.
    """
    if workers.is_main():
        choose_run_dir(args)
    names = ("run_dir", *MOVABLE)
    vars(args).update(workers.broadcast({name: getattr(args, name, None) for name in names}))


def choose_run_dir(args: Namespace) -> None:
    stem = args.run_name or time.strftime("run-%Y%m%d-%H%M%S")
    names = [stem] if args.run_name else [stem, *(f"{stem}-{count}" for count in range(2, 1000))]
    free = [name for name in names if not (Path(args.logdir) / name).exists()]
    if not free:
        raise InputError(
            f"{Path(args.logdir) / stem}: a run of this name exists; choose another --run_name, or "
            f"go on with it: --resume {Path(args.logdir) / stem}"
        )
    args.run_dir = str(Path(args.logdir) / free[0])
    for name, folder in MOVABLE.items():
        if getattr(args, name) is None:
            setattr(args, name, str(Path(args.run_dir) / folder))
    if any(Path(args.filepath).glob("*.pt")):
        raise InputError(
            f"--filepath {args.filepath}: holds another run's checkpoints; name an empty one"
        )
    if any(Path(args.predictions_path).glob("*-output.csv")):
        raise InputError(
            f"--predictions_path {args.predictions_path}: holds another run's predictions; name an "
            "empty one"
        )


def make_run_dir(args: Namespace, config: BertConfig, tokenizer: Tokenizer) -> None:
    """Make the directory with args.json, config.json and tokenizer.json in it, all or nothing.

    With a checkpoint these are all that `load_run` needs. Worker 0 makes it. Raises OSError or
    InputError in one line.
    """
    if not workers.is_main():
        return
    check_folders(args)
    logdir = Path(args.logdir)
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=logdir))
    except OSError as error:
        raise OSError(f"{logdir}: no run directory can be made in it: {error.strerror}") from None
    contents = {"args.json": run_record(args), "config.json": config.to_dict()}
    try:
        for name, content in contents.items():
            write_json(partial / name, content)
        with atomic_write(partial / "tokenizer.json") as file:
            file.write(tokenizer.to_str())
        partial.chmod(0o777 & ~current_umask())
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
    """Raise OSError, now and not after an epoch, if a folder beside the run's cannot be written."""
    for name in MOVABLE:
        folder = Path(getattr(args, name))
        if not folder.is_relative_to(args.run_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise OSError(f"--{name} {folder}: cannot be written: {error.strerror}") from None


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def run_record(args: Namespace) -> dict:
    """What args.json holds."""
    return {
        "script": args.script,
        "command_line": sys.argv,
        "seed": args.seed,
        "git_revision": git_revision(),
        "versions": {"python": platform.python_version()} | package_versions(),
        "options": vars(args),
    }


def git_revision() -> str | None:
    """The commit of this checkout, `-dirty` added if files differ from it; None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def package_versions() -> dict[str, str]:
    versions = {}
    for name in REPORTED_VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def json_values(values: object) -> object:
    """The same values with null for nan, which JSON does not know."""
    if isinstance(values, dict):
        return {key: json_values(value) for key, value in values.items()}
    if isinstance(values, float) and math.isnan(values):
        return None
    return values


def write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as file:
        json.dump(json_values(content), file, indent=2)
        file.write("\n")


def read_options(directory: Path | str) -> Namespace:
    """Options of a run, from args.json; its folders follow if it moved. Raises InputError."""
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
    """The run's own options, with those of the command line. Raises InputError.

    The device is that of this command line; the script is the run's own, whichever resumes it.
    """
    args = read_options(given.resume)
    for name in given.given:
        setattr(args, name, getattr(given, name))
    args.resume, args.use_gpu = given.resume, given.use_gpu
    if "filepath" in given.given and not (Path(args.filepath) / "last.pt").is_file():
        raise InputError(f"--filepath {args.filepath}: no last.pt in it to go on from")
    return args


@contextmanager
def run_lock(directory: str | None) -> Iterator[None]:
    """Keep other processes off a run; None or no run there: nothing to keep them off.

    Worker 0 holds it for all. Raises InputError if another process is at work on the run.
    """
    path = None if directory is None else Path(directory) / "config.json"  # never written again
    with locked(path) if path and path.is_file() and workers.is_main() else nullcontext():
        yield


def keep_options(args: Namespace) -> None:
    """Write what --resume gave anew into the run's args.json, for whoever reads it next."""
    if not workers.is_main():
        return
    path = Path(args.run_dir) / "args.json"
    write_json(path, read_json(path) | {"options": vars(args)})
