"""Learning-rate schedules, compared with those of transformers and PyTorch at every update."""

from argparse import Namespace

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import (
    get_constant_schedule,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from optimizers import LR_SCHEDULES, build_lr_schedule

BASE_RATES = (0.1, 0.02)  # one per parameter group
SCORES = [0.1, 0.3, 0.3, 0.2, 0.25, 0.29, 0.31, 0.1, 0.1, 0.1, 0.1, 0.1]  # one per epoch


def reference(name, optimizer, num_updates, warmup_fraction, restarts):
    """The published schedule of the same name."""
    warmup_steps = int(warmup_fraction * num_updates)
    if name == "linear_warmup":
        return get_linear_schedule_with_warmup(optimizer, warmup_steps, num_updates)
    if name == "cosine":
        return get_cosine_with_hard_restarts_schedule_with_warmup(
            optimizer, warmup_steps, num_updates, num_cycles=restarts + 1
        )
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=2)
    assert name == "none", f"{name} has no reference here"
    return get_constant_schedule(optimizer)


def new_optimizer():
    """An optimizer of two parameters, each in its own group with its own rate."""
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in BASE_RATES]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, BASE_RATES)]
    for parameter in parameters:
        parameter.grad = torch.zeros(2)
    return torch.optim.AdamW(groups)


def build(name, num_updates, warmup_fraction=0.1, restarts=0):
    args = Namespace(scheduler=name, warmup_fraction=warmup_fraction, restarts=restarts)
    optimizer = new_optimizer()
    return optimizer, build_lr_schedule(args, optimizer, num_updates)


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def run(optimizer, schedule, epochs, updates_per_epoch):
    """The rates that each update of the given epochs uses, and those after the last update."""
    used = []
    for epoch in epochs:
        for _ in range(updates_per_epoch):
            used.append(rates(optimizer))
            optimizer.step()
            schedule.after_update()
        schedule.after_epoch(SCORES[epoch])
    return used + [rates(optimizer)]


@pytest.mark.parametrize("warmup_fraction", [0, 0.1, 0.33, 0.9])
@pytest.mark.parametrize("restarts", [0, 1, 3])
@pytest.mark.parametrize("updates_per_epoch", [1, 5])
@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_update_uses_the_published_rate(name, updates_per_epoch, restarts, warmup_fraction):
    num_updates = updates_per_epoch * len(SCORES)
    optimizer, schedule = build(name, num_updates, warmup_fraction, restarts)
    other = new_optimizer()
    published = reference(name, other, num_updates, warmup_fraction, restarts)
    expected = []
    for score in SCORES:
        for _ in range(updates_per_epoch):
            expected.append(rates(other))
            other.step()
            if name != "plateau":
                published.step()
        if name == "plateau":
            published.step(score)
    expected.append(rates(other))
    used = run(optimizer, schedule, range(len(SCORES)), updates_per_epoch)
    assert used == [pytest.approx(pair, rel=1e-12, abs=1e-15) for pair in expected]


def test_linear_warmup_starts_at_zero_peaks_and_ends_at_zero():
    used = run(*build("linear_warmup", 60, 0.1), range(12), 5)
    assert used[0] == [0, 0] and used[6] == list(BASE_RATES) == max(used) and used[-1] == [0, 0]
    assert used[33] == pytest.approx([rate / 2 for rate in BASE_RATES])


def test_plateau_waits_for_more_than_two_epochs_without_a_better_score():
    used = [pair[0] for pair in run(*build("plateau", 12), range(12), 1)]
    assert used[:5] == [0.1] * 5 and used[5:10] == pytest.approx([0.01] * 5)
    assert used[10:] == pytest.approx([0.001] * 3)


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_shortest_runs(name, num_updates):
    used = run(*build(name, num_updates), range(num_updates), 1)
    assert used[0] == list(BASE_RATES)


@pytest.mark.parametrize("num_epochs", [0, 1, 4, 8])
@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_state_is_plain_and_resumes_exactly(name, num_epochs, tmp_path):
    optimizer, schedule = build(name, 60)
    run(optimizer, schedule, range(num_epochs), 5)
    saved = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save(saved, tmp_path / "state.pt")
    expected = run(optimizer, schedule, range(num_epochs, 12), 5)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    optimizer, schedule = build(name, 60)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    assert run(optimizer, schedule, range(num_epochs, 12), 5) == expected
