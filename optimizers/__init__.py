"""Registries of optimizers, projections and learning-rate schedules, and their builders."""

from argparse import Namespace
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from models import MultitaskBert
from optimizers.aggregators import AGGREGATORS, Aggregator
from optimizers.conflicts import ConflictLog
from optimizers.lr_schedules import LR_SCHEDULES, PlateauSchedule, UpdateSchedule
from optimizers.projections import GradVac, Groups, PCGrad, PlainSum
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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters, decay on matrices only: biases and LayerNorms are left alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_adamw(args: Namespace, model: nn.Module) -> Optimizer:
    """PyTorch's AdamW (Loshchilov & Hutter, 2019, arXiv:1711.05101), fused."""
    return AdamW(parameter_groups(model, args.weight_decay), lr=args.lr, fused=True)


def build_sophiah(args: Namespace, model: nn.Module) -> Optimizer:
    """SophiaH (Liu et al., 2023, arXiv:2305.14342)."""
    groups = parameter_groups(model, args.weight_decay)
    optimizer = SophiaH(groups, args.lr, gamma=args.rho, hessian_interval=args.hess_interval)
    optimizer.generator.manual_seed(args.seed)
    return optimizer


OPTIMIZERS = {"adamw": build_adamw, "sophiah": build_sophiah}
# Of the default learning rate. SophiaH moves most coordinates by a full step: chosen on dev.
LR_FACTORS = {"adamw": 1.0, "sophiah": 0.25}


def build_pcgrad(args: Namespace, num_tasks: int, groups: Groups) -> PCGrad:
    return PCGrad(num_tasks, torch.Generator().manual_seed(args.seed))


def build_gradvac(args: Namespace, num_tasks: int, groups: Groups) -> GradVac:
    generator = torch.Generator().manual_seed(args.seed)
    by_layer = args.vaccine_groups == "layer"
    return GradVac(num_tasks, args.beta_vaccine, generator, groups if by_layer else None)


def build_aggregator(key: str, args: Namespace, num_tasks: int, groups: Groups) -> Aggregator:
    return Aggregator(key, num_tasks)


PROJECTIONS = {
    "none": lambda args, num_tasks, groups: PlainSum(num_tasks),
    "pcgrad": build_pcgrad,
    "vaccine": build_gradvac,
} | {key: partial(build_aggregator, key) for key in AGGREGATORS}


def build_projection(
    args: Namespace, model: MultitaskBert, names: list[str]
) -> tuple[SummedGradients | TaskGradients, ConflictLog]:
    """What becomes of the gradients of the tasks `names`, and the log of their conflicts."""
    if args.projection == "none" and not args.log_conflicts:
        return SummedGradients(), ConflictLog([], {})
    groups = model.parameter_groups()
    projection = PROJECTIONS[args.projection](args, len(names), groups)
    conflicts = ConflictLog(names, groups)
    feeder = TaskGradients(projection, model.shared_parameters(), names, groups, conflicts.observe)
    return feeder, conflicts


def build_regularizer(args: Namespace, model: MultitaskBert) -> PlainForward | Smart:
    """Return SMART if it is asked for, else the plain forward pass."""
    if not args.use_smart_regularization:
        return PlainForward(model)
    generator = torch.Generator().manual_seed(args.seed)
    return Smart(
        model,
        args.smart_weight_regularization,
        args.smart_radius,
        args.smart_mu,
        generator=generator,
    )


def default_lr(option: str, hidden_size: int, optimizer: str = "adamw") -> float:
    """The learning rate without --lr: by what is trained, the encoder's width and the optimizer."""
    if option == "pretrain":
        return 1e-3 * LR_FACTORS[optimizer]
    return (2e-4 if hidden_size < 768 else 3e-5) * LR_FACTORS[optimizer]


def build_optimizer(args: Namespace, model: nn.Module) -> Optimizer:
    return OPTIMIZERS[args.optimizer](args, model)


def curvature_of(optimizer: Optimizer) -> NoCurvature | SophiaH:
    """Return the optimizer itself if it estimates the Hessian, else what estimates nothing."""
    return optimizer if isinstance(optimizer, SophiaH) else NoCurvature()


def train_also(
    optimizer: Optimizer,
    lr_schedule: UpdateSchedule | PlateauSchedule,
    parameters: list[nn.Parameter],
    lr: float,
) -> None:
    """Give a running optimizer more parameters, with decay as `parameter_groups` has it.

    lr: their base learning rate. The state of the parameters it had is untouched.
    """
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    for group, chosen in zip(optimizer.param_groups[:2], (matrices, vectors)):
        optimizer.add_param_group({"params": chosen, "weight_decay": group["weight_decay"]})
        lr_schedule.add_group(optimizer.param_groups[-1], lr)


def build_lr_schedule(
    args: Namespace, optimizer: Optimizer, num_updates: int
) -> UpdateSchedule | PlateauSchedule:
    build = LR_SCHEDULES[args.scheduler]
    return build(optimizer, num_updates, args.warmup_fraction, args.restarts)
