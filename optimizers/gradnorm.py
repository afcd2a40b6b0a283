"""Gradient normalization."""

from typing import Any

import torch
from torch import Tensor

from optimizers.loss_weighting import LearnedWeighting
from optimizers.task_gradients import SummedGradients, TaskGradients
from tasks import Task, Update

LEAST_WEIGHT = 0.01  # a step of the optimizer could make a weight negative


class GradNorm(LearnedWeighting):
    """GradNorm (Chen et al., ICML 2018, arXiv:1711.02257).

    The weights w are learned so that the gradients of the weighted losses have norms G_t near a
    common one, larger for tasks that train slowly:

        Σ_t |G_t − Ḡ · r_t^α|,   G_t = w_t ‖∇ℓ_t‖,   Ḡ = mean_t G_t

        r_t = (ℓ_t / ℓ_t(0)) / mean_t (ℓ_t / ℓ_t(0))

    Ḡ · r_t^α counts as a constant, so the gradient of w_t is sign(G_t − Ḡ · r_t^α) · ‖∇ℓ_t‖. After
    each step the weights are rescaled so that their sum is T. ℓ_t(0) is the loss of the first
    update.

    Deviations: the norms are those of the gradients of all shared parameters, from the diagonal of
    J Jᵀ, where the paper takes the last shared layer alone. They include penalties and
    --task_weights. No weight falls below 0.01 before the rescaling.

    Args:
        tasks: the tasks that the run trains on.
        device: the model's.
        alpha: α, at least 0; larger values favour slow tasks more. Paper: 1.5 on NYUv2.
    """

    needs_gradients = True

    def __init__(self, tasks: list[Task], device: torch.device, alpha: float = 1.5) -> None:
        super().__init__(tasks, device, start=1.0)
        self.alpha = alpha
        self.first_losses = torch.zeros(len(tasks), device=device)  # ℓ(0)
        self.is_started = False

    def prepare(self) -> None:
        """Take the learned weights."""
        self.weights = self.values()

    def observe(
        self, update: Update, losses: Tensor, gradients: SummedGradients | TaskGradients
    ) -> None:
        """Set the gradients of the weights.

        Raises:
            AssertionError: there is no J.
        """
        assert isinstance(gradients, TaskGradients), "GradNorm needs every task's own gradient"
        means = self.task_losses(update, losses)
        if not self.is_started:
            self.first_losses, self.is_started = means, True
        norms = gradients.inner_products().sum(0).diagonal().sqrt()  # G, [T] float64
        pace = means / self.first_losses
        target = norms.mean() * (pace / pace.mean()) ** self.alpha
        self.set_gradients(update, (norms - target).sign() * norms / self.weights)

    def after_step(self) -> None:
        """Rescale the weights so that their sum is T."""
        values = self.values().clamp(min=LEAST_WEIGHT)
        self.set_values(len(values) * values / values.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and the losses of the first update."""
        return super().state_dict() | {
            "first_losses": self.first_losses,
            "is_started": self.is_started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: a weight is not positive, or a loss negative.
        """
        if (state["values"] <= 0).any() or (state["first_losses"] < 0).any():
            raise ValueError("values holds numbers that are not positive, or first_losses negative")
        super().load_state_dict(state)
        self.first_losses = state["first_losses"].to(self.weights)
        self.is_started = state["is_started"]
