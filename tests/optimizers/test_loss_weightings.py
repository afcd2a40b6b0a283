"""Loss weightings against torchjd's and, for GradNorm, against the paper's equations."""

from argparse import Namespace
from functools import partial

import pytest
import torch
from torch import nn

from optimizers import LOSS_WEIGHTINGS
from optimizers.dwa import DynamicWeightAverage
from optimizers.famo import Famo
from optimizers.gradnorm import LEAST_WEIGHT, GradNorm
from optimizers.imtl_l import ImtlL
from optimizers.loss_weighting import LearnedWeighting, Unweighted
from optimizers.projections import PlainSum
from optimizers.rlw import RandomLossWeighting
from optimizers.task_gradients import TaskGradients
from optimizers.uncertainty import Uncertainty
from options.legal import NEED_ALL_TASKS
from options.task_table import built_in_tasks
from runtime import checkpoint
from runtime.saved_values import check_like

TASKS = built_in_tasks()

scalarization = pytest.importorskip("torchjd.scalarization")

TASK_LIST = list(TASKS.values())
T = len(TASK_LIST)
CPU = torch.device("cpu")
NUM_SEQUENCES, NUM_UPDATES, LR = 100, 8, 0.025
CLOSE = {"rtol": 2e-4, "atol": 1e-5}


class Heads(nn.Module):
    """One shared vector and one vector per task, each reached by its task's loss alone."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(6))
        self.own = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in TASKS})

    def task_parameters(self, task):
        return [self.own[task.name]]


def batch_of(size: int) -> dict[str, torch.Tensor]:
    return {"labels": torch.zeros(size)}


UPDATE = [(task, batch_of(4), 1.0) for task in TASK_LIST]


def sequence(seed: int, length: int = NUM_UPDATES) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random losses [T] and gradients [T, 6 + 2] of an update each, of different scales."""
    generator = torch.Generator().manual_seed(seed)
    scales = 10 ** torch.randn(T, generator=generator)
    draw = partial(torch.rand, generator=generator)
    return [
        (scales * (0.2 + draw(T)), scales[:, None] * torch.randn(T, 8, generator=generator))
        for _ in range(length)
    ]


class Loop:
    """The part of the engine's update that concerns a weighting, on losses that are given.

    The loss of task t is ℓ_t + θ · g_t at θ = 0, so its value is ℓ_t and its gradient g_t.
    """

    def __init__(self, weighting: Unweighted, model: Heads | None = None) -> None:
        self.weighting = weighting
        self.model = model or Heads()
        groups = {"all": slice(0, 6)}
        self.feeder = TaskGradients(PlainSum(T), [self.model.shared], list(TASKS), groups)
        learned = weighting.parameters or [nn.Parameter(torch.zeros(()))]
        self.optimizer = torch.optim.AdamW(learned, lr=LR, weight_decay=0.0)

    def loss(self, losses: torch.Tensor, gradients: torch.Tensor, task) -> torch.Tensor:
        row = TASK_LIST.index(task)
        shared, own = gradients[row].split([6, 2])
        reached = self.model.shared @ shared + self.model.own[task.name] @ own
        return losses[row] + reached

    def backward(self, losses, gradients, update=UPDATE) -> torch.Tensor:
        """One update up to the optimizer's step; returns the gradient of the shared vector."""
        self.optimizer.zero_grad()
        self.model.zero_grad()
        parts = []
        for task, _, weight in self.weighting.weighted(update):
            loss = self.loss(losses, gradients, task)
            self.feeder.backward(task, weight * loss)
            parts.append(loss.detach())
        self.weighting.observe(update, torch.stack(parts), self.feeder)
        self.feeder.combine(self.feeder.measure(self.model).tolist(), 0)
        return self.model.shared.grad

    def step(self) -> None:
        self.optimizer.step()
        self.weighting.after_step()

    def check(self, losses, gradients, weights: torch.Tensor) -> None:
        """Run an update up to the step, and compare every gradient with that of these weights."""
        found = self.backward(losses, gradients)
        torch.testing.assert_close(self.weighting.weights, weights, **CLOSE)
        torch.testing.assert_close(found, weights @ gradients[:, :6], rtol=2e-4, atol=1e-3)
        for row, name in enumerate(TASKS):
            own = self.model.own[name].grad
            torch.testing.assert_close(own, weights[row] * gradients[row, 6:], **CLOSE)


def weights_of(scalarizer, losses: torch.Tensor) -> torch.Tensor:
    """The weights of a scalarizer of torchjd: the gradient of what it makes of the losses."""
    losses = losses.clone().requires_grad_()
    scalar = scalarizer(losses)
    scalar.backward()
    return losses.grad


