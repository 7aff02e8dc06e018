"""Operators that read or write at positions given by data: Gather*, Scatter*, TensorScatter, OneHot, Compress, NonZero."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, dim_min, fresh, product
from ..dim import Shape as Dims
from ..expr import Compute, E, Op, binary, cast, coord, select
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .cast import cast_view
from .common import normalize_axis, same_type
from .maps import whole_number
from .registry import Spec, operator, require

Index = tuple[np.ndarray, ...]


def checked(indices: np.ndarray, size: int, what: str) -> np.ndarray:
    """The indices as int64, negative ones left to NumPy; InvalidGraph naming the first outside [-size, size)."""
    wanted = np.asarray(indices).astype(np.int64)
    outside = (wanted < -size) | (wanted >= size)
    if outside.any():
        require(False, f"index {wanted[outside][0]} is out of range for {what} of size {size}: it must be in [{-size}, {size - 1}]")
    return wanted


def _grid(shape: tuple[int, ...], axes: range) -> list[np.ndarray]:
    """For each axis its own coordinate, shaped to broadcast over `shape`."""
    return [np.arange(shape[a]).reshape([-1 if i == a else 1 for i in range(len(shape))]) for a in axes]


@operator(symbolic=True)
def Gather(data: np.ndarray, indices: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """The slices of `data` along `axis` that `indices` names; the axes of `indices` take the place of `axis`."""
    axis = normalize_axis(axis, data.ndim)
    return data.take(checked(indices, data.shape[axis], f"axis {axis}"), axis)


@Gather.shape
def _(data: Spec, indices: Spec, *, axis: int = 0) -> Spec:
    if data.shape is None or indices.shape is None:
        return data.with_shape(None)
    axis = normalize_axis(axis, len(data.shape))
    return data.with_shape(data.shape[:axis] + indices.shape + data.shape[axis + 1:])


@operator(symbolic=True)
def GatherElements(data: np.ndarray, indices: np.ndarray, *, axis: int = 0) -> np.ndarray:
    """out[i, j, k] = data[i, indices[i, j, k], k] for axis 1, and so on."""
    return data[_element_index(data.shape, indices, axis)]


@GatherElements.shape
def _(data: Spec, indices: Spec, *, axis: int = 0) -> Spec:
    _same_rank(data, indices, axis)
    return data.with_shape(indices.shape)


def _same_rank(data: Spec, indices: Spec, axis: int) -> None:
    if data.shape is not None and indices.shape is not None:
        require(len(data.shape) == len(indices.shape), f"data {data} and indices {indices} must have the same rank")
        normalize_axis(axis, len(data.shape))


def _element_index(shape: tuple[int, ...], indices: np.ndarray, axis: int) -> Index:
    """The full index of GatherElements and ScatterElements into a tensor of `shape`."""
    require(len(shape) == indices.ndim, f"data of rank {len(shape)} and indices of rank {indices.ndim} must have the same rank")
    axis = normalize_axis(axis, len(shape))
    for a, (size, count) in enumerate(zip(shape, indices.shape, strict=True)):
        require(a == axis or count <= size, f"indices have size {count} on axis {a}, where data has {size}")
    index = _grid(indices.shape, range(indices.ndim))
    index[axis] = checked(indices, shape[axis], f"axis {axis}")
    return tuple(index)


@operator(symbolic=True)
def GatherND(data: np.ndarray, indices: np.ndarray, *, batch_dims: int = 0) -> np.ndarray:
    """For each tuple in the last axis of `indices`, the slice of `data` (after `batch_dims` common axes) that it names."""
    b = batch_dims
    require(0 <= b < min(data.ndim, indices.ndim), f"batch_dims {b} must be in [0, {min(data.ndim, indices.ndim) - 1}]")
    require(data.shape[:b] == indices.shape[:b], f"the first {b} sizes of data {list(data.shape)} and indices {list(indices.shape)} must agree")
    return data[(*_grid(indices.shape[:-1], range(b)), *_tuple_index(data.shape[b:], indices, b))]


@GatherND.shape
def _(data: Spec, indices: Spec, *, batch_dims: int = 0) -> Spec:
    if data.shape is None or indices.shape is None or not isinstance(indices.shape[-1], int):
        return data.with_shape(None)
    last = batch_dims + indices.shape[-1]
    require(last <= len(data.shape), f"indices {indices} name {indices.shape[-1]} axes, but data {data} has {len(data.shape) - batch_dims} after batch_dims {batch_dims}")
    return data.with_shape(indices.shape[:-1] + data.shape[last:])


def _tuple_index(shape: tuple[int, ...], indices: np.ndarray, first: int = 0) -> Index:
    """The tuples in the last axis of `indices` as one index array for each axis of `shape` they reach."""
    count = indices.shape[-1]
    require(count <= len(shape), f"indices of shape {list(indices.shape)} name {count} axes, but there are {len(shape)}")
    return tuple(checked(indices[..., k], shape[k], f"axis {first + k}") for k in range(count))


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(data: np.ndarray, index: Index, updates: np.ndarray, reduction: str) -> np.ndarray:
    """A copy of `data` with `updates` written, or combined one by one, at `index`. Without reduction the last of equal positions wins."""
    _check_reduction(reduction)
    out = data.copy()
    if reduction == "none":
        out[index] = updates
    else:
        _REDUCTIONS[reduction].at(out, index, updates)
    return out


def _check_reduction(reduction: str) -> None:
    require(reduction == "none" or reduction in _REDUCTIONS, f"reduction '{reduction}' is not one of none, {', '.join(_REDUCTIONS)}")


@operator(symbolic=True)
def ScatterElements(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int = 0, reduction: str = "none") -> np.ndarray:
    """out[i, indices[i, j, k], k] = updates[i, j, k] for axis 1, and so on; elsewhere `data`."""
    require(indices.shape == updates.shape, f"indices {list(indices.shape)} and updates {list(updates.shape)} must have the same shape")
    return _scatter(data, _element_index(data.shape, indices, axis), updates, reduction)


@ScatterElements.shape
def _(data: Spec, indices: Spec, updates: Spec, *, axis: int = 0, reduction: str = "none") -> Spec:
    _check_reduction(reduction)
    _same_rank(data, indices, axis)
    return Spec(same_type(data, updates, names="data and updates"), data.shape)


@operator(symbolic=True)
def ScatterND(data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, reduction: str = "none") -> np.ndarray:
    """`data` with the slice each tuple in the last axis of `indices` names replaced by, or combined with, the slice of `updates`."""
    expected = indices.shape[:-1] + data.shape[indices.shape[-1]:]
    require(updates.shape == expected, f"updates have shape {list(updates.shape)}; indices {list(indices.shape)} into {list(data.shape)} need {list(expected)}")
    return _scatter(data, _tuple_index(data.shape, indices), updates, reduction)


@ScatterND.shape
def _(data: Spec, indices: Spec, updates: Spec, *, reduction: str = "none") -> Spec:
    _check_reduction(reduction)
    if data.shape is not None and indices.shape is not None and isinstance(indices.shape[-1], int):
        require(indices.shape[-1] <= len(data.shape), f"indices {indices} name {indices.shape[-1]} axes, but data is {data}")
    return Spec(same_type(data, updates, names="data and updates"), data.shape)


@operator()
def TensorScatter(past_cache: np.ndarray, update: np.ndarray, write_indices: np.ndarray | None = None, *, axis: int = -2, mode: str = "linear") -> np.ndarray:
    """`past_cache` with `update` written on the sequence axis from write_indices[batch] on; in mode circular positions wrap around."""
    axis = _sequence_axis(axis, past_cache.ndim, mode)
    batch, capacity, length = past_cache.shape[0], past_cache.shape[axis], update.shape[axis]
    expected = (*past_cache.shape[:axis], length, *past_cache.shape[axis + 1:])
    require(update.shape == expected, f"update {list(update.shape)} must have the shape of past_cache {list(past_cache.shape)} but for axis {axis}")
    require(length <= capacity, f"update has {length} entries on axis {axis}, past_cache {capacity}")
    first = np.zeros(batch, np.int64) if write_indices is None else write_indices
    require(first.shape == (batch,), f"write_indices has shape {list(first.shape)}, the batch has size {batch}")
    position = first[:, None] + np.arange(length)
    if mode == "circular":
        position = position % capacity if length else position
    else:
        require(((position >= 0) & (position < capacity)).all(), f"write_indices {first.tolist()} + {length} entries leave axis {axis} of size {capacity}; mode 'circular' wraps")
    index = _grid(update.shape, range(update.ndim))
    index[axis] = position.reshape([batch, *(length if a == axis else 1 for a in range(1, update.ndim))])
    return _scatter(past_cache, tuple(index), update, "none")


@TensorScatter.shape
def _(past_cache: Spec, update: Spec, write_indices: Spec | None = None, *, axis: int = -2, mode: str = "linear") -> Spec:
    if past_cache.shape is not None:
        _sequence_axis(axis, len(past_cache.shape), mode)
    return Spec(same_type(past_cache, update, names="past_cache and update"), past_cache.shape)


def _sequence_axis(axis: int, rank: int, mode: str) -> int:
    require(mode in ("linear", "circular"), f"mode '{mode}' is not one of linear, circular")
    axis = normalize_axis(axis, rank)
    require(axis != 0, "axis must not be 0, the batch")
    return axis


@operator()
def OneHot(indices: np.ndarray, depth: np.ndarray, values: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """A new axis of size `depth` that is values[1] where its coordinate equals the index and values[0] elsewhere; indices outside [-depth, depth) match nothing."""
    classes = _depth(int(depth.reshape(-1)[0]))
    require(values.shape == (2,), f"values must be [off, on], not of shape {list(values.shape)}")
    axis = normalize_axis(axis, indices.ndim + 1)
    if indices.dtype.kind == "u":  # a cast could turn a huge index into a negative one
        indices = np.minimum(indices, np.uint64(classes))
    wanted = indices.astype(np.int64)
    wanted = np.where(wanted < 0, wanted + classes, wanted)
    out = np.full((*indices.shape[:axis], classes, *indices.shape[axis:]), values[0], values.dtype)
    at = np.nonzero((wanted >= 0) & (wanted < classes))
    out[(*at[:axis], wanted[at], *at[axis:])] = values[1]
    return out


@OneHot.shape
def _(indices: Spec, depth: Spec, values: Spec, *, axis: int = -1) -> Spec:
    if indices.shape is None:
        return values.with_shape(None)
    axis = normalize_axis(axis, len(indices.shape) + 1)
    classes: Any = fresh() if depth.ints is None else depth.ints[0]
    if isinstance(classes, float):
        classes = int(classes)
    return values.with_shape((*indices.shape[:axis], _depth(classes), *indices.shape[axis:]))


def _depth(classes: Any) -> Any:
    require(not isinstance(classes, int) or classes >= 0, f"depth {classes} must not be negative")
    return classes


@operator()
def Compress(input: np.ndarray, condition: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """The slices along `axis` (None: the elements, flattened) where `condition` is true; it may be shorter than the axis, the rest is dropped."""
    if axis is None:
        input, axis = input.reshape(-1), 0
    axis = normalize_axis(axis, input.ndim)
    require(condition.ndim == 1 and len(condition) <= input.shape[axis], f"condition of shape {list(condition.shape)} does not fit axis {axis} of size {input.shape[axis]}")
    return input.take(np.nonzero(condition)[0], axis)


@Compress.shape
def _(input: Spec, condition: Spec, *, axis: int | None = None) -> Spec:
    shape: Dims | None = None
    if axis is None:
        shape, axis = (fresh() if input.shape is None else product(input.shape),), 0
    elif input.shape is not None:
        shape, axis = input.shape, normalize_axis(axis, len(input.shape))
    if shape is None:
        return input.with_shape(None)
    flags = condition.constant
    bound: Dim = shape[axis] if condition.shape is None else dim_min(shape[axis], condition.shape[0])
    count: Dim = fresh(0, bound) if flags is None else int(np.count_nonzero(flags))
    return input.with_shape((*shape[:axis], count, *shape[axis + 1:]))


@operator()
def NonZero(X: np.ndarray) -> np.ndarray:
    """The indices of the non-zero elements in row-major order, int64 [rank, count]; for a scalar [0, count]."""
    if X.ndim == 0:
        return np.zeros((0, int(bool(X))), np.int64)
    return np.array(np.nonzero(X), np.int64)


@NonZero.shape
def _(X: Spec) -> Spec:
    known = X.constant
    count: Dim = int(np.count_nonzero(known)) if known is not None else fresh() if X.shape is None else fresh(0, product(X.shape))
    return Spec(DType.INT64, (fresh() if X.shape is None else len(X.shape), count))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def gathered(k: Lowering, data: View, indices: View, axis: int, mode: int, shape: Dims, out: View | None = None) -> View:
    """GATHER into a new buffer, or into `out`."""
    made = k.buffer(data.dtype, shape).whole() if out is None else out
    k.call(Kernel.GATHER, [data, index_view(k, indices)], [made], axis=axis, mode=mode)
    return made


def index_view(k: Lowering, indices: View) -> View:
    """Indices in a type kernels take: int32 or int64."""
    return indices if indices.dtype in (DType.INT32, DType.INT64) else cast_view(k, indices, DType.INT64)


@Gather.lower
def _(k: Lowering, data: View, indices: View, *, axis: int = 0, out: Spec) -> View:
    axis = normalize_axis(axis, data.rank)
    if indices.rank == 0 and indices.value is not None:  # one known position: a view
        at = np.asarray(indices.value, object).reshape(-1)[0]
        at = at + data.shape[axis] if at < 0 else at
        return data.slice(axis, at if not isinstance(at, np.integer) else int(at), 1).squeeze(axis)
    return gathered(k, data, indices, axis, 0, out.shape or ())


@GatherElements.lower
def _(k: Lowering, data: View, indices: View, *, axis: int = 0, out: Spec) -> View:
    return gathered(k, data, indices, normalize_axis(axis, data.rank), 1, indices.shape)


@GatherND.lower
def _(k: Lowering, data: View, indices: View, *, batch_dims: int = 0, out: Spec) -> View:
    return gathered(k, data, indices, batch_dims, 2, out.shape or ())


REDUCTIONS = ("none", "add", "mul", "max", "min")


def scattered(k: Lowering, data: View, indices: View, updates: View, axis: int, mode: int, reduction: str) -> View:
    """SCATTER into a new buffer."""
    made = k.buffer(data.dtype, data.shape).whole()
    k.call(Kernel.SCATTER, [data, index_view(k, indices), updates], [made], axis=axis, mode=mode, reduction=REDUCTIONS.index(reduction))
    return made


@ScatterElements.lower
def _(k: Lowering, data: View, indices: View, updates: View, *, axis: int = 0, reduction: str = "none", out: Spec) -> View:
    return scattered(k, data, indices, updates, normalize_axis(axis, data.rank), 0, reduction)


@ScatterND.lower
def _(k: Lowering, data: View, indices: View, updates: View, *, reduction: str = "none", out: Spec) -> View:
    return scattered(k, data, indices, updates, 0, 1, reduction)


@TensorScatter.lower
def _(k: Lowering, past_cache: View, update: View, write_indices: View | None = None, *, axis: int = -2, mode: str = "linear", out: Spec) -> View:
    axis = normalize_axis(axis, past_cache.rank)
    order = (0, axis, *(i for i in range(1, past_cache.rank) if i != axis))
    capacity = whole_number(past_cache.shape[axis], "the capacity of a circular cache") if mode == "circular" else 0
    batch, length = update.shape[0], update.shape[axis]

    def place(*first: E) -> E:  # (batch entry, position in the cache)
        position = coord(1) + (cast(first[0], Compute.I64) if first else 0)
        position = binary(Op.MOD, position, capacity) if capacity else position
        return select(binary(Op.EQ, coord(2), 0), coord(0), position)
    firsts = [] if write_indices is None else [write_indices.unsqueeze(1).unsqueeze(2)]
    indices = k.map(place, *firsts, dtype=DType.INT64, shape=(batch, length, 2))
    made = k.buffer(past_cache.dtype, past_cache.shape).whole()
    k.call(Kernel.SCATTER, [past_cache.permute(order), indices, update.permute(order)], [made.permute(order)], axis=0, mode=1, reduction=0)
    return made


def set_places(k: Lowering, x: View) -> tuple[View, View]:
    """COMPACT: (places of the elements that are not 0, int64 [elements of x, rank], of which the first are made; how many: int64 [1])."""
    places, count = k.buffer(DType.INT64, (product(x.shape), x.rank)).whole(), k.buffer(DType.INT64, (1,)).whole()
    k.call(Kernel.COMPACT, [x], [places, count], op=0)
    return places, count


@NonZero.lower
def _(k: Lowering, X: View, *, out: Spec) -> View:
    assert out.shape is not None
    places, count = set_places(k, X)
    k.decide(out.shape[1], count)
    return places.slice(0, 0, out.shape[1]).permute((1, 0))


@Compress.lower
def _(k: Lowering, input: View, condition: View, *, axis: int | None = None, out: Spec) -> View:
    assert out.shape is not None
    data, along = (k.reshape(input, (product(input.shape),)), 0) if axis is None else (input, normalize_axis(axis, input.rank))
    places, count = set_places(k, condition)
    k.decide(out.shape[along], count)
    return gathered(k, data, places.slice(0, 0, out.shape[along]).squeeze(1), along, 0, out.shape)


@OneHot.lower
def _(k: Lowering, indices: View, depth: View, values: View, *, axis: int = -1, out: Spec) -> View:
    axis = normalize_axis(axis, indices.rank + 1)
    classes = (out.shape or ())[axis]

    def body(index: E, off: E, on: E, *count: E) -> E:
        wanted = cast(index, Compute.I64)
        size = cast(count[0], Compute.I64) if count else whole_number(classes, "depth")
        return select(binary(Op.EQ, select(binary(Op.LT, wanted, 0), wanted + size, wanted), coord(axis)), on, off)
    if indices.dtype is DType.UINT64:
        raise CannotLower("OneHot of uint64 indices")
    counts = [] if isinstance(classes, int) else [k.reshape(depth, ())]
    off, on = (values.slice(0, i, 1).squeeze(0) for i in range(2))
    return k.map(body, indices.unsqueeze(axis), off, on, *counts, dtype=values.dtype, shape=out.shape)
