"""Rows of the results table: one arguments file each, `rows/<row>.txt`, read by an entry script.

# Gradient Vaccine                      the first line: the title in the tables
# script: train_multitask_pal.py        entry script; unset: train_multitask.py
# control: round_robin                  row that it is compared with; unset: joint
# part of: single_task                  method of several rows, each with scores of its own tasks
# average of: round_robin               trains nothing: compare.py averages that row's seeds as the
#                                       flags say, --ensemble, --soup or --soup --greedy
# not run by default: needs a GPU       why; the row runs if the command line names it
# Any other line like this is a comment.
--projection vaccine
"""

from pathlib import Path
from typing import NamedTuple

from options.parsing import ArgumentParser
from runtime.errors import InputError
from runtime.files import read_text

BASELINE = "joint"
TRANSFORMERS = "experiments/transformers_baseline.py"
SCRIPTS = ("train_multitask.py", "train_multitask_pal.py", TRANSFORMERS)
AVERAGING = "compare.py"  # the script of a row that averages another one's runs


class Row(NamedTuple):
    """One row of the results table.

    Attributes:
        name: the file's name without its ending.
        title: what the tables call it.
        path: the file.
        script: the entry script that reads the file.
        flags: the words of the file.
        method: the rows of one method are one line of a table.
        control: the method that it is compared with; its own name for none.
        obstacle: why it is not run by default; empty if it is.
        average_of: the row whose runs it averages; empty for a row that trains.
    """

    name: str
    title: str
    path: Path
    script: str
    flags: tuple[str, ...]
    method: str
    control: str
    obstacle: str
    average_of: str


def read_rows(directory: Path) -> dict[str, Row]:
    """Read every row of a folder.

    Returns:
        The rows by name: controls first, then in the order of their names.

    Raises:
        InputError: there is no row, or one is wrong.
    """
    rows = {path.stem: read_row(path) for path in sorted(directory.glob("*.txt"))}
    if not rows:
        raise InputError(f"{directory}: no rows in it, expected files <row>.txt")
    methods = {row.method for row in rows.values()}
    for row in rows.values():
        if row.control not in methods | {BASELINE}:
            raise InputError(
                f"{row.path}: control is {row.control!r}, expected one of {', '.join(methods)}"
            )
        trained = [name for name, other in rows.items() if not other.average_of]
        if row.average_of and row.average_of not in trained:
            raise InputError(
                f"{row.path}: average of is {row.average_of!r}, expected one of "
                f"{', '.join(trained)}"
            )
    controls = {row.control for row in rows.values()}
    return dict(sorted(rows.items(), key=lambda item: item[1].method not in controls))


def read_row(path: Path) -> Row:
    """Read one arguments file.

    Raises:
        InputError: it has no title, or an unknown script.
    """
    title, *lines = read_text(path).splitlines() or [""]
    if not title.startswith("# "):
        raise InputError(f"{path}:1: expected '# ' and the row's title")
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    headers = dict(comment.split(": ", 1) for comment in comments if ": " in comment)
    average_of = headers.get("average of", "").strip()
    scripts = (AVERAGING,) if average_of else SCRIPTS
    script = headers.get("script", scripts[0]).strip()
    if script not in scripts:
        raise InputError(f"{path}: script is {script!r}, expected one of {', '.join(scripts)}")
    return Row(
        name=path.stem,
        title=title.removeprefix("# ").strip(),
        path=path,
        script=script,
        flags=tuple(ArgumentParser().words_of(path)),
        method=headers.get("part of", path.stem).strip(),
        control=headers.get("control", BASELINE).strip(),
        obstacle=headers.get("not run by default", "").strip(),
        average_of=average_of,
    )
