"""The task gradients that feed a projection: J, the norm, clipping, the logged weights."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from optimizers.projections import GradVac, PCGrad, PlainSum
from optimizers.task_gradients import SummedGradients, TaskGradients, clip_factor
from options.task_table import built_in_tasks

TASKS = built_in_tasks()


class Toy(nn.Module):
    """Two shared parameters, the second used by the first task only, and one head per task."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.ParameterList(
            [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.ones(2))]
        )
        self.heads = nn.ParameterDict({name: nn.Parameter(torch.randn(2)) for name in TASKS})

    def loss(self, name: str, x: torch.Tensor) -> torch.Tensor:
        h = x @ self.shared[0] + (self.shared[1] if name == "sst" else 0)
        return (h * self.heads[name]).tanh().sum()


HALVES = {"first": slice(0, 6), "second": slice(6, 8)}  # of Toy's shared parameters


def gradients(feeder, model: Toy, inputs: dict, parts: int = 1) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for name, x in inputs.items():
        for part in x.chunk(parts):
            feeder.backward(TASKS[name], model.loss(name, part))
    feeder.combine(feeder.measure(model).tolist(), 0)
    named = model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.fixture
def toy_inputs():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(6, 3, generator=generator) for name in TASKS}


def test_collecting_j_changes_nothing_by_itself(toy_inputs):
    """The sum of J's rows equals what backward passes add up; heads keep their own gradient."""
    model = Toy()
    plain = gradients(SummedGradients(), model, toy_inputs)
    feeder = TaskGradients(PlainSum(3), list(model.shared), list(TASKS), HALVES)
    for parts in (1, 2, 4):  # uneven: 6 rows in 4 parts
        for _ in range(2):  # J does not remember the last update
            torch.testing.assert_close(gradients(feeder, model, toy_inputs, parts), plain)


def test_j_holds_each_tasks_gradient_and_zeros_where_it_touches_nothing(toy_inputs):
    seen, grams = [], []

    def observe(inner):
        seen.append(feeder.J.clone())
        grams.append(inner)

    model = Toy()
    feeder = TaskGradients(PCGrad(3), list(model.shared), list(TASKS), HALVES, observe)
    projected = gradients(feeder, model, toy_inputs)
    [J] = seen
    assert J.shape == (3, 8)
    parts = [J[:, :6].double(), J[:, 6:].double()]
    torch.testing.assert_close(grams[0], torch.stack([part @ part.T for part in parts]))
    for row, name in enumerate(TASKS):
        own = torch.autograd.grad(
            model.loss(name, toy_inputs[name]), list(model.shared), allow_unused=True
        )
        own = [torch.zeros_like(p) if g is None else g for g, p in zip(own, model.shared)]
        torch.testing.assert_close(J[row], torch.cat([g.flatten() for g in own]))
    expected = PCGrad(3)(J)
    torch.testing.assert_close(
        torch.cat([projected["shared.0"].flatten(), projected["shared.1"]]), expected
    )
    plain = gradients(SummedGradients(), model, toy_inputs)
    assert all(torch.equal(projected[n], plain[n]) for n in plain if n.startswith("heads"))
    seen.clear()
    gradients(feeder, model, {"sts": toy_inputs["sts"]})
    assert not seen[0][:2].any() and seen[0][2].any()


@pytest.mark.parametrize("clip", [0, 0.5, 100])
@pytest.mark.parametrize("by_group", [False, True])
def test_the_norm_and_the_clipping_are_those_of_all_gradients(toy_inputs, by_group, clip):
    """Both follow from the Gramian, which the host has read, and from the heads' norm."""
    found = []
    for limit in (0, clip):
        model = Toy()
        projection = GradVac(3, groups=HALVES if by_group else None)
        feeder = TaskGradients(projection, list(model.shared), list(TASKS), HALVES)
        for name, x in toy_inputs.items():
            feeder.backward(TASKS[name], model.loss(name, x))
        norm = feeder.combine(feeder.measure(model).tolist(), limit)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert norm == pytest.approx(float(found[0].norm()), rel=1e-5) and norm > 1
    scale = min(1, clip / norm) if clip else 1
    torch.testing.assert_close(found[1], scale * found[0])


@pytest.mark.parametrize("clip", [0, 0.5])
def test_the_logged_weights_are_those_of_the_projection(toy_inputs, clip):
    """Before clipping and without a weighting's factors: least squares recover them from both."""
    model = Toy()
    feeder = TaskGradients(PCGrad(3), list(model.shared), list(TASKS), HALVES)
    for name, x in toy_inputs.items():
        feeder.backward(TASKS[name], model.loss(name, x))
    factors = torch.tensor([0.5, 2.0, 3.0])
    feeder.scale(factors)
    rows = factors[:, None] * feeder.J  # [T, P]
    norm = feeder.combine(feeder.measure(model).tolist(), clip)
    update = torch.cat([p.grad.flatten() for p in model.shared])
    weights = torch.linalg.lstsq(rows.T, update[:, None]).solution[:, 0] / (clip / norm or 1)
    assert feeder.logged == pytest.approx(dict(zip(TASKS, weights.tolist())), rel=1e-4)
    assert min(feeder.logged.values()) > 1.1  # the tasks conflict, so this is no plain sum


class RecordingGradVac(GradVac):
    """Keeps the weights [G, T] of its last update."""

    def weights(self, inner, orders):
        self.last = super().weights(inner, orders)
        return self.last


def test_with_groups_the_logged_weights_are_their_mean(toy_inputs):
    model, projection = Toy(), RecordingGradVac(3, groups=HALVES)
    feeder = TaskGradients(projection, list(model.shared), list(TASKS), HALVES)
    gradients(feeder, model, toy_inputs)
    assert projection.last.shape == (2, 3) and not torch.equal(*projection.last)
    assert list(feeder.logged) == list(TASKS)
    assert list(feeder.logged.values()) == pytest.approx(projection.last.mean(0).tolist())


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_plain_sum_logs_no_weights(toy_inputs, has_rows):
    model = Toy()
    feeder = SummedGradients()
    if has_rows:
        feeder = TaskGradients(PlainSum(3), list(model.shared), list(TASKS), HALVES)
    gradients(feeder, model, toy_inputs)
    assert feeder.logged == {} and feeder.logged_names == []


def test_a_gradient_that_is_not_finite_has_a_norm_that_is_not(toy_inputs):
    for value in (torch.inf, torch.nan):
        model = Toy()
        feeder = TaskGradients(PCGrad(3), list(model.shared), list(TASKS), HALVES)
        for name, x in toy_inputs.items():
            feeder.backward(TASKS[name], model.loss(name, x))
        feeder.J[1, 3] = value
        assert not math.isfinite(feeder.combine(feeder.measure(model).tolist(), 1.0))


def test_the_factor_of_clipping_is_torchs_to_the_bit():
    """Computed on the host alone; torch's comes from the gradient of a single number."""
    norms = torch.linspace(0.3, 60, 2001).tolist()
    for clip, norm in product((0.5, 1.0, 3.7), norms):
        one = torch.nn.Parameter(torch.ones(()))
        one.grad = torch.ones(())
        torch.nn.utils.clip_grads_with_norm_(one, clip, torch.tensor(norm))
        assert clip_factor(norm, clip) == one.grad.item(), (norm, clip)
