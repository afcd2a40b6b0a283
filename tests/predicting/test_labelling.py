"""Rows of files and of standard input are labelled in their order, and written as they were."""

import csv
import io
import json
import os
import signal
import sys

import pytest
from every_kind import DEGREES, MULTILABEL, NAMED_BINARY
from tqdm import tqdm

import evaluation
from evaluation import load_run
from options.task_table import built_in_tasks
from predicting import labelling
from predicting.labelling import column_names, label, open_output
from predicting.rows import PlainLines
from runtime.errors import InputError, exit_status
from runtime.interrupts import Interrupted

TASKS = built_in_tasks()
SENTENCES = ["a fine film", "bad", "who would see it twice ?", "a", "the plot is dull and long"]
PAIRS = [(text, text[::-1]) for text in SENTENCES]


def command(run, *flags) -> None:
    words = ["--run", str(run), *map(str, flags)]
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), words))


@pytest.fixture(scope="module")
def run(finished_run):
    return load_run(finished_run)


@pytest.fixture
def labelled(finished_run, tmp_path, capsys, monkeypatch):
    """labelled(name, content, flags) -> the lines of standard output; windows have three rows."""
    monkeypatch.setattr(labelling, "WINDOW_ROWS", 3)

    def run_command(name: str, content: str | bytes, *flags: object) -> list[str]:
        content = content if isinstance(content, bytes) else content.encode()
        if name == "-":
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        else:
            (tmp_path / name).write_bytes(content)
            name = str(tmp_path / name)
        capsys.readouterr()
        command(finished_run, "--input", name, *flags)
        return capsys.readouterr().out.splitlines()

    return run_command


def expected_cells(run, name, texts) -> list[list[str]]:
    """Return what a table has to show of the predictions."""
    found = run.predict(name, texts)
    values = [[str(value)] for value in found.values.tolist()]
    if found.probabilities is not None:
        for cells, probability in zip(values, found.probabilities.max(axis=1).tolist()):
            cells.append(probability)
    return values


def assert_cells(found: list[list[str]], expected: list[list]) -> None:
    assert [cells[0] for cells in found] == [cells[0] for cells in expected]
    for cells, others in zip(found, expected):
        assert list(map(float, cells[1:])) == pytest.approx(others[1:], abs=2e-6)


@pytest.mark.parametrize("name", TASKS)
def test_plain_lines_are_labelled_in_their_order(labelled, run, name):
    task = TASKS[name]
    texts = PAIRS if task.is_pair else SENTENCES
    rows = ["\t".join(text) for text in PAIRS] if task.is_pair else SENTENCES
    content = "".join(f"{row}\r\n" for row in rows)
    header, *lines = [line.split("\t") for line in labelled("text.txt", content, "--task", name)]
    columns = [*task.text_columns, task.prediction_column]
    assert header == columns + ["Probability"] * (task.label_type is int)
    width = len(task.text_columns)
    assert ["\t".join(line[:width]) for line in lines] == rows
    assert_cells([line[width:] for line in lines], expected_cells(run, name, texts))


def test_standard_input_is_labelled_by_every_task_of_one_text(labelled, run):
    header, line = labelled("-", "très bien\n")
    assert header == "sentence\tPredicted_Sentiment\tProbability"
    assert line.startswith("très bien\t")


def test_plain_lines_become_a_table_that_can_be_read(labelled):
    lines = labelled("-", '"so" it is\nthe "so"\n')
    assert [line.partition("\t")[0] for line in lines[1:]] == ['"""so"" it is"', 'the "so"']


def test_every_task_whose_columns_are_there_labels_a_table(labelled, run):
    content = "id\tsentence\tsentence1\tsentence2\n"
    content += "".join(f'{n}\t"{a}"\t{a}\t{b}\n' for n, (a, b) in enumerate(PAIRS))
    header, *lines = labelled("rows.csv", content)
    new = "Predicted_Sentiment Probability_sst Predicted_Is_Paraphrase Probability_para"
    assert header.split("\t")[4:] == [*new.split(), "Predicted_Similarity"]
    assert ["\t".join(line.split("\t")[:4]) for line in lines] == content.splitlines()[1:]
    cells = [line.split("\t")[4:] for line in lines]
    assert_cells([c[:2] for c in cells], expected_cells(run, "sst", SENTENCES))
    assert_cells([c[2:4] for c in cells], expected_cells(run, "para", PAIRS))
    assert_cells([c[4:] for c in cells], expected_cells(run, "sts", PAIRS))
    header, *_ = labelled("rows.csv", content, "--task", "sts")
    assert header.split("\t")[4:] == ["Predicted_Similarity"]


