"""Tasks that a user adds by a table and files alone: train, resume, evaluate, label, search."""

import json
import re
import shutil
from pathlib import Path
from random import Random

import pytest
import torch

import evaluation
import export
from datasets import SPLITS
from options.parsing import parse_args
from options.run_options import get_args_parser
from options.task_table import BUILT_IN
from predicting.run import make_examples
from reporting.run_directory import read_options
from runtime.errors import InputError
from search import tune
from search.report import write_best
from train_multitask import main

SMALL = "--num_batches_per_epoch 3 --batch_size 4 --dev_samples 8 --no_tensorboard".split()
TOPICS = {"sport": ("match", "goal"), "food": ("bread", "soup"), "travel": ("train", "trip")}
TABLE = """
[grammar]
kind = "binary"
files = "grammar"
text = ["sentence"]
label = "ok"
classes = ["wrong", "right"]
metric = "matthews"

[topics]
kind = "multilabel"
files = "topics"
text = ["text"]
label = "topics"
classes = ["sport", "food", "travel"]
metric = "macro_f1"
"""


def write_rows(path: Path, header: str, rows: list[tuple[str, str]], has_labels: bool) -> None:
    lines = [header] + [f"{i}\t" + "\t".join(row[: 1 + has_labels]) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder with a table of two tasks and their generated files."""
    draw = Random(0)
    for split, end in SPLITS.items():
        sentences, texts = [], []
        for _ in range(24):
            words = (
                f"the {draw.choice(['cat', 'dog'])} sees {draw.choice(['bread', 'soup'])}".split()
            )
            is_right = draw.random() < 0.5
            sentences.append(
                (" ".join(words if is_right else words[::-1]), "wrong right".split()[is_right])
            )
            chosen = [topic for topic in TOPICS if draw.random() < 0.5]
            text = " and ".join(["it", *(draw.choice(TOPICS[topic]) for topic in chosen)])
            texts.append((text, ",".join(chosen)))
        for name, header, rows in (
            ("grammar", "id\tsentence\tok", sentences),
            ("topics", "id\ttext\ttopics", texts),
        ):
            header = header if split != "test" else header.rpartition("\t")[0]
            write_rows(tmp_path / f"{name}-{end}.csv", header, rows, split != "test")
    (tmp_path / "own.toml").write_text(TABLE)
    return tmp_path


def flags_of(own: Path) -> list[str]:
    return ["--tasks", str(own / "own.toml"), "--data_dir", str(own)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]


NAMES = {"sst": "mood", "para": "same", "sts": "near"}
COLUMNS = {"sentence": "line", "sentence1": "a", "sentence2": "b", "sentiment": "grade"}


def test_the_built_in_tasks_under_other_names_train_the_same_bits(train, few_rows, tmp_path):
    table = BUILT_IN.read_text()
    for old, new in NAMES.items():
        table = table.replace(f"[{old}]", f"[{new}]")
    for old, new in COLUMNS.items():
        table = table.replace(f'"{old}"', f'"{new}"')
    for stem in ("sst-sentiment", "quora-paraphrase", "sts-similarity"):
        table = table.replace(f'"{stem}"', f'"my-{stem}"')
        for end in SPLITS.values():
            header, _, rows = (few_rows / f"{stem}-{end}.csv").read_bytes().partition(b"\n")
            cells = header.decode().rstrip().split("\t")
            header = "\t".join(COLUMNS.get(cell, cell) for cell in cells).encode()
            (tmp_path / f"my-{stem}-{end}.csv").write_bytes(header + b"\n" + rows)
    (tmp_path / "mine.toml").write_text(table)
    flags = "--projection vaccine --use_pal --use_smart_regularization --task_scheduler pal"
    flags += " --combine_strategy force --add_layers 1 --class_weights --pair_encoding bi"
    words = ["train_multitask_pal.py", *flags.split(), *SMALL, "--epochs", 2]
    built_in = train(*words, "--data_dir", few_rows, "--run_name", "built-in")
    mine = ["--tasks", tmp_path / "mine.toml", "--data_dir", tmp_path, "--run_name", "mine"]
    found = weights(train(*words, *mine))
    for name, expected in weights(built_in).items():
        for old, new in NAMES.items():
            name = name.replace(f".{old}.", f".{new}.")
            name = name.replace(f"heads.{old}.", f"heads.{new}.")
        assert torch.equal(found.pop(name), expected), name
    assert not found


def test_own_tasks_train_resume_evaluate_and_label(train, own, capsys, monkeypatch):
    techniques = "--projection vaccine --use_smart_regularization --use_pal --pal_size 6".split()
    words = ["train_multitask_pal.py", *techniques, *flags_of(own), *SMALL]
    whole = train(*words, "--epochs", 2, "--run_name", "whole")
    run = train(*words, "--epochs", 1, "--run_name", "resumed")
    assert (run / "tasks.toml").read_text() == TABLE
    assert json.loads((run / "args.json").read_text())["options"]["tasks"] == ["grammar", "topics"]
    (own / "own.toml").write_text("no table any more")
    moved = run.rename(run.with_name("moved"))
    shutil.copy(own / "grammar-dev.csv", own / "again.csv")
    main(
        parse_args(get_args_parser(), f"--resume {moved} --grammar_dev {own / 'again.csv'}".split())
    )
    main(parse_args(get_args_parser(), f"--resume {moved} --epochs 2".split()))
    resumed = weights(moved)
    lines = (moved / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and list(json.loads(lines[1])["dev"]["topics"]) == [
        "macro_f1",
        "accuracy",
        "f1",
    ]
    assert resumed.keys() == weights(whole).keys()
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), ["--run", str(moved)]))
    metrics = json.loads((moved / "metrics-dev.json").read_text())
    assert list(metrics["confusion"]) == ["grammar"]
    rows = (moved / "predictions" / "topics-dev-output.csv").read_text().splitlines()
    assert rows[0] == "id\tPredicted_topics" and len(rows) == 25
    (own / "text.txt").write_text("it and match\n")
    capsys.readouterr()
    command = f"--run {moved} --task topics --input {own / 'text.txt'} --probabilities"
    evaluation.main(evaluation.parse_args(evaluation.get_args_parser(), command.split()))
    header = capsys.readouterr().out.splitlines()[0].split("\t")
    assert header[-3:] == ["Probability_sport", "Probability_food", "Probability_travel"]


def test_heads_of_own_tasks_leave_as_cross_encoders(train, own):
    from sentence_transformers import CrossEncoder

    run = train(*flags_of(own), *SMALL, "--epochs", 1)
    words = f"--run {run} --to {own / 'heads'} --format cross-encoder"
    export.main(export.parse_args(export.get_args_parser(), words.split()))
    found = evaluation.load_run(run)
    for name, task in found.tasks.items():
        model = CrossEncoder(str(own / "heads" / name), device="cpu")
        [example] = make_examples(task, ["the cat sees bread"])
        expected = found.logits(task, [example])[0]
        assert model.predict("the cat sees bread") == pytest.approx(expected.squeeze(), abs=1e-5)
        assert (own / "heads" / name / "README.md").is_file()


def test_an_older_version_s_run_has_the_built_in_tasks(run_copy):
    (run_copy / "tasks.toml").unlink()
    args = json.loads((run_copy / "args.json").read_text())
    args["options"] |= {"task": "multitask"}
    del args["options"]["tasks_file"]
    (run_copy / "args.json").write_text(json.dumps(args))
    with pytest.warns(UserWarning, match="by default tasks_file is None"):
        assert list(read_options(run_copy).tasks) == ["sst", "para", "sts"]
    args["options"] |= {"task": "sts", "tasks": ["sts"]}
    (run_copy / "args.json").write_text(json.dumps(args))
    with pytest.warns(UserWarning):
        assert list(read_options(run_copy).tasks) == ["sts"]


def test_a_run_s_wrong_table_is_one_line(run_copy, capsys):
    (run_copy / "tasks.toml").write_text(TABLE.replace("binary", "ranking"))
    with pytest.raises(InputError, match="tasks.toml: task 'grammar': kind is 'ranking', expected"):
        read_options(run_copy)
    with pytest.raises(SystemExit):
        parse_args(get_args_parser(), ["--resume", str(run_copy)])
    assert capsys.readouterr().err.count("\n") == 1
    (run_copy / "tasks.toml").write_text(TABLE)
    with pytest.raises(InputError, match="tasks is .*'sst'.*, expected some of grammar, topics"):
        with pytest.warns(UserWarning):
            read_options(run_copy)


WRONG_DATA = {  # a change of the table, or of a file: what the line says
    "missing text column": (
        ("own.toml", '"sentence"', '"phrase"'),
        "grammar-train.csv:1: column 'phrase' occurs 0 times .* as task 'grammar' says with text",
    ),
    "missing label column": (
        ("own.toml", '"ok"', '"fine"'),
        "grammar-train.csv:1: column 'fine' occurs 0 times",
    ),
    "classes that do not fit": (
        ("own.toml", '["wrong", "right"]', '["no", "yes"]'),
        r"grammar-train.csv:2: column 'ok' is '\w+', expected an integer in \[0, 1\] or a class "
        "of task 'grammar': no, yes",
    ),
    "too few classes": (
        ("own.toml", '"sport", "food", "travel"', '"sport", "food"'),
        "topics-train.csv:.* expected classes separated by commas, or nothing, each an integer",
    ),
    "another kind": (
        ("own.toml", 'kind = "multilabel"', 'kind = "classification"'),
        "topics-train.csv:.* is .*, expected an integer in .* or a class of task 'topics': sport",
    ),
    "other files": (("own.toml", 'files = "topics"', 'files = "x"'), "x-train.csv: no such file"),
    "a class twice in a row": (
        ("topics-dev.csv", "\tsport\n", "\tsport,sport\n"),
        "topics-dev.csv:.* column 'topics' is 'sport,sport', expected classes separated by commas",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_DATA)
def test_a_table_that_does_not_fit_its_files_is_one_line(wrong, own, train, one_line):
    (name, old, new), expected = WRONG_DATA[wrong]
    text = (own / name).read_text()
    assert old in text
    (own / name).write_text(text.replace(old, new))
    if "kind" in wrong:
        (own / name).write_text(text.replace(old, new).replace("macro_f1", "accuracy"))
    message = one_line(train, *flags_of(own), *SMALL)
    assert re.search(expected, message), message


def test_a_search_carries_its_table(own, parse):
    args = parse(*flags_of(own), "--hpo", "--run_name", "search", "--task", "topics")
    args, directory = tune.new_search(args)
    assert (directory / "tasks.toml").read_text() == TABLE
    (own / "own.toml").unlink()
    again = parse("--hpo_resume", directory)
    found, _ = tune.resumed_search(again)
    assert list(found.tasks) == ["topics"] and found.table.text == TABLE
    write_best(directory / "best.txt", found, {"lr": 1e-4})
    best = parse(f"@{directory / 'best.txt'}")
    assert best.tasks == found.tasks and best.lr == 1e-4
    assert list(again.tasks) == ["grammar", "topics"]
