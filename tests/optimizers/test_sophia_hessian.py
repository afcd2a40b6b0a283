"""SophiaH's Hessian estimate: its value, its schedule, its memory, and its saved state."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from optimizers.sophia import SophiaH
from runtime import checkpoint

INPUTS = torch.linspace(-2, 2, 18, dtype=torch.float64).view(6, 3).sin()
TARGETS = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]


def small_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def losses(model: nn.Module) -> list[Tensor]:
    """Two terms of one update's loss, as two tasks or micro-batches give them."""
    parts = zip((0.7, 0.3), INPUTS.split([4, 2]), TARGETS.split([4, 2]))
    return [weight * (model(x) - y).square().mean() for weight, x, y in parts]


def update(optimizer: SophiaH, model: nn.Module) -> None:
    optimizer.zero_grad()
    for loss in losses(model):
        if optimizer.hessian_due:
            optimizer.accumulate_hessian(loss)
        loss.backward()
    optimizer.step()


def frozen_in_time(model: nn.Module, **options) -> SophiaH:
    """An optimizer that moves no weight and whose `hessian` is the newest estimate."""
    options = {"hessian_interval": 1, "betas": (0.96, 0.0)} | options
    return SophiaH(model.parameters(), lr=0.0, **options)


def hessian_state(optimizer: SophiaH) -> Tensor:
    return torch.cat([optimizer.state[p]["hessian"].flatten() for p in optimizer.state])


