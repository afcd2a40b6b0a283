"""Projected attention layers: a small attention beside every layer of the shared encoder, a task's
own (Stickland & Murray, ICML 2019, arXiv:1902.02671).

Axis letters: B batch, L tokens, H hidden, S projected size, N heads, D = S / N.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.bert import BertConfig, Dropout, attention, attention_bias

NUM_HEADS = 6
INITIAL_STD = 0.02


def default_pal_size(hidden_size: int) -> int:
    """The paper's 204 for BERT-base, in proportion for other widths; a multiple of 6."""
    return NUM_HEADS * round(34 * hidden_size / 768)


class ProjectedAttentionLayers(nn.Module):
    """One task's layers: TS(h) = gelu(V_D · MHA(V_E h)), the encoder's `residual`.

    V_E (`encode`, H -> S) and V_D (`decode`, S -> H) serve all layers; every layer has an MHA of
    its own. V_D starts at zero, where the paper draws N(0, .02): before the first update the model
    is the plain one. pal_size: S. Raises ValueError if it is no positive multiple of 6.
    """

    def __init__(self, config: BertConfig, pal_size: int) -> None:
        super().__init__()
        if pal_size < 1 or pal_size % NUM_HEADS:
            raise ValueError(
                f"pal_size is {pal_size}, expected a positive multiple of {NUM_HEADS}, the "
                "number of heads"
            )
        self.encode = nn.Linear(config.hidden_size, pal_size)
        self.decode = nn.Linear(pal_size, config.hidden_size)
        self.attention = nn.ModuleList(
            ProjectedAttention(pal_size, config.attention_probs_dropout_prob)
            for _ in range(config.num_hidden_layers)
        )
        self.apply(init_weights)
        nn.init.zeros_(self.decode.weight)

    def forward(self, layer: int, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """The `layer`-th layer's input [B, L, H], attention_mask [B, L] -> [B, L, H]."""
        x = self.encode(hidden_states)  # [B, L, S]
        x = self.attention[layer](x, attention_bias(attention_mask))
        return F.gelu(self.decode(x))


class ProjectedAttention(nn.Module):
    """Multi-head self-attention without an output matrix: `decode` follows anyway."""

    def __init__(self, pal_size: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(pal_size, pal_size)
        self.key = nn.Linear(pal_size, pal_size)
        self.value = nn.Linear(pal_size, pal_size)
        self.probs_dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, L, S], bias [B, 1, 1, L] -> [B, L, S]."""
        q, k, v = (
            linear(x).unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)  # [B, L, S] -> [B, N, L, D]
            for linear in (self.query, self.key, self.value)
        )
        context = attention(q, k, v, bias, self.probs_dropout)
        return context.transpose(1, 2).flatten(2)  # [B, N, L, D] -> [B, L, S]


def init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)
