"""The trace of the Jacobian of a network along the flow: exact by formula, exact by brute force, or estimated.

``log q`` needs ``tr[D dN/dphi]`` at every point of a trajectory. A network with ``with_trace`` has a formula for it
(:class:`Tractable`). For any other one the trace is V rows of the Jacobian by reverse differentiation, exact and slow
(:class:`BruteForce`), or an average of ``x^T J x`` over random probes x with ``E[x x^T] = 1`` (:class:`Hutchinson`;
Hutchinson, Commun. Stat. Simul. 18 (1989) 1059; in flows FFJORD, 1810.01367).

An estimate is unbiased for log q, hence not for q: with noise xi in the log q of a state a chain of stored weights
samples ``p(phi) E[exp(-xi) | phi]``, which is p only if that average is the same for every field. So estimates may
not enter a kernel unless the user says ``allow_inexact=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import normal, signs
from dmmc.core.scalars import check_count
from dmmc.model.network import Network

Trace = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(modes (G, n, *half), v (G,)) -> D N (G, n, *half), tr[D dN/dphi] (G, n) float64``."""


class Divergence(Protocol):
    """A way to get the trace."""

    @property
    def inexact(self) -> str:
        """Why log q is an estimate; empty where it is computed."""
        ...

    def check(self, network: Network) -> None:
        """Raise :class:`DmmcError` if it does not work for this network."""
        ...

    def along(self, network: Network, n: int, generator: torch.Generator) -> Trace:
        """The trace along one integration of ``n`` fields, with all that is random in it from ``generator``."""
        ...

    def evaluations(self, n_numbers: int) -> int:
        """Passes through the network for one drift and trace; a product with its Jacobian counts as one.

        Args:
            n_numbers: how many numbers a field consists of.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready identity."""
        ...


@dataclass(frozen=True)
class Tractable:
    """The network's own ``with_trace``: exact."""

    inexact = ""

    def check(self, network: Network) -> None:
        if not callable(getattr(network, "with_trace", None)):
            raise DmmcError(
                f"{type(network).__name__} has no with_trace, so its divergence must be chosen: "
                "FlowProposal(model, divergence=BruteForce()) is exact and costs V products with the Jacobian, "
                "Hutchinson(n_probes) is cheap and not exact"
            )

    def along(self, network: Network, n: int, generator: torch.Generator) -> Trace:
        trace: Trace = network.with_trace  # type: ignore[assignment]  # what check() has found
        return trace

    def evaluations(self, n_numbers: int) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        return {"name": "tractable"}


TRACTABLE = Tractable()


@dataclass(frozen=True)
class BruteForce:
    """Every diagonal element of the Jacobian, a reverse pass for each number of the field: exact for any network.

    The network must be differentiable by autograd throughout: a ``detach`` on the way from input to output would
    make the Jacobian wrong, which only the determinant of the map can reveal.
    """

    inexact = ""

    def check(self, network: Network) -> None:
        pass  # every differentiable network has a Jacobian

    def along(self, network: Network, n: int, generator: torch.Generator) -> Trace:
        """The sum over sites (and components) x of ``e_x^T J e_x``."""

        def trace(modes: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            n, shape = network.lattice.n_numbers, network.lattice.field_shape
            units = torch.eye(n, dtype=modes.real.dtype, device=modes.device).view(n, *shape)
            return _quadratic_forms(network, modes, v, iter(units))

        return trace

    def evaluations(self, n_numbers: int) -> int:
        # The pass forward, and one back for each number of the field.
        return 1 + n_numbers

    def describe(self) -> dict[str, Any]:
        return {"name": "brute force"}


@dataclass(frozen=True)
class Hutchinson:
    """The mean of ``x^T J x`` over random probes: unbiased for log q, and not exact.

    The variance of one estimate is ``2 |J_s|^2`` (Frobenius, of the symmetric part) for Gaussian probes, and that
    without the diagonal of ``J_s`` for Rademacher ones, where also ``x^T x`` is V exactly.

    Args:
        n_probes: the number of probes that are averaged; every field has its own.
        law: the law of the probes, ``rademacher`` (random signs) or ``gaussian``.
        fresh: whether to draw new probes at every evaluation. Otherwise a field keeps its probes along the trajectory,
            and the integrand stays smooth. With fresh probes the errors at different times average out, but the
            integrand has noise, which smaller steps do not make smooth.

    Raises:
        DmmcError: if ``n_probes`` is not a positive integer, or ``law`` is neither of the two.
    """

    n_probes: int = 1
    law: str = "rademacher"
    fresh: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_probes", check_count(self.n_probes, "n_probes"))
        if self.law not in ("rademacher", "gaussian"):
            raise DmmcError(f"the law of the probes is rademacher or gaussian, not {self.law!r}")

    @property
    def inexact(self) -> str:
        return f"log q is estimated with {self.n_probes} {'fresh' if self.fresh else 'fixed'} {self.law} probes"

    def check(self, network: Network) -> None:
        pass  # every differentiable network has a Jacobian

    def along(self, network: Network, n: int, generator: torch.Generator) -> Trace:
        """The trace with probes that are drawn once, or at every evaluation."""
        device, dtype = network.device, network.dtype
        shape = (self.n_probes, n, *network.lattice.field_shape)

        def draw() -> Tensor:
            return (normal if self.law == "gaussian" else signs)(shape, generator, dtype, device)

        fixed = None if self.fresh else draw()

        def trace(modes: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            drift, total = _quadratic_forms(network, modes, v, iter(draw() if fixed is None else fixed))
            return drift, total / self.n_probes

        return trace

    def evaluations(self, n_numbers: int) -> int:
        # The pass forward, and one back for each probe.
        return 1 + self.n_probes

    def describe(self) -> dict[str, Any]:
        return {"name": "hutchinson", "n_probes": self.n_probes, "law": self.law, "fresh": self.fresh}


def _quadratic_forms(network: Network, modes: Tensor, v: Tensor, vectors: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """D N, and the sum over ``vectors`` x (on the sites) of ``x^T J x``, J the Jacobian of D N with respect to phi.

    Reverse passes through one graph: fields do not see each other, so one pass serves all of them, and unlike
    forward-mode products it asks nothing of the network but what training asks of it.
    """
    lattice = network.lattice
    with torch.inference_mode(False), torch.enable_grad():
        # Autograd keeps no tensor of inference mode, which the caller may be in.
        phi, v = lattice.to_sites(modes).requires_grad_(), v.clone()
        drift = network(lattice.to_modes(phi), v)
        out = lattice.to_sites(drift)
    if not out.requires_grad:
        raise DmmcError(
            f"autograd sees no way from the input of {type(network).__name__} to its output, so it has no Jacobian; "
            "remove no_grad, detach or NumPy from its forward"
        )
    total = torch.zeros(modes.shape[:2], dtype=torch.float64, device=modes.device)
    for x in vectors:
        (row,) = torch.autograd.grad(out, phi, x.expand_as(out), retain_graph=True)
        total += (row * x).flatten(2).sum(2, dtype=torch.float64)
    return drift.detach(), total
