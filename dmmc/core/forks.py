"""Processes that are forked, as those of a ``multiprocessing.Pool`` are by default on Linux before Python 3.14.

They inherit the bookkeeping of torch's threads without the threads, and would wait for them for ever. With a single
thread they need none of them.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def use_one_thread() -> None:
    """Let torch use one thread in this process, if it was imported."""
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):  # not while it is being imported
        torch.set_num_threads(1)


# Once, when the package is imported: whoever uses torch through it may fork.
os.register_at_fork(after_in_child=use_one_thread)
