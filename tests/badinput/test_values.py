"""Values at the ends of their range: NaN and infinity in weights, sizes of zero, int64 extremes, ranks."""
from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidGraph, RuntimeException
from sardonyx.model import write_model

from .tools import FLOAT, INT64, MAX, MIN, F, model, node, one, refused, session, vi

SPECIAL = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001], np.uint32).view(F)  # NaNs of three kinds, ±∞, −0, a subnormal


@pytest.mark.parametrize("weights", [SPECIAL, np.full(1000, np.nan, F), np.full(70, -np.inf, F), SPECIAL.astype(np.float16), np.array([np.nan, np.inf]),
    np.array([np.nan + 1j, complex(np.inf, np.nan)], np.complex64)])
def test_weights_keep_their_bits(weights: np.ndarray) -> None:
    data = model([node("Identity", ["w"], ["y"])], [], [vi("y", {2: 10, 4: 1, 8: 11}[weights.itemsize] if weights.dtype.kind == "f" else 14, None)], {"w": weights})
    file = io.BytesIO()
    write_model(load_model(data), file)
    for source in (data, file.getvalue()):
        assert session(source).run(None, {})[0].tobytes() == weights.tobytes()


def test_nan_and_infinity_run() -> None:
    y, = session(one("Mul", {"w": np.array([np.nan, np.inf, -np.inf], F)})).run(None, {"x": np.arange(3, dtype=F)})
    np.testing.assert_array_equal(y, np.array([np.nan, np.inf, -np.inf], F))
    assert session(one("ReduceMax")).run(None, {"x": np.array([np.nan, 1], F)})[0].shape == (1,)


Z = np.ones((0, 3), F)


@pytest.mark.parametrize(("data", "x", "shape"), [
    (one("MatMul", {"w": np.ones((3, 2), F)}), Z, (0, 2)), (one("MatMul", {"w": np.ones((0, 2), F)}), Z.T, (3, 2)), (one("Softmax"), Z, (0, 3)),
    (one("Concat", {"w": np.ones((2, 3), F)}, axis=0), Z, (2, 3)),
    (one("Transpose", perm=[1, 0]), Z, (3, 0)), (one("Reshape", {"s": np.array([3, -1])}), Z, (3, 0)), (one("ReduceSum", {"a": np.array([0])}, keepdims=0), Z, (3,)),
    (one("Gather", {"i": np.zeros((0,), np.int64)}), Z.T, (0, 0)),
    (one("Conv", {"w": np.ones((2, 1, 2), F)}), np.ones((0, 1, 3), F), (0, 2, 2)), (one("Relu"), np.ones((2, 0, 0), F), (2, 0, 0)),
    (one("Expand", {"s": np.array([2, 0, 3])}), Z, (2, 0, 3)),
    (one("Tile", {"r": np.array([0, 2])}), np.ones((2, 3), F), (0, 6)), (one("LayerNormalization", {"s": np.ones(3, F)}), Z, (0, 3)),
    (one("Slice", {"a": np.array([5]), "b": np.array([9])}), np.ones(3, F), (0,)),
    (one("ConstantOfShape", inputs={"x": (INT64, None)}), np.array([0, 5]), (0, 5)), (one("Einsum", {"w": np.ones((3, 0), F)}, equation="ij,jk->ik"), Z, (0, 0))])
def test_sizes_of_zero(data: bytes, x: np.ndarray, shape: tuple[int, ...]) -> None:
    assert session(data).run(None, {"x": x})[0].shape == shape


@pytest.mark.parametrize(("data", "x", "words"), [
    (one("ArgMax", out=INT64), Z, ["ArgMax 'y'", "size 0"]), (one("MaxPool", kernel_shape=[2]), np.ones((1, 1, 0), F), ["MaxPool 'y'", "spans 2", "only 0"]),
    (one("Reshape", {"s": np.array([0, 0, -1])}, allowzero=1), Z, ["Reshape 'y'", "-1"])])
def test_sizes_of_zero_that_can_not_be(data: bytes, x: np.ndarray, words: list[str]) -> None:
    with refused(Exception, *words):
        session(data).run(None, {"x": x})


ONE = {"x": (FLOAT, ["n"])}


