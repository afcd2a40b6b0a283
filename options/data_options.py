"""The options of the data: the folder, the files of each task, the tasks."""

import argparse

from options.parsing import EVERY_TASK
from options.types import few, positive_int, printable
from tasks import SPLITS, Task


def add_data_options(parser: argparse.ArgumentParser, tasks: dict[str, Task]) -> None:
    """Add every option of the data to a parser; each of the tasks has flags for its files."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data_dir",
        type=printable,
        help="folder of the tasks' files; unset: data if they are there, else data/sample",
    )
    for task in tasks.values():
        for split in SPLITS:
            flags = [f"--{name}_{split}" for name in (task.name, *task.aliases)]
            dest = f"{task.name}_{split}"
            add(
                *flags,
                dest=dest,
                type=printable,
                metavar="FILE",
                help=f"{split} file of {task.name} alone",
            )
    add(
        "--skip_bad_rows",
        action="store_true",
        help="skip bad rows and print which; off: a bad row is an error",
    )
    add(
        "--tasks",
        dest="tasks_file",
        type=printable,
        metavar="FILE",
        help="TOML table of tasks; unset: the built-in tasks.toml",
    )
    add(
        "--task",
        nargs="+",
        choices=[EVERY_TASK, *tasks],
        help="train and evaluate these tasks alone; unset, or multitask: all of the table",
    )
    add(
        "--augment",
        type=few,
        default=0,
        help="EDA variants per sentence of a task's small classes, and each pair swapped once; "
        "0: none",
    )
    add(
        "--max_length",
        type=positive_int,
        default=128,
        help="tokens of a sequence (of both sentences under cross), special tokens included; "
        "the rest is cut off",
    )
