"""`import sardonyx as ort` in Pyodide: installed by micropip, on the main thread and in a worker, isolated and not."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
import sardonyx as ort
from playwright.sync_api import Page
from sardonyx.wasm.wheel import dependency_wheel, write_wheel

from tests.browser.packages import OLD, version
from tests.models import generated
from tests.models.registry import fetch, unpack

IN_PAGE = "async ([wheels, code, files, home]) => (await import('/pyodide.js')).run(wheels, code, files, home)"
IN_WORKER = """([wheels, code, files, home]) => new Promise((resolve, reject) => {
  const worker = new Worker('/pyodide-worker.js', {type: 'module'});
  worker.onmessage = ({data}) => { worker.terminate(); data.error ? reject(new Error(data.error)) : resolve(data.result); };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage({wheels, code, files, home});
})"""
CODE = """
import hashlib, json
import numpy as np
import sardonyx as ort
from sardonyx.wasm import binding

def strict():
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options

session = ort.InferenceSession("/model", strict(), providers=["CPUExecutionProvider"])
x = np.random.default_rng(7).normal(size=(2, 3, 224, 224)).astype(np.float32)
y, = session.run(None, {session.get_inputs()[0].name: x})
wrong = ""
try:
    session.run(None, {session.get_inputs()[0].name: x.astype(np.float64)})
except Exception as error:
    wrong = type(error).__name__
{"providers": ort.get_available_providers(), "threads": binding.engine().threads, "isa": binding.isas()[0], "y": y.ravel().astype(float).tolist(), "wrong": wrong}
"""


def names(wheels: Path) -> list[str]:
    return sorted(p.name for p in wheels.glob("*.whl"))


@pytest.mark.parametrize("where", ["page", "worker"])
def test_a_model_runs_in_pyodide(page: Page, address: str, wheels: Path, models: Path, where: str, request: pytest.FixtureRequest) -> None:
    path = models / "mobilenet_v2.onnx"
    if not path.exists():
        generated.mobilenet_v2(path)
    page.goto(address)
    found: dict[str, Any] = page.evaluate(IN_PAGE if where == "page" else IN_WORKER, [names(wheels), CODE, {"/model": "/models/mobilenet_v2.onnx"}])
    session = ort.InferenceSession(str(path))
    x = np.random.default_rng(7).normal(size=(2, 3, 224, 224)).astype(np.float32)
    wanted = session.run(None, {session.get_inputs()[0].name: x})[0].ravel()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert found["providers"] == ["CPUExecutionProvider"] and found["wrong"] == "InvalidArgument"
    assert found["isa"] == "relaxed"
    assert (found["threads"] > 1) == (where == "worker" and "isolated" in request.node.callspec.params["address"] and page.evaluate("navigator.hardwareConcurrency") > 2)


OLDER = """
import sys
import numpy as np
import pyodide_js
import sardonyx as ort
from sardonyx.wasm import binding

found = {"pyodide": pyodide_js.version, "python": sys.version_info[:2], "isa": binding.isas()[0], "callback": []}
x = np.random.default_rng(7).normal(size=(1, 3, 224, 224)).astype(np.float32)
for kind in ("onnx", "sdx"):
    session = ort.InferenceSession(f"/model.{kind}")
    found[kind] = session.run(None, {"input": x})[0].ravel().astype(float).tolist()
session.run_async(None, {"input": x}, lambda results, data, error: found["callback"].append([results[0].ravel().astype(float).tolist(), data, error]), "mine")
found
"""


@pytest.mark.parametrize("where", [pytest.param("page", marks=pytest.mark.slow), "worker"])
def test_an_older_pyodide(page: Page, isolated: str, wheels: Path, models: Path, where: str) -> None:
    """The wheel on the line before (Python 3.13): planning an .onnx, a stored program, run_async; this machine's numbers."""
    path = models / "mobilenet_v2.onnx"
    if not path.exists():
        generated.mobilenet_v2(path)
    if not path.with_suffix(".sdx").exists():
        ort.convert(path)
    page.goto(isolated)
    files = {f"/model.{kind}": f"/models/mobilenet_v2.{kind}" for kind in ("onnx", "sdx")}
    found: dict[str, Any] = page.evaluate(IN_PAGE if where == "page" else IN_WORKER, [names(wheels), OLDER, files, "/pyodide-old/"])
    assert found["pyodide"] == version(OLD) and list(found["python"]) == [3, 13] and found["isa"] == "relaxed"
    wanted = ort.InferenceSession(str(path)).run(None, {"input": np.random.default_rng(7).normal(size=(1, 3, 224, 224)).astype(np.float32)})[0].ravel()
    (made, data, error), = found["callback"]
    assert data == "mine" and error == ""
    for y in (found["onnx"], found["sdx"], made):
        np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))


