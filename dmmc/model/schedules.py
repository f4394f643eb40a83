"""Noise schedules of networks that were trained elsewhere.

Such a network sees ``x = a (phi_0 + sigma eps)``, where sigma is the noise in units in which the field is not shrunk.
It is told how much noise there is by some number: sigma itself, its logarithm, or the time of its process.

* Variance exploding (:class:`VE`): ``a = 1``.
* Variance preserving (:class:`VP`): ``a^2 (1 + sigma^2) = 1``.

Sources: Song et al., 2011.13456, for both processes; Ho, Jain, Abbeel, 2006.11239, for the discrete steps of the
second; Wang, Aarts, Zhou, JHEP 05 (2024) 060, for the first with ``sigma^2 = (base^2t - 1) / (2 ln base)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.numbers import check_count


class Schedule(Protocol):
    """How much noise a network was trained with, and how it is told."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest sigma that the network has seen."""
        ...

    @property
    def preserves_variance(self) -> bool:
        """Whether ``a^2 (1 + sigma^2) = 1``; otherwise ``a = 1``."""
        ...

    def told(self, sigma: Tensor) -> Tensor:
        """The argument of the network for noise sigma, float64 ``(G,)``, within :attr:`bounds`."""
        ...

    def describe(self) -> dict[str, Any]:
        """The schedule as JSON values; :func:`schedule_of` makes it again."""
        ...


@dataclass(frozen=True)
class VE:
    """The variance-exploding process ``x = phi_0 + sigma eps``.

    Args:
        sigma_max: the largest sigma; needed unless ``base`` is given.
        sigma_min: the least sigma that the network was trained with. Below it the network is asked at it.
        base: of ``sigma^2 = (base^2t - 1) / (2 ln base)`` with t from 0 to 1, as in Wang, Aarts, Zhou; 25 there.
            Without it ``sigma = sigma_min (sigma_max / sigma_min)^t``.
        argument: what the network is told: ``sigma``, ``log_sigma``, or ``time``, which is t.

    Raises:
        DmmcError: if a number is out of its range, or not exactly one of ``sigma_max`` and ``base`` is given.
    """

    sigma_max: float | None = None
    sigma_min: float = 0.01
    base: float | None = None
    argument: str = "sigma"

    def __post_init__(self) -> None:
        _check_argument(self.argument, ("sigma", "log_sigma", "time"))
        if (self.sigma_max is None) == (self.base is None):
            raise DmmcError("a VE schedule needs either sigma_max, its largest noise, or base; give one of them")
        if self.base is not None:
            _check_number("base", self.base, 1.0)
        least, largest = self.bounds
        _check_number("sigma_min", least)
        _check_number("sigma_max", largest, least)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        if self.sigma_max is not None:
            return self.sigma_min, self.sigma_max
        assert self.base is not None
        return self.sigma_min, math.sqrt((self.base**2 - 1) / (2 * math.log(self.base)))

    preserves_variance = False

    def told(self, sigma: Tensor) -> Tensor:
        if self.argument == "sigma":
            return sigma
        if self.argument == "log_sigma":
            return sigma.log()
        if self.base is not None:
            rate = 2 * math.log(self.base)
            return torch.log1p(rate * sigma.square()) / rate
        least, largest = self.bounds
        return (sigma / least).log() / math.log(largest / least)

    def describe(self) -> dict[str, Any]:
        return {"name": "VE", **asdict(self)}


@dataclass(frozen=True)
class VP:
    """The variance-preserving process ``x = a phi_0 + s eps`` with ``a^2 + s^2 = 1``, so that ``sigma = s / a``.

    Its time t runs from 0 to 1, and ``beta = beta_min + t (beta_max - beta_min)``.

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
        argument: what the network is told: ``time``, which is t; ``step``, the number of a discrete step, from 0;
            ``sigma`` or ``log_sigma``.
        steps: number of discrete steps, whose betas rise linearly from ``beta_min / steps`` to ``beta_max / steps``.
            The defaults are those of DDPM, from 0.0001 to 0.02 in 1000 steps.
        t_min: the least time that the network was trained with, for all arguments but ``step``.

    Raises:
        DmmcError: if a number is out of its range.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    argument: str = "time"
    steps: int = 1000
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        _check_argument(self.argument, ("time", "step", "sigma", "log_sigma"))
        check_count(self.steps, "steps of a VP schedule")
        _check_number("beta_min", self.beta_min)
        _check_number("beta_max", self.beta_max, self.beta_min)
        _check_number("t_min", self.t_min)
        if self.t_min >= 1:
            raise DmmcError(f"t_min of a schedule must lie below 1, got {self.t_min}")
        if self.argument == "step" and (self.steps < 2 or self.beta_max >= self.steps):
            raise DmmcError(f"{self.steps} steps are too few for beta_max = {self.beta_max}; take more than that")

    @cached_property
    def bounds(self) -> tuple[float, float]:
        if self.argument == "step":
            return float(self._sigmas[0]), float(self._sigmas[-1])
        return self._sigma(self.t_min), self._sigma(1.0)

    preserves_variance = True

    def told(self, sigma: Tensor) -> Tensor:
        if self.argument == "sigma":
            return sigma
        if self.argument == "log_sigma":
            return sigma.log()
        if self.argument == "step":
            table = self._sigmas.log().to(sigma.device)
            above = torch.searchsorted(table, sigma.log()).clamp(1, self.steps - 1)
            low, high = table[above - 1], table[above]
            return above - 1 + ((sigma.log() - low) / (high - low)).clamp(0, 1)
        # ln(1 + sigma^2) = -2 ln a = beta_min t + (beta_max - beta_min) t^2 / 2
        total = torch.log1p(sigma.square())
        return 2 * total / (self.beta_min + (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * total).sqrt())

    def describe(self) -> dict[str, Any]:
        return {"name": "VP", **asdict(self)}

    def _sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2))

    @cached_property
    def _sigmas(self) -> Tensor:
        """sigma of each discrete step."""
        kept = (
            1 - torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64, device="cpu") / self.steps
        )
        return (1 / kept.cumprod(0) - 1).sqrt()


def schedule_of(description: Mapping[str, Any]) -> Schedule:
    """The schedule that described itself.

    Raises:
        DmmcError: if it is none.
    """
    settings = dict(description) if isinstance(description, Mapping) else {}
    name = settings.pop("name", None)
    made = {"VE": VE, "VP": VP}.get(name) if isinstance(name, str) else None
    if made is None:
        raise DmmcError(f"{description!r} is no description of a noise schedule")
    try:
        return made(**settings)
    except TypeError as error:
        raise DmmcError(f"{description!r} is no description of a noise schedule ({error})") from None


def _check_argument(argument: object, known: tuple[str, ...]) -> None:
    if argument not in known:
        raise DmmcError(f"the argument that a network is told must be one of {', '.join(known)}; got {argument!r}")


def _check_number(name: str, value: object, above: float = 0.0) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value <= above:  # type: ignore[operator]  # a number, as has just been seen
        raise DmmcError(f"{name} of a schedule must be a finite number above {above:g}, got {value!r}")
