"""Which of torchrun's workers this process is, without importing torch.

Without torchrun there is one process. What the workers exchange stands in `runtime.workers`, which
offers all of this too.
"""

import os
import shlex
import sys
from datetime import timedelta


class WorkerLost(RuntimeError):
    """The workers cannot continue together.

    One of them has ended, cannot be reached, or holds other weights.
    """


class StopVote:
    """Whether this worker was asked to stop, and whether all know by now that some worker was.

    Signals reach workers at different moments. The sums of an update carry the wish, so that all
    workers stop after the same update.
    """

    wanted = False
    agreed = False


vote = StopVote()


def is_launched() -> bool:
    """Tell whether torchrun has started this process, as torch itself tells it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def size() -> int:
    """Return the number of workers."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def rank() -> int:
    """Return this worker's number, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def local_rank() -> int:
    """Return this worker's number on its machine, which is that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if is_launched() else 0


def is_main() -> bool:
    """Tell whether this is worker 0, or the only process."""
    return rank() == 0


def launcher() -> str:
    """Return the command that runs a script the way this one is run, quoted for a shell."""
    if size() == 1:
        return shlex.quote(sys.executable)
    on_this_node = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = f" --nnodes {size() // on_this_node} ..." if size() > on_this_node else ""
    return f"torchrun{nodes} --nproc_per_node {on_this_node}"


def leave() -> None:
    """Disconnect, at the end of a run that went well."""
    if size() > 1:
        import torch.distributed as dist  # slow to import, and there once workers are connected

        if dist.is_initialized():
            dist.destroy_process_group()


def positions(num_rows: int) -> slice:
    """Return this worker's rows of a batch.

    With fewer rows than workers, a worker without one gets row 0, which `share` then weighs 0.
    """
    return slice(rank(), None, size()) if rank() < num_rows else slice(0, 1)


def share(num_rows: int) -> float:
    """Return this worker's part of a batch's rows; the parts add up to 1 over the workers."""
    return len(range(rank(), num_rows, size())) / num_rows


def is_first_to_report() -> bool:
    """Tell whether no other worker has reported an error: a job says one thing, the cause."""
    if size() == 1:
        return True
    import torch.distributed as dist  # slow to import: one process alone reports without it

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    key = f"reported/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return bool(store.add(key, 1) == 1)
    except RuntimeError:  # the store is gone with torchrun itself
        return is_main()
