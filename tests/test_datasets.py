"""The strict reader of data files: what it returns, what it refuses; it loses no record."""

import re

import pytest

from datasets import read_examples
from options.task_table import built_in_tasks
from runtime.errors import InputError
from tasks import Example

TASKS = built_in_tasks()

SST = TASKS["sst"]
HEADER = "id\tsentence\tsentiment\n"
GOOD = "a\ta fine film\t3\n"


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and reads it as the examples of a task."""

    def read_content(content, task=SST, **options):
        path = tmp_path / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_examples(path, task, **options)

    return read_content


@pytest.fixture
def refusal(read, tmp_path):
    """Return a function that gives the error message for a file, without the path."""

    def message(content, task=SST, **options):
        with pytest.raises(InputError) as raised:
            read(content, task, **options)
        path, text = str(tmp_path / "rows.csv:"), str(raised.value)
        assert text.startswith(path)
        return text.removeprefix(path)

    return message


def one_row(task, label):
    """Return the content of a file with one row."""
    columns = ["id", *task.text_columns, task.label_column]
    cells = ["a", *(f"a {name}" for name in task.text_columns), label]
    return "\t".join(columns) + "\n" + "\t".join(cells) + "\n"


@pytest.mark.parametrize(
    "cell, text",
    [
        ('"a fine film"', "a fine film"),
        ('"a ""fine"" film"', 'a "fine" film'),
        ('"""fine"""', '"fine"'),
        ('"a fine\tfilm"', "a fine\tfilm"),
        ('"a fine\rfilm"', "a fine\rfilm"),
        ('""""', '"'),
        ('"not closed', '"not closed'),
        ('"not closed, ""doubled""', '"not closed, ""doubled""'),
        ('"not closed at the end""', '"not closed at the end""'),
        ('a "fine" film', 'a "fine" film'),
        ('a fine "film"', 'a fine "film"'),
        ('a ""fine"" film', 'a ""fine"" film'),
        (' "fine"', ' "fine"'),
        ("  kept  as it is ", "  kept  as it is "),
        ("'single' quotes, commas", "'single' quotes, commas"),
        ("café \u2013 東京 😀", "café \u2013 東京 😀"),
        ("no\u2028end\x85of\x0bline\x0c", "no\u2028end\x85of\x0bline\x0c"),
        ("nul\0byte", "nul\0byte"),
        ('"nul\0byte"', "nul\0byte"),
        ("back\\slash\\t", "back\\slash\\t"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cell_is_decoded(read, cell, text, end):
    content = HEADER + GOOD + f"b\t{cell}\t4\n" + GOOD
    assert read(content.replace("\n", end)) == [
        Example("a", ("a fine film",), 3),
        Example("b", (text,), 4),
        Example("a", ("a fine film",), 3),
    ]


def test_stray_quote_leaves_its_neighbours_quoted(read):
    content = 'id\tsentence1\tsentence2\nq\t"so ""called"""\t"stray\n"r"\tplain\t"stray ""too""\n'
    rows = read(content, TASKS["para"])
    assert rows[0] == Example("q", ('so "called"', '"stray'), None)
    assert rows[1] == Example("r", ("plain", '"stray ""too""'), None)


@pytest.mark.parametrize(
    "row, message",
    [
        ("b\t\t3", "column 'sentence' is '', expected a sentence"),
        ('b\t""\t3', "column 'sentence' is '', expected a sentence"),
        ("b\t \u3000\t3", r"column 'sentence' is ' \\u3000', expected a sentence"),
        ("b\ta film\t", r"column 'sentiment' is '', expected an integer in \[0, 4\]"),
        ("b\ta film\t5", r"column 'sentiment' is '5', expected an integer in \[0, 4\]"),
        ("b\ta film", r"2 columns in 'b\\ta film', expected 3"),
        ("b\ta\tfilm\t3", r"4 columns in 'b\\ta\\tfilm\\t3', expected 3"),
        ('b\t"a\tfilm"', r"2 columns in .*, expected 3"),
        ('b\t"a film', "a quote is not closed on its line in .*, expected a closing quote"),
        ('b\t"a\tfilm\t3', "a quote is not closed on its line in .*, expected a closing quote"),
        ('b\t"a" film\t3', r"'\\t' expected after '\"' in .*, expected quotes as RFC 4180 says"),
        ('b\t"a"film"\t3', r"'\\t' expected after '\"' in .*, expected quotes as RFC 4180 says"),
        ("b\ta\rfilm\t3", "new-line character seen in unquoted field in 'b"),
        ('"b"\ta\rfilm\t3', "new-line character seen in unquoted field in '\"b"),
        ("", "1 columns in '', expected 3"),
        (" ", "1 columns in ' ', expected 3"),
        (b"b\ta f\xfflm\t3", r"byte 6 is b'\\xff', expected UTF-8 text"),
        (b"b\tcaf\xe9\t3", r"byte 6 is b'\\xe9', expected UTF-8 text"),
    ],
)
def test_bad_row_stops_or_is_skipped(read, refusal, capsys, row, message):
    row = row if isinstance(row, bytes) else row.encode()
    content = (HEADER + GOOD).encode() + row + b"\n" + GOOD.encode()
    assert re.match(f"3: {message}", refusal(content))
    assert len(read(content, skip_bad_rows=True)) == 2
    assert capsys.readouterr().out.endswith("rows.csv: skipped 1 bad rows, lines 3\n")


def test_skipped_rows_are_counted_and_named(read, capsys):
    rows = read(HEADER + "b\t\t1\n" + GOOD + "c\n\n" + GOOD + "d\tfilm\t9\n", skip_bad_rows=True)
    assert [row.id for row in rows] == ["a", "a"]
    assert capsys.readouterr().out.endswith("rows.csv: skipped 4 bad rows, lines 2, 4, 5, 7\n")
    read(HEADER + GOOD, skip_bad_rows=True)
    assert capsys.readouterr().out == ""


def test_long_cells_are_shortened_in_messages(refusal):
    message = refusal(HEADER + "a\t" + "film " * 100 + "\n")
    assert len(message) < 200 and "..." in message


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("label", ["", " ", "x", "nan", "inf", "-inf", "-1", "99", "0_1", "1,0"])
def test_bad_label_is_refused(refusal, name, label):
    task = TASKS[name]
    expected = f"2: column {task.label_column!r} is {label!r}, expected {task.label_expected}"
    assert refusal(one_row(task, label), task) == expected


@pytest.mark.parametrize("name", TASKS)
def test_label_range_includes_its_ends_alone(read, refusal, name):
    task = TASKS[name]
    low, high = task.label_range
    for end in (low, high):
        assert read(one_row(task, str(end)), task)[0].label == end
    for beyond in (low - 0.01, high + 0.01, low - 1, high + 1):
        assert "expected" in refusal(one_row(task, str(beyond)), task)


@pytest.mark.parametrize("name", TASKS)
def test_label_keeps_its_type(read, refusal, name):
    task = TASKS[name]
    for text in ("1", "1.0", "1.00"):
        label = read(one_row(task, text), task)[0].label
        assert label == 1 and type(label) is task.label_type
    if task.label_type is float:
        assert read(one_row(task, "0.25"), task)[0].label == 0.25
    else:
        assert "is '0.25', expected an integer" in refusal(one_row(task, "0.25"), task)


def test_similarity_keeps_its_fraction(read):
    assert read(one_row(TASKS["sts"], "3.8"), TASKS["sts"])[0].label == 3.8


@pytest.mark.parametrize("name", TASKS)
def test_label_column_is_optional_unless_required(read, refusal, name):
    task = TASKS[name]
    content = "\n".join(
        line.rpartition("\t")[0] for line in one_row(task, "1").splitlines()
    )  # without the label and the last line end
    assert read(content, task)[0].label is None
    message = refusal(content, task, require_labels=True)
    assert message.startswith(f"1: column {task.label_column!r} occurs 0 times in ['id', ")
    assert read(one_row(task, "1"), task, require_labels=True)[0].label == 1


@pytest.mark.parametrize("name", TASKS)
def test_missing_or_repeated_column_is_refused(refusal, name):
    task = TASKS[name]
    content = one_row(task, "1")
    for column in ("id", *task.text_columns):
        message = refusal(content.replace(f"{column}\t", "other\t", 1), task, skip_bad_rows=True)
        assert message.startswith(f"1: column {column!r} occurs 0 times in ")
    for column in ("id", *task.text_columns, task.label_column):
        header, row = content.splitlines()
        message = refusal(f"{header}\t{column}\n{row}\tx\n", task, skip_bad_rows=True)
        assert message.startswith(f"1: column {column!r} occurs 2 times in ")


def test_columns_are_found_by_name(read):
    content = 'extra\tsentiment\t"id"\tsentence\textra\n\t2\tx\t"a ""film"""\t"more"\n'
    assert read(content) == [Example("x", ('a "film"',), 2)]


def test_byte_order_mark_and_blank_end_are_no_records(read):
    expected = [Example("a", ("a fine film",), 3)]
    assert read("\ufeff" + HEADER + GOOD) == expected
    for end in ("", "\n", "\n\n\n", "\r\n\r\n"):
        assert read(HEADER + GOOD.rstrip("\n") + end) == expected


@pytest.mark.parametrize(
    "content, message",
    [
        ("", " the file is empty, expected a header line and rows"),
        ("\ufeff\n\r\n", " the file is empty, expected a header line and rows"),
        (HEADER, " no examples in it, expected one per line after the header"),
        (HEADER + "\n\n", " no examples in it, expected one per line after the header"),
        (HEADER + "a\t\t3\n", " no examples in it, expected one per line after the header"),
        ((HEADER + GOOD).encode("utf-16"), "1: byte 1 is b'\\xff', expected UTF-8 text"),
        ('"id\tsentence\tsentiment\n' + GOOD, "1: column 'id' occurs 0 times in "),
        ((HEADER + GOOD).replace("\n", "\r"), "1: new-line character seen in unquoted field"),
        ((HEADER + GOOD).replace("\t", ","), "1: column 'id' occurs 0 times in "),
    ],
)
def test_file_without_examples_is_refused(refusal, content, message):
    assert refusal(content, skip_bad_rows=True).startswith(message)


def test_a_long_quoted_cell_is_as_good_as_an_unquoted_one(tmp_path):
    text = "long " * 40_000
    (tmp_path / "a.csv").write_text(f'id\tsentence\tsentiment\na\t"{text}"\t1\nb\t{text}\t1\n')
    first, second = read_examples(tmp_path / "a.csv", SST)
    assert first.texts == second.texts == (text,)


def test_ids_that_stand_in_several_rows_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("id\tsentence\tsentiment\n" + "a\tx\t1\n" * 2 + "b\ty\t1\n")
    with pytest.warns(UserWarning, match="a.csv: 1 ids stand in several rows, 'a' the first"):
        read_examples(tmp_path / "a.csv", SST)


def test_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere.csv: no such file; name it with --data_dir"):
        read_examples(tmp_path / "nowhere.csv", SST)
    with pytest.raises(InputError, match="is a folder, expected a regular file"):
        read_examples(tmp_path, SST)
