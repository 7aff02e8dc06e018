"""Few long rows, which are cut into parts: reductions, places of extremes, softmax, norms, the pair of extremes; lengths at the borders of parts, NaN and infinities; both variants and subgroups.
The limits are lowered so that tests stay small: the text of the kernels is that of long rows."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.dim import symbol
from sardonyx.expr import Op, binary, unary
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu.executor import WebGpuProgram
from sardonyx.webgpu.kernels import rows

from .programs import agree, planned

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 96 elements, of runs from 200 on."""
    monkeypatch.setattr(rows, "PART", 96)
    monkeypatch.setattr(rows, "LONG", 200)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def dispatches(device: Any, rule: Any, *inputs: np.ndarray) -> int:
    program, constants = planned(rule, [(DType.of(x), x.shape) for x in inputs])
    runner = WebGpuProgram(device, program, constants)
    runner.close()
    return len(runner.recording.dispatches)


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1000,), (0,)), ((3, 289), (1,)), ((300, 5), (0,)), ((4, 96, 3), (0, 1)), ((20, 3, 15), (0, 2)), ((2, 288), (1,)), ((0, 300), (1,)), ((63, 1, 201), (2,))]


@pytest.mark.parametrize(("op", "shape", "axes"), [(op, shape, axes) for op in range(7) for shape, axes in SHAPES if op not in (rows.ARG_MIN, rows.ARG_MAX) or len(axes) == 1])
def test_reduce(lanes: Any, op: int, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = f(*shape)
    if op == rows.PRODUCT:
        x = np.abs(x) * 0.02 + 0.99

    def rule(k: Lowering, v: View) -> View:
        return k.reduce(op, v, axes, DType.INT64 if op in (4, 5) else DType.FLOAT)
    agree(lanes, rule, x, rtol=1e-4, atol=1e-5)
    assert dispatches(lanes, rule, x) == 2


@pytest.mark.parametrize("op", [rows.MIN, rows.MAX, rows.ARG_MIN, rows.ARG_MAX])
@pytest.mark.parametrize("last", [0, 1])
def test_extremes_of_nan_and_equal_values(lanes: Any, op: int, last: int) -> None:
    """Equal ones in several parts, NaN in one, in two, in all; rows of infinities alone."""
    x = RNG.integers(0, 3, (7, 450)).astype(np.float32)
    x[1, 200], x[2, [30, 330]], x[3, :], x[4, :], x[5, :] = np.nan, np.nan, np.nan, np.inf, -np.inf
    if op in (rows.MIN, rows.MAX):
        agree(lanes, lambda k, v: k.reduce(op, v, (1,), DType.FLOAT), x)
    else:
        agree(lanes, lambda k, v: k.reduce(op, v, (1,), DType.INT64, last=last), np.nan_to_num(x, nan=1.0) if last else x)


def test_places_of_nan_from_the_end(lanes: Any) -> None:
    x = f(3, 400)
    x[0, [7, 120, 390]], x[1, 5] = np.nan, np.nan
    got = agree(lanes, lambda k, v: k.map(lambda a: a + 0, k.reduce(rows.ARG_MAX, v, (1,), DType.INT64, last=1), dtype=DType.INT64), np.nan_to_num(x, nan=9.0))
    assert got[0].reshape(-1)[:2].tolist() == [390, 5]


def test_prologue_epilogue_and_narrow_floats(lanes: Any) -> None:
    x, y, z = f(6, 333), f(333), f(6, 1)
    agree(lanes, lambda k, a, b, c: k.reduce(0, a, (1,), DType.FLOAT, lambda p, q: unary(Op.EXP, p * q * 0.3), lambda total, r: total * 0.1 + r, [b], [c]), x, y, z, rtol=1e-4)
    agree(lanes, lambda k, a: k.reduce(rows.MEAN, a, (1,), DType.FLOAT16), x.astype(np.float16), rtol=2e-3, atol=2e-3)


def test_integers_stay_whole(lanes: Any) -> None:
    x = RNG.integers(-100, 100, (2, 500)).astype(np.int32)
    agree(lanes, lambda k, v: [k.reduce(op, v, (1,), DType.INT64 if op > 3 else DType.INT32) for op in (0, 2, 3, 4, 5)], x)


def softmax(k: Lowering, x: View, mask: View | None, mode: int, axis: int) -> View:
    y = k.buffer(x.dtype, x.shape).whole()
    k.call(Kernel.SOFTMAX, [x, mask if mask is None else mask.expand(x.shape)], [y], axis=axis, mode=mode, scale=0.7)
    return y


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((1, 1000), 1), ((3, 289), 1), ((2, 250, 3), 1), ((0, 300), 1)])
def test_softmax(lanes: Any, mode: int, shape: tuple[int, ...], axis: int) -> None:
    agree(lanes, lambda k, x, m: softmax(k, x, m, mode, axis), f(*shape) * 5, f(*shape[1:]), rtol=1e-4)
    assert dispatches(lanes, lambda k, x: softmax(k, x, None, mode, axis), f(*shape)) == (1 if mode == 2 else 2)


