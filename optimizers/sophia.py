"""SophiaH: momentum divided by a running estimate of the Hessian's diagonal, then clipped."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from optimizers.kernels import cudnn_switches
from runtime.generators import set_generator_state


class NoCurvature:
    """The plain form, beside an optimizer without second derivatives: it estimates nothing."""

    hessian_due = False
    hessian_buffer: tuple[Tensor, ...] = ()

    def twice_differentiable(self) -> nullcontext[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def accumulate_hessian(self, loss: Tensor) -> None:
        """Do nothing."""

    def hessian_norms(self) -> list[Tensor]:
        """Return no norm."""
        return []


class SophiaH(Optimizer):
    """Sophia with Hutchinson's estimator of the Hessian (Liu et al., ICLR 2024, arXiv:2305.14342).

    At each update, with the gradient g of the loss L:

        m ← β1 m + (1−β1) g
        h ← β2 h + (1−β2) ĥ,   ĥ = u ⊙ (∇²L u),   u ~ N(0, I)    at updates 0, k, 2k, … only
        θ ← θ − lr·wd·θ
        θ ← θ − lr·clip(m / max(γh, ε), −1, 1)

    Where h is zero or negative, the last step is lr·sign(m). On an update that is `hessian_due`,
    pass each of its weighted losses to `accumulate_hessian` before the backward pass:

        if optimizer.hessian_due:
            optimizer.accumulate_hessian(loss)
        loss.backward()

    All terms of an update share one u. Give `generator` the same seed in every worker, so that they
    share it too; workers may then average `hessian_buffer` in place before `step`.

    Args:
        params: parameters or parameter groups, as for every optimizer of PyTorch, all on one
            device. They are meant to be float32; the state has their dtype.
        lr: learning rate.
        betas: (β1, β2), both in [0, 1). Paper: (0.96, 0.99).
        gamma: γ, above 0. More coordinates stay below the clipping threshold the larger it is.
            Paper: 0.01.
        eps: ε, above 0. Paper: 1e-12.
        weight_decay: wd; 0 is off.
        hessian_interval: k, in updates, at least 1. An estimate costs about two more backward
            passes. Paper: 10.

    Attributes:
        hessian_due: whether the coming `step` uses a new Hessian estimate.
        hessian_buffer: ĥ so far, one tensor per trainable parameter in the order of the parameter
            groups. Empty outside the updates that are due.
        generator: draws u, on the device of the parameters. Its seed is 0 at first. CPUs and GPUs,
            and also GPUs of two kinds, draw other numbers from the same seed.
        state: for each parameter, `exp_avg` (m) and `hessian` (h).

    Raises:
        ValueError: a hyper-parameter is outside its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float] = (0.96, 0.99),
        gamma: float = 0.01,
        eps: float = 1e-12,
        weight_decay: float = 0.1,
        hessian_interval: int = 10,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas is {betas}, expected two numbers in [0, 1)")
        for name, value in (("gamma", gamma), ("eps", eps), ("hessian_interval", hessian_interval)):
            if not value > 0:
                raise ValueError(f"{name} is {value}, expected a number above 0")
        defaults = {"lr": lr, "betas": betas, "gamma": gamma, "eps": eps}
        super().__init__(params, defaults | {"weight_decay": weight_decay})
        self.hessian_interval = hessian_interval
        self.num_updates = 0
        # On the device: the numbers of a large encoder would take seconds to draw on a CPU.
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.probe: list[Tensor] = []  # u of this update
        self.hessian_buffer: list[Tensor] = []

    @property
    def hessian_due(self) -> bool:
        """Whether the coming `step` uses a new Hessian estimate."""
        return self.num_updates % self.hessian_interval == 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU without any."""
        params = (p for group in self.param_groups for p in group["params"])
        return next((p.device for p in params), torch.device("cpu"))

    def trainable_parameters(self) -> list[Tensor]:
        """Return the parameters that require a gradient, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def accumulate_hessian(self, loss: Tensor) -> None:
        """Add u ⊙ (∇²loss u) to `hessian_buffer`; do nothing on an update that is not due.

        The first call of an update draws u. Because all terms share it, the buffer ends as exactly
        the estimate of the summed loss. The graph of the loss is kept for its backward pass; the
        graph of its gradients is freed on return.

        Args:
            loss: [], one term of the update's loss, computed in float32 inside
                `twice_differentiable`.
        """
        if not self.hessian_due:
            return
        params = self.trainable_parameters()
        if not self.hessian_buffer:
            self.probe = [
                torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=self.generator)
                for p in params
            ]
            self.hessian_buffer = [torch.zeros_like(p) for p in params]
        grads = [
            None if g is None else g.to_dense()  # that of a table of words may come as rows
            for g in torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        ]
        # A gradient is None where the loss does not depend on the parameter, and has no graph where
        # the loss is linear in it: both have no curvature.
        curved = [(g, u) for g, u in zip(grads, self.probe) if g is not None and g.requires_grad]
        if not curved:
            return
        outputs, probe = zip(*curved)
        products = torch.autograd.grad(
            outputs, params, probe, retain_graph=True, allow_unused=True
        )  # ∇²loss u
        for total, u, product in zip(self.hessian_buffer, self.probe, products):
            if product is not None:
                total.addcmul_(u, product.to_dense())

    @contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """On an update that is due, use kernels with second derivatives inside the block.

        Fused attention and cuDNN's LSTM have none.
        """
        if not self.hessian_due:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH), cudnn_switches(enabled=False):
            yield

    def hessian_norms(self) -> list[Tensor]:
        """Return the norm [] of this update's estimate in a list, empty without an estimate.

        The norm is not finite if any number of the estimate is not.
        """
        if not self.hessian_buffer:
            return []
        return [torch.stack(torch._foreach_norm(self.hessian_buffer)).norm()]

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # there is no closure to call
        """Update every parameter that has a gradient, and drop this update's estimate.

        An update that is due but got no loss keeps the h it has.

        Raises:
            AssertionError: there is no h yet: this is the first update with a gradient, and it is
                due, but `accumulate_hessian` got no loss.
        """
        estimates = dict(zip(self.trainable_parameters(), self.hessian_buffer))
        for group in self.param_groups:
            grads = {p: p.grad for p in group["params"] if p.grad is not None}
            if grads:
                assert (
                    estimates or self.state or not self.hessian_due
                ), "no Hessian estimate: call accumulate_hessian(loss) where hessian_due"
                self.update_group(group, grads, [estimates[p] for p in grads if estimates])
        self.probe, self.hessian_buffer = [], []
        self.num_updates += 1

    def update_group(
        self, group: dict[str, Any], grads: dict[Tensor, Tensor], estimates: list[Tensor]
    ) -> None:
        """Update the parameters of one group.

        Args:
            group: the parameter group.
            grads: parameter -> its gradient.
            estimates: ĥ of these parameters; empty keeps h.
        """
        lr, (beta1, beta2) = group["lr"], group["betas"]
        params = list(grads)
        for p in params:
            if not self.state[p]:
                self.state[p] = {"exp_avg": torch.zeros_like(p), "hessian": torch.zeros_like(p)}
        exp_avgs = [self.state[p]["exp_avg"] for p in params]
        hessians = [self.state[p]["hessian"] for p in params]
        torch._foreach_lerp_(exp_avgs, list(grads.values()), 1 - beta1)
        if estimates:
            torch._foreach_lerp_(hessians, estimates, 1 - beta2)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        denominators = torch._foreach_mul(hessians, group["gamma"])
        torch._foreach_clamp_min_(denominators, group["eps"])
        steps = torch._foreach_div(exp_avgs, denominators)
        torch._foreach_clamp_min_(steps, -1.0)
        torch._foreach_clamp_max_(steps, 1.0)
        torch._foreach_add_(params, steps, alpha=-lr)

    def state_dict(self) -> dict[str, Any]:
        """Return PyTorch's state, the update counter and the generator's state.

        Call it between updates, when there is no estimate in progress.
        """
        return super().state_dict() | {
            "num_updates": self.num_updates,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned; drop an estimate in progress.

        From a run on another kind of device, u continues with other numbers, with a warning.
        """
        super().load_state_dict(state_dict)
        self.num_updates = state_dict["num_updates"]
        set_generator_state(self.generator, state_dict["generator"].cpu(), "u of SophiaH")
        self.probe, self.hessian_buffer = [], []
