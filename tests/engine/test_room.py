"""Memory for packed weights: pieces do not overlap, begin at cache lines, and packing into used memory leaves nothing of what was there."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.engine import room
from sardonyx.engine.binding import constant
from sardonyx.engine.room import Room
from sardonyx.graph import Tensor
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing, pack, unpack
from sardonyx.program import Home, Program, StepRecord, ViewRecord
from sardonyx.types import DType

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


def test_a_recurrence_is_lined_up() -> None:
    """R of an .onnx file lies anywhere; the engine gets it from the start of a cache line, other plain constants where they lie."""
    store = rng.standard_normal(2 * 64 * 16 * 16 + 64).astype(np.float32)
    start = (-store.ctypes.data % 64) // 4 + 1
    r, one = (store[at:at + 64 * 16].reshape(1, 64, 16) for at in (start, start + 64 * 16))
    program = Program()
    for at in (0, 1):
        program.buffers.append((int(Home.DATA), at, program.size(r.nbytes)))
        program.view(ViewRecord(at, DType.FLOAT, tuple(map(program.size, r.shape)), tuple(map(program.size, (1024, 16, 1))), program.size(0), program.size(r.size)))
    program.steps.append(StepRecord(Kernel.RNN, program.string("rnn"), (1, 1, 0), (), ()))
    lined, other = (constant(program, i, Tensor(x)) for i, x in enumerate((r, one)))
    np.testing.assert_array_equal(lined, r)
    assert r.ctypes.data % 64 and lined.ctypes.data % 64 == 0 and other.ctypes.data == one.ctypes.data
