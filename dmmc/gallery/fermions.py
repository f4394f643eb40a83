"""Fermions: where the accept/reject chain of a diffusion model beats HMC on the clock.

In phi^4 theory the force is nearly free, and HMC makes an independent configuration in less time than it takes to
evaluate a network. With fermions a force is a determinant's derivative or the solution of linear systems, and HMC needs
many of them for one independent configuration, whereas the chain needs one determinant for each proposal.

The theory is phi^4 on 8 x 8 and 16 x 16 with two flavours of Wilson fermions of bare mass 0, whose coupling g gives
them the mass ``g <phi>`` (:class:`dmmc.theory.yukawa.Yukawa`). No HMC chain is needed for the training: a model that is
exact for a free field is carried to the full theory in rounds on its own exact chains
(:mod:`dmmc.studies.rounds`), with one fermion force for each field that is learned from.

Its rivals are HMC with the gradient of the determinant, the same with the scalar field on a shorter time scale, and
pseudofermions, each with its step tuned and the best of several trajectory lengths. All of them use the same
determinants, on half of the sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmmc.diagnostics import z_score
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery.exhibit import Exhibit, Findings, Request
from dmmc.gallery.fermions_figures import drawings
from dmmc.gallery.fermions_runs import (
    CHAIN,
    COMPARED,
    FULL,
    METHODS,
    OBSERVABLES,
    PLAIN,
    QUICK,
    SIZES,
    Point,
    Race,
    race_at,
    taught,
)
from dmmc.pages.table import format_z


def make(request: Request) -> Findings:
    """Make the exhibit."""
    races = [race_at(request, point) for point in (QUICK if request.quick else FULL)]
    found = taught(request, QUICK[0] if request.quick else COMPARED)
    return Findings(
        drawings(races), _table(races), _text(races, found), {"points": races, "acceptance by training": found}
    )


def _table(races: Sequence[Race]) -> str:
    rows = [
        [
            "",
            "sampler",
            "length",
            "accepted",
            "<M^2>",
            "z",
            "psi-bar psi",
            "z",
            "tau M^2",
            "ms a step",
            "ms M^2",
            "ms psi-bar psi",
        ]
    ]
    for race in races:
        reference = race.entries[race.best()].estimates
        for k, (name, x) in enumerate(race.entries.items()):
            z = [format_z(z_score(x.estimates[o], reference[o])) if name != race.best() else "" for o in OBSERVABLES]
            rows.append(
                [
                    f"{race.extent}^2, g = {race.g:g}" if k == 0 else "",
                    name,
                    "" if x.length is None else f"{x.length:g}",
                    f"{x.acceptance:.2f}",
                    str(x.estimates["M2"]),
                    z[0],
                    str(x.estimates["condensate"]),
                    z[1],
                    f"{x.estimates['M2'].tau_int:.2f}",
                    f"{1e3 * x.seconds:.3g}",
                    f"{1e3 * x.cost['M2']:.3g}",
                    f"{1e3 * x.cost['condensate']:.3g}",
                ]
            )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            *lines,
            "z: difference from the cheapest HMC, in standard errors",
            "ms a step: wall time of a proposal or a trajectory",
            "ms M^2, psi-bar psi: wall time of an effective sample, 2 tau_int times that",
        ]
    )


def _text(races: Sequence[Race], found: Mapping[str, float]) -> tuple[str, ...]:
    sentences = []
    for race in races:
        best, chain = race.best(), race.entries[CHAIN]
        sentences.append(
            f"On {race.extent} x {race.extent} at g = {race.g:g} the chain accepts {chain.acceptance:.2f} of its "
            f"proposals after {race.training:.0f} s of training without HMC. An effective {symbol('M2').text} costs it "
            f"{1e3 * chain.cost['M2']:.2g} ms, {race.ratio(PLAIN):.1f} times less than HMC with the gradient of the "
            f"determinant and {race.ratio(best):.1f} times less than the best HMC ({best}); of the condensate "
            f"{race.ratio(race.best('condensate'), 'condensate'):.1f} times less. {_paid_off(race)}"
        )
    trained = "; ".join(f"{name}: {x:.2f}" for name, x in found.items())
    return (*sentences, f"Acceptance after as many optimiser steps, by what the model was trained on. {trained}.")


def _paid_off(race: Race) -> str:
    if race.break_even == float("inf"):
        return "The training never pays off there."
    return f"The training has paid off after {race.break_even:,.0f} effective samples of M^2."


def _files(points: Sequence[Point]) -> tuple[str, ...]:
    names = []
    for point in points:
        lengths = {*SIZES[point.extent].lengths, 2.0}
        names += [
            f"{point.folder}/{name}"
            for name in (
                "model.safetensors", "fields.safetensors", "forces.safetensors", "chain.h5", "seconds.npz", "race.npz",
                *(f"{method}-{length:g}.h5" for method in METHODS.values() for length in sorted(lengths)),
            )
        ]  # fmt: skip
    return tuple(names)


EXHIBIT = Exhibit(
    "fermions",
    "Fermions: exact and faster than HMC",
    "the outlook of Wang, Aarts, Zhou, JHEP 05 (2024) 060",
    20,
    make,
    figures=("fermions",),
    files=_files((*QUICK, *FULL)),
)
