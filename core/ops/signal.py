"""Spectra: DFT, STFT, MelWeightMatrix. Complex numbers are pairs in a last axis of 2; transforms run in the signal's precision (half-width
floats in float32), as the suite's expected results do: its tolerance for what should be zero is below float32's noise."""
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..dim import Dim, fresh
from ..expr import Compute, E, Op, binary, cast, compute_type, const, coord, select, unary
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..narrow import astype
from ..types import DType
from .common import check_equal, normalize_axis
from .maps import numbers, whole_number
from .precision import widened
from .registry import Spec, operator, require


def _complex(x: np.ndarray) -> np.ndarray:
    """[..., 1] real or [..., 2] complex pairs → real or complex [...]."""
    require(x.shape[-1] in (1, 2), f"the last axis of {list(x.shape)} must be 1 (real) or 2 (complex)")
    wide = widened(x)
    return np.ascontiguousarray(wide).view(np.result_type(wide.dtype, np.complex64))[..., 0] if x.shape[-1] == 2 else wide[..., 0]


def _pairs(z: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).astype(dtype)


def _scalar(value: Any) -> int | None:
    return None if value is None else int(np.asarray(value).reshape(()))


@operator()
def DFT(input: Any, dft_length: Any = None, axis: Any = None, *, inverse: int = 0, onesided: int = 0) -> Any:
    """Discrete Fourier transform along `axis`; one-sided forward: real → half spectrum, one-sided inverse: half spectrum → real."""
    at = _signal_axis(-2 if axis is None else int(np.asarray(axis).reshape(())), input.ndim)
    length = _scalar(dft_length)
    if length is None:
        length = 2 * (input.shape[at] - 1) if inverse and onesided else input.shape[at]
    signal = _complex(input)
    if inverse and onesided:
        return np.fft.irfft(signal, length, at)[..., None].astype(input.dtype)
    if inverse:
        return _pairs(np.fft.ifft(signal, length, at), input.dtype)
    require(not onesided or input.shape[-1] == 1, "a one-sided forward DFT takes a real input (last axis 1); use onesided=0")
    return _pairs(np.fft.rfft(signal, length, at) if onesided else np.fft.fft(signal, length, at), input.dtype)


def _signal_axis(axis: int, rank: int) -> int:
    at = normalize_axis(axis, rank)
    require(at < rank - 1, f"axis {axis} is the last one, which holds real and imaginary parts")
    return at


def _known_scalar(spec: Spec | None) -> Dim | None:
    """The value of a scalar input as a Dim, None where unknown."""
    return None if spec is None or not spec.ints else spec.ints[0]


@DFT.shape
def _(input: Spec, dft_length: Spec | None = None, axis: Spec | None = None, *, inverse: int = 0, onesided: int = 0) -> Spec:
    if input.shape is None:
        return Spec(input.dtype)
    rank = len(input.shape)
    require(rank >= 2, f"input {input} must have a signal axis and a last axis of 1 or 2")
    real = bool(inverse and onesided)
    last = 1 if real else 2
    at = -2 if axis is None else _known_scalar(axis)
    if not isinstance(at, int):
        return Spec(input.dtype, (*(fresh() for _ in range(rank - 1)), last))
    at = _signal_axis(at, rank)
    if dft_length is None:
        length: Any = 2 * (input.shape[at] - 1) if real else input.shape[at]
    else:
        length = _known_scalar(dft_length)
        length = fresh() if length is None else length
    shape = [*input.shape[:-1], last]
    shape[at] = length // 2 + 1 if onesided and not inverse else length
    return Spec(input.dtype, tuple(shape))


@operator()
def STFT(signal: Any, frame_step: Any, window: Any = None, frame_length: Any = None, *, onesided: int = 1) -> Any:
    """DFT of every windowed frame of signal [B, L, 1 or 2] → [B, frames, bins, 2]."""
    require(signal.ndim == 3, f"signal {list(signal.shape)} must be [batch, length, 1 or 2]")
    require(not onesided or signal.shape[-1] == 1, "a complex signal has no one-sided spectrum; use onesided=0")
    step, length = int(np.asarray(frame_step).reshape(())), _scalar(frame_length)
    if length is None:
        length = signal.shape[1] if window is None else len(window)
    require(step > 0 and length > 0 and (window is None or len(window) == length),
            f"frame_step {step} and frame_length {length} must be positive, the window as long as a frame")
    z = _complex(signal)
    if z.shape[1] < length:
        frames = np.empty((len(z), 0, length), z.dtype)
    else:
        frames = sliding_window_view(z, length, 1)[:, ::step]
    if window is not None:
        frames = frames * widened(window)
    return _pairs(np.fft.rfft(frames) if onesided else np.fft.fft(frames), signal.dtype)


