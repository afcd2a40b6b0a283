"""The rows of a file, read one by one, and written again with more columns.

A file is tab-separated or comma-separated with a header line, JSON Lines, or plain lines of text. A
row is written as it was read, character by character, with new cells behind it. So only what is
read of a row has to be understood.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from datasets import decode_line, is_visible, split_text
from options.evaluation_options import FORMATS
from runtime.errors import InputError, shorten
from runtime.files import MIB, check_regular, parse_json, refuse
from runtime.saved_values import shown
from tasks import Task

MAX_ROW_BYTES = 16 * MIB  # a longer row is a file of another kind, or a quote that was left open
HINT = "name the rows to label with --input, - for standard input"
UNCLOSED = "unexpected end of data", "a quote is not closed"  # csv's words for it, and ours
Lines = Iterator[tuple[int, str]]  # number and text of a line, without its LF


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: of its first line, from 1.
        text: as it was read, without its line end.
        cells: column -> what the row has there.
    """

    number: int
    text: str
    cells: Mapping[str, Any]


class PlainLines:
    """One text per line, or two separated by a tab. They are written as TSV with a header.

    Args:
        name: of the file, for error messages.
        lines: of the file.
        text_columns: the header of the texts.
    """

    def __init__(self, name: str, lines: Lines, text_columns: tuple[str, ...]) -> None:
        self.name, self.lines, self.columns = name, lines, text_columns

    def __iter__(self) -> Iterator[Row]:
        for number, line in self.lines:
            text = line.removesuffix("\r")
            cells = text.split("\t")
            if "\r" in text:
                raise InputError(
                    f"{self.name}:{number}: a carriage return in {shorten(text)}; remove it"
                )
            if len(cells) != len(self.columns) or not all(map(is_visible, cells)):
                raise InputError(
                    f"{self.name}:{number}: {len(cells)} sentences in {shorten(text)}, expected "
                    f"{len(self.columns)}, separated by tabs and not empty"
                )
            yield Row(number, text, dict(zip(self.columns, cells)))

    def texts(self, row: Row, task: Task) -> tuple[str, ...]:
        """Return the texts of a row for a task: they have places, not names."""
        return tuple(row.cells.values())

    def header(self, names: Sequence[str]) -> str:
        """Return the header line."""
        return delimited([*self.columns, *names], "\t") + "\n"

    def written(self, row: Row, cells: Mapping[str, object]) -> str:
        """Return a row with more cells as one line, quoted where a text begins with a quote."""
        texts = [delimited([t], "\t") if t.startswith('"') else t for t in row.cells.values()]
        return "\t".join([*texts, delimited(cells.values(), "\t")]) + "\n"


class Table:
    """Rows under a header line, tab-separated or comma-separated.

    Tab-separated rows are those of the data files: one per line. A quoted cell of a comma-separated
    row may hold line breaks.

    Args:
        name: of the file, for error messages.
        lines: of the file.
        delimiter: a tab or a comma; None for whichever the header has.

    Raises:
        InputError: there is no header, or it cannot be read.
    """

    def __init__(self, name: str, lines: Lines, delimiter: str | None = None) -> None:
        self.name = name
        number, line = next(lines, (1, ""))
        lines = chain([(number, line)], lines)
        self.delimiter = delimiter or ("\t" if "\t" in line else ",")
        if self.delimiter == "\t":
            self.records = self.tab_separated(lines, line.count("\t") + 1)
        else:
            self.records = self.comma_separated(lines)
        _, self.head, self.columns = next(self.records, (1, "", []))
        if not any(self.columns):
            raise InputError(f"{name}: it is empty, expected a header line and rows")

    def tab_separated(self, lines: Lines, num_columns: int) -> Iterator[tuple[int, str, list[str]]]:
        """Yield number, text and cells of every record of one line."""
        for number, line in lines:
            text = line.removesuffix("\r")
            try:
                yield number, text, split_text(text, num_columns)
            except ValueError as error:
                raise InputError(f"{self.name}:{number}: {error}") from None

    def comma_separated(self, lines: Lines) -> Iterator[tuple[int, str, list[str]]]:
        """Yield number, text and cells of every record; a quoted cell may go over several lines."""
        record = OpenRecord(lines)
        reader = csv.reader(record, strict=True)
        while True:
            record.clear()
            try:
                cells = next(reader, None)
            except csv.Error as error:  # what follows " - " is advice for programmers
                reason = str(error).partition(" - ")[0]
                raise InputError(
                    f"{self.name}:{record.number}: {reason.replace(*UNCLOSED)} in "
                    f"{shorten(record.lines[0])}, expected quotes as RFC 4180 says"
                ) from None
            if cells is None:
                return
            yield record.number, "\n".join(record.lines).removesuffix("\r"), cells

    def __iter__(self) -> Iterator[Row]:
        for number, text, cells in self.records:
            if len(cells) != len(self.columns):
                raise InputError(
                    f"{self.name}:{number}: {len(cells)} columns in {shorten(text)}, expected "
                    f"{len(self.columns)}, separated by {self.delimiter!r}"
                )
            yield Row(number, text, dict(zip(self.columns, cells)))

    def texts(self, row: Row, task: Task) -> tuple[str, ...]:
        """Return the texts of a row for a task. Raises InputError."""
        return texts_of(self.name, row, task)

    def header(self, names: Sequence[str]) -> str:
        """Return the header line."""
        return f"{self.head}{self.delimiter}{delimited(names, self.delimiter)}\n"

    def written(self, row: Row, cells: Mapping[str, object]) -> str:
        """Return a row with more cells."""
        return f"{row.text}{self.delimiter}{delimited(cells.values(), self.delimiter)}\n"


