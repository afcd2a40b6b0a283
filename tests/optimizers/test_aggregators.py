"""Every aggregator of torchjd, as a projection and called directly on J."""

import warnings

import pytest
import torch

from optimizers import PROJECTIONS
from optimizers.aggregators import AGGREGATORS, Aggregator
from options.parsing import parse_args
from runtime import checkpoint
from runtime.saved_values import check_like
from train_multitask_pal import get_args_parser

aggregation = pytest.importorskip("torchjd.aggregation")

# key -> torchjd's class, its arguments for T tasks, and the factor of its result
MEAN = {
    "mgda": ("MGDA", {}),
    "imtl_g": ("IMTLG", {}),
    "aligned_mtl": ("AlignedMTL", {}),
    "upgrad": ("UPGrad", {}),
    "dualproj": ("DualProj", {}),
    "cagrad": ("CAGrad", {"c": 0.4}),
    "pcd": ("PCD", {}),
    "krum": ("Krum", {"n_byzantine": 0}),
}
SUM = {"nash_mtl": "NashMTL", "fairgrad": "FairGrad"}


def build(key: str, num_tasks: int) -> Aggregator:
    """The projection as a run builds it from its default options."""
    for package in AGGREGATORS[key].packages:
        pytest.importorskip(package)
    args = parse_args(get_args_parser(), ["--projection", key])
    return PROJECTIONS[key](args, num_tasks, {})


def rows(seed: int, num_tasks: int) -> torch.Tensor:
    """Random J [T, P] whose rows differ in length and, for some seeds, conflict."""
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(num_tasks, 8 + seed % 5, dtype=torch.float64, generator=generator)
    if seed % 3 == 0:
        J[1] = -2 * J[0] + 0.5 * J[1]
    return J * (10 ** (0.5 * torch.randn(num_tasks, 1, dtype=torch.float64, generator=generator)))


@pytest.mark.parametrize("num_tasks", [3, 5])
@pytest.mark.parametrize("key", MEAN)
def test_an_aggregator_that_scales_like_a_mean_is_torchjds_times_the_number_of_tasks(
    key, num_tasks
):
    name, options = MEAN[key]
    oracle, ours = getattr(aggregation, name)(**options), build(key, num_tasks)
    factor = num_tasks / (1.4 if key == "cagrad" else 1)
    for seed in range(12):
        J = rows(seed, num_tasks)
        expected = factor * oracle(J)
        torch.testing.assert_close(ours(J), expected, rtol=1e-5, atol=1e-6 * float(J.norm()))


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("key", SUM)
def test_an_aggregator_of_fixed_length_is_torchjds_at_the_length_of_the_gradients(key, num_tasks):
    ours = build(key, num_tasks)
    arguments = {"n_tasks": num_tasks, "max_norm": 0.0} if key == "nash_mtl" else {"alpha": 1.0}
    oracle = getattr(aggregation, SUM[key])(**arguments)
    for seed in range(12):
        J = rows(seed, num_tasks)
        length = (J @ J.T).norm().sqrt()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = length * oracle(J / length)
        tolerance = 1e-4 * float(J.norm())  # of the solvers
        torch.testing.assert_close(ours(J), expected, rtol=1e-4, atol=tolerance)
        same_direction = oracle(J) if key == "fairgrad" else expected  # whatever the length of J
        cosine = torch.cosine_similarity(ours(J), same_direction, dim=0)
        assert cosine > 1 - 1e-4


def test_fairgrad_at_one_is_nash_mtl():
    """Both solve J Jᵀ w = 1 / w, by other means."""
    fairgrad, nash = build("fairgrad", 3), build("nash_mtl", 3)
    for seed in range(6):
        J = rows(seed, 3)
        torch.testing.assert_close(fairgrad(J), nash(J), rtol=1e-3, atol=1e-3 * float(J.norm()))


def test_every_aggregator_of_torchjd_that_works_from_the_gramian_is_offered():
    """Without our own PCGrad and GradVac, the plain sum and its relatives, and random weights."""
    own = {"PCGrad", "GradVac", "Sum", "Mean", "Constant", "Random"}
    base = aggregation.GramianWeightedAggregator
    classes = [getattr(aggregation, name) for name in aggregation.__all__]
    found = {c.__name__ for c in classes if issubclass(c, base) and c is not base} - own
    offered = {method.name.removesuffix("Weighting") for method in AGGREGATORS.values()}
    assert found == offered - {"NashMTL"}  # that one takes J itself, but needs no more


@pytest.mark.parametrize(
    "flag, key", [("--cagrad_c 2", "cagrad"), ("--fairgrad_alpha 4", "fairgrad")]
)
def test_a_flag_reaches_its_aggregator(flag, key):
    default = build(key, 3)
    args = parse_args(get_args_parser(), ["--projection", key, *flag.split()])
    J = rows(0, 3)
    assert not torch.allclose(PROJECTIONS[key](args, 3, {})(J), default(J), rtol=1e-2)


@pytest.mark.parametrize("key", AGGREGATORS)
def test_state_resumes_exactly(key, tmp_path):
    whole, part, resumed = (build(key, 3) for _ in range(3))
    Js = [rows(seed, 3) for seed in range(6)]
    expected = [whole(J) for J in Js]
    for J in Js[:3]:
        part(J)
    checkpoint.save(tmp_path / "state.pt", part.state_dict())
    state = checkpoint.load(tmp_path / "state.pt")
    del state["format"]
    check_like(state, resumed.state_dict())  # as `restore` checks it
    resumed.load_state_dict(state)
    for J, update in zip(Js[3:], expected[3:]):
        assert torch.equal(resumed(J), update)


@pytest.mark.parametrize("key, name", [("nash_mtl", "last_weights"), ("pcd", "mean_squares")])
def test_a_wrong_state_is_refused(key, name):
    aggregator = build(key, 3)
    state = aggregator.state_dict() | {name: torch.tensor([-1.0, 1.0, 1.0]).double()}
    with pytest.raises(ValueError, match=f"{name} holds negative numbers"):
        aggregator.load_state_dict(state)


@pytest.mark.parametrize("key", AGGREGATORS)
def test_tasks_without_a_gradient_give_finite_updates(key):
    aggregator = build(key, 3)
    J = rows(1, 3)
    J[1] = 0
    assert aggregator(J).isfinite().all()
    assert not aggregator(0 * J).any()


def test_krum_needs_three_tasks(one_line):
    assert "at least 3 tasks, but this run trains on 2" in one_line(build, "krum", 2)
