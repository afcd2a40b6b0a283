"""Token states [B, L, H] -> one sentence vector [B, F], over real tokens only."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.bert import BertOutput


def mean_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over real tokens: [B, L, H], [B, L] -> [B, H]."""
    mask = attention_mask[:, :, None].to(states.dtype)  # [B, L, 1]
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


def cls_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The first token's state, [CLS]: [B, L, H] -> [B, H]."""
    return states[:, 0]


def max_pooling(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Maximum over real tokens, each dimension by itself: [B, L, H], [B, L] -> [B, H]."""
    padding = attention_mask[:, :, None] == 0
    return states.masked_fill(padding, torch.finfo(states.dtype).min).amax(1)


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_pooling,
    "cls": cls_pooling,
    "max": max_pooling,
}


class Features(nn.Module):
    """What every head reads: the encoder's last states, pooled. `num_features` is F."""

    def __init__(self, hidden_size: int, pooling: str) -> None:
        super().__init__()
        self.num_features = hidden_size
        self.pooling = POOLINGS[pooling]

    def forward(self, output: BertOutput, attention_mask: Tensor) -> Tensor:
        """-> [B, F]."""
        return self.pooling(output.last_hidden_state, attention_mask)
