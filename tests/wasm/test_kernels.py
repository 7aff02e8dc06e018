"""Kernels of the modules beside the native engine's on one-node models: ragged and empty sizes, NaN and infinities; integers bit for bit.

The native kernels are tested against NumPy in tests/engine."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.onnx import load_model
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor, accepts
from sardonyx.providers.segmented import SegmentedExecutor

from .machine import BUILDS, WasmProgram

Arrays = dict[str, np.ndarray]


def model(op: str, inputs: Arrays, constants: Arrays, outputs: int, opset: int = 21, domain: str = "", order: Sequence[str] = (), **attributes: Any) -> bytes:
    """One node on inputs of these shapes; inputs come first, in order, "" is an absent one. `order`: the node's inputs, where it is another."""
    node = helper.make_node(op, order or [*inputs, *constants], [f"y{i}" for i in range(outputs)], domain=domain, **attributes)
    graph = helper.make_graph([node], "one", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in inputs.items()],
                              [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in node.output], [numpy_helper.from_array(c, n) for n, c in constants.items() if n])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    return bytes(onnx.shape_inference.infer_shapes(made, data_prop=True).SerializeToString())


def check(op: str, inputs: Arrays, constants: Arrays | None = None, outputs: int = 1, rtol: float = 1e-5, **attributes: Any) -> None:
    """Both modules give what the native engine gives."""
    same(model(op, inputs, constants or {}, outputs, **attributes), inputs, rtol, op)


def same(source: bytes, inputs: Arrays, rtol: float, what: str) -> None:
    """The model gives the same on both modules and natively."""
    def run(make: Any) -> Sequence[np.ndarray]:
        read = load_model(source)
        infer_shapes(read)
        executor = make(read)
        found: Sequence[np.ndarray] = executor.run([inputs.get(v.name) if v.const is None else v.const.numpy() for v in read.graph.inputs], range(len(read.graph.outputs)), RunContext())
        assert not executor.latest.fallbacks, executor.latest.fallbacks
        executor.close()
        return found

    want = run(lambda read: EngineExecutor(read, threads=1))
    for build in BUILDS:
        made = run(lambda read, build=build: SegmentedExecutor(read, "wasmtime", lambda plan: WasmProgram(plan.program, plan.constants, build=build), accepts=lambda ranges: accepts))
        for a, w in zip(made, want, strict=True):
            if w.dtype.kind == "f":
                finite = np.abs(w[np.isfinite(w)])
                np.testing.assert_allclose(a, w, rtol=rtol, atol=rtol * (finite.max() if finite.size else 0), err_msg=f"{build}: {what}")
            else:
                np.testing.assert_array_equal(a, w, f"{build}: {what}")


def floats(rng: np.random.Generator, *shape: int, special: bool = False) -> np.ndarray:
    x = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.03, rng.choice(np.array([np.nan, np.inf, -np.inf, 0], np.float32), shape), x).astype(np.float32) if special else x


def whole(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (1, 70, 33), (2, 33, 7), (3, 16, 300), (4, 50, 257), (5, 17, 31), (13, 48, 520), (37, 95, 64), (0, 5, 3), (4, 0, 3), (4, 5, 0)])
def test_matmul(m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(m * 31 + n)
    for special in (False, True):
        a, b = floats(rng, m, k, special=special), floats(rng, k, n, special=special)
        check("MatMul", {"a": a}, {"b": b})
        check("MatMul", {"a": a, "b": b})
    check("MatMul", {"a": floats(rng, 2, 3, m, k), "b": floats(rng, 3, k, n)})
    check("Gemm", {"a": floats(rng, k, m), "b": floats(rng, n, k), "c": floats(rng, n)}, transA=1, transB=1, alpha=0.5)


@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (1, 70, 33), (2, 33, 7), (3, 16, 301), (5, 17, 31), (13, 48, 1030), (37, 95, 64), (0, 5, 3), (4, 5, 0)])
def test_integer_matmul(m: int, n: int, k: int) -> None:
    """All values of bytes, zero points at both ends: exact."""
    rng = np.random.default_rng(m * 31 + n)
    for left in (np.uint8, np.int8):
        for right in (np.uint8, np.int8):
            a, b = whole(rng, left, m, k), whole(rng, right, k, n)
            for za, zb in ((0, 0), (np.iinfo(left).max, np.iinfo(right).min), (3, 7)):
                check("MatMulInteger", {"a": a}, {"b": b, "za": np.array(za, left), "zb": np.array(zb, right)})
            check("MatMulInteger", {"a": a, "b": b}, {"za": np.array(5, left), "zb": whole(rng, right, n)})


