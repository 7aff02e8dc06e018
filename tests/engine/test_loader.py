"""Opening, binding and running stored programs: what Program.pack writes is taken as it is, everything else is refused or stays inside its buffers."""
from __future__ import annotations

import ctypes
import threading

import numpy as np
import pytest
from sardonyx.engine.binding import EngineProgram, constant, isas, library
from sardonyx.errors import InvalidArgument, InvalidModelFile, MemoryLimit, NotImplemented, SardonyxError, Terminated
from sardonyx.expr import DType, Op, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.program import Home, Program, SizeOp
from sardonyx.providers.interpreter import Interpreter

from tests.engine.models import MODELS, feeds, planned
from tests.engine.one_step import CANARY, OneStep

GUARD = 4096


@pytest.mark.parametrize("name", MODELS)
def test_models_match_the_interpreter(name: str) -> None:
    made = planned(name)
    for isa in isas():
        one, two = (EngineProgram(made.program, made.constants, isa=isa, threads=n) for n in (1, 2))
        rng = np.random.default_rng(3)
        for _ in range(4):
            given = feeds(name, rng)
            want = Interpreter(made.program, made.constants).run(given)
            for w, a, b in zip(want, one.run(given), two.run(given), strict=True):
                assert a.tobytes() == b.tobytes()
                np.testing.assert_allclose(a, w, rtol=1e-4, atol=1e-5)


def guarded(nbytes: int) -> np.ndarray:
    """64-byte aligned memory with guard bytes on both sides; the middle is poisoned alike."""
    raw = np.full(nbytes + 2 * GUARD + 64, CANARY, np.uint8)
    start = GUARD + (-(raw.ctypes.data + GUARD)) % 64
    return raw[start - GUARD:start + nbytes + GUARD]


def run_guarded(engine: EngineProgram, given: list[np.ndarray]) -> list[np.ndarray]:
    """Run on a poisoned arena and outputs between guard bytes; the guards must survive."""
    bound = engine.bind([x.shape for x in given])
    shapes = bound.shapes
    arena = guarded(max(library().sx_arena_bytes(bound.state), 1))
    blocks = [guarded(int(np.prod(s)) * t.itemsize) for s, t in shapes]
    middle = [b[GUARD:len(b) - GUARD] for b in blocks]
    try:
        engine.run(given, arena=arena[GUARD:].ctypes.data, outputs=middle)
    finally:
        for block in (arena, *blocks):
            assert (block[:GUARD] == CANARY).all() and (block[-GUARD:] == CANARY).all(), "written outside a buffer"
    return [m.view(t).reshape(s) for m, (s, t) in zip(middle, shapes, strict=True)]


@pytest.mark.parametrize("name", MODELS)
def test_poisoned_arena(name: str) -> None:
    """Nothing is read before it is written: a poisoned arena changes no bit."""
    made = planned(name)
    engine = EngineProgram(made.program, made.constants)
    given = feeds(name, np.random.default_rng(5))
    for a, b in zip(engine.run(given), run_guarded(engine, given), strict=True):
        assert a.tobytes() == b.tobytes()


def mutate(packed: bytes, rng: np.random.Generator) -> bytes:
    """One to three words changed: a random table word by a little, to another word of the program, or to anything; an instruction's half word; or the end cut off."""
    words = np.frombuffer(packed, np.int64).copy()
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(words)))
        kind = int(rng.integers(5))
        if kind == 0:
            words[at] += int(rng.integers(-3, 4))
        elif kind == 1:
            words[at] = words[int(rng.integers(len(words)))]
        elif kind == 2:
            words[at] = int(rng.choice([-1, 0, 1, 2, 7, 8, 9, 63, 64, 1 << 20, 1 << 31, 1 << 45, 1 << 62, -(1 << 63)]))
        elif kind == 3:
            words.view(np.int32)[2 * at + int(rng.integers(2))] = int(rng.integers(-2, 70))
        else:
            words[at] ^= 1 << int(rng.integers(63))
    data = words.tobytes()
    return data[:int(rng.integers(len(data)))] if rng.random() < 0.02 else data


