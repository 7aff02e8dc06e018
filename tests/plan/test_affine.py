"""Factors of a product's columns go into constant weights only where the whole result is scaled."""
from __future__ import annotations

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper


@pytest.mark.parametrize("gelu", [False, True])
def test_factors_after_a_bias(gelu: bool) -> None:
    """(x w + b) · s is an affine map of x w; in x · (1 + erf(x · s)), x = a w + b, only a part is."""
    rng = np.random.default_rng(3)
    constants = {"w": rng.standard_normal((6, 20)), "b": rng.standard_normal(20), "s": np.full(1, 0.70710678), "one": np.ones(1)}
    nodes = [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["x"]), helper.make_node("Mul", ["x", "s"], ["y" if not gelu else "z"])]
    if gelu:
        nodes += [helper.make_node("Erf", ["z"], ["e"]), helper.make_node("Add", ["e", "one"], ["f"]), helper.make_node("Mul", ["x", "f"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 6])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = {"a": rng.standard_normal((5, 6)).astype(np.float32)}
    ours, reference = (sardonyx.InferenceSession(model, options, providers=[name]).run(None, given)[0] for name in ("CPUExecutionProvider", "ReferenceExecutionProvider"))
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)
