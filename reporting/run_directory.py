"""A run's own directory: made as a whole or not at all, and read back to resume and evaluate."""

import errno
import os
import secrets
import shlex
import shutil
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from tokenizers import Tokenizer

from models.bert_config import BertConfig
from options.legal import contradiction_of
from options.parsing import make_absolute
from options.saved import check_saved_options, options_to_save
from options.task_table import NAME as TABLE
from reporting.run_record import run_record
from runtime import workers
from runtime.errors import InputError
from runtime.files import (
    atomic_write,
    inside,
    make_folder,
    read_json,
    remove_empty,
    remove_partial,
    write_json,
)
from runtime.locks import locked, reserved

LOCK_NAME = ".multitask-bert.lock"  # in a folder outside the run, while the run is at work
SOUP = "soup"  # in args.json: which runs a run averages that was not trained
MOVABLE = {"filepath": "checkpoints", "predictions_path": "predictions"}


def name_run_dir(args: Namespace, locks: ExitStack) -> None:
    """Set run_dir, filepath and predictions_path, and keep other processes off them.

    Nothing is loaded yet, so that a name that is taken is noticed at once. Worker 0 chooses: the
    clock and the disk may look different to another one.

    Args:
        args: the options of a new run.
        locks: hold the name and the folders until the run ends.

    Raises:
        InputError: one of them is taken.
        OSError: one of them cannot be written.
    """
    if workers.is_main():
        take_name(args, locks)
        lock_folders(args, locks)
    names = ("run_dir", *MOVABLE)
    vars(args).update(workers.broadcast({name: getattr(args, name, None) for name in names}))


def take_name(args: Namespace, locks: ExitStack) -> None:
    """Take a free name for the run's directory. Raises InputError or OSError."""
    logdir = Path(args.logdir)
    stem = args.run_name or time.strftime("run-%Y%m%d-%H%M%S")
    names = [stem] if args.run_name else [stem, *(f"{stem}-{count}" for count in range(2, 1000))]
    try:
        locks.callback(remove_empty, make_folder(logdir))
    except OSError as error:
        raise OSError(f"{logdir}: no run directory can be made in it: {error.strerror}") from None
    for name in names:
        run_dir = logdir / name
        if os.path.lexists(run_dir) or not locks.enter_context(reserved(logdir / f".{name}.lock")):
            continue
        if not os.path.lexists(run_dir):  # nor has another run just got this name and ended
            args.run_dir = str(run_dir)
            return
    message = f"{logdir / stem}: a run of this name is just starting; choose another --run_name"
    if os.path.lexists(logdir / stem):
        message = (
            f"{logdir / stem}: a run of this name exists; choose another --run_name, or continue "
            f"it: --resume {shlex.quote(str(logdir / stem))}"
        )
    raise InputError(message)


def lock_folders(args: Namespace, locks: ExitStack) -> None:
    """Take the folders of checkpoints and predictions; those outside the run's must be free.

    Raises:
        InputError: another run is at work in such a folder, or has left its files there.
        OSError: such a folder cannot be written.
    """
    taken = []
    for (name, folder), pattern in zip(MOVABLE.items(), ("*.pt", "*-output.csv")):
        if getattr(args, name) is None:
            setattr(args, name, str(Path(args.run_dir) / folder))
        path = Path(getattr(args, name))
        refuse_used(path, name, pattern)  # before a lock file is made in it
        if inside(path, args.run_dir) is None and path not in taken:
            take_folder(path, f"--{name}", locks)
            taken.append(path)
        refuse_used(path, name, pattern)


def refuse_used(folder: Path, name: str, pattern: str) -> None:
    """Raise InputError if a folder holds another run's files of this pattern."""
    if any(folder.glob(pattern)):
        raise InputError(
            f"--{name} {folder}: holds another run's {MOVABLE[name]}; name an empty one"
        )


def take_folder(folder: Path, flag: str, locks: ExitStack) -> None:
    """Make a folder outside the run if it is missing, and keep other runs off it.

    Raises:
        InputError: another run is at work in it, or it belongs to another run.
        OSError: it cannot be written.
    """
    real = Path(os.path.realpath(folder))
    for directory in (real, *real.parents):
        if (directory / "args.json").is_file():
            raise InputError(f"{flag} {folder}: is in the run {directory}; name another folder")
    try:
        locks.callback(remove_empty, make_folder(folder))
        is_free = locks.enter_context(reserved(folder / LOCK_NAME))
    except OSError as error:
        raise OSError(f"{flag} {folder}: cannot be written: {error.strerror}") from None
    if not is_free:
        raise InputError(f"{flag} {folder}: in use by another run; name another folder")


