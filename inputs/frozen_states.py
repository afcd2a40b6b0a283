"""What a frozen encoder gives is computed once: its states, by task, split and row.

This holds only where the states are the same every time: the whole encoder is frozen, and there are
no tags, projected attention layers or SMART. The encoder then runs once per row, and training reads
what it gave.
"""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from inputs.batches import Rows, TokenizedTask, spans
from models import MultitaskBert
from tasks import Batch

BLOCK = 64  # rows that the encoder computes together
IN_MEMORY = 2**30  # bytes of one split's states; more of them lie in a file
CHANGING = {  # option -> why the encoder's states are not the same every time
    "use_pal": "projected attention layers and LayerNorms are trained",
    "additional_input": "tag embeddings are trained",
    "use_smart_regularization": "SMART moves the embeddings",
}


def cache_frozen_states(
    args: Namespace, model: MultitaskBert, data: dict[str, dict[str, TokenizedTask]]
) -> dict[str, dict[str, Rows]]:
    """Cache the states of training and dev rows if the encoder is frozen, and print so.

    The test split is read once, so that a cache would save nothing.

    Args:
        args: the run's options.
        model: the model whose encoder computes the states.
        data: split -> task name -> rows.

    Returns:
        The same data, its rows wrapped where states are cached.
    """
    if args.option != "pretrain":
        return data
    for option, reason in CHANGING.items():
        if getattr(args, option):
            print(f"frozen states are not cached: {reason}")
            return data
    print("frozen states are cached: the encoder runs once per row")
    return {
        split: (
            {name: CachedRows(model, rows, Path(args.run_dir)) for name, rows in by_task.items()}
            if split in ("train", "dev")
            else by_task
        )
        for split, by_task in data.items()
    }


class CachedRows(Rows):
    """Rows whose batches bring `states`, and `states_mask` unless these are sentence vectors.

    Rows are computed in fixed blocks of about equal length, so that a row's last bits never depend
    on the batch that asks for it. A block is computed in float32 on the model's device when
    one of its rows is first asked for, and kept on the CPU: in memory, or in a nameless
    file if a split's states take more than IN_MEMORY. Once a layer of the encoder is trained, the
    states are dropped and batches bring tokens.

    Args:
        model: its encoder computes the states.
        rows: the rows as token ids.
        directory: where the nameless file lies.
    """

    def __init__(self, model: MultitaskBert, rows: TokenizedTask, directory: Path) -> None:
        self.model, self.rows, self.directory = model, rows, directory
        self.task, self.ids, self.labels = rows.task, rows.ids, rows.labels
        self.lengths, self.num_in_file = rows.lengths, rows.num_in_file
        self.blocks = self.chunks(BLOCK)
        self.block_of = np.empty(len(self), dtype=np.int64)
        for number, block in enumerate(self.blocks):
            self.block_of[block] = number
        self.is_computed = np.zeros(len(self.blocks), dtype=bool)
        self.flat: np.ndarray | None = None  # [states of all sequences, H or F]

    def batch(self, rows: np.ndarray) -> Batch:
        """Collate row numbers [B]."""
        if any(p.requires_grad for p in self.model.encoder.parameters()):
            self.flat = None
            return self.rows.batch(rows)
        for number in np.unique(self.block_of[rows]):
            if not self.is_computed[number]:
                self.compute(number)
        sequences = self.sequences(rows)
        states = self.flat[spans(self.offsets, sequences)]
        if self.is_pooled:
            batch = {"states": torch.from_numpy(states)}  # [B, F]
        else:
            counts = self.counts[sequences]
            mask = np.arange(counts.max()) < counts[:, None]
            padded = np.zeros((*mask.shape, states.shape[-1]), dtype=np.float32)
            padded[mask] = states
            batch = {
                "states": torch.from_numpy(padded),
                "states_mask": torch.from_numpy(mask.astype(np.int64)),
            }
        if self.labels is not None:
            batch["labels"] = torch.from_numpy(self.labels[rows])
        return batch

    @torch.no_grad()
    def compute(self, number: int) -> None:
        """Compute and keep the states of one block."""
        rows = self.blocks[number]
        device = next(self.model.parameters()).device
        batch = {key: tensor.to(device) for key, tensor in self.rows.batch(rows).items()}
        states, mask = self.model.prefix(self.task, batch)
        states = states.float().cpu().numpy()
        if self.flat is None:
            self.reserve(mask is None, states.shape[-1])
        sequences = self.sequences(rows)
        if mask is not None:
            mask = mask.bool().cpu().numpy()
            assert (mask.sum(1) == self.counts[sequences]).all(), "a sequence of another length"
            states = states[mask]
        self.flat[spans(self.offsets, sequences)] = states
        self.is_computed[number] = True

    def reserve(self, is_pooled: bool, num_features: int) -> None:
        """Make room for all rows.

        Raises:
            OSError: the disk has no room; the message names the directory.
        """
        self.is_pooled = is_pooled
        self.counts = self.num_states(is_pooled)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        shape = (int(self.offsets[-1]), num_features)
        num_bytes = 4 * shape[0] * shape[1]
        if num_bytes <= IN_MEMORY:
            self.flat = np.empty(shape, dtype=np.float32)
            return
        file = tempfile.TemporaryFile(dir=self.directory)
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)  # or a full disk would be a SIGBUS
        except OSError as error:
            raise OSError(
                f"{self.directory}: no room for {num_bytes / 2**30:.1f} GiB of frozen states: "
                f"{error.strerror}"
            ) from None
        self.flat = np.memmap(file, dtype=np.float32, mode="r+", shape=shape)

    def num_states(self, is_pooled: bool) -> np.ndarray:
        """Return how many states each sequence has: one, or one per layer, segment or token."""
        counts = self.rows.state_counts()
        if is_pooled:
            return np.ones_like(counts)
        if self.model.features.reads_layers:
            return np.full_like(counts, len(self.model.encoder.layer))
        return counts
