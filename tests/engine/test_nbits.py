"""MATMUL with weights of 4 and 8 bits in blocks against the interpreter: block sizes, ragged sizes, zero points of each kind, storage types, packed and plain; and the operator through sessions.

Values are chosen so that nothing is lost where A is rounded to 8 bits (level 4: the largest of each block is 127 times a power of two): all levels give the same, but for the order of sums.
"""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.expr import acc, leaf
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.ops import lookup
from sardonyx.types import DType

from .test_integer import Step, spread

MATMUL_NBITS = lookup("com.microsoft", "MatMulNBits")


def activations(rng: np.random.Generator, m: int, k: int, block: int) -> np.ndarray:
    """Whole numbers times a power of two for each block, the largest 127."""
    blocks = -(-k // block)
    x = rng.integers(-127, 128, (m, blocks, block)).astype(np.float32)
    x[:, :, 0] = rng.choice([-127.0, 127.0], (m, blocks))
    if rng.random() < 0.3 and m and blocks:
        x[int(rng.integers(m)), int(rng.integers(blocks))] = 0
    return (x * 2.0 ** rng.integers(-3, 3, (m, blocks, 1))).astype(np.float32).reshape(m, blocks * block)[:, :k]


def case(rng: np.random.Generator) -> Step:
    """A random product."""
    bits, block = int(rng.choice([4, 8])), int(rng.choice([16, 32, 64, 128, 256]))
    m, n = int(rng.choice([0, 1, 1, 2, 3, 4, 5, 9, 13, 30, 100])), int(rng.choice([1, 5, 16, 17, 40, 100]))
    k = int(rng.choice([1, 15, 16, 40, 64, 100, 256, 300]))
    blocks, dtype = -(-k // block), rng.choice([np.float32, np.float32, np.float16, ml_dtypes.bfloat16])
    level = int(rng.choice([0, 4]))
    a = activations(rng, m, k, block) if dtype is np.float32 else rng.integers(-4, 5, (m, k)).astype(np.float32)
    if dtype is not np.float32:
        level = 0
    s = Step(rng)
    weights = rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
    scales = np.asarray(2.0 ** rng.integers(-4, 1, (n, blocks))).astype(dtype)
    packed = rng.random() < 0.6
    operands = [s.operand(a.astype(dtype), broadcast=False)]
    operands += [s.constant(weights, Packing.NIBBLES if bits == 4 else Packing.MATRIX_T) if packed else s.operand(weights, broadcast=False),
                 s.constant(scales, Packing.SCALES) if packed else s.operand(scales, broadcast=False)]
    params: dict[str, Any] = {"zero_a": -1, "zero_b": -1, "bits": bits, "block": block, "block_scales": 2, "block_zeros": 0, "level": level}
    kind = int(rng.integers(3))
    if kind:
        zeros = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8) if kind == 1 else rng.integers(0, 16, (n, blocks)).astype(dtype)
        params["block_zeros"] = len(operands)
        operands.append(s.operand(zeros, broadcast=False, dense=rng.random() < 0.5))
    first, out = len(operands), DType.of(np.zeros(0, dtype))
    if rng.random() < 0.5:
        operands.append(spread(s, rng.integers(-9, 9, n).astype(dtype), (m, n), 1))
        return s.step(Kernel.MATMUL, operands, [s.result((m, n), out)], params, [acc(out) + leaf(0, out)], None, first)  # type: ignore[return-value]
    return s.step(Kernel.MATMUL, operands, [s.result((m, n), out, dense=rng.random() < 0.5)], params)  # type: ignore[return-value]


@pytest.mark.parametrize("part", range(4))
def test_random(part: int) -> None:
    for seed in range(40):
        made = case(np.random.default_rng(1000 * part + seed))
        most = max(float(np.abs(y.astype(np.float64)).max(initial=0)) for y in made.expected())
        made.check(rtol=1e-6, atol=1e-6 * most)


def test_rounded_activations_stay_near() -> None:
    """Level 4 with ordinary numbers: within half a step of each block's scale."""
    rng = np.random.default_rng(5)
    a, weights = rng.standard_normal((3, 256)).astype(np.float32), rng.integers(0, 256, (20, 8, 16)).astype(np.uint8)
    s = Step(rng)
    scales = rng.uniform(0.01, 0.1, (20, 8)).astype(np.float32)
    operands = [s.operand(a, broadcast=False, dense=True), s.constant(weights, Packing.NIBBLES), s.constant(scales, Packing.SCALES)]
    s.step(Kernel.MATMUL, operands, [s.result((3, 20), DType.FLOAT)], {"zero_a": -1, "zero_b": -1, "bits": 4, "block": 32, "block_scales": 2, "block_zeros": 0, "level": 4})
    want = s.expected()[0]
    bound = (np.abs(a).reshape(3, 8, 32).max(2) / 254)[:, None, :] * 32 * 8 * scales[None]
    for isa in ("avx512", "avx2", "sse"):
        if isa in sardonyx.engine.binding.isas():
            assert (np.abs(s.run(isa)[0] - want) <= bound.sum(2) + 1e-4).all()


def test_infinities_and_nan() -> None:
    """A block that holds one makes all its results NaN or infinite; other rows are not touched."""
    rng = np.random.default_rng(6)
    for level in (0, 4):
        a = activations(rng, 4, 64, 32)
        a[1, 40], a[2, 3] = np.inf, np.nan
        s = Step(rng)
        weights = rng.integers(0, 256, (16, 2, 16)).astype(np.uint8)
        operands = [s.operand(a, broadcast=False, dense=True), s.constant(weights, Packing.NIBBLES), s.constant(np.ones((16, 2), np.float32), Packing.SCALES)]
        s.step(Kernel.MATMUL, operands, [s.result((4, 16), DType.FLOAT)], {"zero_a": -1, "zero_b": -1, "bits": 4, "block": 32, "block_scales": 2, "block_zeros": 0, "level": level})
        found, want = s.run()[0], s.expected()[0]
        assert not np.isfinite(found[1:3]).any()
        np.testing.assert_array_equal(found[[0, 3]], want[[0, 3]])


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"block": 24}, {"block": 8}, {"block_scales": 0}, {"block_scales": 9}, {"block_zeros": 1}, {"block_zeros": 9}, {"block": 32}])
def test_wrong_parameters_are_refused(wrong: dict[str, int]) -> None:
    rng = np.random.default_rng(7)
    s = Step(rng)
    operands = [s.operand(np.ones((2, 32), np.float32), broadcast=False, dense=True), s.operand(np.ones((5, 2, 8), np.uint8), broadcast=False, dense=True),
                s.operand(np.ones((5, 2), np.float32), broadcast=False, dense=True)]
    s.step(Kernel.MATMUL, operands, [s.result((2, 5), DType.FLOAT)], {"zero_a": -1, "zero_b": -1, "bits": 4, "block": 16, "block_scales": 2, "block_zeros": 0, "level": 0, **wrong})
    with pytest.raises(sardonyx.errors.SardonyxError):
        s.run()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", ["none", "bytes", "floats"])
