"""Updates in which the host waits for the device once: at the one read, and nowhere else.

Counted on a CPU, with stand-ins for what a GPU would wait at. The read itself, and the arithmetic
on what it has read, are not watched.
"""

import traceback
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import train_multitask_pal
from datasets import load_data
from engine import train_step
from models import FEATURES, build_model
from models.attention import Dropout
from optimizers import LOSS_WEIGHTINGS
from optimizers.projections import Projection
from options.legal import SAMPLED
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting.start import open_run
from runtime.workers import Alone
from task_schedulers import TASK_SCHEDULERS
from training import build_training

TASKS = built_in_tasks()

ROOT = Path(__file__).resolve().parent.parent
aten = torch.ops.aten
# What reads a number from the device to decide a shape or a value, or copies Python numbers to it.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.lift_fresh}
WAITING |= {aten._unique2, aten._coalesce}
# What is done on the host alone: with a batch's lengths, with the numbers of the one read, and with
# each batch's share in its task's loss, before it is copied to the device without waiting.
ON_THE_HOST = {
    "aten.lift_fresh.default in TaskGradients.combine",
    "aten.lift_fresh.default in LossWeighting.task_losses",
    "aten._local_scalar_dense.default in MultitaskBert.prefix",
    "aten._local_scalar_dense.default in BiLSTMExtension.forward",
    # On a GPU, the gradients of word embeddings are no rows.
    "aten._unique2.default in WordGradients.words",
    "aten._coalesce.default in SophiaH.accumulate_hessian",
}
HOST_READS = ("cpu", "tolist", "numpy", "item")


def caller() -> str:
    """The innermost function of the project that is running."""
    for frame, _ in traceback.walk_stack(None):
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT)) and path != __file__ and "site-packages" not in path:
            return frame.f_code.co_qualname
    return "a test"


class Waits(TorchDispatchMode):
    """Collects the operations of a block at which a GPU's host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masks = args[1] if packet in (aten.index, aten.index_put, aten.index_put_) else ()
        if packet in WAITING or any(i is not None and i.dtype == torch.bool for i in masks):
            self.found.append(f"{function} in {caller()}")
        return function(*args, **kwargs or {})

    @contextmanager
    def watching(self, patch: pytest.MonkeyPatch):
        """Watch the block, also for reads that a CPU answers without any operation."""
        is_watched = True

        def unwatched(function):
            def call(*args, **options):
                nonlocal is_watched
                before, is_watched, found = is_watched, False, list(self.found)
                result = function(*args, **options)
                is_watched, self.found = before, found
                return result

            return call

        def recorded(name):
            function = getattr(Tensor, name)

            def call(tensor, *args, **options):
                if is_watched:
                    self.found.append(f"{name} in {caller()}")
                return function(tensor, *args, **options)

            return call

        def counted(exchange, *groups):
            self.num_reads += 1
            return read(exchange, *groups)

        read = unwatched(Alone.read)
        patch.setattr(Alone, "read", counted)
        patch.setattr(Projection, "plan", unwatched(Projection.plan))
        for name in HOST_READS:
            patch.setattr(Tensor, name, recorded(name))
        with self:
            yield


def build(flags: str, tiny_model, few_rows):
    common = f"--model_name {tiny_model} --data_dir {few_rows} --batch_size 4 --no_tensorboard "
    common += "--num_batches_per_epoch 9 --epochs 3 "  # which dwa needs
    args = parse_args(train_multitask_pal.get_args_parser(), (common + flags).split())
    with open_run(args) as start:
        data = load_data(args, start.tokenizer, start.config.pad_token_id)
        return build_training(args, build_model(args, start.build_encoder()), data["train"])


def lines() -> list[str]:
    """Flags of each scheduler without and with a projection, of each extension and technique."""
    schedules = []
    schedulers = [name for name in TASK_SCHEDULERS if name not in TASKS] + [next(iter(TASKS))]
    for scheduler, projection in product(schedulers, ("none", "pcgrad", "vaccine")):
        flags = f"--task_scheduler {scheduler} --projection {projection}"
        if projection != "none" and scheduler in SAMPLED:
            flags += " --combine_strategy force --batches_per_update 4"
        if projection == "none" or scheduler not in TASKS:
            schedules.append(flags)
    techniques = [
        "--use_smart_regularization --smart_mu 1",
        "--optimizer sophiah --hess_interval 2",
        "--use_pal",
        "--lora_rank 4 --projection pcgrad",
        "--lora_rank 4 --lora_per_task --gradient_checkpointing",
    ]
    techniques += ["--class_weights --log_conflicts --task_scheduler joint", "--micro_batch_size 3"]
    techniques += ["--rdrop_weight 1 --average_weights .9 --layer_decay .8"]
    techniques += ["--projection vaccine --vaccine_groups layer", "--pair_encoding bi"]
    weighted = "--task_scheduler joint --log_conflicts --loss_weighting"
    techniques += [f"{weighted} {name}" for name in LOSS_WEIGHTINGS if name != "none"]
    smart = "--projection pcgrad --use_smart_regularization --smart_mu 1 "
    smart += "--optimizer sophiah --hess_interval 2"
    extensions = [f"--extension {name} {extra}" for name in FEATURES for extra in ("", smart)]
    return [*schedules, *techniques, *extensions]


@pytest.mark.parametrize("flags", lines())
def test_an_update_waits_once(flags, tiny_model, few_rows, monkeypatch):
    training = build(flags, tiny_model, few_rows)
    training.start_epoch()
    updates = [training.task_scheduler.next_update() for _ in range(3)]
    train_step(training, updates[0], "")  # what is moved once has been moved
    # On a CPU our dropout draws its masks with Python numbers; on a GPU it is torch's own.
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x)
    waits = Waits()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        stack.enter_context(waits.watching(patch))
        for update in updates[1:]:
            train_step(training, update, "")
            training.after_update()
    assert waits.num_reads == 2
    assert set(waits.found) <= ON_THE_HOST


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: float(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
    ],
)
def test_the_stand_in_sees_what_a_gpu_would_wait_at(wait, monkeypatch):
    waits = Waits()
    with waits.watching(monkeypatch):
        wait(torch.ones(2))
    assert waits.found
