"""What the diagnostics say in words: one finding each, with the number that triggered it and what to do.

Thresholds are constants of this module, with their reasons. ``bad`` means that results, or their errors, are wrong or
may well be; ``doubtful`` that they are probably right, but that something should be looked at first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import weights
from dmmc.diagnostics.acceptance import acceptance_rate, rejection_runs, tau_rejections
from dmmc.diagnostics.autocorrelation import ENOUGH, MANY_CHAINS, DiagnosticsWarning, Estimate, gamma_method
from dmmc.diagnostics.balance import mode_balance, z2_balance
from dmmc.diagnostics.convergence import rhat
from dmmc.diagnostics.observables import PRIMARY, z_score
from dmmc.diagnostics.series import as_series

Record = Mapping[str, NDArray[np.float64]]
Level = Literal["good", "doubtful", "bad"]

# Standard errors. With a dozen comparisons in a report, 4 comes up by chance in fewer than 1 of 1000; errors from short
# chains are themselves uncertain by up to a third, which turns an honest 4 into 6 at most.
Z_DOUBTFUL, Z_BAD = 4.0, 6.0
# exp(-sigma^2) of Gaussian log weights with sigma = 1.25 and 2: acceptance 0.38 and 0.16. Beyond 2 the largest weights
# are too rare for an ordinary run to have seen the ones that matter.
ESS_DOUBTFUL, ESS_BAD = 0.2, 0.02
# Vehtari et al., 1507.02646: no useful convergence above 0.7 (less for few weights), none at all above 1.
PARETO_DOUBTFUL, PARETO_BAD = 0.7, 1.0
# A missed mode of one per cent shifts results by as much as the statistical error of 10^4 independent draws.
UNREACHED_BAD = 0.01
# A run of rejections this improbable; the law is known exactly, but for the discreteness of the empirical weights.
RUN_P_VALUE = 1e-5
# Other kernels reject in clusters of unknown law, so only a gross excess over independent rejections counts.
RUN_EXCESS = 5.0
# Bias over statistical error: at 0.3 the total error is 5 % larger than the quoted one, at 1 the bias dominates.
BIAS_DOUBTFUL, BIAS_BAD = 0.3, 1.0
# Draws per tau_int: the relative uncertainty of an error is about sqrt(5 tau_int / draws), a third and a sixth.
DRAWS_BAD, DRAWS_DOUBTFUL = float(ENOUGH), 4.0 * ENOUGH
# R^2 = 1 + 2 tau_int / draws for stationary chains: 1.1 and 1.3 are chains of 10 and of 3 tau_int. The scatter of many
# chains is in the errors whatever their length; then only chains that hardly moved, 2 is 0.7 tau_int, are hopeless, or
# one that is elsewhere than all others: the farthest of 10^4 Gaussian means is 4 standard deviations out, and means of
# M^2 over a few tau_int, which are skewed, two times as far.
RHAT_DOUBTFUL, RHAT_BAD, RHAT_BAD_MANY, OUTLIER = 1.1, 1.3, 2.0, 10.0
# Independent draws of one sign by chance: below 1 in 10^5.
ONE_SIDED_DRAWS = 20
# Proposals of weight zero are rejected, which is exact, but they tell of an overflow.
ZERO_WEIGHTS = 0.01

NO_REFERENCE = (
    "Without reference configurations the chain cannot know of modes that the model never proposes: "
    "compare with configurations from HMC or another sampler (--reference)."
)


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        level: ``good``, ``doubtful`` or ``bad``.
        title: what it is, in a few words.
        text: the number in context, what it means and what to do; plain text.
        quantity: what the number is.
        number: the number that triggered it.
        threshold: what it was compared with.
    """

    level: Level
    title: str
    text: str
    quantity: str
    number: float
    threshold: float


