"""Switches of cuDNN, for passes that its kernels cannot run or run too coarsely."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def cudnn_switches(**switches: bool) -> Iterator[None]:
    """Set some of the switches in `torch.backends.cudnn` inside the block, and only these.

    `torch.backends.cudnn.flags` sets those that it is not given to its own defaults, so that a run
    which asks for deterministic kernels would lose them.

    Args:
        switches: name -> value, such as enabled=False.
    """
    before = {name: getattr(torch.backends.cudnn, name) for name in switches}
    try:
        for name, value in switches.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)


def rounds_float32(model: nn.Module, device: torch.device) -> bool:
    """Tell whether the model's float32 passes round what they multiply to TF32's 10 bits.

    By torch's defaults, cuDNN does so on a GPU: convolutions and LSTMs, not linear maps.
    """
    if device.type != "cuda" or not torch.backends.cudnn.allow_tf32:
        return False
    return any(isinstance(module, (nn.Conv1d, nn.LSTM)) for module in model.modules())
