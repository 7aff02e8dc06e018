"""Factors of features in the weights (core/plan/affine.py): the numbers stay, the multiplications go, and what is read twice is left alone."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.dim import symbol
from sardonyx.expr import Op
from sardonyx.graph import Model
from sardonyx.kernels import Kernel
from sardonyx.plan import planner
from sardonyx.plan.fold import nodes
from sardonyx.plan.lower import Lowered
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor

from tests.engine.models import Build

rng = np.random.default_rng(5)


def vector(*shape: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def normalised(b: Build, y: Any, channels: int = 6) -> Any:
    return b.BatchNormalization(y, *(vector(channels) for _ in range(4)))


def after(b: Build, y: Any) -> dict[str, Callable[[], Any]]:
    """What may follow a product with six features."""
    shape = (6, 1, 1)
    return {
        "normalised": lambda: normalised(b, y), "twice": lambda: normalised(b, normalised(b, y)), "relu": lambda: b.Relu(normalised(b, y)),
        "read twice": lambda: b.Mul(x := normalised(b, y), b.Clip(b.Add(x, np.float32(3)), np.float32(0), np.float32(6))),
        "read twice in the middle": lambda: b.Add(b.Mul(x := b.Add(y, vector(*shape)), vector(*shape)), x),
        "squared": lambda: b.Mul(x := b.Mul(y, vector(*shape)), x), "divided": lambda: b.Sub(vector(*shape), b.Div(y, vector(*shape))),
        "quotient": lambda: b.Div(vector(*shape), b.Add(y, np.float32(40))),
        "residual": lambda: b.Relu(b.Add(normalised(b, y), b.graph.inputs[0])), "after relu": lambda: normalised(b, b.Relu(y)),
        "a scalar": lambda: b.Mul(b.Add(y, np.float32(2)), np.float32(0.5)),
    }


def model(name: str, kind: str) -> Model:
    b = Build()
    x = b.input("x", (symbol("n"), 6, 5, 5))
    if kind == "Conv":
        y = b.Conv(x, rng.standard_normal((6, 6, 3, 3)).astype("f4"), pads=[1, 1, 1, 1])
    elif kind == "depthwise":
        y = b.Conv(x, rng.standard_normal((6, 1, 3, 3)).astype("f4"), vector(6), pads=[1, 1, 1, 1], group=6)
    else:
        y = b.ConvTranspose(x, rng.standard_normal((6, 6, 3, 3)).astype("f4"), pads=[1, 1, 1, 1])
    return b.model(after(b, y)[name]())


@pytest.mark.parametrize("kind", ["Conv", "depthwise", "ConvTranspose"])
@pytest.mark.parametrize("name", after(Build(), None))
def test_numbers_stay(name: str, kind: str) -> None:
    made = model(name, kind)
    infer_shapes(made)
    x = rng.standard_normal((2, 6, 5, 5)).astype(np.float32)
    want = ReferenceExecutor(made).run([x], [0], RunContext())
    plan = planner.plan(made, {"n": (1, 4)})
    np.testing.assert_allclose(Interpreter(plan.program, plan.constants).run([x])[0], want[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["normalised", "twice", "relu", "residual"])
def test_multiplications_go(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Lowered] = []
    inner = planner.choose_layout
    monkeypatch.setattr(planner, "choose_layout", lambda lowered: (seen.append(lowered), inner(lowered))[1])
    made = model(name, "Conv")
    infer_shapes(made)
    planner.plan(made, {"n": (1, 4)})
    convs = [c for c in seen[0].calls if c.kind is Kernel.CONV]
    assert len(convs) == 1
    assert not any(n.op in (Op.MUL, Op.DIV, Op.SUB, Op.SQRT) for e in convs[0].epilogue for n in nodes(e))


@pytest.mark.parametrize("gelu", [False, True])
def test_factors_after_a_bias(gelu: bool) -> None:
    """(x w + b) · s is an affine map of x w; in x · (1 + erf(x · s)), x = a w + b, only a part is."""
    constants = {"w": rng.standard_normal((6, 20)), "b": rng.standard_normal(20), "s": np.full(1, 0.70710678), "one": np.ones(1)}
    steps = [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["x"]), helper.make_node("Mul", ["x", "s"], ["y" if not gelu else "z"])]
    if gelu:
        steps += [helper.make_node("Erf", ["z"], ["e"]), helper.make_node("Add", ["e", "one"], ["f"]), helper.make_node("Mul", ["x", "f"], ["y"])]
    graph = helper.make_graph(steps, "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 6])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = {"a": rng.standard_normal((5, 6)).astype(np.float32)}
    ours, reference = (sardonyx.InferenceSession(model, options, providers=[name]).run(None, given)[0] for name in ("CPUExecutionProvider", "ReferenceExecutionProvider"))
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)
