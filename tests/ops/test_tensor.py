"""Tensor operators where the backend suite is thin: symbolic shapes, values of small tensors, bad indices, empty tensors, odd types, ties."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.dim import Expr, fresh_scope, substitute, symbol
from sardonyx.errors import InvalidGraph
from sardonyx.graph import Graph, Value
from sardonyx.ops import Context, Spec, lookup
from sardonyx.ops.move import slice_size
from sardonyx.plan.shapes import infer_shapes
from sardonyx.types import DType, TensorType

I64 = 2**63 - 1
b, s, n, past = (symbol(name) for name in ("b", "s", "n", "past"))


def op(name: str) -> Any:
    return lookup("", name)


def shape_of(name: str, *inputs: Any, dtype: DType = DType.FLOAT, **attributes: Any) -> str:
    """The inferred shape(s) as text. A tuple is an input of that shape, a list a known int64 value, None an absent input, "?" an unknown rank."""
    def spec(given: Any) -> Spec | None:
        if given is None or isinstance(given, Spec):
            return given
        if given == "?":
            return Spec(dtype)
        if isinstance(given, tuple):
            return Spec(dtype, given)
        value = np.empty(np.shape(given), object)
        value[...] = given
        return Spec(DType.INT64, value.shape, value)
    with fresh_scope("t"):
        made = op(name).shape_rule(*map(spec, inputs), **attributes)
    return " ".join(str(m).removeprefix(m.dtype.text) for m in (made if isinstance(made, tuple) else (made,)))


@pytest.mark.parametrize(("expected", "call"), [
    # Reshape: 0, -1 and symbolic entries
    ("[b, s, 12, 64]", ("Reshape", (b, s, 768), [0, 0, 12, 64])),
    ("[b, s, 12, 64]", ("Reshape", (b, s, 768), [b, s, 12, -1])),
    ("[b*s, 768]", ("Reshape", (b, s, 768), [-1, 768])),
    ("[12*b, s, 64]", ("Reshape", (b, 12, s, 64), [12 * b, s, -1])),
    ("[2*b, 8*s + 8]", ("Reshape", (b, s + 1, 16), [2 * b, -1])),
    ("[8*b, s + 1]", ("Reshape", (b, 2 * s + 2, 4), [-1, s + 1])),
    ("[n, 0, 4]", ("Reshape", (n, 0, 4), [0, 0, -1])),
    ("[?t.0, 7]", ("Reshape", "?", [-1, 7])),
    ("[?t.0, ?t.1, ?t.2]", ("Reshape", (b, s), (3,))),
    ("[b*s]", ("Reshape", (b, s), (1,))),
    ("[...]", ("Reshape", (b, s), (n,))),
    ("[b, 6*s]", ("Flatten", (b, 2, s, 3))),
    ("[b, s]", ("Squeeze", (b, 1, s, 1), [1, -1])),
    ("[...]", ("Squeeze", (b, 1))),
    ("[3, 2]", ("Squeeze", (3, 1, 2))),
    ("[1, b, s, 1]", ("Unsqueeze", (b, s), [0, -1])),
    ("[?t.0, ?t.1, ?t.2]", ("Unsqueeze", (b, s), (1,))),
    ("[b, s, 64]", ("Expand", (1, s, 1), [b, 1, 64])),
    ("[?t.0, ?t.1, 8]", ("Expand", (1, 8), (3,))),
    ("[3, ?t.1]", ("Expand", (3, s), (1,))),
    ("[2*b, n*s]", ("Tile", (b, s), [2, n])),
    ("[b, 12, s, 64]", ("Transpose", (b, s, 12, 64), {"perm": [0, 2, 1, 3]})),
    # Slice: clamped, clean where nothing can be clamped
    ("[b, min(s, 5)]", ("Slice", (b, s), [0], [5], [1])),
    ("[b, 3]", ("Slice", (b, s + 10), [2], [5], [1])),
    ("[b, min(n, 512)]", ("Slice", (b, 512), [0], [n], [1])),
    ("[b, n]", ("Slice", (b, n + past), [past], [past + n], [1])),
    ("[b, n]", ("Slice", (b, n + past), [past], [I64], [1])),
    ("[b, max(s - 1, 0)]", ("Slice", (b, s), [1], [I64], [1])),
    ("[b, max(s - 1, 0)]", ("Slice", (b, s), [0], [-1], [-1])),
    ("[b, min(s, 1)]", ("Slice", (b, s), [-1], [I64], [1])),
    ("[b, ((s + 1)//2)]", ("Slice", (b, s), [0], [I64], [1], [2])),
    ("[b, (s//2)]", ("Slice", (b, s), [1], [2**31 - 1], [1], [2])),
    ("[b, s]", ("Slice", (b, s), [-1], [-I64], [1], [-1])),
    ("[b, s]", ("Slice", (b, s), [I64], [-I64 - 1], [1], [-1])),
    ("[b, ?t.0]", ("Slice", (b, s), (1,), (1,), [1])),
    ("[?t.0, ?t.1]", ("Slice", (b, s), (1,), (1,), (1,))),
    ("[b, max(min(s, s*max(min(n - 5, 0), -1) - n + s + 5), 0)]", ("Slice", (b, s), [n - 5], [I64], [1])),  # the sign of n - 5 is open: max(min(x, 0), -1) is -1 where x is negative
    # joining and cutting
    ("[b, n + past, 64]", ("Concat", (b, past, 64), (b, n, 64), {"axis": 1})),
    ("[4, ?t.0]", ("Concat", (b, 3), (4, n), "?", {"axis": -1})),
    ("[b, 2] [b, 2] [b, 1]", ("Split", (b, 5), {"axis": 1, "num_outputs": 3, "n_outputs": 3})),
    ("[2*s] [2*s]", ("Split", (4 * s,), {"num_outputs": 2, "n_outputs": 2})),
    ("[((s + 1)//2)] [s - ((s + 1)//2)]", ("Split", (s,), {"num_outputs": 2, "n_outputs": 2})),
    ("[n] [-n + s]", ("Split", (s,), [n, s - n], {"n_outputs": 2})),
    ("[b, s + 3, 2]", ("Pad", (b, s, 4), [0, 1, -1, 0, 2, -1])),
    ("[b, s + 3]", ("Pad", (b, s), [1, 2], None, [-1])),
    ("[b, ?t.0]", ("Pad", (b, s), (2,), None, [1])),
    ("[b, 7, n]", ("CenterCropPad", (b, s, 4), [7, n], {"axes": [1, -1]})),
    ("[b, 3, 2*s, 2*n]", ("DepthToSpace", (b, 12, s, n), {"blocksize": 2})),
    ("[b, 12, (s//2), n]", ("SpaceToDepth", (b, 3, s, 2 * n), {"blocksize": 2})),
    # data decides
    ("[b, s, 64]", ("Gather", (30000, 64), (b, s))),
    ("[b, 64]", ("Gather", (b, s, 64), (), {"axis": 1})),
    ("[b, n, 64]", ("GatherND", (b, s, 64), (b, n, 1), {"batch_dims": 1})),
    ("[...]", ("GatherND", (b, s), (b, n))),
    ("[b, s, 7]", ("OneHot", (b, s), [7], (2,))),
    ("[n, b]", ("OneHot", (b,), [n], (2,), {"axis": 0})),
    ("[b, 3] [b, 3]", ("TopK", (b, s), [3])),
    ("[b, n, 4] [b, n, 4]", ("TopK", (b, s, 4), [n], {"axis": 1})),
    ("[2, ?t.0]", ("NonZero", (b, s))),
    ("[2, 3]", ("NonZero", [[0, 1], [1, 1]])),
    ("[b, ?t.0]", ("Compress", (b, s), (s,), {"axis": 1})),
    ("[?t.0] [?t.0] [b*s] [?t.0]", ("Unique", (b, s))),
    ("[?t.0, 3]", ("NonMaxSuppression", (1, n, 4), (1, 80, n), (1,))),
    ("[0, 3]", ("NonMaxSuppression", (1, n, 4), (1, 80, n))),
    ("[b, 1, s]", ("ConstantOfShape", [b, 1, s])),
    ("[?t.0, ?t.1]", ("ConstantOfShape", (2,))),
    ("[n]", ("Range", past, past + n, 1)),
    ("[((n + 1)//2)]", ("Range", 0, n, 2)),
    ("[n]", ("Range", n - 1, -1, -1)),
    ("[max(n - s, 0)]", ("Range", s, n, 1)),
    ("[?t.0]", ("Range", 0, n, s - 3)),
    ("[b, s, n, 2]", ("AffineGrid", (b, 2, 3), [b, 3, s, n])),
    # products
    ("[b, 12, s, n]", ("MatMul", (b, 12, s, 64), (64, n))),
    ("[b, s]", ("MatMul", (b, s, 64), (64,))),
    ("[n]", ("MatMul", (8,), (8, n))),
    ("[s, n]", ("Gemm", (8, s), (n, 8), (n,), {"transA": 1, "transB": 1})),
    ("[b, s, n]", ("Einsum", (b, s, 8), (8, n), {"equation": "...i,ij->...j"})),
    ("[b, n, s]", ("Einsum", (b, s, n), {"equation": "bij -> bji"})),
    ("[s, ?t.0]", ("Einsum", (s, 8), "?", {"equation": "ij,jk"})),
    ("[...]", ("Einsum", "?", {"equation": "...i->..."})),
    ("[b]", ("Det", (b, 3, 3))),
], ids=lambda v: v[0] if isinstance(v, tuple) else None)
def test_shape_rule(expected: str, call: tuple[Any, ...]) -> None:
    name, *inputs = call
    attributes = inputs.pop() if isinstance(inputs[-1], dict) else {}
    inputs = [Spec(DType.INT64, (), np.array(i, object)) if isinstance(i, (int, Expr)) else i for i in inputs]
    assert shape_of(name, *inputs, **attributes) == expected


def test_slice_size_and_body_follow_the_specification() -> None:
    """All starts, ends and steps around the borders, sizes from 0: the symbolic size with a number put in, the static size and the body agree with the text's clamps."""
    for step in (1, 2, 3, -1, -2):
        for start in (-I64 - 1, -4, -1, 0, 1, 3, I64):
            for end in (-I64 - 1, -3, -1, 0, 2, 5, I64):
                size = slice_size(s, start, end, step)
                for number in range(7):
                    first, last = (position + number if position < 0 else position for position in (start, end))
                    if step > 0:
                        wanted = range(min(max(first, 0), number), min(max(last, 0), number), step)
                    else:
                        wanted = range(min(max(first, 0), number - 1), min(max(last, -1), number - 1), step)
                    assert substitute(size, {"s": number}) == len(wanted) == slice_size(number, start, end, step), (start, end, step, number, str(size))
                    assert op("Slice")(np.arange(number), i64(start), i64(end), i64(0), i64(step)).tolist() == list(wanted)