def full_hessian(model: nn.Module) -> Tensor:
    """∇²L [P, P], computed with torch.func.hessian."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    vector = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shapes[name]) for name, part in zip(shapes, parts)}
        return sum(losses(lambda x: torch.func.functional_call(model, weights, x)))

    return torch.func.hessian(loss)(vector)


def test_estimates_average_to_the_hessians_diagonal():
    """Their mean is H_ii. For Gaussian u, their variance is 2 H_ii² + Σ_{j≠i} H_ij²."""
    model, num_draws = small_mlp(), 3000
    optimizer = frozen_in_time(model)
    loss = sum(losses(model))
    estimates = []
    for _ in range(num_draws):
        optimizer.accumulate_hessian(loss)
        estimates.append(torch.cat([total.flatten() for total in optimizer.hessian_buffer]))
        optimizer.step()  # without a gradient, this only drops the estimate
    estimates = torch.stack(estimates)
    hessian = full_hessian(model)
    diagonal = hessian.diagonal()
    variance = diagonal.square() + hessian.square().sum(1)
    assert diagonal.abs().max() > 0.1
    error = (estimates.mean(0) - diagonal) / (variance / num_draws).sqrt()
    assert error.abs().max() < 4
    torch.testing.assert_close(estimates.var(0), variance, rtol=0.3, atol=0)


def test_an_estimate_is_u_times_the_summed_losss_product():
    """All terms of an update share one u; the next update draws another one."""
    model = small_mlp()
    optimizer = frozen_in_time(model)
    hessian = full_hessian(model)
    draws = torch.Generator().manual_seed(0)
    for _ in range(2):
        shapes = [p.shape for p in model.parameters()]
        u = [torch.randn(s, dtype=torch.float64, generator=draws).flatten() for s in shapes]
        u = torch.cat(u)
        update(optimizer, model)
        expected = u * (hessian @ u)
        torch.testing.assert_close(hessian_state(optimizer), expected, rtol=1e-9, atol=1e-12)


def test_terms_in_float32_add_up_to_the_summed_loss():
    buffers = []
    for is_split in (True, False):
        model = small_mlp()
        optimizer = SophiaH(model.float().parameters(), lr=0.1)
        terms = losses(lambda x: model(x.float()))
        for loss in terms if is_split else [sum(terms)]:
            optimizer.accumulate_hessian(loss)
        buffers.append(torch.cat([total.flatten() for total in optimizer.hessian_buffer]))
    scale = buffers[1].abs().max()
    assert (buffers[0] - buffers[1]).abs().max() <= 1e-6 * scale


def test_workers_draw_the_same_and_may_change_the_buffer():
    """Two workers have one term each; `step` uses the sum that they put into the buffer.

    Their u is the same although their global generators differ.
    """
    whole = small_mlp()
    optimizer = frozen_in_time(whole)
    update(optimizer, whole)
    expected = hessian_state(optimizer)

    model = small_mlp()
    workers = [frozen_in_time(model) for _ in range(2)]
    for seed, (worker, loss) in enumerate(zip(workers, losses(model))):
        torch.manual_seed(seed)
        worker.accumulate_hessian(loss)
        loss.backward()
    for mine, other in zip(*(worker.hessian_buffer for worker in workers)):
        mine.add_(other)
    workers[0].step()
    torch.testing.assert_close(hessian_state(workers[0]), expected, rtol=1e-9, atol=1e-12)


def test_u_is_drawn_where_the_parameters_are(monkeypatch):
    """Counted with stand-ins, as a generator of another device needs that device."""
    made, drawn = [], []

    class Generator(torch.Generator):
        def __new__(cls, device="cpu"):
            made.append(torch.device(device).type)
            return super().__new__(cls)

        def __init__(self, device="cpu"):
            pass

    def randn(shape, dtype, device, generator):
        drawn.append((device.type, generator))
        return torch.zeros(shape, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "randn", randn)
    model = nn.Linear(2, 1, device="meta")
    optimizer = SophiaH(model.parameters(), lr=0.1)
    optimizer.accumulate_hessian(model(torch.ones(3, 2, device="meta")).square().sum())
    assert made == ["meta"] and drawn == [("meta", optimizer.generator)] * 2


def test_hessian_moves_at_updates_0_k_2k_alone():
    model = small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.01, hessian_interval=3)
    due, moved, last = [], [], torch.zeros(16, dtype=torch.float64)
    for _ in range(7):
        due.append(optimizer.hessian_due)
        for loss in losses(model):
            optimizer.accumulate_hessian(loss)
            loss.backward()
        optimizer.step()
        assert optimizer.hessian_buffer == [] and optimizer.probe == []
        moved.append(not torch.equal(hessian_state(optimizer), last))
        last = hessian_state(optimizer).clone()
    assert due == moved == [True, False, False, True, False, False, True]


def test_hessian_is_a_moving_average():
    model = small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.0, hessian_interval=2, betas=(0.96, 0.75))
    expected = torch.zeros(16, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        for loss in losses(model):
            optimizer.accumulate_hessian(loss)
            loss.backward()
        if optimizer.hessian_due:
            estimate = torch.cat([total.flatten() for total in optimizer.hessian_buffer])
            expected = 0.75 * expected + 0.25 * estimate
        optimizer.step()
    torch.testing.assert_close(hessian_state(optimizer), expected, rtol=1e-9, atol=1e-12)


def test_the_first_update_needs_an_estimate():
    model = small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.1)
    losses(model)[0].backward()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(AssertionError, match="call accumulate_hessian"):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before))
    optimizer.num_updates = 1  # an update that is not due needs none
    optimizer.step()


def test_the_graph_is_left_for_the_backward_pass_and_gradients_alone():
    model, plain = small_mlp(), small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.1)
    for loss, other in zip(losses(model), losses(plain)):
        optimizer.accumulate_hessian(loss)
        loss.backward()
        other.backward(retain_graph=True)
    for p, expected in zip(model.parameters(), plain.parameters()):
        assert torch.equal(p.grad, expected.grad)
    assert not any(total.requires_grad for total in optimizer.hessian_buffer)


def test_the_gradients_graph_is_freed_at_once(monkeypatch):
    """Reference counts free it while the loss still exists, without garbage collection."""
    grad, kept = torch.autograd.grad, []

    def watched(*args, **kwargs):
        grads = grad(*args, **kwargs)
        kept.extend(weakref.ref(g) for g in grads if g is not None and g.requires_grad)
        return grads

    monkeypatch.setattr(torch.autograd, "grad", watched)
    model = small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.1)
    loss = sum(losses(model))
    gc.disable()
    try:
        optimizer.accumulate_hessian(loss)
        assert len(kept) == 4 and not any(reference() is not None for reference in kept)
    finally:
        gc.enable()


def test_what_a_loss_does_not_touch_or_bend_has_no_curvature():
    """The loss is quadratic in one parameter, linear in another, and independent of a third."""
    bent, linear, unused = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = SophiaH([bent, linear, unused], lr=0.1)
    optimizer.accumulate_hessian(linear.sum())
    assert not any(total.any() for total in optimizer.hessian_buffer)
    optimizer.accumulate_hessian(bent.square().sum() + linear.sum())
    u = optimizer.probe[0]
    torch.testing.assert_close(optimizer.hessian_buffer[0], 2 * u * u)
    assert not optimizer.hessian_buffer[1].any() and not optimizer.hessian_buffer[2].any()


@pytest.mark.parametrize("num_updates", [1, 3, 4])
def test_resume_is_bit_identical(tmp_path, num_updates):
    """The state goes through a file, at and between the updates that are due."""
    model = small_mlp()
    optimizer = SophiaH(model.parameters(), lr=0.01, hessian_interval=3)
    for _ in range(num_updates):
        update(optimizer, model)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    checkpoint.save(tmp_path / "last.pt", state)
    for _ in range(5):
        update(optimizer, model)

    state = checkpoint.load(tmp_path / "last.pt")
    resumed = small_mlp()
    resumed.load_state_dict(state["model"])
    other = SophiaH(resumed.parameters(), lr=0.5, hessian_interval=3)
    other.accumulate_hessian(losses(resumed)[0])  # dropped on loading
    other.load_state_dict(state["optimizer"])
    for _ in range(5):
        update(other, resumed)
    for p, q in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(p, q)
        for key in ("exp_avg", "hessian"):
            assert torch.equal(optimizer.state[p][key], other.state[q][key])
