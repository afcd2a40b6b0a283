"""The Ray that a search runs on: joined or started, and ended whatever happens."""

import os
import shutil
import signal
import socket
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runtime.device import num_cores
from runtime.errors import InputError
from runtime.files import MIB
from runtime.interrupts import Interrupted, StopSignal, caught_signals

MIN_FREE_BYTES = 100 * MIB  # a session's sockets and logs have a few MiB
START_SECONDS = 300  # a start takes about 5 seconds, and several times that on a busy machine
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "fatal"}  # we report errors


class SearchStop(StopSignal):
    """Ends Ray's trials on the first signal; a second Ctrl-C ends the search at once.

    Before Ray can be stopped in order, a signal raises Interrupted.

    Args:
        message: what to tell the user beside the signal's name.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.end_trials: Any = None
        self.is_held = False
        self.held: int | None = None  # the last signal of that time
        self.ignored = [s for s in self.signals if signal.getsignal(s) is signal.SIG_IGN]

    def receive(self, signum: int, frame: object) -> None:
        """Handle a signal, or remember it while signals are held back."""
        if self.is_held and signum != signal.SIGINT:
            self.held = signum
            return
        if self.end_trials is not None:
            self.end_trials(signum, frame)
        super().receive(signum, frame)  # last: it lets a second Ctrl-C raise KeyboardInterrupt
        if self.end_trials is None:
            self.check()

    def take_over(self) -> None:
        """Remember Ray's handler of Ctrl-C, which ends its trials in order; handle all signals."""
        self.end_trials = signal.getsignal(signal.SIGINT)
        self.install()
        if self.signum is not None:  # Ray has caught what the handler raised
            self.end_trials(self.signum, None)

    def install(self) -> None:
        """Handle the signals, also those that Ray has taken."""
        for signum in self.signals:
            signal.signal(signum, signal.SIG_IGN if signum in self.ignored else self.receive)


@contextmanager
def ray_session(args: Namespace, resume_command: str) -> Iterator[SearchStop]:
    """Run Ray inside the block, and leave none of its processes behind.

    Args:
        args: the options of the search.
        resume_command: the command line that resumes the search.

    Yields:
        What a signal stops. At the end of the block it raises Interrupted if one has come.

    Raises:
        InputError: Ray cannot be joined or started.
        OSError: its folder cannot be written.
    """
    import ray

    stop = SearchStop(f"resume with: {resume_command}")
    with caught_signals(stop):
        try:
            start_ray(args, stop)
            stop.install()
            stop.check()  # Ray may have caught what our handler raised
            yield stop
            stop.check()
        except SystemExit as end:  # Ray's own handler of SIGTERM, while Ray starts
            stop.signum = signal.SIGTERM
            raise Interrupted(f"stopped by SIGTERM; {stop.message}", stop.signum) from end
        except KeyboardInterrupt as end:  # the second Ctrl-C
            raise Interrupted(f"stopped by SIGINT; {stop.message}", signal.SIGINT) from end
        except Exception:
            stop.check()  # the signal may have ended Ray before us, and that has other errors
            raise
        finally:
            ray.shutdown()


def set_ray_environment() -> None:
    """Set the variables that Ray reads when it is imported, where the user has not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A Ray that was started where this token is asks for it, but HOST:PORT alone does not offer it.
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def start_ray(args: Namespace, stop: SearchStop) -> None:
    """Join the Ray that --ray_address names, or start one. Raises InputError and OSError."""
    if args.ray_address is not None:
        join_ray(args.ray_address)
        return
    import ray

    folder = temporary_folder()
    check_temporary_folder(folder)
    cores = num_cores()
    try:
        with limited_time(), held_back(stop):
            ray.init("local", num_cpus=cores, include_dashboard=False, **QUIET)
    except Interrupted:
        raise
    except Exception as error:  # Ray raises errors of many classes, a plain Exception among them
        stop.check()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Ray cannot be started: {reason}; if its folder is the reason, set TMPDIR to another "
            f"than {folder}"
        ) from None


def temporary_folder() -> Path:
    """Return where Ray makes its folder `ray`: it does not ask Python for one."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def check_temporary_folder(folder: Path) -> None:
    """Raise OSError where Ray would wait for minutes: its folder cannot be written, or is full."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if (folder / "ray").exists():
            tempfile.TemporaryFile(dir=folder / "ray").close()
        num_free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(
            f"{folder}: Ray cannot write its files there: {error.strerror}; set TMPDIR to a folder "
            "that can be written"
        ) from None
    if num_free < MIN_FREE_BYTES:
        raise OSError(
            f"{folder}: {num_free / MIB:.0f} MiB are free there, and Ray needs "
            f"{MIN_FREE_BYTES / MIB:.0f}; set TMPDIR to a folder with more"
        )


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise TimeoutError if the block takes longer than START_SECONDS."""

    def give_up(signum: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {START_SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(START_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def held_back(stop: SearchStop) -> Iterator[None]:
    """Hold every signal but Ctrl-C back inside the block; handle them at its end.

    The processes that the block starts hold them back for good. A closed terminal and a batch
    system send their signals to those as well, and Ray would be gone before it has been stopped.
    Ray itself does the same for Ctrl-C. The mask is that of this thread and of what it starts; a
    signal that another thread gets is remembered.
    """
    stop.is_held = True
    signals = set(stop.signals) - {signal.SIGINT}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        stop.install()  # Ray has taken SIGTERM
        stop.is_held = False
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        if stop.held is not None:
            stop.receive(stop.held, None)


def join_ray(address: str) -> None:
    """Join a Ray that runs already. Raises InputError."""
    import ray

    try:
        if address != "auto":  # Ray itself would try for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, **QUIET)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--ray_address {address}: no Ray answers there ({reason}); expected auto or "
            "HOST:PORT; start one with `ray start --head`, copy ~/.ray/auth_token here if that "
            "machine has one, or drop the option"
        ) from None


def check_resources(present: dict[str, float], cpus: int, gpus: float) -> None:
    """Raise InputError if no trial could ever start: Ray would wait silently."""
    for name, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > present.get(name, 0):
            raise InputError(
                f"a trial asks for {needed:g} {name}, but there are {present.get(name, 0):g} here; "
                f"give a smaller --hpo_{name.lower()}s, or more machines with --ray_address"
            )


def remove_stale(folder: Path) -> None:
    """Remove what Ray has left in a search's directory: nothing in it is ever read.

    Raises:
        OSError: it cannot be removed.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    for _ in range(3):  # the trials of a killed search may still write into it
        with suppress(FileNotFoundError):
            shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        raise OSError(f"{folder}: cannot be removed; remove it, nothing in it is needed")
