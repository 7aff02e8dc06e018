"""The schedule stage: branches are finished one after the other."""
from __future__ import annotations

import numpy as np
from sardonyx.graph import Graph, Model, Value
from sardonyx.lowering import root
from sardonyx.plan.cut import cut
from sardonyx.plan.lower import lower
from sardonyx.plan.planner import own_outputs, plan
from sardonyx.plan.schedule import ordered, peak, schedule
from sardonyx.plan.shapes import infer_plan, infer_shapes
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType, TensorType


def wide(branches: int = 6) -> Model:
    """Branches that widen and narrow again, in the file's order all widened before any is narrowed."""
    graph = Graph("wide")
    x = Value("x", TensorType(DType.FLOAT, (4, 64)))
    graph.inputs = [x]
    rows = [graph.node("MatMul", [x, graph.constant(np.full((64, 512), i / 64, np.float32))]).outputs[0] for i in range(branches)]
    sums = [graph.node("ReduceSum", [r, graph.constant(np.array([1]))]).outputs[0] for r in rows]
    graph.outputs = [graph.node("Concat", sums, axis=1).outputs[0]]
    model = Model(graph)
    infer_shapes(model)
    return model


def test_a_branch_is_finished_before_the_next_is_begun() -> None:
    model = wide()
    lowered = lower(model.graph.inputs, model.graph.nodes, model.graph.outputs, infer_plan(model.graph))
    (part,) = cut(lowered).programs
    own_outputs(part)

    def most() -> int:
        reads = [{root(v.buffer) for v in c.inputs if v is not None and v.buffer.tensor is None} for c in part.calls]
        writes = [{root(v.buffer) for v in c.outputs} for c in part.calls]
        return peak(reads, writes, {b: 4 * 512 * 4 if b.shape == (4, 512) else 0 for some in (*reads, *writes) for b in some}, range(len(part.calls)))
    before = most()
    assert before == 6 * 4 * 512 * 4
    schedule(part)
    assert ordered(part.calls) and most() == 4 * 512 * 4
    made = plan(model)
    x = np.ones((4, 64), np.float32)
    (out,) = Interpreter(made.program, made.constants).run([x])
    np.testing.assert_array_equal(out, np.tile(np.arange(6, dtype=np.float32) * 512, (4, 1)))
