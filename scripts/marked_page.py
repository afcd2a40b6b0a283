"""Generated parts of Markdown pages: they stand between two markers, and only they are replaced."""

from pathlib import Path

from runtime.errors import InputError
from runtime.files import atomic_write


def markers(name: str) -> tuple[str, str]:
    """Return the lines before and after the generated part `name`."""
    return f"<!-- {name}:start -->", f"<!-- {name}:end -->"


def insert(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a page.

    Args:
        page: a Markdown file.
        name: that of the generated part.
        text: what shall stand there.

    Raises:
        InputError: the page does not hold each marker exactly once, the start first.
    """
    before, _, after = part_of(page, name)
    start, end = markers(name)
    with atomic_write(page) as file:
        file.write(f"{before}{start}\n\n{text}\n\n{end}{after}")


def part_of(page: Path, name: str) -> tuple[str, str, str]:
    """Return what stands before, between and after the markers of a page.

    Raises:
        InputError: the page does not hold each marker exactly once, the start first.
    """
    content = page.read_text(encoding="utf-8")
    start, end = markers(name)
    before, _, rest = content.partition(start)
    old, _, after = rest.partition(end)
    is_whole = content == f"{before}{start}{old}{end}{after}"
    if not is_whole or content.count(start) != 1 or content.count(end) != 1:
        raise InputError(f"{page}: expected one line {start} and, below it, one {end}")
    return before, old, after
