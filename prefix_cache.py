"""What a frozen encoder gives is computed once: its states, by task, split and row.

Only where it is the same every time: the whole encoder frozen, without tags, projected attention
layers or SMART. The encoder then runs once a row; training reads what it gave.
"""

import os
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

import workers
from batches import Batch, Rows, TokenizedTask, spans
from models import MultitaskBert

IN_MEMORY = 2**30  # bytes of one split's states; more lie in a file
CHANGING = {  # option -> why the encoder's states are not the same every time
    "use_pal": "projected attention layers and LayerNorms are trained",
    "additional_input": "tag embeddings are trained",
    "use_smart_regularization": "SMART moves the embeddings",
}


def with_cache(
    args: Namespace, model: MultitaskBert, data: dict[str, dict[str, TokenizedTask]]
) -> dict[str, dict[str, Rows]]:
    """Training and dev data whose frozen states are kept, or the data as it is; says which.

    The test split is read once, so keeping it would save nothing.
    """
    if args.option != "pretrain":
        return data
    for option, reason in CHANGING.items():
        if getattr(args, option):
            print(f"frozen states are not cached: {reason}")
            return data
    print("frozen states are cached: the encoder runs once a row")
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

    A row's states are computed when it is first asked for, in float32 and eval mode, on the model's
    device, and kept on the CPU: in memory, or in a nameless file in `directory` if there is more
    than IN_MEMORY. Once a layer of the encoder is trained, they are dropped and batches bring
    tokens. A row's last bits depend on the rows it is computed with, so the state that is saved
    names those of each: a resumed run computes them together again.
    """

    def __init__(self, model: MultitaskBert, rows: TokenizedTask, directory: Path) -> None:
        self.model, self.rows, self.directory = model, rows, directory
        self.fills: list[np.ndarray] = []  # rows that were computed together, in order
        self.fill_of = np.full(len(rows.ids), -1)  # number of a row's fill
        self.task, self.ids, self.labels = rows.task, rows.ids, rows.labels
        self.lengths, self.num_in_file = rows.lengths, rows.num_in_file
        self.flat: np.ndarray | None = None  # [states of all sequences, H or F]

    def batch(self, rows: np.ndarray) -> Batch:
        if any(p.requires_grad for p in self.model.encoder.parameters()):
            self.flat = None
            return self.rows.batch(rows)
        self.fill_missing(rows)
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

    def shard(self, rows: np.ndarray) -> Batch:
        """As elsewhere; but a worker runs the encoder on its own rows alone."""
        if workers.size() == 1:
            return self.batch(rows)
        own = self.batch(rows[workers.positions(len(rows))])
        return own | {"all_rows": torch.from_numpy(rows)}

    def fill_missing(self, rows: np.ndarray) -> None:
        """Compute what is not there of these rows, those of a fill of before together."""
        missing = rows if self.flat is None else rows[~self.is_known[rows]]
        for number in np.unique(self.fill_of[missing]):
            if number >= 0:  # computed before the run was resumed
                self.fill(self.fills[number])
        new = missing[self.fill_of[missing] < 0]
        if len(new):
            self.fill_of[new] = len(self.fills)
            self.fills.append(new)
            self.fill(new)

    def state_dict(self) -> dict:
        rows = np.concatenate([*self.fills, np.empty(0, dtype=np.int64)])
        sizes = [len(fill) for fill in self.fills]
        return {"rows": torch.from_numpy(rows.astype(np.int64)), "sizes": sizes}

    def load_state_dict(self, state: dict) -> None:
        self.fills = [part.numpy() for part in state["rows"].split(state["sizes"])]
        for number, fill in enumerate(self.fills):
            self.fill_of[fill] = number

    @torch.no_grad()
    def fill(self, rows: np.ndarray) -> None:
        """Compute and keep the states of these rows."""
        device = next(self.model.parameters()).device
        batch = self.rows.batch(rows)
        batch = {key: tensor.to(device) for key, tensor in batch.items()}
        states, mask = self.model.prefix(self.task, batch)
        states = states.float().cpu().numpy()
        if self.flat is None:
            self.reserve(mask is None, states.shape)
        sequences = self.sequences(rows)
        if mask is not None:
            mask = mask.bool().cpu().numpy()
            assert (mask.sum(1) == self.counts[sequences]).all(), "a sequence of another length"
            states = states[mask]
        self.flat[spans(self.offsets, sequences)] = states
        self.is_known[rows] = True

    def reserve(self, is_pooled: bool, shape: tuple[int, ...]) -> None:
        """Make room for all rows. Raises OSError, in one line, if the disk has none."""
        self.is_pooled = is_pooled
        self.counts = self.num_states(is_pooled)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.is_known = np.zeros(len(self), dtype=bool)
        full_shape = (int(self.offsets[-1]), shape[-1])
        num_bytes = 4 * full_shape[0] * full_shape[1]
        if num_bytes <= IN_MEMORY:
            self.flat = np.empty(full_shape, dtype=np.float32)
            return
        file = tempfile.TemporaryFile(dir=self.directory)
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)  # or a full disk would be a SIGBUS
        except OSError as error:
            raise OSError(
                f"{self.directory}: no room for {num_bytes / 2**30:.1f} GiB of frozen states: "
                f"{error.strerror}"
            ) from None
        self.flat = np.memmap(file, dtype=np.float32, mode="r+", shape=full_shape)

    def num_states(self, is_pooled: bool) -> np.ndarray:
        """How many states each sequence has: one, one a layer, one a segment, or one a token."""
        counts = self.rows.state_counts()
        if is_pooled:
            return np.ones_like(counts)
        if self.model.features.reads_layers:
            return np.full_like(counts, len(self.model.encoder.layer))
        return counts
