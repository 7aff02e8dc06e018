"""Attention that is spelled out becomes one kernel call, and gives what the operators give one by one."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.onnx import load_model
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel
from sardonyx.plan.shapes import infer_plan

from .invariants import checked_package

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


def cached(axis: int = 2, layers: int = 1, kept: bool = True, early: bool = False, heads: int = 3) -> bytes:
    """Decoder layers as exporters write them: Concat of past and new along `axis` (2: [b, h, t, d]; 3: keys transposed, [b, h, d, t]), products and Softmax; `early`: the new keys are read before."""
    nodes, inputs, outputs = [], [], []
    for i in range(layers):
        shapes = {"q": ["b", heads, "s", 8], "k": ["b", heads, "s", 8] if axis == 2 else ["b", heads, 8, "s"], "v": ["b", heads, "s", 5],
                  "pk": ["b", heads, "p", 8] if axis == 2 else ["b", heads, 8, "p"], "pv": ["b", heads, "p", 5]}
        inputs += [helper.make_tensor_value_info(f"{n}{i}", FLOAT, s) for n, s in shapes.items()]
        nodes += [helper.make_node("Mul", [f"k{i}", f"k{i}"], [f"kk{i}"]), helper.make_node("Concat", [f"pk{i}", f"kk{i}"], [f"K{i}"], axis=axis),
                  helper.make_node("Concat", [f"pv{i}", f"v{i}"], [f"V{i}"], axis=2)]
        if early:
            nodes.append(helper.make_node("Mul", [f"q{i}", f"mean{i}"], [f"q'{i}"]))
            nodes.insert(-1, helper.make_node("ReduceMean", [f"K{i}"], [f"mean{i}"], keepdims=0))
        if axis == 2:
            nodes.append(helper.make_node("Transpose", [f"K{i}"], [f"kt{i}"], perm=[0, 1, 3, 2]))
        nodes += [helper.make_node("MatMul", [f"q'{i}" if early else f"q{i}", f"kt{i}" if axis == 2 else f"K{i}"], [f"raw{i}"]), helper.make_node("Softmax", [f"raw{i}"], [f"w{i}"], axis=-1),
                  helper.make_node("MatMul", [f"w{i}", f"V{i}"], [f"y{i}"])]
        outputs += [helper.make_tensor_value_info(f"{n}{i}", FLOAT, None) for n in ("y", *("K", "V") * kept)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def cache_feed(session: sardonyx.InferenceSession, past: int, new: int, seed: int = 3) -> dict[str, np.ndarray]:
    sizes = {"b": 2, "s": new, "p": past}
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal([sizes[d] if isinstance(d, str) else d for d in v.shape]).astype(np.float32) for v in session.get_inputs()}


@pytest.mark.parametrize("options", [dict(), dict(axis=3), dict(kept=False), dict(layers=3)])
def test_a_cache_is_read_in_pieces(options: dict[str, Any]) -> None:
    """No Copy is left: ATTENTION reads past and new, and writes what is kept. Any past, none too."""
    ours, reference = sessions(cached(**options))
    for past, new in ((6, 1), (0, 4), (300, 2), (20, 30)):
        given = cache_feed(ours, past, new)
        for a, e in zip(ours.run(None, given), reference.run(None, given), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert kinds(ours) == {Kernel.ATTENTION, Kernel.MAP}
    steps = [step for runner in ours._executor.latest.blocks.runners for step in runner.program.steps if step.kind is Kernel.ATTENTION]
    assert all(len(step.inputs) == 6 and len(step.outputs) == (1 if options.get("kept") is False else 3) for step in steps)
    assert {name for node in ours.explain() for name in [node.provider]} == {"CPUExecutionProvider"}


def test_a_cache_that_is_read_before_stays_whole() -> None:
    ours, reference = sessions(cached(early=True))
    given = cache_feed(ours, 5, 2)
    for a, e in zip(ours.run(None, given), reference.run(None, given), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert Kernel.ATTENTION in kinds(ours) and Kernel.COPY in kinds(ours)


def test_the_operator_with_a_cache() -> None:
    """Attention with past keys and values: one kernel and nothing else."""
    node = helper.make_node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "K", "V"], is_causal=1, q_num_heads=4, kv_num_heads=2)
    shapes = {"q": ["b", "s", 32], "k": ["b", "s", 16], "v": ["b", "s", 16], "pk": ["b", 2, "p", 8], "pv": ["b", 2, "p", 8]}
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, FLOAT, s) for n, s in shapes.items()], [helper.make_tensor_value_info(n, FLOAT, None) for n in ("y", "K", "V")])
    ours, reference = sessions(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10).SerializeToString())
    for past, new in ((6, 1), (0, 4), (40, 9)):
        given = cache_feed(ours, past, new)
        for a, e in zip(ours.run(None, given), reference.run(None, given), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert kinds(ours) == {Kernel.ATTENTION}


def test_stages_hold_with_caches() -> None:
    for options in (dict(), dict(axis=3), dict(kept=False, layers=2), dict(early=True)):
        model = load_model(cached(**options))
        checked_package(model, infer_plan(model.graph), model.symbols, {"b": 2, "s": 3, "p": 4})


@pytest.mark.parametrize("kept", [False, True])
def test_heads_that_are_repeated(kept: bool) -> None:
    """Grouped queries as transformers' exporter writes them: Unsqueeze, Expand and Reshape of a cache's keys and values. Nothing is repeated or put together, unless it is wanted."""
    shape = [helper.make_node("Shape", ["K"], ["size"]), helper.make_node("Split", ["size"], ["size_b", "size_h", "size_t", "size_d"], axis=0),
             helper.make_node("Concat", ["size_b", "size_h", "three", "size_t", "size_d"], ["wide"], axis=0), helper.make_node("Concat", ["size_b", "six", "size_t", "size_d"], ["flat"], axis=0)]
    nodes = [helper.make_node("Concat", ["pk", "k"], ["K"], axis=2), helper.make_node("Concat", ["pv", "v"], ["V"], axis=2), *shape]
    for n in "KV":
        nodes += [helper.make_node("Unsqueeze", [n, "two"], [f"{n}1"]), helper.make_node("Expand", [f"{n}1", "wide"], [f"{n}2"]), helper.make_node("Reshape", [f"{n}2", "flat"], [f"{n}3"])]
    nodes += [helper.make_node("Transpose", ["K3"], ["kt"], perm=[0, 1, 3, 2]), helper.make_node("MatMul", ["q", "kt"], ["raw"]), helper.make_node("Softmax", ["raw"], ["w"], axis=-1),
              helper.make_node("MatMul", ["w", "V3"], ["y"])]
    shapes = {"q": ["b", 6, "s", 8], **{n: ["b", 2, "s", 8] for n in "kv"}, **{f"p{n}": ["b", 2, "p", 8] for n in "kv"}}
    constants = [numpy_helper.from_array(np.array([n]), name) for n, name in ((2, "two"), (3, "three"), (6, "six"))]
    outputs = ["y", "K", "V", *(["K3"] if kept else [])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, FLOAT, x) for n, x in shapes.items()], [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    ours, reference = sessions(model)
    for past, new in ((6, 1), (0, 4), (40, 9)):
        given = cache_feed(ours, past, new)
        for a, e in zip(ours.run(None, given), reference.run(None, given), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
    assert kinds(ours) == ({Kernel.ATTENTION, Kernel.COPY} if kept else {Kernel.ATTENTION})
    checked = load_model(model)
    checked_package(checked, infer_plan(checked.graph), checked.symbols, {"b": 2, "s": 3, "p": 4})
