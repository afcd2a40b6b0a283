"""Every wrong value in a last.pt is one line that names the file and the part."""

import copy
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from saved_state import assert_same

import train_multitask
import train_multitask_pal
from datasets import load_data
from engine import train_step
from models import build_model
from options.parsing import parse_args
from reporting.start import open_run
from restoring import restore
from runtime import checkpoint
from training import Training, build_training

SIZES = "--num_batches_per_epoch 3 --batch_size 4 --micro_batch_size 2 --epochs 3 --no_tensorboard"
SMART = "--projection vaccine --use_smart_regularization --smart_mu 1 --task_scheduler round_robin"
FLAGS = {
    "smart": (train_multitask_pal, SMART),
    "sophia": (
        train_multitask,
        "--option pretrain --unfreeze_interval 1 --optimizer sophiah --scheduler plateau "
        "--average_weights .9 --layer_decay .5",
    ),
}


class Run(NamedTuple):
    training: Training
    state: dict[str, Any]  # after the second update of the second epoch


def build(entry, flags: str, model: Path, data: Path) -> Training:
    flags = f"--model_name {model} --data_dir {data} {SIZES} {flags}"
    args = parse_args(entry.get_args_parser(), flags.split())
    with open_run(args) as start:
        rows = load_data(args, start.tokenizer, start.config.pad_token_id)
        return build_training(args, build_model(args, start.build_encoder()), rows["train"])


def make_updates(training: Training, count: int) -> None:
    training.start_epoch()
    for _ in range(count):
        update = training.task_scheduler.next_update()
        losses, _ = train_step(training, update, "a test")
        training.progress.count(update, losses)
        training.progress.seconds += 1.0
        training.after_update()


@pytest.fixture(scope="module")
def runs(tiny_model, few_rows) -> dict[str, Run]:
    """The runs of FLAGS, five updates long."""
    made = {}
    for name, (entry, flags) in FLAGS.items():
        training = build(entry, flags, tiny_model, few_rows)
        make_updates(training, 3)
        training.progress.finish_epoch(0.5)
        training.lr_schedule.after_epoch(0.5)
        make_updates(training, 2)
        state = copy.deepcopy(training.state_dict())
        made[name] = Run(build(entry, flags, tiny_model, few_rows), state)
    return made


def changed(state: dict, place: str, value: object) -> dict:
    """Return a copy of a state with one value replaced, or removed if `value` is KeyError."""
    state = copy.deepcopy(state)
    *path, last = [int(part) if part.isdigit() else part for part in place.split("/")]
    part: Any = state
    for key in path:
        part = part[key]
    if value is KeyError:
        del part[last]
    else:
        part[last] = value(part.get(last)) if callable(value) else value
    return state


