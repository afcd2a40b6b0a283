"""Types of command line options: text to a checked value, or one clear error."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from runtime.errors import shorten
from runtime.files import is_plain_name
from runtime.numbers import is_plain_number
from tasks import Task

Number = TypeVar("Number", int, float)
INFINITY = float("inf")
LARGEST = 10**9  # of any count: more examples, updates or tokens than any run has


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
        value = None
        if is_plain_number(text):
            try:
                value = kind(text)
            except ValueError:  # "1.5" is no int
                pass
        if value is None or not is_allowed(value):
            raise argparse.ArgumentTypeError(f"{shorten(text)} is not {expected}")
        return value

    return convert


positive_int = number(
    int, f"a positive integer up to {LARGEST:,}", lambda value: 0 < value <= LARGEST
)
count = number(int, f"an integer from 0 to {LARGEST:,}", lambda value: 0 <= value <= LARGEST)
few = number(int, "an integer from 0 to 100", lambda value: 0 <= value <= 100)
batch_count = number(int, "a positive integer up to 1,000", lambda value: 0 < value <= 1000)
seed = number(int, "an integer from 0 to 4,294,967,295", lambda value: 0 <= value < 2**32)
positive_float = number(float, "a positive number", lambda value: 0 < value < INFINITY)
non_negative_float = number(float, "a number of at least 0", lambda value: 0 <= value < INFINITY)
probability = number(float, "a number in [0, 1)", lambda value: 0 <= value < 1)
fraction = number(float, "a number in (0, 1)", lambda value: 0 < value < 1)
rate = number(float, "a number in (0, 1]", lambda value: 0 < value <= 1)
multiple_of_six = number(
    int,
    "a positive multiple of 6, the number of heads, up to 60,000",
    lambda value: 0 < value <= 60_000 and value % 6 == 0,
)


def task_weight(tasks: dict[str, Task], text: str) -> tuple[str, float]:
    """Return a task's name and its weight from `TASK=WEIGHT`; `tasks`: those that there are."""
    name, _, weight = text.partition("=")
    if name not in tasks:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not TASK=WEIGHT, tasks {', '.join(tasks)}"
        )
    return name, positive_float(weight)


def plain_name(text: str) -> str:
    """Return a name for a file or folder, without a path."""
    if not is_plain_name(text):
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a plain name: at most 200 bytes, without /, control "
            "characters or a leading dot"
        )
    return text


def printable(text: str) -> str:
    """Return a path, or another text, that can be printed and written to a file."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{shorten(text)} is empty or holds control characters")
    return text