@pytest.mark.parametrize("mode", [0, 1])
def test_softmax_of_infinities(lanes: Any, mode: int) -> None:
    """Parts that are masked away, rows that are, +inf and NaN."""
    x = f(6, 400)
    x[0, :200], x[1, :], x[2, 300:], x[3, 5], x[4, 399] = -np.inf, -np.inf, -np.inf, np.inf, np.nan
    got = agree(lanes, lambda k, v: softmax(k, v, None, mode, 1), x, rtol=1e-4, atol=1e-5)[0]
    assert np.isfinite(got[2, :300]).all() and np.isnan(got[1]).all() and np.isnan(got[3:5]).all()


def test_softmax_of_narrow_floats_is_of_one_piece(lanes: Any) -> None:
    """It rounds at every step, below the greatest of all."""
    agree(lanes, lambda k, v: softmax(k, v, None, 0, 1), f(3, 300).astype(np.float16), rtol=2e-3, atol=1e-4)


def normed(k: Lowering, x: View) -> View:
    y = k.buffer(DType.FLOAT, x.shape).whole()
    k.call(Kernel.NORM, [x, None, None, None], [y], mode=0, axis=1, groups=0, epsilon=1e-5)
    return y


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((1000,), 0), ((3, 289), 1), ((2, 3, 4, 60), 2), ((3, 5, 100), 1)])
@pytest.mark.parametrize("outputs", [3, 4])
def test_norm(lanes: Any, outputs: int, mode: int, shape: tuple[int, ...], axis: int) -> None:
    """With all outputs there is no binding left for what parts leave: one piece."""
    def rule(k: Lowering, x: View, scale: View, bias: View, skip: View) -> list[View]:
        kept = [*shape[:axis], *[1] * (len(shape) - axis)]
        made = [k.buffer(DType.FLOAT, tuple(dims)).whole() for dims in (shape, kept, kept, shape)[:outputs]]
        k.call(Kernel.NORM, [x, scale.expand(shape), bias.expand(shape), skip], made, mode=mode, axis=axis, groups=0, epsilon=1e-5)
        return made
    inputs = f(*shape) + 100, f(*shape[axis:]), f(*shape[axis:]), f(*shape)
    agree(lanes, rule, *inputs, rtol=1e-4, atol=2e-4)
    assert dispatches(lanes, rule, *inputs) == (1 if outputs == 4 else 2)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm(lanes: Any, groups: int) -> None:
    def rule(k: Lowering, x: View, scale: View) -> View:
        y = k.buffer(DType.FLOAT, (2, 6, 15, 17)).whole()
        k.call(Kernel.NORM, [x, scale.unsqueeze(1).unsqueeze(2).expand((2, 6, 15, 17)), None, None], [y], mode=2, axis=1, groups=groups, epsilon=1e-5)
        return y
    x = f(2, 6, 15, 17) + 7
    agree(lanes, rule, x, f(6), rtol=1e-4, atol=1e-4)
    x[0, 0, 3, 3] = np.nan
    agree(lanes, rule, x, f(6), rtol=1e-4, atol=1e-4)


def test_a_norm_repeats_bit_for_bit(lanes: Any) -> None:
    x = f(1, 1000)
    assert agree(lanes, normed, x, atol=1e-4)[0].tobytes() == agree(lanes, normed, x, atol=1e-4)[0].tobytes()


@pytest.mark.parametrize("special", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("shape", [(5, 77), (400,)])
def test_the_pair_of_extremes(lanes: Any, shape: tuple[int, ...], special: float) -> None:
    x = f(*shape)
    if special:
        x.reshape(-1)[x.size // 2] = special

    def rule(k: Lowering, v: View) -> View:
        low = k.reduce(2, v, range(v.rank), DType.FLOAT, None, lambda a: binary(Op.MIN, a, 0.0))
        high = k.reduce(3, v, range(v.rank), DType.FLOAT, None, lambda a: binary(Op.MAX, a, 0.0))
        scale = k.reshape(k.map(lambda a, b: (b - a) / 255.0 + 1.0, low, high, dtype=DType.FLOAT), ())
        return k.map(lambda a, s: a / s, v, scale, dtype=DType.FLOAT)
    agree(lanes, rule, x)
    assert dispatches(lanes, rule, x) == 3


def test_sizes_that_only_the_run_knows(lanes: Any) -> None:
    """One program for a short run (one part) and long ones, with the same results every time."""
    n = symbol("n")
    program, constants = planned(lambda k, v: [k.reduce(op, v, (1,), DType.INT64 if op > 3 else DType.FLOAT) for op in (0, 5)] + [softmax(k, v, None, 0, 1)], [(DType.FLOAT, (2, n))], {"n": (1, None)})
    runner = WebGpuProgram(lanes, program, constants)
    try:
        for size in (1, 96, 97, 1000, 5):
            x = f(2, size)
            total, place, soft = runner.run([x])
            np.testing.assert_allclose(total[:, 0], x.astype(np.float64).sum(1), rtol=1e-4, atol=1e-4)
            assert place[:, 0].tolist() == x.argmax(1).tolist()
            e = np.exp(0.7 * x.astype(np.float64))
            np.testing.assert_allclose(soft, e / e.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)
            again = runner.run([x])
            assert all(a.tobytes() == b.tobytes() for a, b in zip((total, place, soft), again, strict=True))
    finally:
        runner.close()
