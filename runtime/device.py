"""The device that a command computes on."""

import torch

from runtime import workers
from runtime.errors import InputError


def select_device(use_gpu: bool) -> torch.device:
    """Return the GPU if it is asked for, else the CPU.

    Raises:
        InputError: a GPU is asked for and there is none, so that no job silently runs on the CPU,
            or torchrun started more workers than there are GPUs.
    """
    if use_gpu and not torch.cuda.is_available():
        raise InputError(
            "--use_gpu is given, but torch finds no CUDA device; leave it out to run on CPU"
        )
    if use_gpu and workers.local_rank() >= torch.cuda.device_count():
        raise InputError(
            f"torchrun started more workers here than the {torch.cuda.device_count()} GPUs; give "
            "that number as --nproc_per_node"
        )
    return torch.device("cuda" if use_gpu else "cpu")


def connect(use_gpu: bool) -> torch.device:
    """Select the device and, where torchrun has started several workers, connect them.

    Raises:
        InputError: as in `select_device`.
        WorkerLost: the workers cannot connect.
    """
    device = select_device(use_gpu)
    workers.join(use_gpu)
    return device
