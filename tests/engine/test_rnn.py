"""RNN, GRU, LSTM in C against the interpreter: kinds, directions, ragged lengths, every activation, float types, few and many sequences, hidden sizes around the vector widths."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.errors import RuntimeException
from sardonyx.kernels import ACTIVATIONS, Kernel
from sardonyx.types import DType

from .against import against
from .one_step import OneStep

GATES = (4, 3, 1)
DEFAULTS = ([2, 1, 1], [2, 1], [1])


def cell(rng: np.random.Generator, kind: int, t: int, b: int, i: int, h: int, dtype: Any = np.float32, direction: int = 0, optional: bool = True, outputs: bool = True, dense: bool = False,
         **params: Any) -> list[np.ndarray]:
    d, g = 2 if direction == 2 else 1, GATES[kind]

    def some(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / max(h, 1) ** 0.5).astype(dtype)

    def maybe(x: np.ndarray) -> np.ndarray | None:
        return x if optional and rng.random() < 0.7 else None
    inputs = [some(t, b, i), some(d, g * h, i), some(d, g * h, h), maybe(some(d, 2 * g * h)), maybe(rng.integers(0, t + 1, b).astype(np.int32)), maybe(some(d, b, h))]
    inputs += [maybe(some(d, b, h)), maybe(some(d, 3 * h))] if kind == 0 else []
    wanted = [((t, d, b, h), dtype), ((d, b, h), dtype), ((d, b, h), dtype) if kind == 0 else None]
    if not outputs:
        wanted[int(rng.integers(3 if kind == 0 else 2))] = None
    params = {"activations": DEFAULTS[kind] * d, "alpha": [1.0] * 6, "beta": [0.0] * 6, **params}
    return against(rng, Kernel.RNN, inputs, wanted, {"cell": kind, "direction": direction, **params}, 1e-4 if np.dtype(dtype).itemsize == 4 else 1e-9, 2e-5 if dtype is not np.float64 else 1e-9, dense)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("direction", range(3))
def test_random(kind: int, direction: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        t, b, i, h = int(rng.integers(0, 9)), int(rng.choice([1, 2, 4, 5, 9])), int(rng.choice([1, 3, 16, 40])), int(rng.choice([1, 7, 16, 33, 70]))
        cell(rng, kind, t, b, i, h, direction=direction, outputs=seed % 3 != 0, linear_before_reset=seed % 2 if kind == 1 else 0, input_forget=seed % 2 if kind == 0 else 0,
             clip=0.3 if seed % 4 == 0 else 0.0)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("dtype", [np.float16, np.float64, DType.BFLOAT16.numpy])
def test_float_types(kind: int, dtype: Any) -> None:
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        cell(rng, kind, 4, (1, 3, 6, 2)[seed], 10, (18, 5, 33, 64)[seed], dtype, direction=seed % 3, linear_before_reset=seed % 2 if kind == 1 else 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    number = ACTIVATIONS.index(name)
    for kind in range(3):
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(number)
            cell(rng, kind, 3, 2, 20, 19, dtype, direction=2, activations=[number] * (3 - kind) * 2, alpha=[0.3, 1.2, 0.1, 0.5, 0.9, 0.7], beta=[0.2, 0.7, 1.1, 0.4, 0.1, 0.6])


def test_many_blocks_and_chunks() -> None:
    rng = np.random.default_rng(5)
    cell(rng, 0, 30, 1, 20, 300, dense=True)
    cell(rng, 0, 30, 7, 20, 300, direction=2)
    cell(rng, 1, 20, 3, 30, 260, direction=1)
    cell(rng, 2, 90, 40, 9, 130, direction=2)


def test_empty() -> None:
    rng = np.random.default_rng(6)
    for t, b, i, h in ((0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)):
        for kind in range(3):
            cell(rng, kind, t, b, i, h, optional=False)


def test_nan_stays_in_its_sequence() -> None:
    rng = np.random.default_rng(7)
    for b in (3, 6):
        x = rng.standard_normal((4, b, 5)).astype(np.float32)
        x[1, 1, 2], x[2, 2, 0] = np.nan, np.inf
        w, r = (rng.standard_normal((1, 4 * 9, n)).astype(np.float32) for n in (5, 9))
        against(rng, Kernel.RNN, [x, w, r], [((4, 1, b, 9), np.float32), ((1, b, 9), np.float32), ((1, b, 9), np.float32)], {"cell": 0, "activations": [2, 1, 1]}, 1e-4, 1e-5)


@pytest.mark.parametrize("length", [-1, 5])
def test_wrong_length_raises(length: int) -> None:
    made = OneStep(np.random.default_rng(8))
    zeros = [np.zeros(s, np.float32) for s in ((4, 2, 3), (1, 5, 3), (1, 5, 5))]
    given = [made.operand(z) for z in zeros] + [-1, made.operand(np.array([4, length], np.int32), broadcast=False)]
    made.step(Kernel.RNN, given, [made.result((4, 1, 2, 5), DType.FLOAT)], {"cell": 2, "activations": [1]})
    with pytest.raises(RuntimeException, match="out of range"):
        made.run()
