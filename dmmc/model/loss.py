"""The loss: the path-space KL."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dmmc.model.reference import GaussianReference


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
    v = reference.variance(level)
    residual = network(noisy, v.to(noisy.real)) - target
    square = reference.lattice.norm2(residual).mean(1)
    weight = 0.5 * (v + reference.v_offset) * reference.log_range
    return (square * weight.to(square)).mean()