def extreme(op_type: str, *, out: int = FLOAT, x: Any = None, **more: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    """A node whose further inputs are fed (so that only the run knows them), int64 where they are integers."""
    feed = {"x": np.arange(4, dtype=F) if x is None else x, **{k: np.asarray(v) for k, v in more.items()}}
    inputs = {k: (FLOAT if v.dtype == F else INT64, None) for k, v in feed.items()}
    return one(op_type, inputs=inputs, out=out), feed


@pytest.mark.parametrize(("case", "expected"), [
    (extreme("Slice", a=[MIN], b=[MAX]), [0, 1, 2, 3]), (extreme("Slice", a=[MAX], b=[MIN], c=[0], d=[-1]), [3, 2, 1, 0]),
    (extreme("Slice", a=[MIN], b=[MIN], c=[0], d=[MIN]), [0]),
    (extreme("Slice", a=[MAX], b=[MIN], c=[0], d=[MIN]), [3]), (extreme("Slice", a=[0], b=[MAX], c=[0], d=[MAX]), [0]),
    (extreme("Range", x=np.array(MIN), b=MAX, c=MAX, out=INT64), [MIN, -1, MAX - 1]), (extreme("Reshape", s=[0, -1]), [[0], [1], [2], [3]]),
    (extreme("Abs", x=np.array([MIN]), out=INT64), [MIN]),
    (extreme("Div", x=np.array([MIN]), b=[-1], out=INT64), [MIN]), (extreme("Trilu", x=np.ones((2, 2), F), k=MIN), [[1, 1], [1, 1]]),
    (extreme("Trilu", x=np.ones((2, 2), F), k=MAX), [[0, 0], [0, 0]]),
])
def test_int64_extremes_that_mean_something(case: Any, expected: Any) -> None:
    data, feed = case
    assert session(data).run(None, feed)[0].tolist() == expected


@pytest.mark.parametrize(("case", "words"), [
    (extreme("Reshape", s=[MIN]), ["Reshape 'y'", str(MIN), "below -1"]), (extreme("Reshape", s=[MAX, MAX]), ["Reshape 'y'", "4 elements"]),
    (extreme("Reshape", s=[2**62, 4]), ["Reshape 'y'", "4 elements"]),
    (extreme("Reshape", s=[-1, -1]), ["more than one -1"]), (extreme("Slice", a=[0], b=[1], c=[MIN]), ["Slice 'y'", "out of range for rank 1"]),
    (extreme("Slice", a=[0], b=[1], c=[0], d=[0]), ["must not have 0"]),
    (extreme("Tile", r=[MIN]), ["Tile 'y'", "negative"]), (extreme("ConstantOfShape", x=np.array([MIN])), ["ConstantOfShape 'y'", "negative"]),
    (extreme("Range", x=np.array(0), b=5, c=0, out=INT64), ["delta must not be 0"]),
    (extreme("Range", x=np.array(0, F), b=F(np.nan), c=F(1)), ["Range 'y'", "no finite number"]),
    (extreme("Range", x=np.array(0, F), b=F(np.inf), c=F(1)), ["Range 'y'", "no finite number"]),
    (extreme("Gather", i=[MIN]), ["Gather 'y'", "[-4, 3]"]), (extreme("GatherND", i=[MAX]), ["GatherND 'y'", "[-4, 3]"]),
    (extreme("Squeeze", a=[MIN]), ["Squeeze 'y'", "out of range"]),
    (extreme("Unsqueeze", a=[MAX]), ["Unsqueeze 'y'", "out of range"]), (extreme("CumSum", a=MIN), ["CumSum 'y'", "out of range"]),
    (extreme("ReduceSum", a=[MIN]), ["ReduceSum 'y'", "out of range"]),
    (extreme("TopK", k=[MAX]), ["TopK 'y'", "[0, 4]"]), (extreme("TopK", k=[MIN]), ["TopK 'y'", "[0, 4]"]),
    (extreme("OneHot", x=np.arange(4), d=MIN, v=np.ones(2, F)), ["OneHot 'y'", "negative"]),
    (extreme("Pad", p=[MIN, 0]), ["Pad 'y'", "remove more"]), (extreme("HannWindow", x=np.array(MIN)), ["HannWindow 'y'", "negative"]),
    (extreme("Mod", x=np.array([5]), b=[0], out=INT64), ["Mod 'y'", "zero"]),
    (extreme("Div", x=np.array([5]), b=[0], out=INT64), ["Div 'y'", "division by zero"]),
    (extreme("Unsqueeze", x=np.ones((1,) * 60, F), a=range(60, 70)), ["Unsqueeze 'y'", "64"]), (extreme("Reshape", s=[1] * 65), ["Reshape 'y'"]),
])
def test_int64_extremes_that_can_not_be(case: Any, words: list[str]) -> None:
    data, feed = case
    with refused(RuntimeException, *words):
        session(data).run(None, feed)


def test_negative_sizes_of_resize() -> None:
    data = model([node("Resize", ["x", "", "", "s"], ["y"])], [vi("x", FLOAT, [1, 1, 2, 2]), vi("s", INT64, [4])], [vi("y", FLOAT, None)])
    with refused(RuntimeException, "Resize 'y'", "must not be negative"):
        session(data).run(None, {"x": np.ones((1, 1, 2, 2), F), "s": np.array([1, 1, -3, MIN])})
    with refused(InvalidGraph, "RandomNormal 'y'", "[-5]", "negative"):
        session(one("RandomNormal", inputs={}, shape=[-5]))


@pytest.mark.parametrize("rank", [0, 1, 32, 64])
def test_ranks(rank: int) -> None:
    made = session(model([node("Neg", ["x"], ["y"])], [vi("x", FLOAT, [1] * rank)], [vi("y", FLOAT, None)]))
    assert made.run(None, {"x": np.ones((1,) * rank, F)})[0].shape == (1,) * rank


@pytest.mark.parametrize(("constants", "op_type"), [({"s": np.ones(65, np.int64)}, "Reshape"), ({"s": np.ones(65, np.int64)}, "Expand"), ({"s": np.arange(70)}, "Unsqueeze"),
    ({"s": np.ones(10**6, np.int64)}, "Reshape")])
def test_ranks_beyond_numpy(constants: dict[str, np.ndarray], op_type: str) -> None:
    with refused(InvalidGraph, f"{op_type} 'y'", "the highest rank is 64"):
        session(one(op_type, constants, inputs={"x": (FLOAT, [1])}))
