"""Data parallelism: the workers that torchrun has started, and what they exchange.

Every worker holds the same model, data and plan. Of each batch it takes the rows from its rank on,
in steps of the number of workers. The gradients are added up once per update; everything after that
is the same in every worker. Worker 0 writes and prints for all. Without torchrun there is one
process, and nothing here does anything.

`Alone` and `Together` are what an update and an evaluation need of the others; the loop calls
whichever of the two `exchange` returns.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from runtime.errors import first_line
from runtime.ranks import (
    WorkerLost,
    is_first_to_report,
    is_main,
    launcher,
    leave,
    local_rank,
    positions,
    rank,
    share,
    size,
    vote,
)

__all__ = [
    "Alone",
    "Together",
    "WorkerLost",
    "barrier",
    "broadcast",
    "exchange",
    "gather",
    "is_first_to_report",
    "is_main",
    "join",
    "launcher",
    "leave",
    "local_rank",
    "main_first",
    "positions",
    "rank",
    "share",
    "size",
    "vote",
]

# A dead process is noticed at once; a machine that stops answering only after this time. Workers
# wait as long for worker 0 to write.
TIMEOUT = timedelta(hours=3)
TURNS_PER_VOTE = 20  # evaluation batches of each worker between two votes on stopping


def join(use_gpu: bool) -> None:
    """Connect the workers and silence the stdout of all but worker 0.

    Args:
        use_gpu: give each worker its own GPU and connect over nccl; otherwise over gloo.

    Raises:
        WorkerLost: the workers cannot connect.
    """
    if size() == 1:
        return
    if use_gpu:
        torch.cuda.set_device(local_rank())
    backend = "nccl" if use_gpu else "gloo"
    # Default arguments in this module hold the group that exists when it is first imported. Its
    # threads would then outlive `leave`, and can abort a process that ends.
    importlib.import_module("torch.distributed.nn")
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        raise WorkerLost(
            f"the workers cannot connect over {backend}: {first_line(error)}"
        ) from None
    if not is_main():
        sys.stdout = open(os.devnull, "w")


def exchange() -> "Alone | Together":
    """Return what this process has to exchange with others: nothing, if it is alone."""
    return Alone() if size() == 1 else Together()


class Alone:
    """One process: every method returns what it is given."""

    def add_up(self, losses: list[Tensor], sizes: list[int], gradients: list[Tensor]) -> Tensor:
        """Return the losses [] as one tensor [num losses]; gradients stay as they are."""
        return torch.stack(losses)

    def read(self, *groups: list[Tensor]) -> list[list[float]]:
        """Read groups of tensors from the device: the one host read of an update.

        Returns:
            The numbers of each group's tensors, flattened.
        """
        numbers = iter(torch.cat([x.flatten() for group in groups for x in group]).tolist())
        return [[next(numbers) for x in group for _ in range(x.numel())] for group in groups]

    def share_out(self, num_items: int, check: Callable[[], None]) -> Iterator[int]:
        """Yield the numbers of this worker's items, and call `check` after each."""
        for number in range(num_items):
            yield number
            check()

    def add_rows(
        self, rows: np.ndarray, device: torch.device, check: Callable[[], None]
    ) -> np.ndarray:
        """Return [N, C] with every worker's rows; each has zeros where it has none."""
        return rows

    def mean(self, statistics: dict[str, list[float]]) -> dict[str, list[float]]:
        """Return the mean over workers of each list of numbers."""
        return statistics

    def check_replicas(self, model: nn.Module) -> None:
        """Raise WorkerLost unless all workers hold the same weights."""

    def seed_dropout(self, seed: int) -> None:
        """Give every worker dropout masks of its own; worker 0 keeps those of a single process."""


