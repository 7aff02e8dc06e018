"""ATTENTION in C against NumPy in float64: block borders, grouped heads, masks, causal offsets, softcap, rows that see nothing, storage types, every ISA of the machine, one and two threads."""
from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from sardonyx.errors import SardonyxError
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


def present(past: np.ndarray, new: np.ndarray, dense: bool) -> np.ndarray:
    """Room for both, of which only what is written may change."""
    shape = (*new.shape[:2], past.shape[2] + new.shape[2], new.shape[3])
    return np.full(shape, 7, new.dtype) if dense else np.full((*shape[:3], 2 * shape[3]), 7, new.dtype)[..., ::2]


def check(isa: str, b: int = 1, h: int = 2, hk: int = 2, s: int = 5, t: int = 7, d: int = 16, dv: int = 0, mask: np.ndarray | None = None, softcap: float = 0, causal: bool = False, offset: int = 0,
          packed_heads: bool = False, epilogue: bool = False, dtype: Any = np.float32, tolerance: float = 2e-6, held: int | None = None, kept: bool = True, dense: bool = True) -> None:
    """`held`: so many of the keys are past, and are kept with the new ones if `kept`."""
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
    inputs: list[np.ndarray | None] = [q, k, v, full]
    if held is not None:
        inputs = [q, k[:, :, held:], v[:, :, held:], full, k[:, :, :held].copy(), v[:, :, :held].copy()]
    for threads in (1, 2):
        y = np.empty((b, s, h, dv or d), np.float32).transpose(0, 2, 1, 3) if packed_heads else np.empty((b, h, s, dv or d), np.float32)
        presents = [present(x[:, :, :held], x[:, :, held:], dense) for x in (k, v)] if held is not None and kept else []
        run("attention", isa, inputs, [y, *presents], [bits(scale), bits(softcap), int(causal), offset], epilogue, threads)
        for x, made in zip((k, v), presents, strict=False):
            assert made.tobytes() == x.tobytes()
            assert dense or (made.base[..., 1::2] == 7).all()
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
@pytest.mark.parametrize("kept", [False, True])
def test_pieces(isa: str, kept: bool) -> None:
    """Past and new keys apart: block borders in either, few and many rows, grouped heads, storage types, what is kept exact in every layout."""
    for h, hk, s, t, d, dv in ((3, 3, 1, 40, 64, 64), (4, 1, 1, 600, 32, 48), (8, 2, 2, 70, 16, 16), (9, 1, 1, 33, 80, 64), (2, 2, 40, 600, 32, 64), (2, 1, 200, 300, 24, 17), (6, 2, 3, 50, 20, 33)):
        for held in sorted({0, 1, t - s, t // 2, min(t, 256), t}):
            for packed_heads in (False, True):
                check(isa, 2, h, hk, s, t, d, dv, held=held, kept=kept, packed_heads=packed_heads, dense=bool(rng.integers(2)), epilogue=bool(rng.integers(2)))
            check(isa, 1, h, hk, s, t, d, dv, held=held, kept=kept, causal=True, offset=t - s, mask=rng.random((1, h, s, t)) < 0.8)
            check(isa, 1, h, hk, s, t, d, dv, held=held, kept=kept, causal=True, offset=t // 2 - s)   # keys that no query sees are kept too
    for dtype in (np.float16, ml_dtypes.bfloat16):
        for s in (1, 30):
            check(isa, 1, 4, 2, s, 70, 32, dtype=dtype, held=45, kept=kept, dense=s == 1)


@pytest.mark.parametrize("isa", ISAS)
def test_large_caches_go_past_the_caches(isa: str) -> None:
    check(isa, 1, 8, 8, 1, 700, 64, held=699)
    check(isa, 1, 9, 3, 1, 1500, 80, held=1000, causal=True, offset=1499)
    check(isa, 1, 8, 8, 0, 700, 64, held=650)


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
def test_hidden_ends(isa: str) -> None:
    """A bool mask that hides the last keys from all queries of a tile, or all keys, or the last of some: of a cache with room only what is used is read."""
    for h, hk, s, t in ((4, 4, 1, 40), (4, 2, 3, 1300), (2, 2, 250, 600)):
        for ends in ((5, 5), (t - 3, 1), (0, t), (0, 0), (min(t, 300), 257)):
            keep = np.arange(t) < np.asarray(ends).reshape(2, 1, 1, 1)
            check(isa, 2, h, hk, s, t, 32, mask=keep)
            check(isa, 2, h, hk, s, t, 32, mask=keep & (rng.random((2, h, s, t)) < 0.5), held=t // 2, dense=bool(rng.integers(2)))
            check(isa, 2, h, hk, s, t, 32, mask=keep, causal=True, offset=t // 3, held=t - 1)


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


@pytest.mark.parametrize("dense", [False, True])
def test_pieces_in_the_engine(dense: bool) -> None:
    for s, held, new in ((1, 39, 1), (3, 0, 4), (37, 200, 100), (1, 30, 0)):
        made = OneStep(rng)
        shapes = ((2, 4, s, 16), (2, 2, new, 16), (2, 2, new, 32), (2, 2, held, 16), (2, 2, held, 32))
        q, *parts = (made.operand(rng.standard_normal(shape).astype(np.float32), broadcast=False, dense=dense) for shape in shapes)
        mask = made.operand(rng.random((2, 4, s, held + new)) < 0.8)
        results = [made.result(shape, DType.FLOAT, dense=dense) for shape in ((2, 4, s, 32), (2, 2, held + new, 16), (2, 2, held + new, 32))]
        made.step(Kernel.ATTENTION, [q, *parts[:2], mask, *parts[2:]], results, {"scale": 0.2, "softcap": 0.0, "causal": 1, "offset": held})
        made.check(1e-5, 1e-6)


@pytest.mark.parametrize("wrong", [dict(past_v=(1, 2, 4, 16)), dict(past_k=(1, 1, 5, 16)), dict(past_k=(1, 2, 5, 8)), dict(present_k=(1, 2, 7, 16)), dict(present_v=(1, 2, 6, 8)),
                                   dict(mask=(1, 2, 1, 1)), dict(past_k=None), dict(past_v=None)])
def test_pieces_that_do_not_fit(wrong: dict[str, Any]) -> None:
    shapes = {"q": (1, 2, 1, 16), "k": (1, 2, 1, 16), "v": (1, 2, 1, 16), "mask": (1, 2, 1, 6), "past_k": (1, 2, 5, 16), "past_v": (1, 2, 5, 16), "present_k": (1, 2, 6, 16),
              "present_v": (1, 2, 6, 16)} | wrong
    made = OneStep(rng)
    given = [-1 if shape is None else made.operand(np.zeros(shape, np.float32), broadcast=False, dense=True) for name, shape in shapes.items() if not name.startswith("present")]
    results = [made.result(shape, DType.FLOAT, dense=True) for shape in ((1, 2, 1, 16), shapes["present_k"], shapes["present_v"])]
    made.step(Kernel.ATTENTION, given, results, {"scale": 1.0})
    with pytest.raises(SardonyxError, match="attention"):
        made.run()
