"""BERT and RoBERTa encoder (Devlin et al., 2019, arXiv:1810.04805; Liu et al., 2019,
arXiv:1907.11692).

Written out in one file and free of tasks. Axis letters: B batch, L tokens, H hidden, N attention
heads, D = H / N. Weights come from published checkpoints through `models.pretrained`; on the same
weights every hidden state equals the reference implementation's to 1e-5 in float32.

What later techniques hang onto: `embed` and `embeddings=` (SMART, tag inputs, wrappers) and
`residual=` (projected attention layers).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
MODEL_TYPES = ("bert", "roberta")
# Added to the score of a padding token; finite, so that a row of padding alone gives no nan.
MASKED = -1e9


@dataclass
class BertConfig:
    """Shape of an encoder; fields are named as in published config.json files."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    model_type: str = "bert"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low = 1 if field.type is int and field.name != "pad_token_id" else 0
            high = 1 if field.type is float else math.inf
            is_number = type(value) in (int, field.type)
            if field.type is not str and not (is_number and low <= value < high):
                raise ValueError(f"{field.name} is {value!r}, expected {low} <= number < {high}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}, known: {', '.join(ACTIVATIONS)}")
        if self.model_type not in MODEL_TYPES:
            raise ValueError(f"model_type is {self.model_type!r}, known: {', '.join(MODEL_TYPES)}")

    @classmethod
    def from_dict(cls, values: dict) -> "BertConfig":
        """Take the fields that we know from a published config.json and leave the others."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def max_tokens(self) -> int:
        """Longest sequence there are positions for; RoBERTa's first is pad_token_id + 1."""
        if self.model_type == "roberta":
            return self.max_position_embeddings - self.pad_token_id - 1
        return self.max_position_embeddings


class BertOutput(NamedTuple):
    """States [B, L, H], pooler output [B, H], None or num_layers + 1 states [B, L, H], their mask.

    attention_mask: [B, L], what the states' second axis is: tokens, or a wrapper's segments.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None
    attention_mask: Tensor


# residual(layer, hidden_states [B, L, H], attention_mask [B, L]) -> [B, L, H]
Residual = Callable[[int, Tensor, Tensor], Tensor]


class Dropout(nn.Module):
    """Dropout with 16 random bits an element, from torch's default generator.

    On a CPU, torch's own dropout draws one number an element through a serial generator, 12 % of a
    training step; cutting every 64-bit draw into four is about three times as fast. The probability
    is rounded to 1/65536 and the scale is that of the rounded one, so the expectation is exact.
    Elsewhere it is torch's dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout probability is {p}, expected 0 <= p < 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        num_dropped = min(round(self.p * 65536), 65535)  # of the 65,536 values of an int16
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = (bits >= num_dropped - 32768).to(x.dtype)
        return x * keep.mul_(65536 / (65536 - num_dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class BertEmbeddings(nn.Module):
    """Word, position and token type embeddings, summed, normalised, dropped out."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        # Linguistic inputs hang a module here; it maps tag_ids to [B, L, H].
        self.tag_embeddings: nn.Module | None = None
        self.first_position = config.pad_token_id + 1 if config.model_type == "roberta" else 0

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """input_ids, token_type_ids [B, L], tag_ids as `tag_embeddings` takes them -> [B, L, H]."""
        # Padding is on the right, so that real tokens' positions simply count up, in RoBERTa too.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self.first_position
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)  # [B, L, H]
        if token_type_ids is None or self.token_type_embeddings.num_embeddings == 1:  # RoBERTa
            x = x + self.token_type_embeddings.weight[0]
        else:
            x = x + self.token_type_embeddings(token_type_ids)
        if tag_ids is not None:
            assert self.tag_embeddings is not None, "tag_ids given, but no tag embeddings attached"
            x = x + self.tag_embeddings(tag_ids)
        return self.dropout(self.LayerNorm(x))


class BertAttention(nn.Module):
    """Multi-head self-attention with its residual: a = LN(h + dropout(W_o [heads] + b_o))."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.probs_dropout = Dropout(config.attention_probs_dropout_prob)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, bias: Tensor) -> Tensor:
        """hidden_states [B, L, H], bias [B, 1, 1, L] -> [B, L, H]."""
        q = self.split_heads(self.query(hidden_states))
        k = self.split_heads(self.key(hidden_states))
        v = self.split_heads(self.value(hidden_states))
        context = attention(q, k, v, bias, self.probs_dropout)
        context = context.transpose(1, 2).flatten(2)  # [B, N, L, D] -> [B, L, H]
        return self.LayerNorm(hidden_states + self.dropout(self.output(context)))

    def split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, L, H] -> [B, N, L, D]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout: "Dropout") -> Tensor:
    """softmax(q kᵀ / √D + bias) v for q, k, v [B, N, L, D], with dropout on the probabilities.

    On a CPU written out: at these lengths it beats the fused kernel, which turns itself off under
    dropout anyway. For second derivatives on a GPU, wrap the forward pass in
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    if q.device.type != "cpu":
        dropout_p = dropout.p if dropout.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropout_p=dropout_p)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias  # [B, N, L, L]
    return dropout(scores.softmax(-1)).to(v.dtype) @ v


def attention_bias(attention_mask: Tensor) -> Tensor:
    """[B, L] -> [B, 1, 1, L]: 0 on real tokens, `MASKED` on padding."""
    return (attention_mask == 0)[:, None, None, :] * MASKED


class BertLayer(nn.Module):
    """h' = LN(a + dropout(FFN(a)) + extra), a = the attention's output."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: Tensor, bias: Tensor, extra: Tensor | None = None) -> Tensor:
        a = self.attention(hidden_states, bias)
        x = a + self.dropout(self.output(self.activation(self.intermediate(a))))
        return self.LayerNorm(x if extra is None else x + extra)


class BertModel(nn.Module):
    """The encoder: embeddings, layers, pooler. Freshly made weights are N(0, initializer_range)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.apply(self.init_weights)

    def init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [B, L, H] after LayerNorm and dropout. Raises ValueError if L is too long."""
        num_tokens, max_tokens = input_ids.shape[1], self.config.max_tokens
        if num_tokens > max_tokens:
            raise ValueError(
                f"{num_tokens} tokens, but this encoder has positions for {max_tokens}"
            )
        return self.embeddings(input_ids, token_type_ids, tag_ids)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Encode input_ids [B, L], or `embeddings` [B, L, H] in their place.

        residual(layer, hidden_states, attention_mask) -> [B, L, H] is given each layer's input and
        is added before that layer's last LayerNorm. States at padding (attention_mask 0) mean
        nothing.
        """
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        x = embeddings
        bias = attention_bias(attention_mask)
        hidden_states = [x]
        for i, layer in enumerate(self.layer):
            extra = None if residual is None else residual(i, x, attention_mask)
            x = layer(x, bias, extra)
            if output_hidden_states:
                hidden_states.append(x)
        pooler_output = torch.tanh(self.pooler(x[:, 0]))  # [B, L, H] -> [B, H]
        states = tuple(hidden_states) if output_hidden_states else None
        return BertOutput(x, pooler_output, states, attention_mask)
