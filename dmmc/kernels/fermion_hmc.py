"""HMC for theories with fermions: pseudofermions, and a force that is computed less often than that of the field.

Two flavours have the weight ``det(D)^2 = det(D D^T)``, D real. With two real pseudofermion fields chi_k,

    det(D D^T) ~ int dchi exp(-1/2 sum_k (D^-1 chi_k)^2),

which are drawn anew for each trajectory, ``chi_k = D eta_k`` with eta_k standard normal, and stay fixed along it. With
``Y_k = D^-1 chi_k`` and ``X_k = D^-T Y_k = (D D^T)^-1 chi_k`` from conjugate gradients, the force of these is

    d/dphi(x) 1/2 sum_k Y_k^2 = -g sum_k X_k(x) . Y_k(x).

(D. Weingarten, D. Petcher, Phys. Lett. B 99 (1981) 333.) Without pseudofermions, the force is that of the determinant
itself, ``-2 g tr D^-1(x, x)``, which costs more and varies less.

Either is far more expensive than the force of the scalar field, and gentler. So the scalar field is integrated with
shorter steps of its own (Sexton, Weingarten, Nucl. Phys. B 380 (1992) 665), within the second-order minimum-norm
integrator (Omelyan, Mryglod, Folk, Comput. Phys. Commun. 151 (2003) 272).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.facts import KernelFacts
from dmmc.core.rng import normal, uniform
from dmmc.core.scalars import check_count, is_finite
from dmmc.diagnostics.energy import DIVERGED
from dmmc.kernels.base import Kernel, State, metropolis, start_state
from dmmc.kernels.conjugate_gradients import conjugate_gradients
from dmmc.kernels.hmc import HMCInfo, first_fields, kinetic_energy
from dmmc.kernels.step_size import tune_step_size
from dmmc.theory import wilson
from dmmc.theory.actions import Action, check_differentiable, declaration
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

LENGTH = 2.0
"""Trajectory length for the hopping-form field: the best of 1, 2 and 4 on 8 x 8."""

LAMBDA = 0.1931833275037836
"""Parameter of the integrator: the error of one step is least."""

ENERGY_TOLERANCE, FORCE_TOLERANCE = 1e-12, 1e-7
"""Relative residuals of conjugate gradients. That of the energies bounds the error of what is accepted: the energy is
wrong by at most the residual squared, over the smallest eigenvalue of D D^T. The force may be less accurate: each is
still a function of the fields alone, so that trajectories are reversible. Where a system is not solved, the trajectory
is rejected."""


class Fermionic(Action, Protocol):
    """A theory with two flavours of Wilson fermions, such as :class:`dmmc.theory.yukawa.Yukawa`."""

    @property
    def action(self) -> Action:
        """The theory without fermions."""
        ...

    @property
    def g(self) -> float:
        """The coupling: the derivative of the diagonal of D in phi."""
        ...

    def diagonal(self, phi: Tensor) -> Tensor:
        """The diagonal of D for fields ``(n, time, space)``, of the same shape."""
        ...


@dataclass(frozen=True)
class FermionHMC(Kernel[State]):
    """HMC for a theory with fermions. All chains advance together, in float64.

    Args:
        action: the theory.
        lattice: the lattice that the chains live on.
        step_size: step of the integrator, of two fermion forces each; :meth:`tune` adapts it.
        n_leapfrog: steps in a trajectory.
        inner: steps of the scalar field in one step of the integrator.
        pseudofermions: whether the fermions are represented by pseudofermions, or by their dense determinant.
        jitter: as for :class:`dmmc.kernels.hmc.HMC`.
        target_acceptance: the acceptance to which :meth:`tune` adapts the step size.

    The energy that a trajectory reports is that of the determinant, also where its error is that of pseudofermions.

    Raises:
        DmmcError: if a number is out of its range, the action has no gradient, or it is the action of a theory without
            fermions.
    """

    action: Fermionic
    lattice: Lattice
    step_size: float
    n_leapfrog: int
    inner: int = 5
    pseudofermions: bool = True
    jitter: float = 0.2
    target_acceptance: float = 0.8

    def __post_init__(self) -> None:
        if not (is_finite(self.step_size) and self.step_size > 0):
            raise DmmcError(f"step_size must be a positive number, got {self.step_size}")
        for name in ("n_leapfrog", "inner"):
            object.__setattr__(self, name, check_count(getattr(self, name), name))
        if not 0 <= self.jitter < 1:
            raise DmmcError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        if not 0 < self.target_acceptance < 1:
            raise DmmcError(f"target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        if not callable(getattr(self.action, "diagonal", None)):
            raise DmmcError(f"this kernel is for theories with fermions, such as Yukawa; got {self.action!r}, use HMC")
        check_differentiable(self.action)

    @classmethod
    def default(
        cls, action: Action, lattice: Lattice, length: float = LENGTH, *, pseudofermions: bool = True
    ) -> FermionHMC:
        """Trajectories of ``length``, for a field in the hopping form, in five steps; :meth:`tune` adapts these.

        Raises:
            DmmcError: as the class.
        """
        step_size = declaration(action).scale * length / 5
        return cls(cast(Fermionic, action), lattice, step_size=step_size, n_leapfrog=5, pseudofermions=pseudofermions)

    @property
    def length(self) -> float:
        """Trajectory length ``n_leapfrog * step_size``."""
        return self.n_leapfrog * self.step_size

    @property
    def facts(self) -> KernelFacts:
        label = "HMC, pseudofermions" if self.pseudofermions else "HMC, determinants"
        return KernelFacts("fermion_hmc", label=label, model_free=True)

    @property
    def cost(self) -> dict[str, int]:
        return {"force": 2 * self.n_leapfrog}

    def describe(self) -> dict[str, Any]:
        return {
            "name": "fermion_hmc",
            "step_size": self.step_size,
            "n_leapfrog": self.n_leapfrog,
            "inner": self.inner,
            "pseudofermions": self.pseudofermions,
            "jitter": self.jitter,
        }

    def initial(self, n: int, generator: torch.Generator) -> State:
        phi = first_fields(self.action, self.lattice, n, generator)
        return start_state(self.action, self.lattice, phi, generator.device)

    def tune(self, state: State, generator: torch.Generator, n_steps: int = 60) -> tuple[FermionHMC, State]:
        """Tune the step size at constant trajectory length: :func:`dmmc.kernels.step_size.tune_step_size`."""
        return tune_step_size(self, state, generator, n_steps)

    @torch.no_grad()
    def step(self, state: State, generator: torch.Generator) -> tuple[State, HMCInfo]:
        n, device = len(state.phi), state.phi.device
        pi = normal(state.phi.shape, generator, device=device)
        spread, u = uniform((2, n), generator, device=device)
        step = self.step_size * (1 + self.jitter * (2 * spread - 1))
        if self.pseudofermions:
            eta = normal((n, 2, 2, *self.lattice.shape), generator, device=device)
            chi = wilson.apply(self._d(state.phi), eta)
            phi, end_pi = self.trajectory(state.phi, pi, step, lambda phi: self._pseudofermion_force(phi, chi))
            fermions = self._pseudofermion_energy(phi, chi) - 0.5 * eta.square().flatten(1).sum(1)
            proposed = State(phi, evaluate(self.action, phi))
            change = evaluate(self.action.action, phi) - evaluate(self.action.action, state.phi) + fermions
        else:
            phi, end_pi = self.trajectory(state.phi, pi, step, self._determinant_force)
            proposed = State(phi, evaluate(self.action, phi))
            change = proposed.S - state.S
        kinetic = kinetic_energy(pi)
        dH = change + kinetic_energy(end_pi) - kinetic
        dH = torch.where(torch.isfinite(dH), dH, torch.inf)
        new, accepted, rate = metropolis(state, proposed, -dH, u)
        n_steps = torch.full((n,), self.n_leapfrog, device=device)
        return new, HMCInfo(accepted, rate, dH, state.S + kinetic, dH > DIVERGED, step, n_steps)

    def trajectory(
        self, phi: Tensor, pi: Tensor, step: Tensor, fermion_force: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Integrate the equations of motion from ``(phi, pi)``; reversible and volume-preserving.

        Args:
            phi: fields ``(n, time, space)``.
            pi: their momenta, of the same shape.
            step: step sizes ``(n,)``.
            fermion_force: the gradient of the fermions' part of the action.

        Returns:
            Fields and momenta at the end; the arguments are left alone.
        """
        step = step.view(-1, 1, 1)
        for _ in range(self.n_leapfrog):
            phi, pi = self._scalar(phi, pi, step, LAMBDA)
            pi = pi.addcmul(fermion_force(phi), step, value=-0.5)
            phi, pi = self._scalar(phi, pi, step, 1 - 2 * LAMBDA)
            pi = pi.addcmul(fermion_force(phi), step, value=-0.5)
            phi, pi = self._scalar(phi, pi, step, LAMBDA)
        return phi, pi

    def _scalar(self, phi: Tensor, pi: Tensor, step: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Leapfrog steps of the theory without fermions, for a share of a step of the integrator."""
        n = max(1, round(share * self.inner))
        step = share * step / n
        phi, pi = torch.addcmul(phi, pi, step, value=0.5), pi.clone()
        for k in range(n):
            pi.addcmul_(force(self.action.action, phi), step, value=-1.0)
            phi.addcmul_(pi, step, value=1.0 if k < n - 1 else 0.5)
        return phi, pi

    def _d(self, phi: Tensor) -> Tensor:
        return self.action.diagonal(phi).unsqueeze(1).unsqueeze(1)

    def _determinant_force(self, phi: Tensor) -> Tensor:
        return -2 * self.action.g * wilson.trace_inverse(self.action.diagonal(phi))

    def _pseudofermion_force(self, phi: Tensor, chi: Tensor) -> Tensor:
        x, y = self._solve(phi, chi, FORCE_TOLERANCE)
        return -self.action.g * (x * y).sum((1, 2))

    def _pseudofermion_energy(self, phi: Tensor, chi: Tensor) -> Tensor:
        """``1/2 chi (D D^T)^-1 chi``, whose error is of second order in the residual."""
        x, y = self._solve(phi, chi, ENERGY_TOLERANCE)
        return (x * chi).flatten(1).sum(1) - 0.5 * y.square().flatten(1).sum(1)

    def _solve(self, phi: Tensor, chi: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """``X = (D D^T)^-1 chi`` and ``Y = D^T X``."""
        d = self._d(phi)
        x, _ = conjugate_gradients(
            lambda v: wilson.apply(d, wilson.apply_transposed(d, v)), chi, tolerance, batch_axes=2
        )
        return x, wilson.apply_transposed(d, x)
