"""Signals that ask a run to stop, and the exception that stops it once everything is saved."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime import ranks


class Interrupted(Exception):
    """A signal asked the run to stop, and everything is saved.

    Args:
        message: what the user sees.
        signum: the signal's number, from which the exit status follows.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignal:
    """Remembers that a signal asked the run to stop after the current update.

    These signals are SIGTERM, SIGINT, SIGUSR1 and SIGHUP (the terminal closed). A second Ctrl-C
    stops at once. A signal that is ignored from the start, as nohup ignores SIGHUP, stays ignored.

    Of several workers, all stop after the same update, whichever of them got the signal. torchrun
    passes a Ctrl-C on to workers that have received it already, so there a second one changes
    nothing.

    Args:
        message: what to tell the user beside the signal's name.
        check_place: raises if the run's directory is gone.
    """

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, message: str, check_place: Callable[[], None] = lambda: None) -> None:
        self.message = message
        self.check_place = check_place
        self.signum: int | None = None
        ranks.vote.wanted = ranks.vote.agreed = False

    def receive(self, signum: int, frame: object) -> None:
        """Handle a signal."""
        self.signum = signum
        ranks.vote.wanted = True
        if ranks.size() == 1:
            ranks.vote.agreed = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come and all workers know of it."""
        self.check_place()
        if ranks.vote.agreed:
            signum = self.signum or signal.SIGTERM
            name = signal.Signals(signum).name
            raise Interrupted(f"stopped by {name}; {self.message}", signum)


class StopAtOnce(StopSignal):
    """Stops where a signal finds the process, because there is nothing to save."""

    def receive(self, signum: int, frame: object) -> None:
        """Handle a signal. Raises Interrupted."""
        raise Interrupted(f"stopped by {signal.Signals(signum).name}; {self.message}", signum)


@contextmanager
def caught_signals(stop: StopSignal) -> Iterator[None]:
    """Let `stop` receive the signals inside the block.

    Only the main thread may handle signals; in any other (a trial of a search) this does nothing.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    signals = StopSignal.signals if is_main_thread else ()
    caught = [s for s in signals if signal.getsignal(s) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, stop.receive) for signum in caught}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


@contextmanager
def stop_on_signals(
    command: str, last: Path | None = None, check_place: Callable[[], None] = lambda: None
) -> Iterator[StopSignal]:
    """Catch the signals inside the block.

    Args:
        command: how the user resumes the run.
        last: the checkpoint from which it resumes, once it is there; None if there never is one.
        check_place: as in `StopSignal`.
    """
    stop = StopSignal(f"saved; resume with: {command}", check_place)
    try:
        with caught_signals(stop):
            yield stop
    except ranks.WorkerLost as error:
        is_saved = last is not None and last.is_file()
        saved = "the last checkpoint is complete" if is_saved else "no checkpoint yet"
        message = f"{error}; {saved}; resume with: {command}"
        raise ranks.WorkerLost(message) from error
