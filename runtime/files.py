"""Files written atomically, and JSON objects read back and checked."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from runtime.errors import InputError


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes its name only once it is complete and on the disk.

    Whatever goes wrong, a full disk or a kill, a file that had the name before stays as it was.

    Args:
        path: the file to write; missing parent folders are made.
        mode: "w" for UTF-8 text with LF line ends, "wb" for bytes.

    Raises:
        OSError: the file cannot be written; the message names `path`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode, encoding=encoding, newline=newline) as file:
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


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a JSON object") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write a JSON object atomically, nan as null. Raises OSError."""
    with atomic_write(path) as file:
        json.dump(json_values(content), file, indent=2)
        file.write("\n")


def json_values(values: object) -> object:
    """Return the same values with null for nan, which JSON does not know."""
    if isinstance(values, dict):
        return {key: json_values(value) for key, value in values.items()}
    if isinstance(values, float) and math.isnan(values):
        return None
    return values
