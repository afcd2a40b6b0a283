"""Forward passes that repeat the dropout masks of an earlier one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models import MultitaskBert

RandomState = list[Tensor]  # of torch's default generators: the CPU's, and the GPU's if it is used


class Replay:
    """Remembers the states of torch's default generators, and goes back to them.

    Args:
        model: the model, on its device.
    """

    def __init__(self, model: MultitaskBert) -> None:
        self.model = model
        device = next(model.parameters()).device
        self.gpus = [device] if device.type == "cuda" else []

    def random_state(self) -> RandomState:
        """Return the current states."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in self.gpus)]

    @contextmanager
    def replay(self, states: RandomState) -> Iterator[None]:
        """Repeat inside the block the random numbers that followed `states`.

        Afterwards the generators continue where they were. The pass inside does not count in the
        model's statistics.
        """
        with torch.random.fork_rng(self.gpus), self.model.without_statistics():
            torch.set_rng_state(states[0])
            for gpu, state in zip(self.gpus, states[1:]):
                torch.cuda.set_rng_state(state, gpu)
            yield
