"""data/download.py on generated stand-ins of the three sources; no test asks the real hub."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import huggingface_hub.errors as hub_errors
import pytest

from data import download as downloader

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {  # with the row counts of the stand-ins
    stem: source._replace(num_rows=(3, 2, 2)) for stem, source in downloader.SOURCES.items()
}
COLUMNS = {
    "sst-sentiment": ["id", "sentence", "sentiment"],
    "quora-paraphrase": ["id", "sentence1", "sentence2", "is_duplicate"],
    "sts-similarity": ["id", "sentence1", "sentence2", "similarity"],
}
LABELS = {  # as on the hub, as in our files
    "sst-sentiment": ([0, 4, 2], ["0", "4", "2"]),
    "quora-paraphrase": ([1, 0, 1], ["1.0", "0.0", "1.0"]),
    "sts-similarity": ([3.7999999523, 5, 0.0], ["3.8", "5.0", "0.0"]),
}
TEXTS = ['She said "hi",\r\nthen\tleft \n', "plain words", '"half a quote']
CLEAN_TEXTS = ['She said "hi", then left', *TEXTS[1:]]


class FakeHub:
    """A stand-in for the hub that serves `rows` as JSON-lines files.

    Attributes:
        rows: (repo_id, filename) -> rows; a row that is a string is a line as it is.
        requests: arguments of all calls so far.
        error_at: number of a call, from 0 -> the error that it raises.
    """

    def __init__(self, folder):
        self.folder, self.error_at = folder, {}
        self.requests, self.rows = [], {}
        for stem, source in SOURCES.items():
            for filename, count in zip(source.files, source.num_rows, strict=True):
                labels = [-1] * count if filename == "test.jsonl" else LABELS[stem][0][:count]
                self.rows[source.repo_id, filename] = [
                    {field: text for field in source.text_fields} | {"label": label, "idx": 7}
                    for text, label in zip(TEXTS, labels)
                ]

    def __call__(self, repo_id, filename, *, repo_type, revision):
        if error := self.error_at.get(len(self.requests)):
            raise error
        self.requests.append((repo_id, filename, repo_type, revision))
        path = self.folder / repo_id / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            row if type(row) is str else json.dumps(row) for row in self.rows[repo_id, filename]
        ]
        path.write_text("".join(line + "\n" for line in lines), "latin-1")
        return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replace the hub by a stand-in, and the row counts by its own."""
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(downloader, "hf_hub_download", hub)
    monkeypatch.setattr(downloader, "SOURCES", SOURCES)
    return hub


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def read_strictly(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill_with_old_files(out: Path) -> dict[str, bytes]:
    out.mkdir()
    for name in downloader.FILE_NAMES:
        (out / name).write_text(f"old {name}\n")
    (out / "notes.txt").write_text("mine\n")
    return contents(out)


def test_nine_files_hold_the_source_rows(hub, out):
    downloader.download(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(downloader.FILE_NAMES)
    for stem, columns in COLUMNS.items():
        texts = [[text] * (len(columns) - 2) for text in CLEAN_TEXTS]
        expected = [[*pair, label] for pair, label in zip(texts, LABELS[stem][1])]
        for split, count in zip(("train", "dev"), SOURCES[stem].num_rows):
            rows = [[f"{split}-{i}", *expected[i]] for i in range(count)]
            assert read_strictly(out / f"{stem}-{split}.csv") == [columns, *rows]
        rows = [[f"test-{i}", *expected[i][:-1]] for i in range(2)]
        assert read_strictly(out / f"{stem}-test-student.csv") == [columns[:-1], *rows]


def test_quotes_only_where_needed_and_lines_end_in_lf(hub, out):
    downloader.download(out)
    assert (out / "sst-sentiment-train.csv").read_bytes().decode() == (
        "id\tsentence\tsentiment\n"
        'train-0\t"She said ""hi"", then left"\t0\n'
        "train-1\tplain words\t4\n"
        'train-2\t"""half a quote"\t2\n'
    )


@pytest.mark.parametrize(
    "text, expected",
    [(t, "a b") for t in ("a\tb", "a\nb", "a\r\nb", "a\rb", "a \x85 b", "\na\u2028\u2029b\v")]
    + [("Ça  coûte 3 € \U0001f600, l'été\u00a0!",) * 2],
)
def test_a_record_is_one_line(hub, out, text, expected):
    hub.rows["SetFit/sst5", "train.jsonl"][1]["text"] = text
    downloader.download(out)
    assert read_strictly(out / "sst-sentiment-train.csv")[2] == ["train-1", expected, "4"]
    assert len((out / "sst-sentiment-train.csv").read_text("utf-8").splitlines()) == 4


@pytest.mark.parametrize(
    "repo_id, label, allowed",
    [("SetFit/sst5", bad, "an integer from 0 to 4") for bad in (-1, 5, 2.0, "2", True, None)]
    + [("SetFit/qqp", bad, "0 or 1") for bad in (-1, 2, 1.0, "1", False)]
    + [("SetFit/stsb", bad, "a number in [0, 5]") for bad in (-1.0, 5.1, float("nan"), "3", True)],
)
def test_a_bad_label_stops(hub, out, repo_id, label, allowed):
    hub.rows[repo_id, "train.jsonl"][1]["label"] = label
    message = f"{repo_id}/train.jsonl:2: field 'label' is {label!r}, expected {allowed}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        downloader.download(out)
    assert not out.exists()


def test_labels_of_test_rows_are_not_read(hub, out):
    hub.rows["SetFit/qqp", "test.jsonl"][0]["label"] = "anything"
    del hub.rows["SetFit/stsb", "test.jsonl"][0]["label"]
    downloader.download(out)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"b": 1, "text1": "a"}', "field 'text2' is missing, expected it among ['b', 'text1']"),
        ('{"text1": 3, "text2": "b"}', "field 'text1' is 3, expected a string"),
        ('["a", "b"]', "['a', 'b'] is not a JSON object"),
        ('{"text1": "caf\xe9"}', 'b\'{"text1": "caf\\xe9"}\\n\' is not JSON ('),
    ],
)
def test_an_unreadable_row_stops(hub, out, line, message):
    hub.rows["SetFit/stsb", "test.jsonl"][1] = line
    with pytest.raises(ValueError, match="^" + re.escape(f"SetFit/stsb/test.jsonl:2: {message}")):
        downloader.download(out)
    assert not out.exists()


