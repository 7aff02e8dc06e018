"""The far side of a case that runs in a Python without ml_dtypes and onnx: in Pyodide (`pyodide.py`), or in a process that forbids them (`test_without_ml_dtypes.py`). Standard library, NumPy and
sardonyx only. Tensors cross ("bits", ONNX code, shape, bytes in memory) where NumPy has no type for them, as arrays otherwise.
"""
from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from sardonyx.types import DType


def packed(value: Any) -> Any:
    """A value as it crosses."""
    if isinstance(value, np.ndarray) and not (dtype := DType.of(value)).is_numpys_own:
        return ("bits", int(dtype), value.shape, np.ascontiguousarray(value).view(np.uint8).tobytes() if value.size else b"")
    return [packed(v) for v in value] if isinstance(value, list) else value


def unpacked(value: Any) -> Any:
    """The inverse of `packed`, by what `OrtValue.ortvalue_from_numpy_with_onnx_type` offers a user: bits and an ONNX type."""
    if isinstance(value, tuple):
        from sardonyx import OrtValue
        _, code, shape, data = value
        bits = np.frombuffer(data, f"u{DType(code).numpy.itemsize}").reshape(shape)
        return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code).numpy()
    return [unpacked(v) for v in value] if isinstance(value, list) else value


def answer(message: bytes) -> bytes:
    """A pickled (bytes of a .sdx, inputs) → a pickled (outputs, where it ran) or (error, None)."""
    try:
        sdx, inputs = pickle.loads(message)
        outputs, place = run(sdx, [unpacked(x) for x in inputs])
        return pickle.dumps(([packed(y) for y in outputs], place), protocol=5)
    except Exception as error:
        return pickle.dumps((f"{type(error).__name__}: {error}", None), protocol=5)


def run(sdx: bytes, inputs: list[Any]) -> tuple[list[Any], str]:
    """Outputs, and "strict", "no kernel" or why a node ran on a NumPy body."""
    from sardonyx.model import read_model
    from sardonyx.providers.base import RunContext
    from sardonyx.providers.engine import EngineExecutor
    model = read_model(sdx)
    executor = EngineExecutor(model, threads=1)
    given = list(inputs) + [None] * (len(model.graph.inputs) - len(inputs))
    given = [v.const.numpy() if x is None and v.const is not None else x for x, v in zip(given, model.graph.inputs, strict=True)]
    outputs = executor.run(given, range(len(model.graph.outputs)), RunContext())
    reasons = list(executor.latest.fallbacks.values())
    place = reasons[0] if reasons else "no kernel" if executor.latest.blocks.stepless else "strict"
    executor.close()
    return outputs, place
