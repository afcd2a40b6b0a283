"""Signals that ask a run to stop, and the exception that stops it once everything is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import workers


class Interrupted(Exception):
    """A signal asked the run to stop; all is saved. `signum` gives the exit status."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignal:
    """SIGTERM, SIGINT, SIGUSR1 and SIGHUP (the terminal went away) stop the run after the update; a
    second Ctrl-C at once. Who ignores a signal from the start, as nohup does SIGHUP, keeps that.

    Of several workers, all stop after the same update, whichever of them got the signal; torchrun
    passes a Ctrl-C on to workers that have it already, so there a second one changes nothing.
    """

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, message: str) -> None:
        self.message = message
        self.signum: int | None = None
        workers.vote.wanted = workers.vote.agreed = False

    def receive(self, signum: int, frame: object) -> None:
        self.signum = signum
        workers.vote.wanted = True
        if workers.size() == 1:
            workers.vote.agreed = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come, and all workers know."""
        if workers.vote.agreed:
            signum = self.signum or signal.SIGTERM
            name = signal.Signals(signum).name
            raise Interrupted(f"stopped by {name}; {self.message}", signum)


@contextmanager
def stop_on_signals(command: str) -> Iterator[StopSignal]:
    """Catch the signals inside the block; `command` is how the user goes on."""
    stop = StopSignal(f"saved; go on with: {command}")
    caught = [s for s in StopSignal.signals if signal.getsignal(s) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, stop.receive) for signum in caught}
    try:
        yield stop
    except workers.WorkerLost as error:
        message = f"{error}; the last checkpoint is whole; go on with: {command}"
        raise workers.WorkerLost(message) from error
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
