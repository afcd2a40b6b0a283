"""LoRA, low-rank adaptation (Hu et al., ICLR 2022, arXiv:2106.09685), through peft.

peft is an optional dependency, imported when adapters are attached or merged.

Axis letters: H hidden, R the rank.
"""

import copy
import hashlib
import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.bert import Encoder
from runtime.errors import InputError
from runtime.packages import missing_package

SHARED = "shared"  # the name of the adapter that all tasks train
OTHER_BASE = (
    "holds updates of other encoder weights than --model_name has now; put the encoder back that "
    "the run began with"
)


class LowRankAdapters(nn.Module):
    """Low-rank updates of some linear maps of an encoder, by default those of query and value.

        W h + b    becomes    W h + b + (α / R) · B A h    with A [R, H] and B [H, R]

    B starts at zero, so that before the first update the model equals the plain one to the last
    bit. A is drawn from U(−1/√H, 1/√H) by torch's default generator, as in the authors' code; the
    paper draws it from a normal distribution. All other weights of the encoder are frozen.

    The adapters replace the linear maps inside the encoder, and their parameters are the encoder's.
    A checkpoint holds them alone: this module's state in it is a digest of the frozen weights, and
    loading it compares the two.

    Args:
        encoder: changed in place.
        rank: R, at least 1. Paper: 8 for GLUE.
        alpha: α, above 0. α = R adds B A h as it is.
        task_names: the tasks, for an adapter of each; empty for one that all of them share.

    Attributes:
        layers: peft's layers, in the order of the encoder's modules.
        is_per_task: whether every task has an adapter of its own.

    Raises:
        InputError: peft is not installed.
    """

    def __init__(
        self, encoder: Encoder, rank: int, alpha: float, task_names: Iterable[str] = ()
    ) -> None:
        super().__init__()
        names = [*task_names]
        self.is_per_task = bool(names)
        self.digest = digest_of(encoder)
        self.layers = inject(encoder, rank, alpha, names or [SHARED])

    def choose(self, task_name: str) -> None:
        """Let the forward passes that follow use the adapter of a task.

        A backward pass that computes layers again uses it too, so it has to come before the next
        task's forward pass.
        """
        name = task_name if self.is_per_task else SHARED
        for layer in self.layers:
            # peft's `set_adapter` would freeze the adapters of the other tasks.
            layer._active_adapter = name

    def owner(self, parameter_name: str) -> str | None:
        """Return the task whose adapter a parameter is in; None if all tasks share it."""
        match = re.search(r"\.lora_[AB]\.(\w+)\.", parameter_name)
        return match[1] if match and self.is_per_task else None

    def get_extra_state(self) -> Tensor:
        """Return the digest of the frozen weights, [32] uint8."""
        return self.digest

    def set_extra_state(self, state: Any) -> None:
        """Compare a checkpoint's digest with the own one.

        Raises:
            InputError: they differ.
        """
        if not torch.equal(state, self.digest):
            raise InputError(OTHER_BASE)


def inject(encoder: Encoder, rank: int, alpha: float, names: list[str]) -> list[Any]:
    """Replace the maps that `encoder.adapted_maps` names by peft's layers, and return these.

    peft freezes all other weights of the encoder.

    Raises:
        InputError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise missing_package("--lora_rank", error) from None
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
    options["target_modules"] = [*encoder.adapted_maps]
    for name in names:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            inject_adapter_in_model(LoraConfig(**options), encoder, name)
    layers = [module for module in encoder.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.cast_input_dtype_enabled = False  # autocast chooses the precision of every product
    return layers


def merged(encoder: Encoder, task_name: str) -> Encoder:
    """Return a plain copy of an encoder, whose weights are W + (α / R) · B A.

    Args:
        encoder: without adapters, it is copied as it is.
        task_name: whose adapter is merged, where each task has its own.
    """
    encoder = copy.deepcopy(encoder)
    for name, module in [*encoder.named_modules()]:
        if hasattr(module, "lora_A"):
            layer: Any = module
            layer.merge(adapter_names=[task_name if task_name in layer.lora_A else SHARED])
            encoder.set_submodule(name, layer.get_base_layer())
        elif hasattr(module, "peft_config"):
            del module.peft_config
    return encoder


def digest_of(encoder: nn.Module) -> Tensor:
    """Return the SHA-256 of an encoder's weights, [32] uint8.

    The pooler does not count: nothing reads it, and an encoder that was published without one has
    another one each time.
    """
    digest = hashlib.sha256()
    for name, p in encoder.named_parameters():
        if "pooler." not in name:
            digest.update(name.encode())
            digest.update(p.detach().cpu().contiguous().numpy().data)
    return torch.tensor([*digest.digest()], dtype=torch.uint8)
