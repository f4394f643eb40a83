"""Dense linear algebra of many matrices, safe at any number of threads.

torch's batched LU decomposition on the CPU is not thread-safe (pytorch/pytorch#142815, #141358): with two or more
threads and matrices of about 150 rows or more, determinants of a batch are silently wrong, or the call hangs. Single
matrices are right. Everything that decomposes a batch of matrices belongs here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_abs_det(matrices: Tensor) -> Tensor:
    """``ln |det|`` of each of ``matrices`` ``(..., n, n)``, one after another, ``(...)``."""
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    values = [torch.linalg.slogdet(matrix).logabsdet for matrix in flat]
    return torch.stack(values).view(matrices.shape[:-2]) if values else matrices.new_zeros(matrices.shape[:-2])
