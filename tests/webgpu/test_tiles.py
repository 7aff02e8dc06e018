"""Products in every tile that can be chosen, not only those the table picks for small shapes; the table; autotune."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sardonyx import InferenceSession
from sardonyx.converter.onnx import load_model
from sardonyx.expr import Op, unary
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.providers.base import RunContext
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType
from sardonyx.webgpu import autotune
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.executor import WebGpuProgram
from sardonyx.webgpu.kernels.tiles import CANDIDATES, FOLDER, QUAD, REGISTER, SHARED, SPLIT, SUBGROUP, TALL, WIDE, WINDOWS, choose, load, path_of
from sardonyx.webgpu.provider import Deferred, WebGpuExecutor
from sardonyx.webgpu.wgsl.shader import Context

from tests.models.generated import llama

from .programs import agree, planned
from .test_models import bert, conv, mlp


@pytest.fixture(params=CANDIDATES, ids=lambda t: f"{t.variant}-{t.rows}x{t.columns}x{t.side}")
def tiled(request: Any, device: Any) -> Any:
    if "SwiftShader" in device.adapter.name and request.param not in (QUAD, WINDOWS, SHARED[-1], SPLIT[0], SUBGROUP[0]):
        pytest.skip("SwiftShader compiles one tile of each variant; the others are the same text with other numbers")
    device.tiles = autotune.Always(request.param)
    yield device
    device.tiles = {}


def f(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("m", "k", "n", "constant"), [(67, 37, 34, True), (3, 100, 50, False), (3, 100, 50, True),
                                                       *(pytest.param(*sizes, constant, marks=pytest.mark.slow) for constant in (False, True)
                                                         for sizes in ((1, 1, 1), (130, 37, 140), (4, 0, 5), (0, 3, 4), (67, 16, 33)))])
def test_matmul(tiled: Any, m: int, k: int, n: int, constant: bool) -> None:
    a, weights = f(m, k), f(k, n)
    if m > 2 and k > 5:
        a[1, 3], a[2, 2], weights[k - 1, 1], weights[4, n - 1] = np.nan, np.inf, np.inf, -np.inf

    def rule(lowering: Lowering, x: View, b: View, bias: View) -> View:
        right = lowering.constant(weights) if constant and weights.size else b
        return lowering.matmul(x, right, DType.FLOAT, (m, n), lambda total, c: unary(Op.TANH, total * 0.1 + c), [bias])
    agree(tiled, rule, a, weights, f(n), rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["workgroup", "subgroups"])
def joined(request: Any, device: Any) -> Any:
    """The device as if it were a GPU, and what its products of few rows are to be; f16 memory and subgroups where the adapter has them (both have subgroups: of 8 and of 4 invocations)."""
    before = device.adapter, device.features
    assert "subgroups" in before[1], f"{device.adapter.name} has no subgroups: say so in FACTS.md and skip here"
    device.adapter = dataclasses.replace(before[0], is_cpu=False)
    device.features = before[1] if request.param == "subgroups" else before[1] - {"subgroups"}
    yield device
    device.adapter, device.features = before


def gemv(device: Any, rule: Any, x: np.ndarray, bound: float, vectors: bool = False) -> None:
    """Run and compare with the interpreter: of each output's largest magnitude. `vectors`: that weights are read as vec4<f16>, where they can be."""
    program, constants = planned(rule, [(DType.of(x), x.shape)])
    runner = WebGpuProgram(device, program, constants)
    try:
        source = runner.recording.shaders[0].source
        assert ("subgroupAdd" in source) == ("subgroups" in device.features) and "workgroupBarrier" in source
        assert len(runner.recording.dispatches) == 1 and ("vec4<f16>" in source) == (vectors and {"subgroups", "shader-f16"} <= device.features)
        mine, wanted = runner.run([x])[0], Interpreter(program, constants).run([x])[0]
    finally:
        runner.close()
    assert mine.dtype == wanted.dtype and mine.shape == wanted.shape
    a, b = mine.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    assert np.abs(a[finite] - b[finite]).max(initial=0) <= bound * np.abs(b[finite]).max(initial=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 2100, 37), (4, 700, 16), (3, 65, 130), (2, 513, 5)])
