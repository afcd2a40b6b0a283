"""Data parallelism: the workers that torchrun has started, and what they do together.

Every worker holds the same model, data and plan, and of each batch takes the rows from its rank on
in steps of the number of workers. Their gradients are added up once an update, in `sum_`; all that
follows is the same everywhere. Worker 0 writes and prints for all. Without torchrun there is one
worker, and every function here does nothing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# A dead process is noticed at once, a machine that went silent only now. Others wait as long where
# worker 0 downloads a model or tags texts first.
TIMEOUT = timedelta(hours=3)


class WorkerLost(RuntimeError):
    """The workers cannot go on together: one has ended, cannot be reached, or has other weights."""


class StopVote:
    """Whether this worker was asked to stop, and whether all know by now that some worker was.

    Signals reach workers at different moments; `sum_` carries the wish, so that all stop after the
    same update.
    """

    wanted = False
    agreed = False


vote = StopVote()


def size() -> int:
    """Number of workers."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def local_rank() -> int:
    """This worker's number on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_torchelastic_launched() else 0


def is_main() -> bool:
    return rank() == 0


def launcher() -> str:
    """The command that runs a script the way this one is run."""
    if size() == 1:
        return sys.executable
    on_this_node = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = f" --nnodes {size() // on_this_node} ..." if size() > on_this_node else ""
    return f"torchrun{nodes} --nproc_per_node {on_this_node}"


def join(use_gpu: bool) -> None:
    """Connect the workers, each on its own GPU if asked for; silence all but worker 0's stdout."""
    if size() == 1:
        return
    if use_gpu:
        torch.cuda.set_device(local_rank())
    backend = "nccl" if use_gpu else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except RuntimeError as error:
        raise WorkerLost(
            f"the workers cannot connect over {backend}: {first_line(error)}"
        ) from None
    if not is_main():
        sys.stdout = open(os.devnull, "w")


def leave() -> None:
    """Disconnect, at the end of a run that went well."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def watched() -> Iterator[None]:
    """Turn what torch raises when a peer is gone into WorkerLost."""
    try:
        yield
    except RuntimeError as error:
        if size() == 1:
            raise
        raise WorkerLost(
            f"a worker of this job has ended, so the others stop ({first_line(error)})"
        ) from error


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def sum_(tensors: list[Tensor]) -> Tensor:
    """Add each tensor up over the workers, in place, in one all_reduce; returns the number [] of
    workers that want to stop.

    tensors: float32, on one device, of the same shapes in every worker. The sums are bit-identical
    in all of them. It costs a copy of all tensors.
    """
    if size() == 1:
        return tensors[0].new_zeros(())
    wanted = tensors[0].new_tensor([float(vote.wanted)])
    flat = torch.cat([*(t.reshape(-1) for t in tensors), wanted])
    with watched():
        dist.all_reduce(flat)
    *sums, num_wanted = flat.split([*(t.numel() for t in tensors), 1])
    torch._foreach_copy_(tensors, [total.view_as(t) for total, t in zip(sums, tensors)])
    return num_wanted[0]


def note_votes(num_wanted: Tensor | float) -> None:
    """Remember what `sum_` returned; reads it from the device."""
    with watched():
        vote.agreed = vote.agreed or float(num_wanted) > 0


def positions(num_rows: int) -> slice:
    """This worker's rows of a batch; row 0 if there are too few, which `share` then weighs 0."""
    return slice(rank(), None, size()) if rank() < num_rows else slice(0, 1)


def share(num_rows: int) -> float:
    """This worker's part of a batch's rows, which add up to 1 over the workers."""
    return len(range(rank(), num_rows, size())) / num_rows


def take(tensor: Tensor, num_rows: int) -> Tensor:
    """This worker's part of a tensor [k·B, ...] of B = num_rows rows, k sequences each: all first
    ones, then all second ones."""
    mine = tensor.unflatten(0, (-1, num_rows))[:, positions(num_rows)]  # [k, b, ...]
    return mine.flatten(0, 1)


def gather(value: object) -> list:
    """Every worker's value, by rank."""
    if size() == 1:
        return [value]
    values = [None] * size()
    with watched():
        dist.all_gather_object(values, value)
    return values


def broadcast(value: object) -> object:
    """Worker 0's value, for all."""
    values = [value]
    if size() > 1:
        with watched():
            dist.broadcast_object_list(values)
    return values[0]


def check_replicas(model: torch.nn.Module) -> None:
    """Raise WorkerLost unless all workers hold the same weights: one would train on its own.

    Compares a sum in float64, to the last bit.
    """
    if size() == 1:
        return
    with torch.no_grad():
        sums = torch.stack([p.double().sum() for p in model.parameters()])
    found = gather(sums.cpu().numpy().tobytes())  # bytes, as nan equals nothing
    different = [number for number, other in enumerate(found) if other != found[0]]
    if different:
        raise WorkerLost(
            f"the weights of workers {different} differ from worker 0's: do all machines see the "
            "same files, and are their processors of one kind?"
        )


def barrier() -> None:
    """Wait for all workers."""
    if size() > 1:
        with watched():
            dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let worker 0 through before the others, who then find what it has downloaded or cached."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def seed_dropout(seed: int) -> None:
    """Give every worker dropout masks of its own; worker 0 keeps those of a single process."""
    if rank():
        torch.manual_seed(seed + 1_000_003 * rank())


def is_first_to_report() -> bool:
    """Whether no other worker has reported an error: a job says one thing, the cause."""
    if size() == 1:
        return True
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    key = f"reported/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(key, 1) == 1
    except RuntimeError:  # the store is gone with torchrun itself
        return is_main()
