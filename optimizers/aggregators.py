"""Aggregators of torchjd (Quinton and Rey, arXiv:2406.16232) as projections.

torchjd is an optional dependency, imported when one of its aggregators is used. Each of them
computes weights of the rows of J from the Gramian of J.
"""

import torch
from torch import Tensor

from optimizers.projections import Orders, Projection
from runtime.packages import missing_package

# key of --projection -> torchjd's class. All of them scale like the mean of the task gradients.
# The last two need a solver, torchjd's extra `quadprog-projector`.
AGGREGATORS = {
    "mgda": "MGDAWeighting",
    "imtl_g": "IMTLGWeighting",
    "aligned_mtl": "AlignedMTLWeighting",
    "upgrad": "UPGradWeighting",
    "dualproj": "DualProjWeighting",
}


class Aggregator(Projection):
    """One of torchjd's aggregators, multiplied by T.

    T equal gradients thus give their sum, as under every other projection, and a learning rate
    keeps its meaning. No aggregator here draws random numbers.

    Args:
        key: a key of `AGGREGATORS`.
        num_tasks: T.

    Raises:
        InputError: torchjd or its solver is not installed.
    """

    def __init__(self, key: str, num_tasks: int) -> None:
        super().__init__(num_tasks)
        try:
            from torchjd import aggregation

            self.weighting = getattr(aggregation, AGGREGATORS[key])()
        except ImportError as error:
            raise missing_package(f"--projection {key}", error) from None

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return the weights [1, T]; they do not depend on the orders."""
        if not inner.isfinite().all():
            # A solver would fail here. The plain sum lets the engine's check find the non-finite
            # gradient and name the tasks and the update.
            return torch.ones_like(inner[:, 0])
        weights: Tensor = self.weighting(inner[0])  # [T]
        return self.num_tasks * weights[None]
