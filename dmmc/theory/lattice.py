"""Periodic hypercubic lattices: momenta, orbits, propagators.

A field ``phi`` has shape ``(batch, *lattice)``, and one with N components ``(batch, N, *lattice)``; wherever a shape
``(n, *lattice)`` is given, fields with components have the axis of these before the lattice. Fourier transforms are
orthonormal and real
(``rfftn(norm="ortho")``), so that only half of the momenta is stored. Every sum over the stored half weights each mode
with its :attr:`Lattice.multiplicity` (1 or 2), which makes it a sum over the whole Brillouin zone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dmmc.core.errors import DmmcError, MismatchError
from dmmc.core.scalars import check_count
from dmmc.theory import momenta

# A table may first be asked for in inference mode and then be kept; autograd would refuse tensors that were made there.
outside_inference = torch.inference_mode(False)


@dataclass(frozen=True)
class Lattice:
    """A periodic lattice with unit spacing and one to four dimensions.

    Tables are float64 (or int64) tensors on the CPU. ``half`` below is the shape of the stored modes,
    ``(L_1, ..., L_{d-1}, L_d // 2 + 1)``.

    Args:
        shape: the extent of each axis.
        components: number of components of the fields that live on it; None for scalar fields, which have no axis of
            components.

    Raises:
        DmmcError: if ``shape`` does not have one to four positive extents, or ``components`` is not positive.
    """

    shape: tuple[int, ...]
    components: int | None = None

    def __post_init__(self) -> None:
        try:
            shape = tuple(int(extent) for extent in self.shape)
        except (TypeError, ValueError):
            raise DmmcError(f"lattice shape must be a sequence of integers, got {self.shape!r}") from None
        if not 1 <= len(shape) <= 4 or any(extent < 1 for extent in shape):
            raise DmmcError(f"lattice shape must have 1 to 4 positive extents, got {tuple(self.shape)!r}")
        if shape != tuple(self.shape):
            raise DmmcError(f"lattice extents must be integers, got {tuple(self.shape)!r}")
        object.__setattr__(self, "shape", shape)
        if self.components is not None:
            object.__setattr__(self, "components", check_count(self.components, "components"))

    def __repr__(self) -> str:
        components = "" if self.components is None else f", components={self.components}"
        return f"Lattice(shape={self.shape}{components})"

    @property
    def field_shape(self) -> tuple[int, ...]:
        """The shape of one field: that of the lattice, with the axis of components before it if there are any."""
        return self.shape if self.components is None else (self.components, *self.shape)

    @property
    def n_components(self) -> int:
        """Number of components of a field; 1 for a scalar field."""
        return 1 if self.components is None else self.components

    @property
    def n_numbers(self) -> int:
        """How many numbers a field consists of: sites times components."""
        return math.prod(self.field_shape)

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return len(self.shape)

    @property
    def volume(self) -> int:
        """Number of sites V."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the lattice in a tensor ``(..., *shape)``, counted from the end."""
        return tuple(range(-self.dim, 0))

    @property
    def half(self) -> tuple[int, ...]:
        """Shape of the stored modes."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1)

    def carrying(self, components: int | None) -> Lattice:
        """This lattice with fields of so many components.

        Raises:
            MismatchError: if its fields have another number of them.
        """
        if self.components not in (None, components):
            raise MismatchError(
                f"the fields of the lattice have {self.components} components, and those of the action "
                f"{'are scalar' if components is None else f'have {components}'}; use Lattice({self.shape})"
            )
        return self if self.components == components else Lattice(self.shape, components)

    @classmethod
    def of_fields(cls, phi: Tensor, components: int | None = None) -> Lattice:
        """The lattice of fields ``(n, *lattice)``, or of fields with components ``(n, components, *lattice)``.

        Raises:
            DmmcError: if the fields do not have this shape.
        """
        if components is None:
            return cls(tuple(phi.shape[1:]))
        if phi.ndim < 3 or phi.shape[1] != components:
            raise DmmcError(
                f"fields with {components} components must have shape (n, {components}, *lattice), got "
                f"{tuple(phi.shape)}"
            )
        return cls(tuple(phi.shape[2:]), components)

    @cached_property
    @outside_inference
    def phat2(self) -> Tensor:
        """Lattice momentum squared, ``sum_mu 4 sin^2(p_mu / 2)``, shape ``half``."""
        total = torch.zeros(self.half, dtype=torch.float64, device="cpu")
        for axis, extent in enumerate(self.shape):
            modes = torch.arange(self.half[axis], dtype=torch.float64, device="cpu")
            view = [1] * self.dim
            view[axis] = -1
            total = total + (4.0 * torch.sin(math.pi * modes / extent) ** 2).view(view)
        return total

    @cached_property
    @outside_inference
    def multiplicity(self) -> Tensor:
        """How often each stored mode counts in a sum over all momenta: 2, or 1 where it is its own conjugate."""
        extent = self.shape[-1]
        weights = torch.full((self.half[-1],), 2.0, dtype=torch.float64, device="cpu")
        weights[0] = 1.0
        if extent % 2 == 0:
            weights[-1] = 1.0
        return weights.expand(self.half).clone()

    @cached_property
    @outside_inference
    def orbit_index(self) -> Tensor:
        """Number of the hypercubic orbit (see :mod:`dmmc.theory.momenta`) of each stored mode, shape ``half``."""
        number = {mode: k for k, mode in enumerate(self.orbit_modes)}
        stored = itertools.product(*map(range, self.half))
        index = [number[momenta.representative(mode, self.shape)] for mode in stored]
        return torch.tensor(index, device="cpu").view(self.half)

    @cached_property
    @outside_inference
    def orbit_members(self) -> Tensor:
        """The stored modes of each orbit, ``(n_orbits, largest orbit)``; unused places hold the number of modes."""
        index = self.orbit_index.flatten()
        members = [torch.nonzero(index == k).flatten() for k in range(len(self.orbit_modes))]
        return torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=len(index))

    @property
    def orbit_modes(self) -> tuple[tuple[int, ...], ...]:
        """One representative of each orbit, as mode numbers n with ``p = 2 pi n / L``."""
        return momenta.orbit_modes(self.shape)

    @cached_property
    @outside_inference
    def orbit_size(self) -> Tensor:
        """Number of momenta in each orbit, shape ``(n_orbits,)``; sums to V."""
        return torch.from_numpy(momenta.orbit_size(self.shape))

    @cached_property
    @outside_inference
    def orbit_phat2(self) -> Tensor:
        """``phat2`` of each orbit, shape ``(n_orbits,)``, increasing."""
        return torch.from_numpy(momenta.orbit_phat2(self.shape))

    def to_modes(self, phi: Tensor) -> Tensor:
        """Orthonormal real Fourier transform, ``(..., *shape) -> (..., *half)`` complex."""
        return torch.fft.rfftn(phi, dim=self.axes, norm="ortho")

    def to_sites(self, modes: Tensor) -> Tensor:
        """Inverse of :meth:`to_modes`."""
        return torch.fft.irfftn(modes, s=self.shape, dim=self.axes, norm="ortho")

    def sum_modes(self, values: Tensor) -> Tensor:
        """Sum over the whole Brillouin zone of real ``values`` of shape ``(..., *half)``."""
        return (values * self.multiplicity.to(values)).sum(dim=self.axes)

    def length2(self, phi: Tensor) -> Tensor:
        """``|phi|^2`` on every site, or every mode, summed over the components: without their axis if there are any."""
        square = phi.real.square() + phi.imag.square() if phi.is_complex() else phi.square()
        return square if self.components is None else square.sum(-self.dim - 1)

    def norm2(self, modes: Tensor) -> Tensor:
        """``|modes|^2`` summed over the whole Brillouin zone and the components."""
        return self.sum_modes(self.length2(modes))

    def orbit_mean(self, values: Tensor) -> Tensor:
        """Average of real ``values`` ``(..., *half)`` over each momentum orbit, ``(..., n_orbits)``."""
        flat = (values * self.multiplicity.to(values)).flatten(-self.dim)
        if flat.device.type == "cpu":
            total = flat.new_zeros(*flat.shape[:-1], len(self.orbit_modes))
            total = total.index_add(-1, self.orbit_index.flatten(), flat)
        else:  # there index_add sums in another order every time, and the last digits change
            padded = torch.cat([flat, flat.new_zeros(*flat.shape[:-1], 1)], -1)
            total = padded[..., self.orbit_members.to(flat.device)].sum(-1)
        return total / self.orbit_size.to(total)

    def spread(self, orbit_values: Tensor) -> Tensor:
        """The value of its orbit for every stored mode, ``(..., n_orbits) -> (..., *half)``."""
        index = self.orbit_index.to(orbit_values.device)
        return orbit_values[..., index]

    def two_point(self, phi: Tensor) -> Tensor:
        """``|phi(p)|^2``, summed over the components and averaged over each orbit, ``(..., n_orbits)``.

        Orbit 0 is ``V M^2``; the mean field is not subtracted.
        """
        return self.orbit_mean(self.length2(self.to_modes(phi)))

    def check(self, phi: Tensor, name: str = "phi") -> None:
        """Refuse everything but finite real floating-point fields ``(batch, *field_shape)``.

        Raises:
            DmmcError: on a wrong type, shape or dtype, or NaN/infinite values.
        """
        if not isinstance(phi, Tensor):
            raise DmmcError(f"{name} must be a torch.Tensor, got {type(phi).__name__}; use torch.as_tensor(...)")
        if not phi.dtype.is_floating_point:
            raise DmmcError(f"{name} must be real floating point, got {phi.dtype}; use phi.double()")
        if tuple(phi.shape[1:]) != self.field_shape or not phi.ndim:
            what = "" if self.components is None else f", where the field has {self.components} components"
            raise DmmcError(
                f"{name} must have shape (batch, {', '.join(map(str, self.field_shape))}){what}; got {tuple(phi.shape)}"
            )
        if not bool(torch.isfinite(phi).all()):
            raise DmmcError(f"{name} has NaN or infinite values; remove those configurations first")


def both_neighbours(x: Tensor, axis: int, distance: int = 1) -> Tensor:
    """``x(y + distance e) + x(y - distance e)``, where e is the unit vector of the periodic ``axis`` of the tensor."""
    n = x.shape[axis]
    if n <= 2 * distance or x.requires_grad:
        return torch.roll(x, distance, axis) + torch.roll(x, -distance, axis)
    out = torch.empty_like(x)  # three writes, without the copies that two rolls would make
    inner, m = n - 2 * distance, distance
    torch.add(x.narrow(axis, 0, inner), x.narrow(axis, 2 * m, inner), out=out.narrow(axis, m, inner))
    torch.add(x.narrow(axis, n - m, m), x.narrow(axis, m, m), out=out.narrow(axis, 0, m))
    torch.add(x.narrow(axis, n - 2 * m, m), x.narrow(axis, 0, m), out=out.narrow(axis, n - m, m))
    return out


def neighbours(phi: Tensor, components: int | None = None) -> Tensor:
    """``sum_mu [phi(x + mu) + phi(x - mu)]`` of fields ``(n, *lattice)``, the same shape.

    Fields with components ``(n, components, *lattice)`` must say so.
    """
    first = 1 if components is None else 2
    total = both_neighbours(phi, first)
    for axis in range(first + 1, phi.ndim):
        total = total + both_neighbours(phi, axis)
    return total
