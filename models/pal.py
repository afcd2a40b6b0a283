"""Projected attention layers, PALs (Stickland & Murray, ICML 2019, arXiv:1902.02671).

Each task has a small attention of its own beside every layer of the shared encoder.

Axis letters: B batch, L tokens, H hidden, S projected size.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import SelfAttention, attention_bias, init_weights
from models.bert_config import BertConfig

NUM_HEADS = 6
INITIAL_STD = 0.02


def default_pal_size(hidden_size: int) -> int:
    """Return the paper's 204 for BERT-base (768), and in proportion a multiple of 6 otherwise."""
    return NUM_HEADS * round(34 * hidden_size / 768)


class ProjectedAttentionLayers(nn.Module):
    """The layers of one task: TS(h) = gelu(V_D · MHA(V_E h)), to be used as `residual`.

    All layers share V_E (`encode`, H to S) and V_D (`decode`, S to H); each layer has its own
    multi-head attention. Weights are drawn from N(0, 0.02²) and biases start at zero. V_D starts at
    zero too, so that before the first update the model equals the plain one. The paper draws V_D
    like the other weights.

    Args:
        config: shape of the encoder.
        pal_size: S, a positive multiple of 6. `default_pal_size` has the paper's choice.

    Raises:
        ValueError: pal_size is not a positive multiple of 6.
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
            SelfAttention(pal_size, NUM_HEADS, config.attention_probs_dropout_prob)
            for _ in range(config.num_hidden_layers)
        )
        init_weights(self, INITIAL_STD)
        nn.init.zeros_(self.decode.weight)

    def forward(self, layer: int, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute TS(h) [B, L, H].

        Args:
            layer: number of the encoder's layer, from 0.
            hidden_states: [B, L, H], the input of that layer.
            attention_mask: [B, L], 1 at tokens, 0 at padding.
        """
        x = self.encode(hidden_states)  # [B, L, H] -> [B, L, S]
        x = self.attention[layer](x, attention_bias(attention_mask))
        return F.gelu(self.decode(x))  # [B, L, S] -> [B, L, H]
