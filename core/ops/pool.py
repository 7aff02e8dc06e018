"""Pooling: AveragePool, MaxPool, LpPool, their global forms, MaxUnpool, MaxRoiPool.

A pool is a fold over kernel taps, axis by axis where the reduction separates; never a loop over pixels.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dim import Undecidable, dim_min, product
from ..expr import E, Op, binary, compute_type, const, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .common import fresh_shape, same_type
from .precision import widened
from .registry import Ints, Spec, operator, require
from .window import Window, fold, leading_pads, make_window, output_counts, output_sizes, pad_spatial, same_pads, taps


def _lowest(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _pool_shape(X: Spec, kernel_shape: Ints, strides: Ints, dilations: Ints, pads: Ints, auto_pad: str, ceil_mode: int) -> Any:
    if X.shape is None:
        return fresh_shape(len(kernel_shape) + 2)
    window = make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    require(len(X.shape) == len(kernel_shape) + 2, f"input {X} must have rank {len(kernel_shape) + 2}: kernel_shape has {len(kernel_shape)} axes")
    return (*X.shape[:2], *output_sizes(X.shape[2:], window))


def _counts(x: np.ndarray, window: Window, outputs: tuple[int, ...], include_pad: int) -> np.ndarray:
    """How many elements each window averages over: those inside the input, or inside the input and its stated padding (never ceil_mode's overhang)."""
    sizes = x.shape[2:]
    begins = leading_pads(sizes, outputs, window)
    totals = same_pads(sizes, outputs, window) if window.auto_pad.startswith("SAME") else tuple(b + e for b, e in zip(window.begin, window.end, strict=True))
    out: np.ndarray = np.ones((), np.int64)
    for size, output, kernel, stride, dilation, begin, total in zip(sizes, outputs, window.kernel, window.strides, window.dilations, begins, totals, strict=True):
        places = np.arange(output)[:, None] * stride - begin + np.arange(kernel) * dilation
        low, high = (-begin, size + total - begin) if include_pad else (0, size)
        out = out[..., None] * ((places >= low) & (places < high)).sum(1)
    return out


@operator()
def AveragePool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0, dilations: Ints = None, kernel_shape: Ints,
                pads: Ints = None, strides: Ints = None) -> Any:
    """Mean of each window."""
    window = make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    outputs = output_counts(X.shape[2:], window)
    padded = pad_spatial(widened(X), leading_pads(X.shape[2:], outputs, window), outputs, window, 0)
    sums = fold(padded, window, outputs, np.add)
    return (sums / _counts(X, window, outputs, count_include_pad).astype(sums.dtype)).astype(X.dtype, copy=False)


@AveragePool.shape
def _(X: Spec, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0, dilations: Ints = None, kernel_shape: Ints,
      pads: Ints = None, strides: Ints = None) -> Spec:
    return Spec(X.dtype, _pool_shape(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode))


@operator()
def MaxPool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None, storage_order: int = 0, strides: Ints = None,
            n_outputs: int = 1) -> Any:
    """Maximum of each window (NaN wins) and, if asked for, its index in the whole flattened input."""
    window = make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    sizes = X.shape[2:]
    outputs = output_counts(sizes, window)
    begins = leading_pads(sizes, outputs, window)
    padded = pad_spatial(X, begins, outputs, window, _lowest(X.dtype))
    if n_outputs == 1:
        return fold(padded, window, outputs, np.maximum)
    strides_of_index = np.cumprod([1, *sizes[::-1]])[:-1][::-1] if storage_order == 0 else np.cumprod([1, *sizes])[:-1]
    place = sum((np.arange(n).reshape(-1, *[1] * (len(sizes) - 1 - i)) * s for i, (n, s) in enumerate(zip(sizes, strides_of_index, strict=True))), np.zeros((), np.int64))
    places = pad_spatial(np.broadcast_to(place, sizes), begins, outputs, window, -1)
    best, at = _arg_max(padded, places, window, outputs)
    plane = np.arange(X.shape[0] * X.shape[1]).reshape(*X.shape[:2], *[1] * len(sizes)) * int(np.prod(sizes))
    return best, np.where(at < 0, at, at + plane)


