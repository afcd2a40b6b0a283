"""Flags whose effect only a long run would show reach the object that they set."""

import pytest
import torch

from datasets import load_data
from models import build_model
from options.parsing import parse_args
from reporting.start import open_run
from task_schedulers import temperature_probabilities
from train_multitask_pal import get_args_parser
from training import Training, build_training


@pytest.fixture
def build(tiny_model, few_rows, tmp_path):
    """build(flags) -> the training of a run on the tiny encoder."""

    def make(flags: str) -> Training:
        words = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} {flags}"
        args = parse_args(get_args_parser(), words.split())
        with open_run(args) as start:
            data = load_data(start.args, start.tokenizer, start.config.pad_token_id)
            model = build_model(start.args, start.build_encoder())
            return build_training(start.args, model, data["train"])

    return make


@pytest.mark.parametrize("flags, temperature", [("", 2.0), ("--temperature 1", 1.0)])
def test_temperature(build, few_rows, flags, temperature):
    path = few_rows / "sst-sentiment-train.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    short = few_rows.parent / "short.csv"
    short.write_bytes(b"".join(lines[:6]))
    training = build(f"--task_scheduler temperature --sst_train {short} {flags}")
    expected = temperature_probabilities([5, 20, 20], temperature)
    torch.testing.assert_close(training.task_scheduler.probabilities, expected)


@pytest.mark.parametrize("flags, alpha", [("", 1.5), ("--gradnorm_alpha 3", 3.0)])
def test_gradnorm_alpha(build, flags, alpha):
    training = build(f"--task_scheduler joint --loss_weighting gradnorm {flags}")
    assert training.loss_weighting.alpha == alpha
