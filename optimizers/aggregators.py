"""Aggregators of torchjd (Quinton and Rey, arXiv:2406.16232) as projections.

torchjd is an optional dependency, imported when one of its aggregators is used. Each of them
computes weights of the rows of J from the Gramian of J.

Axis letters: T tasks.
"""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optimizers.projections import Orders, Projection
from runtime.errors import InputError
from runtime.packages import missing_package


class Method(NamedTuple):
    """One of torchjd's methods.

    Attributes:
        name: its class there.
        packages: what it needs besides torchjd, NumPy and SciPy.
        is_normalized: whether it gets the Gramian divided by its Frobenius norm. Its weights are
            those of a sum then, not those of a mean.
        num_tasks: the least number of tasks.
    """

    name: str
    packages: tuple[str, ...] = ()
    is_normalized: bool = False
    num_tasks: int = 2


QUADPROG = ("qpsolvers", "quadprog")
# key of --projection -> torchjd's method. PCGrad and GradVac are our own, see `projections`.
AGGREGATORS = {
    "mgda": Method("MGDAWeighting"),
    "imtl_g": Method("IMTLGWeighting"),
    "aligned_mtl": Method("AlignedMTLWeighting"),
    "upgrad": Method("UPGradWeighting", QUADPROG),
    "dualproj": Method("DualProjWeighting", QUADPROG),
    "cagrad": Method("CAGradWeighting", ("cvxpy", "clarabel")),
    "nash_mtl": Method("NashMTL", ("cvxpy", "ecos"), is_normalized=True),
    "fairgrad": Method("FairGradWeighting", is_normalized=True),
    "pcd": Method("PCDWeighting"),
    "krum": Method("KrumWeighting", num_tasks=3),
}


class Aggregator(Projection):
    """One of torchjd's aggregators, scaled so that T equal gradients give their sum.

    As under every other projection, a learning rate thus keeps its meaning. Most of them scale like
    the mean of the gradients and are multiplied by T; CAGrad, whose update is 1 + c times as long,
    also divided by that. The equations of Nash-MTL and FairGrad fix the length of the update, which
    need not be proportional to that of the gradients. They get the Gramian divided by its Frobenius
    norm, which changes the length alone: T equal gradients then have weights of 1. torchjd's own
    bound on the length of Nash-MTL's update is off.

    No aggregator here draws random numbers. Nash-MTL keeps its last weights, which it starts from
    and falls back on where its solver fails; PCD keeps running means of squared gradient norms.

    Args:
        key: a key of `AGGREGATORS`.
        num_tasks: T.
        options: further arguments of torchjd's class by name, such as CAGrad's c.

    Raises:
        InputError: torchjd or a package that the method needs is not installed, or there are too
            few tasks.
    """

    def __init__(self, key: str, num_tasks: int, **options: float) -> None:
        super().__init__(num_tasks)
        self.method = AGGREGATORS[key]
        if num_tasks < self.method.num_tasks:
            raise InputError(
                f"--projection {key}: compares at least {self.method.num_tasks} tasks, but this "
                f"run trains on {num_tasks}; choose another projection"
            )
        try:
            from torchjd import aggregation

            self.weighting: Any = getattr(aggregation, self.method.name)(**options)
        except ImportError as error:
            raise missing_package(f"--projection {key}", error) from None
        self.scale = 1.0 if self.method.is_normalized else num_tasks / (1 + options.get("c", 0.0))

    def weights(self, inner: Tensor, orders: Orders | None) -> Tensor:
        """Return the weights [1, T]; they do not depend on the orders."""
        [gramian] = inner
        norm = gramian.norm()
        if not (norm.isfinite() and norm > 0):
            # A solver would fail here. The plain sum lets the engine's check find the non-finite
            # gradient and name the tasks and the update.
            return torch.ones_like(inner[:, 0])
        weights: Tensor = self.weights_of(gramian / norm if self.method.is_normalized else gramian)
        return self.scale * weights[None]

    def weights_of(self, gramian: Tensor) -> Tensor:
        """Return torchjd's weights [T]."""
        if self.method.name != "NashMTL":
            weights: Tensor = self.weighting(gramian)
            return weights
        # This one takes J itself. A matrix of T columns with the same Gramian does as well.
        values, vectors = torch.linalg.eigh(gramian)
        with warnings.catch_warnings():  # cvxpy's, of its speed and of tasks without a gradient
            warnings.simplefilter("ignore")
            weights = self.weighting.weighting(vectors * values.clamp(min=0).sqrt())
        return weights.to(gramian)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generator, which nothing uses, and the method's memory."""
        state = super().state_dict()
        if self.method.name == "NashMTL":
            weights = torch.as_tensor(self.weighting.weighting.prvs_alpha, dtype=torch.float64)
            state["last_weights"] = weights.clone()
        if self.method.name == "PCDWeighting":
            means, count = self.weighting._sq_norm_ema, self.weighting._n_steps
            is_new = means is None
            state["mean_squares"] = torch.zeros(self.num_tasks).double() if is_new else means
            state["num_updates"] = torch.tensor(0) if is_new else count
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: a weight, a mean square or a count is negative.
        """
        super().load_state_dict(state)
        for name in state.keys() - {"generator"}:
            if (state[name] < 0).any():
                raise ValueError(f"{name} holds negative numbers")
        if self.method.name == "NashMTL":
            self.weighting.weighting.prvs_alpha = state["last_weights"].numpy().copy()
        if self.method.name == "PCDWeighting":
            self.weighting._sq_norm_ema = state["mean_squares"].clone()
            self.weighting._n_steps = state["num_updates"].clone()
            self.weighting._state_key = self.num_tasks
