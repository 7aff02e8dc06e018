"""Small-integer models at every opset that has them: the same numbers whatever the file's version, in .onnx and .sdx; and what a version does not have yet is refused."""
from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from sardonyx.converter.onnx import load_model
from sardonyx.model import write_model

from .tools import FLOAT, F, session

X = np.array([[-3.0, -0.26, 0.0, 0.24, 100.0]], F)


def quantized(opset: int, dtype: type) -> bytes:
    """x → quantize → dequantize, and the codes."""
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = [numpy_helper.from_array(np.array(0.25, F), "scale"), numpy_helper.from_array(np.array(3, dtype), "zero")]
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]), helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [1, 5])],
                              [helper.make_tensor_value_info("y", FLOAT, None), helper.make_tensor_value_info("q", code, None)], constants)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("opset", range(10, 29))
def test_quantized_at_every_opset(opset: int, dtype: type) -> None:
    info = np.iinfo(dtype)
    codes = np.clip(np.round(X / 0.25) + 3, info.min, info.max)
    data = quantized(opset, dtype)
    file = io.BytesIO()
    write_model(load_model(data), file)
    for source in (data, file.getvalue()):
        y, q = session(source).run(None, {"x": X})
        assert q.dtype == dtype
        np.testing.assert_array_equal(q, codes)
        np.testing.assert_array_equal(y, (codes - 3) * 0.25)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.float16, np.bool_])
@pytest.mark.parametrize("opset", [*range(1, 29)])
def test_casts_at_every_opset(opset: int, dtype: type) -> None:
    code: Any = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=helper.tensor_dtype_to_string(code).split(".")[-1] if opset < 6 else code)], "g",
                              [helper.make_tensor_value_info("x", FLOAT, [1, 5])], [helper.make_tensor_value_info("y", code, None)])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3).SerializeToString()
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(session(data).run(None, {"x": np.abs(X)})[0], np.abs(X).astype(dtype))
