"""The plain loop around transformers' encoder as a row of the tables."""

import csv
import json
import shlex
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_rows import ROWS, read_result
from transformers import BertModel, get_linear_schedule_with_warmup

import train_multitask_pal
from benchmarks.setup import build_seeded_model, load_rows, open_arm
from comparing.finished import read_run
from experiments import result_files, run, transformers_baseline
from experiments.row_files import TRANSFORMERS
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting import run_record
from reporting.run_directory import read_options
from runtime.errors import InputError

TASKS = built_in_tasks()
LR, BATCH_SIZE, EPOCHS = 1e-3, 4, 3
PLAIN = f"--plain_lr {LR} --plain_batch_size {BATCH_SIZE} --plain_epochs {EPOCHS}"
IGNORED = "--epochs 7 --batch_size 3 --lr 1 --use_amp --save_every 2 --no_tensorboard"

ROW_OPTIONS = "--seeds 3 --samples_per_epoch 12 --use_amp --epochs 1"


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_model, few_rows):
    """plain(flags) -> the directory of a run in this process."""
    logdir = tmp_path_factory.mktemp("plain")

    def train(flags: str) -> Path:
        words = ["--data_dir", str(few_rows), "--model_name", str(tiny_model)]
        words += ["--logdir", str(logdir), "--run_name", f"run{len(list(logdir.iterdir()))}"]
        options = transformers_baseline.parse([*words, *shlex.split(flags)])
        transformers_baseline.main(options)
        return logdir / options.run_name

    return train


@pytest.fixture(scope="module")
def separate(plain) -> Path:
    """Three models with dropout."""
    return plain(f"{PLAIN} --seed 3 --dev_samples 10")


@pytest.fixture(scope="module")
def row_place(tmp_path_factory, invoke) -> Path:
    """What the runner leaves of a row without dropout, in a process of its own."""
    place = tmp_path_factory.mktemp("row")
    (place / "rows").mkdir()
    text = (
        f"# Plain\n# family: baselines\n# script: {TRANSFORMERS}\n{PLAIN} --hidden_dropout_prob 0\n"
    )
    (place / "rows" / "plain.txt").write_text(text)
    output, error = invoke(place, ROW_OPTIONS)
    assert error is None, output
    return place


def predictions_of(run_dir: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run_dir / "predictions").iterdir()}


