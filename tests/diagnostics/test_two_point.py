"""The propagator: means, and errors by either method."""

import numpy as np
import pytest

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import propagator
from dmmc.diagnostics.two_point import ENOUGH_CHAINS
from helpers import ar1


@pytest.mark.parametrize("chains", [ENOUGH_CHAINS, 8])
def test_errors_are_those_of_correlated_draws(chains):
    tau, draws = 3.0, 400
    rng = np.random.default_rng(3)
    record = np.stack([ar1(tau, chains, draws, rng, mean) for mean in (1.0, 5.0)], axis=-1)
    G, error = propagator(record)
    np.testing.assert_allclose(G, record.mean((0, 1)))
    # Known to a tenth from 64 chains, and to some 15 % from the Gamma method of 3,200 draws of tau_int = 3.
    np.testing.assert_allclose(error, np.sqrt(2 * tau / (chains * draws)), rtol=0.5)
    assert (np.abs(G - [1.0, 5.0]) < 5 * error).all()


def test_another_shape_is_refused():
    with pytest.raises(DmmcError, match=r"\(chain, draw, orbit\)"):
        propagator(np.ones((4, 10)))
