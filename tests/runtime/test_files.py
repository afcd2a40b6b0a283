"""Atomic writes, and JSON objects that are read back."""

import math

import pytest

from runtime.errors import InputError
from runtime.files import atomic_write, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with atomic_write(path, make_parents=True) as file:
            file.write("half of the new")
            1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one\n", "two\r\n"):
        with atomic_write(path, make_parents=True) as file:
            file.write(text)
    assert path.read_bytes() == b"two\r\n"


def test_json_comes_back_and_nan_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"nested": {"score": math.nan, "name": "ä"}})
    assert read_json(tmp_path / "a.json") == {"nested": {"score": None, "name": "ä"}}


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file; expected a JSON object"),
        (b"[1]", "holds a list, expected a JSON object"),
        (b"{", "cannot be read as JSON"),
        (b"\xff", "byte 1 is not UTF-8 text"),
    ],
)
def test_what_is_no_json_object_is_one_line_naming_the_file(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.json: {message}") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
