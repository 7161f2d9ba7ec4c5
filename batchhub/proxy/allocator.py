"""How much freed memory the C library keeps for the process.

What is read from a socket comes in blocks of up to 256 KiB, and each is freed as soon as it is written to the other side. glibc gives freed
memory back to the system from 512 KiB on, so every block was taken from the system anew, page fault by page fault: two thirds of the processor
time of a large chunked download (``docs/performance.md``).
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_ names of malloc.h, see mallopt(3)
_KEPT = 16 * 1024 * 1024
_LARGE = 4 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Keep up to 16 MiB of it, and take blocks of less than 4 MiB from there. False where there is no such knob (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT) and mallopt(_MMAP_THRESHOLD, _LARGE))
