"""What a command says where the package of a flag is missing."""

import sys

from runtime.errors import InputError


def missing_package(flag: str, reason: object) -> InputError:
    """Return the error of a flag whose package is missing or broken: one line with the remedy.

    Args:
        flag: the flag as the user typed it.
        reason: what is missing, as a sentence or as the error of its import.
    """
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    return InputError(
        f"{flag}: {lines[0]}; run {sys.executable} -m pip install -r requirements-extras.txt"
    )
