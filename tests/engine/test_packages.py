"""Packages: the C engine's session against the Python executor on the interpreter; what is refused at open; stopping, yielding, waiting for a host, memory."""
from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
import pytest
from sardonyx.engine.binding import YIELD, _Options, _Report, library
from sardonyx.engine.package import EnginePackage, Tensor, Waiting, _Session
from sardonyx.errors import InvalidArgument, InvalidModelFile, MemoryLimit, NotImplemented, RuntimeException, SardonyxError, Terminated
from sardonyx.kernels import VERSIONS
from sardonyx.model.packing import VERSION
from sardonyx.package import MAX_DEPTH, PACKING_VERSION, Block, Do, Package, Reader, Segment, Variant, merged
from sardonyx.providers.interpreter import Interpreter

from tests.engine.oracle import BlockExecutor
from tests.engine.packages import B, F, I, branches, chain, counting, devices, feeds, nested, package, pool, random_package, run, scanning, variants, x
from tests.patience import at_once, least

CASES = feeds(np.random.default_rng(2))
WAIT_HOST = 101


def opened(made: Package, **options: int) -> EnginePackage:
    return EnginePackage(made.pack(), made.inputs, made.outputs, **options)  # type: ignore[arg-type]


def oracle(made: Package) -> BlockExecutor:
    return BlockExecutor(made, [Interpreter(p.program, []) for p in made.programs])


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_against_python(name: str) -> None:
    made, inputs = CASES[name]
    engine, python = opened(made), oracle(made)
    for given in inputs:
        same(engine.run(given), python.run(given))
    for given in reversed(inputs):  # on kept states and memory
        same(engine.run(given), python.run(given))


@pytest.mark.parametrize("seed", range(60))
def test_random_packages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = random_package(rng)
    again = Package.unpack(made.pack())
    assert again.pack() == made.pack() and str(again)
    engine, python = opened(made), oracle(again)
    for _ in range(3):
        given = [np.array(int(rng.integers(0, 4))), np.array(bool(rng.random() < 0.7)), rng.normal(size=int(rng.integers(0, 4))).astype("f4"), rng.normal(size=3).astype("f4")]
        wanted = python.run(given)
        same(engine.run(given), wanted)
        same(engine.run(given, terminated=lambda: False, budget=1), wanted)


def test_expected_numbers() -> None:
    """The oracle itself, on numbers worked out here."""
    a = np.array([1, 2, 4], "f4")
    same(oracle(chain()).run([a]), [-a, 2 * a, a])
    same(oracle(branches()).run([np.array(True), a]), [np.concatenate([-a, a])])
    s, grown, stack = oracle(counting()).run([np.array(2), np.array([True]), a])
    same([s, grown, stack], [3 * a, np.concatenate([a, a, a]), np.stack([2 * a, 3 * a])])
    last, stack = oracle(scanning(1, 1, 0, 1)).run([a, np.stack([a, 2 * a], 1)])
    same([last, stack], [4 * a, np.stack([-4 * a, -3 * a])])
    empty = oracle(counting()).run([np.array(0), np.array([True]), a])
    assert empty[2].shape == (0, 0)
    same(oracle(variants()).run([a]), [a / 2])
    same(oracle(variants()).run([np.ones(5, "f4")]), [-np.ones(5, "f4")])


def test_large_outputs_are_their_own() -> None:
    engine = opened(chain())
    a = np.arange(100_000, dtype="f4")
    first = engine.run([a], rows=np.zeros((64, 4), np.int64))  # through a session
    second = engine.run([a + 1])
    same(first, [-a, 2 * a, a])
    same(second, [-(a + 1), 2 * (a + 1), a + 1])
    first[0][:] = 5
    del engine
    assert (first[0] == 5).all() and (second[1] == 2 * (a + 1)).all()


# -- what is refused ---------------------------------------------------------------------------------------------------------------------------------


def refused(made: Package, match: str) -> None:
    with pytest.raises(InvalidModelFile, match=match):
        made.verify()


