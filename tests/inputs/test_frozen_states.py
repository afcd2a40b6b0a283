"""Training on cached states is the same as training on states that are computed every time."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from datasets import load_data
from engine import predict_logits
from evaluation import load_run
from inputs import frozen_states
from inputs.batches import PAIR_ENCODINGS
from inputs.frozen_states import CHANGING, CachedRows
from models import FEATURES, build_model
from models.pretrained import load_config, load_pretrained, load_tokenizer
from optimizers import LR_SCHEDULES
from options.task_table import built_in_tasks
from training import build_training

TASKS = built_in_tasks()

TINY = ("--option", "pretrain", "--batch_size", 4, "--num_batches_per_epoch", 6, "--epochs", 2)
QUICK = ("--dev_samples", 8, "--no_tensorboard", "--no_test_predictions")
READ = [("--extension", key) for key in FEATURES] + [("--train_mode", "all_pooled")]


def losses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def uncached(args, model, data):
    return data


@pytest.mark.parametrize("pair_encoding", PAIR_ENCODINGS)
@pytest.mark.parametrize("read", READ, ids=" ".join)
def test_training_is_the_same_with_and_without(train, few_rows, monkeypatch, read, pair_encoding):
    flags = (*TINY, *QUICK, *read, "--pair_encoding", pair_encoding, "--data_dir", few_rows)
    flags += ("--hidden_dropout_prob", 0)
    cached = train(*flags, "--run_name", "cached")
    monkeypatch.setattr("train_multitask.cache_frozen_states", uncached)
    plain = train(*flags, "--run_name", "plain")
    for ours, expected in zip(losses(cached), losses(plain)):
        assert ours == pytest.approx(expected, abs=1e-5)
    name = "predictions/sts-similarity-dev-output.csv"
    ours, expected = (np.loadtxt(run / name, skiprows=1, usecols=1) for run in (cached, plain))
    assert abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize("use_amp", [False, True])
def test_kept_states_have_the_precision_of_the_run(finished_run, tmp_path, use_amp):
    """So an evaluation of the finished run, which keeps none, finds the scores of its dev rows."""
    loaded = load_run(finished_run)
    loaded.model.encoder.requires_grad_(False)
    [rows] = load_data(loaded.args, loaded.tokenizer, 0, ("dev",)).values()
    for part in rows.values():
        kept = CachedRows(loaded.model, part, tmp_path, use_amp)
        plain, cached = (predict_logits(loaded.model, one, use_amp=use_amp) for one in (part, kept))
        assert np.array_equal(plain, cached)


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("", 2 * 20),
        ("--task_scheduler sst", 2 * 60),
        ("--samples_per_epoch 30", 2 * 30),
        ("--samples_per_epoch 30 --task_scheduler sst", 2 * 90),
        ("--num_batches_per_epoch 3 --batch_size 4", 2 * 4),
        ("--num_batches_per_epoch 3 --batch_size 4 --task_scheduler joint", 2 * 12),
        ("--num_batches_per_epoch 3 --batch_size 4 --task_scheduler sst", 2 * 12),
    ],
)
def test_how_many_examples_of_a_task_a_run_sees(parse, flags, expected):
    args = parse("train_multitask_pal.py", "--epochs", 2, *flags.split())
    rows = {name: Namespace(num_in_file=20) for name in TASKS}
    assert frozen_states.num_trained(args, rows) == expected


def test_the_encoder_runs_once_per_row(train, few_rows, monkeypatch):
    """With 20 training rows, two walks over them compute 20 rows, not 40."""
    monkeypatch.setattr(frozen_states, "BLOCK", 3)
    asked = []
    compute = CachedRows.compute

    def recording(self, number):
        asked.append(self.blocks[number])
        compute(self, number)

    monkeypatch.setattr(CachedRows, "compute", recording)
    train(*TINY[:4], "--epochs", 3, *QUICK, "--data_dir", few_rows, "--task", "sst")
    for rows in np.split(np.concatenate(asked), [20]):  # training rows first, dev rows after them
        assert len(set(rows.tolist())) == len(rows)
    assert len(np.concatenate(asked)) <= 40


@pytest.mark.parametrize("option", CHANGING)
def test_where_states_change_nothing_is_cached_and_the_reason_is_printed(option, parse, capsys):
    script = () if option == "additional_input" else ("train_multitask_pal.py",)
    args = parse(*script, "--option", "pretrain", f"--{option}")
    data = object()
    assert frozen_states.cache_frozen_states(args, None, data) is data
    assert CHANGING[option] in capsys.readouterr().out
    assert frozen_states.cache_frozen_states(parse(), None, data) is data


def test_large_caches_lie_in_a_file_without_a_name(train, few_rows, monkeypatch):
    flags = (*TINY, *QUICK, "--extension", "attention", "--data_dir", few_rows)
    memory = train(*flags, "--run_name", "memory")
    monkeypatch.setattr(frozen_states, "IN_MEMORY", 0)
    file = train(*flags, "--run_name", "file")
    assert losses(file) == losses(memory)
    assert {p.name for p in file.iterdir()} == {p.name for p in memory.iterdir()}


def test_a_full_disk_is_one_line(train, few_rows, monkeypatch):
    def no_room(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen_states, "IN_MEMORY", 0)
    monkeypatch.setattr(frozen_states.os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match="no room for 0.0 GiB of frozen states: No space left"):
        train(*TINY, *QUICK, "--data_dir", few_rows)


# Unfreezing


@pytest.fixture
def trained_weights(train, few_rows):
    """Return a function that gives the weights of a run which unfreezes one layer per epoch."""

    def weights(epochs, *flags):
        flags = (*TINY[:-1], epochs, *QUICK, "--data_dir", few_rows, *flags)
        interval = ("--unfreeze_interval", 1) if epochs > 1 else ()
        run = train(*flags, *interval, "--scheduler", "none")
        return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]

    return weights


@pytest.mark.parametrize("scheduler", LR_SCHEDULES)
def test_unfrozen_layers_have_the_fine_tuning_rate(scheduler, parse, tiny_model, few_rows):
    """A narrow encoder has 2e-4 and the heads 1e-3; the schedule scales both alike."""
    flags = ("--option", "pretrain", "--unfreeze_interval", 1, "--scheduler", scheduler)
    args = parse(*flags, "--data_dir", few_rows, "--num_batches_per_epoch", 10)
    args.lr = 1e-3
    config = load_config(tiny_model)
    rows = load_data(args, load_tokenizer(tiny_model, config), 0, ("train",))["train"]
    training = build_training(args, build_model(args, load_pretrained(str(tiny_model))), rows)

    def rates():
        return [group["lr"] for group in training.optimizer.param_groups]

    for _ in range(4):
        training.optimizer.step()
        training.lr_schedule.after_update()
    training.unfreeze(1)
    for after in (
        lambda: None,
        training.lr_schedule.after_update,
        *[lambda: training.lr_schedule.after_epoch(0.5)] * 5,
    ):
        after()
        heads, _, *layer = rates()
        assert heads > 0 and layer == pytest.approx([heads / 5] * 2)
    assert (heads < 2e-4) == (scheduler == "plateau")


def parts(names):
    return {
        ".".join(name.split(".")[:3]) if "layer" in name else name.split(".")[0] for name in names
    }


def test_every_interval_trains_one_layer_more(trained_weights, tiny_model, parse):
    """Epoch 1 trains the heads, epoch 2 also the top layer, epoch 3 also the layer below."""
    first = {f"encoder.{n}": p for n, p in load_pretrained(tiny_model).state_dict().items()}
    expected = [set(), {"encoder.layer.1"}, {"encoder.layer.1", "encoder.layer.0"}]
    expected.append(expected[-1])  # there are two layers, and embeddings stay frozen
    before = None
    for epochs, layers in enumerate(expected, start=1):
        weights = trained_weights(epochs, "--run_name", f"run-{epochs}")
        moved = {name for name in first if not torch.equal(first[name], weights[name])}
        assert parts(moved) == layers
        heads = {name: p for name, p in weights.items() if name.startswith("heads.")}
        assert before is None or any(not torch.equal(p, before[name]) for name, p in heads.items())
        before = heads
