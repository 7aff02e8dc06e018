"""Memory of f16: models in float16 where WGSL has it (the same numbers as without), and float32 models in the precision "f16" (within the tolerance stated here)."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx import InferenceSession, SessionOptions
from sardonyx.converter.onnx import load_model
from sardonyx.errors import InvalidArgument
from sardonyx.expr import Op, unary
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.model import read_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType
from sardonyx.webgpu.device.base import MissingFeature
from sardonyx.webgpu.executor import WebGpuProgram
from sardonyx.webgpu.provider import Deferred, WebGpuExecutor

from .programs import planned
from .test_kernels import f, out
from .test_models import bert, conv

#: Of each output's largest magnitude: intermediates and weights are rounded to 11 bits, a dozen in a row.
BOUND = 4e-3


@pytest.fixture
def half(variant: Any) -> Any:
    if "shader-f16" not in variant.features:
        pytest.skip(f"{variant.adapter.name} has no shader-f16")
    return variant


def block(k: Lowering, x: View) -> list[View]:
    """Products with packed and plain weights, a norm, a softmax, a Map and a move between them."""
    rng = np.random.default_rng(5)
    dtype = x.dtype.numpy
    w = (rng.normal(size=(200, 200)) / 14).astype(dtype)
    y = k.matmul(x, k.constant(w), x.dtype, (11, 200), lambda total: unary(Op.TANH, total))
    normed = k.buffer(x.dtype, (11, 200)).whole()
    k.call(Kernel.NORM, [y, k.constant(np.full(200, 1.5, dtype)), None, None], [normed], mode=0, axis=1, groups=0, epsilon=1e-5)
    soft = k.buffer(x.dtype, (11, 200)).whole()
    k.call(Kernel.SOFTMAX, [normed, None], [soft], axis=1, mode=0, scale=1.0)
    turned = k.move(normed.permute((1, 0)), k.buffer(x.dtype, (200, 11)).whole())
    return [k.matmul(soft, turned, x.dtype, (11, 11)), k.map(lambda a, b: a * 2 + b, normed, soft, dtype=x.dtype)]


def run(device: Any, rule: Any, x: np.ndarray, precision: str = "f32") -> tuple[list[np.ndarray], list[np.ndarray], WebGpuProgram]:
    """(outputs, the interpreter's, what ran)."""
    program, constants = planned(rule, [(DType.of(x), x.shape)])
    runner = WebGpuProgram(device, program, constants, precision=precision)
    try:
        return runner.run([x]), Interpreter(program, constants).run([x]), runner
    finally:
        runner.close()


def test_float32_in_f16_is_near(half: Any) -> None:
    x = f(11, 200)
    mine, wanted, runner = run(half, block, x, "f16")
    for a, b in zip(mine, wanted, strict=True):
        assert a.dtype == np.float32 and np.abs(a - b).max() <= BOUND * np.abs(b).max()
    _, _, full = run(half, block, x)
    assert all("array<f16>" not in s.source for s in full.recording.shaders)
    assert {c.bytes().nbytes for c in runner.recording.constants} >= {208 * 200 * 2} and {c.bytes().nbytes for c in full.recording.constants} >= {208 * 200 * 4}
    tenants = [[each for s in r.recording.slabs for _, each in s.tenants] for r in (runner, full)]
    assert tenants[0].count(2) >= 3 and 2 not in tenants[1], "intermediates take half the memory, inputs and outputs do not"


def test_f16_models_give_the_same_numbers_with_and_without_the_feature(half: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = f(11, 200).astype(np.float16)
    x[2, 3], x[4, 5] = np.inf, np.nan
    native, wanted, runner = run(half, block, x)
    assert any("array<f16>" in s.source for s in runner.recording.shaders)
    assert half.adapter.is_cpu or any("var<workgroup> tile_b: array<vec4<f16>" in s.source for s in runner.recording.shaders), "tiles of f16 lie in workgroup memory as they are"
    monkeypatch.setattr(half, "features", frozenset())
    emulated, _, other = run(half, block, x)
    assert all("array<f16>" not in s.source for s in other.recording.shaders)
    for a, b, c in zip(native, emulated, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a.astype(np.float32), c.astype(np.float32), rtol=4e-3, atol=4e-3)


def test_numbers_beyond_f16_are_its_largest_and_infinities_stay(half: Any) -> None:
    x = np.array([[1.0, -2.0, 0.0, np.inf, -np.inf, np.nan]], np.float32)

    def rule(k: Lowering, v: View) -> View:
        big = out(k, DType.FLOAT, 6, 1)
        k.move(k.map(lambda a: a * 1e6, v, dtype=DType.FLOAT).permute((1, 0)), big)
        return k.matmul(big, k.constant(np.ones((1, 2), np.float32)), DType.FLOAT, (6, 2))
    got = run(half, rule, x, "f16")[0][0][:, 0]
    assert np.isnan(got[5]) and got[:5].tolist() == [65504, -65504, 0, np.inf, -np.inf]


@pytest.mark.parametrize(("name", "model"), [("conv", conv), ("bert", bert)])
def test_sessions(own: Any, name: str, model: Any) -> None:
    made = model()
    if "shader-f16" not in own.features:
        pytest.skip(f"{own.adapter.name} has no shader-f16")
    session = InferenceSession(made, providers=[("WebGpuExecutionProvider", {"precision": "f16"})])
    other = InferenceSession(made, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    shapes = {i.name: [d if isinstance(d, int) else 2 for d in i.shape] for i in session.get_inputs()}
    feeds = {name: np.ones(shape, np.int64) if name == "mask" else (rng.normal(size=shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    for a, b in zip(session.run(None, feeds), other.run(None, feeds), strict=True):
        assert 0 < np.abs(a - b).max() <= BOUND * np.abs(b).max()


@pytest.mark.parametrize(("name", "model"), [("conv", conv), ("bert", bert)])
def test_models_converted_to_float16_run_strictly(own: Any, tmp_path: Path, name: str, model: Any) -> None:
    """`convert --fp16`: nothing beside the GPU, and float16 lies as f16 where the adapter has it."""
    sardonyx.convert(model(), tmp_path / "m.sdx", fp16=True)
    options = SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = InferenceSession(str(tmp_path / "m.sdx"), options, providers=["WebGpuExecutionProvider"])
    wanted = InferenceSession(model(), providers=["ReferenceExecutionProvider"])
    rng = np.random.default_rng(4)
    shapes = {i.name: [d if isinstance(d, int) else 2 for d in i.shape] for i in session.get_inputs()}
    feeds = {name: np.ones(shape, np.int64) if name == "mask" else (rng.normal(size=shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    for a, b in zip(session.run(None, feeds), wanted.run(None, feeds), strict=True):
        assert a.dtype == b.dtype and np.abs(a - b).max() <= 2 * BOUND * np.abs(b).max()
    executor = WebGpuExecutor(own, read_model(tmp_path / "m.sdx"), strict=True)
    try:
        executor.run([feeds[i.name] for i in session.get_inputs()], range(len(session.get_outputs())), RunContext())
        programs = [r.program for r in executor.latest.blocks.runners if isinstance(r, Deferred) and r.program is not None]
        assert any("array<f16>" in s.source for p in programs for s in p.recording.shaders) == ("shader-f16" in own.features)
    finally:
        executor.close()


def test_what_is_missing_is_named(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "features", frozenset())
    with pytest.raises(MissingFeature, match="lacks shader-f16, which the option precision='f16'"):
        WebGpuExecutor(own, load_model(conv()), precision="f16")
    with pytest.warns(UserWarning, match="lacks shader-f16, .* CPUExecutionProvider takes over"):
        InferenceSession(conv(), providers=[("WebGpuExecutionProvider", {"precision": "f16"})])
    with pytest.raises(InvalidArgument, match="'f32' or 'f16', not 'int8'"):
        InferenceSession(conv(), providers=[("WebGpuExecutionProvider", {"precision": "int8"})])
