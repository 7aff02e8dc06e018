"""Operators that make tensors from sizes: Constant, ConstantOfShape, EyeLike, Range, the windows, AffineGrid."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, Expr, Undecidable, bounds, ceildiv, dim_ceil, dim_max, exact_div, fresh
from ..expr import Compute, E, Op, binary, cast, compute_type, const, coord, select, unary
from ..lowering import Lowering, View
from ..narrow import astype
from ..types import DType
from .common import as_int64, fresh_shape, negative, same_type, size_of_rank
from .maps import whole_number
from .registry import MAX_KNOWN, Spec, operator, require


@operator()
def Constant(*, value: np.ndarray | None = None, sparse_value: np.ndarray | None = None, value_float: float | None = None, value_floats: list[float] | None = None,
             value_int: int | None = None, value_ints: list[int] | None = None, value_string: str | None = None, value_strings: list[str] | None = None) -> np.ndarray:
    """The tensor of the one attribute given; `sparse_value` arrives dense. The importer leaves none of these nodes."""
    typed = ((value_float, np.float32), (value_floats, np.float32), (value_int, np.int64), (value_ints, np.int64), (value_string, object), (value_strings, object))
    found = [v for v in (value, sparse_value) if v is not None] + [np.array(v, dtype) for v, dtype in typed if v is not None]
    require(len(found) == 1, f"exactly one value attribute must be given, not {len(found)}")
    return found[0]


@Constant.shape
def _(**attributes: Any) -> Spec:
    made = Constant(**attributes)
    return Spec(DType.of(made), made.shape)


@Constant.values
def _(**attributes: Any) -> Any:
    return Constant(**attributes)


@operator()
def ConstantOfShape(input: np.ndarray, *, value: np.ndarray | None = None) -> np.ndarray:
    """A tensor of the shape `input` filled with the one element of `value` (default float 0)."""
    shape = input.tolist()
    require(all(d >= 0 for d in shape), f"shape {shape} has a negative size")
    fill = _fill(value)
    return np.full(shape, fill, fill.dtype)


@ConstantOfShape.shape
def _(input: Spec, *, value: np.ndarray | None = None) -> Spec:
    dtype = DType.of(_fill(value))
    if input.ints is None:
        return Spec(dtype, fresh_shape(size_of_rank(input)))
    require(not any(isinstance(d, int) and d < 0 for d in input.ints), f"shape {input.ints} has a negative size")
    return Spec(dtype, tuple(input.ints))


def _fill(value: np.ndarray | None) -> np.ndarray:
    require(value is None or value.size == 1, f"value must have one element, not {0 if value is None else value.size}")
    return np.zeros((), np.float32) if value is None else value.reshape(())


@operator()
def EyeLike(input: np.ndarray, *, dtype: int | None = None, k: int = 0) -> np.ndarray:
    """Ones on the k-th diagonal and zeros elsewhere, in the shape of the matrix `input` and its dtype unless `dtype` says otherwise."""
    require(input.ndim == 2, f"the input must be a matrix, not of rank {input.ndim}")
    return astype(np.eye(input.shape[0], input.shape[1], k), DType.of(input) if dtype is None else DType(dtype))


@EyeLike.shape
def _(input: Spec, *, dtype: int | None = None, k: int = 0) -> Spec:
    require(input.shape is None or len(input.shape) == 2, f"the input must be a matrix, not {input}")
    return Spec(_chosen(dtype, input), input.shape or (fresh(), fresh()))


def _chosen(dtype: int | None, like: Spec) -> DType | None:
    return like.dtype if dtype is None else DType(dtype)


@operator()
def Range(start: np.ndarray, limit: np.ndarray, delta: np.ndarray, *, stash_type: int = 1) -> np.ndarray:
    """start + i·delta for i in [0, max(⌈(limit − start) / delta⌉, 0)). float16 and bfloat16 compute in `stash_type`."""
    dtype = start.dtype
    first, last, step, count = _progression(start, limit, delta, stash_type)
    if dtype.kind in "iu":
        return (int(first) + np.arange(count, dtype=np.int64) * int(step)).astype(dtype)
    return (first + np.arange(count).astype(first.dtype) * step).astype(dtype)


def _progression(start: np.ndarray, limit: np.ndarray, delta: np.ndarray, stash_type: int) -> tuple[Any, Any, Any, int]:
    """First, limit and step as scalars of the type the sum is made in, and the number of elements."""
    first, last, step = (v.reshape(()) for v in (start, limit, delta))
    require(step != 0, "delta must not be 0")
    if start.dtype.kind in "iu":
        return first, last, step, int(_steps(int(first), int(last), int(step)))
    if DType.of(start) in (DType.FLOAT16, DType.BFLOAT16):
        first, last, step = (v.astype(DType(stash_type).numpy) for v in (first, last, step))
    count = (float(last) - float(first)) / float(step)  # in double, as onnxruntime: 1.1 … -1.3 by -0.2 are 12 in float32
    require(math.isfinite(count), f"start {first}, limit {last} and delta {step} make no finite number of elements")
    return first, last, step, max(math.ceil(count), 0)


def _steps(start: Any, limit: Any, delta: Any) -> Any:
    """max(⌈(limit − start) / delta⌉, 0) for integers and sizes; Undecidable where the sign of a symbolic delta is not known, unless it is any number (what data give)."""
    sign = 1 - 2 * negative(delta) if isinstance(delta, Expr) and bounds(delta)[0] is None else -1 if delta < 0 else 1
    return dim_max(ceildiv((limit - start) * sign, delta * sign), 0)


@Range.shape
def _(start: Spec, limit: Spec, delta: Spec, *, stash_type: int = 1) -> Spec:
    dtype = same_type(start, limit, delta)
    plain = [s.constant for s in (start, limit, delta)]
    if all(p is not None for p in plain):
        return Spec(dtype, (_progression(plain[0], plain[1], plain[2], stash_type)[3],))
    if start.ints is None or limit.ints is None or delta.ints is None:
        return Spec(dtype, (fresh(),))
    first, last, step = start.ints[0], limit.ints[0], delta.ints[0]
    require(step != 0, "delta must not be 0")
    try:
        if dtype is not None and dtype.is_integer:
            return Spec(dtype, (_steps(first, last, step),))
        count = fresh() if isinstance(step, Expr) else dim_max(dim_ceil(exact_div(last - first, step)), 0)
    except Undecidable:
        count = fresh()
    return Spec(dtype, (count,))


@Range.values
def _(start: Spec, limit: Spec, delta: Spec, *, stash_type: int = 1) -> Any:
    # From a symbolic start over a known number of steps: n, n + 1, n + 2.
    if start.ints is None or limit.ints is None or delta.ints is None or not (start.dtype and start.dtype.is_integer):
        return None
    first, step = start.ints[0], delta.ints[0]
    count = _steps(first, limit.ints[0], step)
    return as_int64([first + i * step for i in range(count)]) if isinstance(first, Expr) and isinstance(count, int) and count <= MAX_KNOWN else None


def _window(size: np.ndarray, periodic: int, output_datatype: int, cosines: Sequence[float]) -> np.ndarray:
    """Σ (−1)^k cosines[k] cos(2πki / N), N = size if periodic else size − 1; a symmetric window of size 1 is 1."""
    count = int(size.reshape(-1)[0])
    require(count >= 0, f"size {count} must not be negative")
    period = count if periodic else count - 1
    angle = 2 * np.pi * np.arange(count) / period if period > 0 else np.full(count, np.pi)
    return astype(np.asarray(sum((-1) ** k * c * np.cos(k * angle) for k, c in enumerate(cosines))), DType(output_datatype))


def _window_spec(size: Spec, *, periodic: int = 1, output_datatype: int = 1) -> Spec:
    return Spec(DType(output_datatype), (fresh() if size.ints is None else size.ints[0],))


@operator()
def HannWindow(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> np.ndarray:
    """½ − ½ cos(2πi / N)."""
    return _window(size, periodic, output_datatype, (0.5, 0.5))


@operator()
def HammingWindow(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> np.ndarray:
    """25/46 − 21/46 cos(2πi / N)."""
    return _window(size, periodic, output_datatype, (25 / 46, 21 / 46))


@operator()
def BlackmanWindow(size: np.ndarray, *, output_datatype: int = 1, periodic: int = 1) -> np.ndarray:
    """0.42 − ½ cos(2πi / N) + 0.08 cos(4πi / N)."""
    return _window(size, periodic, output_datatype, (0.42, 0.5, 0.08))


for _operator in (HannWindow, HammingWindow, BlackmanWindow):
    _operator.shape(_window_spec)


@operator()
def AffineGrid(theta: np.ndarray, size: np.ndarray, *, align_corners: int = 0) -> np.ndarray:
    """theta [N, k, k+1] applied to an even grid over [-1, 1]^k of the spatial sizes in `size` (N, C, …) → [N, …, k], coordinates in the order x, y(, z)."""
    batch, _, *spatial = size.tolist()
    k = len(spatial)
    require(theta.shape == (batch, k, k + 1), f"theta has shape {list(theta.shape)}; size {size.tolist()} needs [{batch}, {k}, {k + 1}]")
    axes = [_even(count, align_corners) for count in spatial]
    grid = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(spatial)], -1)
    return np.einsum("nij,...j->n...i", theta.astype(np.float64), grid).astype(theta.dtype)


def _even(count: int, align_corners: int) -> np.ndarray:
    """`count` positions over [-1, 1]: pixel centres, the outer ones on ±1 if `align_corners`."""
    return np.linspace(-1, 1, count) if align_corners else (2 * np.arange(count) + 1) / max(count, 1) - 1


@AffineGrid.shape
def _(theta: Spec, size: Spec, *, align_corners: int = 0) -> Spec:
    sizes: Sequence[Dim] | None = size.ints or fresh_shape(size_of_rank(size))
    if sizes is None:
        return theta.with_shape(None)
    require(len(sizes) in (4, 5), f"size must be (N, C, H, W) or (N, C, D, H, W), not of {len(sizes)} entries")
    return theta.with_shape((sizes[0], *sizes[2:], len(sizes) - 2))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@ConstantOfShape.lower
def _(k: Lowering, input: View, *, value: np.ndarray | None = None, out: Spec) -> View:
    return k.constant(_fill(value), out.dtype).expand(out.shape or ())  # one element that every position reads


@EyeLike.lower
def _(kernels: Lowering, input: View, *, dtype: int | None = None, k: int = 0, out: Spec) -> View:
    assert out.dtype is not None
    wide = compute_type(out.dtype)
    return kernels.map(lambda: select(binary(Op.EQ, coord(1) - coord(0), k), const(1, wide), const(0, wide)), dtype=out.dtype, shape=out.shape)


@Range.lower
def _(k: Lowering, start: View, limit: View, delta: View, *, stash_type: int = 1, out: Spec) -> View:
    assert out.dtype is not None and out.shape is not None
    wide = compute_type(out.dtype)
    if any(v.value is None for v in (start, limit, delta)):
        def count(*ends: E) -> E:
            first, last, step = (cast(e, Compute.F64) for e in ends)
            return binary(Op.MAX, cast(unary(Op.CEIL, (last - first) / step), Compute.I64), 0)
        k.decide(out.shape[0], k.map(count, *(k.reshape(v, ()) for v in (start, limit, delta)), dtype=DType.INT64))
    return k.map(lambda first, step: first + cast(coord(0), wide) * step, k.reshape(start, ()), k.reshape(delta, ()), dtype=out.dtype, shape=out.shape)


def _window_rule(cosines: Sequence[float]) -> Any:
    def rule(k: Lowering, size: View, *, periodic: int = 1, output_datatype: int = 1, out: Spec) -> View:
        assert out.dtype is not None and out.shape is not None
        count = whole_number(out.shape[0], "the size of a window")
        period = count if periodic else count - 1

        def body() -> E:
            position = cast(coord(0), Compute.F64)
            angle = position * (2 * math.pi / period) if period > 0 else const(math.pi, Compute.F64)
            total = const(cosines[0], Compute.F64)
            for i, c in enumerate(cosines[1:], 1):
                total = total + unary(Op.COS, angle * i) * ((-1) ** i * c)
            return total
        return k.map(body, dtype=out.dtype, shape=out.shape)
    return rule


HannWindow.lower(_window_rule((0.5, 0.5)))
HammingWindow.lower(_window_rule((25 / 46, 21 / 46)))
BlackmanWindow.lower(_window_rule((0.42, 0.5, 0.08)))


@AffineGrid.lower
def _(k: Lowering, theta: View, size: View, *, align_corners: int = 0, out: Spec) -> View:
    shape = out.shape or ()
    spatial = [whole_number(d, "a size of the grid") for d in shape[1:-1]]
    wide = compute_type(theta.dtype)

    def even(axis: int, count: int) -> E:
        position = cast(coord(1 + axis), wide)
        if align_corners:
            return position * (2 / (count - 1)) - 1 if count > 1 else const(-1, wide)
        return (position * 2 + 1) / max(count, 1) - 1

    def body(*row: E) -> E:
        total = row[-1]
        for i, factor in enumerate(row[:-1]):  # x, the last axis, comes first
            axis = len(spatial) - 1 - i
            total = total + factor * even(axis, spatial[axis])
        return total
    columns = []
    for j in range(len(spatial) + 1):
        column = theta.slice(2, j, 1).squeeze(2)
        for _ in spatial:
            column = column.unsqueeze(1)
        columns.append(column)
    return k.map(body, *columns, dtype=theta.dtype, shape=shape)
