"""The npm package under node: a stored model gives Python's numbers, with and without threads and a worker; the types compile; `npx sardonyx convert` writes Python's file."""
from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sardonyx as ort

from tests.browser.packages import NPM, pyodide
from tests.models import generated

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
PROGRAM = """
import * as ort from "sardonyx";
import { readFileSync } from "node:fs";
const [folder, threads, proxy] = JSON.parse(process.argv[2]);
Object.assign(ort.env.wasm, { numThreads: threads, proxy });
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(`${folder}/${name}`)).buffer);
const session = await ort.InferenceSession.create(`${folder}/model.sdx`);
const input = new ort.Tensor("float32", floats("x"), [2, 3, 224, 224]);
const { output } = await session.run({ input });
const mine = new ort.Tensor("float32", new Float32Array(output.data.length), output.dims), held = mine.data;
const again = await session.run({ input }, { output: mine });
const wrong = await session.run({ input }, { output: new ort.Tensor("float64", new Float64Array(output.data.length), output.dims) }).catch((error) => error.name);
const written = again.output === mine && mine.data === held && mine.data.every((v, i) => v === output.data[i]) && wrong === "InvalidArgument";
const errors = [];
for (const what of [() => session.run({}), () => ort.InferenceSession.create(`${folder}/none.sdx`), () => ort.InferenceSession.create(`${folder}/model.onnx`)]) {
  await what().then(() => errors.push("none"), (error) => errors.push(error.name));
}
console.log(JSON.stringify({ y: Array.from(output.data), engine: session.engine, input: session.inputMetadata, errors, written }));
await session.release();
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in node_modules, a model, its input and output."""
    folder = installed(tmp_path_factory.mktemp("node"), PROGRAM)
    generated.mobilenet_v2(folder / "model.onnx")
    ort.convert(folder / "model.onnx", folder / "model.sdx")
    x = np.random.default_rng(5).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (folder / "x").write_bytes(x.tobytes())
    np.save(folder / "y.npy", ort.InferenceSession(str(folder / "model.onnx")).run(None, {"input": x})[0])
    return folder


@pytest.mark.parametrize(("threads", "proxy"), [(1, False), (2, False), (2, True)])
def test_runs(package: Path, threads: int, proxy: bool) -> None:
    found = json.loads(node("program.js", json.dumps([str(package), threads, proxy]), cwd=package))
    assert found["written"], "a tensor given for an output is written to"
    wanted = np.load(package / "y.npy").ravel()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert found["engine"] == {"file": f"sardonyx-simd128{'-threads' if threads > 1 else ''}.wasm", "threads": threads, "worker": proxy}
    assert found["input"][0]["shape"] == ["batch", 3, 224, 224]
    assert found["errors"] == ["InvalidArgument", "NoSuchFile", "NotImplemented"]


def test_relaxed(package: Path) -> None:
    """Node 20 has relaxed SIMD behind a flag; where it is, the runtime takes it."""
    found = json.loads(node("--experimental-wasm-relaxed-simd", "program.js", json.dumps([str(package), 1, False]), cwd=package))
    wanted = np.load(package / "y.npy").ravel()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert found["engine"]["file"] == "sardonyx-relaxed.wasm"


def test_convert(package: Path) -> None:
    node("node_modules/sardonyx/cli.mjs", "convert", "model.onnx", "-o", "made.sdx", "--pyodide", pyodide(), cwd=package)
    ort.convert(package / "model.onnx", package / "python.sdx", plan=[{}])
    assert (package / "made.sdx").read_bytes() == (package / "python.sdx").read_bytes()
    failed = subprocess.run(["node", "node_modules/sardonyx/cli.mjs", "convert", "none.onnx"], cwd=package, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2 and "none.onnx" in failed.stderr


def test_convert_for_sizes(package: Path) -> None:
    node("node_modules/sardonyx/cli.mjs", "convert", "model.onnx", "-o", "sized.sdx", "--plan", "batch=1", "--plan", "batch=2..5", "--pyodide", pyodide(), cwd=package)
    ort.convert(package / "model.onnx", package / "python.sdx", plan=[{"batch": (1, 1)}, {"batch": (2, 5)}])
    assert (package / "sized.sdx").read_bytes() == (package / "python.sdx").read_bytes()
    failed = subprocess.run(["node", "node_modules/sardonyx/cli.mjs", "convert", "model.onnx", "--plan", "batch=x"], cwd=package, capture_output=True, text=True, timeout=300)
    assert failed.returncode == 2 and "batch=x" in failed.stderr


PLANNER = """
import * as ort from "sardonyx";
import { readFileSync } from "node:fs";
const [pyodide] = JSON.parse(process.argv[2]);
ort.env.wasm.numThreads = 1;
const input = new ort.Tensor("float32", new Float32Array(new Uint8Array(readFileSync("x")).buffer), [2, 3, 224, 224]);
const missing = await ort.InferenceSession.create("model.onnx", { planner: "pyodide" }).catch((error) => `${error.name}: ${error.message}`);
ort.env.pyodide.indexURL = pyodide;
const session = await ort.InferenceSession.create("model.onnx", { planner: "pyodide" });
const { output } = await session.run({ input });
await session.release();
console.log(JSON.stringify({ missing, y: Array.from(output.data) }));
"""


def test_planner(package: Path) -> None:
    (package / "planner.js").write_text(PLANNER)
    found = json.loads(node("planner.js", json.dumps([str(pyodide())]), cwd=package).splitlines()[-1])
    wanted = np.load(package / "y.npy").ravel()
    np.testing.assert_allclose(found["y"], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert found["missing"].startswith("InvalidArgument") and "npm install pyodide" in found["missing"]


def test_types(package: Path) -> None:
    (package / "use.ts").write_text("""
import { InferenceSession, Tensor, env, NetworkError } from "sardonyx";
env.wasm.numThreads = 2;
const session: InferenceSession = await InferenceSession.create("model.sdx", { progress: ({ phase, loaded }) => console.log(phase, loaded), cache: true });
const made = await session.run({ x: new Tensor("int64", [1n, 2n], [2]) }, ["y"]);
const data: Float32Array = (made.y as Tensor<"float32">).data;
console.log(data.length, session.inputMetadata[0].shape, NetworkError.name);
export {};
""")
    compiler = NPM / "typescript" / "bin" / "tsc"
    node(compiler, "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--lib", "es2022,dom", "use.ts", cwd=package)