def judge(
    accepted: ArrayLike,
    log_w: ArrayLike,
    log_w_proposed: ArrayLike,
    record: Record,
    *,
    log_w_reference: ArrayLike | None = None,
    reference: Record | None = None,
    std_delta: float | None = None,
    z2_symmetric: bool = True,
) -> tuple[Verdict, ...]:
    """Verdicts on an independence chain, the worst first; a single ``good`` one if nothing is wrong.

    Within a level causes stand before their consequences: a missed mode before the disagreement that it makes.

    Args:
        accepted: ``(chain, draw)``, bool, or the fraction accepted of the steps of each draw.
        log_w: log weights of the chain's states, likewise.
        log_w_proposed: log weights of the proposals, likewise; -inf for those that were not finite.
        record: observables of the chain as :func:`dmmc.theory.observables.measure` names them, ``(chain, draw)``; M is needed,
            what else of M2, M4, abs_M, phi2, S_per_site there is will be used.
        log_w_reference: log weights of another sampler's configurations, ``(n,)`` or ``(chain, draw)``.
        reference: observables of another sampler's chains, for comparison.
        std_delta: standard deviation of the integrator's error of log q, if the proposals come from a flow.
        z2_symmetric: whether ``S(-phi) = S(phi)``.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws a chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        # What the estimators warn of, the verdicts say.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        estimates = _estimates(record, np.shape(accepted))
        lengths = {**estimates, "rejections": tau_rejections(accepted)}
        found = [
            _missed(log_w_proposed, log_w_reference, record, reference),
            _stuck(accepted, log_w, log_w_proposed),
            _zero_weights(log_w_proposed),
            _spread(accepted, log_w_proposed, _draws_per_tau(lengths)[0]),
            _tail(log_w_proposed),
            _signs(record["M"]) if z2_symmetric else None,
            _integrator(estimates, record, std_delta),
            _length(lengths),
            _against(estimates, record, reference, z2_symmetric),
        ]
        ess = weights.ess_fraction(log_w_proposed)
        good = Verdict(
            "good",
            "Nothing wrong found",
            f"Acceptance {acceptance_rate(accepted)}, ESS/N {ess:.2f} of {np.size(log_w_proposed)} proposals"
            + _agreement(estimates, reference, log_w_reference),
            "ESS/N",
            ess,
            ESS_DOUBTFUL,
        )
    return _sorted(found, good, "" if log_w_reference is not None else NO_REFERENCE)


def judge_chain(
    accepted: ArrayLike,
    record: Record,
    *,
    energy_error: ArrayLike | None = None,
    reference: Record | None = None,
    z2_symmetric: bool = True,
) -> tuple[Verdict, ...]:
    """Verdicts on a chain of any other kernel (HMC, cluster, Langevin), the worst first.

    Args:
        accepted: ``(chain, draw)``, bool, or the fraction accepted of the steps of each draw.
        record: as in :func:`judge`.
        energy_error: dH of HMC trajectories, ``(chain, draw)``; inf for one that ran away.
        reference: observables of another sampler's chains, for comparison.
        z2_symmetric: whether ``S(-phi) = S(phi)``.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws a chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        estimates = _estimates(record, np.shape(accepted))
        found = [
            _stuck_chain(accepted),
            _creutz(energy_error),
            _signs(record["M"]) if z2_symmetric else None,
            _scatter(record),
            _length(estimates),
            _against(estimates, record, reference, z2_symmetric),
        ]
        draws, name = _draws_per_tau(estimates)
        good = Verdict(
            "good",
            "Nothing wrong found",
            f"{draws:.0f} draws per autocorrelation time (of {name}), acceptance {acceptance_rate(accepted).value:.3f}"
            + _agreement(estimates, reference, None),
            "draws per tau_int",
            draws,
            DRAWS_DOUBTFUL,
        )
    return _sorted(found, good, "")


def inexact(reason: str) -> Verdict:
    """The verdict on a chain that was allowed not to sample ``exp(-S)``."""
    return Verdict(
        "bad",
        "Inexact on purpose",
        f"This chain does not sample exp(-S): {reason}. Its errors do not contain the bias; use it to study that, not "
        "for results.",
        "exact",
        0.0,
        1.0,
    )


def _sorted(found: list[Verdict | None], good: Verdict, note: str) -> tuple[Verdict, ...]:
    verdicts = sorted((x for x in found if x is not None), key=lambda x: ("bad", "doubtful").index(x.level)) or [good]
    if note:
        verdicts[0] = replace(verdicts[0], text=f"{verdicts[0].text} {note}")
    return tuple(verdicts)


def _estimates(record: Record, shape: tuple[int, ...]) -> dict[str, Estimate]:
    if "M" not in record:
        raise DmmcError(f"the record has no M, the mean field; it has {', '.join(record) or 'nothing'}")
    columns = {name: record[name] for name in PRIMARY if name in record}
    for name, column in columns.items():
        if np.shape(column) != shape:
            raise DmmcError(f"accepted has shape {shape}, but {name} {np.shape(column)}; both must be (chain, draw)")
    return {name: gamma_method(column, name=name) for name, column in columns.items()}


def _percent(x: float) -> str:
    return f"{100 * x:.2g} %" if 0 < x < 0.1 else f"{100 * x:.1f} %"


