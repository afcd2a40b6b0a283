"""Rows of the results table: one arguments file each, `rows/<row>.txt`, read by an entry script.

# Gradient Vaccine                      the first line: the title in the tables
# family: gradient surgery              one of `FAMILIES`, which group the tables; unset: other
# script: train_multitask_pal.py        entry script; unset: train_multitask.py
# control: round_robin                  row that it is compared with; unset: joint
# seeds: 5                              how many seeds the protocol asks for; unset: 3
# cost: average of weights              arm of benchmarks.techniques; unset: the row's own name
# at majority: too few updates          why a score is that of the largest class, if one is
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
OTHER = "other"
FAMILIES = (  # in the order of the tables and figures
    *("controls", "baselines", "the project that we follow", "task schedulers"),
    *("gradient surgery", "loss weightings", "regularization", "optimizer", "adapters"),
    *("features", "inputs", "recipe", "recipe without one part", OTHER),
)
MIN_SEEDS = 3  # of every row, of a finding, and for a standard deviation


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
        family: one of `FAMILIES`.
        num_seeds: how many seeds the protocol asks for.
        cost: the arm of benchmarks.techniques that measures what it costs.
        at_majority: why a score is that of the largest class; empty if nobody has said.
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
    family: str
    num_seeds: int
    cost: str
    at_majority: str


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
        check_choice(row.path, "control", row.control, (*methods, BASELINE))
        trained = tuple(name for name, other in rows.items() if not other.average_of)
        check_choice(row.path, "average of", row.average_of, ("", *trained))
    controls = {row.control for row in rows.values()}
    return dict(sorted(rows.items(), key=lambda item: item[1].method not in controls))


def read_row(path: Path) -> Row:
    """Read one arguments file.

    Raises:
        InputError: it has no title, or an unknown script or family, or no number of seeds.
    """
    title, *lines = read_text(path).splitlines() or [""]
    if not title.startswith("# "):
        raise InputError(f"{path}:1: expected '# ' and the row's title")
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    pairs = dict(comment.split(": ", 1) for comment in comments if ": " in comment)
    headers = {key: value.strip() for key, value in pairs.items()}
    average_of = headers.get("average of", "")
    scripts = (AVERAGING,) if average_of else SCRIPTS
    script, family = headers.get("script", scripts[0]), headers.get("family", OTHER)
    check_choice(path, "script", script, scripts)
    check_choice(path, "family", family, FAMILIES)
    num_seeds = headers.get("seeds", str(MIN_SEEDS))
    if not num_seeds.isdecimal() or not int(num_seeds):
        raise InputError(f"{path}: seeds is {num_seeds!r}, expected a number from 1 on")
    return Row(
        name=path.stem,
        title=title.removeprefix("# ").strip(),
        path=path,
        script=script,
        flags=tuple(ArgumentParser().words_of(path)),
        method=headers.get("part of", path.stem),
        control=headers.get("control", BASELINE),
        obstacle=headers.get("not run by default", ""),
        average_of=average_of,
        family=family,
        num_seeds=int(num_seeds),
        cost=headers.get("cost", path.stem),
        at_majority=headers.get("at majority", ""),
    )


def check_choice(path: Path, header: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError if a header has none of its values."""
    if value not in choices:
        raise InputError(
            f"{path}: {header} is {value!r}, expected one of {', '.join(filter(None, choices))}"
        )
