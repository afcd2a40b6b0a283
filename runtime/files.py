"""Files: only regular ones are read, and each is written atomically."""

import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from runtime.errors import InputError

MIB = 2**20
MAX_TEXT_BYTES = 64 * MIB  # JSON and option files: ours have kilobytes
MAX_DATA_BYTES = 4096 * MIB  # a data file is held in memory
MAX_WEIGHT_BYTES = 65_536 * MIB  # a checkpoint, or published weights


@contextmanager
def atomic_write(
    path: Path | str, mode: str = "w", make_parents: bool = False
) -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is complete and on the disk.

    Whatever goes wrong, a full disk or a kill, a file that had the name before stays as it was.
    A link of that name is replaced, never written through.

    Args:
        path: the file to write.
        mode: "w" for UTF-8 text with LF line ends, "wb" for bytes.
        make_parents: make missing parent folders. Otherwise a missing one is an error: the folder
            of a run that is moved away while the run is at work shall not come back half empty.

    Raises:
        OSError: the file cannot be written; the message names `path`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else ""
    try:
        if make_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with open(
            partial, mode, encoding=encoding, newline=newline, opener=exclusive_opener
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if not isinstance(error, OSError):
            raise
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from None


def exclusive_opener(path: str, flags: int) -> int:
    """Open a file that is not there yet, and never through a link that someone has planted."""
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def remove_partial(folder: Path) -> None:
    """Remove the unfinished files that a killed process has left in a folder."""
    for path in folder.glob(".*.partial"):
        if re.fullmatch(r"\..+\.[0-9a-f]{16}\.partial", path.name):
            with suppress(OSError):
                path.unlink()


def inside(path: Path | str, directory: Path | str) -> Path | None:
    """Return a path relative to a directory; None if it is outside."""
    relative = Path(os.path.relpath(os.path.abspath(path), os.path.abspath(directory)))
    return None if ".." in relative.parts else relative


def shown_path(path: Path | str) -> str:
    """Return a path as one would type it in this directory: relative if it is below."""
    relative = inside(path, os.getcwd())
    return str(path if relative is None else relative)


def is_plain_name(text: str) -> bool:
    """Tell whether a text can name a file or folder, and be printed."""
    is_short = len(text.encode(errors="replace")) <= 200  # suffixes are added to it
    return bool(text) and text.isprintable() and is_short and text[0] != "." and "/" not in text


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its missing parents; return those that were made, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders that are empty, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def read_bytes(path: Path | str, max_bytes: int = MAX_TEXT_BYTES, hint: str = "") -> bytes:
    """Read a regular file as a whole.

    Args:
        path: the file, or a link to it.
        max_bytes: a larger file is refused before it is read.
        hint: what to do if there is no such file.

    Raises:
        InputError: there is no such file, it is of another kind (a pipe would be waited for
            forever), too large, or cannot be read.
    """
    check_regular(path, max_bytes, hint)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        refuse(path, error, hint)


def check_regular(path: Path | str, max_bytes: int = MAX_TEXT_BYTES, hint: str = "") -> None:
    """Raise InputError as `read_bytes` does; read nothing."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is a {kind_of(found.st_mode)}, expected a regular file")
        if found.st_size > max_bytes:
            raise InputError(
                f"{path}: has {found.st_size / MIB:,.0f} MiB, expected at most "
                f"{max_bytes / MIB:,.0f}"
            )
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, InputError):
            raise
        refuse(path, error, hint)


def refuse(path: Path | str, error: Exception, hint: str = "") -> NoReturn:
    """Raise the InputError of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{path}: no such file" + (f"; {hint}" if hint else "")) from None
    raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None


def kind_of(mode: int) -> str:
    """Return what a file is that is no regular file, in words."""
    names = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return names.get(stat.S_IFMT(mode), "device")


def read_text(path: Path | str, max_bytes: int = MAX_TEXT_BYTES, hint: str = "") -> str:
    """Read a regular file of UTF-8 text. Raises InputError as `read_bytes` does."""
    try:
        return read_bytes(path, max_bytes, hint).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start + 1} is not UTF-8 text") from None


def read_json(path: Path | str, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is no such file, it is too large, or it holds something else.
    """
    content = read_text(path, max_bytes, hint="expected a JSON object")
    return parse_json(content, str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object; `where` stands before an error message.

    Raises:
        InputError: the text is no JSON, nested too deeply, or no object. NaN and Infinity are no
            JSON either.
    """
    try:
        content = json.loads(text, parse_constant=refuse_constant)
        # Refuses what the reader takes: 1e999, which is infinite, and half of a surrogate pair.
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(f"{where}: cannot be read as JSON: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{where}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: holds a {type(content).__name__}, expected a JSON object")
    return content


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's reader would take."""
    raise ValueError(f"{name} is no JSON")


def write_json(path: Path | str, content: dict[str, Any], make_parents: bool = False) -> None:
    """Write a JSON object as `atomic_write` does, nan as null. Raises OSError."""
    with atomic_write(path, make_parents=make_parents) as file:
        json.dump(json_values(content), file, indent=2)
        file.write("\n")


def json_values(values: object) -> object:
    """Return the same values with null for nan, which JSON does not know."""
    if isinstance(values, dict):
        return {key: json_values(value) for key, value in values.items()}
    if isinstance(values, float) and math.isnan(values):
        return None
    return values
