"""Resize: separable interpolation. Each axis is a short list of taps (source index and weight for every output element), applied in float64 and rounded once.

Coordinates follow the specification's table; `scale` is the given scale where scales are given (so an output length may stand for a fractional one), else
output length / input length. Cubic weights: R. Keys, "Cubic convolution interpolation", IEEE TASSP 29 (1981), eq. 4. Antialiasing stretches the kernel by 1 / scale.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..dim import Dim, Undecidable, dim_floor, fresh
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from .common import fresh_shape, normalize_axes
from .registry import Spec, operator, require

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
POLICIES = ("stretch", "not_larger", "not_smaller")


def _present(value: Any) -> Any:
    """An optional input; exporters also write an empty tensor for an absent one."""
    return None if value is None or value.size == 0 else value


def _target(lengths: Sequence[int], scales: Any, sizes: Any, policy: str) -> tuple[list[int], list[float]]:
    """Output lengths and scales of the resized axes."""
    require((scales is None) != (sizes is None), "exactly one of scales and sizes must be given")
    given = scales if sizes is None else sizes
    require(len(given) == len(lengths), f"scales or sizes has {len(given)} entries for {len(lengths)} axes")
    if sizes is None:
        require((scales > 0).all(), f"scales {scales.tolist()} must be positive")
        # In float32, as shape inference does: 10 * 0.7f is 7, not 6.9999999.
        return [math.floor(np.float32(n) * s) for n, s in zip(lengths, scales.astype(np.float32), strict=True)], [float(s) for s in scales]
    return _fit(lengths, [int(s) for s in sizes], policy)


def _fit(lengths: Sequence[int], sizes: list[int], policy: str) -> tuple[list[int], list[float]]:
    require(policy in POLICIES, f"keep_aspect_ratio_policy '{policy}' is not one of {', '.join(POLICIES)}")
    ratios = [s / n if n else 1.0 for s, n in zip(sizes, lengths, strict=True)]
    _check_sizes(sizes)
    if policy == "stretch":
        return sizes, ratios
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(scale * n + 0.5) for n in lengths], [scale] * len(lengths)


def _check_sizes(sizes: Sequence[Dim]) -> None:
    require(all(not isinstance(s, int) or s >= 0 for s in sizes), f"sizes {list(sizes)} must not be negative")


def _origins(mode: str, length: int, count: int, scale: Any, start: Any, end: Any) -> np.ndarray:
    """Where each output element lies in the input, in elements, in the precision of `scale`."""
    x = np.arange(count, dtype=scale.dtype)
    exact = scale * length  # may be fractional
    if mode == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return length / 2 * (1 - count / exact) + (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if count > 1 else np.zeros_like(x)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * (length - 1) / (exact - 1) if count > 1 else np.zeros_like(x)
    require(mode == "tf_crop_and_resize", f"coordinate_transformation_mode '{mode}' is not one of {', '.join(COORDINATES)}")
    if count > 1:
        return start * (length - 1) + x * (end - start) * (length - 1) / (exact - 1)
    return np.full_like(x, 0.5 * (start + end) * (length - 1))


def _nearest(x: np.ndarray, mode: str) -> np.ndarray:
    rounding: dict[str, Callable[[np.ndarray], np.ndarray]] = {"round_prefer_floor": lambda v: np.ceil(v - 0.5), "round_prefer_ceil": lambda v: np.floor(v + 0.5), "floor": np.floor, "ceil": np.ceil}
    require(mode in rounding, f"nearest_mode '{mode}' is not one of {', '.join(rounding)}")
    return rounding[mode](x).astype(np.int64)


def _kernel(mode: str, distance: np.ndarray, a: float) -> np.ndarray:
    """The weight of an element at this distance."""
    t = np.abs(distance)
    if mode == "linear":
        return np.maximum(0, 1 - t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _taps(mode: str, x: np.ndarray, length: int, scale: float, antialias: int, exclude_outside: int, a: float) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and weights, [outputs, taps] each, of linear or cubic interpolation at positions x."""
    stretch = min(scale, 1.0) if antialias else 1.0
    radius = 1 if mode == "linear" else 2
    reach = math.ceil(radius / stretch)
    index = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weight = _kernel(mode, (index - x[:, None]) * stretch, a)
    if exclude_outside:
        weight = np.where((index < 0) | (index >= length), 0, weight)
    if exclude_outside or antialias:
        total = weight.sum(1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return np.clip(index, 0, max(length - 1, 0)), weight


def _interpolate(data: np.ndarray, axis: int, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    shape = (-1, *[1] * (data.ndim - axis - 1))
    out: Any = 0
    for k in range(index.shape[1]):
        # A weight of zero takes no part: it must not turn an infinity into NaN.
        factor = weight[:, k].reshape(shape)
        out = out + np.where(factor == 0, 0, np.take(data, index[:, k], axis) * factor)
    return out


def _rounded(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Float results in the output's type: integers are rounded half to even and saturate."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        whole = np.rint(values)
        # The largest int64 is no float64: compare there, then convert only what fits.
        fits = (whole > limits.min) & (whole < float(limits.max))
        return np.where(fits, np.where(fits, whole, 0).astype(dtype), np.where(whole <= limits.min, limits.min, limits.max).astype(dtype))
    return values.astype(dtype)


@operator()
def Resize(X: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, antialias: int = 0, axes: Any = None, coordinate_transformation_mode: str = "half_pixel",
           cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest",
           nearest_mode: str = "round_prefer_floor") -> Any:
    """X sampled on another grid along `axes`, by the nearest element or by linear or cubic interpolation."""
    require(mode in MODES, f"mode '{mode}' is not one of {', '.join(MODES)}")
    require(not (antialias and mode == "nearest"), "antialias applies to the modes linear and cubic, not to nearest")
    along = list(range(X.ndim)) if axes is None else normalize_axes(axes, X.ndim)
    lengths = [X.shape[a] for a in along]
    counts, factors = _target(lengths, _present(scales), _present(sizes), keep_aspect_ratio_policy)
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _present(roi) if crop else None
    require(not crop or region is not None and len(region) == 2 * len(along), f"tf_crop_and_resize needs a roi of {2 * len(along)} elements")
    return resample(X, along, counts, factors, None if region is None else region.tolist(), mode, coordinate_transformation_mode, nearest_mode, antialias, exclude_outside,
                    cubic_coeff_a, extrapolation_value)


def resample(X: np.ndarray, along: Sequence[int], counts: Sequence[int], scales: Sequence[float], region: Sequence[float] | None, mode: str, coordinates: str, nearest: str,
             antialias: int, exclude_outside: int, a: float, extrapolation: float) -> np.ndarray:
    """X with counts[i] elements on axis along[i]. `region` (the starts, then the ends) is what tf_crop_and_resize looks at; outside of X that gives `extrapolation`."""
    outside: Any = False
    data = X if mode == "nearest" else X.astype(np.complex128 if X.dtype.kind == "c" else np.float64)
    for i, (axis, count, scale) in enumerate(zip(along, counts, scales, strict=True)):
        length = X.shape[axis]
        start, end = (float(region[i]), float(region[i + len(along)])) if region is not None else (0.0, 1.0)
        if scale == 1 and count == length and (start, end) == (0, 1):
            continue
        require(length or not count, f"axis {axis} has no elements to resize to {count}")
        # Scales are float32: whether 8.5 / 1.7 - 0.5 is a tie for `nearest` can only be asked in float32.
        precision = np.float32 if mode == "nearest" else np.float64
        x = _origins(coordinates, length, count, precision(scale), precision(start), precision(end))
        if mode == "nearest":
            data = np.take(data, np.clip(_nearest(x, nearest), 0, max(length - 1, 0)), axis)
        else:
            data = _interpolate(data, axis, *_taps(mode, x, length, scale, antialias, exclude_outside, a))
        if region is not None:
            outside = outside | ((x < 0) | (x > length - 1)).reshape(-1, *[1] * (X.ndim - axis - 1))
    if region is not None and np.any(outside):
        data = np.where(outside, np.asarray(extrapolation, np.float64).astype(data.dtype), data)
    return np.array(data, X.dtype) if mode == "nearest" else _rounded(data, X.dtype)


def _scaled(size: Dim, scale: Any) -> Dim:
    """⌊size * scale⌋: exact where symbolic (0.7 means 7/10), in float32 where both are numbers."""
    if isinstance(size, int) and isinstance(scale, (int, float, Fraction, np.floating)):
        return math.floor(np.float32(size) * np.float32(float(scale)))
    try:
        return dim_floor(size * scale)
    except Undecidable:
        return fresh()


def _resized(lengths: Sequence[Dim], scales: Spec | None, sizes: Spec | None, policy: str) -> list[Dim]:
    if sizes is not None:
        wanted = sizes.ints
        if wanted is None or (policy != "stretch" and not all(isinstance(d, int) for d in (*wanted, *lengths))):
            return [fresh() for _ in lengths]
        require(len(wanted) == len(lengths), f"sizes has {len(wanted)} entries for {len(lengths)} axes")
        _check_sizes(wanted)
        return wanted if policy == "stretch" else list(_fit(lengths, wanted, policy)[0])  # type: ignore[arg-type]
    if scales is None or scales.value is None:
        return [fresh() for _ in lengths]
    factors = np.asarray(scales.value).ravel().tolist()
    require(len(factors) == len(lengths), f"scales has {len(factors)} entries for {len(lengths)} axes")
    return [_scaled(n, s) for n, s in zip(lengths, factors, strict=True)]


@Resize.shape
def _(X: Spec, roi: Spec | None = None, scales: Spec | None = None, sizes: Spec | None = None, *, antialias: int = 0, axes: Any = None,
      coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
      keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor") -> Spec:
    scales, sizes = (None if s is None or (s.shape is not None and s.shape[0] == 0) else s for s in (scales, sizes))
    require(scales is not None or sizes is not None, "one of scales and sizes must be given")
    if X.shape is None:
        given = sizes if sizes is not None else scales
        full = given is not None and given.shape is not None and axes is None and isinstance(given.shape[0], int)
        if not full:
            return Spec(X.dtype)
        rank = given.shape[0]  # type: ignore[union-attr, index]
        stretched = sizes is not None and keep_aspect_ratio_policy == "stretch"
        return Spec(X.dtype, tuple(sizes.ints) if stretched and sizes.ints is not None else fresh_shape(rank))  # type: ignore[union-attr, arg-type]
    along = list(range(len(X.shape))) if axes is None else normalize_axes(axes, len(X.shape))
    shape = list(X.shape)
    for axis, size in zip(along, _resized([shape[a] for a in along], scales, sizes, keep_aspect_ratio_policy), strict=True):
        shape[axis] = size
    return Spec(X.dtype, tuple(shape))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _floats(view: View | None, what: str) -> list[float] | None:
    """A known list of numbers; None where the input is absent or empty."""
    if view is None or view.shape == (0,):
        return None
    if view.value is None or any(hasattr(v, "terms") for v in np.asarray(view.value, object).ravel().tolist()):
        raise CannotLower(f"{what} is not known before the model runs")
    return [float(v) for v in np.asarray(view.value, object).ravel().tolist()]


@Resize.lower
def _(k: Lowering, X: View, roi: View | None = None, scales: View | None = None, sizes: View | None = None, *, antialias: int = 0, axes: Any = None,
      coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
      keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor", out: Spec) -> View:
    along = list(range(X.rank)) if axes is None else normalize_axes(axes, X.rank)
    # A scale of 0 stands for the quotient of the sizes.
    factors, starts, ends = [1.0] * X.rank, [0.0] * X.rank, [1.0] * X.rank
    if sizes is None or sizes.shape == (0,):
        given = _floats(scales, "scales")
    elif keep_aspect_ratio_policy == "stretch":
        given = [0.0] * len(along)
    else:
        lengths, wanted = [X.shape[a] for a in along], _floats(sizes, "sizes")
        if wanted is None or not all(isinstance(n, int) for n in lengths):
            raise CannotLower("sizes that keep the aspect ratio of an image whose size only the run knows")
        given = _fit(lengths, [int(s) for s in wanted], keep_aspect_ratio_policy)[1]  # type: ignore[arg-type]
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _floats(roi, "roi") if crop else None
    for i, axis in enumerate(along):
        factors[axis] = given[i] if given is not None else 1.0
        if region is not None:
            starts[axis], ends[axis] = region[i], region[i + len(along)]
    made = k.buffer(X.dtype, out.shape or ()).whole()
    k.call(Kernel.RESIZE, [X], [made], mode=MODES.index(mode), coordinates=COORDINATES.index(coordinate_transformation_mode), nearest=NEAREST.index(nearest_mode), antialias=antialias,
           exclude_outside=exclude_outside, scales=factors, roi=[*starts, *ends], a=cubic_coeff_a, extrapolation=extrapolation_value)
    return made
