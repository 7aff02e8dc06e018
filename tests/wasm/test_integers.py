"""The modules' integer products with their epilogues: the random steps of tests/engine against the interpreter."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.types import DType

from tests.engine.one_step import OneStep
from tests.engine.test_integer import LARGE, Step, conv, matmul, square
from tests.engine.test_nbits import case
from tests.engine.test_requantise import a_map, convolution, product

from .machine import BUILDS, WasmProgram


def check(step: OneStep, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Both modules give what the interpreter gives."""
    want = step.expected()
    for build in BUILDS:
        program = WasmProgram(step.program, step.constants, build=build)
        made = [r.window(y) for r, y in zip(step.results, program.run(step.arrays), strict=True)]
        program.close()
        for a, w in zip(made, want, strict=True):
            if w.dtype.kind == "f":
                np.testing.assert_allclose(a, w, rtol=rtol, atol=atol, err_msg=build)
            else:
                np.testing.assert_array_equal(a, w, build)


@pytest.mark.parametrize("form", ["bytes", "residual", "dequantised"])
@pytest.mark.parametrize("build", [product, convolution], ids=lambda f: f.__name__)
def test_epilogues(build: Any, form: str) -> None:
    for seed in range(60, 80):
        check(build(form, np.random.default_rng(seed)))


@pytest.mark.parametrize("kind", ["quantise", "sum", "table", "dequantise"])
def test_maps(kind: str) -> None:
    for seed in range(40):
        check(a_map(kind, np.random.default_rng(seed)))


def test_convolutions() -> None:
    for seed in range(9000, 9050):
        check(conv(np.random.default_rng(seed)))


@pytest.mark.parametrize("size", LARGE)
def test_large_products(size: tuple[int, int, int]) -> None:
    for seed in range(4):
        check(matmul(np.random.default_rng(seed), size))


def test_gathered_rows() -> None:
    """Enough rows that Strassen's method takes them."""
    for seed in range(2):
        check(square(np.random.default_rng(seed), 64, 260, (52, 50), 1, seed == 1, False, stride=2))
    check(square(np.random.default_rng(0), 64, 256, (52, 50), 1, False, True, stride=2))


def test_squares() -> None:
    for c, m, space, pad in ((32, 33, (13, 9), 1), (48, 70, (20, 7), 0)):
        for seed in range(2):
            check(square(np.random.default_rng(seed), c, m, space, pad, seed == 1, False))
    check(square(np.random.default_rng(0), 896, 32, (8, 9), 1, False, True))


def test_weights_in_blocks() -> None:
    """Activations that rounding does not change (tests/engine/test_nbits.py)."""
    for seed in range(5000, 5080):
        step = case(np.random.default_rng(seed))
        most = max(float(np.abs(y.astype(np.float64)).max(initial=0)) for y in step.expected())
        check(step, 1e-6, 1e-6 * most)


@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_largest_sums_of_weights_in_blocks(block: int, rows: int) -> None:
    """All products of a lane are as large as they can be, of one sign and of the other."""
    step = Step(np.random.default_rng(block))
    blocks = -(-300 // block)
    a = np.full((rows, 300), 127, np.float32)
    a[-1] *= -1
    weights, scales, zeros = np.full((33, blocks, block // 2), 0xFF, np.uint8), np.ones((33, blocks), np.float32), np.zeros((33, -(-blocks // 2)), np.uint8)
    operands = [step.operand(a, broadcast=False), step.constant(weights, Packing.NIBBLES), step.constant(scales, Packing.SCALES), step.operand(zeros, broadcast=False)]
    params = {"zero_a": -1, "zero_b": -1, "bits": 4, "block": block, "block_scales": 2, "block_zeros": 3, "level": 4}
    check(step.step(Kernel.MATMUL, operands, [step.result((rows, 33), DType.FLOAT)], params), 0, 0)
