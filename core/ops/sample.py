"""Sampling at computed places: GridSample, RoiAlign."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .cast import cast_view
from .common import fresh_shape, same_type
from .precision import compute_dtype, widened
from .registry import Spec, operator, require

MODES = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
KEYS_A = -0.75


def _reflect(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """x folded back at both borders until it lies in [low, high]."""
    span = high - low
    if span <= 0:
        return np.full_like(x, low)
    away = np.abs(x - low) % (2 * span)
    return low + np.where(away > span, 2 * span - away, away)


def _places(x: np.ndarray, size: int, padding: str, borders: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Whole-number places as indices of an axis, and whether each counts (outside ones do not under `zeros`)."""
    inside = (x >= 0) & (x < size) if padding == "zeros" else np.ones(x.shape, bool)
    if padding == "reflection":
        # Truncated: half-pixel borders leave the reflected place at a half.
        x = np.trunc(_reflect(x, *borders))
    return np.clip(np.nan_to_num(x), 0, size - 1).astype(np.intp), inside


def _weights(mode: str, t: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(tap offset from the floor, weight) at fraction t; cubic weights are Keys' (IEEE TASSP 29, 1981)."""
    if mode == "linear":
        return [(0, 1 - t), (1, t)]
    a = KEYS_A

    def near(d: np.ndarray) -> np.ndarray:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return [(-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))]


def _gather(flat: np.ndarray, sizes: Sequence[int], index: Sequence[np.ndarray]) -> np.ndarray:
    """flat [N, C, prod(sizes)] at index, one array [N, P] an axis → [N, C, P]."""
    place: Any = 0
    for i, size in zip(index, sizes, strict=True):
        place = place * size + i
    return np.take_along_axis(flat, np.broadcast_to(place[:, None], (*flat.shape[:2], place.shape[1])), 2)


