"""Memory of large outputs, recycled: a fresh page costs more than the kernel that fills it.

An output of at least LARGE bytes lies in a block that goes back to its program when the caller drops the array (and all views of it); the next run of about the same size takes it again.
Blocks come in size classes an eighth apart, so that a cache which grows by a token at every step finds its block. At most KEPT bytes for each byte that the largest run needed wait unused.
"""
from __future__ import annotations

from typing import Any

import numpy as np

#: From here on `malloc` returns memory to the system at once.
LARGE = 1 << 17
#: Unused bytes a program keeps, as a multiple of what one run took: outputs that are the next run's inputs live twice.
KEPT = 2


def _class_of(size: int) -> int:
    """The size of the block for so many bytes: rounded up to an eighth of the power of two below."""
    step = 1 << max(size.bit_length() - 4, 12)
    return -(-size // step) * step


class _Block:
    """What a recycled array's `base` is: it gives the memory back when the last array on it is gone."""

    __slots__ = ("store", "pool", "__array_interface__")

    def __init__(self, store: np.ndarray, pool: Outputs, shape: tuple[int, ...], text: str) -> None:
        self.store, self.pool = store, pool
        self.__array_interface__ = {"shape": shape, "typestr": text, "data": (-(-store.__array_interface__["data"][0] // 64) * 64, False), "version": 3}

    def __del__(self) -> None:
        self.pool.give(self.store)


class Outputs:
    """The blocks of one program. Lists change by single operations only, so threads may share it."""

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}
        self._waiting = 0
        self._most = 0
        self.closed = False

    def note(self, size: int) -> None:
        """A run takes so many bytes of large outputs."""
        self._most = max(self._most, size)

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> np.ndarray:
        """An array of this shape, its contents whatever was there. Types NumPy has no text for are not recycled."""
        if dtype.isbuiltin != 1 or dtype.hasobject:
            return np.empty(shape, dtype)
        room = _class_of(size + 64)
        try:
            store = self._free[room].pop()
            self._waiting -= room
        except (KeyError, IndexError):
            store = np.empty(room, np.uint8)
        return np.asarray(_Block(store, self, shape, dtype.str))

    def give(self, store: np.ndarray) -> None:
        """Take a block back, or let it go where enough are waiting."""
        if self.closed or self._waiting + store.nbytes > KEPT * self._most + LARGE:
            return
        self._waiting += store.nbytes
        self._free.setdefault(store.nbytes, []).append(store)

    def close(self) -> None:
        """Let all blocks go; those still in use go when their arrays do."""
        self.closed = True
        self._free.clear()
