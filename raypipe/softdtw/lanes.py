"""A numba type for several numbers that are computed at once, one series a lane, so that no loop needs vectorising.

`Lanes` is an LLVM vector of `lane_bytes`: of 64 bytes where registers are as wide (AVX-512), else of 32, which is one
register of AVX2 and two of NEON. So a kernel has 32 or 16 values in registers, and about 16 everywhere else. Kernels
read and write lanes with `load` and `store` at an index into a flat array, and calculate with ``+ - * /`` between
lanes, or between lanes and scalars, as with plain numbers.

numba's cache on disk checks only the file of a compiled function. After a change here, in `cells`, `limits` or
`sweeps`, save the files that use it too (`touch raypipe/softdtw/*.py`), or the old code runs.
"""

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

_INLINE = {"forceinline": True}
_FLAGS = ("nnan", "ninf", "nsz", "contract")  # All numbers are finite; "contract" fuses a * b + c.


@cache
def lane_bytes() -> int:
    """Return 64 if LLVM adds 64 bytes in one register of the processor that numba compiles for, else 32."""
    vector = ir.VectorType(ir.FloatType(), 16)
    module = ir.Module()
    probe = ir.Function(module, ir.FunctionType(vector, [vector, vector]), "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    builder.ret(builder.fadd(*probe.args))
    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    target = binding.Target.from_triple(triple).create_target_machine(cpu=processor, features=features)
    return 64 if "zmm" in target.emit_assembly(binding.parse_assembly(str(module))) else 32


def scratch(size: int, dtype: np.dtype) -> np.ndarray:
    """Allocate a flat array, aligned so that no lanes lie across two cache lines."""
    memory = np.empty(size * dtype.itemsize + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size * dtype.itemsize].view(dtype)


class Lanes(types.Type):
    """`lane_bytes` of one float type."""

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")

    @property
    def count(self) -> int:
        """Number of lanes."""
        return lane_bytes() * 8 // self.dtype.bitwidth

    @property
    def fraction_bits(self) -> int:
        """Number of bits below the exponent in IEEE 754."""
        return 23 if self.dtype.bitwidth == 32 else 52

    @property
    def bias(self) -> int:
        """Value of the exponent's bits for 2⁰."""
        return 127 if self.dtype.bitwidth == 32 else 1023

    @property
    def unit(self) -> float:
        """What exponents count in: the lowest bit of the exponent as an integer; but 1 in float64."""
        return 2.0**self.fraction_bits if self.dtype.bitwidth == 32 else 1.0

    @property
    def farthest(self) -> int:
        """The power below which `scale_by_power` does not go: what is scaled remains a normal number."""
        return -100 if self.dtype.bitwidth == 32 else -900


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes):
        element = manager.lookup(lanes.dtype).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(element, lanes.count))


def width(array: Any) -> int:
    """Return the number of lanes for the array's type, which is a constant in a kernel."""
    raise NotImplementedError("only in compiled code")


@overload(width, jit_options=_INLINE)
def _width(array):
    count = Lanes(array.dtype).count
    return lambda array: count


@intrinsic
def hide(typing: Any, number: Any):
    """Return a whole number of which LLVM knows nothing: it does not unroll a loop that advances by it."""

    def emit(context, builder, signature, values):
        kind = ir.FunctionType(values[0].type, [values[0].type])
        return builder.asm(kind, "", "=r,0", values, False)

    return types.intp(types.intp), emit


@intrinsic
def align_stack(typing: Any):
    """Let the function that calls this keep lanes in memory where none lies across two cache lines.

    LLVM aligns a function's stack to lanes only for a variable, not for values that find no register. Across two lines
    a store and a load take several times as long, and whether they are depends on what calls the function, even on the
    size of the environment.
    """

    def emit(context, builder, signature, values):
        room = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), lane_bytes()))
        room.align = lane_bytes()
        builder.asm(ir.FunctionType(ir.VoidType(), [room.type]), "", "r", [room], True)
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def load(typing: Any, array: Any, index: Any):
    """Read lanes from a flat array, from ``array[index]`` on."""
    lanes = Lanes(array.dtype)

    def emit(context, builder, signature, values):
        vector = context.get_value_type(lanes)
        pointer = _pointer(context, builder, signature.args[0], *values[:2])
        return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=lanes.dtype.bitwidth // 8)

    return lanes(array, types.intp), emit


