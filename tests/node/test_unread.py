"""Outputs that nobody reads stay in the engine's memory, and caches fed back grow in place there: the numbers are those of arrays, whatever is read, disposed, branched or released, and when."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sardonyx as ort

from tests.models import generated

from .package import installed, node

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="no node: .ci/setup test")
PROGRAM = """
import * as ort from "sardonyx";
const [model, threads, proxy] = JSON.parse(process.argv[2]);
Object.assign(ort.env.wasm, { numThreads: threads, proxy });
const open = (where) => ort.InferenceSession.create(model, { preferredOutputLocation: where });
const [plain, session, pinned] = await Promise.all([open("cpu"), open("cpu"), open("cpu-pinned")]);
const HEADS = 4, SIZE = 32, found = { errors: {} };
const floats = (dims, from = 0) => new ort.Tensor("float32", Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(from + i)), dims);
const integers = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const pasts = session.inputNames.filter((name) => name.startsWith("past"));
const start = (past) => Object.fromEntries(pasts.map((name, i) => [name, floats([1, HEADS, past, SIZE], 7 * i)]));
const ones = (n) => integers(Array(n).fill(1)), lengthOf = (cache) => cache[pasts[0]].dims[2];
const feeds = (token, cache) => ({ input_ids: integers([token]), attention_mask: ones(lengthOf(cache) + 1), position_ids: integers([lengthOf(cache)]), ...cache });
const cacheOf = (made) => Object.fromEntries(pasts.map((name) => [name, made[name.replace("past_key_values.", "present.")]]));
const equal = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
const same = (a, b) => pasts.every((name) => `${a[name].dims}` === `${b[name].dims}` && equal(a[name].data, b[name].data));
const copied = (cache) => Object.fromEntries(Object.entries(cache).map(([name, { dims, data }]) => [name, new ort.Tensor("float32", data.slice(), dims)])); // what no engine knows
const failure = async (what) => { try { await what(); return "none"; } catch (error) { return `${error.name}: ${error.message}`; } };

