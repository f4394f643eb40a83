"""A symmetry is believed where fields do not contradict it, tested where nothing is declared, and never assumed."""

import math

import pytest
import torch

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.theory.free_field import FreeField
from dmmc.theory.function_action import AutogradAction
from dmmc.theory.phi4 import Phi4
from dmmc.theory.sectors import align, is_broken, magnetisation
from dmmc.theory.symmetry import N_TESTED, SymmetryFinding, find_symmetry
from helpers import rng

ACTION = Phi4(0.27, 0.022)


def fields(n=400, shape=(4, 4), seed=1):
    return torch.randn(n, *shape, generator=rng(seed), dtype=torch.float64)


def tilted(strength, **declared):
    """phi^4 with a term that breaks the symmetry."""
    return AutogradAction(lambda phi: ACTION(phi) + strength * phi.flatten(1).sum(1), "tilted", **declared)


def test_declared_symmetry_is_believed_and_verified():
    for action in (ACTION, FreeField(0.5), tilted(0.0, symmetry="z2")):
        for asked in ("auto", "z2"):
            finding = find_symmetry(action, fields(), asked)
            assert finding.symmetry == "z2" and finding.deviation == 0.0
            why = "declared by the action" if asked == "auto" else "asked for"
            assert why in finding.evidence and f"{N_TESTED} fields" in finding.evidence
    with pytest.raises(MismatchError, match=r"is declared by the action, but S\(phi\) and S\(-phi\) differ by at most"):
        find_symmetry(tilted(0.01, symmetry="z2"), fields())


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0])
def test_where_nothing_is_declared_a_broken_symmetry_is_seen(strength):
    finding = find_symmetry(tilted(strength), fields())
    assert finding.symmetry == "none" and finding.evidence.startswith("The action has no symmetry")
    # The odd part of S relative to the size of its terms, which is about 30 on these fields.
    assert strength / 30 < finding.deviation < 10 * strength
    with pytest.raises(MismatchError, match=r'"z2" was asked for, but .* differ by at most .* of the size of S on 256'):
        find_symmetry(tilted(strength), fields(), "z2")


def test_where_nothing_is_declared_a_symmetry_is_found():
    # cosh(phi) - 1 summed in another order than cosh(-phi) - 1: even up to rounding.
    def uneven(phi):
        flat = phi.flatten(1)
        order = torch.where(flat[:, :1] > 0, flat, flat.flip(1))
        return (torch.exp(order) / 2 + torch.exp(-order) / 2 - 1).cumsum(1)[:, -1]

    finding = find_symmetry(AutogradAction(uneven, "cosh"), fields(shape=(16, 16)))
    assert finding.symmetry == "z2" and 0 < finding.deviation < 1e-13
    assert "found by a test" in finding.evidence
    assert SymmetryFinding.from_json(finding.to_json()) == finding


def test_a_symmetry_up_to_cancellation_is_found():
    # Terms of size 10^4 that cancel to nothing leave rounding that is large compared with S.
    def cancels(phi):
        big = 1e4 * (phi + 1).square() - 1e4 * phi.square() - 2e4 * phi
        return (big - 1e4).flatten(1).sum(1) + phi.square().flatten(1).sum(1)

    deviation = find_symmetry(AutogradAction(cancels, "cancels"), fields()).deviation
    assert deviation < 1e-9


def test_what_the_user_says_counts():
    assert find_symmetry(ACTION, fields(), "none").symmetry == "none"
    assert find_symmetry(None, fields(), "none").symmetry == "none"
    assert find_symmetry(None, fields(), "z2").symmetry == "z2"
    assert find_symmetry(None, fields()).symmetry == "none"
    even = tilted(0.0, symmetry="none")
    assert find_symmetry(even, fields()).symmetry == "none"
    with pytest.raises(MismatchError, match="the action declares that it has none"):
        find_symmetry(even, fields(), "z2")
    with pytest.raises(DmmcError, match="\"auto\" or one of z2, o_n, none, not 'Z2'"):
        find_symmetry(ACTION, fields(), "Z2")
    with pytest.raises(DmmcError, match="there are none"):
        find_symmetry(ACTION, fields()[:0])


def test_an_action_that_is_not_finite_has_no_symmetry():
    action = AutogradAction(lambda phi: phi.flatten(1).sum(1).log(), "log")
    assert find_symmetry(action, fields()).deviation == math.inf


def test_fields_on_which_a_symmetric_action_overflows_are_blamed_themselves():
    damaged = fields().clone()
    damaged[3] = 1e160
    with pytest.raises(MismatchError, match=r"not finite on some of .* fields .*, whose values reach 1e\+160"):
        find_symmetry(Phi4(0.2, 0.1), damaged)


def test_sectors():
    wells = torch.where(torch.arange(400) % 2 == 0, 3.0, -3.0).double().view(-1, 1, 1) + 0.5 * fields()
    assert is_broken(wells) and not is_broken(fields())
    aligned = align(wells)
    assert bool((magnetisation(aligned) > 0).all())
    assert torch.equal(aligned.abs(), wells.abs())
    positive = magnetisation(wells) > 0
    assert torch.equal(aligned[positive], wells[positive]) and torch.equal(aligned[~positive], -wells[~positive])
    torch.testing.assert_close(magnetisation(wells), wells.mean((1, 2)))
    assert align(wells.float()).dtype == torch.float32
