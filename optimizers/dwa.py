"""Dynamic weight average."""

from typing import Any

import torch

from optimizers.loss_weighting import LossWeighting
from tasks import Task


class DynamicWeightAverage(LossWeighting):
    """Dynamic weight average (Liu, Johns & Davison, CVPR 2019, arXiv:1803.10704).

    A task whose loss falls slowly counts more. With L_t(e) the mean loss of task t in epoch e, the
    weights of an epoch are

        λ_t = T · softmax_t(r_t / τ),   r_t = L_t(e − 1) / L_t(e − 2)

    and 1 in the first two epochs. A task without an update in one of these epochs keeps its last
    known mean, and has r_t = 1 as long as there is none.

    Args:
        tasks: the tasks that the run trains on.
        device: the model's.
        temperature: τ, above 0; larger values make the weights more even. Paper: 2.
    """

    def __init__(self, tasks: list[Task], device: torch.device, temperature: float = 2.0) -> None:
        super().__init__(tasks, device)
        self.temperature = temperature
        # [2, T], those of the last two epochs, the older one first; 0 where there is none.
        self.means = torch.zeros(2, len(tasks), dtype=torch.float64)

    def after_epoch(self, losses: dict[str, float]) -> None:
        """Set the weights of the next epoch.

        Args:
            losses: the mean loss of the finished epoch, by task.
        """
        last = self.means[1].tolist()
        means = [losses.get(name, value) for name, value in zip(self.names, last)]
        self.means = torch.stack([self.means[1], self.means.new_tensor(means)])
        self.set_weights()

    def set_weights(self) -> None:
        """Set the weights from the means of the last two epochs."""
        older, newer = self.means
        rates = torch.where(older > 0, newer / older, 1.0)  # [T]
        self.weights = (len(rates) * (rates / self.temperature).softmax(0)).to(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the mean losses of the last two epochs."""
        return {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: a mean loss is negative.
        """
        if (state["means"] < 0).any():
            raise ValueError("means holds negative numbers, expected mean losses")
        self.means = state["means"].clone()
        self.set_weights()
