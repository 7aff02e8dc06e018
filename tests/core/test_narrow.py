"""Conversions of the types NumPy lacks, against ml_dtypes: every code, every rounding."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from sardonyx.narrow import astype, plain
from sardonyx.types import DType

LACKING = [t for t in DType if not t.is_numpys_own]
FLOATS, INTEGERS = [t for t in LACKING if t.is_float], [t for t in LACKING if t.is_integer]
WIDTHS = {DType.BFLOAT16: 16, DType.FLOAT6E2M3: 6, DType.FLOAT6E3M2: 6}


def codes(dtype: DType) -> np.ndarray:
    """Every element of the type, in a shape of three axes."""
    bits = WIDTHS.get(dtype, dtype.bits)
    every = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    return every.view(dtype.numpy).reshape(2, 2, -1)[:, ::-1] if bits > 2 else every.view(dtype.numpy).reshape(2, 1, 2)


def assert_bits(found: np.ndarray, want: np.ndarray) -> None:
    assert found.dtype == want.dtype and found.shape == want.shape
    np.testing.assert_array_equal(found.view(f"u{found.itemsize}"), want.view(f"u{want.itemsize}"))


@pytest.mark.parametrize("dtype", LACKING)
def test_every_code_is_read(dtype: DType) -> None:
    given = codes(dtype)
    wide = np.float32 if dtype.is_float else np.int8
    np.testing.assert_array_equal(plain(given), given.astype(wide), strict=True)
    assert plain(np.asarray(given[0, 0, 0])).shape == () and plain(given[:0]).shape == (0, *given.shape[1:])


@pytest.mark.parametrize("source", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_rounding(dtype: DType, source: type) -> None:
    """All numbers, the middles between them, both neighbours of each, what lies beyond, and random ones."""
    rng = np.random.default_rng(1)
    own = plain(codes(dtype)).ravel()
    own = np.unique(own[np.isfinite(own)]).astype(np.float64)
    x = np.concatenate([own, (own[1:] + own[:-1]) / 2, own[-1:] * 1.1, own[-1:] * 1.9, own[-1:] * 1.5, own[:1] / 3, -own, [np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-45, -1e-45],
                        rng.standard_normal(5000) * np.exp2(rng.uniform(-20, 20, 5000))])
    with np.errstate(over="ignore"):
        x = x.astype(source)
    x = np.concatenate([x, np.nextafter(x, source(np.inf)), np.nextafter(x, source(-np.inf)), np.array([np.nan, -np.nan], source)])
    if dtype is DType.FLOAT8E8M0:  # ml_dtypes rounds numbers below float32's normal ones in a way of its own
        x = x[~(np.abs(x) < 1.2e-38)]
    with np.errstate(all="ignore"):
        assert_bits(astype(x, dtype), x.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap(dtype: DType) -> None:
    for source in (np.int8, np.uint8, np.int64):
        x = np.arange(256).astype(source)
        assert_bits(astype(x, dtype), x.astype(dtype.numpy))
    x = np.array([-3.7, -0.5, 0.0, 0.9, 1.2], np.float32)
    assert_bits(astype(x, dtype), x.astype(np.int64).astype(dtype.numpy))


def test_between_them() -> None:
    x = codes(DType.FLOAT8E5M2)
    assert_bits(astype(x, DType.BFLOAT16), x.astype(np.float32).astype(ml_dtypes.bfloat16))
    assert_bits(astype(x, DType.FLOAT16), x.astype(np.float16))
    assert astype(x, DType.FLOAT8E5M2, copy=False) is x
