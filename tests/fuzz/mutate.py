"""Structure-aware damage to .sdx files: valid files, then one to four changes a parser must survive.

The places (header fields, the FlatBuffer's frame, every field of every record) come from the format module, so a change lands on something that means
something; the values are those that break parsers: 0, the last valid one and the one after, powers of two, -1, another record's value.
"""
from __future__ import annotations

import random
import struct
from collections.abc import Callable

from sardonyx.model.format import COLUMNS, HEADER_SIZE
from sardonyx.model.verify import open_columns

INTERESTING = (0, 1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
               1 << 40, 1 << 48, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


class Seed:
    """A valid file with the places of its parts."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sections = [struct.unpack_from("<QQ", data, 16 + 16 * i) for i in range(3)]
        at, length = self.sections[0]
        columns = open_columns(memoryview(data)[at:at + length])
        self.columns = {name: (at + columns.at[name], len(columns[name])) for name in COLUMNS if len(columns[name])}
        self.table = at + struct.unpack_from("<I", data, at)[0]
        self.vtable = self.table - struct.unpack_from("<i", data, self.table)[0]

    def mutated(self, rng: random.Random) -> bytes:
        """A damaged copy."""
        data = bytearray(self.data)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            rng.choices(*zip(*_CHANGES, strict=True))[0](self, data, rng)
        return bytes(data)


def _value(rng: random.Random, size: int, old: int, limit: int) -> bytes:
    """`size` bytes that hold an interesting number."""
    choice = rng.random()
    if choice < 0.35:
        number = rng.choice(INTERESTING)
    elif choice < 0.6:
        number = old + rng.choice((-2, -1, 1, 2, 16, 64))
    elif choice < 0.9:
        number = rng.randrange(limit + 2)
    else:
        number = rng.getrandbits(8 * size)
    return (number % (1 << 8 * size)).to_bytes(size, "little")


def _put(data: bytearray, at: int, size: int, rng: random.Random, limit: int) -> None:
    if at + size <= len(data):
        data[at:at + size] = _value(rng, size, int.from_bytes(data[at:at + size], "little"), limit)


def _header(seed: Seed, data: bytearray, rng: random.Random) -> None:
    at, size = rng.choice([(8, 2), (10, 2), (12, 4), *((16 + 8 * i, 8) for i in range(6)), (0, 1), (64, 8)])
    _put(data, at, size, rng, len(data))


def _frame(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Root offset, vtable, vector offsets and counts."""
    slots = (struct.unpack_from("<H", seed.data, seed.vtable)[0] - 4) // 2
    name = rng.choice(list(seed.columns))
    field = struct.unpack_from("<H", seed.data, seed.vtable + 4 + 2 * rng.randrange(slots))[0]
    at, size = rng.choice([(seed.sections[0][0], 4), (seed.table, 4), (seed.vtable, 2), (seed.vtable + 2, 2), (seed.vtable + 4 + 2 * rng.randrange(slots), 2),
                           (seed.table + field, 4), (seed.table + field, 4), (seed.columns[name][0] - 4, 4), (seed.columns[name][0] - 4, 4)])
    _put(data, at, size, rng, seed.sections[0][1])


def _field(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """One field of one record of one column."""
    name = rng.choice(list(seed.columns))
    at, count = seed.columns[name]
    dtype = COLUMNS[name]
    record = at + rng.randrange(count) * dtype.itemsize
    if dtype.fields is None:
        offset, size = 0, dtype.itemsize
    else:
        kind, offset = rng.choice(list(dtype.fields.values()))[:2]
        size = kind.itemsize
    _put(data, record + offset, size, rng, rng.choice((8, 32, len(seed.data), *(n for _, n in seed.columns.values()))))


def _swap(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Two records of a column change places, or one overwrites the other: cycles, twice made values, foreign slices."""
    name = rng.choice(list(seed.columns))
    at, count = seed.columns[name]
    size = COLUMNS[name].itemsize
    a, b = (at + rng.randrange(count) * size for _ in range(2))
    if max(a, b) + size <= len(data):
        first, second = bytes(data[a:a + size]), bytes(data[b:b + size])
        data[a:a + size] = second
        if rng.random() < 0.7:
            data[b:b + size] = first


def _tables(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Two columns change places."""
    a, b = (seed.vtable + 4 + 2 * rng.randrange(len(COLUMNS)) for _ in range(2))
    if max(a, b) + 2 <= len(data):
        data[a:a + 2], data[b:b + 2] = data[b:b + 2], data[a:a + 2]


def _sizes(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Huge, negative or symbolic dimensions; size expressions that refer anywhere."""
    name = rng.choice([n for n in ("dims", "dims", "size_words") if n in seed.columns] or list(seed.columns))
    at, count = seed.columns[name]
    at += 8 * rng.randrange(count)
    if at + 8 <= len(data):
        data[at:at + 8] = struct.pack("<q", rng.choice((-1, -2, -5, 0, 1, 3, 1 << 16, 1 << 31, 1 << 40, 1 << 47, 1 << 62, -(1 << 63), rng.randrange(-20, 60))))


def _cut(seed: Seed, data: bytearray, rng: random.Random) -> None:
    edges = [HEADER_SIZE, *(a for a, _ in seed.sections), *(a + n for a, n in seed.sections)]
    del data[rng.choice([rng.randrange(len(data) + 1), max(0, rng.choice(edges) + rng.choice((-1, 0, 1)))]):]


def _shift(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Bytes taken out of or put into the graph section."""
    at, length = seed.sections[0]
    place = at + rng.randrange(length)
    if rng.random() < 0.5:
        del data[place:place + rng.choice((1, 4, 8, 64))]
    else:
        data[place:place] = bytes(rng.choice((1, 4, 8, 64)))


def _bits(seed: Seed, data: bytearray, rng: random.Random) -> None:
    """Bits of the graph section, sometimes of the weights."""
    at, length = seed.sections[rng.choice((0, 0, 0, 2))]
    for _ in range(rng.choice((1, 1, 4, 32))):
        place = at + rng.randrange(max(length, 1))
        if place < len(data):
            data[place] ^= 1 << rng.randrange(8)


_CHANGES: tuple[tuple[Callable[[Seed, bytearray, random.Random], None], int], ...] = (
    (_field, 10), (_swap, 4), (_sizes, 3), (_frame, 3), (_header, 2), (_bits, 2), (_tables, 1), (_cut, 1), (_shift, 1))

