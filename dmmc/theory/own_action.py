"""Actions of your own: functions of NumPy arrays, of torch tensors, or of a C library.

Whatever a function works with, what comes out of :func:`action` meets the contract of
:class:`dmmc.theory.actions.Action`. The conversions are made here and nowhere else: NumPy and C functions always see
C-contiguous float64 arrays in the memory of the CPU, and fields of another dtype or device are converted on the way in
and out. Float64 fields on the CPU are passed on as they are, without a copy.
"""

from __future__ import annotations

import ctypes
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmc.core.errors import DmmcError
from dmmc.core.records import json_text
from dmmc.theory.actions import Symmetry
from dmmc.theory.function_action import AutogradAction, FunctionAction

Array = NDArray[np.float64]
Backend = Literal["numpy", "torch", "ctypes"]


def action(
    S: Callable[..., Any],
    grad: Callable[..., Any] | None = None,
    *,
    backend: Backend = "numpy",
    name: str | None = None,
    components: int | None = None,
    symmetry: Symmetry | None = None,
    scale: float = 1.0,
    minimum: float | Callable[[int], float] = 0.0,
    hopping: float | None = None,
    costly: bool = False,
    **parameters: Any,
) -> FunctionAction:
    """An action made of functions of your own.

    ``S`` maps fields ``(n, *lattice)`` to their actions ``(n,)``, and treats the fields of a batch separately; ``grad``
    maps them to dS/dphi, of the shape of the fields. Both must leave the fields alone and return new arrays.

    * ``numpy``: both work with float64 arrays. The fields cannot be written to.
    * ``torch``: both work with tensors, and return them in the dtype and on the device of the fields. Without ``grad``
      the gradient comes from autograd.
    * ``ctypes``: both are functions of a library that was loaded with :class:`ctypes.CDLL`, of the signature ::

        int f(const double *phi, int64_t n, int64_t dim, const int64_t *shape, const double *parameters, double *out)

      where ``phi`` are n fields in C order on a lattice of ``dim`` extents ``shape``, ``out`` has space for n actions,
      or for n gradients, and a result other than 0 is reported as an error.

    Args:
        S: the action.
        grad: its gradient. Without one, which never is replaced by differences, there is no HMC, and models learn from
            the fields of an ensemble alone.
        backend: what ``S`` and ``grad`` work with.
        name: what files and tables call the action; by default the name of the function ``S``.
        components, symmetry, scale, minimum, hopping, costly: declarations, as at the head of
            :mod:`dmmc.theory.actions`; by default nothing is said.
        parameters: couplings and the like, as values that JSON can hold. With the name they identify the action in
            files, which are refused for an action of another description. A Python function that has arguments of
            these names gets them; a C function gets all of them, as doubles in this order.

    Raises:
        DmmcError: if an argument is not what it should be, or a declaration is impossible.
    """
    adapters: dict[str, Callable[..., Adapter]] = {"numpy": _numpy, "torch": _torch, "ctypes": _ctypes}
    if backend not in adapters:
        raise DmmcError(f"the backend of an action is one of {', '.join(adapters)}, not {backend!r}")
    if name is None:
        name = getattr(S, "__name__", None)
    if not isinstance(name, str) or not name or name == "<lambda>":
        raise DmmcError(f"an action needs a name, by which files know it, such as name='phi6'; got {name!r}")
    json_text(parameters, f"the parameters of the action {name!r}")
    adapt = partial(adapters[backend], parameters=parameters)
    function = adapt(S, f"the action {name!r}", gradient=False)
    gradient = None if grad is None else adapt(grad, f"the action {name!r}.grad", gradient=True)
    declared: dict[str, Any] = {
        "components": components,
        "symmetry": symmetry,
        "scale": scale,
        "minimum": minimum,
        "hopping": hopping,
        "costly": costly,
    }
    if gradient is None and backend == "torch":
        return AutogradAction(function, name, tuple(parameters.items()), **declared)
    return FunctionAction(function, name, tuple(parameters.items()), gradient=gradient, **declared)