STORED = """
import gc
import numpy as np
import sardonyx as ort
from sardonyx.wasm import binding

def same(a, b):
    return len(a) == len(b) and all(x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))

def failure(what):
    try:
        what()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

rng = np.random.default_rng(3)
found = {"kinds": [], "same": [], "wrong": []}
gc.collect()
ort.InferenceSession("/branchy.sdx").run(None, {"x": np.ones((1, 5), np.float32), "turns": np.array(1, np.int64)})  # what is made once
gc.collect()
free = binding.engine().memory().to_py()
session = ort.InferenceSession("/branchy.sdx")
planned = ort.InferenceSession("/branchy.onnx")
for n, turns in [(1, 0), (4, 3), (2, 7), (0, 2), (4, 3)]:
    feeds = {"x": rng.normal(size=(n, 5)).astype(np.float32), "turns": np.array(turns, np.int64)}
    found["same"].append(same(session.run(None, feeds), planned.run(None, feeds)))
    feeds["x"] = np.asfortranarray(feeds["x"])
    found["same"].append(same(session.run(None, feeds), planned.run(None, feeds)))
kept = session.run(None, {"x": np.ones((3, 5), np.float32), "turns": np.array(2, np.int64)})
copy = [a.copy() for a in kept]
session.run(None, {"x": np.zeros((3, 5), np.float32), "turns": np.array(2, np.int64)})
found["same"].append(same(kept, copy))  # a later run does not write into what an earlier one gave
found["kinds"] += [type(session._executor).__name__, "graph" in session._executor.model.__dict__]
found["wrong"].append(failure(lambda: session.run(None, {"x": np.ones((1, 5)), "turns": np.array(1, np.int64)})))
found["wrong"].append(failure(lambda: session.run(None, {"x": np.ones((1, 6), np.float32), "turns": np.array(1, np.int64)})))
options = ort.RunOptions()
options.terminate = True
found["wrong"].append(failure(lambda: session.run(None, {"x": np.ones((1, 5), np.float32), "turns": np.array(3_000_000, np.int64)}, options)))
options = ort.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
strict = ort.InferenceSession("/branchy.sdx", options)
found["kinds"].append("graph" in strict._executor.model.__dict__)
del session, planned, strict, kept
gc.collect()
found["leaked"] = free[1] + (binding.engine().memory().to_py()[0] - free[0]) - binding.engine().memory().to_py()[1]
found
"""


@pytest.fixture(scope="session")
def branchy(models: Path) -> dict[str, str]:
    """A loop whose number of turns is data, with an If in it: no single program. As .onnx and as .sdx."""
    model = onnx.parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
branchy (float[n, 5] x, int64 turns) => (float[n, 5] y, float[m, n, 5] all)
<float[5, 5] w>
{
    yes = Constant<value = bool {1}>()
    y, all = Loop (turns, yes, x) <body = body (int64 i, bool go, float[n, 5] a) => (bool on, float[n, 5] b, float[n, 5] c) {
        two = Constant<value = int64 {2}>()
        zero = Constant<value = int64 {0}>()
        rest = Mod (i, two)
        odd = Equal (rest, zero)
        b = If (odd) <then_branch = yes () => (float[n, 5] s) { t = MatMul (a, w) s = Tanh (t) }, else_branch = no () => (float[n, 5] s) { s = Relu (a) }>
        c = Identity (b)
        on = Identity (go)
    }>
}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32), "w"))
    onnx.save(model, models / "branchy.onnx")
    ort.convert(models / "branchy.onnx", models / "branchy.sdx")
    return {f"/branchy.{kind}": f"/models/branchy.{kind}" for kind in ("onnx", "sdx")}


