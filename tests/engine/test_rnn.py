"""RNN, GRU, LSTM in C against the interpreter: kinds, directions, ragged lengths, every activation, float types, few and many sequences, hidden sizes around the vector widths."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.errors import RuntimeException
from sardonyx.kernels import ACTIVATIONS, Kernel
from sardonyx.types import DType

from .against import against
from .one_step import OneStep

GATES = (4, 3, 1)
DEFAULTS = ([2, 1, 1], [2, 1], [1])


def cell(rng: np.random.Generator, kind: int, t: int, b: int, i: int, h: int, dtype: Any = np.float32, direction: int = 0, optional: bool = True, outputs: bool = True, dense: bool = False,
         **params: Any) -> list[np.ndarray]:
    d, g = 2 if direction == 2 else 1, GATES[kind]

    def some(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / max(h, 1) ** 0.5).astype(dtype)

    def maybe(x: np.ndarray) -> np.ndarray | None:
        return x if optional and rng.random() < 0.7 else None
    inputs = [some(t, b, i), some(d, g * h, i), some(d, g * h, h), maybe(some(d, 2 * g * h)), maybe(rng.integers(0, t + 1, b).astype(np.int32)), maybe(some(d, b, h))]
    inputs += [maybe(some(d, b, h)), maybe(some(d, 3 * h))] if kind == 0 else []
    wanted = [((t, d, b, h), dtype), ((d, b, h), dtype), ((d, b, h), dtype) if kind == 0 else None]
    if not outputs:
        wanted[int(rng.integers(3 if kind == 0 else 2))] = None
    params = {"activations": DEFAULTS[kind] * d, "alpha": [1.0] * 6, "beta": [0.0] * 6, **params}
    return against(rng, Kernel.RNN, inputs, wanted, {"cell": kind, "direction": direction, **params}, 1e-4 if np.dtype(dtype).itemsize == 4 else 1e-9, 2e-5 if dtype is not np.float64 else 1e-9, dense)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("direction", range(3))
def test_random(kind: int, direction: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        t, b, i, h = int(rng.integers(0, 9)), int(rng.choice([1, 2, 4, 5, 9])), int(rng.choice([1, 3, 16, 40])), int(rng.choice([1, 7, 16, 33, 70]))
        cell(rng, kind, t, b, i, h, direction=direction, outputs=seed % 3 != 0, linear_before_reset=seed % 2 if kind == 1 else 0, input_forget=seed % 2 if kind == 0 else 0,
             clip=0.3 if seed % 4 == 0 else 0.0)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("dtype", [np.float16, np.float64, DType.BFLOAT16.numpy])
def test_float_types(kind: int, dtype: Any) -> None:
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        cell(rng, kind, 4, (1, 3, 6, 2)[seed], 10, (18, 5, 33, 64)[seed], dtype, direction=seed % 3, linear_before_reset=seed % 2 if kind == 1 else 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    number = ACTIVATIONS.index(name)
    for kind in range(3):
        for dtype in (np.float32, np.float64):
            rng = np.random.default_rng(number)
            cell(rng, kind, 3, 2, 20, 19, dtype, direction=2, activations=[number] * (3 - kind) * 2, alpha=[0.3, 1.2, 0.1, 0.5, 0.9, 0.7], beta=[0.2, 0.7, 1.1, 0.4, 0.1, 0.6])


def test_many_blocks_and_chunks() -> None:
    rng = np.random.default_rng(5)
    cell(rng, 0, 30, 1, 20, 300, dense=True)
    cell(rng, 0, 30, 7, 20, 300, direction=2)
    cell(rng, 1, 20, 3, 30, 260, direction=1)
    cell(rng, 2, 90, 40, 9, 130, direction=2)


def test_empty() -> None:
    rng = np.random.default_rng(6)
    for t, b, i, h in ((0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4), (3, 2, 3, 0)):
        for kind in range(3):
            cell(rng, kind, t, b, i, h, optional=False)


def test_nan_stays_in_its_sequence() -> None:
    rng = np.random.default_rng(7)
    for b in (3, 6):
        x = rng.standard_normal((4, b, 5)).astype(np.float32)
        x[1, 1, 2], x[2, 2, 0] = np.nan, np.inf
        w, r = (rng.standard_normal((1, 4 * 9, n)).astype(np.float32) for n in (5, 9))
        against(rng, Kernel.RNN, [x, w, r], [((4, 1, b, 9), np.float32), ((1, b, 9), np.float32), ((1, b, 9), np.float32)], {"cell": 0, "activations": [2, 1, 1]}, 1e-4, 1e-5)


@pytest.mark.parametrize("length", [-1, 5])
def test_wrong_length_raises(length: int) -> None:
    made = OneStep(np.random.default_rng(8))
    zeros = [np.zeros(s, np.float32) for s in ((4, 2, 3), (1, 5, 3), (1, 5, 5))]
    given = [made.operand(z) for z in zeros] + [-1, made.operand(np.array([4, length], np.int32), broadcast=False)]
    made.step(Kernel.RNN, given, [made.result((4, 1, 2, 5), DType.FLOAT)], {"cell": 2, "activations": [1]})
    with pytest.raises(RuntimeException, match="out of range"):
        made.run()


@pytest.mark.parametrize("kind", range(3))
def test_input_share_given(kind: int) -> None:
    """No W: X is its product already. Both directions side by side, ragged lengths."""
    for seed, (t, b, h, direction) in enumerate([(5, 1, 33, 2), (4, 3, 16, 0), (6, 6, 20, 1), (3, 2, 70, 2), (0, 2, 5, 2)]):
        rng = np.random.default_rng(200 + seed)
        d, g = 2 if direction == 2 else 1, GATES[kind]
        x, r, bias = (rng.standard_normal(s).astype(np.float32) / 3 for s in ((t, b, d * g * h), (d, g * h, h), (d, 2 * g * h)))
        lens = rng.integers(0, t + 1, b).astype(np.int32)
        wanted = [((t, d, b, h), np.float32), ((d, b, h), np.float32), ((d, b, h), np.float32) if kind == 0 else None]
        params = {"cell": kind, "direction": direction, "activations": DEFAULTS[kind] * d, "linear_before_reset": seed % 2 if kind == 1 else 0}
        against(rng, Kernel.RNN, [x, None, r, bias, lens], wanted, params, 1e-4, 2e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_eight_bit_recurrence(dtype: Any) -> None:
    """R of 8 bits with a scale and a zero point a column; states are quantised at every step, exactly as the interpreter does."""
    for seed, (t, b, h, direction) in enumerate([(5, 1, 33, 2), (4, 3, 16, 0), (6, 6, 20, 1), (9, 2, 128, 2), (2, 2, 1, 0)]):
        rng = np.random.default_rng(300 + seed)
        d, wide = 2 if direction == 2 else 1, -(-h // 16) * 16
        info = np.iinfo(dtype)
        r, zero = rng.integers(info.min, info.max, (h, d * 4 * wide), dtype, endpoint=True), rng.integers(info.min // 8, info.max // 4, d * 4 * wide, dtype)
        scale = (rng.uniform(0.5, 1.0, d * 4 * wide) / 300).astype(np.float32)
        made = OneStep(rng)
        x, bias, start = (rng.standard_normal(s).astype(np.float32) for s in ((t, b, d * 4 * h), (d, 8 * h), (d, b, h)))
        given = [made.operand(x, broadcast=False), -1, made.operand(r, broadcast=False), made.operand(bias, broadcast=False),
                 made.operand(rng.integers(0, t + 1, b).astype(np.int32), broadcast=False) if seed % 2 else -1, made.operand(start, broadcast=False), -1, -1,
                 made.operand(scale, broadcast=False, dense=True), made.operand(zero, broadcast=False, dense=True)]
        wanted = [made.result(s, DType.FLOAT) for s in ((t, d, b, h), (d, b, h), (d, b, h))]
        made.step(Kernel.RNN, given, wanted, {"cell": 0, "direction": direction, "activations": DEFAULTS[0] * d})
        made.check(1e-2, 1e-2)  # a rounding apart before a quantisation is a step apart after it


def _session_outputs(node: Any, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], domain: str) -> list[list[np.ndarray]]:
    from onnx import helper, numpy_helper
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), [f"{n}{i}" for i in range(x.ndim)]) for n, x in inputs.items()],
                              [helper.make_tensor_value_info(n, 1, None) for n in node.output if n], [numpy_helper.from_array(x, n) for n, x in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8).SerializeToString()
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return [sardonyx.InferenceSession(model, options if name.startswith("CPU") else None, providers=[name]).run(None, inputs) for name in ("CPUExecutionProvider", "ReferenceExecutionProvider")]


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "DynamicQuantizeLSTM"])
def test_constant_weights(op_type: str) -> None:
    """As models have it: W (and an 8-bit R) packed once, the input's share a product over all steps."""
    from onnx import helper
    for seed, (t, b, i, h, direction) in enumerate([(7, 1, 24, 40, "bidirectional"), (5, 3, 16, 16, "forward"), (4, 6, 10, 33, "reverse")]):
        rng = np.random.default_rng(400 + seed)
        d, g = 2 if direction == "bidirectional" else 1, 3 if op_type == "GRU" else 4
        x, bias, h0, c0 = (rng.standard_normal(s).astype(np.float32) / 2 for s in ((t, b, i), (d, 2 * g * h), (d, b, h), (d, b, h)))
        inputs, states = {"x": x, "h": h0}, ["h"]
        if g == 4:
            inputs["c"], states = c0, ["h", "c"]
        lens = rng.integers(0, t + 1, b).astype(np.int32)
        constants, names = {"lens": lens, "b": bias}, ["x", "w", "r", "b", "lens" if seed else "", *states]
        outputs = ["y", "y_h", "y_c"][:g - 1]
        if op_type == "DynamicQuantizeLSTM":
            constants |= {"w": rng.integers(-128, 128, (d, i, g * h), np.int8), "r": rng.integers(-128, 128, (d, h, g * h), np.int8), "ws": rng.uniform(1e-3, 3e-3, d).astype(np.float32),
                          "wz": rng.integers(-9, 9, d).astype(np.int8), "rs": rng.uniform(1e-3, 3e-3, (d, g * h)).astype(np.float32), "rz": rng.integers(-9, 9, (d, g * h)).astype(np.int8)}
            names += ["", "ws", "wz", "rs", "rz"]
            ours, theirs = _session_outputs(helper.make_node(op_type, names, outputs, domain="com.microsoft", direction=direction, hidden_size=h), inputs, constants, "com.microsoft")
        else:
            constants |= {n: (rng.standard_normal((d, g * h, s)) / h ** 0.5).astype(np.float32) for n, s in (("w", i), ("r", h))}
            ours, theirs = _session_outputs(helper.make_node(op_type, names, outputs, direction=direction, hidden_size=h), inputs, constants, "")
        for a, e in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-2 if op_type.startswith("D") else 2e-5)
