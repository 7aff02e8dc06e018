"""Types NumPy lacks where ml_dtypes is not installed: what the API takes and gives, and what it says where it can not."""
from __future__ import annotations

import subprocess
import sys

import numpy as np
from onnx import TensorProto, helper

CODE = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, sardonyx, pytest
from sardonyx import OrtValue
twice, softmax = (bytes.fromhex(text) for text in sys.argv[1:])
session = sardonyx.InferenceSession(twice, providers=["CPUExecutionProvider"])
bits = (np.array([1.5, -2.0, 3.25], np.float32).view(np.uint32) >> 16).astype(np.uint16)
given = OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)
assert given.element_type() == 16 and given.data_type() == "tensor(bfloat16)"
made = session.run(None, {"x": given})[0]
assert made.dtype.names == ("bfloat16",), made.dtype
print((made.view(np.uint16).astype(np.uint32) << 16).view(np.float32).tolist())
print(session.run_with_ort_values(None, {"x": given})[0].data_type())
with pytest.raises(sardonyx.errors.InvalidArgument, match=r"OrtValue.ortvalue_from_numpy_with_onnx_type\\(array, 16\\) takes an array of uint16 .*bits$"):
    session.run(None, {"x": bits})
with pytest.raises(sardonyx.errors.InvalidArgument, match="installed before sardonyx is imported, converts numbers"):
    session.run(None, {"x": np.ones(3, np.float32)})
reference = sardonyx.InferenceSession(softmax, providers=["ReferenceExecutionProvider"])
with pytest.raises(sardonyx.errors.NotImplemented, match="the body of Softmax computes with bfloat16, which NumPy lacks; `pip install ml_dtypes`"):
    reference.run(None, {"x": given})
"""


def model(op: str, *names: str) -> bytes:
    graph = helper.make_graph([helper.make_node(op, [*names], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [3])],
                              [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [3])])
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10).SerializeToString()
    return data


def test_bits_in_and_bits_out() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, model("Add", "x", "x").hex(), model("Softmax", "x").hex()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(np.array([3.0, -4.0, 6.5]).tolist()), "tensor(bfloat16)"]
