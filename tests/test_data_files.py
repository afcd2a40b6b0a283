"""Whole data files: which of them a run reads, and what the reader makes of them.

The reader is compared with Python's `csv` on all files. The real files are searched for in
$MULTITASK_BERT_DATA, ../shared/data and data. Files of other sizes, such as those that
`data/download.py` writes, are not tested.
"""

import csv
import os
import shutil
from pathlib import Path

import pytest

import datasets
from datasets import SPLITS, load_data, read_examples, task_file
from models.pretrained import load_config, load_tokenizer
from options import data_dir, parsing, run_options, task_table
from options.data_dir import default_data_dir
from options.parsing import parse_args
from options.resolving import resolve_options
from options.run_options import get_args_parser
from options.task_table import built_in_tasks
from runtime.errors import InputError

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "data" / "sample"
EVERY_FILE = [(name, split) for name in TASKS for split in SPLITS]
REAL_COUNTS = {  # task -> examples of train, dev, test
    "sst": (7_111, 2_365, 2_371),
    "para": (14_212, 3_000, 3_000),
    "sts": (5_149, 1_709, 1_721),
}
REAL_QUOTED_CELLS = {"sst": 0, "para": 810, "sts": 614}


def file_in(directory, name, split):
    return directory / f"{TASKS[name].stem}-{SPLITS[split]}.csv"


def find_real_files():
    """Return the directory of the real files, or None."""
    named = os.environ.get("MULTITASK_BERT_DATA")
    if named:
        return Path(named)
    for directory in (ROOT.parent / "shared" / "data", ROOT / "data"):
        files = [file_in(directory, name, split) for name, split in EVERY_FILE]
        if not all(file.is_file() for file in files):
            continue
        # Count lines without our reader: a record that it loses must fail a test, not skip it.
        num_lines = file_in(directory, "sst", "train").read_bytes().count(b"\n")
        if num_lines == REAL_COUNTS["sst"][0] + 1:
            return directory
    return None


@pytest.fixture(scope="module")
def real_files():
    directory = find_real_files()
    if directory is None:
        pytest.skip("the real files are not here; MULTITASK_BERT_DATA names their directory")
    return directory


