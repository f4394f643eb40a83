"""Named random streams: distinct, reproducible, as wide as the seed, and statistically sound."""

import numpy as np
import pytest
import torch
from scipy import stats

from dmmc.core.errors import DmmcError
from dmmc.core.rng import child_seed, integers, normal, numpy_stream, permutation, signs, stream, uniform
from helpers import SIGMA


def numbers(*name, n=4, seed=1):
    return torch.rand(n, generator=stream(seed, *name), dtype=torch.float64)


def test_a_name_and_a_seed_make_the_stream():
    assert torch.equal(numbers("training", 3), numbers("training", 3))
    assert numpy_stream(1, "a").random() == numpy_stream(1, "a").random()
    assert child_seed(1, "L8", "hmc") == child_seed(1, "L8", "hmc")


def test_names_are_not_glued_together():
    # Each pair would be one name if the parts were only put side by side, or numbers and digits were the same.
    pairs = [(("a", 1), ("a1",)), (("ab", "c"), ("a", "bc")), (("a", 1), ("a", "1")), ((1, 23), (12, 3))]
    for one, other in pairs:
        assert not torch.equal(numbers(*one), numbers(*other))
    assert not torch.equal(numbers(23, seed=1), numbers(3, seed=12))


def test_the_full_width_of_the_seed_is_used():
    # torch's own manual_seed would make these streams the same: they differ in bits above the lowest 32.
    first = {float(numbers("x", n=1, seed=1 + (k << 32))) for k in range(64)}
    assert len(first) == 64


def test_no_two_of_many_streams_coincide():
    # 2^17 streams from seeds of 32 bits would coincide twice on average; first numbers of 62 bits do with 2e-9.
    first = {int(torch.randint(2**62, (1,), generator=stream(7, "x", k))) for k in range(1 << 17)}
    assert len(first) == 1 << 17


def test_streams_are_uniform_and_independent_of_each_other():
    # 500 streams of 200 numbers: each number uniform (Kolmogorov-Smirnov), neighbouring streams uncorrelated.
    u = torch.stack([numbers("block", k, n=200) for k in range(500)]).numpy()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-6
    centred = (u - 0.5) * np.sqrt(12)
    correlation = (centred[1:] * centred[:-1]).mean() * np.sqrt(u.size)
    lagged = (centred[:, 1:] * centred[:, :-1]).mean() * np.sqrt(u.size)
    assert abs(correlation) < SIGMA and abs(lagged) < SIGMA


def test_normal_numbers_of_a_stream_have_mean_0_and_variance_1():
    x = torch.randn(100_000, generator=stream(3, "normal"), dtype=torch.float64)
    assert abs(float(x.mean())) * 100_000**0.5 < SIGMA
    assert abs(float(x.square().mean()) - 1) * (100_000 / 2) ** 0.5 < SIGMA


def test_the_state_is_in_the_middle_of_nothing():
    # A fresh stream holds no number from an earlier call: drawing a normal number first does not shift the next ones.
    one, other = stream(1, "x"), stream(1, "x")
    assert torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=other))
    assert torch.equal(torch.rand(700, generator=one), torch.rand(700, generator=other))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    stream(1, "anything")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "1"])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(DmmcError, match=r"the seed must be an integer between 0 and 2\^63 - 1"):
        stream(seed, "x")


@pytest.mark.cuda
def test_cuda_streams():
    first = {
        float(torch.rand((), generator=stream(1 + (k << 40), "x", k, device="cuda"), device="cuda")) for k in range(64)
    }
    assert len(first) == 64


def test_numbers_are_drawn_where_the_generator_is_and_moved():
    # A CPU generator serves fields on any device, and torch's default device does not enter.
    with torch.device("meta"):
        drawn = [
            normal((3, 2), stream(1, "x")),
            uniform((3, 2), stream(1, "x")),
            signs((3, 2), stream(1, "x")),
            integers(7, (3, 2), stream(1, "x")),
            permutation(3, stream(1, "x")),
        ]
    assert {x.device.type for x in drawn} == {"cpu"}
    assert torch.equal(drawn[0], torch.randn(3, 2, generator=stream(1, "x"), dtype=torch.float64))
    assert drawn[0].dtype == drawn[1].dtype == drawn[2].dtype == torch.float64
    assert normal((3, 2), stream(1, "x"), torch.float32, "meta").device.type == "meta"
    assert permutation(3, stream(1, "x"), "meta").device.type == "meta"


def test_laws():
    n, generator = 40_000, stream(2, "laws")
    assert sorted(permutation(50, generator).tolist()) == list(range(50))
    s, u, k = signs((n,), generator), uniform((n,), generator), integers(6, (n,), generator)
    assert set(s.tolist()) == {-1.0, 1.0} and set(k.tolist()) == set(range(6))
    assert 0 <= float(u.min()) and float(u.max()) < 1
    # Means in standard errors of n draws.
    assert abs(float(s.mean())) < 5 / n**0.5
    assert abs(float(u.mean()) - 0.5) < 5 / (12 * n) ** 0.5
    assert abs(float(k.double().mean()) - 2.5) < 5 * (35 / 12 / n) ** 0.5
