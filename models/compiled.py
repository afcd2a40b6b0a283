"""The encoder's layers compiled by torch, one program for all of them.

A layer on its own compiles in seconds, where a whole encoder takes minutes, and all layers run the
same program with weights of their own. Its batch and its length are variables, so a batch of
another shape compiles nothing new.
"""

import torch
from torch import nn

from models.bert import BertLayer
from runtime.device import gpu_type
from runtime.errors import InputError


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile every layer of the encoder, or of each of its encoders, in place.

    It happens when a layer is called. Parameters keep their names, so checkpoints fit either way.
    Results equal those of the plain layer up to rounding. Dropout draws other masks: they depend on
    torch's generator, but a first and a second pass from the same state of it may differ. There are
    no second derivatives. The kernels depend on the shapes that come first, so a resumed run may
    differ from one that was not stopped by as much as rounding does.

    Args:
        model: holds the encoder.
        backend: torch's compiler. Tests use others, which need no C++ compiler.
    """
    for module in model.modules():
        if isinstance(module, BertLayer):
            module.compile(dynamic=True, backend=backend)


def check_compiler(use_gpu: bool) -> None:
    """Compile one operation, which takes seconds.

    Raises:
        InputError: that is not possible here.
    """
    try:
        numbers = torch.zeros(2, device=gpu_type() if use_gpu else "cpu")
        torch.compile(lambda x: x.cos() + 1)(numbers)
    except Exception as error:  # the compiler is missing, too old, or lacks Python's headers
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"--compile: torch cannot compile here ({reason[0]}); install a C++ compiler, g++ for "
            "example, or drop --compile"
        ) from None
