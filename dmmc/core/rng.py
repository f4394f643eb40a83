"""Named random streams: what a block of a chain or a step of training draws depends on the seed and a name alone.

A stream is addressed by the seed of the run and a name such as ``("training", 17)``. No generator state has to be
stored: a resumed run asks for the stream of the block or step at which it stopped. Streams of different names share
no numbers, so an ensemble, a training and the chains that are compared in one report are independent of each other
although one seed makes them all.

Numbers are drawn with :func:`normal`, :func:`uniform`, :func:`signs`, :func:`integers` and :func:`permutation`, which
draw on the device of the generator and move the result. Neither torch's default device nor the device of the fields
affects the numbers: a CPU generator gives the same numbers to a model on any device.

torch seeds its CPU generator (a Mersenne Twister) with the lowest 32 bits of the seed, so that streams begin to
coincide after some 10^5 of them (the birthday problem). Here the whole state of 624 words is filled from SHAKE-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError

Name = str | int

_WORDS = 624
# A CPU generator's state as torch lays it out: the seed (8 bytes), `left` and `seeded` (4 each), `next` (8), then the
# words of the Mersenne Twister in 8 bytes each.
_LEFT, _SEEDED, _NEXT, _STATE = 8, 12, 16, 24
_STATE_BYTES = 5056


def check_seed(seed: int) -> int:
    """The seed, if it is an integer between 0 and 2^63 - 1.

    Raises:
        DmmcError: if it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise DmmcError(f"the seed must be an integer between 0 and 2^63 - 1, got {seed!r}")
    return seed


def _bytes(seed: int, name: tuple[Name, ...], n: int) -> bytes:
    # Every part carries its type and length, so that ("a", 1) and ("a1",) are different names.
    parts = [seed, *name]
    text = "".join(f"{type(part).__name__}:{len(str(part))}:{part};" for part in parts)
    return hashlib.shake_256(text.encode()).digest(n)


def stream(seed: int, *name: Name, device: str | torch.device = "cpu") -> torch.Generator:
    """The generator of the random stream ``name`` of a run with ``seed``.

    Args:
        seed: seed of the run, between 0 and 2^63 - 1.
        name: strings and integers, such as ``"training", step``.
        device: the device on which numbers are drawn. Streams on different devices differ.

    Raises:
        DmmcError: if the seed is out of its range.
    """
    check_seed(seed)
    generator = torch.Generator(device)
    if generator.device.type != "cpu":  # a counter-based generator, which uses all 64 bits of its seed
        return generator.manual_seed(int.from_bytes(_bytes(seed, name, 8), "little"))
    generator.manual_seed(0)
    state = generator.get_state().numpy().copy()
    if state.nbytes != _STATE_BYTES:  # another layout than the one that is written below
        raise DmmcError(f"torch {torch.__version__} has an unknown random generator; use a version that dmmc supports")
    words = np.frombuffer(_bytes(seed, name, 4 * _WORDS), dtype="<u4").astype(np.uint64)
    state[_LEFT : _LEFT + 4] = np.array([1], dtype=np.int32).view(np.uint8)  # the first number twists the state
    state[_SEEDED : _SEEDED + 4] = np.array([1], dtype=np.int32).view(np.uint8)
    state[_NEXT : _NEXT + 8] = 0
    state[_STATE : _STATE + 8 * _WORDS] = words.view(np.uint8)
    return generator.set_state(torch.from_numpy(state))


def numpy_stream(seed: int, *name: Name) -> np.random.Generator:
    """As :func:`stream`, for NumPy, whose seed sequences take any number of bits.

    Raises:
        DmmcError: if the seed is out of its range.
    """
    check_seed(seed)
    return np.random.default_rng(int.from_bytes(_bytes(seed, name, 32), "little"))


def child_seed(seed: int, *name: Name) -> int:
    """A seed for a part of a study that is run as if by itself, such as one point of a scan.

    Raises:
        DmmcError: if the seed is out of its range.
    """
    check_seed(seed)
    return int.from_bytes(_bytes(seed, name, 8), "little") >> 1


Device = str | torch.device | None
"""Where numbers are wanted; None for the device of the generator."""


def normal(
    shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64, device: Device = None
) -> Tensor:
    """Standard normal numbers of a shape."""
    return _moved(torch.randn(tuple(shape), generator=generator, dtype=dtype, device=generator.device), device)


def uniform(
    shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64, device: Device = None
) -> Tensor:
    """Numbers of a shape from [0, 1)."""
    return _moved(torch.rand(tuple(shape), generator=generator, dtype=dtype, device=generator.device), device)


def signs(
    shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64, device: Device = None
) -> Tensor:
    """Fair signs, +1 or -1, of a shape."""
    return 2 * integers(2, shape, generator, device).to(dtype) - 1


def integers(high: int, shape: Sequence[int], generator: torch.Generator, device: Device = None) -> Tensor:
    """Integers of a shape from 0 to ``high - 1``, int64."""
    drawn = torch.randint(high, tuple(shape), generator=generator, dtype=torch.int64, device=generator.device)
    return _moved(drawn, device)


def permutation(n: int, generator: torch.Generator, device: Device = None) -> Tensor:
    """The integers from 0 to ``n - 1`` in random order, int64."""
    return _moved(torch.randperm(n, generator=generator, device=generator.device), device)


def _moved(drawn: Tensor, device: Device) -> Tensor:
    return drawn if device is None else drawn.to(device)
