"""Every pooling equals plain Python, and padding never counts."""

import pytest
import torch

from models.features import POOLINGS

LENGTHS = [4, 1, 3]  # of rows padded to 4 tokens
PLAIN = {  # the values of one dimension at real tokens -> the pooled value
    "mean": lambda values: sum(values) / len(values),
    "cls": lambda values: values[0],
    "max": max,
}


@pytest.fixture
def mask():
    return (torch.arange(4) < torch.tensor(LENGTHS)[:, None]).long()


@pytest.fixture
def states():
    """Negative states [3, 4, 2]: zeros as padding would be the maximum."""
    return -1 - torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))


def test_every_pooling_has_a_plain_reference():
    assert PLAIN.keys() == POOLINGS.keys()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("padding", [0.0, 7.0, 1e30, -1e30])
def test_equals_plain_python_whatever_the_padding_holds(states, mask, pooling, padding):
    states = states.masked_fill(mask[:, :, None] == 0, padding)
    pooled = POOLINGS[pooling](states, mask)
    assert pooled.shape == (3, 2) and pooled.dtype == states.dtype
    for row, length in enumerate(LENGTHS):
        for dim in range(2):
            expected = PLAIN[pooling](states[row, :length, dim].tolist())
            assert pooled[row, dim].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_gradient_reaches_real_tokens_and_never_padding(mask, pooling):
    """Each token is the maximum of one dimension, so that `max` reaches all tokens."""
    states = torch.eye(4).expand(3, 4, 4).clone().requires_grad_()
    POOLINGS[pooling](states, mask).sum().backward()
    reached = states.grad.abs().sum(-1) > 0
    expected = mask == 1
    if pooling == "cls":
        expected = expected & (torch.arange(4) == 0)
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_of_only_padding_gives_no_nan(states, pooling):
    assert POOLINGS[pooling](states, torch.zeros(3, 4).long()).isfinite().all()
