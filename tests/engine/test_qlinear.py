"""com.microsoft's QLinear* operators and GatherBlockQuantized on the engine, no node left to NumPy, against their NumPy bodies: sums and products of scales are rounded once more: by one step."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import helper, numpy_helper
from sardonyx.ops import lookup

Array = np.ndarray


def run(op: str, inputs: list[Array | None], constant: set[int], **attributes: Any) -> tuple[Array, Array]:
    """(the engine's, the body's) result of a one-node model; inputs whose numbers are in `constant` are initializers."""
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    given = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    fixed = {f"x{i}" for i in constant}
    ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items() if n not in fixed]
    node = helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", ports, [helper.make_tensor_value_info("y", 0, None)], [numpy_helper.from_array(x, n) for n, x in given.items() if n in fixed])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = sardonyx.InferenceSession(onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {n: x for n, x in given.items() if n not in fixed})[0]
    return found, np.asarray(lookup("com.microsoft", op)(*inputs, **attributes))


def close(found: Array, want: Array, exact: bool = False) -> None:
    assert found.dtype == want.dtype and found.shape == want.shape
    difference = np.abs(found.astype(np.int64) - want.astype(np.int64))
    assert difference.max(initial=0) <= (0 if exact else 1)
    assert (difference > 0).sum() <= 0.02 * difference.size


class Draw:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype: Any = (np.uint8, np.int8)[seed % 2]
        self.fixed = seed % 3 > 0

    def bytes(self, *shape: int) -> Array:
        info = np.iinfo(self.dtype)
        return np.asarray(self.rng.integers(info.min, info.max + 1, shape), self.dtype)

    def scale(self, low: float = 0.01, high: float = 0.1) -> Array:
        return np.asarray(self.rng.uniform(low, high, () if self.rng.random() < 0.6 else (1,)), np.float32)

    def triple(self, *shape: int) -> list[Array]:
        return [self.bytes(*shape), self.scale(), self.bytes()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op: str, seed: int) -> None:
    d = Draw(seed)
    for a, b in (((2, 5, 700), (2, 5, 700)), ((3, 1, 65), (4, 1)), ((2, 3, 4, 5), ()), ((0, 4), (1, 4))):
        inputs = [*d.triple(*a), *d.triple(*b), d.scale(0.05, 0.3), d.bytes()]
        close(*run(op, inputs, {1, 2, 4, 5, 6, 7} if d.fixed else set()))


@pytest.mark.parametrize("seed", range(4))
def test_functions_of_a_byte(seed: int) -> None:
    d = Draw(seed)
    for shape in ((3, 700), (2, 3, 5), (0,)):
        close(*run("QLinearSigmoid", [*d.triple(*shape), np.float32(1 / 256), d.bytes()], {1, 2, 3, 4} if d.fixed else set()))
        close(*run("QLinearLeakyRelu", [*d.triple(*shape), d.scale(), d.bytes()], {1, 2, 3, 4} if d.fixed else set(), alpha=0.2))
    x = d.triple(3, 4, 37)
    close(*run("QLinearSoftmax", [*x, np.float32(1 / 256), np.array(0, d.dtype)], {1, 2, 3, 4}, axis=1, opset=13))
    close(*run("QLinearSoftmax", [*x, np.float32(1 / 256), np.array(0, d.dtype)], {1, 2, 3, 4}, axis=1, opset=11))


@pytest.mark.parametrize("seed", range(4))
def test_concat_and_where(seed: int) -> None:
    d = Draw(seed)
    scale, zero = d.scale(), d.bytes()
    parts = [*d.triple(2, 3, 50), d.bytes(2, 4, 50), scale, zero, *d.triple(2, 1, 50)]
    close(*run("QLinearConcat", [scale, zero, *parts], {0, 1, 3, 4, 6, 7, 9, 10}, axis=1))
    close(*run("QLinearWhere", [d.rng.random((3, 1)) < 0.5, *d.triple(3, 40), *d.triple(40), d.scale(), d.bytes()], {2, 3, 5, 6, 7, 8}))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("last", [0, 1])
def test_windows(seed: int, last: int) -> None:
    d = Draw(seed)
    shape = (2, 9, 8, 20) if last else (2, 20, 9, 8)
    close(*run("QLinearAveragePool", [*d.triple(*shape), d.scale(), d.bytes()], {1, 2, 3, 4}, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1], channels_last=last, count_include_pad=seed % 2))
    close(*run("QLinearGlobalAveragePool", [*d.triple(*shape), d.scale(), d.bytes()], {1, 2, 3, 4}, channels_last=last))
    if last:
        close(*run("NhwcMaxPool", [d.bytes(*shape)], set(), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), exact=True)
    weights = [d.rng.integers(-127, 128, (33, 20, 3, 3)).astype(np.int8), d.rng.uniform(0.001, 0.004, 33).astype(np.float32), np.zeros(33, np.int8)]
    inputs = [*d.triple(*shape), *weights, np.float32(0.4), d.bytes(), d.rng.integers(-900, 900, 33).astype(np.int32)]
    close(*run("QLinearConv", inputs, {1, 2, 3, 4, 5, 6, 7, 8}, channels_last=last, pads=[1, 1, 1, 1]), exact=True)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 0), (1, 2)])
def test_gather_block_quantized(bits: int, zero: bool, axes: tuple[int, int]) -> None:
    """Packed tables; indices of any rank, negative and out of range."""
    rng = np.random.default_rng(bits)
    gather, along = axes
    rows = [7, 48, 64]
    blocks = list(rows)
    blocks[along] = -(-rows[along] // 16)
    width = 8 // bits
    data = rng.integers(0, 256, (*rows[:2], rows[2] // width)).astype(np.uint8)
    zeros = rng.integers(0, 256, (*blocks[:2], -(-blocks[2] // width))).astype(np.uint8) if zero else None
    scales = rng.uniform(0.1, 1, blocks).astype(np.float32)
    for shape in ((), (5,), (2, 3)):
        indices = np.asarray(rng.integers(-rows[gather] - 1, rows[gather] + 1, shape), np.int64)
        for constant in (set(), {0, 2, 3} if zero else {0, 2}):
            found, want = run("GatherBlockQuantized", [data, indices, scales, zeros], constant, bits=bits, block_size=16, gather_axis=gather, quantize_axis=along)
            np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("channels", [64, 960])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_depthwise_in_many_threads(channels: int, dtype: Any) -> None:
    """Workers' scratch lies side by side: one that takes more than it asked for writes into its neighbour's."""
    rng = np.random.default_rng(channels)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, (1, channels, 28, 28)).astype(dtype)
    w = rng.integers(-127, 128, (channels, 1, 3, 3)).astype(np.int8)
    scales, bias = rng.uniform(0.001, 0.01, channels).astype(np.float32), rng.integers(-900, 900, channels).astype(np.int32)
    fixed = [np.float32(0.02), dtype(3), w, scales, np.zeros(channels, np.int8), np.float32(0.05), dtype(7), bias]
    names = [f"c{i}" for i in range(len(fixed))]
    node = helper.make_node("QLinearConv", ["x", *names], ["y"], group=channels, pads=[1, 1, 1, 1])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, x.shape)], [helper.make_tensor_value_info("y", kind, x.shape)],
                              [numpy_helper.from_array(np.asarray(c), n) for n, c in zip(names, fixed, strict=True)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    want = None
    for threads in (1, 4):
        options = sardonyx.SessionOptions()
        options.intra_op_num_threads = threads
        session = sardonyx.InferenceSession(model, options)
        for _ in range(25):
            (found,) = session.run(None, {"x": x})
            want = found if want is None else want
            np.testing.assert_array_equal(found, want)
    close(want, np.asarray(lookup("", "QLinearConv")(x, *fixed, group=channels, pads=[1, 1, 1, 1])))
