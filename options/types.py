"""Types of command line options: text to a checked value, or one clear error."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from tasks import TASKS

Number = TypeVar("Number", int, float)


def number(
    kind: type[Number], expected: str, is_allowed: Callable[[Number], bool]
) -> Callable[[str], Number]:
    """Return a type of option.

    Args:
        kind: int or float.
        expected: the allowed values in words.
        is_allowed: whether a value is one of them; nan should not be.

    Returns:
        A function from a word of the command line to its value. It raises
        argparse.ArgumentTypeError for any other word.
    """

    def convert(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return convert


INFINITY = float("inf")
positive_int = number(int, "a positive integer", lambda value: value > 0)
count = number(int, "an integer of at least 0", lambda value: value >= 0)
positive_float = number(float, "a positive number", lambda value: 0 < value < INFINITY)
non_negative_float = number(float, "a number of at least 0", lambda value: 0 <= value < INFINITY)
probability = number(float, "a number in [0, 1)", lambda value: 0 <= value < 1)
rate = number(float, "a number in (0, 1]", lambda value: 0 < value <= 1)
multiple_of_six = number(
    int,
    "a positive multiple of 6, the number of heads",
    lambda value: value > 0 and value % 6 == 0,
)


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
