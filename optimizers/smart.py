"""SMART: smoothness-inducing adversarial regularization and Bregman proximal point steps (Jiang et
al., ACL 2020, arXiv:1911.03437).

Axis letters: B batch, L tokens, H hidden, C outputs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call

from models import MultitaskBert
from tasks import Batch, Task, num_examples, own_rows

RandomState = list[Tensor]  # of the CPU, and of the model's GPU where it is on one


class PlainForward:
    """No regularization: the model's own forward pass, and no penalty."""

    def __init__(self, model: MultitaskBert) -> None:
        self.model = model

    def logits(self, task: Task, batch: Batch) -> Tensor:
        """Return logits [B, C]."""
        return self.model(task, batch)

    def penalty(self, task: Task, batch: Batch, logits: Tensor) -> float:
        """Return 0."""
        return 0.0

    def after_step(self, progress: float) -> None:
        """Do nothing: there is no average of the weights."""

    def state_dict(self) -> dict:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Load nothing."""


class Smart:
    """A penalty on how far a task's output moves with its input (Ω), and with the weights.

    Ω is the mean over examples of the task's divergence ℓ between the outputs for the embeddings x
    and for x + δ. δ is one step of gradient ascent on that divergence:

        ν ~ N(0, noise_std²)      ĝ = g / ‖g‖∞, g = ∇_ν ℓ(f(x), f(x + ν))
        δ = radius · (ν + step_size · ĝ) / ‖ν + step_size · ĝ‖∞

    with norms over one token's H numbers: every real token moves by exactly `radius` in its largest
    one, a token without a gradient along its noise; padding stays. The proximal term is ℓ between
    the outputs of the weights θ and of their running average θ̃. All passes of a batch use the same
    dropout masks.

    weight: λ, of Ω. radius: in units of the embeddings; in minilm-l6 their root mean square is 0.5.
    mu: of the proximal term; 0 turns it off and keeps no average. noise_std, step_size: as in the
    paper's code. The generator draws ν and nothing else, on the CPU: seed it; None makes one with
    seed 0. Construct it once the model has its first weights and its device: θ̃ starts from them.
    Raises ValueError for a negative number, and for noise_std 0, where there is no gradient.

    Deviations from the paper: its radius, 1e-5, makes Ω about 1e-11; after the scaling by step_size
    ĝ outweighs the noise here, where the authors' code goes mostly along the noise. One ascent step
    (theirs too), and one update of θ a batch.
    """

    def __init__(
        self,
        model: MultitaskBert,
        weight: float = 1.0,
        radius: float = 1.0,
        mu: float = 0.0,
        noise_std: float = 1e-5,
        step_size: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        if min(weight, radius, mu, step_size) < 0 or noise_std <= 0:
            raise ValueError(
                f"{weight=}, {radius=}, {mu=}, {step_size=}, {noise_std=}: expected no negative "
                "number, and noise_std > 0"
            )
        self.model = model
        self.weight, self.radius, self.mu = weight, radius, mu
        self.noise_std, self.step_size = noise_std, step_size
        self.generator = generator or torch.Generator().manual_seed(0)
        self.device = next(model.parameters()).device
        # Frozen parameters are in it too: one that is unfrozen later has its average by then.
        weights = model.named_parameters() if mu else ()
        self.average = {name: p.detach().float().clone() for name, p in weights}

    def logits(self, task: Task, batch: Batch) -> Tensor:
        """The plain forward pass, logits [B, C]; `penalty` for this batch comes next.

        Keeps the embeddings and the random states before and after them for the passes to come.
        """
        self.before_embedding = self.random_state()
        self.x = self.model.embed(batch)  # [B, L, H]; hierarchical: [B, S, W, H]
        self.after_embedding = self.random_state()
        return self.model(task, batch, embeddings=self.x)

    def penalty(self, task: Task, batch: Batch, logits: Tensor) -> Tensor:
        """weight · Ω + mu · proximal term [], for what `logits` has just returned for this batch.

        Ω reaches the weights through both outputs and through x, but not through δ. No random
        number is drawn from torch's default generators, as far as the caller can tell.
        """
        delta = self.perturbation(task, batch, logits)
        with self.replay(self.after_embedding):
            perturbed = self.model(task, batch, embeddings=self.x + delta)
        penalty = self.weight * task.divergence(logits, perturbed).mean()  # [B] -> []
        if self.mu:
            with self.replay(self.before_embedding), torch.no_grad():
                previous = functional_call(self.model, self.average, (task, batch))
            penalty = penalty + self.mu * task.divergence(logits, previous).mean()
        return penalty

    def perturbation(self, task: Task, batch: Batch, logits: Tensor) -> Tensor:
        """δ [B, L, H] in float32, without a graph; draws ν.

        The pass is in float32 whatever the caller's autocast says: at the distance ν, outputs
        differ by about 1e-6, which bfloat16 cannot tell from nothing.
        """
        x = self.x.detach().float()
        mask = batch["attention_mask"][..., None]  # [B, L, 1]
        assert x.shape[:-1] == mask.shape[:-1], f"{x.shape=} of another batch than {mask.shape=}"
        noise = self.draw_noise(x, batch) * mask
        start = (x + noise).requires_grad_()
        is_amp = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            if is_amp:  # bfloat16 logits are further from these than the perturbed ones
                with self.replay(self.after_embedding), torch.no_grad():
                    logits = self.model(task, batch, embeddings=x)
            with self.replay(self.after_embedding):
                perturbed = self.model(task, batch, embeddings=start)
            # No example reads another, so the gradient of the sum is each one's own. With `inputs`
            # no weight's gradient is computed.
            divergence = task.divergence(*distinct(logits.detach(), perturbed)).sum()
            [gradient] = torch.autograd.grad(divergence, inputs=[start])
        direction = noise + self.step_size * unit_tokens(gradient)
        return self.radius * unit_tokens(direction) * mask

    def draw_noise(self, x: Tensor, batch: Batch) -> Tensor:
        """ν [B, L, H]: drawn for the rows of all workers, so that their number changes nothing."""
        num_sequences = len(x)
        if "is_own" in batch:
            num_sequences = len(x) // len(batch["labels"]) * num_examples(batch)
        noise = torch.randn(num_sequences, *x.shape[1:], generator=self.generator).to(x.device)
        if "is_own" in batch:
            noise = own_rows(noise, batch["is_own"])
        return noise * self.noise_std

    def after_step(self, progress: float) -> None:
        """Move θ̃ toward θ, after `optimizer.step`. progress: share of all updates done."""
        beta = 0.99 if progress < 0.1 else 0.999
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.model.get_parameter(name).float(), 1 - beta)

    def random_state(self) -> RandomState:
        states = [torch.get_rng_state()]
        return states + [torch.cuda.get_rng_state(device) for device in self.devices]

    @contextmanager
    def replay(self, states: RandomState) -> Iterator[None]:
        """Draw random numbers from `states` on, and leave the present states, and the model's
        statistics, as they are."""
        with torch.random.fork_rng(self.devices), self.model.without_statistics():
            torch.set_rng_state(states[0])
            for device, state in zip(self.devices, states[1:]):
                torch.cuda.set_rng_state(state, device)
            yield

    @property
    def devices(self) -> list[torch.device]:
        """The model's GPU, if any."""
        return [self.device] if self.device.type == "cuda" else []

    def state_dict(self) -> dict:
        return {"generator": self.generator.get_state(), "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        self.generator.set_state(state["generator"])
        for name, average in self.average.items():
            average.copy_(state["average"][name])


def distinct(logits: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor]:
    """Both [B, C] as float64, so far apart that their divergence has a gradient.

    A small ν often moves a large output by less than its last bit. An output that has not moved is
    taken to have moved by that bit: the sign may be wrong then, but both signs diverge alike. And
    in float32, differences of probabilities near 1 are lost.
    """
    logits = logits.float()
    above = torch.nextafter(logits, torch.full_like(logits, torch.inf))
    return torch.where(logits == perturbed, above, logits).double(), perturbed.double()


def unit_tokens(x: Tensor) -> Tensor:
    """[B, L, H] divided by each token's ∞-norm; a token of zeros stays zero."""
    norm = x.abs().amax(-1, keepdim=True)  # [B, L, 1]
    return x / norm.clamp(min=torch.finfo(x.dtype).tiny)