class JsonLines:
    """A JSON object per line. The columns are the keys of the first one.

    Args:
        name: of the file, for error messages.
        lines: of the file.

    Raises:
        InputError: there is no first line, or it cannot be read.
    """

    def __init__(self, name: str, lines: Lines) -> None:
        self.name = name
        rows = (self.row(number, line.strip()) for number, line in lines)
        first = next(rows, None)
        if first is None:
            raise InputError(f"{name}: it is empty, expected a JSON object per line")
        self.rows = chain([first], rows)
        self.columns = list(first.cells)

    def row(self, number: int, text: str) -> Row:
        """Read one object. Raises InputError."""
        return Row(number, text, parse_json(text, f"{self.name}:{number}"))

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def texts(self, row: Row, task: Task) -> tuple[str, ...]:
        """Return the texts of a row for a task. Raises InputError."""
        return texts_of(self.name, row, task)

    def header(self, names: Sequence[str]) -> str:
        """Return nothing: every row has its own names."""
        return ""

    def written(self, row: Row, cells: Mapping[str, object]) -> str:
        """Return a row with more members, as one line. Raises InputError if it has one already."""
        taken = [name for name in cells if name in row.cells]
        if taken:
            raise taken_column(f"{self.name}:{row.number}", taken[0])
        more = json.dumps(dict(cells), ensure_ascii=False)
        return f"{row.text.removesuffix('}').rstrip()}, {more.removeprefix('{')}\n"


RowFile = PlainLines | Table | JsonLines


class OpenRecord:
    """Gives lines to a csv reader, and keeps those of the record that it is reading.

    Attributes:
        lines: of the record so far.
        number: of its first line.
    """

    def __init__(self, source: Lines) -> None:
        self.source = source
        self.number = 1
        self.clear()

    def clear(self) -> None:
        """Begin a record."""
        self.lines: list[str] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in self.source:
            if not self.lines:
                self.number = number
            self.lines.append(line)
            self.size += len(line)
            if self.size > MAX_ROW_BYTES:
                raise csv.Error("no end after 16 MiB, so a quote is not closed")
            yield line + "\n"


def texts_of(name: str, row: Row, task: Task) -> tuple[str, ...]:
    """Return what a row has in the text columns of a task. Raises InputError if one is no text."""
    for column in task.text_columns:
        text = row.cells.get(column)
        if not isinstance(text, str) or not is_visible(text):
            found = "missing" if column not in row.cells else shown(text)
            raise InputError(
                f"{name}:{row.number}: column {column!r} is {found}, expected a sentence"
            )
    return tuple(row.cells[column] for column in task.text_columns)


def taken_column(where: str, column: str) -> InputError:
    """Return the error of a row or header that has a new column already."""
    return InputError(
        f"{where}: column {column!r} is there already, and would hold what is predicted; rename or "
        "remove it"
    )


def delimited(cells: Any, delimiter: str) -> str:
    """Return cells as one line of text without its end, quoted where they have to be."""
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow(cells)
    return line.getvalue()


def format_of(path: str, given: str | None) -> str:
    """Return the format of a file, one of `FORMATS`: the given one, or what its name says.

    Raises:
        InputError: the name ends in something that no format has.
    """
    if given is not None:
        return given
    suffix = "" if path == "-" else Path(path).suffix.lower()
    for name, suffixes in FORMATS.items():
        if suffix in suffixes:
            return name
    known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes if suffix)
    raise InputError(
        f"{path}: {suffix} is none of {known}; say with --format what is in it: "
        f"{', '.join(FORMATS)}"
    )


@contextmanager
def open_lines(path: str) -> Iterator[Lines]:
    """Open a regular file or, for `-`, standard input; yield its lines.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if path == "-":
        yield read_lines(sys.stdin.buffer, "standard input")
        return
    check_regular(path, sys.maxsize, HINT)
    try:
        file = open(path, "rb")
    except OSError as error:
        refuse(path, error, HINT)
    with file:
        yield read_lines(file, path)


def read_lines(file: IO[bytes], name: str) -> Lines:
    """Yield number and text of every line without its LF; empty lines at the end are left out.

    Raises:
        InputError: a line is too long, is not UTF-8, or cannot be read.
    """
    first_blank, blank = 0, ""  # the empty lines just read: number of the first, text of the last
    for number in count(1):
        try:
            line = file.readline(MAX_ROW_BYTES + 1)
        except OSError as error:
            refuse(name, error)
        if len(line) > MAX_ROW_BYTES:
            raise InputError(
                f"{name}:{number}: has more than {MAX_ROW_BYTES / MIB:.0f} MiB, expected one row"
            )
        if not line:
            return
        try:
            text = decode_line(line).removesuffix("\n")
        except ValueError as error:
            raise InputError(f"{name}:{number}: {error}") from None
        if number == 1:
            text = text.removeprefix("\ufeff")
        if text in ("", "\r"):
            first_blank, blank = first_blank or number, text
            continue
        yield from ((skipped, blank) for skipped in range(first_blank or number, number))
        first_blank = 0
        yield number, text
