"""Quantisation: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, and the quantised matrix products.

Shared with the quantised convolutions: `integer_matmul` (exact int32 sums), `requantize` (int32 sums to a quantised type).
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, Shape, ceildiv
from ..expr import Compute, E, Op, acc, binary, cast, compute_type, select, unary
from ..expr import saturate as saturated_to
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, Quantized, View
from ..narrow import astype, plain
from ..types import DType
from .cast import bounded, convert, saturate
from .common import broadcast_shapes, check_equal, normalize_axis, same_type
from .maps import whole_number
from .numeric import wide
from .registry import Spec, operator, require


def spread(value: np.ndarray, shape: tuple[int, ...], axis: int, block_size: int) -> np.ndarray:
    """A scale or zero point in a form that broadcasts to `shape`: one for all, one for each index of `axis`, or one for each block along it."""
    if value.size == 1:
        return value.reshape(())
    along = normalize_axis(axis, len(shape))
    if not block_size:
        require(value.ndim == 1 and value.shape[0] == shape[along],
                f"scale {list(value.shape)} must be a scalar or have one element for each of the {shape[along]} indices of axis {axis}; blocked scales need block_size")
        return value.reshape([-1 if i == along else 1 for i in range(len(shape))])
    blocks = tuple(-(-d // block_size) if i == along else d for i, d in enumerate(shape))
    require(value.shape == blocks, f"scale {list(value.shape)} must have shape {list(blocks)} for x {list(shape)}, axis {axis} and block_size {block_size}")
    return np.repeat(value, block_size, along)[tuple(slice(d) for d in shape)]


BYTES = (DType.INT8, DType.UINT8)


@operator()
def QuantizeLinear(x: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray | None = None, *,
                   axis: int = 1, block_size: int = 0, output_dtype: int = 0, precision: int = 0, saturate: int = 1) -> np.ndarray:
    """saturate(round(x / y_scale) + y_zero_point), halves to even. The division is done in `precision`, by default y_scale's type."""
    dtype = DType(output_dtype) if output_dtype else DType.of(y_zero_point) if y_zero_point is not None else DType.UINT8
    quotient = _divide(x, spread(y_scale, x.shape, axis, block_size), precision)
    zero = None if y_zero_point is None else spread(y_zero_point, x.shape, axis, block_size)
    return to_quantized(quotient, zero, dtype, bool(saturate))


def _divide(x: np.ndarray, scale: np.ndarray, precision: int) -> np.ndarray:
    """x / scale rounded to the precision's type. Integer scales divide in float64, powers of two (float8e8m0) in float32."""
    kind = DType(precision) if precision else DType.of(scale)
    if kind.is_integer:
        kind = DType.DOUBLE
    elif kind is DType.FLOAT8E8M0:
        kind = DType.FLOAT
    return np.asarray(x.astype(kind.numpy) / wide(scale).astype(kind.numpy))


def to_quantized(quotient: np.ndarray, zero: np.ndarray | None, dtype: DType, saturated: bool = True) -> np.ndarray:
    """Real numbers in units of the scale → the quantised type: integers are rounded before the zero point is added, and saturate."""
    if not dtype.is_integer:
        shifted = quotient if zero is None or not np.any(wide(zero)) else wide(quotient) + wide(zero)
        return convert(np.asarray(shifted), dtype, saturated)
    whole = np.rint(wide(quotient)).astype(np.float64)  # exact: the zero point is added without rounding
    return saturate(whole if zero is None else whole + plain(zero).astype(np.float64), dtype)


@QuantizeLinear.shape
def _(x: Spec, y_scale: Spec, y_zero_point: Spec | None = None, *,
      axis: int = 1, block_size: int = 0, output_dtype: int = 0, precision: int = 0, saturate: int = 1) -> Spec:
    dtype = DType(output_dtype) if output_dtype else None
    zero = None if y_zero_point is None else y_zero_point.dtype
    require(None in (dtype, zero) or dtype == zero, f"output_dtype {dtype and dtype.text} is not the type of y_zero_point, {y_zero_point}")
    _check_granularity(x, y_scale, axis, block_size)
    return Spec(dtype or (zero if y_zero_point is not None else DType.UINT8), x.shape)


