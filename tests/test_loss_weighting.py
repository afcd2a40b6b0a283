"""Weights of losses and gradients in whole runs: optimizer, log, FAMO's second pass."""

import pytest
import torch

from datasets import load_data
from engine import train_step
from models import build_model
from optimizers import LOSS_WEIGHTINGS
from options.parsing import parse_args
from options.task_table import built_in_tasks
from reporting.start import open_run
from runtime import checkpoint
from train_multitask_pal import get_args_parser
from training import Training, build_training

TASKS = built_in_tasks()

SMALL = "--num_batches_per_epoch 4 --batch_size 4 --epochs 3 --dev_samples 4"
SMALL += " --no_test_predictions"
METHODS = [name for name in LOSS_WEIGHTINGS if name != "none"]
LEARNED = ("uncertainty", "imtl_l", "gradnorm")


@pytest.fixture
def build(tiny_model, few_rows, tmp_path):
    """build(flags) -> the training of a run on the tiny encoder, ready for its first update."""

    def make(flags: str) -> Training:
        flags = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} {flags}"
        args = parse_args(get_args_parser(), f"{SMALL} --task_scheduler joint {flags}".split())
        with open_run(args) as start:
            data = load_data(start.args, start.tokenizer, start.config.pad_token_id)
            model = build_model(start.args, start.build_encoder())
            training = build_training(start.args, model, data["train"])
        training.start_epoch()
        return training

    return make


def make_updates(training: Training, count: int) -> None:
    for _ in range(count):
        update = training.task_scheduler.next_update()
        losses, _ = train_step(training, update, "a test")
        training.progress.count(update, losses)
        training.after_update()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_learned_has_its_own_rate_and_no_decay(build, name):
    training = build(f"--loss_weighting {name} --weight_decay 0.1 --scheduler none")
    groups = training.optimizer.param_groups
    if name not in LEARNED:
        assert len(groups) == 2
        return
    assert [p for p in groups[2]["params"]] == training.loss_weighting.parameters
    assert (groups[2]["lr"], groups[2]["weight_decay"]) == (0.025, 0.0)
    assert training.learning_rate == groups[0]["lr"] == 2e-4
    own = build(f"--loss_weighting {name} --loss_weighting_lr 0.5 --scheduler none")
    assert own.optimizer.param_groups[2]["lr"] == 0.5
    before = torch.stack([p.detach().clone() for p in training.loss_weighting.parameters])
    make_updates(training, 2)
    after = torch.stack([p.detach() for p in training.loss_weighting.parameters])
    assert (before != after).all()


def test_a_layer_is_unfrozen_beside_a_weighting(build):
    flags = "--option pretrain --unfreeze_interval 1 --loss_weighting uncertainty"
    training = build(flags)
    training.unfreeze(1)
    make_updates(training, 2)
    assert [group["lr"] > 0 for group in training.optimizer.param_groups] == [True] * 5


@pytest.mark.parametrize("name", METHODS)
def test_weights_multiply_gradients_and_not_reported_losses(build, name):
    """The gradients of heads and, without a projection, of the encoder are those of weights · ℓ."""
    plain = build("--hidden_dropout_prob 0 --clip 0 --log_conflicts")
    weighted = build(f"--hidden_dropout_prob 0 --clip 0 --loss_weighting {name}")
    update = plain.task_scheduler.next_update()
    losses, _ = train_step(plain, update, "")
    found, norm = train_step(weighted, weighted.task_scheduler.next_update(), "")
    assert found == pytest.approx(losses, rel=1e-5)
    own = [p.grad.norm() for p in weighted.model.parameters() if p.grad is not None]
    assert norm == pytest.approx(float(torch.stack(own).norm()), rel=1e-5)
    weights = weighted.loss_weighting.weights
    assert weighted.loss_weighting.logged == pytest.approx(dict(zip(TASKS, weights.tolist())))
    expected = sum(weight * row for weight, row in zip(weights, rows_of(build, update)))  # [P]
    shared = torch.cat([p.grad.flatten() for p in weighted.model.shared_parameters()])
    assert (shared - expected).norm() <= 1e-4 * expected.norm()
    for task, weight in zip(TASKS.values(), weights):
        for one, other in zip(*(t.model.task_parameters(task) for t in (plain, weighted))):
            torch.testing.assert_close(other.grad, weight * one.grad, rtol=1e-4, atol=1e-6)


def rows_of(build, update) -> list[torch.Tensor]:
    """Every task's gradient of the shared parameters, by autograd alone."""
    model = build("--hidden_dropout_prob 0").model
    shared = model.shared_parameters()
    rows = []
    for task, batch, _ in update:
        loss = task.loss(model(task, batch), batch["labels"])
        grads = torch.autograd.grad(loss, shared)
        rows.append(torch.cat([g.to_dense().flatten() for g in grads]))
    return rows


