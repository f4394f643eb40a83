"""What the chains say by themselves: whether they moved, forgot their start, and ran for long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from dmmc.diagnostics.acceptance import rejection_runs
from dmmc.diagnostics.autocorrelation import MANY_CHAINS, Estimate, gamma_method
from dmmc.diagnostics.balance import z2_balance
from dmmc.diagnostics.bias import bias_over_error
from dmmc.diagnostics.convergence import rhat
from dmmc.diagnostics.series import as_array, as_series
from dmmc.diagnostics.symbols import symbol
from dmmc.diagnostics.verdicts.thresholds import (
    BIAS_BAD,
    BIAS_DOUBTFUL,
    DRAWS_BAD,
    DRAWS_DOUBTFUL,
    ONE_SIDED_DRAWS,
    OUTLIER,
    RHAT_BAD,
    RHAT_BAD_MANY,
    RHAT_DOUBTFUL,
    RUN_EXCESS,
    RUN_P_VALUE,
    Z_BAD,
    Z_DOUBTFUL,
)
from dmmc.diagnostics.verdicts.verdict import Record, Verdict, percent


def draws_per_tau(estimates: Mapping[str, Estimate]) -> tuple[float, str]:
    """The smallest number of draws per tau_int, and of which estimate; nan if no autocorrelation time is known."""
    ratios = {name: x.n / x.tau_int for name, x in estimates.items() if x.tau_int > 0}
    if not ratios:
        return math.nan, "nothing"
    name = min(ratios, key=lambda key: ratios[key])
    return ratios[name], name


def length(estimates: Mapping[str, Estimate]) -> Verdict | None:
    """Whether the chains are long compared with their autocorrelation times."""
    draws, name = draws_per_tau(estimates)
    if draws >= DRAWS_DOUBTFUL:
        return None
    bad = not draws >= DRAWS_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "Too few draws",
        (
            "Nothing ever changed, so that no error can be given; look at the acceptance."
            if math.isnan(draws)
            else f"All chains together are {draws:.0f} autocorrelation times of {symbol(name).value.text} long "
            f"(tau_int is {estimates[name].tau_int:.3g} draws; it is 1/2 for independent draws). The errors themselves "
            f"are uncertain by {percent(math.sqrt(5 / draws))}. Run {math.ceil(DRAWS_DOUBTFUL / draws)} times as long."
        ),
        "draws per tau_int",
        draws,
        DRAWS_BAD if bad else DRAWS_DOUBTFUL,
    )


def signs(M: ArrayLike, remedy: str) -> Verdict | None:
    """Whether the chains visited both signs of M equally, as a Z2-symmetric action asks.

    Args:
        M: mean field, ``(chain, draw)``.
        remedy: what to do with this kind of chain if a sign is missing or frozen, a sentence.
    """
    balance = z2_balance(M)
    chains, draws = as_array(M, "M").shape
    fraction, z = balance.fraction.value, balance.z
    if balance.one_sided and chains * draws >= ONE_SIDED_DRAWS:
        sign = "positive" if fraction == 1 else "negative"
        return Verdict(
            "bad",
            "Only one sign of M",
            f"M is {sign} in all {chains * draws} draws, although the action does not prefer a sign: half of the "
            "target was never visited. Quantities that are even in the field may still be right, odd ones are not. "
            + remedy,
            "fraction of M > 0",
            fraction,
            0.5,
        )
    if balance.flips == 0 and chains * draws >= ONE_SIDED_DRAWS and not balance.one_sided:
        return Verdict(
            "doubtful",
            "The sign of M is frozen",
            f"No chain ever changed the sign of M in {draws} draws: the balance of signs, {percent(fraction)} "
            "positive, is that of the initial fields, and quantities that are odd in the field mean nothing. " + remedy,
            "sign changes of M",
            0.0,
            1.0,
        )
    if not abs(z) > Z_DOUBTFUL:
        return None
    bad = abs(z) > Z_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "The signs of M are out of balance",
        f"M is positive in {balance.fraction} of the draws, {abs(z):.1f} standard errors from 1/2, after "
        f"{balance.flips} changes of sign. The action does not prefer a sign, so the chain is not in equilibrium, or "
        "it is too short: run longer, and discard more at the start.",
        "z of the fraction of M > 0",
        z,
        Z_BAD if bad else Z_DOUBTFUL,
    )


def scatter(record: Record) -> Verdict | None:
    """Whether the chains agree with each other."""
    rhats = {name: rhat(record[name], "split", name) for name in ("abs_M", "M2", "S_per_site") if name in record}
    rhats = {name: value for name, value in rhats.items() if value > RHAT_DOUBTFUL}
    if not rhats:
        return None
    name = max(rhats, key=lambda key: rhats[key])
    means = as_series(record[name], name).mean(axis=1)
    apart = np.abs(means - np.median(means))
    many, elsewhere = len(means) >= MANY_CHAINS, int(apart.argmax())
    # For Gaussian means, 1.48 times the median deviation is the standard deviation, whatever a few outliers do.
    outlier = many and apart[elsewhere] > OUTLIER * 1.4826 * np.median(apart)
    limit = RHAT_BAD_MANY if many and not outlier else RHAT_BAD
    bad = outlier or rhats[name] > limit
    shown = symbol(name).value.text
    text = f"Split R-hat of {shown} is {rhats[name]:.2f}: "
    if outlier:
        text += f"chain {elsewhere} is far from all others, in a mode of its own. "
    else:
        # R^2 = 1 + 2 tau_int / n for the n draws of half a chain.
        text += f"the chains are only about {4 / (rhats[name] ** 2 - 1):.1f} autocorrelation times long, or they sit "
        text += "in different modes. "
    if many and not bad:
        text += "The errors include this scatter, but not the bias of a start that was not discarded. "
    text += "Run longer chains, and discard more at their start."
    return Verdict(
        "bad" if bad else "doubtful",
        "The chains differ from each other",
        text,
        f"split R-hat of {shown}",
        rhats[name],
        limit if bad else RHAT_DOUBTFUL,
    )


def stuck(accepted: ArrayLike, has_trajectories: bool) -> Verdict | None:
    """Whether a chain never moved, or stood still far longer than independent rejections would explain.

    Args:
        accepted: ``(chain, draw)``.
        has_trajectories: whether the steps are trajectories of a step size, as in HMC.
    """
    runs = rejection_runs(accepted)
    draws = as_array(accepted, "accepted").shape[1]
    chain = int(runs.by_chain.argmax())
    frozen = int((runs.by_chain == draws).sum())
    if not frozen and not (runs.longest > RUN_EXCESS * runs.expected and runs.p_value < RUN_P_VALUE):
        return None
    return Verdict(
        "bad",
        "A chain is stuck",
        (
            f"{frozen} of {len(runs.by_chain)} chains never accepted anything. "
            if frozen
            else f"Chain {chain} rejected {runs.longest} steps in a row, where about {runs.expected:.0f} would be "
            "normal. "
        )
        + (
            "The step size is too large for its configuration; thermalise longer, or take shorter trajectories."
            if has_trajectories
            else "The kernel hardly ever leaves its configuration. Do not cut the run out, which would bias the "
            "results; thermalise longer, or let another kernel take turns with this one."
        ),
        "longest run of rejections",
        runs.longest,
        min(RUN_EXCESS * runs.expected, draws),
    )


def creutz(energy_error: ArrayLike | None) -> Verdict | None:
    """Whether ``<exp(-dH)>`` is 1, as it is in equilibrium."""
    if energy_error is None:
        return None
    dH = as_array(energy_error, "energy_error").astype(np.float64)
    # A trajectory that ran away has dH = inf, or NaN, and contributes exp(-inf) = 0. The other end must not overflow.
    mean = gamma_method(np.exp(np.minimum(np.nan_to_num(-dH, nan=-np.inf, neginf=-np.inf), 700.0)), name="exp(-dH)")
    z = (mean.value - 1) / mean.error if mean.error > 0 else math.nan
    if not abs(z) > Z_DOUBTFUL:
        return None
    bad = abs(z) > Z_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "HMC violates <exp(-dH)> = 1",
        f"<exp(-dH)> = {mean}, {abs(z):.1f} standard errors from 1 (Creutz, Phys. Rev. D 38 (1988) 1228). The chain "
        "has not thermalised, the step size is far too large, or grad() is not the gradient of the action.",
        "z of <exp(-dH)>",
        z,
        Z_BAD if bad else Z_DOUBTFUL,
    )


def integrator(estimates: Mapping[str, Estimate], record: Record, bias_bound: float | None) -> Verdict | None:
    """Whether the error of log q may shift a mean by as much as its statistical error."""
    if bias_bound is None or not (ratios := bias_over_error(estimates, record, bias_bound)):
        return None
    name = max(ratios, key=lambda key: ratios[key])
    ratio, shown = ratios[name], symbol(name).value.text
    if ratio <= BIAS_DOUBTFUL:
        return None
    bad = ratio > BIAS_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "The integrator is too coarse",
        f"The error of log q may shift a mean by up to {bias_bound:.1e} of the standard deviation of its observable, "
        f"which for {shown} is {ratio:.2g} times the statistical error. Take more flow steps; --flow-steps auto takes "
        "as many as are needed.",
        f"bias bound of {shown} over its error",
        ratio,
        BIAS_BAD if bad else BIAS_DOUBTFUL,
    )