def _missed(
    log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None, record: Record, reference: Record | None
) -> Verdict | None:
    if log_w_reference is None:
        return None
    found = weights.unreached(log_w_proposed, log_w_reference)
    threshold = weights.CLEARLY * found.expected
    # The error of a few configurations is no better than the root of their number.
    error = max(found.error, math.sqrt(max(found.fraction, 1 / found.n_reference) / found.n_reference))
    if not found.fraction > threshold + 3 * error:
        return None
    gap = weights.kl_gap(log_w_proposed, log_w_reference)
    text = (
        f"{_percent(found.fraction)} of the reference configurations have a weight above those of all proposals, where "
        f"{_percent(found.expected)} were to be expected: the chain cannot get there, and what they contribute is "
        f"missing from its results. log Z from the proposals is {gap.log_z_reference - gap.log_z:.2f} below that from "
        "the reference. "
    )
    if reference is not None:
        balance = mode_balance(record["M"], reference["M"])
        if (k := balance.worst) >= 0 and abs(balance.z[k]) > Z_DOUBTFUL:
            text += (
                f"The difference is largest at {balance.interval(k)}: {_percent(balance.fraction[k])} of the chain, "
                f"{_percent(balance.reference[k])} of the reference. "
            )
    text += (
        "Train on an ensemble that holds all modes (in the broken phase with two sectors), or mix in another kernel."
    )
    level: Level = "bad" if found.fraction > UNREACHED_BAD else "doubtful"
    title = "The model misses a mode" if found.fraction < 0.9 else "The model misses the target"
    return Verdict(level, title, text, "fraction of the reference out of reach", found.fraction, threshold)


def _stuck(accepted: ArrayLike, log_w: ArrayLike, log_w_proposed: ArrayLike) -> Verdict | None:
    states = as_series(log_w, "log_w")
    if states.shape != np.shape(accepted) or states.shape != np.shape(log_w_proposed):
        raise DmmcError("accepted, log_w and log_w_proposed must all have the shape (chain, draw) of the same draws")
    if not weights.relative_weights(log_w_proposed).any():
        return Verdict(
            "bad",
            "No proposal can be accepted",
            "All proposals have weight zero (log w is not finite): check the model, its dtype, and the action.",
            "proposals of weight zero",
            1.0,
            ZERO_WEIGHTS,
        )
    runs = rejection_runs(accepted, log_w_proposed)
    if not runs.p_value < RUN_P_VALUE:
        return None
    chain = int(runs.by_chain.argmax())
    above = float(states[chain].max() - weights.flat_log_w(log_w_proposed).max())
    text = (
        f"Chain {chain} rejected {runs.longest} proposals in a row; the weights of the proposals make "
        f"{runs.expected:.0f} likely for the longest run of all chains (probability {runs.p_value:.0e} for more). "
    )
    if above > 0:
        text += f"It sits at a configuration of log w {above:.1f} above all proposals: a field that the model misses. "
    text += "Do not cut the run out; train the model on more of the target, or mix in another kernel."
    return Verdict("bad", "A chain is stuck", text, "longest run of rejections", runs.longest, runs.expected)


def _zero_weights(log_w_proposed: ArrayLike) -> Verdict | None:
    fraction = weights.n_zero_weight(log_w_proposed) / np.size(log_w_proposed)
    if not ZERO_WEIGHTS < fraction < 1:
        return None
    return Verdict(
        "doubtful",
        "Proposals overflow",
        f"{_percent(fraction)} of the proposals are not finite. They are rejected, which is exact; look for an "
        "overflow in the model or the action, in float64 if need be.",
        "proposals of weight zero",
        fraction,
        ZERO_WEIGHTS,
    )


def _spread(accepted: ArrayLike, log_w_proposed: ArrayLike, draws: float) -> Verdict | None:
    ess = weights.ess_fraction(log_w_proposed)
    if not 0 < ess < ESS_DOUBTFUL:
        return None
    bad = ess < ESS_BAD or draws < DRAWS_BAD
    std = weights.std_log_w(log_w_proposed)
    text = (
        f"The weights are broad: ESS/N {ess:.2g}, std(log w) {std:.3g}, acceptance "
        f"{acceptance_rate(accepted).value:.2g}, and one proposal of {np.size(log_w_proposed)} carries "
        f"{_percent(weights.largest_weight_share(log_w_proposed))} of all weight. "
    )
    if ess < 0.2 * math.exp(-(std**2)):
        text += "Most weights are alike and a few are enormous: a part of the target is proposed much too rarely. "
    text += (
        "The chain has hardly seen the weights that matter, so its errors mean little. "
        if bad
        else "The chain is exact, but its draws are strongly correlated. "
    )
    text += "Train longer, with a larger network or on more configurations; more flow steps do not help."
    return Verdict(
        "bad" if bad else "doubtful",
        "The model is under-trained",
        text,
        "ESS/N",
        ess,
        ESS_BAD if ess < ESS_BAD else ESS_DOUBTFUL,
    )


