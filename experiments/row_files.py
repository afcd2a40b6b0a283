"""Rows of the results table: one arguments file each, `rows/<row>.txt`, read by an entry script.

# Gradient Vaccine                      the first line: title in the tables
# script: train_multitask_pal.py        entry script; unset: train_multitask.py
# control: round_robin                  row that it is compared with; unset: joint
# part of: single_task                  method of several rows, each with scores of its own tasks
# not run by default: needs a GPU       why; it runs where the command line names it
# Any other line like this is a comment.
--projection vaccine
"""

from dataclasses import dataclass
from pathlib import Path

from options.parsing import ArgumentParser
from runtime.errors import InputError

BASELINE = "joint"
SCRIPTS = ("train_multitask.py", "train_multitask_pal.py")
HEADERS = ("script", "control", "part of", "not run by default")


@dataclass(frozen=True)
class Row:
    """One row. flags: words of the file. method: rows of one method are one line of a table.

    control: method it is compared with; its own name for none. obstacle: why it is not run by
    default, empty where it is.
    """

    name: str
    title: str
    path: Path
    script: str
    flags: tuple[str, ...]
    method: str
    control: str
    obstacle: str


def read_rows(directory: Path) -> dict[str, Row]:
    """Every row by name, controls first, then by name. Raises InputError."""
    rows = {path.stem: read_row(path) for path in sorted(directory.glob("*.txt"))}
    if not rows:
        raise InputError(f"{directory}: no rows in it, expected files <row>.txt")
    methods = {row.method for row in rows.values()}
    for row in rows.values():
        if row.control not in methods | {BASELINE}:
            raise InputError(
                f"{row.path}: control is {row.control!r}, expected one of {', '.join(methods)}"
            )
    controls = {row.control for row in rows.values()}
    return dict(sorted(rows.items(), key=lambda item: item[1].method not in controls))


def read_row(path: Path) -> Row:
    """One arguments file. Raises InputError for one without a title, or with an unknown script."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or not lines[0].startswith("# "):
        raise InputError(f"{path}:1: expected '# ' and the row's title")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.removeprefix("# ").partition(": ")
        if line.startswith("# ") and colon and name in HEADERS:
            headers[name] = value.strip()
    script = headers.get("script", SCRIPTS[0])
    if script not in SCRIPTS:
        raise InputError(f"{path}: script is {script!r}, expected one of {', '.join(SCRIPTS)}")
    words = ArgumentParser().convert_arg_line_to_args
    return Row(
        name=path.stem,
        title=lines[0].removeprefix("# ").strip(),
        path=path,
        script=script,
        flags=tuple(word for line in lines for word in words(line)),
        method=headers.get("part of", path.stem),
        control=headers.get("control", BASELINE),
        obstacle=headers.get("not run by default", ""),
    )