// A loop that reads nothing but logits, beside one on arrays, and one whose cache is pinned.
let a = start(200), b = start(200), c = start(200);
const kept = [], wanted = [];
found.steps = true;
for (let step = 0; step < 100; step++) {
  const x = await plain.run(feeds(step % 50, a)), y = await session.run(feeds(step % 50, b)), z = await pinned.run(feeds(step % 50, c));
  found.steps &&= equal(x.logits.data, y.logits.data) && equal(x.logits.data, await z.logits.getData()) && y[session.outputNames[1]].location === "cpu";
  [a, b, c] = [copied(cacheOf(x)), cacheOf(y), cacheOf(z)];
  if (step % 9 === 0) kept.push(b), wanted.push(a);
}
found.last = same(b, a);
found.pinned = equal(await c[pasts[1]].getData(), a[pasts[1]].data);
found.early = kept.slice(4).every((one, i) => same(one, wanted[i + 4])); // read now, long after others grew over them
// Two goes from one cache, neither of which has been read; and again from one that was.
const branch = async (one, other) => {
  const steps = [];
  for (const token of [3, 4]) {
    let [p, q] = [one, other];
    for (let i = 0; i < 3; i++) {
      const x = await plain.run(feeds(token + i, q)), y = await session.run(feeds(token + i, p));
      steps.push(equal(x.logits.data, y.logits.data));
      [p, q] = [cacheOf(y), copied(cacheOf(x))];
    }
    steps.push(same(p, q));
  }
  return steps.every(Boolean);
};
found.branched = [await branch(kept[0], wanted[0]), await branch(kept[1], wanted[1]), await branch(b, a)];
// The same tensor for two inputs; its rows as another shape; an output that is another input; what was changed after it was read.
const step = async (session, cache, token = 5) => session.run(feeds(token, cache));
const twice = (cache) => ({ ...cache, [pasts[1]]: cache[pasts[0]] });
let u = cacheOf(await step(session, start(200))), v = copied(cacheOf(await step(plain, start(200))));
for (let i = 0; i < 3; i++) [u, v] = [cacheOf(await step(session, twice(u))), copied(cacheOf(await step(plain, twice(v))))];
found.twice = same(u, v);
const changed = cacheOf(await step(session, u));
changed[pasts[0]].data.fill(1);
const also = { ...cacheOf(await step(plain, v)) };
also[pasts[0]].data.fill(1);
found.changed = same(cacheOf(await step(session, changed)), cacheOf(await step(plain, also)));
// Read, disposed and given to another session while a run that takes it waits.
let w = cacheOf(await step(session, start(300))), w2 = copied(cacheOf(await step(plain, start(300))));
[w, w2] = [cacheOf(await step(session, w)), copied(cacheOf(await step(plain, w2)))];
const runs = [step(session, w), step(session, w, 6), step(plain, w)];
const early = w[pasts[0]].data.slice();
w[pasts[1]].dispose();
const [r0, r1, r2] = await Promise.all(runs), [s0, s1] = [await step(plain, w2), await step(plain, w2, 6)];
found.running = [equal(early, w2[pasts[0]].data), same(cacheOf(r0), copied(cacheOf(s0))), equal(r1.logits.data, s1.logits.data), equal(r2.logits.data, s0.logits.data), same(cacheOf(r1), cacheOf(s1))];
found.errors.disposed = await failure(() => step(session, w));
// Into a given tensor, by names, with a signal.
const into = new ort.Tensor("float32", new Float32Array(HEADS * 301 * SIZE), [1, HEADS, 301, SIZE]), name = pasts[0].replace("past_key_values.", "present.");
const written = await session.run(feeds(5, start(300)), { [name]: into }), named = await session.run(feeds(5, start(300)), [name, name], { signal: new AbortController().signal });
found.into = written[name] === into && equal(into.data, named[name].data);
// More than is kept: 24 caches of 2 × 2 × 4.2 MB, each of its own.
if ((threads === 2) === proxy) {
  const many = [], sums = [];
  for (let i = 0; i < 24; i++) {
    const cache = start(8192);
    for (const one of Object.values(cache)) one.data[0] = i;
    const made = cacheOf(await step(session, cache, i));
    many.push(made);
    sums.push(i);
  }
  found.many = many.every((one, i) => pasts.every((name) => one[name].data[0] === sums[i] && one[name].data.length === HEADS * 8193 * SIZE));
}
// Outputs nobody read beside pinned ones that are more than is kept: what a run has just made is not asked for before it is given.
if ((threads === 2) === proxy) {
  const names = pasts.map((name) => name.replace("past_key_values.", "present.")), most = await open(Object.fromEntries(names.slice(1).map((name) => [name, "cpu-pinned"])));
  const made = await step(most, start(20000)), first = made[names[0]].data;
  found.beside = equal(first.subarray(0, 99), start(1)[pasts[0]].data.subarray(0, 99)) && first.length === HEADS * 20001 * SIZE && made[names[1]].location === "cpu-pinned";
  await most.release();
}
// Large ones fed back: where they cross a worker's border, that is said, once.
const warned = [], { warn } = console;
console.warn = (...words) => warned.push(words.join(" "));
for (let i = 0, large = start(8192); i < 3; i++) large = cacheOf(await step(session, large));
console.warn = warn;
found.warned = warned;
// Released: what was not read is there; what is large is not held.
const late = cacheOf(await step(session, start(300)));
await session.release();
found.late = same(late, cacheOf(await step(plain, start(300))));
found.errors.released = await failure(() => session.run(feeds(1, start(300))));
console.log(JSON.stringify(found));
await Promise.all([plain.release(), pinned.release()]);
"""
MEMORY = """
import * as ort from "sardonyx";
const [model, threads, proxy] = JSON.parse(process.argv[2]);
Object.assign(ort.env.wasm, { numThreads: threads, proxy });
const session = await ort.InferenceSession.create(model), HEADS = 4, SIZE = 32;
const integers = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const pasts = session.inputNames.filter((name) => name.startsWith("past"));
let before;
// What is held when nothing more is given back: of collected tensors the session is told later, and what it lets go is swept beside (a first reading had 105 MB that the next had not).
const held = async () => {
  for (let last = Infinity, i = 0; ; i++) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 100));
    const { external, heapUsed } = process.memoryUsage(), now = external + heapUsed;
    if (i > 2 && now > last - 1e6) return now;
    last = now;
  }
};
for (let round = 0; round < 40; round++) {
  let cache = Object.fromEntries(pasts.map((name) => [name, new ort.Tensor("float32", new Float32Array(HEADS * 2048 * SIZE), [1, HEADS, 2048, SIZE])]));
  for (let step = 0; step < 20; step++) {
    const past = cache[pasts[0]].dims[2];
    const made = await session.run({ input_ids: integers([1]), attention_mask: integers(Array(past + 1).fill(1)), position_ids: integers([past]), ...cache });
    cache = Object.fromEntries(pasts.map((name) => [name, made[name.replace("past_key_values.", "present.")]]));
  }
  if (round === 9) before = await held();
}
console.log(JSON.stringify({ grown: (await held()) - before }));
await session.release();
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = installed(tmp_path_factory.mktemp("unread"), PROGRAM)
    (folder / "memory.js").write_text(MEMORY)
    generated.llama(folder / "model.onnx", layers=2, hidden=128, heads=4, vocabulary=50, inner=64)
    ort.convert(folder / "model.onnx", folder / "model.sdx")
    return folder


@pytest.mark.parametrize(("threads", "proxy"), [(1, False), (2, False), (1, True), (2, True)])
def test_numbers(package: Path, threads: int, proxy: bool) -> None:
    found: dict[str, Any] = json.loads(node("program.js", json.dumps([str(package / "model.sdx"), threads, proxy]), cwd=package))
    errors = found.pop("errors")
    warned = found.pop("warned")
    assert len(warned) == int(proxy and threads == 1) and all("4 large outputs are inputs again" in line and "'present.0.key': 'cpu-pinned'" in line for line in warned), warned
    assert found.pop("many", True) and found.pop("beside", True)
    assert found == {"steps": True, "last": True, "pinned": True, "early": True, "branched": [True] * 3, "twice": True, "changed": True, "running": [True] * 5, "into": True, "late": True}
    assert errors["disposed"].startswith("InvalidArgument") and "disposed" in errors["disposed"]
    assert "released" in errors["released"]


@pytest.mark.parametrize(("threads", "proxy"), [(1, False), (2, True)])
def test_memory(package: Path, threads: int, proxy: bool) -> None:
    """40 loops of 20 steps, nothing disposed and nothing awaited but runs: their tensors are 3.4 GB."""
    found = json.loads(node("--expose-gc", "memory.js", json.dumps([str(package / "model.sdx"), threads, proxy]), cwd=package))
    assert found["grown"] < 10e6