@STFT.shape
def _(signal: Spec, frame_step: Spec, window: Spec | None = None, frame_length: Spec | None = None, *, onesided: int = 1) -> Spec:
    require(signal.shape is None or len(signal.shape) == 3, f"signal {signal} must be [batch, length, 1 or 2]")
    batch, total = signal.shape[:2] if signal.shape is not None else (fresh(), fresh())
    length: Any = _known_scalar(frame_length)
    if length is None and window is not None and window.shape is not None:
        length = window.shape[0]
    if length is None:
        length = total if window is None and frame_length is None else fresh()
    elif window is not None and window.shape is not None:
        check_equal(window.shape[0], length, "the window is not as long as a frame")
    step = _known_scalar(frame_step)
    frames: Dim = fresh() if step is None else (total - length) // step + 1
    if isinstance(frames, int):
        frames = max(frames, 0)
    return Spec(signal.dtype, (batch, frames, length // 2 + 1 if onesided else length, 2))


@operator()
def MelWeightMatrix(num_mel_bins: Any, dft_length: Any, sample_rate: Any, lower_edge_hertz: Any, upper_edge_hertz: Any, *, output_datatype: int = 1) -> Any:
    """Triangular filters [dft_length // 2 + 1, num_mel_bins], evenly spaced on the scale mel(f) = 2595 log10(1 + f / 700)."""
    bands, length, rate = (int(np.asarray(v).reshape(())) for v in (num_mel_bins, dft_length, sample_rate))
    low, high = (2595 * np.log10(1 + float(np.asarray(v).reshape(())) / 700) for v in (lower_edge_hertz, upper_edge_hertz))
    hertz = 700 * (10 ** ((np.arange(bands + 2) * ((high - low) / (bands + 2)) + low) / 2595) - 1)
    edges = ((length + 1) * hertz // rate).astype(np.int64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bin_ = np.arange(length // 2 + 1)[:, None]
    rising = (bin_ - left) / np.maximum(centre - left, 1)
    falling = (right - bin_) / np.maximum(right - centre, 1)
    out = np.where((bin_ >= left) & (bin_ < centre), rising, np.where((bin_ > centre) & (bin_ < right), falling, np.where(bin_ == centre, 1.0, 0.0)))
    return astype(out, DType(output_datatype))


@MelWeightMatrix.shape
def _(num_mel_bins: Spec, dft_length: Spec, sample_rate: Spec, lower_edge_hertz: Spec, upper_edge_hertz: Spec, *, output_datatype: int = 1) -> Spec:
    bands, length = _known_scalar(num_mel_bins), _known_scalar(dft_length)
    return Spec(DType(output_datatype), (fresh() if length is None else length // 2 + 1, fresh() if bands is None else bands))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _transformed(k: Lowering, x: View, axis: int, length: Dim, inverse: int, onesided: int, out: Spec) -> View:
    made = k.buffer(x.dtype, out.shape or ()).whole()
    k.call(Kernel.FFT, [x], [made], axis=axis, length=length, inverse=inverse, onesided=onesided)
    return made


@DFT.lower
def _(k: Lowering, input: View, dft_length: View | None = None, axis: View | None = None, *, inverse: int = 0, onesided: int = 0, out: Spec) -> View:
    at = _signal_axis(-2 if axis is None else whole_number(numbers(axis, "axis")[0], "axis"), input.rank)
    size = input.shape[at]
    length = numbers(dft_length, "dft_length")[0] if dft_length is not None else 2 * (size - 1) if inverse and onesided else size
    return _transformed(k, input, at, length, inverse, onesided, out)


@STFT.lower
def _(k: Lowering, signal: View, frame_step: View, window: View | None = None, frame_length: View | None = None, *, onesided: int = 1, out: Spec) -> View:
    batch, frames, _, _ = out.shape or ()
    total, parts = signal.shape[1:]
    step = numbers(frame_step, "frame_step")[0]
    length = numbers(frame_length, "frame_length")[0] if frame_length is not None else total if window is None else window.shape[0]
    view = signal.frames(1, frames, step, length)  # overlapping frames are a view
    if window is not None:
        view = k.map(lambda x, w: x * w, view, window.unsqueeze(1), dtype=signal.dtype, shape=(batch, frames, length, parts))
    return _transformed(k, view, 2, length, 0, onesided, out)


@MelWeightMatrix.lower
def _(k: Lowering, num_mel_bins: View, dft_length: View, sample_rate: View, lower_edge_hertz: View, upper_edge_hertz: View, *, output_datatype: int = 1, out: Spec) -> View:
    bands, length = (whole_number(numbers(v, name)[0], name) for v, name in ((num_mel_bins, "num_mel_bins"), (dft_length, "dft_length")))

    def mel(hertz: E) -> E:
        return unary(Op.LOG, cast(hertz, Compute.F64) / 700 + 1) * (2595 / np.log(10))

    def edge(low: E, high: E, rate: E) -> E:   # over [bands + 2]: bins, whole
        place = cast(coord(0), Compute.F64) * ((mel(high) - mel(low)) / (bands + 2)) + mel(low)
        hertz = (binary(Op.POW, const(10, Compute.F64), place / 2595) - 1) * 700
        return unary(Op.FLOOR, hertz * (length + 1) / cast(rate, Compute.F64))
    scalars = [k.reshape(v, ()) for v in (lower_edge_hertz, upper_edge_hertz, sample_rate)]
    edges = k.map(edge, *scalars, dtype=DType.DOUBLE, shape=(bands + 2,))

    def weight(left: E, centre: E, right: E) -> E:
        at, zero = cast(coord(0), Compute.F64), const(0, Compute.F64)
        rising, falling = (at - left) / binary(Op.MAX, centre - left, 1), (right - at) / binary(Op.MAX, right - centre, 1)
        before = select(binary(Op.LT, at, left), zero, rising)
        after = select(binary(Op.LT, at, right), falling, zero)
        return select(binary(Op.EQ, at, centre), const(1, Compute.F64), select(binary(Op.LT, at, centre), before, after))
    dtype = DType(output_datatype)
    parts = [edges.slice(0, i, bands) for i in range(3)]
    return k.map(lambda *e: cast(weight(*e), compute_type(dtype)), *parts, dtype=dtype, shape=(length // 2 + 1, bands))
