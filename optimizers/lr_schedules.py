"""Learning-rate schedules.

A schedule offers `after_update()`, `after_epoch(score)`, `add_group(group, lr)` for a parameter
group that the optimizer receives later, and the state methods of PyTorch. All but `plateau` depend
on the number of updates alone; `plateau` depends on dev scores.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


class UpdateSchedule(LambdaLR):
    """A learning rate of base rate · factor(update), where update counts from 0.

    The arguments are those of LambdaLR: the optimizer, and the factor.
    """

    def after_update(self) -> None:
        """Set the learning rate of the next update."""
        self.step()

    def after_epoch(self, score: float) -> None:
        """Do nothing."""

    def add_group(self, group: dict[str, Any], lr: float) -> None:
        """Schedule a parameter group that the optimizer has just received.

        Args:
            group: the parameter group; its learning rate is set for the next update.
            lr: its base learning rate.
        """
        factor = self.lr_lambdas[0]
        self.base_lrs.append(lr)
        self.lr_lambdas.append(factor)
        group["initial_lr"] = lr
        group["lr"] = lr * factor(self.last_epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume at the saved update, with the rate that this schedule has there.

        It differs from the saved rate if the run has been given another number of epochs.
        """
        super().load_state_dict(state_dict)
        for group, base_lr, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas
        ):
            group["lr"] = base_lr * factor(self.last_epoch)


class PlateauSchedule(ReduceLROnPlateau):
    """A learning rate that falls when the dev score stalls.

    The arguments are those of ReduceLROnPlateau.
    """

    def after_update(self) -> None:
        """Do nothing."""

    def after_epoch(self, score: float) -> None:
        """Count the epoch's mean dev score, and lower the learning rate if it has stalled."""
        self.step(score)

    def add_group(self, group: dict[str, Any], lr: float) -> None:
        """Schedule a parameter group that the optimizer has just received.

        Args:
            group: the parameter group.
            lr: its learning rate until the score stalls again.
        """
        self.min_lrs.append(self.min_lrs[0])
        group["lr"] = lr


LRSchedule = UpdateSchedule | PlateauSchedule


def warmed_up(
    decay: Callable[[int, int, int], float],
    optimizer: Optimizer,
    num_updates: int,
    warmup_fraction: float,
    restarts: int,
) -> UpdateSchedule:
    """Return a schedule that rises linearly from 0 to the base rate and then decays.

    Args:
        decay: (updates since the warm-up, their number in the whole run, restarts) -> factor.
        optimizer: the optimizer.
        num_updates: updates of the whole run, with the warm-up.
        warmup_fraction: share of them that warm up, in [0, 1); 0 is off.
        restarts: passed to `decay`.
    """
    warmup_steps = int(warmup_fraction * num_updates)
    total = max(1, num_updates - warmup_steps)

    def factor(update: int) -> float:
        if update < warmup_steps:
            return update / warmup_steps
        return decay(update - warmup_steps, total, restarts)

    return UpdateSchedule(optimizer, factor)


def linear_decay(done: int, total: int, restarts: int) -> float:
    """Fall linearly from 1 to 0. There are no restarts."""
    return max(0.0, (total - done) / total)


def cosine_decay(done: int, total: int, restarts: int) -> float:
    """Fall from 1 to 0 along half a cosine, `restarts` + 1 times (arXiv:1608.03983)."""
    if done >= total:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (done / total * (restarts + 1) % 1)))


# Each takes the optimizer, the number of updates of the whole run, warmup_fraction and restarts.
LR_SCHEDULES: dict[str, Callable[[Optimizer, int, float, int], LRSchedule]] = {
    "linear_warmup": partial(warmed_up, linear_decay),
    "cosine": partial(warmed_up, cosine_decay),
    # A tenth of the learning rate after more than two epochs without a better dev score.
    "plateau": lambda optimizer, *unused: PlateauSchedule(
        optimizer, mode="max", factor=0.1, patience=2
    ),
    "none": lambda optimizer, *unused: UpdateSchedule(optimizer, lambda update: 1.0),
}
