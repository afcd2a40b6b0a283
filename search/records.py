"""What a search keeps of its trials: JSON that is checked when it is read, and never run as code.

`trials/<name>.json` has what was drawn for a trial and how it ended; `trials/<name>/` is its run.
"""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

from options.legal import num_epochs
from reporting.metrics_file import is_number
from reporting.run_directory import MOVABLE, read_options
from runtime.errors import InputError
from runtime.files import read_json, write_json
from search.space import Choice, Range
from search.trial import finished_epochs

STATES = ("unfinished", "done", "stopped", "failed")
PLAIN_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Record(NamedTuple):
    """What is known of a trial.

    Attributes:
        name: that of its run directory.
        sampled: option -> the value that was drawn.
        state: one of STATES. HyperBand has stopped a `stopped` trial.
        error: why it failed, as one line.
    """

    name: str
    sampled: dict[str, Any]
    state: str = "unfinished"
    error: str = ""


def write_record(directory: Path, record: Record) -> None:
    """Write a trial's record into the directory of its search. Raises OSError."""
    content = record._asdict()
    path = directory / "trials" / f"{content.pop('name')}.json"
    write_json(path, content, make_parents=True)


def read_records(
    directory: Path, space: dict[str, Range | Choice], args: Namespace
) -> list[Record]:
    """Return the trials of a search in the order of their names; none for a new search.

    A trial of a search that an earlier version ran has a run directory alone.

    Args:
        directory: the search's directory.
        space: what is searched; other values are refused.
        args: the options of the search.

    Raises:
        InputError: a record, or what the run directory holds, is none of ours.
    """
    trials = directory / "trials"
    check_folder(trials)
    if not trials.is_dir():
        return []
    # A name with a dot in front is of a file or folder that a killed process has not completed.
    visible = [path for path in trials.iterdir() if not path.name.startswith(".")]
    names = {path.stem for path in visible if path.suffix == ".json"}
    names |= {path.name for path in visible if (path / "args.json").exists()}
    for name in names:
        if not PLAIN_NAME.fullmatch(name):
            raise InputError(
                f"{trials}: {name!r} is no name of a trial, expected letters, digits, - and _"
            )
    return [read_record(trials / name, space, args) for name in sorted(names)]


def read_record(run_dir: Path, space: dict[str, Range | Choice], args: Namespace) -> Record:
    """Return the record of the trial with this run directory. Raises InputError."""
    check_folder(run_dir)
    path = run_dir.with_name(f"{run_dir.name}.json")
    options = run_options(run_dir)
    if not path.exists():
        assert options is not None, "a name comes from one of the two"
        sampled = checked_sample(sampled_options(options, space), space, run_dir / "args.json")
        return Record(run_dir.name, sampled, *found_state(run_dir, args))
    content = read_json(path)
    state, error = content.get("state"), content.get("error")
    if state not in STATES or not isinstance(error, str):
        raise InputError(
            f"{path}: state is {state!r} and error {error!r:.60}, expected one of "
            f"{', '.join(STATES)}, and a text"
        )
    sampled = checked_sample(content.get("sampled"), space, path)
    finished_epochs(run_dir)  # raises here, rather than in the trial
    return Record(run_dir.name, sampled, state, " ".join(error.split()))


def run_options(run_dir: Path) -> Namespace | None:
    """Return the options of a run in a search's directory, None before it has made its own.

    Raises:
        InputError: they cannot be read, or its checkpoints are said to be elsewhere, where
            resuming the run would overwrite what belongs to someone else.
    """
    if not run_dir.exists():
        return None
    options = read_options(run_dir)
    for name, folder in MOVABLE.items():
        if Path(getattr(options, name)) != run_dir / folder:
            raise InputError(
                f"{run_dir / 'args.json'}: {name} is {getattr(options, name)!r}, expected "
                f"{folder} in the run's own directory"
            )
        check_folder(run_dir / folder)
    return options


def check_folder(path: Path) -> None:
    """Raise InputError if a folder of the search is a link, through which files would be lost."""
    if path.is_symlink() or path.exists() and not path.is_dir():
        raise InputError(f"{path}: is not a folder itself; put the folder in its place")


def sampled_options(options: Namespace, space: dict[str, Range | Choice]) -> dict[str, Any]:
    """Return what was drawn for a trial, from the options of its run."""
    sampled = {name: getattr(options, name, None) for name in space}
    name = "smart_weight_regularization"
    if name in sampled and not getattr(options, "use_smart_regularization", False):
        sampled[name] = 0.0  # which `trial_options` leaves out
    return sampled


def checked_sample(sampled: object, space: dict[str, Range | Choice], path: Path) -> dict[str, Any]:
    """Return a trial's sampled values in the order of the space.

    Raises:
        InputError: they are not one value in the space for each option; the message names `path`.
    """
    if not isinstance(sampled, dict) or sampled.keys() != space.keys():
        found = list(sampled) if isinstance(sampled, dict) else sampled
        raise InputError(
            f"{path}: sampled are {found!r:.200}, expected values of {', '.join(space)}"
        )
    return {name: checked_value(name, sampled[name], space[name], path) for name in space}


def checked_value(name: str, value: object, domain: Range | Choice, path: Path) -> Any:
    """Return a sampled value. Raises InputError if it is not in its domain."""
    if isinstance(domain, Choice):
        equal = [v for v in domain.values if v == value and not isinstance(value, bool)]
        if equal:
            return equal[0]
        expected = f"one of {list(domain.values)}"
    else:
        if is_number(value) and domain.low <= value <= domain.high:  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
        expected = f"a number in [{domain.low:g}, {domain.high:g}]"
    raise InputError(f"{path}: {name} is {value!r:.60}, expected {expected}")


def found_state(run_dir: Path, args: Namespace) -> tuple[str, str]:
    """Return state and error of a trial without a record: one that ended has no checkpoints."""
    lines = finished_epochs(run_dir)
    if (run_dir / "checkpoints").exists():
        return "unfinished", ""
    if not lines:
        return "failed", "an earlier version has not recorded why"
    return ended_state(lines, args), ""


def ended_state(lines: list[dict], args: Namespace) -> str:
    """Return whether a trial that has not failed is done, or was stopped by HyperBand.

    Args:
        lines: its epochs, as `finished_epochs` returns them.
        args: the options of the search.
    """
    best = max(lines, key=lambda line: line["mean"], default={"epoch": 0})
    is_patience_out = args.patience is not None and len(lines) - best["epoch"] > args.patience
    return "done" if len(lines) >= num_epochs(args) or is_patience_out else "stopped"