def reference(model: Path, data: Path, name: str) -> tuple[int, float, np.ndarray]:
    """The best epoch, score and dev predictions of one model, by a loop of this test's own."""
    start = open_arm(
        Namespace(data_dir=str(data), model_name=str(model)), "--seed 3 --hidden_dropout_prob 0"
    )
    train, dev = load_rows(start)[name], load_rows(start, split="dev")[name]
    head = build_seeded_model(start).heads[name].output
    encoder = BertModel.from_pretrained(
        model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )

    def logits(batch: dict) -> torch.Tensor:
        mask = batch["attention_mask"]
        states = encoder(batch["input_ids"], mask, batch["token_type_ids"]).last_hidden_state
        return head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=0, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, 3 * EPOCHS)  # a tenth of 9 is 0
    generator = np.random.default_rng(3)
    order = np.concatenate([generator.permutation(20) for _ in range(2)]).reshape(-1, BATCH_SIZE)
    found = []
    for epoch in range(EPOCHS):
        for rows in order[3 * epoch : 3 * epoch + 3]:  # 12 of 20 rows in each epoch
            batch = train.batch(rows)
            optimizer.zero_grad()
            dev.task.loss(logits(batch), batch["labels"]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            predicted = dev.task.decode(logits(dev.batch(np.arange(len(dev)))).numpy())
        score = dev.task.evaluate(predicted, dev.labels)[dev.task.metric_name]
        found.append((-np.nan_to_num(score), epoch, score, predicted))
    _, epoch, score, predicted = min(found, key=lambda one: one[:2])  # the first of equals
    return epoch + 1, score, predicted


def test_a_run_that_ended_without_its_result_is_not_repeated(row_place, invoke):
    [path], [log] = row_place.glob("results/plain*"), row_place.glob("work/plain*.log")
    result, before = path.read_text(), log.stat().st_mtime_ns
    path.unlink()
    output, error = invoke(row_place, ROW_OPTIONS)
    assert error is None, output
    assert (path.read_text(), log.stat().st_mtime_ns) == (result, before)


def test_the_runners_result_is_that_of_separate_models(row_place, tiny_model, few_rows):
    result = read_result(row_place, "plain")
    [read] = result_files.read_results(row_place / "results")
    [run_dir] = (path for path in (row_place / "work").glob("plain*") if path.is_dir())
    metrics = json.loads((run_dir / "metrics-dev.json").read_text())
    for name, task in TASKS.items():
        epoch, score, predicted = reference(tiny_model, few_rows, name)
        assert metrics["best_epochs"][name] == result["best_epoch"][name] == epoch
        assert result["dev"][name][task.metric_name] == pytest.approx(score, abs=1e-4)
        if result_files.is_score(task):
            np.testing.assert_allclose(read["predictions"][name], predicted, atol=1e-3)
        else:
            assert read["predictions"][name].mean() == pytest.approx(score)
    assert result["mean"] == metrics["mean"]
    assert result["updates"] == dict.fromkeys(TASKS, 3 * EPOCHS)
    assert result["examples"] == dict.fromkeys(TASKS, 12 * EPOCHS)
    assert 0 < result["training_seconds"] < result["wall_seconds"]
    assert result["settings"]["use_amp"] and result["settings"]["samples_per_epoch"] == 12


def test_a_result_says_what_the_loop_did(row_place):
    options = read_result(row_place, "plain")["options"]
    expected = {"lr": LR, "batch_size": BATCH_SIZE, "epochs": EPOCHS, "use_amp": False}
    expected |= {"weight_decay": 0, "clip": 1, "warmup_fraction": 0.1, "samples_per_epoch": 12}
    assert {name: options[name] for name in expected} == expected
    assert read_result(row_place, "plain")["versions"]["transformers"]


def test_each_model_keeps_its_own_best_epoch(separate):
    lines = [json.loads(line) for line in (separate / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((separate / "metrics-dev.json").read_text())["best_epochs"]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for name, task in TASKS.items():
        scores = [line["dev"][name][task.metric_name] or 0 for line in lines]
        assert best[name] == 1 + scores.index(max(scores))
        assert [line["updates"][name] for line in lines] == [5, 5, 5]
    assert lines[-1]["learning_rate"] == 0 and lines[0]["learning_rate"] > LR / 3


def test_two_runs_predict_the_same_whatever_the_table_sets(separate, plain):
    again = plain(f"{PLAIN} --seed 3 --dev_samples 10 {IGNORED}")
    assert len(predictions_of(again)) == 6  # dev and test
    assert predictions_of(again) == predictions_of(separate)


def test_one_model_for_all_tasks_takes_turns(plain, separate):
    joint = plain(f"{PLAIN} --seed 3 --joint --samples_per_epoch 8 --no_test_predictions")
    lines = [json.loads(line) for line in (joint / "metrics.jsonl").read_text().splitlines()]
    assert [line["updates"] for line in lines] == [dict.fromkeys(TASKS, 2)] * EPOCHS
    found, other = (
        json.loads((directory / "metrics-dev.json").read_text()) for directory in (joint, separate)
    )
    assert len({*found["best_epochs"].values()}) == 1
    heads = sum(33 * task.num_outputs for task in TASKS.values())  # H = 32, and a bias
    assert other["num_parameters"] - heads == 3 * (found["num_parameters"] - heads)
    assert len(predictions_of(joint)) == 3


def test_the_run_can_be_compared(separate):
    found = read_run(str(separate), "plain")
    assert not found.obstacles and {*found.dev} == {*TASKS}
    assert read_options(separate).lr == LR
    record = json.loads((separate / "args.json").read_text())
    assert record["script"] == TRANSFORMERS and record["plain_loop"]["plain_lr"] == LR


def test_the_revision_is_that_of_the_code_that_trained(plain, monkeypatch):
    revisions, train = ["before"], transformers_baseline.train_model

    def train_and_commit(*args):
        revisions.append("after")
        return train(*args)

    monkeypatch.setattr(run_record, "git_revision", lambda: revisions[-1])
    monkeypatch.setattr(transformers_baseline, "train_model", train_and_commit)
    folder = plain(f"{PLAIN} --task sst")
    assert json.loads((folder / "args.json").read_text())["git_revision"] == "before"


def test_test_predictions_have_a_line_for_every_row(separate, few_rows):
    for task in TASKS.values():
        with open(separate / "predictions" / f"{task.stem}-test-output.csv", newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t")
        assert header == ["id", task.prediction_column] and len(rows) == 20


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].script == TRANSFORMERS])
def test_the_rows_go_with_a_tables_options(name):
    given = "--data_dir x --model_name y --max_length 64 --samples_per_epoch 6 --dev_samples 9"
    words = shlex.split(f"{given} {IGNORED}")
    options = transformers_baseline.parse([*words, *ROWS[name].flags])
    assert options.joint == (name == "transformers_joint")
    args = transformers_baseline.run_options(options)
    is_long = "long" in name
    assert (args.lr, args.batch_size, args.epochs) == (5e-5, 16, 4 if is_long else 3)
    assert not args.use_amp
    assert (args.samples_per_epoch == 6) == (not is_long)


def test_the_long_rows_see_as_many_examples_as_the_recipe():
    rows = [row for row in ROWS.values() if row.method == "transformers_long"]
    options = [transformers_baseline.parse([*row.flags]) for row in rows]
    num_examples = sum(one.samples_per_epoch * one.plain_epochs for one in options)
    parser = train_multitask_pal.get_args_parser()
    recipe, plain = (
        parse_args(parser, [*ROWS[name].flags]) for name in ("recipe", "round_robin_long")
    )
    assert num_examples == recipe.samples_per_epoch * recipe.epochs * len(TASKS)
    for name in ("lr", "epochs", "samples_per_epoch", "dev_samples"):
        assert getattr(plain, name) == getattr(recipe, name)


@pytest.mark.parametrize(
    "flags",
    [
        "--augment 1",
        "--weight_decay 0",
        "--num_batches_per_epoch 2",
        "--checkpoint best.pt",
        "--no_train_classifier",
        "--predictions_path x",
        "--symmetric_pairs",
    ],
)
def test_what_the_loop_does_not_have_is_refused(flags, capsys):
    with pytest.raises(SystemExit):
        transformers_baseline.parse(shlex.split(flags))
    assert f"{flags.split()[0]}: the plain loop does not have it" in capsys.readouterr().err


def test_another_kind_of_encoder_is_one_line(plain, tiny_checkpoint):
    with pytest.raises(InputError, match="its type is electra, expected bert; the plain loop"):
        plain(f"--model_name {tiny_checkpoint('electra')}")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_nothing(plain, separate):
    before = {*separate.parent.iterdir()}
    with pytest.raises(
        FloatingPointError, match="of task sst is (nan|inf) in epoch 1; .*--plain_lr"
    ):
        plain("--plain_lr 1e30 --plain_batch_size 4")
    assert {*separate.parent.iterdir()} == before


def test_a_script_in_a_package_starts_as_a_module():
    assert run.script_words(TRANSFORMERS) == ["-m", "experiments.transformers_baseline"]
    assert run.script_words("train_multitask.py") == [str(run.ROOT / "train_multitask.py")]


def test_help_names_its_own_options_and_hides_what_it_does_not_have():
    text = transformers_baseline.get_args_parser().format_help()
    assert "usage: " in text and "--plain_lr" in text and "--projection" not in text
    assert "--extension" not in text and "--max_length" in text