@intrinsic
def spread(typing: Any, array: Any, index: Any):
    """Read one number of a flat array into all lanes; unlike ``array[index]`` this does not check the index's sign."""
    lanes = Lanes(array.dtype)

    def emit(context, builder, signature, values):
        return _splat(builder, builder.load(_pointer(context, builder, signature.args[0], *values)), lanes)

    return lanes(array, types.intp), emit


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any):
    """Write lanes to a flat array, from ``array[index]`` on."""

    def emit(context, builder, signature, values):
        pointer = _pointer(context, builder, signature.args[0], *values[:2])
        pointer = builder.bitcast(pointer, values[2].type.as_pointer())
        builder.store(values[2], pointer, align=signature.args[2].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def splat(typing: Any, scalar: Any):
    """Return lanes that all hold the scalar."""
    lanes = Lanes(scalar)
    return lanes(scalar), lambda context, builder, signature, values: _splat(builder, values[0], lanes)


def _binary(emit_one: Callable[..., Any]) -> Any:
    """Make an operation on two lanes, or on lanes and a scalar."""

    @intrinsic
    def operation(typing, a, b):
        lanes = a if isinstance(a, Lanes) else b

        def emit(context, builder, signature, values):
            return emit_one(builder, *_both(builder, signature.args, values))

        taken = [one if isinstance(one, Lanes) else lanes.dtype for one in (a, b)]
        return lanes(*taken), emit

    return operation


def _both(builder: Any, kinds: Any, values: Any) -> list[Any]:
    """Return the values of two arguments as lanes, if one of them is."""
    lanes = next(one for one in kinds if isinstance(one, Lanes))
    pairs = zip(kinds, values, strict=True)
    return [value if isinstance(kind, Lanes) else _splat(builder, value, lanes) for kind, value in pairs]


def _pick(sign: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(sign, a, b, flags=_FLAGS), a, b)


least = _binary(_pick("<"))
most = _binary(_pick(">"))


@intrinsic
def between(typing: Any, value: Any, number: Any, low: Any, high: Any, otherwise: Any):
    """Return the value in lanes where ``low ≤ number < high``, and elsewhere what is given ``otherwise``."""

    def emit(context, builder, signature, values):
        value, number, low, high, otherwise = values
        number = _splat(builder, number, signature.args[0])
        inside = builder.fcmp_ordered("<=", low, number, flags=_FLAGS)
        inside = builder.and_(inside, builder.fcmp_ordered("<", number, high, flags=_FLAGS))
        return builder.select(inside, value, otherwise)

    return value(value, value.dtype, value, value, value), emit


def _give_operator(sign: Any, emit_one: Callable[..., Any]) -> None:
    """Let an operator take two lanes, or lanes and a scalar; an overload of it would be compiled for each pair."""

    @infer_global(sign)
    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            found = [one for one in args if isinstance(one, Lanes)]
            if len(args) != 2 or not found:
                return None
            return signature(found[0], *(one if isinstance(one, Lanes) else found[0].dtype for one in args))

    def emit(context, builder, signature, values):
        return emit_one(builder, *_both(builder, signature.args, values))

    for pair in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(sign, *pair)(emit)


_give_operator(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_give_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_give_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_give_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))


@intrinsic
def nearest(typing: Any, value: Any):
    """Round to whole numbers."""

    def emit(context, builder, signature, values):
        kind = values[0].type
        name = f"llvm.rint.v{kind.count}f{value.dtype.bitwidth}"
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), values)

    return value(value), emit


