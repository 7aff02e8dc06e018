"""Steps that take long, one of each kernel: how soon a run inside one stops.

`python -m tests.engine.long_steps [wasm]` prints for each how long it takes, the longest time between two questions of a run with a budget of 1 ms, and what passes between sx_terminate and the
run's end, on one and two threads; with `wasm` the first two, under wasmtime. All but the first are processor time of the process (of two threads: their sum): what else the machine does is not in it.
"""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from sardonyx.engine.binding import EngineProgram, library
from sardonyx.errors import Terminated
from sardonyx.expr import Op, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .one_step import OneStep
from .test_integer import last_view

F, I8, I64 = DType.FLOAT, DType.INT8, DType.INT64


def step(kind: Kernel, inputs: Sequence[np.ndarray], outputs: Sequence[tuple[Sequence[int], DType]], **params: Any) -> OneStep:
    made = OneStep(np.random.default_rng(1))
    given = [made.operand(x, broadcast=False, dense=True) for x in inputs]
    return made.step(kind, given, [made.result(s, t, dense=True) for s, t in outputs], params)


def some(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.integers(-128, 128, shape, dtype) if np.dtype(dtype).kind in "iu" else rng.standard_normal(shape, np.float32).astype(dtype)


def slow_map(scale: float) -> OneStep:
    made = OneStep(np.random.default_rng(1))
    n = int((1 << 21) * scale)
    view = made.operand(np.ones(n, np.float64), broadcast=False, dense=True)
    value = leaf(0, DType.DOUBLE)
    for _ in range(20):
        value = unary(Op.ERF, unary(Op.SINH, value))
    return made.step(Kernel.MAP, [view], [made.result((n,), DType.DOUBLE, dense=True)], epilogue=[value])


def product(m: int, n: int, k: int, dtype: Any = np.float32) -> OneStep:
    return step(Kernel.MATMUL, [some(m, k, dtype=dtype), some(k, n, dtype=dtype)], [((m, n), F if dtype is np.float32 else DType.INT32 if dtype is np.int8 else DType.DOUBLE)], zero_a=-1, zero_b=-1)


def conv(c: int, m: int, size: int, kernel: int, group: int = 1, dtype: Any = np.float32) -> OneStep:
    made, out = OneStep(np.random.default_rng(1)), F if dtype is np.float32 else DType.INT32
    x = last_view(made, (1, c, size, size), DType.of(np.zeros(0, dtype)), some(1, c, size, size, dtype=dtype))  # type: ignore[arg-type]
    w = made.operand(some(m, c // group, kernel, kernel, dtype=dtype), broadcast=False, dense=True)
    y = last_view(made, (1, m, size, size), out, None)  # type: ignore[arg-type]
    return made.step(Kernel.CONV, [x, w], [y], {"spatial": 2, "group": group, "kernel": [kernel, kernel, 1], "strides": [1] * 3, "dilations": [1] * 3, "pads": [kernel // 2, kernel // 2, 0],
                                                "zero_x": -1, "zero_w": -1})


def rnn(t: int, b: int, h: int, both: bool = False) -> OneStep:
    d = 1 + both
    return step(Kernel.RNN, [some(t, b, h), some(d, 4 * h, h), some(d, 4 * h, h)], [((t, d, b, h), F), ((d, b, h), F), ((d, b, h), F)], cell=0, direction=2 * both, activations=[2, 1, 1] * d)


def root(scale: float, power: float = 0.5) -> float:
    return float(scale**power)


def rows(n: float) -> int:
    return max(1, int(n))


#: Name → the step, about 0.3 s on one thread at scale 1.
LONG: dict[str, Callable[[float], OneStep]] = {
    "map": slow_map,
    "matmul": lambda s: product(rows(4096 * s), 2048, 2048),
    "matmul, long K": lambda s: product(192, rows(1024 * s), 1 << 16),
    "matmul, bytes": lambda s: product(rows(8192 * s), 4096, 2048, np.int8),
    "matmul, bytes, long K": lambda s: product(256, rows(2048 * s), 1 << 17, np.int8),
    "matmul, doubles": lambda s: product(512, rows(512 * s), 1024, np.float64),
    "conv": lambda s: conv(256, rows(512 * s), 64, 3),
    "conv, wide kernel": lambda s: conv(256, rows(256 * s), 48, 7),
    "conv, bytes": lambda s: conv(256, rows(2048 * s), 64, 3, dtype=np.int8),
    "conv, depthwise": lambda s: conv(rows(256 * s), rows(256 * s), 256, 7, rows(256 * s)),
    "attention": lambda s: step(Kernel.ATTENTION, [some(1, rows(32 * s), 2048, 64)] * 3, [((1, rows(32 * s), 2048, 64), F)], scale=0.125),
    "attention, one head": lambda s: step(Kernel.ATTENTION, [some(1, 1, 8192, 128)] * 3, [((1, 1, 8192, 128), F)], scale=0.125),
    "rnn": lambda s: rnn(rows(3000 * s), 1, 512),
    "rnn, batch": lambda s: rnn(rows(100 * s), 64, 512),
    "rnn, two directions": lambda s: rnn(rows(6000 * s), 1, 64, True),
    "sort, one row": lambda s: step(Kernel.SORT, [some(rows(4e6 * s))], [((rows(4e6 * s),), F), ((rows(4e6 * s),), I64)], axis=0, largest=1),
    "sort, one row of longs": lambda s: step(Kernel.SORT, [some(rows(2e6 * s), dtype=np.int64) * 12345678901], [((rows(2e6 * s),), I64), ((rows(2e6 * s),), I64)], axis=0, largest=1),
    "sort, rows": lambda s: step(Kernel.SORT, [some(rows(8000 * s), 1000)], [((rows(8000 * s), 1000), F), ((rows(8000 * s), 1000), I64)], axis=1, largest=1),
    "top-k": lambda s: step(Kernel.SORT, [some(rows(64e6 * s))], [((100,), F), ((100,), I64)], axis=0, largest=1),
    "scan, one row": lambda s: step(Kernel.SCAN, [some(rows(64e6 * s))], [((rows(64e6 * s),), F)], axis=0, op=0),
    "reduce to one": lambda s: step(Kernel.REDUCE, [some(rows(128e6 * s))], [((1,), F)], op=0, axes=1),
    "softmax, one row": lambda s: step(Kernel.SOFTMAX, [some(1, rows(64e6 * s))], [((1, rows(64e6 * s)), F)], axis=1, scale=1.0),
    "norm, one group": lambda s: step(Kernel.NORM, [some(1, rows(64e6 * s))], [((1, rows(64e6 * s)), F)], mode=0, axis=1, epsilon=1e-5),
    "copy, transposed": lambda s: step(Kernel.COPY, [some(rows(64e6 * s))], [((rows(64e6 * s),), F)]),
    "fft": lambda s: step(Kernel.FFT, [some(1, 1 << 22, 2)], [((1, 1 << 22, 2), F)], axis=1, length=1 << 22),
    "fft, prime": lambda s: step(Kernel.FFT, [some(1, 1000003, 2)], [((1, 1000003, 2), F)], axis=1, length=1000003),
    "determinant": lambda s: step(Kernel.LINALG, [some(rows(1000 * root(s, 1 / 3)), rows(1000 * root(s, 1 / 3)))], [((), F)], op=0),
    "inverse": lambda s: step(Kernel.LINALG, [some(rows(600 * root(s, 1 / 3)), rows(600 * root(s, 1 / 3)))], [((rows(600 * root(s, 1 / 3)),) * 2, F)], op=1),
    "nonzero": lambda s: step(Kernel.COMPACT, [some(rows(32e6 * s), dtype=np.int8) | 1], [((rows(32e6 * s), 1), I64), ((), I64)], op=0),
    "unique": lambda s: step(Kernel.COMPACT, [some(rows(2e6 * s))], [((rows(2e6 * s),), I64), ((), I64)], op=1, sorted=1),
    "random": lambda s: step(Kernel.RANDOM, [np.array([1, 2], np.int64)], [((rows(64e6 * s),), F)], op=1, beta=1.0),
    "gather": lambda s: step(Kernel.GATHER, [some(1 << 20, 16), np.random.default_rng(1).integers(0, 1 << 20, rows(4e6 * s))], [((rows(4e6 * s), 16), F)], axis=0),
    "scatter, points": lambda s: step(Kernel.SCATTER, [some(1 << 20), np.random.default_rng(1).integers(0, 1 << 20, (rows(8e6 * s), 1)), some(rows(8e6 * s))], [((1 << 20,), F)], mode=1, reduction=1),
    "scatter, one line": lambda s: step(Kernel.SCATTER, [some(1 << 20), np.random.default_rng(1).integers(0, 1 << 20, rows(1e6 * s)), some(rows(1e6 * s))], [((1 << 20,), F)], mode=0, reduction=1),
}


class Runs(Protocol):
    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, budget: int = 0) -> list[np.ndarray]:
        """As EngineProgram's."""


def questions(engine: Runs, arrays: Sequence[np.ndarray], budget: int) -> tuple[list[np.ndarray], list[float]]:
    """The outputs of a run with a budget, and the seconds of processor time between its questions, begin and end."""
    times = [time.process_time()]

    def asked() -> bool:
        times.append(time.process_time())
        return False
    made = engine.run(arrays, terminated=asked, budget=budget)
    times.append(time.process_time())
    return made, list(np.diff(times))


def stopped(made: OneStep, threads: int, after: float) -> float | None:
    """Seconds of processor time from sx_terminate, `after` seconds into a run, to its end; None: it was done before."""
    engine = EngineProgram(made.program, made.constants, threads=threads)
    bound = engine.bind([a.shape for a in made.arrays])
    engine._give(engine._key(made.arrays), bound)
    at: list[float] = []

    def stop() -> None:
        time.sleep(after)
        at.append(time.process_time())
        library().sx_terminate(bound.state)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        engine.run(made.arrays)
        return None
    except Terminated:
        return time.process_time() - at[0]
    finally:
        thread.join()


def measure() -> None:
    """The table."""
    if "wasm" in sys.argv:
        from tests.wasm.machine import WasmProgram
    only = [a for a in sys.argv[1:] if a != "wasm"]
    for name, make in LONG.items():
        if only and name not in only:
            continue
        made = make(0.25 if "wasm" in sys.argv else 1)
        line = f"{name:24}"
        if "wasm" in sys.argv:
            took = questions(WasmProgram(made.program, made.constants), made.arrays, 1_000_000)[1]
            line += f" {sum(took) * 1e3:8.0f} ms, questions at most {max(took[1:-1] or took) * 1e3:7.1f} ms apart"
        for threads in () if "wasm" in sys.argv else (1, 2):
            engine = EngineProgram(made.program, made.constants, threads=threads)
            engine.run(made.arrays)
            begin = time.perf_counter()
            engine.run(made.arrays)
            whole = time.perf_counter() - begin
            took = questions(engine, made.arrays, 1_000_000)[1]
            ends = [stopped(made, threads, whole * part) for part in (0.2, 0.35, 0.5, 0.65, 0.8)]
            line += f" | {threads}: {whole * 1e3:6.0f} ms, asked ≤ {max(took) * 1e3:6.1f} ms, stopped ≤ {max((e for e in ends if e is not None), default=float('nan')) * 1e3:6.1f} ms"
        print(line, flush=True)


if __name__ == "__main__":
    measure()
