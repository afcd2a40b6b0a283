"""metrics.jsonl and metrics-<split>.json read back.

Every value is checked, because the files may be someone else's.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import parse_json, read_json, read_text
from tasks import KINDS, Metrics, Task

LARGEST = sys.float_info.max
JUDGES = {name for kind in KINDS.values() for name in kind.judges()}


def read_lines(path: Path) -> list[dict]:
    """Return the epochs that a metrics.jsonl holds, the first one first.

    Raises:
        InputError: the file cannot be read, or a line is none of ours; the message has its number.
    """
    lines: list[dict] = []
    for number, text in enumerate(read_text(path).splitlines(), start=1):
        last = lines[-1]["epoch"] if lines else 0
        lines.append(read_line(text, last, f"{path}:{number}"))
    return lines


def read_line(text: str, last: int, where: str) -> dict:
    """Return one line of metrics.jsonl.

    Args:
        text: the line.
        last: the epoch of the line before, or 0. Lines in between may have been removed.
        where: the file and the line's number, for an error message.

    Raises:
        InputError: the line is not a JSON object with what every epoch has.
    """
    try:
        line = parse_json(text, where)
        reason = mistake(line, last)
    except InputError as error:
        reason = str(error).removeprefix(f"{where}: ")
    if reason:
        raise InputError(
            f"{where}: not a line of metrics; remove the line, or the file, to continue without "
            f"what it held ({reason[:150]})"
        )
    return line


def mistake(line: dict, last: int) -> str | None:
    """Return what is wrong with a line that follows the one of epoch `last`, or None."""
    if type(line.get("epoch")) is not int or line["epoch"] <= last:
        return f"epoch is {line.get('epoch')!r:.60}, expected more than {last}"
    mean = line.get("mean")  # a constant's Pearson counts as 0, so it is never null
    if mean is None or not is_number(mean) or not -1 <= mean <= 1:
        return f"mean is {mean!r:.60}, expected a number in [-1, 1]"
    for name in ("loss", "examples"):
        if not is_numbers(line.get(name)) or None in line[name].values():
            return f"{name} is {line.get(name)!r}, expected a number for each task"
    if not is_number(line.get("examples_per_second")) or line["examples_per_second"] <= 0:
        return f"examples_per_second is {line.get('examples_per_second')!r}, expected more than 0"
    dev = line.get("dev")
    if not isinstance(dev, dict):
        return f"dev is {dev!r}, expected the metrics of each task"
    for name, metrics in dev.items():
        if not is_metrics(metrics):
            return f"dev of {name!r} is {metrics!r}, expected the metrics of a task"
    return None


def read_metrics(path: Path, tasks: Iterable[Task]) -> Metrics:
    """Return the metrics of every task that a metrics-<split>.json holds, null as nan.

    Raises:
        InputError: the file cannot be read, or lacks a task, or the metric that one is judged by.
    """
    found = read_json(path).get("metrics")
    metrics: Metrics = {}
    for task in tasks:
        values: Any = found.get(task.name) if isinstance(found, dict) else None
        if not is_metrics(values) or next(iter(values)) != task.metric_name:
            raise InputError(
                f"{path}: metrics of {task.name!r} are {values!r:.100}, expected "
                f"{task.metric_name} and others; evaluate the run again"
            )
        metrics[task.name] = {name: math.nan if v is None else v for name, v in values.items()}
    return metrics


def is_metrics(values: Any) -> bool:
    """Tell whether a value holds the metrics of a task, the one that it is judged by first."""
    return is_numbers(values) and bool(values) and next(iter(values)) in JUDGES


def is_numbers(values: object) -> bool:
    """Tell whether a value is a JSON object of numbers, null for nan among them."""
    return isinstance(values, dict) and all(is_number(v, or_null=True) for v in values.values())


def is_number(value: Any, or_null: bool = False) -> bool:
    """Tell whether a value of a JSON file is a number that a float holds, or null if allowed."""
    if value is None:
        return or_null
    is_numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_numeric and -LARGEST <= value <= LARGEST
