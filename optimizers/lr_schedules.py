"""Learning-rate schedules. Each counts updates; `plateau` alone looks at dev scores.

A schedule has `after_update()`, `after_epoch(score)`, `add_group(group, lr)` for a parameter group
that the optimizer takes later, and a state; a builder takes the optimizer,
the number of updates of the whole run, and the options it reads.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


class UpdateSchedule(LambdaLR):
    """The base learning rate times `factor(update)`, update = 0, 1, …"""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        super().__init__(optimizer, factor)

    def after_update(self) -> None:
        self.step()

    def after_epoch(self, score: float) -> None:
        pass

    def add_group(self, group: dict, lr: float) -> None:
        """lr: its base learning rate."""
        factor = self.lr_lambdas[0]
        self.base_lrs.append(lr)
        self.lr_lambdas.append(factor)
        group["initial_lr"] = lr
        group["lr"] = lr * factor(self.last_epoch)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where the state was, at this schedule's rate there: epochs may have changed."""
        super().load_state_dict(state_dict)
        for group, base_lr, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas
        ):
            group["lr"] = base_lr * factor(self.last_epoch)


class PlateauSchedule(ReduceLROnPlateau):
    """A tenth of the learning rate after more than two epochs without a better dev score."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer, mode="max", factor=0.1, patience=2)

    def after_update(self) -> None:
        pass

    def after_epoch(self, score: float) -> None:
        self.step(score)

    def add_group(self, group: dict, lr: float) -> None:
        """lr: its learning rate; what later stalls take a tenth of."""
        self.min_lrs.append(self.min_lrs[0])
        group["lr"] = lr


def warmed_up(
    optimizer: Optimizer,
    num_updates: int,
    warmup_fraction: float,
    decay: Callable[[int, int], float],
) -> UpdateSchedule:
    """Linear from 0 over the first `warmup_fraction` of all updates, then decay(done, total).

    done, total: updates after the warm-up, so far and in all.
    """
    warmup_steps = int(warmup_fraction * num_updates)
    total = max(1, num_updates - warmup_steps)

    def factor(update: int) -> float:
        if update < warmup_steps:
            return update / warmup_steps
        return decay(update - warmup_steps, total)

    return UpdateSchedule(optimizer, factor)


def linear_warmup(
    optimizer: Optimizer, num_updates: int, warmup_fraction: float, restarts: int
) -> UpdateSchedule:
    """Warm-up, then linear to 0."""

    def decay(done: int, total: int) -> float:
        return max(0.0, (total - done) / total)

    return warmed_up(optimizer, num_updates, warmup_fraction, decay)


def cosine(
    optimizer: Optimizer, num_updates: int, warmup_fraction: float, restarts: int
) -> UpdateSchedule:
    """Warm-up, then a half cosine to 0, `restarts` times anew (arXiv:1608.03983)."""

    def decay(done: int, total: int) -> float:
        if done >= total:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * (done / total * (restarts + 1) % 1)))

    return warmed_up(optimizer, num_updates, warmup_fraction, decay)


def plateau(
    optimizer: Optimizer, num_updates: int, warmup_fraction: float, restarts: int
) -> PlateauSchedule:
    """Constant until the mean dev score stalls; no warm-up."""
    return PlateauSchedule(optimizer)


def constant(
    optimizer: Optimizer, num_updates: int, warmup_fraction: float, restarts: int
) -> UpdateSchedule:
    """The base learning rate throughout."""
    return UpdateSchedule(optimizer, lambda update: 1.0)


LR_SCHEDULES = {
    "linear_warmup": linear_warmup,
    "cosine": cosine,
    "plateau": plateau,
    "none": constant,
}
