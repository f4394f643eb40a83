"""Does a kernel leave ``exp(-S)`` invariant? A test for authors of kernels, with a stated rate of false alarms.

Chains that begin at independent exact draws x of the target must, after any number of steps, be at draws x' of it
(Geweke, JASA 99 (2004) 799; for chains Gandy, Scott, 2001.06465). Nothing has to converge, and nothing is compared
with another sampler. Three families of tests, each with a p-value that holds for finite samples of this size:

* **mean shift**: the differences ``f(x') - f(x)`` have mean zero, for all observables f at once (Hotelling's T^2).
  They are paired, so that whatever a step leaves unchanged adds no noise;
* **law of f**, one for each observable: x' of one half of the chains against x of the other half, by the two-sample
  Kolmogorov-Smirnov statistic, which sees changes that move no mean;
* **detailed balance**, on request, for kernels that should be reversible:
  ``E[f(x) g(x')] = E[g(x) f(x')]`` for all pairs (Hotelling's T^2 again).

A kernel fails if the smallest of m p-values is below ``alpha / m`` (Bonferroni), so a correct one fails with
probability ``alpha`` at most: measured on 10,000 tests of exact kernels (HMC and independence, 1,000 draws of two-site
phi^4 each) 3.2 % at alpha = 5 %, 0.73 % at 1 %, 0.04 % at 0.1 %. Apart from chance, the S and log w that a state
carries must be those of its fields.

No such test can see that a kernel is invariant but not ergodic, a constant factor of q (it cancels), a wrong gradient
in HMC (which is still exact, only slow), errors below :attr:`Invariance.resolution`, such as those of float32 in an
acceptance, or faults in regions that exact draws hardly ever visit. What it does see, although it is no lack of
invariance, are chains that share random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from dmmc.core import linalg
from dmmc.core.errors import DmmcError
from dmmc.kernels.base import Kernel, State
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice

STATE_TOLERANCE = 1e-9
"""Relative deviation of the S (or log w) of a state from that of its fields: far above float64 rounding, far below
float32."""

_MAX_ORBITS = 8
_MAX_PAIRED = 6


@dataclass(frozen=True, repr=False)
class Invariance:
    """The outcome of an invariance test.

    Attributes:
        p_values: of each test, by name; not corrected for their number.
        z: paired shift of the mean of each observable in standard errors.
        resolution: the shift of each mean, in units of the observable's standard deviation, that would be found with
            probability 1/2: what a kernel that passes may still hide; NaN for an observable that is constant.
        faults: contradictions that no chance explains; empty for a correct kernel.
        moved: fraction of chains whose fields changed.
        n: number of exact draws.
        steps: steps from each of them.
        alpha: probability with which a correct kernel fails.
    """

    p_values: Mapping[str, float]
    z: Mapping[str, float]
    resolution: Mapping[str, float]
    faults: tuple[str, ...]
    moved: float
    n: int
    steps: int
    alpha: float

    @property
    def p_value(self) -> float:
        """The p-value of all tests together (Bonferroni)."""
        return min(1.0, len(self.p_values) * min(self.p_values.values()))

    @property
    def passed(self) -> bool:
        """Whether there is neither a contradiction nor a p-value that is too small."""
        return not self.faults and self.p_value >= self.alpha

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        """A table of all tests and observables, worst first."""
        rows = [f"{self.n} exact draws, {self.steps} step(s) each, {100 * self.moved:.0f} % of them moved"]
        rows += [f"fault: {fault}" for fault in self.faults]
        rows += [f"p = {self.p_value:.2g} of {len(self.p_values)} tests together; fails below {self.alpha:.2g}"]
        rows += [f"  {name:32s} p = {p:.2g}" for name, p in sorted(self.p_values.items(), key=lambda item: item[1])]
        rows += ["shift of the mean, in standard errors; what would have been found, in standard deviations"]
        rows += [
            f"  {name:32s} {z:+9.2f} {self.resolution[name]:9.4f}"
            for name, z in sorted(self.z.items(), key=lambda item: -abs(item[1]))
        ]
        return "\n".join(rows)


def assert_invariant(
    kernel: Kernel[Any],
    exact_draws: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 4,
    alpha: float = 1e-4,
    observables: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    reversible: bool = False,
) -> Invariance:
    """Fail if a kernel does not keep exact draws of its target what they are.

    Args:
        kernel: the kernel.
        exact_draws: independent fields from ``exp(-S) / Z``, ``(n, *lattice)`` float64, at least 100; 10,000 and more
            find errors of a few per cent of a standard deviation. See :func:`dmmc.theory.draws.phi4_draws`.
        generator: random numbers for the kernel. They must not be those that made the draws (beware of equal seeds).
        steps: steps from each draw. A few steps find more than one does: errors add up faster than noise, and a state
            that a rejection has spoilt shows in the next step.
        alpha: probability with which a correct kernel fails.
        observables: maps fields ``(n, *lattice)`` to named series ``(n,)``; by default
            :func:`standard_observables` and S.
        reversible: test detailed balance too. A composition of kernels, such as cluster updates with HMC, is
            invariant but not reversible.

    Returns:
        the outcome, which can be printed.

    Raises:
        AssertionError: if the kernel is not invariant, with the table of :class:`Invariance`.
        DmmcError: as :func:`check_invariance`.
    """
    outcome = check_invariance(
        kernel,
        exact_draws,
        generator,
        steps=steps,
        alpha=alpha,
        observables=observables,
        reversible=reversible,
    )
    if not outcome.passed:
        raise AssertionError(f"the kernel {kernel.facts.name!r} does not leave exp(-S) invariant\n{outcome}")
    return outcome


def check_invariance(
    kernel: Kernel[Any],
    exact_draws: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 4,
    alpha: float = 1e-4,
    observables: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    reversible: bool = False,
) -> Invariance:
    """As :func:`assert_invariant`, but a kernel that is not invariant raises no error.

    Raises:
        DmmcError: if the draws are too few or not finite fields on the kernel's lattice, a number is out of its range,
            an observable of the draws is not finite, or no chain moved, which would make the test empty.
    """
    if len(exact_draws) < 100:
        raise DmmcError(f"a test of invariance needs at least 100 exact draws, got {len(exact_draws)}")
    if steps < 1 or not 0 < alpha < 1:
        raise DmmcError(f"steps must be positive and alpha between 0 and 1, got {steps}, {alpha}")
    start = kernel.start(exact_draws, generator)
    x, y, faults = start.phi, start.phi, list[str]()
    for state, _ in kernel.steps(start, steps, generator):
        y, faults = state.phi, faults or _faults(kernel, state)
    moved = float((y != x).flatten(1).any(1).double().mean())
    if moved == 0:
        raise DmmcError("the kernel moved none of the chains, so that there is nothing to test; take smaller steps")
    if not bool(torch.isfinite(y).all()):
        return Invariance({"finite fields": 0.0}, {}, {}, tuple(faults), moved, len(x), steps, alpha)

    def standard(phi: Tensor) -> dict[str, Tensor]:
        return standard_observables(phi, kernel.lattice) | {"S": evaluate(kernel.action, phi)}

    measure = observables or standard
    before, after = measure(x), measure(y)
    if not all(bool(torch.isfinite(values).all()) for values in before.values()):
        raise DmmcError("an observable of the exact draws is not finite; take others")
    if not all(bool(torch.isfinite(values).all()) for values in after.values()):
        return Invariance({"finite observables": 0.0}, {}, {}, tuple(faults), moved, len(x), steps, alpha)
    p_values = compare(before, after, reversible)
    z: dict[str, float] = {}
    resolution: dict[str, float] = {}
    quantile = float(scipy.stats.norm.isf(alpha / len(p_values) / 2))
    for name, values in before.items():
        difference = (after[name] - values).double()
        error, spread = float(difference.std()) / math.sqrt(len(difference)), float(values.double().std())
        z[name] = float(difference.mean()) / error if error else 0.0
        # A constant observable has no unit in which a shift of its mean could be given.
        resolution[name] = quantile * error / spread if spread else math.nan
    return Invariance(p_values, z, resolution, tuple(faults), moved, len(x), steps, alpha)


def standard_observables(phi: Tensor, lattice: Lattice) -> dict[str, Tensor]:
    """Named series ``(n,)`` of fields ``(n, *lattice)``.

    M, ``|M|``, M^4, the site average of phi^4, phi at one site, and the two-point function on up to eight momentum
    orbits (the means of M^2, phi^2 and S are linear combinations of these where all orbits are present).
    """
    flat = phi.flatten(1)
    M, G = flat.mean(1), lattice.two_point(phi)
    series = {"M": M, "abs_M": M.abs(), "M4": M**4, "phi4": flat.pow(4).mean(1), "phi(0)": flat[:, 0]}
    orbits = np.unique(np.linspace(0, G.shape[1] - 1, _MAX_ORBITS).round().astype(int))
    return series | {f"two_point[{k}]": G[:, k] for k in orbits.tolist()}


def compare(before: Mapping[str, Tensor], after: Mapping[str, Tensor], reversible: bool = False) -> dict[str, float]:
    """The p-values of all tests, from observables of exact draws and of the same chains some steps later.

    Args:
        before: named series ``(n,)``.
        after: the same, chain by chain.
        reversible: whether detailed balance is tested too, with the first six observables.
    """
    x = torch.stack([before[name].double() for name in before], 1).cpu()
    y = torch.stack([after[name].double() for name in before], 1).cpu()
    half = len(x) // 2
    p_values = {"mean shift": _p_value(*hotelling(y - x), len(x))}
    for k, name in enumerate(before):
        test = scipy.stats.ks_2samp(y[:half, k].numpy(), x[half:, k].numpy(), method="asymp")
        p_values[f"law of {name}"] = float(test.pvalue)
    if reversible:
        f, g = ((values[:, :_MAX_PAIRED] - x.mean(0)[:_MAX_PAIRED]) for values in (x, y))
        i, j = torch.triu_indices(f.shape[1], f.shape[1], 1)
        p_values["detailed balance"] = _p_value(*hotelling(f[:, i] * g[:, j] - f[:, j] * g[:, i]), len(x))
    return p_values


def hotelling(differences: Tensor) -> tuple[float, int]:
    """Hotelling's T^2 of the hypothesis that independent vectors have mean zero.

    Args:
        differences: ``(n, k)`` float64, n well above k; linearly dependent columns are allowed.

    Returns:
        T^2 and the number of independent columns: for large n, chi^2 with so many degrees of freedom.
    """
    n = len(differences)
    mean, std = differences.mean(0), differences.std(0)
    varies = std > 0
    # No chance explains a shift without any spread, or differences so large that their squares overflow.
    if bool((mean[~varies] != 0).any()) or not bool(torch.isfinite(std).all()):
        return math.inf, 1
    if not bool(varies.any()):
        return 0.0, 1
    scaled = differences[:, varies] / std[varies]
    # The eigenvalues of the correlation matrix do not depend on the units of the columns.
    eigenvalues, vectors = linalg.eigh(torch.corrcoef(scaled.T).view(scaled.shape[1], -1))
    independent = eigenvalues > 1e-10 * eigenvalues[-1]
    z2 = n * (scaled.mean(0) @ vectors[:, independent]).square() / eigenvalues[independent]
    return float(z2.sum()), int(independent.sum())


def _p_value(T2: float, rank: int, n: int) -> float:
    """The p-value of T^2 from ``n`` vectors, by its F distribution."""
    return float(scipy.stats.f.sf(T2 * (n - rank) / (rank * (n - 1)), rank, n - rank))


def _faults(kernel: Kernel[Any], state: State) -> list[str]:
    """The contradictions within a state, in words."""
    if not bool(torch.isfinite(state.phi).all()):
        return ["a state has fields that are not finite"]
    faults = []
    scale = 1 + state.S.abs()
    # Written so that a deviation which is NaN is a fault.
    if not bool(((state.S - evaluate(kernel.action, state.phi)).abs() <= STATE_TOLERANCE * scale).all()):
        faults.append("the S of a state is not that of its fields")
    carried = state.tensors()
    if "log_w" in carried and "log_q" in carried:
        log_w, log_q = carried["log_w"], carried["log_q"]
        scale = scale + log_q.abs()
        if not bool(((log_w + state.S + log_q).abs() <= STATE_TOLERANCE * scale).all()):
            faults.append("the log w of a state is not -S - log q of the same state")
    return faults
