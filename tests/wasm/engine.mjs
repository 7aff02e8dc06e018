// The engine's modules under node: the least of a host, for tests and benchmarks. `node engine.mjs JOB.json` runs the job and prints JSON.
//
// A job: {module, workers, folder, cases: [{name, program, constants: [file], inputs: [{file, dims}], outputs: [bytes], runs, budget}]}; files lie in `folder`.
// Printed for each case: outputs (base64, of the last run), the least and median milliseconds of `runs` runs, and whether all runs gave the same bytes.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Worker, isMainThread, workerData } from "node:worker_threads";

const STACK = 1 << 20;

export class Engine {
  static async create(path, workers = 0) {
    const module = new WebAssembly.Module(readFileSync(path));
    const engine = new Engine();
    const env = { now: () => performance.now() };
    if (WebAssembly.Module.imports(module).some((i) => i.kind === "memory")) env.memory = engine.memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
    engine.exports = new WebAssembly.Instance(module, { env }).exports;
    engine.memory ??= engine.exports.memory;
    engine.stacks = [];
    engine.threads = [];
    for (let i = 0; i < workers; i++) {
      const stack = engine.alloc(STACK);
      engine.stacks.push(stack);
      engine.threads.push(new Worker(fileURLToPath(import.meta.url), { workerData: { module, memory: engine.memory, stack: stack + STACK } }));
    }
    engine.exports.sx_may_wait?.(1);
    while (workers && engine.exports.sx_workers() < workers) await new Promise((r) => setTimeout(r, 1));
    return engine;
  }

  alloc(bytes) {
    const at = this.exports.sx_alloc(bytes) >>> 0;
    if (!at) throw new Error(`no memory for ${bytes} bytes`);
    return at;
  }

  put(data) {
    const at = this.alloc(data.byteLength || 1);
    new Uint8Array(this.memory.buffer).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    return at;
  }

  word(at) { return new Uint32Array(this.memory.buffer, at, 1)[0]; }

  bytes(at, count) { return new Uint8Array(this.memory.buffer).slice(at, at + count); }

  async close() {
    if (!this.threads.length) return;
    this.exports.sx_workers_leave(1);
    await Promise.all(this.threads.map((t) => new Promise((r) => t.on("exit", r))));
    if (this.exports.sx_workers()) throw new Error("workers did not leave");
    this.exports.sx_workers_leave(0);
    this.stacks.forEach((s) => this.exports.sx_free(s));
  }
}

export class Program {
  constructor(engine, program, constants, threads = 0) {
    this.engine = engine;
    this.report = engine.alloc(40);
    this.cell = engine.alloc(8);
    const options = engine.put(new Int32Array([threads, 0, 0, 0])), code = engine.put(program), e = engine.exports;
    const failed = e.sx_open(code, BigInt(program.byteLength), options, this.cell, this.report);
    e.sx_free(options);
    e.sx_free(code);
    this.check(failed);
    this.handle = engine.word(this.cell);
    this.constants = constants.map((data, i) => {
      const at = engine.put(data);
      this.check(e.sx_set_constant(this.handle, BigInt(i), at, BigInt(data.byteLength), this.report));
      return at;
    });
  }

  check(code) {
    if (!code) return;
    const text = this.engine.alloc(1024), size = Number(this.engine.exports.sx_error_text(this.report, this.handle ?? 0, text, 1024n));
    throw new Error(`${code}: ${Buffer.from(this.engine.bytes(text, Math.min(size, 1023))).toString()}`);
  }

  bind(inputs, dims, outputs) {
    const e = this.engine;
    this.given = inputs.map((x) => e.put(x));
    this.made = outputs.map((n) => e.alloc(n || 1));
    this.outputs = outputs;
    this.in = e.put(new Uint32Array([...this.given, 0]));
    this.out = e.put(new Uint32Array([...this.made, 0]));
    const at = e.put(new BigInt64Array([...dims.map(BigInt), 0n]));
    this.check(e.exports.sx_bind(this.handle, at, BigInt(dims.length), this.in, this.cell, this.report));
    this.state = e.word(this.cell);
    e.exports.sx_free(at);
  }

  run(budget = 0n) {
    const e = this.engine.exports;
    let code = e.sx_run(this.state, this.in, this.out, 0, budget, this.report), yields = 0;
    for (; code === 100; yields++) code = e.sx_continue(this.state, budget, this.report);
    this.check(code);
    return yields;
  }

  results() { return this.made.map((at, i) => Buffer.from(this.engine.bytes(at, this.outputs[i]))); }

  close() {
    const e = this.engine.exports;
    e.sx_unbind(this.state);
    e.sx_close(this.handle);
    [...this.given, ...this.made, ...this.constants, this.in, this.out, this.report, this.cell].forEach((at) => e.sx_free(at));
  }
}

const median = (times) => times.sort((a, b) => a - b)[times.length >> 1];

async function main(job) {
  const engine = await Engine.create(job.module, job.workers), file = (name) => readFileSync(`${job.folder}/${name}`), made = [];
  for (const c of job.cases) {
    const program = new Program(engine, file(c.program), c.constants.map(file), job.threads ?? 0), times = [];
    program.bind(c.inputs.map((i) => file(i.file)), c.inputs.flatMap((i) => i.dims), c.outputs);
    let first, same = true, yields = 0;
    for (let i = 0; i < (c.runs ?? 1); i++) {
      const began = performance.now();
      yields = program.run(BigInt(c.budget ?? 0));
      times.push(performance.now() - began);
      const now = program.results();
      first ??= now;
      same &&= now.every((y, k) => y.equals(first[k]));
    }
    made.push({ name: c.name, outputs: program.results().map((y) => y.toString("base64")), least: Math.min(...times), median: median(times), same, yields });
    program.close();
  }
  await engine.close();
  console.log(JSON.stringify({ cases: made, free: engine.exports.sx_memory_free(), bytes: engine.memory.buffer.byteLength }));
}

if (!isMainThread && workerData?.stack) {
  const { exports } = new WebAssembly.Instance(workerData.module, { env: { now: () => performance.now(), memory: workerData.memory } });
  exports.__stack_pointer.value = workerData.stack;
  exports.sx_worker();
} else if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(JSON.parse(readFileSync(process.argv[2], "utf8")));
}