def test_stored_packages(page: Page, isolated: str, wheels: Path, branchy: dict[str, str]) -> None:
    """A file's package runs on the engine's sessions, without graph or planner: the numbers of the planned graph, memory of a run given back."""
    page.goto(isolated)
    found: dict[str, Any] = page.evaluate(IN_WORKER, [names(wheels), STORED, branchy])
    assert found["same"] == [True] * 11
    assert found["kinds"] == ["StoredExecutor", False, False]
    assert [str(text).split(":")[0] for text in found["wrong"]] == ["InvalidArgument", "InvalidArgument", "Terminated"], found
    assert found["leaked"] == 0


THREADS = """
import asyncio, time
import numpy as np
import sardonyx as ort
from sardonyx.wasm import binding

def session(threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession("/model.sdx", options)

x = np.random.default_rng(7).normal(size=(1, 3, 224, 224)).astype(np.float32)
one, three = session(1), session(3)
alone = three.run(None, {"input": x})[0]  # nothing waits for the workers
until = time.monotonic() + 180
while binding.engine().workers() < 2 and time.monotonic() < until:
    await asyncio.sleep(0.05)
wanted = one.run(None, {"input": x})[0]
{"workers": binding.engine().workers(), "same": [bool(np.array_equal(y, wanted)) for y in (alone, *(three.run(None, {"input": x})[0] for _ in range(20)))]}
"""


@pytest.mark.parametrize("headers", ["isolated", pytest.param("plain", marks=pytest.mark.slow)])
def test_threads(page: Page, wheels: Path, models: Path, headers: str, request: pytest.FixtureRequest) -> None:
    """A session that asks for threads gets them in an isolated worker; elsewhere it runs on one. The same bits either way."""
    path = models / "mobilenet_v2.onnx"
    if not path.exists():
        generated.mobilenet_v2(path)
    ort.convert(path, models / "mobilenet_v2.sdx")
    page.goto(request.getfixturevalue(headers))
    code = THREADS if headers == "isolated" else THREADS.replace("+ 180", "+ 1")
    found: dict[str, Any] = page.evaluate(IN_WORKER, [names(wheels), code, {"/model.sdx": "/models/mobilenet_v2.sdx"}])
    assert found == {"workers": 2 if headers == "isolated" else 0, "same": [True] * 21}


PACKAGE = """
import sardonyx
sardonyx.as_onnxruntime()
await micropip.install([name for name in extra.split()])
import json
from pathlib import Path
from magika import Magika
from magika import magika as module
magika = Magika()
files = json.loads(Path("/files.json").read_text())
found = {name: (r.output.label, r.score) for name, text in files.items() for r in [magika.identify_bytes(text.encode())]}
{"found": found, "runtime": module.rt.InferenceSession.__module__.partition(".")[0]}
"""


def test_magika_package(page: Page, plain: str, wheels: Path, models: Path) -> None:
    """Magika's own Python package, unmodified, installed by micropip with onnxruntime as its requirement."""
    made = [repack(models, unpack("magika")), dependency_wheel(models, "click")]
    texts = {"python": Path(__file__).read_text(), "json": json.dumps({"a": [1, 2, {"b": None}]} | {str(i): i for i in range(50)}, indent=2), "markdown": Path("CONTRIBUTING.md").read_text()}
    (models / "files.json").write_text(json.dumps(texts))
    page.goto(plain)
    extra = " ".join(f"{plain.rstrip('/')}/models/{path.name}" for path in made)
    found: dict[str, Any] = page.evaluate(IN_PAGE, [names(wheels), f"extra = {extra!r}\n{PACKAGE}", {"/files.json": "/models/files.json"}])
    assert {name: label for name, (label, _) in found["found"].items()} == {name: name for name in texts} and found["runtime"] == "sardonyx"
    assert all(score > 0.5 for _, score in found["found"].values()), found


