"""Products in every tile that can be chosen, not only those the table picks for small shapes; the table; autotune."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sardonyx.converter.onnx import load_model
from sardonyx.expr import Op, unary
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu import autotune
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.kernels.tiles import CANDIDATES, FOLDER, REGISTER, SHARED, SPLIT, TALL, choose, load, path_of
from sardonyx.webgpu.provider import WebGpuExecutor
from sardonyx.webgpu.wgsl.shader import Context

from .programs import agree
from .test_models import bert, conv, mlp


@pytest.fixture(params=CANDIDATES, ids=lambda t: f"{t.variant}-{t.rows}x{t.columns}x{t.side}")
def tiled(request: Any, device: Any) -> Any:
    if "SwiftShader" in device.adapter.name and request.param not in (SHARED[-1], SPLIT[0]):
        pytest.skip("SwiftShader compiles one tile of each variant; the others are the same text with other numbers")
    device.tiles = autotune.Always(request.param)
    yield device
    device.tiles = {}


def f(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("m", "k", "n", "constant"), [(67, 37, 34, True), (3, 100, 50, False), *(pytest.param(*sizes, constant, marks=pytest.mark.slow) for constant in (False, True)
                                                        for sizes in ((1, 1, 1), (130, 37, 140), (3, 100, 50), (4, 0, 5), (0, 3, 4), (67, 16, 33)))])
def test_matmul(tiled: Any, m: int, k: int, n: int, constant: bool) -> None:
    a, weights = f(m, k), f(k, n)
    if m > 2 and k > 5:
        a[1, 3], a[2, 2], weights[k - 1, 1], weights[4, n - 1] = np.nan, np.inf, np.inf, -np.inf

    def rule(lowering: Lowering, x: View, b: View, bias: View) -> View:
        right = lowering.constant(weights) if constant and weights.size else b
        return lowering.matmul(x, right, DType.FLOAT, (m, n), lambda total, c: unary(Op.TANH, total * 0.1 + c), [bias])
    agree(tiled, rule, a, weights, f(n), rtol=1e-4, atol=1e-5)


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
    assert choose(gpu, 1, 1000, 3, 64, False) is REGISTER
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