def test_few_rows(joined: Any, dtype: Any, m: int, k: int, n: int) -> None:
    """Matrices times one to four vectors: large weights, and small ones, which lie in a pool with others."""
    x, weights, bias = f(m, k).astype(dtype), f(k, n).astype(dtype), f(n).astype(dtype)
    if m > 2:
        x[1, 3], x[2, 2], weights[4, n - 1] = np.nan, np.inf, -np.inf

    def rule(lowering: Lowering, a: View) -> View:
        lowering.constant(f(3).astype(dtype))
        return lowering.matmul(a, lowering.constant(weights), DType.of(x), (m, n), lambda total, c: unary(Op.TANH, total * 0.1 + c), [lowering.constant(bias)])
    gemv(joined, rule, x, 2e-3 if dtype is np.float16 else 1e-5, dtype is np.float16 and k * n > 1 << 15)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("m", "bits", "depth", "n", "zeros"), [(1, 4, 512, 37, ""), (3, 4, 333, 70, "uint8"), (4, 8, 64, 16, "float"), (1, 8, 2061, 40, ""), (2, 8, 90, 33, "uint8")])
def test_few_rows_of_weights_in_blocks(joined: Any, dtype: Any, m: int, bits: int, depth: int, n: int, zeros: str) -> None:
    """MatMulNBits of one to four rows."""
    x = f(m, depth).astype(dtype)
    if m > 2:
        x[1, 0], x[2, depth - 1] = np.inf, np.nan
    gemv(joined, in_blocks(x, bits, n, zeros), x, 2e-3 if dtype is np.float16 else 1e-5)


def in_blocks(x: np.ndarray, bits: int, n: int, zeros: str) -> Any:
    """The rule of x times weights of 4 or 8 bits in blocks of 32."""
    (m, depth), block = x.shape, 32
    rng, blocks = np.random.default_rng(depth), -(-depth // block)
    b, scales = rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8), f(n, blocks).astype(x.dtype)
    points = f(n, blocks).astype(x.dtype) if zeros == "float" else rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)

    def rule(lowering: Lowering, a: View) -> View:
        operands = [a, lowering.constant(b), lowering.constant(scales), *([lowering.constant(points)] if zeros else [])]
        made = lowering.buffer(DType.of(x), (m, n)).whole()
        lowering.call(Kernel.MATMUL, operands, [made], first_leaf=len(operands), zero_a=-1, zero_b=-1, bits=bits, block=block, block_scales=2, block_zeros=3 if zeros else 0, level=0)
        return made
    return rule


