"""The one error that a user can fix, and how a command shows it: one line, no traceback."""

import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable

from runtime import ranks
from runtime.interrupts import Interrupted
from runtime.startup import end_quietly_on_interrupt, raise_on_interrupt
from runtime.streams import one_line, steady_streams


class InputError(ValueError):
    """Wrong input from the user: what is wrong, its value, what is allowed, what to do."""


def exit_status(command: Callable[[], None], is_output_needed: bool = False) -> int:
    """Run `command` and print an error that the user can fix as one line on stderr.

    Any other error keeps its traceback. Of several workers, only the first that has something to
    report prints.

    Args:
        command: what to run.
        is_output_needed: stdout is the command's result. Otherwise the command continues when its
            reader (`head`, a closed terminal) has gone.

    Returns:
        0, 1 for an error, or 128 + the signal's number for an interrupted run, which is saved.
    """
    raise_on_interrupt()
    warnings.showwarning = show_warning
    threading.excepthook = show_thread_error
    try:
        with steady_streams(is_output_needed):
            return run_reported(command)
    except BrokenPipeError:  # the reader of our output, `head` for example, has ended
        return 1
    except OSError as error:
        report(f"error: {error}")
        return 1


def read_command_line(parse: Callable[[], Namespace]) -> Namespace:
    """Return the options of a script, before it imports what it needs to work with them.

    If they cannot be read, or --help is among them, the process ends. A Ctrl-C during the imports
    that follow is as quiet as before.
    """
    found: list[Namespace] = []
    status = exit_status(lambda: found.append(parse()))
    if status:
        sys.exit(status)
    end_quietly_on_interrupt()
    return found[0]


def run_reported(command: Callable[[], None]) -> int:
    """Run `command`, and report an error of the kinds that a user can do something about."""
    try:
        command()
        ranks.leave()
    except BrokenPipeError:
        raise
    except (InputError, OSError, FloatingPointError, ranks.WorkerLost) as error:
        report(f"error: {error}")
        return 1
    except UnicodeEncodeError as error:
        report(
            f"error: standard output is {error.encoding}, which has no "
            f"{error.object[error.start]!r}; set PYTHONIOENCODING=utf-8"
        )
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        report(
            "error: out of memory; give a smaller --micro_batch_size, --batch_size or --max_length"
        )
        return 1
    except Interrupted as stop:
        report(str(stop))
        return 128 + stop.signum
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    return 0


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether torch, or Python, could not get the memory that it asked for."""
    torch = sys.modules.get("torch")  # slow to import, and where it is not, no error is its own
    if isinstance(error, MemoryError) or torch and isinstance(error, torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # torch on a CPU has no class of its own for it


def report(message: str) -> None:
    """Print a message on stderr as one line, unless another worker has reported one."""
    if ranks.is_first_to_report():
        print(one_line(message), file=sys.stderr, flush=True)


def shorten(text: str, num_characters: int = 80) -> str:
    """Return a quoted text for an error message, cut off after `num_characters`."""
    return repr(text if len(text) <= num_characters else text[:num_characters] + "...")


def show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning as one line, without the place in our source."""
    if ranks.is_main():
        print(one_line(f"warning: {message}"), file=sys.stderr)


def show_thread_error(args: threading.ExceptHookArgs) -> None:
    """Hide a thread's OSError, a full disk under TensorBoard's thread: `command` raises it too."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