def repack(folder: Path, package: Path) -> Path:
    """The wheel of an unpacked package without its native program: what its index has is for one platform, though the package is Python."""
    info = next(package.glob("*.dist-info"))
    name = info.name.removesuffix(".dist-info")
    files = {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*")) if path.is_file() and ".data/" not in path.as_posix() and path.name != "RECORD"}
    files[f"{info.name}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return write_wheel(folder / f"{name}-py3-none-any.whl", files, info.name)


@pytest.mark.slow
def test_magika_in_pyodide(page: Page, plain: str, wheels: Path) -> None:
    """A third party's model straight from its package, `.onnx` in, against this machine's answer."""
    path = fetch("magika")
    code = """
import numpy as np, sardonyx as ort
session = ort.InferenceSession("/model")
name = session.get_inputs()[0].name
x = np.random.default_rng(1).integers(0, 257, size=(3, 2048)).astype(np.int32)
session.run(None, {name: x})[0].astype(float).tolist()
"""
    page.goto(plain)
    found = page.evaluate(IN_PAGE, [names(wheels), code, {"/model": f"/cache/{path.name}"}])
    session = ort.InferenceSession(str(path))
    x = np.random.default_rng(1).integers(0, 257, size=(3, 2048)).astype(np.int32)
    np.testing.assert_allclose(np.array(found), session.run(None, {session.get_inputs()[0].name: x})[0], rtol=1e-3, atol=1e-5)


GPU = """
import numpy as np
import sardonyx as ort
from sardonyx.providers.base import RunContext
from sardonyx.webgpu.device import open_device

options = ort.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
session = ort.InferenceSession("/model", options, providers=["WebGpuExecutionProvider"])
names = [v.name for v in session.get_inputs()]
device, made, compiled, buffers = open_device(), [], [], []
for seq in (9, 16, 11, 16, 9):
    x = np.random.default_rng(seq).normal(size=(1, seq, 48)).astype(np.float32)
    feeds = {names[0]: x, **({names[1]: np.ones((1, seq), np.int64)} if len(names) > 1 else {})}
    made.append(session.run(None, feeds)[0].ravel().astype(float).tolist())
    compiled.append(device.compiled)
    buffers.append(device.buffers)
context = RunContext(events=[])
session._executor.run([feeds[n] for n in names], [0], context)
times = {"offered": device.timestamps, "durations": [e.duration for e in context.events], "measured": any("gflops" in e.args for e in context.events), "left": device.buffers}
device._gpu.device.destroy()
device._run_sync(device._gpu.lost)
again = session.run(None, feeds)[0].ravel().astype(float).tolist()
{"device": device.adapter.name, "made": made, "compiled": compiled, "buffers": buffers, "again": again, "times": times, "another": open_device() is not device,
 "placements": sorted({row.provider for row in session.explain()})}
"""


@pytest.mark.parametrize("where", ["page", "worker"])
def test_webgpu(page: Page, isolated: str, wheels: Path, models: Path, where: str) -> None:
    """WebGpuExecutionProvider in the page and in a worker: this machine's numbers, a new size compiles nothing, a lost device is replaced."""
    path = models / "bert-gpu.onnx"
    if not path.exists():
        generated.bert_layer(path, hidden=48, heads=4)
    page.goto(isolated)
    found: dict[str, Any] = page.evaluate(IN_PAGE if where == "page" else IN_WORKER, [names(wheels), GPU, {"/model": "/models/bert-gpu.onnx"}])
    session = ort.InferenceSession(str(path))
    ports = [v.name for v in session.get_inputs()]
    wanted = []
    for seq in (9, 16, 11, 16, 9):
        x = np.random.default_rng(seq).normal(size=(1, seq, 48)).astype(np.float32)
        wanted.append(session.run(None, {ports[0]: x, **({ports[1]: np.ones((1, seq), np.int64)} if len(ports) > 1 else {})})[0].ravel())
    for y, right in zip([*found["made"], found["again"]], [*wanted, wanted[-1]], strict=True):
        np.testing.assert_allclose(y, right, rtol=1e-3, atol=1e-4)
    assert len(set(found["compiled"])) == 1 and len(set(found["buffers"][1:])) == 1 and found["another"]
    times = found["times"]
    assert times["durations"] and min(times["durations"]) >= 0 and times["measured"] == times["offered"] and times["left"] <= found["buffers"][-1] + 2, "a staging buffer at most"
    assert "swiftshader" in found["device"].lower() and found["placements"] == ["WebGpuExecutionProvider"]
