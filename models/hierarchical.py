"""Hierarchical encoding: each segment of a text is encoded on its own and becomes one state.

Axis letters: B batch, S segments, W tokens of a segment, H hidden.
"""

from torch import Tensor, nn

from models.bert import BertOutput, Encoder, Residual
from models.features import POOLINGS


class HierarchicalEncoder(Encoder):
    """An encoder around another one: token ids [B, S, W] become segment states [B, S, H].

    All inputs have one axis more than those of `BertModel`; the returned mask [B, S] marks the
    segments that exist. Each segment has its own special tokens and positions, and tokens of
    different segments do not attend to each other here: `SegmentAttention` joins the segments.

    Args:
        inner: encodes the segments.
        pooling: key of `POOLINGS`, how the tokens of a segment become its state.
    """

    def __init__(self, inner: Encoder, pooling: str) -> None:
        super().__init__()
        self.config = inner.config
        self.inner = inner
        self.pooling = POOLINGS[pooling]

    @property
    def layer(self) -> nn.Module:
        """The layers of the inner encoder."""
        return self.inner.get_submodule("layer")

    def embed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        tag_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings [B, S, W, H] of input_ids [B, S, W]; see `Encoder.embed`."""
        embeddings = self.inner.embed(
            input_ids.flatten(0, 1),  # [B, S, W] -> [B * S, W]
            attention_mask.flatten(0, 1),
            None if token_type_ids is None else token_type_ids.flatten(0, 1),
            None if tag_ids is None else tag_ids.flatten(0, 1),
        )
        return embeddings.view(*input_ids.shape, -1)  # [B * S, W, H] -> [B, S, W, H]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
        num_segments: int | None = None,
    ) -> BertOutput:
        """Encode a batch; see `Encoder.forward`, and `encode` for `num_segments`."""
        if embeddings is None:
            embeddings = self.embed(input_ids, attention_mask, token_type_ids)
        return self.encode(embeddings, attention_mask, residual, output_hidden_states, num_segments)

    def encode(
        self,
        embeddings: Tensor,
        attention_mask: Tensor,
        residual: Residual | None = None,
        output_hidden_states: bool = False,
        num_segments: int | None = None,
    ) -> BertOutput:
        """Encode all segments as one batch; see `Encoder.encode`.

        Args:
            embeddings: [B, S, W, H].
            attention_mask: [B, S, W]; a segment without any token does not exist.
            residual: sees each existing segment as a row: [segments, W, H].
            output_hidden_states: whether to return the segment states of every layer.
            num_segments: how many segments exist in the batch. None counts them, for which the
                host has to wait for the device.
        """
        mask = attention_mask.flatten(0, 1)  # [B, S, W] -> [B * S, W]
        is_segment = mask.any(1)  # [B * S]; shorter texts of a batch have fewer segments
        num_segments = int(is_segment.sum()) if num_segments is None else num_segments
        places = is_segment.byte().sort(descending=True, stable=True).indices[:num_segments]
        mask = mask[places]  # [segments, W]
        segments = embeddings.flatten(0, 1)[places]  # [segments, W, H]
        output = self.inner.encode(segments, mask, residual, output_hidden_states)

        def as_tokens(vectors: Tensor) -> Tensor:
            """Scatter vectors [segments, H] to [B, S, H], with zeros where there is no segment."""
            states = vectors.new_zeros(len(is_segment), vectors.shape[-1])  # [B * S, H]
            states = states.index_put((places,), vectors)
            return states.view(*attention_mask.shape[:2], -1)  # [B * S, H] -> [B, S, H]

        return BertOutput(
            as_tokens(self.pooling(output.last_hidden_state, mask)),
            as_tokens(output.pooler_output)[:, 0],  # first segment: [B, S, H] -> [B, H]
            tuple(as_tokens(self.pooling(states, mask)) for states in output.hidden_states),
            attention_mask.any(2).long(),  # [B, S, W] -> [B, S]
        )