def _check_granularity(x: Spec, scale: Spec, axis: int, block_size: int) -> None:
    """InvalidGraph where a known scale shape fits neither per-tensor, per-axis nor blocked quantisation."""
    require(block_size >= 0, f"block_size {block_size} must not be negative")
    if x.shape is None or scale.shape is None or scale.shape in ((), (1,)):
        return
    if all(d == 1 for d in scale.shape):
        return
    along = normalize_axis(axis, len(x.shape))
    if not block_size:
        require(len(scale.shape) == 1, f"scale {scale} must be a scalar or a vector without block_size")
        check_equal(scale.shape[0], x.shape[along], f"scale {scale} must have one element for each index of axis {axis} of {x}")
        return
    require(len(scale.shape) == len(x.shape), f"scale {scale} must have the rank of {x} with block_size")
    for i, (s, d) in enumerate(zip(scale.shape, x.shape, strict=True)):
        check_equal(s, ceildiv(d, block_size) if i == along else d, f"scale {scale} does not fit {x} with block_size {block_size} on axis {axis}")


@operator()
def DequantizeLinear(x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray | None = None, *,
                     axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> np.ndarray:
    """(x − x_zero_point) · x_scale, multiplied in float32 and rounded to the output type."""
    dtype = DType(output_dtype) if output_dtype else DType.of(x_scale)
    scale = wide(spread(x_scale, x.shape, axis, block_size))
    if x_zero_point is None:
        return astype(np.asarray(plain(x).astype(np.float32) * scale), dtype)
    zero = spread(x_zero_point, x.shape, axis, block_size)
    exact: Any = np.int64 if DType.of(x).is_integer else np.float32
    return astype(np.asarray((plain(x).astype(exact) - plain(zero).astype(exact)).astype(np.float32) * scale), dtype)


@DequantizeLinear.shape
def _(x: Spec, x_scale: Spec, x_zero_point: Spec | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Spec:
    same_type(x, x_zero_point, names="x and x_zero_point")
    dtype = DType(output_dtype) if output_dtype else x_scale.dtype
    require(dtype is not DType.FLOAT8E8M0, "a float8e8m0 x_scale needs output_dtype: the result is float, float16 or bfloat16")
    _check_granularity(x, x_scale, axis, block_size)
    return Spec(dtype, x.shape)


@operator()
def DynamicQuantizeLinear(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x as uint8 with the scale and zero point that fit its range, widened to hold 0. All zeros (or nothing): scale 1, as in onnxruntime."""
    low, high = np.min(x, initial=np.float32(0)), np.max(x, initial=np.float32(0))
    scale = np.asarray((high - low) / np.float32(255) if high > low else 1, np.float32)
    zero = saturate(np.asarray(-low / scale), DType.UINT8)
    return to_quantized(x / scale, zero, DType.UINT8), scale, zero


@DynamicQuantizeLinear.shape
def _(x: Spec) -> tuple[Spec, Spec, Spec]:
    return Spec(DType.UINT8, x.shape), Spec(DType.FLOAT, ()), Spec(DType.UINT8, ())


# -- matrix products -------------------------------------------------------------------------------------------------------------------------


def integer_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b of small integers as int32 that wraps. Computed in float64, which is exact here (|a·b| ≤ 2^16 and sums below 2^53) and fast."""
    return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64))).astype(np.int64).astype(np.int32)


def by_row(value: np.ndarray, rank: int) -> np.ndarray:
    """Per-row parameters of a left matrix: a vector [M] becomes a column; scalars and [.., M, 1] broadcast as they are."""
    if value.size == 1:
        return value.reshape(())
    return value[:, None] if value.ndim == 1 and rank > 1 else value


