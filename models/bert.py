"""BERT (Devlin et al., 2019, arXiv:1810.04805) and RoBERTa (Liu et al., 2019, arXiv:1907.11692).

On the same weights, every hidden state at a real token equals that of the reference implementation
in transformers to 1e-5 in float32. `models.pretrained` loads published weights.

Other techniques use three entry points: `Encoder.embed` and `embeddings=` serve SMART, tag
embeddings and the wrappers; `residual=` serves projected attention layers.

Axis letters: B batch, L tokens, H hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import Dropout, SelfAttention, attention_bias, init_weights
from models.bert_config import ACTIVATIONS, BertConfig


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

    @property
    def adapted_maps(self) -> tuple[str, ...]:
        """The last part of the names of the linear maps that LoRA adapts: query and value."""
        return "query", "value"

    def checkpoint_gradients(self) -> None:
        """Keep only the layers' inputs for a backward pass, which computes the rest again.

        Gradients stay the same, dropout included. It is called before an encoder is wrapped.
        """
        raise NotImplementedError

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
        self.is_recomputed = False
        init_weights(self, config.initializer_range)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word embeddings [vocabulary, H]."""
        return self.embeddings.word_embeddings

    @property
    def embedding_size(self) -> int:
        """The width of the word embeddings."""
        return self.config.hidden_size

    def checkpoint_gradients(self) -> None:
        """Let backward passes compute the layers again; see `Encoder.checkpoint_gradients`."""
        self.is_recomputed = True

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
        x, bias = embeddings, attention_bias(attention_mask)  # [B, L, H] and [B, 1, 1, L]
        hidden_states = [x] if output_hidden_states else []

        def run(i: int, x: Tensor) -> Tensor:
            extra = None if residual is None else residual(i, x, attention_mask)
            states: Tensor = self.layer[i](x, bias, extra)
            return states

        if self.is_recomputed and torch.is_grad_enabled():
            run = partial(checkpoint, run, use_reentrant=False)
        for i in range(len(self.layer)):
            x = run(i, x)
            if output_hidden_states:
                hidden_states.append(x)
        pooler_output = torch.tanh(self.pooler(x[:, 0]))  # first token: [B, L, H] -> [B, H]
        return BertOutput(x, pooler_output, tuple(hidden_states), attention_mask)
