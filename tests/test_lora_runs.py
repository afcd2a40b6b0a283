"""Runs with --lora_rank: small checkpoints that need the encoder they began with."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluation
import train_multitask
from options.parsing import parse_args
from runtime import checkpoint
from train_multitask_pal import get_args_parser

FLAGS = "--lora_rank 4 --lora_per_task --num_batches_per_epoch 3 --batch_size 4 --epochs 1 "
FLAGS += "--save_every 3 --dev_samples 8 --no_tensorboard --lr 0.1 --scheduler none "
FLAGS += "--use_smart_regularization --smart_mu 1 "


@pytest.fixture(scope="module")
def finished(tiny_model, few_rows, tmp_path_factory) -> Path:
    """A finished run beside the encoder that it began with; shared, so look but do not touch."""
    folder = tmp_path_factory.mktemp("lora")
    shutil.copytree(tiny_model, folder / "encoder")
    flags = f"{FLAGS} --model_name {folder}/encoder --data_dir {few_rows} --logdir {folder}"
    train_multitask.main(parse_args(get_args_parser(), f"{flags} --run_name run".split()))
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of that run, whose encoder may be changed."""
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy" / "run" / "args.json"
    record = path.read_text().replace(f"{finished}/encoder", f"{tmp_path}/copy/encoder")
    path.write_text(record)
    return path.parent


def change_encoder(run: Path) -> None:
    path = run.parent / "encoder" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("layer.0.output.dense.bias"))
    weights[name][0] += 1e-4
    save_file(weights, path, {"format": "pt"})


def test_checkpoints_hold_what_is_trained_alone(finished, tiny_model):
    whole = os.path.getsize(tiny_model / "model.safetensors")
    for name in ("best.pt", "last.pt"):
        state = checkpoint.load(finished / "run" / "checkpoints" / name)
        parts = {name.split(".")[0] for name in state["model"]}
        assert parts == {"encoder", "heads", "adapters"}
        assert all(".lora_" in name for name in state["model"] if name.startswith("encoder"))
        kept = state.get("smart", {}).get("average", {})
        assert kept.keys() == (state["model"].keys() - {"adapters._extra_state"} if kept else set())
        assert ("smart" in state) == bool(kept) == (name == "last.pt")
        assert any(tensor.any() for name, tensor in state["model"].items() if "lora_B" in name)
    assert os.path.getsize(finished / "run" / "checkpoints" / "best.pt") < whole / 2


def test_evaluated_again_it_has_the_same_scores(run):
    path = run / "metrics-dev.json"
    before = json.loads(path.read_text())
    path.unlink()
    evaluation.main(evaluation.get_args_parser().parse_args(["--run", str(run)]))
    assert json.loads(path.read_text()) == before


def test_a_loaded_model_merges_to_the_encoder_that_it_computes_with(run):
    found = evaluation.load_run(run)
    model, tokenizer, args = found.model, found.tokenizer, found.args
    ids = torch.tensor([tokenizer.encode("a film to remember").ids])
    mask = torch.ones_like(ids)
    for task in args.tasks.values():
        model.adapters.choose(task.name)
        states = model.encoder(ids, mask).last_hidden_state
        plain = model.merged_encoder(task)
        assert (plain(ids, mask).last_hidden_state - states).abs().max() <= 1e-5
        assert not any("lora" in name for name in plain.state_dict())


@pytest.mark.parametrize("resume", [False, True])
def test_another_encoder_is_refused(run, resume, one_line):
    change_encoder(run)
    message = one_line(open_again, run, resume)
    name = "last.pt" if resume else "best.pt"
    assert message.startswith(f"{run}/checkpoints/{name}: ")
    assert "holds updates of other encoder weights than --model_name has now" in message


@pytest.mark.parametrize("resume", [False, True])
def test_a_missing_encoder_is_named(run, resume, one_line):
    shutil.move(run.parent / "encoder", run.parent / "elsewhere")
    message = one_line(open_again, run, resume)
    assert "holds what --lora_rank trained, and the rest of the encoder cannot be read" in message
    assert f"{run.parent}/encoder: no such directory" in message


def open_again(run: Path, resume: bool) -> None:
    if resume:
        words = ["--resume", str(run), "--epochs", "2"]
        train_multitask.main(parse_args(get_args_parser(), words))
    else:
        evaluation.load_run(run)


def test_more_epochs_continue_from_the_trained_part(run):
    open_again(run, resume=True)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_its_best_checkpoint_starts_another_run_and_no_plain_one(run, few_rows, tmp_path, one_line):
    given = f"--data_dir {few_rows} --logdir {tmp_path} --model_name {run.parent}/encoder "
    given += f"--checkpoint {run}/checkpoints/best.pt --run_name second"
    train_multitask.main(parse_args(get_args_parser(), f"{FLAGS} {given}".split()))
    plain = parse_args(get_args_parser(), f"{given}-plain".split())
    assert "weights do not fit this model" in one_line(train_multitask.main, plain)
