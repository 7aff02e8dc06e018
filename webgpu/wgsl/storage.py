"""How element types lie in GPU memory, and the WGSL that reads and writes one element.

Two forms
- *word*: an element takes one 32-bit word. All intermediates and outputs: two invocations never write into one word, whatever the type. float16 and bfloat16 are f32 values
  rounded when stored; bool is 0 or 1; integers of at most 32 bits are held extended; INT64 and UINT64 are held as i32 and u32, which the interval of every value written proves right.
- *packed*: 8- and 16-bit inputs and constants keep the bytes they have on the host (weights are uploaded as they are); they are only read.

- *half*: where WGSL has f16 (feature shader-f16), FLOAT16 inputs, large constants and intermediates are arrays of it, and where a session asks for `precision` "f16" so are float32
  intermediates and large constants: half the memory, half of what moves. Arithmetic is f32's, sums too; finite numbers beyond f16 become its largest, infinities stay.
- *bytes*: intermediates of 8-bit integers whose writers write four neighbours at once (whole words) lie packed too.

float8 and 4- and 2-bit types are widened to words when uploaded; float8 is never written (no kernel computes it). DOUBLE is refused: WGSL has no f64.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...lowering import CannotLower
from ...narrow import astype, plain
from ...types import DType

#: The WGSL type of a word.
_WORD = {DType.UINT32: "u32", DType.UINT64: "u32"}
#: Types that stay packed in inputs and constants.
PACKED = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.INT16, DType.UINT16, DType.INT8, DType.UINT8, DType.BOOL})
#: Types whose word is the element's own bits: they may be re-read as one another.
PLAIN = frozenset({DType.FLOAT, DType.INT32, DType.UINT32})

INT32 = (-(1 << 31), (1 << 31) - 1)
UINT32 = (0, (1 << 32) - 1)


def word(dtype: DType) -> str:
    """The WGSL type a word of this element type is: f32, i32 or u32. CannotLower for what WGSL has not."""
    if dtype is DType.DOUBLE:
        raise CannotLower("WGSL has no double")
    if dtype.is_complex or dtype is DType.STRING:
        raise CannotLower(f"WGSL has no {dtype.text}")
    return "f32" if dtype.is_float else _WORD.get(dtype, "i32")


def interval(dtype: DType) -> tuple[float, float]:
    """The values an element can have in GPU memory."""
    if dtype.is_float:
        return -math.inf, math.inf
    if dtype is DType.BOOL:
        return 0, 1
    if dtype is DType.INT64:
        return INT32
    if dtype is DType.UINT64:
        return UINT32
    return (-(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1) if dtype.is_signed_integer else (0, (1 << dtype.bits) - 1)


def read_packed(name: str, dtype: DType, at: str) -> str:
    """The element `at` of a packed array of u32 words."""
    if dtype is DType.FLOAT16:
        return f"unpack2x16float({name}[{at} >> 1u])[{at} & 1]"
    if dtype is DType.BFLOAT16:
        return f"bitcast<f32>(extractBits({name}[{at} >> 1u], u32({at} & 1) * 16u, 16u) << 16u)"
    shift, mask = (1, 1) if dtype.bits == 16 else (2, 3)
    bits = f"u32({at} & {mask}) * {dtype.bits}u, {dtype.bits}u"
    if dtype.is_signed_integer:
        return f"extractBits(bitcast<i32>({name}[{at} >> {shift}u]), {bits})"
    return f"i32(extractBits({name}[{at} >> {shift}u], {bits}))"


def upload(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The bytes a constant or input has on the GPU, padded to whole words. The caller has checked that 64-bit integers fit."""
    if dtype in PACKED:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return raw if raw.size % 4 == 0 else np.concatenate([raw, np.zeros(-raw.size % 4, np.uint8)])
    kind = {"f32": np.float32, "i32": np.int32, "u32": np.uint32}[word(dtype)]
    return np.ascontiguousarray(plain(array).astype(kind, copy=False)).reshape(-1)


def download(raw: bytes, dtype: DType, shape: list[int]) -> np.ndarray:
    """The array of word-form bytes."""
    kind = {"f32": np.float32, "i32": np.int32, "u32": np.uint32}[word(dtype)]
    words: np.ndarray = np.frombuffer(raw, kind).reshape(shape)
    with np.errstate(all="ignore"):
        return astype(words, dtype)


def word_bytes(dtype: DType, packed: bool) -> int:
    """Bytes an element takes on the GPU."""
    return dtype.bits // 8 if packed and dtype in PACKED else 4


def extent(array: Any) -> tuple[int, int]:
    """The least and greatest of an integer array; (0, 0) for an empty one."""
    return (int(array.min()), int(array.max())) if array.size else (0, 0)
