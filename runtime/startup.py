"""What a script imports first, before torch: what has to be set by then.

Ctrl-C while the slow rest is imported ends the script quietly. Python's own handler would raise
KeyboardInterrupt inside whichever library is being imported; `runtime.errors.exit_status` puts that
handler back. And threads that wait for each other spin for a bounded time.
"""

import os
import signal
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Turns that a thread spins while it waits for the others, before it sleeps. With GNU's 300,000, two
# threads beside another busy process are slower than one (benchmarks/waiting.py).
SPIN_COUNT = 1_000
PACKAGES = ("benchmarks", "experiments", "scripts")


def is_own_script(command_line: list[str]) -> bool:
    """Tell whether a command line of Python runs a script of this repository, not pytest or Ray."""
    words = iter(command_line[1:])
    for word in words:
        if word == "-m":
            return next(words, "").split(".")[0] in PACKAGES
        if not word.startswith("-"):
            return word.endswith(".py") and Path(word).resolve().parent == ROOT
    return False


def end_quietly_on_interrupt() -> None:
    """Let SIGINT end the process at once, unless someone else handles or ignores it."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_default and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Let SIGINT raise KeyboardInterrupt again."""
    is_quiet = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    if is_quiet and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def bound_spinning() -> None:
    """Bound how long a waiting thread spins, unless the environment says how threads wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


bound_spinning()
if is_own_script(sys.orig_argv):
    end_quietly_on_interrupt()