def make_run_dir(
    args: Namespace,
    config: BertConfig,
    tokenizer: Tokenizer,
    facts: dict | None = None,
    add: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Make the directory with options, config, tasks and tokenizer, all or nothing.

    With a checkpoint, these files are all that `evaluation.load_run` needs. Worker 0 makes it.

    Args:
        args: the run's options.
        config: of the encoder.
        tokenizer: of the encoder.
        facts: what args.json holds of this run alone.
        add: writes more files into the folder, whose path it gets.

    Raises:
        OSError: the directory cannot be made.
        InputError: another run has taken its name.
    """
    if not workers.is_main():
        return
    partial = Path(args.logdir) / f".partial-{secrets.token_hex(8)}"
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        reason = f"no run directory can be made in it: {error.strerror}"
        raise OSError(f"{args.logdir}: {reason}") from None
    contents = {"args.json": run_record(args) | (facts or {}), "config.json": config.to_dict()}
    try:
        for folder in filter(None, (inside(getattr(args, name), args.run_dir) for name in MOVABLE)):
            (partial / folder).mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_json(partial / name, content)
        for name, text in ((TABLE, args.table.text), ("tokenizer.json", tokenizer.to_str())):
            with atomic_write(partial / name) as file:
                file.write(text)
        add(partial)
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


def read_options(
    directory: Path | str,
    given: dict[str, str] | None = None,
    needed: Iterable[str] = tuple(MOVABLE),
) -> Namespace:
    """Read a run's options from args.json, and check them like a command line.

    The run's folders follow if it was moved.

    Args:
        directory: of the run.
        given: folders that the command line names, by option. Those that args.json names have to be
            inside the run, as the file may be someone else's.
        needed: the folders that have to be known, some of `MOVABLE`. Another one becomes None if it
            is outside the run.

    Raises:
        InputError: this is no run's directory, an option is wrong, or a needed folder is outside.
    """
    directory, given = Path(os.path.abspath(directory)), given or {}
    path = directory / "args.json"
    if not path.is_file():
        raise InputError(f"{directory}: no args.json in it, expected the directory of a run")
    options = read_json(path).get("options")
    args = check_saved_options(options, path)
    for name, folder in MOVABLE.items():
        saved = getattr(args, name)
        relative = Path(folder) if saved is None else inside(saved, args.run_dir)
        if name in given:
            setattr(args, name, given[name])
        elif relative is not None:
            setattr(args, name, str(directory / relative))
            check_own(directory / relative, directory)
        elif name in needed:
            raise InputError(
                f"{path}: {name} is {saved!r}, outside the run; if that is right, add "
                f"--{name} {shlex.quote(str(saved))}"
            )
        else:
            setattr(args, name, None)
    check_own(directory / args.tensorboard_subfolder, directory)
    args.run_dir = str(directory)
    return args


def check_own(folder: Path, directory: Path) -> None:
    """Raise InputError if links lead from a run's folder to a place outside the run."""
    target = os.path.realpath(folder)
    if inside(target, os.path.realpath(directory)) is None:
        raise InputError(
            f"{folder}: leads to {target} by a link; nothing is written outside the run"
        )


def resumed_options(given: Namespace) -> Namespace:
    """Return the run's own options, with those of the command line.

    The device is that of this command line, with a warning if it is another one; the script is the
    run's own, whichever resumes it.

    Raises:
        InputError: this is no directory of a run, or its options and the given ones do not fit.
    """
    make_absolute(given)
    folders = {name: getattr(given, name) for name in MOVABLE if name in given.given}
    args = read_options(given.resume, folders)
    was_on_gpu = args.use_gpu
    for name in set(given.given) - {"resume"}:
        setattr(args, name, getattr(given, name))
    message = contradiction_of(args, is_saved=True)
    if message is not None:
        raise InputError(message)
    if was_on_gpu != given.use_gpu:
        before, now, what = ("GPU", "CPU", "give") if was_on_gpu else ("CPU", "GPU", "drop")
        warnings.warn(
            f"the run was on a {before} and continues on a {now}, with other random numbers; to "
            f"continue as before, stop it and {what} --use_gpu",
            stacklevel=2,
        )
    args.resume, args.use_gpu = given.resume, given.use_gpu
    return args


def lock_resumed(args: Namespace, locks: ExitStack) -> None:
    """Keep other runs off a resumed run's folders, and tidy up after a killed process."""
    if not workers.is_main():
        return
    taken = []
    for name in MOVABLE:
        path = Path(getattr(args, name))
        if inside(path, args.run_dir) is None and path not in taken:
            take_folder(path, f"--{name}", locks)
            taken.append(path)
        path.mkdir(parents=True, exist_ok=True)  # an earlier version made it later
        remove_partial(path)
    remove_partial(Path(args.run_dir))


def find_last(args: Namespace) -> Path | None:
    """Return the checkpoint that a resumed run continues from; None if it has not got so far.

    Raises:
        InputError: it is gone although the run has results, on top of which it would start over; or
            the run is an average of others, which was never trained.
    """
    last, run_dir = Path(args.filepath) / "last.pt", Path(args.run_dir)
    if read_json(run_dir / "args.json").get(SOUP):
        raise InputError(
            f"{run_dir}: is an average of other runs, which has no training to resume; start a new "
            f"run from its weights: --checkpoint {shlex.quote(str(last.with_name('best.pt')))}"
        )
    if last.is_file():
        return last
    for result in (last.with_name("best.pt"), run_dir / "metrics.jsonl"):
        if result.is_file():
            raise InputError(
                f"{last}: missing, although {result} is there; starting over would replace it. "
                "Put last.pt back, or start a new run"
            )
    return None


def keep_options(args: Namespace) -> None:
    """Write what --resume changed into the run's args.json, for whoever reads it next."""
    if not workers.is_main():
        return
    path = Path(args.run_dir) / "args.json"
    write_json(path, read_json(path) | {"options": options_to_save(args)})
    keep_table(path.parent, args)


def keep_table(directory: Path, args: Namespace) -> None:
    """Write the table of tasks into a run or search; one of an older version has none yet."""
    if not (directory / TABLE).exists():
        with atomic_write(directory / TABLE) as file:
            file.write(args.table.text)


@contextmanager
def run_lock(directory: Path | str) -> Iterator[int | None]:
    """Keep other processes off a run; where there is no run, do nothing.

    Worker 0 holds the lock for all. Yields the descriptor of the lock file, None without one.

    Raises:
        InputError: another process is at work on the run.
    """
    path = Path(directory) / "config.json"  # never written again
    with locked(path) if path.is_file() and workers.is_main() else nullcontext() as descriptor:
        yield descriptor
