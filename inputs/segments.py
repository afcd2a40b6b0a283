"""Rows of a hierarchical encoder: texts as segments, each with its own specials."""

import numpy as np
from tokenizers import Encoding, Tokenizer

from inputs.batches import TokenizedTask, spans
from inputs.tags import TextTags
from runtime.errors import InputError
from tasks import Example, Task


class SegmentedTask(TokenizedTask):
    """Texts cut into segments of at most segment_length tokens, each with specials of its own.

    A sequence's tokens are its segments', one after the other: a pair's under `cross` are those of
    the first sentence, then those of the second one, with its token type. lengths are in tokens,
    all specials included; max_length counts, as elsewhere, before the cut into segments. Batches
    have [B, S, W] tokens: S segments of W tokens.
    """

    def __init__(
        self,
        task: Task,
        examples: list[Example],
        tokenizer: Tokenizer,
        pad_token_id: int,
        pair_encoding: str = "cross",
        max_length: int = 128,
        tags: TextTags | None = None,
        segment_length: int = 34,
    ) -> None:
        self.first_special, *self.last_specials = tokenizer.encode("").ids
        self.room = segment_length - 1 - len(self.last_specials)  # for tokens of the text
        if self.room < 1:
            raise InputError(
                f"--segment_length is {segment_length}, expected at least "
                f"{segment_length - self.room + 1}: special tokens and one of the text"
            )
        self.segment_lengths: list[list[int]] = []  # by sequence
        super().__init__(task, examples, tokenizer, pad_token_id, pair_encoding, max_length, tags)
        flat = [length for lengths in self.segment_lengths for length in lengths]
        self.flat_segment_lengths = np.array(flat)
        counts = [len(lengths) for lengths in self.segment_lengths]
        self.segment_offsets = np.concatenate([[0], np.cumsum(counts)])

    def columns(self, encoding: Encoding, first_text: int) -> tuple[np.ndarray, ...]:
        whole = super().columns(encoding, first_text)
        parts = [
            positions[start : start + self.room]
            for positions in text_positions(encoding)
            for start in range(0, len(positions), self.room)
        ]
        parts = parts or [np.arange(0)]  # a text of characters that the tokenizer drops
        num_last = len(self.last_specials)
        self.segment_lengths.append([1 + len(part) + num_last for part in parts])
        segments = []
        for part in parts:
            ids = [self.first_special, *whole[0][part], *self.last_specials]
            # Specials take the type of their segment, and no tags.
            type_id = whole[1][part].max(initial=0)
            columns = [np.array(ids, dtype=np.int32), np.full(len(ids), type_id, dtype=np.uint8)]
            if len(whole) == 3:
                columns.append(np.pad(whole[2][part], ((1, num_last), (0, 0))))
            segments.append(columns)
        return tuple(np.concatenate(column) for column in zip(*segments))

    def state_counts(self) -> np.ndarray:
        """One a segment."""
        return np.diff(self.segment_offsets)

    def mask(self, sequences: np.ndarray) -> np.ndarray:
        """Where real tokens stand, [B, S, W] bool."""
        counts = self.segment_offsets[sequences + 1] - self.segment_offsets[sequences]
        is_segment = np.arange(counts.max()) < counts[:, None]  # [B, S]
        lengths = np.zeros(is_segment.shape, dtype=np.int64)
        lengths[is_segment] = self.flat_segment_lengths[spans(self.segment_offsets, sequences)]
        return np.arange(lengths.max()) < lengths[:, :, None]


def text_positions(encoding: Encoding) -> list[np.ndarray]:
    """Positions of the tokens of each text in a sequence, without specials."""
    owners = np.array([-1 if owner is None else owner for owner in encoding.sequence_ids])
    return [np.flatnonzero(owners == number) for number in range(encoding.n_sequences)]
