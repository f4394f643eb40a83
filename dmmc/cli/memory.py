"""How the C library handles large blocks of memory."""

from __future__ import annotations

import ctypes
import ctypes.util

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for reuse instead of giving them back to the system; for the whole process.

    Every large temporary tensor on the CPU is otherwise mapped anew, and its pages are zeroed by the kernel when they
    are first touched: about a fifth of the time of a training step. The command line calls this; a library must not.

    Returns:
        whether it took effect (it needs glibc).
    """
    name = ctypes.util.find_library("c")
    mallopt = getattr(ctypes.CDLL(name), "mallopt", None) if name else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
