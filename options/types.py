"""Types of command line options: text to a checked value, or one clear error."""

import argparse
from collections.abc import Callable

from tasks import TASKS


def positive_int(text: str) -> int:
    """Return an integer of at least 1."""
    return number(text, int, "a positive integer", lambda value: value > 0)


def count(text: str) -> int:
    """Return an integer of at least 0."""
    return number(text, int, "an integer of at least 0", lambda value: value >= 0)


def positive_float(text: str) -> float:
    """Return a finite number above 0."""
    return number(text, float, "a positive number", lambda value: 0 < value < float("inf"))


def non_negative_float(text: str) -> float:
    """Return a finite number of at least 0."""
    return number(text, float, "a number of at least 0", lambda value: 0 <= value < float("inf"))


def probability(text: str) -> float:
    """Return a number in [0, 1)."""
    return number(text, float, "a number in [0, 1)", lambda value: 0 <= value < 1)


def rate(text: str) -> float:
    """Return a number in (0, 1]."""
    return number(text, float, "a number in (0, 1]", lambda value: 0 < value <= 1)


def multiple_of_six(text: str) -> int:
    """Return a positive multiple of 6."""
    expected = "a positive multiple of 6, the number of heads"
    return number(text, int, expected, lambda value: value > 0 and value % 6 == 0)


def number(
    text: str, kind: type, expected: str, is_allowed: Callable[[float], bool]
) -> int | float:
    """Return `text` as a number.

    Args:
        text: the word on the command line.
        kind: int or float.
        expected: the allowed values in words.
        is_allowed: whether a value is one of them.

    Raises:
        argparse.ArgumentTypeError: it is no such number.
    """
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def task_weight(text: str) -> tuple[str, float]:
    """Return a task's name and its weight from `TASK=WEIGHT`."""
    name, _, weight = text.partition("=")
    if name not in TASKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=WEIGHT, tasks {', '.join(TASKS)}")
    return name, positive_float(weight)


def plain_name(text: str) -> str:
    """Return a name for a file or folder, without a path."""
    if not text or text.startswith(".") or "/" in text or "\0" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a plain name, without / or a leading dot"
        )
    return text
