"""com.microsoft: QuantizeLinear and DequantizeLinear, matrix products of 8-bit integers, and weights of 2, 4 and 8 bits in blocks (MatMulNBits, GatherBlockQuantized).

Integer sums are exact; scales are applied in float32.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, ceildiv, product
from ..expr import Compute, E, Op, acc, binary, cast, const, coord, leaf, load, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .common import check_equal, normalize_axis, same_type
from .contrib_common import ruled, sizes
from .precision import matmul, widened
from .quantize import DequantizeLinear as OnnxDequantizeLinear
from .quantize import DynamicQuantizeLinear, MatMulInteger, integer_matmul, integer_product, matmul_shape, quantized, requantize
from .quantize import QuantizeLinear as OnnxQuantizeLinear
from .registry import Spec, operator, require


@operator("com.microsoft")
def QuantizeLinear(x: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray | None = None, *, axis: int = 1) -> np.ndarray:
    """ai.onnx's QuantizeLinear, which has 16- and 4-bit types too since opset 21."""
    return np.asarray(OnnxQuantizeLinear(x, y_scale, y_zero_point, axis=axis))


@QuantizeLinear.shape
def _(x: Spec, y_scale: Spec, y_zero_point: Spec | None = None, *, axis: int = 1) -> Any:
    return ruled(OnnxQuantizeLinear, x, y_scale, y_zero_point, axis=axis)


@operator("com.microsoft")
def DequantizeLinear(x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray | None = None, *, axis: int = 1) -> np.ndarray:
    """ai.onnx's DequantizeLinear, which has 16- and 4-bit types too since opset 21."""
    return np.asarray(OnnxDequantizeLinear(x, x_scale, x_zero_point, axis=axis))


@DequantizeLinear.shape
def _(x: Spec, x_scale: Spec, x_zero_point: Spec | None = None, *, axis: int = 1) -> Any:
    return ruled(OnnxDequantizeLinear, x, x_scale, x_zero_point, axis=axis)


# -- products of 8-bit matrices ------------------------------------------------------------------------------------------------------------------


@operator("com.microsoft")
def MatMulIntegerToFloat(A: np.ndarray, B: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, a_zero_point: np.ndarray | None = None, b_zero_point: np.ndarray | None = None,
                         bias: np.ndarray | None = None) -> np.ndarray:
    """(A − a_zero_point) @ (B − b_zero_point) · a_scale · b_scale + bias; B's parameters are scalars or one for each column (of each matrix: [.., 1, N] or [.., N])."""
    sums = MatMulInteger(A, B, a_zero_point, _columns(b_zero_point, B))
    y = sums.astype(np.float32) * (widened(a_scale) * widened(_columns(b_scale, B)))  # type: ignore[arg-type]
    return np.asarray(y if bias is None else y + widened(bias)).astype(a_scale.dtype, copy=False)


def _columns(value: np.ndarray | None, B: np.ndarray) -> np.ndarray | None:
    """Per-column parameters so that they broadcast to B."""
    return value if value is None or value.ndim < 2 or value.ndim == B.ndim else value[..., None, :]


@operator("com.microsoft")
def DynamicQuantizeMatMul(A: np.ndarray, B: np.ndarray, b_scale: np.ndarray, b_zero_point: np.ndarray | None = None, bias: np.ndarray | None = None) -> np.ndarray:
    """MatMulIntegerToFloat of A quantised to uint8 as a whole (DynamicQuantizeLinear)."""
    quantized, scale, zero = DynamicQuantizeLinear(A)
    return np.asarray(MatMulIntegerToFloat(quantized, B, scale, b_scale, zero, b_zero_point, bias))


@MatMulIntegerToFloat.shape
def _(A: Spec, B: Spec, a_scale: Spec, b_scale: Spec, a_zero_point: Spec | None = None, b_zero_point: Spec | None = None, bias: Spec | None = None) -> Spec:
    same_type(A, a_zero_point, names="A and a_zero_point")
    same_type(B, b_zero_point, names="B and b_zero_point")
    return Spec(same_type(a_scale, b_scale, bias, names="the scales and bias"), matmul_shape(A.shape, B.shape))


@DynamicQuantizeMatMul.shape
def _(A: Spec, B: Spec, b_scale: Spec, b_zero_point: Spec | None = None, bias: Spec | None = None) -> Spec:
    same_type(B, b_zero_point, names="B and b_zero_point")
    return Spec(same_type(A, b_scale, bias, names="A, b_scale and bias"), matmul_shape(A.shape, B.shape))


