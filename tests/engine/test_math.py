"""The engine's own elementary functions: at most 2 ulp (float) and 4 ulp (double) from the truth, over dense samples and the edges. The truth is long double arithmetic."""
from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from sardonyx.engine.binding import EngineProgram, isas
from sardonyx.expr import Compute, E, Op, acc, binary, const, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep

WIDE = np.longdouble
#: Ulps allowed.
BOUND = {DType.FLOAT: 2.0, DType.DOUBLE: 4.0}
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 1e-45, -1e-45, 5e-324, 88.72, 88.73, 89.0, -87.5, -103.9, -104.5, 709.7, 709.8, -745.0,
         -746.0, 1e38, -1e38,
         3.92, 0.92, 0.625, 1e6, 1.1e6,
         math.pi, math.pi / 2, 3 * math.pi / 4, 1e22, 2.0**1000, -(2.0**-1050)]


@cache
def erf_long(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and erf there: the Taylor series below 3, the continued fraction of erfc above, both in long double."""
    x = np.concatenate([np.random.default_rng(5).uniform(-6.5, 6.5, count), np.random.default_rng(6).standard_normal(count) * 1e-3])
    a = np.abs(x.astype(WIDE))
    term, total = a.copy(), a.copy()
    for n in range(1, 140):
        term = -term * a * a / n
        total = total + term / (2 * n + 1)
    root = np.sqrt(WIDE(4) * np.arctan(WIDE(1)))
    series = 2 * total / root
    fraction = np.zeros_like(a)
    for n in range(200, 0, -1):
        fraction = (WIDE(n) / 2) / (np.maximum(a, 1) + fraction)
    far = 1 - np.exp(-a * a) / (root * (np.maximum(a, 1) + fraction))
    return x, np.where(a < 2.5, series, far) * np.sign(x)


TRUTH: dict[Op, Callable[[Any], Any]] = {
    Op.EXP: np.exp, Op.LOG: np.log, Op.SIN: np.sin, Op.COS: np.cos, Op.TAN: np.tan, Op.ASIN: np.arcsin, Op.ACOS: np.arccos, Op.ATAN: np.arctan, Op.SINH: np.sinh, Op.COSH: np.cosh,
    Op.TANH: np.tanh, Op.ASINH: np.arcsinh, Op.ACOSH: np.arccosh, Op.ATANH: np.arctanh, Op.SIGMOID: lambda x: 1 / (1 + np.exp(-np.clip(x, -2000, 2000))),
     Op.LOG1P: np.log1p, Op.SQRT: np.sqrt, Op.RECIPROCAL: lambda x: 1 / x,
}


def samples(dtype: DType, count: int) -> np.ndarray:
    """All magnitudes by random bits, and the usual ranges densely."""
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 1 << dtype.bits, count, np.uint64).astype(f"u{dtype.bits // 8}").view(dtype.numpy)
    parts = [rng.uniform(-w, w, count) for w in (1, 12, 100, 750, 1.2e6)] + [rng.standard_normal(count) * 1e-4, 1 + rng.standard_normal(count) * 1e-3]
    with np.errstate(all="ignore"):
        return np.concatenate([bits, *(p.astype(dtype.numpy) for p in parts), np.asarray(EDGES).astype(dtype.numpy)])


def engine(values: list[np.ndarray], result: E, isa: str) -> np.ndarray:
    made = OneStep(np.random.default_rng(0))
    views = [made.operand(v, broadcast=False, dense=True) for v in values]
    made.step(Kernel.MAP, views, [made.result(values[0].shape, DType.of(values[0]), dense=True)], epilogue=[result])
    return EngineProgram(made.program, [], isa=isa).run(made.arrays)[0]


def ulps(found: np.ndarray, truth: np.ndarray) -> float:
    """The largest error in units of the last place; infinities and NaN must be where they belong."""
    with np.errstate(all="ignore"):
        nearest = truth.astype(found.dtype)
        assert (np.isnan(found) == np.isnan(nearest)).all(), "NaN in the wrong place"
        ends = np.isinf(nearest) | np.isinf(found)
        edge = np.abs(truth) > np.finfo(found.dtype).max * WIDE(1 - 1e-7 if found.dtype == np.float32 else 1 - 1e-15)
        assert (found[ends & ~edge] == nearest[ends & ~edge]).all(), "infinity in the wrong place"
        kept = np.isfinite(nearest) & np.isfinite(found)
        unit = np.maximum(np.spacing(np.abs(nearest[kept])), np.finfo(found.dtype).smallest_subnormal)
        return float((np.abs(found[kept].astype(WIDE) - truth[kept]) / unit).max(initial=0))


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE], ids=lambda d: d.text)
@pytest.mark.parametrize("op", TRUTH, ids=lambda o: o.name)
def test_function(op: Op, dtype: DType) -> None:
    x = samples(dtype, 20000)
    with np.errstate(all="ignore"):
        truth = TRUTH[op](x.astype(WIDE))
    for isa in isas():
        error = ulps(engine([x], unary(op, leaf(0, dtype)), isa), truth)
        assert error <= BOUND[dtype], f"{isa}: {op.name} is off by {error:.2f} ulp"


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE], ids=lambda d: d.text)
def test_erf(dtype: DType) -> None:
    x, truth = erf_long(20000)
    if dtype is DType.FLOAT:
        x = x.astype(np.float32)
        root = np.sqrt(WIDE(4) * np.arctan(WIDE(1)))
        truth = truth + 2 / root * np.exp(-(x.astype(WIDE) ** 2)) * (x.astype(WIDE) - erf_long(20000)[0])  # rounding moved the points a little
    for isa in isas():
        error = ulps(engine([x], unary(Op.ERF, leaf(0, dtype)), isa), truth)
        assert error <= BOUND[dtype], f"{isa}: erf is off by {error:.2f} ulp"
        edge = engine([np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 30.0], dtype.numpy)], unary(Op.ERF, leaf(0, dtype)), isa)
        np.testing.assert_array_equal(edge, np.array([0, -0.0, 1, -1, np.nan, 1], dtype.numpy))


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE], ids=lambda d: d.text)
def test_power(dtype: DType) -> None:
    rng = np.random.default_rng(3)
    n = 60000
    x = np.concatenate([np.exp(rng.uniform(-80, 80, n)), rng.uniform(0.9, 1.1, n), rng.uniform(-5, 5, n)]).astype(dtype.numpy)
    y = np.concatenate([rng.uniform(-8, 8, n), rng.uniform(-600, 600, n), rng.integers(-9, 10, n)]).astype(dtype.numpy)
    edges = np.asarray([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, np.inf, -np.inf, np.nan, 3.0, -3.0, 1e300, 1e-310], dtype.numpy)
    x, y = np.concatenate([x, np.repeat(edges, len(edges))]), np.concatenate([y, np.tile(edges, len(edges))])
    with np.errstate(all="ignore"):
        truth = np.power(x.astype(WIDE), y.astype(WIDE))
    for isa in isas():
        error = ulps(engine([x, y], binary(Op.POW, leaf(0, dtype), leaf(1, dtype)), isa), truth)
        assert error <= BOUND[dtype], f"{isa}: pow is off by {error:.2f} ulp"
    made = engine([x], binary(Op.POW, leaf(0, dtype), const(3, Compute.F32 if dtype is DType.FLOAT else Compute.F64)), isas()[0])
    with np.errstate(all="ignore"):
        assert ulps(made, x.astype(WIDE) ** 3) <= BOUND[dtype]


def test_float_remainders_are_exact() -> None:
    rng = np.random.default_rng(4)
    for dtype in (DType.FLOAT, DType.DOUBLE):
        bits = [rng.integers(0, 1 << dtype.bits, 20000, np.uint64).astype(f"u{dtype.bits // 8}").view(dtype.numpy) for _ in range(2)]
        x, y = (np.concatenate([b, rng.uniform(-50, 50, 5000).astype(dtype.numpy)]) for b in bits)
        with np.errstate(all="ignore"):
            for isa in isas():
                np.testing.assert_array_equal(engine([x, y], binary(Op.FMOD, leaf(0, dtype), leaf(1, dtype)), isa), np.fmod(x, y))


def test_half_precision_rounds_to_nearest_even() -> None:
    """Every float16 and bfloat16 loads exactly; floats around every step are stored as NumPy stores them."""
    from tests.engine.test_map import one_map
    halves = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (DType.FLOAT16, DType.BFLOAT16):
        values = halves.view(dtype.numpy)
        wide = values.astype(np.float32)
        around = np.concatenate([wide, np.nextafter(wide, np.float32(np.inf)), np.nextafter(wide, np.float32(-np.inf)), (wide[:-1] + wide[1:]) / 2])
        rng = np.random.default_rng(1)
        one_map(rng, [values], leaf(0, dtype) * 1, DType.FLOAT).check()
        one_map(rng, [around[np.isfinite(around)]], leaf(0, DType.FLOAT), dtype).check()


@pytest.mark.parametrize("isa", isas())
def test_gelu_behind_a_product(isa: str) -> None:
    """half · x · (1 + erf(x / 2)), which has a loop of its own there: within 2^-22 of |x|."""
    t, truth = erf_long(20000)
    x = np.concatenate([2 * t, [np.inf, -np.inf, np.nan, 1e38, -1e38, 0.0]]).astype(np.float32)
    made = OneStep(np.random.default_rng(0))
    a, b = made.operand(np.ones((3, 1), np.float32), dense=True, broadcast=False), made.operand(x[None], dense=True, broadcast=False)
    y = acc(DType.FLOAT)
    made.step(Kernel.MATMUL, [a, b], [made.result((3, x.size), DType.FLOAT, dense=True)], {"zero_a": -1, "zero_b": -1}, [0.5 * y * (1 + unary(Op.ERF, y * 0.5))])
    for row in made.run(isa)[0]:
        assert (np.abs(row[:t.size] - x[:t.size].astype(WIDE) / 2 * (1 + truth)) <= 2.0**-22 * np.abs(x[:t.size])).all()
        np.testing.assert_array_equal(row[t.size:], np.array([np.inf, np.nan, np.nan, 1e38, -0.0, 0], np.float32))