@pytest.mark.parametrize("extra", ["plain", "g_idx", "vector", "constant"])
def test_operator(bits: int, zero: str, extra: str) -> None:
    """The operator through a session, no node left to NumPy: ranks of A, bias, scales as one vector, g_idx, weights that are inputs."""
    rng = np.random.default_rng(bits)
    n, k, block = 21, 50, 16
    blocks = -(-k // block)
    feed: dict[str, np.ndarray] = {"A": activations(rng, 6, k, block).reshape(2, 3, k), "B": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
                                   "scales": np.asarray(2.0 ** rng.integers(-3, 1, (n, blocks)), np.float32)}
    if zero != "none":
        feed["zero_points"] = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8) if zero == "bytes" else rng.integers(0, 5, (n, blocks)).astype(np.float32)
    if extra == "vector":
        feed["scales"] = feed["scales"].ravel()
    if extra == "g_idx":
        feed["g_idx"] = rng.integers(0, blocks, k).astype(np.int32)
    feed["bias"] = rng.integers(-3, 3, n).astype(np.float32)
    names = ["A", "B", "scales", "zero_points", "g_idx", "bias"]
    node = helper.make_node("MatMulNBits", [x if x in feed else "" for x in names], ["Y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=0)
    fixed = {} if extra == "plain" else {x: v for x, v in feed.items() if x != "A"}
    inputs = [helper.make_tensor_value_info(x, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for x, v in feed.items() if x not in fixed]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)], [numpy_helper.from_array(v, x) for x, v in fixed.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = sardonyx.InferenceSession(onnx.ModelProto.SerializeToString(model), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {x: v for x, v in feed.items() if x not in fixed})[0]
    want = MATMUL_NBITS(*[feed.get(x) for x in names], K=k, N=n, bits=bits, block_size=block)
    np.testing.assert_allclose(found, want, rtol=1e-6)