def modest(program: Program, given: list[np.ndarray]) -> bool:
    """Whether a mutated program asks for little enough work and memory for a test: the engine would do more, only later."""
    sizes = program.bind([x.shape for x in given])
    views = [int(np.prod([float(sizes[d]) for d in v.dims])) for v in program.views]
    work = max((np.prod([float(views[v]) for v in s.inputs[:2] if v >= 0]) for s in program.steps), default=0)
    ports = [np.prod([float(sizes[d]) for d in p.dims]) for p in program.outputs]
    windows = [abs(sizes[i]) for s in program.steps if s.kind in (Kernel.POOL, Kernel.CONV) for i in s.params[:17]]
    return max(views, default=0) < 1e6 and work < 1e10 and max(ports, default=0) < 1e7 and (sizes[program.arena] if program.arena >= 0 else 0) < 1e8 and max(windows, default=0) < 1e5


@pytest.mark.parametrize("name", MODELS)
def test_mutated_programs(name: str) -> None:
    """2,500 mutations a model: refused, or run without touching what is not theirs. What the engine opens, Program.unpack takes too."""
    made = planned(name)
    packed = made.program.pack()
    constants = [constant(made.program, i, t) for i, t in enumerate(made.constants)]
    rng = np.random.default_rng(17)
    opened = ran = 0
    for _ in range(2500):
        data = mutate(packed, rng)
        try:
            program = Program.unpack(data)
        except InvalidModelFile as error:
            if "UTF-8" not in str(error):  # the engine passes names on as they are
                with pytest.raises(SardonyxError):
                    EngineProgram.from_bytes(data, constants, made.program)
            continue
        if len(program.inputs) != len(made.program.inputs) or any(b[1] >= len(constants) for b in program.buffers if b[0] == Home.DATA):
            continue
        given = feeds(name, rng)
        try:
            engine = EngineProgram.from_bytes(data, constants, program)
            opened += 1
            given = [np.resize(x.astype(p.dtype.numpy), x.shape) for x, p in zip(given, program.inputs, strict=True)]
            engine.bind([x.shape for x in given])
            if modest(program, given):
                run_guarded(engine, given)
                ran += 1
        except SardonyxError:
            continue
    assert opened > 300 and ran > 200, (opened, ran)


def word_of(packed: bytes, table: int, row: int, width: int, column: int) -> int:
    """Index of a word of a table."""
    words = np.frombuffer(packed, np.int64)
    return int(words[4 + 2 * table]) + row * width + column


@pytest.mark.parametrize(("table", "row", "width", "column", "value", "message"), [
    (0, 3, 4, 1, 99, "size 3 is not computed|does not hold|is not valid|planned"), (3, 0, 22, 0, 77, "view 0 is not valid"),
    (3, 0, 22, 2, 9, "view 0 is not valid"), (3, 0, 22, 1, 8, "view 0 is not valid"), (2, 0, 3, 0, 9, "buffer 0 lies outside"),
    (2, 0, 3, 1, -1, "buffer 0 lies outside"), (6, 0, 11, 0, 60, "kernel kind 60"), (6, 0, 11, 1, 2, "version 2 is not known"),
    (6, 0, 11, 2, 1 << 40, "do not fit the kind"), (6, 0, 11, 3, 1 << 40, "operand 0 refers"), (6, 0, 11, 4, 200, "do not fit the kind"),
    (6, 0, 11, 10, 5000, "refers to row 5000"), (4, 0, 9, 1, 1 << 40, "expression 0"), (4, 0, 9, 2, 33, "expression 0"), (4, 0, 9, 4, 9, "expression 0"),
    (4, 0, 9, 5, 31, "expression 0"), (8, 0, 12, 3, -5, "input or output 0"), (8, 0, 12, 2, 9, "input or output 0"), (10, 1, 1, 0, 1 << 40, "string offsets"),
])
def test_refusals_name_the_row(table: int, row: int, width: int, column: int, value: int, message: str) -> None:
    made = planned("mlp")
    words = np.frombuffer(made.program.pack(), np.int64).copy()
    words[word_of(made.program.pack(), table, row, width, column)] = value
    if table == 0:
        words[word_of(made.program.pack(), 0, row, 4, 0)] = SizeOp.ADD
    with pytest.raises((InvalidModelFile, NotImplemented), match=message):
        EngineProgram.from_bytes(words.tobytes(), [constant(made.program, i, t) for i, t in enumerate(made.constants)], made.program)


@pytest.mark.parametrize("data", [b"", b"x" * 100, bytes(300), b"SDXPROG1" + bytes(400)])
def test_no_program(data: bytes) -> None:
    with pytest.raises(InvalidModelFile, match="header|magic|ABI"):
        EngineProgram.from_bytes(data, [], Program())