def deep(levels: int) -> Package:
    """Blocks nested `levels` deep under the root."""
    blocks = [Block(3, (0, 1), (2,), [Segment(Do.IF, (0, 0, 1), (2,), blocks=(i + 1, i + 1))]) for i in range(levels)]
    return package([*blocks, Block(3, (0, 1), (2,), [run("negate", (1,), 2)])], [x("c", B, ()), x()], [x("y")])


def test_depth() -> None:
    made = deep(MAX_DEPTH)
    same(opened(made).run([np.array(True), np.ones(2, "f4")]), [-np.ones(2, "f4")])
    refused(deep(MAX_DEPTH + 1), "nested deeper")
    shallow_first = deep(MAX_DEPTH)  # a block that is met first where it fits, then deeper
    n = len(shallow_first.blocks)
    shallow_first.blocks.append(Block(4, (0, 1), (3,), [Segment(Do.IF, (0, 0, 1), (2,), blocks=(1, 1)), Segment(Do.IF, (0, 0, 2), (3,), blocks=(n + 1, n + 1))]))
    shallow_first.blocks.append(Block(3, (0, 1), (2,), [Segment(Do.IF, (0, 0, 1), (2,), blocks=(1, 1))]))
    shallow_first.variants = [Variant(n)]
    refused(shallow_first, "nested deeper")


def raw(made: Package) -> np.ndarray:
    return np.frombuffer(made.pack(), np.int64).copy()


def bad(words: np.ndarray, made: Package, match: str) -> None:
    """Both readers refuse."""
    with pytest.raises(InvalidModelFile):
        Package.unpack(words.tobytes())
    with pytest.raises((InvalidModelFile, NotImplemented), match=match):
        EnginePackage(words.tobytes(), made.inputs, made.outputs)


@pytest.mark.parametrize(("table", "column", "value", "match"), [
    (0, 0, 99999, "row 0 of table 0"), (0, 1, 3, "too few|outside|header"), (1, 0, 99, "row 0 of table 1"), (1, 0, 1, "slot"), (1, 5, 77, "row 0 of table 1"),
    (1, 6, -1, "row 0 of table 1"), (2, 0, 7, "row 0 of table 2"), (2, 1, 2, "row 0 of table 2"), (2, 2, 55, "row 0 of table 2"), (2, 3, 1 << 40, "row 0 of table 2"),
    (2, 4, 1 << 61, "row 0 of table 2"), (2, 11, 1000, "row 0 of table 2"), (4, 0, 9, "row 0 of table 4"), (4, 1, 1 << 50, "row 0 of table 4"), (6, 1, 99, "row 0 of table 6"),
    (6, 2, 9, "row 0 of table 6"), (6, 3, -77, "row 0 of table 6"), (8, 0, 1 << 33, "row 0 of table 8"),
    (11, 1, -4, "string offsets"),
])
def test_rows_are_checked(table: int, column: int, value: int, match: str) -> None:
    made = chain()
    words = raw(made)
    words[words[3 + 2 * table] + column] = value
    bad(words, made, match)


def test_blocks_are_checked() -> None:
    one = run("negate", (0,), 1)
    for blocks, match in (
            ([Block(2, (0,), (1,), [run("negate", (1,), 1)])], "read before it is filled"), ([Block(2, (0,), (1,), [one, one])], "filled twice"), ([Block(1, (0,), (1,), [one])], "slot"),
            ([Block(2, (0,), (1,), [run("add", (0,), 1)])], "takes other inputs"), ([Block(2, (0,), (1,), [run("negate2", (0,), 1)])], "takes other inputs"),
            ([Block(2, (0,), (1,), [Segment(Do.IF, (0, 0), (1,), blocks=(1, 1))]), Block(2, (0,), (1,), [one])], "no bool"),
            ([Block(2, (0,), (1,), [Segment(Do.LOOP, (-1, -1, 0), (1,), blocks=(0,), params=(1, 1, 0, 0))])], "within itself"),
            ([Block(2, (0,), (1,), [Segment(Do.LOOP, (-1, -1, 0), (1,), blocks=(1,), params=(0, 1, 0, 0))]), Block(2, (0,), (1,), [one])], "how many rounds"),
            ([Block(2, (0,), (1,), [Segment(Do.LOOP, (-1, -1, 0), (1,), blocks=(1,), params=(1, 1, 0))]), Block(2, (0,), (1,), [one])], "do not fit"),
            ([Block(2, (0,), (1,), [Segment(Do.PROGRAM, (0,), (1,), program=99)])], "is not there"), ([Block(2, (0, 0), (1,), [one])], "filled twice|takes 2")):
        refused(package(blocks, [x()], [x("y")]), match)
    refused(package([Block(2, (0,), (1,), [one])], [x()], [x("y"), x("z")]), "does not give the outputs")
    refused(package([Block(2, (0,), (1,), [one])], [x()], [x("y", F, ("n", "n"))]), "does not give the outputs")


