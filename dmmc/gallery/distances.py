"""How far a learned score and a learned density are from exact ones, by quadrature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScoreError:
    """The error of a learned score at one time.

    Attributes:
        tau: time, 0 at the prior and 1 at the target.
        v: variance of the noise.
        error: ``|s_model - s| / |s|``, where ``|f|^2 = int p_v f^2``.
        gaussian: the same of the Gaussian reference, from which training starts.
    """

    tau: float
    v: float
    error: float
    gaussian: float


def relative_error(log_p: Tensor, exact: Tensor, learned: Tensor) -> float:
    """``|learned - exact| / |exact|``, weighted by the density, on a grid.

    Args:
        log_p: the density, ``(n,)``, up to a constant.
        exact: ``(n,)`` or ``(n, k)``.
        learned: of the same shape.
    """
    p = (log_p - log_p.max()).exp().view(-1, *(1,) * (exact.ndim - 1))
    return float(((p * (learned - exact).square()).sum() / (p * exact.square()).sum()).sqrt())


@dataclass(frozen=True)
class DensityError:
    """How the density q of a model differs from p.

    Attributes:
        norm: ``int q``.
        total_variation: ``1/2 int |q - p|``: at most so much is any probability wrong.
        kl: ``int p ln(p / q)``.
        ess: effective fraction of weighted proposals, ``1 / int p^2 / q``.
        acceptance: of the independence chain, ``int int min(p(x) q(y), p(y) q(x))``.
    """

    norm: float
    total_variation: float
    kl: float
    ess: float
    acceptance: float

    @classmethod
    def of(cls, log_p: Tensor, log_q: Tensor, cell: float) -> DensityError:
        """From log densities ``(n,)`` on a grid with cells of a volume."""
        p, q, log_w = log_p.exp() * cell, log_q.exp() * cell, log_p - log_q
        # Of a pair the smaller weight counts; in rising order it is that of the first.
        order = log_w.argsort()
        p_sorted, q_sorted = p[order], q[order]
        above = q_sorted.flip(0).cumsum(0).flip(0) - 0.5 * q_sorted
        return cls(
            norm=float(q.sum()),
            total_variation=float(0.5 * (q - p).abs().sum()),
            kl=float((p * log_w).sum()),
            ess=1 / float((p * log_w.exp()).sum()),
            acceptance=float(2 * (p_sorted * above).sum()),
        )
