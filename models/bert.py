"""BERT (Devlin et al., 2019, arXiv:1810.04805) and RoBERTa (Liu et al., 2019, arXiv:1907.11692).

On the same weights, every hidden state at a real token equals that of the reference implementation
in transformers to 1e-5 in float32. `models.pretrained` loads published weights.

Other techniques use three entry points: `Encoder.embed` and `embeddings=` serve SMART, tag
embeddings and the wrappers; `residual=` serves projected attention layers.

Axis letters: B batch, L tokens, H hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Dropout, SelfAttention, attention_bias, init_weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
MODEL_TYPES = ("bert", "roberta")
# The largest sizes that are taken, far above any published encoder's. Type ids are kept in a byte.
MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 65_536,
    "intermediate_size": 1_048_576,
    "max_position_embeddings": 1_048_576,
    "type_vocab_size": 256,
}


@dataclass
class BertConfig:
    """Shape of an encoder. The fields have the names of published config.json files.

    Raises:
        ValueError: a value is out of range, see `MAX_SIZES`; hidden_size is not a multiple of
            num_attention_heads; or hidden_act or model_type is unknown.
    """

    model_types: ClassVar[tuple[str, ...]] = MODEL_TYPES
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
            if field.type is float and not (type(value) in (int, float) and 0 <= value < 1):
                raise ValueError(f"{field.name} is {value!r}, expected a number in [0, 1)")
            if field.name in MAX_SIZES:
                self.check_integer(field.name, 1, MAX_SIZES[field.name])
        self.check_integer("pad_token_id", 0, self.vocab_size - 1)
        if self.model_type == "roberta" and self.max_tokens < 1:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}, expected more than "
                f"pad_token_id + 1, {self.pad_token_id + 1}, under which roberta counts no position"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        for name, known in (("hidden_act", tuple(ACTIVATIONS)), ("model_type", self.model_types)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is {value!r}, known: {', '.join(known)}")

    def check_integer(self, name: str, low: int, high: int) -> None:
        """Raise ValueError unless a field is an integer in [low, high]."""
        value = getattr(self, name)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected an integer in [{low}, {high}]")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "BertConfig":
        """Build a config from a published config.json; keys that are not fields are ignored."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)

    @property
    def first_position(self) -> int:
        """The position of a row's first token. RoBERTa counts from pad_token_id + 1."""
        return self.pad_token_id + 1 if self.model_type == "roberta" else 0

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens in a row, limited by the position embeddings."""
        return self.max_position_embeddings - self.first_position


class BertOutput(NamedTuple):
    """Result of an encoder.

    Attributes:
        last_hidden_state: [B, L, H], the output of the last layer.
        pooler_output: [B, H], tanh of a linear map of the first token's state.
        hidden_states: the embeddings and the output of every layer, num_hidden_layers + 1 tensors
            [B, L, H]; empty unless they were asked for.
        attention_mask: [B, L], 1 where the second axis of the states holds a token (under
            `HierarchicalEncoder`, a segment), 0 where it holds padding.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...]
    attention_mask: Tensor


# residual(layer number from 0, hidden_states [B, L, H], attention_mask [B, L]) -> [B, L, H]
Residual = Callable[[int, Tensor, Tensor], Tensor]


class Encoder(nn.Module, ABC):
    """Interface that `BertModel` and the wrappers around it share.

    A subclass implements `embed` and `encode`; calling the encoder runs both.

    Attributes:
        config: shape of the encoder. A wrapper has the config of the encoder inside it.
    """

    config: BertConfig

    @abstractmethod
    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings [B, L, H], after LayerNorm and dropout.

        Some encoders of transformers have narrower embeddings, which `encode` widens.

        Args:
            input_ids: [B, L] int64. Padding is on the right.
            attention_mask: [B, L], 1 at tokens, 0 at padding.
            token_type_ids: [B, L] int64, the number of the sentence a token belongs to. None means
                0 everywhere.
            tag_ids: [B, L, 2] int64, see `TagEmbeddings`. None adds no tag embeddings.

        Raises:
            ValueError: L is larger than config.max_tokens.
        """

    @abstractmethod
    def encode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Run the layers on `embeddings`, which have the shape that `embed` returns.

        The other arguments are those of `forward`.
        """

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
        """Encode a batch. States at padding are meaningless.

        Args:
            input_ids: as for `embed`. Not read if `embeddings` are given.
            attention_mask: as for `embed`.
            token_type_ids: as for `embed`. Not read if `embeddings` are given.
            embeddings: replaces what `embed` would return.
            residual: called once per layer with the layer's input; its result is added before the
                layer's last LayerNorm. None adds nothing.
            output_hidden_states: whether to return `hidden_states`.
        """
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        return self.encode(embeddings, attention_mask, residual, output_hidden_states)

    def check_length(self, input_ids: Tensor) -> None:
        """Raise ValueError if input_ids [B, L] are longer than the encoder's positions."""
        if input_ids.shape[1] > self.config.max_tokens:
            raise ValueError(
                f"{input_ids.shape[1]} tokens, but this encoder has positions for "
                f"{self.config.max_tokens}"
            )


