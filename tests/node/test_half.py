"""float32 as f16 in the JavaScript runtime, on a device with f16 and subgroups that computes nothing (Dawn's null backend under node: no browser here has f16): which recording is taken, that Dawn
accepts all of it, what is uploaded and how much memory a run takes. The numbers of the same recordings are tested in tests/webgpu/test_stored.py."""
from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx as ort
from sardonyx import wasm
from sardonyx.model.format import Header
from sardonyx.types import DType
from sardonyx.webgpu.wgsl.storage import upload

from tests.browser.packages import NPM, pyodide
from tests.browser.test_webgpu_half import decoder
from tests.webgpu.replay import chosen, text_of

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
PROGRAM = """
import * as ort from "sardonyx";
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
const [npm, file, features, providers, indexURL] = JSON.parse(process.argv[2]);
const { create, globals } = createRequire(`${npm}/`)("webgpu");
Object.assign(globalThis, globals);
const gpu = create(["backend=null"]);
const device = await (await gpu.requestAdapter()).requestDevice({ requiredFeatures: features });
const wrong = [], uploads = new Map(), memory = [], make = device.createBuffer.bind(device), write = device.queue.writeBuffer.bind(device.queue);
device.addEventListener?.("uncapturederror", ({ error }) => wrong.push(error.message));
device.createBuffer = (asked) => {
  const made = make(asked);
  if (asked.label?.startsWith("memory")) memory.push(asked.size);
  if (asked.label === "weights") uploads.set(made, createHash("sha256"));
  return made;
};
device.queue.writeBuffer = (buffer, offset, data, from, size) => {
  uploads.get(buffer)?.update(data.subarray(from, size === undefined ? undefined : from + size)); // each after the one before
  write(buffer, offset, data, from, size);
};
ort.env.webgpu.device = device;
const { isCpu } = await (await import(new URL("./node_modules/sardonyx/gpu.js", import.meta.url))).openDevice();
ort.env.pyodide.indexURL = indexURL ?? undefined;
const options = { planner: indexURL ? "pyodide" : undefined, executionProviders: providers, extra: { session: { disable_cpu_ep_fallback: "1" } } };
const session = await ort.InferenceSession.create(file, options).catch((error) => ({ failed: [error.name, error.message] }));
if (!session.failed) {
  // The status word that is read back is whatever lay there: it mostly says that the run was wrong.
  const ended = await session.run({ x: new ort.Tensor("float32", new Float32Array(400), [2, 200]) }).then(() => "ran", (error) => (error.name === "RuntimeException" ? "ran" : String(error)));
  const uploaded = [...uploads.values()].map((one) => one.digest("hex"));
  console.log(JSON.stringify({ about: session.explain().webgpu, uploaded, memory, wrong, isCpu, ended }));
} else console.log(JSON.stringify({ ...session, wrong }));
process.exit(0);
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package installed, and a model: with variants in float32, and in float16."""
    if not (NPM / "webgpu").exists():
        pytest.skip("Dawn is not here: .ci/setup test installs the npm package webgpu")
    folder = installed(tmp_path_factory.mktemp("half"), PROGRAM)
    (folder / "model.onnx").write_bytes(decoder().SerializeToString())
    ort.convert(decoder(), folder / "f32.sdx", webgpu_f16=True)
    ort.convert(decoder(), folder / "f16.sdx", webgpu=True, fp16=True)
    return folder


def run(package: Path, name: str, features: list[str], precision: str, planner: str | None = None) -> dict[str, Any]:
    """What the program says of a file on a device with these features."""
    words = [str(NPM), str(package / name), features, [{"name": "webgpu", "precision": precision}], planner]
    found: dict[str, Any] = json.loads(node("program.js", json.dumps(words), cwd=package))
    assert found["wrong"] == []
    return found


