"""A plain loop around transformers' encoder: what a user of transformers writes.

Batches of random rows of one task, padded to their longest, several tasks in turns; fused AdamW
without weight decay; linear warm-up over a tenth of the updates and then linear decay to 0 at the
end of the last epoch; clipping at 1. The encoder's weights, the features, heads, losses and token
ids are those of our models.
"""

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.arms import build_reference
from inputs.batches import TokenizedTask
from options.parsing import ArgumentParser
from options.types import positive_float, positive_int
from reporting.start import Start
from tasks import to_device

WARMUP_FRACTION, MAX_NORM, WEIGHT_DECAY = 0.1, 1.0, 0.0


class PlainSettings(NamedTuple):
    """What can be chosen about a plain loop.

    Attributes:
        lr: the peak learning rate.
        batch_size: examples per batch.
        epochs: over which the learning rate rises and falls.
        samples_per_epoch: examples per task and epoch; None for as many as there are rows.
        use_amp: compute in bfloat16 autocast.
    """

    lr: float
    batch_size: int
    epochs: int
    samples_per_epoch: int | None = None
    use_amp: bool = False


class Step(NamedTuple):
    """One update: its task, its number of examples, and their mean loss []."""

    task: str
    num_examples: int
    loss: Tensor


class PlainLoop:
    """One model of transformers in training, on one or several tasks in turns.

    Args:
        settings: of the loop.
        start: names the encoder.
        data: the training rows by task.
        seed: of the order of the rows.
        device: where to compute.
    """

    def __init__(
        self,
        settings: PlainSettings,
        start: Start,
        data: dict[str, TokenizedTask],
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        from transformers import get_linear_schedule_with_warmup

        self.data = data
        self.use_amp = settings.use_amp
        self.device = torch.device(device)
        self.model = build_reference(start).to(self.device)
        self.names = cycle(data)
        generator = np.random.default_rng(seed)
        size = settings.batch_size
        self.batches = {
            name: random_batches(len(rows), size, generator) for name, rows in data.items()
        }
        num_samples = [settings.samples_per_epoch or len(rows) for rows in data.values()]
        self.updates_per_epoch = sum(-(-count // size) for count in num_samples)
        self.num_left = num_updates = settings.epochs * self.updates_per_epoch
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.lr, weight_decay=WEIGHT_DECAY, fused=True
        )
        self.schedule = get_linear_schedule_with_warmup(
            self.optimizer, int(WARMUP_FRACTION * num_updates), num_updates
        )

    def step(self) -> Step:
        """Train on the next batch."""
        name = next(self.names)
        rows = next(self.batches[name])
        task, batch = self.data[name].task, to_device(self.data[name].batch(rows), self.device)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, self.use_amp):
            loss = task.loss(self.model(task, batch), batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.schedule.step()
        self.num_left -= 1
        return Step(name, len(rows), loss.detach())


def random_batches(
    num_rows: int, size: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield endless batches [B] of row numbers: all rows in random order, again and again."""
    while True:
        rows = generator.permutation(num_rows)
        yield from (rows[first : first + size] for first in range(0, num_rows, size))


def add_plain_options(parser: ArgumentParser) -> None:
    """Add the options that `PlainSettings` is made of, as far as every plain loop has them."""
    add = parser.add_argument_group("plain loop").add_argument
    add("--plain_lr", type=positive_float, default=5e-5, help="its peak learning rate")
    add("--plain_batch_size", type=positive_int, default=16, help="its examples per batch")
    add("--plain_epochs", type=positive_int, default=3, help="its epochs of all rows")
