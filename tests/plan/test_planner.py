"""The planner: invariants after each stage, and programs against the reference: suite models and random graphs, sizes static and symbolic, arenas poisoned."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.converter.onnx import load_model
from sardonyx.graph import Model
from sardonyx.plan import planner
from sardonyx.plan.shapes import infer_plan, infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor
from sardonyx.types import DType, TensorType

from ..conformance.suite import Case, compare, load
from ..conformance.test_shapes import declared
from .graphs import SYMBOLS, random_model
from .invariants import checked_package

#: A spread of operators: one in so many of the suite's node cases.
EVERY = 29


def sample() -> list[Case]:
    """About 60 node cases whose inputs are all tensors of numbers."""
    found = [c for c in load() if c.kind == "node" and all(isinstance(x, np.ndarray) and x.dtype != object for x in c.sets[0][0]) and "bernoulli" not in c.name]
    return found[::EVERY]


def check_stages(model: Model, sizes: dict[str, int]) -> int:
    """Plan a model with the invariants checked; how many programs it is."""
    return checked_package(model, infer_plan(model.graph), {name: (size, size) for name, size in sizes.items()}, sizes)


def symbolic(case: Case) -> tuple[Model, dict[str, int]]:
    """The case's model with a symbol for every size of its inputs, and the symbols' numbers."""
    model = load_model(case.model)
    sizes: dict[str, int] = {}
    for value, given in zip(model.graph.inputs, case.sets[0][0], strict=False):
        if isinstance(given, np.ndarray) and isinstance(value.type, TensorType) and value.const is None:
            value.type = declared("symbols", value.name, given, sizes)
    for node in model.graph.walk():
        for made in node.outputs:
            if made is not None:
                made.type = None
    return model, sizes


@pytest.mark.parametrize("case", sample(), ids=lambda c: c.name)
def test_invariants_and_results_of_suite_models(case: Case) -> None:
    check_stages(load_model(case.model), {})
    model, sizes = symbolic(case)
    check_stages(model, sizes)
    inputs, expected = case.sets[0]
    for poison in (0xA5, 0xFF):
        executor = SegmentedExecutor(model, "interpreter", lambda plan, poison=poison: Interpreter(plan.program, plan.constants, poison))
        given = list(inputs) + [v.const.numpy() for v in model.graph.inputs[len(inputs):] if v.const is not None]
        compare(case, expected, executor.run(given, range(len(model.graph.outputs)), RunContext()))


def run_plan(model: Model, ranges: dict[str, tuple[int, int | None]], inputs: list[np.ndarray]) -> list[np.ndarray]:
    """A model that is one program, planned for `ranges` and run on a poisoned arena."""
    made = planner.plan(model, ranges)
    return Interpreter(made.program, made.constants).run(inputs)


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int) -> None:
    model, inputs = random_model(seed, symbolic=False)
    infer_shapes(model)
    wanted = ReferenceExecutor(model).run(inputs, range(len(model.graph.outputs)), RunContext())
    static = run_plan(model, {}, inputs)
    check_stages(model, {})
    dynamic, same = random_model(seed, symbolic=True)
    check_stages(dynamic, SYMBOLS)
    wide = run_plan(dynamic, {name: (1, 8) for name in SYMBOLS}, same)
    for want, once, again in zip(wanted, static, wide, strict=True):
        np.testing.assert_array_equal(once, want, strict=True)
        np.testing.assert_array_equal(again, want, strict=True)


def test_a_plan_serves_every_size_in_its_range() -> None:
    model, _ = random_model(3, symbolic=True)
    made = planner.plan(model, {name: (1, 8) for name in SYMBOLS})
    runner = Interpreter(made.program, made.constants)
    for n, m in ((1, 1), (8, 8), (2, 7)):
        given = [np.zeros([{"n": n, "m": m}.get(str(d), d) for d in v.shape], np.float32) for v in model.graph.inputs]
        outputs = runner.run(given)
        wanted = ReferenceExecutor(model).run(given, range(len(outputs)), RunContext())
        for a, b in zip(outputs, wanted, strict=True):
            np.testing.assert_array_equal(a, b, strict=True)


def _dynamic_slice() -> Any:
    from sardonyx.graph import Graph, Value
    graph = Graph("slice")
    x, start = Value("x", TensorType(DType.FLOAT, (8,))), Value("start", TensorType(DType.INT64, (1,)))
    graph.inputs = [x, start]
    graph.outputs = [graph.node("Slice", [x, start, graph.constant(np.array([8]))]).outputs[0]]
    return Model(graph)


def interpreted(model: Model, **options: Any) -> SegmentedExecutor:
    return SegmentedExecutor(model, "interpreter", lambda plan: Interpreter(plan.program, plan.constants), **options)


def test_positions_that_data_decide_need_one_plan() -> None:
    executor = interpreted(_dynamic_slice(), strict=True)
    x = np.arange(8, dtype=np.float32)
    for start in (*range(-10, 10), -(1 << 63), (1 << 63) - 1):
        (made,) = executor.run([x, np.array([start])], [0], RunContext())
        np.testing.assert_array_equal(made, x[start:])
    assert len(executor.variants) == 1
