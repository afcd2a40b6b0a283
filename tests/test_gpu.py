"""Every technique on a GPU: its first updates as on a CPU, and one wait for the host in each."""

import warnings
from importlib.util import find_spec

import pytest
import torch
from test_host_syncs import lines

import train_multitask_pal
from benchmarks import precision
from benchmarks.setup import kernels_of_a_run as kernels_of
from benchmarks.techniques import ARMS
from datasets import load_data
from engine import train_step
from models import build_model
from optimizers.aggregators import AGGREGATORS
from options.parsing import parse_args
from reporting.start import open_run
from training import Training, build_training

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

NUM_UPDATES = 4
DRAWS = ("--use_smart_regularization", "--optimizer sophiah", "rlw")  # numbers of the device
COMPILED = "compiled"  # which takes longer than all others together
MORE = {
    COMPILED: "--task_scheduler joint --compile",
    "in parts": "--task_scheduler joint --micro_batch_size 3",
    "sentences apart": "--task_scheduler joint --pair_encoding bi",
    "recipe": "--rdrop_weight 1 --symmetric_pairs --average_weights .9 --layer_decay .9",
    "by layer": "--projection vaccine --vaccine_groups layer",
    "bfloat16": "--task_scheduler joint --use_amp",
    "bfloat16, surgery, PALs": "--projection pcgrad --use_pal --use_amp",
}


@pytest.fixture(autouse=True)
def kernels_of_a_run():
    """The switches that a run on CUDA sets, and float32 products that are not rounded."""
    with precision.GPU_PRECISIONS[0].products(), kernels_of(use_gpu=True):
        yield


@pytest.fixture
def build(tiny_model, few_rows, tmp_path):
    """build(flags, device) -> a training without dropout, at its first update."""

    def new(flags: str, device: str) -> Training:
        common = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} "
        common += "--hidden_dropout_prob 0 --batch_size 4 --num_batches_per_epoch 9 "
        common += "--no_tensorboard " + "--use_gpu " * (device == "cuda")
        common += "--epochs 3 " * ("dwa" in flags)
        args = parse_args(train_multitask_pal.get_args_parser(), (common + flags).split())
        with open_run(args) as start:
            args = start.args
            data = load_data(args, start.tokenizer, start.config.pad_token_id)
            torch.manual_seed(args.seed)
            model = build_model(args, start.build_encoder()).to(device)
            training = build_training(args, model, data["train"])
        training.start_epoch()
        return training

    return new


def train(training: Training) -> tuple[list[dict[str, float]], list[float]]:
    """Make a few updates; return the losses and the gradient's norm of each."""
    losses, norms = [], []
    for _ in range(NUM_UPDATES):
        loss, norm = train_step(training, training.task_scheduler.next_update(), "a test")
        training.after_update()
        losses.append(loss)
        norms.append(norm)
    assert all(p.isfinite().all() for p in training.model.parameters())
    return losses, norms


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == COMPILED else ()) for n in [*ARMS, *MORE]],
)
def test_updates_are_those_of_a_cpu(build, name):
    flags = (ARMS | MORE)[name]
    if "additional_input" in flags:
        pytest.importorskip("spacy")
    for package in [p for key in AGGREGATORS if key in flags for p in AGGREGATORS[key].packages]:
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    results = [train(build(flags, device)) for device in ("cpu", "cuda")]
    (losses, norms), (gpu_losses, gpu_norms) = results
    # cuDNN's LSTM and convolution round their factors to ten bits.
    rtol = 5e-3 if "bilstm" in flags or "cnn" in flags else 1e-3
    rtol = 0.02 if "--use_amp" in flags else rtol
    count = 1 if any(word in flags for word in DRAWS) else NUM_UPDATES
    for one, other in zip(losses[:count], gpu_losses[:count]):
        assert other == pytest.approx(one, rel=rtol)
    if count > 1:
        assert gpu_norms == pytest.approx(norms, rel=10 * rtol)


@pytest.mark.parametrize("flags", lines())
def test_an_update_waits_once(flags, build):
    training = build(flags, "cuda")
    train_step(training, training.task_scheduler.next_update(), "a test")  # moved once, at first
    updates = [training.task_scheduler.next_update() for _ in range(2)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for update in updates:
                train_step(training, update, "a test")
                training.after_update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [
        f"{w.filename}:{w.lineno}" for w in found if "called a synchronizing" in str(w.message)
    ]
    assert len(waits) == len(updates), waits
