"""SCAN in C against the interpreter: running sums and products bit for bit (every type, axis, direction), linear attention within float's rounding."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against
from .one_step import dims, numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.BOOL, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.UINT32, DType.INT64, DType.UINT64]


@pytest.mark.parametrize("op", [0, 1])
def test_running_sums_and_products(op: int) -> None:
    for seed in range(78):
        rng = np.random.default_rng(seed)
        dtype = TYPES[seed % len(TYPES)]
        shape = dims(rng, 4) or (5,)
        x = numbers(rng, shape, dtype, special=seed % 2 == 0)
        against(rng, Kernel.SCAN, [x], [(shape, dtype)], {"axis": int(rng.integers(len(shape))), "exclusive": seed // 2 % 2, "reverse": seed // 4 % 2, "op": op})


def linear(rng: np.random.Generator, batch: int, heads: int, group: int, steps: int, dk: int, dv: int, dtype: object = np.float32, last: bool = True) -> None:
    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype) / np.asarray(max(dk, 1) ** 0.5, dtype)

    def maybe(x: np.ndarray) -> np.ndarray | None:
        return x if rng.random() < 0.6 else None
    given = [some(batch, heads * group, steps, dk), some(batch, heads, steps, dk), some(batch, heads, steps, dv), maybe(some(batch, heads, dk, dv)),
             maybe(-np.abs(some(batch, heads, steps, int(rng.choice([1, dk]))))), maybe(np.abs(some(batch, int(rng.choice([1, heads])), steps, 1)))]
    outputs = [((batch, heads * group, steps, dv), dtype), ((batch, heads, dk, dv), dtype) if last else None]
    against(rng, Kernel.SCAN, given, outputs, {"axis": 2, "op": 2, "scale": 0.3}, 1e-4, 1e-5)


def test_linear_attention() -> None:
    for seed in range(24):
        rng = np.random.default_rng(200 + seed)
        linear(rng, int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(0, 9)), int(rng.choice([1, 5, 16, 40])), int(rng.choice([1, 7, 64, 65, 130])),
               [np.float32, np.float32, np.float16, DType.BFLOAT16.numpy][seed % 4], last=seed % 5 != 0)


def test_empty_attention() -> None:
    rng = np.random.default_rng(4)
    linear(rng, 0, 2, 1, 3, 4, 5)
    linear(rng, 2, 2, 1, 3, 4, 0)
    linear(rng, 2, 2, 1, 3, 0, 4)
