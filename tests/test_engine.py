"""The training loop: clipping, weights of losses, and when it saves."""

import pytest
import torch
from torch import nn

from engine import train_step
from optimizers import curvature_of
from optimizers.conflicts import ConflictLog
from optimizers.smart import PlainForward
from optimizers.sophia import SophiaH
from optimizers.task_gradients import SummedGradients
from options.task_table import built_in_tasks
from runtime import checkpoint
from training import Training

TASKS = built_in_tasks()

TASK = TASKS["sts"]


class Line(nn.Module):
    """One weight; logits are weight · input_ids."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, task, batch):
        return batch["input_ids"][:, None] * self.weight  # [B, 1]


def training_of(model: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> Training:
    """The parts of a run that one update needs."""
    return Training(
        model=model,
        task_scheduler=None,
        projection=SummedGradients(),
        conflicts=ConflictLog([], {}),
        regularizer=PlainForward(model),
        optimizer=optimizer,
        curvature=curvature_of(optimizer),
        lr_schedule=None,
        num_epochs=1,
        updates_per_epoch=1,
        clip=clip,
    )


def step(clip: float, weight: float = 1.0) -> tuple[float, float, float]:
    """Loss, gradient norm and the gradient that the optimizer sees: d/dw mean (w x − y)² = 13."""
    model = Line()
    batch = {"input_ids": torch.tensor([1.0, 2.0]), "labels": torch.tensor([0.0, -1.5])}
    update = [(TASK, batch, weight)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses, norm = train_step(training_of(model, optimizer, clip), update, "")
    return losses["sts"], norm, float(model.weight.grad)


@pytest.mark.parametrize("clip, gradient", [(0, 13.0), (100, 13.0), (1, 1.0), (0.5, 0.5)])
def test_clip_bounds_the_gradient_and_zero_leaves_it(clip, gradient):
    loss, norm, seen = step(clip)
    assert (loss, norm) == pytest.approx((17.125, 13.0))  # the norm before clipping
    assert seen == pytest.approx(gradient, rel=1e-5)


def test_a_weight_scales_the_gradient_and_not_the_reported_loss():
    assert step(0, weight=0.5) == pytest.approx((17.125, 6.5, 6.5))


@pytest.mark.parametrize("is_sophiah", [False, True])
def test_an_update_without_any_gradient_changes_nothing(is_sophiah):
    """A cosine head on a frozen encoder has no gradient, even where SophiaH's estimate is due."""
    model = Line().requires_grad_(False)
    idle = nn.Parameter(torch.ones(2))
    optimizer = SophiaH([idle], lr=1.0) if is_sophiah else torch.optim.SGD([idle], lr=1.0)
    batch = {"input_ids": torch.tensor([1.0, 2.0]), "labels": torch.tensor([0.0, -1.5])}
    for _ in range(2):
        losses, norm = train_step(training_of(model, optimizer, 1.0), [(TASK, batch, 1.0)], "")
        assert (losses["sts"], norm) == (pytest.approx(17.125), 0.0)
    assert idle.tolist() == [1.0, 1.0]


def test_clip_flag_reaches_the_loop(train):
    flags = "--num_batches_per_epoch 3 --batch_size 4 --epochs 1 --dev_samples 8 --no_tensorboard"
    flags = [*flags.split(), "--no_test_predictions", "--scheduler", "none"]
    runs = [train(*flags, "--clip", clip, "--run_name", f"c{clip}") for clip in ("0", "1e-9")]
    states = [checkpoint.load(run / "checkpoints" / "last.pt")["optimizer"] for run in runs]
    largest = [max(s["exp_avg"].abs().max() for s in state["state"].values()) for state in states]
    assert largest[1] < 1e-8 < largest[0]


def test_save_every_counts_updates(train, monkeypatch):
    saved, save = [], checkpoint.save

    def recording(path, state):
        if path.name == "last.pt":
            saved.append((state["progress"]["epoch"], state["progress"]["update"]))
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", recording)
    flags = "--num_batches_per_epoch 5 --batch_size 2 --epochs 1 --dev_samples 8 --save_every 2"
    train(*flags.split(), "--no_tensorboard", "--no_test_predictions")
    assert saved == [(0, 2), (0, 4), (0, 5), (1, 0)]  # (0, 5): before there are results
