"""Restore a run from its last.pt: every part is checked before it is used.

A wrong value would otherwise fail much later, or change the run silently. What a part can check
alone stands in its `load_state_dict`; here is what depends on the rest of the run.
"""

import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from optimizers import SophiaH
from optimizers.lr_schedules import PlateauSchedule
from runtime import checkpoint
from runtime.checkpoint import fitting
from runtime.errors import InputError
from runtime.generators import check_generator_state
from runtime.saved_values import check_keys, check_like, check_number, shown
from training import Progress, Training

# What of a learning-rate schedule changes during a run.
MOVING = {"last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs"}
ROUNDING = 1e-3  # of cosines in float32


def restore(training: Training, path: Path) -> None:
    """Continue where `Training.state_dict` was called, random numbers included.

    All workers call it together.

    Raises:
        InputError: the file cannot be read, or does not fit the run.
    """
    state = checkpoint.load(path)
    checkpoint.check_kind(path, state, "last.pt")
    checkpoint.check_run(path, state, training.fingerprint)
    try:
        with fitting("progress"):
            check_progress(state["progress"], training)
            check_unfrozen(state["num_unfrozen"], state["progress"]["epoch"], training)
        training.progress = Progress(**state["progress"])
        training.unfreeze(state["num_unfrozen"])  # the optimizer's groups, before their state
        for name, part in training.stateful_parts().items():
            with fitting(name):
                if is_needed(name, training) or name in state:
                    restore_part(name, part, state[name], training)
        with fitting("random"):
            checkpoint.check_random_states(state["random"])
            checkpoint.set_random_states(state["random"], training.device)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def is_needed(name: str, training: Training) -> bool:
    """Tell whether a run has to find a part: what was off has no state in earlier versions."""
    if name == "conflicts":
        return bool(training.conflicts.pairs)
    return bool(training.stateful_parts()[name].state_dict())


def restore_part(name: str, part: Any, given: Any, training: Training) -> None:
    """Check the saved state of a part, and load it.

    Raises:
        ValueError: it does not fit. A part may raise another error.
    """
    if name == "model":
        checkpoint.restore_weights(given, part)
        return
    if name == "optimizer":
        check_optimizer(given, part, training.progress.total_updates)
    elif name == "lr_schedule":
        check_lr_schedule(given, part, training.progress)
    elif name == "conflicts":
        check_keys(given, part.state_dict())
        check_cosines(given["cosines"], part.history(), training)
    else:
        given = from_earlier_version(given) if name == "smart" else given
        check_like(given, part.state_dict())
    if name == "task_scheduler" and given["turn"] not in (0, training.progress.total_updates):
        raise ValueError(f"turn is {given['turn']}, expected {training.progress.total_updates}")
    part.load_state_dict(given)


def from_earlier_version(given: Any) -> Any:
    """Return SMART's saved state in today's form, with a warning if it has another one.

    Earlier versions drew its noise from a generator.
    """
    if not isinstance(given, dict) or "generator" not in given or "num_rows" in given:
        return given
    warnings.warn(
        "saved by an earlier version, which drew SMART's noise in another way: the run continues "
        "with other noise than it would have had",
        stacklevel=2,
    )
    return {"num_rows": 0, **{key: value for key, value in given.items() if key != "generator"}}


def check_progress(given: Any, training: Training) -> None:
    """Check the counters of a run against each other and against its length."""
    check_keys(given, vars(Progress()))
    check_number(given["epoch"], 0, math.inf, "epoch")
    check_number(given["update"], 0, training.updates_per_epoch, "update")
    done = given["epoch"] * training.updates_per_epoch + given["update"]
    check_number(given["total_updates"], done, done, "total_updates")
    check_number(given["best_epoch"], 0, given["epoch"], "best_epoch")
    is_none = given["best_epoch"] == 0 and given["best_score"] == -math.inf
    if not is_none:
        check_number(given["best_epoch"], 1, given["epoch"], "best_epoch")
        check_number(given["best_score"], -1, 1, "best_score", float)
    check_like(given["seconds"], 0.0, "seconds")
    if (given["seconds"] > 0) != (given["update"] > 0) or given["seconds"] < 0:
        raise ValueError(f"seconds is {given['seconds']} after {given['update']} updates")
    check_sums(given, set(training.task_scheduler.names))


def check_sums(given: dict, names: set[str]) -> None:
    """Check the sums of the current epoch by task: losses, examples, updates."""
    for part in ("loss_sums", "examples", "updates"):
        if not isinstance(given[part], dict) or given[part].keys() - names:
            raise ValueError(f"{part} is {shown(given[part])}, expected a dict of trained tasks")
        if given[part].keys() != given["updates"].keys():
            raise ValueError(f"{part} and updates are of different tasks")
    if bool(given["updates"]) != (given["update"] > 0):
        raise ValueError(f"updates is {given['updates']} after {given['update']} updates")
    for name, count in given["updates"].items():
        check_number(count, 1, given["update"], f"updates.{name}")
        check_number(given["examples"][name], 1, math.inf, f"examples.{name}")
        check_like(given["loss_sums"][name], 0.0, f"loss_sums.{name}")


