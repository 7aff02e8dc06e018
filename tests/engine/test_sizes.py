"""Sizes that bind decides: elements of inputs, arenas and places that are expressions, and what of them is refused."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.dim import dim_max, dim_min, symbol
from sardonyx.engine.binding import EngineProgram
from sardonyx.errors import InvalidModelFile, MemoryLimit, RuntimeException, SardonyxError
from sardonyx.expr import DType, Op, encode, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.program import Home, PortRecord, Program, SizeOp, StepRecord, ViewRecord
from sardonyx.providers.interpreter import Interpreter

LEAST = -(1 << 63)


def view(p: Program, buffer: tuple[Home, int], dtype: DType, dims: tuple, bytes_of: object, start: object = 0) -> int:
    """A dense view of a buffer of its own."""
    strides, run = [], 1
    for d in reversed(dims):
        strides.insert(0, run)
        run = run * d
    p.buffers.append((int(buffer[0]), buffer[1], p.size(bytes_of * dtype.numpy.itemsize)))
    return p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, dims)), tuple(map(p.size, strides)), p.size(start), p.size(bytes_of)))


def slicing(places: bool = True) -> Program:
    """y = -(-x[start:start + count]), `start` and `count` elements of k; the middle value lies in the arena behind a gap whose size is an expression."""
    p = Program()
    n, start, count = symbol("n"), symbol("start", LEAST), symbol("count", LEAST)
    p.inputs = [PortRecord(p.string("x"), DType.FLOAT, -1, (0,)), PortRecord(p.string("k"), DType.INT64, -1, (0,))]
    p.bind_symbol("n", 0, 0)
    p.bind_element("start", 1, 0)
    p.bind_element("count", 1, 1)
    low = dim_min(dim_max(start, 0), n)
    much = dim_min(dim_max(count, 0), n - low)
    p.inputs = [PortRecord(p.string("x"), DType.FLOAT, view(p, (Home.INPUT, 0), DType.FLOAT, (n,), n), (p.size(n),)),
                PortRecord(p.string("k"), DType.INT64, view(p, (Home.INPUT, 1), DType.INT64, (2,), 2), (p.size(2),))]
    part = p.view(ViewRecord(p.views[p.inputs[0].view].buffer, DType.FLOAT, (p.size(much),), (p.size(1),), p.size(low), p.size(n)))
    gap = (n * 4 + 63) // 64 * 64 if places else 64
    p.arena = p.size(gap + (much * 4 + 63) // 64 * 64)
    middle = view(p, (Home.ARENA, p.size(gap)), DType.FLOAT, (much,), much)
    y = view(p, (Home.OUTPUT, 0), DType.FLOAT, (much,), much)
    p.outputs = [PortRecord(p.string("y"), DType.FLOAT, y, (p.size(much),))]
    p.codes.append((encode([unary(Op.NEG, leaf(0, DType.FLOAT))]), 0))
    p.steps = [StepRecord(Kernel.MAP, p.string("one"), (part,), (middle,), (), -1, 0), StepRecord(Kernel.MAP, p.string("two"), (middle,), (y,), (), -1, 0)]
    return p


@pytest.mark.parametrize(("start", "count"), [(0, 5), (3, 4), (-7, 2), (90, 90), (200, 3), (5, -1), (2**63 - 1, 2**63 - 1), (LEAST, LEAST)])
def test_elements_decide_sizes(start: int, count: int) -> None:
    p = Program.unpack(slicing().pack())
    x, k = np.arange(100, dtype="f4"), np.array([start, count])
    low = min(max(start, 0), 100)
    want = x[low:low + min(max(count, 0), 100)]
    np.testing.assert_array_equal(Interpreter(p, []).run([x, k])[0], want)
    engine = EngineProgram(p, [])
    for _ in range(2):  # a kept state
        np.testing.assert_array_equal(engine.run([x, k])[0], want)
    np.testing.assert_array_equal(engine.run([x, np.array([1, 2])])[0], x[1:3])  # the same shapes, other values


def test_other_types_of_elements() -> None:
    for dtype, value in ((DType.INT32, -1), (DType.BOOL, 1)):
        p = slicing()
        p.inputs[1] = PortRecord(p.inputs[1].name, dtype, p.inputs[1].view, p.inputs[1].dims)
        record = p.views[p.inputs[1].view]
        p.buffers[record.buffer] = (int(Home.INPUT), 1, p.size(2 * dtype.numpy.itemsize))
        p.views[p.inputs[1].view] = ViewRecord(record.buffer, dtype, record.dims, record.strides, record.start, record.extent)
        x, k = np.arange(9, dtype="f4"), np.array([value, 1], dtype.numpy)
        want = x[max(value, 0):max(value, 0) + 1]
        np.testing.assert_array_equal(EngineProgram(p, []).run([x, k])[0], want)
        np.testing.assert_array_equal(Interpreter(p, []).run([x, k])[0], want)


def both(p: Program, inputs: list[np.ndarray], error: type[Exception], match: str) -> None:
    """The interpreter and the engine refuse alike."""
    with pytest.raises(error, match=match):
        Interpreter(p, []).run(inputs)
    with pytest.raises(error, match=match):
        EngineProgram(p, []).run(inputs)


def test_an_element_that_is_not_there() -> None:
    p = slicing()
    p.inputs[1] = PortRecord(p.inputs[1].name, DType.INT64, p.inputs[1].view, (p._intern(p.sizes, (int(SizeOp.DIM), 1, 0, 0)),))
    both(p, [np.zeros(4, "f4"), np.zeros(1, "i8")], RuntimeException, "element 1")
    both(p, [np.zeros(4, "f4"), np.zeros(0, "i8")], RuntimeException, "element 0")


def test_elements_without_inputs() -> None:
    with pytest.raises(SardonyxError, match="bind needs the inputs"):
        EngineProgram(slicing(), []).bind([(4,), (2,)])
    with pytest.raises(SardonyxError, match="bind needs the inputs"):
        slicing().bind([(4,), (2,)])


def ending(p: Program, op: SizeOp, a: int, b: int) -> Program:
    """The program whose arena has another size."""
    p.arena = p._intern(p.sizes, (int(op), a, b, 0))
    return p


@pytest.mark.parametrize("op", [SizeOp.FLOORDIV, SizeOp.CEILDIV, SizeOp.MOD])
@pytest.mark.parametrize("divisor", [0, -3])
def test_divisions_by_nothing(op: SizeOp, divisor: int) -> None:
    p = slicing()
    both(ending(p, op, p.size(640), p.symbols["start"]), [np.zeros(4, "f4"), np.array([divisor, 2])], RuntimeException, "sizes overflow")


@pytest.mark.parametrize(("op", "value"), [(SizeOp.ADD, 2**63 - 1), (SizeOp.MUL, 2**62), (SizeOp.SUB, LEAST)])
def test_sums_that_overflow(op: SizeOp, value: int) -> None:
    p = slicing()
    both(ending(p, op, p.size(640), p.symbols["start"]), [np.zeros(4, "f4"), np.array([value, 2])], RuntimeException, "sizes overflow")


@pytest.mark.parametrize(("at", "match"), [(32, "not aligned|lies outside"), (-64, "lies outside"), (1 << 40, "lies outside"), (2**63 - 64, "lies outside")])
def test_places_outside_the_arena(at: int, match: str) -> None:
    p = slicing()
    arena = next(i for i, b in enumerate(p.buffers) if b[0] == Home.ARENA)
    p.buffers[arena] = (int(Home.ARENA), p.symbols["start"], p.buffers[arena][2])
    both(p, [np.zeros(4, "f4"), np.array([at, 2])], InvalidModelFile, match)


def test_arenas_that_can_not_be() -> None:
    p = slicing()
    p.arena = p.symbols["start"]
    both(p, [np.zeros(4, "f4"), np.array([-5, 2])], RuntimeException, "arena of -5 bytes")
    with pytest.raises(MemoryLimit, match="arena"):
        EngineProgram(p, []).run([np.zeros(4, "f4"), np.array([1 << 60, 2])])
    with pytest.raises(MemoryLimit, match="limit 100000"):
        EngineProgram(p, [], memory_limit=100000, threads=1).run([np.zeros(4, "f4"), np.array([1 << 20, 2])])


@pytest.mark.parametrize("row", [(SizeOp.ELEMENT, 0, 0), (SizeOp.ELEMENT, 2, 0), (SizeOp.ELEMENT, 1, -1)])
def test_elements_no_input_has(row: tuple[int, int, int]) -> None:
    p = slicing()
    p.sizes[p.symbols["start"]] = (int(row[0]), row[1], row[2], 0)
    with pytest.raises(InvalidModelFile, match="refers to an element"):
        Program.unpack(p.pack())
    with pytest.raises(InvalidModelFile, match="size . is not computed"):
        EngineProgram(p, [])