# -- values of small tensors -------------------------------------------------------------------------------------------------------------------

class Build:
    """A graph made node by node, then inferred."""

    def __init__(self, **inputs: tuple[Any, ...]) -> None:
        self.graph = Graph("g", [Value(name, TensorType(DType.FLOAT, shape)) for name, shape in inputs.items()])
        self.inputs = {v.name: v for v in self.graph.inputs}

    def __call__(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        values = [self.inputs[v] if isinstance(v, str) else v if v is None or isinstance(v, Value) else self.graph.constant(np.asarray(v, np.int64)) for v in inputs]
        made = self.graph.node(op_type, values, outputs, **attributes).outputs
        return made[0] if outputs == 1 else made

    def shapes(self, *values: Value) -> list[str]:
        infer_shapes(self.graph)
        return [v.type.describe() for v in values]  # type: ignore[union-attr]

    def value(self, value: Value) -> list[str] | str | None:
        found = infer_shapes(self.graph)[value].value
        return None if found is None else [str(v) for v in found.ravel().tolist()] if found.ndim else str(found.item())


def test_shape_gather_concat_reshape() -> None:
    g = Build(x=(b, s, 768))
    shape = g("Shape", "x")
    batch, length = (g("Unsqueeze", g("Gather", shape, i), [0]) for i in (0, -2))
    heads = g("Transpose", g("Reshape", "x", g("Concat", batch, length, [12], [64], axis=0)), perm=[0, 2, 1, 3])
    merged = g("Reshape", heads, g("Concat", batch, [-1], g("Slice", shape, [2], [I64]), axis=0))
    assert g.shapes(heads, merged) == ["float[b, 12, s, 64]", "float[b, s, 768]"]


def test_values_through_movement() -> None:
    g = Build(x=(b, s, n))
    shape = g("Shape", "x")
    first, rest = g("Split", shape, [1, 2], outputs=2)
    assert g.value(first) == ["b"] and g.value(rest) == ["s", "n"]
    assert g.value(g("Slice", shape, [-1], [-I64], [0], [-1])) == ["n", "s", "b"]
    assert g.value(g("Tile", rest, [2])) == ["s", "n", "s", "n"]
    assert g.value(g("Expand", first, [3])) == ["b", "b", "b"]
    assert g.value(g("Pad", rest, [1, 0])) == ["0", "s", "n"]
    assert g.value(g("Transpose", g("Reshape", g("Concat", rest, rest, axis=0), [2, 2]))) == ["s", "s", "n", "n"]
    assert g.value(g("Size", "x")) == "b*n*s"
    assert g.value(g("Shape", "x", start=-2, end=9)) == ["s", "n"]
    assert g.value(g("GatherND", shape, [[2], [0]])) == ["n", "b"]
    assert g.value(g("ScatterND", shape, [[1]], [7])) == ["b", "7", "n"]
    assert g.value(g("Range", g("Squeeze", first), g("Gather", g("Shape", g("Reshape", "x", [0, -1])), 0), 1)) == []
    assert g.value(g("ConstantOfShape", [2], value=np.array([3], np.int64))) == ["3", "3"]
    assert g.value(g("Gather", shape, g("Gather", shape, 0))) is None  # a symbolic index picks nobody knows what


def test_range_from_a_symbolic_start() -> None:
    g = Build(x=(b, s))
    start = g("Gather", g("Shape", "x"), 1)
    made = g("Range", start, g("Add", start, 3), 1)
    assert g.value(made) == ["s", "s + 1", "s + 2"] and g.shapes(made) == ["int64[3]"]


def test_table_lookup_keeps_the_sequence_length() -> None:
    """positions[:, past : past + s] of a table of 512, added to tokens [b, s]: the sum has length s, not an expression of the clamp."""
    g = Build(x=(b, s), cache=(b, past, 64))
    length, before = g("Shape", "x", start=1), g("Shape", "cache", start=1, end=2)
    table = g("Cast", np.arange(512)[None], to=1)
    head = g("Slice", table, [0], length, [1])
    assert g.shapes(head, g("Add", "x", head), g("Add", "x", g("Slice", table, before, g("Add", before, length), [1]))) == ["float[1, min(s, 512)]", "float[b, s]", "float[b, s]"]


# -- bodies ------------------------------------------------------------------------------------------------------------------------------------

def i64(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(("name", "inputs", "attributes", "words"), [
    ("Gather", (X, i64(0, 4)), {"axis": 1}, "index 4 .*axis 1 of size 4"),
    ("Gather", (X, i64(-4)), {}, "index -4 .*axis 0 of size 3"),
    ("Gather", (X[:0], i64(0)), {}, "index 0 .*size 0"),
    ("GatherElements", (X, i64([0, 3, 0])), {"axis": 0}, "index 3 .*size 3"),
    ("GatherElements", (X, np.zeros((1, 5), np.int64)), {"axis": 0}, "size 5 on axis 1"),
    ("GatherND", (X, i64([0, 4])), {}, "index 4 .*axis 1"),
    ("GatherND", (X, i64([0, 0, 0])), {}, "name 3 axes"),
    ("ScatterElements", (X, i64([9]), np.ones((1, 1), np.float32)), {}, "index 9"),
    ("ScatterElements", (X, i64([0]), np.ones((1, 1), np.float32)), {"reduction": "avg"}, "'avg'"),
    ("ScatterND", (X, i64([-4]), np.ones((1, 4), np.float32)), {}, "index -4"),
    ("ScatterND", (X, i64([0]), np.ones((1, 3), np.float32)), {}, r"need \[1, 4\]"),
    ("TensorScatter", (X[None], X[None, :2], i64(2)), {}, "circular"),
    ("Reshape", (X, i64(5, -1)), {}, "not a multiple of 5"),
    ("Reshape", (X, i64(-1, -1)), {}, "more than one -1"),
    ("Reshape", (X[:0], i64(0, 0, -1)), {"allowzero": 1}, "both 0 and -1"),
    ("Reshape", (X, i64(3, 4, 0)), {}, "rank 2"),
    ("Reshape", (X, i64(5)), {}, "12 elements.*5 elements"),
    ("Squeeze", (X, i64(0)), {}, "not 1"),
    ("Unsqueeze", (X, i64(0, -4)), {}, "repeat"),
    ("Transpose", (X,), {"perm": [0, 0]}, "permutation"),
    ("Slice", (X, i64(0), i64(2), i64(1), i64(0)), {}, "must not have 0"),
    ("Split", (X, i64(1, 1)), {"n_outputs": 2}, "2 is not 3"),
    ("Pad", (X[:, :0], i64(0, 1, 0, 0)), {"mode": "edge"}, "empty"),
    ("Pad", (X, i64(-4, 0, 0, 0)), {}, "remove"),
    ("TopK", (X, i64(5)), {}, r"K 5 must be in \[0, 4\]"),
    ("Compress", (X, np.ones(4, bool)), {"axis": 0}, "does not fit"),
    ("ReverseSequence", (X, i64(4, 0, 0, 0)), {}, r"\[0, 3\]"),
    ("DepthToSpace", (np.zeros((1, 3, 2, 2)),), {"blocksize": 2}, "multiple"),
    ("Range", (np.float32(0), np.float32(1), np.float32(0)), {}, "delta"),
    ("Einsum", (X, X), {"equation": "ij,jk->ik"}, "sizes 4 and 3"),
    ("Einsum", (X,), {"equation": "ij->ik"}, "'k' is in no input"),
    ("Einsum", (X,), {"equation": "i1->i"}, "i1"),
    ("Gemm", (X, X.T, np.zeros((2, 3, 3), np.float32)), {}, "broadcast"),
])
def test_refusals_name_what_is_wrong(name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidGraph, match=words):
        op(name)(*inputs, **attributes)


def strings(*values: str) -> np.ndarray:
    return np.array(values, object)


@pytest.mark.parametrize(("name", "inputs", "attributes", "expected"), [
    ("Reshape", (np.zeros((0, 3, 4)), i64(0, -1)), {}, np.zeros((0, 12))),
    ("Reshape", (np.zeros((2, 0)), i64(0, 5)), {"allowzero": 1}, np.zeros((0, 5))),
    ("Reshape", (np.float32(5), i64()), {}, np.float32(5)),
    ("Slice", (X, i64(-1), i64(-I64 - 1), i64(0), i64(-2)), {}, X[::-2]),
    ("Slice", (X[:0], i64(3), i64(-9), i64(0), i64(-1)), {}, X[:0]),
    ("Slice", (X, np.array([1], np.int32), np.array([9], np.int32)), {}, X[1:]),
    ("Expand", (X[:1, :0], i64(2, 3, 1)), {}, np.zeros((2, 3, 0), np.float32)),
    ("Expand", (X, i64(1)), {}, X),
    ("Tile", (strings("a", "b"), i64(2)), {}, strings("a", "b", "a", "b")),
    ("Tile", (X, i64(0, 1)), {}, X[:0]),
    ("Concat", (X[:0], X), {"axis": -2}, X),
    ("Pad", (i64(1, 2, 3), i64(4, 5)), {"mode": "reflect"}, i64(1, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 2)),
    ("Pad", (i64(7), i64(2, 1)), {"mode": "reflect"}, i64(7, 7, 7, 7)),
    ("Pad", (i64(1, 2, 3), i64(4, 2)), {"mode": "wrap"}, i64(3, 1, 2, 3, 1, 2, 3, 1, 2)),
    ("Pad", (i64(1, 2, 3), i64(-1, 2)), {"mode": "edge"}, i64(2, 3, 3, 3)),
    ("Pad", (i64(1, 2, 3), i64(-5, 4), i64(9)), {}, i64(9, 9)),
    ("Pad", (strings("a"), i64(1, 0)), {}, strings("", "a")),
    ("Pad", (X, i64(1, -1), np.float32(8), i64(-1)), {}, np.pad(X, ((0, 0), (1, 0)), constant_values=8)[:, :-1]),
    ("CenterCropPad", (i64(1, 2, 3, 4), i64(3)), {}, i64(1, 2, 3)),
    ("CenterCropPad", (i64(1, 2), i64(5)), {}, i64(0, 1, 2, 0, 0)),
    ("GatherND", (X, np.zeros((0, 1), np.int64)), {}, X[:0]),
    ("Gather", (X[:, :0], i64(-1)), {}, X[:1, :0]),
    ("ScatterElements", (i64(1, 1), i64(0, 0, -1), i64(2, 5, 3)), {"reduction": "mul"}, i64(10, 3)),
    ("ScatterND", (np.array([1, 5], np.float16), i64([0], [0], [1]), np.array([4, 3, 2], np.float16)), {"reduction": "max"}, np.array([4, 5], np.float16)),
    ("TensorScatter", (X[None], -X[None, :2], i64(2)), {"mode": "circular"}, np.stack([-X[1], X[1], -X[0]])[None]),
    ("OneHot", (i64(1, -1, 3, -4), i64(3), strings("", "x")), {"axis": 0}, strings("", "", "", "", "x", "", "", "", "", "x", "", "").reshape(3, 4)),
    ("OneHot", (np.array([2**64 - 1, 0], np.uint64), np.float32(2), i64(0, 1)), {}, i64([0, 0], [1, 0])),
    ("Compress", (X, np.array([False, True])), {"axis": 1}, X[:, 1:2]),
    ("Compress", (X, np.zeros(0, bool)), {}, X[0, :0]),
    ("NonZero", (np.float32(0),), {}, np.zeros((0, 0), np.int64)),
    ("NonZero", (np.float32(2),), {}, np.zeros((0, 1), np.int64)),
    ("ConstantOfShape", (i64(),), {"value": np.array([4], np.int8)}, np.int8(4)),
    ("EyeLike", (np.zeros((2, 3), np.int32),), {"k": -1, "dtype": 9}, np.eye(2, 3, -1).astype(bool)),
    ("Range", (np.int16(5), np.int16(0), np.int16(-2)), {}, np.array([5, 3, 1], np.int16)),
    ("Range", (np.float16(0), np.float16(3000), np.float16(1)), {}, np.arange(3000, dtype=np.float32).astype(np.float16)),
    ("Range", (np.int64(3), np.int64(3), np.int64(1)), {}, i64()),
    ("HannWindow", (i64(1)[0],), {"periodic": 0}, np.ones(1, np.float32)),
    ("BlackmanWindow", (np.int32(0),), {}, np.zeros(0, np.float32)),
    ("MatMul", (X[:, :0], X[:0]), {}, np.zeros((3, 4), np.float32)),
    ("Gemm", (i64([1, 2]), i64([3], [4]), i64(10)), {"alpha": 0.5, "beta": 2.0}, i64([25])),
    ("Einsum", (X,), {"equation": "...i -> i"}, X.sum(0)),
    ("Einsum", (X[:, :1], X), {"equation": "ij,ij->i"}, X[:, 0] * X.sum(1)),
    ("Einsum", (X, X), {"equation": "Ba,Bb"}, np.einsum("Ba,Bb->ab", X, X)),
    ("Einsum", (X,), {"equation": "bA"}, X.T),
    ("Einsum", (np.ones((2, 3), np.int8), np.full((3, 2), 100, np.int8)), {"equation": "ab,bc"}, np.full((2, 2), 44, np.int8)),
    ("Det", (np.zeros((2, 0, 0)),), {}, np.ones(2)),
])
def test_body(name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], expected: Any) -> None:
    made = op(name)(*(np.asarray(i) for i in inputs), **attributes)
    expected = np.asarray(expected)
    assert made.dtype == expected.dtype and made.shape == expected.shape
    np.testing.assert_array_equal(made, expected)


def test_split_in_more_parts_than_fit() -> None:
    assert [p.tolist() for p in op("Split")(i64(1, 2, 3, 4, 5), num_outputs=4, n_outputs=4)] == [[1, 2], [3, 4], [5], []]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("largest", [0, 1])
def test_topk_ties_take_the_lower_index(dtype: str, largest: int) -> None:
    x = np.array([[3, 1, 3, 2, 1, 3]]).astype(DType.parse(dtype if dtype != "float32" else "float").numpy)
    values, indices = op("TopK")(x, i64(4), largest=largest)
    assert indices.tolist() == [[0, 2, 5, 3] if largest else [1, 4, 3, 0]] and values.dtype == x.dtype
    assert values.astype(int).tolist() == [[3, 3, 3, 2] if largest else [1, 1, 2, 3]]


def test_topk_of_nothing() -> None:
    values, indices = op("TopK")(X[:0], i64(2))
    assert values.shape == indices.shape == (0, 2) and op("TopK")(X, i64(0))[1].shape == (3, 0)


@pytest.mark.parametrize(("x", "axis", "ordered", "expected"), [
    (strings("b", "a", "b", ""), None, 1, (["", "a", "b"], [3, 1, 0], [2, 1, 2, 0], [1, 1, 2])),
    (strings("b", "a", "b", ""), None, 0, (["b", "a", ""], [0, 1, 3], [0, 1, 0, 2], [2, 1, 1])),
    (i64([1, 9], [1, 2], [1, 9]), 0, 1, ([[1, 2], [1, 9]], [1, 0], [1, 0, 1], [1, 2])),
    (i64([1, 9], [1, 2], [1, 9]), -2, 0, ([[1, 9], [1, 2]], [0, 1], [0, 1, 0], [2, 1])),
    (np.zeros((3, 0)), 0, 1, ([[]], [0], [0, 0, 0], [3])),
    (np.zeros((0, 2)), 0, 1, ([], [], [], [])),
    (np.zeros((0,)), None, 0, ([], [], [], [])),
    (np.bool_(True), None, 1, ([True], [0], [0], [1])),
])
def test_unique(x: Any, axis: int | None, ordered: int, expected: tuple[list[Any], ...]) -> None:
    made = op("Unique")(np.asarray(x), axis=axis, sorted=ordered)
    assert tuple(m.tolist() for m in made) == expected
    assert made[0].dtype == np.asarray(x).dtype and all(m.dtype == np.int64 for m in made[1:])


def test_unique_counts_nan_once() -> None:
    for dtype in (np.float16, DType.BFLOAT16.numpy):
        _, first, inverse, counts = op("Unique")(np.array([np.nan, 1, np.nan, -1]).astype(dtype))
        assert (first.tolist(), inverse.tolist(), counts.tolist()) == ([3, 1, 0], [2, 1, 2, 0], [1, 1, 2])


def test_nms_order_ties_and_thresholds() -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0.5], [5, 5, 6, 6]]], np.float32)  # the third with swapped corners, half of the first
    scores = np.array([[[.5, .5, .5, .9], [.1, .2, .3, .2]]], np.float32)
    nms = op("NonMaxSuppression")
    assert nms(boxes, scores, i64(9), np.float32([.5])).tolist() == [[0, 0, 3], [0, 0, 0], [0, 0, 2], [0, 1, 2], [0, 1, 1], [0, 1, 3]]  # IoU exactly .5 stays
    assert nms(boxes, scores, i64(1), np.float32([0])).tolist() == [[0, 0, 3], [0, 1, 2]]
    assert nms(boxes, scores, i64(9), np.float32([0]), np.float32([.2])).tolist() == [[0, 0, 3], [0, 0, 0], [0, 1, 2]]
    assert nms(boxes, scores).shape == nms(boxes[:, :0], scores[:, :, :0], i64(3)).shape == (0, 3)


