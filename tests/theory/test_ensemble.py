"""An ensemble of its action is accepted; the usual mistakes are refused, with the number and the likely cause."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.theory.ensemble import EnsembleCheck, check_ensemble
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.identities import field_numbers, log_weight, shell_orbits, shrinking
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sectors import align
from dmmc.theory.significance import FALSE_ALARM
from helpers import free_draws, free_reference, hmc_ensemble, rng

ACTION, CHAINS = Phi4(0.27, 0.022), 100


@pytest.fixture(scope="module")
def phi():
    return hmc_ensemble(ACTION, (16, 16), n=1000)


@pytest.mark.parametrize("chains", [None, CHAINS, 7], ids=["one sequence", "chains", "no divisor"])
def test_a_right_ensemble_is_accepted(phi, chains):
    check = check_ensemble(phi, ACTION, chains=chains)
    assert abs(check.virial - 1) < 0.03 and 0.001 < check.virial_error < 0.01
    assert check.virial_z == pytest.approx((check.virial - 1) / check.virial_error) and abs(check.virial_z) < 5
    assert abs(check.axes_z) < 5 and abs(check.mean_z) < 5
    assert (check.n, check.distinct, check.notes) == (1000, 1000, ())
    assert EnsembleCheck.from_json(check.to_json()) == check
    assert str(check).startswith("1000 configurations, <phi dS/dphi>/V = ")


@pytest.mark.parametrize("shape", [(1,), (6,), (4, 4), (3, 5), (2, 3, 2)])
def test_free_fields_are_accepted_in_all_dimensions(shape):
    draws = free_draws(free_reference(Lattice(shape), 0.7), 2000)
    check = check_ensemble(draws, FreeField(0.7))
    # phi dS/dphi / V is the mean of V squares of normal numbers.
    assert check.virial_error == pytest.approx(math.sqrt(2 / (2000 * math.prod(shape))), rel=0.3)
    assert (check.axes_z is None) == (len(set(shape)) == len(shape))


def test_the_error_accounts_for_autocorrelation():
    # An autoregressive chain of free fields: a thousand draws are worth 1000 / (2 tau_int), and here 2 tau_int = 19.
    reference = free_reference(Lattice((4, 4)), 0.7)
    steps = free_draws(reference, 20 * 1000).view(20, 1000, 4, 4)
    a = math.sqrt(0.9)  # squares decorrelate with a^2
    chain = [steps[:, 0]]
    for k in range(1, 1000):
        chain.append(a * chain[-1] + math.sqrt(1 - a * a) * steps[:, k])
    draws = torch.stack(chain, 1).flatten(0, 1)
    for chains in (20, None):
        check = check_ensemble(draws, FreeField(0.7), chains=chains)
        assert check.virial_error == pytest.approx(math.sqrt(2 * 19 / (20_000 * 16)), rel=0.3)
        assert abs(check.virial_z) < 5


def refusal(*args, **options):
    with pytest.raises(MismatchError, match=r"does not fit the action: <phi dS/dphi>/V should be 1 and is ") as caught:
        check_ensemble(*args, chains=CHAINS, **options)
    message = str(caught.value)
    return float(message.split("should be 1 and is ")[1].split("(")[0]), message


def test_other_couplings_are_refused(phi):
    for action, exact in ((Phi4(0.25, 0.022), 1.18), (Phi4(0.27, 0.05), 1.42)):
        value, message = refusal(phi, action)
        assert value == pytest.approx(exact, abs=0.05)
        assert "other couplings, another normalisation (multiplied by about 0.9" in message


def test_other_normalisations_are_refused_by_name(phi):
    value, message = refusal(math.sqrt(0.27) * phi, ACTION)
    assert value == pytest.approx(0.19, abs=0.01)
    assert "in the normalisation of the mass form: multiply them by 1.9245" in message
    _, message = refusal(math.sqrt(0.54) * phi, ACTION)
    assert "in the normalisation of the textbook form: multiply them by 1.3608" in message
    _, message = refusal(phi, ACTION.rescaled(math.sqrt(0.27)))
    assert "in the normalisation of the hopping form: multiply them by 0.519615" in message
    # Of an action that names no other conventions the factor is told all the same.
    foreign = AutogradAction(ACTION, "foreign")
    assert "(multiplied by about 2 they would fit)" in refusal(phi / 2, foreign)[1]


def test_fields_that_no_factor_mends_are_refused(phi):
    assert (
        "have other couplings, or another lattice shape"
        in refusal(phi, AutogradAction(lambda x: -ACTION(x), "minus"))[1]
    )


class WithoutGradient(Phi4):
    has_grad = False


@pytest.mark.parametrize("factor", [3.0, 5.0, 10.0, 1e3, 1e100])
def test_single_absurd_fields_are_refused_though_they_make_the_errors_large(phi, factor):
    wrong = phi.clone()
    wrong[407] *= factor
    with pytest.raises(MismatchError, match=r"configuration 407 \(counted from 0\) can hardly be one of it"):
        check_ensemble(wrong, ACTION)
    wrong[5:7] *= factor
    with pytest.raises(MismatchError, match=r"configuration \d of chain \d+ .*, and 2 more like it"):
        check_ensemble(wrong, ACTION, chains=CHAINS)
    # A single site is enough, and so is an action without a gradient.
    wrong = phi.clone()
    wrong[5, 3, 3] *= 30 * factor
    for action in (ACTION, WithoutGradient(0.27, 0.022)):
        with pytest.raises(MismatchError, match=r"configuration 5 .*below 1e-\d"):
            check_ensemble(wrong, action)


@pytest.mark.parametrize("shape", [(1,), (2,), (4, 4), (3, 2, 2)])
def test_the_weight_that_tells_absurd_fields_has_a_mean_of_one(shape):
    """So that it exceeds t with a probability below 1/t, near criticality and in the broken phase, too."""
    free = FreeField(0.7)
    fields = free_draws(free_reference(Lattice(shape), 0.7), 50_000)
    # Of free fields w has a finite variance for c^2 > 1/2.
    w = log_weight(fields, free, 0.9).exp().numpy()
    assert abs(w.mean() - 1) < 5 * w.std() / math.sqrt(len(w))
    assert float(log_weight(fields, free, shrinking(math.prod(shape))).max()) < math.log(50_000 / FALSE_ALARM)


@pytest.mark.parametrize("kappa", [0.2, 0.27, 0.3, 0.35])
def test_heavy_tails_near_criticality_are_no_absurd_fields(kappa):
    action = Phi4(kappa, 0.022)
    numbers = field_numbers(hmc_ensemble(action, (4, 4), n=500), action)
    # Ten million such ensembles would be needed for one false alarm: the largest weight is far below the bound.
    assert numbers.log_w.max() < math.log(500) + 3 < math.log(500 / FALSE_ALARM)


def test_axes_in_the_wrong_order_are_refused():
    draws = hmc_ensemble(ACTION, (8, 16), n=1000)
    check_ensemble(draws, ACTION, chains=CHAINS)
    check_ensemble(draws.transpose(1, 2), ACTION, chains=CHAINS)
    _, message = refusal(draws.reshape(-1, 16, 8), ACTION)
    assert "the fields fit if their axes are read as (8, 16)" in message


def test_axes_that_are_not_alike(phi):
    # An anisotropic theory: its fields are right for its own action, and worth a note only.
    def anisotropic(x):
        return Phi4(0.27, 0.1)(x) - 0.2 * (x * x.roll(1, 1)).flatten(1).sum(1)

    action = AutogradAction(anisotropic, "anisotropic", symmetry="z2")
    draws = hmc_ensemble(action, (6, 6), n=2000)
    check = check_ensemble(draws, action, chains=200)
    assert abs(check.axes_z) > 6 and "neighbours along axes 0 and 1 are not equally correlated" in check.notes[0]
    assert "not equally correlated" in check_ensemble(draws, None).notes[0]
    # An isotropic action whose virial happens to agree is told by its axes.
    mean = float((draws * Phi4(0.3, 0.1).grad(draws)).mean())
    isotropic = AutogradAction(lambda x: Phi4(0.3, 0.1)(x) / mean, "isotropic")
    with pytest.raises(MismatchError, match="although the action treats these axes alike"):
        check_ensemble(draws, isotropic, chains=200)


def test_one_sided_ensembles_are_noted(phi):
    check = check_ensemble(align(phi), ACTION, chains=CHAINS)
    assert len(check.notes) == 1 and "all fields have M > 0, although the theory is symmetric" in check.notes[0]
    assert "all fields have M < 0" in check_ensemble(-align(phi), ACTION, chains=CHAINS).notes[0]
    uneven = torch.where((torch.arange(1000) % 4 > 0).view(-1, 1, 1), align(phi), phi)
    check = check_ensemble(uneven, ACTION, chains=CHAINS)
    assert abs(check.mean_z) > 5 and "is far from 0, although the theory is symmetric" in check.notes[0]
    # Nothing is expected of a theory without the symmetry.
    assert check_ensemble(align(phi), ACTION, symmetry="none").notes == ()
    assert check_ensemble(align(phi), AutogradAction(ACTION, "undeclared")).notes == ()
    assert len(check_ensemble(align(phi), None, symmetry="z2").notes) == 1


def test_repeated_configurations_are_noted_or_refused(phi):
    repeated = phi[:400].repeat_interleave(2, 0)
    check = check_ensemble(repeated, ACTION)
    assert check.distinct == 400 and "400 of 800 configurations repeat others exactly" in check.notes[0]
    assert check_ensemble(torch.cat([phi, phi[:100]]), ACTION).notes == ()
    for few in (phi[:23], phi[:23].repeat(10, 1, 1)):
        with pytest.raises(DmmcError, match=rf"23 distinct configurations in {len(few)}; at least 24"):
            check_ensemble(few, ACTION)


def test_the_shells_tell_couplings_that_make_up_for_each_other(phi):
    check = check_ensemble(phi, ACTION, chains=CHAINS)
    assert len(check.shells) == 8 and all(abs(shell.z) < 5 for shell in check.shells)
    assert check.shells[0].phat2 == (0, 0) and check.shells[-1].phat2[1] == pytest.approx(8)
    # Eight shells share the probability of a false alarm; the mean over their momenta is the equation of all of them.
    sizes = [float(Lattice((16, 16)).orbit_size[orbits].sum()) for orbits in shell_orbits(Lattice((16, 16)))]
    assert sum(sizes) == 256
    total = sum(size * shell.value for size, shell in zip(sizes, check.shells, strict=True)) / 256
    assert total == pytest.approx(check.virial, rel=1e-9)
    other = Phi4(0.25, 0.022)
    mean = float((phi * other.grad(phi)).mean())
    scaled = AutogradAction(lambda x: other(x) / mean, "of the right virial")
    with pytest.raises(MismatchError, match=r"at p = 0, <phi\(p\)\^\* dS/dphi\(p\)> should be 1 and is .*near 1"):
        check_ensemble(phi, scaled, chains=CHAINS)


def test_a_dependence_on_the_position_is_told():
    draws = hmc_ensemble(ACTION, (8, 16), n=1000)
    turned = draws.reshape(-1, 16, 8)
    assert abs(check_ensemble(draws, ACTION, chains=CHAINS).position_z) < 5
    # The end of every row is read as a neighbour of its beginning.
    (note, *_) = check_ensemble(turned, None, chains=CHAINS).notes
    assert "the product of neighbours depends on the position along axis 1 (extent 8)" in note
    mean = float((turned * ACTION.grad(turned)).mean())
    with pytest.raises(MismatchError, match="although the action is the same everywhere; the axes were read in"):
        check_ensemble(turned, AutogradAction(lambda x: ACTION(x) / mean, "of the right virial"), chains=CHAINS)
    # A theory that itself depends on the position has such fields.
    walls = 1 + 0.5 * torch.cos(torch.arange(16) * math.pi / 8)
    local = AutogradAction(lambda x: (walls * (x * x)).flatten(1).sum(1), "walls")
    fields = torch.randn(1000, 16, generator=rng(), dtype=torch.float64) / torch.sqrt(2 * walls)
    check = check_ensemble(fields, local)
    assert abs(check.position_z) > 8 and "the model will treat all positions alike" in check.notes[0]


def test_fields_that_come_back_are_refused(phi):
    twice = torch.cat([phi, phi])
    with pytest.raises(MismatchError, match="1000 of 2000 configurations occur again elsewhere"):
        check_ensemble(twice, ACTION, chains=2 * CHAINS)
    # Where the chains are not known, these might be rejections in chains that take turns.
    assert "repeat others exactly" in check_ensemble(twice, ACTION).notes[0]
    rejections = phi[:500].repeat_interleave(2, 0)
    assert check_ensemble(rejections, ACTION, chains=50).distinct == 500


def test_repetitions_are_blamed_where_they_make_errors_too_small(phi):
    with pytest.raises(
        MismatchError, match=r"^970 of 1000 configurations occur again elsewhere.*leave the repetitions"
    ):
        check_ensemble(phi[:30].repeat(34, 1, 1)[:1000], Phi4(0.25, 0.022))


def test_right_ensembles_of_few_or_correlated_fields_are_accepted():
    """None of 120; with the error of the Gamma method as it is, a few of a hundred would be refused."""
    reference = free_reference(Lattice((4,)), 0.5)
    a = math.sqrt(0.9)
    for draws, correlated in ((24, False), (100, True)):
        fields = free_draws(reference, 60 * draws, seed=3).view(60, draws, 4).clone()
        for k in range(1, draws * correlated):
            fields[:, k] = a * fields[:, k - 1] + math.sqrt(1 - a * a) * fields[:, k]
        worth = sorted(check_ensemble(one, FreeField(0.5)).effective for one in fields)
        # 24, but for noise of the estimate; and 100 / 19, which so short a chain cannot see to the full.
        assert 4 < worth[30] < 25


def test_float32_and_chunks_do_not_matter(phi, monkeypatch):
    whole = check_ensemble(phi, ACTION)
    monkeypatch.setattr("dmmc.theory.identities.CHUNK_SITES", 7 * 256)
    assert check_ensemble(phi, ACTION) == whole
    assert check_ensemble(phi.float(), ACTION).virial == pytest.approx(whole.virial, rel=1e-6)


def test_refused_input(phi):
    for bad, message in [
        (torch.full((30, 4, 4), math.nan), "NaN"),
        (torch.zeros(30, 4, 4, dtype=torch.int64), "real floating"),
        (phi.numpy(), "torch.Tensor"),
        (torch.zeros(3), "must have shape"),
    ]:
        with pytest.raises(DmmcError, match=message):
            check_ensemble(bad, ACTION)
    with pytest.raises(DmmcError, match="fields with 2 components must have shape"):
        check_ensemble(phi, AutogradAction(ACTION, "vector", components=2))


def test_wrong_ensembles_are_never_taken_for_right_ones_by_rounding():
    # A single field, repeated with noise of rounding size: it has no fluctuations, and is no ensemble.
    one = torch.randn(1, 4, 4, generator=rng(), dtype=torch.float64)
    draws = one * (1 + 1e-15 * torch.arange(40, dtype=torch.float64)).view(-1, 1, 1)
    with pytest.raises(DmmcError):
        check_ensemble(draws, ACTION)
