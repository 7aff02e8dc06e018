"""FFT in C against the interpreter: lengths with small and large prime factors, real and complex, inverse, half spectra, cut and padded signals."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .against import against

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 30, 61, 67, 64, 97, 100, 121, 134, 256, 400, 1009, 1024, 2 * 3 * 5 * 7 * 11]
BOUND = {8: (1e-9, 1e-9), 4: (2e-4, 2e-4), 2: (0.02, 0.5)}


def transform(rng: np.random.Generator, shape: tuple[int, ...], axis: int, length: int, parts: int, inverse: int, onesided: int, dtype: object) -> None:
    x = rng.standard_normal((*shape, parts)).astype(dtype)
    made = [*shape, 1 if inverse and onesided else 2]
    made[axis] = length // 2 + 1 if onesided and not inverse else length
    rtol, atol = BOUND[x.itemsize]
    against(rng, Kernel.FFT, [x], [(made, dtype)], {"axis": axis, "length": length, "inverse": inverse, "onesided": onesided}, rtol, atol * max(length, 1) ** 0.5)


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length: int) -> None:
    rng = np.random.default_rng(length)
    for parts, inverse, onesided in ((1, 0, 0), (2, 0, 0), (1, 0, 1), (2, 1, 0), (1, 1, 0)):
        transform(rng, (int(rng.choice([1, 3, 11])), length), 1, length, parts, inverse, onesided, np.float32)
    transform(rng, (2, length // 2 + 1), 1, length, 2, 1, 1, np.float64)
    transform(rng, (2, length), 1, length, 2, 0, 0, np.float64)


def test_random() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.choice([1, 2, 5, 9, 20], int(rng.integers(1, 4))))
        axis = int(rng.integers(len(shape)))
        inverse, onesided = seed % 2, seed // 2 % 2
        transform(rng, shape, axis, int(rng.choice([shape[axis], 3, 8, 25, 71])), 1 if onesided and not inverse else int(rng.integers(1, 3)), inverse, onesided,
                  [np.float32, np.float64, np.float16, DType.BFLOAT16.numpy][seed % 4])


def test_special() -> None:
    rng = np.random.default_rng(1)
    transform(rng, (0, 8), 1, 8, 1, 0, 0, np.float32)
    transform(rng, (3, 0), 1, 8, 2, 0, 0, np.float32)
    transform(rng, (2, 5000), 1, 5000, 1, 0, 1, np.float32)
    transform(rng, (1, 10007), 1, 10007, 1, 0, 0, np.float64)
