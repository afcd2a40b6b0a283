"""Gradient surgery, compared with known numbers, with torchjd and with hand computations."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optimizers import PROJECTIONS
from optimizers.aggregators import AGGREGATORS, Aggregator
from optimizers.projections import (
    CHUNK,
    GradVac,
    PCGrad,
    add_whole,
    gramians,
    weighted_sum,
)
from runtime import checkpoint
from runtime.errors import InputError
from train_multitask_pal import get_args_parser

aggregation = pytest.importorskip("torchjd.aggregation")

G1, G2 = [1, 2, -1, 0.5], [-1.5, 0.5, 1, -2]
PAIR = torch.tensor([G1, G2], dtype=torch.float64)


def test_pcgrad_of_a_pair():
    expected = [-0.6, 3.4666666667, -0.0666666667, -1.9666666667]
    torch.testing.assert_close(PCGrad(2)(PAIR).tolist(), expected, atol=1e-9, rtol=0)


def test_gradvac_of_a_pair_and_its_target():
    gradvac = GradVac(2)
    gradvac.target[:] = 0.3
    expected = [-0.6801783726, 4.2417242682, -0.120118915, -2.3408324053]
    torch.testing.assert_close(gradvac(PAIR).tolist(), expected, atol=1e-9, rtol=0)
    off_diagonal = gradvac.target[0, 1], gradvac.target[1, 0]
    assert all(abs(float(phi) - 0.2933485163) < 1e-9 for phi in off_diagonal)


def replayed_orders(num_tasks: int, seed: int, drops_self: bool) -> list[list[int]]:
    """The orders that torchjd draws from the global generator at this seed."""
    torch.manual_seed(seed)
    orders = []
    for i in range(num_tasks):
        if drops_self:
            orders.append([j for j in torch.randperm(num_tasks).tolist() if j != i])
        else:
            others = [j for j in range(num_tasks) if j != i]
            orders.append([others[k] for k in torch.randperm(num_tasks - 1).tolist()])
    return orders


def conflicting_rows(seed: int, num_tasks: int) -> torch.Tensor:
    """Random J [T, P] with P of at least 3; for some seeds, two rows are almost opposite."""
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(num_tasks, 3 + seed % 20, dtype=torch.float64, generator=generator)
    if seed % 4 == 0:
        J[1] = -2 * J[0] + 0.1 * J[1]
    return J * (10 ** torch.randn(num_tasks, 1, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5, 6])
def test_pcgrad_equals_torchjd(num_tasks):
    for seed in range(40):
        J = conflicting_rows(seed, num_tasks)
        orders = replayed_orders(num_tasks, seed, drops_self=True)
        torch.manual_seed(seed)
        oracle = aggregation.PCGrad()(J)
        torch.testing.assert_close(PCGrad(num_tasks)(J, orders), oracle, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("num_tasks", [2, 3, 4, 5, 6])
def test_gradvac_equals_torchjd_over_many_updates(num_tasks):
    """Both keep their targets over the updates; β is large, so that the targets matter."""
    ours, oracle = GradVac(num_tasks, beta=0.3), aggregation.GradVac(beta=0.3, eps=0.0)
    for seed in range(40):
        J = conflicting_rows(seed, num_tasks)
        orders = replayed_orders(num_tasks, seed, drops_self=False)
        torch.manual_seed(seed)
        expected = oracle(J)
        torch.testing.assert_close(ours(J, orders), expected, rtol=1e-6, atol=1e-6)


def test_gradvacs_target_rises_on_aligned_gradients():
    gradvac = GradVac(2, beta=0.1)
    J = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    targets = []
    for _ in range(20):
        torch.testing.assert_close(gradvac(J), J.sum(0))  # nothing to turn: cosine above target
        targets.append(float(gradvac.target[0, 1]))
    assert targets == sorted(targets) and targets[-1] > 0.8


def test_gradvac_turns_gradients_that_merely_agree_less_than_usual():
    gradvac = GradVac(2)
    gradvac.target[:] = 0.9
    J = torch.tensor([[1.0, 0.5], [1.0, -0.5]])
    turned = gradvac(J)
    assert turned[0] > J.sum(0)[0]
    torch.testing.assert_close(PCGrad(2)(J), J.sum(0))


def test_gradvac_by_groups_is_gradvac_of_each_part():
    groups = {"first": slice(0, 2), "rest": slice(2, 4)}
    J, orders = PAIR.float(), [[1], [0]]
    together = GradVac(2, groups=groups)
    parts = [GradVac(2), GradVac(2)]
    for _ in range(3):
        expected = torch.cat([part(J[:, g], orders) for part, g in zip(parts, groups.values())])
        torch.testing.assert_close(together(J, orders), expected)
    torch.testing.assert_close(together.target, torch.stack([part.target for part in parts]))


@pytest.mark.parametrize("projection", [PCGrad(3), GradVac(3)], ids=["pcgrad", "vaccine"])
def test_a_task_without_gradient_changes_nothing(projection):
    J = torch.stack([torch.tensor(G1), torch.zeros(4), torch.tensor(G2)])
    alone = type(projection)(2)(PAIR.float())
    torch.testing.assert_close(projection(J), alone)
    if isinstance(projection, GradVac):
        assert not projection.target[1].any() and not projection.target[:, 1].any()


@pytest.mark.parametrize("projection", [PCGrad(4), GradVac(4)], ids=["pcgrad", "vaccine"])
def test_a_thousand_times_the_losses_is_a_thousand_times_the_update(projection):
    J, orders = conflicting_rows(4, 4).float(), projection.draw_orders()
    once = projection(J, orders)
    if isinstance(projection, GradVac):
        projection.target.zero_()
    torch.testing.assert_close(projection(1000 * J, orders), 1000 * once)


def test_beta_outside_its_range_is_refused():
    for beta in (0, 1.1, -1):
        with pytest.raises(ValueError, match="expected 0 < beta <= 1"):
            GradVac(2, beta=beta)


@pytest.mark.parametrize("projection", [PCGrad, GradVac])
def test_state_resumes_exactly_and_orders_are_seeded(projection, tmp_path):
    rows = [conflicting_rows(seed, 4) for seed in range(6)]
    whole = projection(4, generator=torch.Generator().manual_seed(3))
    expected = [whole(J) for J in rows]
    part = projection(4, generator=torch.Generator().manual_seed(3))
    for J in rows[:3]:
        part(J)
    checkpoint.save(tmp_path / "state.pt", part.state_dict())
    resumed = projection(4)
    resumed.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    assert all(torch.equal(resumed(J), e) for J, e in zip(rows[3:], expected[3:]))
    torch.rand(3)  # must not influence the orders
    again = projection(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(again(rows[0]), expected[0])


class Launches(TorchDispatchMode):
    """Counts operations that a device would start, without those that only make views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **kwargs or {})


