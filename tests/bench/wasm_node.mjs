// Our modules beside onnxruntime-web in one node process, interleaved: `node wasm_node.mjs JOB.json`. See wasm_node.py.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { Engine, Program } from "../wasm/engine.mjs";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const file = (name) => readFileSync(`${job.folder}/${name}`);
const TYPES = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array, bool: Uint8Array, float64: Float64Array };

const ort = job.peer && (await import(pathToFileURL(`${job.peer}/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs`).href));
if (ort) ort.env.wasm.numThreads = job.workers + 1, ort.env.logLevel = "error";

async function peer(c) {
  const session = await ort.InferenceSession.create(readFileSync(c.model), { executionProviders: ["wasm"] }), feeds = {};
  for (const f of c.feeds) {
    const raw = file(f.file), data = new TYPES[f.type](raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
    feeds[f.name] = new ort.Tensor(f.type, data, f.dims);
  }
  return { run: () => session.run(feeds), session };
}

// Milliseconds a run took by the clock and, of the burst, of processor time: on a busy machine only the latter compares.
async function timed(run, budget, least = 3) {
  const times = [], before = process.cpuUsage();
  for (const end = performance.now() + budget; times.length < least || performance.now() < end;) {
    const began = performance.now();
    const wait = run();
    if (wait?.then) await wait;
    times.push(performance.now() - began);
  }
  const { user, system } = process.cpuUsage(before);
  return { times, busy: (user + system) / 1e3 / times.length };
}

const quantile = (times, q) => times.sort((a, b) => a - b)[Math.floor(q * (times.length - 1))];

for (const c of job.cases) {
  const contestants = [];
  for (const path of job.modules) {
    const engine = await Engine.create(path, job.workers), program = new Program(engine, file(c.program), c.constants.map(file));
    program.bind(c.inputs.map((i) => file(i.file)), c.inputs.flatMap((i) => i.dims), c.outputs);
    contestants.push({ run: () => program.run(), times: [], busy: Infinity, engine, program });
  }
  let theirs;
  if (ort) {
    try { theirs = await peer(c); contestants.push({ run: theirs.run, times: [], busy: Infinity }); } catch (e) { console.error(c.name, String(e).slice(0, 200)); }
  }
  for (const x of contestants) await timed(x.run, job.budget); // V8 compiles what is hot
  for (const end = performance.now() + job.rounds * job.budget * contestants.length; performance.now() < end;) { // by turns, a few milliseconds each
    for (const x of contestants) {
      const { times, busy } = await timed(x.run, 2, 1);
      x.times.push(...times);
      x.busy = Math.min(x.busy, busy);
    }
  }
  const outputs = contestants.slice(0, job.modules.length).map((x) => x.program.results());
  const error = outputs.map((made) => made.map((y, i) => {
    if (c.types[i] !== "float32") return y.equals(file(c.wanted[i])) ? 0 : 1;
    const a = new Float32Array(y.buffer.slice(y.byteOffset, y.byteOffset + y.length)), raw = file(c.wanted[i]), b = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
    let most = 0, scale = 0;
    for (let k = 0; k < a.length; k++) most = Math.max(most, Math.abs(a[k] - b[k])), scale = Math.max(scale, Math.abs(b[k]));
    return most / (scale || 1);
  })).map((e) => Math.max(...e));
  console.log(JSON.stringify({ name: c.name, least: contestants.map((x) => Math.min(...x.times)), busy: contestants.map((x) => x.busy), median: contestants.map((x) => quantile(x.times, 0.5)), error, peer: !!theirs }));
  for (const x of contestants) if (x.engine) await x.engine.close();
  await theirs?.session.release();
}
process.exit(0);