@pytest.mark.parametrize("int4", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_decoder_takes_one_of_two(joined: Any, tmp_path: Path, int4: bool) -> None:
    """A prompt, then a token: tiles for many rows, the split sum for one, in one program."""
    llama(tmp_path / "llama.onnx", layers=1, hidden=128, heads=4, vocabulary=300, inner=256, int4=int4)
    reference = InferenceSession(str(tmp_path / "llama.onnx"), providers=["ReferenceExecutionProvider"])   # the engine takes bytes at this accuracy level
    model = load_model(str(tmp_path / "llama.onnx"))
    executor, rng, past, compiled = WebGpuExecutor(joined, model), np.random.default_rng(0), np.zeros((2, 1, 4, 0, 32), np.float32), []
    try:
        for rows in (5, 1, 1):
            total = past.shape[3] + rows
            feeds = {"input_ids": rng.integers(0, 300, (1, rows)), "attention_mask": np.ones((1, total), np.int64), "position_ids": np.arange(total - rows, total)[None],
                     "past_key_values.0.key": past[0], "past_key_values.0.value": past[1]}
            wanted = reference.run(None, feeds)
            made = executor.run([feeds[i.name] for i in reference.get_inputs()], range(len(wanted)), RunContext())
            for a, b in zip(made, wanted, strict=True):
                assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
            past = np.stack(wanted[1:])
            (program,) = (r.program for r in executor.latest.blocks.runners if isinstance(r, Deferred) and r.program is not None)
            taken = [d for d in (program.recording.dispatches[i] for i in program._active) if d.label.startswith("matmul")]
            texts = [program.recording.shaders[d.shader].source for d in taken]
            assert len(taken) >= 4 and all(("parts: array" in s, "tile_b: array" in s) == (rows == 1, rows > 1) for s in texts)
            compiled.append(joined.compiled)
        assert compiled[-1] == compiled[-2], "sessions plan again as sizes leave the range they planned for; within it nothing is compiled"
    finally:
        executor.close()


def test_batched_integers(tiled: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 255, (2, 3, 19)).astype(np.uint8), rng.integers(-128, 127, (2, 19, 21)).astype(np.int8)
    agree(tiled, lambda k, x, y: k.matmul(x, y, DType.INT32, (2, 3, 21)), a, b)


@pytest.mark.parametrize(("x", "w", "group", "strides", "pads", "transposed"), [((2, 5, 9, 7), (70, 5, 3, 2), 1, (2, 1), (1, 0), 0),
                          pytest.param((1, 16, 12, 12), (40, 8, 1, 1), 2, (1, 1), (0, 0), 0, marks=pytest.mark.slow),
                          pytest.param((1, 6, 5, 5), (6, 4, 3, 3), 1, (2, 2), (1, 1), 1, marks=pytest.mark.slow)])
def test_conv(tiled: Any, x: Any, w: Any, group: int, strides: Any, pads: Any, transposed: int) -> None:
    weights, kernel = f(*w), w[2:]
    size = [(x[2 + i] - 1) * strides[i] + kernel[i] - 2 * pads[i] if transposed else (x[2 + i] + 2 * pads[i] - kernel[i]) // strides[i] + 1 for i in range(2)]

    def rule(k: Lowering, a: View) -> View:
        made = k.buffer(DType.FLOAT, (x[0], w[1] * group if transposed else w[0], *size)).whole()
        k.call(Kernel.CONV, [a, k.constant(weights)], [made], spatial=2, group=group, kernel=list(kernel), strides=list(strides), dilations=[1, 1], pads=list(pads), transposed=transposed,
               zero_x=-1, zero_w=-1)
        return made
    agree(tiled, rule, f(*x), rtol=1e-4, atol=1e-5)


def test_the_table() -> None:
    gpu, cpu = Context(Limits(), False), Context(Limits(), True)
    small = Context(Limits(invocations=128, workgroup_bytes=8192), False)
    assert choose(cpu, 1, 4096, 4096, 4096, False) is TALL and choose(cpu, 1, 4096, 4096, 4096, True) is REGISTER and choose(cpu, 1, 4096, 3, 64, False) is REGISTER
    assert choose(gpu, 1, 4096, 4096, 512, False) is SHARED[0]
    assert choose(gpu, 1, 128, 768, 768, False) is SHARED[-1]
    assert choose(gpu, 1, 1, 4096, 4096, False) is SPLIT[0] or choose(gpu, 1, 1, 4096, 4096, False) is SPLIT[1]
    assert choose(gpu, 1, 1, 16384, 4096, False) is SPLIT[0]
    assert choose(cpu, 1, 64, 64, 64, False, words=True) is WIDE and choose(cpu, 1, 64, 3, 64, True, words=True) is WIDE and choose(gpu, 1, 64, 3, 64, False, words=True) is REGISTER
    assert choose(gpu, 1, 1000, 3, 64, False) is REGISTER
    lanes = Context(Limits(), False, features=frozenset({"subgroups"}))
    assert choose(lanes, 1, 1, 16384, 4096, False, 4096) is SUBGROUP[0] and choose(lanes, 1, 4, 768, 4096, False, 4096) is SUBGROUP[1] and choose(lanes, 1, 1, 768, 768, False, 96) is SUBGROUP[0]
    assert choose(lanes, 1, 1, 16384, 4096, False) is SPLIT[0] and choose(gpu, 1, 1, 16384, 4096, False, 4096) is SPLIT[0] and choose(lanes, 1, 5, 768, 4096, False, 4096).variant == "workgroup"
    quads = Context(Limits(), True, features=lanes.features)
    assert choose(quads, 1, 1, 16384, 4096, False, 4096, True) is TALL and choose(quads, 1, 64, 64, 64, False, 64) is TALL and choose(quads, 1, 64, 8, 64, False, 64, True) is TALL
    assert choose(quads, 1, 64, 64, 64, False, 64, True) is QUAD and choose(quads, 1, 64, 64, 64, True, None, True) is WINDOWS and choose(cpu, 1, 64, 64, 64, False, 64, True) is TALL
    assert choose(lanes, 1, 64, 64, 64, False, 64, True).variant == "workgroup"
    assert choose(small, 1, 4096, 4096, 512, False).side == 8
    assert all(choose(small, 1, m, n, 300, False).fits(small.limits) for m in (1, 3, 60, 2000) for n in (1, 5, 64, 5000))


def test_autotune_measures_stores_and_is_used(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not own.timestamps:
        pytest.skip("the adapter has no timestamps")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    rng = np.random.default_rng(0)
    found = autotune.tune(own, load_model(mlp()), [rng.normal(size=(64, 20)).astype(np.float32)], rounds=1)
    assert len(found.times) == 2 and all(len(times) >= 3 for times in found.times.values())
    path = autotune.save(own, found)
    assert path.parent == tmp_path and json.loads(path.read_text())["adapter"] == own.adapter.name
    assert load(own.adapter) == found.best
    # A session on a device opened later takes what was measured.
    from sardonyx.webgpu import device as shared
    own.close()
    again = shared.open_device()
    WebGpuExecutor(again, load_model(mlp())).close()
    assert again.tiles == found.best
    key = next(iter(found.best))
    monkeypatch.setitem(found.best, key, SHARED[-1])
    autotune.save(again, found)
    assert load(again.adapter)[key] == SHARED[-1]


def test_a_broken_file_of_tiles_is_named_and_ignored(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    path = path_of(own.adapter)
    for text in ("{", '{"tiles": {"matmul 1×1×1": {"variant": "huge"}}}', '{"tiles": {"a": {"variant": "workgroup", "rows": 5, "columns": 4, "side": 8, "depth": 16}}}'):
        path.write_text(text)
        with pytest.warns(UserWarning, match=r"ignored.*sardonyx autotune"):
            assert load(own.adapter) == {}


@pytest.mark.parametrize("source", [conv, bert])
def test_whole_models_record_with_every_tile(source: Any) -> None:
    """A GPU's recording of small models with each tile forced: what does not fit falls back to the table's choice."""
    from .paper import recorded
    for tile in CANDIDATES:
        assert [r.dispatches for _, r, _ in recorded(source(), False, tiles=autotune.Always(tile))]


def test_tiles_are_forced() -> None:
    """That the tests above test what they say."""
    from .paper import recorded
    texts = {next(recorded(mlp(), True, tiles=autotune.Always(tile)))[1].shaders[0].source for tile in (REGISTER, *SHARED)}
    assert len(texts) == 1 + len(SHARED)
    for tile in (QUAD, WINDOWS):
        made = (r for source in (mlp(), conv()) for _, r, _ in recorded(source, True, tiles=autotune.Always(tile), features=frozenset({"subgroups"})))
        assert any("quadBroadcast" in shader.source for r in made for shader in r.shaders)


def test_the_command(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.converter.cli.app import app
    from typer.testing import CliRunner
    if not own.timestamps:
        pytest.skip("the adapter has no timestamps")
    monkeypatch.setenv(FOLDER, str(tmp_path / "tiles"))
    (tmp_path / "m.onnx").write_bytes(mlp())
    done = CliRunner().invoke(app, ["autotune", str(tmp_path / "m.onnx"), "-d", "batch=3", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "matmul 4×32×32" in done.output.replace("\n", " ") or "matmul" in done.output
    assert path_of(own.adapter).parent == tmp_path / "tiles" and load(own.adapter)
