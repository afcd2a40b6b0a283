"""The evaluation command: repeat metrics and predictions of a run, and label new text."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

import evaluation
from datasets import read_examples
from engine import predict_logits
from evaluation import load_run
from inputs.batches import TokenizedTask
from models.pretrained import load_config, load_tokenizer
from options.task_table import built_in_tasks
from runtime.errors import InputError
from tasks import Example

TASKS = built_in_tasks()

FLAGS = ["--num_batches_per_epoch", "2", "--batch_size", "4", "--epochs", "1", "--no_tensorboard"]
FLAGS += ["--dev_samples", "8", "--run_name", "a"]


def command(*flags: object) -> None:
    evaluation.main(evaluation.get_args_parser().parse_args([str(flag) for flag in flags]))


def test_rewrites_the_same_metrics_and_predictions(run_copy, capsys):
    outputs = [run_copy / "metrics-dev.json", *sorted((run_copy / "predictions").iterdir())]
    assert len(outputs) == 1 + 2 * len(TASKS)
    before = [path.read_bytes() for path in outputs]
    for path in outputs:
        path.unlink()
    command("--run", run_copy, "--split", "dev")
    assert "sts   spearman" in capsys.readouterr().out
    command("--run", run_copy, "--split", "test")
    assert "test has no labels: predictions only" in capsys.readouterr().out
    assert [path.read_bytes() for path in outputs] == before


def test_metrics_are_those_of_the_prediction_file(run_copy):
    metrics = json.loads((run_copy / "metrics-dev.json").read_text())["metrics"]
    args = load_run(run_copy).args
    for task in TASKS.values():
        path = run_copy / "predictions" / f"{task.stem}-dev-output.csv"
        with path.open(newline="", encoding="utf-8") as file:
            values = [row[1] for row in csv.reader(file, delimiter="\t")][1:]
        predictions = np.array([task.label_type(value) for value in values])
        examples = read_examples(f"{args.data_dir}/{task.stem}-dev.csv", task)
        labels = np.array([example.label for example in examples])
        assert metrics[task.name] == pytest.approx(task.evaluate(predictions, labels), nan_ok=True)


def test_other_data_may_be_evaluated(run_copy, data_copy):
    """Its metrics and predictions go to a folder of their own, and say whose data it was."""
    own = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    for task in TASKS.values():
        path = data_copy / f"{task.stem}-dev.csv"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:6]))
    command("--run", run_copy, "--data_dir", data_copy)
    output = run_copy / "on-data"
    lines = (output / "predictions" / "sts-similarity-dev-output.csv").read_text().splitlines()
    assert len(lines) == 6
    written = json.loads((output / "metrics-dev.json").read_text())
    assert written["files"]["sst"] == str(data_copy / "sst-sentiment-dev.csv")
    assert written["num_rows"] == {"sst": 5, "para": 5, "sts": 5}
    assert all(path.read_bytes() == content for path, content in own.items())
    other = data_copy.parent / "other" / "data"
    shutil.copytree(data_copy, other)
    with pytest.raises(InputError, match="on-data: holds the results of .*name another folder"):
        command("--run", run_copy, "--data_dir", other)
    command("--run", run_copy, "--data_dir", other, "--output", run_copy.parent / "scores")
    assert (run_copy.parent / "scores" / "metrics-dev.json").is_file()


def test_results_replace_only_their_own(run_copy, finished_run, data_copy, few_rows):
    """Neither those of another run, nor those on other data, with labels or without."""
    folder = run_copy.parent / "scores"
    command("--run", run_copy, "--data_dir", data_copy, "--split", "test", "--output", folder)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "source-test.json" in {path.name for path in kept}
    wrong = "holds the results of .*; name another folder with --output"
    for flags in (
        ["--run", run_copy, "--data_dir", few_rows, "--split", "test"],
        ["--run", run_copy, "--split", "test"],
        ["--run", finished_run, "--data_dir", data_copy, "--split", "test"],
    ):
        with pytest.raises(InputError, match=wrong):
            command(*flags, "--output", folder)
    assert all(path.read_bytes() == content for path, content in kept.items())
    command("--run", run_copy, "--data_dir", data_copy, "--split", "test", "--output", folder)
    for output in (run_copy, finished_run):
        with pytest.raises(InputError, match="holds other results; name another folder"):
            command("--run", run_copy, "--output", output)


@pytest.mark.parametrize("name", ["predictions", "on-data", "on-data/predictions"])
def test_nothing_is_evaluated_through_a_link(run_copy, data_copy, tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    shutil.rmtree(run_copy / name, ignore_errors=True)
    (run_copy / name).parent.mkdir(exist_ok=True)
    (run_copy / name).symlink_to(victim)
    with pytest.raises(InputError, match=f"{name}: leads to .*victim by a link"):
        command("--run", run_copy, "--data_dir", data_copy)
    assert not list(victim.iterdir())


def test_a_run_that_is_moved_during_its_evaluation_does_not_come_back(
    run_copy, data_copy, monkeypatch
):
    def moving(*args, **options):
        run_copy.rename(run_copy.with_name("moved"))
        return evaluate(*args, **options)

    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", moving)
    with pytest.raises(OSError, match="cannot be written: No such file or directory"):
        command("--run", run_copy, "--data_dir", data_copy)
    assert not run_copy.exists()


def test_predictions_outside_the_run_need_a_folder(train, tmp_path):
    run = train(*FLAGS, "--predictions_path", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its predictions are outside the run; name a folder"):
        command("--run", run)
    command("--run", run, "--output", tmp_path / "scores")
    assert (tmp_path / "scores" / "metrics-dev.json").is_file()


def test_damaged_metrics_are_written_anew(run_copy):
    (run_copy / "metrics-dev.json").write_text("{")
    command("--run", run_copy)
    assert json.loads((run_copy / "metrics-dev.json").read_text())["num_rows"]


def test_the_file_of_a_single_task_is_named(train, few_rows, some_rows):
    run = train(*FLAGS, "--sst_dev", few_rows / "sst-sentiment-dev.csv")
    files = json.loads((run / "metrics-dev.json").read_text())["files"]
    assert files["sst"] == str(few_rows / "sst-sentiment-dev.csv")
    assert files["sts"] == str(some_rows / "sts-similarity-dev.csv")


def test_a_smoketest_run_is_evaluated_on_all_rows_of_other_data(train, data_copy, capsys):
    run = train("--smoketest", "--no_tensorboard")
    with pytest.warns(UserWarning, match="only its few rows are evaluated"):
        command("--run", run)
    assert json.loads((run / "metrics-dev.json").read_text())["num_rows"]["sst"] == 8
    command("--run", run, "--data_dir", data_copy)
    assert json.loads((run / "on-data" / "metrics-dev.json").read_text())["num_rows"]["sst"] > 8


def test_the_scores_of_a_read_only_run_are_printed(run_copy, small_disk, capsys):
    """They are printed before they are written, which fails."""
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    shutil.copytree(run_copy, small_disk / "done")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="cannot be written: Read-only file system"):
        command("--run", small_disk / "done")
    assert "mean" in capsys.readouterr().out


def test_predictions_come_in_the_rows_order_whatever_the_batches(run_copy, monkeypatch):
    """Rows are batched by length, which changes neither their order nor their values."""
    run = load_run(run_copy)
    model, tokenizer = run.model, run.tokenizer
    task = TASKS["para"]
    texts = ["a", "a b c d e f", "who is there ?", "b c", "a b c d e f g h i"]
    examples = [Example(str(i), (text, text[::-1]), None) for i, text in enumerate(texts)]
    data = TokenizedTask(task, examples, tokenizer, 0)
    together = predict_logits(model, data)
    alone = [predict_logits(model, TokenizedTask(task, [e], tokenizer, 0)) for e in examples]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    some = predict_logits(model, data, np.array([3, 1]))
    np.testing.assert_allclose(some, together[[3, 1]], atol=1e-5)
    assert torch.is_grad_enabled()


def test_some_tasks_alone_go_to_a_folder_of_their_own(run_copy, tmp_path, capsys):
    before = json.loads((run_copy / "metrics-dev.json").read_text())
    command("--run", run_copy, "--task", "sts", "sst", "--output", tmp_path / "some")
    found = json.loads((tmp_path / "some" / "metrics-dev.json").read_text())
    assert list(found["metrics"]) == ["sst", "sts"] == list(found["files"])
    for name in found["metrics"]:
        assert found["metrics"][name] == pytest.approx(before["metrics"][name], abs=1e-6)
    for flags in (
        ["--task", "sts"],
        ["--probabilities"],
        ["--format", "csv"],
        ["--input", "-", "--calibrate"],
        ["--input", "-", "--data_dir", "data"],
        ["--input", "-", "--split", "test"],
        ["--calibrate", "--split", "test"],
        ["--calibrate", "--output", "scores"],
    ):
        with pytest.raises(SystemExit):
            evaluation.parse_args(evaluation.get_args_parser(), ["--run", str(run_copy), *flags])
        assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_run_is_one_line(train, tmp_path):
    with pytest.raises(InputError, match="no args.json in it, expected the directory of a run"):
        command("--run", tmp_path)
    (tmp_path / "args.json").write_text('{"options": {}}')
    with pytest.raises(InputError, match="args.json: script is None, expected one of train_mul"):
        command("--run", tmp_path)
    other = train(*FLAGS, "--task", "sst")
    with pytest.raises(InputError, match="--task sts: this run was trained on sst"):
        command("--run", other, "--task", "sts", "--input", "-")
    (other / "checkpoints" / "best.pt").unlink()
    with pytest.raises(InputError, match="best.pt: no such checkpoint"):
        command("--run", other)


def test_tokenizer_and_config_of_a_run_are_its_models(run_copy, tiny_model):
    config = load_config(tiny_model)
    ours = load_tokenizer(run_copy, load_config(run_copy))
    theirs = load_tokenizer(tiny_model, config)
    assert ours.encode("a fine film", "or two").ids == theirs.encode("a fine film", "or two").ids
    assert load_config(run_copy).to_dict() == config.to_dict()
