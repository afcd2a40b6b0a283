"""Standard output and error that a command can rely on, whatever stands behind them."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

KEPT = {ord(character) for character in "\t\n"}
# Characters that move the cursor or change a terminal's state, and how they are printed instead.
ESCAPED = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in KEPT
}
ESCAPED |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def printable(text: str) -> str:
    """Return a text whose control characters are escaped, but for tabs and line ends."""
    return text.translate(ESCAPED)


def one_line(text: str) -> str:
    """Return a text on a single line, with its control characters escaped."""
    return printable(" ".join(text.split("\n")))


class SteadyStream:
    """A text stream whose reader may go away or whose disk may fill without ending the command.

    Args:
        stream: gets the text, until it fails.
        is_needed: the text is the command's result, so a failure raises and nothing is escaped.
        is_escaped: escape control characters.
    """

    def __init__(self, stream: TextIO, is_needed: bool = False, is_escaped: bool = True) -> None:
        self.stream, self.is_needed, self.is_escaped = stream, is_needed, is_escaped
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):  # and not a stand-in for one
            # Progress is to be seen at once, also in the log file of a job; a result need not be.
            stream.reconfigure(
                errors="strict" if is_needed else "backslashreplace",
                line_buffering=not is_needed or stream.line_buffering,
            )

    def write(self, text: str) -> int:
        """Write a text, or nothing once the stream has failed."""
        self.attempt(self.stream.write, printable(text) if self.is_escaped else text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing once the stream has failed."""
        self.attempt(self.stream.flush)

    def attempt(self, method: Any, *args: str) -> None:
        """Call a method of the stream; its first OSError ends the stream and raises if needed."""
        if self.error is not None:
            return
        try:
            method(*args)
        except OSError as error:
            self.error = error
            self.discard()
            is_gone = isinstance(error, BrokenPipeError)  # `head` has all that it wanted
            if self.is_needed and is_gone:
                raise
            message = f"standard output cannot be written: {error.strerror or error}"
            if self.is_needed:
                raise OSError(message) from None
            if not is_gone and self is not sys.stderr:
                print(f"warning: {message}; continuing without it", file=sys.stderr)

    def discard(self) -> None:
        """Let what is still buffered, and all that follows, go nowhere."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def open_missing() -> None:
    """Open /dev/null in place of closed standard streams.

    Otherwise the next file that is opened, a checkpoint perhaps, would get the number of stdout.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))


@contextmanager
def steady_streams(is_output_needed: bool) -> Iterator[None]:
    """Make stdout and stderr steady inside the block.

    Args:
        is_output_needed: stdout is the command's result, a table for example: if it cannot be
            written, the command fails.

    Raises:
        OSError: it cannot be written.
    """
    open_missing()
    previous = sys.stdout, sys.stderr
    sys.stderr = SteadyStream(sys.stderr, is_escaped=False)
    sys.stdout = SteadyStream(sys.stdout, is_output_needed, is_escaped=not is_output_needed)
    try:
        yield
        sys.stdout.flush()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = previous
