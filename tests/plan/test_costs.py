"""Costs of programs against numbers worked out by hand."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.onnx import load_model
from sardonyx.kernels import Kernel
from sardonyx.plan.costs import Cost, costs
from sardonyx.plan.planner import plan


def cost_of(node: str, inputs: dict[str, tuple[int, ...]], weights: dict[str, tuple[int, ...]], kind: Kernel, **attributes: object) -> Cost:
    """The cost of the only step of that kind."""
    graph = helper.make_graph([helper.make_node(node, [*inputs, *weights], ["y"], **attributes)], "g",
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.random.default_rng(0).random(s, np.float32), n) for n, s in weights.items()])
    made = plan(load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()))
    table = made.program.bind(list(inputs.values()))
    found = [c for c, step in zip(costs(made.program, table), made.program.steps, strict=True) if step.kind is kind]
    assert len(found) == 1
    return found[0]


def test_matmul() -> None:
    """2 · 3 · 5 · 20; A, a B of two panels of 16 columns, Y."""
    assert cost_of("MatMul", {"a": (3, 5)}, {"b": (5, 20)}, Kernel.MATMUL) == Cost(600, 4 * (15 + 5 * 32 + 60))


def test_conv() -> None:
    """Output 1 × 16 × 4 × 4, 8 channels, 9 taps."""
    made = cost_of("Conv", {"x": (1, 8, 6, 6)}, {"w": (16, 8, 3, 3)}, Kernel.CONV)
    assert made == Cost(2 * 16 * 16 * 8 * 9, 4 * (8 * 36 + 16 * 72 + 16 * 16))


def test_depthwise() -> None:
    assert cost_of("Conv", {"x": (1, 8, 6, 6)}, {"w": (8, 1, 3, 3)}, Kernel.CONV, group=8).operations == 2 * 8 * 16 * 9


def test_broadcast_operands_count_once() -> None:
    """Two additions' worth of one expression: y = x + bias, bias read once."""
    assert cost_of("Add", {"x": (4, 8), "bias": (8,)}, {}, Kernel.MAP) == Cost(32, 4 * (32 + 8 + 32))


@pytest.mark.parametrize("rows", [1, 7])
def test_softmax(rows: int) -> None:
    assert cost_of("Softmax", {"x": (rows, 9)}, {}, Kernel.SOFTMAX) == Cost(5 * 9 * rows, 4 * 18 * rows)


@pytest.mark.parametrize(("directions", "weights"), [(1, True), (2, True), (2, False)])
def test_rnn(directions: int, weights: bool) -> None:
    """4 gates of 6 from 3 inputs and 6 of the state, 5 steps of 2 sequences. With constant weights the inputs' product is a step of its own."""
    given = {"w": (directions, 24, 3), "r": (directions, 24, 6)}
    made = cost_of("LSTM", {"x": (5, 2, 3), **({} if weights else given)}, given if weights else {}, Kernel.RNN, hidden_size=6, direction="forward" if directions == 1 else "bidirectional")
    assert made.operations == 2 * directions * 24 * (6 if weights else 9) * 5 * 2
