"""Aggregators of torchjd (Quinton and Rey, arXiv:2406.16232) as projections; an optional
dependency.

Each gives weights of the rows of J from its Gramian. Those that scale like the mean of the task
gradients are multiplied by T here, so that a learning rate keeps its meaning.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from optimizers.projections import Orders, Projection
from runtime.errors import InputError


def mgda() -> Callable[[Tensor], Tensor]:
    from torchjd.aggregation import MGDAWeighting

    return MGDAWeighting()


def imtl_g() -> Callable[[Tensor], Tensor]:
    from torchjd.aggregation import IMTLGWeighting

    return IMTLGWeighting()


def aligned_mtl() -> Callable[[Tensor], Tensor]:
    from torchjd.aggregation import AlignedMTLWeighting

    return AlignedMTLWeighting()


def upgrad() -> Callable[[Tensor], Tensor]:
    from torchjd.aggregation import UPGradWeighting

    return UPGradWeighting()


def dualproj() -> Callable[[Tensor], Tensor]:
    from torchjd.aggregation import DualProjWeighting

    return DualProjWeighting()


# key -> torchjd's weighting; the last two need a solver, torchjd's extra `quadprog-projector`.
# On T equal gradients each gives one of them, the mean, and so is multiplied by T.
AGGREGATORS = {
    "mgda": mgda,
    "imtl_g": imtl_g,
    "aligned_mtl": aligned_mtl,
    "upgrad": upgrad,
    "dualproj": dualproj,
}


class Aggregator(Projection):
    """One of torchjd's aggregators, by its key. Raises InputError where it is not installed."""

    def __init__(self, key: str, num_tasks: int) -> None:
        super().__init__(num_tasks)
        try:
            self.weighting = AGGREGATORS[key]()
        except ImportError as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"--projection {key} needs torchjd and its solver ({reason}); "
                "pip install 'torchjd[quadprog-projector]==0.18.0'"
            ) from None

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """One set of weights; no torchjd aggregator here depends on an order."""
        if not inner.isfinite().all():
            return torch.ones_like(
                inner[0]
            )  # the engine names task and update; a solver only fails
        return self.num_tasks * self.weighting(inner[0])[None]
