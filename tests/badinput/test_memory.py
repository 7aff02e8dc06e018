"""Plans beyond memory: a node whose output would exceed `session.memory_limit` is refused before it runs; opening a file takes no memory its size does not explain."""
from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper
from sardonyx.errors import InvalidArgument, MemoryLimit

from tests.api import models

from .tools import BOOL, FLOAT, INT64, MAX, F, model, node, one, refused, session, vi

HUGE = 10**7


def fed(op_type: str, *, out: int = FLOAT, names: str = "", **feed: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    """A node all of whose inputs are fed, so that only the run knows the sizes. names: the node's inputs where one is absent (a space)."""
    arrays = {k: np.asarray(v) for k, v in feed.items()}
    inputs = [vi(k, FLOAT if v.dtype == F else INT64, None) for k, v in arrays.items()]
    return model([node(op_type, [n.strip() for n in names.split(",")] if names else list(arrays), ["y"])], inputs, [vi("y", out, None)], opset=20), arrays


def attributed(op_type: str, feed: Any = None, *, out: int = FLOAT, **attributes: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    return one(op_type, inputs={k: (FLOAT, None) for k in feed or {}}, out=out, **attributes), feed or {}


V = np.ones(4, F)
CASES = {
    "ConstantOfShape": fed("ConstantOfShape", x=[HUGE, HUGE]), "Expand": fed("Expand", x=np.ones(1, F), s=[HUGE, HUGE]), "Tile": fed("Tile", x=V, r=[HUGE * HUGE]),
    "Tile max": fed("Tile", x=V, r=[MAX]),
    "Range": fed("Range", a=0, b=HUGE * HUGE, c=1, out=INT64), "Range float": fed("Range", a=F(0), b=F(1e30), c=F(1)), "Pad": fed("Pad", x=V, p=[HUGE * HUGE, 0]),
    "OneHot": fed("OneHot", i=np.arange(4), d=HUGE * HUGE, v=np.ones(2, F)),
    "Resize sizes": fed("Resize", x=np.ones((1, 1, 2, 2), F), s=[1, 1, HUGE, HUGE], names="x,,,s"),
    "Resize scales": fed("Resize", x=np.ones((1, 1, 2, 2), F), s=np.array([1, 1, 1e20, 1e20], F), names="x,,s"),
    "Add": fed("Add", a=np.ones((HUGE // 10, 1), F), b=np.ones((1, HUGE // 10), F)), "MatMul": fed("MatMul", a=np.ones((HUGE // 10, 1), F), b=np.ones((1, HUGE // 10), F)),
    "HannWindow": fed("HannWindow", n=HUGE * HUGE),
    "CenterCropPad": fed("CenterCropPad", x=V, s=[HUGE * HUGE]), "AffineGrid": fed("AffineGrid", x=np.ones((1, 2, 3), F), s=[1, 1, HUGE, HUGE]),
    "DFT": fed("DFT", x=np.ones((1, 4, 1), F), n=HUGE * HUGE),
    "Einsum": attributed("Einsum", {"a": np.ones(HUGE // 10, F), "b": np.ones(HUGE // 10, F)}, equation="i,j->ij"),
    "RandomNormal": attributed("RandomNormal", shape=[HUGE, HUGE]),
    "Multinomial": attributed("Multinomial", {"x": np.ones((2, 2), F)}, out=6, sample_size=MAX),
    "Gather": fed("Gather", x=np.ones((4, HUGE // 10), F), i=np.zeros(HUGE // 10, np.int64)),
    "GatherND": fed("GatherND", x=np.ones((4, HUGE // 10), F), i=np.zeros((HUGE // 10, 1), np.int64)),
}


@pytest.mark.parametrize("name", CASES)
def test_huge_runtime_sizes(name: str) -> None:
    """Without an entry the limit is the machine's memory."""
    data, feed = CASES[name]
    made = session(data)
    tracemalloc.start()
    begin = time.process_time()
    with refused(MemoryLimit, f"{name.split()[0]} 'y'", "would take", "the limit is", "session.memory_limit"):
        made.run(None, feed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20 and time.process_time() - begin < 1


def test_the_limit_is_the_callers() -> None:
    data, feed = fed("Expand", x=np.ones(1, F), s=[1000])
    assert session(data, 4000).run(None, feed)[0].shape == (1000,)
    with refused(MemoryLimit, "Expand 'y'", "float[1000]", "4,000 bytes", "the limit is 3,999"):
        session(data, 3999).run(None, feed)
    assert isinstance(MemoryLimit("x"), MemoryError)
    made = session(data, 4000)
    for size in (10, 1000, 999, 1000):  # sizes that passed are remembered; others are asked anew
        assert made.run(None, {**feed, "s": np.array([size])})[0].size == size
    with refused(MemoryLimit):
        made.run(None, {**feed, "s": np.array([1001])})
    assert session(data, 0).run(None, {**feed, "s": np.array([10**6])})[0].size == 10**6  # "0": no limit


@pytest.mark.parametrize("text", ["abc", "-1", "1e9", "1 GB", "٣"])
def test_a_limit_that_is_no_number(text: str) -> None:
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.memory_limit", text)
    with refused(InvalidArgument, "session.memory_limit", "number of bytes", text):
        sardonyx.InferenceSession(models.scaled(), options, providers=["reference"])


def test_strings_count_their_places() -> None:
    data = one("Expand", inputs={"x": (8, None), "s": (INT64, None)}, out=8)
    with refused(MemoryLimit, "8,000 bytes"):
        session(data, 4000).run(None, {"x": np.array(["a"], object), "s": np.array([1000])})


def test_nodes_in_branches_and_loops_are_checked_once_named() -> None:
    body = helper.make_graph([node("Expand", ["x", "s"], ["e"], name="grow"), node("Identity", ["c"], ["d"])], "body", [vi("i", INT64, []), vi("c", BOOL, [])],
        [vi("d", BOOL, []), vi("e", FLOAT, None)])
    data = model([node("Loop", ["m", ""], ["y"], body=body, name="outer")], [vi("x", FLOAT, [1]), vi("s", INT64, None)], [vi("y", FLOAT, None)], {"m": np.array(2)})
    assert session(data, 4000).run(None, {"x": np.ones(1, F), "s": np.array([1000])})[0].shape == (2, 1000)
    with refused(MemoryLimit, "Expand 'grow'") as caught:
        session(data, 4000).run(None, {"x": np.ones(1, F), "s": np.array([1001])})
    assert "outer" not in str(caught.value)


def test_a_refused_run_leaves_the_session_usable() -> None:
    data, feed = CASES["Expand"]
    made = session(data)
    with refused(MemoryLimit):
        made.run(None, feed)
    assert made.run(None, {**feed, "s": np.array([2])})[0].tolist() == [1, 1]


def f(*shape: int) -> np.ndarray:
    return np.ones(shape, F)


P = 10**9 // 4
#: Constants of a file from which a careless opening would compute: (operator, constants, attributes).
LOADED: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]] = [
    ("Range", {"a": np.array(0), "b": np.array(P), "c": np.array(1)}, {}), ("Range", {"a": np.array(0, F), "b": np.array(1e30, F), "c": np.array(1, F)}, {}),
    ("Conv", {"a": f(1, 1, 2), "b": f(1, 1, 1)}, {"pads": [P, 0], "strides": [2 * P]}), ("Conv", {"a": f(1, 1, 2), "b": f(1, 1, 2)}, {"pads": [P, P], "dilations": [P]}),
    ("MaxPool", {"a": f(1, 1, 2)}, {"kernel_shape": [P], "pads": [P - 1, 0], "strides": [2 * P]}),
    ("AveragePool", {"a": f(1, 1, 2)}, {"kernel_shape": [P], "pads": [P - 1, 0], "strides": [2 * P]}),
    ("LpPool", {"a": f(1, 1, 2)}, {"kernel_shape": [P], "pads": [P - 1, 0], "strides": [2 * P]}),
    ("ConvTranspose", {"a": f(1, 1, 2), "b": f(1, 1, 1)}, {"pads": [P, P], "strides": [2 * P]}),
    ("RoiAlign", {"a": f(1, 1, 2, 2), "b": f(1, 4), "c": np.zeros(1, np.int64)}, {"sampling_ratio": 20000, "output_height": 1, "output_width": 1}),
    ("LRN", {"a": f(1, 1, 2, 2)}, {"size": 2 * P + 1}),
    ("Col2Im", {"a": f(1, 1, 4), "b": np.array([2, 2]), "c": np.array([1, 1])}, {"pads": [P, 0, P, 0]}),
    ("OneHot", {"a": np.zeros(0, np.int64), "b": np.array(P), "c": f(2)}, {}), ("Tile", {"a": f(2, 0), "b": np.array([P, P])}, {}),
    ("Tile", {"a": f(1), "b": np.array([P])}, {}), ("Expand", {"a": f(1), "b": np.array([P])}, {}), ("ConstantOfShape", {"a": np.array([P])}, {}),
    ("Pad", {"a": f(1), "b": np.array([P, 0])}, {}), ("Pad", {"a": f(1), "b": np.array([P, -P])}, {}),
    ("CenterCropPad", {"a": f(2, 0), "b": np.array([P, 0])}, {}), ("HannWindow", {"a": np.array(P)}, {}), ("EyeLike", {"a": f(8, 8)}, {"k": 2**62}),
    ("Pow", {"a": f(2), "b": np.array([2**62])}, {}), ("DFT", {"a": f(1, 4, 1), "b": np.array(P)}, {}),
    ("Einsum", {"a": f(*[2] * 6), "b": f(*[2] * 6)}, {"equation": "abcdef,ghijkl->"}),
    ("MelWeightMatrix", {"a": np.array(0), "b": np.array(P), "c": np.array(8000), "d": np.array(0.0, F), "e": np.array(4000.0, F)}, {}),
    ("Max", {n: np.ones([64 if i == j else 1 for i in range(5)], F) for j, n in enumerate("abcde")}, {}),
]


@pytest.mark.parametrize("number", range(len(LOADED)), ids=lambda n: f"{LOADED[n][0]}-{n}")
def test_opening_computes_nothing_large(number: int) -> None:
    op_type, constants, attributes = LOADED[number]
    data = one(op_type, constants, inputs={}, out=INT64 if (op_type, number) == ("Range", 0) else FLOAT, **attributes)
    tracemalloc.start()
    begin = time.process_time()
    session(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20 and time.process_time() - begin < 1
