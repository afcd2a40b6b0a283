"""Updates prepared ahead: a thread collates and copies the next ones while the current one trains.

A GPU would otherwise wait for every batch. On a CPU the thread takes the time that it saves from
the training itself, so there the loop makes its batches as it needs them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from inputs.batches import Rows
from tasks import Batch, Update, to_device

DEPTH = 2  # updates that are ready, or being made, while another one trains


def is_worthwhile(device: torch.device, data: dict[str, Rows]) -> bool:
    """Tell whether a thread should prepare the batches of these rows.

    Rows whose batches run the model are left to the loop: the settings of torch that choose its
    kernels are common to all threads, so the states could differ from one run to the next.
    """
    return device.type == "cuda" and not any(rows.needs_model for rows in data.values())


class Scheduler(Protocol):
    """What is needed of a task scheduler here, see `task_schedulers.TaskScheduler`."""

    def next_update(self) -> Update: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Prefetched:
    """A task scheduler whose updates a thread makes ahead. They are the same, to the bit.

    Its state is that after the last update which the loop has taken. Those that are ready but not
    taken do not count. Everything else is the scheduler's own.

    On CUDA the thread copies batches through pinned memory, on a stream of its own, so that copies
    and kernels overlap. This part has never run on a GPU.

    Args:
        scheduler: makes the updates.
        device: where their tensors go.
    """

    def __init__(self, scheduler: Scheduler, device: torch.device) -> None:
        self.scheduler = scheduler
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.taken: dict[str, Any] | None = None  # the state, while the thread may be further

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    @contextmanager
    def updates(self, num_updates: int) -> Iterator[Callable[[], Update]]:
        """Give a function that returns the next update; see `TaskScheduler.updates`.

        The thread lives as long as the block. However the block ends, the scheduler is then where
        the loop was. An error in the thread is raised by the function.
        """
        self.taken = self.scheduler.state_dict()
        ready: deque[Future[tuple[Update, dict[str, Any]]]] = deque()
        num_asked = 0

        def next_update() -> Update:
            nonlocal num_asked
            while num_asked < num_updates and len(ready) <= DEPTH:
                ready.append(pool.submit(self.prepare))
                num_asked += 1
            update, self.taken = ready.popleft().result()
            return self.received(update)

        with ThreadPoolExecutor(1, "prefetch", self.start_thread) as pool:
            try:
                yield next_update
            finally:
                pool.shutdown(cancel_futures=True)
                self.scheduler.load_state_dict(self.taken)
                self.taken = None

    def start_thread(self) -> None:
        """Choose this process's GPU, since a new thread is on the first one."""
        if self.stream is not None:
            torch.cuda.set_device(self.device)

    def prepare(self) -> tuple[Update, dict[str, Any]]:
        """Return the next update on the device, and the scheduler's state after it."""
        update = self.scheduler.next_update()
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                update = [(task, self.copied(batch), weight) for task, batch, weight in update]
            self.stream.synchronize()  # this thread waits, the loop does not
        return update, self.scheduler.state_dict()

    def copied(self, batch: Batch) -> Batch:
        """Return a batch on the device, but for what stays on the host."""
        return to_device({name: x.pin_memory() for name, x in batch.items()}, self.device)

    def received(self, update: Update) -> Update:
        """Let the loop's stream keep the tensors, whose memory belongs to the thread's stream."""
        for _, batch, _ in update if self.stream is not None else ():
            for tensor in (x for x in batch.values() if x.is_cuda):
                tensor.record_stream(torch.cuda.current_stream(self.device))
        return update

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state after the last update that was taken."""
        return self.scheduler.state_dict() if self.taken is None else self.taken

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned; see `Scheduler`."""
        self.scheduler.load_state_dict(state)
