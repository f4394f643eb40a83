"""Verdicts: what the diagnostics say in words, each with the number that triggered it and what to do about it.

Thresholds are constants of this module, with their reasons. ``bad`` means that results, or their errors, are wrong or
may well be wrong; ``doubtful`` means that they are probably right, but that something deserves a look first.
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
from dmmc.diagnostics.free_energy import log_z_estimates
from dmmc.diagnostics.observables import PRIMARY, z_score
from dmmc.diagnostics.series import as_array, as_series

Record = Mapping[str, NDArray[np.float64]]
Level = Literal["good", "doubtful", "bad"]

# Standard errors. With a dozen comparisons in a report, 4 comes up by chance in fewer than 1 of 1000; errors from short
# chains are themselves uncertain by up to a third, which turns an honest 4 into 6 at most.
Z_DOUBTFUL, Z_BAD = 4.0, 6.0
# exp(-sigma^2) of Gaussian log weights with sigma = 1.25 and 2: acceptance 0.38 and 0.16. Beyond 2 the weights that
# matter are too rare for an ordinary run to have seen them.
ESS_DOUBTFUL, ESS_BAD = 0.2, 0.02
# Vehtari et al., 1507.02646: no useful convergence above 0.7 (less for few weights), none at all above 1.
PARETO_DOUBTFUL, PARETO_BAD = 0.7, 1.0
# A missed mode of one per cent shifts results by as much as the statistical error of 10^4 independent draws.
UNREACHED_BAD = 0.01
# exp(-sigma^2) = 1e-11: where log w scatters by 5 over the target, no run has enough proposals.
STD_REFERENCE_BAD = 5.0
# Kullback-Leibler divergences are not negative. What is smaller than this may be rounding, and does not matter.
NEGLIGIBLE_KL = 1e-3
# Probability of a run of rejections. Its law is known exactly but for the discreteness of the empirical weights.
RUN_P_VALUE = 1e-5
# Other kernels reject in clusters whose law is unknown, so only a gross excess over independent rejections counts.
RUN_EXCESS = 5.0
# Bias over statistical error: at 0.3 the total error is 5 % larger than the quoted one, at 1 the bias dominates.
BIAS_DOUBTFUL, BIAS_BAD = 0.3, 1.0
# Draws per tau_int: the relative uncertainty of an error is about sqrt(5 tau_int / draws), a third and a sixth.
DRAWS_BAD, DRAWS_DOUBTFUL = float(ENOUGH), 4.0 * ENOUGH
# R^2 = 1 + 2 tau_int / draws for stationary chains: 1.1 and 1.3 are chains of 10 and of 3 tau_int. The scatter of many
# chains is in the errors, however short they are. Then only chains that hardly moved are hopeless (2 means 0.7
# tau_int), or one that is far from all others: the farthest of 10^4 Gaussian means is 4 standard deviations out, and
# means of M^2 over a few tau_int, which are skewed, are twice as far.
RHAT_DOUBTFUL, RHAT_BAD, RHAT_BAD_MANY, OUTLIER = 1.1, 1.3, 2.0, 10.0
# So many independent draws have one sign by chance in fewer than 1 of 10^5 cases.
ONE_SIDED_DRAWS = 20
# Proposals of weight zero are rejected, which is exact, but they are a sign of overflow.
ZERO_WEIGHTS = 0.01

NO_REFERENCE = (
    "Without reference configurations the chain cannot know of modes that the model never proposes; "
    "compare with configurations from HMC or another sampler (--reference)."
)


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        level: ``good``, ``doubtful`` or ``bad``.
        title: the finding in a few words.
        text: the number in context, what it means, and what to do; plain text.
        quantity: what the number is.
        number: the number that triggered the verdict.
        threshold: the value that it was compared with.
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

    Within a level, causes come before their consequences: a missed mode before the disagreement that it causes.

    Args:
        accepted: ``(chain, draw)``, bool, or the fraction accepted of the steps of each draw.
        log_w: log weights of the chain's states, likewise.
        log_w_proposed: log weights of the proposals, likewise; -inf for those that were not finite.
        record: observables of the chain ``(chain, draw)``, with the names of
            :func:`dmmc.theory.observables.measure`. M is needed; M2, M4, abs_M, phi2 and S_per_site are used if
            present.
        log_w_reference: log weights of another sampler's configurations, ``(n,)`` or ``(chain, draw)``.
        reference: observables of another sampler's chains, for comparison.
        std_delta: standard deviation of the integrator's error of log q, if the proposals come from a flow.
        z2_symmetric: whether ``S(-phi) = S(phi)``.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws per chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        # What the estimators warn of, the verdicts say.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        accepted, log_w = as_series(accepted, "accepted"), as_series(log_w, "log_w")
        log_w_proposed = as_array(log_w_proposed, "log_w_proposed")
        estimates = _estimates(record, accepted.shape)
        lengths = {**estimates, "rejections": tau_rejections(accepted)}
        verdicts = [
            _contradicted(log_w_proposed, log_w_reference),
            _missed(log_w_proposed, log_w_reference, record, reference),
            _undescribed(log_w_proposed, log_w_reference),
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
    return _sorted(verdicts, good, "" if log_w_reference is not None else NO_REFERENCE)


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
        energy_error: dH of HMC trajectories, ``(chain, draw)``; inf for a trajectory that ran away.
        reference: observables of another sampler's chains, for comparison.
        z2_symmetric: whether ``S(-phi) = S(phi)``.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws per chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        accepted = as_series(accepted, "accepted")
        estimates = _estimates(record, accepted.shape)
        verdicts = [
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
    return _sorted(verdicts, good, "")


def inexact(reason: str) -> Verdict:
    """The verdict on a chain that was allowed not to sample ``exp(-S)``."""
    return Verdict(
        "bad",
        "Inexact on purpose",
        f"This chain does not sample exp(-S): {reason}. Its errors do not contain the bias. Use it to study the bias, "
        "not for results.",
        "exact",
        0.0,
        1.0,
    )


def _sorted(candidates: list[Verdict | None], good: Verdict, note: str) -> tuple[Verdict, ...]:
    verdicts = sorted((x for x in candidates if x is not None), key=lambda x: ("bad", "doubtful").index(x.level)) or [
        good
    ]
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


def _contradicted(log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None) -> Verdict | None:
    if log_w_reference is None:
        return None
    z = log_z_estimates(log_w_proposed, log_w_reference)
    assert z.upper is not None and z.reference is not None
    # log Z of the proposals in the first, of the reference in the second: each compares one side with the other.
    for name, divergence in (("KL(p||q)", z.upper - z.proposals), ("KL(q||p)", z.reference - z.lower)):
        # The error is unknown where all weights are equal; then nothing fluctuates.
        error = divergence.error if divergence.error > 0 else 0.0
        if not divergence.value < -max(Z_DOUBTFUL * error, NEGLIGIBLE_KL):
            continue
        bad = divergence.value < -Z_BAD * error
        return Verdict(
            "bad" if bad else "doubtful",
            "The reference contradicts the proposals",
            f"{name} between target and proposals comes out as {divergence}, and it cannot be negative: the log "
            "weights of the reference do not belong to the same target as those of the proposals. Check that the "
            "reference was made with the same couplings and the same normalisation of the field, and that its chains "
            "have thermalised.",
            name,
            divergence.value,
            -(Z_BAD if bad else Z_DOUBTFUL) * error,
        )
    return None


def _missed(
    log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None, record: Record, reference: Record | None
) -> Verdict | None:
    if log_w_reference is None:
        return None
    beyond = weights.unreached(log_w_proposed, log_w_reference)
    threshold = weights.CLEARLY * beyond.expected
    # The error of a few configurations is no better than the root of their number.
    error = max(beyond.error, math.sqrt(max(beyond.fraction, 1 / beyond.n_reference) / beyond.n_reference))
    if not beyond.fraction > threshold + 3 * error:
        return None
    gap = weights.kl_gap(log_w_proposed, log_w_reference)
    text = (
        f"{_percent(beyond.fraction)} of the reference configurations have a weight above those of all proposals; "
        f"{_percent(beyond.expected)} would be normal. The chain cannot get there, and what these configurations "
        f"contribute is missing from its results. log Z from the proposals is {gap.log_z_reference - gap.log_z:.2f} "
        "below that from the reference. "
    )
    if reference is not None:
        balance = mode_balance(record["M"], reference["M"])
        if (k := balance.worst) >= 0 and abs(balance.z[k]) > Z_DOUBTFUL:
            text += (
                f"The difference is largest at {balance.interval(k)}: {_percent(balance.fraction[k])} of the chain, "
                f"{_percent(balance.reference[k])} of the reference. "
            )
    everywhere = beyond.fraction >= 0.9
    if everywhere:
        text += (
            "If the model is good, the reference may belong to other couplings or another normalisation of the field. "
        )
    text += "Train on an ensemble that holds all modes, or let HMC steps take turns with the proposals."
    level: Level = "bad" if beyond.fraction > UNREACHED_BAD else "doubtful"
    title = "The model misses the target" if everywhere else "The model misses a mode"
    return Verdict(level, title, text, "fraction of the reference out of reach", beyond.fraction, threshold)


def _undescribed(log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None) -> Verdict | None:
    if log_w_reference is None:
        return None
    gap = weights.kl_gap(log_w_proposed, log_w_reference)
    if not gap.std_p > STD_REFERENCE_BAD:
        return None
    return Verdict(
        "bad",
        "The model does not describe the reference",
        f"On the reference configurations log w scatters by {gap.std_p:.3g} (on the proposals by {gap.std_q:.3g}): the "
        "model gives many of them a density that is wrong by orders of magnitude, so that a chain hardly ever proposes "
        "them. Train longer, and on an ensemble like the reference.",
        "std(log w) on the reference",
        gap.std_p,
        STD_REFERENCE_BAD,
    )


def _stuck(accepted: ArrayLike, log_w: ArrayLike, log_w_proposed: ArrayLike) -> Verdict | None:
    states = as_series(log_w, "log_w")
    if states.shape != np.shape(accepted) or states.shape != np.shape(log_w_proposed):
        raise DmmcError("accepted, log_w and log_w_proposed must all have the shape (chain, draw) of the same draws")
    if not weights.relative_weights(log_w_proposed).any():
        return Verdict(
            "bad",
            "No proposal can be accepted",
            "All proposals have weight zero (log w is not finite). Check the model and the action.",
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
        f"Chain {chain} rejected {runs.longest} proposals in a row; from the weights of the proposals, the longest "
        f"run of all chains should be about {runs.expected:.0f} (the probability of this one is {runs.p_value:.0e}). "
    )
    if above > 0:
        text += (
            f"Its configuration has a log w that is {above:.1f} above all proposals: a field that the model misses. "
        )
    text += (
        "Do not cut the run out, which would bias the results. Train the model on more of the target, or let HMC steps "
        "take turns with the proposals."
    )
    return Verdict("bad", "A chain is stuck", text, "longest run of rejections", runs.longest, runs.expected)


def _zero_weights(log_w_proposed: ArrayLike) -> Verdict | None:
    fraction = weights.n_zero_weight(log_w_proposed) / np.size(log_w_proposed)
    if not ZERO_WEIGHTS < fraction < 1:
        return None
    return Verdict(
        "doubtful",
        "Proposals overflow",
        f"{_percent(fraction)} of the proposals are not finite. They are rejected, which is exact, but look for an "
        "overflow in the action, or train longer.",
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
        text += "Most weights are alike and a few are enormous: a part of the target is proposed far too rarely. "
    text += (
        "The chain has hardly seen the weights that matter, so its errors mean little. "
        if bad
        else "The chain is exact, but its draws are strongly correlated. "
    )
    text += "Train longer, with a larger network, or on more configurations; more flow steps do not help."
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
    # If weights agree to a per cent, their tail carries nothing, whatever its shape.
    if not k > threshold or weights.ess_fraction(log_w_proposed) > 0.99:
        return None
    bad = k > PARETO_BAD
    return Verdict(
        "bad" if bad else "doubtful",
        "The weights have a heavy tail",
        f"Pareto k of the largest weights is {'beyond all bounds' if math.isinf(k) else f'{k:.2f}'}: "
        + ("their mean" if bad else "their variance")
        + " does not exist as far as one can tell, so that rare proposals of enormous weight are still to come and "
        "will hold the chain. The model is too narrow somewhere; train longer, or on an ensemble that covers the "
        "tails.",
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
            f"M is {sign} in all {chains * draws} draws, although the action does not prefer a sign: half of the "
            "target was never visited. Quantities that are even in the field may still be right, odd ones are not. "
            "Use a model with the symmetry of the action, or cluster updates.",
            "fraction of M > 0",
            fraction,
            0.5,
        )
    if balance.flips == 0 and chains * draws >= ONE_SIDED_DRAWS and not balance.one_sided:
        return Verdict(
            "doubtful",
            "The sign of M is frozen",
            f"No chain ever changed the sign of M in {draws} draws: the balance of signs, {_percent(fraction)} "
            "positive, is that of the initial fields. Quantities that are odd in the field mean nothing; use cluster "
            "updates, or a diffusion chain.",
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
        f"log q is off by std(delta) = {std_delta:.1e}, which may shift {name} by up to {ratio:.2g} times its "
        "statistical error. Take more flow steps; --flow-steps auto takes as many as are needed.",
        f"bias bound of {name} over its error",
        ratio,
        BIAS_BAD if bad else BIAS_DOUBTFUL,
    )


def _draws_per_tau(estimates: Mapping[str, Estimate]) -> tuple[float, str]:
    """The smallest number of draws per tau_int, and of which estimate; nan if no autocorrelation time is known."""
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
            "Nothing ever changed, so that no error can be given; look at the acceptance."
            if math.isnan(draws)
            else f"All chains together are {draws:.0f} autocorrelation times of {name} long (tau_int is "
            f"{estimates[name].tau_int:.3g} draws; it is 1/2 for independent draws). The errors themselves are "
            f"uncertain by {_percent(math.sqrt(5 / draws))}. Run {math.ceil(DRAWS_DOUBTFUL / draws)} times as long."
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
    # By symmetry <M> is zero; the balance of signs tests this better than a reference that may be frozen.
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
        "action. Check the couplings, then run the chain with the longer autocorrelation times for longer.",
        f"z of {name}",
        z[name],
        Z_BAD if bad else Z_DOUBTFUL,
    )


def _agreement(estimates: Mapping[str, Estimate], reference: Record | None, log_w_reference: ArrayLike | None) -> str:
    """The end of a sentence, which says what was compared successfully."""
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
            else f"Chain {chain} rejected {runs.longest} steps in a row, where about {runs.expected:.0f} would be "
            "normal. "
        )
        + "The step size is too large for its configuration; thermalise longer, or take shorter trajectories.",
        "longest run of rejections",
        runs.longest,
        min(RUN_EXCESS * runs.expected, draws),
    )


def _creutz(energy_error: ArrayLike | None) -> Verdict | None:
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


def _scatter(record: Record) -> Verdict | None:
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
    text = f"Split R-hat of {name} is {rhats[name]:.2f}: "
    if outlier:
        text += f"chain {elsewhere} is far from all others, in a mode of its own. "
    else:
        text += f"the chains are no longer than {2 / (rhats[name] ** 2 - 1):.1f} autocorrelation times, or they sit in "
        text += "different modes. "
    if many and not bad:
        text += "The errors include this scatter, but not the bias of a start that was not discarded. "
    text += "Run longer chains, and discard more at their start."
    return Verdict(
        "bad" if bad else "doubtful",
        "The chains differ from each other",
        text,
        f"split R-hat of {name}",
        rhats[name],
        limit if bad else RHAT_DOUBTFUL,
    )
