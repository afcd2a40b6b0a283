"""Locks that end with the process that holds them, whichever way it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import InputError


@contextmanager
def locked(path: Path, wait: bool = False, reason: str = "in use") -> Iterator[int]:
    """Hold the lock file `path`; yields its descriptor, which a child may inherit.

    On a file system without locks nothing is held.

    Args:
        path: the lock file; it and its parent folders are made. It is never a link.
        wait: wait until another process releases the lock.
        reason: what the other process does with it, for the error message.

    Raises:
        InputError: another process holds the lock, and `wait` is False.
        OSError: the file cannot be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(
                f"{path}: {reason} by another process, possibly the child of a killed one; "
                "wait until it ends, or stop it"
            ) from None
        except OSError:  # some cluster file systems have no locks
            pass
        yield descriptor
    finally:
        os.close(descriptor)


def is_same_file(path: Path, descriptor: int) -> bool:
    """Tell whether `path` still leads to the file that is open as `descriptor`.

    A file system that does not answer for a moment is no reason to say no.
    """
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


@contextmanager
def reserved(path: Path) -> Iterator[bool]:
    """Hold a lock file that exists only as long as it is held.

    Args:
        path: the lock file, in an existing folder.

    Yields:
        Whether this process holds it; False if another one does.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # some cluster file systems have no locks
            pass
        if not is_same_file(path, descriptor):  # its last holder has just removed it
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
