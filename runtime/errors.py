"""The one error that a user can fix, and how a command shows it: one line, no traceback."""

import os
import sys
import threading
import warnings
from collections.abc import Callable

from runtime import workers
from runtime.interrupts import Interrupted


class InputError(ValueError):
    """Wrong input from the user: what is wrong, its value, what is allowed, what to do."""


def exit_status(command: Callable[[], None]) -> int:
    """Run `command` and print an error that the user can fix as one line on stderr.

    Any other error keeps its traceback. Of several workers, only the first that has something to
    report prints.

    Returns:
        0, 1 for an error, or 128 + the signal's number for an interrupted run, which is saved.
    """
    warnings.showwarning = show_warning
    threading.excepthook = show_thread_error
    try:
        command()
        workers.leave()
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError, FloatingPointError, workers.WorkerLost) as error:
        report(f"error: {error}")
        return 1
    except Interrupted as stop:
        report(str(stop))
        return 128 + stop.signum
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    return 0


def report(message: str) -> None:
    """Print a message on stderr, unless another worker has reported one."""
    if workers.is_first_to_report():
        print(message, file=sys.stderr, flush=True)


def show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning as one line, without the place in our source."""
    if workers.is_main():
        print(f"warning: {message}", file=sys.stderr)


def show_thread_error(args: threading.ExceptHookArgs) -> None:
    """Hide a thread's OSError, a full disk under TensorBoard's thread: `command` raises it too."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)
