"""Attention that is spelled out becomes one kernel call, and gives what the operators give one by one."""
from __future__ import annotations

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel

FLOAT = TensorProto.FLOAT


def spelled(form: str, lengths: tuple[str, str] = ("total", "total"), rank: int = 4) -> bytes:
    """softmax(scale(q kᵀ) and mask) v, keys of symbolic length `lengths[0]` and a mask of `lengths[1]`."""
    lead = ["batch", 3] if rank == 4 else ["heads"]
    constants = {"eight": np.float32(8.0), "tenth": np.array([0.1], np.float32), "low": np.float32(-np.inf)}
    steps = {"plain": [("Identity", ["raw"], "scores")], "divided": [("Div", ["raw", "eight"], "scores")],
             "scaled and masked": [("Mul", ["tenth", "raw"], "scaled"), ("Add", ["mask", "scaled"], "scores")],
             "kept": [("Mul", ["raw", "tenth"], "scaled"), ("Where", ["seen", "scaled", "low"], "scores")],
             "masked, then scaled": [("Add", ["raw", "mask"], "summed"), ("Mul", ["summed", "tenth"], "scores")]}[form]
    nodes = [helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2] if rank == 4 else [0, 2, 1]), helper.make_node("MatMul", ["q", "kt"], ["raw"]),
             *(helper.make_node(op, given, [made]) for op, given, made in steps), helper.make_node("Softmax", ["scores"], ["w"], axis=-1), helper.make_node("MatMul", ["w", "v"], ["y"])]
    shapes = {"q": [*lead, "queries", 8], "k": [*lead, lengths[0], 8], "v": [*lead, lengths[0], 5]}
    masks = {"mask": (FLOAT, ["queries", lengths[1]]), "seen": (TensorProto.BOOL, [1, "queries", lengths[1]])}
    used = {name for node in nodes for name in node.input}
    inputs = [helper.make_tensor_value_info(n, FLOAT, s) for n, s in shapes.items()] + [helper.make_tensor_value_info(n, *m) for n, m in masks.items() if n in used]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", FLOAT, None)], [numpy_helper.from_array(x, n) for n, x in constants.items() if n in used])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def feed(session: sardonyx.InferenceSession, rng: np.random.Generator, queries: int, keys: int, rank: int = 4) -> dict[str, np.ndarray]:
    lead = (2, 3) if rank == 4 else (4,)
    made = {"q": (*lead, queries, 8), "k": (*lead, keys, 8), "v": (*lead, keys, 5), "mask": (queries, keys)}
    given = {n: rng.standard_normal(s).astype(np.float32) for n, s in made.items()} | {"seen": rng.random((1, queries, keys)) < 0.7}
    given["seen"][..., 0] = True
    return {value.name: given[value.name] for value in session.get_inputs()}


def sessions(model: bytes) -> tuple[sardonyx.InferenceSession, sardonyx.InferenceSession]:
    """The engine on the graph as it is written, and the reference."""
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL
    return sardonyx.InferenceSession(model, options, providers=["CPUExecutionProvider"]), sardonyx.InferenceSession(model, providers=["ReferenceExecutionProvider"])


def kinds(session: sardonyx.InferenceSession) -> set[Kernel]:
    return {step.kind for runner in session._executor.latest.blocks.runners for step in runner.program.steps}


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("form", ["plain", "divided", "scaled and masked", "kept"])
def test_forms(form: str, rank: int) -> None:
    if form == "kept" and rank == 3:
        pytest.skip("the mask has an axis for heads")
    ours, reference = sessions(spelled(form, rank=rank))
    for queries, keys in ((1, 7), (5, 5), (40, 33)):
        given = feed(ours, np.random.default_rng(queries), queries, keys, rank)
        np.testing.assert_allclose(ours.run(None, given)[0], reference.run(None, given)[0], rtol=1e-4, atol=1e-5)
    assert Kernel.ATTENTION in kinds(ours) and Kernel.SOFTMAX not in kinds(ours)


def test_what_is_not_attention() -> None:
    ours, reference = sessions(spelled("masked, then scaled"))
    given = feed(ours, np.random.default_rng(1), 4, 6)
    np.testing.assert_allclose(ours.run(None, given)[0], reference.run(None, given)[0], rtol=1e-4, atol=1e-5)
    assert Kernel.ATTENTION not in kinds(ours)


def test_a_mask_with_a_length_of_its_own() -> None:
    """Keys and mask are declared with different symbols: one number at a run, or the mask repeats, or bind refuses."""
    ours, reference = sessions(spelled("scaled and masked", ("past", "total")))
    given = feed(ours, np.random.default_rng(2), 3, 6)
    np.testing.assert_allclose(ours.run(None, given)[0], reference.run(None, given)[0], rtol=1e-4, atol=1e-5)
    assert Kernel.ATTENTION in kinds(ours)
    repeated = given | {"mask": given["mask"][:, :1].copy()}
    np.testing.assert_allclose(ours.run(None, repeated)[0], reference.run(None, repeated)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(SardonyxError):
        ours.run(None, given | {"mask": given["mask"][:, :4].copy()})
