"""Signals that ask a run to stop, and the exception that stops it once everything is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """A signal asked the run to stop; all is saved. `signum` gives the exit status."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1 stop the run after the update; a second Ctrl-C at once."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, message: str) -> None:
        self.message = message
        self.signum: int | None = None

    def receive(self, signum: int, frame: object) -> None:
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            name = signal.Signals(self.signum).name
            raise Interrupted(f"stopped by {name}; {self.message}", self.signum)


@contextmanager
def stop_on_signals(message: str) -> Iterator[StopSignal]:
    """Catch the signals inside the block; `message` tells the user how to go on."""
    stop = StopSignal(message)
    previous = {signum: signal.signal(signum, stop.receive) for signum in StopSignal.signals}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
