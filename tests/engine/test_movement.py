"""Copy (strided moves, transposes, padding) and Gather against the interpreter, bit for bit, for every size of element."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep, dims, numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.UINT8, DType.INT64, DType.BOOL, DType.BFLOAT16, DType.COMPLEX64, DType.COMPLEX128, DType.FLOAT8E4M3FN]


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    if dtype in (DType.COMPLEX64, DType.COMPLEX128, DType.FLOAT8E4M3FN):
        return rng.standard_normal(shape).astype(dtype.numpy)
    return numbers(rng, shape, dtype, special=False)


def test_strided_copies() -> None:
    for seed in range(80):
        rng = np.random.default_rng(seed)
        shape, dtype = dims(rng), TYPES[seed % len(TYPES)]
        made = OneStep(rng)
        view = made.operand(values(rng, shape, dtype))
        made.step(Kernel.COPY, [view, -1], [made.result(shape, dtype)], {"mode": 0}).check()


def test_long_rows_go_past_the_caches() -> None:
    """Copies of a megabyte and more, rows apart, from and to places that no vector is aligned to."""
    for seed, dtype in enumerate((DType.FLOAT, DType.UINT8, DType.INT64)):
        rng = np.random.default_rng(seed)
        shape = (3, (1 << 19) // dtype.numpy.itemsize + 7)
        made = OneStep(rng)
        view = made.operand(values(rng, shape, dtype), broadcast=False)
        made.step(Kernel.COPY, [view, -1], [made.result(shape, dtype)], {"mode": 0}).check()


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 3, 1, 2), (1, 0, 2, 3), (3, 2, 1, 0), (0, 1, 3, 2)])
def test_large_transposes(order: tuple[int, ...]) -> None:
    """Dense on both sides: the blocked way, over ragged block edges."""
    for dtype in (DType.FLOAT, DType.UINT8, DType.FLOAT16, DType.DOUBLE, DType.COMPLEX128):
        rng = np.random.default_rng(11)
        shape = (2, 65, 19, 67)
        x = values(rng, shape, dtype)
        made = OneStep(rng)
        p = made.program
        view = made.operand(x, broadcast=False, dense=True)
        record = p.views[view]
        from dataclasses import replace
        turned = p.view(replace(record, dims=tuple(record.dims[i] for i in order), strides=tuple(record.strides[i] for i in order)))
        made.step(Kernel.COPY, [turned, -1], [made.result(tuple(shape[i] for i in order), dtype, dense=True)], {"mode": 0}).check()
        np.testing.assert_array_equal(made.run()[0], x.transpose(order))


def test_padding() -> None:
    for seed in range(80):
        rng = np.random.default_rng(1000 + seed)
        shape, dtype, mode = dims(rng, 4, zero=False), TYPES[seed % len(TYPES)], 1 + seed % 4
        begin = [int(rng.integers(-min(2, d - 1), 6)) for d in shape]
        out = tuple(max(0, d + b + int(rng.integers(-min(1, d - 1), 6))) for d, b in zip(shape, begin, strict=True))
        made = OneStep(rng)
        view = made.operand(values(rng, shape, dtype))
        fill = made.operand(values(rng, (), dtype)) if rng.random() < 0.5 else -1
        made.step(Kernel.COPY, [view, fill], [made.result(out, dtype)], {"mode": mode, "begin": begin}).check()


def test_gather() -> None:
    for seed in range(60):
        rng = np.random.default_rng(2000 + seed)
        dtype, mode = TYPES[seed % len(TYPES)], seed % 3
        shape = dims(rng, 4, zero=False) or (3,)
        kind = np.int64 if rng.random() < 0.6 else np.int32
        axis = int(rng.integers(len(shape)))
        if mode == 0:
            index = rng.integers(-shape[axis], shape[axis], dims(rng, 2)).astype(kind)
            out = (*shape[:axis], *index.shape, *shape[axis + 1:])
        elif mode == 1:
            taken = tuple(int(rng.integers(0, d + 1)) if i != axis else int(rng.integers(0, 9)) for i, d in enumerate(shape))
            index = rng.integers(-shape[axis], shape[axis], taken).astype(kind)
            out = taken
        else:
            axis = int(rng.integers(len(shape)))
            count = int(rng.integers(1, len(shape) - axis + 1))
            lead = (*shape[:axis], *dims(rng, 1))
            index = np.stack([rng.integers(-shape[axis + k], shape[axis + k], lead) for k in range(count)], -1).astype(kind)
            out = (*lead, *shape[axis + count:])
        if len(out) > 8 or np.prod(out, dtype=np.int64) > 200000:
            continue
        made = OneStep(rng)
        views = [made.operand(values(rng, shape, dtype)), made.operand(index, broadcast=False)]
        made.step(Kernel.GATHER, views, [made.result(out, dtype)], {"axis": axis, "mode": mode}).check()


@pytest.mark.parametrize("bad", [5, -6, 1 << 62])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_gather_outside(mode: int, bad: int) -> None:
    rng = np.random.default_rng(3)
    made = OneStep(rng)
    index = np.array([0, 4, bad, -5]) if mode < 2 else np.array([[0], [4], [bad], [-5]])
    views = [made.operand(np.arange(5, dtype=np.float32), broadcast=False), made.operand(index, broadcast=False)]
    made.step(Kernel.GATHER, views, [made.result((4,), DType.FLOAT)], {"axis": 0, "mode": mode})
    with pytest.raises(RuntimeException, match=f"gather_under_test.*index {bad} is out of range: the size is 5"):
        made.run()
