"""phi^4 as people bring it: in NumPy and in C, and a compiler for the latter."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import dmmc

EXAMPLES = Path(__file__).parents[1] / "examples"
COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


def S_numpy(phi, kappa, lam):
    """The hopping form, ``(n, *lattice) -> (n,)``."""
    neighbours = sum(np.roll(phi, -1, axis) for axis in range(1, phi.ndim))
    return (-2 * kappa * phi * neighbours + (1 - 2 * lam) * phi**2 + lam * phi**4).reshape(len(phi), -1).sum(1)


def dS_numpy(phi, kappa, lam):
    """Its gradient."""
    neighbours = sum(np.roll(phi, -1, axis) + np.roll(phi, 1, axis) for axis in range(1, phi.ndim))
    return -2 * kappa * neighbours + 2 * (1 - 2 * lam) * phi + 4 * lam * phi**3


def numpy_phi4(like, gradient=True):
    return dmmc.action(S_numpy, dS_numpy if gradient else None, name="own", kappa=like.kappa, lam=like.lam)


def c_library(folder, source=None):
    """A library of C source, by default that of the example."""
    path = folder / "source.c"
    path.write_text((EXAMPLES / "own_action.c").read_text() if source is None else source)
    built = folder / "library.so"
    command = [COMPILER, "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-o", built, path]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(built))


def phi4_of(like, library):
    """The C action of the example."""
    return dmmc.action(
        library.phi4_action, library.phi4_grad, backend="ctypes", name="phi4_c", kappa=like.kappa, lam=like.lam
    )
