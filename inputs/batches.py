"""Rows as token ids, once, and length-grouped batches of them.

A batch is a dict of tensors: `input_ids`, `attention_mask` (1 on real tokens), `token_type_ids`,
all [B, L] int64, and `labels` [B] (int64 for integer labels, else float32; absent where the file
has none). Under `bi` pair encoding a pair's two sentences are rows of their own: [2B, L], all first
sentences, then all second ones. Hierarchical texts have an axis of segments: [B, S, W]. `tag_ids`,
[B, L, 2], are part-of-speech and entity tags where these are inputs. `frozen_states`
gives `states` in place of tokens. Of several workers, each has its part of the rows, padded as the
whole batch is, and in `is_own`, [rows of the whole batch] bool, which ones these are.
"""

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer

from inputs.tags import TextTags
from runtime.errors import InputError
from tasks import Batch, Example, Task

PAIR_ENCODINGS = ("cross", "bi")
TOKENIZER_CHUNK = 10_000  # rows; an Encoding takes some hundred times the memory of its ids
MEGA_BATCHES = (
    40  # batches sorted by length together: enough for even lengths, few enough to stay random
)


class Rows:
    """A split's rows: `ids` in file order, `labels` [N] or None, `lengths` [N, S] of each of a
    row's S sequences (S = 2 for a pair under `bi`, else 1), and `batch(rows)`, which collates row
    numbers [B]. num_in_file: rows without augmentation's."""

    task: Task
    ids: list[str]
    labels: np.ndarray | None
    lengths: np.ndarray
    num_in_file: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray) -> Batch:
        raise NotImplementedError

    def sequences(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the rows' sequences: all first ones, then all second ones."""
        num_sequences = self.lengths.shape[1]
        return (rows * num_sequences + np.arange(num_sequences)[:, None]).reshape(-1)

    def chunks(self, batch_size: int, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Cut all rows, or the given ones, into batches of row numbers [B], by length."""
        rows = np.arange(len(self)) if rows is None else rows
        rows = rows[np.argsort(self.lengths[rows].max(axis=1), kind="stable")]
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def sample_rows(self, num_rows: int | None, seed: int) -> np.ndarray:
        """A fixed seeded sample of row numbers without replacement; None or enough: every row."""
        if num_rows is None or num_rows >= len(self):
            return np.arange(len(self))
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self), generator=generator)[:num_rows].sort().values.numpy()


class TokenizedTask(Rows):
    """Rows as token ids, held in flat arrays: some bytes a token, whatever the number of rows.

    lengths are in tokens. tags: of all the rows' texts, one after the other; None where they are no
    input. num_truncated: rows that were cut to max_length.
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
        self.labels = None
        if examples[0].label is not None:
            dtype = np.int64 if task.label_type is int else np.float32
            self.labels = np.array([example.label for example in examples], dtype=dtype)
        self.pad_token_id = pad_token_id
        self.tags = tags
        self.num_sequences = 2 if pair_encoding == "bi" and task.is_pair else 1
        if self.num_sequences == 2:
            texts = [text for example in examples for text in example.texts]
        else:
            texts = [example.texts if task.is_pair else example.texts[0] for example in examples]
        self.tokenize(texts, tokenizer, max_length)

    def tokenize(self, texts: list, tokenizer: Tokenizer, max_length: int) -> None:
        """Fill the flat arrays; the longest sentence of a pair is cut first. Raises InputError."""
        is_pair = self.task.is_pair and self.num_sequences == 1
        shortest = tokenizer.num_special_tokens_to_add(is_pair) + 1 + is_pair
        if max_length < shortest:  # the tokenizer would truncate nothing, without a word
            raise InputError(
                f"--max_length is {max_length}, but {self.task.name} needs at least {shortest}: "
                "special tokens and one token a sentence"
            )
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        columns: list[tuple[np.ndarray, ...]] = []
        truncated = []
        for start in range(0, len(texts), TOKENIZER_CHUNK):
            encodings = tokenizer.encode_batch(texts[start : start + TOKENIZER_CHUNK])
            for number, encoding in enumerate(encodings, start):
                columns.append(self.columns(encoding, number * (1 + is_pair)))
                truncated.append(bool(encoding.overflowing))
        self.token_ids, self.type_ids, *rest = (np.concatenate(part) for part in zip(*columns))
        self.tag_ids = rest[0] if rest else None
        lengths = [len(token_ids) for token_ids, *_ in columns]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.lengths = np.array(lengths).reshape(-1, self.num_sequences)
        self.num_truncated = int(np.array(truncated).reshape(self.lengths.shape).any(axis=1).sum())

    def columns(self, encoding: Encoding, first_text: int) -> tuple[np.ndarray, ...]:
        """One sequence's token ids, type ids and, with tags, tag ids [L, 2].

        first_text: which of all texts is the sequence's first.
        """
        arrays = np.array(encoding.ids, dtype=np.int32), np.array(encoding.type_ids, dtype=np.uint8)
        if self.tags is None:
            return arrays
        owners = [first_text + (owner or 0) for owner in encoding.sequence_ids]
        tag_ids = self.tags.align(owners, encoding.offsets)  # specials have no span and no tags
        return *arrays, tag_ids

    def batch(self, rows: np.ndarray) -> Batch:
        """Collate row numbers [B], padded to the longest of them."""
        sequences = self.sequences(rows)
        mask = self.mask(sequences)  # [B, L], [2B, L] under bi
        tokens = spans(self.offsets, sequences)
        input_ids = np.full(mask.shape, self.pad_token_id, dtype=np.int64)
        input_ids[mask] = self.token_ids[tokens]
        token_type_ids = np.zeros(mask.shape, dtype=np.int64)
        token_type_ids[mask] = self.type_ids[tokens]
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "token_type_ids": torch.from_numpy(token_type_ids),
        }
        if self.tag_ids is not None:
            tag_ids = np.zeros((*mask.shape, 2), dtype=np.int64)
            tag_ids[mask] = self.tag_ids[tokens]
            batch["tag_ids"] = torch.from_numpy(tag_ids)
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch

    def state_counts(self) -> np.ndarray:
        """How many states the encoder gives for each sequence: one a token."""
        return self.lengths.reshape(-1)

    def mask(self, sequences: np.ndarray) -> np.ndarray:
        """Where real tokens stand, [B, L] bool."""
        lengths = self.offsets[sequences + 1] - self.offsets[sequences]
        return np.arange(lengths.max()) < lengths[:, None]


def spans(offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Indices offsets[n] to offsets[n + 1] of all `numbers`, one after the other."""
    return np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in numbers])


class BatchSampler:
    """Endless length-grouped batches of row numbers from one split.

    Each walk over the rows is without replacement and freshly shuffled: rows are permuted, cut into
    mega-batches of `MEGA_BATCHES` batches, sorted by length within each, cut into batches, and the
    batches shuffled. A walk's last batch may be smaller. All randomness comes from the sampler's
    own generator, seeded with `seed`.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.start_walk()

    @property
    def mean_batch_size(self) -> float:
        return len(self.lengths) / -(-len(self.lengths) // self.batch_size)

    def start_walk(self) -> None:
        self.walk_state = self.generator.get_state()
        self.position = 0
        permutation = torch.randperm(len(self.lengths), generator=self.generator).numpy()
        size = self.batch_size * MEGA_BATCHES
        batches = []
        for start in range(0, len(permutation), size):
            mega = permutation[start : start + size]
            mega = mega[np.argsort(-self.lengths[mega], kind="stable")]
            batches += [mega[i : i + self.batch_size] for i in range(0, len(mega), self.batch_size)]
        order = torch.randperm(len(batches), generator=self.generator).tolist()
        self.batches = [batches[i] for i in order]

    def next_rows(self) -> np.ndarray:
        """Row numbers [B] of the next batch."""
        if self.position == len(self.batches):
            self.start_walk()
        self.position += 1
        return self.batches[self.position - 1]

    def state_dict(self) -> dict:
        num_rows = len(self.lengths)
        return {"walk_state": self.walk_state, "position": self.position, "num_rows": num_rows}

    def load_state_dict(self, state: dict) -> None:
        if state["num_rows"] != len(self.lengths):
            raise InputError(
                f"the training file has {len(self.lengths)} rows now, {state['num_rows']} when the "
                "run was saved; resume with the same files"
            )
        self.generator.set_state(state["walk_state"])
        self.start_walk()
        self.position = state["position"]