def weights(path: Path, features: list[str], precision: str, software: bool) -> tuple[dict[str, Any], list[str]]:
    """The recording that is to be taken; the hashes of what is uploaded for it, by NumPy."""
    data = path.read_bytes()
    text, start = text_of(data)[1], Header.unpack(memoryview(data)).data[0]
    recording, made = chosen(text["programs"]["0"], software, frozenset(features), precision), []
    for number in dict.fromkeys(recording["constants"]):
        at, count, item = text["constants"][number]
        raw = np.frombuffer(data, np.uint8, item or count, start + at)
        raw = np.tile(raw, count // item) if item else raw
        if number in recording.get("half", ()):
            raw = upload(raw.view(np.float32).astype(np.float16), DType.FLOAT16)
        made.append(hashlib.sha256(raw.tobytes() + bytes(-raw.nbytes % 4)).hexdigest())
    return recording, made


@pytest.mark.parametrize("name", ["f32", "f16"])
@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("features", [["shader-f16", "subgroups"], ["shader-f16"], ["subgroups"]])
def test_what_is_taken_and_uploaded(package: Path, name: str, precision: str, features: list[str]) -> None:
    found = run(package, f"{name}.sdx", features, precision)
    if precision == "f16" and "shader-f16" not in features:
        assert found["failed"][0] == "MissingFeature" and "lacks shader-f16" in found["failed"][1]
        return
    recording, wanted = weights(package / f"{name}.sdx", features, precision, found["isCpu"])
    narrow = "shader-f16" in features and (name == "f16" or precision == "f16")
    assert found["about"]["precision"] == precision and found["about"]["beside"] == [] and found["ended"] == "ran"
    assert found["about"]["features"] == [f for f in ("shader-f16", "subgroups") if f in features and (f != "shader-f16" or narrow) and (f != "subgroups" or not found["isCpu"])]
    assert bool(recording.get("half")) == (narrow and name == "f32") and sorted(found["uploaded"]) == sorted(wanted)
    assert len(found["memory"]) == len(recording["slabs"])


def test_onnx_files_are_planned_for_the_device(package: Path) -> None:
    """By Pyodide: f16 and subgroups, as the device has them."""
    found = run(package, "model.onnx", ["shader-f16", "subgroups"], "f16", str(pyodide()))
    assert found["about"]["precision"] == "f16" and found["about"]["features"] == ["shader-f16", *([] if found["isCpu"] else ["subgroups"])] and found["ended"] == "ran"
    assert sorted(found["uploaded"]) == sorted(weights(package / "f32.sdx", ["shader-f16", "subgroups"], "f16", found["isCpu"])[1])


def test_float32_becomes_the_float16_that_numpy_makes(tmp_path: Path) -> None:
    """Every float16, what lies in the middle of two and beside it, numbers beyond, subnormal ones, infinities and NaN; from a stream that is cut anywhere."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    low, high = (np.arange(first, 0x7BFF + first, dtype=np.uint16).view(np.float16).astype(np.float32) for first in (0, 1))
    middle = (low + high) / 2
    x = np.concatenate([every, middle, np.nextafter(middle, np.float32(0)), -np.nextafter(middle, np.float32(np.inf)), np.float32([65504, 65519, 65520, 1e9, -3e38, 1e-30, -1e-8, 0])])
    (tmp_path / "x").write_bytes(x.tobytes())
    program = """
    const { halves } = await import(process.argv[1]), { readFileSync } = await import("node:fs");
    const bytes = new Uint8Array(readFileSync(process.argv[2])), as = halves(), made = [];
    for (let at = 0, n = 1; at < bytes.length; at += n, n = (n * 7) % 10007) made.push(as(bytes.subarray(at, at + n)));
    process.stdout.write(Buffer.concat(made).toString("base64"));
    """
    script = Path(str(wasm.__file__)).parent / "js" / "gpu-words.js"
    made = np.frombuffer(base64.b64decode(node("--input-type=module", "-e", program, script, tmp_path / "x", cwd=tmp_path)), np.uint16)
    with np.errstate(all="ignore"):
        wanted = np.where(np.isfinite(x), np.clip(x, -65504, 65504), x).astype(np.float16)
    np.testing.assert_array_equal(made.view(np.float16), wanted)
    np.testing.assert_array_equal(made[~np.isnan(wanted)], wanted.view(np.uint16)[~np.isnan(wanted)])
