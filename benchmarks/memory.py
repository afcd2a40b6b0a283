"""Peak memory of one arm of a benchmark, among others in the same process (Linux, CUDA)."""

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from runtime.memory import trim_memory


def resident_mib(field: str) -> float:
    """Return VmRSS or VmHWM of this process, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}, expected Linux")


def peak_memory(run: Callable[[], object]) -> float:
    """Return the peak of a call, in MiB above what the process held before it.

    It is the memory of tensors on the GPU where this process computes on one, and else that of the
    process. The call should build its arm itself and keep nothing of it.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    trim_memory()
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    run()
    return resident_mib("VmHWM") - before
