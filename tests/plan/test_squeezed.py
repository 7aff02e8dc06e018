"""An If that asks whether a size is 1, to drop that axis: planned as dropped where only that is right, and sizes that are not 1 are refused."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.converter.stored import plan_stored
from sardonyx.dim import symbol
from sardonyx.errors import InvalidArgument
from sardonyx.graph import Graph, Model, Value
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import NAME as REFERENCE
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor
from sardonyx.types import DType, TensorType


def squeezed(strict: bool) -> Model:
    """x[n, 4, s] → squeeze(2) if s is 1 → Gemm, which takes matrices (`strict`), or Relu, which takes all."""
    g = Graph("squeezed")
    x = Value("x", TensorType(DType.FLOAT, (symbol("n"), 4, symbol("s"))))
    g.inputs = [x]
    last = g.node("Gather", [g.node("Shape", [x], [Value("shape")]).outputs[0], g.constant(np.array([-1]))], [Value("last")]).outputs[0]
    cond = g.node("Equal", [last, g.constant(np.array([1]))], [Value("cond")]).outputs[0]
    then, other = Graph("then"), Graph("else")
    then.outputs = [then.node("Squeeze", [x, g.constant(np.array([-1]))], [Value("dropped")]).outputs[0]]
    other.outputs = [other.node("Identity", [x], [Value("kept")]).outputs[0]]
    made = g.node("If", [cond], [Value("made")], then_branch=then, else_branch=other).outputs[0]
    weights = g.constant(np.arange(12, dtype=np.float32).reshape(4, 3))
    g.outputs = [g.node("Gemm", [made, weights], [Value("y")]).outputs[0] if strict else g.node("Relu", [made], [Value("y")]).outputs[0]]
    model = Model(g)
    model.optimized = True
    return model


@pytest.mark.parametrize("engine", [False, True])
def test_only_the_dropped_axis_is_right(engine: bool) -> None:
    model = squeezed(True)
    reference = ReferenceExecutor(model)
    executor = EngineExecutor(model, threads=1) if engine else SegmentedExecutor(model, "interpreter", lambda plan: Interpreter(plan.program, plan.constants))
    assert not executor.latest.fallbacks
    for n in (3, 1, 0):
        x = np.random.default_rng(n).standard_normal((n, 4, 1)).astype(np.float32)
        np.testing.assert_allclose(executor.run([x], [0], RunContext())[0], reference.run([x], [0], RunContext())[0], rtol=1e-6)
    with pytest.raises(InvalidArgument, match="Squeeze"):
        executor.run([np.ones((3, 4, 2), np.float32)], [0], RunContext())
    assert len(executor.variants) == 1


def test_it_is_stored() -> None:
    package, why = plan_stored(squeezed(True))
    assert package is not None and len(package.blocks) == 1, why


def test_both_are_right() -> None:
    model = squeezed(False)
    executor, reference = EngineExecutor(model, threads=1), ReferenceExecutor(model)
    assert {p.provider for p in executor.placements() if p.node.op_type == "If"} == {REFERENCE}
    for s in (1, 2):
        x = np.random.default_rng(s).standard_normal((2, 4, s)).astype(np.float32)
        np.testing.assert_array_equal(executor.run([x], [0], RunContext())[0], reference.run([x], [0], RunContext())[0], strict=True)
