"""Operators that ask for or change only the shape: Shape, Size, Reshape, Flatten, Squeeze, Unsqueeze, Expand."""
from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np

from ..dim import Dim, Expr, Undecidable, bounds, exact_div, floordiv, fresh, product, provably
from ..dim import Shape as Dims
from ..expr import Compute, Op, binary, const, select
from ..lowering import Lowering, View
from ..types import DType
from .common import as_int64, broadcast_shapes, data_decide, fresh_shape, known_axes, normalize_axes, size_of_rank
from .maps import numbers, whole_number
from .registry import Spec, operator, require


@operator()
def Shape(data: np.ndarray, *, start: int = 0, end: int | None = None) -> np.ndarray:
    """The shape of `data`, or the part [start, end) of it, as int64. The attributes clamp as Python's slices do."""
    return np.array(data.shape[start:end], np.int64)


@Shape.shape
def _(data: Spec, *, start: int = 0, end: int | None = None) -> Spec:
    return Spec(DType.INT64, (fresh() if data.shape is None else len(data.shape[start:end]),))


@Shape.values
def _(data: Spec, *, start: int = 0, end: int | None = None) -> Any:
    return None if data.shape is None else as_int64(data.shape[start:end])


@operator()
def Size(data: np.ndarray) -> np.ndarray:
    """The number of elements as an int64 scalar."""
    return np.array(data.size, np.int64)


@Size.shape
def _(data: Spec) -> Spec:
    return Spec(DType.INT64, ())


@Size.values
def _(data: Spec) -> Any:
    return None if data.shape is None else as_int64([product(data.shape)]).reshape(())


@operator(symbolic=True)
def Reshape(data: np.ndarray, shape: np.ndarray, *, allowzero: int = 0) -> np.ndarray:
    """The elements in row-major order under a new shape; -1 is inferred, 0 copies the size of `data` unless `allowzero`."""
    return data.reshape(_static(reshape_dims(data.shape, [int(d) for d in shape], allowzero)))


@Reshape.shape
def _(data: Spec, shape: Spec, *, allowzero: int = 0) -> Spec:
    target = shape.ints
    if target is None:
        rank = size_of_rank(shape)
        return data.with_shape((product(data.shape),) if rank == 1 and data.shape is not None else fresh_shape(rank))
    open_ = _open_axes(target, data.shape, allowzero)
    return data.with_shape(reshape_dims(data.shape, [fresh() if i in open_ else d for i, d in enumerate(target)], allowzero))


def _open_axes(target: Sequence[Dim], given: Dims | None, allowzero: int) -> list[int]:
    """The axes of which only the run knows the size: where the shape has any number, or a size that data make 0 ("copy") while there may be elements; and then also where it has -1."""
    unknown = [any_number(d) or (not allowzero and _may_copy(d, given)) for d in target]
    return [i for i, d in enumerate(target) if any(unknown) and (unknown[i] or (not isinstance(d, Expr) and d == -1))]


def _may_copy(size: Dim, given: Dims | None) -> bool:
    """Whether a size that data decide may be 0 while the tensor has elements. Where the elements are a multiple of it there are none then, and 0 is the size that is meant."""
    if not isinstance(size, Expr) or given is None or not data_decide(size) or provably(lambda: size >= 1):
        return False
    if _primitive([size])[1][0] in _primitive(given)[1]:
        return False
    try:
        exact_div(product(given), size)
    except Undecidable:
        return True
    return False


def any_number(size: Dim) -> bool:
    """Whether an entry of a shape is a number of which nothing is known: it may be -1 or 0."""
    return isinstance(size, Expr) and bounds(size)[0] is None


def reshape_dims(given: Dims | None, target: Sequence[Dim], allowzero: int) -> Dims:
    """The shape `target` asks of a tensor of shape `given` (None: unknown)."""
    out = [_copied(given, axis) if size == 0 and not allowzero else size for axis, size in enumerate(target)]
    inferred = [axis for axis, size in enumerate(out) if size == -1]
    require(len(inferred) <= 1, f"shape {_text(target)} has more than one -1")
    require(not any(isinstance(d, int) and d < -1 for d in out), f"shape {_text(target)} has a size below -1")
    require(not (allowzero and inferred and 0 in target), f"shape {_text(target)} has both 0 and -1 with allowzero=1: the size for -1 is not determined")
    if inferred:
        others = [d for d in out if d != -1]
        out[inferred[0]] = fresh() if given is None else _quotient(given, others, target)
    elif given is not None:
        have, want = product(given), product(out)
        require(isinstance(have, Expr) or isinstance(want, Expr) or have == want,
                f"cannot reshape {_text(given)} ({have} elements) to {_text(target)} ({want} elements)")
    return tuple(out)


