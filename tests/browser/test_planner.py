"""planner: "pyodide" in the JavaScript runtime: ONNX files and sizes outside the stored programs, converted and planned by Python in a worker; without it, errors that say what to type."""
from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx as ort
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Page, Route
from sardonyx.converter.cli.serve import ISOLATION, Server
from sardonyx.errors import InvalidArgument, NoSuchFile
from sardonyx.wasm.pyodide import write_pyodide

from tests.browser.conftest import mounts
from tests.browser.packages import OLD, pyodide
from tests.patience import SECONDS

#: In the page: a run of both inputs' sizes, as [sum of the outputs of the page, of them all].
PRELUDE = """async (given) => {
  const ort = await import('/sardonyx/index.js');
  ort.env.pyodide.indexURL = '/self/';
  const x = (n) => new ort.Tensor('float32', Float32Array.from({ length: n * 64 }, (_, i) => Math.sin(i)), [n, 64]);
  const run = async (session, n) => Array.from((await session.run({ x: x(n) })).y.data);
  const failure = async (what) => { try { await what(); return ['no error', '']; } catch (error) { return [error.name, error.message, error instanceof ort.SardonyxError]; } };
  const resources = () => performance.getEntriesByType('resource').map((e) => e.name);
  %s
}"""


@pytest.fixture(scope="module")
def product(models: Path) -> Path:
    """x[n, 64] · w, as .onnx, with programs for n = 0..4, with none, with its weights beside it."""
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])], "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])], [numpy_helper.from_array(weights, "w")])
    source = models / "product.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, source)
    onnx.save(model, models / "beside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    ort.convert(source, models / "narrow.sdx", plan=[{"n": (0, 4)}])
    ort.convert(source, models / "bare.sdx", store=False)
    ort.convert(source, models / "external.sdx", plan=[{"n": (0, 4)}], external_data=True)
    return source


@pytest.fixture(scope="module")
def site(runtime: Path, wheels: Path, models: Path, product: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The test server with a folder as `sardonyx bundle --pyodide` writes it."""
    folder = tmp_path_factory.mktemp("self")
    write_pyodide(folder, pyodide())
    with Server({**mounts(runtime, wheels, models), "/self/": folder}, headers=ISOLATION) as server:
        yield server.address


def ask(page: Page, code: str, given: Any = None) -> Any:
    return page.evaluate(PRELUDE % code, given)


def wanted(product: Path, n: int) -> np.ndarray:
    x = np.sin(np.arange(n * 64)).astype(np.float32).reshape(n, 64)
    return np.asarray(ort.InferenceSession(str(product)).run(None, {"x": x})[0]).ravel()


def close(found: list[float], product: Path, n: int) -> None:
    np.testing.assert_allclose(found, wanted(product, n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("proxy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_onnx_files(page: Page, site: str, product: Path, proxy: bool) -> None:
    """By URL, as bytes, with weights beside it; all in one Python, which ends with the last session, and nothing is asked of another host."""
    elsewhere: list[str] = []

    def refuse(route: Route) -> None:
        elsewhere.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith(site), refuse)
    page.goto(site)
    found = ask(page, """
      Object.assign(ort.env.wasm, { proxy: given, numThreads: 1 });
      const events = [], options = { planner: 'pyodide', progress: ({ phase, loaded, total }) => events.push([phase, loaded, total]) };
      const url = await ort.InferenceSession.create('/models/product.onnx', options);
      const data = await (await fetch('/models/product.onnx')).arrayBuffer();
      const bytes = await ort.InferenceSession.create(data, options);
      events.length = 0;
      const beside = await ort.InferenceSession.create('/models/beside.onnx', { ...options, externalData: [{ path: 'weights.bin', data: '/models/weights.bin' }] });
      const made = { runs: [await run(url, 3), await run(bytes, 3), await run(beside, 3)], whole: data.byteLength, events, shape: url.inputMetadata[0].shape,
                     bad: await failure(() => ort.InferenceSession.create(new Uint8Array(500).fill(8), { planner: 'pyodide' })),
                     page: await failure(() => ort.InferenceSession.create('/index.html', { planner: 'pyodide' })),
                     starts: resources().filter((name) => name.endsWith('planner-worker.js')).length };
      for (const session of [url, bytes, beside]) await session.release();
      return made;
    """, proxy)
    for run in found["runs"]:
        close(run, product, 3)
    assert found["shape"] == ["n", 64] and found["whole"] == product.stat().st_size
    phases = {phase: [(loaded, total) for name, loaded, total in found["events"] if name == phase] for phase in ("download", "compile", "plan")}
    size = sum((product.parent / name).stat().st_size for name in ("beside.onnx", "weights.bin"))
    assert all(rows == sorted(rows) for rows in phases.values()) and phases["download"][-1] == (size, size), phases
    assert phases["compile"] == [(0, 1), (1, 1)] and phases["plan"][0] == (0, 1) and phases["plan"][-1] == (1, 1) and len(phases["plan"]) > 3, phases
    assert found["bad"][0] == "InvalidProtobuf" and found["bad"][2] and found["page"][0] == "InvalidModelFile" and "web page" in found["page"][1]
    assert found["starts"] == 1 and not elsewhere
    end = time.monotonic() + SECONDS
    while page.workers and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert not page.workers, [worker.url for worker in page.workers]


@pytest.mark.parametrize(("name", "proxy"), [("narrow", True), ("external", False), pytest.param("narrow", False, marks=pytest.mark.slow), pytest.param("external", True, marks=pytest.mark.slow)])
def test_sizes_beyond_the_stored_programs(page: Page, site: str, product: Path, proxy: bool, name: str) -> None:
    page.goto(site)
    found = ask(page, """
      Object.assign(ort.env.wasm, { proxy: given[0], numThreads: 1 });
      const options = { externalData: [{ path: given[1] + '.sdx.data', data: `models/${given[1]}.sdx.data` }] }; // relative to the page, not to a worker
      const plain = await ort.InferenceSession.create(`/models/${given[1]}.sdx`, options);
      const error = await failure(() => run(plain, 7));
      const session = await ort.InferenceSession.create(`/models/${given[1]}.sdx`, { ...options, planner: 'pyodide' });
      const before = resources().length, first = await run(session, 4), quiet = resources().length - before;
      const runs = await Promise.all([run(session, 7), run(session, 2), run(session, 90)]);
      return { error, first, quiet, runs, still: await run(plain, 4) };
    """, [proxy, name])
    kind, text, ours = found["error"]
    assert kind == "InvalidArgument" and ours and "n=7" in text and "n=0..4" in text
    assert re.search(r"npx sardonyx convert model.onnx --plan n=0..4 --plan n=7\b", text), text
    assert found["quiet"] == 0  # Python is not started where a stored program does
    close(found["first"], product, 4)
    close(found["still"], product, 4)
    for run, n in zip(found["runs"], (7, 2, 90), strict=True):
        close(run, product, n)


@pytest.mark.parametrize("proxy", [False, True])
def test_external_data(page: Page, site: str, product: Path, proxy: bool) -> None:
    """The tensor data beside the file as URL, response, blob and bytes; missing, of another model, cut off."""
    page.goto(site)
    found = ask(page, """
      Object.assign(ort.env.wasm, { proxy: given, numThreads: 1 });
      const url = 'models/external.sdx.data', data = await (await fetch(url)).arrayBuffer();
      const open = (...externalData) => ort.InferenceSession.create('models/external.sdx', { externalData });
      const kinds = [url, { path: 'external.sdx.data', data: new URL(url, location.href) }, await fetch(url), (await fetch(url)).body, new Blob([data]), data, { data: new Uint8Array(data) }];
      const runs = [];
      for (const kind of kinds) {
        const session = await open(kind);
        runs.push(await run(session, 3));
        await session.release();
      }
      const other = data.slice();
      new Uint8Array(other)[30] ^= 1;
      return { runs, left: data.byteLength, errors: { none: await failure(() => open()), other: await failure(() => open(other)), cut: await failure(() => open(data.slice(0, data.byteLength - 9))),
               absent: await failure(() => open('models/nowhere.data')) } };
    """, proxy)
    for run in found["runs"]:
        close(run, product, 3)
    assert found["left"] == (product.parent / "external.sdx.data").stat().st_size
    wanted = {"none": ("InvalidArgument", "externalData"), "other": ("InvalidModelFile", "another model"), "cut": ("NetworkError", "incomplete"), "absent": ("NoSuchFile", "nowhere.data")}
    for name, (kind, word) in wanted.items():
        assert found["errors"][name][0] == kind and word in found["errors"][name][1] and found["errors"][name][2], (name, found["errors"][name])


def test_files_without_programs(page: Page, site: str, product: Path) -> None:
    page.goto(site)
    found = ask(page, """
      const bare = await failure(() => ort.InferenceSession.create('/models/bare.sdx'));
      const session = await ort.InferenceSession.create('/models/bare.sdx', { planner: 'pyodide', freeDimensionOverrides: { n: 3 } });
      return { bare, run: await run(session, 3), shape: session.inputMetadata[0].shape };
    """)
    assert found["bare"][0] == "NotImplemented" and "npx sardonyx convert" in found["bare"][1]
    close(found["run"], product, 3)
    assert found["shape"] == [3, 64]


def test_settings(page: Page, site: str, product: Path) -> None:
    """Nothing is loaded from anywhere unasked; a wrong folder and a wrong name are told; stopped while Python starts and while it plans; the next session works."""
    page.goto(site)
    found = ask(page, """
      const onnx = (options) => failure(() => ort.InferenceSession.create('/models/product.onnx', options));
      const errors = { without: await onnx({}), name: await onnx({ planner: 'cloud' }) };
      ort.env.pyodide.indexURL = undefined;
      errors.unset = await onnx({ planner: 'pyodide' });
      ort.env.pyodide.indexURL = '/nowhere/';
      errors.nowhere = await onnx({ planner: 'pyodide' });
      ort.env.pyodide.indexURL = '/pyodide/';
      errors.unlisted = await onnx({ planner: 'pyodide' });
      const asked = new AbortController();
      ort.env.pyodide.indexURL = '/self/';
      setTimeout(() => asked.abort(), 300);
      errors.abort = await onnx({ planner: 'pyodide', signal: asked.signal });
      const create = () => ort.InferenceSession.create('/models/product.onnx', { planner: 'pyodide' }), works = await run(await create(), 2);
      const planned = new AbortController();
      ort.env.wasm.proxy = false; // the callback is called before what the planner made is there
      errors.planned = await onnx({ planner: 'pyodide', signal: planned.signal, progress: ({ phase, loaded }) => phase === 'plan' && loaded > 0 && planned.abort() });
      return { errors, works, again: await run(await create(), 3) };
    """)
    errors = found["errors"]
    assert errors["without"][0] == "NotImplemented" and all(word in errors["without"][1] for word in ("npx sardonyx convert model.onnx", "convert.html", "planner"))
    assert errors["name"][0] == errors["unset"][0] == errors["nowhere"][0] == errors["unlisted"][0] == "InvalidArgument", errors
    assert "env.pyodide.indexURL" in errors["unset"][1] and "/nowhere/" in errors["nowhere"][1] and "sardonyx bundle --pyodide" in errors["unlisted"][1]
    assert errors["abort"][0] == errors["planned"][0] == "AbortError"
    close(found["works"], product, 2)
    close(found["again"], product, 3)


def test_wheels_by_name(page: Page, site: str, product: Path, wheels: Path) -> None:
    """A Pyodide whose lock file does not know sardonyx, as on Pyodide's own CDN; here the older line."""
    page.goto(site)
    found = ask(page, """
      Object.assign(ort.env.pyodide, { indexURL: '/pyodide-old/', wheels: given });
      return run(await ort.InferenceSession.create('/models/product.onnx', { planner: 'pyodide' }), 2);
    """, [f"/wheels/{path.name}" for path in sorted(wheels.glob("*.whl"))])
    close(found, product, 2)


def test_a_self_hosted_pyodide_of_the_older_line(tmp_path: Path) -> None:
    """Every file is listed with its hash, and a changed one is refused."""
    assert write_pyodide(tmp_path / "made", pyodide(OLD)) == "0.28.3"
    lock = json.loads((tmp_path / "made" / "pyodide-lock.json").read_text())
    assert set(lock["packages"]) == {"numpy", "micropip", "flatbuffers", "sardonyx"} and lock["packages"]["sardonyx"]["depends"] == ["flatbuffers", "numpy"]
    for entry in lock["packages"].values():
        assert hashlib.sha256((tmp_path / "made" / entry["file_name"]).read_bytes()).hexdigest() == entry["sha256"]
    changed = tmp_path / "changed"
    shutil.copytree(pyodide(), changed)
    (changed / "pyodide.asm.wasm").write_bytes((changed / "pyodide.asm.wasm").read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidArgument, match="pyodide.asm.wasm has sha256"):
        write_pyodide(tmp_path / "refused", changed)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(NoSuchFile, match="not Pyodide"):
        write_pyodide(tmp_path / "refused", tmp_path)


def test_onnx_on_webgpu(page: Page, site: str, product: Path) -> None:
    """An ONNX file becomes programs for WebGPU where the session asks for it."""
    page.goto(site)
    found = ask(page, """
      const options = { planner: 'pyodide' };
      const gpu = await ort.InferenceSession.create('/models/product.onnx', { ...options, executionProviders: ['webgpu'] });
      const cpu = await ort.InferenceSession.create('/models/product.onnx', options);
      const made = [await run(gpu, 3), await run(cpu, 3), gpu.explain(), await run(gpu, 5), await run(cpu, 5)];
      await gpu.release();
      await cpu.release();
      return made;
    """)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[3], found[4], rtol=1e-4, atol=1e-4)
    assert found[2]["webgpu"]["dispatches"] > 0 and found[2]["webgpu"]["beside"] == []


def test_onnx_on_webgpu_is_planned_for_the_device(page: Page, site: str, product: Path) -> None:
    """As if it were a GPU, with subgroups, which SwiftShader has; in float32, because it has no f16, and a warning says so."""
    page.goto(site)
    found = ask(page, """
      const warned = [], warn = console.warn;
      console.warn = (...words) => warned.push(words.join(' '));
      (await (await import('/sardonyx/gpu.js')).openDevice()).isCpu = false;
      const session = await ort.InferenceSession.create('/models/product.onnx', { planner: 'pyodide', freeDimensionOverrides: { n: 3 }, executionProviders: [{ name: 'webgpu', precision: 'f16' }] });
      console.warn = warn;
      return [await run(session, 3), session.explain().webgpu, warned];
    """)
    close(found[0], product, 3)
    assert found[1]["features"] == ["subgroups"] and found[1]["precision"] == "f32" and len(found[2]) == 1 and "lacks shader-f16" in found[2][0]
