"""Runs with encoders of transformers, from the first update to the evaluation."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from saved_state import assert_same, final_state
from tiny_checkpoints import SOME, TYPES

import evaluation
from models.pretrained import load_pretrained
from options.encoder_limits import NOT_WRAPPED
from runtime import checkpoint, interrupts
from runtime.errors import InputError

PAL = "train_multitask_pal.py"
SMALL = "--batch_size 2 --epochs 1 --num_batches_per_epoch 2 --dev_samples 4 --no_tensorboard "
SMALL += "--no_test_predictions"
# Parameters that need not move: the gradient of key biases is zero in theory, and nothing reads the
# pooler.
EXEMPT = (".k.bias", ".k_lin.bias", "key.bias", "pooler.")


@pytest.fixture
def run(train, few_rows):
    """run(model_type or directory, flags) -> the run's directory, of two updates in entry 2."""

    def start(model: Path | str, flags: str = "") -> Path:
        words = f"--model_name {model} --data_dir {few_rows} {SMALL} {flags}"
        return train(PAL, *words.split())

    return start


@pytest.mark.parametrize("model_type", SOME)
def test_trains_resumes_and_evaluates_without_the_checkpoint(
    tiny_checkpoint, run, train, monkeypatch, tmp_path, model_type
):
    """Stopped after the first of two updates, resumed and evaluated from the run's own files."""
    source = shutil.copytree(tiny_checkpoint(model_type), tmp_path / "published")
    whole = run(source, "--run_name whole")

    def stop(self) -> None:
        raise interrupts.Interrupted("stopped by SIGTERM", 15)

    with monkeypatch.context() as patch, pytest.raises(interrupts.Interrupted):
        patch.setattr(interrupts.StopSignal, "check", stop)
        run(source, "--run_name parts")
    shutil.rmtree(source)
    parts = whole.parent / "parts"
    progress = checkpoint.load(parts / "checkpoints" / "last.pt")["progress"]
    assert progress["total_updates"] == 1
    train("--resume", parts)
    for one, other in zip(final_state(whole), final_state(parts)):
        assert_same(one, other)
    saved = json.loads((parts / "metrics-dev.json").read_text())
    evaluation.evaluate_run(str(parts), "dev", None, "cpu")
    assert json.loads((parts / "metrics-dev.json").read_text()) == saved
    assert len(evaluation.load_run(parts).predict("sst", ["a fine day"]).values) == 1


# Each technique that encoders of transformers take, with those it goes with.
TECHNIQUES = [
    "--use_smart_regularization --smart_mu 1 --projection vaccine --vaccine_groups layer",
    "--optimizer sophiah --hess_interval 1 --train_mode all_pooled",
]
MORE = [
    "--task_scheduler joint --log_conflicts --loss_weighting uncertainty",
    "--task_scheduler joint --loss_weighting gradnorm --train_mode single_layers",
    "--projection pcgrad --extension bilstm --use_amp",
    "--projection mgda --pooling max --pair_encoding bi",
    "--extension hierarchical --segment_length 6 --use_smart_regularization",
    "--combined_models --extension cnn",
    "--extension attention --micro_batch_size 1",
    "--average_weights .9 --rdrop_weight 1 --symmetric_pairs",
]
CASES = [(model_type, flags) for model_type in TYPES for flags in TECHNIQUES + MORE]


