"""A new folder for --to: it appears as a whole or not at all."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from runtime.errors import InputError
from runtime.files import make_folder, remove_empty
from runtime.locks import reserved


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `target`, which takes its name once the block has ended.

    If the block raises, the folder is removed. So are those that killed processes have left for
    the same target.

    Raises:
        InputError: the target is there and not an empty folder, or another process writes it.
        OSError: it cannot be made.
    """
    check_free(target)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    with ExitStack() as stack:
        try:
            stack.callback(remove_empty, make_folder(target.parent))
            lock = target.with_name(f".{target.name}.lock")
            is_free = stack.enter_context(reserved(lock))
            if is_free:
                remove_left(target)
                partial.mkdir()
        except OSError as error:
            raise OSError(f"{target}: cannot be made: {error.strerror}") from None
        if not is_free:
            raise InputError(f"{target}: another process is writing it; wait until it ends")
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        yield partial
        take_name(partial, target)


def check_free(target: Path) -> None:
    """Raise InputError unless nothing, or an empty folder, has the name of the target."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"--to {target}: is no folder; name a new one")
    try:
        is_empty = not any(target.iterdir())
    except OSError as error:
        raise InputError(f"--to {target}: cannot be read: {error.strerror}") from None
    if not is_empty:
        raise InputError(f"--to {target}: is not empty, and no file is replaced; name a new folder")


def remove_left(target: Path) -> None:
    """Remove the hidden folders that killed processes have left for the same target."""
    name = re.escape(target.name)
    for path in target.parent.iterdir():
        if re.fullmatch(rf"\.{name}\.[0-9a-f]{{16}}\.partial", path.name):
            shutil.rmtree(path, ignore_errors=True)


def take_name(partial: Path, target: Path) -> None:
    """Rename the folder. Raises InputError if the target is no longer free."""
    try:
        os.rename(partial, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError(f"--to {target}: is not empty any more; name a new folder") from None
        raise OSError(f"{target}: cannot be made: {error.strerror}") from None
