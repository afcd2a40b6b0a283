"""Peak memory of one arm of a benchmark, among others in the same process (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def resident_mib(field: str) -> float:
    """VmRSS or VmHWM of this process (Linux), in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def trim_memory() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory(build: Callable[[], object], updates: list) -> float:
    """Peak MiB of building an arm and training on `updates`, above what the process held before."""
    trim_memory()
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    arm = build()
    arm.run(updates)
    peak = resident_mib("VmHWM") - before
    del arm
    trim_memory()
    return peak
