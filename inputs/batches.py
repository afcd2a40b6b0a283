"""Rows as token ids, made once, and batches of rows of similar length.

A batch is a dict of tensors:

    input_ids, attention_mask, token_type_ids   [B, L] int64; the mask is 1 at tokens, 0 at padding
    tag_ids         [B, L, 2] int64: part-of-speech and entity ids, only with --additional_input
    labels          [B] int64 for classes, [B, C] int64 for several of them per example, [B] float32
                    for numbers; missing if the file has no labels
    lengths         [B] int64, the states that the encoder gives: one per token, hierarchical ones
                    per segment. It stays on the CPU, where shapes are decided.

Under `bi` pair encoding, each sentence of a pair is a sequence of its own. Tensors have 2B rows
then: all first sentences, followed by all second sentences. Hierarchical texts have one more axis,
the segments: [B, S, W] instead of [B, L]. With a frozen encoder, cached states (`states`,
`states_mask`) may stand in place of the tokens.

If several workers train together, each gets its part of the rows, padded to the length of the whole
batch. `is_own`, [rows of the whole batch] bool, tells which rows these are.
"""

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from inputs.tags import TextTags
from runtime.errors import InputError
from runtime.saved_values import check_number
from tasks import Batch, Example, Task

PAIR_ENCODINGS = ("cross", "bi")
TOKENIZER_CHUNK = 10_000  # rows; an Encoding takes hundreds of times the memory of its ids
# Batches whose rows are sorted by length together: enough to need little padding, and few enough
# for random batches.
MEGA_BATCHES = 40


class Rows:
    """The rows of one split of a task.

    A row has S sequences of tokens: S = 2 for a pair under `bi`, otherwise S = 1.

    Attributes:
        task: their task.
        ids: N ids, in the order of the file.
        labels: [N], or [N, C] if there are several per example, or None.
        lengths: [N, S], tokens of each sequence.
        num_in_file: number of rows without those that augmentation has added.
        swapped: the same rows with the two sentences of each pair in the other order, if a
            prediction shall read both orders; else None.
    """

    swapped: "Rows | None" = None
    task: Task
    ids: list[str]
    labels: np.ndarray | None
    lengths: np.ndarray
    num_in_file: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of row numbers [B], padded to its longest sequence."""
        raise NotImplementedError

    @property
    def num_orders(self) -> int:
        """In how many orders of its sentences a prediction reads a row."""
        return 1 + (self.swapped is not None)

    def orders(self, rows: np.ndarray) -> list[Batch]:
        """Return the batches that a prediction of row numbers [B] is the mean over: one or two."""
        return [part.batch(rows) for part in (self, self.swapped) if part is not None]

    def state_counts(self) -> np.ndarray:
        """Return how many states the encoder gives for each sequence [N · S]: one per token."""
        return self.lengths.reshape(-1)

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers [S · B] of the rows' sequences: all first ones, then all second."""
        num_sequences = self.lengths.shape[1]
        return (rows * num_sequences + np.arange(num_sequences)[:, None]).reshape(-1)

    def tensors(self, arrays: dict[str, np.ndarray], rows: np.ndarray) -> Batch:
        """Return arrays as tensors, and the labels of the rows if there are any."""
        if self.labels is not None:
            arrays = arrays | {"labels": self.labels[rows]}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def chunks(self, batch_size: int, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Sort row numbers, of all rows or of some, by length, and cut them into batches [B]."""
        rows = np.arange(len(self)) if rows is None else rows
        return cut(rows[np.argsort(self.lengths[rows].max(axis=1), kind="stable")], batch_size)

    def sample_rows(self, num_rows: int | None, seed: int) -> np.ndarray:
        """Draw row numbers without replacement, in ascending order.

        Args:
            num_rows: how many; None, or a number that is too large, for all rows.
            seed: the same seed gives the same rows.
        """
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self), generator=generator)[:num_rows].sort().values.numpy()


class TokenizedTask(Rows):
    """Rows as token ids, held in flat arrays: a few bytes per token, however many rows.

    Args:
        task: their task.
        examples: the rows, at least one. Either all have a label or none has.
        tokenizer: its truncation is set here.
        pad_token_id: fills `input_ids` at padding.
        pair_encoding: `cross` joins the two sentences of a pair, `bi` encodes each alone.
        max_length: tokens of a sequence, special tokens included. What is beyond is cut off; of
            two joined sentences, the longer one is cut first.
        tags: of all texts of the rows, one text after the other; None for a batch without tags.

    Attributes:
        num_sequences: S.
        num_truncated: rows that were cut to max_length.

    Raises:
        InputError: max_length leaves no room for one token of each sentence.
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
    ) -> None:
        self.task = task
        self.ids = [example.id for example in examples]
        self.num_in_file = len(examples)
        labels = [example.label for example in examples]
        self.labels = None if labels[0] is None else np.array(labels, dtype=task.label_dtype)
        self.pad_token_id = pad_token_id
        self.tags = tags
        is_joined = task.is_pair and pair_encoding == "cross"
        self.num_sequences = 1 if is_joined else len(task.text_columns)
        self.tokenize(examples, is_joined, tokenizer, max_length)

    def tokenize(
        self, examples: list[Example], is_joined: bool, tokenizer: Tokenizer, max_length: int
    ) -> None:
        """Fill the flat arrays. `is_joined`: the two sentences of a pair make one sequence."""
        shortest = tokenizer.num_special_tokens_to_add(is_joined) + 1 + is_joined
        if max_length < shortest:  # the tokenizer would silently truncate nothing
            raise InputError(
                f"--max_length is {max_length}, but {self.task.name} needs at least {shortest}: "
                "special tokens and one token per sentence"
            )
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        texts = [e.texts for e in examples] if is_joined else [t for e in examples for t in e.texts]
        columns: list[tuple[np.ndarray, ...]] = []
        truncated = []
        for chunk in cut(texts, TOKENIZER_CHUNK):
            for encoding in self.encode(tokenizer, chunk):
                columns.append(self.columns(encoding, len(columns) * (1 + is_joined)))
                truncated.append(bool(encoding.overflowing))
        self.token_ids, self.type_ids, *rest = (np.concatenate(part) for part in zip(*columns))
        self.tag_ids = rest[0] if rest else None
        lengths = [len(token_ids) for token_ids, *_ in columns]
        self.offsets = starts(lengths)
        self.lengths = np.array(lengths).reshape(-1, self.num_sequences)
        self.num_truncated = int(np.array(truncated).reshape(self.lengths.shape).any(axis=1).sum())

    def encode(self, tokenizer: Tokenizer, texts: list) -> list[Encoding]:
        """Encode texts, or pairs of them. Raises InputError if the tokenizer panics."""
        try:
            return tokenizer.encode_batch(texts)
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of Rust, no Exception
                raise
            raise InputError(
                f"the tokenizer fails on a text of {self.task.name}: {error}; use another"
            ) from None

    def columns(self, encoding: Encoding, first_text: int) -> tuple[np.ndarray, ...]:
        """Return what the flat arrays hold of one sequence.

        Args:
            encoding: the sequence.
            first_text: the number of its first text among all texts.

        Returns:
            Token ids [L], type ids [L], and tag ids [L, 2] if there are tags.
        """
        arrays = np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.uint8)
        if self.tags is None:
            return arrays
        owners = [first_text + (owner or 0) for owner in encoding.sequence_ids]
        # A special token has no owner and no characters, and so no tags.
        return *arrays, self.tags.align(owners, encoding.offsets)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of row numbers [B], padded to its longest sequence."""
        sequences = self.sequences(rows)
        mask = self.mask(sequences)  # [B, L], [2B, L] under bi
        tokens = spans(self.offsets, sequences)
        arrays = {
            "input_ids": padded(mask, self.token_ids[tokens], self.pad_token_id),
            "attention_mask": mask.astype(np.int64),
            "token_type_ids": padded(mask, self.type_ids[tokens]),
            "lengths": self.state_counts()[sequences],
        }
        if self.tag_ids is not None:
            arrays["tag_ids"] = padded(mask, self.tag_ids[tokens])
        return self.tensors(arrays, rows)

    def mask(self, sequences: np.ndarray) -> np.ndarray:
        """Return [B, L] bool, True at the tokens of these sequences."""
        return is_filled(self.lengths.reshape(-1)[sequences])


def cut(items: Sequence | np.ndarray, size: int) -> list:
    """Cut a sequence into parts of `size` items; the last one may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where each of N parts of a flat array starts, and where the last ends: [N + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)])