Adapter = Callable[[Tensor], Tensor]
"""A function of torch tensors that stands in for another one."""


def _torch(function: Callable[..., Any], what: str, *, gradient: bool, parameters: Mapping[str, Any]) -> Adapter:
    return _with_parameters(function, what, parameters)


def _numpy(function: Callable[..., Any], what: str, *, gradient: bool, parameters: Mapping[str, Any]) -> Adapter:
    bound = _with_parameters(function, what, parameters)

    def call(phi: Tensor) -> Tensor:
        fields = _array(phi)
        fields.flags.writeable = False
        shape = fields.shape if gradient else fields.shape[:1]
        try:
            value = bound(fields)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise DmmcError(f"{what} changes the fields that it is given; work on a copy") from error
        except (AttributeError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DmmcError(
                f'{what} fails [{reason}]; it gets a NumPy array, unless backend="torch" is given'
            ) from error
        if not isinstance(value, np.ndarray) or (value.shape, value.dtype) != (shape, np.float64):
            got = type(value).__name__
            if isinstance(value, np.ndarray):
                got = f"shape {value.shape}, {value.dtype}"
            raise DmmcError(f"{what} must return an array of shape {shape}, float64; got {got}")
        if not value.flags.writeable or not value.flags.c_contiguous:  # such as the fields themselves, or a broadcast
            value = np.array(value, order="C")
        return torch.from_numpy(value).to(phi)

    return call


def _ctypes(function: Callable[..., Any], what: str, *, gradient: bool, parameters: Mapping[str, Any]) -> Adapter:
    if not (hasattr(function, "argtypes") and hasattr(function, "restype")):
        raise DmmcError(
            f"{what} must be a function of a library loaded with ctypes.CDLL, such as ctypes.CDLL('./mine.so').action; "
            f"got {type(function).__name__}"
        )
    for key, value in parameters.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DmmcError(f"a C function gets its parameters as doubles, which {key} = {value!r} is not")
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int, *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *(ctypes.c_void_p,) * 3)
    )
    compiled = prototype(ctypes.cast(function, ctypes.c_void_p).value)  # type: ignore[arg-type]  # ctypes has no type for this
    doubles = (ctypes.c_double * max(1, len(parameters)))(*parameters.values())

    def call(phi: Tensor, library: object = function) -> Tensor:  # the function keeps its library loaded
        fields = _array(phi)
        n, *lattice = fields.shape
        shape = (ctypes.c_int64 * len(lattice))(*lattice)
        out = np.empty(fields.shape if gradient else (n,))
        error = compiled(fields.ctypes.data, n, len(lattice), shape, doubles, out.ctypes.data)
        if error:
            raise DmmcError(
                f"{what} returned the error {error}; if all is well it must return 0, and have the signature "
                "int f(const double *, int64_t, int64_t, const int64_t *, const double *, double *)"
            )
        return torch.from_numpy(out).to(phi)

    return call


def _array(phi: Tensor) -> Array:
    """Fields as a C-contiguous float64 array; a view of them where that is possible."""
    return np.ascontiguousarray(phi.detach().to("cpu", torch.float64).numpy())


def _with_parameters(function: Callable[..., Any], what: str, parameters: Mapping[str, Any]) -> Callable[..., Any]:
    """The function of the fields alone: arguments that have the names of parameters get their values."""
    if not callable(function):
        raise DmmcError(f"{what} must be a function, got {type(function).__name__}")
    try:
        _, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled functions need not have a signature, and one without arguments fails
        others = []
    named = [x for x in others if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)]
    known = {x.name: parameters[x.name] for x in named if x.name in parameters}
    missing = [x.name for x in named if x.name not in known and x.default is x.empty]
    if missing:
        raise DmmcError(
            f"{what} has arguments beside the fields that nothing was given for: {', '.join(missing)}; give them as "
            "parameters, such as kappa=0.27"
        )
    return partial(function, **known) if known else function