class Together:
    """Several workers: the methods of `Alone`, over all of them."""

    def add_up(self, losses: list[Tensor], sizes: list[int], gradients: list[Tensor]) -> Tensor:
        """Add losses and gradients up over the workers, in place, in one all_reduce.

        Args:
            losses: the mean losses [] of this worker's rows of each batch.
            sizes: the number of rows of each batch, all workers together.
            gradients: float32 tensors of the same shapes in every worker, already weighted by each
                worker's share of the rows.

        Returns:
            The mean losses of the whole batches, [num losses].
        """
        means = torch.stack([share(rows) * loss for rows, loss in zip(sizes, losses)])
        self.num_stopping = sum_([means, *gradients])
        return means

    def read(self, *groups: list[Tensor]) -> list[list[float]]:
        """Read groups of tensors, and with them whether some worker wants to stop."""
        with watched():  # nccl fails here, where its sums are waited for
            *numbers, [num_stopping] = Alone().read(*groups, [self.num_stopping])
        vote.agreed = vote.agreed or num_stopping > 0
        return numbers

    def share_out(self, num_items: int, check: Callable[[], None]) -> Iterator[int]:
        """Yield every so many-th number. All workers call `check` equally often, and vote."""
        for turn, start in enumerate(range(0, num_items, size())):
            if start + rank() < num_items:  # a worker may have none in the last turn
                yield start + rank()
            if turn % TURNS_PER_VOTE == 0:
                self.num_stopping = sum_([torch.zeros(1, device=own_device())])
                self.read()
            check()

    def add_rows(
        self, rows: np.ndarray, device: torch.device, check: Callable[[], None]
    ) -> np.ndarray:
        """Sum [N, C] over the workers, and learn whether some worker wants to stop."""
        total = torch.from_numpy(rows).to(device)
        self.num_stopping = sum_([total])
        self.read()
        check()
        return total.cpu().numpy()

    def mean(self, statistics: dict[str, list[float]]) -> dict[str, list[float]]:
        """Return the mean over workers of each list of numbers."""
        parts = gather(statistics)
        return {
            name: np.mean([part[name] for part in parts], axis=0).tolist() for name in statistics
        }

    def check_replicas(self, model: nn.Module) -> None:
        """Compare each weight's sum in float64, to the last bit.

        Raises:
            WorkerLost: they differ, so the workers would train different models.
        """
        with torch.no_grad():
            sums = torch.stack([p.double().sum() for p in model.parameters()])
        found = gather(sums.cpu().numpy().tobytes())  # bytes, as nan equals nothing
        different = [number for number, other in enumerate(found) if other != found[0]]
        if different:
            raise WorkerLost(
                f"the weights of workers {different} differ from worker 0's: do all machines see "
                "the same files, and are their processors of one kind?"
            )

    def seed_dropout(self, seed: int) -> None:
        """Seed the default generator of every worker but 0."""
        if rank():
            torch.manual_seed(seed + 1_000_003 * rank())


@contextmanager
def watched() -> Iterator[None]:
    """Turn what torch raises when another worker is gone into WorkerLost."""
    try:
        yield
    except RuntimeError as error:
        if size() == 1:
            raise
        raise WorkerLost(
            f"a worker of this job has ended, so the others stop ({first_line(error)})"
        ) from error


def own_device() -> torch.device:
    """Return the device whose tensors the workers exchange."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def sum_(tensors: list[Tensor]) -> Tensor:
    """Add each tensor up over the workers, in place, in one all_reduce.

    The sums are bit-identical in all workers. The call costs a copy of all tensors.

    Args:
        tensors: float32, on one device, of the same shapes in every worker.

    Returns:
        The number [] of workers that want to stop.
    """
    wanted = tensors[0].new_tensor([float(vote.wanted)])
    flat = torch.cat([*(t.reshape(-1) for t in tensors), wanted])
    with watched():
        dist.all_reduce(flat)
    *sums, num_wanted = torch.split(flat, [*(t.numel() for t in tensors), 1])
    torch._foreach_copy_(tensors, [total.view_as(t) for total, t in zip(sums, tensors)])
    return num_wanted.sum()


def gather(value: Any) -> list[Any]:
    """Return every worker's value, by rank."""
    if size() == 1:
        return [value]
    values = [None] * size()
    with watched():
        dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return worker 0's value to all."""
    values = [value]
    if size() > 1:
        with watched():
            dist.broadcast_object_list(values)
    return values[0]


def barrier() -> None:
    """Wait for all workers."""
    if size() > 1:
        with watched():
            dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let worker 0 run the block before the others, who then find what it has downloaded."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()