def test_uncertainty_equals_torchjd_with_twice_the_losses_of_classifications():
    """torchjd's form is that of regressions, ℓ / (2 s²) + log s, for every loss."""
    for seed in range(NUM_SEQUENCES):
        factors = torch.tensor([1.0 if task.label_type is float else 2.0 for task in TASK_LIST])
        oracle = scalarization.UW(T)
        optimizer = torch.optim.AdamW(oracle.parameters(), lr=LR, weight_decay=0.0)
        loop = Loop(Uncertainty(TASK_LIST, CPU))
        for losses, gradients in sequence(seed):
            optimizer.zero_grad()
            expected = weights_of(lambda values: oracle(factors * values), losses)
            loop.check(losses, gradients, expected)
            loop.step()
            optimizer.step()


def test_uncertainty_starts_from_the_likelihood_of_each_kind_of_task():
    weighting = Uncertainty(TASK_LIST, CPU)
    weighting.prepare()
    assert weighting.weights.tolist() == [1.0, 1.0, 0.5]


def test_imtl_l_equals_torchjd():
    for seed in range(NUM_SEQUENCES):
        oracle = scalarization.IMTLL(T)
        optimizer = torch.optim.AdamW(oracle.parameters(), lr=LR, weight_decay=0.0)
        loop = Loop(ImtlL(TASK_LIST, CPU))
        for losses, gradients in sequence(seed):
            optimizer.zero_grad()
            loop.check(losses, gradients, weights_of(oracle, losses))
            loop.step()
            optimizer.step()


def test_rlw_equals_torchjd_times_the_number_of_tasks():
    """torchjd draws from the global generator."""
    for seed in range(NUM_SEQUENCES):
        loop = Loop(RandomLossWeighting(TASK_LIST, CPU, torch.Generator().manual_seed(seed)))
        torch.manual_seed(seed)
        for losses, gradients in sequence(seed):
            loop.check(losses, gradients, T * weights_of(scalarization.Random(), losses))


def test_dwa_equals_torchjd():
    for seed in range(NUM_SEQUENCES):
        oracle = scalarization.DWA()
        loop = Loop(DynamicWeightAverage(TASK_LIST, CPU))
        for epoch in range(4):
            seen = []
            for losses, gradients in sequence(100 * epoch + seed, length=2):
                loop.check(losses, gradients, weights_of(oracle, losses))
                seen.append(losses)
            oracle.step()
            means = torch.stack(seen).mean(0).tolist()
            loop.weighting.after_epoch(dict(zip(TASKS, means)))


def test_famo_equals_torchjd_times_the_number_of_tasks():
    """The losses after an update are given here; `tests/test_loss_weighting.py` measures them."""
    for seed in range(NUM_SEQUENCES):
        gamma = (1e-3, 2.0)[seed % 2]
        oracle = scalarization.FAMO(T, lr=LR, weight_decay=gamma)
        model = Heads()
        loop = Loop(Famo(TASK_LIST, model, LR, gamma), model)
        updates = sequence(seed)
        for (losses, gradients), (losses_after, _) in zip(updates, updates[1:]):
            loop.check(losses, gradients, T * weights_of(oracle, losses))
            loop.weighting.move(losses_after)
            oracle.update(losses_after)


def gradnorm_of_the_paper(alpha: float):
    """A generator that takes losses and gradients and gives the weights before and after a step.

    It differentiates the paper's objective with autograd, with Ḡ · r^α as a constant.
    """
    weights = torch.ones(T, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=LR)
    first, before = None, None
    while True:
        losses, gradients = yield before
        first = losses if first is None else first
        before = weights.detach().clone()
        norms = (weights[:, None] * gradients).norm(dim=1)
        pace = losses / first / (losses / first).mean()
        constant = (norms.mean() * pace**alpha).detach()
        optimizer.zero_grad()
        (norms - constant).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=LEAST_WEIGHT)
            weights *= T / weights.sum()


def test_gradnorm_follows_the_papers_objective():
    for seed in range(NUM_SEQUENCES):
        alpha = seed / 40
        oracle = gradnorm_of_the_paper(alpha)
        next(oracle)
        loop = Loop(GradNorm(TASK_LIST, CPU, alpha))
        for losses, gradients in sequence(seed):
            expected = oracle.send((losses, gradients[:, :6]))
            loop.check(losses, gradients, expected)
            loop.step()
            assert loop.weighting.values().sum() == pytest.approx(T)


def test_gradnorm_keeps_weights_positive():
    loop = Loop(GradNorm(TASK_LIST, CPU))
    loop.weighting.set_values(torch.tensor([-0.5, 1.0, 2.5]))
    loop.weighting.after_step()
    values = loop.weighting.values()
    assert values.min() > 0 and values.sum() == pytest.approx(T)


def build(name: str, model: Heads) -> Unweighted:
    args = Namespace(seed=3, loss_weighting_lr=LR, gradnorm_alpha=1.5, use_amp=False)
    return LOSS_WEIGHTINGS[name](args, TASK_LIST, model)


