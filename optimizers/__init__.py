"""The registries of optimizers and techniques on gradients and losses, and their builders."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from models import MultitaskBert
from optimizers.aggregators import AGGREGATORS, Aggregator
from optimizers.averaging import NoAverage, WeightAverage
from optimizers.conflicts import ConflictLog
from optimizers.dwa import DynamicWeightAverage
from optimizers.famo import Famo
from optimizers.gradnorm import GradNorm
from optimizers.imtl_l import ImtlL
from optimizers.loss_weighting import Unweighted
from optimizers.lr_schedules import LR_SCHEDULES, LRSchedule
from optimizers.parameter_groups import layer_groups, parameter_groups
from optimizers.projections import GradVac, Groups, PCGrad, PlainSum, Projection
from optimizers.rdrop import RDrop
from optimizers.rlw import RandomLossWeighting
from optimizers.smart import PlainForward, Smart
from optimizers.sophia import NoCurvature, SophiaH
from optimizers.task_gradients import SummedGradients, TaskGradients
from optimizers.uncertainty import Uncertainty
from optimizers.word_gradients import sparse_tables
from tasks import Task

__all__ = [
    "LOSS_WEIGHTINGS",
    "LR_SCHEDULES",
    "OPTIMIZERS",
    "PROJECTIONS",
    "GradVac",
    "PCGrad",
    "Smart",
    "SophiaH",
    "build_averaging",
    "build_loss_weighting",
    "build_lr_schedule",
    "build_optimizer",
    "build_projection",
    "build_regularizer",
    "curvature_of",
    "default_lr",
    "train_also",
]


def optimizer_groups(args: Namespace, model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameter groups of a new optimizer: by layer, too, if --layer_decay is on."""
    if args.layer_decay == 1:
        return parameter_groups(model.parameters(), args.weight_decay)
    return layer_groups(model, args.weight_decay, args.lr, args.layer_decay)


def build_adamw(args: Namespace, model: nn.Module) -> Optimizer:
    """Build PyTorch's fused AdamW (Loshchilov & Hutter, ICLR 2019, arXiv:1711.05101)."""
    return AdamW(optimizer_groups(args, model), lr=args.lr, fused=True)


def build_sophiah(args: Namespace, model: nn.Module) -> Optimizer:
    """Build SophiaH (Liu et al., ICLR 2024, arXiv:2305.14342); --rho is the paper's γ."""
    groups = optimizer_groups(args, model)
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
    options: dict[str, dict[str, float]] = {
        "cagrad": {"c": args.cagrad_c},
        "fairgrad": {"alpha": args.fairgrad_alpha},
        "nash_mtl": {"n_tasks": num_tasks, "max_norm": 0.0},
        "krum": {"n_byzantine": 0},
    }
    return Aggregator(key, num_tasks, **options.get(key, {}))


# Each takes the run's options, the number of tasks and the groups of the shared vector.
PROJECTIONS: dict[str, Callable[[Namespace, int, Groups], Projection]] = {
    "none": lambda args, num_tasks, groups: PlainSum(num_tasks),
    "pcgrad": lambda args, num_tasks, groups: PCGrad(num_tasks, seeded(args)),
    "vaccine": build_gradvac,
    **{key: partial(build_aggregator, key) for key in AGGREGATORS},
}


def build_projection(
    args: Namespace, model: MultitaskBert, names: list[str], needs_gradients: bool = False
) -> tuple[SummedGradients | TaskGradients, ConflictLog]:
    """Build what combines the tasks' gradients, and the log of their conflicts.

    Without a projection, --log_conflicts and a loss weighting that needs the gradients of the tasks
    one by one, backward passes simply add up. The log is empty unless there is a projection or
    --log_conflicts.

    Args:
        args: the run's options.
        model: the model, on its device, with what is frozen already frozen.
        names: the tasks that the run trains on.
        needs_gradients: whether the loss weighting does.
    """
    tables = sparse_tables(model)
    is_logged = args.projection != "none" or args.log_conflicts
    if not (is_logged or needs_gradients):
        return SummedGradients(tables), ConflictLog([], {})
    groups = model.parameter_groups()
    projection = PROJECTIONS[args.projection](args, len(names), groups)
    conflicts = ConflictLog(names, groups) if is_logged else ConflictLog([], {})
    shared = model.shared_parameters()
    feeder = TaskGradients(projection, shared, names, groups, tables=tables)
    if is_logged:
        feeder.observe = conflicts.observe
    return feeder, conflicts


