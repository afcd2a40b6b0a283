"""The memory of this process."""

import ctypes
import sys
from functools import cache


def trim_memory() -> None:
    """Give freed memory back to the system, where its C library can do so (glibc)."""
    trim = find_malloc_trim()
    if trim is not None:
        trim(0)


@cache
def find_malloc_trim() -> "ctypes._NamedFuncPointer | None":
    """Return glibc's malloc_trim; None under another C library or system."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
