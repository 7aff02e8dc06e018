"""Random numbers that are the same on every executor: counters through a mixing function, no state.

Philox4x32-10 of J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). Block b of stream s under a key is four words of 32 bits,
philox(counter = (b, s), key); which words an element takes follows from its number alone (the RANDOM record of core/kernels.py), so any executor makes any part of a tensor in any order.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_WORD = (1 << 64) - 1


def philox(counter: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """uint32[n, 4] counters and two words of key → uint32[n, 4]."""
    c0, c1, c2, c3 = (np.asarray(counter[:, i], np.uint64) for i in range(4))
    k0, k1 = (int(k) for k in key)
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ np.uint64(k0), second & _LOW, (first >> _HALF) ^ c3 ^ np.uint64(k1), first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], 1).astype(np.uint32)


@dataclass(frozen=True)
class Draws:
    """The numbers of one draw: a key and a stream, both of 64 bits."""

    key: int
    stream: int = 0

    @property
    def seed(self) -> np.ndarray:
        """What a RANDOM kernel takes: int64[2]."""
        return np.array([self.key & _WORD, self.stream & _WORD], np.uint64).view(np.int64)

    @classmethod
    def of(cls, seed: np.ndarray) -> Draws:
        """The draw a seed tensor names."""
        key, stream = np.ascontiguousarray(seed, np.int64).reshape(2).view(np.uint64).tolist()
        return cls(key, stream)

    def words(self, blocks: int) -> np.ndarray:
        """uint32[blocks, 4]: the first blocks."""
        number = np.arange(blocks, dtype=np.uint64)
        counter = np.empty((blocks, 4), np.uint64)
        counter[:, 0], counter[:, 1] = number & _LOW, number >> _HALF
        counter[:, 2:] = self.stream & 0xFFFFFFFF, self.stream >> 32 & 0xFFFFFFFF
        return philox(counter, (self.key & 0xFFFFFFFF, self.key >> 32 & 0xFFFFFFFF))

    def _fractions(self, count: int) -> np.ndarray:
        """`count` multiples of 2^-53 in [0, 1), each of two words."""
        words = self.words(-(-count // 2)).astype(np.uint64).reshape(-1, 2)[:count]
        return (words[:, 0] << np.uint64(21) | words[:, 1] >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, shape: Sequence[int], double: bool = True) -> np.ndarray:
        """float64 in [0, 1): multiples of 2^-53, or of 2^-24 where not `double`, exact in float32."""
        count = int(np.prod(shape, dtype=np.int64))
        made = self._fractions(count) if double else (self.words(-(-count // 4)).reshape(-1)[:count] >> 8).astype(np.float64) * 2.0**-24
        return made.reshape(tuple(shape))

    def normal(self, shape: Sequence[int], double: bool = True) -> np.ndarray:
        """float64 normal draws by G. E. P. Box and M. E. Muller's transform (1958): pairs r cos a, r sin a with r = sqrt(-2 log(1 - u)). Not `double`: u and a are of one word each."""
        count = int(np.prod(shape, dtype=np.int64))
        pairs = -(-count // 2)
        if double:
            u = self._fractions(2 * pairs).reshape(-1, 2)
            share, turn = 1 - u[:, 0], u[:, 1]
        else:
            words = self.words(-(-pairs // 2)).astype(np.float64).reshape(-1, 2)[:pairs] * 2.0**-32
            share, turn = 1 - words[:, 0], words[:, 1]
        radius, angle = np.sqrt(-2 * np.log(share)), 2 * np.pi * turn
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:count].reshape(tuple(shape))


#: The draw for a node's `seed` attribute, or the run's next one where it has none.
Source = Callable[[float | None], Draws]


def draws_of_run(seed: int | None) -> Source:
    """A run's draws: equal seeds give equal ones. A node's `seed` attribute is a float in ONNX; its bits are the key, so that equal ones give equal draws in any model."""
    key = None if seed is None else seed & _WORD
    stream = 0

    def draw(attribute: float | None) -> Draws:
        nonlocal key, stream
        if attribute is not None:
            return attribute_draws(attribute)
        if key is None:
            key = int.from_bytes(os.urandom(8), "little")
        stream += 1
        return Draws(key, stream)
    return draw


def attribute_draws(attribute: float) -> Draws:
    """The draw of a node with a `seed` attribute."""
    return Draws(int(np.float32(attribute).view(np.uint32)))
