"""Moving average of the weights, which is evaluated and kept as best in place of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models import MultitaskBert
from optimizers.stateless import Stateless


class NoAverage(Stateless):
    """The plain form: the weights in training are those that are evaluated."""

    def include_trainable(self) -> None:
        """Do nothing."""

    def after_step(self, num_updates: int) -> None:
        """Do nothing."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Leave the weights as they are."""
        yield


class WeightAverage:
    """Exponential moving average θ̄ of the trainable weights θ over the updates t = 1, 2, …

        θ̄_0 = θ_0
        θ̄_t = d_t θ̄_{t−1} + (1 − d_t) θ_t    with d_t = min(decay, (1 + t) / (10 + t))

    Averaging: Polyak & Juditsky, SIAM Journal on Control and Optimization 30(4), 1992. Evaluating
    an exponential average: Tarvainen & Valpola, NeurIPS 2017, arXiv:1703.01780. The rising d_t
    keeps a short run from being dominated by its initial weights. Training itself does not change.

    A weight that is unfrozen later joins with its value at that time, which is what its average
    would be if it had been included from the start. The cost is one copy of the trainable weights.

    Args:
        model: the model, with its initial weights and on its device.
        decay: the largest d_t, in (0, 1).

    Raises:
        ValueError: decay is outside (0, 1).
    """

    def __init__(self, model: MultitaskBert, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}, expected a number in (0, 1)")
        self.model, self.decay = model, decay
        self.weights: dict[str, nn.Parameter] = {}  # θ
        self.average: dict[str, Tensor] = {}  # θ̄
        self.include_trainable()

    def include_trainable(self) -> None:
        """Include every weight that is trained and not included yet."""
        for name, p in self.model.named_parameters():
            if p.requires_grad and name not in self.weights:
                self.weights[name], self.average[name] = p, p.detach().clone()

    @torch.no_grad()
    def after_step(self, num_updates: int) -> None:
        """Move θ̄ toward θ, after `optimizer.step`.

        Args:
            num_updates: t, the updates of the run that are done.
        """
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        averages, weights = tuple(self.average.values()), tuple(self.weights.values())
        if not averages:  # nothing is unfrozen yet
            return
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, and its own to the bit after it."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange θ and θ̄ in place, one weight after the other to save memory."""
        for name, p in self.weights.items():
            kept = p.clone()
            p.copy_(self.average[name])
            self.average[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return θ̄ by the names of the weights."""
        return self.average

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned."""
        for name, average in self.average.items():
            average.copy_(state[name])
