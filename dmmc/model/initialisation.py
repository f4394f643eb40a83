"""The initial weights of networks: from a given generator, whatever the user's global settings are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dmmc.core.rng import stream


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Make a network as torch does by itself, in float32 on the CPU and outside inference mode.

    In another type the same generator would give other numbers, and weights made in inference mode have no derivatives.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.inference_mode(False):
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Let torch's global generators continue the stream of ``generator``, and restore them afterwards.

    Ordinary torch modules draw their initial weights, and dropout its masks, from the global generator of their device.
    Within this context these numbers are reproducible, and the caller's global streams are left alone. The CPU
    continues ``generator`` itself, and the CUDA devices in use draw from streams that its state determines.

    Args:
        generator: a CPU generator, which advances by what is drawn on the CPU; None for a stream of a fixed seed.
    """
    source = stream(0, "network") if generator is None else generator
    state = source.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.set_rng_state(state)
        if devices:
            torch.cuda.manual_seed_all(int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7], "little"))
        try:
            yield
        finally:
            source.set_state(torch.get_rng_state())
