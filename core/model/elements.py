"""Elements of every dtype as file bytes and back. Little-endian; 4- and 2-bit types are packed, first element in the low bits; strings are UTF-8."""
from __future__ import annotations

import numpy as np

from ..errors import InvalidModelFile
from ..types import DType


def to_bytes(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The file form: uint8, one-dimensional (a view where the memory already is it)."""
    if dtype is DType.STRING:
        return _string_bytes(array)
    plain = np.ascontiguousarray(array, dtype.numpy)
    flat = plain.reshape(-1).view(np.uint8)
    return flat if dtype.bits >= 8 else _pack_bits(flat, dtype.bits)


def from_bytes(data: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """The array of `dtype` and `shape`; a view of `data` (uint8, one-dimensional) where the element type allows. The length has been checked."""
    if dtype is DType.STRING:
        return _strings(data, shape)
    if dtype.bits < 8:
        count = int(np.prod(shape, dtype=np.int64))
        return _unpack_bits(data, dtype.bits, count).view(dtype.numpy).reshape(shape)
    if dtype is DType.BOOL and data.size and data.max() > 1:
        raise InvalidModelFile(f"tensor data: a bool tensor holds the byte {data.max()}; the file is damaged, copy or download it again")
    return data.view(dtype.numpy).reshape(shape)


def is_uniform(array: np.ndarray) -> bool:
    """Whether an array of more than one element repeats one, bit for bit. Most that do not show it in their first elements."""
    if array.size < 2 or array.dtype == object:
        return False
    if not any(s for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        return True
    if array.dtype.itemsize > 8:
        parts = np.ascontiguousarray(array).view("u8").reshape(-1, 2)
        return bool((parts == parts[0]).all())
    bits = array.view(f"u{array.dtype.itemsize}")
    head = bits.reshape(-1)[:64] if bits.flags.c_contiguous else bits[tuple(slice(0, 4) for _ in bits.shape)]
    return bool((head == head.flat[0]).all()) and bool((bits == bits.flat[0]).all())


def _pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    each = 8 // bits
    padded = np.zeros(-(-codes.size // each) * each, np.uint8)
    padded[:codes.size] = codes & ((1 << bits) - 1)
    out = np.zeros(padded.size // each, np.uint8)
    for i in range(each):
        out |= padded[i::each] << (bits * i)
    return out


def _unpack_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """One element a byte, in its low bits: ml_dtypes' form, signed types included."""
    each = 8 // bits
    out = np.empty((data.size, each), np.uint8)
    for i in range(each):
        out[:, i] = data >> (bits * i) & ((1 << bits) - 1)
    return out.reshape(-1)[:count]


def _string_bytes(array: np.ndarray) -> np.ndarray:
    """u64 ends of all strings after a leading 0, then their bytes."""
    texts = [t if isinstance(t, bytes) else str(t).encode("utf-8", "surrogateescape") for t in array.reshape(-1).tolist()]
    ends = np.cumsum([0, *(len(t) for t in texts)], dtype="<u8")
    return np.frombuffer(ends.tobytes() + b"".join(texts), np.uint8)


def _strings(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape, dtype=np.int64))
    ends = data[:8 * (count + 1)].view("<u8")
    body = data[8 * (count + 1):].tobytes()
    if ends[0] != 0 or ends[-1] != len(body) or (ends[1:] < ends[:-1]).any():
        raise InvalidModelFile("tensor data: the ends of a string tensor's elements are out of order; the file is damaged, copy or download it again")
    bounds = ends.tolist()
    out = np.empty(count, object)
    for i in range(count):
        out[i] = body[bounds[i]:bounds[i + 1]].decode("utf-8", "surrogateescape")
    return out.reshape(shape)
