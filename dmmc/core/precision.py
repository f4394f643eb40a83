"""Numbers in the precision in which they are written, whatever the caller has asked of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switch ``torch.autocast`` off, under which a network would compute in half precision, as a decorator or in a
    ``with`` statement.

    Its densities would be those of another network, and it would be trained for another one.
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
