"""Dense linear algebra, safe at any number of threads: the one place that calls decompositions of torch.

torch's batched LU decomposition on the CPU is not thread-safe (pytorch/pytorch#142815, #141358): with two or more
threads and matrices of about 150 rows or more, determinants, inverses and solutions of a batch are silently wrong, or
the call hangs. Single matrices are right, and so are their gradients. So a batch on the CPU is done one matrix after
another. Setting the number of threads to one meanwhile would be as fast, but it would change it for the whole
process, and it would not reach the gradient, which is computed later. Under ``torch.func.vmap`` a single matrix is in
truth a batch, which cannot be taken apart there, so that it is refused on the CPU.

Use :func:`log_abs_det`, :func:`inverse` and :func:`solve` in an action of your own as well.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _functorch

from dmmc.core.errors import DmmcError


def log_abs_det(matrices: Tensor) -> Tensor:
    """``ln |det|`` of each of ``matrices`` ``(..., n, n)``, ``(...)``."""
    return _each(lambda a: torch.linalg.slogdet(a).logabsdet, matrices)


def inverse(matrices: Tensor) -> Tensor:
    """The inverse of each of ``matrices`` ``(..., n, n)``, the same shape.

    Raises:
        torch.linalg.LinAlgError: if one of them is singular.
    """
    return _each(torch.linalg.inv, matrices)


def orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal factor of the QR decomposition of each of ``matrices`` ``(..., n, n)``, the same shape."""
    return _each(lambda a: torch.linalg.qr(a)[0], matrices)


def solve(matrices: Tensor, right: Tensor) -> Tensor:
    """The solution x of ``matrices x = right``: ``(..., n, n)`` and ``(..., n, k)`` to ``(..., n, k)``.

    The leading axes are broadcast against each other.

    Raises:
        torch.linalg.LinAlgError: if one of the matrices is singular.
    """
    batch = torch.broadcast_shapes(matrices.shape[:-2], right.shape[:-2])
    return _each(
        torch.linalg.solve,
        matrices.expand(*batch, *matrices.shape[-2:]),
        right.expand(*batch, *right.shape[-2:]),
    )


def cholesky(matrix: Tensor) -> tuple[Tensor, bool]:
    """The lower triangular L with ``L L^T = matrix``, ``(n, n)``, and whether there is one."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor, int(failed) == 0


def solve_lower(factor: Tensor, right: Tensor) -> Tensor:
    """The solution x of ``factor x = right`` for a lower triangular ``factor`` ``(n, n)`` and ``right`` ``(n, k)``."""
    return torch.linalg.solve_triangular(factor, right, upper=False)


def least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """The x ``(n, k)`` of least ``|matrix x - right|``: ``matrix`` ``(m, n)`` of full rank, ``right`` ``(m, k)``."""
    return torch.linalg.lstsq(matrix, right).solution


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(n,)``, rising, and eigenvectors ``(n, n)``, in columns, of a symmetric ``matrix`` ``(n, n)``."""
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def _each(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """``function`` of batches of matrices ``(..., n, m)``; on the CPU of one matrix at a time.

    Raises:
        DmmcError: under ``torch.func.vmap`` on the CPU.
    """
    if batches[0].device.type == "cpu" and any(_vmapped(x) for x in batches):
        raise DmmcError(
            "determinants, inverses and solutions cannot be computed under torch.func.vmap on the CPU, where torch's "
            "decompositions of batches are wrong with several threads; call the function of dmmc.core.linalg with a "
            "batch of matrices (..., n, n), or loop over the fields"
        )
    if batches[0].device.type != "cpu" or batches[0].ndim == 2 or batches[0].numel() == 0:
        return function(*batches)
    batch = batches[0].shape[:-2]
    rows = zip(*(x.reshape(-1, *x.shape[-2:]) for x in batches), strict=True)
    values = torch.stack([function(*row) for row in rows])
    return values.view(*batch, *values.shape[1:])


def _vmapped(x: Tensor) -> bool:
    """Whether a tensor stands for a batch of them, at any level of nested transforms of ``torch.func``."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False