def test_guards_and_shapes() -> None:
    made = planned("mlp")
    engine = EngineProgram(made.program, made.constants)
    assert engine.run([np.zeros((0, 12), "f4")])[0].shape == (0, 7)
    with pytest.raises(InvalidArgument, match="does not hold for 10 and 9.*plan for them"):
        engine.run([np.zeros((10, 12), "f4")])
    with pytest.raises(InvalidArgument, match="input 0 has size 13 on axis 1, the program was planned for 12"):
        engine.run([np.zeros((2, 13), "f4")])
    with pytest.raises(InvalidArgument, match="input 'x' is float64"):
        engine.run([np.zeros((2, 12))])
    with pytest.raises(InvalidArgument, match="takes 1 inputs of ranks"):
        engine.run([np.zeros(12, "f4")])
    strided = np.random.default_rng(1).random((12, 5), np.float32).T
    np.testing.assert_array_equal(engine.run([strided])[0], engine.run([np.ascontiguousarray(strided)])[0])


def test_sizes_that_overflow() -> None:
    program = planned("mlp").program
    row = program.op(SizeOp.MUL, program.size(1 << 40), program.size(1 << 40))
    program.guards.append((1, row, 0))
    constants = planned("mlp").constants
    with pytest.raises(SardonyxError, match="sizes overflow"):
        EngineProgram(program, constants).bind([(2, 12)])


def test_memory_limit() -> None:
    made = planned("network")
    with pytest.raises(MemoryLimit, match="memory_limit"):
        EngineProgram(made.program, made.constants, memory_limit=64).bind([(1, 3, 12, 12)])


def test_constants_too_short_or_missing() -> None:
    made = planned("mlp")
    constants = [constant(made.program, i, t) for i, t in enumerate(made.constants)]
    with pytest.raises(InvalidModelFile, match="reaches element"):
        EngineProgram.from_bytes(made.program.pack(), [constants[0].ravel()[:3].copy(), *constants[1:]], made.program).bind([(2, 12)])
    with pytest.raises(InvalidModelFile, match="reaches element"):
        EngineProgram.from_bytes(made.program.pack(), constants[:-1], made.program).bind([(2, 12)])


def test_unknown_isa() -> None:
    with pytest.raises(InvalidArgument, match="instruction set 'mmx'"):
        EngineProgram(planned("mlp").program, planned("mlp").constants, isa="mmx")


def slow_step(elements: int = 1 << 22) -> OneStep:
    """A step of some hundred milliseconds."""
    made = OneStep(np.random.default_rng(1))
    view = made.operand(np.ones(elements, np.float64), broadcast=False, dense=True)
    value = leaf(0, DType.DOUBLE)
    for _ in range(20):
        value = unary(Op.ERF, unary(Op.SINH, value))
    return made.step(Kernel.MAP, [view], [made.result((elements,), DType.DOUBLE, dense=True)], epilogue=[value])


def test_terminate_from_another_thread() -> None:
    made = slow_step()
    engine = EngineProgram(made.program, [], threads=2)
    bound = engine.bind([a.shape for a in made.arrays])
    key = tuple(a.shape for a in made.arrays)
    engine._give(key, bound)
    ended = threading.Event()

    def stop() -> None:
        while not ended.wait(0.02):
            library().sx_terminate(bound.state)  # one that comes before the run is lost
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Terminated, match="the run was stopped"):  # how soon: test_terminate.py
        for _ in range(20):  # a busy machine may let a whole run pass
            engine.run(made.arrays)
    ended.set()
    thread.join()


def test_terminate_by_polling() -> None:
    made = planned("encoder")
    engine = EngineProgram(made.program, made.constants)
    given = feeds("encoder", np.random.default_rng(1))
    want = engine.run(given)
    for a, b in zip(want, engine.run(given, terminated=lambda: False, budget=1), strict=True):
        assert a.tobytes() == b.tobytes()
    with pytest.raises(Terminated):
        engine.run(given, terminated=lambda: True, budget=1)
    assert engine.run(given)[0].tobytes() == want[0].tobytes()


def test_profile_times_every_step() -> None:
    made = planned("encoder")
    engine = EngineProgram(made.program, made.constants)
    times = np.zeros((len(made.program.steps), 2), np.int64)
    engine.run(feeds("encoder", np.random.default_rng(1)), times=times)
    assert (times[:, 0] > 0).all() and (np.diff(times[:, 0]) >= 0).all()


def test_text_of_a_report_is_cut_to_its_room() -> None:
    text = ctypes.create_string_buffer(8)
    from sardonyx.engine.binding import _Report
    assert library().sx_error_text(ctypes.byref(_Report(1, 2, -1, -1)), None, text, 8) > 8 and len(text.value) == 7
