"""Reductions along axes: ReduceSum and its relatives, ArgMax, ArgMin.

Sums of floats accumulate in float64 and are rounded once, so that the reference is better than any float32 executor whatever the order; products,
maxima and minima work in the element type; integer sums and products wrap.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dim import Dim, Shape, dim_max, dim_min, exact_div, fresh, product, provably
from ..expr import Compute, E, Op, binary, cast, compute_type, const, select, unary
from ..lowering import Lowering, View
from ..types import DType
from .cast import highest, lowest
from .common import fresh_shape, normalize_axes, normalize_axis, size_of_rank
from .maps import numbers, whole_number
from .numeric import accumulator, known_sizes, trunc_div, wide
from .registry import Spec, operator, require


def reduced_axes(axes: Any, rank: int, noop_with_empty_axes: int) -> tuple[int, ...]:
    """The axes to reduce: those given, or where none are given all (none with noop_with_empty_axes)."""
    given = [] if axes is None else [int(a) for a in np.asarray(axes).ravel()]
    if given:
        return tuple(normalize_axes(given, rank))
    return () if noop_with_empty_axes else tuple(range(rank))


def _reduce(function: Callable[..., Any], data: np.ndarray, axes: Any, keepdims: int, noop: int) -> np.ndarray:
    """`function(x, axis=..., keepdims=...)` of the widened data, rounded to its type."""
    along = reduced_axes(axes, data.ndim, noop)
    return np.asarray(function(wide(data), axis=along, keepdims=bool(keepdims))).astype(data.dtype, copy=False)


def _sum(x: np.ndarray, **where: Any) -> Any:
    return np.sum(x, dtype=accumulator(x), **where)


def _sum_of_squares(x: np.ndarray, **where: Any) -> Any:
    return _sum(np.square(x.astype(accumulator(x))), **where)


@operator()
def ReduceSum(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The sum; 0 of nothing."""
    return _reduce(_sum, data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceSumSquare(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The sum of squares."""
    return _reduce(_sum_of_squares, data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceL1(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The sum of absolute values."""
    return _reduce(lambda x, **where: _sum(np.abs(x), **where), data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceL2(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The square root of the sum of squares, truncated for integers."""
    return _reduce(lambda x, **where: np.sqrt(np.sum(np.square(x.astype(np.float64)), **where)), data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceLogSum(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The logarithm of the sum; −inf of nothing."""
    return _reduce(lambda x, **where: np.log(_sum(x, **where)), data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceLogSumExp(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The logarithm of the sum of exponentials, the greatest element taken out first; −inf of nothing."""
    return _reduce(_log_sum_exp, data, axes, keepdims, noop_with_empty_axes)


def _log_sum_exp(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> Any:
    x = x.astype(np.float64)
    greatest = np.max(x, axis, keepdims=True, initial=-np.inf)
    greatest = np.where(np.isfinite(greatest), greatest, 0)  # infinities are taken as they come
    total = np.log(np.sum(np.exp(x - greatest), axis, keepdims=True)) + greatest
    return total if keepdims else np.squeeze(total, axis)


@operator()
def ReduceMean(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The mean, truncated towards zero for integers; NaN (integers: 0) of nothing."""
    return _reduce(_mean, data, axes, keepdims, noop_with_empty_axes)


def _mean(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> Any:
    count = int(np.prod([x.shape[a] for a in axis], dtype=np.int64))
    if x.dtype.kind not in "iu":
        return _sum(x, axis=axis, keepdims=keepdims) / np.float64(count)
    total = np.asarray(np.sum(x, axis, np.int64 if x.dtype.kind == "i" else np.uint64, keepdims=keepdims))
    return np.sign(total) * (np.abs(total) // max(count, 1)).astype(total.dtype)


@operator()
def ReduceProd(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The product; 1 of nothing."""
    return _reduce(lambda x, **where: np.prod(x, dtype=x.dtype, **where), data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceMax(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The greatest element (False < True, NaN above all); of nothing −inf, or the type's lowest value."""
    return _reduce(lambda x, **where: np.max(x, initial=_bottom(x), **where), data, axes, keepdims, noop_with_empty_axes)


@operator()
def ReduceMin(data: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
    """The least element (False < True, NaN below all); of nothing inf, or the type's highest value."""
    return _reduce(lambda x, **where: np.min(x, initial=_top(x), **where), data, axes, keepdims, noop_with_empty_axes)


def _bottom(x: np.ndarray) -> Any:
    return -np.inf if x.dtype.kind == "f" else False if x.dtype.kind == "b" else lowest(DType.of(x))


def _top(x: np.ndarray) -> Any:
    return np.inf if x.dtype.kind == "f" else True if x.dtype.kind == "b" else highest(DType.of(x))


def _reduced(data: Spec, axes: Spec | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Spec:
    """Shape rule of the Reduce family."""
    if data.shape is None:
        return Spec(data.dtype)
    given = None if axes is None else axes.constant
    if axes is not None and given is None and axes.shape != (0,):
        return Spec(data.dtype, _unknown_axes(data.shape, size_of_rank(axes), keepdims))
    along = reduced_axes(given, len(data.shape), noop_with_empty_axes)
    return Spec(data.dtype, keep_or_drop(data.shape, along, keepdims))


def keep_or_drop(shape: Shape, along: tuple[int, ...], keepdims: int) -> Shape:
    """A shape whose axes `along` become 1 or vanish."""
    return tuple(1 if i in along else d for i, d in enumerate(shape) if keepdims or i not in along)


def _unknown_axes(shape: Shape, count: int | None, keepdims: int) -> Shape | None:
    """The shape where the axes are not known before the run: with keepdims each size stays or becomes 1."""
    if keepdims:
        return tuple(1 if d == 1 else fresh(0, dim_max(d, 1)) for d in shape)
    return None if not count else fresh_shape(len(shape) - count)


def _reduce_sizes(step: Callable[[Any, Any], Any], finish: Callable[[Any, Dim, DType | None], Any] = lambda total, count, dtype: total) -> Callable[..., Any]:
    """Value rule: `step` folded over the axes of a known symbolic value."""
    def rule(data: Spec, axes: Spec | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        given = known_sizes(data)
        if given is None or data.dtype is None or (axes is not None and axes.constant is None):
            return None
        value = given[0]
        along = reduced_axes(None if axes is None else axes.constant, value.ndim, noop_with_empty_axes)
        if not value.size or not along:
            return value if value.size else None
        count = product(value.shape[a] for a in along)
        fold = np.frompyfunc(step, 2, 1)
        for axis in sorted(along, reverse=True):
            value = np.asarray(fold.reduce(value, axis), object)
        value = np.asarray(np.frompyfunc(lambda total: finish(total, count, data.dtype), 1, 1)(value), object)
        return np.expand_dims(value, along) if keepdims else value
    return rule


for _op in (ReduceSum, ReduceSumSquare, ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMean, ReduceProd, ReduceMax, ReduceMin):
    _op.shape(_reduced)
ReduceSum.values(_reduce_sizes(lambda a, b: a + b))
ReduceProd.values(_reduce_sizes(lambda a, b: a * b))
ReduceMax.values(_reduce_sizes(dim_max))
ReduceMin.values(_reduce_sizes(dim_min))
ReduceMean.values(_reduce_sizes(lambda a, b: a + b, lambda total, count, dtype: exact_div(total, count) if dtype and dtype.is_float else trunc_div(total, count)))


# -- positions -------------------------------------------------------------------------------------------------------------------------------


@operator()
def ArgMax(data: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> np.ndarray:
    """Where along the axis the greatest element is: its first place, or its last; NaN counts as greatest."""
    return _position(np.argmax, data, axis, keepdims, select_last_index)


@operator()
def ArgMin(data: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> np.ndarray:
    """Where along the axis the least element is: its first place, or its last; NaN counts as least."""
    return _position(np.argmin, data, axis, keepdims, select_last_index)


def _position(find: Callable[..., Any], data: np.ndarray, axis: int, keepdims: int, last: int) -> np.ndarray:
    along = normalize_axis(axis, data.ndim)
    require(data.shape[along], f"axis {axis} of data {list(data.shape)} has size 0: there is no element to point at")
    x = wide(data)
    index = data.shape[along] - 1 - find(np.flip(x, along), along) if last else find(x, along)
    return np.asarray(np.expand_dims(index, along) if keepdims else index, np.int64)


@ArgMax.shape
@ArgMin.shape
def _(data: Spec, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Spec:
    if data.shape is None:
        return Spec(DType.INT64)
    return Spec(DType.INT64, keep_or_drop(data.shape, (normalize_axis(axis, len(data.shape)),), keepdims))


# -- lowering: one Reduce each -----------------------------------------------------------------------------------------------------------------

#: Numbers of the REDUCE record's operations.
SUM, PRODUCT, MIN, MAX, ARG_MIN, ARG_MAX, MEAN = range(7)


def reduced_to(k: Lowering, made: View, shape: Shape | None) -> View:
    """A result with its reduced axes of size 1, in the shape the operator gives it."""
    return k.reshape(made, shape or ())


def _axes(data: View, axes: View | None, noop: int) -> tuple[int, ...]:
    if axes is not None and axes.shape == (0,):
        axes = None
    return reduced_axes(None if axes is None else [whole_number(a, "axes") for a in numbers(axes, "axes")], data.rank, noop)


def _reduction(op: int, before: Callable[[E], E] | None = None, after: Callable[[E], E] | None = None, exact: bool = False) -> Callable[..., View]:
    """A lowering rule: before(x) reduced, then after(total). `exact`: integers go through F64, as `after` is no integer function."""
    def rule(k: Lowering, data: View, axes: View | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, out: Spec) -> View:
        along = _axes(data, axes, noop_with_empty_axes)
        kind = compute_type(data.dtype)
        wide = Compute.F64 if exact and not kind.is_float else kind
        into = None if wide is kind and before is None else lambda x: (before or _same)(cast(x, wide))
        return reduced_to(k, k.reduce(op, data, along, data.dtype, into, after), out.shape)
    return rule


def _same(x: E) -> E:
    return x


ReduceSum.lower(_reduction(SUM))
ReduceProd.lower(_reduction(PRODUCT))
ReduceL1.lower(_reduction(SUM, lambda x: unary(Op.ABS, x)))
ReduceL2.lower(_reduction(SUM, lambda x: x * x, lambda total: unary(Op.SQRT, total), exact=True))
ReduceSumSquare.lower(_reduction(SUM, lambda x: x * x))
ReduceLogSum.lower(_reduction(SUM, None, lambda total: unary(Op.LOG, total), exact=True))


def _extreme(op: int) -> Callable[..., View]:
    """Of nothing, the identity is that of the compute type; `after` brings it to the end of the element type's range."""
    def after(dtype: DType) -> Callable[[E], E] | None:
        if dtype is DType.BOOL or (dtype.is_integer and dtype.bits < 32) or dtype is DType.UINT32:
            low, high = (0, 1) if dtype is DType.BOOL else (lowest(dtype), highest(dtype))
            return lambda best: binary(Op.MAX, best, low) if op == MAX else binary(Op.MIN, best, high)
        return None

    def rule(k: Lowering, data: View, axes: View | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, out: Spec) -> View:
        along = _axes(data, axes, noop_with_empty_axes)
        empty = not all(provably(lambda a=a: data.shape[a] >= 1) for a in along)  # type: ignore[misc]
        return reduced_to(k, k.reduce(op, data, along, data.dtype, None, after(data.dtype) if empty else None), out.shape)
    return rule


ReduceMin.lower(_extreme(MIN))
ReduceMax.lower(_extreme(MAX))


@ReduceMean.lower
def _(k: Lowering, data: View, axes: View | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, out: Spec) -> View:
    along = _axes(data, axes, noop_with_empty_axes)
    if data.dtype.is_float:
        return reduced_to(k, k.reduce(MEAN, data, along, data.dtype), out.shape)
    count = max(whole_number(product(data.shape[a] for a in along), "the number of integers to average"), 1)
    wide = Compute.U64 if data.dtype is DType.UINT64 else Compute.I64
    return reduced_to(k, k.reduce(SUM, data, along, data.dtype, lambda x: cast(x, wide), lambda total: total / count), out.shape)


@ReduceLogSumExp.lower
def _(k: Lowering, data: View, axes: View | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0, out: Spec) -> View:
    along = _axes(data, axes, noop_with_empty_axes)
    wide = compute_type(data.dtype) if data.dtype.is_float else Compute.F64
    kept = DType.FLOAT if wide is Compute.F32 else DType.DOUBLE

    def finite(best: E) -> E:  # infinities are taken as they come
        return select(binary(Op.LT, unary(Op.ABS, best), const(float("inf"), wide)), best, const(0, wide))
    best = k.reduce(MAX, data, along, kept, lambda x: cast(x, wide), finite)
    total = k.reduce(SUM, data, along, data.dtype, lambda x, top: unary(Op.EXP, cast(x, wide) - top), lambda total, top: unary(Op.LOG, total) + top, [best], [best])
    return reduced_to(k, total, out.shape)


def _position_rule(op: int) -> Callable[..., View]:
    def rule(k: Lowering, data: View, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0, out: Spec) -> View:
        return reduced_to(k, k.reduce(op, data, (axis % data.rank,), DType.INT64, last=select_last_index), out.shape)
    return rule


ArgMax.lower(_position_rule(ARG_MAX))
ArgMin.lower(_position_rule(ARG_MIN))
