"""Fast adaptive multitask optimization."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from models import MultitaskBert
from optimizers.loss_weighting import LossWeighting
from optimizers.replay import RandomState, Replay
from optimizers.task_gradients import SummedGradients, TaskGradients
from runtime.workers import exchange
from tasks import Batch, Task, Update, num_examples, to_device

EPSILON = 1e-8  # keeps logarithms and quotients of losses finite
BETAS = (0.9, 0.999)  # of Adam
ADAM_EPSILON = 1e-8


class Famo(LossWeighting):
    """FAMO (Liu et al., NeurIPS 2023, arXiv:2306.03792).

    All losses ℓ are to fall at the same relative rate. Each update follows the gradient of their
    weighted logarithms, and the tasks whose loss it has lowered least count more in the next one:

        weight_t = T · c · z_t / ℓ_t,   z = softmax(ξ),   c = 1 / Σ_t z_t / ℓ_t
        δ_t = log ℓ_t(θ) − log ℓ_t(θ')      with θ' the weights after the update, on the same batch
        ξ ← Adam(ξ, z ⊙ (δ − z·δ) + γ ξ)    δ through the Jacobian of the softmax

    The factor T makes equal weights 1 each. A weight depends on the losses of the whole update, and
    these are known only when all backward passes are over. So the passes use the weights of the
    update before, and `observe` corrects J's rows and the gradients of each task's own parameters.
    A Hessian estimate would not be corrected, so SophiaH does not go with it.

    ξ is not a parameter of the run's optimizer: its step follows the step of the model. As in the
    authors' code, it has an Adam of its own, with a constant rate and γ as L2 decay. The second
    forward pass repeats the dropout masks of the first one, so that δ is the effect of the update
    alone; there, the authors draw new masks. Penalties are not part of ℓ. Under bfloat16, δ has the
    rounding errors of both passes.

    Args:
        tasks: the tasks that the run trains on, all of them in every update.
        model: the model, on its device.
        lr: the rate of ξ. Paper: 0.025.
        gamma: γ. Paper: 0.001.
        use_amp: compute the second pass in bfloat16, as the first one.
    """

    needs_gradients = True

    def __init__(
        self,
        tasks: list[Task],
        model: MultitaskBert,
        lr: float = 0.025,
        gamma: float = 1e-3,
        use_amp: bool = False,
    ) -> None:
        device = next(model.parameters()).device
        super().__init__(tasks, device)
        self.model, self.lr, self.gamma, self.use_amp = model, lr, gamma, use_amp
        self.exchange = exchange()
        self.passes = Replay(model)
        self.losses = torch.zeros_like(self.weights)  # ℓ of this update
        self.logits = torch.zeros_like(self.weights)  # ξ
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.logits), torch.zeros_like(self.logits)
        self.num_steps = 0
        self.update: Update = []
        self.random_states: list[RandomState] = []  # before the forward pass of each batch

    def weighted(self, update: Update) -> Iterator[tuple[Task, Batch, Tensor]]:
        """Yield the batches of an update with their provisional weights [].

        Args:
            update: as the task scheduler gives it.
        """
        self.update, self.random_states = update, []
        for part in super().weighted(update):
            self.random_states.append(self.passes.random_state())
            yield part

    def observe(
        self, update: Update, losses: Tensor, gradients: SummedGradients | TaskGradients
    ) -> None:
        """Give the gradients of every task its final weight.

        Raises:
            AssertionError: there is no J.
        """
        assert isinstance(gradients, TaskGradients), "FAMO needs every task's own gradient"
        self.losses = self.task_losses(update, losses)
        ratios = self.logits.softmax(0) / (self.losses + EPSILON)
        weights = len(ratios) * ratios / ratios.sum()
        corrections = weights / self.weights
        gradients.scale(corrections)
        for task in {task.name: task for task, _, _ in update}.values():
            own = [p.grad for p in self.model.task_parameters(task) if p.grad is not None]
            for gradient in own:
                gradient.mul_(corrections[self.names.index(task.name)])
        self.weights = weights

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the losses again, and move ξ."""
        losses = [self.loss_again(*part) for part in zip(self.update, self.random_states)]
        sizes = [num_examples(batch) for _, batch, _ in self.update]
        losses_after = self.exchange.add_up(losses, sizes, [])  # of all workers
        self.move(self.task_losses(self.update, losses_after))
        self.update, self.random_states = [], []

    def loss_again(self, part: tuple[Task, Batch, float], states: RandomState) -> Tensor:
        """Return the loss [] of a batch under the new weights and the old dropout masks."""
        task, batch, _ = part
        device = self.weights.device
        batch = to_device(batch, device)
        with self.passes.replay(states), torch.autocast(device.type, torch.bfloat16, self.use_amp):
            return task.loss(self.model(task, batch), batch["labels"])

    def move(self, losses_after: Tensor) -> None:
        """Make one step of Adam on ξ, given the losses [T] after the update."""
        delta = (self.losses + EPSILON).log() - (losses_after + EPSILON).log()
        z = self.logits.softmax(0)
        gradient = z * (delta - z @ delta) + self.gamma * self.logits
        self.num_steps += 1
        self.exp_avg.lerp_(gradient, 1 - BETAS[0])
        self.exp_avg_sq.lerp_(gradient.square(), 1 - BETAS[1])
        mean = self.exp_avg / (1 - BETAS[0] ** self.num_steps)
        mean_square = self.exp_avg_sq / (1 - BETAS[1] ** self.num_steps)
        self.logits = self.logits - self.lr * mean / (mean_square.sqrt() + ADAM_EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """Return ξ, its Adam's state, and the weights on which the next update starts."""
        return {
            "logits": self.logits,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "num_steps": self.num_steps,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Raises:
            ValueError: a mean square or the number of steps is negative, or a weight not positive.
        """
        is_wrong = (state["exp_avg_sq"] < 0).any() or (state["weights"] <= 0).any()
        if is_wrong or state["num_steps"] < 0:
            raise ValueError("exp_avg_sq, num_steps or weights holds numbers below their range")
        for name in ("logits", "exp_avg", "exp_avg_sq", "weights"):
            setattr(self, name, state[name].to(self.logits.device, copy=True))
        self.num_steps = state["num_steps"]