def _tail(log_w_proposed: ArrayLike) -> Verdict | None:
    n = np.size(log_w_proposed)
    k = weights.pareto_k(log_w_proposed)
    threshold = min(PARETO_DOUBTFUL, 1 - 1 / math.log10(max(n, 25)))
    # Among weights that are equal to a per cent, a tail of whatever shape carries nothing.
    if not k > threshold or weights.ess_fraction(log_w_proposed) > 0.99:
        return None
    bad = k > PARETO_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "The weights have a heavy tail",
        f"Pareto k of the largest weights is {'beyond all bounds' if math.isinf(k) else f'{k:.2f}'}: "
        + ("their mean" if bad else "their variance")
        + " does not exist as far as one can tell, so rare proposals of enormous weight are still to come and will "
        "hold the chain. The model is too narrow somewhere; train longer, or with an ensemble that covers the tails.",
        "Pareto k",
        k,
        PARETO_BAD if bad else threshold,
    )


def _signs(M: ArrayLike) -> Verdict | None:
    balance = z2_balance(M)
    chains, draws = np.shape(M)
    fraction, z = balance.fraction.value, balance.z
    if balance.one_sided and chains * draws >= ONE_SIDED_DRAWS:
        sign = "positive" if fraction == 1 else "negative"
        return Verdict(
            "bad",
            "Only one sign of M",
            f"M is {sign} in all {chains * draws} draws, though the action does not prefer a sign: half of the target "
            "was never visited. Quantities even in the field may still be right, odd ones are not. Use a model that is "
            "odd or has two sectors, or a cluster update, or start chains on both sides.",
            "fraction of M > 0",
            fraction,
            0.5,
        )
    if balance.flips == 0 and chains * draws >= ONE_SIDED_DRAWS and not balance.one_sided:
        return Verdict(
            "doubtful",
            "The sign of M is frozen",
            f"No chain ever changed the sign of M in {draws} draws: the balance of signs, {_percent(fraction)} "
            "positive, is that of the starting fields. Quantities odd in the field say nothing; use a cluster update "
            "or an independence chain.",
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
        f"{balance.flips} changes of sign. The action does not prefer a sign: the chain is not in equilibrium, or too "
        "short.",
        "z of the fraction of M > 0",
        z,
        Z_BAD if bad else Z_DOUBTFUL,
    )


def _integrator(estimates: Mapping[str, Estimate], record: Record, std_delta: float | None) -> Verdict | None:
    if std_delta is None:
        return None
    ratios = {name: std_delta * float(np.std(record[name])) / x.error for name, x in estimates.items() if x.error > 0}
    if not ratios:
        return None
    name = max(ratios, key=lambda key: ratios[key])
    ratio = ratios[name]
    if ratio <= BIAS_DOUBTFUL:
        return None
    bad = ratio > BIAS_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "The integrator is too coarse",
        f"log q is off by std(delta) = {std_delta:.1e}, which may shift {name} by up to {ratio:.2g} of its statistical "
        "error. Double the flow steps: delta falls with their fourth power.",
        f"bias bound of {name} over its error",
        ratio,
        BIAS_BAD if bad else BIAS_DOUBTFUL,
    )


def _draws_per_tau(estimates: Mapping[str, Estimate]) -> tuple[float, str]:
    """The least over the estimates, and which; nan where no autocorrelation time is known."""
    ratios = {name: x.n / x.tau_int for name, x in estimates.items() if x.tau_int > 0}
    if not ratios:
        return math.nan, "nothing"
    name = min(ratios, key=lambda key: ratios[key])
    return ratios[name], name


def _length(estimates: Mapping[str, Estimate]) -> Verdict | None:
    draws, name = _draws_per_tau(estimates)
    if draws >= DRAWS_DOUBTFUL:
        return None
    bad = not draws >= DRAWS_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "Too few draws",
        (
            "Nothing ever changed, so no error can be given: look at the acceptance."
            if math.isnan(draws)
            else f"The chains hold {draws:.0f} autocorrelation times of {name} (tau_int {estimates[name].tau_int:.3g} "
            "draws, 1/2 for independent ones), all together. Errors are themselves uncertain by "
            f"{_percent(math.sqrt(5 / draws))}. Run {math.ceil(DRAWS_DOUBTFUL / draws)} times as long."
        ),
        "draws per tau_int",
        draws,
        DRAWS_BAD if bad else DRAWS_DOUBTFUL,
    )


