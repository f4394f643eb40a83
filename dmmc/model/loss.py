"""The loss: the path-space KL, and its weight for data without an action."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dmmc.model.reference import GaussianReference

Loss = Callable[[Callable[[Tensor, Tensor], Tensor], GaussianReference, Tensor, Tensor, Tensor], Tensor]
"""A loss with the arguments of :func:`path_loss`."""


def path_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    reference: GaussianReference,
    noisy: Tensor,
    target: Tensor,
    level: Tensor,
) -> Tensor:
    """``1/2 int dv E |D (N - y)|^2``, by its mean over a stratified batch.

    Up to a constant this is KL(p || q) along the path. The value for N = 0 minus the value for the network is the KL
    that the network has removed from its Gaussian reference.

    Args:
        network: a :class:`dmmc.model.network.Network`, or another function of modes and noise variances.
        reference: its Gaussian reference.
        noisy: modes of the noisy fields, ``(G, n, *half)``.
        target: modes of D y, ``(G, n, *half)``; y is the target of :mod:`dmmc.model.posterior`.
        level: noise levels ``(G,)``, uniform and stratified.
    """
    return _weighted(network, reference, noisy, target, level, reference.v_offset)


def denoising_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    reference: GaussianReference,
    noisy: Tensor,
    target: Tensor,
    level: Tensor,
) -> Tensor:
    """``1/2 int dv v / (v + v_offset) E |D (N - y)|^2``: denoising score matching with its usual weight sigma^2.

    For data alone. The target is then y_D, whose variance grows as 1/v, so that small noise would dominate the
    fluctuations of :func:`path_loss` although it matters little to the KL. The arguments are those of path_loss.
    """
    return _weighted(network, reference, noisy, target, level, 0.0)


def _weighted(
    network: Callable[[Tensor, Tensor], Tensor],
    reference: GaussianReference,
    noisy: Tensor,
    target: Tensor,
    level: Tensor,
    offset: float,
) -> Tensor:
    """The mean square over levels that are uniform in ``ln(v + v_offset)``, with the weight ``v + offset``."""
    v = reference.variance(level)
    residual = network(noisy, v.to(noisy.real)) - target
    square = reference.lattice.norm2(residual).mean(1)
    weight = 0.5 * (v + offset) * reference.log_range
    return (square * weight.to(square)).mean()
