"""Switches of cuDNN, for passes that its kernels cannot run or run too coarsely."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
