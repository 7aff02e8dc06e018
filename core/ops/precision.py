"""In which precision the reference bodies compute: half-width floats in float32, everything else as it is; one rounding at the end."""
from __future__ import annotations

from typing import Any

import numpy as np


def is_half(dtype: np.dtype[Any]) -> bool:
    """True for float16 and bfloat16 (which NumPy sees as an opaque two-byte type)."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for half-width floats, else `dtype`."""
    return np.dtype(np.float32) if is_half(dtype) else dtype


def widened(array: np.ndarray) -> np.ndarray:
    """The array in its compute precision; no copy where nothing changes."""
    return array.astype(np.float32) if is_half(array.dtype) else array


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a @ b`, accumulated in compute precision and rounded once to the dtype of `a`."""
    return np.matmul(widened(a), widened(b)).astype(a.dtype, copy=False)
