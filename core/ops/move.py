"""Operators that move elements without looking at them: Transpose, Tile, Slice, Concat, Split, Pad, CenterCropPad, DepthToSpace, SpaceToDepth, ReverseSequence."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, Expr, Undecidable, bounds, ceildiv, dim_max, dim_min, floordiv, fresh
from ..dim import Shape as Dims
from ..expr import Compute, E, Op, binary, cast, coord, select
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .common import check_equal, fresh_shape, known_axes, like, negative, normalize_axes, normalize_axis, same_type, size_of_rank
from .maps import numbers, whole_number
from .registry import Spec, operator, require


@operator(symbolic=True)
def Transpose(data: np.ndarray, *, perm: list[int] | None = None) -> np.ndarray:
    """Axis i of the output is axis perm[i] of `data`; by default the axes are reversed."""
    return data.transpose(_permutation(perm, data.ndim))


@Transpose.shape
def _(data: Spec, *, perm: list[int] | None = None) -> Spec:
    if data.shape is None:
        return data.with_shape(fresh_shape(None if perm is None else len(perm)))
    return data.with_shape([data.shape[axis] for axis in _permutation(perm, len(data.shape))])


def _permutation(perm: Sequence[int] | None, rank: int) -> list[int]:
    if perm is None:
        return list(range(rank))[::-1]
    require(sorted(perm) == list(range(rank)), f"perm {list(perm)} is not a permutation of the {rank} axes 0…{rank - 1}")
    return list(perm)


@operator(symbolic=True)
def Tile(input: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """`input` repeated repeats[i] times along axis i."""
    counts = [int(r) for r in repeats]
    require(len(counts) == input.ndim, f"repeats {counts} must have one entry for each of the {input.ndim} axes")
    require(all(r >= 0 for r in counts), f"repeats {counts} must not be negative")
    return np.tile(input, counts)


@Tile.shape
def _(input: Spec, repeats: Spec) -> Spec:
    if input.shape is None:
        return input.with_shape(fresh_shape(size_of_rank(repeats)))
    counts = repeats.ints
    if counts is None:
        return input.with_shape([0 if d == 0 else fresh() for d in input.shape])
    require(len(counts) == len(input.shape), f"repeats {counts} must have one entry for each of the {len(input.shape)} axes")
    return input.with_shape([d * r for d, r in zip(input.shape, counts, strict=True)])


@operator(symbolic=True)
def Slice(data: np.ndarray, starts: np.ndarray, ends: np.ndarray, axes: np.ndarray | None = None, steps: np.ndarray | None = None) -> np.ndarray:
    """data[starts:ends:steps] on the given axes. As in Python, but a start before the first element is clamped to it when stepping backwards too."""
    first, last = [int(v) for v in starts], [int(v) for v in ends]
    along = normalize_axes(range(len(first)) if axes is None else axes.tolist(), data.ndim)
    strides = [1] * len(first) if steps is None else [int(v) for v in steps]
    require(len(first) == len(last) == len(along) == len(strides), f"starts {first}, ends {last}, axes {along} and steps {strides} must have one length")
    require(0 not in strides, f"steps {strides} must not have 0")
    window = [slice(None)] * data.ndim
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        if step < 0:
            start = max(start, -data.shape[axis])
        window[axis] = slice(start, end, step)
    return data[tuple(window)]


@Slice.shape
def _(data: Spec, starts: Spec, ends: Spec, axes: Spec | None = None, steps: Spec | None = None) -> Spec:
    if data.shape is None:
        return data.with_shape(None)
    count = next((n for n in (size_of_rank(starts), size_of_rank(ends)) if n is not None), None)
    along: Sequence[int] | None = None
    if axes is not None:
        along = known_axes(axes, len(data.shape))
    elif count is not None:
        along = normalize_axes(range(count), len(data.shape))
    if along is None:
        return data.with_shape([fresh(0, d) for d in data.shape])
    sizes = list(data.shape)
    strides = [1] * len(along) if steps is None else steps.ints
    for i, axis in enumerate(along):
        sizes[axis] = _sliced(sizes[axis], _item(starts.ints, i), _item(ends.ints, i), _item(strides, i))
    return data.with_shape(sizes)


def _item(values: Sequence[Any] | None, index: int) -> Any:
    if values is None:
        return None
    require(index < len(values), f"starts, ends, axes and steps must have one length: {list(values)} has no entry {index}")
    return values[index]


def _sliced(size: Dim, start: Dim | None, end: Dim | None, step: Dim | None) -> Dim:
    """The size of [start:end:step] of an axis; where it can not be told, a new size of at most `size`."""
    require(step != 0, "steps must not have 0")
    if start is None or end is None or not isinstance(step, int):
        return fresh(0, size)
    try:
        return slice_size(size, start, end, step)
    except Undecidable:  # the sign of a symbolic position is not known
        return fresh(0, ceildiv(size, abs(step)))


#: Exporters write "to the end" as INT32_MAX or INT64_MAX, "to the beginning" as their negatives: no comparison with a symbolic size can be needed.
FAR = 2**31 - 1


def slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """max(0, ⌈(end − start) / step⌉) with both positions clamped.

    Only the clamps that can matter are written: a start past the end gives a negative length, which is 0 anyway. So [1:] and [:-1] have one expression.
    """
    def at(position: Dim) -> Dim:
        return position + size * negative(position)

    def far(position: Dim, sign: int) -> bool:
        return isinstance(position, int) and isinstance(size, Expr) and position * sign >= FAR
    if step > 0:
        high = size if far(end, 1) else dim_min(at(end), size)
        if isinstance(start, Expr) and bounds(start)[0] is None:
            extent = high - dim_max(at(start), 0)  # high - start might not be a number of 64 bits
        else:
            extent = high if far(start, -1) else dim_min(high - at(start), high)  # high - max(start, 0)
        return dim_max(ceildiv(extent, step), 0)
    high = size - 1 if far(start, 1) else dim_min(dim_max(at(start), 0), size - 1)
    low = -1 if far(end, -1) else dim_max(at(end), -1)
    return dim_max(ceildiv(high - low, -step), 0)


@operator(symbolic=True)
def Concat(*inputs: np.ndarray, axis: int) -> np.ndarray:
    """The inputs joined along `axis`; all other sizes agree."""
    return np.concatenate(inputs, normalize_axis(axis, inputs[0].ndim))


@Concat.shape
def _(*inputs: Spec, axis: int) -> Spec:
    require(inputs, "Concat needs at least one input")
    dtype = same_type(*inputs)
    shapes = [s.shape for s in inputs if s.shape is not None]
    if not shapes:
        return Spec(dtype)
    rank = len(shapes[0])
    require(all(len(s) == rank for s in shapes), f"inputs have different ranks: {', '.join(map(str, inputs))}")
    axis = normalize_axis(axis, rank)
    out = [_agreed(axis_sizes, i) if i != axis else 0 for i, axis_sizes in enumerate(zip(*shapes, strict=True))]
    if len(shapes) < len(inputs):
        out[axis] = fresh()
    else:
        for sizes in shapes:
            out[axis] = sizes[axis] + out[axis]
    return Spec(dtype, tuple(out))


def _agreed(sizes: Sequence[Dim], axis: int) -> Dim:
    """The one size all inputs have: a number if one of them knows it, else the first that has a name."""
    numbers = [d for d in sizes if isinstance(d, int)]
    for number in numbers:
        check_equal(numbers[0], number, f"inputs differ on axis {axis}")
    return next((d for d in [*numbers, *(d for d in sizes if not str(d).startswith("?"))]), sizes[0])


@operator()
def Split(input: np.ndarray, split: np.ndarray | None = None, *, num_outputs: int | None = None, axis: int = 0, n_outputs: int) -> tuple[np.ndarray, ...]:
    """`input` cut along `axis` into parts of the sizes `split`, or into `num_outputs` parts ⌈size / num_outputs⌉ long, the last ones shorter."""
    axis = normalize_axis(axis, input.ndim)
    sizes = _parts(input.shape[axis], None if split is None else split.tolist(), num_outputs, n_outputs)
    return tuple(np.split(input, np.cumsum(np.asarray(sizes[:-1], np.int64)), axis))


@Split.shape
def _(input: Spec, split: Spec | None = None, *, num_outputs: int | None = None, axis: int = 0, n_outputs: int) -> tuple[Spec, ...]:
    if input.shape is None:
        return (input.with_shape(None),) * n_outputs
    axis = normalize_axis(axis, len(input.shape))
    if split is not None and split.ints is None:
        parts: Sequence[Dim] = [fresh(0, input.shape[axis]) for _ in range(n_outputs)]
    else:
        parts = _parts(input.shape[axis], None if split is None else split.ints, num_outputs, n_outputs)
    return tuple(input.with_shape((*input.shape[:axis], part, *input.shape[axis + 1:])) for part in parts)


@Split.values
def _(input: Spec, split: Spec | None = None, *, num_outputs: int | None = None, axis: int = 0) -> Any:
    if input.value is None or input.shape is None or split is not None and split.ints is None:
        return None
    axis = normalize_axis(axis, len(input.shape))
    sizes = _parts(input.shape[axis], None if split is None else split.ints, num_outputs, len(split.ints or ()) if split is not None else num_outputs or 0)
    return tuple(np.split(np.asarray(input.value), np.cumsum(np.asarray(sizes[:-1], np.int64)), axis))


def _parts(size: Dim, split: Sequence[Dim] | None, num_outputs: int | None, n_outputs: int) -> list[Dim]:
    require((split is None) != (num_outputs is None), "exactly one of the input 'split' and the attribute 'num_outputs' must be given")
    if split is not None:
        require(len(split) == n_outputs, f"split {list(split)} has {len(split)} entries for {n_outputs} outputs")
        require(not any(isinstance(d, int) and d < 0 for d in split), f"split {list(split)} has a negative size")
        check_equal(sum(split), size, f"the sum of split {list(split)} must be the size of the axis")
        return list(split)
    assert num_outputs is not None
    require(num_outputs == n_outputs and num_outputs > 0, f"num_outputs is {num_outputs}, but the node has {n_outputs} outputs")
    chunk = ceildiv(size, num_outputs)
    # Whole chunks while they last. The first part is always a whole one (or all there is), and of two the second is what the first leaves.
    return [chunk if i == 0 or chunk * num_outputs == size else size - chunk if num_outputs == 2 else dim_min(chunk, dim_max(size - chunk * i, 0))
            for i in range(num_outputs)]


@operator()
def Pad(data: np.ndarray, pads: np.ndarray, constant_value: np.ndarray | None = None, axes: np.ndarray | None = None, *, mode: str = "constant") -> np.ndarray:
    """`data` with pads[i] elements added before and pads[i + k] after the i-th of k axes; negative pads remove. Modes constant, reflect, edge, wrap.

    Where pads remove elements, the other modes look at what is left, as onnxruntime does (the specification does not say).
    """
    along = list(range(data.ndim)) if axes is None else normalize_axes(axes.tolist(), data.ndim)
    before, after = _spread(pads.tolist(), along, data.ndim)
    if mode == "constant":
        return _pad_constant(data, before, after, _zero(data.dtype) if constant_value is None else constant_value.reshape(-1)[0])
    require(mode in _SOURCES, f"mode '{mode}' is not one of constant, {', '.join(_SOURCES)}")
    window = []
    for axis, (size, b, e) in enumerate(zip(data.shape, before, after, strict=True)):
        require(size + min(b, 0) + min(e, 0) >= 0, f"pads {b}, {e} remove more than the {size} elements of axis {axis}")
        window.append(slice(max(-b, 0), size + min(e, 0)))
    data = data[tuple(window)]
    for axis, (size, b, e) in enumerate(zip(data.shape, before, after, strict=True)):
        b, e = max(b, 0), max(e, 0)
        if b or e:
            require(size, f"axis {axis} is empty: mode '{mode}' has nothing to pad it with")
            data = data.take(_SOURCES[mode](np.arange(-b, size + e), size), axis)
    return data


def _reflect(position: np.ndarray, size: int) -> np.ndarray:
    period = max(2 * size - 2, 1)  # the edge is not repeated: 2 1 0 1 2 1 0 …
    position = position % period
    return np.minimum(position, period - position)


_SOURCES = {
    "reflect": _reflect,
    "edge": lambda position, size: position.clip(0, size - 1),
    "wrap": lambda position, size: position % size,
}


def _zero(dtype: np.dtype[Any]) -> Any:
    return "" if dtype.kind == "O" else np.zeros((), dtype)


def _spread(pads: Sequence[Any], axes: Sequence[int], rank: int) -> tuple[list[Any], list[Any]]:
    """Pads of some axes → (before, after) of all axes."""
    count = len(axes)
    require(len(pads) == 2 * count, f"pads {list(pads)} must have two entries for each of {count} axes")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[count + i]
    return before, after


def _pad_constant(data: np.ndarray, before: Sequence[int], after: Sequence[int], fill: Any) -> np.ndarray:
    sizes = [d + b + e for d, b, e in zip(data.shape, before, after, strict=True)]
    require(all(d >= 0 for d in sizes), f"pads {list(before)} and {list(after)} remove more elements than shape {list(data.shape)} has")
    out = np.full(sizes, fill, data.dtype)
    target, source = [], []
    for size, have, b in zip(sizes, data.shape, before, strict=True):
        to, frm = max(b, 0), max(-b, 0)
        count = max(min(size - to, have - frm), 0)
        target.append(slice(to, to + count))
        source.append(slice(frm, frm + count))
    out[tuple(target)] = data[tuple(source)]
    return out


@Pad.shape
def _(data: Spec, pads: Spec, constant_value: Spec | None = None, axes: Spec | None = None, *, mode: str = "constant") -> Spec:
    same_type(data, constant_value, names="data and constant_value")
    if data.shape is None:
        count = size_of_rank(pads)
        return data.with_shape(fresh_shape(None if count is None or axes is not None else count // 2))
    rank = len(data.shape)
    along = list(range(rank)) if axes is None else known_axes(axes, rank)
    if along is None:
        return data.with_shape(fresh_shape(rank))
    if pads.ints is None:
        return data.with_shape([fresh() if i in along else d for i, d in enumerate(data.shape)])
    before, after = _spread(pads.ints, along, rank)
    sizes = [d + b + e for d, b, e in zip(data.shape, before, after, strict=True)]
    require(not any(isinstance(d, int) and d < 0 for d in sizes), f"pads {pads.ints} remove more elements than there are")
    return data.with_shape(sizes)


@Pad.values
def _(data: Spec, pads: Spec, constant_value: Spec | None = None, axes: Spec | None = None, *, mode: str = "constant") -> Any:
    # Only sizes: the body would take an object array for strings.
    if data.value is None or np.asarray(data.value).dtype != object or data.dtype is DType.STRING or mode != "constant":
        return None
    value = np.asarray(data.value)
    along = list(range(value.ndim)) if axes is None else known_axes(axes, value.ndim)
    widths, fill = pads.ints, [0] if constant_value is None else constant_value.ints
    if along is None or widths is None or fill is None or not all(isinstance(w, int) for w in widths):
        return None
    before, after = _spread(widths, along, value.ndim)
    return _pad_constant(value, before, after, fill[0])


@operator()
def CenterCropPad(input_data: np.ndarray, shape: np.ndarray, *, axes: list[int] | None = None) -> np.ndarray:
    """The centre of `input_data`, cropped or zero-padded to `shape` on the given axes; of an odd difference the larger half is on the right."""
    along = list(range(input_data.ndim)) if axes is None else normalize_axes(axes, input_data.ndim)
    target = shape.tolist()
    require(len(target) == len(along), f"shape {target} must have one entry for each of {len(along)} axes")
    before, after = [0] * input_data.ndim, [0] * input_data.ndim
    for axis, size in zip(along, target, strict=True):
        require(size >= 0, f"shape {target} has a negative size")
        have = input_data.shape[axis]
        before[axis] = floordiv(dim_max(size - have, 0), 2) - floordiv(dim_max(have - size, 0), 2)
        after[axis] = size - have - before[axis]
    return _pad_constant(input_data, before, after, _zero(input_data.dtype))


@CenterCropPad.shape
def _(input_data: Spec, shape: Spec, *, axes: list[int] | None = None) -> Spec:
    if input_data.shape is None:
        target = shape.ints if axes is None else None
        return input_data.with_shape(target if target is not None else fresh_shape(size_of_rank(shape) if axes is None else None))
    rank = len(input_data.shape)
    along = list(range(rank)) if axes is None else normalize_axes(axes, rank)
    sizes = list(input_data.shape)
    target = shape.ints
    require(target is None or len(target) == len(along), f"shape {target} must have one entry for each of {len(along)} axes")
    for i, axis in enumerate(along):
        sizes[axis] = fresh() if target is None else target[i]
    return input_data.with_shape(sizes)


@operator()
def DepthToSpace(input: np.ndarray, *, blocksize: int, mode: str = "DCR") -> np.ndarray:
    """[N, C, H, W] → [N, C / b², H·b, W·b]; the channel is (row, column, depth) in mode DCR, (depth, row, column) in mode CRD."""
    n, c, h, w = input.shape
    depth, b = c // _block(blocksize, mode, c, "the channel count") ** 2, blocksize
    if mode == "DCR":
        parts = input.reshape(n, b, b, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = input.reshape(n, depth, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, depth, h * b, w * b)


@DepthToSpace.shape
def _(input: Spec, *, blocksize: int, mode: str = "DCR") -> Spec:
    n, c, h, w = _image(input)
    b = _block(blocksize, mode, c, "the channel count")
    return input.with_shape((n, floordiv(c, b * b), h * b, w * b))


@operator()
def SpaceToDepth(input: np.ndarray, *, blocksize: int, mode: str = "DCR") -> np.ndarray:
    """[N, C, H, W] → [N, C·b², H / b, W / b]; the inverse of DepthToSpace in the same mode."""
    n, c, h, w = input.shape
    b = blocksize
    _block(b, mode, None, "")
    require(h % b == 0 and w % b == 0, f"height {h} and width {w} must be multiples of blocksize {b}")
    parts = input.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.transpose(order).reshape(n, c * b * b, h // b, w // b)


@SpaceToDepth.shape
def _(input: Spec, *, blocksize: int, mode: str = "DCR") -> Spec:
    n, c, h, w = _image(input)
    b = _block(blocksize, mode, None, "")
    for size in (h, w):
        require(isinstance(size, Expr) or size % b == 0, f"height {h} and width {w} must be multiples of blocksize {b}")
    return input.with_shape((n, c * b * b, floordiv(h, b), floordiv(w, b)))


def _image(input: Spec) -> Dims:
    require(input.shape is None or len(input.shape) == 4, f"the input must have rank 4 [N, C, H, W], not {input}")
    return input.shape or tuple(fresh() for _ in range(4))


def _block(blocksize: int, mode: str, channels: Dim | None, what: str) -> int:
    require(blocksize > 0, f"blocksize {blocksize} must be positive")
    require(mode in ("DCR", "CRD"), f"mode '{mode}' is not one of DCR, CRD")
    require(not isinstance(channels, int) or channels % blocksize**2 == 0, f"{what} {channels} must be a multiple of blocksize² = {blocksize**2}")
    return blocksize


@operator()
def ReverseSequence(input: np.ndarray, sequence_lens: np.ndarray, *, batch_axis: int = 1, time_axis: int = 0) -> np.ndarray:
    """For each batch entry i, the first sequence_lens[i] time steps reversed and the rest unchanged."""
    _sequence_axes(batch_axis, time_axis)
    steps = input.shape[time_axis]
    require(sequence_lens.shape == (input.shape[batch_axis],), f"sequence_lens has shape {list(sequence_lens.shape)}, the batch has size {input.shape[batch_axis]}")
    require(((sequence_lens >= 0) & (sequence_lens <= steps)).all(), f"sequence_lens {sequence_lens.tolist()} must be in [0, {steps}]")
    time = np.arange(steps)[:, None]
    source = np.where(time < sequence_lens, sequence_lens - 1 - time, time)  # [time, batch]
    batch = np.arange(input.shape[batch_axis])
    return input[source, batch] if time_axis == 0 else input[batch[:, None], source.T]


@ReverseSequence.shape
def _(input: Spec, sequence_lens: Spec, *, batch_axis: int = 1, time_axis: int = 0) -> Spec:
    _sequence_axes(batch_axis, time_axis)
    require(input.shape is None or len(input.shape) >= 2, f"the input must have at least rank 2, not {input}")
    return like(input)


def _sequence_axes(batch_axis: int, time_axis: int) -> None:
    require({batch_axis, time_axis} == {0, 1}, f"batch_axis {batch_axis} and time_axis {time_axis} must be 0 and 1 in some order")


# -- lowering: views where strides can say it, else Copies ---------------------------------------------------------------------------------------

@Transpose.lower
def _(k: Lowering, data: View, *, perm: list[int] | None = None, out: Spec) -> View:
    return data.permute(_permutation(perm, data.rank))


@Tile.lower
def _(k: Lowering, input: View, repeats: View, *, out: Spec) -> View:
    shape = out.shape or ()
    if all(have == want or have == 1 for have, want in zip(input.shape, shape, strict=True)):
        return input.expand(shape)
    return k.move(input, k.buffer(input.dtype, shape).whole(), WRAP)


#: Modes of the COPY record.
CONSTANT, WRAP = 1, 4
COPY_MODES = {"constant": CONSTANT, "reflect": 2, "edge": 3, "wrap": WRAP}


@Slice.lower
def _(k: Lowering, data: View, starts: View, ends: View, axes: View | None = None, steps: View | None = None, *, out: Spec) -> View:
    first = numbers(starts, "starts")
    along = normalize_axes(range(len(first)) if axes is None else [whole_number(a, "axes") for a in numbers(axes, "axes")], data.rank)
    strides = [1] * len(first) if steps is None else [whole_number(s, "steps") for s in numbers(steps, "steps")]
    for axis, start, step in zip(along, first, strides, strict=True):
        data = data.slice(axis, slice_start(data.shape[axis], start, step), (out.shape or ())[axis], step)
    return data


def slice_start(size: Dim, start: Dim, step: int) -> Dim:
    """Where [start::step] of an axis begins, clamped to the axis."""
    start = start + size * negative(start)
    if step < 0:
        return dim_max(dim_min(start, size - 1), 0)
    return dim_min(dim_max(start, 0), size)


@Concat.lower
def _(k: Lowering, *inputs: View, axis: int, out: Spec) -> View:
    return joined(k, inputs, axis, out)


def joined(k: Lowering, inputs: Sequence[View], axis: int, out: Spec) -> View:
    """The views one after the other along `axis`, in one buffer."""
    made = k.buffer(inputs[0].dtype, out.shape or ()).whole()
    at: Dim = 0
    for i, view in enumerate(inputs):
        size = view.shape[axis]
        if size != 0 or (i == len(inputs) - 1 and at == 0):  # an empty buffer is written too
            k.move(view, made.slice(axis % made.rank, at, size))
        at = at + size
    return made


@Split.lower
def _(k: Lowering, input: View, split: View | None = None, *, num_outputs: int | None = None, axis: int = 0, n_outputs: int, out: Any) -> tuple[View, ...]:
    axis = normalize_axis(axis, input.rank)
    made: list[View] = []
    at: Dim = 0
    for part in _parts(input.shape[axis], None if split is None else numbers(split, "split"), num_outputs, n_outputs):
        made.append(input.slice(axis, at, part))
        at = at + part
    return tuple(made)


@Pad.lower
def _(k: Lowering, data: View, pads: View, constant_value: View | None = None, axes: View | None = None, *, mode: str = "constant", out: Spec) -> View:
    along = list(range(data.rank)) if axes is None else normalize_axes([whole_number(a, "axes") for a in numbers(axes, "axes")], data.rank)
    before, after = _spread(numbers(pads, "pads"), along, data.rank)
    return padded(k, data, before, after, out, COPY_MODES[mode], constant_value)


def padded(k: Lowering, data: View, before: Sequence[Dim], after: Sequence[Dim], out: Spec, mode: int = CONSTANT, value: View | None = None) -> View:
    """`data` with elements added (removed where negative) at the ends of each axis."""
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        cut = (dim_max(-b, 0), dim_max(-a, 0))
        if cut != (0, 0):
            data = data.slice(axis, cut[0], dim_max(data.shape[axis] - cut[0] - cut[1], 0))
    begin = [dim_max(b, 0) for b in before]
    if data.shape == out.shape and all(b == 0 for b in begin):
        return data
    return k.move(data, k.buffer(data.dtype, out.shape or ()).whole(), mode, begin, value)


@CenterCropPad.lower
def _(k: Lowering, input_data: View, shape: View, *, axes: list[int] | None = None, out: Spec) -> View:
    along = list(range(input_data.rank)) if axes is None else normalize_axes(axes, input_data.rank)
    before: list[Dim] = [0] * input_data.rank
    after: list[Dim] = [0] * input_data.rank
    for axis, size in zip(along, numbers(shape, "shape"), strict=True):
        have = input_data.shape[axis]
        before[axis] = floordiv(dim_max(size - have, 0), 2) - floordiv(dim_max(have - size, 0), 2)
        after[axis] = size - have - before[axis]
    return padded(k, input_data, before, after, out)


@DepthToSpace.lower
def _(k: Lowering, input: View, *, blocksize: int, mode: str = "DCR", out: Spec) -> View:
    b, (_, c, h, w) = blocksize, input.shape
    depth = floordiv(c, b * b)
    parts = input.split(1, b, b, depth).permute((0, 3, 4, 1, 5, 2)) if mode == "DCR" else input.split(1, depth, b, b).permute((0, 1, 4, 2, 5, 3))
    made = k.buffer(input.dtype, out.shape or ()).whole()
    k.move(parts, made.split(3, w, b).split(2, h, b))
    return made


@SpaceToDepth.lower
def _(k: Lowering, input: View, *, blocksize: int, mode: str = "DCR", out: Spec) -> View:
    b, (_, c, h, w) = blocksize, input.shape
    made = k.buffer(input.dtype, out.shape or ()).whole()
    target = made.split(1, b, b, c).permute((0, 3, 4, 1, 5, 2)) if mode == "DCR" else made.split(1, c, b, b).permute((0, 1, 4, 2, 5, 3))
    k.move(input.split(3, floordiv(w, b), b).split(2, floordiv(h, b), b), target)
    return made


@ReverseSequence.lower
def _(k: Lowering, input: View, sequence_lens: View, *, batch_axis: int = 1, time_axis: int = 0, out: Spec) -> View:
    swap = (1, 0, *range(2, input.rank))
    data = input if batch_axis == 0 else input.permute(swap)
    made = k.buffer(input.dtype, out.shape or ()).whole()
    batch, steps = data.shape[:2]

    def source(length: E) -> E:
        time = coord(1)
        return select(binary(Op.LT, time, cast(length, Compute.I64)), cast(length, Compute.I64) - 1 - time, time)
    index = k.map(source, sequence_lens.unsqueeze(1).unsqueeze(2), dtype=DType.INT64, shape=(batch, steps, 1))
    k.call(Kernel.GATHER, [data, index], [made if batch_axis == 0 else made.permute(swap)], axis=1, mode=2)
    return made
