"""Memory for packed weights: blocks of megabytes, one weight behind the other.

A program that makes a token reads all its weights once, in order, and the machine's prefetchers stop at the end of a page. NumPy asks for huge pages for what has 4 MiB and more: that is
what blocks are for, since most weights are smaller. (Read in order on one Zen 4 core: 19 GB/s in pages of 4 KiB, 29 in pages of 2 MiB.)
"""
from __future__ import annotations

import threading

import numpy as np

#: Bytes of the first block and of the largest; the others are as large as all before them. Untouched memory costs nothing.
LEAST, MOST = 8 << 20, 64 << 20
#: Below this a weight has memory of its own.
SMALL = 1 << 16
ALIGN, HUGE = 64, 2 << 20


class Room:
    """Hands out memory, each piece once. A block goes when the last array on it is gone."""

    def __init__(self) -> None:
        self._left = np.empty(0, np.uint8)
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> np.ndarray:
        """So many bytes from the start of a cache line, their contents whatever was there."""
        if nbytes < SMALL:
            return _aligned(nbytes, ALIGN)
        room = -(-nbytes // ALIGN) * ALIGN
        with self._lock:
            if self._left.nbytes < room:
                self._left = _aligned(-(-max(room, min(max(self._taken, LEAST), MOST)) // HUGE) * HUGE, HUGE)   # the ends too lie in huge pages
            made, self._left = self._left[:nbytes], self._left[room:]
            self._taken += room
        return made


def _aligned(nbytes: int, to: int) -> np.ndarray:
    store = np.empty(nbytes + to, np.uint8)
    start = -store.ctypes.data % to
    return store[start:start + nbytes]