@pytest.mark.parametrize("m,n,k,block", [(1, 40, 96, 32), (3, 17, 100, 16), (7, 33, 64, 64)])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocked_weights(m: int, n: int, k: int, block: int, bits: int) -> None:
    """MatMulNBits with and without zero points; at level 4 rows are quantised as natively."""
    rng = np.random.default_rng(m * 31 + bits)
    blocks, packed = -(-k // block), block * bits // 8
    weights = {"b": whole(rng, np.uint8, n, blocks, packed), "scales": rng.uniform(0.01, 0.1, (n, blocks)).astype("f4")}
    zeros = {"zeros": whole(rng, np.uint8, n, -(-blocks * bits // 8))}
    for level in (0, 4):
        for special in (False, True):
            for constants in (weights, weights | zeros):
                check("MatMulNBits", {"a": floats(rng, m, k, special=special)}, constants, domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=level)


@pytest.mark.parametrize("c,m,kernel,size,group,strides,pads,dilations", [
    (3, 20, 7, (33, 31), 1, 2, 3, 1),
    (24, 18, 3, (27, 29), 1, 1, 1, 1), (32, 33, 3, (13, 18), 1, 1, 1, 1), (64, 40, 3, (11, 60), 1, 1, 0, 1),
    (24, 17, 3, (13, 13), 1, 1, 1, 1), (33, 25, 1, (17, 19), 1, 1, 0, 1), (10, 30, 1, (9, 9), 1, 2, 0, 1),
    (13, 13, 3, (15, 18), 13, 1, 1, 1), (19, 19, 3, (15, 18), 19, 2, 1, 1),
    (9, 9, 5, (12, 11), 9, 1, 2, 1), (6, 6, 7, (14, 12), 6, 1, 3, 1), (8, 12, 3, (11, 9), 4, 1, 1, 2), (5, 4, 3, (1, 1), 1, 1, 1, 1)])
def test_convolution(c: int, m: int, kernel: int, size: tuple[int, int], group: int, strides: int, pads: int, dilations: int) -> None:
    rng = np.random.default_rng(c * 7 + kernel)
    x, w = floats(rng, 2, c, *size), floats(rng, m, c // group, kernel, kernel)
    options = {"group": group, "strides": [strides] * 2, "pads": [pads] * 4, "dilations": [dilations] * 2}
    check("Conv", {"x": x}, {"w": w, "b": floats(rng, m)}, rtol=1e-4, **options)
    check("ConvTranspose", {"x": x}, {"w": floats(rng, c, m // group, kernel, kernel)}, rtol=1e-4, **options)
    for dtype in (np.uint8, np.int8):
        check("ConvInteger", {"x": whole(rng, dtype, 2, c, *size)}, {"w": whole(rng, np.int8, m, c // group, kernel, kernel), "zx": np.array(11, dtype), "zw": np.array(0, np.int8)}, **options)
        scale = np.float32(0.02)
        check("QLinearConv", {"x": whole(rng, dtype, 2, c, *size)},
              {"xs": scale, "xz": np.array(4, dtype), "w": whole(rng, np.int8, m, c // group, kernel, kernel), "ws": rng.uniform(0.001, 0.01, m).astype("f4"), "wz": np.zeros(m, np.int8),
               "ys": np.array(0.3, "f4"), "yz": np.array(7, dtype), "b": rng.integers(-999, 999, m).astype("i4")}, **options)


@pytest.mark.parametrize("height", [24, 23, 17])
def test_winograd_of_an_odd_few_blocks(height: int) -> None:
    """Three blocks of two rows of tiles, the last of which is halved, and where it has one row and is not."""
    rng = np.random.default_rng(height)
    check("Conv", {"x": floats(rng, 1, 16, height, 60)}, {"w": floats(rng, 20, 16, 3, 3), "b": floats(rng, 20)}, rtol=1e-4, pads=[1] * 4)


@pytest.mark.parametrize("c,kernel,width,strides,pads", [
    (13, 3, 16, 1, (1, 1)), (8, 3, 8, 1, (1, 1)), (24, 3, 7, 1, (1, 1)), (4, 3, 6, 1, (1, 1)), (6, 3, 5, 1, (0, 2)), (3, 3, 9, 1, (1, 1)), (17, 3, 27, 2, (1, 1)), (12, 3, 13, 2, (0, 1)),
    (9, 5, 15, 1, (2, 2)), (20, 5, 23, 2, (2, 1)), (7, 7, 17, 1, (3, 3)), (5, 7, 9, 1, (5, 6)), (16, 3, 3, 1, (2, 2))])
@pytest.mark.parametrize("special", [False, True])
def test_depthwise_along_channels(c: int, kernel: int, width: int, strides: int, pads: tuple[int, int], special: bool) -> None:
    """Between two pointwise convolutions, where channels lie side by side: borders and spans of every width, with a bound and with a residual."""
    rng = np.random.default_rng(c * 100 + width)
    constants = {"w0": floats(rng, c, 3, 1, 1), "w1": floats(rng, c, 1, kernel, kernel), "b1": floats(rng, c), "w2": floats(rng, 5, c, 1, 1), "lo": np.float32(-1), "hi": np.float32(2)}
    around = [kernel // 2, pads[0], kernel // 2, pads[1]]
    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"]), helper.make_node("Conv", ["a", "w1", "b1"], ["d"], group=c, strides=[strides] * 2, pads=around),
             helper.make_node("Clip", ["d", "lo", "hi"], ["e"]), helper.make_node("Conv", ["e", "w2"], ["y0"])]
    x = floats(rng, 2, 3, 6, width)
    if special:
        x[0, 1, 3, width // 2] = np.nan
    out = 1
    if strides == 1 and sum(pads) == kernel - 1:
        nodes += [helper.make_node("Add", ["d", "a"], ["f"]), helper.make_node("Conv", ["f", "w2"], ["y1"])]
        out = 2
    graph = helper.make_graph(nodes, "three", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                              [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(out)], [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()])
    made = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    same(bytes(made.SerializeToString()), {"x": x}, 1e-4, f"{kernel} of {width}")


@pytest.mark.parametrize("op", ["Exp", "Log", "Tanh", "Erf", "Sigmoid", "Sin", "Cos", "Tan", "Atan", "Sqrt", "Floor", "Round", "Neg", "Abs", "Sign", "Softplus", "Gelu", "HardSwish", "IsNaN"])
def test_elementwise(op: str) -> None:
    rng = np.random.default_rng(len(op))
    for shape in ((1,), (7, 33), (0, 4), (3, 5, 401)):
        x = floats(rng, *shape, special=True) * 8
        check(op, {"x": x}, rtol=2e-6)
        if op != "IsNaN":
            check(op, {"x": x.astype(np.float64)}, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("op", ["Add", "Mul", "Div", "Max", "Mod", "Less"])
def test_binary(op: str, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    for left, right in (((5, 67), (5, 67)), ((5, 67), (67,)), ((4, 1, 9), (3, 1)), ((0, 3), (3,))):
        a, b = ((rng.standard_normal(s) * 20).astype(dtype) for s in (left, right))
        b = np.where(b == 0, 1, b).astype(dtype)
        check(op, {"a": a, "b": b}, rtol=2e-6, **({"fmod": 1} if op == "Mod" and np.dtype(dtype).kind == "f" else {}))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("shape,axes", [((7, 130), [1]), ((7, 130), [0]), ((3, 5, 37), [0, 2]), ((2, 3, 4, 5), [1]), ((6, 0), [0])])
def test_reductions(op: str, shape: tuple[int, ...], axes: list[int]) -> None:
    rng = np.random.default_rng(1)
    for special in (False, True):
        check(op, {"x": floats(rng, *shape, special=special)}, {"axes": np.array(axes)})
    if op in ("ReduceSum", "ReduceMax", "ReduceProd"):
        check(op, {"x": whole(rng, np.int32, *shape)}, {"axes": np.array(axes)})


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_extremes_where_one_number_is_nan(op: str) -> None:
    """Wherever it stands; and where the extreme does, first, last or in any of the running vectors."""
    rng = np.random.default_rng(2)
    for length in (5, 16, 37):
        x = np.repeat(floats(rng, 1, length), 2 * length, axis=0)
        for i in range(length):
            x[i, i], x[length + i, i] = np.nan, 99 if op == "ReduceMax" else -99
        check(op, {"x": x}, {"axes": np.array([1])})


@pytest.mark.parametrize("kernel,height,width,pads", [
    (3, 1, 1, (1, 1, 1, 1)), (3, 5, 3, (1, 1, 1, 1)), (3, 33, 16, (1, 1, 1, 1)), (3, 61, 37, (1, 0, 2, 1)), (3, 30, 42, (0, 0, 0, 0)), (3, 3, 50, (2, 2, 2, 2)), (3, 9, 21, (6, 7, 3, 9)),
    (5, 31, 29, (2, 2, 2, 2)), (5, 40, 18, (4, 1, 0, 3)), (7, 12, 33, (3, 3, 3, 3))])
def test_depthwise_convolution_of_rows(kernel: int, height: int, width: int, pads: tuple[int, ...]) -> None:
    rng = np.random.default_rng(kernel * height + width)
    for special in (False, True):
        x = floats(rng, 2, 3, height, width, special=special)
        constants = {"w": floats(rng, 3, 1, kernel, kernel), "b": floats(rng, 3), "lo": np.float32(-0.5), "hi": np.float32(1)}
        want = [numpy_helper.from_array(np.asarray(c), n) for n, c in constants.items()]
        for inputs in (["x", "w"], ["x", "w", "b"]):
            for bounded in (False, True):
                nodes = [helper.make_node("Conv", inputs, ["c" if bounded else "y"], group=3, pads=pads), *([helper.make_node("Clip", ["c", "lo", "hi"], ["y"])] if bounded else [])]
                graph = helper.make_graph(nodes, "rows", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], want)
                made = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
                same(bytes(made.SerializeToString()), {"x": x}, 1e-4, f"{inputs} {bounded} {special}")


@pytest.mark.parametrize("heads,groups,queries,past,new,size", [(4, 4, 1, 9, 1, 64), (6, 2, 1, 300, 1, 20), (8, 2, 2, 7, 2, 12), (2, 2, 1, 1030, 3, 16), (3, 1, 2, 0, 5, 4), (2, 1, 1, 6, 1, 7)])
def test_attention_of_few_queries(heads: int, groups: int, queries: int, past: int, new: int, size: int) -> None:
    """Decoding: keys and values of a cache and new ones, kept as presents or not, exact there; values with NaN and infinities that have weight."""
    rng = np.random.default_rng(heads * 100 + past)
    for special in (False, True):
        given = {"q": floats(rng, 2, heads, queries, size), "k": floats(rng, 2, groups, new, size), "v": floats(rng, 2, groups, new, size), "": np.zeros(0, np.float32),
                 "pk": floats(rng, 2, groups, past, size), "pv": floats(rng, 2, groups, past, size, special=special)}
        for outputs in (1, 3):
            check("Attention", {name: x for name, x in given.items() if name}, order=list(given), outputs=outputs, opset=23)


def test_rows() -> None:
    """Softmax, norms, arg-extremes, top-k, pools, recurrences."""
    rng = np.random.default_rng(8)
    for shape in ((3, 1), (5, 67), (2, 3, 130)):
        x = floats(rng, *shape)
        for axis in range(len(shape)):
            check("Softmax", {"x": x}, axis=axis)
            check("LogSoftmax", {"x": x}, axis=axis)
            check("ArgMax", {"x": floats(rng, *shape, special=True)}, axis=axis)
        check("LayerNormalization", {"x": x}, {"s": floats(rng, shape[-1]), "b": floats(rng, shape[-1])})
    image = floats(rng, 2, 7, 13, 11)
    for op in ("MaxPool", "AveragePool"):
        check(op, {"x": image}, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    check("TopK", {"x": floats(rng, 5, 40)}, {"k": np.array([7])}, outputs=2)
    for direction in ("forward", "bidirectional"):
        n = 2 if direction == "bidirectional" else 1
        for op, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2)):
            weights = {"w": floats(rng, n, gates * 9, 10) / 3, "r": floats(rng, n, gates * 9, 9) / 3, "b": floats(rng, n, 2 * gates * 9) / 3}
            check(op, {"x": floats(rng, 6, 3, 10)}, weights, outputs=outputs, hidden_size=9, direction=direction)
