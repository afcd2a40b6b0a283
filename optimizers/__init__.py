"""Registries of optimizers and learning-rate schedules, and their builders."""

from argparse import Namespace

from torch import nn
from torch.optim import AdamW, Optimizer

from optimizers.lr_schedules import LR_SCHEDULES, PlateauSchedule, UpdateSchedule

__all__ = ["LR_SCHEDULES", "OPTIMIZERS", "build_lr_schedule", "build_optimizer", "default_lr"]


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


OPTIMIZERS = {"adamw": build_adamw}


def default_lr(option: str, hidden_size: int) -> float:
    """The learning rate where --lr is not given: by what is trained, and how wide the encoder
    is.
    """
    if option == "pretrain":
        return 1e-3
    return 2e-4 if hidden_size < 768 else 3e-5


def build_optimizer(args: Namespace, model: nn.Module) -> Optimizer:
    return OPTIMIZERS[args.optimizer](args, model)


def build_lr_schedule(
    args: Namespace, optimizer: Optimizer, num_updates: int
) -> UpdateSchedule | PlateauSchedule:
    build = LR_SCHEDULES[args.scheduler]
    return build(optimizer, num_updates, args.warmup_fraction, args.restarts)
