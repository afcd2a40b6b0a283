"""Texts of a run on their way to a model card: they may be anyone's, and stay plain text."""

import html
import re

from runtime.streams import one_line


def cell(text: object) -> str:
    """Return a text for a paragraph or a table cell: on one line, without markup."""
    escaped = html.escape(one_line(str(text)), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", escaped)


def table(header: list[str], rows: list[list[object]]) -> str:
    """Return a table; its cells are escaped."""
    lines = [header, ["---"] * len(header), *([cell(part) for part in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """Return a code block, with a fence that is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
