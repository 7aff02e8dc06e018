"""Epilogues on finished blocks: sums with bounds (loops of their own) and every other expression, behind MatMul, over ragged shapes, strides and types."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sardonyx.expr import E, Op, acc, binary, leaf, select, unary
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep, numbers

F = DType.FLOAT
EPILOGUES: dict[str, Callable[[E, E, E], E]] = {
    "bias": lambda y, a, b: y + a, "bias first": lambda y, a, b: a + y, "two operands": lambda y, a, b: (y + a) + b, "relu": lambda y, a, b: binary(Op.MAX, y, 0),
    "bias relu": lambda y, a, b: binary(Op.MAX, y + a, 0), "bias clip": lambda y, a, b: binary(Op.MIN, binary(Op.MAX, y + a, 0), 6),
    "clip the other way": lambda y, a, b: binary(Op.MAX, binary(Op.MIN, y + a, 6), -1),
    "residual after relu": lambda y, a, b: binary(Op.MAX, y + a, 0) + b, "bounds that cross": lambda y, a, b: binary(Op.MIN, binary(Op.MAX, y, 3), 1), "scale": lambda y, a, b: y * 0.5 + a,
    "read twice": lambda y, a, b: (y + a) * unary(Op.SIGMOID, y + a), "gelu": lambda y, a, b: 0.5 * (y + a) * (1 + unary(Op.ERF, (y + a) * 0.7)), "operand alone": lambda y, a, b: a,
    "difference": lambda y, a, b: a - y, "selected": lambda y, a, b: select(binary(Op.LT, y, 0), y * 0.1, y) + b, "three additions": lambda y, a, b: y + a + b + a,
    "bounded by an operand": lambda y, a, b: binary(Op.MAX, y, a), "gelu alone, erf first": lambda y, a, b: (unary(Op.ERF, y * -0.7) + 1) * (y * 0.5),
    "gelu of two operands": lambda y, a, b: 0.5 * (y + a + b) * (1 + unary(Op.ERF, (y + a + b) * 0.7)),
    "gelu of relu": lambda y, a, b: 0.5 * binary(Op.MAX, y, 0) * (1 + unary(Op.ERF, binary(Op.MAX, y, 0) * 0.7)),
    "erf of another": lambda y, a, b: 0.5 * (y + a) * (1 + unary(Op.ERF, y * 0.7)), "times another": lambda y, a, b: 0.5 * y * (1 + unary(Op.ERF, (y + a) * 0.7)),
    "two and erf": lambda y, a, b: 0.5 * y * (2 + unary(Op.ERF, y * 0.7)),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_epilogue(name: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        m, k, n = int(rng.integers(1, 40)), int(rng.integers(1, 9)), int(rng.choice([1, 3, 15, 16, 17, 24, 31, 96, 200]))
        kind = [F, F, DType.FLOAT16][seed % 3]
        made = OneStep(rng)
        a, b = (made.operand(numbers(rng, s, kind, special=False), broadcast=False) for s in ((m, k), (k, n)))
        bias = numbers(rng, (n,), kind, special=seed == 1)
        leaves = [made.operand(np.broadcast_to(bias, (m, n)).copy()), made.operand(numbers(rng, (m, n), kind, special=False))]
        y = made.result((m, n), kind, dense=bool(seed % 2))
        expression = EPILOGUES[name](acc(kind), leaf(0, kind), leaf(1, kind))
        made.step(Kernel.MATMUL, [a, b, *leaves], [y], {"zero_a": -1, "zero_b": -1}, [expression], first_leaf=2)
        made.check(2e-5, 2e-5 if kind is F else 4e-3)

