"""Complex Langevin dynamics of one degree of freedom: what is known exactly of its two best known models.

``S = sigma_0 z^2 / 2 + lam z^4 / 4`` with complex ``sigma_0 = A + i B``. Without a quartic term complex Langevin
dynamics samples a Gaussian (Aarts, Giudice, Seiler, Ann. Phys. 337 (2013) 238, 1306.3075)

    P(x, y) = exp(-alpha x^2 - beta y^2 - 2 gamma x y) / Z,    alpha = A,  beta = A (1 + 2 A^2 / B^2),  gamma = A^2 / B,

whose averages of ``(x + i y)^n`` are those of the complex weight. With one, P is not known; where ``3 A^2 > B^2`` it
vanishes outside of the strip ``|y| < y_-`` with ``y_-^2 = A / (2 lam) (1 - sqrt(1 - B^2 / (3 A^2)))``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dmmc.core.linalg import inverse, log_abs_det
from dmmc.theory.complex_action import ComplexAction, to_complex
from dmmc.theory.function_action import FunctionAction

SIGMA0 = 1 + 1j
LAM = 1.0
POWERS = (2, 4)


def complex_action(lam: float) -> ComplexAction:
    """The complex action of one site."""
    return ComplexAction(
        lambda z: (0.5 * SIGMA0 * z**2 + 0.25 * lam * z**4).sum(1),
        lambda z: SIGMA0 * z + lam * z**3,
        "complex-quartic",
        (("A", SIGMA0.real), ("B", SIGMA0.imag), ("lam", lam)),
    )


def exact_moment(lam: float, power: int) -> complex:
    """``int dx x^power exp(-S) / Z`` along the real axis, by the trapezoidal rule."""
    x = np.linspace(-9, 9, 4001)
    weight = np.exp(-0.5 * SIGMA0 * x**2 - 0.25 * lam * x**4)
    return complex((x**power * weight).sum() / weight.sum())


def precision() -> Tensor:
    """The inverse covariance of P for lam = 0, ``(2, 2)`` float64."""
    a, b = SIGMA0.real, SIGMA0.imag
    alpha, beta, gamma = a, a * (1 + 2 * a * a / (b * b)), a * a / b
    return 2 * torch.tensor([[alpha, gamma], [gamma, beta]], dtype=torch.float64, device="cpu")


def gaussian_law() -> FunctionAction:
    """``-ln P`` of lam = 0 up to a constant: a real action of the pair (x, y), with which chains within P are exact."""

    def gradient(phi: Tensor) -> Tensor:
        return torch.einsum("ij,nj...->ni...", precision().to(phi), phi)

    return FunctionAction(
        lambda phi: 0.5 * (phi * gradient(phi)).flatten(1).sum(1),
        "law-of-the-complex-gaussian",
        (("A", SIGMA0.real), ("B", SIGMA0.imag)),
        gradient=gradient,
        components=2,
        symmetry="z2",
    )


def log_gaussian(phi: Tensor, v: float) -> tuple[Tensor, Tensor]:
    """Log density ``(n,)`` and score ``(n, 2)`` of P for lam = 0 at points ``(n, 2)``, with noise of variance v."""
    sharp = inverse(inverse(precision()) + v * torch.eye(2, dtype=torch.float64, device="cpu"))
    score = -phi @ sharp
    return 0.5 * (phi * score).sum(1) + 0.5 * log_abs_det(sharp) - math.log(2 * math.pi), score


def edge(lam: float) -> float:
    """``y_-``, beyond which P vanishes; infinite without a quartic term."""
    a, b = SIGMA0.real, SIGMA0.imag
    return math.sqrt(a / (2 * lam) * (1 - math.sqrt(1 - b * b / (3 * a * a)))) if lam else math.inf


def holomorphic(phi: Tensor, _: Tensor) -> Tensor:
    """Real and imaginary parts of ``z^2`` and ``z^4``, ``(n, 4)``, of fields ``(n, 2, 1)``: an observable."""
    z = to_complex(phi)[:, 0]
    return torch.cat([torch.view_as_real(z**power) for power in POWERS], 1)


HOLOMORPHIC = tuple(f"{part} z^{power}" for power in POWERS for part in ("Re", "Im"))


def exact_holomorphic(lam: float) -> list[float]:
    """What :func:`holomorphic` must be on average."""
    values = [exact_moment(lam, power) for power in POWERS]
    return [x for value in values for x in (value.real, value.imag)]


def balance(lam: float, phi: Tensor) -> Mapping[str, Tensor]:
    """Numbers ``(n,)`` of fields ``(n, 2, 1)`` whose averages over P are zero, whatever P is.

    P does not change along the Langevin equation: ``<L O> = 0`` for the Langevin operator ``L = d_x^2 + K_x d_x + K_y
    d_y`` and every O whose boundary terms vanish, also one that is not holomorphic; here x^2 / 2, y^2 / 2 and x y.
    """
    x, y = phi[:, 0, 0], phi[:, 1, 0]
    drift = complex_action(lam).drift(phi)[..., 0]
    return {"x^2/2": 1 + x * drift[:, 0], "y^2/2": y * drift[:, 1], "xy": x * drift[:, 1] + y * drift[:, 0]}
