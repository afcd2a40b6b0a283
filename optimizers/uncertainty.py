"""Loss weighting by homoscedastic uncertainty."""

import torch
from torch import Tensor

from optimizers.loss_weighting import LearnedWeighting
from optimizers.task_gradients import SummedGradients, TaskGradients
from tasks import Regression, Task, Update


class Uncertainty(LearnedWeighting):
    """Uncertainty weighting (Kendall, Gal & Cipolla, CVPR 2018, arXiv:1705.07115).

    Each task has a learned noise scale s, and the negative log-likelihood of its labels is, for a
    loss ℓ of cross entropy (with one logit or several) or of squared error:

        ℓ / s² + log s          classification: a softmax at temperature s², as in the paper
        ℓ / (2 s²) + log s      regression: a Gaussian of variance s²

    a = log s² is learned, so that the weights stay positive: they are e^−a and e^−a / 2. a starts
    at 0, so a regression starts with the weight 1/2.

    Args:
        tasks: the tasks that the run trains on.
        device: the model's.
    """

    def __init__(self, tasks: list[Task], device: torch.device) -> None:
        super().__init__(tasks, device, start=0.0)
        factors = [0.5 if isinstance(task, Regression) else 1.0 for task in tasks]
        self.factors = torch.tensor(factors, device=device)

    def prepare(self) -> None:
        """Set the weights of the coming update from a."""
        self.weights = self.factors * (-self.values()).exp()

    def observe(
        self, update: Update, losses: Tensor, gradients: SummedGradients | TaskGradients
    ) -> None:
        """Set the gradient of a: that of weight · ℓ + a / 2."""
        self.set_gradients(update, 0.5 - self.weights * self.task_losses(update, losses))
