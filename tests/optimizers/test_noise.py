"""Noise by place: its distribution, its hash against plain integers, and what does not move it."""

import pytest
import torch
from scipy import stats

from optimizers.noise import mix_, normal_noise


def test_the_hash_equals_splitmix64_in_plain_integers():
    def reference(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    values = [0, 1, 5, 2**31, 2**63 - 1, 123456789123456789, -1, -(2**62)]
    hashes = mix_(torch.tensor(values)).tolist()
    assert [x % 2**64 for x in hashes] == [reference(x % 2**64) for x in values]


def test_numbers_are_normal_and_independent():
    noise = normal_noise(3, torch.arange(100), (2, 20, 48))
    assert noise.shape == (100, 2, 20, 48) and noise.dtype == torch.float32
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    for axis in range(4):  # neighbours along each axis
        first, second = noise.unfold(axis, 2, 2).flatten(0, 3).unbind(1)
        for one, other in ((first, second), (first.square(), second.square())):
            assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.015
    halves = torch.stack([half.flatten() for half in noise.chunk(2, dim=-1)])
    assert torch.corrcoef(halves)[0, 1].abs() < 0.015


@pytest.mark.parametrize("size", [1, 7, 8])
def test_a_row_has_the_same_noise_with_other_mates_and_other_padding(size):
    noise = normal_noise(3, torch.arange(10, 16), (2, 9, size))
    shorter = normal_noise(3, torch.tensor([14, 11]), (2, 5, size))
    assert noise.shape == (6, 2, 9, size) and torch.equal(shorter, noise[[4, 1], :, :5])


def test_seeds_and_rows_give_other_noise():
    noise = [normal_noise(seed, torch.arange(4), (3, 8)) for seed in (0, 1, 2)]
    rows = torch.cat(noise)
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 12
    assert torch.equal(noise[1], normal_noise(1, torch.arange(4), (3, 8)))
