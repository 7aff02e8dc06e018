"""Elements of the types NumPy lacks, by their bits: bfloat16, floats of 8 bits and fewer, 4- and 2-bit integers, to plain arrays and back.

Whatever holds them in memory (`DType.numpy`: ml_dtypes' types, or stand-ins without it), one element is two bytes of a bfloat16 or one byte otherwise, so that these conversions need neither.
Rounding is to nearest, halves to even, as in ml_dtypes.
"""
from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .types import DType


class _Format(NamedTuple):
    """A float of at most 8 bits. `special`: "ieee" (infinities and NaN), "nan" (all ones are NaN), "unsigned zero" (−0 is NaN), "" (all codes are finite)."""

    exponent: int
    mantissa: int
    bias: int
    special: str

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)


_FORMATS = {
    DType.FLOAT8E4M3FN: _Format(4, 3, 7, "nan"), DType.FLOAT8E4M3FNUZ: _Format(4, 3, 8, "unsigned zero"), DType.FLOAT8E5M2: _Format(5, 2, 15, "ieee"),
    DType.FLOAT8E5M2FNUZ: _Format(5, 2, 16, "unsigned zero"), DType.FLOAT4E2M1: _Format(2, 1, 1, ""), DType.FLOAT6E2M3: _Format(2, 3, 1, ""), DType.FLOAT6E3M2: _Format(3, 2, 3, ""),
}


def bits_of(array: np.ndarray) -> np.ndarray:
    """The elements' codes as uint16 or uint8, of the array's shape."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)


def plain(array: np.ndarray) -> np.ndarray:
    """Elements of a type NumPy lacks as float32 or int8, which hold every value; other arrays as they are."""
    if array.dtype.isbuiltin == 1 or array.dtype.kind in "OUST":
        return array
    dtype = DType.of(array)
    if dtype.is_numpys_own:  # a copy of NumPy's own dtype, as loading gives
        return array
    bits = bits_of(array)
    return np.asarray((bits.astype(np.uint32) << 16).view(np.float32) if dtype is DType.BFLOAT16 else _values(dtype)[bits])


def astype(array: np.ndarray, dtype: DType, copy: bool = True) -> np.ndarray:
    """`array.astype` for any two element types of numbers. What lies outside a type NumPy lacks becomes infinity, NaN or its largest number, as the type has them; integers wrap."""
    source = DType.of(array)
    if source is dtype and array.dtype == dtype.numpy:
        return array.copy() if copy else array
    array = plain(array)
    if dtype.is_numpys_own:
        return array.astype(dtype.numpy, copy=False)
    return _codes(array, dtype).view(dtype.numpy).reshape(array.shape)


def asarray(value: Any, dtype: DType) -> np.ndarray:
    """`np.asarray(value, dtype)` for any element type."""
    return np.asarray(value, dtype.numpy) if dtype.is_numpys_own else astype(np.asarray(value), dtype, copy=False)


def _codes(array: np.ndarray, dtype: DType) -> np.ndarray:
    with np.errstate(all="ignore"):
        if dtype is DType.BFLOAT16:
            return _bfloat16(array.astype(np.float32))
        if dtype.is_integer:
            return array.astype(np.int64).astype(np.uint8) & np.uint8((1 << dtype.bits) - 1)
        x = array.astype(np.float32).astype(np.float64)  # as ml_dtypes: by way of float32
        return _powers(x) if dtype is DType.FLOAT8E8M0 else _rounded(x, _FORMATS[dtype], dtype)


def _bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x).view(np.uint32)
    made = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(x), (bits >> 16 & 0x8000) | 0x7FC0, made.reshape(x.shape)).astype(np.uint16)


def _rounded(x: np.ndarray, form: _Format, dtype: DType) -> np.ndarray:
    """Codes of the nearest numbers: codes of one sign are in the order of their values, the middles between neighbours are exact in float64."""
    values = _values(dtype)[:form.sign].astype(np.float64)
    count = int(np.isfinite(values).sum())
    middles = np.concatenate([(values[:count - 1] + values[1:count]) / 2, [values[count - 1] * 1.5 - values[count - 2] / 2]])
    magnitude = np.abs(x)
    found = np.searchsorted(middles, magnitude)
    found += (found % 2 == 1) & (magnitude == middles[np.minimum(found, count - 1)])  # halves to even
    # NaN becomes NaN of its sign; −0 (and −NaN 0) where there is none, as in ml_dtypes
    beyond, nan = {"ieee": (count, count + 2), "nan": (count, count), "unsigned zero": (form.sign, form.sign), "": (count - 1, form.sign)}[form.special]
    found = np.where(found >= count, beyond, found)
    negative = np.where(np.signbit(x) & (found != 0) & ~np.isnan(x) if form.special == "unsigned zero" else np.signbit(x), form.sign, 0)
    return np.where(np.isnan(x), nan ^ negative, found | negative).astype(np.uint8)


def _powers(x: np.ndarray) -> np.ndarray:
    """The nearest power of two, 1.5 times one goes up; NaN for zero, negative numbers and what is too large."""
    fraction, exponent = np.frexp(x)
    power = np.maximum(exponent - 1 + (fraction >= 0.75) + 127, 0)
    return np.where((x > 0) & np.isfinite(x) & (power < 255), power, 255).astype(np.uint8)


@cache
def _values(dtype: DType) -> np.ndarray:
    """The value of each byte: float32, or int8. Bits above the type's own do not count."""
    codes = np.arange(256)
    if dtype.is_integer:
        codes = codes & ((1 << dtype.bits) - 1)
        return np.where(dtype.is_signed_integer & (codes >> (dtype.bits - 1) == 1), codes - (1 << dtype.bits), codes).astype(np.int8)
    if dtype is DType.FLOAT8E8M0:
        return np.where(codes == 255, np.nan, np.exp2(codes - 127.0)).astype(np.float32)
    form: Any = _FORMATS[dtype]
    exponent, mantissa = codes >> form.mantissa & ((1 << form.exponent) - 1), codes & ((1 << form.mantissa) - 1)
    magnitude = np.where(exponent == 0, mantissa, mantissa + (1 << form.mantissa)) * np.exp2(np.maximum(exponent, 1) - form.bias - form.mantissa)
    below = codes & (form.sign - 1)
    if form.special == "ieee":
        top = ((1 << form.exponent) - 1) << form.mantissa
        magnitude = np.where(below > top, np.nan, np.where(below == top, np.inf, magnitude))
    elif form.special == "nan":
        magnitude = np.where(below == form.sign - 1, np.nan, magnitude)
    elif form.special == "unsigned zero":
        magnitude = np.where(codes == form.sign, np.nan, magnitude)
    return np.where(codes & form.sign != 0, -magnitude, magnitude).astype(np.float32)
