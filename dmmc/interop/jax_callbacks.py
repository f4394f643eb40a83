"""Between torch and JAX: actions and proposals of either in the other, by callbacks that pass NumPy arrays.

A function of dmmc becomes a function of JAX that works under ``jit``, ``vmap`` and ``scan``; JAX calls back to the
process for it, on the CPU. Actions have gradients both ways. See :mod:`dmmc.interop.bijx` and
:mod:`dmmc.interop.blackjax` for what these packages expect.

JAX computes in float32 unless ``jax.config.update("jax_enable_x64", True)`` is called first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.rng import integers, stream
from dmmc.proposals.base import Proposal
from dmmc.proposals.checked import checked_log_q, checked_sample
from dmmc.theory.actions import Action, Symmetry, declaration
from dmmc.theory.evaluation import evaluate, force
from dmmc.theory.lattice import Lattice

Function = Callable[..., Any]


def refuse_float32() -> None:
    """Refuse to compute in float32 what dmmc needs in float64.

    Raises:
        DmmcError: unless JAX computes in float64.
    """
    if not jax.config.jax_enable_x64:
        raise DmmcError(
            'JAX computes in float32, and actions of chains need float64; call jax.config.update("jax_enable_x64", '
            "True) before anything else of JAX"
        )


@dataclass(frozen=True)
class JaxAction:
    """An action of JAX in dmmc: a function of one field ``lattice`` that returns one number.

    Its gradient comes from ``jax.grad``, and batches from ``jax.vmap``.

    Args:
        function: S of one field.
        name: recorded in model and ensemble files.
        parameters: names and values that JSON can hold, recorded and compared likewise.
        components, symmetry, scale, minimum, hopping: declarations; see :mod:`dmmc.theory.actions`.

    Raises:
        DmmcError: if a declaration is impossible, or JAX computes in float32; on evaluation, if ``function`` returns
            anything but one number.
    """

    function: Function
    name: str
    parameters: tuple[tuple[str, float], ...] = ()
    components: int | None = field(default=None, kw_only=True)
    symmetry: Symmetry | None = field(default=None, kw_only=True)
    scale: float = field(default=1.0, kw_only=True)
    minimum: float = field(default=0.0, kw_only=True)
    hopping: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        refuse_float32()
        declaration(self)

    @cached_property
    def _value(self) -> Function:
        return jax.jit(jax.vmap(self.function))

    @cached_property
    def _gradient(self) -> Function:
        return jax.jit(jax.vmap(jax.grad(self.function)))

    def __call__(self, phi: Tensor) -> Tensor:
        S = self._value(_to_jax(phi))
        if S.shape != (len(phi),):
            raise DmmcError(
                f"the action {self.name!r} must return one number for a field; got shape {S.shape[1:]}. A density, "
                "such as phi4_term of bijx, has to be summed over the sites"
            )
        return _to_torch(S, phi)

    def grad(self, phi: Tensor) -> Tensor:
        return _to_torch(self._gradient(_to_jax(phi)), phi)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, **dict(self.parameters)}


def action_for(action: Action, lattice: Lattice) -> Function:
    """An action of dmmc as a function of JAX: S of one field ``lattice``, with its gradient.

    Args:
        action: the action.
        lattice: the lattice of the fields.
    """

    def value(phi: Any) -> Any:
        return evaluate(action, _fields(phi, lattice)).numpy().reshape(np.shape(phi)[: -len(lattice.field_shape)])

    def gradient(phi: Any) -> Any:
        return force(action, _fields(phi, lattice)).numpy().reshape(np.shape(phi))

    @jax.custom_vjp  # type: ignore[untyped-decorator, unused-ignore]  # jax may not be installed
    def S(phi: Any) -> Any:
        return _callback(value, (), phi)

    S.defvjp(
        lambda phi: (S(phi), phi),
        lambda phi, cotangent: (cotangent * _callback(gradient, lattice.field_shape, phi),),
    )
    return S


def sample_for(proposal: Proposal, lattice: Lattice, n: tuple[int, ...] = ()) -> Function:
    """Samples of a proposal as a function of JAX: ``key -> (fields (*n, *lattice), log_q n)``.

    Under ``vmap`` all fields are made together, and depend on the keys of all. A field that is not finite, or whose
    density is not, comes as zeros with ``log_q = inf``: it has no weight.

    Raises:
        DmmcError: if log q of the proposal is only an estimate.
    """
    if reason := getattr(proposal, "inexact", ""):
        raise DmmcError(f"a chain with these proposals would not be exact: {reason}; use an exact divergence")

    def draw(words: Any) -> tuple[Any, Any]:
        words = np.asarray(words)
        shape = (*words.shape[:-1], *n)
        fields = math.prod(shape)
        generator = stream(0, "jax", *map(int, words.ravel()))
        with torch.no_grad():
            phi, log_q = checked_sample(*proposal.sample(fields, generator), fields, lattice)
        valid = torch.isfinite(phi).flatten(1).all(1) & torch.isfinite(log_q)
        phi = torch.where(valid.view(-1, *(1,) * len(lattice.field_shape)), phi, 0.0)
        log_q = torch.where(valid, log_q, torch.inf)
        dtype = _dtype()
        return phi.numpy().reshape(*shape, *lattice.field_shape).astype(dtype), log_q.numpy().reshape(shape).astype(
            dtype
        )

    def sample(key: Any) -> Any:
        dtype = _dtype()
        shapes = jax.ShapeDtypeStruct((*n, *lattice.field_shape), dtype), jax.ShapeDtypeStruct(n, dtype)
        return jax.pure_callback(draw, shapes, jax.random.key_data(key), vmap_method="broadcast_all")

    return sample


def log_q_for(proposal: Proposal, lattice: Lattice) -> Function:
    """The density of a proposal as a function of JAX: fields ``(..., *lattice)`` to their log q ``(...)``."""

    def density(phi: Any) -> Any:
        fields = _fields(phi, lattice)
        with torch.no_grad():
            log_q = checked_log_q(proposal.log_q(fields), len(fields))
        return log_q.double().numpy().reshape(np.shape(phi)[: -len(lattice.field_shape)])

    return lambda phi: _callback(density, jnp.shape(phi)[: -len(lattice.field_shape)], phi)


@dataclass(frozen=True)
class JaxProposal(Proposal):
    """Samples of JAX as a proposal of dmmc.

    Args:
        draw: ``draw(n, key) -> (fields (n, *lattice), log_q (n,))``.
        density: fields ``(n, *lattice)`` to their log density ``(n,)``.
        label: what files call it. A chain is resumed only with a proposal of the same label.
    """

    draw: Function
    density: Function
    label: str
    evaluations = 1

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seed = int(integers(2**32, (), generator))
        phi, log_q = self.draw(n, jax.random.key(seed))
        return _from_jax(phi), _from_jax(log_q)

    def log_q(self, phi: Tensor) -> Tensor:
        return _from_jax(self.density(jnp.asarray(phi.cpu().numpy())))

    def describe(self) -> dict[str, Any]:
        return {"name": "jax", "flow": self.label}


def _dtype() -> Any:
    return np.float64 if jax.config.jax_enable_x64 else np.float32


def _callback(function: Function, shape: tuple[int, ...], phi: Any) -> Any:
    dtype = _dtype()
    result = jax.ShapeDtypeStruct(shape, dtype)
    return jax.pure_callback(lambda x: function(x).astype(dtype), result, phi, vmap_method="broadcast_all")


def _fields(phi: Any, lattice: Lattice) -> Tensor:
    array = np.array(phi, dtype=np.float64)  # a copy, since JAX's memory is read-only
    if array.shape[array.ndim - len(lattice.field_shape) :] != lattice.field_shape:
        raise DmmcError(f"the fields should have shape (..., {lattice.field_shape}), got {array.shape}")
    return torch.from_numpy(array.reshape(-1, *lattice.field_shape))


def _to_jax(phi: Tensor) -> Any:
    return jnp.asarray(phi.detach().cpu().numpy())


def _from_jax(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def _to_torch(array: Any, like: Tensor) -> Tensor:
    return _from_jax(array).to(like)