class BertEmbeddings(nn.Module):
    """Sum of word, position and token type embeddings, then LayerNorm and dropout.

    Attributes:
        tag_embeddings: a module that maps tag_ids to vectors [B, L, H], which join the sum. None
            until one is attached.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden_size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.tag_embeddings: nn.Module | None = None
        self.first_position = config.first_position

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, tag_ids: Tensor | None
    ) -> Tensor:
        """Return [B, L, H]. The arguments are those of `Encoder.embed`."""
        # Padding is on the right, so positions of real tokens count up, also in RoBERTa.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device) + self.first_position
        # [B, L, H] + [L, H] -> [B, L, H]
        x: Tensor = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        # Published RoBERTa has one token type; the second sentence of a pair shares it.
        if token_type_ids is None or self.token_type_embeddings.num_embeddings == 1:
            x = x + self.token_type_embeddings.weight[0]
        else:
            x = x + self.token_type_embeddings(token_type_ids)
        if tag_ids is not None:
            assert self.tag_embeddings is not None, "tag_ids given, but no tag embeddings attached"
            x = x + self.tag_embeddings(tag_ids)
        x = self.dropout(self.LayerNorm(x))
        return x


class BertAttention(SelfAttention):
    """The attention block of a layer: LN(h + dropout(W_o · heads(h) + b_o))."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(
            config.hidden_size, config.num_attention_heads, config.attention_probs_dropout_prob
        )
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map x [B, L, H] to [B, L, H]; `bias` is what `attention_bias` returns."""
        x = self.LayerNorm(x + self.dropout(self.output(super().forward(x, bias))))  # [B, L, H]
        return x


class BertLayer(nn.Module):
    """A layer: LN(a + dropout(FFN(a)) + extra), where a is the result of the attention block."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: Tensor, bias: Tensor, extra: Tensor | None = None) -> Tensor:
        """Map hidden_states [B, L, H] to [B, L, H]; `extra` [B, L, H] is added if given."""
        a = self.attention(hidden_states, bias)
        x: Tensor = a + self.dropout(self.output(self.activation(self.intermediate(a))))
        x = self.LayerNorm(x if extra is None else x + extra)
        return x


class BertModel(Encoder):
    """The encoder: embeddings, layers and pooler, with weights from N(0, initializer_range²)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        init_weights(self, config.initializer_range)

    @property
    def embedding_size(self) -> int:
        """The width of the word embeddings."""
        return self.config.hidden_size

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings [B, L, H]; see `Encoder.embed`."""
        self.check_length(input_ids)
        embeddings: Tensor = self.embeddings(input_ids, token_type_ids, tag_ids)
        return embeddings

    def encode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Run layers and pooler; see `Encoder.encode`."""
        x = embeddings  # [B, L, H]
        bias = attention_bias(attention_mask)  # [B, 1, 1, L]
        hidden_states = [x] if output_hidden_states else []
        for i, layer in enumerate(self.layer):
            extra = None if residual is None else residual(i, x, attention_mask)
            x = layer(x, bias, extra)
            if output_hidden_states:
                hidden_states.append(x)
        pooler_output = torch.tanh(self.pooler(x[:, 0]))  # first token: [B, L, H] -> [B, H]
        return BertOutput(x, pooler_output, tuple(hidden_states), attention_mask)