@pytest.mark.parametrize("filename", ["train.jsonl", "validation.jsonl", "test.jsonl"])
@pytest.mark.parametrize("factor", [0, 2])
def test_a_wrong_count_stops_and_changes_nothing(hub, out, filename, factor):
    before = fill_with_old_files(out)
    rows = hub.rows["SetFit/stsb", filename]  # test.jsonl: the last of the nine
    message = f"SetFit/stsb/{filename}: {len(rows) * factor} rows, expected {len(rows)}"
    rows *= factor
    with pytest.raises(ValueError, match=f"^{message}$"):
        downloader.download(out, force=True)
    assert contents(out) == before and not list(out.glob(".*"))


def test_the_expected_counts_are_those_of_the_benchmarks(hub, out, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(downloader, "hf_hub_download", hub)
    sst, quora, sts = (source.num_rows for source in downloader.SOURCES.values())
    assert (sst, sts) == ((8544, 1101, 2210), (5749, 1500, 1379))
    assert quora == (363846, 40430, 390965)
    with pytest.raises(ValueError, match="SetFit/sst5/train.jsonl: 3 rows, expected 8544"):
        downloader.download(out)


@pytest.mark.parametrize("empty", ["", " \t\n", None])
def test_quora_rows_with_an_empty_question_are_dropped_and_named(hub, out, capsys, empty):
    hub.rows["SetFit/qqp", "train.jsonl"][0]["text2"] = empty
    hub.rows["SetFit/qqp", "test.jsonl"][1]["text1"] = empty
    downloader.download(out)
    for split, ids in (("train", ["train-1", "train-2"]), ("test-student", ["test-0"])):
        _, *rows = read_strictly(out / f"quora-paraphrase-{split}.csv")
        assert [row[0] for row in rows] == ids
    printed = capsys.readouterr().out
    assert "dropped 1 with an empty text: SetFit/qqp/train.jsonl, lines 1\n" in printed
    assert "dropped 1 with an empty text: SetFit/qqp/test.jsonl, lines 2\n" in printed


def test_empty_texts_stop_where_none_are_known_or_too_many(hub, out):
    hub.rows["SetFit/stsb", "test.jsonl"][1]["text1"] = " "
    with pytest.raises(ValueError, match="stsb/test.jsonl:2: field 'text1' is '', expected a text"):
        downloader.download(out)
    hub.rows["SetFit/qqp", "train.jsonl"] = [{"text1": "a", "text2": "", "label": 0}] * 11
    with pytest.raises(ValueError, match="qqp/train.jsonl:11: field 'text2' is ''.*at most 10"):
        downloader.download(out)


@pytest.mark.parametrize("have_old_files", [False, True])
@pytest.mark.parametrize("num_moves", [0, 1, 5, 8])
def test_an_interrupted_move_changes_nothing(hub, out, monkeypatch, have_old_files, num_moves):
    before = fill_with_old_files(out) if have_old_files else {}
    replace, moves = os.replace, []

    def interrupted_replace(source, target):
        moves.append(target)
        assert out in Path(source).parents  # the same file system, or a move is not atomic
        if len(moves) == num_moves + 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted_replace)
    with pytest.raises(KeyboardInterrupt):
        downloader.download(out, force=True)
    assert contents(out) == before
    assert out.exists() == have_old_files and not list(out.glob(".*"))