def test_rows_between_commas_may_have_line_breaks(labelled, run):
    text = 'a "fine", long\n\nfilm'
    content = '\ufeffsentence,"x, y"\n"a ""fine"", long\n\nfilm",1\r\nbad,"2\n"\n\n'
    lines = labelled("rows.csv", content, "--task", "sst")
    found = list(csv.reader(io.StringIO("\n".join(lines) + "\n"), strict=True))
    assert [row[:2] for row in found] == [["sentence", "x, y"], [text, "1"], ["bad", "2\n"]]
    assert_cells([row[2:] for row in found[1:]], expected_cells(run, "sst", [text, "bad"]))


def test_json_lines_keep_their_members(labelled, run):
    rows = [f'{{"n":1e2, "sentence": {json.dumps(text)}, "tags":[ ]}} ' for text in SENTENCES]
    lines = labelled("rows.jsonl", "\n".join(rows))
    assert [line[: len(row) - 2] for line, row in zip(lines, rows)] == [row[:-2] for row in rows]
    found = [list(json.loads(line).items())[3:] for line in lines]
    assert all([name for name, _ in row] == ["Predicted_Sentiment", "Probability"] for row in found)
    cells = [[str(label), str(probability)] for (_, label), (_, probability) in found]
    assert_cells(cells, expected_cells(run, "sst", SENTENCES))
    assert type(found[0][0][1]) is int


def test_the_probabilities_of_all_classes(labelled, run):
    header, *lines = [
        line.split("\t") for line in labelled("-", "\n".join(SENTENCES), "--probabilities")
    ]
    names = TASKS["sst"].class_names
    assert header[2:] == ["Probability", *(f"Probability_{name}" for name in names)]
    expected = run.predict("sst", SENTENCES).probabilities
    for line, row in zip(lines, expected, strict=True):
        values = list(map(float, line[2:]))
        assert values[1:] == pytest.approx(row.tolist(), abs=2e-6)
        assert values[0] == values[1 + int(line[1])] == max(values[1:])


def test_equal_columns_of_several_tasks_are_told_apart():
    rows = PlainLines("rows", iter([]), ("text",))
    tasks = {task.name: task for task in (NAMED_BINARY, MULTILABEL, DEGREES)}
    assert column_names(rows, tasks, False) == {
        "grammar": ["Predicted_grammar", "Probability_grammar"],
        "subjects": ["Predicted_subjects", "Probability_subjects"],
        "degrees": ["Predicted_degrees"],
    }
    assert column_names(rows, {"grammar": NAMED_BINARY}, True) == {
        "grammar": ["Predicted", "Probability", "Probability_wrong", "Probability_right"]
    }


def test_few_rows_are_read_ahead_of_what_is_written(run):
    """So memory does not grow with the file."""
    read: list[int] = []
    lines = (read.append(number) or (number, "a film") for number in range(1, 22))
    rows, tasks = PlainLines("rows", lines, ("sentence",)), {"sst": TASKS["sst"]}
    seen: list[tuple[int, int]] = []

    def write(text: str) -> None:
        seen.append((len(read), text.count("\n")))

    bar = tqdm(file=io.StringIO())
    assert label(run, rows, tasks, {"sst": ["Predicted", "Probability"]}, write, 4, bar) == 21
    assert bar.n == 21
    assert seen == [(4, 5), (8, 4), (12, 4), (16, 4), (20, 4), (21, 1)]  # first with the header


