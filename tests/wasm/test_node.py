"""The modules under node: alone, and with 1 and 3 workers on shared memory, bit for bit the same."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType

from tests.engine.models import MODELS, feeds, planned
from tests.engine.test_integer import Step

from .machine import BUILDS
from .node import NODE, Case, run

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


def cases(runs: int, budget: int = 0) -> list[Case]:
    made = []
    for name in MODELS:
        plan, given = planned(name), feeds(name, np.random.default_rng(5))
        want = Interpreter(plan.program, plan.constants).run(given)
        made.append(Case(name, plan.program, plan.constants, given, want, runs, budget))
    for name, step in (("bytes", product_of_bytes()), ("nibbles", row_of_nibbles())):
        made.append(Case(name, step.program, step.constants, step.arrays, Interpreter(step.program, step.constants).run(step.arrays), runs, budget))
    return made


def product_of_bytes() -> Step:
    """One that is cut into rectangles, whose workers keep what they made of A (gemm_int.c)."""
    step = Step(rng := np.random.default_rng(6))
    operands = [step.operand(rng.integers(0, 256, (450, 400), np.uint8), broadcast=False, dense=True), step.constant(rng.integers(-128, 128, (400, 330), np.int8), Packing.MATRIX),
                step.operand(np.array(131, np.uint8), broadcast=False)]
    return step.step(Kernel.MATMUL, operands, [step.result((450, 330), DType.INT32, dense=True)], {"zero_a": 2, "zero_b": -1})  # type: ignore[return-value]


def row_of_nibbles() -> Step:
    """One row by weights of 4 bits, as a language model's; whole numbers that rounding to bytes does not change."""
    step = Step(rng := np.random.default_rng(7))
    a = rng.integers(-127, 128, (1, 512)).astype(np.float32)
    a[:, ::32] = 127
    operands = [step.operand(a, broadcast=False, dense=True), step.constant(rng.integers(0, 256, (1000, 16, 16), np.uint8), Packing.NIBBLES),
                step.constant(np.ones((1000, 16), np.float32), Packing.SCALES)]
    params = {"zero_a": -1, "zero_b": -1, "bits": 4, "block": 32, "block_scales": 2, "block_zeros": 0, "level": 4}
    return step.step(Kernel.MATMUL, operands, [step.result((1, 1000), DType.FLOAT, dense=True)], params)  # type: ignore[return-value]


@pytest.mark.parametrize("build", BUILDS)
def test_workers(build: str, tmp_path: Path) -> None:
    """Without threads, with shared memory and 0, 1 and 3 workers: all results are the same bytes, run after run, and everything is given back."""
    given = cases(8)
    alone = run(given, tmp_path, build)
    for workers in (0, 1, 3):
        made = run(given, tmp_path, f"{build}-threads", workers)
        for case, a, b in zip(given, alone["cases"], made["cases"], strict=True):
            assert a["same"] and b["same"], case.name
            for want, x, y in zip(case.outputs, a["outputs"], b["outputs"], strict=True):
                assert x.tobytes() == y.tobytes(), f"{case.name}, {workers} workers"
                np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


def test_yields(tmp_path: Path) -> None:
    """A budget of a nanosecond returns after every step, and changes no result."""
    for build, workers in (("simd128", 0), ("simd128-threads", 2)):
        for case, found in zip(cases(2), run(cases(2, 1), tmp_path, build, workers)["cases"], strict=True):
            assert found["yields"] >= len(case.program.steps) // 2
            for want, y in zip(case.outputs, found["outputs"], strict=True):
                np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
