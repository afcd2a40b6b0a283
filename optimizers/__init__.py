"""The registries of optimizers, projections and learning-rate schedules, and their builders."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from models import MultitaskBert
from optimizers.aggregators import AGGREGATORS, Aggregator
from optimizers.conflicts import ConflictLog
from optimizers.lr_schedules import LR_SCHEDULES, LRSchedule
from optimizers.projections import GradVac, Groups, PCGrad, PlainSum, Projection
from optimizers.smart import PlainForward, Smart
from optimizers.sophia import NoCurvature, SophiaH
from optimizers.task_gradients import SummedGradients, TaskGradients

__all__ = [
    "LR_SCHEDULES",
    "OPTIMIZERS",
    "PROJECTIONS",
    "GradVac",
    "PCGrad",
    "Smart",
    "SophiaH",
    "build_lr_schedule",
    "build_optimizer",
    "build_projection",
    "build_regularizer",
    "curvature_of",
    "default_lr",
    "train_also",
]


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Split trainable parameters into matrices, which decay, and biases and LayerNorms.

    Args:
        parameters: parameters; frozen ones are skipped.
        weight_decay: the weight decay of the matrices. The other group has none.
    """
    trainable = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_adamw(args: Namespace, model: nn.Module) -> Optimizer:
    """Build PyTorch's fused AdamW (Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101)."""
    return AdamW(parameter_groups(model.parameters(), args.weight_decay), lr=args.lr, fused=True)


def build_sophiah(args: Namespace, model: nn.Module) -> Optimizer:
    """Build SophiaH (Liu et al., ICLR 2024, arXiv:2305.14342); --rho is the paper's γ."""
    groups = parameter_groups(model.parameters(), args.weight_decay)
    optimizer = SophiaH(groups, args.lr, gamma=args.rho, hessian_interval=args.hess_interval)
    optimizer.generator.manual_seed(args.seed)
    return optimizer


OPTIMIZERS = {"adamw": build_adamw, "sophiah": build_sophiah}
# The default learning rate is multiplied by these. SophiaH moves most coordinates by a full lr; its
# factor was chosen on dev.
LR_FACTORS = {"adamw": 1.0, "sophiah": 0.25}


def seeded(args: Namespace) -> torch.Generator:
    """Return a new generator, seeded with --seed."""
    return torch.Generator().manual_seed(args.seed)


def build_gradvac(args: Namespace, num_tasks: int, groups: Groups) -> GradVac:
    """Build GradVac, for the whole model or by layer."""
    by_layer = args.vaccine_groups == "layer"
    return GradVac(num_tasks, args.beta_vaccine, seeded(args), groups if by_layer else None)


def build_aggregator(key: str, args: Namespace, num_tasks: int, groups: Groups) -> Aggregator:
    """Build the aggregator of torchjd that `key` names."""
    return Aggregator(key, num_tasks)


# Each takes the run's options, the number of tasks and the groups of the shared vector.
PROJECTIONS: dict[str, Callable[[Namespace, int, Groups], Projection]] = {
    "none": lambda args, num_tasks, groups: PlainSum(num_tasks),
    "pcgrad": lambda args, num_tasks, groups: PCGrad(num_tasks, seeded(args)),
    "vaccine": build_gradvac,
    **{key: partial(build_aggregator, key) for key in AGGREGATORS},
}


def build_projection(
    args: Namespace, model: MultitaskBert, names: list[str]
) -> tuple[SummedGradients | TaskGradients, ConflictLog]:
    """Build what combines the tasks' gradients, and the log of their conflicts.

    Without a projection and without --log_conflicts, backward passes simply add up and the log
    stays empty.

    Args:
        args: the run's options.
        model: the model, on its device, with what is frozen already frozen.
        names: the tasks that the run trains on.
    """
    if args.projection == "none" and not args.log_conflicts:
        return SummedGradients(), ConflictLog([], {})
    groups = model.parameter_groups()
    projection = PROJECTIONS[args.projection](args, len(names), groups)
    conflicts = ConflictLog(names, groups)
    feeder = TaskGradients(projection, model.shared_parameters(), names, groups, conflicts.observe)
    return feeder, conflicts


def build_regularizer(args: Namespace, model: MultitaskBert) -> PlainForward | Smart:
    """Build SMART if the options ask for it, else the plain forward pass."""
    if not args.use_smart_regularization:
        return PlainForward(model)
    return Smart(
        model,
        weight=args.smart_weight_regularization,
        radius=args.smart_radius,
        mu=args.smart_mu,
        seed=args.seed,
    )


def default_lr(option: str, hidden_size: int, optimizer: str = "adamw") -> float:
    """Return the learning rate of a run without --lr.

    Args:
        option: what is trained, `pretrain` or `finetune`.
        hidden_size: H of the encoder; narrow encoders take a larger rate.
        optimizer: a key of `OPTIMIZERS`.
    """
    if option == "pretrain":
        return 1e-3 * LR_FACTORS[optimizer]
    return (2e-4 if hidden_size < 768 else 3e-5) * LR_FACTORS[optimizer]


def build_optimizer(args: Namespace, model: nn.Module) -> Optimizer:
    """Build the optimizer that --optimizer names, for the model's trainable parameters."""
    return OPTIMIZERS[args.optimizer](args, model)


def curvature_of(optimizer: Optimizer) -> NoCurvature | SophiaH:
    """Return the optimizer itself if it estimates the Hessian, else the plain form."""
    return optimizer if isinstance(optimizer, SophiaH) else NoCurvature()


def train_also(
    optimizer: Optimizer, lr_schedule: LRSchedule, parameters: list[nn.Parameter], lr: float
) -> None:
    """Let a running optimizer train more parameters, with weight decay on matrices only.

    The state of the parameters that it already trains does not change.

    Args:
        optimizer: an optimizer that `build_optimizer` has built.
        lr_schedule: its learning-rate schedule.
        parameters: the new parameters, no longer frozen.
        lr: their base learning rate.
    """
    for group in parameter_groups(parameters, optimizer.param_groups[0]["weight_decay"]):
        optimizer.add_param_group(group)
        lr_schedule.add_group(optimizer.param_groups[-1], lr)


def build_lr_schedule(args: Namespace, optimizer: Optimizer, num_updates: int) -> LRSchedule:
    """Build the learning-rate schedule that --scheduler names.

    Args:
        args: the run's options.
        optimizer: the optimizer.
        num_updates: updates of the whole run.
    """
    return LR_SCHEDULES[args.scheduler](optimizer, num_updates, args.warmup_fraction, args.restarts)
