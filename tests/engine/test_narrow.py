"""Floats of 8 bits and fewer in Maps: every code read, every rounding written, as ml_dtypes does; casts and quantisation of whole models as the operators' bodies do."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from sardonyx.converter.onnx import load_model
from sardonyx.engine.binding import EngineProgram, isas
from sardonyx.errors import SardonyxError
from sardonyx.expr import Compute, cast, leaf
from sardonyx.kernels import Kernel
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.types import DType

from .one_step import OneStep

NARROW = [t for t in DType if t.is_narrow_float]
BITS = {DType.FLOAT4E2M1: 4, DType.FLOAT6E2M3: 6, DType.FLOAT6E3M2: 6}


def codes(dtype: DType) -> np.ndarray:
    return np.arange(1 << BITS.get(dtype, 8), dtype=np.uint8).view(dtype.numpy)


def converted(x: np.ndarray, dtype: DType, isa: str) -> np.ndarray:
    one = OneStep(np.random.default_rng(0))
    value = leaf(0, DType.of(x))
    one.step(Kernel.MAP, [one.operand(x, broadcast=False)], [one.result(x.shape, dtype)], epilogue=[cast(value, Compute.F32)])
    return one.run(isa)[0]


@pytest.mark.parametrize("dtype", NARROW)
def test_every_code_is_read(dtype: DType) -> None:
    given = codes(dtype)
    for isa in isas():
        np.testing.assert_array_equal(converted(given, DType.FLOAT, isa), given.astype(np.float32), isa)


@pytest.mark.parametrize("dtype", NARROW)
def test_every_rounding(dtype: DType) -> None:
    """All numbers, the middles between them, both neighbours of each, what lies beyond, and random ones."""
    own = np.unique(codes(dtype).astype(np.float32))
    own = own[np.isfinite(own)]
    x = np.concatenate([own, (own[1:] + own[:-1]) / 2, own[-1:] * np.float32(1.1), own[-1:] * np.float32(1.9), own[:1] / 3, -own, [np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-45, -1e-45]]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf)), [np.nan, -np.nan]]).astype(np.float32)
    rng = np.random.default_rng(1)
    x = np.concatenate([x, (rng.standard_normal(5000) * np.exp2(rng.uniform(-20, 20, 5000))).astype(np.float32)])
    want = x.astype(dtype.numpy).view(np.uint8)
    for isa in isas():
        np.testing.assert_array_equal(converted(x, dtype, isa).view(np.uint8), want, isa)


def test_only_maps_convert() -> None:
    one = OneStep(np.random.default_rng(0))
    x = one.operand(codes(DType.FLOAT8E5M2).reshape(16, 16), broadcast=False)
    one.step(Kernel.SOFTMAX, [x, -1], [one.result((16, 16), DType.FLOAT)], {"axis": 1, "scale": 1.0})
    with pytest.raises(SardonyxError):
        EngineProgram(one.program, [])


def both(op: str, inputs: list[np.ndarray], attributes: dict[str, Any], dtype: DType, fallbacks: bool = False) -> None:
    inputs = [np.asarray(x) for x in inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attributes)], "g",
                              [helper.make_tensor_value_info(n, int(DType.of(x)), x.shape) for n, x in zip(names, inputs, strict=True)],
                              [helper.make_tensor_value_info("y", int(dtype), None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12).SerializeToString()
    executor = EngineExecutor(load_model(model), threads=1)
    found = executor.run(inputs, [0], RunContext())[0]
    want = ReferenceExecutor(load_model(model)).run(inputs, [0], RunContext())[0]
    assert bool(executor.latest.fallbacks) == fallbacks, executor.latest.fallbacks
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found.view(np.uint8), want.view(np.uint8)) if dtype.is_narrow_float else np.testing.assert_array_equal(found.astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("dtype", [t for t in NARROW if t not in (DType.FLOAT6E2M3, DType.FLOAT6E3M2)])
@pytest.mark.parametrize("source", [DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.INT8])
def test_casts(dtype: DType, source: DType) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.standard_normal(300) * np.exp2(rng.uniform(-12, 12, 300)), [0.0, 448, 449, 500, -1000]]) if source.is_float else rng.integers(-100, 100, 50)
    if source.is_float and dtype not in (DType.FLOAT4E2M1,):
        x = np.concatenate([x, [np.nan, np.inf, -np.inf]])
    x = x.astype(np.float32).astype(source.numpy)
    if dtype is not source:
        both("Cast", [x], {"to": int(dtype)}, dtype)
        both("Cast", [x], {"to": int(dtype), "saturate": 0}, dtype, fallbacks=dtype is DType.FLOAT8E8M0)
        both("Cast", [codes(dtype)], {"to": int(source)}, source) if source.is_float else None


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_powers_of_two(mode: str) -> None:
    own = np.exp2(np.arange(-149, 128, dtype=np.float64)).astype(np.float32)
    x = np.concatenate([own, own * np.float32(1.5), own * np.float32(1.2), -own, [0, -0.0, np.inf, 3.4e38, np.nan]]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    both("Cast", [x], {"to": int(DType.FLOAT8E8M0), "round_mode": mode}, DType.FLOAT8E8M0)


@pytest.mark.parametrize("dtype", [DType.FLOAT8E4M3FN, DType.FLOAT8E5M2, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2FNUZ, DType.FLOAT4E2M1])
def test_quantisation(dtype: DType) -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((6, 40)) * 30).astype(np.float32)
    both("QuantizeLinear", [x, np.float32(0.5), np.zeros((), dtype.numpy)], {}, dtype)
    both("QuantizeLinear", [x, rng.uniform(0.1, 2, 6).astype(np.float32), np.zeros(6, dtype.numpy)], {"axis": 0}, dtype)
    both("QuantizeLinear", [x.astype(np.float16), np.float16(0.5), np.zeros((), dtype.numpy)], {}, dtype)
    y = (rng.standard_normal((6, 40)) * 3).astype(np.float32).astype(dtype.numpy)
    both("DequantizeLinear", [y, np.float32(0.25)], {}, DType.FLOAT)
    both("DequantizeLinear", [y, rng.uniform(0.1, 2, (6, 5)).astype(np.float32), np.zeros((6, 5), dtype.numpy)], {"axis": 1, "block_size": 8}, DType.FLOAT)