def _copied(given: Dims | None, axis: int) -> Dim:
    if given is None:
        return fresh()
    require(axis < len(given), f"shape has 0 (copy the size) at axis {axis}, but the input has rank {len(given)}")
    return given[axis]


def _quotient(given: Sequence[Dim], others: Sequence[Dim], target: Sequence[Dim]) -> Dim:
    """∏given / ∏others. Equal sizes cancel first, as they are: so [n, 0, 4] → [n, 0, -1] is determined, and sums divide by equal sums."""
    numerators, denominators = list(given), []
    for size in others:
        if size in numerators:
            numerators.remove(size)
        else:
            denominators.append(size)
    above, top = _primitive(numerators)
    below, bottom = _primitive(denominators)
    for part in list(bottom):
        if part in top:
            top.remove(part)
            bottom.remove(part)
    total, known = product(top) * above, product(bottom) * below
    require(known != 0, f"cannot infer -1 in shape {_text(target)} for input {_text(given)}: the other sizes multiply to zero")
    require(isinstance(total, Expr) or isinstance(known, Expr) or total % known == 0, f"cannot reshape {_text(given)} to {_text(target)}: {total} is not a multiple of {known}")
    return floordiv(total, known)


def _primitive(sizes: Sequence[Dim]) -> tuple[int, list[Dim]]:
    """∏sizes as an integer times expressions without a common factor: [6, 4*n + 2] → 12, [2*n + 1]."""
    number, parts = 1, []
    for size in sizes:
        if not isinstance(size, Expr):
            number *= size
            continue
        factors = [f for _, f in size.terms]
        common = gcd(*(f for f in factors if isinstance(f, int))) if all(isinstance(f, int) for f in factors) else 1
        number *= common
        parts.append(exact_div(size, common))
    return number, parts


def _static(shape: Dims) -> tuple[int, ...]:
    """A shape made from ints alone, to NumPy."""
    return tuple(int(d) for d in shape)  # type: ignore[arg-type]


