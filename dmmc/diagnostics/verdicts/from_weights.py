"""What the weights of the proposals say: whether the model covers the target."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import weights
from dmmc.diagnostics.acceptance import acceptance_rate, rejection_runs
from dmmc.diagnostics.balance import mode_balance
from dmmc.diagnostics.free_energy import log_z_estimates
from dmmc.diagnostics.series import as_series
from dmmc.diagnostics.verdicts.thresholds import (
    DRAWS_BAD,
    ESS_BAD,
    ESS_DOUBTFUL,
    NEGLIGIBLE_KL,
    PARETO_BAD,
    PARETO_DOUBTFUL,
    PARETO_VARIANCE,
    RUN_P_VALUE,
    STD_REFERENCE_BAD,
    UNREACHED_BAD,
    Z_BAD,
    Z_DOUBTFUL,
    ZERO_WEIGHTS,
)
from dmmc.diagnostics.verdicts.verdict import Level, Record, Verdict, percent


def contradicted(log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None) -> Verdict | None:
    """Whether the weights of the reference can belong to the same target: a divergence is not negative."""
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


def missed(
    log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None, record: Record, reference: Record | None
) -> Verdict | None:
    """Whether a part of the reference has weights that no proposal reaches: a mode that the model misses."""
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
        f"{percent(beyond.fraction)} of the reference configurations have a weight above those of all proposals; "
        f"{percent(beyond.expected)} would be normal. The chain cannot get there, and what these configurations "
        f"contribute is missing from its results. log Z from the proposals is {gap.log_z_reference - gap.log_z:.2f} "
        "below that from the reference. "
    )
    if reference is not None and "M" in record:
        balance = mode_balance(record["M"], reference["M"])
        if (k := balance.worst) >= 0 and abs(balance.z[k]) > Z_DOUBTFUL:
            text += (
                f"The difference is largest at {balance.interval(k)}: {percent(balance.fraction[k])} of the chain, "
                f"{percent(balance.reference[k])} of the reference. "
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


def undescribed(log_w_proposed: ArrayLike, log_w_reference: ArrayLike | None) -> Verdict | None:
    """Whether log w scatters so much over the reference that the model does not describe it."""
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


def stuck(accepted: ArrayLike, log_w: ArrayLike, log_w_proposed: ArrayLike) -> Verdict | None:
    """Whether a chain rejected more proposals in a row than the weights explain."""
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


def zero_weights(log_w_proposed: ArrayLike) -> Verdict | None:
    """Whether many proposals are not finite."""
    fraction = weights.n_zero_weight(log_w_proposed) / np.size(log_w_proposed)
    if not ZERO_WEIGHTS < fraction < 1:
        return None
    return Verdict(
        "doubtful",
        "Proposals overflow",
        f"{percent(fraction)} of the proposals are not finite. They are rejected, which is exact, but look for an "
        "overflow in the action, or train longer.",
        "proposals of weight zero",
        fraction,
        ZERO_WEIGHTS,
    )


def spread(accepted: ArrayLike, log_w_proposed: ArrayLike, draws: float, has_integrator: bool) -> Verdict | None:
    """Whether the weights are so broad that few draws are worth something."""
    ess = weights.ess_fraction(log_w_proposed)
    if not 0 < ess < ESS_DOUBTFUL:
        return None
    bad = ess < ESS_BAD or draws < DRAWS_BAD
    std = weights.std_log_w(log_w_proposed)
    text = (
        f"The weights are broad: ESS/N {ess:.2g}, std(log w) {std:.3g}, acceptance "
        f"{acceptance_rate(accepted).value:.2g}, and one proposal of {np.size(log_w_proposed)} carries "
        f"{percent(weights.largest_weight_share(log_w_proposed))} of all weight. "
    )
    if ess < 0.2 * math.exp(-(std**2)):
        text += "Most weights are alike and a few are enormous: a part of the target is proposed far too rarely. "
    text += (
        "The chain has hardly seen the weights that matter, so its errors mean little. "
        if bad
        else "The chain is exact, but its draws are strongly correlated. "
    )
    text += "Train longer, with a larger network, or on more configurations"
    text += "; more steps of the integrator do not help." if has_integrator else "."
    return Verdict(
        "bad" if bad else "doubtful",
        "The model is under-trained",
        text,
        "ESS/N",
        ess,
        ESS_BAD if ess < ESS_BAD else ESS_DOUBTFUL,
    )


def tail(log_w_proposed: ArrayLike) -> Verdict | None:
    """Whether the largest weights have a variance."""
    n = np.size(log_w_proposed)
    k = weights.pareto_k(log_w_proposed)
    threshold = min(PARETO_DOUBTFUL, 1 - 1 / math.log10(max(n, 25)))
    # If weights agree to a per cent, their tail carries nothing, whatever its shape.
    if not k > threshold or weights.ess_fraction(log_w_proposed) > 0.99:
        return None
    bad = k > PARETO_BAD
    if k <= PARETO_VARIANCE:
        return Verdict(
            "doubtful",
            "Too few proposals",
            f"Pareto k of the largest weights is {k:.2f}. Their variance exists, but {n} proposals are too few to "
            "average over weights with such a tail, so that ESS/N and log Z may be off by more than their errors. Run "
            "longer.",
            "Pareto k",
            k,
            threshold,
        )
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
