"""The hopping term that cluster updates rely on: what an action declares, and whether it is so."""

from __future__ import annotations

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.rng import normal, signs, stream
from dmmc.kernels import hmc
from dmmc.theory.actions import Action, components_of, declaration
from dmmc.theory.evaluation import evaluate
from dmmc.theory.lattice import Lattice

PROBED = 4
"""Fields on which a declared hopping term is tested."""


@torch.no_grad()
def check_hopping(action: Action, lattice: Lattice) -> None:
    """Test the hopping term that the action declares: changes of signs must change S by what they change that term.

    With signs ``s(x)``, ``S(s phi) - S(phi) = -hopping sum_x,mu [s(x) s(x+mu) - 1] phi(x) phi(x+mu)``, since the rest
    of S is even functions of single sites. A field with components is reflected by a unit vector on some of the sites.

    Raises:
        DmmcError: if it declares none.
        MismatchError: if it has another one.
    """
    hopping = declared_hopping(action)
    generator = stream(0, "test of a hopping term")
    phi = hmc.first_fields(action, lattice, PROBED, generator)
    flips = signs((PROBED, *lattice.shape), generator)
    if (components := components_of(action)) is None:
        changed = flips * phi
    else:
        r = normal((PROBED, components, *(1,) * lattice.dim), generator)
        r = r / r.square().sum(1, keepdim=True).sqrt()
        changed = phi - (1 - flips.unsqueeze(1)) * (r * phi).sum(1, keepdim=True) * r

    def links(phi: Tensor) -> Tensor:
        products = torch.stack([phi * phi.roll(-1, axis) for axis in lattice.axes])
        return products.movedim(0, 1).flatten(1).sum(1)

    S, after = evaluate(action, phi), evaluate(action, changed)
    found, expected = after - S, -hopping * (links(changed) - links(phi))
    size = 1 + S.abs() + after.abs() + abs(hopping) * links(phi.abs())
    if bool(((found - expected).abs() > 1e-9 * size).any()):
        k = int(((found - expected).abs() / size).argmax())
        raise MismatchError(
            f"the action {action.describe().get('name')!r} declares hopping = {hopping}, but S is not "
            "-hopping sum phi(x) phi(x+mu) plus even functions of single sites: with other signs of a field it changes "
            f"by {float(found[k]):.6g} instead of {float(expected[k]):.6g}; correct the declaration, or use HMC"
        )


def declared_hopping(action: Action) -> float:
    """The hopping coefficient that the action declares.

    Raises:
        DmmcError: if it declares none.
    """
    hopping = declaration(action).hopping
    if hopping is None:
        name = action.describe().get("name")
        raise DmmcError(
            "cluster updates need an action that declares its hopping term, such as Phi4, "
            f"and {name!r} does not; use HMC"
        )
    return hopping