def _text(sizes: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


@operator(symbolic=True)
def Flatten(input: np.ndarray, *, axis: int = 1) -> np.ndarray:
    """A matrix: axes before `axis` become the rows, the rest the columns. `axis` is in [-r, r]."""
    return input.reshape(_static(_flattened(input.shape, axis)))


@Flatten.shape
def _(input: Spec, *, axis: int = 1) -> Spec:
    return input.with_shape((fresh(), fresh()) if input.shape is None else _flattened(input.shape, axis))


def _flattened(shape: Dims, axis: int) -> Dims:
    rank = len(shape)
    require(-rank <= axis <= rank, f"axis {axis} is out of range for rank {rank}: it must be in [{-rank}, {rank}]")
    split = axis + rank if axis < 0 else axis
    return product(shape[:split]), product(shape[split:])


@operator(symbolic=True)
def Squeeze(data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    """`data` without the given axes, which must have size 1; without `axes`, without all axes of size 1."""
    dropped = [i for i, d in enumerate(data.shape) if d == 1] if axes is None else normalize_axes(axes.ravel().tolist(), data.ndim)
    for axis in dropped:
        require(data.shape[axis] == 1, f"cannot squeeze axis {axis} of {_text(data.shape)}: its size is not 1")
    return data.reshape([d for i, d in enumerate(data.shape) if i not in dropped])


@Squeeze.shape
def _(data: Spec, axes: Spec | None = None) -> Spec:
    # A size that is not 1 is left to the run: exporters guard such a Squeeze by an If whose other branch is taken.
    if data.shape is None:
        return data.with_shape(None)
    if axes is None:
        return data.with_shape([d for d in data.shape if d != 1] if all(isinstance(d, int) or _over_one(d) for d in data.shape) else None)
    dropped = known_axes(axes, len(data.shape))
    if dropped is None:
        count = size_of_rank(axes)
        return data.with_shape(fresh_shape(None if count is None else len(data.shape) - count))
    return data.with_shape([d for i, d in enumerate(data.shape) if i not in dropped])


def _over_one(size: Dim) -> bool:
    return provably(lambda: size > 1)


@operator(symbolic=True)
def Unsqueeze(data: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """`data` with new axes of size 1 at the given places of the output."""
    return data.reshape(_static(_unsqueezed(data.shape, normalize_axes(axes.ravel().tolist(), data.ndim + axes.size))))


@Unsqueeze.shape
def _(data: Spec, axes: Spec) -> Spec:
    count = len(axes.ints) if axes.ints is not None else size_of_rank(axes)
    if data.shape is None or count is None:
        return data.with_shape(None)
    places = known_axes(axes, len(data.shape) + count)
    return data.with_shape(fresh_shape(len(data.shape) + count) if places is None else _unsqueezed(data.shape, places))


def _unsqueezed(shape: Dims, places: Sequence[int]) -> Dims:
    sizes = iter(shape)
    return tuple(1 if i in places else next(sizes) for i in range(len(shape) + len(places)))


@operator(symbolic=True)
def Expand(input: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """`input` broadcast with `shape`, in both directions."""
    target = [int(d) for d in shape]
    require(all(d >= 0 for d in target), f"shape {_text(target)} has a negative size")
    return np.broadcast_to(input, _static(broadcast_shapes(input.shape, tuple(target)) or ()))


@Expand.shape
def _(input: Spec, shape: Spec) -> Spec:
    if shape.ints is not None:
        return input.with_shape(broadcast_shapes(input.shape, tuple(shape.ints)))
    count = size_of_rank(shape)
    if input.shape is None or count is None:
        return input.with_shape(None)
    # What is known to differ from 1 stays, and so do axes that `shape` does not reach.
    rank = max(count, len(input.shape))
    unknown = fresh_shape(rank) or ()
    sizes = (1,) * (rank - len(input.shape)) + input.shape
    return input.with_shape([d if i < rank - count or isinstance(d, int) and d != 1 else u for i, (d, u) in enumerate(zip(sizes, unknown, strict=True))])


# -- lowering: views, nothing moves unless memory must be re-read row-major --------------------------------------------------------------------

def _reshaped(k: Lowering, data: View, *_: View | None, out: Spec, **__: Any) -> View:
    return k.reshape(data, out.shape or ())


Flatten.lower(_reshaped)


@Reshape.lower
def _(k: Lowering, data: View, shape: View, *, allowzero: int = 0, out: Spec) -> View:
    dims = out.shape or ()
    open_ = _open_axes([] if shape.value is None else shape.value.ravel().tolist(), data.shape, allowzero)
    if open_:  # -1 and 0 are told apart when the program runs, and what comes out decides the sizes
        rank, count = data.rank, len(dims)
        copied = (lambda t: const(0, Compute.I32)) if allowzero else (lambda t: binary(Op.EQ, t, 0))
        given = k.sized([*data.shape, *[0] * (count - rank)][:count])
        total = k.sized([product(data.shape[count:])])
        if rank:  # sizes that are copied cancel
            both = min(rank, count)
            rest = k.map(lambda t, g: select(copied(t), const(1, Compute.I64), g), shape.slice(0, 0, both), given.slice(0, 0, both), dtype=DType.INT64)
            total = k.map(lambda a, b: a * b, k.reduce(1, rest, [0], DType.INT64), total, dtype=DType.INT64)
        known = k.reduce(1, shape, [0], DType.INT64, lambda t: select(binary(Op.LE, t, 0), const(1, Compute.I64), t))
        whole = k.map(lambda t, g, n, total: select(binary(Op.EQ, t, -1), total / binary(Op.MAX, n, 1), select(copied(t), g, t)), shape, given, known, total, dtype=DType.INT64)
        for i in open_:
            k.decide(dims[i], whole, i)
    return k.reshape(data, dims)


@Squeeze.lower
def _(k: Lowering, data: View, axes: View | None = None, *, out: Spec) -> View:
    dropped = [i for i, d in enumerate(data.shape) if d == 1] if axes is None else normalize_axes([whole_number(a, "axes") for a in numbers(axes, "axes")], data.rank)
    if any(data.shape[axis] != 1 for axis in dropped):  # what it re-reads has as many elements only where they are 1
        return k.reshape(data, [d for i, d in enumerate(data.shape) if i not in dropped])
    for axis in sorted(dropped, reverse=True):
        data = data.squeeze(axis)
    return data


@Unsqueeze.lower
def _(k: Lowering, data: View, axes: View, *, out: Spec) -> View:
    places = [whole_number(a, "axes") for a in numbers(axes, "axes")]
    for axis in sorted(normalize_axes(places, data.rank + len(places))):
        data = data.unsqueeze(axis)
    return data


@Expand.lower
def _(k: Lowering, input: View, shape: View, *, out: Spec) -> View:
    return input.expand(out.shape or ())
