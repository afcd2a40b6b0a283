"""All combinations of techniques: train a tiny encoder for a few updates, and check what moved."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch

import train_multitask
from models.pretrained import load_pretrained
from optimizers.task_gradients import TaskGradients
from options.parsing import parse_args
from options.task_table import built_in_tasks
from runtime import checkpoint
from task_schedulers import TASK_SCHEDULERS
from train_multitask_pal import get_args_parser

TASKS = built_in_tasks()

SMALL = "--num_batches_per_epoch 4 --batch_size 2 --epochs 1 --dev_samples 4 --no_tensorboard "
SMALL += "--no_test_predictions --scheduler none "
SAMPLED = ("random", "pal", "temperature")
# Parameters that need not move: the gradient of key biases is zero in theory, and nothing reads the
# pooler.
EXEMPT = ("key.bias", "pooler.")


@pytest.fixture
def run_pal(tiny_model, few_rows, tmp_path):
    """Run train_multitask_pal.py in this process; returns its options and last checkpoint."""

    def run(flags: str):
        defaults = f"--model_name {tiny_model} --data_dir {few_rows} --logdir {tmp_path} "
        args = parse_args(get_args_parser(), (defaults + SMALL + flags).split())
        train_multitask.main(args)
        return args, checkpoint.load(Path(args.filepath) / "last.pt")

    return run


def combinations() -> list[str]:
    """Return one line of flags per combination of task scheduler, projection and strategy."""
    result: list[str] = []
    for scheduler, projection in product(TASK_SCHEDULERS, ("none", "pcgrad", "vaccine")):
        flags = f"--task_scheduler {scheduler} --projection {projection}"
        if projection != "none" and scheduler in TASKS:
            continue  # a usage error, see options/legal.py
        if projection == "none" or scheduler not in SAMPLED:
            result.append(flags)
        else:
            strategies = [f"--combine_strategy {s}" for s in ("force", "encourage")]
            result += [f"{flags} --batches_per_update 5 {strategy}" for strategy in strategies]
    return result


FAST = (
    "--task_scheduler temperature --projection pcgrad --batches_per_update 5 "
    "--combine_strategy force",
    "--task_scheduler joint --projection none",
    "--task_scheduler pal --projection vaccine --batches_per_update 5 --combine_strategy force",
)


def some_fast(lines: list[str]) -> list:
    """Mark all lines slow but those of FAST."""
    assert set(FAST) <= set(lines)
    return [line if line in FAST else pytest.param(line, marks=pytest.mark.slow) for line in lines]


@pytest.mark.parametrize("flags", some_fast(combinations()))
@pytest.mark.parametrize("optimizer", ["adamw", "sophiah --hess_interval 2"])
def test_every_combination_trains_what_it_should(flags, optimizer, run_pal, tiny_model, capsys):
    """Each test runs four times: without and with SMART, without and with PALs.

    tests/test_composition_matrix.py trains the same values, in pairs, without a whole run.
    """
    before = load_pretrained(str(tiny_model)).state_dict()
    for smart, pals in product(("", "--use_smart_regularization --smart_mu 1"), ("", "--use_pal")):
        extra = f"{smart} {pals}"
        args, state = run_pal(f"{flags} --optimizer {optimizer} {extra} --lr 1e-3")
        after = state["model"]
        assert all(tensor.isfinite().all() for tensor in after.values())
        for name, tensor in before.items():
            moved = not torch.equal(after[f"encoder.{name}"], tensor)
            assert moved or any(part in name for part in EXEMPT), name
        trained = {name for name, count in state_updates(args).items() if count}
        expected = {args.task_scheduler} if args.task_scheduler in TASKS else set(TASKS)
        assert trained <= expected and (trained == expected or args.task_scheduler in SAMPLED)


@pytest.mark.parametrize(
    "technique",
    [
        "",
        "--use_pal",
        "--optimizer sophiah --extension cnn",
        "--use_smart_regularization",
        "--use_smart_regularization --smart_radius .5 --pair_encoding bi",
    ],
)
def test_uneven_micro_batches_give_the_same_gradients(technique, run_pal, monkeypatch):
    """Compare all gradients of 8 examples: as one batch, as 3 + 3 + 2, and as 5 + 3."""
    seen = []
    combine = TaskGradients.combine

    def recording(self, measured, clip):
        seen.append(self.J.clone())
        return combine(self, measured, clip)

    monkeypatch.setattr(TaskGradients, "combine", recording)
    flags = f"--projection pcgrad --batch_size 8 --num_batches_per_epoch 1 {technique} "
    flags += "--hidden_dropout_prob 0 "
    states = [run_pal(flags)[1]]
    states += [run_pal(f"{flags} --micro_batch_size {size}")[1] for size in (3, 5)]
    for J in seen[1:]:
        assert (J - seen[0]).norm() <= 1e-6 * seen[0].norm()
    for key in ("exp_avg", "hessian") if "sophiah" in technique else ("exp_avg",):
        first, *others = [
            moments(state, key) for state in states
        ]  # after one update, this is the scaled gradient
        for other in others:
            assert (other - first).norm() <= 1e-6 * first.norm()


def moments(state, key: str) -> torch.Tensor:
    values = state["optimizer"]["state"].values()
    return torch.cat([value[key].flatten() for value in values])


def state_updates(args) -> dict[str, int]:
    [line] = (Path(args.run_dir) / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)["updates"]


def test_a_frozen_encoder_moves_its_layer_norms_under_pals_and_nothing_else(run_pal, tiny_model):
    before = load_pretrained(str(tiny_model)).state_dict()
    args, state = run_pal("--option pretrain --use_pal --projection pcgrad --lr 1e-3")
    for name, tensor in before.items():
        moved = not torch.equal(state["model"][f"encoder.{name}"], tensor)
        assert moved == ("LayerNorm" in name), name
    pals = [name for name in state["model"] if name.startswith("pals.")]
    assert any(state["model"][name].any() for name in pals if name.endswith("decode.weight"))


@pytest.mark.parametrize("projection", ["pcgrad", "vaccine"])
def test_conflicts_are_logged_drawn_and_counted(run_pal, projection, capsys):
    args, state = run_pal(f"--projection {projection}")
    cosines = state["conflicts"]["cosines"]
    assert cosines.shape == (
        4,
        1 + 3,
        3,
    )  # updates; whole model, embeddings, two layers; pairs of tasks
    assert ((cosines.abs() <= 1.0001) | cosines.isnan()).all()
    figure = Path(args.run_dir) / "conflicts.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "updates whose task gradients conflict: sst-para" in capsys.readouterr().out


def test_log_conflicts_changes_nothing_but_the_log(run_pal):
    _, plain = run_pal("--task_scheduler joint --run_name plain")
    _, logged = run_pal("--task_scheduler joint --log_conflicts --run_name logged")
    for name, tensor in plain["model"].items():
        # A key bias's gradient is rounding alone, which AdamW enlarges to at most lr per update.
        atol = 1e-3 if name.endswith("key.bias") else 1e-6
        torch.testing.assert_close(logged["model"][name], tensor, atol=atol, rtol=1e-5)


def test_a_task_scheduler_of_one_task_evaluates_all_and_selects_on_it(run_pal):
    args, state = run_pal("--task_scheduler sts")
    [line] = (Path(args.run_dir) / "metrics.jsonl").read_text().splitlines()
    line = json.loads(line)
    assert set(line["dev"]) == set(TASKS) and set(line["updates"]) == {"sts"}
    assert line["mean"] == (line["dev"]["sts"]["pearson"] or 0.0)


def test_the_original_command_runs_and_does_what_each_flag_says(run_pal, tiny_model):
    flags = "--option finetune --local_files_only --smoketest --no_tensorboard "
    flags += "--no_train_classifier --use_smart_regularization --use_pal --use_amp"
    args, state = run_pal(flags)
    assert args.use_amp and args.use_pal and not args.train_classifier and not args.write_summary
    assert "smart" in state and any(name.startswith("pals.") for name in state["model"])
    assert not (Path(args.run_dir) / "tensorboard").exists()
