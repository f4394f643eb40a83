"""The figures of the exhibit on stochastic quantisation, and what they are drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmmc.diagnostics import Estimate, Extrapolation, autocorrelation_function, format_value, resolved_tau, to_zero_step
from dmmc.diagnostics.symbols import symbol
from dmmc.gallery.processes import Course
from dmmc.pages.figures import make_panels, points
from dmmc.pages.styles import COLOURS, palette, style
from dmmc.runs.run import StoredRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

DOTS = 3000
"""Sites that are drawn in a scatter plot."""


EQUATIONS = (
    "The two equations as processes: the Langevin equation from white noise (left), and the diffusion model from its "
    "noisiest level (right). Top: drift (root mean square over sites) and noise in a unit of time. The noise of the "
    "Langevin equation is the same for ever, and its drift settles where the two balance. In the diffusion model both "
    "fall together, and nothing is ever in balance. Below: phi^2 and M^2 on the way; the dashed lines are the HMC "
    "values, which the Langevin equation misses by the error of its steps. It settles the fast modes at once and M^2 "
    "last; the diffusion model has M^2 right before phi^2."
)
DRIFT = (
    "Left: size of the learned score against the noise that is left. At first it only removes noise (dotted), at the "
    "end it is the force of the action (dashed). Right: the score at v = 0 against the force, for single sites of HMC "
    "fields."
)
MEMORY = (
    "Left: correlation of a mode of the Langevin equation, begun in equilibrium, with its own value at the start. It "
    "falls like 1 - t/C(p) at first, for every action, and never below the line exp(-t/C). Right: correlation of a "
    "mode of the diffusion model with the same mode of the finished field, while the noise falls. For a perfect model "
    "it is the line, for every action: a mode is decided when v falls below its C(p), slow modes first."
)
CHAINS = (
    "Autocorrelation functions of chains with a Metropolis step. The lag is counted in evaluations of the force of the "
    "action or of the network, of which the latter cost more. The legend gives tau_int in the same units."
)
STEP_SIZE = (
    "Left: the Langevin equation with a kernel in Fourier space and no Metropolis step, against the step h, with the "
    "straight line that takes h to zero. Right: the diffusion model in so many steps, with nothing accepted or "
    "rejected. The error of the steps vanishes in the limit, that of the model does not. The chains with a Metropolis "
    "step (left of zero) are right at the steps that they have. Grey: HMC."
)


@dataclass(frozen=True)
class Equations:
    """The two equations as processes, on one theory.

    Attributes:
        langevin: from white noise.
        equilibrium: the Langevin equation from fields of the theory.
        diffusion: a diffusion model run backwards, from its noisiest level.
        names: of the modes that are followed.
        c: ``<|phi(p)|^2>`` of each of them in the theory.
    """

    langevin: Course
    equilibrium: Course
    diffusion: Course
    names: tuple[str, ...]
    c: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """The learned drift without noise beside the force, of every site of some fields of the theory.

    Attributes:
        learned: ``grad log p_0`` of the model.
        exact: ``-dS/dphi``.
    """

    learned: Array
    exact: Array

    @property
    def strength(self) -> float:
        """Root mean square of the force."""
        return float(np.sqrt(np.mean(self.exact**2)))

    @property
    def error(self) -> float:
        """Root mean square of the difference, in units of :attr:`strength`."""
        return float(np.sqrt(np.mean((self.learned - self.exact) ** 2))) / self.strength


@dataclass(frozen=True)
class Chain:
    """The chain of a sampler.

    Attributes:
        observables: ``(chain, draw)`` each, by name.
        evaluations: forces, or evaluations of the network, for each draw.
    """

    observables: Mapping[str, Array]
    evaluations: float

    @classmethod
    def of(cls, run: StoredRun) -> Chain:
        """That of a run."""
        return cls(run.observables, sum(run.header.cost.values()) * run.header.steps_per_draw)

    def cost(self, name: str) -> float:
        """tau_int of an observable in evaluations."""
        return self.evaluations * resolved_tau(self.observables[name])[0].tau_int


@dataclass(frozen=True)
class StepError:
    """A quantity at several sizes of the step, and at none.

    Attributes:
        steps: sizes of the step; of a diffusion model, one over their number.
        estimates: the quantity.
        limit: extrapolated to no step, by a straight line.
        exact: that of the chain with a Metropolis step.
    """

    steps: tuple[float, ...]
    estimates: tuple[Estimate, ...]
    limit: Extrapolation
    exact: Estimate

    @classmethod
    def of(cls, steps: Sequence[float], estimates: Sequence[Estimate], exact: Estimate) -> StepError:
        """With the limit, from estimates at each of ``steps``."""
        return cls(tuple(steps), tuple(estimates), to_zero_step(steps, estimates), exact)

    @property
    def ways(self) -> tuple[Estimate | Extrapolation, ...]:
        """The quantity with the largest step, without a step, and with a Metropolis step."""
        largest = self.estimates[int(np.argmax(self.steps))]
        return largest, self.limit, self.exact


def equations(found: Equations, truth: Mapping[str, Estimate]) -> Figure:
    """Drift and noise, phi^2 and M^2 of the two equations against their times."""
    figure, axes = make_panels(9.6, 8.0, rows=3, columns=2)
    for column, (course, title, label) in enumerate(
        (
            (found.langevin, "Langevin equation, from white noise", "Langevin time t"),
            (found.diffusion, "diffusion model, backwards", r"time of denoising $\tau$"),
        )
    ):
        first = 1 if column == 0 else 0  # a logarithmic axis has no place for t = 0
        time = np.array(course.time[first:])
        ax = axes[column]
        ax.plot(time, course.drift[first:], color=COLOURS[0], marker="o", markersize=3, linewidth=1, label="drift, rms")
        ax.plot(time, course.noise[first:], color=COLOURS[1], linestyle="--", linewidth=1.5, label="noise")
        ax.set(title=title, yscale="log")
        ax.title.set_fontsize(10)
        ax.legend(frameon=False, fontsize=9, loc="lower left" if column else "upper right")
        for row, (name, values) in enumerate((("phi2", course.phi2), ("M2", course.M2)), start=1):
            ax = axes[2 * row + column]
            value, error = np.array(values[first:]).T
            ax.errorbar(time, value, error, label="mean over fields", **points(style(0)))
            exact = truth[name].value
            ax.axhline(exact, color="0.4", linestyle="--", linewidth=1.2, zorder=0, label="HMC")
            ax.set(yscale="log")
            ax.legend(frameon=False, fontsize=9, loc="best")
        axes[4 + column].set_xlabel(label)
        if column == 0:
            for ax in axes[::2]:
                ax.set_xscale("log")
    axes[0].set_ylabel("strength at one site")
    axes[2].set_ylabel(symbol("phi2").math)
    axes[4].set_ylabel(symbol("M2").math)
    return figure


def drift(found: Drift, course: Course) -> Figure:
    """The learned drift against the noise that is left, and beside the force when none is left."""
    figure, (left, right) = make_panels(9.6, 3.8, columns=2)
    v, square = np.array(course.variance), np.array(course.noise) ** 2
    s = np.array(course.drift) / square
    noisy = v > 0
    left.plot(v[noisy], s[noisy], color=COLOURS[0], marker="o", markersize=3, linewidth=1, label="score of the model")
    left.plot(v[noisy], v[noisy] ** -0.5, color="0.5", linestyle=":", linewidth=1.2, label=r"noise alone, $v^{-1/2}$")
    left.axhline(found.strength, color=COLOURS[1], linestyle="--", linewidth=1.2, label="force of the action")
    left.set(xscale="log", yscale="log", xlabel="noise variance v that is left", ylabel="rms at one site")
    left.set_ylim(0.5 * s.min(), 4 * found.strength)
    left.invert_xaxis()
    left.set_title("Drift of the model, in units of $-dv$", fontsize=10)
    left.legend(frameon=False, fontsize=9, loc="upper left")
    some = slice(None, None, max(1, len(found.exact) // DOTS))
    right.plot(found.exact[some], found.learned[some], ".", color=COLOURS[0], markersize=1.5, alpha=0.5)
    edge = 4 * found.strength
    right.plot([-edge, edge], [-edge, edge], color="0.4", linestyle="--", linewidth=1)
    right.set(xlim=(-edge, edge), ylim=(-edge, edge), xlabel=r"$-\partial S/\partial\phi(x)$", ylabel="score at v = 0")
    right.set_aspect("equal")
    right.set_title(f"Without noise: relative difference {found.error:.2g}", fontsize=10)
    return figure


def memory(found: Equations) -> Figure:
    """How long, and until when, the modes of the two equations remember."""
    figure, (left, right) = make_panels(9.6, 3.8, columns=2, sharey=True)
    t, v = np.array(found.equilibrium.time[1:]), np.array(found.diffusion.variance[:-1])
    forward, backward = found.equilibrium.memory(0), found.diffusion.memory(-1)
    for k, (name, c) in enumerate(zip(found.names, found.c, strict=True)):
        look = style(k)
        label = f"{name}: C = {c:.3g}"
        left.errorbar(t, forward.correlation[1:, k], forward.error[1:, k], label=label, **points(look))
        fine = np.geomspace(t[0], t[-1], 200)
        left.plot(fine, np.exp(-fine / c), color=look.colour, linestyle=look.line, linewidth=1)
        every = slice(None, None, max(1, len(v) // 24))
        right.errorbar(
            v[every], backward.correlation[:-1, k][every], backward.error[:-1, k][every], label=label, **points(look)
        )  # fmt: skip
        fine = np.geomspace(v[-1], v[0], 200)
        right.plot(fine, np.sqrt(c / (c + fine)), color=look.colour, linestyle=look.line, linewidth=1)
    for ax in (left, right):
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set(xscale="log", ylim=(-0.15, 1.1))
    left.set(xlabel="Langevin time t", ylabel="correlation of a mode with itself")
    left.set_title(r"Langevin: with the field at t = 0; lines $e^{-t/C}$", fontsize=10)
    right.set(xlabel="noise variance v that is left")
    right.invert_xaxis()
    right.set_title(r"diffusion: with the finished field; lines $\sqrt{C/(C+v)}$", fontsize=10)
    left.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 0.05))
    return figure


def chains(found: Mapping[str, Chain]) -> Figure:
    """Autocorrelation functions against the cost of the lag."""
    figure, axes = make_panels(9.6, 3.8, columns=2, sharey=True)
    looks = palette(found)
    for ax, name in zip(axes, ("M", "M2"), strict=True):
        for sampler, chain in found.items():
            x, look = chain.observables[name], looks[sampler]
            tau, resolved = resolved_tau(x)
            last = min(x.shape[1] // 2, 1 + math.ceil(6 * tau.tau_int))
            rho, error = autocorrelation_function(x, last, tau)
            lags = np.unique(np.geomspace(1, last, 16).astype(int))
            cost = lags * chain.evaluations
            relation = "=" if resolved else r"\gtrsim"
            text = format_value(tau.tau_int * chain.evaluations, tau.tau_int_error * chain.evaluations)
            label = rf"{sampler}: $\tau_{{\rm int}} {relation} {text}$"
            ax.plot(cost, rho[lags], color=look.colour, linestyle=look.line, linewidth=1)
            ax.errorbar(cost, rho[lags], error[lags], label=label, **points(look))
        ax.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        ax.set(xscale="log", ylim=(-0.15, 1.7), xlabel="lag in forces, or evaluations of the network")
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
        ax.set_title(symbol(name).value.math, fontsize=10)
        ax.legend(frameon=False, fontsize=9, loc="upper left")
    axes[0].set_ylabel(r"$\rho$")
    return figure


def step_size(found: Mapping[str, tuple[StepError, StepError]], truth: Mapping[str, Estimate]) -> Figure:
    """Quantities against the size of the step, with the straight lines that take the step to zero."""
    figure, axes = make_panels(9.6, 3.2 * len(found), rows=len(found), columns=2)
    for row, (name, both) in enumerate(found.items()):
        for column, errors in enumerate(both):
            _steps(axes[2 * row + column], errors, truth[name], name)
            axes[2 * row + column].set_xlabel(("step h", "1 / number of steps")[column])
    for ax, title in zip(axes, ("Langevin equation", "diffusion model, backwards"), strict=False):
        ax.set_title(title, fontsize=10)
    return figure


def _steps(ax: Any, errors: StepError, truth: Estimate, name: str) -> None:
    """One panel of :func:`step_size`."""
    limit = errors.limit
    values = np.array([[x.value, x.error] for x in errors.estimates])
    ax.errorbar(errors.steps, values[:, 0], values[:, 1], label="without a Metropolis step", **points(style(0)))
    line = np.array([0.0, max(errors.steps)])
    ax.plot(line, limit.value + limit.slope * line, color=COLOURS[0], linewidth=1)
    ax.errorbar(
        0, limit.value, limit.error, label=f"extrapolated: {format_value(limit.value, limit.error)}",
        **points(style(4)) | {"markersize": 6}
    )  # fmt: skip
    exact = errors.exact
    left, large = -0.04 * max(errors.steps), {"markersize": 6}
    ax.errorbar(left, exact.value, exact.error, label=f"with a Metropolis step: {exact}", **points(style(1)) | large)
    ax.axhspan(truth.value - truth.error, truth.value + truth.error, color="0.7", alpha=0.5, linewidth=0, label="HMC")
    ax.set_ylabel(symbol(name).math)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    ax.legend(frameon=False, fontsize=8, loc="upper right")
