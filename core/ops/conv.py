"""Convolutions: Conv, ConvTranspose, ConvInteger, QLinearConv, DeformConv, CausalConvWithState, Col2Im.

Conv is im2col and one matrix product per group, a block of output rows at a time so that the unfolded input stays small; depthwise convolution adds one scaled,
strided slice per kernel tap. Integer convolutions multiply in float64, which is exact: |products| < 2**16, so 2**37 of them would be needed to lose a unit.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ..dim import Undecidable, ceildiv, product
from ..expr import Compute, E, Op, acc, binary, cast, compute_type, const, coord, leaf, load, saturate, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, Quantized, View
from ..narrow import astype
from ..types import DType
from .common import check_equal, fresh_shape, same_type, size_of_rank
from .maps import numbers, whole_number
from .precision import widened
from .quantize import integer_bias, real_zero, times
from .registry import Ints, Spec, operator, require
from .window import Window, leading_pads, make_window, output_counts, output_sizes, pad_spatial, taps, windows_view

BYTES = (DType.INT8, DType.UINT8)
#: Unfolded inputs are built in blocks of at most this many elements (64 MB of float32).
BLOCK = 1 << 24


def convolve(x: np.ndarray, w: np.ndarray, window: Window, group: int) -> np.ndarray:
    """x [N, C, *sizes] ∗ w [M, C/group, *kernel] → [N, M, *outputs], in the dtype of `x`; `x` is padded with zeros."""
    require(x.shape[1] == w.shape[1] * group and w.shape[0] % group == 0,
            f"{x.shape[1]} input channels do not fit weights {list(w.shape)} in {group} groups: {w.shape[1] * group} are needed, and {w.shape[0]} must be a multiple of {group}")
    outputs = output_counts(x.shape[2:], window)
    padded = pad_spatial(x, leading_pads(x.shape[2:], outputs, window), outputs, window, 0)
    if w.shape[1] == 1 and group > 1:
        return _depthwise(padded, w, window, outputs, group)
    return _grouped(padded, w, window, outputs, group)


def _depthwise(padded: np.ndarray, w: np.ndarray, window: Window, outputs: tuple[int, ...], group: int) -> np.ndarray:
    n, multiplier, axes = len(padded), len(w) // group, len(outputs)
    source = padded.reshape(n, group, 1, *padded.shape[2:])
    weights = w.reshape(group, multiplier, *window.kernel)
    out = np.zeros((n, group, multiplier, *outputs), padded.dtype)
    for position, index in taps(window, outputs):
        tap: Any = (..., *position)
        out += source[index] * weights[tap].reshape(group, multiplier, *[1] * axes)
    return out.reshape(n, len(w), *outputs)


def _grouped(padded: np.ndarray, w: np.ndarray, window: Window, outputs: tuple[int, ...], group: int) -> np.ndarray:
    n, (m, inner) = len(padded), w.shape[:2]
    depth = inner * int(np.prod(window.kernel))
    weights = w.reshape(group, m // group, depth)
    out = np.empty((n, m, *outputs), padded.dtype)
    if out.size == 0:
        return out
    view = windows_view(padded.reshape(n, group, inner, *padded.shape[2:]), window, outputs)
    first_output = 3 + len(outputs)
    if not outputs:  # no spatial axes: a matrix product
        return np.matmul(weights, view.reshape(n, group, depth, 1)).reshape(n, m)
    rest = int(np.prod(outputs[1:]))
    rows = max(1, BLOCK // max(1, group * depth * rest))
    for image in range(n):
        for start in range(0, outputs[0], rows):
            block = slice(start, min(start + rows, outputs[0]))
            at: Any = (image, *(slice(None),) * (first_output - 1), block)
            columns = view[at]
            count = block.stop - block.start
            made = np.matmul(weights, columns.reshape(group, depth, count * rest))
            out[image, :, block] = made.reshape(m, count, *outputs[1:])
    return out


def _kernel(w_shape: Sequence[Any], kernel_shape: Sequence[int] | None) -> tuple[Any, ...]:
    kernel = tuple(w_shape[2:])
    if kernel_shape:
        if len(kernel_shape) != len(kernel):
            require(False, f"kernel_shape {list(kernel_shape)} does not fit weights {list(w_shape)}")
        for given, own in zip(kernel_shape, kernel, strict=True):
            check_equal(given, own, "kernel_shape differs from the weights' kernel")
        return tuple(kernel_shape)
    return kernel


def _with_bias(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def _conv_shape(x: Spec, w: Spec, dtype: DType | None, auto_pad: str, dilations: Ints, group: int, kernel_shape: Ints, pads: Ints, strides: Ints) -> Spec:
    if x.shape is None:
        return Spec(dtype, fresh_shape(w.rank))
    if w.shape is None and not kernel_shape:
        return Spec(dtype, (x.shape[0], *(fresh_shape(len(x.shape) - 1) or ())))
    if len(x.shape) < 2 or (w.shape is not None and len(w.shape) != len(x.shape)):  # no message is made in vain
        require(False, f"input {x} and weights {w} must have one rank of at least 2")
    if w.shape is not None:
        check_equal(x.shape[1], w.shape[1] * group, "input channels and weights' channels times the groups differ")
        require(not isinstance(w.shape[0], int) or w.shape[0] % group == 0, f"{w.shape[0]} output channels are not a multiple of {group} groups")
    kernel = _kernel(w.shape, kernel_shape) if w.shape is not None else tuple(kernel_shape)
    window = make_window(kernel, strides, dilations, pads, auto_pad)
    channels = w.shape[0] if w.shape is not None else fresh_shape(1)[0]  # type: ignore[index]
    return Spec(dtype, (x.shape[0], channels, *output_sizes(x.shape[2:], window)))


@operator()
def Conv(X: Any, W: Any, B: Any = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """Cross-correlation of X [N, C, *sizes] with W [M, C/group, *kernel], plus B [M]."""
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads, auto_pad)
    y = convolve(widened(X), widened(W), window, group)
    return _with_bias(y, None if B is None else widened(B)).astype(X.dtype, copy=False)


@Conv.shape
def _(X: Spec, W: Spec, B: Spec | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
      pads: Ints = None, strides: Ints = None) -> Spec:
    return _conv_shape(X, W, same_type(X, W, B, names="X, W and B"), auto_pad, dilations, group, kernel_shape, pads, strides)


def _centred(values: np.ndarray, zero_point: np.ndarray | None, per_channel: bool) -> np.ndarray:
    """Values minus their zero point, in float64 (exact)."""
    centred = values.astype(np.float64)
    if zero_point is None:
        return centred
    point = zero_point.astype(np.float64)
    return centred - (point.reshape(-1, *[1] * (values.ndim - 1)) if per_channel and point.size > 1 else point.reshape(()))


def _integer_conv(x: np.ndarray, w: np.ndarray, x_zero_point: Any, w_zero_point: Any, window: Window, group: int) -> np.ndarray:
    """The exact accumulators, wrapped to int32 as the specification allows."""
    sums = convolve(_centred(x, x_zero_point, False), _centred(w, w_zero_point, True), window, group)
    return sums.astype(np.int64).astype(np.int32)


@operator()
def ConvInteger(x: Any, w: Any, x_zero_point: Any = None, w_zero_point: Any = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
                pads: Ints = None, strides: Ints = None) -> Any:
    """Convolution of 8-bit integers into int32; padding stands for the zero point."""
    return _integer_conv(x, w, x_zero_point, w_zero_point, make_window(_kernel(w.shape, kernel_shape), strides, dilations, pads, auto_pad), group)


@ConvInteger.shape
def _(x: Spec, w: Spec, x_zero_point: Spec | None = None, w_zero_point: Spec | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1,
      kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    return _conv_shape(x, w, DType.INT32, auto_pad, dilations, group, kernel_shape, pads, strides)


@operator()
def QLinearConv(x: Any, x_scale: Any, x_zero_point: Any, w: Any, w_scale: Any, w_zero_point: Any, y_scale: Any, y_zero_point: Any, B: Any = None, *, auto_pad: str = "NOTSET",
                dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """8-bit convolution, requantized: saturate(round_half_even((acc + B) * (x_scale * w_scale / y_scale)) + y_zero_point)."""
    window = make_window(_kernel(w.shape, kernel_shape), strides, dilations, pads, auto_pad)
    sums = _with_bias(_integer_conv(x, w, x_zero_point, w_zero_point, window, group), B)
    # The multiplier is one float32 per channel, as QuantizeLinear's arithmetic and onnxruntime have it.
    factor = np.asarray(x_scale.reshape(()) * w_scale / y_scale.reshape(()), np.float32)
    scaled = sums.astype(np.float32) * (factor.reshape(-1, *[1] * (x.ndim - 2)) if factor.size > 1 else factor.reshape(()))
    limits = np.iinfo(y_zero_point.dtype)
    # Clamped before the zero point is added, so that an infinite or huge product stays an ordinary number.
    point = int(y_zero_point.reshape(()))
    return (np.clip(np.rint(scaled), limits.min - point, limits.max - point) + np.float32(point)).astype(y_zero_point.dtype)


@QLinearConv.shape
def _(x: Spec, x_scale: Spec, x_zero_point: Spec, w: Spec, w_scale: Spec, w_zero_point: Spec, y_scale: Spec, y_zero_point: Spec, B: Spec | None = None, *, auto_pad: str = "NOTSET",
      dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    return _conv_shape(x, w, y_zero_point.dtype, auto_pad, dilations, group, kernel_shape, pads, strides)


def _transpose_geometry(sizes: Sequence[Any], window: Window, output_padding: Ints, output_shape: Ints) -> tuple[list[Any], list[Any]]:
    """Output sizes and leading crops of a transposed convolution, by the specification's equations."""
    n = len(sizes)
    extra = list(output_padding or [0] * n)
    require(len(extra) == n and (not output_shape or len(output_shape) == n), f"output_padding {extra} and output_shape {output_shape} must have {n} entries")
    outputs: list[Any] = []
    crops: list[Any] = []
    for i, size in enumerate(sizes):
        full = window.strides[i] * (size - 1) + extra[i] + window.extents[i]
        if not output_shape and not window.auto_pad.startswith("SAME"):
            outputs.append(full - window.begin[i] - window.end[i])
            crops.append(window.begin[i])
            continue
        wanted = output_shape[i] if output_shape else size * window.strides[i]
        outputs.append(wanted)
        if isinstance(full, int) and isinstance(wanted, int):
            # An output longer than the windows reach is not cropped at all: zeros follow at its end.
            total = max(0, full - wanted)
            crops.append(total // 2 if window.auto_pad == "SAME_UPPER" else total - total // 2)
    return outputs, crops


def _overlap_add(columns: np.ndarray, window: Window, blocks: Sequence[int], begin: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """columns [..., *kernel, *blocks] added into an image [..., *sizes] at the places the window's taps have; `begin` elements before the image are cropped."""
    axes = len(blocks)
    lead = columns.shape[:columns.ndim - 2 * axes]
    canvas = [max((o - 1) * s + e, b + n) for o, s, e, b, n in zip(blocks, window.strides, window.extents, begin, sizes, strict=True)]
    image = np.zeros((*lead, *canvas), columns.dtype)
    for position, index in taps(window, blocks):
        tap: Any = (*(slice(None),) * len(lead), *position)
        image[index] += columns[tap]
    inner: Any = (..., *(slice(b, b + n) for b, n in zip(begin, sizes, strict=True)))
    return image[inner]


@operator()
def ConvTranspose(X: Any, W: Any, B: Any = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, output_padding: Ints = None,
                  output_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """The gradient of Conv: every element of X [N, C, *sizes] adds its W [C, M/group, *kernel] into the output."""
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads, auto_pad)
    require(X.shape[1] == W.shape[0] and W.shape[0] % group == 0, f"{X.shape[1]} input channels, weights {list(W.shape)} and {group} groups do not fit")
    sizes, crops = _transpose_geometry(X.shape[2:], window, output_padding, output_shape)
    n, c, *blocks = X.shape
    m = W.shape[1]
    require(all(s >= 0 for s in sizes), f"the output would have sizes {sizes}; pads are larger than what the windows reach")
    x = widened(X).reshape(n, group, c // group, int(np.prod(blocks)))
    weights = widened(W).reshape(group, c // group, m * int(np.prod(window.kernel)))
    columns = np.matmul(weights.transpose(0, 2, 1), x).reshape(n, group * m, *window.kernel, *blocks)
    y = _overlap_add(columns, window, blocks, crops, sizes)
    return np.ascontiguousarray(_with_bias(y, None if B is None else widened(B)).astype(X.dtype, copy=False))


@ConvTranspose.shape
def _(X: Spec, W: Spec, B: Spec | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, output_padding: Ints = None,
      output_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    dtype = same_type(X, W, B, names="X, W and B")
    if X.shape is None or W.shape is None:
        return Spec(dtype, fresh_shape(W.rank) if X.shape is None else (X.shape[0], *(fresh_shape(len(X.shape) - 1) or ())))
    require(len(X.shape) == len(W.shape) and len(X.shape) >= 2, f"input {X} and weights {W} must have one rank of at least 2")
    check_equal(X.shape[1], W.shape[0], "input channels differ from the weights'")
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads, auto_pad)
    return Spec(dtype, (X.shape[0], W.shape[1] * group, *_transpose_geometry(X.shape[2:], window, output_padding, output_shape)[0]))


@operator()
def Col2Im(input: Any, image_shape: Any, block_shape: Any, *, dilations: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """Columns [N, C * prod(block_shape), L] summed into images [N, C, *image_shape]."""
    kernel, sizes = [int(k) for k in block_shape], [int(s) for s in image_shape]
    window = make_window(kernel, strides, dilations, pads)
    blocks = output_counts(sizes, window)
    n, depth, count = input.shape
    taps_count = int(np.prod(kernel))
    require(depth % taps_count == 0 and count == int(np.prod(blocks)),
            f"columns {list(input.shape)} do not fit: blocks {kernel} need a multiple of {taps_count} rows and {list(blocks)} = {int(np.prod(blocks))} columns")
    columns = widened(input).reshape(n, depth // taps_count, *kernel, *blocks)
    return np.ascontiguousarray(_overlap_add(columns, window, blocks, window.begin, sizes).astype(input.dtype, copy=False))


@Col2Im.shape
def _(input: Spec, image_shape: Spec, block_shape: Spec, *, dilations: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    axes = size_of_rank(image_shape) or size_of_rank(block_shape)
    sizes: Any = image_shape.ints or fresh_shape(axes)
    if sizes is None:
        return Spec(input.dtype)
    batch, channels = fresh_shape(2)  # type: ignore[misc]
    if input.shape is not None:
        require(len(input.shape) == 3, f"input {input} must be [N, C * prod(block_shape), L]")
        batch = input.shape[0]
        if block_shape.ints is not None:
            channels = input.shape[1] // product(block_shape.ints)
    return Spec(input.dtype, (batch, channels, *sizes))


def _sample_linear(x: np.ndarray, points: Sequence[np.ndarray]) -> np.ndarray:
    """x [..., C, *sizes] at fractional points, one array [..., P] per axis → [..., C, P]; neighbours outside x count as zero."""
    axes = len(points)
    sizes = x.shape[x.ndim - axes:]
    flat = x.reshape(*x.shape[:x.ndim - axes], int(np.prod(sizes)))
    floors = [np.floor(p) for p in points]
    out: Any = 0
    for corner in cartesian((0, 1), repeat=axes):
        weight: Any = 1
        inside: Any = True
        index: Any = 0
        for bit, point, floor, size in zip(corner, points, floors, sizes, strict=True):
            weight = weight * (point - floor if bit else 1 - (point - floor))
            place = floor + bit
            inside = inside & (place >= 0) & (place < size)
            index = index * size + np.clip(np.nan_to_num(place), 0, size - 1).astype(np.intp)
        values = np.take_along_axis(flat, np.broadcast_to(index[..., None, :], (*flat.shape[:-1], index.shape[-1])), -1)
        out = out + np.where(inside, weight, 0)[..., None, :].astype(x.dtype) * values
    return out


@operator()
def DeformConv(X: Any, W: Any, offset: Any, B: Any = None, mask: Any = None, *, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, offset_group: int = 1,
               pads: Ints = None, strides: Ints = None) -> Any:
    """Convolution whose taps are displaced by `offset` [N, offset_group * prod(kernel) * n, *outputs], interpolated linearly and weighted by `mask` (arXiv:1811.11168)."""
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads)
    n, c, *sizes = X.shape
    axes, count = len(sizes), int(np.prod(window.kernel))
    outputs = output_counts(sizes, window)
    require(c % offset_group == 0 and offset.shape == (n, offset_group * count * axes, *outputs),
            f"offset {list(offset.shape)} must be {[n, offset_group * count * axes, *outputs]} and {c} channels a multiple of offset_group {offset_group}")
    x = widened(X).reshape(n, offset_group, c // offset_group, *sizes)
    shifts = widened(offset).reshape(n, offset_group, *window.kernel, axes, *outputs)
    points = []
    for i in range(axes):
        tap = (np.arange(window.kernel[i]) * window.dilations[i]).reshape(-1, *[1] * (2 * axes - 1 - i))
        start = (np.arange(outputs[i]) * window.strides[i] - window.begin[i]).reshape(-1, *[1] * (axes - 1 - i))
        at = (slice(None),) * (2 + axes) + (i,)
        points.append((shifts[at] + tap + start).reshape(n, offset_group, -1))
    columns = _sample_linear(x, points)
    if mask is not None:
        columns = columns * widened(mask).reshape(n, offset_group, 1, -1)
    length = int(np.prod(outputs))
    columns = columns.reshape(n, group, c // group * count, length)
    y = np.matmul(widened(W).reshape(group, len(W) // group, -1), columns).reshape(n, len(W), *outputs)
    return _with_bias(y, None if B is None else widened(B)).astype(X.dtype, copy=False)


@DeformConv.shape
def _(X: Spec, W: Spec, offset: Spec, B: Spec | None = None, mask: Spec | None = None, *, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, offset_group: int = 1,
      pads: Ints = None, strides: Ints = None) -> Spec:
    return _conv_shape(X, W, same_type(X, W, offset, B, mask), "NOTSET", dilations, group, kernel_shape, pads, strides)


@operator()
def CausalConvWithState(input: Any, weight: Any, bias: Any = None, past_state: Any = None, *, activation: str = "none") -> Any:
    """Depthwise convolution [B, C, L] that sees the present and the k - 1 earlier positions; returns the output and the last k - 1 positions for the next step."""
    require(activation in ("none", "silu", "swish"), f"activation '{activation}' is not one of none, silu, swish")
    batch, channels, _ = input.shape
    kept = weight.shape[2] - 1
    past = np.zeros((batch, channels, kept), input.dtype) if past_state is None else past_state
    sequence = np.concatenate([past, input], 2)
    window = make_window(weight.shape[2:], None, None, None)
    y = _with_bias(_depthwise(widened(sequence), widened(weight), window, (input.shape[2],), channels), None if bias is None else widened(bias))
    # The activation sees the convolution's result in the operator's type, as in the composed form Conv → Sigmoid → Mul.
    y = y.astype(input.dtype, copy=False)
    if activation != "none":
        wide = widened(y)
        y = (wide / (1 + np.exp(-wide))).astype(input.dtype, copy=False)
    return y, sequence[:, :, sequence.shape[2] - kept:]


@CausalConvWithState.shape
def _(input: Spec, weight: Spec, bias: Spec | None = None, past_state: Spec | None = None, *, activation: str = "none") -> tuple[Spec, Spec]:
    dtype = same_type(input, weight, bias, past_state)
    state = past_state.shape if past_state is not None else None
    if state is None and input.shape is not None and weight.shape is not None:
        require(len(input.shape) == 3 and len(weight.shape) == 3, f"input {input} must be [B, C, L] and weight {weight} [C, 1, k]")
        state = (input.shape[0], input.shape[1], weight.shape[2] - 1)
    return Spec(dtype, input.shape), Spec(dtype, state)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@Conv.lower
def _(k: Lowering, X: View, W: View, B: View | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
      pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    spatial = X.rank - 2
    if X.dtype not in (DType.FLOAT, DType.FLOAT16) or not 1 <= spatial <= 3:
        raise CannotLower(f"a {spatial}-D Conv of {X.dtype.text}")
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads, auto_pad)
    made = k.buffer(X.dtype, out.shape or ()).whole()
    x, w = k.integers(X), k.integers(W)
    if x is not None and w is not None and x.axis is None and w.axis in (None, 0) and x.values.dtype in BYTES and w.values.dtype in BYTES:
        return _of_integers(k, x, w, B, window, group, made)
    leaves = [] if B is None else [_per_channel(B, made.shape)]
    epilogue: list[E] = [] if B is None else [acc(X.dtype) + leaf(0, B.dtype)]
    try:
        begins = list(leading_pads(X.shape[2:], made.shape[2:], window))  # type: ignore[arg-type]
    except Undecidable:
        raise CannotLower(f"auto_pad {auto_pad} of sizes that only the run knows") from None
    k.call(Kernel.CONV, [X, W, *leaves], [made], epilogue=epilogue, first_leaf=2, spatial=spatial, group=group, kernel=list(window.kernel), strides=list(window.strides),
           dilations=list(window.dilations), pads=begins, transposed=0, zero_x=-1, zero_w=-1)
    return made


def _per_channel(values: View, shape: tuple[Any, ...]) -> View:
    """A vector along axis 1 of `shape`."""
    view = values.unsqueeze(0)
    for _ in shape[2:]:
        view = view.unsqueeze(view.rank)
    return view.expand(shape)


def _call_conv(k: Lowering, X: View, W: View, out: View, window: Window, group: int, epilogue: list[E], zeros: Sequence[View | None], leaves: Sequence[View], transposed: int,
               begins: Sequence[int]) -> View:
    spatial = X.rank - 2
    if not 1 <= spatial <= 3:
        raise CannotLower(f"a {spatial}-D convolution")
    given = [z for z in zeros if z is not None]
    places = {id(z): 2 + i for i, z in enumerate(given)}
    zero_x, zero_w = (-1 if z is None else places[id(z)] for z in zeros)
    k.call(Kernel.CONV, [X, W, *given, *leaves], [out], epilogue=epilogue, first_leaf=2 + len(given), spatial=spatial, group=group, kernel=list(window.kernel),
           strides=list(window.strides), dilations=list(window.dilations), pads=list(begins), transposed=transposed, zero_x=zero_x, zero_w=zero_w)
    return out


def _with_zero_points(k: Lowering, x: View, w: View, x_zero_point: View | None, w_zero_point: View | None, window: Window, group: int, out: View, epilogue: list[E],
                      leaves: Sequence[View]) -> View:
    """CONV of 8-bit integers less their zero points."""
    if not (x.dtype.is_integer and w.dtype.is_integer):
        raise CannotLower(f"a convolution of {x.dtype.text} and {w.dtype.text}")
    zeros = (None if real_zero(x_zero_point) is None else k.reshape(x_zero_point, ()), real_zero(w_zero_point))  # type: ignore[arg-type]
    return _call_conv(k, x, w, out, window, group, epilogue, zeros, leaves, 0, leading_pads(x.shape[2:], out.shape[2:], window))  # type: ignore[arg-type]


def _of_integers(k: Lowering, x: Quantized, w: Quantized, B: View | None, window: Window, group: int, made: View) -> View:
    """A float Conv of dequantised bytes: exact sums of integers, scaled once."""
    whole = None if B is None else integer_bias(k.integers(B), times(x.scale, w.scale))
    zeros = (None if real_zero(x.zero) is None else k.reshape(x.zero, ()), real_zero(w.zero))  # type: ignore[arg-type]
    leaves = [k.reshape(x.scale, ()).expand(made.shape), k.reshape(w.scale, ()).expand(made.shape) if w.axis is None else _per_channel(w.scale, made.shape)]
    total = acc(DType.INT32)
    if whole is not None:
        leaves.append(_per_channel(whole, made.shape))
        total = total + leaf(2, DType.INT32)
    result = cast(total, Compute.F32) * (leaf(0, DType.FLOAT) * leaf(1, DType.FLOAT))
    if B is not None and whole is None:
        leaves.append(_per_channel(B, made.shape))
        result = result + leaf(2, B.dtype)
    return _call_conv(k, x.values, w.values, made, window, group, [result], zeros, leaves, 0, leading_pads(x.values.shape[2:], made.shape[2:], window))  # type: ignore[arg-type]


@ConvInteger.lower
def _(k: Lowering, x: View, w: View, x_zero_point: View | None = None, w_zero_point: View | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1,
      kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    window = make_window(_kernel(w.shape, kernel_shape), strides, dilations, pads, auto_pad)
    return _with_zero_points(k, x, w, x_zero_point, w_zero_point, window, group, k.buffer(DType.INT32, out.shape or ()).whole(), [], [])


@QLinearConv.lower
def _(k: Lowering, x: View, x_scale: View, x_zero_point: View, w: View, w_scale: View, w_zero_point: View, y_scale: View, y_zero_point: View, B: View | None = None, *,
      auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    assert out.dtype is not None
    window = make_window(_kernel(w.shape, kernel_shape), strides, dilations, pads, auto_pad)
    made = k.buffer(out.dtype, out.shape or ()).whole()
    scalars = [k.reshape(v, ()).expand(made.shape) for v in (x_scale, y_scale, y_zero_point)]
    channels = [_per_channel(w_scale, made.shape) if w_scale.rank == 1 and w_scale.shape != (1,) else k.reshape(w_scale, ()).expand(made.shape)]
    channels += [] if B is None else [_per_channel(B, made.shape)]
    views = [*scalars, *channels]
    x_s, y_s, zero, w_s, *bias = (leaf(i, v.dtype) for i, v in enumerate(views))
    total = acc(DType.INT32) + bias[0] if bias else acc(DType.INT32)
    scaled = cast(total, Compute.F32) * (x_s * w_s / y_s)
    result = saturate(unary(Op.ROUND, scaled) + cast(zero, Compute.F32), out.dtype)
    return _with_zero_points(k, x, w, x_zero_point, w_zero_point, window, group, made, [result], views)


@ConvTranspose.lower
def _(k: Lowering, X: View, W: View, B: View | None = None, *, auto_pad: str = "NOTSET", dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
      output_padding: Ints = None, output_shape: Ints = None, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads, auto_pad)
    _, crops = _transpose_geometry(X.shape[2:], window, output_padding, output_shape)
    if len(crops) != X.rank - 2:
        raise CannotLower("a transposed convolution whose crops only the run knows")
    made = k.buffer(X.dtype, out.shape or ()).whole()
    if _has_phases(X, W, window, group, crops):
        return _phases(k, X, W, B, made, window, crops)
    leaves = [] if B is None else [_per_channel(B, made.shape)]
    return _call_conv(k, X, W, made, window, group, [] if B is None else [acc(X.dtype) + leaf(0, B.dtype)], (None, None), leaves, 1, crops)


def _has_phases(X: View, W: View, window: Window, group: int, crops: Sequence[Any]) -> bool:
    """Whether a transposed convolution is divided into plain ones: constant weights, windows that overlap, every output reached by as many taps as its neighbours of the same phase."""
    if X.rank != 4 or group != 1 or W.buffer.tensor is None or not W.is_whole or X.dtype is not DType.FLOAT or W.dtype is not DType.FLOAT:
        return False
    if any(d != 1 for d in window.dilations) or not all(isinstance(c, int) and c >= 0 for c in crops) or max(window.strides) == 1:
        return False
    return all(n > s and n % s == 0 for n, s in zip(window.kernel, window.strides, strict=True))


def _phases(k: Lowering, X: View, W: View, B: View | None, made: View, window: Window, crops: Sequence[int]) -> View:
    """Every stride-th output, counted from p, is a plain convolution with every stride-th tap, turned around: y[p + s i] = Σ_j x[i + q - j] w[r + s j], r = (p + crop) mod s, q = (p + crop) div s.
    So no tap meets a zero between the inputs."""
    assert W.buffer.tensor is not None
    weights = W.buffer.tensor.numpy()
    for phase in cartesian(*map(range, window.strides)):
        x, out, part, begins, counts = X, made, weights, [], []
        for axis, (p, s, crop, size) in enumerate(zip(phase, window.strides, crops, window.kernel, strict=True), 2):
            q, r = divmod(p + crop, s)
            count = size // s
            out = out.slice(axis, p, ceildiv(made.shape[axis] - p, s), s)
            part = np.flip(part[(slice(None),) * axis + (slice(r, None, s),)], axis)
            before = count - 1 - q
            if before < 0:
                x = x.slice(axis, -before, x.shape[axis] + before)
            begins.append(max(before, 0))
            counts.append(count)
        plain = Window(tuple(counts), (1, 1), (1, 1), tuple(begins), (0, 0))
        leaves = [] if B is None else [_per_channel(B, out.shape)]
        _call_conv(k, x, k.constant(np.ascontiguousarray(part.swapaxes(0, 1))), out, plain, 1, [] if B is None else [acc(X.dtype) + leaf(0, B.dtype)], (None, None), leaves, 0, begins)
    return made


@Col2Im.lower
def _(k: Lowering, input: View, image_shape: View, block_shape: View, *, dilations: Ints = None, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    # A transposed convolution, one group for each channel, whose weights put column j at tap j.
    kernel = [whole_number(d, "block_shape") for d in numbers(block_shape, "block_shape")]
    window = make_window(kernel, strides, dilations, pads)
    blocks = output_sizes(numbers(image_shape, "image_shape"), window)
    taps_count = int(np.prod(kernel))
    batch, depth, _ = input.shape
    channels = whole_number(depth, "the number of columns") // taps_count
    weights = np.tile(np.eye(taps_count, dtype=np.float32).reshape(taps_count, 1, *kernel), (channels, *[1] * (1 + len(kernel))))
    made = k.buffer(input.dtype, out.shape or ()).whole()
    return _call_conv(k, k.reshape(input, (batch, depth, *blocks)), k.constant(astype(weights, input.dtype), input.dtype), made, window, channels, [], (None, None), [], 1, window.begin)


@CausalConvWithState.lower
def _(k: Lowering, input: View, weight: View, bias: View | None = None, past_state: View | None = None, *, activation: str = "none", out: Any) -> tuple[View, View]:
    first, state = out
    batch, channels, length = input.shape
    kept = whole_number(weight.shape[2], "the kernel") - 1
    sequence = k.buffer(input.dtype, (batch, channels, length + kept)).whole()
    past = past_state if past_state is not None else k.constant(np.zeros((), input.dtype.numpy), input.dtype).expand((batch, channels, kept))
    if kept:
        k.move(past, sequence.slice(2, 0, kept))
    k.move(input, sequence.slice(2, kept, length))
    made = k.buffer(input.dtype, first.shape).whole()
    window = make_window(weight.shape[2:], None, None, None)
    leaves = [] if bias is None else [_per_channel(bias, made.shape)]
    epilogue = [] if bias is None else [acc(input.dtype) + leaf(0, bias.dtype)]
    group = whole_number(channels, "the number of channels")
    _call_conv(k, sequence, weight, made, window, group, epilogue, (None, None), leaves, 0, window.begin)
    # The activation sees the convolution's result in the operator's type, as in the composed form Conv → Sigmoid → Mul.
    y = made if activation == "none" else k.map(lambda x: x * unary(Op.SIGMOID, x), made, dtype=input.dtype)
    return y, sequence.slice(2, length, kept)


@DeformConv.lower
def _(k: Lowering, X: View, W: View, offset: View, B: View | None = None, mask: View | None = None, *, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None,
      offset_group: int = 1, pads: Ints = None, strides: Ints = None, out: Spec) -> View:
    """The taps are sampled to columns [N, C · taps, places] by one Map, which a product with the weights follows."""
    assert out.shape is not None
    axes = X.rank - 2
    if axes > 2:
        raise CannotLower(f"DeformConv over {axes} axes")
    window = make_window(_kernel(W.shape, kernel_shape), strides, dilations, pads)
    sizes = [whole_number(d, "a size of X") for d in X.shape[1:]]
    kernel, places = [whole_number(d, "a size of the kernel") for d in window.kernel], out.shape[2:]
    each, batch = sizes[0] // offset_group, X.shape[0]
    shifts = offset.split(1, offset_group, *kernel, axes)
    parts = [shifts.slice(2 + axes, i, 1).squeeze(2 + axes).unsqueeze(2) for i in range(axes)]
    if mask is not None:
        parts.append(mask.split(1, offset_group, *kernel).unsqueeze(2))
    dtype = DType.DOUBLE if X.dtype is DType.DOUBLE else DType.FLOAT
    wide = compute_type(dtype)

    def body(*leaves: E) -> E:
        plane = (coord(0) * sizes[0] + coord(1) * each) + coord(2)
        points = [cast(leaves[i], wide) + cast(coord(3 + i) * window.dilations[i] + coord(3 + axes + i) * window.strides[i] - window.begin[i], wide) for i in range(axes)]
        total: E | None = None
        for corner in cartesian((0, 1), repeat=axes):
            weight, index, inside = const(1, wide), plane, const(1, Compute.I32)
            for i, bit in enumerate(corner):
                floor = unary(Op.FLOOR, points[i])
                share, place = points[i] - floor, floor + bit
                weight = weight * (share if bit else 1 - share)
                inside = binary(Op.AND, inside, binary(Op.AND, binary(Op.GE, place, 0), binary(Op.LT, place, sizes[1 + i])))
                index = index * sizes[1 + i] + cast(binary(Op.MAX, binary(Op.MIN, place, sizes[1 + i] - 1), 0), Compute.I64)
            value = cast(load(len(parts), select(inside, index, const(0, Compute.I64)), X.dtype), wide)
            part = select(inside, weight * value, const(0, wide))
            total = part if total is None else total + part
        assert total is not None
        return total * cast(leaves[axes], wide) if mask is not None else total
    columns = k.map(body, *parts, dtype=dtype, shape=(batch, offset_group, each, *kernel, *places), tables=[X])
    taps, filters = sizes[0] // group * int(np.prod(kernel)), whole_number(W.shape[0], "the number of filters") // group
    length = product(places)
    weights = k.reshape(W, (group, filters, taps)).unsqueeze(0).expand((batch, group, filters, taps))
    leaves = [] if B is None else [k.reshape(B, (group, filters, 1))]
    made = k.matmul(weights, k.reshape(columns, (batch, group, taps, length)), X.dtype, (batch, group, filters, length), (lambda total, b: total + cast(b, wide)) if leaves else None, leaves)
    return k.reshape(made, out.shape)
