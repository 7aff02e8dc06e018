"""Sizes that data decide, and control flow: random graphs on the reference, the interpreter and the engine, for several sizes and numbers, with one plan; and planned for static sizes."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.dim import symbol
from sardonyx.errors import RuntimeException, SardonyxError
from sardonyx.graph import Graph, Model, Value
from sardonyx.plan.shapes import infer_plan, infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor
from sardonyx.types import DType, TensorType

from .data_graphs import data_model, feeds
from .invariants import checked_package

SHORT, LONG = 60, 600


def static(model: Model, inputs: list[np.ndarray]) -> Model:
    """The model with the inputs' sizes as numbers."""
    for value, given in zip(model.graph.inputs, inputs, strict=True):
        assert isinstance(value.type, TensorType)
        value.type = TensorType(value.type.dtype, given.shape)
    for node in model.graph.walk():
        for made in node.outputs:
            if made is not None:
                made.type = None
    return model


def check(seed: int) -> int:
    """One graph; the number of input sets the reference could run."""
    model = data_model(seed)
    wanted = range(len(model.graph.outputs))
    reference = ReferenceExecutor(model)
    executors = {"interpreter": SegmentedExecutor(model, "interpreter", lambda plan: Interpreter(plan.program, plan.constants)), "engine": EngineExecutor(model, threads=1)}
    random = np.random.default_rng(seed)
    ran = 0
    rounds = any(node.op_type in ("Loop", "Scan") for node in model.graph.walk())   # without a round the reference does not know the sizes of what is stacked
    for n, m in ((3, 4), (3, 4), (1, 1), (5, 2), (2, 3) if rounds else (0, 3)):
        inputs = feeds(random, n, m)
        try:
            expected = reference.run(inputs, wanted, RunContext())
        except SardonyxError:
            continue
        ran += 1
        for name, executor in executors.items():
            try:
                made = executor.run(inputs, wanted, RunContext())
            except RuntimeException as reason:   # [n, -1] of what is no multiple of n: a size with a name means itself, where the reference reads a 0 as "copy"
                assert n == 0 and "divided by zero" in str(reason), reason
                continue
            assert not executor.latest.fallbacks, f"{name}: {executor.latest.fallbacks}"
            for value, want, got in zip(model.graph.outputs, expected, made, strict=True):
                np.testing.assert_array_equal(got, want, strict=True, err_msg=f"{name}: {value.name} for n={n}, m={m}")
        if ran == 1:
            fixed = static(data_model(seed), inputs)
            made = SegmentedExecutor(fixed, "interpreter", lambda plan: Interpreter(plan.program, plan.constants)).run(inputs, wanted, RunContext())
            for want, got in zip(expected, made, strict=True):
                np.testing.assert_array_equal(got, want, strict=True)
    assert len(executors["engine"].variants) == 1, "one plan serves all sizes and numbers"
    return ran


@pytest.mark.parametrize("part", range(6))
def test_random_data_graphs(part: int) -> None:
    assert sum(check(seed) for seed in range(part * SHORT // 6, (part + 1) * SHORT // 6)) > SHORT // 6


@pytest.mark.parametrize("seed", [235, 722])
def test_found_graphs(seed: int) -> None:
    """235: 0 against 1, of sizes that an If leaves. 722: a size computed in a branch and again around it."""
    assert check(seed) > 1


@pytest.mark.slow
def test_many_random_data_graphs() -> None:
    assert sum(check(seed) for seed in range(SHORT, LONG)) > LONG


@pytest.mark.parametrize("seed", range(20))
def test_invariants_of_data_graphs(seed: int) -> None:
    model = data_model(seed)
    assert checked_package(model, infer_plan(model.graph), {}, {"n": 3, "m": 4}) > 0


def reshaped(shape: list[object]) -> Model:
    """Reshape(x[2, k], shape) with k from NonZero; entries of `shape` that are None are the number of places that are not 0 in a second input."""
    g = Graph("reshaped")
    x, y = (Value(name, TensorType(DType.FLOAT, s)) for name, s in (("x", (2, symbol("m"))), ("y", (symbol("n"),))))
    g.inputs = [x, y]
    places = g.node("NonZero", [y], [Value("places")]).outputs[0]
    count = g.node("Gather", [g.node("Shape", [places], [Value("s")]).outputs[0], g.constant(np.array([1]))], [Value("count")]).outputs[0]
    parts = [count if d is None else g.constant(np.array([d])) for d in shape]
    target = g.node("Concat", parts, [Value("target")], axis=0).outputs[0]
    g.outputs = [g.node("Reshape", [x, target], [Value("out")]).outputs[0]]
    infer_shapes(g)
    model = Model(g)
    model.optimized = True   # a pass would take [count, 3] for [-1, 3]
    return model


@pytest.mark.parametrize("shape", [[None, -1], [None, 3], [-1, None], [3, None]])
def test_reshape_to_a_size_that_data_make_zero(shape: list[object]) -> None:
    model = reshaped(shape)
    reference = ReferenceExecutor(model)
    executors = [SegmentedExecutor(model, "interpreter", lambda plan: Interpreter(plan.program, plan.constants)), EngineExecutor(model, threads=1)]
    for m, ones in ((3, 0), (3, 2), (0, 0), (3, 1), (2, 3)):
        inputs = [np.arange(2 * m, dtype=np.float32).reshape(2, m), np.ones(ones, np.float32)]
        try:
            expected = reference.run(inputs, [0], RunContext())
        except SardonyxError:
            for executor in executors:   # the elements do not fit the shape
                with pytest.raises(SardonyxError):
                    executor.run(inputs, [0], RunContext())
            continue
        for executor in executors:
            np.testing.assert_array_equal(executor.run(inputs, [0], RunContext())[0], expected[0], strict=True)
