"""Small models for the tests of passes: written in ONNX's text form, run before and after through the reference executor."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper, parser
from sardonyx.converter.onnx import load_model
from sardonyx.converter.passes import Pass, run_passes
from sardonyx.graph import Model
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceProvider

random = np.random.default_rng(7)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Random normal numbers."""
    return random.standard_normal(shape).astype(dtype)


def build(signature: str, body: str, constants: Mapping[str, Any] | None = None, opset: int = 24) -> Model:
    """A model of `signature` ("(float[n, 4] x) => (float[n, 4] y)") and nodes, one a line, each named after its first output; constants are arrays or numbers (float32)."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> g {signature} {{ {body} }}')
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    for name, value in (constants or {}).items():
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.int64 if isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value) else np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return load_model(model)


def run(model: Model, feeds: Sequence[Any]) -> list[Any]:
    """All outputs."""
    return ReferenceProvider().compile(model, {}).run(feeds, range(len(model.graph.outputs)), RunContext(seed=0))


def operators(model: Model) -> dict[str, int]:
    """How many nodes of each operator, nested graphs included."""
    return dict(Counter(node.op_type for node in model.graph.walk()))


def distance(before: Sequence[Any], after: Sequence[Any]) -> float:
    """The greatest difference, relative to the tensor's scale; types, shapes and what is NaN must agree, and everything that is not a float."""
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if isinstance(old, list):
            worst = max(worst, distance(old, new))
            continue
        assert old.dtype == new.dtype and old.shape == new.shape, f"{old.dtype}{old.shape} became {new.dtype}{new.shape}"
        if old.dtype.kind != "f":
            assert np.array_equal(old, new)
        elif old.size:
            assert np.array_equal(np.isnan(old), np.isnan(new)), "NaN in other places"
            wide, other = np.nan_to_num(old.astype(np.float64)), np.nan_to_num(new.astype(np.float64))
            worst = max(worst, float(np.abs(wide - other).max() / max(np.abs(wide).max(), 1e-6)))
    return worst


def interface(model: Model) -> list[tuple[str, str]]:
    """Names and types of inputs and outputs."""
    return [(v.name, str(v.type)) for v in (*model.graph.inputs, *model.graph.outputs)]


def check(model: Model, passes: Sequence[Pass], feeds: Sequence[Any], expected: Mapping[str, int] | None, tolerance: float = 1e-5) -> Model:
    """Run the passes: the results stay, the interface stays, every node knows what it came from, and the operators left are the expected ones."""
    before, outside = run(model, feeds), interface(model)
    names = {name for node in model.graph.walk() for name in node.origin}
    run_passes(model, passes)
    assert interface(model) == outside
    for node in model.graph.walk():
        assert node.origin and set(node.origin) <= names or node.op_type == "Identity", f"{node!r} has origin {node.origin}"
    assert distance(before, run(model, feeds)) <= tolerance
    if expected is not None:
        assert operators(model) == dict(expected), str(model.graph)
    return model


__all__ = ["build", "check", "distance", "helper", "interface", "normal", "operators", "run"]