METHODS = [name for name in LOSS_WEIGHTINGS if name != "none"]


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_observe_the_losses_of_whole_batches(name):
    """A task's batch of 6 as 1 + 5 gives the weights, gradients and parameters of the whole one."""
    losses, gradients = sequence(1)[0]
    seen = []
    for parts in ((6,), (1, 5)):
        model = Heads()
        loop = Loop(build(name, model), model)
        update = [(task, batch_of(n), n / 6) for task in TASK_LIST for n in parts]
        shared = loop.backward(losses, gradients, update).clone()
        learned = [p.grad.clone() for p in loop.weighting.parameters]
        own = [p.grad for p in model.own.values()]
        seen.append([loop.weighting.weights, shared, *own, *learned])
    torch.testing.assert_close(*seen)


def test_a_tasks_loss_is_the_mean_over_the_examples_of_its_batches():
    first, _, last = TASK_LIST
    update = [(first, batch_of(1), 0.5), (last, batch_of(4), 1.0), (first, batch_of(5), 0.5)]
    means = Uncertainty(TASK_LIST, CPU).task_losses(update, torch.tensor([2.0, 3.0, 8.0]))
    torch.testing.assert_close(means, torch.tensor([7.0, 0.0, 3.0]))


@pytest.mark.parametrize("name", ["uncertainty", "imtl_l"])
def test_a_task_outside_of_an_update_keeps_its_parameter(name):
    model = Heads()
    loop = Loop(build(name, model), model)
    for update in (UPDATE, UPDATE[:1], UPDATE[1:]):
        before = loop.weighting.values()
        loop.backward(*sequence(2)[0], update)
        loop.step()
        names = {task.name for task, _, _ in update}
        moved = (loop.weighting.values() != before).tolist()
        assert moved == [name in names for name in TASKS]


def test_dwa_without_a_tasks_losses_takes_its_rate_as_one():
    weighting = DynamicWeightAverage(TASK_LIST, CPU)
    weighting.after_epoch({"sst": 1.0, "para": 1.0})
    assert weighting.weights.tolist() == [1.0] * T
    weighting.after_epoch({"sst": 0.5, "sts": 1.0})  # para keeps its mean
    rates = torch.tensor([0.5, 1.0, 1.0])
    torch.testing.assert_close(weighting.weights, T * (rates / 2).softmax(0))


def run(loop: Loop, updates) -> torch.Tensor:
    """Train on some updates, with an epoch after each; returns the weights of all."""
    seen = []
    for losses, gradients in updates:
        loop.backward(losses, gradients)
        seen.append(loop.weighting.weights)
        if isinstance(loop.weighting, Famo):
            loop.weighting.move(0.9 * losses)
        else:
            loop.step()
        loop.weighting.after_epoch(dict(zip(TASKS, losses.tolist())))
    return torch.stack(seen)


@pytest.mark.parametrize("name", METHODS)
def test_state_resumes_exactly(name, tmp_path):
    updates = sequence(5)
    whole, part, resumed = (
        Loop(build(name, model), model) for model in (Heads(), Heads(), Heads())
    )
    expected = run(whole, updates)
    run(part, updates[:4])
    state = {"weighting": part.weighting.state_dict(), "optimizer": part.optimizer.state_dict()}
    checkpoint.save(tmp_path / "state.pt", state)
    state = checkpoint.load(tmp_path / "state.pt")
    check_like(state["weighting"], resumed.weighting.state_dict())  # as `restore` checks it
    resumed.weighting.load_state_dict(state["weighting"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    assert torch.equal(run(resumed, updates[4:]), expected[4:])


WRONG = [
    ("dwa", "means", torch.full((2, T), -1.0, dtype=torch.float64)),
    ("gradnorm", "values", torch.tensor([0.0, 1.0, 2.0])),
    ("gradnorm", "first_losses", torch.tensor([-1.0, 1.0, 2.0])),
    ("famo", "exp_avg_sq", torch.tensor([-1.0, 1.0, 2.0])),
    ("famo", "weights", torch.tensor([0.0, 1.0, 2.0])),
    ("famo", "num_steps", -1),
]


@pytest.mark.parametrize("name, key, value", WRONG)
def test_a_wrong_state_is_refused(name, key, value):
    weighting = build(name, Heads())
    with pytest.raises(ValueError, match=key):
        weighting.load_state_dict(weighting.state_dict() | {key: value})


def test_the_table_of_options_names_the_methods_that_need_all_tasks():
    model = Heads()
    needing = [name for name in METHODS if build(name, model).needs_gradients]
    assert needing == list(NEED_ALL_TASKS)


def test_what_is_learned_has_a_flag():
    """--loss_weighting_lr does something for these methods alone, see options/legal.py."""
    model = Heads()
    learned = [n for n in METHODS if isinstance(build(n, model), LearnedWeighting)]
    assert learned == ["uncertainty", "imtl_l", "gradnorm"]
