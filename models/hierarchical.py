"""Hierarchical encoding: segments of a text are encoded apart, each then is one token.

Axis letters: B batch, S segments, W tokens of a segment, H hidden.
"""

from torch import Tensor, nn

from models.bert import BertConfig, BertOutput, Residual
from models.features import POOLINGS


class HierarchicalEncoder(nn.Module):
    """An encoder around another one: token ids [B, S, W] -> segment states [B, S, H].

    It has `BertModel`'s signature with one axis more, and returns the mask [B, S] of the segments
    that are there. Each segment has specials and positions of its own; tokens of two segments never
    meet in here. pooling: how a segment's tokens become its state.
    """

    def __init__(self, inner: nn.Module, pooling: str) -> None:
        super().__init__()
        self.inner = inner
        self.pooling = POOLINGS[pooling]

    @property
    def config(self) -> BertConfig:
        return self.inner.config

    @property
    def layer(self) -> nn.ModuleList:
        return self.inner.layer

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [B, S, W, H]."""
        parts = (input_ids, attention_mask, token_type_ids, tag_ids)
        flat = [None if part is None else part.flatten(0, 1) for part in parts]  # [B * S, W]
        return self.inner.embed(*flat).unflatten(0, input_ids.shape[:2])

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
        """`residual` sees segments as rows of their own: [segments, W, H]."""
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        mask = attention_mask.flatten(0, 1)  # [B * S, W]
        is_segment = mask.any(1)  # texts of other lengths leave empty ones
        mask = mask[is_segment]
        output = self.inner(
            input_ids.flatten(0, 1)[is_segment],
            mask,
            embeddings=embeddings.flatten(0, 1)[is_segment],
            residual=residual,
            output_hidden_states=output_hidden_states,
        )

        def as_tokens(vectors: Tensor) -> Tensor:
            """[segments, H] -> [B, S, H], zeros where there is none."""
            states = vectors.new_zeros(len(is_segment), vectors.shape[-1])
            states = states.index_put((is_segment.nonzero()[:, 0],), vectors)
            return states.unflatten(0, attention_mask.shape[:2])

        hidden_states = None
        if output_hidden_states:
            hidden_states = tuple(
                as_tokens(self.pooling(states, mask)) for states in output.hidden_states
            )
        return BertOutput(
            as_tokens(self.pooling(output.last_hidden_state, mask)),
            as_tokens(output.pooler_output)[:, 0],
            hidden_states,
            attention_mask.any(2).long(),
        )