@operator("com.microsoft")
def QGemm(A: np.ndarray, a_scale: np.ndarray, a_zero_point: np.ndarray, B: np.ndarray, b_scale: np.ndarray, b_zero_point: np.ndarray, C: np.ndarray | None = None,
          y_scale: np.ndarray | None = None, y_zero_point: np.ndarray | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> np.ndarray:
    """((A' − a_zero_point) @ (B' − b_zero_point) + C) · alpha · a_scale · b_scale, quantised where y_scale is given. C is int32; B's parameters are one
    for all or one for each column."""
    left = (A.T if transA else A).astype(np.int32) - a_zero_point.astype(np.int32)
    right = (B.T if transB else B).astype(np.int32) - b_zero_point.astype(np.int32)
    sums = integer_matmul(left, right)
    if C is not None:
        sums = sums + C
    scale = np.float32(alpha) * a_scale.reshape(()) * (b_scale.reshape(()) if b_scale.size == 1 else b_scale)
    if y_scale is None or y_zero_point is None:
        return np.asarray(sums.astype(np.float32) * scale)
    return requantize(sums, scale, y_scale.reshape(()), y_zero_point.reshape(()))


@QGemm.shape
def _(A: Spec, a_scale: Spec, a_zero_point: Spec, B: Spec, b_scale: Spec, b_zero_point: Spec, C: Spec | None = None, y_scale: Spec | None = None,
      y_zero_point: Spec | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> Spec:
    same_type(A, a_zero_point, names="A and a_zero_point")
    same_type(B, b_zero_point, names="B and b_zero_point")
    require((y_scale is None) == (y_zero_point is None), "y_scale and y_zero_point must be given together")
    rows, inner = sizes(A, 2, "A")[::-1 if transA else 1]
    other, columns = sizes(B, 2, "B")[::-1 if transB else 1]
    check_equal(inner, other, f"the inner sizes of A {A} and B {B} differ")
    return Spec(DType.FLOAT if y_zero_point is None else y_zero_point.dtype, (rows, columns))


# -- weights in blocks ----------------------------------------------------------------------------------------------------------------------------


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [.., n] → the 8 / bits small numbers of each byte, low bits first: uint8 [.., n * 8 / bits]."""
    require(bits in (2, 4, 8), f"bits is {bits}; weights of 2, 4 and 8 bits are supported")
    if bits == 8:
        return packed
    parts = (packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], packed.shape[-1] * (8 // bits))


def nbits_weights(B: np.ndarray, scales: np.ndarray, zero_points: Any, g_idx: Any, K: int, N: int, bits: int, block_size: int) -> np.ndarray:
    """The dequantised weights of MatMulNBits, float32 [N, K]; g_idx [K] names the block whose parameters each row of the weights has."""
    blocks = -(-K // block_size)
    values = unpack(B.reshape(N, -1), bits)[:, :K].astype(np.float32)
    factors = widened(scales).reshape(N, blocks)
    if zero_points is None:
        zeros = np.full((N, blocks), 1 << (bits - 1), np.float32)
    elif zero_points.dtype == np.uint8:
        zeros = unpack(zero_points.reshape(N, -1), bits)[:, :blocks].astype(np.float32)
    else:
        zeros = widened(zero_points).reshape(N, blocks)
    block = np.arange(K) // block_size if g_idx is None else g_idx[:K]
    return (values - zeros[:, block]) * factors[:, block]


@operator("com.microsoft")
def MatMulNBits(A: np.ndarray, B: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None = None, g_idx: np.ndarray | None = None, bias: np.ndarray | None = None, *,
                K: int, N: int, accuracy_level: int = 0, bits: int = 4, block_size: int, weight_prepacked: int = 0) -> np.ndarray:
    """A [.., K] times the transpose of weights [N, K] kept in `bits` bits, in blocks along K with a scale and a zero point each, plus bias [N].

    zero_points: uint8, packed like B; or of A's type, one each; absent: 2^(bits − 1). `accuracy_level` only permits an
    implementation to round A (4: to int8): here A is used as it is.
    """
    require(not weight_prepacked, "weight_prepacked weights are in a GPU's layout; export with weight_prepacked=0")
    if B.size == 0 and N and K:
        y = np.zeros((*A.shape[:-1], N), np.float32)  # an omitted projection
    else:
        y = matmul(widened(A), nbits_weights(B, scales, zero_points, g_idx, K, N, bits, block_size).T)
    return np.asarray(y if bias is None else y + widened(bias)).astype(A.dtype, copy=False)


@MatMulNBits.shape
def _(A: Spec, B: Spec, scales: Spec, zero_points: Spec | None = None, g_idx: Spec | None = None, bias: Spec | None = None, *, K: int, N: int, accuracy_level: int = 0,
      bits: int = 4, block_size: int, weight_prepacked: int = 0) -> Spec:
    require(bits in (2, 4, 8), f"bits is {bits}; weights of 2, 4 and 8 bits are supported")
    require(block_size >= 16 and block_size & (block_size - 1) == 0, f"block_size {block_size} must be a power of two and at least 16")
    dtype = same_type(A, scales, bias, names="A, scales and bias")
    if A.shape is None:
        return Spec(dtype)
    require(A.shape, "A must not be a scalar")
    check_equal(A.shape[-1], K, f"the last axis of A {A} must have K = {K} elements")
    return Spec(dtype, (*A.shape[:-1], N))


@MatMulNBits.lower
def _(k: Lowering, A: View, B: View, scales: View, zero_points: View | None = None, g_idx: View | None = None, bias: View | None = None, *, K: int, N: int, accuracy_level: int = 0,
      bits: int = 4, block_size: int, weight_prepacked: int = 0, out: Spec) -> View:
    if weight_prepacked:
        raise CannotLower("weights in a GPU's layout")
    if 0 in B.shape and N and K:  # an omitted projection
        nothing = k.constant(np.zeros(N, A.dtype.numpy), A.dtype) if bias is None else bias
        return nothing.expand(out.shape or ())
    if 0 in B.shape:
        raise CannotLower("no weights")
    blocks = -(-K // block_size)

    def table(view: View, columns: int) -> View:
        """[N, columns], also where they are one vector."""
        return view.split(0, N, columns) if view.rank == 1 and view.is_whole else k.reshape(view, (N, columns))
    dense = B if B.rank == 3 else k.reshape(B, (N, blocks, block_size * bits // 8))
    operands: list[View | None] = [k.reshape(A, (product(A.shape[:-1]), K)), dense, table(scales, blocks)]
    params: dict[str, Any] = {"bits": bits, "block": block_size, "block_scales": 2, "block_zeros": 0, "level": accuracy_level}
    if zero_points is not None:
        operands.append(table(zero_points, -(-blocks * bits // 8) if zero_points.dtype is DType.UINT8 else blocks))
        params["block_zeros"] = 3
    if bits == 2 or g_idx is not None:
        operands, params = [operands[0], _weights(k, dense, operands[2], operands[3] if zero_points is not None else None, g_idx, K, N, bits, block_size)], {}  # type: ignore[arg-type]
    made = k.buffer(A.dtype, (product(A.shape[:-1]), N)).whole()
    first = len(operands)
    operands += [] if bias is None else [bias.expand(made.shape)]
    k.call(Kernel.MATMUL, operands, [made], epilogue=[] if bias is None else [acc(A.dtype) + leaf(0, bias.dtype)], first_leaf=first, zero_a=-1, zero_b=-1, **params)
    return k.reshape(made, out.shape or ())


def _weights(k: Lowering, B: View, scales: View, zero_points: View | None, g_idx: View | None, K: int, N: int, bits: int, block_size: int) -> View:
    """The weights as numbers [K, N], computed position by position."""
    row, width = B.shape[1] * B.shape[2], 8 // bits
    tables = [B, scales, *([] if zero_points is None else [zero_points]), *([] if g_idx is None else [g_idx])]
    g, z = len(tables) - 1, 2

    def number(table: int, position: E, dtype: DType = DType.UINT8) -> E:
        """Small number `position` of packed bytes."""
        byte = cast(load(table, binary(Op.DIV, position, width), dtype), Compute.I64)
        return binary(Op.AND, binary(Op.SHR, byte, binary(Op.MOD, position, width) * bits), (1 << bits) - 1)

    def body() -> E:
        at, column = coord(0), coord(1)
        block = binary(Op.DIV, at, block_size) if g_idx is None else cast(load(g, at, g_idx.dtype), Compute.I64)
        place = column * scales.shape[1] + block
        q = cast(number(0, column * (row * width) + at), Compute.F32)
        if zero_points is None:
            zero: Any = float(1 << (bits - 1))
        elif zero_points.dtype is DType.UINT8:
            zero = cast(number(z, column * (zero_points.shape[1] * width) + block), Compute.F32)
        else:
            zero = load(z, place, zero_points.dtype)
        return (q - zero) * load(1, place, scales.dtype)
    return k.map(body, dtype=scales.dtype, shape=(K, N), tables=tables)


@operator("com.microsoft")
def GatherBlockQuantized(data: np.ndarray, indices: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None = None, *, bits: int = 4, block_size: int = 128,
                         gather_axis: int = 0, quantize_axis: int = 1) -> np.ndarray:
    """Gather along `gather_axis`, dequantised: data in blocks along `quantize_axis`, each with a scale and a zero point. uint8 data and zero points hold 8 / bits numbers a
    byte along the last axis, with the middle of the range as default zero point. An index out of range gives zeros."""
    axis, along = normalize_axis(gather_axis, data.ndim, "gather_axis"), normalize_axis(quantize_axis, data.ndim, "quantize_axis")
    packed = data.dtype == np.uint8
    size = data.shape[axis]
    outside = (indices < -size) | (indices >= size)
    rows = np.where(outside, 0, indices % size)

    def taken(x: np.ndarray, unpacked: bool = False) -> np.ndarray:
        picked = np.take(x, rows if x.shape[axis] != 1 else np.zeros_like(rows), axis)
        return (unpack(picked, bits) if unpacked else picked).astype(np.float32)
    made = taken(data, packed)
    # Behind the gathered axis everything moved by the rank of the indices.
    moved = along if along < axis else along + indices.ndim - 1
    factors = _per_element(taken(scales), made.shape, moved, block_size)
    if zero_points is not None:
        made -= _per_element(taken(zero_points, packed), made.shape, moved, block_size)
    elif packed:
        made -= np.float32(1 << (bits - 1))
    made = np.where(outside.reshape(*outside.shape, *[1] * (data.ndim - axis - 1)), np.float32(0), made * factors)
    return made.astype(scales.dtype)


def _per_element(parameters: np.ndarray, shape: tuple[int, ...], axis: int, block_size: int) -> np.ndarray:
    """Parameters of blocks along `axis`, one for each element of it (block_size 0: one block)."""
    return parameters if not block_size else np.repeat(parameters, block_size, axis)[(slice(None),) * axis + (slice(shape[axis]),)]


@GatherBlockQuantized.shape
def _(data: Spec, indices: Spec, scales: Spec, zero_points: Spec | None = None, *, bits: int = 4, block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1) -> Spec:
    same_type(data, zero_points, names="data and zero_points")
    require(bits in (2, 4, 8), f"bits is {bits}; weights of 2, 4 and 8 bits are supported")
    if data.shape is None or indices.shape is None:
        return Spec(scales.dtype)
    axis, along = normalize_axis(gather_axis, len(data.shape), "gather_axis"), normalize_axis(quantize_axis, len(data.shape), "quantize_axis")
    require(axis != along, f"gather_axis and quantize_axis are both {axis}; they must differ")
    rows: list[Dim] = list(data.shape)
    if data.dtype is DType.UINT8:
        require(axis != len(rows) - 1 or bits == 8, "packed data can not be gathered along its last axis")
        rows[-1] = rows[-1] * (8 // bits)
    if scales.shape is not None and block_size:
        require(len(scales.shape) == len(rows), f"scales {scales} must have the rank of data {data}")
        check_equal(scales.shape[along], ceildiv(rows[along], block_size), f"scales {scales} do not fit data {data} with block_size {block_size}")
    return Spec(scales.dtype, (*rows[:axis], *indices.shape, *rows[axis + 1:]))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

QuantizeLinear.lower(OnnxQuantizeLinear.lowering)  # type: ignore[arg-type]
DequantizeLinear.lower(OnnxDequantizeLinear.lowering)  # type: ignore[arg-type]


def _plain(k: Lowering, view: View) -> View:
    """A parameter of one element as a scalar, so that it broadcasts to anything."""
    return k.reshape(view, ()) if all(d == 1 for d in view.shape) else view


@MatMulIntegerToFloat.lower
def _(k: Lowering, A: View, B: View, a_scale: View, b_scale: View, a_zero_point: View | None = None, b_zero_point: View | None = None, bias: View | None = None, *, out: Spec) -> View:
    assert out.dtype is not None
    if B.rank > 2 and b_scale.rank == B.rank - 1:
        b_scale = b_scale.unsqueeze(b_scale.rank - 1)

    def scaled(total: E, a: E, b: E, *rest: E) -> E:
        y = cast(total, Compute.F32) * (cast(a, Compute.F32) * cast(b, Compute.F32))
        return y + cast(rest[0], Compute.F32) if rest else y
    leaves = [_plain(k, a_scale), _plain(k, b_scale), *([] if bias is None else [bias])]
    return integer_product(k, A, B, None if a_zero_point is None else _plain(k, a_zero_point), b_zero_point, out.shape or (), out.dtype, scaled, leaves)


@DynamicQuantizeMatMul.lower
def _(k: Lowering, A: View, B: View, b_scale: View, b_zero_point: View | None = None, bias: View | None = None, *, out: Spec) -> View:
    assert DynamicQuantizeLinear.lowering is not None and MatMulIntegerToFloat.lowering is not None
    whole, scale, zero = DynamicQuantizeLinear.lowering(k, A, out=None)
    made: View = MatMulIntegerToFloat.lowering(k, whole, B, scale, b_scale, zero, b_zero_point, bias, out=out)
    return made


@QGemm.lower
def _(k: Lowering, A: View, a_scale: View, a_zero_point: View, B: View, b_scale: View, b_zero_point: View, C: View | None = None, y_scale: View | None = None,
      y_zero_point: View | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, out: Spec) -> View:
    assert out.dtype is not None
    dtype = out.dtype

    def finished(total: E, a: E, b: E, *rest: E) -> E:
        left = list(rest)
        total = total + left.pop(0) if C is not None else total
        scale = a * alpha * b
        if y_scale is None:
            return cast(total, Compute.F32) * scale
        return quantized(unary(Op.ROUND, cast(total, Compute.F32) * (scale / left[0])) + cast(left[1], Compute.F32), dtype)
    leaves = [_plain(k, v) for v in (a_scale, b_scale)] + [v for v in (C,) if v is not None] + [_plain(k, v) for v in (y_scale, y_zero_point) if v is not None]
    return integer_product(k, A.permute((1, 0)) if transA else A, B.permute((1, 0)) if transB else B, _plain(k, a_zero_point), _plain(k, b_zero_point), out.shape or (), dtype, finished, leaves)


@GatherBlockQuantized.lower
def _(k: Lowering, data: View, indices: View, scales: View, zero_points: View | None = None, *, bits: int = 4, block_size: int = 128, gather_axis: int = 0, quantize_axis: int = 1,
      out: Spec) -> View:
    shape, rank, many = out.shape or (), data.rank, indices.rank
    axis, along = normalize_axis(gather_axis, rank, "gather_axis"), normalize_axis(quantize_axis, rank, "quantize_axis")
    packed, size = data.dtype is DType.UINT8, data.shape[axis]
    width = 8 // bits if packed else 1
    place = k.map(lambda i: cast(i, Compute.I64), indices, dtype=DType.INT64)
    tables = [data, scales, place, *([] if zero_points is None else [zero_points])]
    if any(not isinstance(d, int) for t in (data, scales, *tables[3:]) for d in t.shape) or any(not isinstance(d, int) for d in indices.shape[1:]):
        raise CannotLower("a table of sizes that only the run knows")

    def flat(dims: Sequence[Any], at: Sequence[E]) -> E:
        """The row-major position; along a dim of 1 there is only one."""
        found: E | None = None
        for size, position in zip(dims, at, strict=True):
            position = const(0, Compute.I64) if size == 1 else position
            found = position if found is None else found * const(size, Compute.I64) + position
        assert found is not None
        return found

    def number(table: int, dims: Sequence[Any], at: Sequence[E], dtype: DType, per: int) -> E:
        """An element of a table as a float; `per` small numbers to a byte."""
        position = flat((*dims[:-1], dims[-1] * per), at)
        if per == 1:
            return cast(load(table, position, dtype), Compute.F32)
        byte = cast(load(table, binary(Op.DIV, position, per), dtype), Compute.I64)
        return cast(binary(Op.AND, binary(Op.SHR, byte, binary(Op.MOD, position, per) * bits), (1 << bits) - 1), Compute.F32)

    def body() -> E:
        index = load(2, flat(indices.shape or (1,), [coord(axis + i) for i in range(many)] or [const(0, Compute.I64)]), DType.INT64)
        row = select(binary(Op.LT, index, 0), index + size, index)
        inside = binary(Op.MUL, binary(Op.GE, row, 0), binary(Op.LT, row, size))
        at = [coord(i) for i in range(axis)] + [select(inside, row, const(0, Compute.I64))] + [coord(many + i) for i in range(axis, rank - 1)]
        block = [binary(Op.DIV, x, block_size) if i == along and block_size else x for i, x in enumerate(at)]
        value = number(0, data.shape, at, data.dtype, width)
        if zero_points is not None:
            value = value - number(3, zero_points.shape, block, zero_points.dtype, width)
        elif packed:
            value = value - float(1 << (bits - 1))
        return select(inside, value * cast(load(1, flat(scales.shape, block), scales.dtype), Compute.F32), const(0, Compute.F32))
    return k.map(body, dtype=scales.dtype, shape=shape, tables=tables)
