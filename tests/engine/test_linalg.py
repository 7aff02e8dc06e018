"""LINALG in C against the interpreter: determinants and inverses of every float type, pivoting, singular matrices."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against

TYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), DType.BFLOAT16.numpy]


@pytest.mark.parametrize("op", [0, 1])
def test_random(op: int) -> None:
    for seed in range(32):
        rng = np.random.default_rng(seed)
        dtype = TYPES[seed % 4]
        n, lead = int(rng.choice([0, 1, 2, 3, 4, 7, 20])), tuple(int(d) for d in rng.integers(0 if seed == 5 else 1, 4, int(rng.integers(0, 3))))
        x = rng.standard_normal((*lead, n, n)) + (2 * n**0.5 * rng.permutation(np.eye(n)) if op else 0)
        if seed % 3 == 0 and n > 1:
            x[..., 0, 0] = 0
        made = [((*lead, n, n), dtype)] if op else [(lead, dtype)]
        against(rng, Kernel.LINALG, [x.astype(dtype)], made, {"op": op}, {4: 2e-4, 8: 1e-10}.get(dtype.itemsize, 0.02), {4: 1e-3 if op == 0 else 1e-5, 8: 1e-10}.get(dtype.itemsize, 0.02))


def test_singular_and_special() -> None:
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float64):
        singular = np.array([[1, 2], [2, 4]], dtype)
        against(rng, Kernel.LINALG, [singular], [((), dtype)], {"op": 0})
        against(rng, Kernel.LINALG, [np.stack([np.eye(2, dtype=dtype), singular])], [((2, 2, 2), dtype)], {"op": 1})
        against(rng, Kernel.LINALG, [np.array([[np.nan, 1], [1, 2]], dtype)], [((), dtype)], {"op": 0})
    tiny = np.diag(np.full(4, 1e-100))
    against(rng, Kernel.LINALG, [tiny], [((4, 4), np.float64)], {"op": 1}, 1e-12)
