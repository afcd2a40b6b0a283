"""SophiaH: momentum divided by a running estimate of the Hessian's diagonal, clipped."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer


class NoCurvature:
    """What an optimizer without second derivatives needs of a training step: nothing."""

    hessian_due = False
    hessian_buffer: list[Tensor] = []

    def twice_differentiable(self) -> nullcontext:
        """Return a context that changes nothing."""
        return nullcontext()

    def accumulate_hessian(self, loss: Tensor) -> None:
        """Do nothing."""

    def hessian_norms(self) -> list[Tensor]:
        """Return no norm."""
        return []


class SophiaH(Optimizer):
    """Sophia with Hutchinson's estimator (Liu et al., ICLR 2024, arXiv:2305.14342).

    m ← β1 m + (1 − β1) g; at updates 0, k, 2k …: h ← β2 h + (1 − β2) ĥ, ĥ = u ⊙ (∇²L u),
    u ~ N(0, I); θ ← θ − lr·wd·θ; θ ← θ − lr·clip(m / max(γh, ε), ±1). Where h is zero or negative,
    the step is lr·sign(m).

    On an update that is `hessian_due`, give each of its weighted losses to `accumulate_hessian`
    before the backward pass:

        if optimizer.hessian_due:
            optimizer.accumulate_hessian(loss)
        loss.backward()

    betas: (β1, β2). gamma: γ; the share of coordinates that are not clipped grows with it.
    hessian_interval: k, in updates; an estimate costs about two more backward passes.
    `hessian_buffer` holds ĥ so far, a tensor for each trainable parameter in the order of the
    parameter groups, empty between updates; workers may average it in place before `step`. u comes
    from `generator`, seeded with 0; seed it alike in every worker. State by parameter: `exp_avg`
    (m) and `hessian` (h), in the parameter's dtype, which is meant to be float32.
    Raises ValueError for a hyper-parameter out of range.
    """

    def __init__(
        self,
        params: Iterable,
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
        # On the CPU, so that every device and worker draws the same numbers.
        self.generator = torch.Generator().manual_seed(0)
        self.probe: list[Tensor] = []  # this update's u
        self.hessian_buffer: list[Tensor] = []

    @property
    def hessian_due(self) -> bool:
        """Whether the coming `step` is one that takes a new Hessian estimate."""
        return self.num_updates % self.hessian_interval == 0

    def trainable_parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def accumulate_hessian(self, loss: Tensor) -> None:
        """Add u ⊙ (∇²loss u) to `hessian_buffer`; nothing on an update that is not due.

        loss: [], one of the update's terms, computed in float32 with an attention that can be
        differentiated twice. u is the same for all terms of an update, so that the buffer is
        exactly the summed loss's estimate. The loss's graph is kept for its backward pass; the
        gradients' own graph is freed on return.
        """
        if not self.hessian_due:
            return
        params = self.trainable_parameters()
        if not self.hessian_buffer:
            draws = [torch.randn(p.shape, dtype=p.dtype, generator=self.generator) for p in params]
            self.probe = [u.to(p.device) for u, p in zip(draws, params)]
            self.hessian_buffer = [torch.zeros_like(p) for p in params]
        grads = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        # None: the loss does not touch the parameter. Without a graph: it is linear in it.
        curved = [(g, u) for g, u in zip(grads, self.probe) if g is not None and g.requires_grad]
        if not curved:
            return
        outputs, probe = zip(*curved)
        products = torch.autograd.grad(
            outputs, params, probe, retain_graph=True, allow_unused=True
        )  # ∇²loss u
        for total, u, product in zip(self.hessian_buffer, self.probe, products):
            if product is not None:
                total.addcmul_(u, product)

    @contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """On a due update, run kernels that have second derivatives inside the block.

        The fused attention and cuDNN's LSTM have none.
        """
        if not self.hessian_due:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield

    def hessian_norms(self) -> list[Tensor]:
        """Return the norm [] of this update's estimate, not finite if any of it is not.

        The list is empty without an estimate.
        """
        if not self.hessian_buffer:
            return []
        return [torch.stack(torch._foreach_norm(self.hessian_buffer)).norm()]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient, and forget this update's estimate.

        A due update that was given no loss keeps the h of before. The first one with a gradient has
        none to keep: AssertionError.
        """
        estimates = dict(zip(self.trainable_parameters(), self.hessian_buffer))
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                assert (
                    estimates or self.state or not self.hessian_due
                ), "no Hessian estimate: call accumulate_hessian(loss) where hessian_due"
                self.update_group(group, params, [estimates[p] for p in params if estimates])
        self.probe, self.hessian_buffer = [], []
        self.num_updates += 1

    def update_group(self, group: dict, params: list[Tensor], estimates: list[Tensor]) -> None:
        """One update of `params`; estimates: their ĥ, or empty to keep h."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        states = [self.state_of(p) for p in params]
        exp_avgs = [state["exp_avg"] for state in states]
        hessians = [state["hessian"] for state in states]
        torch._foreach_lerp_(exp_avgs, [p.grad for p in params], 1 - beta1)
        if estimates:
            torch._foreach_lerp_(hessians, estimates, 1 - beta2)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        denominators = torch._foreach_mul(hessians, group["gamma"])
        torch._foreach_clamp_min_(denominators, group["eps"])
        steps = torch._foreach_div(exp_avgs, denominators)
        torch._foreach_clamp_min_(steps, -1.0)
        torch._foreach_clamp_max_(steps, 1.0)
        torch._foreach_add_(params, steps, alpha=-lr)

    def state_of(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["exp_avg"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
        return state

    def state_dict(self) -> dict:
        """PyTorch's, the update counter and the generator; between updates that is all."""
        own = {"num_updates": self.num_updates, "generator": self.generator.get_state()}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.num_updates = state_dict["num_updates"]
        self.generator.set_state(state_dict["generator"].cpu())
        self.probe, self.hessian_buffer = [], []
