"""A part of a benchmark in a process of its own, which hands its figures back."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MARK = "RESULT "


def measure_apart(
    what: str,
    module: str,
    words: Sequence[object],
    launcher: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> dict:
    """Run a module as a process of its own; return what it handed over.

    Args:
        what: the measurement's name, for an error message.
        module: calls `hand_over`.
        words: its command line.
        launcher: words of Python before the module, such as those of torchrun.
        environment: variables of the process on top of ours.

    Raises:
        InputError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, *launcher, "-m", module, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | (environment or {}),
    )
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    lines = done.stderr.splitlines()
    reason = next((line for line in lines if "error: " in line), "\n".join(lines[-20:]))
    raise InputError(f"{what}: {reason.removeprefix('error: ')}")


def hand_over(result: dict) -> None:
    """Give figures to the process that called `measure_apart`."""
    print(MARK + json.dumps(result), flush=True)
