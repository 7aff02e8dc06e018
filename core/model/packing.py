"""How constant right-hand sides lie in a file: one arrangement for every instruction set, for WGSL too.

Columns of the result (N: output features) are taken 16 at a time, a *panel*: a kernel holds 16 accumulators (one AVX-512 register, two AVX2, four
NEON or wasm ones, 16 lanes of a workgroup) and reads a panel front to back. Tails of N are padded with zeros.

Source orders (`Packing`, version 1). G: groups, N: output features of one group, K: what the product sums over.

    1 MATRIX     plain [K, N]                  G = 1   MatMul's B, Gemm's B
    2 MATRIX_T   plain [N, ...]                G = 1   Gemm's B with transB; K is the product of the other sizes
    3 CONV       plain [G·N, Cin/G, *kernel]           Conv's W; K in the order (*kernel, Cin/G): channels last, as activations are
    4 DEPTHWISE  plain [C, 1, *kernel]                 Conv's W with one input channel a group; not in panels, see below
    5 NIBBLES    plain [N, blocks, bytes]      G = 1   MatMulNBits' B, bits = 4: each 8 elements along K (low nibble first) are one u32, which is the element
    6 SCALES     plain [N·blocks] or [N, blocks]  G = 1   MatMulNBits' scales; `group` holds N, K is blocks
    7 MATRICES   plain [G, K, N]                       several matrices: DynamicQuantizeLSTM's W and R. Where N is whole panels, the same bytes as MATRIX of them side by side
    8 MATRICES_T plain [G, N, K]                       the same transposed: LSTM's, GRU's and RNN's W

Arrangement of the packed bytes, by the size of an element:

    2, 4 bytes (f32, f16, bf16; NIBBLES' u32)    [G][⌈N/16⌉][K][16]
    1 byte (int8, uint8)                         [G][⌈N/16⌉][⌈K/4⌉][16][4]      4 neighbours along K are one dot-product word; K's tail is zeros
    DEPTHWISE, any size                          [kernel][C]                    nothing is padded

The plain form is recovered exactly (`unpack`). An id never changes its meaning: another arrangement is another id or version.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

import numpy as np

PANEL = 16
VERSION = 1


class Packing(IntEnum):
    """The source orders above; NONE is plain, row-major."""

    NONE = 0
    MATRIX = 1
    MATRIX_T = 2
    CONV = 3
    DEPTHWISE = 4
    NIBBLES = 5
    SCALES = 6
    MATRICES = 7
    MATRICES_T = 8


def problem(packing: Packing, itemsize: int, shape: tuple[int, ...], group: int) -> str:
    """Why a tensor of this shape can not lie so, or ""."""
    if itemsize not in (1, 2, 4) or math.prod(shape) == 0:
        return "packed tensors have elements of 1, 2 or 4 bytes, and at least one"
    if packing is Packing.SCALES:
        return "" if group > 0 and len(shape) in (1, 2) and math.prod(shape) % group == 0 else "scales are [N·blocks] or [N, blocks]"
    if packing is Packing.CONV:
        return "" if len(shape) >= 3 and group > 0 and shape[0] % group == 0 else "a convolution's weights are [groups·N, channels, *kernel]"
    if group != 1:
        return "only convolutions have groups"
    if packing is Packing.MATRIX:
        return "" if len(shape) == 2 else "a matrix has two sizes"
    if packing is Packing.MATRIX_T:
        return "" if len(shape) >= 2 else "a transposed matrix has at least two sizes"
    if packing in (Packing.MATRICES, Packing.MATRICES_T):
        return "" if len(shape) == 3 else "several matrices have three sizes"
    if packing is Packing.DEPTHWISE:
        return "" if len(shape) >= 3 and shape[1] == 1 else "depthwise weights are [C, 1, *kernel]"
    return "" if len(shape) == 3 and itemsize == 1 and shape[1] * shape[2] % 4 == 0 else "4-bit weights are bytes [N, blocks, bytes], whole u32 words a row"


def packed_shape(packing: Packing, itemsize: int, shape: tuple[int, ...], group: int = 1) -> tuple[int, ...]:
    """Sizes of the packed array; its elements have `itemsize` bytes, those of NIBBLES four."""
    if packing is Packing.DEPTHWISE:
        return math.prod(shape[2:]), shape[0]
    groups, n, k = _logical(packing, shape, group)
    if _interleaved(packing, itemsize):
        return groups, -(-n // PANEL), -(-k // 4), PANEL, 4
    return groups, -(-n // PANEL), k, PANEL


def packed_nbytes(packing: Packing, itemsize: int, shape: tuple[int, ...], group: int = 1) -> int:
    """Bytes the packed form takes."""
    return math.prod(packed_shape(packing, itemsize, shape, group)) * (4 if packing is Packing.NIBBLES else itemsize)


def pack(array: np.ndarray, packing: Packing, group: int = 1, memory: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
    """A plain array → contiguous unsigned integers of the element's size in `packed_shape`; bits are moved, never converted. `memory(n)`: n bytes to write them to, if not new ones."""
    bits = _as_bits(array)
    word = np.dtype(np.uint32) if packing is Packing.NIBBLES else bits.dtype
    shape = packed_shape(packing, array.dtype.itemsize, array.shape, group)
    out = (memory or _aligned_memory)(math.prod(shape) * word.itemsize).view(word).reshape(shape)
    if packing is Packing.DEPTHWISE:
        out[...] = bits.reshape(array.shape[0], -1).T
        return out
    rows = _rows(bits, packing, group)
    groups, n, k = rows.shape
    whole = n // PANEL
    out[:, whole:] = 0
    if _interleaved(packing, array.dtype.itemsize):
        words = -(-k // 4)
        rows = _padded(rows, 2, 4)
        out[:, :whole] = rows[:, :whole * PANEL].reshape(groups, whole, PANEL, words, 4).swapaxes(2, 3)
        if n % PANEL:
            out[:, whole, :, :n % PANEL] = rows[:, whole * PANEL:].reshape(groups, n % PANEL, words, 4).swapaxes(1, 2)
    else:
        out[:, :whole] = rows[:, :whole * PANEL].reshape(groups, whole, PANEL, k).swapaxes(2, 3)
        if n % PANEL:
            out[:, whole, :, :n % PANEL] = rows[:, whole * PANEL:].swapaxes(1, 2)
    return out


def _aligned_memory(nbytes: int) -> np.ndarray:
    """Bytes from the start of a cache line: no vector or tile of a packed matrix lies across two."""
    store = np.empty(nbytes + 64, np.uint8)
    start = -store.ctypes.data % 64
    return store[start:start + nbytes]


def unpack(packed: np.ndarray, packing: Packing, dtype: np.dtype, shape: tuple[int, ...], group: int = 1) -> np.ndarray:
    """The plain array of `dtype` and `shape` from the packed bytes (any contiguous array of `packed_nbytes` bytes)."""
    word = np.dtype("u4") if packing is Packing.NIBBLES else _unsigned(dtype.itemsize)
    data = np.frombuffer(packed, np.uint8).view(word).reshape(packed_shape(packing, dtype.itemsize, shape, group))
    if packing is Packing.DEPTHWISE:
        return np.ascontiguousarray(data.T).reshape(shape).view(dtype)
    groups, n, k = _logical(packing, shape, group)
    if packing is Packing.MATRIX:  # straight to rows of K: transposing twice would be ten times slower
        order = (1, 3, 0, 2) if data.ndim == 5 else (1, 0, 2)
        by_k = data[0].transpose(order).reshape(-1, data.shape[1] * PANEL)
        return np.ascontiguousarray(by_k[:k, :n]).view(dtype)
    if _interleaved(packing, dtype.itemsize):
        rows = data.swapaxes(2, 3).reshape(groups, -1, data.shape[2] * 4)[:, :n, :k]
    else:
        rows = data.swapaxes(2, 3).reshape(groups, -1, k)[:, :n]
    return np.ascontiguousarray(_plain(rows, packing, shape)).view(dtype).reshape(shape)


def _rows(bits: np.ndarray, packing: Packing, group: int) -> np.ndarray:
    """The logical matrices [G, N, K], a view where the source order allows."""
    groups, n, k = _logical(packing, bits.shape, group)
    if packing is Packing.MATRIX:
        return bits.T[None]
    if packing is Packing.CONV:
        return np.moveaxis(bits, 1, -1).reshape(groups, n, k)
    if packing is Packing.NIBBLES:
        return np.ascontiguousarray(bits).reshape(1, n, -1).view(np.uint32)
    if packing is Packing.MATRICES:
        return bits.swapaxes(1, 2)
    return bits.reshape(groups, n, k)


def _plain(rows: np.ndarray, packing: Packing, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `_rows`, up to the shape (MATRIX has its own way)."""
    if packing is Packing.CONV:
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return rows.swapaxes(1, 2) if packing is Packing.MATRICES else rows


def _logical(packing: Packing, shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """(G, N, K)."""
    if packing is Packing.MATRIX:
        return 1, shape[1], shape[0]
    if packing is Packing.CONV:
        return group, shape[0] // group, math.prod(shape[1:])
    if packing is Packing.NIBBLES:
        return 1, shape[0], shape[1] * shape[2] // 4
    if packing is Packing.SCALES:
        return 1, group, math.prod(shape) // group
    if packing is Packing.MATRICES:
        return shape[0], shape[2], shape[1]
    if packing is Packing.MATRICES_T:
        return shape
    return 1, shape[0], math.prod(shape[1:])


def _interleaved(packing: Packing, itemsize: int) -> bool:
    return itemsize == 1 and packing not in (Packing.NIBBLES, Packing.DEPTHWISE)


def pads_sums(packing: Packing, itemsize: int) -> bool:
    """Whether the packed form has zeros among what a product sums over (tails of K), and not only in columns nobody stores."""
    return _interleaved(packing, itemsize) or packing is Packing.NIBBLES


def _unsigned(itemsize: int) -> np.dtype:
    return np.dtype(f"u{itemsize}")


def _as_bits(array: np.ndarray) -> np.ndarray:
    """The same memory as unsigned integers."""
    return array.view(_unsigned(array.dtype.itemsize))


def _padded(rows: np.ndarray, axis: int, multiple: int) -> np.ndarray:
    missing = -rows.shape[axis] % multiple
    return np.pad(rows, [(0, missing if a == axis else 0) for a in range(rows.ndim)]) if missing else rows
