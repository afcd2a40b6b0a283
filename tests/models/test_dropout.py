"""`Dropout` of models/attention.py: what it drops, scales and draws, and its gradient."""

import pytest
import torch

from models.attention import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.00001, 0.999999])
def test_dropout_keeps_the_expectation_exactly(monkeypatch, p):
    """If each 16-bit draw occurs once, the mean of dropped-out ones is one."""
    every_draw = torch.arange(-32768, 32768).to(torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda draws, *_: draws.copy_(every_draw))
    dropped = Dropout(p)(torch.ones(65536, dtype=torch.float64))
    assert dropped.mean().item() == pytest.approx(1, abs=1e-12)
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=1 / 65536)


def test_dropout_drops_all_elements_equally_often():
    """The four elements that share a 64-bit draw are dropped equally often and independently."""
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(100_000, 4)) != 0).float()
    torch.testing.assert_close(kept.mean(0), torch.full((4,), 0.7), rtol=0, atol=0.008)
    torch.testing.assert_close(torch.corrcoef(kept.T), torch.eye(4), rtol=0, atol=0.02)


def test_dropout_masks_the_gradient_like_the_output():
    x = torch.full((50, 7), 2.0, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 2)
    assert 0 < (y == 0).sum() < y.numel()


def test_dropout_replays_from_torchs_random_state():
    dropout, x = Dropout(0.5), torch.ones(500)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = dropout(x), dropout(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), first)
    torch.manual_seed(5)
    assert torch.equal(dropout(x), first)


@pytest.mark.parametrize("dropout", [Dropout(0.5).eval(), Dropout(0.0)], ids=["eval", "p = 0"])
def test_dropout_off_is_the_identity_and_draws_nothing(dropout):
    x, state = torch.ones(9), torch.get_rng_state()
    assert dropout(x) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (7, 3), (2, 3, 5), (0, 4)], ids=str)
def test_dropout_takes_any_number_of_elements(shape):
    x = torch.ones(shape)
    y = Dropout(0.5)(x)
    assert y.shape == x.shape and ((y == 0) | (y == 2)).all()


def test_dropout_takes_non_contiguous_input():
    x = torch.arange(1.0, 16).view(3, 5).t()
    y = Dropout(0.5)(x)
    assert ((y == 0) | (y == 2 * x)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dropout_keeps_the_dtype(dtype):
    assert Dropout(0.5)(torch.ones(4, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_dropout_refuses_a_probability_outside_the_range(p):
    with pytest.raises(ValueError, match=f"dropout probability is {p}"):
        Dropout(p)