@intrinsic
def scale_by_power(typing: Any, value: Any, power: Any):
    """Return ``value · 2^power`` for a whole power of at most 0, which counts in `Lanes.unit`; see `Lanes.farthest`.

    The power is added to the exponent's bits. In float32 it is there already once it is an integer. (What does not fit
    in an integer becomes the lowest one on x86 and on ARM, hence the farthest.) AVX2 has neither a conversion between
    float64 and int64 nor a maximum of int64. But where a number has no bits below 1, its lowest bits are the whole
    number itself, and to add ``1.5 · 2^fraction_bits`` brings powers there.
    """

    def emit(context, builder, signature, values):
        whole, constant = _integers(value)
        if value.dtype.bitwidth == 32:
            least_bits = constant(value.farthest << value.fraction_bits)
            bits = builder.fptosi(values[1], whole)
            moved = builder.select(builder.icmp_signed(">", bits, least_bits), bits, least_bits)
        else:
            far, magic = (
                ir.Constant(values[1].type, [number] * value.count)
                for number in (float(value.farthest), 1.5 * 2.0**value.fraction_bits)
            )
            near = _pick(">")(builder, values[1], far)
            moved = builder.shl(builder.bitcast(builder.fadd(near, magic), whole), constant(value.fraction_bits))
        return builder.bitcast(builder.add(builder.bitcast(values[0], whole), moved), values[0].type)

    return value(value, power), emit


@intrinsic
def in_units(typing: Any, value: Any):
    """Return whole numbers in `Lanes.unit`."""

    def emit(context, builder, signature, values):
        unit = ir.Constant(values[0].type, [value.unit] * value.count)
        return builder.fmul(values[0], unit, flags=_FLAGS)

    return value(value), emit


@intrinsic
def exponent(typing: Any, value: Any):
    """Return e, in `Lanes.unit`, for positive normal numbers ``f · 2^e``, f in [1, 2).

    In float32 the exponent's bits, less those of 2⁰, are converted. In float64 they become the lowest bits of
    ``2^fraction_bits``, which is then subtracted: no conversion, as in `scale_by_power`.
    """

    def emit(context, builder, signature, values):
        whole, constant = _integers(value)
        bits = builder.bitcast(values[0], whole)
        if value.dtype.bitwidth == 32:
            above = builder.and_(bits, constant(-1 << value.fraction_bits))
            return builder.sitofp(builder.sub(above, constant(value.bias << value.fraction_bits)), values[0].type)
        shifted = builder.lshr(bits, constant(value.fraction_bits))
        base = 2.0**value.fraction_bits
        raised = builder.or_(shifted, constant((value.fraction_bits + value.bias) << value.fraction_bits))
        off = ir.Constant(values[0].type, [base + value.bias] * value.count)
        return builder.fsub(builder.bitcast(raised, values[0].type), off)

    return value(value), emit


@intrinsic
def fraction(typing: Any, value: Any):
    """Return f for positive normal numbers ``f · 2^e``, f in [1, 2)."""

    def emit(context, builder, signature, values):
        whole, constant = _integers(value)
        kept = builder.and_(builder.bitcast(values[0], whole), constant((1 << value.fraction_bits) - 1))
        return builder.bitcast(builder.or_(kept, constant(value.bias << value.fraction_bits)), values[0].type)

    return value(value), emit


def _integers(lanes: Lanes) -> tuple[ir.VectorType, Callable[[int], ir.Constant]]:
    """Return the type of a vector of integers as wide as the lanes, and a function that makes a constant of it."""
    vector = ir.VectorType(ir.IntType(lanes.dtype.bitwidth), lanes.count)
    return vector, lambda number: ir.Constant(vector, [number] * lanes.count)


def _splat(builder: Any, scalar: Any, lanes: Lanes) -> Any:
    vector = ir.VectorType(scalar.type, lanes.count)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes.count), [0] * lanes.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return cgutils.gep_inbounds(builder, context.make_array(kind)(context, builder, array).data, index)