@pytest.mark.parametrize(
    "model_type, flags",
    [
        ("modernbert", TECHNIQUES[1]),
        ("deberta-v2", TECHNIQUES[0]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_every_part_of_the_encoder_is_trained(tiny_checkpoint, run, model_type, flags):
    directory = tiny_checkpoint(model_type)
    # Large steps, so that what moves can be told from what does not.
    trained = run(directory, f"{flags} --lr 1e-2 --scheduler none --hidden_dropout_prob 0")
    state = checkpoint.load(trained / "checkpoints" / "last.pt")["model"]
    before = load_pretrained(directory).state_dict()
    encoders = [""]
    if "--combined_models" in flags:
        encoders = [*(f"experts.{number}." for number in range(3)), "gate."]
    for place in encoders:
        place = f"encoder.{'inner.' * ('hierarchical' in flags)}{place}"
        for name, tensor in before.items():
            if not any(part in name for part in EXEMPT):
                moved = state[place + name] - tensor
                assert moved.isfinite().all() and moved.any(), name


@pytest.mark.parametrize(
    "model_type",
    [
        "deberta-v2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in TYPES if name != "modernbert"),
    ],
)
def test_adapters_are_trained_and_nothing_else_of_the_encoder(tiny_checkpoint, run, model_type):
    directory = tiny_checkpoint(model_type)
    flags = "--lora_rank 2 --projection pcgrad --lr 1e-2 --scheduler none "
    flags += "--gradient_checkpointing" if model_type not in ("mpnet", "albert") else ""
    trained = run(directory, flags)
    state = checkpoint.load(trained / "checkpoints" / "last.pt")["model"]
    adapters = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    assert adapters and all("lora_" in name for name in adapters)
    assert all(tensor.any() for name, tensor in adapters.items() if "lora_B" in name)
    saved = json.loads((trained / "metrics-dev.json").read_text())
    evaluation.evaluate_run(str(trained), "dev", None, "cpu")
    assert json.loads((trained / "metrics-dev.json").read_text()) == saved


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_a_frozen_encoder_stays_as_it_was(tiny_checkpoint, run, model_type):
    directory = tiny_checkpoint(model_type)
    trained = run(directory, "--option pretrain --epochs 2")
    state = checkpoint.load(trained / "checkpoints" / "last.pt")["model"]
    for name, tensor in load_pretrained(directory).state_dict().items():
        assert torch.equal(state[f"encoder.{name}"], tensor), name


def test_layers_are_unfrozen_from_the_top(tiny_checkpoint, run):
    directory = tiny_checkpoint("modernbert")
    flags = "--option pretrain --unfreeze_interval 1 --epochs 3 --lr 1e-2 --scheduler none"
    state = checkpoint.load(run(directory, flags) / "checkpoints" / "last.pt")
    assert state["num_unfrozen"] == 2
    before = load_pretrained(directory).state_dict()
    moved = {
        n for n, tensor in before.items() if not torch.equal(state["model"][f"encoder.{n}"], tensor)
    }
    assert moved == {
        name for name in before if name.startswith(("model.layers.1", "model.layers.2"))
    }


@pytest.mark.parametrize(
    "model_type, flags, message",
    [
        (
            "deberta-v2",
            "--use_pal",
            "--use_pal does not go with .* deberta-v2: projected attention",
        ),
        (
            "modernbert",
            "--compile",
            "--compile does not go with .* only the layers of our own enco",
        ),
        (
            "albert",
            "--option pretrain --unfreeze_interval 1 --epochs 2",
            "--unfreeze_interval does not go with an encoder of type albert: all layers share",
        ),
        ("modernbert", "--lora_rank 2", "--lora_rank does not go with .* modernbert: one map"),
        ("albert", "--layer_decay .9", "--layer_decay gives every layer its own rate"),
        ("mpnet", "--gradient_checkpointing", "--gradient_checkpointing does .* transformers has"),
        ("modernbert", "--max_length 131", "--max_length is 131, .* has positions for 130"),
        ("mpnet", "--max_length 129", "--max_length is 129, .* has positions for 128"),
    ],
)
def test_what_an_encoder_does_not_take_is_one_line(
    tiny_checkpoint, run, tmp_path, model_type, flags, message
):
    with pytest.raises(InputError, match=message) as caught:
        run(tiny_checkpoint(model_type), flags)
    assert "\n" not in str(caught.value) and "drop it" in str(caught.value) or "max_len" in flags
    assert not list((tmp_path / "runs").glob("run-*"))


def test_the_table_names_flags(parse):
    args = parse(PAL)
    assert all(hasattr(args, name) for name in NOT_WRAPPED)