def _deviations(estimates: Mapping[str, Estimate], reference: Record) -> dict[str, float]:
    return {
        name: z_score(x, gamma_method(reference[name], name=name)) for name, x in estimates.items() if name in reference
    }


def _against(
    estimates: Mapping[str, Estimate], record: Record, reference: Record | None, z2_symmetric: bool
) -> Verdict | None:
    if reference is None:
        return None
    # By symmetry <M> is zero; whether it is, the balance of signs says better than a reference that may be frozen.
    z = {f"<{name}>": z for name, z in _deviations(estimates, reference).items() if name != "M" or not z2_symmetric}
    if "M" in reference:
        balance = mode_balance(record["M"], reference["M"])
        if (k := balance.worst) >= 0:
            z[f"the fraction of draws with {balance.interval(k)}"] = float(balance.z[k])
    z = {name: value for name, value in z.items() if abs(value) > Z_DOUBTFUL}
    if not z:
        return None
    name = max(z, key=lambda key: abs(z[key]))
    bad = abs(z[name]) > Z_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "Disagrees with the reference",
        ", ".join(f"{key} by {value:+.1f}" for key, value in z.items())
        + " standard errors. One of the two is not in equilibrium, misses a part of the target, or samples another "
        "action; check the couplings, then the longer autocorrelation times.",
        f"z of {name}",
        z[name],
        Z_BAD if bad else Z_DOUBTFUL,
    )


def _agreement(estimates: Mapping[str, Estimate], reference: Record | None, log_w_reference: ArrayLike | None) -> str:
    """The rest of a sentence that says what was compared with success."""
    text = ""
    if reference is not None:
        z = [abs(value) for value in _deviations(estimates, reference).values() if not math.isnan(value)]
        text += f"; within {max(z):.1f} standard errors of the reference" if z else ""
    if log_w_reference is not None:
        text += f"; no part of {np.size(log_w_reference)} reference configurations is out of reach"
    return text + "."


def _stuck_chain(accepted: ArrayLike) -> Verdict | None:
    runs = rejection_runs(accepted)
    draws = np.shape(accepted)[1]
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
            else f"Chain {chain} rejected {runs.longest} steps in a row, {runs.expected:.0f} are likely. "
        )
        + "The step size is too large for where it sits; thermalise from narrow fields, or make smaller steps.",
        "longest run of rejections",
        runs.longest,
        min(RUN_EXCESS * runs.expected, draws),
    )


def _creutz(energy_error: ArrayLike | None) -> Verdict | None:
    if energy_error is None:
        return None
    # A trajectory that ran away has dH = inf and contributes exp(-inf) = 0.
    mean = gamma_method(np.exp(-np.asarray(energy_error, dtype=np.float64)), name="exp(-dH)")
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


def _scatter(record: Record) -> Verdict | None:
    found = {name: rhat(record[name], "split", name) for name in ("abs_M", "M2", "S_per_site") if name in record}
    found = {name: value for name, value in found.items() if value > RHAT_DOUBTFUL}
    if not found:
        return None
    name = max(found, key=lambda key: found[key])
    means = np.asarray(record[name]).mean(axis=1)
    apart = np.abs(means - np.median(means))
    many, elsewhere = len(means) >= MANY_CHAINS, int(apart.argmax())
    # 1.48 times the median deviation is the standard deviation of Gaussian means, whatever a few outliers do.
    outlier = many and apart[elsewhere] > OUTLIER * 1.4826 * np.median(apart)
    limit = RHAT_BAD_MANY if many and not outlier else RHAT_BAD
    bad = outlier or found[name] > limit
    text = f"Split R-hat of {name} is {found[name]:.2f}: "
    if outlier:
        text += f"chain {elsewhere} is far from all others, in a mode of its own. "
    else:
        text += f"chains are no longer than {2 / (found[name] ** 2 - 1):.1f} autocorrelation times, or sit in "
        text += "different modes. "
    if many and not bad:
        text += "The errors know of it, but not of a start that was not discarded. "
    text += "Run longer chains, and discard more at their start."
    return Verdict(
        "bad" if bad else "doubtful",
        "The chains differ from each other",
        text,
        f"split R-hat of {name}",
        found[name],
        limit if bad else RHAT_DOUBTFUL,
    )
