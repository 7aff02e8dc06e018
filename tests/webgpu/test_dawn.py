"""Every shader compiles in Dawn too, the compiler of Chromium (npm `webgpu` under node, its null backend: Tint's checks and pipeline validation at WebGPU's default limits, no GPU).
The other tests compile with wgpu's naga, which accepts other things."""
from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sardonyx.kernels import Kernel
from sardonyx.lowering import Lowering, View
from sardonyx.types import DType
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.recording import Dispatch, Recording, Shader, record
from sardonyx.webgpu.wgsl.functions import native

from tests.conformance.suite import load
from tests.models.generated import llama
from tests.models.registry import CACHE, MODELS, fetch, light_models

from .paper import recorded
from .programs import planned
from .test_cache import grouped
from .test_fourier import transform
from .test_half import block
from .test_kernels import bytes_between
from .test_long_rows import normed, softmax
from .test_tiles import in_blocks

NPM = CACHE / "npm" / "node_modules"
#: Shaders one process compiles: with thousands, Dawn's ends with a std::system_error.
PROCESS = 300


def rejected(sources: Iterable[tuple[str, Any]], features: frozenset[str] = frozenset(), precision: str = "f32") -> tuple[int, list[str]]:
    """(how many different shaders the models have, Dawn's complaints)."""
    return compiled((name, recording) for name, source in sources for cpu in (False, True) for _, recording, _ in recorded(source, cpu, features=features, precision=precision))


def compiled(recordings: Iterable[tuple[str, Recording]]) -> tuple[int, list[str]]:
    """The same of recordings."""
    found: dict[Shader, str] = {}
    for name, recording in recordings:
        for d in recording.dispatches:
            found.setdefault(recording.shaders[d.shader], f"{name}: {d.label}")
    if not (NPM / "webgpu").exists() or shutil.which("node") is None:
        pytest.skip("Dawn is not here: .ci/setup test installs the npm package webgpu")
    shaders = [{"label": label, "source": source, "writes": list(shader.writes)} for shader, label in found.items() for source in dict.fromkeys((shader.source, native(shader.source)))]
    complaints: list[str] = []
    for at in range(0, len(shaders), PROCESS):
        some = shaders[at:at + PROCESS]
        done = subprocess.run(["node", str(Path(__file__).with_name("dawn.mjs")), str(NPM)], input=json.dumps(some), capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr[-2000:]
        said = json.loads(done.stdout)
        assert said["compiled"] == len(some)
        complaints += [f"{some[r['index']]['label']}: {r['message'][:500]}" for r in said["rejected"]]
    return len(shaders), complaints


def test_dawn_rejects_a_wrong_shader(monkeypatch: pytest.MonkeyPatch) -> None:
    """That this test can fail."""
    import tests.webgpu.test_dawn as module
    wrong = Recording([Shader("@compute @workgroup_size(1) fn main() { let x: f32 = nothing; }", ())], dispatches=[Dispatch(0, (), 0, (), "a wrong one")])
    monkeypatch.setattr(module, "recorded", lambda *_, **__: [(None, wrong, None)])
    count, complaints = rejected([("wrong", b"")])
    assert count == 1 and len(complaints) == 1 and "unresolved value 'nothing'" in complaints[0] and "a wrong one" in complaints[0]


def test_kernels_of_bytes_compile_in_dawn() -> None:
    """Those that read and write words of bytes between two kernels, which no model of the suite has; windows of three channels in quads."""
    a, b, c = (np.ones(shape, dtype) for shape, dtype in (((9, 12), np.uint8), ((12, 20), np.int8), ((20, 4), np.int8)))
    program, constants = planned(lambda k, x: bytes_between(k, x, b, c), [(DType.UINT8, a.shape)])
    made = [("bytes", record(program, constants, Limits(), cpu, features=frozenset(features))[0]) for cpu, features in ((False, ()), (True, ()), (True, ("subgroups",)))]
    assert any("quadSwapX" in s.source for s in made[2][1].shaders)

    def first(k: Lowering, x: View) -> View:
        y = k.buffer(DType.INT32 if x.dtype is DType.UINT8 else DType.FLOAT, (1, 20, 5, 5)).whole()
        k.call(Kernel.CONV, [x, k.constant(np.ones((20, 3, 3, 3), np.int8 if x.dtype is DType.UINT8 else np.float32))], [y], first_leaf=2, spatial=2, group=1, kernel=[3, 3], strides=[1, 1],
               dilations=[1, 1], pads=[1, 1], transposed=0, zero_x=-1, zero_w=-1)
        return y
    windows = [("windows", record(*planned(first, [(dtype, (1, 3, 5, 5))]), Limits(), True, features=frozenset({"subgroups"}))[0]) for dtype in (DType.UINT8, DType.FLOAT)]
    assert all(any("quadSwapX" in s.source for s in r.shaders) for _, r in windows) and compiled(windows)[1] == []
    assert all(any("finish4" in s.source for s in r.shaders) and any("var word" in s.source for s in r.shaders) for _, r in made)
    assert compiled(made)[1] == []


def test_merged_dispatches_compile_in_dawn(tmp_path: Path) -> None:
    """A decoding step's: parts with barriers are in uniform control flow, also where subgroups add up."""
    llama(tmp_path / "llama.onnx", layers=2, hidden=64, heads=4, vocabulary=50, inner=128)
    made = []
    for source in (tmp_path / "llama.onnx", grouped(), grouped(local_window_size=3)):
        for plan, recording, _ in recorded(source, cpu=False):
            made += [("decoding", recording), ("subgroups", record(plan.program, plan.constants, Limits(), False, features=frozenset({"subgroups"}))[0])]
    assert sum("part_2(" in s.source and "workgroupBarrier" in s.source for _, r in made for s in r.shaders) >= 1
    assert compiled(made)[1] == []


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.FLOAT16])
def test_kernels_of_features_compile_in_dawn(precision: str, dtype: DType) -> None:
    """Subgroups, and memory of f16, in the dialect of Chromium."""
    program, constants = planned(block, [(dtype, (11, 200))])
    recording, _ = record(program, constants, Limits(), False, features=frozenset({"shader-f16", "subgroups"}), precision=precision)
    assert any("enable subgroups;" in s.source for s in recording.shaders)
    assert any("enable f16;" in s.source for s in recording.shaders) == (precision == "f16" or dtype is DType.FLOAT16)
    quads = record(program, constants, Limits(), True, features=frozenset({"shader-f16", "subgroups"}), precision=precision)[0]
    assert any("quadBroadcast" in s.source for s in quads.shaders)
    assert compiled([("features", recording), ("quads", quads)])[1] == []


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_of_few_rows_compile_in_dawn(dtype: type) -> None:
    """Those whose parts subgroups add up: of floats and of weights in blocks."""
    features, weights, made = frozenset({"shader-f16", "subgroups"}), np.ones((2100, 37), dtype), []
    for m in (1, 4):
        for bits, zeros in ((0, ""), (4, ""), (4, "uint8"), (8, "float")):
            x = np.ones((m, 2100), dtype)
            rule = in_blocks(x, bits, 37, zeros) if bits else lambda k, a: k.matmul(a, k.constant(weights), a.dtype, (a.shape[0], 37))
            program, constants = planned(rule, [(DType.of(x), x.shape)])
            made.append((f"{m} rows, {bits} bits", record(program, constants, Limits(), False, features=features)[0]))
    assert all("subgroupAdd" in r.shaders[0].source for _, r in made) and any("vec4<f16>" in r.shaders[0].source for _, r in made) == (dtype is np.float16)
    assert compiled(made)[1] == []


