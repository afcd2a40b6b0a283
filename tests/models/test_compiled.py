"""Compiled layers compute what plain ones do, and every layer shares one program."""

import copy
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import evaluation
from models import build_model
from models.bert import BertModel
from models.bert_config import BertConfig
from models.compiled import check_compiler, compile_layers
from options.run_options import PARSERS
from options.task_table import built_in_tasks
from runtime import checkpoint

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent.parent
SHAPES = ([9, 4, 7], [17, 3], [5, 30, 8, 8, 2])  # lengths of the rows of three batches
# A gradient that is zero in theory, and so only noise.
NOISE = "attention.key.bias"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def built(sizes: dict, flags: str = "", dropout: float = 0.0):
    """A model with random weights, in training mode."""
    args = PARSERS["train_multitask_pal.py"]().parse_args(flags.split())
    args.tasks, args.pal_size, args.hidden_dropout_prob = TASKS, 12, dropout
    config = BertConfig(**sizes, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    torch.manual_seed(0)
    return build_model(args, BertModel(config))


def results(model, batch: dict, task: str = "sst") -> tuple[torch.Tensor, dict]:
    """The logits, and the gradients of a loss by name."""
    model.zero_grad()
    torch.manual_seed(1)
    labels = torch.arange(len(batch["input_ids"])) % 2
    logits = model(TASKS[task], batch)
    TASKS[task].loss(logits, labels).backward()
    return logits.detach(), {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None and NOISE not in name
    }


def check_equal(plain, compiled, batch: dict, task: str = "sst") -> None:
    """Compare logits and gradients: 1e-5 of their size."""
    (logits, gradients), (others, other_gradients) = (
        results(model, batch, task) for model in (plain, compiled)
    )
    assert (logits - others).abs().max() <= 1e-5 * logits.abs().max()
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        difference = (gradient - other_gradients[name]).abs().max()
        assert difference <= 1e-5 * gradient.abs().max() + 1e-8, name


# Combined models give the layers slices of one tensor, whose strides a program is made for.
BUILDS = {"": 1, "--use_pal": 1, "--combined_models": 3, "--train_mode single_layers": 1}
BUILDS |= {"--lora_rank 3 --lora_alpha 3": 2}  # nothing needs a gradient of the first layer's input


@pytest.mark.parametrize("flags, num_programs", BUILDS.items())
def test_traced_layers_equal_plain_ones(sizes, make_batch, flags, num_programs):
    plain = built(sizes, flags)
    compiled = copy.deepcopy(plain)
    compile_layers(compiled, "aot_eager")
    for lengths in SHAPES:
        check_equal(plain, compiled, make_batch(lengths, sizes["vocab_size"]))
    assert counters["stats"]["unique_graphs"] == num_programs  # for all layers and shapes
    assert not counters["graph_break"]
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@needs_compiler
@pytest.mark.slow
def test_compiled_layers_equal_plain_ones(sizes, make_batch):
    plain = built(sizes)
    compiled = copy.deepcopy(plain)
    compile_layers(compiled)
    for lengths in SHAPES:
        check_equal(plain, compiled, make_batch(lengths, sizes["vocab_size"]))
    assert counters["inductor"]  # the compiler was really at work


def test_a_compiled_layer_drops_its_share_and_follows_the_generator(sizes, make_batch):
    """Dropout of the embeddings, outside the layers, is off, so all that differs is theirs."""
    model = built(sizes, dropout=0.5).encoder
    model.embeddings.dropout.p = 0.0
    compile_layers(model, "aot_eager")
    batch = make_batch([30] * 8, sizes["vocab_size"])

    def states(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(batch["input_ids"], batch["attention_mask"]).last_hidden_state

    assert torch.equal(states(1), states(1)) and not torch.equal(states(1), states(2))
    assert not counters["graph_break"]
    model.eval()
    assert torch.equal(states(1), states(2))


def losses(run: Path) -> list[float]:
    """Every loss of a run's epochs, and its dev scores."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [value for line in lines for value in [*line["loss"].values(), line["mean"]]]


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_trains_as_a_plain_one_and_is_resumed_and_evaluated(train, capsys):
    flags = "--batch_size 4 --num_batches_per_epoch 3 --epochs 2 --dev_samples 8 --no_tensorboard"
    flags = [*flags.split(), "--hidden_dropout_prob", "0", "--no_test_predictions"]
    plain = train(*flags, "--run_name", "plain")
    assert not counters["stats"]
    compiled = train(*flags, "--compile", "--run_name", "compiled")
    assert counters["stats"]["unique_graphs"] > 1  # training and evaluation
    assert json.loads((compiled / "args.json").read_text())["options"]["compile"] is True
    for one, other in zip(losses(plain), losses(compiled), strict=True):
        assert math.isclose(one, other, rel_tol=1e-3)
    weights = checkpoint.load(compiled / "checkpoints" / "last.pt")["model"]
    assert weights.keys() == checkpoint.load(plain / "checkpoints" / "last.pt")["model"].keys()
    train("--resume", compiled, "--epochs", "3")
    assert len(losses(compiled)) == 3 * len(losses(plain)) // 2
    counters.clear()
    args = evaluation.get_args_parser().parse_args(["--run", str(compiled)])
    evaluation.main(args)
    assert "mean" in capsys.readouterr().out and not counters["stats"]  # it compiles nothing


def test_a_missing_compiler_is_one_line(tiny_model, tmp_path):
    """In a new process, whose cache of compiled code is empty."""
    words = [sys.executable, ROOT / "train_multitask.py", "--compile", "--smoketest"]
    words += ["--model_name", tiny_model, "--logdir", tmp_path / "runs"]
    env = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run(map(str, words), env=env, capture_output=True, text=True, timeout=300)
    [line] = done.stderr.splitlines()
    assert done.returncode == 1 and not list((tmp_path / "runs").glob("*/checkpoints/*"))
    assert line.startswith("error: --compile: torch cannot compile here (") and "g++" in line


def test_other_errors_of_the_check_are_one_line_too(monkeypatch, one_line):
    def broken(function):
        raise RuntimeError

    monkeypatch.setattr(torch, "compile", broken)
    assert "(RuntimeError)" in one_line(check_compiler, False)
