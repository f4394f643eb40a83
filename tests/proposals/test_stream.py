"""Streams of proposals for loops outside of dmmc: bits, threads, exactness, and what is refused."""

import itertools
import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dmmc
from checks import Gaussian, Mixture, mean_shift, observables, phi4_draws
from dmmc.core.errors import DmmcError
from dmmc.core.rng import stream
from dmmc.proposals.divergence import Hutchinson
from dmmc.proposals.stream import Proposer
from dmmc.theory.free_field import FreeField
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from helpers import free_reference, random_model
from toys import OneNoise, ShiftedGaussian

LATTICE = Lattice((3, 2))
TWO_SITES = Lattice((2,))


def flow(dtype=torch.float32):
    return dmmc.flow_proposal(random_model(free_reference(LATTICE), strength=0.1, dtype=dtype), 2)


def taken(proposer, n, **options):
    """The first batches, in one array each."""
    batches = list(itertools.islice(proposer.stream(**{"seed": 1, "batch": 5} | options), n))
    return [np.stack(part) for part in zip(*batches, strict=True)]


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dmmc-proposals")]


@pytest.mark.parametrize("prefetch", [1, 4])
def test_bits_do_not_depend_on_what_is_made_ahead(prefetch):
    proposer = Proposer(flow())
    phi, log_q = taken(proposer, 4, prefetch=0)
    ahead = taken(proposer, 4, prefetch=prefetch)
    assert phi.shape == (4, 5, 3, 2) and log_q.shape == (4, 5) and phi.dtype == log_q.dtype == np.float64
    np.testing.assert_array_equal(ahead[0], phi)
    np.testing.assert_array_equal(ahead[1], log_q)
    later = taken(proposer, 2, prefetch=prefetch, first=2)
    np.testing.assert_array_equal(later[0], phi[2:])
    assert len(np.unique(phi)) == phi.size and not np.array_equal(taken(proposer, 1, seed=2)[0][0], phi[0])


def test_numbers_are_those_of_the_proposal():
    proposal = flow(torch.float64)
    proposer = Proposer(proposal)
    (phi, log_q), *_ = itertools.islice(proposer.stream(3, batch=6, output="torch"), 1)
    expected = proposal.sample(6, stream(3, "proposals", 0))
    assert torch.equal(phi, expected[0]) and torch.equal(log_q, expected[1])
    assert torch.equal(proposer.log_q(phi), proposal.log_q(phi))
    given = proposer.log_q(phi.numpy())
    np.testing.assert_array_equal(given, proposal.log_q(phi).numpy())
    np.testing.assert_array_equal(proposer.log_q(phi.numpy().astype(">f8")), given)
    np.testing.assert_array_equal(proposer.log_q(phi.numpy()[:, ::-1][:, ::-1]), given)


def test_a_model_gives_its_flow():
    model = random_model(free_reference(LATTICE), strength=0.1)
    proposer = dmmc.propose(model, 3)
    assert proposer.proposal.describe() == dmmc.flow_proposal(model, 3).describe()
    assert dmmc.propose(proposer.proposal).proposal is proposer.proposal


def test_leaving_the_loop_ends_the_thread():
    proposer = Proposer(flow())
    before = len(threads())
    for _ in proposer.stream(1, batch=2, prefetch=3):
        assert len(threads()) == before + 1
        break
    assert len(threads()) == before
    kept = proposer.stream(1, batch=2)
    assert len(threads()) == before  # nothing is made before it is asked for
    next(kept)
    kept.close()
    assert len(threads()) == before and next(kept, None) is None


@dataclass(frozen=True)
class Failing(Gaussian):
    """Raises an error, or has a broken field or density, from some number of draws on."""

    fault: str = ""

    def sample(self, n, generator):
        phi, log_q = super().sample(n, generator)
        if self.fault == "error":
            raise DmmcError("the proposal broke down")
        if self.fault == "shape":
            return phi, log_q[:, None]
        if self.fault == "field":
            return phi[:, 0], log_q
        phi[0, 0], log_q[1] = torch.nan, -torch.inf
        return phi, log_q


