"""The Wilson operator against its definition, written out site by site, and in closed form for a uniform mass."""

import numpy as np
import pytest
import torch

from dmmc.theory import wilson
from fermions import by_hand
from helpers import rng

SHAPES = [(4, 6), (2, 2), (3, 4), (4, 3), (2, 1), (1, 1), (6, 2)]


def masses(shape, n=5):
    return 0.4 * torch.randn(n, *shape, generator=rng(), dtype=torch.float64)


def spin_first(matrix):
    """The matrix ``(2 V, 2 V)`` with the spin before the site in place of after it."""
    volume = len(matrix) // 2
    return matrix.reshape(volume, 2, volume, 2).transpose(1, 0, 3, 2).reshape(2 * volume, 2 * volume)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_operator_and_its_matrix(shape):
    mass = masses(shape)
    expected = torch.stack([torch.from_numpy(spin_first(by_hand(m))) for m in mass.numpy()])
    torch.testing.assert_close(wilson.dense(2 + mass), expected)
    psi = torch.randn(5, 2, *shape, generator=rng(2), dtype=torch.float64)
    d = 2 + mass.unsqueeze(1)
    column = psi.flatten(1).unsqueeze(-1)
    torch.testing.assert_close(wilson.apply(d, psi).flatten(1), (expected @ column)[..., 0])
    torch.testing.assert_close(wilson.apply_transposed(d, psi).flatten(1), (expected.mT @ column)[..., 0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_determinant_and_inverse(shape):
    mass = masses(shape)
    matrices = np.stack([by_hand(m) for m in mass.numpy()])
    torch.testing.assert_close(wilson.log_det(2 + mass), torch.from_numpy(np.linalg.slogdet(matrices)[1]))
    diagonal = np.diagonal(np.linalg.inv(matrices), axis1=1, axis2=2).reshape(len(mass), *shape, 2).sum(-1)
    torch.testing.assert_close(wilson.trace_inverse(2 + mass), torch.from_numpy(diagonal.copy()))


def test_sites_where_the_diagonal_vanishes():
    """The division by the diagonal on even sites would fail there, or lose digits, for this field alone."""
    mass = masses((4, 4))
    mass[1, 0, 0], mass[3, 1, 1] = -2.0, -2.0 + 1e-9
    matrices = np.stack([by_hand(m) for m in mass.numpy()])
    found = wilson.log_det(2 + mass)
    torch.testing.assert_close(found, torch.from_numpy(np.linalg.slogdet(matrices)[1]), rtol=1e-12, atol=1e-11)
    diagonal = np.diagonal(np.linalg.inv(matrices), axis1=1, axis2=2).reshape(5, 4, 4, 2).sum(-1)
    torch.testing.assert_close(wilson.trace_inverse(2 + mass), torch.from_numpy(diagonal.copy()), rtol=1e-9, atol=1e-11)
    # What a field gets does not depend on its neighbours in the batch.
    alone = torch.cat([wilson.log_det(2 + m.unsqueeze(0)) for m in mass])
    torch.testing.assert_close(found, alone, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (8, 8)], ids=str)
def test_uniform_masses_in_closed_form(shape):
    mass = torch.tensor([0.2, -0.3, 1.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        wilson.uniform_log_det(mass, shape), wilson.log_det(2 + mass.view(-1, 1, 1).repeat(1, *shape))
    )


def test_the_determinant_is_the_same_for_the_transposed_operator():
    """``eps D eps^-1 = D^T``, with eps = gamma_1 gamma_2, for any masses."""
    d = wilson.dense(2 + masses((4, 3)))
    volume = 12
    eps = torch.kron(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64), torch.eye(volume).double())
    torch.testing.assert_close(eps @ d @ eps.T, d.mT)