def _arg_max(padded: np.ndarray, places: np.ndarray, window: Window, outputs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The first largest element of each window and its place; padding (place -1) is never chosen."""
    shape = (*padded.shape[:2], *outputs)
    best = np.full(shape, _lowest(padded.dtype), padded.dtype)
    at = np.full(shape, -1, np.int64)
    for _, index in taps(window, outputs):
        tap, place = padded[index], places[index]
        better = (place >= 0) & ((at < 0) | (tap > best) | ((tap != tap) & (best == best)))
        best = np.where(better, tap, best)
        at = np.where(better, place, at)
    return best, at


@MaxPool.shape
def _(X: Spec, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None, storage_order: int = 0,
      strides: Ints = None) -> tuple[Spec, Spec]:
    shape = _pool_shape(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return Spec(X.dtype, shape), Spec(DType.INT64, shape)


@operator()
def LpPool(X: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, p: int = 2, pads: Ints = None, strides: Ints = None) -> Any:
    """(Σ |x|^p)^(1/p) of each window."""
    window = make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    outputs = output_counts(X.shape[2:], window)
    padded = pad_spatial(np.abs(widened(X)) ** p, leading_pads(X.shape[2:], outputs, window), outputs, window, 0)
    return (fold(padded, window, outputs, np.add) ** (1 / p)).astype(X.dtype, copy=False)


@LpPool.shape
def _(X: Spec, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, p: int = 2, pads: Ints = None, strides: Ints = None) -> Spec:
    return Spec(X.dtype, _pool_shape(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode))


def _spatial(X: np.ndarray) -> tuple[int, ...]:
    return tuple(range(2, X.ndim))


def _global_shape(X: Spec, *, p: int = 2) -> Spec:
    return Spec(X.dtype, None if X.shape is None else (*X.shape[:2], *[1] * (len(X.shape) - 2)))


@operator()
def GlobalAveragePool(X: Any) -> Any:
    """Mean over all spatial axes, kept as 1."""
    return widened(X).mean(_spatial(X), keepdims=True).astype(X.dtype, copy=False)


@operator()
def GlobalMaxPool(X: Any) -> Any:
    """Maximum over all spatial axes, kept as 1."""
    return widened(X).max(_spatial(X), keepdims=True, initial=-np.inf).astype(X.dtype, copy=False)


@operator()
def GlobalLpPool(X: Any, *, p: int = 2) -> Any:
    """(Σ |x|^p)^(1/p) over all spatial axes, kept as 1."""
    return ((np.abs(widened(X)) ** p).sum(_spatial(X), keepdims=True) ** (1 / p)).astype(X.dtype, copy=False)


GlobalAveragePool.shape(_global_shape)
GlobalMaxPool.shape(_global_shape)
GlobalLpPool.shape(_global_shape)


def _unpooled(shape: Any, kernel_shape: Ints, strides: Ints, pads: Ints) -> tuple[Any, ...]:
    """The sizes of the pooled tensor's origin: what MaxPool's indices count in."""
    n = len(kernel_shape)
    window = make_window(kernel_shape, strides, None, pads)
    require(len(shape) == n + 2, f"an input of rank {len(shape)} does not fit kernel_shape {list(kernel_shape)}")
    return (*shape[:2], *((d - 1) * s - b - e + k for d, s, b, e, k in zip(shape[2:], window.strides, window.begin, window.end, kernel_shape, strict=True)))


@operator()
def MaxUnpool(X: Any, I: Any, output_shape: Ints = None, *, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Any:
    """X scattered to the places I in zeros. With `output_shape`, the unpooled tensor is the leading corner of the output."""
    shape = _unpooled(X.shape, kernel_shape, strides, pads)
    flat = np.zeros(int(np.prod(shape)), X.dtype)
    require(I.size == 0 or (I.min() >= 0 and I.max() < flat.size), f"indices must be in [0, {flat.size}), the size of the unpooled tensor {list(shape)}")
    flat[I.ravel()] = X.ravel()
    if output_shape is None:
        return flat.reshape(shape)
    wanted = tuple(int(d) for d in output_shape)
    require(len(wanted) == len(shape), f"output_shape {list(wanted)} must have {len(shape)} entries")
    out = np.zeros(wanted, X.dtype)
    corner = tuple(slice(0, min(a, b)) for a, b in zip(shape, wanted, strict=True))
    out[corner] = flat.reshape(shape)[corner]
    return out


@MaxUnpool.shape
def _(X: Spec, I: Spec, output_shape: Spec | None = None, *, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Spec:
    if output_shape is not None:
        return Spec(X.dtype, tuple(output_shape.ints) if output_shape.ints is not None else fresh_shape(len(kernel_shape) + 2))
    return Spec(X.dtype, fresh_shape(len(kernel_shape) + 2) if X.shape is None else _unpooled(X.shape, kernel_shape, strides, pads))


def _round_away(x: np.ndarray) -> np.ndarray:
    """C's round: halves away from zero."""
    return np.copysign(np.floor(np.abs(x) + np.float32(0.5)), x)


def _bins(start: int, stop: int, count: int, size: int) -> list[slice]:
    """`count` bins that cover [start, stop] (at least one element) and may overlap, cut to [0, size)."""
    width = np.float32(max(stop - start + 1, 1)) / np.float32(count)
    edges = [(int(np.floor(i * width)) + start, int(np.ceil((i + 1) * width)) + start) for i in range(count)]
    return [slice(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]


@operator()
def MaxRoiPool(X: Any, rois: Any, *, pooled_shape: Ints, spatial_scale: float = 1.0) -> Any:
    """Maximum of each of pooled_shape bins of each region [batch, x1, y1, x2, y2] (Fast R-CNN, arXiv:1504.08083); an empty bin is 0."""
    x = widened(X)
    height, width = pooled_shape
    out = np.zeros((len(rois), X.shape[1], height, width), x.dtype)
    corners = _round_away(widened(rois)[:, 1:] * np.float32(spatial_scale)).astype(np.int64)
    for r, (x1, y1, x2, y2) in enumerate(corners.tolist()):
        image = int(rois[r, 0])
        require(0 <= image < len(x), f"region {r} names image {image}; the input has {len(x)}")
        columns = _bins(x1, x2, width, x.shape[3])
        for i, rows in enumerate(_bins(y1, y2, height, x.shape[2])):
            if rows.start < rows.stop:
                strip = x[image, :, rows].max(1)
                for j, span in enumerate(columns):
                    if span.start < span.stop:
                        out[r, :, i, j] = strip[:, span].max(1)
    return out.astype(X.dtype, copy=False)


@MaxRoiPool.shape
def _(X: Spec, rois: Spec, *, pooled_shape: Ints, spatial_scale: float = 1.0) -> Spec:
    count, channels = fresh_shape(2)  # type: ignore[misc]
    count = rois.shape[0] if rois.shape is not None else count
    channels = X.shape[1] if X.shape is not None else channels
    return Spec(same_type(X, rois, names="X and rois"), (count, channels, *pooled_shape))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _pool(k: Lowering, X: View, out: Spec, op: int, window: Window, indices: bool = False, include_pad: int = 0, p: int = 2, storage_order: int = 0) -> list[View]:
    spatial = X.rank - 2
    if X.dtype not in (DType.FLOAT, DType.FLOAT16) and not (op == 0 and X.dtype in (DType.INT8, DType.UINT8)) or not 1 <= spatial <= 3:
        raise CannotLower(f"{spatial}-D pooling of {X.dtype.text}")
    shape = out.shape or ()
    try:
        begins = list(leading_pads(X.shape[2:], shape[2:], window))  # type: ignore[arg-type]
        ends = [t - b for t, b in zip(same_pads(X.shape[2:], shape[2:], window), begins, strict=True)] if window.auto_pad.startswith("SAME") else list(window.end)  # type: ignore[arg-type]
    except Undecidable:
        raise CannotLower(f"auto_pad {window.auto_pad} of sizes that only the run knows") from None
    made = [k.buffer(X.dtype, shape).whole()] + ([k.buffer(DType.INT64, shape).whole()] if indices else [])
    k.call(Kernel.POOL, [X], made, spatial=spatial, op=op, kernel=list(window.kernel), strides=list(window.strides), dilations=list(window.dilations), pads=begins, pads_end=ends,
           count_include_pad=include_pad, p=p, storage_order=storage_order)
    return made


@AveragePool.lower
def _(k: Lowering, X: View, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None,
      strides: Ints = None, out: Spec) -> View:
    return _pool(k, X, out, 1, make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode), include_pad=count_include_pad)[0]


@MaxPool.lower
def _(k: Lowering, X: View, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None, storage_order: int = 0,
      strides: Ints = None, out: Any) -> Any:
    first = out[0] if isinstance(out, list) else out
    indices = isinstance(out, list) and len(out) > 1 and out[1] is not None
    return tuple(_pool(k, X, first, 0, make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode), indices, storage_order=storage_order))


