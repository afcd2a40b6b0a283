"""Random loss weighting."""

from typing import Any

import torch

from optimizers.loss_weighting import LossWeighting
from tasks import Task


class RandomLossWeighting(LossWeighting):
    """Random loss weighting (Lin et al., TMLR 2022, arXiv:2111.10603).

    Every update draws new weights, here multiplied by T so that their mean is 1:

        λ = T · softmax(x),   x ~ N(0, I)

    The paper means it as the baseline that other weightings have to beat.

    Args:
        tasks: the tasks that the run trains on.
        device: the model's.
        generator: draws x, on the CPU, so that all devices and workers draw the same.
    """

    def __init__(self, tasks: list[Task], device: torch.device, generator: torch.Generator) -> None:
        super().__init__(tasks, device)
        self.generator = generator

    def prepare(self) -> None:
        """Draw the weights of the coming update."""
        drawn = torch.randn(len(self.names), generator=self.generator)
        self.weights = (len(drawn) * drawn.softmax(0)).to(self.weights.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.generator.set_state(state["generator"])
