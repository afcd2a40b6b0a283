"""Gaussian noise whose numbers depend on where they stand, not on when they are drawn.

A generator gives the n-th number of a call to whatever stands in the n-th place, so that padding,
micro-batches and workers would all change the noise of a token. Here each number is a hash of its
row, its place in the row and a seed. Counters take the place of a generator's state.
"""

import math

import torch
from torch import Tensor

# Multipliers of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed 64-bit integers.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def normal_noise(seed: int, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return independent numbers from N(0, 1).

    The number at a place of a row does not change with the other rows or with the sizes in `shape`,
    except for the last one. CPUs and GPUs give the same numbers up to the rounding of log and cos.

    Args:
        seed: equal seeds give equal noise.
        rows: [B] int64, a number for each row; equal numbers give equal noise.
        shape: of the noise of a row, at least one axis.

    Returns:
        [B, *shape] float32, on the device of `rows`.
    """
    keys = mix_(rows + seed * GOLDEN % 2**63)  # [B]
    num_pairs = -(-shape[-1] // 2)  # one hash gives two numbers
    for size in (*shape[:-1], num_pairs):
        steps = torch.arange(1, size + 1, device=rows.device) * GOLDEN
        keys = mix_(keys[..., None] + steps)  # [B, ...] -> [B, ..., size]
    # The halves of a hash are two uniform numbers; Box and Muller (1958) make two normal ones.
    high, low = (keys >> 32) & 0xFFFFFFFF, keys & 0xFFFFFFFF
    radius = ((high.float() + 0.5) / 2**32).log_().mul_(-2).clamp_(min=0).sqrt_()
    angle = low.float() * (2 * math.pi / 2**32)
    noise = torch.cat([radius * angle.cos(), radius.mul_(angle.sin())], dim=-1)
    return noise[..., : shape[-1]]  # [B, ..., 2 * num_pairs] -> [B, *shape]


def mix_(x: Tensor) -> Tensor:
    """Replace int64 numbers by their hashes: SplitMix64's last step, in place."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS):
        x.bitwise_xor_(shifted(x, shift)).mul_(multiplier)  # products wrap around
    return x.bitwise_xor_(shifted(x, 31))


def shifted(x: Tensor, shift: int) -> Tensor:
    """Return x shifted to the right by `shift` bits, zeros coming in from the left."""
    return (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)