@LpPool.lower
def _(k: Lowering, X: View, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, p: int = 2, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    return _pool(k, X, out, 2, make_window(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode), p=p)[0]


def _global(op: int, before: Callable[[E], E] | None = None, after: Callable[[E], E] | None = None) -> Callable[..., View]:
    """A lowering rule: one REDUCE over the spatial axes."""
    return lambda k, X, *, out, **_: k.reduce(op, X, range(2, X.rank), X.dtype, before, after)


GlobalAveragePool.lower(_global(6))
GlobalMaxPool.lower(_global(3))


@GlobalLpPool.lower
def _(k: Lowering, X: View, *, p: int = 2, out: Spec) -> View:
    wide = compute_type(X.dtype)
    rule = _global(0, lambda x: binary(Op.POW, unary(Op.ABS, x), const(p, wide)), lambda total: binary(Op.POW, total, const(1 / p, wide)))
    return rule(k, X, out=out)


@MaxUnpool.lower
def _(k: Lowering, X: View, I: View, output_shape: View | None = None, *, kernel_shape: Any, pads: Any = None, strides: Any = None, out: Spec) -> View:
    shape = _unpooled(X.shape, kernel_shape, strides, pads)
    count = product(shape)
    zeros = k.constant(np.zeros((), X.dtype.numpy), X.dtype).expand((count,))
    made = k.buffer(X.dtype, (count,)).whole()
    k.call(Kernel.SCATTER, [zeros, k.reshape(I, (product(I.shape),)), k.reshape(X, (product(X.shape),))], [made], axis=0, mode=0, reduction=0)
    whole = k.reshape(made, shape)
    if out.shape == shape:
        return whole
    # The unpooled tensor is the leading corner of the output.
    for axis, (have, want) in enumerate(zip(shape, out.shape or (), strict=True)):
        whole = whole.slice(axis, 0, dim_min(have, want))
    return k.move(whole, k.buffer(X.dtype, out.shape or ()).whole(), 1)


@MaxRoiPool.lower
def _(k: Lowering, X: View, rois: View, *, pooled_shape: Any, spatial_scale: float = 1.0, out: Spec) -> View:
    made = k.buffer(X.dtype, out.shape or ()).whole()
    k.call(Kernel.SAMPLE, [X, rois, None], [made], op=2, spatial_scale=spatial_scale)
    return made
