"""SORT in C against the interpreter, bit for bit: every type, ties, NaN, both orders, the heap, merging and radix."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against
from .one_step import numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64]


def top(rng: np.random.Generator, x: np.ndarray, axis: int, k: int, largest: int) -> None:
    shape = [k if d == axis else n for d, n in enumerate(x.shape)]
    against(rng, Kernel.SORT, [x], [(shape, DType.of(x)), (shape, DType.INT64)], {"axis": axis, "largest": largest})


@pytest.mark.parametrize("dtype", TYPES)
def test_random(dtype: DType) -> None:
    for seed in range(16):
        rng = np.random.default_rng(seed)
        n = int(rng.choice([1, 2, 7, 13, 64, 100, 300, 1025, 3000]))
        axis = int(rng.integers(0, 3))
        shape = [int(d) for d in rng.integers(1, 4, 3)]
        shape[axis] = n
        x = numbers(rng, shape, dtype)
        if seed % 3 == 0:
            x = rng.permutation(x.reshape(-1)[rng.integers(0, max(x.size // 4, 1), x.size)]).reshape(shape)  # many ties
        top(rng, x, axis, int(rng.choice([1, n, n // 2, n // 8, n // 20, 0])), seed % 2)


def test_special_floats_and_absent_indices() -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64, np.float16):
        x = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1, -1, 5e-324, -0.0, 0.0, np.nan], dtype)
        for largest in (0, 1):
            for k in (1, 3, 12):
                top(rng, x, 0, k, largest)
                top(rng, np.tile(x, 9), 0, k, largest)
        against(rng, Kernel.SORT, [x], [((5,), dtype), None], {"axis": 0, "largest": 1})


def test_sorted_and_equal_rows() -> None:
    rng = np.random.default_rng(2)
    for n in (50, 5000):
        for x in (np.arange(n), np.arange(n)[::-1], np.zeros(n, int), np.arange(n) // 100):
            for k in (1, 10, n):
                top(rng, np.stack([x, x[::-1]]).astype(np.float32), 1, k, 1)
                top(rng, np.stack([x, x[::-1]]).astype(np.int64), 1, k, 0)


def test_empty() -> None:
    rng = np.random.default_rng(3)
    for shape, axis, k in (((0,), 0, 0), ((3, 0), 1, 0), ((0, 4), 1, 2), ((3, 4), 1, 0)):
        top(rng, np.zeros(shape, np.float32), axis, k, 1)
