"""POOL in C against NumPy: maximum with indices, average, Lp; ranks 1 to 3, dilations, overhanging windows, NaN, storage types, every ISA of the machine, one and two threads."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from .float_harness import bits, machine_isas, run, with_epilogue
from .test_conv import channels_last, padded3

ISAS = machine_isas()
rng = np.random.default_rng(5)


def pooled(x: np.ndarray, op: int, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int], ends: Sequence[int], out: Sequence[int], include: int, p: int,
           order: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition, window by window; op 0 maximum, 1 average, 2 Lp."""
    y, at = np.zeros((*x.shape[:2], *out), x.dtype if x.dtype.kind in "iu" else np.float32), np.full((*x.shape[:2], *out), -1, np.int64)
    places = np.arange(int(np.prod(x.shape))).reshape(*x.shape[:2], *x.shape[2:]) if not order else \
        np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(out)) * int(np.prod(x.shape[2:])) + np.arange(int(np.prod(x.shape[2:]))).reshape(x.shape[2:], order="F")
    for o in np.ndindex(*out):
        taps = [tuple(i * s - b + t * d for i, s, b, t, d in zip(o, strides, pads, tap, dilations, strict=True)) for tap in np.ndindex(*kernel)]
        inside = [t for t in taps if all(0 <= i < n for i, n in zip(t, x.shape[2:], strict=True))]
        counted = inside if not include else [t for t in taps if all(-b <= i < n + e for i, n, b, e in zip(t, x.shape[2:], pads, ends, strict=True))]
        values = np.stack([x[(slice(None), slice(None), *t)] for t in inside]) if inside else np.zeros((0, *x.shape[:2]), x.dtype)
        index = (slice(None), slice(None), *o)
        if op == 0:
            lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
            y[index] = values.max(0, initial=lowest)
            if inside:
                best = np.argmax(values, 0)  # the first NaN, else the first of the largest
                at[index] = np.take_along_axis(np.stack([places[(slice(None), slice(None), *t)] for t in inside]), best[None], 0)[0]
        elif op == 1:
            with np.errstate(invalid="ignore"):
                y[index] = values.sum(0, dtype=np.float32) / np.float32(len(counted))
        else:
            y[index] = (np.abs(values.astype(np.float64)) ** p).sum(0) ** (1 / p)
    return y, at


def check(isa: str, x: np.ndarray, op: int, kernel: Sequence[int], strides: Sequence[int] = (), dilations: Sequence[int] = (), pads: Sequence[int] = (), ends: Sequence[int] = (), over: int = 0,
          include: int = 0, p: int = 2, order: int = 0, indices: bool = False, epilogue: bool = False, dtype: Any = None) -> None:
    n = x.ndim - 2
    strides, dilations, pads = strides or [1] * n, dilations or [1] * n, pads or [0] * n
    ends = ends or pads
    out = [max((i + b + e + over - d * (k - 1) - 1) // s + 1, 0) for i, b, e, d, k, s in zip(x.shape[2:], pads, ends, dilations, kernel, strides, strict=True)]
    wide = x if x.dtype.kind in "iu" else x.astype(np.float32)
    expected, places = pooled(wide, op, kernel, strides, dilations, pads, ends, out, include, p, order)
    expected = with_epilogue(expected) if epilogue else expected
    params = [n, op, *padded3(kernel, 1), *padded3(strides, 1), *padded3(dilations, 1), *padded3(pads, 0), *padded3(ends, 0), include, bits(p), order]
    results = []
    for threads in (1, 2):
        y, at = channels_last(np.zeros(expected.shape, dtype or (x.dtype if x.dtype.kind in "iu" else np.float32)), int(rng.integers(2))), np.zeros(places.shape, np.int64)
        run("pool", isa, [channels_last(x)], [y, at] if indices else [y], params, epilogue, threads)
        results.append(np.ascontiguousarray(y))
        if indices:
            np.testing.assert_array_equal(at, places)
    if op == 2 and p not in (1, 2):
        np.testing.assert_allclose(results[0], expected, 1e-6)
    elif op == 0:
        np.testing.assert_array_equal(results[0], expected.astype(results[0].dtype))
    else:
        np.testing.assert_allclose(results[0], expected, 3e-7)
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", [0, 1, 2])
def test_random(isa: str, op: int) -> None:
    for _ in range(40):
        n = int(rng.integers(1, 4))
        kernel = rng.integers(1, 4, n).tolist()
        space = rng.integers(3, 12 if n < 3 else 7, n).tolist()
        strides, dilations = rng.integers(1, 4, n).tolist(), rng.integers(1, 3, n).tolist()
        pads, ends = ([int(rng.integers(0, k)) for k in kernel] for _ in range(2))
        x = rng.integers(-20, 20, (int(rng.integers(1, 3)), int(rng.integers(1, 40)), *space)).astype(np.float32)
        check(isa, x, op, kernel, strides, dilations, pads, ends, int(rng.integers(0, 2)), int(rng.integers(2)), int(rng.integers(1, 4)), int(rng.integers(2)), op == 0 and bool(rng.integers(2)),
              op != 2 and bool(rng.integers(2)))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_wins_and_padding_never(isa: str) -> None:
    x = rng.standard_normal((1, 33, 9, 9)).astype(np.float32)
    x[0, :, 4, 4], x[0, 3, 0, 0], x[0, 5], x[0, 6, 2, 2] = np.nan, np.inf, -np.inf, -np.nan
    for indices in (False, True):
        check(isa, x, 0, [3, 3], [2, 2], [], [1, 1], indices=indices)
    check(isa, np.full((1, 2, 3, 3), -np.inf, np.float32), 0, [2, 2], [], [], [1, 1], indices=True)


@pytest.mark.parametrize("isa", ISAS)
def test_integers_and_halves(isa: str) -> None:
    for dtype in (np.int8, np.uint8):
        for indices in (False, True):
            for channels in (3, 19, 70, 149):
                check(isa, rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (2, channels, 7, 8)).astype(dtype), 0, [3, 2], [2, 1], [], [1, 1], indices=indices)
    for op in (0, 1):
        check(isa, rng.integers(-8, 8, (1, 21, 7, 8)).astype(np.float16), op, [2, 2], [2, 2])
    check(isa, rng.integers(-8, 8, (1, 21, 7, 8)).astype(np.float16), 0, [2, 2], [2, 2], dtype=np.float16)


@pytest.mark.parametrize("isa", ISAS)
def test_many_taps_and_empty(isa: str) -> None:
    x = rng.integers(-99, 99, (1, 35, 15, 15)).astype(np.float32)
    for op in (0, 1, 2):
        check(isa, x, op, [13, 13], [], [], [6, 6], include=op & 1)
    check(isa, np.zeros((0, 3, 5, 5), np.float32), 0, [2, 2])
    check(isa, np.zeros((1, 3, 1, 5), np.float32), 1, [2, 2])
