"""data/download.py --glue on generated Parquet files; no test asks the real hub."""

import re
from pathlib import Path

import pytest

from data import download as downloader
from datasets import read_examples, task_file
from options.parsing import parse_args
from options.run_options import get_args_parser
from options.task_table import read_table

parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = downloader.read_sources("glue")
TABLE = read_table(ROOT / "data" / "glue.toml")
COUNTS = {  # of the benchmark's train, dev and test files
    "glue-cola": (8551, 1043, 1063),
    "glue-sst2": (67349, 872, 1821),
    "glue-mrpc": (3668, 408, 1725),
    "glue-qqp": (363846, 40430, 390965),
    "glue-stsb": (5749, 1500, 1379),
    "glue-mnli": (392702, 9815, 9796),
    "mismatched/glue-mnli": (9832, 9847),
    "glue-qnli": (104743, 5463, 5463),
    "glue-rte": (2490, 277, 3000),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub with three rows per file; `rows[filename]` may be changed."""
    rows = {}
    for source in SOURCES.values():
        for split, filename in zip(source.splits, source.files, strict=True):
            labels = [3.7999999523, 0.0, 5.0] if source.num_classes is None else [0, 1, 1]
            labels = [-1] * 3 if split == "test-student" else labels
            rows[filename] = [
                {field: f"{field} {i}\tof\n{filename}" for field in source.text_fields}
                | {"label": label, "idx": i}
                for i, label in enumerate(labels)
            ]

    def fetch(repo_id, filename, *, repo_type, revision):
        assert (repo_id, repo_type) == ("nyu-mll/glue", "dataset")
        assert re.fullmatch("[0-9a-f]{40}", revision)
        path = tmp_path / "hub" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows[filename], bytes):
            path.write_bytes(rows[filename])
        else:
            parquet.write_table(pyarrow.Table.from_pylist(rows[filename]), path)
        return path

    few = {
        stem: source._replace(num_rows=(3,) * len(source.files)) for stem, source in SOURCES.items()
    }
    monkeypatch.setattr(downloader, "hf_hub_download", fetch)
    monkeypatch.setattr(downloader, "read_sources", lambda name: {"glue": few}[name])
    return rows


def test_the_expected_counts_are_those_of_the_benchmark():
    assert {stem: source.num_rows for stem, source in SOURCES.items()} == COUNTS


def test_every_task_of_the_table_finds_its_files(hub, tmp_path):
    assert downloader.main(["--glue", "--out", str(tmp_path / "glue")]) == 0
    words = ["--tasks", str(ROOT / "data" / "glue.toml"), "--data_dir", str(tmp_path / "glue")]
    args = parse_args(get_args_parser(), words)
    assert list(args.tasks) == ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"]
    for task in args.tasks.values():
        for split in ("train", "dev", "test"):
            path = task_file(args, task, split)
            examples = read_examples(path, task, require_labels=split != "test")
            labels = [3.8, 0.0, 5.0] if task.label_type is float else [0, 1, 1]
            assert [e.label for e in examples] == ([None] * 3 if split == "test" else labels)
            assert [e.id for e in examples] == [f"{split}-{i}" for i in range(3)]
            assert (
                examples[0]
                .texts[0]
                .endswith(
                    f"{SOURCES[task.stem].text_fields[0]} 0 of "
                    + SOURCES[task.stem].files[("train", "dev", "test").index(split)]
                )
            )
    args.data_dir = str(tmp_path / "glue" / "mismatched")
    mnli = args.tasks["mnli"]
    examples = read_examples(task_file(args, mnli, "dev"), mnli, require_labels=True)
    assert "validation_mismatched" in examples[0].texts[0] and len(examples) == 3


def test_the_metrics_are_the_benchmark_s():
    judged = {name: task.metric_name for name, task in TABLE.tasks.items()}
    assert judged == {
        **dict.fromkeys(judged, "accuracy"),
        **{"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"},
    }
    for name, beside in (("mrpc", "accuracy"), ("qqp", "accuracy"), ("stsb", "spearman")):
        assert beside in TABLE.tasks[name].other_metrics


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PAR1 no more", "rte/test-00000-of-00001.parquet: cannot be read as Parquet"),
        ([], "rte/test-00000-of-00001.parquet: 0 rows, expected 3"),
        ([{"sentence1": "a"}] * 3, "parquet:1: field 'sentence2' is missing, expected it among"),
    ],
)
def test_a_bad_file_is_one_line_and_changes_nothing(hub, tmp_path, capsys, content, message):
    hub["rte/test-00000-of-00001.parquet"] = content  # the last one
    assert downloader.main(["--glue", "--out", str(tmp_path / "glue")]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "glue").exists()


def test_an_interrupted_move_changes_nothing(hub, tmp_path, monkeypatch):
    out = tmp_path / "glue"
    downloader.main(["--glue", "--out", str(out)])
    before = {path: path.read_bytes() for path in out.rglob("*.csv")}
    for rows in hub.values():
        rows[0]["idx"] = 7
        for field in rows[0].keys() - {"label", "idx"}:
            rows[0][field] = "another text"
    replace, moves = downloader.os.replace, []

    def interrupted(source, target):
        moves.append(target)
        if len(moves) == 40:  # 26 files, each is moved aside first
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(downloader.os, "replace", interrupted)
    assert downloader.main(["--glue", "--out", str(out), "--force"]) == 130
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == before
    assert len(before) == 26


def test_without_pyarrow_one_line_says_what_to_install(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(downloader, "find_spec", lambda name: None)
    assert downloader.main(["--glue", "--out", str(tmp_path / "glue")]) == 1
    assert capsys.readouterr().err == (
        "error: --glue reads Parquet files; run pip install pyarrow\n"
    )
