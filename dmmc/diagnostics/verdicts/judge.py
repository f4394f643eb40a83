"""All verdicts on a chain, the worst first."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from dmmc.core.errors import DmmcError
from dmmc.diagnostics import weights
from dmmc.diagnostics.acceptance import acceptance_rate, tau_rejections
from dmmc.diagnostics.autocorrelation import DiagnosticsWarning, gamma_method
from dmmc.diagnostics.observables import PRIMARY
from dmmc.diagnostics.series import Array, as_array, as_series
from dmmc.diagnostics.symbols import symbol
from dmmc.diagnostics.verdicts import from_chains, from_reference, from_weights
from dmmc.diagnostics.verdicts.thresholds import DRAWS_DOUBTFUL, ESS_DOUBTFUL
from dmmc.diagnostics.verdicts.verdict import Record, Verdict

BOTH_SIGNS = "Use a model that proposes both signs (dmmc train --sectors two)."
CHANGES_SIGN = "Use a sampler that changes the sign: cluster updates, or a model that proposes both signs."

NO_REFERENCE = (
    "Without reference configurations the chain cannot know of modes that the model never proposes; "
    "compare with configurations from HMC or another sampler (dmmc sample --reference)."
)


def judge(
    accepted: ArrayLike,
    log_w: ArrayLike,
    log_w_proposed: ArrayLike,
    record: Record,
    *,
    log_w_reference: ArrayLike | None = None,
    reference: Record | None = None,
    bias_bound: float | None = None,
    z2_symmetric: bool = False,
) -> tuple[Verdict, ...]:
    """Verdicts on an independence chain, the worst first; a single ``good`` one if nothing is wrong.

    Within a level, causes come before their consequences: a missed mode before the disagreement that it causes.

    Args:
        accepted: ``(chain, draw)``, bool, or the fraction accepted of the steps of each draw.
        log_w: log weights of the chain's states, ``(chain, draw)``.
        log_w_proposed: log weights of the proposals, ``(chain, draw)``; -inf for those that were not finite.
        record: observables of the chain ``(chain, draw)``, with the names of
            :func:`dmmc.theory.observables.measure`. M is needed; M2, M4, abs_M, phi2 and S_per_site are used if
            present.
        log_w_reference: log weights of another sampler's configurations, ``(n,)`` or ``(chain, draw)``.
        reference: observables of another sampler's chains, for comparison.
        bias_bound: bound on the bias of any mean in units of the standard deviation of its observable, if the proposals
            come from an integrator: the limit of a certificate, or std(delta).
        z2_symmetric: whether ``S(-phi) = S(phi)``. Nothing is assumed of an action that does not say so.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws per chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        # What the estimators warn of, the verdicts say.
        warnings.simplefilter("ignore", DiagnosticsWarning)
        accepted, log_w = as_series(accepted, "accepted"), as_series(log_w, "log_w")
        log_w_proposed = as_array(log_w_proposed, "log_w_proposed")
        if log_w_reference is not None:
            log_w_reference = as_array(log_w_reference, "log_w_reference")
        record = _columns(record, accepted.shape)
        estimates = {name: gamma_method(x, name=name) for name, x in record.items()}
        lengths = {**estimates, "rejections": tau_rejections(accepted)}
        verdicts = [
            from_weights.contradicted(log_w_proposed, log_w_reference),
            from_weights.missed(log_w_proposed, log_w_reference, record, reference),
            from_weights.undescribed(log_w_proposed, log_w_reference),
            from_weights.stuck(accepted, log_w, log_w_proposed),
            from_weights.zero_weights(log_w_proposed),
            from_weights.spread(
                accepted, log_w_proposed, from_chains.draws_per_tau(lengths)[0], has_integrator=bias_bound is not None
            ),
            from_weights.tail(log_w_proposed),
            from_chains.signs(record["M"], BOTH_SIGNS) if z2_symmetric else None,
            from_chains.integrator(estimates, record, bias_bound),
            from_chains.length(lengths),
            from_reference.against(estimates, record, reference, z2_symmetric),
        ]
        ess = weights.ess_fraction(log_w_proposed)
        good = Verdict(
            "good",
            "Nothing wrong found",
            f"Acceptance {acceptance_rate(accepted)}, ESS/N {ess:.2f} of {np.size(log_w_proposed)} proposals"
            + from_reference.agreement(estimates, reference, log_w_reference),
            "ESS/N",
            ess,
            ESS_DOUBTFUL,
        )
    return _sorted(verdicts, good, "" if log_w_reference is not None else NO_REFERENCE)


