"""Impartial multi-task learning, the part that balances losses."""

import torch
from torch import Tensor

from optimizers.loss_weighting import LearnedWeighting
from optimizers.task_gradients import SummedGradients, TaskGradients
from tasks import Task, Update


class ImtlL(LearnedWeighting):
    """IMTL-L (Liu et al., ICLR 2021, "Towards Impartial Multi-task Learning").

    Each task has a learned s, and its part of the objective is

        e^s ℓ − s

    which is smallest where the weighted loss e^s ℓ is 1, the same for every task. s starts at 0, so
    the first update is the plain sum. No kind of loss is assumed, otherwise it resembles
    `Uncertainty`. Its other half, IMTL-G, is the projection `imtl_g`.

    Args:
        tasks: the tasks that the run trains on.
        device: the model's.
    """

    def __init__(self, tasks: list[Task], device: torch.device) -> None:
        super().__init__(tasks, device, start=0.0)

    def prepare(self) -> None:
        """Set the weights of the coming update from s."""
        self.weights = self.values().exp()

    def observe(
        self, update: Update, losses: Tensor, gradients: SummedGradients | TaskGradients
    ) -> None:
        """Set the gradient of s: that of weight · ℓ − s."""
        self.set_gradients(update, self.weights * self.task_losses(update, losses) - 1)
