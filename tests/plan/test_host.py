"""What runs on the host is listed, and what does so until a run says more."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.converter.stored import plan_stored
from sardonyx.dim import symbol
from sardonyx.graph import Graph, Model, Value
from sardonyx.ops import lookup
from sardonyx.ops.host import HOST_ONLY
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import NAME, EngineExecutor
from sardonyx.providers.reference import NAME as REFERENCE
from sardonyx.types import DType, TensorType


@pytest.mark.parametrize("domain, name", HOST_ONLY)
def test_the_host_runs_what_has_no_kernels(domain: str, name: str) -> None:
    operator = lookup(domain, name)
    assert operator.host_only and operator.lowering is None, f"{name} has a lowering: take it off the list"


def test_values_of_a_run_are_said_to_be_planned_for() -> None:
    g = Graph("sums")
    x, axes = Value("x", TensorType(DType.FLOAT, (symbol("n"), 4))), Value("where", TensorType(DType.INT64, (1,)))
    g.inputs = [x, axes]
    g.outputs = [g.node("ReduceSum", [x, axes], [Value("y")]).outputs[0]]
    executor, said = EngineExecutor(Model(g), threads=1), "a run plans for the value of 'where' that it gives"
    (before,) = executor.placements()
    assert before.provider == REFERENCE and said in before.reason and said in plan_stored(Model(g))[1]
    np.testing.assert_array_equal(executor.run([np.ones((2, 4), np.float32), np.array([1])], [0], RunContext())[0], [[4], [4]])
    (after,) = executor.placements()
    assert (after.provider, after.reason) == (NAME, "")
