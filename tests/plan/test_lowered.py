"""Operators that become several kernels, on the engine against their NumPy bodies, with random attributes, shapes and types; nothing of them may run on the host."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sardonyx.converter.onnx import load_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.types import DType

TRAINING = "ai.onnx.preview.training"


def check(op: str, inputs: list[Any], attributes: dict[str, Any], outputs: int = 1, domain: str = "", rtol: float = 1e-5, atol: float = 1e-5, constants: tuple[int, ...] = ()) -> None:
    """`constants`: numbers of the inputs that are initializers."""
    arrays = [None if x is None else np.asarray(x) for x in inputs]
    names = ["" if x is None else f"x{i}" for i, x in enumerate(arrays)]
    infos = [helper.make_tensor_value_info(n, int(DType.of(x)), x.shape) for i, (n, x) in enumerate(zip(names, arrays, strict=True)) if x is not None and i not in constants]
    held = [helper.make_tensor(names[i], int(DType.of(arrays[i])), arrays[i].shape, arrays[i].ravel().tolist()) for i in constants]
    made = [f"y{i}" for i in range(outputs)]
    import onnx
    graph = helper.make_graph([helper.make_node(op, names, made, domain=domain, **attributes)], "g", infos, [onnx.ValueInfoProto(name=n) for n in made], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22), helper.make_opsetid(TRAINING, 1)], ir_version=10).SerializeToString()
    given = [x for i, x in enumerate(arrays) if x is not None and i not in constants]
    executor = EngineExecutor(load_model(model), threads=1)
    found = executor.run(given, range(outputs), RunContext())
    assert not executor.latest.fallbacks, executor.latest.fallbacks
    for a, b in zip(found, ReferenceExecutor(load_model(model)).run(given, range(outputs), RunContext()), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        narrow = 3e-3 if a.dtype == np.float16 else 0
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=max(rtol, narrow), atol=max(atol, narrow))


@pytest.mark.parametrize("seed", range(10))
def test_deform_conv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = 1 if seed == 7 else 2
    dtype = [np.float32, np.float32, np.float16, np.float64][seed % 4]
    group, offset_group, each = int(rng.choice([1, 2])), int(rng.choice([1, 2, 4])), int(rng.choice([1, 2]))
    channels, kernel, sizes = 4 * each, [int(k) for k in rng.integers(1, 4, axes)], [int(n) for n in rng.integers(5, 9, axes)]
    strides, dilations, pads = ([int(v) for v in rng.integers(low, high, count)] for low, high, count in ((1, 3, axes), (1, 3, axes), (0, 3, 2 * axes)))
    places = [(n + pads[i] + pads[i + axes] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i, n in enumerate(sizes)]
    taps = offset_group * int(np.prod(kernel))
    x, w = rng.standard_normal((2, channels, *sizes)), rng.standard_normal((6, channels // group, *kernel)) * 0.3
    offset, mask = rng.uniform(-2, 2, (2, taps * axes, *places)), rng.uniform(0, 1, (2, taps, *places))
    if dtype != np.float16:
        offset[0, 0].reshape(-1)[0] = 1e6   # far outside
    values = [v.astype(dtype) for v in (x, w, offset, rng.standard_normal(6), mask)]
    check("DeformConv", [*values[:3], values[3] if seed % 2 else None, values[4] if seed % 3 else None],
          {"group": group, "offset_group": offset_group, "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}, constants=(1,) if seed % 2 else (), atol=1e-4)


@pytest.mark.parametrize("equation,shapes", [("ii->i", [(4, 4)]), ("ii", [(5, 5)]), ("bii->bi", [(3, 4, 4)]), ("iji->j", [(3, 5, 3)]), ("iii->i", [(3, 3, 3)]), ("ii,ij->j", [(4, 4), (4, 3)]),
                                             ("...ii->...i", [(2, 3, 4, 4)]), ("aabb->ab", [(2, 2, 3, 3)])])
def test_einsum_of_diagonals(equation: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        check("Einsum", [rng.standard_normal(s).astype(dtype) for s in shapes], {"equation": equation})


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 5), (2, 4, 3, 5), (1, 2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_batch_normalization_in_training(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(2)
    scale, bias, mean = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(3))
    check("BatchNormalization", [(rng.standard_normal(shape) * 3 + 1).astype(dtype), scale, bias, mean, rng.uniform(0.5, 2, shape[1]).astype(dtype)],
          {"training_mode": 1, "momentum": 0.7, "epsilon": 1e-3}, 3)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("several", [1, 2])
def test_optimizers(count: int, several: int) -> None:
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float64):
        def tensors(positive: bool = False) -> list[np.ndarray]:
            made = [rng.standard_normal(s) for s in ((3, 4), (5,))[:several]]  # noqa: B023
            return [(np.abs(m) if positive else m).astype(dtype) for m in made]  # noqa: B023
        rate, steps = dtype(0.1), np.int64(count)
        check("Adagrad", [rate, steps, *tensors(), *tensors(), *tensors(True)], {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.01}, 2 * several, TRAINING)
        check("Adam", [rate, steps, *tensors(), *tensors(), *tensors(), *tensors(True)], {"norm_coefficient": 0.01, "norm_coefficient_post": 0.02, "epsilon": 1e-3}, 3 * several, TRAINING)
        for mode in ("standard", "nesterov"):
            check("Momentum", [rate, steps, *tensors(), *tensors(), *tensors()], {"alpha": 0.95, "beta": 0.5, "mode": mode, "norm_coefficient": 0.01}, 2 * several, TRAINING)


@pytest.mark.parametrize("bands,length,rate,low,high", [(8, 16, 8192, 0.0, 4096.0), (40, 400, 16000, 20.0, 7600.0), (5, 7, 100, 1.0, 49.0)])
def test_mel_weights(bands: int, length: int, rate: int, low: float, high: float) -> None:
    inputs = [np.int64(bands), np.int64(length), np.int64(rate), np.float32(low), np.float32(high)]
    check("MelWeightMatrix", inputs, {}, constants=(0, 1))
    check("MelWeightMatrix", inputs, {"output_datatype": TensorProto.DOUBLE})


@pytest.mark.parametrize("training", [0, 1])
def test_dropout(training: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4, 50)).astype(np.float32)
    for share in (0.0, 0.3):
        check("Dropout", [x, np.float32(share), np.bool_(training)], {"seed": 7}, 2)
        check("Dropout", [x, np.float32(share), np.bool_(training)], {"seed": 7}, 2, constants=(1, 2))
