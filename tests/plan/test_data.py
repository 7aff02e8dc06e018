"""Sizes that data decide, and control flow: random graphs on the reference, the interpreter and the engine, for several sizes and numbers, with one plan; and planned for static sizes."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.errors import RuntimeException, SardonyxError
from sardonyx.graph import Model
from sardonyx.plan.shapes import infer_plan
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor
from sardonyx.types import TensorType

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
            except RuntimeException as reason:
                assert "sizes overflow" in str(reason), reason   # a Reshape to a computed size of 0 beside -1: refused, where the reference reads the 0 as "copy"
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


@pytest.mark.slow
def test_many_random_data_graphs() -> None:
    assert sum(check(seed) for seed in range(SHORT, LONG)) > LONG


@pytest.mark.parametrize("seed", range(20))
def test_invariants_of_data_graphs(seed: int) -> None:
    model = data_model(seed)
    assert checked_package(model, infer_plan(model.graph), {}, {"n": 3, "m": 4}) > 0
