"""The directory of the data where no --data_dir names it: `data/`, or the sample."""

import warnings
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from datasets import file_name
from options.legal import contradiction_of
from runtime.errors import InputError
from runtime.files import shown_path
from tasks import SPLITS, Task

DATA_DIR = Path(__file__).resolve().parent.parent / "data"


def set_data_dir(args: Namespace) -> None:
    """Set --data_dir where it was not given, in place.

    If no flag chooses the tasks either, those without files there are left out, with a warning: a
    task that is added to the built-in table is not yet in the sample.

    Raises:
        InputError: the other options do not go with the tasks that are left.
    """
    folder = default_data_dir(args.tasks.values())
    args.data_dir = str(folder)
    named = {name for name in args.tasks for split in SPLITS if getattr(args, f"{name}_{split}")}
    named |= {args.task_scheduler, *args.task_weights}
    found = {
        name: task for name, task in args.tasks.items() if name in named or has_files(folder, task)
    }
    missing = [task.stem for name, task in args.tasks.items() if name not in found]
    if args.task is None and args.tasks_file is None and missing and found:
        warnings.warn(
            f"only {', '.join(found)} are trained: {shown_path(folder)} has no files "
            f"{', '.join(missing)}; name another folder with --data_dir",
            stacklevel=2,
        )
        args.tasks = found
        message = contradiction_of(args)
        if message is not None:
            raise InputError(message)


def default_data_dir(tasks: Iterable[Task]) -> Path:
    """Return the directory of the real files, or the sample's if that has those of more tasks.

    A warning says which files are missing where only some are there.
    """
    tasks = list(tasks)
    folders = (DATA_DIR, DATA_DIR / "sample")
    counts = [sum(has_files(folder, task) for task in tasks) for folder in folders]
    if counts[0] and counts[0] >= counts[1]:
        return folders[0]
    tasks = [task for task in tasks if has_files(folders[1], task)]
    missing = [path.name for task in tasks for path in missing_files(DATA_DIR, task)]
    if len(missing) < len(SPLITS) * len(tasks):
        warnings.warn(
            f"{shown_path(DATA_DIR)} has no {', '.join(missing)}, so {shown_path(folders[1])} is "
            "read; add what is missing, or name the tasks that are complete with --task",
            stacklevel=2,
        )
    return folders[1]


def has_files(folder: Path, task: Task) -> bool:
    """Tell whether a folder has the three files of a task."""
    return not missing_files(folder, task)


def missing_files(folder: Path, task: Task) -> list[Path]:
    """Return which of the three files of a task a folder does not have."""
    paths = [folder / file_name(task, split) for split in SPLITS]
    return [path for path in paths if not path.is_file()]
