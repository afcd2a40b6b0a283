"""Rows of the results table: one arguments file each, `rows/<row>.txt`, read by an entry script.

# Gradient Vaccine                      the first line: the title in the tables
# family: gradient surgery              one of `FAMILIES`, which group the tables; every row has it
# script: train_multitask_pal.py        entry script; unset: train_multitask.py
# control: round_robin                  row that it is compared with; unset: joint
# differs in: rate, dropout             in what, if its control differs in more than one thing
# lr: 1e-4                              its --lr, unless the options of every run give one
# seeds: 5                              how many seeds the protocol asks for, or of how many runs an
#                                       average is made; unset: 3
# cost: average of weights              arm of benchmarks.techniques; unset: the row's own name
# at majority: too few updates          why a run's score is that of the largest class
# part of: single_task                  method of several rows, each with scores of its own tasks
# average of: round_robin               trains nothing: compare.py averages that row's seeds as the
#                                       flags say, --ensemble, --soup or --soup --greedy
# not run by default: needs a GPU       why; the row runs if the command line names it
# Any other line like this is a comment.
--projection vaccine
"""

from argparse import ArgumentTypeError
from pathlib import Path
from typing import NamedTuple

from options.parsing import ArgumentParser
from options.types import positive_float
from runtime.errors import InputError
from runtime.files import read_text

BASELINE = "joint"
TRANSFORMERS = "experiments/transformers_baseline.py"
SCRIPTS = ("train_multitask.py", "train_multitask_pal.py", TRANSFORMERS)
AVERAGING = "compare.py"  # the script of a row that averages another one's runs
FAMILIES = (  # in the order of the tables and figures
    *("controls", "baselines", "the project that we follow", "task schedulers"),
    *("gradient surgery", "loss weightings", "regularization", "optimizer", "adapters"),
    *("features", "inputs", "recipe", "recipe without one part"),
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
        lr: the learning rate that was searched for its family; empty for the script's default.
        method: the rows of one method are one line of a table.
        control: the method that it is compared with; its own name for none.
        differs_in: in what it differs from its control; empty if in the one thing of its title.
        obstacle: why it is not run by default; empty if it is.
        average_of: the row whose runs it averages; empty for a row that trains.
        family: one of `FAMILIES`.
        num_seeds: how many seeds the protocol asks for.
        cost: the arm of benchmarks.techniques that measures what it costs.
        at_majority: why a run's score is that of the largest class; empty if nobody has said.
    """

    name: str
    title: str
    path: Path
    script: str
    flags: tuple[str, ...]
    lr: str
    method: str
    control: str
    differs_in: str
    obstacle: str
    average_of: str
    family: str
    num_seeds: int
    cost: str
    at_majority: str

    def flags_with(self, options: dict) -> list[str]:
        """Return the flags of its runs: the file's and, unless the options give one, its rate.

        Args:
            options: those of every run.
        """
        has_own_rate = bool(self.lr) and options.get("lr") is None
        return [*self.flags, *["--lr", self.lr] * has_own_rate]


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
        InputError: it has no title or family, or a header has a value that it cannot have.
    """
    title, *lines = read_text(path).splitlines() or [""]
    if not title.startswith("# "):
        raise InputError(f"{path}:1: expected '# ' and the row's title")
    comments = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    pairs = dict(comment.split(": ", 1) for comment in comments if ": " in comment)
    headers = {key: value.strip() for key, value in pairs.items()}
    average_of = headers.get("average of", "")
    scripts = (AVERAGING,) if average_of else SCRIPTS
    script, family = headers.get("script", scripts[0]), headers.get("family", "")
    check_choice(path, "script", script, scripts)
    check_choice(path, "family", family, FAMILIES)
    num_seeds, lr = headers.get("seeds", str(MIN_SEEDS)), headers.get("lr", "")
    if not num_seeds.isdecimal() or not int(num_seeds):
        raise InputError(f"{path}: seeds is {num_seeds!r}, expected a number from 1 on")
    if lr:
        check_rate(path, script, lr)
    return Row(
        name=path.stem,
        title=title.removeprefix("# ").strip(),
        path=path,
        script=script,
        flags=tuple(ArgumentParser().words_of(path)),
        lr=lr,
        method=headers.get("part of", path.stem),
        control=headers.get("control", BASELINE),
        differs_in=headers.get("differs in", ""),
        obstacle=headers.get("not run by default", ""),
        average_of=average_of,
        family=family,
        num_seeds=int(num_seeds),
        cost=headers.get("cost", path.stem),
        at_majority=headers.get("at majority", ""),
    )


def check_rate(path: Path, script: str, lr: str) -> None:
    """Raise InputError if a header's learning rate is none, or the row's script takes none."""
    if script in (AVERAGING, TRANSFORMERS):
        raise InputError(f"{path}: lr is {lr!r}, but {script} does not train with --lr; drop it")
    try:
        positive_float(lr)
    except ArgumentTypeError as error:
        raise InputError(f"{path}: lr: {error}") from None


def check_choice(path: Path, header: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError if a header has none of its values."""
    if value not in choices:
        raise InputError(
            f"{path}: {header} is {value!r}, expected one of {', '.join(filter(None, choices))}"
        )
