"""Tiny finished runs to compare, made once. Copy one before you change it."""

from pathlib import Path

import pytest

import compare
import train_multitask
from options.comparison_options import get_args_parser, parse_args
from options.parsing import parse_args as parse_training

SIZES = "--num_batches_per_epoch 2 --batch_size 4 --epochs 2 --dev_samples 8 --no_tensorboard"
OTHER_MODEL = "--pooling max --pair_encoding bi --max_length 32"


@pytest.fixture(scope="session")
def runs(tiny_model, few_rows, tmp_path_factory) -> dict[str, Path]:
    """Two seeds, `a` and `b`, and a run of another model, `c`, on the same rows."""
    logdir = tmp_path_factory.mktemp("runs")
    for name, flags in (("a", "--seed 0"), ("b", "--seed 1"), ("c", OTHER_MODEL)):
        words = f"{SIZES} {flags} --run_name {name} --logdir {logdir}".split()
        words += ["--model_name", str(tiny_model), "--data_dir", str(few_rows)]
        train_multitask.main(parse_training(train_multitask.get_args_parser(), words))
    return {name: logdir / name for name in "abc"}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run compare.py in this process, in a folder of its own."""

    def run(*flags: object) -> None:
        compare.main(parse_args(get_args_parser(), [str(flag) for flag in flags]))

    monkeypatch.chdir(tmp_path)
    return run
