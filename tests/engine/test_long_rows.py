"""Rows that are computed in parts (softmax, norm, sums of everything, FFT, running sums): against the interpreter, and left after every part with the same results."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sardonyx.engine.binding import EngineProgram
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from .long_steps import questions
from .one_step import OneStep, compare
from .remote import engines

F, F16, F64 = DType.FLOAT, DType.FLOAT16, DType.DOUBLE
N = (1 << 20) + 1000   # from 2^20 elements on rows are cut; this is no whole number of parts


def check(kind: Kernel, inputs: Sequence[np.ndarray | None], outputs: Sequence[tuple[Sequence[int], DType] | None], params: dict[str, Any], rtol: float, atol: float, dense: bool = True,
          want: np.ndarray | None = None) -> None:
    """As the interpreter (or `want`, where NumPy's own sums are not exact enough); one and two threads, and a run that is left after every part, to the bit."""
    made = OneStep(np.random.default_rng(3))
    given = [-1 if x is None else made.operand(x, broadcast=False, dense=dense) for x in inputs]
    made.step(kind, given, [-1 if y is None else made.result(tuple(y[0]), y[1], dense=dense) for y in outputs], params)
    if want is None:
        made.check(rtol, atol)
    else:
        for isa in engines():
            compare(made.run(isa)[0], want, rtol, atol, isa)
    whole = [y.tobytes() for y in made.run()]
    for threads in (1, 2):
        found, between = questions(EngineProgram(made.program, [], threads=threads), made.arrays, 1)
        assert [r.window(y).tobytes() for r, y in zip(made.results, found, strict=True)] == whole and len(between) > 6


def some(*shape: int, dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(4).standard_normal(shape) * scale).astype(dtype)


def softmax(x: np.ndarray, mask: np.ndarray | float, mode: int) -> np.ndarray:
    z = x.astype(np.float64) * 0.5 + mask
    z -= z.max(1, keepdims=True)
    total = np.exp(z).sum(1, keepdims=True)
    return (z - np.log(total) if mode else np.exp(z) / total).astype(np.float32)  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", [0, 1])
def test_softmax(mode: int) -> None:
    params = {"axis": 1, "mode": mode, "scale": 0.5}
    x = some(2, N, scale=4.0)
    x[0, 5], x[0, N - 1] = 30, -np.inf
    check(Kernel.SOFTMAX, [x], [((2, N), F)], params, 1e-5, 1e-9, want=softmax(x, 0, mode))
    mask = some(2, N)
    check(Kernel.SOFTMAX, [x, mask], [((2, N), F)], params, 1e-5, 1e-9, False, softmax(x, mask, mode))
    x[1, 70000] = np.nan
    check(Kernel.SOFTMAX, [x], [((2, N), F)], params, 1e-5, 1e-9, want=softmax(x, 0, mode))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("dtype", [F, F16, F64])
def test_norm(mode: int, dtype: DType) -> None:
    x = some(3, N, dtype=dtype.numpy) + dtype.numpy.type(0.5)
    rtol, atol = {F: (1e-4, 1e-5), F16: (1e-2, 1e-2), F64: (1e-9, 1e-9)}[dtype]
    w, b = (some(3, N, dtype=dtype.numpy, scale=k) for k in (1, 2))
    stats = [((3, 1), dtype) if mode == 0 else None, ((3, 1), dtype)]
    check(Kernel.NORM, [x, w, b], [(x.shape, dtype), *stats], {"mode": mode, "axis": 1, "epsilon": 1e-5}, rtol, atol, dense=dtype is not F64)


def test_norm_of_channels() -> None:
    x = some(2, 6, 512, 700)
    w, b = (np.ascontiguousarray(np.broadcast_to(some(6, scale=k)[:, None, None], x.shape)) for k in (1, 2))
    check(Kernel.NORM, [x, w, b], [(x.shape, F)], {"mode": 2, "groups": 2, "epsilon": 1e-5}, 1e-4, 1e-5)


@pytest.mark.parametrize("op", ["sum", "mean", "least", "greatest"])
def test_everything(op: str) -> None:
    number = {"sum": 0, "mean": 6, "least": 2, "greatest": 3}[op]
    check(Kernel.REDUCE, [some(N) + np.float32(0.25)], [((1,), F)], {"op": number, "axes": 1}, 1e-5, 1e-4)


@pytest.mark.parametrize("length,parts,inverse,onesided", [(1 << 18, 1, 0, 1), (3 << 17, 2, 0, 0), (1 << 18, 2, 1, 1), ((1 << 17) + 29, 2, 0, 0), ((1 << 17) + 29, 2, 1, 1), (5 << 16, 2, 1, 0)])
def test_fft(length: int, parts: int, inverse: int, onesided: int) -> None:
    have = length // 2 + 1 if inverse and onesided else length - 3000   # cut signals are filled with zeros
    made = [2, length // 2 + 1 if onesided and not inverse else length, 1 if inverse and onesided else 2]
    check(Kernel.FFT, [some(2, have, parts, dtype=np.float64)], [(made, F64)], {"axis": 1, "length": length, "inverse": inverse, "onesided": onesided}, 1e-9, 1e-7, dense=length % 2 == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("exclusive,reverse", [(0, 0), (1, 1)])
def test_running_sum(dtype: Any, exclusive: int, reverse: int) -> None:
    x = some(N, dtype=np.float64, scale=100.0).astype(dtype)
    check(Kernel.SCAN, [x], [((N,), DType.of(x))], {"axis": 0, "exclusive": exclusive, "reverse": reverse, "op": 0}, 0, 0)