def test_stale_packages() -> None:
    made = chain()
    words = raw(made)
    words[1] = 77 << 32
    bad(words, made, "ABI 77 is not 2.*sardonyx convert")
    words = raw(made)
    kinds = words[3 + 2 * 9]
    assert Reader(memoryview(words.tobytes())).stale() == ""
    words[kinds + 1] = 9
    assert "version 9" in Reader(memoryview(words.tobytes())).stale()
    assert PACKING_VERSION == VERSION and min(VERSIONS.values()) == 1


def mutate(packed: np.ndarray, rng: np.random.Generator, low: int) -> bytes:
    """Some words before the programs changed (those of programs are test_loader's)."""
    words = packed.copy()
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(low))
        kind = int(rng.integers(5))
        if kind == 0:
            words[at] += int(rng.integers(-3, 4))
        elif kind == 1:
            words[at] = words[int(rng.integers(low))]
        elif kind == 2:
            words[at] = int(rng.choice([-1, 0, 1, 2, 7, 8, 9, 63, 64, 1 << 20, 1 << 31, 1 << 45, 1 << 62, -(1 << 63)]))
        elif kind == 3:
            words[at] = int(rng.integers(-2, 12))
        else:
            words[at] ^= 1 << int(rng.integers(63))
    data = words.tobytes()
    return data[:int(rng.integers(len(data)))] if rng.random() < 0.02 else data


@pytest.mark.parametrize("name", ["chain", "branches", "counting True True", "scanning 1 1", "nested", "variants"])
def test_mutated_packages(name: str) -> None:
    """1,500 mutations a package: whatever the engine opens runs or gives a typed error, and gives what the oracle gives where that opens the package too."""
    made, inputs = CASES[name]
    packed = raw(made)
    low = int(packed[3 + 2 * 13])
    rng = np.random.default_rng(5)
    opened_ = ran = 0
    for _ in range(1500):
        data = mutate(packed, rng, low)
        try:
            ports = Reader(memoryview(data))
            takes, gives = ports.ports(6), ports.ports(7)
            engine = EnginePackage(data, takes, gives, memory_limit=1 << 26)
        except SardonyxError:
            continue
        opened_ += 1
        stop = time.process_time() + 0.1

        def late(stop: float = stop) -> bool:
            return time.process_time() > stop
        given = inputs[int(rng.integers(len(inputs)))]
        if len(given) != len(takes):
            continue
        given = [np.resize(a.astype(p.dtype.numpy), a.shape) for a, p in zip(given, takes, strict=True)]
        try:
            found = engine.run(given, terminated=late, budget=1_000_000)
            wanted = oracle(Package.unpack(data)).run(given, terminated=late)
        except SardonyxError:
            continue
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        ran += 1
    assert opened_ > 100 and ran > 30, (opened_, ran)


# -- shapes and memory -----------------------------------------------------------------------------------------------------------------------------------


def test_sizes_nobody_planned() -> None:
    engine = opened(variants())
    with pytest.raises(InvalidArgument, match="no plan covers.*sardonyx convert --plan"):
        engine.run([np.zeros(10, "f4")])
    with pytest.raises(InvalidArgument, match="no plan covers n=10: planned for n=0..4; n=3..9"):
        oracle(variants()).run([np.zeros(10, "f4")])
    with pytest.raises(InvalidArgument, match="rank 2"):
        engine.run([np.zeros((2, 2), "f4")])
    with pytest.raises(InvalidArgument, match="input 'x' is float64"):
        opened(branches()).run([np.array(True), np.zeros(3)])
    with pytest.raises(InvalidArgument, match="1 inputs|2 inputs"):
        opened(branches()).run([np.array(True)])