def spans(offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the indices of the parts `numbers` of a flat array, one part after the other."""
    return np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in numbers])


def is_filled(lengths: np.ndarray) -> np.ndarray:
    """Return [..., max length] bool, True at the first `lengths` [...] places of the last axis."""
    return np.arange(lengths.max()) < lengths[..., None]


def padded(
    mask: np.ndarray, values: np.ndarray, fill: int = 0, dtype: type[np.generic] = np.int64
) -> np.ndarray:
    """Return an array with `values` [num True, ...] where `mask` is True, and `fill` elsewhere."""
    array = np.full((*mask.shape, *values.shape[1:]), fill, dtype=dtype)
    array[mask] = values
    return array


class BatchSampler:
    """Endless batches of row numbers of one split, each of rows of similar length.

    The sampler walks over all rows again and again, and every walk has each row once. For a walk,
    rows are shuffled and cut into mega-batches of `MEGA_BATCHES` batches. The rows of each
    mega-batch are sorted by length and cut into batches. Then the batches are shuffled. One batch
    of a walk may be smaller than the others. All random numbers come from the sampler's own
    generator.

    Args:
        lengths: [N], the length of each row.
        batch_size: B.
        seed: of the generator.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.start_walk()

    @property
    def mean_batch_size(self) -> float:
        """Mean number of rows in the batches of a walk."""
        return len(self.lengths) / -(-len(self.lengths) // self.batch_size)

    def start_walk(self) -> None:
        """Draw the batches of a new walk, and remember the generator's state before it."""
        self.walk_state = self.generator.get_state()
        self.position = 0
        permutation = torch.randperm(len(self.lengths), generator=self.generator).numpy()
        batches = []
        for mega in cut(permutation, self.batch_size * MEGA_BATCHES):
            by_length = mega[np.argsort(-self.lengths[mega], kind="stable")]  # longest first
            batches += cut(by_length, self.batch_size)
        order = torch.randperm(len(batches), generator=self.generator)
        self.batches = [batches[i] for i in order.tolist()]

    def next_rows(self) -> np.ndarray:
        """Return the row numbers [B] of the next batch."""
        if self.position == len(self.batches):
            self.start_walk()
        self.position += 1
        return self.batches[self.position - 1]

    def state_dict(self) -> dict:
        """Return the state of the generator at the start of the walk, and the position in it."""
        return {
            "walk_state": self.walk_state,
            "position": self.position,
            "num_rows": len(self.lengths),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was called.

        Raises:
            InputError: the training file has another number of rows now.
            ValueError: the position is outside the walk.
        """
        if state["num_rows"] != len(self.lengths):
            raise InputError(
                f"the training file has {len(self.lengths)} rows now, {state['num_rows']} when the "
                "run was saved; resume with the same files"
            )
        self.generator.set_state(state["walk_state"])
        self.start_walk()
        check_number(state["position"], 0, len(self.batches), "position")
        self.position = state["position"]
