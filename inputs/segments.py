"""Rows for the hierarchical encoder: texts cut into segments, each with its own special tokens."""

import numpy as np
from tokenizers import Encoding, Tokenizer

from inputs.batches import TokenizedTask, cut, is_filled, padded, spans, starts
from inputs.tags import TextTags
from runtime.errors import InputError
from tasks import Example, Task


class SegmentedTask(TokenizedTask):
    """Rows whose texts are cut into segments; batches hold S segments of W tokens, [B, S, W].

    A sequence is the concatenation of its segments. For a pair under `cross`, these are the
    segments of the first sentence, then those of the second sentence, which have token type 1. No
    segment holds tokens of both. `lengths` counts all tokens of a sequence, the special tokens of
    every segment included.

    All arguments but the last are those of `TokenizedTask`. Texts are truncated to max_length
    before they are cut into segments.

    Args:
        segment_length: most tokens of a segment, its special tokens included.

    Raises:
        InputError: segment_length leaves no room for a token of the text, or max_length is too
            small.
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
                f"{segment_length - self.room + 1}: the special tokens and one token of the text"
            )
        self.segment_lengths: list[list[int]] = []  # by sequence; `columns` adds to it
        super().__init__(task, examples, tokenizer, pad_token_id, pair_encoding, max_length, tags)
        self.segment_counts = np.array([len(lengths) for lengths in self.segment_lengths])
        self.segment_offsets = starts(self.segment_counts)
        self.flat_segment_lengths = np.concatenate(self.segment_lengths)

    def columns(self, encoding: Encoding, first_text: int) -> tuple[np.ndarray, ...]:
        """Return what the flat arrays hold of one sequence: its segments, one after the other."""
        whole = super().columns(encoding, first_text)
        parts = [part for text in text_positions(encoding) for part in cut(text, self.room)] or [
            np.arange(0)  # the tokenizer has dropped every character of the text
        ]
        num_last = len(self.last_specials)
        self.segment_lengths.append([1 + len(part) + num_last for part in parts])
        segments = []
        for part in parts:
            ids = np.array([self.first_special, *whole[0][part], *self.last_specials], np.int32)
            # Special tokens have the token type of their segment, and no tags.
            types = np.full(len(ids), whole[1][part].max(initial=0), np.uint8)
            tags = [np.pad(tag_ids[part], ((1, num_last), (0, 0))) for tag_ids in whole[2:]]
            segments.append((ids, types, *tags))
        return tuple(np.concatenate(column) for column in zip(*segments))

    def state_counts(self) -> np.ndarray:
        """Return how many states the encoder gives for each sequence: one per segment."""
        return self.segment_counts

    def mask(self, sequences: np.ndarray) -> np.ndarray:
        """Return [B, S, W] bool, True at the tokens of these sequences."""
        is_segment = is_filled(self.segment_counts[sequences])  # [B, S]
        lengths = self.flat_segment_lengths[spans(self.segment_offsets, sequences)]
        return is_filled(padded(is_segment, lengths))  # [B, S, W]


def text_positions(encoding: Encoding) -> list[np.ndarray]:
    """Return the positions of each text's tokens in a sequence, without special tokens."""
    owners = np.array([-1 if owner is None else owner for owner in encoding.sequence_ids])
    return [np.flatnonzero(owners == number) for number in range(encoding.n_sequences)]