def test_scalars_that_are_none() -> None:
    made = branches()
    made.inputs[0] = x("cond", B, ("c",))
    for runner in (opened(made), oracle(made)):
        with pytest.raises(RuntimeException, match="must have one element, this has 2"):
            runner.run([np.array([True, False]), np.ones(3, "f4")])


def test_stacks_of_different_sizes() -> None:
    body = Block(5, (0, 1, 2), (1, 4), [run("pair", (0,), 3), run("slice", (2, 3), 4)])
    loop = Segment(Do.LOOP, (0, -1, 1), (2,), blocks=(1,), params=(1, 0, 0, 1, 0, 0), origin="the loop")
    made = package([Block(3, (0, 1), (2,), [loop]), body], [x("t", I, ()), x()], [x("y", F, ("", ""))])
    for runner in (opened(made), oracle(made)):
        with pytest.raises(RuntimeException, match="differs in size"):
            runner.run([np.array(3), np.ones(9, "f4")])
    with pytest.raises(RuntimeException, match=r"\(block 1, segment 2\)|differs"):
        opened(made).run([np.array(3), np.ones(9, "f4")])


def test_memory_limit() -> None:
    engine = opened(counting(), memory_limit=1 << 20)
    engine.run([np.array(2), np.array([True]), np.ones(1000, "f4")])
    with pytest.raises(MemoryLimit, match="memory_limit"):
        engine.run([np.array(2), np.array([True]), np.ones(200_000, "f4")])
    engine.run([np.array(2), np.array([True]), np.ones(1000, "f4")])  # as good as before


def test_memory_is_used_again() -> None:
    engine = opened(counting())
    given = [np.array(3), np.array([True]), np.ones(10_000, "f4")]
    held = []
    for _ in range(12):
        engine.run(given)
        held.append(library().sx_session_memory(engine._sessions[0].handle))
    assert held[-1] == held[4] < 4_000_000, held
    for _ in range(4):
        engine.run([np.array(3), np.array([True]), np.ones(10, "f4")])
    assert library().sx_session_memory(engine._sessions[0].handle) < held[-1] / 4


# -- stopping, yielding, hosts ------------------------------------------------------------------------------------------------------------------------------


def endless() -> Package:
    """A loop without an end."""
    body = Block(4, (0, 1, 2), (1, 3), [run("half", (2,), 3)])
    loop = Segment(Do.LOOP, (-1, -1, 0), (1,), blocks=(1,), params=(1, 1, 0, 0), origin="endless")
    return package([Block(2, (0,), (1,), [loop]), body], [x()], [x("y")])


@pytest.mark.parametrize("n", [1, 3_000_000])
def test_terminate(n: int) -> None:
    engine = opened(endless(), threads=2)
    session = _Session(engine)
    engine._sessions.append(session)

    def stopped_after() -> float:
        """Seconds of processor time (of two threads the sum) from the last call to the end of the run."""
        ended, at = threading.Event(), list[float]()

        def stop() -> None:
            while not ended.wait(0.1):
                at.append(time.process_time())
                library().sx_session_terminate(session.handle)  # one that comes before the run is lost
        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(Terminated, match="stopped"):
            engine.run([np.ones(n, "f4")])
        took = time.process_time() - at[-1]
        ended.set()
        thread.join()
        return took
    assert least(stopped_after, 0.1) < 0.1
    calls: list[int] = []
    with pytest.raises(Terminated, match="RunOptions.terminate"):
        engine.run([np.ones(n, "f4")], terminated=lambda: len(calls) > 3 or bool(calls.append(1)), budget=100_000)


