"""ATTENTION in C against NumPy in float64: block borders, grouped heads, masks, causal offsets, softcap, rows that see nothing, storage types, every ISA of the machine, one and two threads."""
from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .float_harness import bits, machine_isas, run, with_epilogue
from .one_step import OneStep

ISAS = machine_isas()
rng = np.random.default_rng(3)


def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float, softcap: float, causal: bool, offset: int) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    repeat = q.shape[1] // k.shape[1]
    scores = np.matmul(q, np.swapaxes(np.repeat(k, repeat, 1), 2, 3)) * scale
    scores = np.tanh(scores / softcap) * softcap if softcap else scores
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask.astype(np.float64)
    if causal:
        scores = np.where(np.arange(k.shape[2]) <= np.arange(q.shape[2])[:, None] + offset, scores, -np.inf)
    top = scores.max(3, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    return np.matmul(e / np.maximum(e.sum(3, keepdims=True), 1e-38), np.repeat(v, repeat, 1))


def check(isa: str, b: int = 1, h: int = 2, hk: int = 2, s: int = 5, t: int = 7, d: int = 16, dv: int = 0, mask: np.ndarray | None = None, softcap: float = 0, causal: bool = False, offset: int = 0,
          packed_heads: bool = False, epilogue: bool = False, dtype: Any = np.float32, tolerance: float = 2e-6) -> None:
    def operand(heads: int, length: int, depth: int) -> np.ndarray:
        if packed_heads:  # heads side by side in a row, as projections leave them
            return rng.standard_normal((b, length, heads, depth)).astype(dtype).transpose(0, 2, 1, 3)
        return rng.standard_normal((b, heads, length, depth)).astype(dtype)
    q, k, v = operand(h, s, d), operand(hk, t, d), operand(hk, t, dv or d)
    scale = 1 / math.sqrt(d)
    wanted = expected(q, k, v, mask, scale, softcap, causal, offset)
    wanted = with_epilogue(wanted) if epilogue else wanted
    full = None if mask is None else np.broadcast_to(mask, (b, h, s, t))
    results = []
    for threads in (1, 2):
        y = np.empty((b, s, h, dv or d), np.float32).transpose(0, 2, 1, 3) if packed_heads else np.empty((b, h, s, dv or d), np.float32)
        run("attention", isa, [q, k, v, full], [y], [bits(scale), bits(softcap), int(causal), offset], epilogue, threads)
        results.append(np.ascontiguousarray(y))
    np.testing.assert_allclose(results[0], wanted, tolerance, 3 * tolerance)
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("packed_heads", [False, True])
def test_sizes(isa: str, packed_heads: bool) -> None:
    for s, t, d, dv in ((1, 1, 1, 1), (1, 600, 64, 64), (3, 40, 20, 33), (5, 7, 16, 0), (130, 130, 64, 0), (97, 1100, 32, 40), (20, 513, 8, 3), (200, 16, 24, 17)):
        check(isa, 2, 3, 3, s, t, d, dv, packed_heads=packed_heads, epilogue=bool(rng.integers(2)))
        check(isa, 1, 2, 1, s, t, d, dv, packed_heads=packed_heads, causal=True, offset=max(t - s, 0))


@pytest.mark.parametrize("isa", ISAS)
def test_grouped_heads(isa: str) -> None:
    for s in (1, 2, 40):
        for h, hk in ((8, 2), (12, 1), (6, 3)):
            check(isa, 2, h, hk, s, 70, 32, causal=True, offset=70 - s)


@pytest.mark.parametrize("isa", ISAS)
def test_masks(isa: str) -> None:
    for s, t in ((5, 33), (70, 600)):
        keep = rng.random((2, 1, s, t)) < 0.7
        keep[0, 0, 0] = False  # this row sees nothing
        check(isa, 2, 4, 2, s, t, 16, mask=keep)
        check(isa, 2, 4, 2, s, t, 16, mask=rng.random((2, 4, 1, t)) < 0.5, causal=True)
        check(isa, 2, 4, 2, s, t, 16, mask=rng.standard_normal((s, t)).astype(np.float32))
        check(isa, 2, 4, 2, s, t, 16, mask=np.where(rng.random((2, 1, 1, t)) < 0.5, 0, -np.inf).astype(np.float32))
        check(isa, 1, 2, 2, s, t, 16, mask=rng.standard_normal((s, 1)).astype(np.float16))


@pytest.mark.parametrize("isa", ISAS)
def test_causal_offsets(isa: str) -> None:
    for offset in (-700, -3, 0, 5, 1000):
        check(isa, 1, 2, 2, 30, 600, 16, causal=True, offset=offset)
        check(isa, 1, 2, 2, 700, 20, 16, causal=True, offset=offset)


@pytest.mark.parametrize("isa", ISAS)
def test_softcap_and_halves(isa: str) -> None:
    check(isa, s=40, t=600, softcap=5.0, tolerance=4e-6)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        check(isa, 1, 4, 2, 1, 70, 32, dtype=dtype)
        check(isa, 1, 4, 2, 30, 70, 32, dtype=dtype)


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_and_nan(isa: str) -> None:
    q, k, v = (rng.standard_normal((1, 1, 6, 8)).astype(np.float32) * 300 for _ in range(3))
    y = np.empty((1, 1, 6, 8), np.float32)
    run("attention", isa, [q, k, v, None], [y], [bits(1.0), bits(0.0), 0, 0])
    np.testing.assert_allclose(y, expected(q, k, v, None, 1.0, 0, False, 0), 1e-3)  # scores of 10⁶ in float have errors of 10⁻²
    q[0, 0, 2, 3] = np.nan
    run("attention", isa, [q, k, v, None], [y], [bits(1.0), bits(0.0), 0, 0])
    assert np.isnan(y[0, 0, 2]).all() and np.isfinite(np.delete(y[0, 0], 2, 0)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    check(isa, b=0)
    check(isa, s=0)
    check(isa, t=0)


def test_in_the_engine() -> None:
    for s, t in ((1, 40), (37, 300)):
        made = OneStep(rng)
        given = [made.operand(rng.standard_normal(shape).astype(np.float32), broadcast=False) for shape in ((2, 4, s, 20), (2, 2, t, 20), (2, 2, t, 17))]
        given += [made.operand(rng.random((2, 4, s, t)) < 0.8)]
        made.step(Kernel.ATTENTION, given, [made.result((2, 4, s, 17), DType.FLOAT)], {"scale": 0.2, "softcap": 3.0, "causal": 1, "offset": t - s})
        made.check(1e-5, 1e-6)