def strict_rows(path):
    """Read a whole file with the standard library alone."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def check_file(path, task, is_test):
    """Assert that our reader agrees with `strict_rows`; return how many cells are quoted."""
    examples, rows = read_examples(path, task, require_labels=not is_test), strict_rows(path)
    assert [example.id for example in examples] == [row["id"] for row in rows]
    texts = [tuple(row[name] for name in task.text_columns) for row in rows]
    assert [example.texts for example in examples] == texts
    if is_test:
        assert all(example.label is None for example in examples)
    else:
        assert [example.label for example in examples] == [
            float(r[task.label_column]) for r in rows
        ]
        assert {type(example.label) for example in examples} == {task.label_type}
    header, *lines = path.read_bytes().decode("utf-8-sig").strip().replace("\r\n", "\n").split("\n")
    positions = [header.split("\t").index(name) for name in task.text_columns]
    num_quoted = 0
    for example, line in zip(examples, lines, strict=True):
        raw = [line.split("\t")[position] for position in positions]
        quoted = [(cell, text) for cell, text in zip(raw, example.texts) if cell.startswith('"')]
        assert all(text == cell[1:-1].replace('""', '"') for cell, text in quoted)
        num_quoted += len(quoted)
    return num_quoted


@pytest.mark.parametrize("name, split", EVERY_FILE)
def test_sample_file_equals_an_independent_reading(name, split):
    check_file(file_in(ROOT / "data" / "sample", name, split), TASKS[name], split == "test")


@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_files_equal_an_independent_reading(real_files, name):
    counts, num_quoted = [], 0
    for split in SPLITS:
        path = file_in(real_files, name, split)
        num_quoted += check_file(path, TASKS[name], split == "test")
        counts.append(len(read_examples(path, TASKS[name])))
    assert tuple(counts) == REAL_COUNTS[name]
    assert num_quoted == REAL_QUOTED_CELLS[name]


@pytest.fixture
def args(parse, data_copy):
    """Return the options of a run on a copy of the sample, with all tasks."""
    options = parse("--data_dir", data_copy)
    options.tasks = TASKS
    return options


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model, load_config(tiny_model))


def test_default_is_the_real_files_only_if_all_are_there(data_copy, monkeypatch):
    monkeypatch.setattr(data_dir, "DATA_DIR", data_copy)
    names = sorted(os.listdir(data_copy))
    shutil.copytree(SAMPLE, data_copy / "sample")
    assert default_data_dir(TASKS.values()) == data_copy
    for name in names:
        (data_copy / name).rename(data_copy / "aside")
        with pytest.warns(UserWarning, match=f"has no {name}, so .*sample is read; add what"):
            assert default_data_dir(TASKS.values()) == data_copy / "sample"
        complete = [task for task in TASKS.values() if not name.startswith(task.stem)]
        assert default_data_dir(complete) == data_copy
        (data_copy / "aside").rename(data_copy / name)


@pytest.fixture
def fourth(monkeypatch, tmp_path, data_copy):
    """A built-in table with a fourth task, and data folders of ours."""
    table = tmp_path / "tasks.toml"
    more = task_table.BUILT_IN.read_text() + (
        '[degrees]\nkind = "regression"\nfiles = "degrees"\ntext = ["text"]\nlabel = "degree"\n'
        'range = [-40, 60]\nmetric = "pearson"\n'
    )
    table.write_text(more)
    found = task_table.read_table(table)
    for module in (parsing, run_options):
        monkeypatch.setattr(module, "built_in_table", lambda: found)
    monkeypatch.setattr(data_dir, "DATA_DIR", data_copy)
    shutil.copytree(SAMPLE, data_copy / "sample")
    return data_copy


def default_tasks(flags, tiny_model):
    """Return what a run without --data_dir trains on, and from where."""
    options = parse_args(get_args_parser(), flags.split())
    resolve_options(options, load_config(tiny_model))
    return list(options.tasks), Path(options.data_dir)


def test_a_fourth_task_does_not_break_the_run_without_flags(fourth, tiny_model, capsys):
    with pytest.warns(UserWarning, match="only sst, para, sts are trained: .* no files degrees;"):
        assert default_tasks("", tiny_model) == (list(TASKS), fourth)
    (fourth / "sst-sentiment-dev.csv").unlink()
    with pytest.warns(UserWarning, match="only sst, para, sts are trained"):
        assert default_tasks("", tiny_model) == (list(TASKS), fourth / "sample")
    for end in SPLITS.values():
        (fourth / "sample" / f"degrees-{end}.csv").write_text("id\ttext\tdegree\n1\ta\t-3\n")
    assert default_tasks("", tiny_model) == ([*TASKS, "degrees"], fourth / "sample")


def test_a_task_that_is_named_is_never_left_out(fourth, tiny_model, tmp_path):
    named = ("--task sst degrees", "--task_weights degrees=2", f"--tasks {tmp_path / 'tasks.toml'}")
    for flags in named:
        with pytest.raises(InputError, match="degrees-train.csv: no such file; name it with"):
            default_tasks(flags, tiny_model)


@pytest.mark.parametrize("name", TASKS)
def test_own_file_flag_beats_data_dir(parse, name):
    for flag in (name, *TASKS[name].aliases):
        args = parse("--data_dir", "there", f"--{flag}_test", "mine.tsv")
        assert task_file(args, TASKS[name], "test") == Path("mine.tsv")
        assert task_file(args, TASKS[name], "dev") == Path(f"there/{TASKS[name].stem}-dev.csv")


def test_load_data_reads_every_file_of_the_run(args, tokenizer, data_copy, capsys):
    own = data_copy / "own.csv"
    own.write_text("id\tsentence\tsentiment\na\ta fine film\t3\nb\t" + "long " * 200 + "\t0\n")
    args.tasks, args.sst_dev = {n: TASKS[n] for n in ("sst", "sts")}, str(own)
    data = load_data(args, tokenizer, 0, ("train", "dev"))
    lines = capsys.readouterr().out.splitlines()
    assert [(split, list(tasks)) for split, tasks in data.items()] == [
        ("train", ["sst", "sts"]),
        ("dev", ["sst", "sts"]),
    ]
    assert data["dev"]["sst"].ids == ["a", "b"] and data["dev"]["sst"].num_truncated == 1
    assert lines[2] == "sst dev: 2 examples, 1 truncated"
    assert lines[0] == f"sst train: {len(data['train']['sst']):,} examples"
    train = read_examples(data_copy / "sts-similarity-train.csv", TASKS["sts"])
    assert data["train"]["sts"].ids == [example.id for example in train]


def test_load_data_uses_pair_encoding_max_length_and_padding(args, tokenizer):
    args.pair_encoding, args.max_length = "bi", 7
    rows = load_data(args, tokenizer, 5, ("dev",))["dev"]["sts"]
    assert rows.lengths.shape[1] == 2 and rows.lengths.max() == 7 and rows.pad_token_id == 5


def test_smoketest_caps_rows(args, tokenizer):
    args.smoketest = True
    data = load_data(args, tokenizer, 0, tuple(SPLITS))
    for split, size in (("train", 4), ("dev", 8), ("test", 8)):
        assert [len(rows) for rows in data[split].values()] == [size] * len(TASKS)


def test_load_data_requires_labels_outside_test(args, tokenizer, data_copy):
    args.sts_dev = str(data_copy / "sts-similarity-test-student.csv")
    with pytest.raises(InputError, match="column 'similarity' occurs 0 times"):
        load_data(args, tokenizer, 0, ("dev",))


def test_load_data_checks_every_file_before_it_tokenizes(
    args, tokenizer, data_copy, monkeypatch, capsys
):
    task, path = list(TASKS.values())[-1], data_copy / "last.csv"
    columns = ["id", *task.text_columns]
    path.write_text("\t".join(columns) + "\n" + "\t".join(columns) + "\n" + "bad\n")
    setattr(args, f"{task.name}_test", str(path))
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "TokenizedTask", lambda *args: pytest.fail("tokenized"))
        with pytest.raises(InputError, match="last.csv:3: 1 columns"):
            load_data(args, tokenizer, 0, tuple(SPLITS))
    args.skip_bad_rows = True
    assert len(load_data(args, tokenizer, 0, ("test",))["test"][task.name]) == 1
    assert "last.csv: skipped 1 bad rows, lines 3" in capsys.readouterr().out
