"""The integration of the flow from coefficients that were prepared for all of its noise levels.

The same formulas as in :mod:`dmmc.proposals.ode`, but filters, matrices and the coefficients of the trace are computed
once for all levels, and nothing waits for the device, so that the whole integration can be recorded as a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmmc.core.graphs import Graphs
from dmmc.core.precision import without_autocast
from dmmc.model.memo import Prepared
from dmmc.model.reference import GaussianReference
from dmmc.model.transport import Footprint, Stages

LEVELS_AT_ONCE = 16
"""Noise levels whose coefficients are computed together, in memory for the matrices of all pairs of filters."""


class Layers(Protocol):
    """The site-wise layers at noise levels that are known in advance."""

    def prepared(self, m: Prepared, t: Prepared) -> tuple[Prepared, Prepared]:
        """What a call needs, from the matrices and the coefficients of the trace, ``(levels, ...)`` each."""
        ...

    def __call__(self, u: Tensor, m: Prepared, t: Prepared, level: int, traced: bool) -> tuple[Tensor, Tensor | None]:
        """Filtered fields through both layers.

        Args:
            u: filtered fields ``(B, n, *field)``.
            m, t: what :meth:`prepared` has made.
            level: the number of the level.
            traced: whether the trace is wanted.

        Returns:
            the output, as ``u``, and the part of the trace that depends on the field, ``(n,)`` float64.
        """
        ...


@dataclass(frozen=True)
class Coefficients:
    """What the steps need at each of their noise levels.

    Attributes:
        filters_in, filters_out: ``(C + v)^(1/2) D R / rms`` and ``(C + v)^(-1/2) D Q / rms``, ``(levels, B, *half)``.
        matrices, trace: as the layers have prepared them, ``(levels, ...)`` each.
        advance: for each step and stage, what multiplies the slopes before it, ``(steps, s, s)``.
        arrive: what multiplies the slopes at the end of each step, ``(steps, s)``.
    """

    filters_in: Tensor
    filters_out: Tensor
    matrices: Prepared
    trace: Prepared
    advance: Tensor
    arrive: Tensor


@dataclass(frozen=True)
class GraphedFlow:
    """A :class:`dmmc.model.transport.Transport` on a GPU; on a CPU the same, operation by operation.

    Args:
        reference: the Gaussian reference.
        at_levels: matrices and filters, and the coefficients of the trace, at noise variances ``(levels,)``.
        layers: the site-wise layers.
        weights: what the coefficients depend on.
        graphs: keeps the recorded integrations.
    """

    reference: GaussianReference
    at_levels: Callable[[Tensor], tuple[Prepared, Prepared]]
    layers: Layers
    weights: Iterable[Tensor]
    graphs: Graphs

    @torch.no_grad()
    @without_autocast()
    def __call__(self, fields: Tensor, stages: Stages, traced: bool) -> tuple[Tensor, Tensor]:
        levels = tuple(dict.fromkeys(v for row in stages.variances for v in row))
        number = {v: k for k, v in enumerate(levels)}

        def work(known: Coefficients, x: Tensor) -> tuple[Tensor, ...]:
            return self._integrated(known, x, stages, number, traced)

        key = (self.layers, stages, traced, fields.shape, fields.dtype)
        prepare = functools.partial(self._coefficients, stages, levels, fields)
        psi, change = self.graphs.run(key, self.weights, prepare, work, fields)
        return psi, change

    def footprint(self, stages: Stages) -> Footprint | None:
        return None

    def _coefficients(self, stages: Stages, levels: tuple[float, ...], like: Tensor) -> Coefficients:
        v = torch.tensor(levels, dtype=torch.float64, device="cpu").to(like)
        made = [self.at_levels(part) for part in v.split(LEVELS_AT_ONCE)]
        m, t = ({name: torch.cat([one[k][name] for one in made]) for name in made[0][k]} for k in (0, 1))
        matrices, trace = self.layers.prepared({name: x for name, x in m.items() if name not in ("r", "q")}, t)
        root = (self.reference.c(like) + v.view(-1, 1, *(1,) * self.reference.lattice.dim)).sqrt()
        s = len(stages.b)
        h, rates, b, a = (
            torch.tensor(x, dtype=torch.float64, device="cpu")
            for x in (stages.lengths, stages.rates, stages.b, [[*row, *(0.0,) * (s - len(row))] for row in stages.a])
        )
        return Coefficients(
            filters_in=m["r"] * root,
            filters_out=m["q"] / root,
            matrices=matrices,
            trace=trace,
            advance=(h[:, None, None] * a * rates[:, None]).to(like),
            arrive=(h[:, None] * b * rates).to(like),
        )

    def _integrated(
        self, known: Coefficients, x: Tensor, stages: Stages, number: dict[float, int], traced: bool
    ) -> tuple[Tensor, ...]:
        lattice = self.reference.lattice
        psi = lattice.to_modes(x)
        slopes = psi.new_empty(len(stages.b), *psi.shape)
        change = torch.zeros(len(x), dtype=torch.float64, device=x.device)

        def advanced(weights: Tensor, n: int) -> Tensor:
            if not n:
                return psi
            step = weights[:n] @ torch.view_as_real(slopes[:n]).flatten(1)
            return psi + torch.view_as_complex(step.view(*psi.shape, 2))

        for k, (h, variances, rates) in enumerate(zip(stages.lengths, stages.variances, stages.rates, strict=True)):
            for i, (v, rate, b) in enumerate(zip(variances, rates, stages.b, strict=True)):
                level, at = number[v], advanced(known.advance[k, i], i)
                u = lattice.to_sites(_each(known.filters_in[level], at.dim()) * at)
                out, trace = self.layers(u, known.matrices, known.trace, level, traced and b != 0)
                torch.sum(_each(known.filters_out[level], at.dim()) * lattice.to_modes(out), 0, out=slopes[i])
                if trace is not None:
                    change -= h * b * rate * (trace + known.trace["constant"][level].double())
            psi = advanced(known.arrive[k], len(stages.b))
        return lattice.to_sites(psi), change


def _each(filters: Tensor, axes: int) -> Tensor:
    """Filters ``(B, *half)`` beside modes with ``axes`` axes: ``(B, 1, ..., *half)``."""
    return filters.view(len(filters), *(1,) * (axes + 1 - filters.dim()), *filters.shape[1:])