def test_random_operators() -> None:
    context = Context(run=lambda *_: [])
    normal = op("RandomNormal")(shape=[200, 50], mean=3.0, scale=2.0, seed=1.0, dtype=11, context=context)
    assert normal.dtype == np.float64 and abs(normal.mean() - 3) < .1 and abs(normal.std() - 2) < .1
    uniform = op("RandomUniformLike")(np.zeros((50, 20), np.float16), low=-2.0, high=-1.0, context=context)
    assert uniform.dtype == np.float16 and -2 <= uniform.min() < -1.9 and -1.1 < uniform.max() <= -1
    assert op("Bernoulli")(np.array([0., 1.]), dtype=9, context=context).tolist() == [False, True]
    drawn = op("Multinomial")(np.array([[-np.inf, 0, np.log(3)], [1, -np.inf, -np.inf]], np.float32), sample_size=4000, seed=2.0, context=context)
    assert drawn.dtype == np.int32 and set(drawn[0].tolist()) == {1, 2} and not drawn[1].any() and abs((drawn[0] == 2).mean() - .75) < .04
    with fresh_scope("t"):
        assert str(op("RandomUniformLike").shape_rule(Spec(DType.INT8, (b, s)), dtype=10)) == "float16[b, s]"


def test_constant_of_each_attribute() -> None:
    constant = op("Constant")
    assert constant(value_ints=[1, 2]).dtype == np.int64 and constant(value_float=1.5).dtype == np.float32 and constant(value_strings=["a"]).dtype == object
    g = Build()
    made = g("Constant", value_int=7)
    assert g.value(made) == "7" and g.shapes(made) == ["int64[]"]
    with pytest.raises(InvalidGraph, match="exactly one"):
        constant(value_int=1, value_float=1.0)
