"""The figures of the runs on a page, each with a caption that says how to read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from dmmc.core.errors import DmmcError
from dmmc.diagnostics.correlator import wall_correlator
from dmmc.diagnostics.observables import columns, parts
from dmmc.diagnostics.two_point import propagator
from dmmc.pages import figures
from dmmc.pages.comparable import Runs, is_sign_symmetric
from dmmc.pages.styles import palette
from dmmc.pages.svg import FULL, HALF, Picture, page_style, picture
from dmmc.pages.wording import listed
from dmmc.runs.run import StoredRun
from dmmc.runs.summary import proposals_are_independent
from dmmc.theory import momenta

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUTOCORRELATIONS = ("M", "abs_M", "M2", "S_per_site")
"""Observables whose autocorrelation functions are drawn; M is usually the slowest."""

TRACES = ("M", "S_per_site")


@dataclass
class Gallery:
    """The figures that were drawn so far.

    Attributes:
        pictures: the figures.
        notes: one sentence for each figure that could not be drawn.
    """

    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def draw(
        self,
        name: str,
        make: Callable[[], Figure],
        alt: str,
        caption: str,
        *,
        width: float = HALF,
        height: float | None = None,
    ) -> None:
        """Draw a figure and add it; if it is refused, add the reason to the notes.

        Args:
            name: identifies the figure in the page.
            make: draws it.
            alt: what is to be seen, for those who do not see it.
            caption: how to read it.
            width: in inches.
            height: in inches; None keeps the shape of the figure.
        """
        try:
            self.pictures.append(picture(name, make(), alt, caption, width, height))
        except DmmcError as error:
            self.notes.append(f"The figure “{name.replace('-', ' ')}” could not be drawn: {error}.")


def run_pictures(runs: Runs) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """The figures of all runs, and one sentence for each that could not be drawn.

    Args:
        runs: the runs by name, the one that ratios are taken to first.
    """
    gallery = Gallery()
    with page_style():
        _side_by_side(gallery, runs)
        for name, run in runs.items():
            _weights(gallery, name, run, runs)
        _denoising(gallery, runs)
    return tuple(gallery.pictures), tuple(gallery.notes)


def _side_by_side(gallery: Gallery, runs: Runs) -> None:
    """The figures that show all samplers together."""
    series = {name: columns(run.observables) for name, run in runs.items()}
    first = next(iter(runs))
    everyone = listed(list(runs))

    def in_all(name: str) -> list[str]:
        return [key for key in parts(name, series[first]) if all(key in of_run for of_run in series.values())]

    symmetric = "" if not all(map(is_sign_symmetric, runs.values())) else (
        " and are symmetric about 0; a chain that stays on one side never changed sign"
    )  # fmt: skip
    for M in in_all("M"):
        gallery.draw(
            "magnetisation" if M == "M" else f"magnetisation-{_id(M)}",
            lambda M=M: figures.magnetisation(  # type: ignore[misc]
                {name: of_run[M] for name, of_run in series.items()}, symbol=M
            ),
            f"Histograms of the magnetisation {M} of {everyone}.",
            f"How often each value of {M} occurs, with bands of one standard error. The histograms of exact samplers "
            f"agree within their bands{symmetric}.",
            height=3.4,
        )
    phat2 = momenta.orbit_phat2(runs[first].header.lattice)
    with_propagator = {
        name: run
        for name, run in runs.items()
        if "two_point" in run.observables and run.observables["two_point"].ndim == 3
    }
    if with_propagator:
        base = next(iter(with_propagator))
        gallery.draw(
            "two-point-function",
            lambda: figures.two_point(
                {name: (phat2, *propagator(run.observables["two_point"])) for name, run in with_propagator.items()}
            ),
            f"Two-point function G(p) of {listed(list(with_propagator))} against the lattice momentum squared, and its "
            f"ratio to {base}.",
            f"Above: the propagator, with p = 0 at the left edge. Below: its ratio to {base}, whose own error is the "
            "band. Points that lie off 1 by more than their bars over a range of momenta show a scale that is sampled "
            "wrongly.",
            height=3.4,
        )
        _wall(gallery, with_propagator)
    drawn = [key for name in TRACES for key in in_all(name)]
    if drawn:
        gallery.draw(
            "traces",
            lambda: figures.traces(series, drawn),
            f"Time series of {listed(drawn)} of up to three chains each of {everyone}.",
            "The history of a few chains, one column per sampler. Noise without memory is good; slow waves are "
            "autocorrelation, flat pieces are rejections, and a drift at the beginning means that the chain had not "
            "thermalised.",
            width=FULL,
        )
    drawn = [key for name in AUTOCORRELATIONS for key in in_all(name)]
    if drawn:
        gallery.draw(
            "autocorrelation",
            lambda: figures.autocorrelation(series, drawn),
            f"Autocorrelation functions of {listed(drawn)} of {everyone}, with error bars.",
            "How long a chain remembers: ρ(t) falls from 1 to 0, and τ = ½ + Σρ(t) is ½ without memory; 2τ draws are "
            "worth one independent draw. Bars are one standard error (Madras and Sokal). Where the samplers differ "
            "much, the panels on the left show the beginning of those on the right.",
            width=FULL,
        )
    accepted = {name: run.stats["accepted"] for name, run in runs.items() if "accepted" in run.stats}
    if accepted:
        gallery.draw(
            "acceptance",
            lambda: figures.acceptance(accepted),
            f"Acceptance rate over the length of the run of {listed(list(accepted))}.",
            "The fraction of accepted steps in one stretch of draws after another, over all chains. It should be "
            "level: a fall means that chains have wandered to where proposals are rejected.",
            height=3.4,
        )


def _wall(gallery: Gallery, runs: Runs) -> None:
    """Correlators along the longest axis, where that has four sites or more."""
    lattice = next(iter(runs.values())).header.lattice
    axis = max(range(len(lattice)), key=lambda k: lattice[k])
    if lattice[axis] < 4:
        return
    orbits = momenta.wall_modes(lattice, axis)
    gallery.draw(
        "wall-correlator",
        lambda: figures.wall_correlator(
            {name: wall_correlator(run.observables["two_point"], orbits) for name, run in runs.items()}
        ),
        f"Correlator of walls at distance t and its effective mass, of {listed(list(runs))}.",
        "Left: the correlation of the field averaged over two walls at distance t, nothing subtracted. It falls like "
        "cosh(m(t − L/2)) at large t, and towards a constant if there is a magnetisation. Right: the mass that three "
        "neighbouring points give; where it is level it is the inverse correlation length in the symmetric "
        "phase. Points that are lost in the noise are left out.",
        width=FULL,
    )


def _weights(gallery: Gallery, name: str, run: StoredRun, runs: Runs) -> None:
    """The log weights of a chain of independent proposals."""
    if not proposals_are_independent(run):
        return
    alone = sum(map(proposals_are_independent, runs.values())) == 1
    gallery.draw(
        "log-weights" if alone else f"log-weights-{_id(name)}",
        lambda: figures.log_weights(
            run.stats["log_w_proposed"], run.evaluation.get("log_w_reference"), look=palette(runs)[name]
        ),
        f"Histograms of the log weights of {name}.",
        (f"{name}: " if len(runs) > 1 else "") + "log w = −S − log q of proposals and, if they were given, of "
        "reference configurations. Both are a spike at 0 for a perfect model; a tail of the reference far to the right "
        "shows fields that the model misses.",
        height=3.4,
    )


def _denoising(gallery: Gallery, runs: Runs) -> None:
    """The denoising sequences, each of them once: different kernels of one model share its flow."""
    sequences = {
        run.evaluation["denoising"].tobytes(): (name, run)
        for name, run in reversed(list(runs.items()))
        if "denoising" in run.evaluation and "denoising_noise" in run.evaluation
    }
    for name, run in reversed(sequences.values()):
        level = run.evaluation.get("denoising_level")
        fields, noise = run.evaluation["denoising"], run.evaluation["denoising_noise"]
        if run.header.components is not None:
            fields = fields[:, 0]  # one component tells as much as all
        times = None if level is None else 1 - level
        id_ = "denoising" if len(sequences) == 1 else f"denoising-{_id(name)}"
        gallery.draw(
            id_,
            partial(figures.denoising, fields, noise, times),
            f"A field of {name} at several stages, from pure noise to a proposal, all on one scale.",
            "One proposal on its way through the probability flow, from noise (left) to a field of the theory (right). "
            "τ is the time of denoising, and s the standard deviation of the noise. All panels share one scale: the "
            "noise is many times larger than the field. In three dimensions and more, a plane is shown.",
            width=FULL,
        )
        gallery.draw(
            f"{id_}-relative",
            partial(figures.denoising, fields, noise, times, "rms"),
            f"The same fields of {name}, each divided by its own root mean square.",
            "The same fields, each divided by its own root mean square, so that the structure of the last ones can be "
            "seen.",
            width=FULL,
        )


def _id(name: str) -> str:
    """A name as part of an identifier in HTML."""
    return "-".join(re.findall(r"\w+", name)) or "run"
