"""Dense linear algebra at one and two threads, against NumPy."""

import contextlib

import numpy as np
import pytest
import torch

from dmmc.core import linalg
from dmmc.core.errors import DmmcError
from helpers import rng


@contextlib.contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_matrices(batch, n):
    """Of a size and a condition that do not depend on n, so that all of them have the same rounding errors."""
    noise = torch.randn(batch, n, n, generator=rng(), dtype=torch.float64) / n**0.5
    return 2 * torch.eye(n, dtype=torch.float64) + noise


# torch's own functions of these batches are off by 2 to 100 with two threads from about n = 150 on.
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (4, 64), (4, 200), (2, 512)])
def test_batches_are_those_of_numpy(batch, n, n_threads):
    matrices = random_matrices(batch, n).requires_grad_()
    right = torch.randn(batch, n, 3, generator=rng(2), dtype=torch.float64)
    with threads(n_threads):
        value, inverse, solution = (
            linalg.log_abs_det(matrices), linalg.inverse(matrices), linalg.solve(matrices, right)
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(value.sum(), matrices, retain_graph=True)
        (of_solution,) = torch.autograd.grad(solution.sum(), matrices)
    a = matrices.detach().numpy()
    exact, y = np.linalg.inv(a), np.linalg.solve(a, right.numpy())
    # d ln |det A| = tr A^-1 dA, and d x = -A^-1 dA x.
    adjoint = np.linalg.solve(a.swapaxes(1, 2), np.ones_like(y))
    for found, expected in (
        (value, np.linalg.slogdet(a)[1]),
        (inverse, exact),
        (solution, y),
        (gradient, exact.swapaxes(1, 2)),
        (of_solution, -adjoint @ y.swapaxes(1, 2)),
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-11)


def test_shapes():
    matrices = random_matrices(10, 3).view(2, 5, 3, 3)
    right = torch.ones(5, 3, 2, dtype=torch.float64)
    assert linalg.log_abs_det(matrices).shape == (2, 5)
    assert linalg.inverse(matrices).shape == (2, 5, 3, 3)
    assert linalg.solve(matrices, right).shape == (2, 5, 3, 2)
    torch.testing.assert_close(matrices @ linalg.solve(matrices, right), right.expand(2, 5, 3, 2))
    assert linalg.log_abs_det(matrices[0, 0]).shape == ()
    assert linalg.solve(matrices[0, 0], right).shape == (5, 3, 2)
    for empty in (torch.zeros(0, 3, 3), torch.zeros(2, 0, 3, 3)):
        assert linalg.log_abs_det(empty).shape == empty.shape[:-2] and linalg.inverse(empty).shape == empty.shape


def test_symmetric_matrices():
    a = random_matrices(1, 5)[0]
    positive, right = a @ a.mT, torch.ones(5, 2, dtype=torch.float64)
    factor, found = linalg.cholesky(positive)
    assert found and not linalg.cholesky(-positive)[1]
    torch.testing.assert_close(factor @ factor.mT, positive)
    torch.testing.assert_close(factor @ linalg.solve_lower(factor, right), right)
    values, vectors = linalg.eigh(positive)
    torch.testing.assert_close(vectors * values @ vectors.mT, positive)
    x = linalg.least_squares(torch.cat([a, a]), torch.cat([right, right]))
    torch.testing.assert_close(a @ x, right)


def test_vmap_is_refused():
    matrices, right = random_matrices(3, 4), torch.ones(3, 4, 1, dtype=torch.float64)
    vmap, grad = torch.func.vmap, torch.func.grad
    for transformed, arguments in (
        (vmap(linalg.log_abs_det), (matrices,)),
        (vmap(linalg.inverse), (matrices,)),
        (vmap(linalg.solve), (matrices, right)),
        (vmap(linalg.solve, in_dims=(None, 0)), (matrices[0], right)),
        (vmap(grad(linalg.log_abs_det)), (matrices,)),
        (grad(lambda x: vmap(linalg.log_abs_det)(x).sum()), (matrices,)),
    ):
        with pytest.raises(DmmcError, match=r"vmap on the CPU.*batch of matrices"):
            transformed(*arguments)
    # Other transforms leave a single matrix what it is.
    torch.testing.assert_close(grad(linalg.log_abs_det)(matrices[0]), torch.linalg.inv(matrices[0]).mT)
