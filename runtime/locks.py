"""Locks that end with the process that holds them, whichever way it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import InputError


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int]:
    """Hold the lock file `path`; yields its descriptor, which a child may inherit.

    On a file system without locks nothing is held.

    Args:
        path: the lock file; it and its parent folders are made.
        wait: wait until another process releases the lock.

    Raises:
        InputError: another process holds the lock, and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(
                f"{path}: in use by another process, possibly the child of a killed one; "
                "wait until it ends, or stop it"
            ) from None
        except OSError:  # some cluster file systems have no locks
            pass
        yield descriptor
    finally:
        os.close(descriptor)