def _centred(x: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    exact = np.int32 if DType.of(x).is_integer else np.float32
    return x.astype(exact) if zero is None else x.astype(exact) - zero.astype(exact)


def by_column(value: np.ndarray) -> np.ndarray:
    """Per-column parameters of a right matrix: [N] and [.., 1, N] broadcast as they are."""
    return value.reshape(()) if value.size == 1 else value


@operator()
def MatMulInteger(A: np.ndarray, B: np.ndarray, a_zero_point: np.ndarray | None = None, b_zero_point: np.ndarray | None = None) -> np.ndarray:
    """(A − a_zero_point) @ (B − b_zero_point) in int32."""
    left = _centred(A, None if a_zero_point is None else by_row(a_zero_point, A.ndim))
    return integer_matmul(left, _centred(B, None if b_zero_point is None else by_column(b_zero_point)))


@operator()
def QLinearMatMul(a: np.ndarray, a_scale: np.ndarray, a_zero_point: np.ndarray, b: np.ndarray, b_scale: np.ndarray, b_zero_point: np.ndarray,
                  y_scale: np.ndarray, y_zero_point: np.ndarray) -> np.ndarray:
    """The product of two dequantised matrices, quantised: int32 sums times a_scale·b_scale/y_scale in float32, rounded half to even."""
    left, right = _centred(a, by_row(a_zero_point, a.ndim)), _centred(b, by_column(b_zero_point))
    sums = integer_matmul(left, right) if DType.of(a).is_integer else np.asarray(np.matmul(left, right))
    scale = by_row(a_scale.astype(np.float32), a.ndim) * by_column(b_scale.astype(np.float32))
    return requantize(sums, scale, by_row(y_scale.astype(np.float32), a.ndim), by_row(y_zero_point, a.ndim))


def requantize(sums: np.ndarray, scale: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray) -> np.ndarray:
    """int32 sums (or float32 ones, for float8) in units of `scale` as y_zero_point's type in units of y_scale; the arithmetic is float32, as in onnxruntime."""
    return to_quantized(sums.astype(np.float32) * (scale / y_scale), y_zero_point, DType.of(y_zero_point))


@MatMulInteger.shape
def _(A: Spec, B: Spec, a_zero_point: Spec | None = None, b_zero_point: Spec | None = None) -> Spec:
    same_type(A, a_zero_point, names="A and a_zero_point")
    same_type(B, b_zero_point, names="B and b_zero_point")
    return Spec(DType.INT32, matmul_shape(A.shape, B.shape))


@QLinearMatMul.shape
def _(a: Spec, a_scale: Spec, a_zero_point: Spec, b: Spec, b_scale: Spec, b_zero_point: Spec, y_scale: Spec, y_zero_point: Spec) -> Spec:
    same_type(a, a_zero_point, names="a and a_zero_point")
    same_type(b, b_zero_point, names="b and b_zero_point")
    return Spec(y_zero_point.dtype, matmul_shape(a.shape, b.shape))


def matmul_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of numpy.matmul over Dims."""
    if a is None or b is None:
        return None
    require(a and b, "matrix product of a scalar")
    left: tuple[Dim, ...] = a if len(a) > 1 else (1, *a)
    right: tuple[Dim, ...] = b if len(b) > 1 else (*b, 1)
    check_equal(left[-1], right[-2], "inner sizes of the matrix product differ")
    batch: Any = broadcast_shapes(left[:-2], right[:-2])
    return (*batch, *(left[-2:-1] if len(a) > 1 else ()), *(right[-1:] if len(b) > 1 else ()))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _pieces(k: Lowering, x: View, out: View, parameters: list[View], axis: int, block_size: int) -> list[tuple[View, View, list[View]]]:
    """(part of x, part of out, parameters that broadcast to them): one piece, or for blocks that do not divide the axis the whole blocks and the rest."""
    if all(v.rank == 0 or all(d == 1 for d in v.shape) for v in parameters):
        return [(x, out, [k.reshape(v, ()) for v in parameters])]
    along = normalize_axis(axis, x.rank)
    if not block_size:
        spread_out = [_trailing(v, x.rank - 1 - along) if v.rank == 1 else v for v in parameters]
        return [(x, out, spread_out)]
    size = whole_number(x.shape[along], "the size of a blocked axis")
    whole, rest = divmod(size, block_size)
    made = []
    if whole:
        views = [v.slice(along, 0, whole * block_size).split(along, whole, block_size) for v in (x, out)]
        made.append((*views, [v.slice(along, 0, whole).unsqueeze(along + 1) for v in parameters]))
    if rest:
        views = [v.slice(along, whole * block_size, rest) for v in (x, out)]
        made.append((*views, [v.slice(along, whole, 1) for v in parameters]))
    return made  # type: ignore[return-value]


def _trailing(view: View, count: int) -> View:
    for _ in range(count):
        view = view.unsqueeze(view.rank)
    return view


def quantized(value: E, dtype: DType) -> E:
    """A float in units of the scale, zero point added, as the integer type."""
    return saturated_to(value, dtype)


@QuantizeLinear.lower
def _(k: Lowering, x: View, y_scale: View, y_zero_point: View | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0, precision: int = 0, saturate: int = 1,
      out: Spec) -> View:
    dtype = out.dtype
    assert dtype is not None
    kind = DType(precision) if precision else y_scale.dtype
    if kind is DType.FLOAT8E8M0:
        kind = DType.FLOAT
    if not dtype.is_integer and (dtype is DType.FLOAT8E8M0 or not kind.is_float or kind is DType.DOUBLE):
        raise CannotLower(f"quantization to {dtype.text} in {kind.text}")
    made = k.buffer(dtype, x.shape).whole()
    for part, target, (scale, *zero) in _pieces(k, x, made, [y_scale] if y_zero_point is None else [y_scale, y_zero_point], axis, block_size):
        if kind in (DType.FLOAT16, DType.BFLOAT16):  # the quotient is rounded before it is rounded to an integer
            part = k.map(lambda v, s: v / s, part, scale, dtype=kind, shape=part.shape)
            scale = k.constant(np.ones((), np.float32))

        def body(v: E, s: E, *z: E) -> E:
            wide = compute_type(kind) if kind.is_float else Compute.F64
            if not dtype.is_integer:
                quotient = cast(v, wide) / cast(s, wide)
                return bounded(quotient + cast(z[0], wide) if z else quotient, dtype, bool(saturate))
            whole = unary(Op.ROUND, cast(v, wide) / cast(s, wide))
            return quantized(whole + cast(z[0], wide) if z else whole, dtype)
        k.map(body, part, scale, *zero, dtype=dtype, out=target)
    return made


@DequantizeLinear.lower
def _(k: Lowering, x: View, x_scale: View, x_zero_point: View | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0, out: Spec) -> View:
    dtype = out.dtype
    assert dtype is not None
    exact = Compute.F32 if x.dtype.is_float else Compute.I32 if x.dtype.bits <= 16 else Compute.I64
    made = k.buffer(dtype, x.shape).whole()
    for part, target, (scale, *zero) in _pieces(k, x, made, [x_scale] if x_zero_point is None else [x_scale, x_zero_point], axis, block_size):
        def body(v: E, s: E, *z: E) -> E:
            difference = cast(v, exact) - cast(z[0], exact) if z else v
            return cast(difference, Compute.F32) * cast(s, Compute.F32)
        k.map(body, part, scale, *zero, dtype=dtype, out=target)
    if x.dtype in (DType.INT8, DType.UINT8, DType.INT32) and dtype is DType.FLOAT and x_scale.dtype is DType.FLOAT and not block_size:
        single = all(d == 1 for d in x_scale.shape)
        k.quantized[made.buffer] = Quantized(x, x_scale, x_zero_point, None if single else normalize_axis(axis, x.rank))
    return made


def numbers_of(view: View | None) -> np.ndarray | None:
    """The elements of a whole constant; None for anything else."""
    tensor = None if view is None or not view.is_whole else view.buffer.tensor
    return None if tensor is None else tensor.numpy()


def real_zero(zero: View | None) -> View | None:
    """A zero point that is not known to be 0."""
    known = numbers_of(zero)
    return zero if known is None or known.any() else None


def integer_bias(bias: Quantized | None, scale: np.ndarray | None) -> View | None:
    """The int32 values of a bias that was dequantised with the scale of the sums it is added to, up to rounding; else None."""
    if bias is None or bias.values.dtype is not DType.INT32 or real_zero(bias.zero) is not None or scale is None:
        return None
    own = numbers_of(bias.scale)
    same = own is not None and np.allclose(own.ravel() if own.size > 1 else own.ravel()[0], scale.ravel() if scale.size > 1 else scale.ravel()[0], rtol=1e-5, atol=0)
    return bias.values if same else None


def times(a: View, b: View) -> np.ndarray | None:
    """The product of two constant scales, a scalar or a vector; None where they are not known."""
    left, right = numbers_of(a), numbers_of(b)
    return None if left is None or right is None else np.asarray(left.reshape(-1) * right.reshape(-1), np.float32)


@DynamicQuantizeLinear.lower
def _(k: Lowering, x: View, *, out: Any) -> tuple[View, View, View]:
    every = range(x.rank)
    low = k.reduce(2, x, every, DType.FLOAT, None, lambda v: binary(Op.MIN, v, 0))
    high = k.reduce(3, x, every, DType.FLOAT, None, lambda v: binary(Op.MAX, v, 0))
    scale = k.reshape(k.map(lambda a, b: select(binary(Op.GT, b, a), (b - a) / 255, (b - a) * 0 + 1), low, high, dtype=DType.FLOAT), ())
    zero = k.map(lambda a, s: quantized(-a / s, DType.UINT8), k.reshape(low, ()), scale, dtype=DType.UINT8)
    return k.map(lambda v, s, z: quantized(unary(Op.ROUND, v / s) + cast(z, Compute.F32), DType.UINT8), x, scale, zero, dtype=DType.UINT8), scale, zero


def integer_product(k: Lowering, a: View, b: View, zero_a: View | None, zero_b: View | None, shape: Shape, dtype: DType = DType.INT32, epilogue: Any = None,
                    leaves: list[View] | None = None) -> View:
    """MATMUL of integers less their zero points (scalars; per row of a; per column of b) with `epilogue(sums, *leaves)`, leaves broadcasting to [..., M, N]."""
    if not (a.dtype.is_integer and b.dtype.is_integer):
        raise CannotLower(f"a product of {a.dtype.text} and {b.dtype.text}")
    left = a if a.rank > 1 else a.unsqueeze(0)
    right = b if b.rank > 1 else b.unsqueeze(1)
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2]) or ()
    full = (*batch, left.shape[-2], right.shape[-1])
    out = k.buffer(dtype, full).whole()
    operands: list[View | None] = [left.expand((*batch, *left.shape[-2:])), right if right.rank == 2 else right.expand((*batch, *right.shape[-2:]))]
    places = []
    for zero, most in ((zero_a, left.shape[-2]), (zero_b, right.shape[-1])):
        if zero is not None and zero.rank > 1:
            if any(d != 1 for d in zero.shape[:-1]) and zero is zero_b or zero is zero_a and any(d != 1 for d in (*zero.shape[:-2], zero.shape[-1])):
                raise CannotLower(f"zero points of shape {list(map(str, zero.shape))}")
            zero = k.reshape(zero, (most,))
        places.append(-1 if zero is None else len(operands))
        operands += [] if zero is None else [zero]
    first = len(operands)
    expression = [cast(epilogue(acc(DType.INT32), *(E(Op.LEAF, compute_type(v.dtype), data=i) for i, v in enumerate(leaves or []))), compute_type(dtype))] if epilogue else []
    k.call(Kernel.MATMUL, [*operands, *(v.expand(full) for v in leaves or [])], [out], epilogue=expression, first_leaf=first, zero_a=places[0], zero_b=places[1])
    return k.reshape(out, shape)


def dequantized_product(k: Lowering, A: View, B: View, C: View | None, shape: Shape) -> View | None:
    """A float product of dequantised bytes, plus C, as exact sums of integers scaled once; None where A and B are not such."""
    a, b = k.integers(A), k.integers(B)
    if a is None or b is None or a.axis is not None or b.axis not in (None, b.values.rank - 1) or (b.axis is not None and b.values.rank != 2):
        return None
    if a.values.dtype not in BYTES or b.values.dtype not in BYTES:
        return None
    whole = None if C is None or C.rank > 1 else integer_bias(k.integers(C), times(a.scale, b.scale))
    scales = [v if v.rank == 1 and v.shape != (1,) else k.reshape(v, ()) for v in (a.scale, b.scale)]
    zero_a, zero_b = (None if z is None or real_zero(z) is None else k.reshape(z, ()) if z.shape == (1,) else z for z in (a.zero, b.zero))

    def scaled(total: E, s: E, t: E, *bias: E) -> E:
        made = cast(total + bias[0] if whole is not None else total, Compute.F32) * (s * t)
        return made + cast(bias[0], Compute.F32) if bias and whole is None else made
    leaves = scales + ([] if C is None else [C if whole is None else whole])
    return integer_product(k, a.values, b.values, zero_a, zero_b, shape, DType.FLOAT, scaled, leaves)


@MatMulInteger.lower
def _(k: Lowering, A: View, B: View, a_zero_point: View | None = None, b_zero_point: View | None = None, *, out: Spec) -> View:
    return integer_product(k, A, B, a_zero_point, b_zero_point, out.shape or ())


def rescaled(dtype: DType) -> Any:
    """An epilogue: int32 sums · (a_scale · b_scale / y_scale), rounded to even, plus the zero point, saturated. The arithmetic is float32, as in onnxruntime."""
    def body(total: E, a: E, b: E, y: E, zero: E) -> E:
        factor = cast(a, Compute.F32) * cast(b, Compute.F32) / cast(y, Compute.F32)
        return quantized(unary(Op.ROUND, cast(total, Compute.F32) * factor) + cast(zero, Compute.F32), dtype)
    return body


@QLinearMatMul.lower
def _(k: Lowering, a: View, a_scale: View, a_zero_point: View, b: View, b_scale: View, b_zero_point: View, y_scale: View, y_zero_point: View, *, out: Spec) -> View:
    assert out.dtype is not None

    def by_rows(view: View) -> View:
        return k.reshape(view, ()) if view.shape in ((), (1,)) else view.unsqueeze(1) if view.rank == 1 and a.rank > 1 else view

    def by_columns(view: View) -> View:
        return k.reshape(view, ()) if view.shape in ((), (1,)) else view
    leaves = [by_rows(a_scale), by_columns(b_scale), by_rows(y_scale), by_rows(y_zero_point)]
    return integer_product(k, a, b, a_zero_point, b_zero_point, out.shape or (), out.dtype, rescaled(out.dtype), leaves)
