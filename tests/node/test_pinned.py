"""Tensors that stay in the engine's memory (preferredOutputLocation "cpu-pinned"): a cache that grows run by run has the numbers of plain arrays, in a worker and without, with and without threads."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import sardonyx as ort
from onnx import TensorProto, helper

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
PROGRAM = """
import * as ort from "sardonyx";
const [model, threads, proxy] = JSON.parse(process.argv[2]);
Object.assign(ort.env.wasm, { numThreads: threads, proxy });
const failure = async (what) => { try { await what(); return "none"; } catch (error) { return `${error.name}: ${error.message}`; } };
const floats = (dims, from = 0) => new ort.Tensor("float32", Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => from + i / 64), dims);
const open = (where) => ort.InferenceSession.create(model, { preferredOutputLocation: where });
const [plain, session, other] = await Promise.all([open("cpu"), open({ present: "cpu-pinned", same: "cpu-pinned" }), open("cpu-pinned")]);
const found = { steps: [], errors: {} }, equal = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
let past = floats([1, 2, 0, 4]), cache = past, kept;
for (let step = 0; step < 12; step++) {
  const x = floats([1, 2, 1 + step % 3, 4], step);
  const a = await plain.run({ past, x }), b = await session.run({ past: cache, x });
  found.steps.push(b.present.location === "cpu-pinned" && b.total.location === "cpu" && a.total.data[0] === b.total.data[0] && equal(a.present.data, await b.present.getData()) 
    && `${a.present.dims}` === `${b.present.dims}` && equal(await b.same.getData(), x.data));
  if (step && cache !== kept?.[0]) cache.dispose();
  if (step === 5) kept = [b.present, a.present.data];
  b.same.dispose();
  [past, cache] = [a.present, b.present];
}
found.late = equal(kept[1], await kept[0].getData()) && kept[0].location === "cpu-pinned"; // what a later run did not touch
const x = floats([1, 2, 1, 4]), errors = found.errors;
errors.data = await failure(() => cache.data);
errors.other = await failure(() => other.run({ past: cache, x }));
const reshaped = cache.reshape([1, 2, cache.dims[2], 4]);
found.reshaped = (await session.run({ past: reshaped, x })).total.data[0] === (await plain.run({ past, x })).total.data[0];
const mine = floats([1, 2, cache.dims[2] + 1, 4]), twice = await session.run({ past: cache, x }, { present: mine }), names = await session.run({ past: cache, x }, ["present", "present"]);
found.target = twice.present === mine && mine.location === "cpu" && equal(mine.data, await names.present.getData());
const running = session.run({ past: cache, x });
found.taken = [await kept[0].getData(true).then((data) => equal(data, kept[1])), kept[0].location, (await running).total.data.length];
const copy = await cache.getData();
cache.dispose();
errors.disposed = await failure(() => session.run({ past: cache, x }));
errors.reshaped = await failure(() => session.run({ past: reshaped, x }));
found.again = (await session.run({ past: new ort.Tensor("float32", copy, past.dims), x })).total.data[0] === (await plain.run({ past, x })).total.data[0];
const last = (await session.run({ past, x })).present;
await session.release();
errors.released = await failure(() => last.getData());
last.dispose();
errors.place = await failure(() => open("cpu-pinnedd"));
// Outputs of many runs, each disposed when the next is there.
let one = await other.run({ past: floats([1, 2, 2000, 4]), x });
let before;
for (let i = 0; i < 1100; i++) {
  if (i === 100) gc(), (before = process.memoryUsage().rss);
  const next = await other.run({ past: floats([1, 2, 2000, 4]), x });
  for (const name of Object.keys(one)) one[name].dispose();
  one = next;
}
gc();
found.grown = process.memoryUsage().rss - before;
found.many = equal(await one.total.getData(), (await plain.run({ past: floats([1, 2, 2000, 4]), x })).total.data);
console.log(JSON.stringify(found));
await Promise.all([plain.release(), other.release()]);
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = installed(tmp_path_factory.mktemp("pinned"), PROGRAM)
    info = helper.make_tensor_value_info
    inputs = [info("past", TensorProto.FLOAT, [1, 2, "past", 4]), info("x", TensorProto.FLOAT, [1, 2, "new", 4])]
    outputs = [info("present", TensorProto.FLOAT, [1, 2, "all", 4]), info("total", TensorProto.FLOAT, [1]), info("same", TensorProto.FLOAT, [1, 2, "new", 4])]
    nodes = [helper.make_node("Concat", ["past", "x"], ["present"], axis=2), helper.make_node("ReduceSum", ["present"], ["sum"], keepdims=0), helper.make_node("Identity", ["x"], ["same"]),
             helper.make_node("Reshape", ["sum", "one"], ["total"])]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "cache", inputs, outputs, [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "cache.onnx")
    ort.convert(folder / "cache.onnx", folder / "cache.sdx")
    return folder


@pytest.mark.parametrize(("threads", "proxy"), [(1, False), (2, False), (1, True)])
def test_a_cache_in_the_engine(package: Path, threads: int, proxy: bool) -> None:
    found: dict[str, Any] = json.loads(node("--expose-gc", "program.js", json.dumps([str(package / "cache.sdx"), threads, proxy]), cwd=package))
    errors = found.pop("errors")
    assert found.pop("steps") == [True] * 12 and found.pop("grown") < 60e6, "1,000 runs make 129 MB of tensors"
    assert found == {"late": True, "reshaped": True, "target": True, "taken": [True, "cpu", 1], "again": True, "many": True}
    for what, (kind, words) in {"data": ("InvalidArgument", "await tensor.getData()"), "other": ("InvalidArgument", "another session"), "disposed": ("InvalidArgument", "disposed"),
                                "reshaped": ("InvalidArgument", "disposed"), "place": ("NotImplemented", "cpu-pinned"), "released": ("AbortError" if proxy else "InvalidArgument", "released")}.items():
        assert errors[what].startswith(f"{kind}: ") and words in errors[what], (what, errors[what])
