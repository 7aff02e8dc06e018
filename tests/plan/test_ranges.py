"""The ranges stage: integers that fit are computed in 32 bits, and nothing changes."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.expr import Compute, Op
from sardonyx.graph import Graph, Model, Value
from sardonyx.plan.lower import lower
from sardonyx.plan.planner import plan
from sardonyx.plan.ranges import narrow
from sardonyx.plan.shapes import infer_plan, infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.types import DType, TensorType

SMALL = np.array([3, -7, 100], np.int64)
LARGE = np.array([1 << 40, -5, 7], np.int64)


def model(kind: str, dtype: DType, constant: np.ndarray) -> Model:
    """out = kind(int64(x), constant), then + constant."""
    graph = Graph(kind)
    x = Value("x", TensorType(dtype, (5, 3)))
    graph.inputs = [x]
    wide = graph.node("Cast", [x], to=int(DType.INT64)).outputs[0]
    made = graph.node(kind, [wide, graph.constant(constant)]).outputs[0]
    if kind != "Less":
        made = graph.node("Add", [made, graph.constant(constant)]).outputs[0]
    graph.outputs = [made]
    whole = Model(graph)
    infer_shapes(whole)
    return whole


def types(whole: Model) -> set[Compute]:
    """Compute types of the arithmetic after the stage, on calls that are not fused yet."""
    lowered = lower(whole.graph.inputs, whole.graph.nodes, whole.graph.outputs, infer_plan(whole.graph))
    narrow(lowered, {})
    return {a.type for c in lowered.calls for e in c.epilogue for n in _all(e) if n.op in (Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.LT) for a in n.args}


def _all(node: object) -> list[object]:
    return [node, *(x for a in node.args for x in _all(a))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Min", "Max", "Less"])
@pytest.mark.parametrize(("dtype", "constant", "expected"), [(DType.INT8, SMALL, {Compute.I32}), (DType.INT8, LARGE, {Compute.I64}), (DType.INT64, SMALL, {Compute.I64})])
def test_integers_that_fit(kind: str, dtype: DType, constant: np.ndarray, expected: set[Compute]) -> None:
    whole = model(kind, dtype, constant)
    assert types(whole) <= expected | ({Compute.I64} if constant is LARGE else set())
    assert constant is LARGE or types(whole) == expected
    info = np.iinfo(dtype.numpy)
    x = np.random.default_rng(0).integers(info.min, info.max, (5, 3), dtype.numpy, endpoint=True)
    x.flat[:2] = info.min, info.max
    made = plan(whole)
    (out,) = Interpreter(made.program, made.constants).run([x])
    (want,) = ReferenceExecutor(whole).run([x], [0], RunContext())
    np.testing.assert_array_equal(out, want, strict=True)


def test_a_product_that_does_not_fit_stays_wide() -> None:
    whole = model("Mul", DType.INT32, SMALL)
    assert Compute.I64 in types(whole)