def test_famo_measures_the_effect_of_the_update_alone(build, monkeypatch):
    """Without a step, the second pass finds the same losses: same batches, same dropout masks.

    The passes that follow have the masks that they would have without it.
    """
    training = build("--loss_weighting famo --hidden_dropout_prob 0.3 --micro_batch_size 3")
    famo = training.loss_weighting
    measured = []
    monkeypatch.setattr(famo, "move", measured.append)
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    train_step(training, training.task_scheduler.next_update(), "")
    torch.rand(3)  # whatever draws from the default generator in the meantime
    random = torch.get_rng_state()
    losses = famo.losses.clone()
    famo.after_step()
    torch.testing.assert_close(measured[0], losses, rtol=1e-6, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    monkeypatch.undo()
    monkeypatch.setattr(famo, "move", measured.append)
    train_step(training, training.task_scheduler.next_update(), "")
    losses = famo.losses.clone()
    training.optimizer.param_groups[0]["lr"] = 1e-3
    training.optimizer.step()
    famo.after_step()
    assert ((measured[1] - losses).abs() > 1e-5).all()


def test_the_loop_calls_what_follows_the_step(build):
    """GradNorm rescales its weights, and FAMO moves its logits, once in every update."""
    gradnorm, famo = (build(f"--loss_weighting {name}") for name in ("gradnorm", "famo"))
    for training in (gradnorm, famo):
        make_updates(training, 3)
    assert gradnorm.loss_weighting.values().sum() == pytest.approx(len(TASKS), abs=1e-5)
    assert famo.loss_weighting.num_steps == 3


def test_dwa_weighs_from_the_third_epoch_on(build):
    training = build("--loss_weighting dwa")
    weights = []
    for _ in range(3):
        make_updates(training, 4)
        weights.append(list(training.loss_weighting.logged.values()))
        training.progress.seconds = 1.0
        training.finish_epoch({name: {task.metric_name: 0.5} for name, task in TASKS.items()})
    assert weights[0] == weights[1] == [1.0] * len(TASKS)
    assert sum(weights[2]) == pytest.approx(len(TASKS)) and weights[2] != weights[0]


def test_famo_prefers_the_task_that_an_update_has_helped_least(build):
    training = build("--loss_weighting famo")
    famo = training.loss_weighting
    famo.losses = torch.tensor([1.0, 1.0, 1.0])
    for _ in range(5):
        famo.move(torch.tensor([0.5, 0.9, 1.1]))
    logits = famo.logits.tolist()
    assert logits[0] < logits[1] < logits[2]


@pytest.mark.parametrize(
    "flags, tag, page",
    [
        pytest.param("--loss_weighting uncertainty", "loss", "losses", marks=pytest.mark.slow),
        ("--loss_weighting famo", "loss", "losses"),
        ("--projection vaccine", "gradient", "gradients"),
    ],
)
def test_the_weights_of_every_update_are_in_tensorboard(train, flags, tag, page):
    run = train("train_multitask_pal.py", *f"{SMALL} --task_scheduler joint {flags}".split())
    events = read_events(run)
    for task in TASKS:
        scalars = events.Scalars(f"{tag}_weight/{task}")
        assert [event.step for event in scalars] == list(range(1, 13))  # three epochs of four
        assert len({event.value for event in scalars}) > 1
    layout = layout_of(events)
    assert f"weights of the {page}" in layout and f"{tag}_weight/sst" in layout
    if tag == "loss":
        state = checkpoint.load(run / "checkpoints" / "last.pt")["loss_weighting"]
        assert state and not any(value is None for value in state.values())


@pytest.mark.parametrize("flags", ["", "--log_conflicts"])
def test_a_plain_sum_has_no_weights_to_show(train, flags):
    run = train("train_multitask_pal.py", *f"{SMALL} --task_scheduler joint {flags}".split())
    events = read_events(run)
    assert not [tag for tag in events.Tags()["scalars"] if "_weight/" in tag]
    assert "weights of the" not in layout_of(events)
    assert checkpoint.load(run / "checkpoints" / "last.pt")["loss_weighting"] == {}


def read_events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def layout_of(events) -> str:
    """Return the serialized layout of Custom Scalars as text."""
    data = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    return data.decode("utf-8", errors="ignore")


@pytest.mark.parametrize("name", ["gradnorm", "famo"])
def test_task_gradients_for_a_weighting_alone_log_no_conflicts(build, name):
    training = build(f"--loss_weighting {name}")
    make_updates(training, 2)
    assert training.conflicts.pairs == [] and training.conflicts.cosines == []
