"""The points of a scan: theories on lattices, arranged in lines along which something is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dmmc.core.errors import DmmcError
from dmmc.theory.actions import Action
from dmmc.theory.lattice import Lattice
from dmmc.theory.phi4 import Phi4

Along = Literal["L", "kappa"]
"""What changes along a line of points: the size of the lattice, or the coupling ``kappa`` of the action."""

FLOW_BENCHMARK = {6: 6.975, 8: 6.008, 10: 5.550, 12: 5.276, 14: 5.113, 20: 4.807, 32: 4.572, 64: 4.398}
"""L -> lam_m at m2 = -4 in two dimensions, where xi = L/4 (Albergo et al. 1904.12072, Gerdes et al. 2207.00283)."""


@dataclass(frozen=True)
class Point:
    """One theory on one lattice.

    Attributes:
        name: the name of the point, and of its folder.
        action: the theory.
        lattice: the lattice.
        line: what the points of one curve have in common; power laws are fitted along it.
    """

    name: str
    action: Action
    lattice: Lattice
    line: str

    @property
    def L(self) -> int:
        """The longest extent."""
        return max(self.lattice.shape)


def coupling(action: Mapping[str, Any], name: str) -> float | None:
    """A coupling by its name in the description of an action; None if the action has no such number."""
    value = action.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def flow_benchmark(sizes: Sequence[int]) -> tuple[Point, ...]:
    """Two-dimensional phi^4 at fixed ``xi = L/4``: m2 = -4, and lam_m from :data:`FLOW_BENCHMARK`.

    Raises:
        DmmcError: if there are no sizes, or some that are not in that table.
    """
    unknown = sorted(set(sizes) - set(FLOW_BENCHMARK))
    if unknown or not sizes:
        raise DmmcError(
            f"the flow benchmark has the sizes {', '.join(map(str, FLOW_BENCHMARK))}, not {unknown}; "
            "choose from these, or give the action (--kappa and --lam, ...)"
        )
    return tuple(
        Point(f"L{L}", Phi4.from_mass(-4.0, FLOW_BENCHMARK[L], 2), Lattice((L, L)), "flow benchmark")
        for L in sorted(set(sizes))
    )


def grid(actions: Mapping[str, Action], sizes: Sequence[int], dim: int, along: Along) -> tuple[Point, ...]:
    """Every action on every lattice ``L^dim``.

    Args:
        actions: actions by name, such as ``kappa0.27``.
        sizes: lattice sizes L, at least 2.
        dim: number of dimensions, 1 to 4.
        along: with ``L``, a line is one action over all sizes; with ``kappa``, one size over all actions.

    Raises:
        DmmcError: if there is no action or no size, or a size or ``dim`` is out of its range.
    """
    if not actions or not sizes or min(sizes) < 2:
        raise DmmcError(f"a scan needs an action and lattice sizes of at least 2, got the sizes {list(sizes)}")
    if dim not in (1, 2, 3, 4):
        raise DmmcError(f"--dim must be 1, 2, 3 or 4, got {dim}")
    return tuple(
        Point(f"{name}_L{L}", action, Lattice((L,) * dim), name if along == "L" else f"L{L}")
        for name, action in actions.items()
        for L in sorted(set(sizes))
    )


def check_points(points: Sequence[Point], along: Along) -> None:
    """Refuse points that do not make a scan.

    Raises:
        DmmcError: if there are no points, a name is no name of a folder, two have the same, or an action lacks the
            coupling that is to change.
    """
    if not points:
        raise DmmcError("a scan needs points")
    names = [point.name for point in points]
    if len(set(names)) < len(names):
        raise DmmcError(f"two points of the scan have the same name: {', '.join(names)}")
    for point in points:
        if Path(point.name).name != point.name:
            raise DmmcError(f"a point of a scan is called {point.name!r}, which cannot be the name of a folder")
        description = point.action.describe()
        if along != "L" and coupling(description, along) is None:
            raise DmmcError(
                f"a scan along {along} needs actions with that coupling, and {description.get('name')!r} of the point "
                f"{point.name} has none; scan along L"
            )