@pytest.mark.parametrize(
    "name, content, flags, message",
    [
        ("text.txt", "a\rb\n", "", "text.txt:1: a carriage return in 'a.rb'; remove it"),
        ("text.txt", "a\n\u200b\n", "", "text.txt:2: 1 sentences in .*, expected 1"),
        ("text.txt", 9 * "a\n" + "\u200b\n", "", "text.txt:10: 1 sentences in .*, expected 1"),
        ("text.txt", "a\n\nb\n", "", "text.txt:2: 1 sentences in '', expected 1, .* not empty"),
        ("text.txt", "", "", "text.txt: it is empty, expected one example per line"),
        ("text.txt", "\n\n", "", "text.txt: it is empty, expected one example per line"),
        ("text.txt", "a\tb\n", "", "text.txt:1: 2 sentences in .*, expected 1"),
        ("text.txt", "one\n", "--task para", ":1: 1 sentences in 'one', expected 2, separated by"),
        ("text.txt", b"a\n\xff\n", "", r"text.txt:2: byte 1 is b'\\xff', expected UTF-8 text"),
        ("-", b"", "", "standard input: it is empty, expected one example per line"),
        ("-", b"a\n\xff\n", "", r"standard input:2: byte 1 is b'\\xff', expected UTF-8 text"),
        ("text.txt", "a\n", "--task sst para", "name with --task tasks that all take one, or all"),
        ("text.txt", "a\n", "--task mood", "--task mood: this run was trained on sst, para, sts"),
        ("data.json", "{}\n", "", "data.json: .json is none of .tsv, .csv, .jsonl, .*--format"),
        ("a.tsv", "", "", "a.tsv: it is empty, expected a header line and rows"),
        ("a.tsv", "sentence\n", "", "a.tsv: it is empty, expected one example per line"),
        ("a.tsv", "id\ttext\n1\ta\n", "", r"columns \['id', 'text'\] are of no task, expected sen"),
        ("a.tsv", "sentence\n1\ta\n", "", "a.tsv:2: 2 columns in .*, expected 1, tab-separated"),
        ("a.tsv", 'sentence\tn\n"a"b\t1\n', "", "a.tsv:2: .* expected quotes as RFC 4180 says"),
        (
            "a.tsv",
            "sentence\tn\n\t1\n",
            "",
            "a.tsv:2: column 'sentence' is '', expected a sentence",
        ),
        ("a.tsv", "sentence\n", "--task sts", "column 'sentence1' occurs 0 times in .*task 'sts'"),
        ("a.csv", "sentence,sentence\na,b\n", "", "column 'sentence' occurs 2 times"),
        ("a.csv", "sentence,n\na\n", "", "a.csv:2: 1 columns in 'a', expected 2, separated by ','"),
        ("a.csv", 'sentence\na\n"b\nc\n', "", "a.csv:3: a quote is not closed in '\"b', expected"),
        ("a.csv", "sentence,Probability\na,1\n", "", "'Probability' is there already, and would"),
        ("a.jsonl", "", "", "a.jsonl: it is empty, expected a JSON object per line"),
        ("a.jsonl", '{"sentence": "a"}\n{"x": 1}\n', "", ":2: column 'sentence' is missing, expec"),
        ("a.jsonl", '{"sentence": 3}\n', "", "a.jsonl:1: column 'sentence' is 3, expected a sen"),
        ("a.jsonl", '{"sentence": "a"}\n[]\n', "", "a.jsonl:2: holds a list, expected a JSON obj"),
        ("a.jsonl", '{"sentence": "\\ud800"}\n', "", "a.jsonl:1: cannot be read as JSON"),
        ("a.jsonl", '{"sentence": "a"\n', "", "a.jsonl:1: cannot be read as JSON"),
        (
            "a.jsonl",
            '{"sentence": "a"}\n{"sentence": "a", "Probability": 1}\n',
            "",
            "a.jsonl:2: column 'Probability' is there already",
        ),
    ],
)
def test_a_wrong_row_is_named_before_anything_is_written(
    labelled, capsys, name, content, flags, message
):
    with pytest.raises(InputError, match=message) as caught:
        labelled(name, content, *flags.split())
    assert "\n" not in str(caught.value)
    if name != "-":
        assert capsys.readouterr().out == ""