def test_on_a_gpu_the_number_of_launches_does_not_grow_with_the_parameters():
    """Counted on tensors without numbers: as many for 200 chunks as for 2, and few."""
    counts = []
    for num_chunks in (2, 200):
        J = torch.empty(3, num_chunks * CHUNK + 5, device="meta")
        groups = [slice(0, 7), slice(7, J.shape[1])]
        with Launches() as launches:
            gramians(J, groups)
            weighted_sum(J, torch.ones(2, 3), groups, out=J[0])
        counts.append(launches.count)
    assert counts[0] == counts[1] < 30, counts


def test_rows_longer_than_a_chunk():
    """Check the Gramian and the weighted sum of rows longer than a chunk.

    The sum may also be written over a row.
    """
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(3, 2 * CHUNK + 5, generator=generator)
    groups = [slice(0, CHUNK + 7), slice(CHUNK + 7, 2 * CHUNK + 5)]
    wide = [J[:, group].double() for group in groups]
    expected = torch.stack([part @ part.T for part in wide])
    torch.testing.assert_close(gramians(J, groups), expected, rtol=1e-5, atol=1e-2)
    weights = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    rows = torch.cat([w.double() @ part for w, part in zip(weights, wide)]).float()
    torch.testing.assert_close(weighted_sum(J, weights, groups), rows)
    whole = J.clone()
    for w, group in zip(weights, groups):  # as on a GPU
        add_whole(whole[:, group], w, whole[0, group])
    torch.testing.assert_close(whole[0], rows)
    torch.testing.assert_close(weighted_sum(J, weights, groups, out=J[0]), rows)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_every_projection_keeps_the_scale_of_agreeing_tasks(name, parse):
    """The update of T equal gradients is their sum, so that a learning rate keeps its meaning."""
    for package in AGGREGATORS[name].packages if name in AGGREGATORS else ():
        pytest.importorskip(package)
    args = get_args_parser().parse_args([])
    projection = PROJECTIONS[name](args, 3, {"all": slice(0, 4)})
    J = torch.tensor([G1] * 3)
    torch.testing.assert_close(projection(J), J.sum(0), rtol=1e-4, atol=1e-4)
    random = conflicting_rows(7, 3).float()
    assert projection(random).shape == (random.shape[1],)
    assert projection(random).isfinite().all()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_without_torchjd_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    message = f"--projection {name}: .*torchjd.* pip install -r requirements-extras.txt"
    with pytest.raises(InputError, match=message):
        Aggregator(name, 3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_an_aggregator_passes_a_non_finite_gradient_on(name):
    """The engine, not the solver, then reports which update failed."""
    for package in AGGREGATORS[name].packages:
        pytest.importorskip(package)
    args = get_args_parser().parse_args([])
    J = torch.tensor([G1, [torch.nan] * 4, G2])
    assert PROJECTIONS[name](args, 3, {})(J).isnan().all()
