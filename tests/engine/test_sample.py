"""SAMPLE in C against the interpreter: GridSample (all modes, paddings, ranks, types), RoiAlign, MaxRoiPool; wrong images."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against

FLOATS: list[Any] = [np.float32, np.float64, np.float16, DType.BFLOAT16.numpy]
BOUND = {4: 2e-5, 8: 1e-10, 2: 0.02}


def grid_sample(rng: np.random.Generator, x: np.ndarray, outputs: tuple[int, ...], grid_type: Any = np.float32, **params: int) -> None:
    spatial = x.ndim - 2
    grid = rng.uniform(-1.6, 1.6, (len(x), *outputs, spatial)).astype(grid_type)
    if grid.size and rng.random() < 0.5:
        grid.reshape(-1)[:: 7] = rng.choice([-1, 0, 1, -0.5, 0.5], grid.reshape(-1)[::7].shape)
    bound = 0.0 if params["mode"] == 1 else BOUND[min(x.itemsize if x.dtype.kind in "fV" else 8, grid.itemsize if grid.itemsize > 2 else 4)]
    against(rng, Kernel.SAMPLE, [x, grid, None], [((*x.shape[:2], *outputs), DType.of(x))], {"op": 0, **params}, bound, 10 * bound)


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("padding", range(3))
def test_grid_sample(mode: int, padding: int) -> None:
    for seed in range(24):
        rng = np.random.default_rng(100 * mode + 10 * padding + seed)
        spatial = int(rng.choice([1, 2, 2, 3]))
        sizes = [int(n) for n in rng.choice([1, 2, 3, 5, 8], spatial)]
        x = rng.standard_normal((int(rng.integers(1, 3)), int(rng.choice([1, 3])), *sizes)).astype(FLOATS[seed % 4])
        outputs = tuple(int(n) for n in rng.choice([1, 3, 7, 20] if spatial < 3 else [1, 3, 5], spatial))
        grid_sample(rng, x, outputs, [np.float32, np.float64, np.float16][seed % 3], mode=mode, padding=padding, align_corners=seed % 2)


def test_grid_sample_of_integers_and_nothing() -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.uint8, np.int8, np.int32, np.int64, np.uint16, bool):
        x = rng.integers(0, 100, (1, 2, 5, 6)).astype(dtype)
        grid_sample(rng, x, (4, 4), mode=1, padding=0, align_corners=0)
    grid_sample(rng, np.zeros((0, 2, 3, 4), np.float32), (5, 6), mode=0, padding=0, align_corners=0)
    grid_sample(rng, np.zeros((2, 2, 3, 4), np.float32), (0, 6), mode=0, padding=0, align_corners=0)
    x = rng.standard_normal((1, 1, 4, 4)).astype(np.float32)
    grid = np.full((1, 2, 2, 2), np.nan, np.float32)
    grid[0, 0, 0] = np.inf
    for padding in range(2):
        against(rng, Kernel.SAMPLE, [x, grid, None], [((1, 1, 2, 2), np.float32)], {"op": 0, "mode": 1, "padding": padding})


def regions(rng: np.random.Generator, count: int, size: float) -> np.ndarray:
    corners = np.sort(rng.uniform(-2, size + 2, (count, 2, 2)), 1)
    return corners.reshape(count, 4)  # x1, y1, x2, y2


@pytest.mark.parametrize("mode", [0, 1])
def test_roi_align(mode: int) -> None:
    for seed in range(16):
        rng = np.random.default_rng(seed)
        dtype = FLOATS[seed % 2] if mode else FLOATS[seed % 4]
        x = rng.standard_normal((2, 3, int(rng.integers(1, 12)), int(rng.integers(1, 12)))).astype(dtype)
        at, images = regions(rng, 5, 20).astype(dtype), rng.integers(0, 2, 5)
        bound = BOUND[x.itemsize]
        against(rng, Kernel.SAMPLE, [x, at, images], [((5, 3, int(rng.integers(1, 5)), int(rng.integers(1, 5))), dtype)],
                {"op": 1, "mode": mode, "coordinates": seed % 2, "sampling_ratio": int(rng.choice([0, 1, 2])), "spatial_scale": 0.5}, bound, 10 * bound)


def test_max_roi_pool() -> None:
    for seed in range(16):
        rng = np.random.default_rng(300 + seed)
        dtype = FLOATS[seed % 4]
        x = rng.standard_normal((2, 3, int(rng.integers(1, 12)), int(rng.integers(1, 12)))).astype(dtype)
        if seed % 5 == 0:
            x.reshape(-1)[0] = np.nan
        at = np.concatenate([rng.integers(0, 2, (5, 1)), np.rint(regions(rng, 5, 20))], 1).astype(dtype)
        against(rng, Kernel.SAMPLE, [x, at, None], [((5, 3, int(rng.integers(1, 5)), int(rng.integers(1, 5))), dtype)], {"op": 2, "spatial_scale": 0.5 if seed % 2 else 0.7})


def test_wrong_images_raise() -> None:
    rng = np.random.default_rng(9)
    x = np.ones((2, 1, 4, 4), np.float32)
    for image in (-1, 2):
        assert not against(rng, Kernel.SAMPLE, [x, np.array([[0, 0, 2, 2]], np.float32), np.array([image])], [((1, 1, 2, 2), np.float32)], {"op": 1, "spatial_scale": 1.0})
        assert not against(rng, Kernel.SAMPLE, [x, np.array([[image, 0, 0, 2, 2]], np.float32), None], [((1, 1, 2, 2), np.float32)], {"op": 2, "spatial_scale": 1.0})
    for wrong in (np.nan, 1e30):
        assert not against(rng, Kernel.SAMPLE, [x, np.array([[0, 0, wrong, 2]], np.float32), np.array([0])], [((1, 1, 2, 2), np.float32)], {"op": 1, "spatial_scale": 1.0})
