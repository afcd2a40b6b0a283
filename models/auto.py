"""Encoders of transformers' `AutoModel` behind our own interface.

The model is cut in two: its embeddings are one module, everything after them the other. So `embed`
returns what `BertModel.embed` returns, after LayerNorm and dropout, and SMART, tags and the
wrappers find what they need. On BERT's weights, both encoders have the same states and gradients.

Axis letters: B batch, L tokens, H hidden, E width of the embeddings: H, except in ELECTRA and
ALBERT, which widen them afterwards.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import Dropout
from models.auto_config import TransformersConfig
from models.bert import BertModel, BertOutput, Encoder, Residual
from models.bert_config import BertConfig
from runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersEncoder(Encoder):
    """An encoder of transformers with random weights; `models.pretrained` loads published ones.

    Parameters keep their published names: those after the embeddings under `model.`. Only code of
    the installed transformers is run, never code of a checkpoint.

    Attributes:
        config: shape of the encoder.
        embeddings: word embeddings and all that joins them, up to LayerNorm and dropout.
        model: everything after the embeddings.
    """

    config: TransformersConfig
    embeddings: Any  # a module, whose attributes depend on the type of the model

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__()
        self.config = config
        model = build_model(config)
        self.embeddings = model.embeddings
        self.embeddings.tag_embeddings = None
        model.embeddings = Finished()
        self.model = model
        replace_dropout(self)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word embeddings [vocabulary, E]."""
        is_short = hasattr(self.embeddings, "tok_embeddings")
        table: nn.Embedding = getattr(
            self.embeddings, "tok_embeddings" if is_short else "word_embeddings"
        )
        return table

    @property
    def embedding_size(self) -> int:
        """E."""
        return self.word_embeddings.embedding_dim

    @property
    def adapted_maps(self) -> tuple[str, ...]:
        """The last part of the names of the query and value maps."""
        return self.config.architecture.query_value

    @property
    def layer(self) -> nn.Module:
        """The list of layers, from the bottom up."""
        place = self.config.architecture.layers
        assert place is not None, f"{self.config.model_type} has no layers with own weights"
        return self.model.get_submodule(place)

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings [B, L, E]; see `Encoder.embed`.

        Models without token types do not read `token_type_ids`.
        """
        self.check_length(input_ids)
        x = self.word_embeddings(input_ids)  # [B, L] -> [B, L, E]
        if tag_ids is not None:
            assert self.embeddings.tag_embeddings is not None, "no tag embeddings attached"
            x = x + self.embeddings.tag_embeddings(tag_ids)
        # Without the ids, positions count up from the first one, as padding is on the right.
        given = {"input_ids": None, "inputs_embeds": x}
        if self.config.architecture.takes_types and self.config.type_vocab_size > 1:
            given["token_type_ids"] = token_type_ids
        if self.config.model_type == "deberta-v2":
            given["mask"] = attention_mask  # embeddings at padding are zero
        embeddings: Tensor = self.embeddings(**given)
        return embeddings

    def encode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Run the rest of the model on embeddings [B, L, E]; see `Encoder.encode`.

        The pooler output of a model without a pooler is the first token's state. Projected
        attention layers (`residual`) are not supported.
        """
        assert residual is None, "encoders of transformers take no projected attention layers"
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            output_hidden_states=output_hidden_states,
        )
        x: Tensor = output.last_hidden_state  # [B, L, H]
        pooled = getattr(output, "pooler_output", None)  # [B, H]
        hidden_states = tuple(output.hidden_states) if output_hidden_states else ()
        return BertOutput(x, x[:, 0] if pooled is None else pooled, hidden_states, attention_mask)

    def checkpoint_gradients(self) -> None:
        """Keep only the layers' inputs for a backward pass; see `Encoder.checkpoint_gradients`.

        Raises:
            InputError: transformers cannot do this for models of this type.
        """
        if not self.model.supports_gradient_checkpointing:
            raise InputError(
                f"--gradient_checkpointing: transformers has none for {self.config.model_type}; "
                "drop it, and give a smaller --micro_batch_size to save memory"
            )
        # Its public switch would let embeddings require gradients also where they are frozen.
        self.model._set_gradient_checkpointing(
            enable=True, gradient_checkpointing_func=partial(checkpoint, use_reentrant=False)
        )


class Finished(nn.Module):
    """Stands in place of a model's embeddings, and returns what is given as their result."""

    def forward(
        self, *given: Tensor | None, inputs_embeds: Tensor | None = None, **others: object
    ) -> Tensor:
        """Return inputs_embeds [B, L, E]. DistilBERT gives it, and nothing else, by its place."""
        [embeddings] = [x for x in (*given, inputs_embeds) if x is not None]
        return embeddings


def build_model(config: TransformersConfig) -> "PreTrainedModel":
    """Build a model of transformers with random weights, in float32."""
    from transformers import AutoModel  # slow to import, and only these encoders need it

    build: Callable[..., PreTrainedModel] = AutoModel.from_config
    return build(
        config.build(),
        attn_implementation=config.architecture.attention,
        dtype=torch.float32,
        trust_remote_code=False,
    )


def replace_dropout(model: nn.Module) -> None:
    """Put our own `Dropout`, which is faster on a CPU, in place of torch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))


def new_encoder(config: BertConfig) -> BertModel | TransformersEncoder:
    """Return an encoder of this shape with random weights."""
    if isinstance(config, TransformersConfig):
        return TransformersEncoder(config)
    return BertModel(config)