def test_a_run_left_in_the_middle() -> None:
    """A session that yielded is run anew."""
    made = nested()
    engine = opened(made)
    session = _Session(engine)
    given = [np.arange(9, dtype="f4"), np.array([4])]
    for t, a in zip(session.given, given, strict=True):
        t.rank, t.data = a.ndim, a.ctypes.data
        t.dim[:a.ndim] = a.shape
    for steps in range(40):
        code = library().sx_session_run(session.handle, session.given, 2, 1, ctypes.byref(session.report))
        for _ in range(steps):
            if code == YIELD:
                code = library().sx_session_continue(session.handle, 1, ctypes.byref(session.report))
    same(session.run(engine, given, None, 0, None), oracle(made).run(given))
    session.close()


def test_segments_of_a_host() -> None:
    made = devices()
    engine, library_ = opened(made), library()
    session = _Session(engine)
    a = np.arange(5, dtype="f4")
    t = session.given[0]
    t.rank, t.data, t.dim[0] = 1, a.ctypes.data, 5
    assert library_.sx_session_run(session.handle, session.given, 1, 0, ctypes.byref(session.report)) == WAIT_HOST
    waiting, one = Waiting(), Tensor()
    assert library_.sx_session_waiting(session.handle, ctypes.byref(waiting)) == 0
    assert (waiting.block, waiting.segment, waiting.device, waiting.n_in, waiting.n_out) == (0, 1, 1, 2, 1)
    inputs = []
    for i in range(2):
        assert library_.sx_session_input(session.handle, i, ctypes.byref(one)) == 0
        inputs.append(np.frombuffer(ctypes.string_at(one.data, 20), "f4"))
    result = np.ascontiguousarray(Interpreter(made.programs[waiting.program].program, []).run(inputs)[0])
    one.dtype, one.rank, one.data = 7, 1, result.ctypes.data
    assert library_.sx_session_put(session.handle, 0, ctypes.byref(one), ctypes.byref(session.report)) == 10
    one.dtype = 1
    assert library_.sx_session_put(session.handle, 0, ctypes.byref(one), ctypes.byref(session.report)) == 0
    assert library_.sx_session_continue(session.handle, 0, ctypes.byref(session.report)) == 0
    assert library_.sx_session_output(session.handle, 0, ctypes.byref(one)) == 0
    np.testing.assert_array_equal(np.frombuffer(ctypes.string_at(one.data, 20), "f4"), -1.5 * a)
    assert library_.sx_session_run(session.handle, session.given, 1, 0, ctypes.byref(session.report)) == WAIT_HOST
    assert library_.sx_session_continue(session.handle, 0, ctypes.byref(session.report)) == 10  # nothing was put
    session.close()


def test_threads_share_a_package() -> None:
    made, inputs = CASES["nested"]
    engine, python = opened(made), oracle(made)
    wanted = [python.run(g) for g in inputs]

    def work(_: int) -> None:
        for given, want in zip(inputs * 5, wanted * 5, strict=True):
            same(engine.run(given), want)
    at_once(4, work)


def test_profile() -> None:
    rows = np.zeros((100, 4), np.int64)
    opened(chain()).run([np.ones(4, "f4")], rows=rows)
    ran = rows[rows[:, 0] >= 0]
    assert [made_program for made_program, *_ in ran.tolist()] == [1, 2, 0] and (ran[:, 2] > 0).all()
    bound = rows[rows[:, 0] < -1].tolist()
    assert [(-2 - program, number, value) for program, number, value, _ in bound][0] == (1, 0, 4) and list(dict.fromkeys(-2 - program for program, *_ in bound)) == [1, 2, 0]


def test_merged() -> None:
    one, other = chain(), chain()
    other.programs = pool()
    both = merged([(one, {"n": (0, 4)}), (other, {"n": (5, 9)})])
    both.verify()
    for n in (2, 7):
        a = np.arange(n, dtype="f4")
        same(opened(both).run([a]), oracle(chain()).run([a]))


def test_not_a_package() -> None:
    for data in (b"", bytes(400), b"SDXPACK1" + bytes(400)):
        handle, report = ctypes.c_void_p(), _Report()
        assert library().sx_package_open(data, len(data), ctypes.byref(_Options()), ctypes.byref(handle), ctypes.byref(report)) == 6
