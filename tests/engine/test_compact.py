"""COMPACT in C against the interpreter (whose bodies are the operators'), bit for bit: places of non-zero elements, distinct rows, boxes that survive. Beyond the count nothing is compared."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.engine.binding import isas
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import RAISED
from .one_step import OneStep, dims, numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.BOOL, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64]


def check(rng: np.random.Generator, inputs: list[np.ndarray | None], outputs: list[tuple[tuple[int, ...], bool]], params: dict[str, int]) -> list[np.ndarray]:
    """outputs: (dims, whether only the first `count` are made). Returns what the engine made, cut."""
    one = OneStep(rng)
    given = [-1 if x is None else one.operand(np.asarray(x), broadcast=False) for x in inputs]
    results = [one.result(shape, DType.INT64) for shape, _ in outputs]
    one.step(Kernel.COMPACT, given, results, params)
    try:
        want = one.expected()
    except RAISED:
        for isa in isas():
            with pytest.raises(SardonyxError):
                one.run(isa)
        return []
    count = int(want[1].reshape(-1)[0])
    made: list[np.ndarray] = []
    for isa in isas():
        for threads in (1, 2):
            made = [y[:count] if cut else y for y, (_, cut) in zip(one.run(isa, threads), outputs, strict=True)]
            for i, (a, b, (_, cut)) in enumerate(zip(made, want, outputs, strict=True)):
                np.testing.assert_array_equal(a, b[:count] if cut else b, f"{isa}, {threads} threads, output {i}")
    return made


@pytest.mark.parametrize("dtype", TYPES)
def test_nonzero(dtype: DType) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        x = numbers(rng, dims(rng), dtype)
        x = np.where(rng.random(x.shape) < 0.5, np.zeros((), x.dtype), x).astype(x.dtype)
        if dtype.is_float and x.size:
            x.reshape(-1)[0] = -0.0
        found = check(rng, [x], [((x.size, x.ndim), True), ((), False)], {"op": 0})
        np.testing.assert_array_equal(found[0], np.argwhere(x.astype(np.float64) != 0) if x.ndim else found[0])


def test_nonzero_of_many() -> None:
    rng = np.random.default_rng(1)
    for shape, rate in (((300000,), 0.01), ((7, 30001), 0.5), ((40000, 3), 1.0), ((50000,), 0.0)):
        x = (rng.random(shape) < rate).astype(np.int8)
        check(rng, [x], [((x.size, x.ndim), True), ((1,), False)], {"op": 0})


@pytest.mark.parametrize("dtype", TYPES)
def test_unique(dtype: DType) -> None:
    for seed in range(14):
        rng = np.random.default_rng(seed)
        n, rest = int(rng.choice([0, 1, 2, 9, 64, 65, 700])), [(), (), (2,), (1, 3)][seed % 4]
        x = numbers(rng, (n, *rest), dtype)
        if n:
            x = x[rng.integers(0, max(n // 3, 1), n)]  # equal ones
        check(rng, [x], [((n,), True), ((1,), False), ((n,), False), ((n,), True)], {"op": 1, "sorted": seed % 2})


def test_unique_of_special_floats() -> None:
    rng = np.random.default_rng(2)
    x = np.array([0.0, np.nan, -0.0, np.inf, -np.nan, -np.inf, 5e-324, 0.0, np.nan])
    for dtype in (np.float32, np.float64, np.float16):
        for order in (0, 1):
            check(rng, [x.astype(dtype)], [((9,), True), ((), False), ((9,), False), ((9,), True)], {"op": 1, "sorted": order})
            check(rng, [np.stack([x, x[::-1]], 1).astype(dtype)], [((9,), True), ((), False), ((9,), False), ((9,), True)], {"op": 1, "sorted": order})


def boxes(rng: np.random.Generator, batches: int, classes: int, count: int, special: bool) -> tuple[np.ndarray, np.ndarray]:
    places = np.round(rng.uniform(0, 10, (batches, count, 4)) * 4) / 4
    scores = np.round(rng.uniform(-1, 1, (batches, classes, count)), 1)
    if special and count:
        places = np.where(rng.random(places.shape) < 0.03, rng.choice([np.nan, np.inf, -np.inf], places.shape), places)
        scores = np.where(rng.random(scores.shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0], scores.shape), scores)
    return places.astype(np.float32), scores.astype(np.float32)


@pytest.mark.parametrize("center", [0, 1])
def test_boxes(center: int) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        batches, classes, count = int(rng.choice([0, 1, 2])), int(rng.choice([0, 1, 3, 20])), int(rng.choice([0, 1, 6, 50, 400]))
        given, scores = boxes(rng, batches, classes, count, seed % 2 == 1)
        limit = int(rng.choice([-1, 0, 1, 5, 10000]))
        room = count if seed % 4 < 2 else min(count, max(limit, 0))
        threshold: Any = [None, np.float32(0.1), np.array([-0.5], np.float32)][seed % 3]
        iou: Any = [np.float32(rng.choice([0.0, 0.3, 0.5, 1.0])), None][seed % 5 == 4]
        check(rng, [given, scores, np.int64(limit) if seed % 7 else np.array([limit]), iou, threshold], [((batches * classes * room, 3), True), ((1,), False)], {"op": 2, "center": center})


def test_no_limit_is_none_and_bad_limits_are_errors() -> None:
    rng = np.random.default_rng(3)
    given, scores = boxes(rng, 1, 2, 9, False)
    made = check(rng, [given, scores], [((18, 3), True), ((), False)], {"op": 2})
    assert made[1] == 0
    for iou in (-0.1, 1.5, np.nan):
        check(rng, [given, scores, np.int64(3), np.float32(iou)], [((18, 3), True), ((), False)], {"op": 2})
    one = OneStep(rng)   # room for two a class, asked for nine
    one.step(Kernel.COMPACT, [one.operand(a, broadcast=False) for a in (given, scores, np.asarray(9))], [one.result((4, 3), DType.INT64), one.result((), DType.INT64)], {"op": 2})
    for isa in isas():
        with pytest.raises(SardonyxError):
            one.run(isa)


@pytest.mark.parametrize("shape,params,inputs", [((5, 1), {"op": 3}, 1), ((4, 1), {"op": 0}, 1), ((5, 2), {"op": 0}, 1), ((5, 1), {"op": 1}, 1), ((5, 3), {"op": 2}, 1)], ids=str)
def test_wrong_records(shape: tuple[int, ...], params: dict[str, int], inputs: int) -> None:
    rng = np.random.default_rng(4)
    one = OneStep(rng)
    one.step(Kernel.COMPACT, [one.operand(np.ones(5, np.float32), broadcast=False) for _ in range(inputs)], [one.result(shape, DType.INT64), one.result((), DType.INT64)], params)
    for isa in isas():
        with pytest.raises(SardonyxError):
            one.run(isa)
