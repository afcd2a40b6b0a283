"""Cached states of a frozen encoder: the encoder runs once per row, and training reads its output.

States are cached only if the encoder gives the same ones every time: all of it is frozen, and there
are no tags, projected attention layers or SMART.
"""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from inputs.batches import Rows, is_filled, padded, spans, starts
from models import MultitaskBert
from tasks import Batch, to_device

BLOCK = 64  # rows that the encoder computes together
IN_MEMORY = 2**30  # bytes; if the states of a split take more, they lie in a file
CHANGING = {  # option -> why the states of the encoder change
    "use_pal": "projected attention layers and LayerNorms are trained",
    "additional_input": "tag embeddings are trained",
    "use_smart_regularization": "SMART moves the embeddings",
}


def cache_frozen_states(
    args: Namespace, model: MultitaskBert, data: dict[str, dict[str, Rows]]
) -> dict[str, dict[str, Rows]]:
    """Cache the states of training and dev rows if the encoder is frozen; print whether it does.

    Rows of the test split are not cached, because a run reads them only once.

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
    cached = {split: dict(by_task) for split, by_task in data.items()}
    for split in ("train", "dev"):
        for name, rows in data[split].items():
            if split == "train" and num_trained(args, data["train"]) <= len(rows):
                print(f"not those of {name}'s training rows: the run sees each at most about once")
            else:
                cached[split][name] = CachedRows(model, rows, Path(args.run_dir), args.use_amp)
    return cached


def num_trained(args: Namespace, train_data: dict[str, Rows]) -> float:
    """Return how many examples of each trained task a run sees, if all get equally many."""
    total = sum(rows.num_in_file for rows in train_data.values())
    if args.samples_per_epoch is not None:
        total = args.samples_per_epoch * len(train_data)
    num_tasks = 1 if args.task_scheduler in train_data else len(train_data)
    per_epoch = total / num_tasks
    if args.num_batches_per_epoch is not None:
        per_epoch = args.num_batches_per_epoch * args.batch_size
        has_all_tasks = args.task_scheduler == "joint" or args.projection != "none"
        per_epoch /= 1 if has_all_tasks else num_tasks
    return args.epochs * per_epoch


class CachedRows(Rows):
    """Rows whose batches hold `states`, and `states_mask` unless the states are sentence vectors.

    States are computed in blocks of rows of similar length. The blocks never change, so the states
    of a row are the same to the last bit, whatever batch it is in. A block is computed on the
    model's device when a batch first needs one of its rows. It is kept on the CPU in float32: in
    memory, or in a file without a name if the states of the split take more than IN_MEMORY.

    Once a layer of the encoder is unfrozen, the states are dropped and batches hold tokens.

    Args:
        model: its encoder computes the states.
        rows: the rows as token ids.
        directory: where the file lies.
        use_amp: whether to compute in bfloat16, as the run computes the rows that are not cached.
    """

    def __init__(
        self, model: MultitaskBert, rows: Rows, directory: Path, use_amp: bool = False
    ) -> None:
        self.model, self.rows, self.directory = model, rows, directory
        self.use_amp = use_amp
        self.task, self.ids, self.labels = rows.task, rows.ids, rows.labels
        self.lengths, self.num_in_file = rows.lengths, rows.num_in_file
        if rows.swapped is not None:
            self.swapped = CachedRows(model, rows.swapped, directory, use_amp)
        self.blocks = self.chunks(BLOCK)
        self.block_of = np.empty(len(self), dtype=np.int64)  # [N], the block that each row is in
        self.block_of[np.concatenate(self.blocks)] = np.arange(len(self)) // BLOCK
        self.is_computed = np.zeros(len(self.blocks), dtype=bool)
        self.flat: np.ndarray = np.empty(0)  # [states of all sequences, H or F] once reserved

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of row numbers [B]; compute the states that are missing."""
        if any(p.requires_grad for p in self.model.encoder.parameters()):
            self.flat = np.empty(0)
            return self.rows.batch(rows)
        for number in np.unique(self.block_of[rows]):
            if not self.is_computed[number]:
                self.compute(number)
        sequences = self.sequences(rows)
        states = self.flat[spans(self.offsets, sequences)]
        if self.is_pooled:
            return self.tensors({"states": states}, rows)  # [B, F]
        lengths = self.counts[sequences]
        mask = is_filled(lengths)
        arrays = {
            "states": padded(mask, states, dtype=np.float32),  # [B, L, H]
            "states_mask": mask.astype(np.int64),
            "lengths": lengths,
        }
        return self.tensors(arrays, rows)

    @torch.no_grad()
    def compute(self, number: int) -> None:
        """Compute and keep the states of one block."""
        rows = self.blocks[number]
        device = next(self.model.parameters()).device
        batch = to_device(self.rows.batch(rows), device)
        with torch.autocast(device.type, torch.bfloat16, self.use_amp):
            outputs, mask = self.model.prefix(self.task, batch)
        states = outputs.float().cpu().numpy()
        if not self.is_computed.any():
            self.reserve(mask is None, states)
        sequences = self.sequences(rows)
        if mask is not None:
            is_state = mask.bool().cpu().numpy()
            assert (is_state.sum(1) == self.counts[sequences]).all(), "a sequence of another length"
            states = states[is_state]
        self.flat[spans(self.offsets, sequences)] = states
        self.is_computed[number] = True

    def reserve(self, is_pooled: bool, states: np.ndarray) -> None:
        """Make room for the states of all rows.

        Args:
            is_pooled: whether a sequence has one state, its sentence vector. Otherwise it has one
                per layer, segment or token.
            states: those of the first block, for their shape: [B, F], or padded, [B, L, H].

        Raises:
            OSError: the disk has no room; the message names the directory.
        """
        self.is_pooled = is_pooled
        self.counts = self.rows.state_counts()  # of each sequence
        if is_pooled:
            self.counts = np.ones_like(self.counts)
        elif self.model.features.reads_layers:
            self.counts = np.full_like(self.counts, states.shape[1])
        self.offsets = starts(self.counts)
        shape = (int(self.offsets[-1]), states.shape[-1])
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