def judge_chain(
    accepted: ArrayLike | None,
    record: Record,
    *,
    energy_error: ArrayLike | None = None,
    reference: Record | None = None,
    bias_bound: float | None = None,
    z2_symmetric: bool = False,
) -> tuple[Verdict, ...]:
    """Verdicts on a chain of any kernel without independent proposals (HMC, cluster, cycles), the worst first.

    Args:
        accepted: ``(chain, draw)``, bool, or the fraction accepted of the steps of each draw; None where that is not
            known, as of the chains of another program.
        record: as in :func:`judge`.
        energy_error: dH of HMC trajectories, ``(chain, draw)``; inf for a trajectory that ran away.
        reference: observables of another sampler's chains, for comparison.
        bias_bound: bound on the bias of any mean in units of the standard deviation of its observable, if
            the kernel uses an integrator: the limit of a certificate, or std(delta).
        z2_symmetric: whether ``S(-phi) = S(phi)``. Nothing is assumed of an action that does not say so.

    Raises:
        DmmcError: on wrong shapes, fewer than four draws per chain, or values that are not finite.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DiagnosticsWarning)
        if accepted is not None:
            accepted = as_series(accepted, "accepted")
        record = _columns(record, None if accepted is None else accepted.shape)
        estimates = {name: gamma_method(x, name=name) for name, x in record.items()}
        verdicts = [
            None if accepted is None else from_chains.stuck(accepted, has_trajectories=energy_error is not None),
            from_chains.creutz(energy_error),
            from_chains.signs(record["M"], CHANGES_SIGN) if z2_symmetric else None,
            from_chains.scatter(record),
            from_chains.integrator(estimates, record, bias_bound),
            from_chains.length(estimates),
            from_reference.against(estimates, record, reference, z2_symmetric),
        ]
        draws, name = from_chains.draws_per_tau(estimates)
        good = Verdict(
            "good",
            "Nothing wrong found",
            f"{draws:.0f} draws per autocorrelation time (of {symbol(name).value.text})"
            + ("" if accepted is None else f", acceptance {acceptance_rate(accepted).value:.3f}")
            + from_reference.agreement(estimates, reference, None),
            "draws per tau_int",
            draws,
            DRAWS_DOUBTFUL,
        )
    return _sorted(verdicts, good, "")


def _sorted(candidates: list[Verdict | None], good: Verdict, note: str) -> tuple[Verdict, ...]:
    verdicts = sorted((x for x in candidates if x is not None), key=lambda x: ("bad", "doubtful").index(x.level)) or [
        good
    ]
    if note:
        verdicts[0] = replace(verdicts[0], text=f"{verdicts[0].text} {note}")
    return tuple(verdicts)


def _columns(record: Record, shape: tuple[int, ...] | None) -> dict[str, Array]:
    """The observables that verdicts are about, checked. A mean field with components is judged by its length alone."""
    if "M" not in record:
        raise DmmcError(f"the record has no M, the mean field; it has {', '.join(record) or 'nothing'}")
    judged = [name for name in PRIMARY if name in record and not (name == "M" and as_array(record["M"], "M").ndim > 2)]
    columns = {name: as_series(record[name], name) for name in judged}
    for name, column in columns.items():
        if shape is not None and column.shape != shape:
            raise DmmcError(f"accepted has shape {shape}, but {name} {column.shape}; both must be (chain, draw)")
    return columns
