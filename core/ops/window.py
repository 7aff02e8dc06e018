"""Sliding windows: the sizes, paddings and kernel taps that convolution, pooling and Col2Im share.

One axis: a window of `kernel` taps, `dilation` apart, has the extent `dilation * (kernel - 1) + 1` and starts every `stride` elements of the padded input.
Sizes may be Dims, so that the bodies and the shape rules use the same formulas.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..dim import Dim, ceildiv
from .registry import require

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True, slots=True)
class Window:
    """A window over the spatial axes; every list has one entry per axis. `begin`/`end`: padding; None where `auto_pad` says what it is."""

    kernel: tuple[Any, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: bool = False

    @property
    def extents(self) -> tuple[Any, ...]:
        """What one window spans on each axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def make_window(kernel: Sequence[Any], strides: Sequence[int] | None, dilations: Sequence[int] | None, pads: Sequence[int] | None,
                auto_pad: str = "NOTSET", ceil_mode: int = 0) -> Window:
    """A Window from a node's attributes, checked."""
    n = len(kernel)
    strides, dilations = tuple(strides or [1] * n), tuple(dilations or [1] * n)
    pads = tuple(pads or [0] * (2 * n)) if auto_pad == "NOTSET" else (0,) * (2 * n)
    if auto_pad not in AUTO_PADS:  # no message is made in vain
        require(False, f"auto_pad '{auto_pad}' is not one of {', '.join(AUTO_PADS)}")
    if not (len(strides) == n and len(dilations) == n and len(pads) == 2 * n):
        require(False, f"strides {list(strides)}, dilations {list(dilations)} and pads {list(pads)} must have {n}, {n} and {2 * n} entries, as the window has {n} axes")
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1 or min(pads, default=0) < 0 or not all(not isinstance(k, int) or k > 0 for k in kernel):
        require(False, f"kernel {list(kernel)}, strides {list(strides)} and dilations {list(dilations)} must be positive and pads {list(pads)} not negative")
    return Window(tuple(kernel), strides, dilations, pads[:n], pads[n:], auto_pad, bool(ceil_mode))


def output_sizes(sizes: Sequence[Dim], window: Window) -> tuple[Dim, ...]:
    """How many windows fit on each axis."""
    require(len(sizes) == len(window.kernel), f"the input has {len(sizes)} spatial axes, the window {len(window.kernel)}")
    return tuple(_output_size(size, i, window) for i, size in enumerate(sizes))


def output_counts(sizes: Sequence[int], window: Window) -> tuple[int, ...]:
    """`output_sizes` of an array's shape, for the bodies."""
    return tuple(int(o) for o in output_sizes(sizes, window))  # type: ignore[arg-type]


def _output_size(size: Dim, i: int, window: Window) -> Dim:
    stride, extent, begin, end = window.strides[i], window.extents[i], window.begin[i], window.end[i]
    if window.auto_pad.startswith("SAME"):
        return ceildiv(size, stride)
    padded = size + begin + end
    require(not isinstance(padded, int) or not isinstance(extent, int) or padded >= extent - stride,
            f"spatial axis {i}: the window spans {extent}, the padded input is only {padded}")
    if not window.ceil_mode or window.auto_pad == "VALID":
        return (padded - extent) // stride + 1
    # A last window that would start beyond the input and its leading padding is ignored: the least of the two counts, decided by their constants.
    if end - extent + stride > 0:
        return ceildiv(size + begin, stride)
    return ceildiv(padded - extent, stride) + 1


def leading_pads(sizes: Sequence[int], outputs: Sequence[int], window: Window) -> tuple[int, ...]:
    """The padding before the first element of each axis."""
    if not window.auto_pad.startswith("SAME"):
        return window.begin
    totals = same_pads(sizes, outputs, window)
    return tuple(t // 2 if window.auto_pad == "SAME_UPPER" else t - t // 2 for t in totals)


def same_pads(sizes: Sequence[int], outputs: Sequence[int], window: Window) -> tuple[int, ...]:
    """The total padding SAME_* asks for on each axis."""
    return tuple(max(0, (o - 1) * s + e - n) for n, o, s, e in zip(sizes, outputs, window.strides, window.extents, strict=True))


def pad_spatial(x: np.ndarray, begin: Sequence[int], outputs: Sequence[int], window: Window, fill: Any) -> np.ndarray:
    """`x` with leading padding and as much trailing padding as the last window needs (ceil_mode overhang included)."""
    first = x.ndim - len(begin)
    ends = [max(0, (o - 1) * s + e - n - b) for o, s, e, n, b in zip(outputs, window.strides, window.extents, x.shape[first:], begin, strict=True)]
    if not any(begin) and not any(ends):
        return x
    shape = (*x.shape[:first], *(n + b + e for n, b, e in zip(x.shape[first:], begin, ends, strict=True)))
    out = np.full(shape, fill, x.dtype)
    inner: Any = (..., *(slice(b, b + n) for n, b in zip(x.shape[first:], begin, strict=True)))
    out[inner] = x
    return out


def taps(window: Window, outputs: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """For every kernel position, in row-major order: the position, and the index of the padded input that gives that tap of all windows."""
    for position in product(*(range(k) for k in window.kernel)):
        yield position, (..., *(_tap(k * d, o, s) for k, d, o, s in zip(position, window.dilations, outputs, window.strides, strict=True)))


def _tap(start: int, count: int, stride: int) -> slice:
    return slice(start, start + (count - 1) * stride + 1 if count else start, stride)


def fold(padded: np.ndarray, window: Window, outputs: Sequence[int], combine: Callable[..., np.ndarray]) -> np.ndarray:
    """`combine` over each window, axis by axis (for reductions that separate: sums and maxima)."""
    first = padded.ndim - len(outputs)
    for i, (kernel, stride, dilation, count) in enumerate(zip(window.kernel, window.strides, window.dilations, outputs, strict=True)):
        index: list[Any] = [slice(None)] * padded.ndim
        folded: Any = None
        for k in range(kernel):
            index[first + i] = _tap(k * dilation, count, stride)
            tap = padded[tuple(index)]
            folded = np.array(tap) if folded is None else combine(folded, tap, out=folded)
        padded = folded
    return padded


def windows_view(padded: np.ndarray, window: Window, outputs: Sequence[int]) -> np.ndarray:
    """A read-only view [..., *kernel, *outputs] of the padded input; element [k, o] is `padded[o * stride + k * dilation]`."""
    first = padded.ndim - len(outputs)
    steps = padded.strides[first:]
    shape = (*padded.shape[:first], *window.kernel, *outputs)
    strides = (*padded.strides[:first], *(s * d for s, d in zip(steps, window.dilations, strict=True)), *(s * t for s, t in zip(steps, window.strides, strict=True)))
    return as_strided(padded, shape, strides, writeable=False)