def test_a_line_without_an_end_is_not_read_for_ever(labelled, monkeypatch):
    monkeypatch.setattr("predicting.rows.MAX_ROW_BYTES", 100)
    with pytest.raises(InputError, match="text.txt:2: has more than 0 MiB, expected one row"):
        labelled("text.txt", "a\n" + 200 * "b")
    with pytest.raises(InputError, match="a.csv:2: no end after 16 MiB, so a quote is not closed"):
        labelled("a.csv", 'sentence\n"' + 20 * "many a line\n")


def test_the_format_may_be_given(labelled):
    lines = labelled("-", '{"sentence": "a"}\n', "--format", "jsonl")
    assert json.loads(lines[0])["sentence"] == "a"
    assert labelled("a.data", "sentence\na\n", "--format", "csv")[1].startswith("a,")


def test_the_output_appears_once_it_is_complete(finished_run, tmp_path, capsys, monkeypatch):
    output = tmp_path / "labelled.txt"
    output.write_text("earlier")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n\xff\n")))
    monkeypatch.setattr(labelling, "WINDOW_ROWS", 1)
    with pytest.raises(InputError, match="standard input:3"):
        command(finished_run, "--input", "-", "--output", output)
    assert output.read_text() == "earlier" and [*tmp_path.iterdir()] == [output]
    (tmp_path / "text.txt").write_text("a\nb\n")
    command(finished_run, "--input", tmp_path / "text.txt", "--output", output)
    assert capsys.readouterr().out.endswith(f"2 rows written to {output}\n")
    assert len(output.read_text().splitlines()) == 3


def test_what_cannot_be_the_output_is_named(finished_run, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("a\n")
    (tmp_path / "link").symlink_to(source)
    for output, message in (
        (tmp_path, "is a folder, expected a file to write"),
        ("/dev/null", "is a device, expected a file to write"),
        (tmp_path / "none" / "file", "there is no such folder"),
        (source, "is the input; name another file"),
        (tmp_path / "link", "is the input; name another file"),
    ):
        with pytest.raises(InputError, match=f"--output {output}: {message}"):
            command(finished_run, "--input", source, "--output", output)
    for name, message in ((tmp_path, "is a folder"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=f"{name}: {message}"):
            command(finished_run, "--input", name)


def status_of(finished_run, path, *flags) -> int:
    """Run the command as the script does, its output needed."""
    return exit_status(lambda: command(finished_run, "--input", path, *flags), True)


def test_a_full_disk_and_a_closed_pipe_are_one_line(finished_run, tmp_path, capsys, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("a fine film\n")
    for read_end in (True, False):
        if read_end:
            reader, writer = os.pipe()
            os.close(reader)
            message = "error: standard output was closed before all rows were written\n"
        else:
            writer = os.open("/dev/full", os.O_WRONLY)
            message = "error: standard output cannot be written: No space left on device\n"
        with open(writer, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert status_of(finished_run, path) == 1
        assert capsys.readouterr().err == message


def test_a_full_disk_leaves_nothing_behind(finished_run, small_disk, tmp_path, capsys):
    path, output = tmp_path / "text.txt", small_disk / "labelled.txt"
    path.write_text(("a fine film " * 400 + "\n") * 100)
    assert status_of(finished_run, path, "--output", output) == 1
    message = f"error: {output}: cannot be written: No space left on device\n"
    assert capsys.readouterr().err == message
    assert [*small_disk.iterdir()] == []


def test_a_signal_leaves_nothing_behind(tmp_path):
    path = tmp_path / "labelled.txt"
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM; {path} is not written"):
        with open_output(str(path)) as write:
            write("a part")
            signal.raise_signal(signal.SIGTERM)
    assert [*tmp_path.iterdir()] == []


def test_several_workers_cannot_label(finished_run, tmp_path, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_text("a\n")
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    args = evaluation.get_args_parser().parse_args(["--run", "x", "--input", str(path)])
    with pytest.raises(InputError, match="--input is labelled by one process; start it without"):
        labelling.label_file(args, "cpu")
