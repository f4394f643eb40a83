"""Dense linear algebra at one and two threads, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dmmc
from dmmc.core.linalg import log_abs_det
from helpers import rng


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [1, 64, 200, 256])
def test_determinants_are_those_of_numpy(n, threads):
    # torch's own slogdet of this batch is off by 2 to 100 with two threads from about n = 150 on.
    before = torch.get_num_threads()
    matrices = torch.randn(6, n, n, generator=rng(), dtype=torch.float64)
    torch.set_num_threads(threads)
    try:
        values = log_abs_det(matrices)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(values.numpy(), np.linalg.slogdet(matrices.numpy())[1], rtol=1e-10)


def test_shapes():
    assert log_abs_det(torch.eye(3).expand(2, 5, 3, 3)).shape == (2, 5)
    assert log_abs_det(torch.zeros(0, 3, 3)).shape == (0,)


def test_nothing_else_decomposes_batches():
    # Decompositions that use LU; eigenvalues, Cholesky and triangular solves of single matrices are not affected.
    affected = ("slogdet", "linalg.det(", "linalg.inv", "linalg.solve(", "logdet(", "lu_factor")
    package = Path(dmmc.__file__).parent
    users = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(name in path.read_text() for name in affected)
    ]
    assert users == ["core/linalg.py"]