def test_kernels_of_long_rows_and_signals_compile_in_dawn() -> None:
    """Runs in parts and transforms in passes, which the suite's small tensors have not."""
    rules: list[tuple[tuple[int, ...], Any]] = [((1, 50000), lambda k, v: softmax(k, v, None, 0, 1)), ((1, 50000), lambda k, v: [k.reduce(5, v, (1,), DType.INT64), k.reduce(6, v, (1,), DType.FLOAT)]),
                                                ((1, 50000), normed), *(((3, n, 2), lambda k, v, n=n: [transform(k, v, n, 1, 0, 0), transform(k, v, n, 1, 1, 1)]) for n in (840, 143, 67))]
    made = []
    for shape, rule in rules:
        program, constants = planned(rule, [(DType.FLOAT, shape)])
        made += [("long", record(program, constants, Limits(), cpu, features=features)[0]) for cpu, features in ((True, frozenset()), (False, frozenset()), (False, frozenset({"subgroups"})))]
    assert all(len(r.dispatches) > 1 for _, r in made)
    assert compiled(made)[1] == []


def test_shaders_of_the_suite_compile_in_dawn() -> None:
    count, complaints = rejected((case.name, case.model) for case in load()[::6])
    assert complaints == [] and count > 300


@pytest.mark.parametrize(("first", "step"), [(3, 12), pytest.param(0, 1, marks=pytest.mark.slow)])
def test_shaders_of_the_suite_with_every_feature_compile_in_dawn(first: int, step: int) -> None:
    """Subgroups, and all floats in f16 that can be: what is stored for devices that have them."""
    count, complaints = rejected(((case.name, case.model) for case in load()[first::step]), frozenset({"shader-f16", "subgroups"}), "f16")
    assert complaints == [] and count > 150


@pytest.mark.slow
def test_all_shaders_of_the_suite_compile_in_dawn() -> None:
    count, complaints = rejected((case.name, case.model) for case in load())
    assert complaints == [] and count > 1000


@pytest.mark.parametrize("name", ["magika", "ocr-cls", "basic-pitch", "silero-vad-ifless", *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(MODELS)
                                  if MODELS[n].file.endswith(".onnx") and n not in ("magika", "ocr-cls", "basic-pitch", "silero-vad-ifless"))])
def test_shaders_of_public_models_compile_in_dawn(name: str) -> None:
    _, complaints = rejected([(name, fetch(name))])
    assert complaints == []


@pytest.mark.slow
def test_shaders_of_the_light_models_compile_in_dawn() -> None:
    _, complaints = rejected((name, path) for name, path in light_models().items())
    assert complaints == []
