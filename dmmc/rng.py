"""Random streams: what a block of a chain or a step of training draws depends on the seed and its number alone.

A resumed run therefore needs no generator state, only to know how far it has come.
"""

from __future__ import annotations

import numpy as np
import torch

START_STREAM = 2**40
"""First of the streams for what has no number: initial states, warm-ups, shuffles. Blocks and steps count from 0."""


def stream(seed: int, number: int, device: str | torch.device = "cpu") -> torch.Generator:
    """The generator of random stream ``number`` of a run with ``seed``."""
    (word,) = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(word) >> 1)
