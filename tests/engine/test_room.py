"""Memory for packed weights: pieces do not overlap, begin at cache lines, and packing into used memory leaves nothing of what was there."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.engine import room
from sardonyx.engine.room import Room
from sardonyx.model.packing import Packing, pack, unpack

rng = np.random.default_rng(5)


def test_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LEAST", 1 << 20)
    monkeypatch.setattr(room, "MOST", 4 << 20)
    store, pieces = Room(), []
    for number, size in enumerate([*rng.integers(1, 1 << 20, 40).tolist(), 9 << 20, 1 << 16, (1 << 16) - 1]):
        pieces.append(store.take(size))
        assert pieces[-1].nbytes == size and pieces[-1].ctypes.data % 64 == 0 and pieces[-1].flags.writeable
        pieces[-1][...] = number % 251
    assert all((piece == number % 251).all() for number, piece in enumerate(pieces))


@pytest.mark.parametrize(("packing", "shape", "dtype"), [(Packing.MATRIX, (13, 21), np.float32), (Packing.MATRIX, (13, 21), np.int8), (Packing.CONV, (20, 5, 3, 3), np.float32),
                                                         (Packing.DEPTHWISE, (9, 1, 3, 3), np.float32), (Packing.MATRICES_T, (2, 17, 6), np.uint8), (Packing.NIBBLES, (19, 2, 16), np.uint8)])
def test_packing_into_used_memory(packing: Packing, shape: tuple[int, ...], dtype: type) -> None:
    plain = rng.integers(-100, 100, shape).astype(dtype)
    made = pack(plain, packing, memory=lambda n: np.full(n, 0xAA, np.uint8))
    assert made.tobytes() == pack(plain, packing).tobytes() == pack(plain, packing, memory=lambda n: np.full(n, 0x55, np.uint8)).tobytes()
    np.testing.assert_array_equal(unpack(made, packing, plain.dtype, shape), plain)
