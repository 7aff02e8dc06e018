"""The pool: one for the process, shared, asleep when idle, rebuilt after a fork, silent at exit."""
from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from sardonyx.engine.binding import EngineProgram
from sardonyx.expr import DType, Op, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor, accepts

from tests.engine.models import encoder, feeds, planned
from tests.engine.one_step import OneStep
from tests.patience import SECONDS, at_once, least

ROOT = Path(__file__).parents[2]


def wide_map(rows: int = 1 << 20) -> OneStep:
    made = OneStep(np.random.default_rng(1))
    view = made.operand(np.linspace(-3, 3, rows, dtype=np.float32), broadcast=False, dense=True)
    return made.step(Kernel.MAP, [view], [made.result((rows,), DType.FLOAT, dense=True)], epilogue=[unary(Op.TANH, leaf(0, DType.FLOAT)) * 2])


def test_concurrent_runs_of_one_program() -> None:
    """Eight Python threads on one program with different shapes: every result as alone."""
    made = planned("encoder")
    engine = EngineProgram(made.program, made.constants, threads=2)
    jobs = [feeds("encoder", np.random.default_rng(i)) for i in range(8)]
    want = [[y.tobytes() for y in engine.run(j)] for j in jobs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(60):
            if [y.tobytes() for y in engine.run(jobs[i])] != want[i]:
                wrong.append(i)
    at_once(8, work)
    assert not wrong


def test_any_number_of_threads_gives_the_same_bits() -> None:
    made = wide_map()
    want = made.run(threads=1)[0].tobytes()
    for n in (2, 3, 5, 16):
        assert made.run(threads=n)[0].tobytes() == want


def cpu_seconds() -> float:
    t = os.times()
    return t.user + t.system


def test_idle_workers_use_no_cpu() -> None:
    made = wide_map()
    engine = EngineProgram(made.program, [], threads=4)

    def idle() -> float:
        engine.run(made.arrays)
        time.sleep(0.05)  # on a busy machine the workers may not yet have had the time to see that nothing comes
        before = cpu_seconds()
        time.sleep(0.4)
        return cpu_seconds() - before
    assert least(idle, 0.03) < 0.03


def test_fork_after_use() -> None:
    made = wide_map()
    engine = EngineProgram(made.program, [], threads=2)
    want = engine.run(made.arrays)[0].tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(engine.run(made.arrays)[0].tobytes() == want for _ in range(5)) else 3)
    assert wait_for(child) == 0
    assert engine.run(made.arrays)[0].tobytes() == want


def wait_for(child: int) -> int:
    """The exit code of a forked child; one that hangs is killed."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the forked child hangs")


def test_fork_while_runs_go_on() -> None:
    """Children forked while another thread has the pool: each has a pool of its own, which works, and so has the parent afterwards."""
    made = wide_map()
    engine = EngineProgram(made.program, [], threads=3)
    want = engine.run(made.arrays)[0].tobytes()
    ended = threading.Event()

    def go() -> None:
        while not ended.is_set():
            engine.run(made.arrays)
    thread = threading.Thread(target=go)
    thread.start()
    for _ in range(8):
        time.sleep(0.01)
        child = os.fork()
        if child == 0:
            own = EngineProgram(made.program, [], threads=3)  # the other's locks may be held by a thread that is not here
            os._exit(0 if all(own.run(made.arrays)[0].tobytes() == want for _ in range(3)) else 3)
        assert wait_for(child) == 0
    ended.set()
    thread.join()
    assert engine.run(made.arrays)[0].tobytes() == want


def test_a_session_in_forked_processes() -> None:
    """A session opened and used by the parent, then by worker processes that end as Python processes do."""
    script = ('''import multiprocessing, sys
import numpy as np
import sardonyx
from tests.api import models
def work(i):
    return session.run(None, {"x": x, "y": x})[0].tobytes()
session = sardonyx.InferenceSession(models.add_mul())
x = np.ones((2, 3), np.float32)
want = work(0)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert pool.map(work, range(12)) == [want] * 12
assert work(0) == want
print("done")
''')
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, timeout=2 * SECONDS, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_import_in_a_thread() -> None:
    """The first import, and the pool's start, by several threads that are not the main one; it ends first."""
    script = ('''import threading
import numpy as np
made = []
def go(i):
    import sardonyx
    from tests.api import models
    session = sardonyx.InferenceSession(models.add_mul())
    made.append(session.run(None, {"x": np.ones((2, 3), np.float32), "y": np.ones((2, 3), np.float32)})[0].sum())
threads = [threading.Thread(target=go, args=(i,)) for i in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert len(made) == 4 and len(set(made)) == 1
print("done")
''')
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, timeout=2 * SECONDS, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_interpreter_exit_with_a_running_pool() -> None:
    """Import in a thread, a run still going on when the interpreter ends: no hang, no crash."""
    script = ("import threading, time\nran = threading.Semaphore(0)\ndef go():\n from tests.engine.test_threads import wide_map\n"
              " from sardonyx.engine.binding import EngineProgram\n m = wide_map(1 << 22)\n e = EngineProgram(m.program, [], threads=2)\n while True: e.run(m.arrays), ran.release()\n"
              "threading.Thread(target=go, daemon=True).start()\nfor _ in range(3): assert ran.acquire(timeout=120)\n")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, timeout=2 * SECONDS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_executor_plans_buckets_and_binds_inside_them() -> None:
    executor = EngineExecutor(encoder(), threads=2, strict=True)
    rng = np.random.default_rng(4)
    reference = planned("encoder")
    fixed = EngineProgram(reference.program, reference.constants, threads=1)
    for _ in range(12):
        given = feeds("encoder", rng)
        for a, b in zip(executor.run(given, [0, 1], RunContext()), fixed.run(given), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert all(p.provider == "CPUExecutionProvider" for p in executor.placements())


def test_the_engine_says_what_it_can_not_run() -> None:
    from sardonyx.lowering import KernelCall, Lowering
    k = Lowering()
    a = k.buffer(DType.DOUBLE, (2, 3)).whole()
    assert accepts([KernelCall(Kernel.ATTENTION, [a, a, a], [a])], []) == "the C engine has no attention of double"
    assert accepts([KernelCall(Kernel.LOOP, [a], [a])], []) == "the C engine has no loop kernel"
    deep = k.buffer(DType.FLOAT, (1,) * 9).whole()
    assert "at most 8 dims" in accepts([KernelCall(Kernel.COPY, [deep, None], [deep])], [])