def with_first(number: float):
    """Return a function that replaces the first number of a tensor."""

    def replace(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = number
        return tensor

    return replace


WEIGHT = "encoder.embeddings.word_embeddings.weight"
SAMPLER = "task_scheduler/samplers/sst"
CASES = [  # the run, what is wrong in its state, the value there, what the message says
    ("smart", "progress", KeyError, "holds neither a best.pt nor a last.pt"),
    ("smart", "progress", [], "progress: it is a list, expected a dict"),
    ("smart", "progress/epoch", KeyError, "progress: epoch is missing"),
    ("smart", "progress/more", 1, "progress: more is not part of this run"),
    ("smart", "progress/epoch", -1, "progress: epoch is -1"),
    ("smart", "progress/epoch", True, "progress: epoch is True"),
    ("smart", "progress/epoch", 2, "progress: total_updates is 5, expected int in [8, 8]"),
    ("smart", "progress/update", 4, "progress: update is 4, expected int in [0, 3]"),
    ("smart", "progress/total_updates", "5", "progress: total_updates is '5'"),
    ("smart", "progress/best_epoch", 2, "progress: best_epoch is 2"),
    ("smart", "progress/best_score", math.nan, "progress: best_score is nan"),
    ("smart", "progress/best_score", 7.0, "progress: best_score is 7.0"),
    ("smart", "progress/best_score", None, "progress: best_score is None"),
    ("smart", "progress/seconds", 0.0, "progress: seconds is 0.0 after 2 updates"),
    ("smart", "progress/seconds", math.inf, "progress: seconds is inf"),
    ("smart", "progress/loss_sums/sst", math.nan, "progress: loss_sums.sst is nan"),
    ("smart", "progress/loss_sums/sst", KeyError, "loss_sums and updates are of different"),
    ("smart", "progress/examples/none", 1, "progress: examples is a dict, expected a dict of tr"),
    ("smart", "progress/examples/sst", 0, "progress: examples.sst is 0"),
    ("smart", "progress/updates/sst", 3, "progress: updates.sst is 3"),
    ("smart", "progress/updates", {}, "loss_sums and updates are of different tasks"),
    ("smart", "num_unfrozen", 1, "num_unfrozen is 1, expected int in [0, 0]"),
    ("sophia", "num_unfrozen", 2, "num_unfrozen is 2, expected int in [0, 1]"),
    ("smart", f"model/{WEIGHT}", KeyError, f"1 weights do not fit this model, '{WEIGHT}'"),
    ("smart", f"model/{WEIGHT}", with_first(math.nan), "holds non-finite weights"),
    ("smart", "task_scheduler", KeyError, "task_scheduler: 'task_scheduler' is missing"),
    ("smart", "task_scheduler/turn", -1, "task_scheduler: turn is -1"),
    ("smart", "task_scheduler/turn", 3, "task_scheduler: turn is 3"),
    ("smart", f"{SAMPLER}/position", 99, "task_scheduler: position is 99, expected int in [0, 5]"),
    ("smart", f"{SAMPLER}/position", -1, "task_scheduler: position is -1"),
    ("smart", f"{SAMPLER}/num_rows", 9, "has 20 rows now, 9 when the run was saved"),
    ("smart", f"{SAMPLER}/walk_state", torch.zeros(3), "samplers.sst.walk_state is (3,)"),
    ("smart", SAMPLER, KeyError, "samplers.sst is missing"),
    ("smart", "projection", KeyError, "projection: 'projection' is missing"),
    ("smart", "projection/target", with_first(1.5), "projection: target holds numbers outside"),
    ("smart", "projection/target", with_first(math.nan), "target holds non-finite numbers"),
    ("smart", "projection/generator", torch.zeros(5056).byte(), "projection: "),
    ("smart", "conflicts/cosines", lambda x: x[:2].clone(), "cosines is (2, "),
    ("smart", "conflicts/cosines", with_first(9), "conflicts: cosines holds numbers outside"),
    ("smart", "conflicts/cosines", with_first(math.inf), "cosines holds non-finite numbers"),
    ("smart", "conflicts/cosines", [], "conflicts: cosines is a list"),
    ("smart", "smart/average", {}, f"smart: average.{WEIGHT} is missing"),
    ("smart", f"smart/average/{WEIGHT}", with_first(math.nan), "holds non-finite numbers"),
    ("smart", "optimizer", [], "optimizer: it is a list"),
    ("smart", "optimizer/param_groups", lambda groups: groups[:1], "expected 2 parameter groups"),
    ("smart", "optimizer/param_groups/0/lr", 1e9, "param_groups.0.lr is 1000000000.0"),
    ("smart", "optimizer/param_groups/0/lr", "x", "param_groups.0.lr is 'x'"),
    ("smart", "optimizer/param_groups/0/initial_lr", -1.0, "param_groups.0.initial_lr is -1.0"),
    ("smart", "optimizer/param_groups/0", [], "param_groups.0 is a list, expected a dict"),
    ("smart", "conflicts", {}, "conflicts: cosines is missing"),
    ("smart", "optimizer/param_groups/0/eps", 1.0, "param_groups.0.eps is 1.0, expected"),
    ("smart", "optimizer/param_groups/0/params", [0], "param_groups.0.params has 1 entries"),
    ("smart", "optimizer/state/0/exp_avg", torch.zeros(2), "state.0.exp_avg is (2,)"),
    ("smart", "optimizer/state/0/exp_avg", with_first(math.inf), "exp_avg holds non-finite"),
    ("smart", "optimizer/state/0/exp_avg_sq", with_first(-1), "exp_avg_sq holds negative"),
    ("smart", "optimizer/state/0/exp_avg_sq", KeyError, "state.0.exp_avg_sq is missing"),
    ("smart", "optimizer/state/0/step", torch.tensor(0.0), "state.0.step is 0.0"),
    ("smart", "optimizer/state/0/step", torch.tensor(6.0), "state.0.step is 6.0"),
    ("smart", "optimizer/state/999", {}, "state is not of this run's"),
    ("smart", "lr_schedule", {}, "lr_schedule: base_lrs is missing"),
    ("smart", "lr_schedule/step", 1, "lr_schedule: step is not part of this run"),
    ("smart", "lr_schedule/last_epoch", 4, "last_epoch is 4, expected int in [5, 5]"),
    ("smart", "lr_schedule/base_lrs", [1.0, 1.0], "lr_schedule: base_lrs is a list"),
    ("smart", "lr_schedule/_last_lr", ["x"], "lr_schedule: _last_lr.0 is 'x'"),
    ("sophia", "optimizer/num_updates", 4, "num_updates is 4, expected int in [5, 5]"),
    ("sophia", "optimizer/generator", 1, "optimizer: generator is 1, expected the state of"),
    ("sophia", "optimizer/generator", torch.zeros(17).byte(), "expected the state of a generator"),
    ("sophia", "optimizer/generator", torch.zeros(16), "expected the state of a generator"),
    ("sophia", "average", KeyError, "average: 'average' is missing"),
    ("sophia", "average/heads.sst.output.bias", KeyError, "average: heads.sst.output.bias is mi"),
    ("sophia", "average/heads.sst.output.bias", with_first(math.nan), "holds non-finite numbers"),
    ("sophia", "average/heads.sst.output.bias", torch.zeros(2), "average: heads.sst.output.bias"),
    ("smart", "smart/num_rows", -1, "num_rows is -1"),
    ("smart", "smart/num_rows", KeyError, "smart: num_rows is missing"),
    ("sophia", "optimizer/param_groups/2/lr", 1.0, "param_groups.2.lr is 1.0"),
    ("sophia", "lr_schedule/best", math.nan, "lr_schedule: best is nan"),
    ("sophia", "lr_schedule/best", 3.0, "lr_schedule: best is 3.0"),
    ("sophia", "lr_schedule/num_bad_epochs", 9, "num_bad_epochs is 9"),
    ("sophia", "lr_schedule/factor", 2.0, "lr_schedule: factor is 2.0, expected 0.1"),
    ("smart", "random", KeyError, "random: 'random' is missing"),
    ("smart", "random", [{}], "random: 'cuda' is missing"),
    ("smart", "random/0/numpy/2", 625, "random: numpy.2 is 625"),
]


def name_of(value: object) -> str:
    """Return a case's part as pytest shall print it: the same in every process."""
    return "changed" if callable(value) else str(value)[:40]


@pytest.mark.parametrize("run, place, value, message", CASES, ids=name_of)
def test_a_wrong_value_is_one_line(runs, tmp_path, one_line, run, place, value, message):
    training, state = runs[run]
    path = tmp_path / "last.pt"
    checkpoint.save(path, changed(state, place, value))
    found = one_line(restore, training, path)
    assert found.startswith(f"{path}: ") and message in found, found


@pytest.mark.parametrize("name", FLAGS)
def test_what_fits_is_restored_to_the_bit(runs, tmp_path, tiny_model, few_rows, name):
    entry, flags = FLAGS[name]
    training = build(entry, flags, tiny_model, few_rows)
    checkpoint.save(tmp_path / "last.pt", runs[name].state)
    restore(training, tmp_path / "last.pt")
    assert_same(training.state_dict(), runs[name].state)


def test_what_was_off_may_be_missing(tmp_path, tiny_model, few_rows):
    """Earlier versions wrote no state of it."""
    training = build(train_multitask, "", tiny_model, few_rows)
    state = training.state_dict()
    for name in ("projection", "conflicts", "smart", "average"):
        del state[name]
    checkpoint.save(tmp_path / "last.pt", state)
    restore(training, tmp_path / "last.pt")


def test_smart_of_an_earlier_version_is_restored_with_other_noise(runs, tmp_path):
    """It drew its noise from a generator."""
    training, state = runs["smart"]
    state = changed(state, "smart/generator", torch.Generator().get_state())
    state = changed(state, "smart/num_rows", KeyError)
    checkpoint.save(tmp_path / "last.pt", state)
    with pytest.warns(UserWarning, match="an earlier version, which drew SMART's noise in another"):
        restore(training, tmp_path / "last.pt")
    assert training.regularizer.num_rows == 0
    assert_same(training.regularizer.average, state["smart"]["average"])


def test_sophia_of_another_kind_of_device_is_restored_with_another_u(runs, tmp_path):
    """A GPU's generator has 16 bytes. Every worker continues with the same numbers."""
    training, state = runs["sophia"]
    state = changed(state, "optimizer/generator", torch.arange(16).byte())
    checkpoint.save(tmp_path / "last.pt", state)
    found = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="another u of SophiaH than it would have had"):
            restore(training, tmp_path / "last.pt")
        found.append(torch.rand(4, generator=training.optimizer.generator))
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.rand(4, generator=torch.Generator().manual_seed(0)))


def test_a_best_checkpoint_does_not_resume(runs, tmp_path, one_line):
    training = runs["smart"].training
    checkpoint.save(tmp_path / "last.pt", training.best_state())
    message = one_line(restore, training, tmp_path / "last.pt")
    assert re.search("is a best.pt of a run, expected a last.pt; a run resumes from", message)
