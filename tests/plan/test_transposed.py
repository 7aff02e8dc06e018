"""Transposed convolutions as plain ones, a phase of the outputs each."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper, numpy_helper
from sardonyx.kernels import Kernel


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("channels", "filters", "kernel", "strides", "pads", "extra", "size"), [
    (3, 5, (4, 4), (2, 2), (1, 1, 1, 1), (0, 0), (7, 6)), (8, 16, (4, 4), (2, 2), (0, 0, 0, 0), (0, 0), (5, 5)), (4, 4, (6, 3), (3, 1), (2, 1, 1, 1), (0, 0), (5, 9)),
    (4, 6, (4, 4), (2, 2), (3, 2, 1, 0), (1, 1), (9, 5)), (2, 3, (9, 4), (3, 2), (4, 1, 0, 2), (2, 1), (3, 4)), (4, 4, (4, 4), (2, 2), (1, 1, 1, 1), (0, 0), (1, 1)),
])
def test_transposed_in_phases(channels: int, filters: int, kernel: Any, strides: Any, pads: Any, extra: Any, size: Any, dynamic: bool) -> None:
    """Constant weights whose windows overlap: plain convolutions, one for each phase of the outputs, against the NumPy body."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, channels, *size)).astype(np.float32)
    constants = {"w": rng.standard_normal((channels, filters, *kernel)).astype(np.float32), "b": rng.standard_normal(filters).astype(np.float32)}
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["c"], strides=strides, pads=pads, output_padding=extra), helper.make_node("Relu", ["c"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", channels, "height", "width"] if dynamic else x.shape)], [helper.make_tensor_value_info("y", 1, None)],
                              [numpy_helper.from_array(v, n) for n, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    ours, reference = (sardonyx.InferenceSession(model, providers=[name]) for name in ("CPUExecutionProvider", "ReferenceExecutionProvider"))
    np.testing.assert_allclose(ours.run(None, {"x": x})[0], reference.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)
    kinds = [step.kind for runner in ours._executor.latest.blocks.runners for step in runner.program.steps]
    assert kinds.count(Kernel.CONV) == strides[0] * strides[1]
