"""SMART: smoothness-inducing adversarial regularization and Bregman proximal point optimization.

Jiang et al., ACL 2020, arXiv:1911.03437. Axis letters: B batch, L tokens, H hidden, C outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from models import MultitaskBert
from optimizers.kernels import cudnn_switches, rounds_float32
from optimizers.noise import normal_noise
from optimizers.replay import Replay
from optimizers.stateless import Stateless
from runtime.saved_values import check_number
from tasks import Batch, Task

# The ascent takes its gradient at x + 100 ν. The direction is that at x + ν while the outputs are
# linear in ν, and the change is large enough for float32.
PROBE = 100


class PlainForward(Stateless):
    """The plain form, without regularization: the model's own forward pass and no penalty.

    Args:
        model: the model.
    """

    def __init__(self, model: MultitaskBert) -> None:
        self.model = model

    def logits(self, task: Task, batch: Batch) -> Tensor:
        """Return the model's logits [B, C]."""
        logits: Tensor = self.model(task, batch)
        return logits

    def penalty(self, task: Task, batch: Batch, logits: Tensor) -> Tensor | float:
        """Return 0."""
        return 0.0

    def after_step(self, progress: float) -> None:
        """Do nothing."""


class Smart:
    """SMART's two penalties on a loss: on the effect of small changes of input, and of weights.

    Smoothness: Ω is the mean over examples of the task's divergence ℓ between the outputs for the
    embeddings x and for x + δ. Each real token moves by exactly `radius`, measured by the largest
    of its H numbers; padding does not move. The direction of δ is one step of gradient ascent on ℓ
    from a random start:

        ν ~ N(0, noise_std²)
        ĝ = g / ‖g‖∞                                 with g = ∇ ℓ(f(x), f(x + 100 ν))
        δ = radius · (ν + step_size · ĝ) / ‖ν + step_size · ĝ‖∞

    Norms are per token. A token with g = 0 moves along its noise.

    Proximal point: ℓ between the outputs of the weights θ and of their running average θ̃ ← β θ̃ +
    (1−β) θ, with β = 0.99 during the first tenth of the run and 0.999 after it, as in the paper.

    The outputs that a penalty compares have the same dropout masks, so that without any change of
    input and weights both penalties are 0. So have the two outputs of the ascent. On a CPU all
    passes share their masks. On a GPU under autocast, the kernels of the float32 ascent may draw
    others than those of bfloat16 from the same random state; δ is then the direction for another
    draw of the masks. ν does not come from a generator, see `normal_noise`: micro-batches, workers
    and the kind of device do not change it.

    Deviations: the paper's radius of 1e-5 makes Ω about 1e-11, without any effect, so a useful
    radius is larger. The paper takes g at x + ν, where outputs change by little more than float32's
    last bit: its sign would be that of a rounding error. ĝ is normalised before it is added to ν
    and, at the default `step_size`, outweighs it; the authors' code adds the gradient as it is, so
    that δ mostly follows the noise. There is one ascent step, as in the authors' code, and one
    update of θ per batch.

    Args:
        model: the model, with its initial weights and on its device: θ̃ starts as a copy of them.
        weight: λ, the weight of Ω, at least 0. Paper: 1.
        radius: the size of δ, at least 0, in units of the embeddings. For scale: the root mean
            square of minilm-l6's embeddings is 0.5. Paper: 1e-5.
        mu: μ, the weight of the proximal term, at least 0. 0 is off and keeps no average. Paper: 1.
        noise_std: the standard deviation of ν, above 0. Default: the value of the authors' code.
        step_size: the size of the ascent step, at least 0. Default: the value of the authors' code.
        seed: of ν.

    Attributes:
        num_rows: the rows that ν has been drawn for, those of all workers together.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        model: MultitaskBert,
        weight: float,
        radius: float,
        mu: float,
        noise_std: float = 1e-5,
        step_size: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if min(weight, radius, mu, step_size) < 0 or noise_std <= 0:
            raise ValueError(
                f"{weight=}, {radius=}, {mu=}, {step_size=}, {noise_std=}: expected no negative "
                "number, and noise_std > 0"
            )
        self.model, self.passes = model, Replay(model)
        self.weight, self.radius, self.mu = weight, radius, mu
        self.noise_std, self.step_size = noise_std, step_size
        self.seed, self.num_rows = seed, 0
        # Frozen parameters are included: they may be unfrozen later and need their average then.
        # Those under adapters never are.
        weights = [(n, p) for n, p in model.named_parameters() if mu and n not in model.base_names]
        self.average = {name: p.detach().float().clone() for name, p in weights}  # θ̃

    def logits(self, task: Task, batch: Batch) -> Tensor:
        """Return the model's logits [B, C]. Call `penalty` for the same batch next.

        Keeps the embeddings, and the random states before and after them, for the other passes.
        """
        self.before_embedding = self.passes.random_state()
        self.x = self.model.embed(batch)  # [B, L, H]; hierarchical: [B, S, W, H]
        self.after_embedding = self.passes.random_state()
        logits: Tensor = self.model(task, batch, embeddings=self.x)
        return logits

    def penalty(self, task: Task, batch: Batch, logits: Tensor) -> Tensor:
        """Return weight · Ω + mu · proximal term [].

        The gradient of Ω reaches the weights through both outputs and through x, but not through δ.
        The states of torch's default generators are the same afterwards as before.

        Args:
            task: the task.
            batch: the batch of the last call of `logits`.
            logits: what that call returned, [B, C].
        """
        delta = self.perturbation(task, batch, logits)
        with self.passes.replay(self.after_embedding):
            perturbed = self.model(task, batch, embeddings=self.x + delta)
        penalty = self.weight * task.divergence(logits, perturbed).mean()  # [B] -> []
        if self.mu:
            with self.passes.replay(self.before_embedding), torch.no_grad():
                previous = functional_call(self.model, self.average, (task, batch))
            penalty = penalty + self.mu * task.divergence(logits, previous).mean()
        return penalty

    def perturbation(self, task: Task, batch: Batch, logits: Tensor) -> Tensor:
        """Return δ [B, L, H] float32, detached from the graph. Draws ν.

        Runs in float32 even under the caller's autocast, and without TF32: outputs for x and
        x + 100 ν differ by about 1e-4, which both round away. The arguments are those of `penalty`.
        """
        x = self.x.detach().float()
        mask = batch["attention_mask"][..., None]  # [B, L, 1]
        assert x.shape[:-1] == mask.shape[:-1], f"{x.shape=} of another batch than {mask.shape=}"
        noise = self.draw_noise(x, batch, len(logits)) * mask
        start = (x + PROBE * noise).requires_grad_()
        is_amp = torch.is_autocast_enabled(x.device.type)
        is_rounded = is_amp or rounds_float32(self.model, x.device)
        with torch.autocast(x.device.type, enabled=False), cudnn_switches(allow_tf32=False):
            if is_rounded:  # the rounding error of such logits exceeds the effect of 100 ν
                with self.passes.replay(self.after_embedding), torch.no_grad():
                    logits = self.model(task, batch, embeddings=x)
            with self.passes.replay(self.after_embedding):
                perturbed = self.model(task, batch, embeddings=start)
            # No example reads another one, so the gradient of the sum holds each example's own.
            # Because of `inputs`, no gradient of a weight is computed.
            divergence = task.divergence(*distinct(logits.detach(), perturbed)).sum()
            [gradient] = torch.autograd.grad(divergence, inputs=[start])
        direction = noise + self.step_size * unit_tokens(gradient)
        return self.radius * unit_tokens(direction) * mask

    def draw_noise(self, x: Tensor, batch: Batch, num_rows: int) -> Tensor:
        """Draw ν in the shape of x, [B, L, H], or [2B, L, H] for pairs under `bi`.

        The numbers of a token depend on how many rows came before its own and on its place in the
        row. `num_rows` is B.
        """
        positions = torch.arange(num_rows, device=x.device)  # [B] in the whole batch
        is_own = batch.get("is_own")  # [rows of the whole batch], only with several workers
        if is_own is not None:
            positions = is_own.byte().sort(descending=True, stable=True).indices[:num_rows]
        shape = (len(x) // num_rows, *x.shape[1:])  # of a row: 1 or 2 sequences, L, H
        noise = normal_noise(self.seed, positions + self.num_rows, shape)  # [B, 1 or 2, L, H]
        self.num_rows += num_rows if is_own is None else len(is_own)
        return noise.transpose(0, 1).flatten(0, 1) * self.noise_std  # first sequences come first

    def after_step(self, progress: float) -> None:
        """Move the average θ̃ toward the weights θ, after `optimizer.step`.

        Args:
            progress: share of the run's updates that are done, in [0, 1].
        """
        beta = 0.99 if progress < 0.1 else 0.999
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.model.get_parameter(name).float(), 1 - beta)

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows ν has been drawn for, and the average of the weights."""
        return {"num_rows": self.num_rows, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: the number of rows is negative.
        """
        check_number(state["num_rows"], 0, 2**62, "num_rows")
        self.num_rows = state["num_rows"]
        for name, average in self.average.items():
            average.copy_(state["average"][name])


def distinct(logits: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of logits [B, C] as float64, with equal entries moved apart.

    A small ν often changes a large output by less than the last bit of float32. Equal outputs would
    give a zero gradient, so such an entry of `logits` is moved up by its last bit. The sign of the
    change may then be wrong, but ℓ grows alike in both directions. float64 keeps the differences
    between probabilities near 1.
    """
    logits = logits.float()
    above = torch.nextafter(logits, torch.full_like(logits, torch.inf))
    return torch.where(logits == perturbed, above, logits).double(), perturbed.double()


def unit_tokens(x: Tensor) -> Tensor:
    """Return x [B, L, H] with each token divided by its ∞-norm; a token of zeros stays zero."""
    norm = x.abs().amax(-1, keepdim=True)  # [B, L, 1]
    return x / norm.clamp(min=torch.finfo(x.dtype).tiny)
