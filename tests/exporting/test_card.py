"""The model card says what was trained, on what, how well, and how to load it."""

import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from evaluation import load_run
from exporting import CrossEncoderExport, EncoderExport, SentenceTransformerExport
from exporting.card import base_model, command_of, model_card
from exporting.markdown import cell, fenced


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_it_tells_tasks_scores_data_command_and_revision(run_copy):
    edit(
        run_copy / "args.json",
        command_line=[
            "/home/me/train_multitask.py",
            "--data_dir",
            "/home/me/my data",
            "--epochs=2",
        ],
        git_revision="c0ffee",
    )
    source = load_run(run_copy)
    card = model_card(EncoderExport(source), "me/encoder")
    assert "bfloat16" not in card
    assert "float32; the run itself predicts in bfloat16" in model_card(
        EncoderExport(replace(source, args=Namespace(**vars(source.args) | {"use_amp": True}))), "x"
    )
    metrics = json.loads((run_copy / "metrics-dev.json").read_text())["metrics"]
    for name, task in source.args.tasks.items():
        score = metrics[name][task.metric_name]
        row = rf"^\| {name} \| \w+ \| [12] \| {task.metric_name} \| {score:.4f} \(40 rows\) \|"
        assert re.search(row, card, re.M)
        assert source.args.data_sha256[name] in card
    assert "python train_multitask.py --data_dir '…/my data' --epochs=2\n" in card
    assert "| git revision of Multitask BERT | c0ffee |" in card
    assert "/home/me" not in card
    assert "AutoModel.from_pretrained('me/encoder')" in card
    assert "a local directory, tiny-bert" in card and str(source.args.model_name) not in card


def test_the_hub_reads_its_front_matter(finished_run):
    source = load_run(finished_run)
    source.args.model_name = "minilm-l6"
    sst = source.args.tasks["sst"]
    for export, tag in (
        (EncoderExport(source), "feature-extraction"),
        (SentenceTransformerExport(source), "sentence-similarity"),
        (CrossEncoderExport(source, sst), "text-classification"),
    ):
        data = ModelCard(model_card(export, "x")).data.to_dict()
        assert data == {
            "library_name": export.library,
            "pipeline_tag": tag,
            "license": "apache-2.0",
            "base_model": "sentence-transformers/all-MiniLM-L6-v2",
            "tags": ["multitask-bert", export.name],
        }
    source.args.model_name = "/some/where"
    data = ModelCard(model_card(EncoderExport(source), "x")).data.to_dict()
    assert not {"license", "base_model"} & data.keys()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("minilm-l6", "sentence-transformers/all-MiniLM-L6-v2"),
        ("bert-base", "bert-base-uncased"),
        ("google/bert_uncased_L-2_H-128_A-2", "google/bert_uncased_L-2_H-128_A-2"),
        ("distil-x", "distil-x"),
        ("/home/me/model", None),
        ("../model", None),
        ("./model", None),
        ("a\nlicense: mit", None),
    ],
)
def test_base_model(name, expected):
    assert base_model(name) == expected


def test_a_run_without_scores_or_record_is_unknown(run_copy):
    for name in ("metrics-dev.json", "metrics-test.json"):
        (run_copy / name).unlink(missing_ok=True)
    edit(run_copy / "args.json", command_line=3, git_revision=None)
    card = model_card(EncoderExport(load_run(run_copy)), "x")
    assert "| task | kind | texts | metric |\n" in card
    assert "| git revision of Multitask BERT | unknown |" in card
    assert "# unknown" in card


@pytest.mark.parametrize(
    "metrics, message",
    [
        (None, "metrics is None, expected those of each task"),
        ([], "metrics is \\[\\], expected"),
        ({"sst": 3}, "metrics is {'sst': 3}, expected"),
        ({"sst": {"accuracy": "0.9"}}, "accuracy of sst is '0.9', no number"),
        ({"sst": {"accuracy": True}}, "accuracy of sst is True, no number"),
    ],
)
def test_damaged_metrics_are_one_line(run_copy, metrics, message, one_line):
    edit(run_copy / "metrics-dev.json", metrics=metrics)
    found = one_line(model_card, EncoderExport(load_run(run_copy)), "x")
    assert re.search(f"metrics-dev.json: {message}", found)


def test_names_stay_plain_text(finished_run):
    """Class names come from a table, which may be someone else's."""
    source = load_run(finished_run)
    names = ("a|b", "<script>", "[x](http://y)", "`c`", "d\n# e")
    task = replace(source.args.tasks["sst"], class_names=names)
    card = model_card(CrossEncoderExport(source, task), 'a"\n---\nx: 1')
    escaped = r"a\|b, &lt;script&gt;, \[x\](http://y), \`c\`, d # e"
    assert escaped in card
    assert ModelCard(card).data.to_dict().keys() >= {"library_name", "tags"}
    assert "\nx: 1" not in card.partition("\n---\n\n")[2].partition("## Use")[0]
    assert "x" not in ModelCard(card).data.to_dict()


def test_code_blocks_end_where_they_should():
    assert fenced("a ``` b") == "````\na ``` b\n````"
    assert cell("a\\_b\t\x1b") == r"a\\\_b" + "\t" + r"\\x1b"
    record = {"command_line": ["train.py", "a\nb", "--x=/a/b/c", "/", "/a/"]}
    assert command_of(record) == "python train.py 'a\nb' --x=…/c / /a/"


def test_the_code_of_a_card_runs(finished_run, tmp_path, monkeypatch):
    source = load_run(finished_run)
    tasks = source.args.tasks
    num_tokens = len(source.tokenizer.encode("a film to remember").ids)
    monkeypatch.chdir(tmp_path)
    for folder, export, name, shape in (
        ("encoder", EncoderExport(source), "hidden_states", (1, num_tokens, 32)),
        ("vectors", SentenceTransformerExport(source), "vectors", (2, 32)),
        ("sst", CrossEncoderExport(source, tasks["sst"]), "logits", (1, 5)),
        ("sts", CrossEncoderExport(source, tasks["sts"]), "logits", (1,)),
    ):
        Path(folder).mkdir()
        export.write(Path(folder))
        names: dict = {}
        exec(export.usage(folder), names)
        assert np.shape(names[name].detach() if folder == "encoder" else names[name]) == shape
