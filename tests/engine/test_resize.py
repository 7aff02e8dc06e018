"""RESIZE in C against the interpreter: all modes and coordinates, antialiasing, cropping; integers exactly, floats within rounding; channels first and last."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against
from .one_step import numbers

TYPES = [DType.FLOAT, DType.UINT8, DType.FLOAT16, DType.INT8, DType.DOUBLE, DType.INT32, DType.BFLOAT16, DType.UINT16, DType.INT64, DType.BOOL]
BOUND = {DType.FLOAT: (2e-5, 2e-5), DType.DOUBLE: (1e-12, 1e-12), DType.FLOAT16: (0.0, 2e-3), DType.BFLOAT16: (0.0, 1e-2)}


def resize(rng: np.random.Generator, x: np.ndarray, shape: list[int], mode: int, coordinates: int, **params: Any) -> None:
    dtype = DType.of(x)
    rtol, atol = BOUND.get(dtype, (0.0, 0.0)) if mode else (0.0, 0.0)
    roi = params.pop("roi", [0.0] * 8)
    against(rng, Kernel.RESIZE, [x], [(shape, dtype)], {"mode": mode, "coordinates": coordinates, "a": -0.75, "roi": roi, **params}, rtol, atol)


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("coordinates", range(6))
def test_random(mode: int, coordinates: int) -> None:
    for seed in range(40):
        rng = np.random.default_rng(1000 * mode + 100 * coordinates + seed)
        dtype = TYPES[seed % len(TYPES)]
        rank = int(rng.integers(1, 5))
        given = [int(n) for n in rng.choice([1, 2, 3, 5, 8, 19], rank)]
        scales = [float(np.float32(rng.choice([0, 1, 0.3, 0.5, 2, 1.7, 2.6, 3]))) for _ in given]
        shape = [int(rng.integers(1, 12)) if s == 0 else max(int(n * s), 1) for n, s in zip(given, scales, strict=True)]
        roi = [float(v) for v in np.concatenate([rng.uniform(-0.2, 0.4, rank), rng.uniform(0.6, 1.2, rank)])] if coordinates == 5 else [0.0] * 8
        x = numbers(rng, given, dtype, special=False)
        if dtype is DType.INT64:
            x %= 2**40  # the interpreter goes through float64
        resize(rng, x, shape, mode, coordinates, scales=scales, roi=roi, nearest=seed % 4, antialias=int(mode > 0 and seed % 3 == 0), exclude_outside=seed % 2,
               extrapolation=float(rng.choice([0, 2.5, -7])))


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.UINT8, DType.INT8])
def test_images(dtype: DType) -> None:
    """Larger ones, by halves and doubles and odd factors, whose ties must round as the reference's."""
    rng = np.random.default_rng(5)
    x = (rng.integers(0, 255, (2, 3, 40, 30)) - (128 if dtype is DType.INT8 else 0)).astype(dtype.numpy)
    for shape in ([2, 3, 80, 60], [2, 3, 20, 15], [2, 3, 57, 131], [2, 3, 10, 300]):
        for mode in range(3):
            resize(rng, x, shape, mode, 0, antialias=int(mode > 0 and shape[2] < 40))
            resize(rng, x, shape, mode, 3)


def test_same_size_and_empty() -> None:
    rng = np.random.default_rng(6)
    for mode in range(3):
        resize(rng, rng.standard_normal((2, 3, 4)).astype(np.float32), [2, 3, 4], mode, 0)
        resize(rng, rng.standard_normal((0, 3, 4)).astype(np.float32), [0, 6, 8], mode, 0)
        resize(rng, rng.standard_normal((2, 3)).astype(np.float32), [0, 3], mode, 0)


def test_zero_weights_leave_infinities_alone() -> None:
    rng = np.random.default_rng(7)
    x = np.array([[1, np.inf, 2, 3], [4, 5, -np.inf, np.nan]], np.float32)
    for mode in (1, 2):
        for shape in ([4, 8], [2, 7], [3, 4]):
            resize(rng, x, shape, mode, 3)
            resize(rng, x.astype(np.float64), shape, mode, 4, scales=[s / n for s, n in zip(shape, x.shape, strict=True)])
