"""Models whose sizes data count (NonZero, Compress, Unique, NonMaxSuppression): planned once, run on the engine alone for data of any outcome, with more nodes behind the counted ones."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from sardonyx.converter.onnx import load_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor

Make = Callable[[np.random.Generator, int], list[np.ndarray]]


def grid(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [np.where(rng.random((n, 4)) < 0.4, rng.integers(-3, 4, (n, 4)), 0).astype(np.float32)]


def with_flags(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return [*grid(rng, n), rng.random(n) < 0.5]


def detections(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    corners = rng.uniform(0, 4, (1, n, 4)).astype(np.float32)
    return [corners, rng.uniform(0, 1, (1, 3, n)).astype(np.float32), rng.standard_normal((1, n, 5)).astype(np.float32)]


CASES: dict[str, tuple[str, Make]] = {
    "nonzero": ("(float[n, 4] x) => (int64[k, 2] places, float[k] picked) { z = NonZero(x) places = Transpose(z) g = GatherND(x, places) picked = Mul(g, g) }", grid),
    "nonzero sum": ("(float[n, 4] x) => (float[1] y) { z = NonZero(x) places = Transpose(z) g = GatherND(x, places) y = ReduceSum <keepdims = 0> (g, axes) }", grid),
    "compress": ("(float[n, 4] x, bool[n] c) => (float[k, 3] y) { r = Compress <axis = 0> (x, c) y = MatMul(r, w) }", with_flags),
    "compress flat": ("(float[n, 4] x, bool[n] c) => (float[k] y) { r = Compress(x, c) y = Exp(r) }", with_flags),
    "unique": ("(float[n, 4] x) => (float[k] u, int64[k] first, int64[m] back, float[m] again) { u, first, back, counts = Unique(x) again = Gather(u, back) }", grid),
    "unique rows": ("(float[n, 4] x) => (float[k, 3] y, int64[k] counts) { u, first, back, counts = Unique <axis = 0, sorted = 0> (x) y = MatMul(u, w) }", grid),
    "unique counts": ("(float[n, 4] x) => (int64[k] counts) { u, first, back, counts = Unique(x) }", grid),
    "boxes": ("(float[1, n, 4] boxes, float[1, c, n] scores, float[1, n, 5] seen) => (int64[k, 3] chosen, float[k, 5] y) "
              "{ chosen = NonMaxSuppression(boxes, scores, limit, iou, least) box = Gather <axis = 1> (chosen, two) s = Squeeze(seen, axes) y = Gather(s, box) }", detections),
    "two counts": ("(float[n, 4] x) => (float[a, 1] y, float[b] u) { z = NonZero(x) places = Transpose(z) g = GatherND(x, places) u, f = Unique(g) t = Unsqueeze(g, one) y = Neg(t) }", grid),
}
CONSTANTS = ("<int64[1] axes = {0}, int64[1] one = {1}, int64 two = {2}, int64[1] limit = {3}, float[1] iou = {0.4}, float[1] least = {0.2}, "
             "float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -2, -3}>")


def model_of(text: str) -> Any:
    body = text.replace("{", CONSTANTS + " {", 1)
    made: onnx.ModelProto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 22]> g {body}')
    used = {name for node in made.graph.node for name in node.input}
    kept = [t for t in made.graph.initializer if t.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return load_model(made.SerializeToString())


@pytest.mark.parametrize("name", CASES)
def test_counted_sizes(name: str) -> None:
    text, make = CASES[name]
    reference = ReferenceExecutor(model_of(text))
    executors = [EngineExecutor(model_of(text), threads=1), SegmentedExecutor(model_of(text), "interpreter", lambda plan: Interpreter(plan.program, plan.constants))]
    count = len(reference.model.graph.outputs)
    for seed, n in enumerate((5, 1, 40, 7, 300)):
        rng = np.random.default_rng(seed)
        given = make(rng, n)
        if seed == 3:
            given = [np.zeros_like(x) for x in given]   # nothing to find
        want = reference.run(given, range(count), RunContext())
        for executor in executors:
            found = executor.run(given, range(count), RunContext())
            assert not executor.latest.fallbacks
            for a, b in zip(found, want, strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert len(executors[0].variants) == 1, "one plan serves every size"


def test_bad_thresholds_are_errors() -> None:
    executor = EngineExecutor(model_of(CASES["boxes"][0].replace("iou,", "bad,").replace("{ chosen", "{ bad = Neg(least) chosen")), threads=1)
    with pytest.raises(Exception, match="(?i)index|range|outside"):
        executor.run(detections(np.random.default_rng(0), 5), range(2), RunContext())