@operator()
def GridSample(X: Any, grid: Any, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros") -> Any:
    """X [N, C, *sizes] at the normalized places grid [N, *outputs, r], innermost axis first → [N, C, *outputs]."""
    require(mode in MODES and padding_mode in PADDINGS, f"mode '{mode}' must be one of {', '.join(MODES)} and padding_mode '{padding_mode}' one of {', '.join(PADDINGS)}")
    sizes, outputs = X.shape[2:], grid.shape[1:-1]
    require(grid.shape[-1] == len(sizes) and len(grid) == len(X), f"grid {list(grid.shape)} must be [{len(X)}, *outputs, {len(sizes)}]")
    if X.shape[0] * X.shape[1] * math.prod(outputs) == 0:
        return np.empty((*X.shape[:2], *outputs), X.dtype)
    require(math.prod(sizes), f"an input {list(X.shape)} without elements can not be sampled")
    points = widened(grid).reshape(len(grid), -1, len(sizes))[..., ::-1]
    axes = []
    for i, size in enumerate(sizes):
        n = points[..., i]
        x = (n + 1) / 2 * (size - 1) if align_corners else ((n + 1) * size - 1) / 2
        borders = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        if mode == "nearest":
            x = np.rint(x)
        if padding_mode == "border" and mode != "cubic":
            # Cubic interpolation holds each of its four neighbours to the border instead, as PyTorch and onnxruntime do.
            x = np.clip(x, 0, size - 1)
        elif padding_mode == "reflection":
            x = _reflect(x, *borders)
        axes.append((x, borders))
    flat = X.reshape(*X.shape[:2], -1)
    made = _nearest(flat, sizes, axes, padding_mode) if mode == "nearest" else _interpolated(flat, sizes, axes, mode, padding_mode)
    return made.reshape(*X.shape[:2], *outputs).astype(X.dtype, copy=False)


def _nearest(flat: np.ndarray, sizes: Sequence[int], axes: Sequence[Any], padding: str) -> np.ndarray:
    found = [_places(np.trunc(x), size, padding, borders) for (x, borders), size in zip(axes, sizes, strict=True)]
    inside = np.logical_and.reduce([ok for _, ok in found])[:, None]
    zero = "" if flat.dtype == object else np.zeros((), flat.dtype)
    return np.where(inside, _gather(flat, sizes, [index for index, _ in found]), zero)


def _interpolated(flat: np.ndarray, sizes: Sequence[int], axes: Sequence[Any], mode: str, padding: str) -> np.ndarray:
    source = widened(flat) if flat.dtype.kind not in "iub" else flat.astype(np.float64)
    taps = []
    for (x, borders), size in zip(axes, sizes, strict=True):
        floor = np.floor(x)
        taps.append([(*_places(floor + k, size, padding, borders), weight) for k, weight in _weights(mode, x - floor)])
    out = np.zeros((*flat.shape[:2], axes[0][0].shape[1]), source.dtype)
    for corner in cartesian(*taps):
        inside = np.logical_and.reduce([ok for _, ok, _ in corner])
        weight: Any = 1
        for _, _, w in corner:
            weight = weight * w
        out += np.where(inside, weight, 0)[:, None].astype(source.dtype.type(0).real.dtype) * _gather(source, sizes, [index for index, _, _ in corner])
    return out


@GridSample.shape
def _(X: Spec, grid: Spec, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros") -> Spec:
    if X.shape is None and grid.shape is None:
        return Spec(X.dtype)
    rank = len(X.shape if X.shape is not None else grid.shape)  # type: ignore[arg-type]
    require(X.shape is None or grid.shape is None or len(grid.shape) == rank, f"X {X} and grid {grid} must have one rank")
    batch, channels = X.shape[:2] if X.shape is not None else (grid.shape[0], *fresh_shape(1))  # type: ignore[index, misc]
    return Spec(X.dtype, (batch, channels, *(grid.shape[1:-1] if grid.shape is not None else fresh_shape(rank - 2))))  # type: ignore[misc]


def _line(start: Any, step: Any, bins: int, grid: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one axis: lower neighbours [bins, grid], upper neighbours, and the two weights [bins, grid, 2] of every sampling point; weight 0 outside."""
    dtype = start.dtype
    y = start + np.arange(bins, dtype=dtype)[:, None] * step + (np.arange(grid, dtype=dtype) + dtype.type(0.5)) * step / dtype.type(max(grid, 1))
    counts = (y >= -1) & (y <= size)
    y = np.clip(y, 0, size - 1)
    low = np.minimum(np.nan_to_num(y).astype(np.intp), size - 1)
    fraction = y - low.astype(dtype)
    weights = np.stack([1 - fraction, fraction], -1)
    return low, np.minimum(low + 1, size - 1), np.where(counts[..., None], weights, 0)


def _average(image: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """Mean of the bilinear samples of each bin: two small matrix products, as the weights factorize over the axes."""
    def matrix(line: Any, size: int) -> np.ndarray:
        low, high, weights = line
        out = np.zeros((len(low), size), image.dtype)
        bins = np.broadcast_to(np.arange(len(low))[:, None], low.shape)
        np.add.at(out, (bins, low), weights[..., 0])
        np.add.at(out, (bins, high), weights[..., 1])
        return out
    count = max(rows[0].shape[1] * columns[0].shape[1], 1)
    return matrix(rows, image.shape[1]) @ image @ matrix(columns, image.shape[2]).T / image.dtype.type(count)


def _maximum(image: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    """Maximum over each bin's samples of the four weighted neighbours (the suite and onnxruntime take the maximum of the products, not of their sum)."""
    (bins_y, grid_y), (bins_x, grid_x) = rows[0].shape, columns[0].shape
    best: Any = None
    for i, j in cartesian((0, 1), repeat=2):
        values = image[:, rows[i].reshape(-1, 1), columns[j].reshape(1, -1)]
        weighted = values * (rows[2][..., i].reshape(-1, 1) * columns[2][..., j].reshape(1, -1))
        best = weighted if best is None else np.maximum(best, weighted)
    if not grid_y * grid_x:
        return np.zeros((len(image), bins_y, bins_x), image.dtype)
    return best.reshape(len(image), bins_y, grid_y, bins_x, grid_x).max((2, 4))


@operator()
def RoiAlign(X: Any, rois: Any, batch_indices: Any, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg", output_height: int = 1, output_width: int = 1,
             sampling_ratio: int = 0, spatial_scale: float = 1.0) -> Any:
    """Each region [x1, y1, x2, y2] of its image as output_height × output_width bins of bilinear samples (arXiv:1703.06870)."""
    require(coordinate_transformation_mode in ("half_pixel", "output_half_pixel"),
            f"coordinate_transformation_mode '{coordinate_transformation_mode}' is not half_pixel or output_half_pixel")
    require(mode in ("avg", "max"), f"mode '{mode}' is not avg or max")
    require(len(rois) == len(batch_indices) and (batch_indices.size == 0 or batch_indices.min() >= 0 and batch_indices.max() < len(X)),
            f"batch_indices must name one of {len(X)} images for each of {len(rois)} regions")
    x, half = widened(X), coordinate_transformation_mode == "half_pixel"
    kind = compute_dtype(rois.dtype).type
    corners = widened(rois) * kind(spatial_scale) - kind(0.5 if half else 0)
    pool: Callable[..., np.ndarray] = _average if mode == "avg" else _maximum
    out = np.empty((len(rois), X.shape[1], output_height, output_width), x.dtype)
    for r, (x1, y1, x2, y2) in enumerate(corners):
        lines = []
        for start, end, bins, size in ((y1, y2, output_height, X.shape[2]), (x1, x2, output_width, X.shape[3])):
            extent = end - start if half else max(end - start, kind(1))
            grid = sampling_ratio if sampling_ratio > 0 else max(0, math.ceil(extent / kind(bins)))
            lines.append(_line(start, extent / kind(bins), bins, grid, size))
        out[r] = pool(x[int(batch_indices[r])], *lines)
    return out.astype(X.dtype, copy=False)


@RoiAlign.shape
def _(X: Spec, rois: Spec, batch_indices: Spec, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg", output_height: int = 1, output_width: int = 1,
      sampling_ratio: int = 0, spatial_scale: float = 1.0) -> Spec:
    count, channels = fresh_shape(2)  # type: ignore[misc]
    named = next((s.shape[0] for s in (rois, batch_indices) if s.shape is not None), count)
    return Spec(same_type(X, rois, names="X and rois"), (named, X.shape[1] if X.shape is not None else channels, output_height, output_width))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@GridSample.lower
def _(k: Lowering, X: View, grid: View, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros", out: Spec) -> View:
    made = k.buffer(X.dtype, out.shape or ()).whole()
    k.call(Kernel.SAMPLE, [X, grid, None], [made], op=0, mode=MODES.index(mode), padding=PADDINGS.index(padding_mode), align_corners=align_corners)
    return made


@RoiAlign.lower
def _(k: Lowering, X: View, rois: View, batch_indices: View, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg", output_height: int = 1, output_width: int = 1,
      sampling_ratio: int = 0, spatial_scale: float = 1.0, out: Spec) -> View:
    made = k.buffer(X.dtype, out.shape or ()).whole()
    k.call(Kernel.SAMPLE, [X, rois, cast_view(k, batch_indices, DType.INT64)], [made], op=1, mode=("avg", "max").index(mode), sampling_ratio=sampling_ratio,
           coordinates=("half_pixel", "output_half_pixel").index(coordinate_transformation_mode), spatial_scale=spatial_scale)
    return made
