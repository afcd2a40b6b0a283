"""Signals stop a run after its update, and handlers are restored."""

import os
import signal

import pytest

from runtime import interrupts


@pytest.fixture
def handler():
    """A function that sets the handler of a signal and restores the old one after the test."""
    previous = {}

    def install(signum, new):
        previous.setdefault(signum, signal.signal(signum, new))

    yield install
    for signum, old in previous.items():
        signal.signal(signum, old)


def on_signal(*args):
    raise AssertionError("this handler was to be replaced")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_signal_stops_after_the_update_and_restores_the_handlers(handler, name):
    signum = signal.Signals[name]
    handler(signum, on_signal)
    with interrupts.stop_on_signals("this command") as stop:
        stop.check()
        os.kill(os.getpid(), signum)
        message = f"stopped by {name}; saved; resume with: this command"
        with pytest.raises(interrupts.Interrupted, match=message) as caught:
            stop.check()
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is on_signal


def test_a_signal_that_was_ignored_from_the_start_stays_so(handler):
    """Under nohup, a run outlives its terminal."""
    handler(signal.SIGHUP, signal.SIG_IGN)
    with interrupts.stop_on_signals("this command") as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        stop.check()