def check_unfrozen(given: Any, epoch: int, training: Training) -> None:
    """Check the number of layers unfrozen by now: those due, before or after an epoch starts."""
    interval = training.unfreeze_interval
    starts = (max(0, epoch - 1), epoch) if interval is not None else (0, 0)
    num_layers = training.model.encoder.config.num_hidden_layers
    low, high = (min(start // (interval or 1), num_layers) for start in starts)
    check_number(given, low, high, "num_unfrozen")


def check_optimizer(given: Any, optimizer: Optimizer, num_updates: int) -> None:
    """Check an optimizer's saved state against its parameters and the run's options."""
    own = optimizer.state_dict()
    check_keys(given, own)
    if len(given["param_groups"]) != len(own["param_groups"]):
        raise ValueError(f"expected {len(own['param_groups'])} parameter groups")
    for number, (group, own_group) in enumerate(zip(given["param_groups"], own["param_groups"])):
        check_group(group, own_group, f"param_groups.{number}")
    rest = [key for key in own if key not in ("state", "param_groups", "generator")]
    check_like({key: given[key] for key in rest}, {key: own[key] for key in rest})
    if "generator" in given:
        check_generator_state(given["generator"], own["generator"], "generator")
    if "num_updates" in given:
        check_number(given["num_updates"], num_updates, num_updates, "num_updates")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    fields = {"exp_avg", "hessian" if isinstance(optimizer, SophiaH) else "exp_avg_sq"}
    fields |= set() if isinstance(optimizer, SophiaH) else {"step"}
    if not isinstance(given["state"], dict) or not given["state"].keys() <= set(range(len(params))):
        raise ValueError(f"state is not of this run's {len(params)} parameters")
    for index, values in given["state"].items():
        check_keys(values, dict.fromkeys(fields), f"state.{index}")
        for field, value in values.items():
            check_moment(field, value, params[index], num_updates, f"state.{index}.{field}")


def check_group(given: Any, own: dict, where: str) -> None:
    """Check a parameter group: only its learning rate changes, and never above its base."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} is {shown(given)}, expected a dict")
    base = own.get("initial_lr", own["lr"])
    for key, value in own.items():  # torch adds further keys to some groups
        check_like(given[key], value, f"{where}.{key}")
        if key == "lr":
            check_number(float(given[key]), 0, base, f"{where}.{key}", float)
        elif given[key] != value:
            raise ValueError(f"{where}.{key} is {shown(given[key])}, expected {value}")


def check_moment(field: str, given: Any, p: Tensor, num_updates: int, where: str) -> None:
    """Check one tensor of a parameter's state; none of its numbers may lead to nan."""
    if field == "step":
        check_like(given, p.detach().new_zeros(()), where)
        check_number(given.item(), 1, num_updates, where, float)
        return
    check_like(given, p.detach(), where)
    if field == "exp_avg_sq" and (given < 0).any():
        raise ValueError(f"{where} holds negative numbers, expected mean squares")


def check_lr_schedule(given: Any, schedule: Any, progress: Progress) -> None:
    """Check a schedule's saved state: its place in the run, and that the rest is the run's own."""
    own = schedule.state_dict()
    check_keys(given, own)
    for key, value in own.items():
        if key == "_last_lr":  # has more entries than the run's own one where layers unfroze
            check_like(given[key], [0.0] * len(given[key]), key)
            continue
        check_like(given[key], value, key)
        if key not in MOVING and given[key] != value:
            raise ValueError(f"{key} is {shown(given[key])}, expected {shown(value)}")
    is_plateau = isinstance(schedule, PlateauSchedule)
    place = progress.epoch if is_plateau else progress.total_updates
    check_number(given["last_epoch"], place, place, "last_epoch")
    if is_plateau:
        check_number(given["num_bad_epochs"], 0, progress.epoch, "num_bad_epochs")
        if not (given["best"] == -math.inf or -1 <= given["best"] <= 1):
            raise ValueError(f"best is {given['best']}, expected a score in [-1, 1]")


def check_cosines(given: Any, own: Tensor, training: Training) -> None:
    """Check the logged cosines [U, 1 + G, pairs]; nan stands for a pair without a cosine."""
    num_updates = training.progress.total_updates if training.conflicts.pairs else 0
    if not isinstance(given, Tensor):
        raise ValueError(f"cosines is {shown(given)}, expected a tensor")
    check_like(
        given.nan_to_num(0.0, math.inf, -math.inf),
        own.new_zeros(num_updates, *own.shape[1:]),
        "cosines",
    )
    if (given.abs() > 1 + ROUNDING).any():
        raise ValueError("cosines holds numbers outside [-1, 1]")
