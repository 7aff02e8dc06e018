"""Quantisation: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, and the quantised matrix products.

Shared with the quantised convolutions: `integer_matmul` (exact int32 sums), `requantize` (int32 sums to a quantised type).
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, Shape, ceildiv
from ..types import DType
from .cast import convert, saturate
from .common import broadcast_shapes, check_equal, normalize_axis, same_type
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
        shifted = quotient if zero is None or not np.any(zero) else wide(quotient) + wide(zero)
        return convert(np.asarray(shifted), dtype, saturated)
    whole = np.rint(wide(quotient)).astype(np.float64)  # exact: the zero point is added without rounding
    return saturate(whole if zero is None else whole + zero.astype(np.float64), dtype)


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
        return np.asarray(x.astype(np.float32) * scale).astype(dtype.numpy)
    zero = spread(x_zero_point, x.shape, axis, block_size)
    exact = np.int64 if DType.of(x).is_integer else np.float32
    return np.asarray((x.astype(exact) - zero.astype(exact)).astype(np.float32) * scale).astype(dtype.numpy)


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