def test_existing_files_stay_unless_forced(hub, out, capsys):
    before = fill_with_old_files(out)
    assert downloader.main(["--out", str(out)]) == 0
    assert "already holds 9 of the 9 files; --force replaces them" in capsys.readouterr().out
    assert hub.requests == [] and contents(out) == before
    (out / downloader.FILE_NAMES[0]).unlink()
    assert downloader.main(["--out", str(out)]) == 1
    assert "already holds 8 of the 9 files" in capsys.readouterr().err
    downloader.download(out, force=True)
    assert not any(b"old" in (out / name).read_bytes() for name in downloader.FILE_NAMES)
    assert (out / "notes.txt").read_text() == "mine\n"


@pytest.mark.parametrize("position", [0, 5])
@pytest.mark.parametrize(
    "error",
    [
        hub_errors.LocalEntryNotFoundError("no connection,\nno cache"),
        hub_errors.OfflineModeIsEnabled("offline"),
        hub_errors.HTTPError("proxy said no"),
        hub_errors.XetDownloadError("gone"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
def test_an_unreachable_hub_is_one_line_with_the_way_out(hub, out, capsys, error, position):
    before = fill_with_old_files(out)
    hub.error_at[position] = error
    assert downloader.main(["--out", str(out), "--force"]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and printed.endswith(f": {downloader.WAY_OUT}\n")
    assert "from the Hugging Face hub" in printed and type(error).__name__ in printed
    assert downloader.hub_logging.get_verbosity() == downloader.hub_logging.ERROR
    assert contents(out) == before


@pytest.mark.parametrize(
    "error, status, line",
    [
        (OSError(28, "No space left"), 1, "error: [Errno 28] No space left\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was changed\n"),
    ],
)
def test_other_failures_are_one_line_too(hub, out, capsys, error, status, line):
    hub.error_at[2] = error
    assert downloader.main(["--out", str(out)]) == status
    assert capsys.readouterr().err == line and not out.exists()


def test_files_are_requested_as_datasets_at_their_revision(hub, out):
    downloader.download(out)
    assert hub.requests == [
        (source.repo_id, filename, "dataset", source.revision)
        for source in downloader.SOURCES.values()
        for filename in source.files
    ]


def test_the_command_without_a_hub(tmp_path, out):
    environment = {key: value for key, value in os.environ.items() if key[:2] not in ("HF", "HU")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(ROOT / "data" / "download.py"), "--out", str(out)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: cannot fetch SetFit/sst5/train.jsonl from [^\n]*\n", done.stderr)
    assert "OfflineModeIsEnabled" in done.stderr and "data/sample" in done.stderr
    assert not out.exists()
