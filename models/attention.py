"""Self-attention, dropout and initial weights, shared by the encoder and what is built around it.

Axis letters: B batch, L tokens, H the width of a module's input (the encoder's hidden size, or the
projected size of a PAL), N attention heads, D = H / N.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the attention score of a padding token. It is finite: with -inf, the softmax over a row
# that is all padding would be nan.
MASKED = -1e9
FUSED_WIDTH = 8


class SelfAttention(nn.Module):
    """Multi-head self-attention without an output matrix: the heads' results side by side.

    Args:
        size: width of the input and of the result, a multiple of num_heads.
        num_heads: N.
        dropout: probability to drop an attention weight, in [0, 1).
    """

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.probs_dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map x [B, L, H] to [B, L, H]; `bias` is what `attention_bias` returns."""
        q, k, v = (
            # [B, L, H] -> [B, L, N, D] -> [B, N, L, D]
            linear(x).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        # [B, N, L, D] -> [B, L, N, D] -> [B, L, H]
        return attention(q, k, v, bias, self.probs_dropout).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: "Dropout") -> Tensor:
    """Compute softmax(q kᵀ / √D + bias) v for q, k, v [B, N, L, D], with dropout on the softmax.

    On a CPU the formula is written out: at our sequence lengths this beats torch's fused kernel,
    which turns itself off under dropout anyway. The fused kernels of a GPU have no second
    derivatives; whoever needs them wraps the forward pass in
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    if q.device.type != "cpu":
        return fused_attention(q, k, v, bias, dropout.p if dropout.training else 0.0)
    # [B, N, L, D] @ [B, N, D, L] -> [B, N, L, L]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    probs: Tensor = dropout(scores.softmax(-1))
    return probs.to(v.dtype) @ v  # [B, N, L, L] @ [B, N, L, D] -> [B, N, L, D]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout_p: float) -> Tensor:
    """Compute what `attention` does with torch's own function, which picks the device's kernel.

    The fused kernels take only some widths D. The heads of projected attention layers have others,
    such as 34, and would fall back to a dozen single steps. Columns of zeros, up to the next
    multiple of `FUSED_WIDTH`, change no product and are cut off again.
    """
    width = q.shape[-1]
    padding = -width % FUSED_WIDTH
    if padding:
        q, k, v = (F.pad(x, (0, padding)) for x in (q, k, v))
    result = F.scaled_dot_product_attention(
        q, k, v, bias.to(q.dtype), dropout_p=dropout_p, scale=1 / math.sqrt(width)
    )
    return result[..., :width]  # [B, N, L, D + padding] -> [B, N, L, D]


def attention_bias(attention_mask: Tensor) -> Tensor:
    """Turn a mask [B, L] into a bias [B, 1, 1, L]: 0 at tokens, `MASKED` at padding."""
    return (attention_mask == 0)[:, None, None, :] * MASKED


class Dropout(nn.Module):
    """Dropout that spends 16 random bits per element, from torch's default generator.

    On a CPU, `nn.Dropout` draws one number per element from a serial generator, which took 12 % of
    a training step. Cutting each 64-bit draw into four is about three times as fast. The
    probability is rounded to a multiple of 1/65536, and the kept elements are scaled by the rounded
    probability, so the expectation is exact. On other devices this is torch's own dropout.

    Args:
        p: probability to drop an element, in [0, 1). 0 turns dropout off.

    Raises:
        ValueError: p is outside [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout probability is {p}, expected 0 <= p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, of any shape, in training mode only."""
        if not self.training or self.p == 0.0:
            return x
        # A compiled layer draws its own numbers, inside the kernels around the dropout.
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        num_dropped = min(round(self.p * 65536), 65535)  # of the 65,536 values of an int16
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)  # four int16 per int64
        keep = (bits >= num_dropped - 32768).to(x.dtype)
        return x * keep.mul_(65536 / (65536 - num_dropped))

    def extra_repr(self) -> str:
        """Return what print(model) shows."""
        return f"p={self.p}"


def init_weights(model: nn.Module, std: float) -> None:
    """Draw the weights of all Linear and Embedding modules from N(0, std²); set biases to 0.

    The numbers come from torch's default generator.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
