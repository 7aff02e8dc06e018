"""SCATTER in C against the interpreter, bit for bit: elements and slices, every reduction and type, equal places, negative and wrong indices."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against
from .one_step import OneStep, numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.BOOL, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64]


def run(rng: np.random.Generator, x: np.ndarray, index: np.ndarray, updates: np.ndarray, **params: int) -> list[np.ndarray]:
    return against(rng, Kernel.SCATTER, [x, index, updates], [(x.shape, DType.of(x))], params)


def indices(rng: np.random.Generator, size: int, shape: Any) -> np.ndarray:
    return rng.integers(-size, size, shape).astype(rng.choice([np.int32, np.int64]))


@pytest.mark.parametrize("reduction", range(5))
def test_elements(reduction: int) -> None:
    for seed in range(39):
        rng = np.random.default_rng(seed)
        dtype = TYPES[seed % len(TYPES)]
        rank = int(rng.integers(1, 5))
        shape = [int(n) for n in rng.choice([1, 2, 3, 5, 9, 40], rank)]
        if seed % 5 == 0:
            shape[int(rng.integers(rank))] = 700
        axis = int(rng.integers(rank))
        where = [int(rng.integers(1, n + 1)) for n in shape]
        where[axis] = int(rng.choice([1, 3, shape[axis], 2 * shape[axis]]))
        while np.prod(where) > 30000:
            where[int(np.argmax(where))] //= 4
        run(rng, numbers(rng, shape, dtype), indices(rng, shape[axis], where), numbers(rng, where, dtype), axis=axis, mode=0, reduction=reduction)


@pytest.mark.parametrize("reduction", range(5))
def test_slices(reduction: int) -> None:
    for seed in range(39):
        rng = np.random.default_rng(100 + seed)
        dtype = TYPES[seed % len(TYPES)]
        rank = int(rng.integers(1, 5))
        shape = [int(n) for n in rng.choice([1, 2, 3, 5, 9], rank)]
        shape[-1] = int(rng.choice([1, 4, 300, 5000 if rank < 3 else 20]))
        n, lead = int(rng.integers(1, rank + 1)), [int(d) for d in rng.integers(1, 6, int(rng.integers(0, 3)))]
        index = np.stack([indices(rng, shape[k], lead).astype(np.int64) for k in range(n)], -1)
        run(rng, numbers(rng, shape, dtype), index, numbers(rng, (*lead, *shape[n:]), dtype), axis=0, mode=1, reduction=reduction)


@pytest.mark.parametrize("dtype", [DType.COMPLEX64, DType.COMPLEX128, DType.FLOAT8E4M3FN])
def test_types_that_are_only_moved(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    x, u = (rng.standard_normal(s).astype(dtype.numpy) for s in ((6, 5), (3, 5)))
    index = rng.integers(-6, 6, (3, 5))
    made = OneStep(rng)
    given = [made.operand(v, broadcast=False) for v in (x, index, u)]
    made.step(Kernel.SCATTER, given, [made.result((6, 5), dtype)], {"axis": 0, "mode": 0, "reduction": 0})
    expected = x.copy()
    np.put_along_axis(expected, index % 6, u, 0)
    assert made.run()[0].tobytes() == expected.tobytes()


def test_empty() -> None:
    rng = np.random.default_rng(2)
    run(rng, np.ones((3, 4), np.float32), np.zeros((0, 4), np.int64), np.ones((0, 4), np.float32), axis=0, mode=0, reduction=1)
    run(rng, np.ones((3, 0), np.float32), np.zeros((2, 0), np.int64), np.ones((2, 0), np.float32), axis=0, mode=0, reduction=0)
    run(rng, np.ones((3, 4), np.float32), np.zeros((0, 1), np.int64), np.ones((0, 4), np.float32), axis=0, mode=1, reduction=1)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("wrong", [3, -4, 2**40])
def test_wrong_index_raises(mode: int, wrong: int) -> None:
    made = OneStep(np.random.default_rng(3))
    x, index = np.zeros((3, 4), np.float32), np.array([[0], [wrong]])
    given = [made.operand(v, broadcast=False) for v in (x, index, np.ones((2, 1) if mode == 0 else (2, 4), np.float32))]
    made.step(Kernel.SCATTER, given, [made.result((3, 4), DType.FLOAT)], {"axis": 0, "mode": mode})
    with pytest.raises(RuntimeException, match="out of range"):
        made.run()
