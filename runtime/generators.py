"""Saved states of generators. Those of CPUs and of GPUs have different lengths and numbers."""

import warnings
import zlib
from typing import Any

import torch
from torch import Tensor

from runtime.saved_values import shown

STATE_BYTES = (5056, 16)  # of a CPU's generator, and of a CUDA GPU's


def check_generator_state(given: Any, own: Tensor, where: str) -> None:
    """Raise ValueError unless `given` is the state of a generator of some kind of device.

    Args:
        given: what a checkpoint holds.
        own: the state of this run's generator, the only one of its kind on a Mac's GPU.
        where: its place in the checkpoint.
    """
    is_bytes = isinstance(given, Tensor) and given.dtype == torch.uint8 and given.ndim == 1
    if not is_bytes or len(given) not in (*STATE_BYTES, len(own)):
        raise ValueError(f"{where} is {shown(given)}, expected the state of a generator")


def set_generator_state(generator: torch.Generator, state: Tensor, purpose: str) -> None:
    """Continue a generator from a saved state.

    If the state is of another kind of device, the generator gets a seed that follows from it, the
    same in every worker, and a warning says so.

    Args:
        generator: the generator.
        state: what its `get_state` returned, on the CPU.
        purpose: what it draws, for the warning.
    """
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
        return
    warnings.warn(
        f"saved on another kind of device, where a generator gives other numbers: the run "
        f"continues with another {purpose} than it would have had",
        stacklevel=2,
    )
    generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
