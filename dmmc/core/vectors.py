"""Vectors of the machine in functions compiled by Numba: :data:`LANES` numbers on which every operation works at once.

Numba leaves it to the compiler to find loops that can be made of vectors, and the compiler gives up where it cannot
prove that arrays do not overlap. Here the vectors are in the program. What the machine has no registers for, the
compiler takes apart. ``load``, ``spread`` and ``store`` work on flat contiguous arrays and check no index.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
"""Numbers in a vector: a register of AVX-512 in float32, two in float64."""

_FLAGS = ("nsz", "contract")
"""Zeros have no sign, and a product may be added without being rounded first."""


class _Vector(types.Type):
    """The type of a vector, for Numba."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"_Vector({LANES} x {dtype})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Any) -> None:
        super().__init__(manager, vector, ir.VectorType(manager[vector.dtype].get_value_type(), LANES))


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _spread(builder: Any, x: Any) -> Any:
    vector = ir.VectorType(x.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The vector that begins at ``array[index]``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        vector = context.get_value_type(signature.return_type)
        return builder.load(builder.bitcast(address, vector.as_pointer()), align=array.dtype.bitwidth // 8)

    return _Vector(array.dtype)(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, index: Any, x: Any) -> Any:
    """Put the vector ``x`` to ``array[index]`` and what follows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        to = builder.bitcast(address, args[2].type.as_pointer())
        builder.store(args[2], to, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), code


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """A vector of equal numbers, ``array[index]``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], args[0], args[1])))

    return _Vector(array.dtype)(array, types.intp), code


@intrinsic
def none(typing: Any, array: Any) -> Any:
    """A vector of zeros of the type of the numbers of ``array``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), [0.0] * LANES)

    return _Vector(array.dtype)(array), code


@intrinsic
def ones(typing: Any, like: Any) -> Any:
    """A vector of ones, like another vector."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, [1.0] * LANES)

    return like(like), code


@intrinsic
def widen(typing: Any, x: Any) -> Any:
    """The same numbers in float64."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        return args[0] if args[0].type == wide else builder.fpext(args[0], wide)

    return _Vector(types.float64)(x), code


@intrinsic
def add(typing: Any, x: Any, y: Any) -> Any:
    """``x + y``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args, flags=_FLAGS)

    return x(x, y), code


@intrinsic
def subtract(typing: Any, x: Any, y: Any) -> Any:
    """``x - y``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args, flags=_FLAGS)

    return x(x, y), code


@intrinsic
def multiply(typing: Any, x: Any, y: Any) -> Any:
    """``x y``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args, flags=_FLAGS)

    return x(x, y), code


@intrinsic
def multiply_add(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """``x y + z``, rounded once where the machine can."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(builder.fmul(args[0], args[1], flags=_FLAGS), args[2], flags=_FLAGS)

    return x(x, y, z), code


@intrinsic
def inverse_root(typing: Any, x: Any) -> Any:
    """``1 / sqrt(x)``."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        name = f"llvm.sqrt.v{LANES}f{x.dtype.bitwidth}"
        root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector]), name)
        one = ir.Constant(vector, [1.0] * LANES)
        return builder.fdiv(one, builder.call(root, args, fastmath=_FLAGS), flags=_FLAGS)

    return x(x), code