def failing(fault):
    return Proposer(Failing(torch.zeros(2).double(), torch.eye(2).double(), fault))


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(
    ("fault", "message"), [("error", "broke down"), ("shape", r"log_q of shape \(4,\)"), ("field", r"\(4, \*lattice\)")]
)
def test_errors_of_the_proposal_arrive_and_end_the_thread(fault, message, prefetch):
    before = len(threads())
    with pytest.raises(DmmcError, match=message):
        next(failing(fault).stream(1, batch=4, prefetch=prefetch))
    assert len(threads()) == before


def test_what_is_not_finite_has_no_weight():
    phi, log_q = next(failing("").stream(1, batch=4))
    assert np.isfinite(phi).all() and (log_q[:2] == np.inf).all() and np.isfinite(log_q[2:]).all()


def loop(proposer, S, phi, log_q, steps, random):
    """Independence Metropolis as anyone would write it: a chain for each field."""
    S_old = S(phi)
    for new, log_q_new in itertools.islice(proposer.stream(5, batch=len(phi)), steps):
        S_new = S(new)
        accepted = np.log(random.random(len(phi))) < S_old + log_q - S_new - log_q_new
        phi = np.where(accepted[:, None], new, phi)
        S_old, log_q = np.where(accepted, S_new, S_old), np.where(accepted, log_q_new, log_q)
    return phi


def test_a_loop_of_ones_own_keeps_draws_of_the_target():
    action, parts = Phi4(0.22, 0.1), []
    for width, mean in ((0.6, -0.5), (0.9, 0.6)):
        parts.append(Gaussian.of(TWO_SITES, width**2 * FreeField(0.7).propagator(TWO_SITES.phat2), mean))
    proposer = Proposer(Mixture((0.3, 0.7), tuple(parts)))
    draws = phi4_draws(action, TWO_SITES, 20_000, c=0.5)
    phi = draws.numpy()

    def shift(log_q):
        after = loop(proposer, lambda x: action(torch.from_numpy(x)).numpy(), phi, log_q, 2, np.random.default_rng(4))
        return mean_shift(observables(torch.from_numpy(after), TWO_SITES) - observables(draws, TWO_SITES))

    assert shift(proposer.log_q(phi)) < 1
    assert shift(-proposer.log_q(phi)) > 2  # it would be noticed


def test_paths_stream_too_but_have_no_density_of_a_field():
    proposer = Proposer(OneNoise(LATTICE))
    phi, log_q = next(proposer.stream(1, batch=3))
    assert phi.shape == (3, 3, 2) and np.isfinite(log_q).all()
    with pytest.raises(DmmcError, match="paths have no log density of a given field"):
        proposer.log_q(phi)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.0}, "seed must be"),
        ({"batch": 0}, "fields in a batch must be a positive integer"),
        ({"prefetch": -1}, "made ahead must be"),
        ({"first": 0.5}, "first batch must be"),
        ({"output": "jax"}, '"numpy" or "torch"'),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_the_first_batch(arguments, message):
    with pytest.raises(DmmcError, match=message):
        Proposer(OneNoise(LATTICE)).stream(**{"seed": 1} | arguments)


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (np.zeros((2, 2)), r"phi\[None\]|must have shape"),
        (np.zeros(2), r"a single field is phi\[None\]"),
        (np.zeros((1, 2), dtype=int), r"phi\.astype\(float\)"),
        (np.zeros((1, 2), dtype=complex), "real floating-point"),
        (np.full((1, 2), np.nan), "NaN"),
        (np.zeros((1, 3)), "must have shape"),
        ([["a", "b"]], "array of numbers"),
    ],
    ids=str,
)
def test_what_is_no_field_is_refused(phi, message):
    toy = ShiftedGaussian.correlated(2)
    if np.shape(phi) == (2, 2):
        toy = ShiftedGaussian(Lattice((2, 2)), torch.zeros(4).double(), torch.eye(4).double())
    with pytest.raises(DmmcError, match=message):
        Proposer(toy).log_q(phi)


def test_estimated_densities_are_refused():
    model = random_model(free_reference(LATTICE))
    with pytest.raises(DmmcError, match="would not be exact"):
        Proposer(dmmc.flow_proposal(model, 2, divergence=Hutchinson(1)))
    assert math.isfinite(Proposer(dmmc.flow_proposal(model, 2)).log_q(np.zeros((1, 3, 2)))[0])
