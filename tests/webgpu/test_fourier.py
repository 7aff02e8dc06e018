"""FFT on the GPU: against NumPy's in double with a stated bound, and against the interpreter on views, cut, padded, empty and non-finite signals."""
from __future__ import annotations

from math import log2
from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.kernels.fourier import DIRECT, SMALL, factors
from sardonyx.webgpu.recording import record

from .programs import agree, both, planned

RNG = np.random.default_rng(11)
#: Every radix, first, in the middle and last; primes with passes (11 … 61) and without (67, 1009); twice a large prime; short ones.
LENGTHS = [1, 2, 16, 17, 18, 61, 64, 67, 77, 105, 189, 256, 400, 1009, 1331]


def transform(k: Lowering, x: View, length: int, axis: int, inverse: int, onesided: int) -> View:
    shape = [*x.shape[:-1], 1 if inverse and onesided else 2]
    shape[axis] = length // 2 + 1 if onesided and not inverse else length
    made = k.buffer(x.dtype, tuple(shape)).whole()
    k.call(Kernel.FFT, [x], [made], axis=axis, length=length, inverse=inverse, onesided=onesided)
    return made


def test_factors_multiply_to_the_length() -> None:
    for n in range(2, 3000):
        found = factors(n)
        largest = max((p for p in range(2, n + 1) if n % p == 0 and all(p % q for q in range(2, int(p**0.5) + 1))), default=1)
        assert (found is None) == (largest > 61)
        if found is not None:
            assert np.prod(found) == n and all(r in SMALL or r <= 61 for r in found)


@pytest.mark.parametrize("length", LENGTHS)
def test_error_of_a_transform(device: Any, length: int) -> None:
    """At most 4e-7 for every bit of the length (convolutions of large primes: of three transforms of up to four times the length), relative to the size of the spectrum."""
    x = RNG.standard_normal((3, length, 2)).astype(np.float32)
    z = x[..., 0] + 1j * x[..., 1].astype(np.float64)

    def rule(k: Lowering, v: View) -> list[View]:
        return [transform(k, v, length, 1, 0, 0), transform(k, v, length, 1, 1, 0), transform(k, v.slice(2, 0, 1), length, 1, 0, 1)]
    for (got, wanted) in zip(both(device, rule, x)[0], (np.fft.fft(z), np.fft.ifft(z), np.fft.rfft(z.real)), strict=True):
        scale = np.sqrt((np.abs(wanted) ** 2).mean()) if length > 1 else np.abs(wanted).max()
        bits = log2(length) + 1 if factors(length) is not None or length <= DIRECT else 3 * (log2(length) + 3)
        assert np.abs(got[..., 0] + 1j * got[..., 1] - wanted).max() <= 4e-7 * bits * max(scale, 1e-30)


@pytest.mark.parametrize(("length", "have"), [(64, 33), (64, 20), (64, 40), (45, 23), (45, 10), (67, 34), (12, 7)])
def test_half_spectra_back(device: Any, length: int, have: int) -> None:
    """Whole halves, too few bins and too many; what has no imaginary part there must not show one."""
    x = RNG.standard_normal((2, 3, have, 2)).astype(np.float32)
    agree(device, lambda k, v: transform(k, v, length, 2, 1, 1), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [48, 64, 71, 143])
def test_views_cut_and_padded_signals(device: Any, length: int) -> None:
    """Another axis, a window that begins in the middle of memory, frames that overlap, signals that are too short and too long."""
    x = RNG.standard_normal((2, 90, 5, 2)).astype(np.float32)
    agree(device, lambda k, v: [transform(k, v, length, 1, 0, 0), transform(k, v.slice(1, 7, 60), length, 1, 1, 0), transform(k, v.permute((2, 0, 1, 3)).slice(3, 0, 1), length, 2, 0, 1)],
          x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_and_empty_signals(device: Any, dtype: str) -> None:
    x = RNG.standard_normal((3, 40, 1)).astype(dtype)
    agree(device, lambda k, v: transform(k, v, 40, 1, 0, 0), x, rtol=2e-3 if dtype == "float16" else 1e-4, atol=2e-2 if dtype == "float16" else 1e-5)
    for length in (40, 67):
        agree(device, lambda k, v, length=length: transform(k, v, length, 1, 0, 0), x[:0])
        agree(device, lambda k, v, length=length: transform(k, v, length, 1, 0, 0), x[:, :0])


@pytest.mark.parametrize("length", [64, 75, 67])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_signal(device: Any, length: int, value: float) -> None:
    x = RNG.standard_normal((3, length, 2)).astype(np.float32)
    x[1, 5, 0] = value
    got, wanted = (made[0] for made in both(device, lambda k, v: transform(k, v, length, 1, 0, 0), x))
    np.testing.assert_allclose(got[::2], wanted[::2], rtol=1e-4, atol=1e-4)
    assert not np.isfinite(got[1]).all(-1).any()


def test_a_long_transform_is_no_sum_over_the_signal() -> None:
    """Dispatches: a pass for each radix; one text for all passes of a radix that lie in the middle."""
    program, constants = planned(lambda k, v: transform(k, v, 4096, 1, 0, 0), [(DType.FLOAT, (2, 4096, 2))])
    made = record(program, constants, Limits(), False)[0]
    assert len(made.dispatches) == 4 and len(made.shaders) == 3