def build_famo(args: Namespace, tasks: list[Task], model: MultitaskBert) -> Famo:
    """Build FAMO."""
    return Famo(tasks, model, args.loss_weighting_lr, use_amp=args.use_amp)


# Each takes the run's options, the tasks that it trains on, and the model on its device.
LOSS_WEIGHTINGS: dict[str, Callable[[Namespace, list[Task], MultitaskBert], Unweighted]] = {
    "none": lambda args, tasks, model: Unweighted(),
    "uncertainty": lambda args, tasks, model: Uncertainty(tasks, device_of(model)),
    "dwa": lambda args, tasks, model: DynamicWeightAverage(tasks, device_of(model)),
    "rlw": lambda args, tasks, model: RandomLossWeighting(tasks, device_of(model), seeded(args)),
    "imtl_l": lambda args, tasks, model: ImtlL(tasks, device_of(model)),
    "gradnorm": lambda args, tasks, model: GradNorm(tasks, device_of(model), args.gradnorm_alpha),
    "famo": build_famo,
}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model."""
    return next(model.parameters()).device


def build_loss_weighting(args: Namespace, model: MultitaskBert, tasks: list[Task]) -> Unweighted:
    """Build the loss weighting that --loss_weighting names.

    Args:
        args: the run's options.
        model: the model, on its device.
        tasks: the tasks that the run trains on.
    """
    return LOSS_WEIGHTINGS[args.loss_weighting](args, tasks, model)


def build_regularizer(args: Namespace, model: MultitaskBert) -> PlainForward | Smart:
    """Build SMART or R-Drop if the options ask for it, else the plain forward pass."""
    if args.rdrop_weight:
        return RDrop(model, args.rdrop_weight)
    if not args.use_smart_regularization:
        return PlainForward(model)
    return Smart(
        model,
        weight=args.smart_weight_regularization,
        radius=args.smart_radius,
        mu=args.smart_mu,
        seed=args.seed,
    )


def build_averaging(args: Namespace, model: MultitaskBert) -> NoAverage | WeightAverage:
    """Build the average of the weights that --average_weights asks for, else the plain form."""
    if args.average_weights is None:
        return NoAverage()
    return WeightAverage(model, args.average_weights)


def default_lr(option: str, hidden_size: int, optimizer: str = "adamw") -> float:
    """Return the learning rate of a run without --lr.

    Args:
        option: what is trained, `pretrain`, `finetune` or, with low-rank adapters, `lora`.
        hidden_size: H of the encoder; narrow encoders take a larger rate.
        optimizer: a key of `OPTIMIZERS`.
    """
    if option in ("pretrain", "lora"):
        return 1e-3 * LR_FACTORS[optimizer]
    return (2e-4 if hidden_size < 768 else 3e-5) * LR_FACTORS[optimizer]


def build_optimizer(
    args: Namespace, model: nn.Module, weighting: Unweighted | None = None
) -> Optimizer:
    """Build the optimizer that --optimizer names, for everything that it trains.

    Args:
        args: the run's options.
        model: the model, whose trainable parameters it trains.
        weighting: the loss weighting. What it learns gets a group of its own, with the rate
            --loss_weighting_lr and without weight decay.
    """
    optimizer = OPTIMIZERS[args.optimizer](args, model)
    if weighting is not None and weighting.parameters:
        group = {"params": weighting.parameters, "lr": args.loss_weighting_lr, "weight_decay": 0.0}
        optimizer.add_param_group(group)
    return optimizer


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
