// gpu.js: one workload on WebGPU, by sardonyx or by onnxruntime-web's WebGPU provider, in a page of its own. `measure({name, runtime, seconds, feeds})` gives milliseconds of create, of the first
// run and of the quickest later one, what the device was asked for in between, how long pipelines compiled, what a replayed dispatch costs (ours), and the outputs.
const KINDS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const counts = { dispatches: 0, pipelines: 0, written: 0, copied: 0, buffers: 0 };
const compiling = { from: Infinity, to: 0, known: true }; // from the first pipeline asked for until the last is there

function count(Class, method, note) {
  const original = Class.prototype[method];
  Class.prototype[method] = function (...given) {
    const made = original.apply(this, given);
    note(given, made);
    return made;
  };
}
count(GPUDevice, "createComputePipeline", () => {
  counts.pipelines++;
  compiling.known = false; // the browser compiles it when it is used, or before: who knows
});
count(GPUDevice, "createComputePipelineAsync", (_, made) => {
  counts.pipelines++;
  compiling.from = Math.min(compiling.from, performance.now());
  made.then(() => (compiling.to = performance.now()), () => {});
});
count(GPUDevice, "createBuffer", ([{ size }]) => (counts.buffers += size));
count(GPUCommandEncoder, "copyBufferToBuffer", (given) => (counts.copied += given.findLast((one) => typeof one === "number")));
count(GPUQueue, "writeBuffer", ([, , data, offset = 0, size]) => (counts.written += size ?? (data.byteLength ?? data.length) - offset));

async function open(runtime, logLevel) {
  if (runtime === "sardonyx") {
    const ort = await import("/sardonyx/index.js");
    return [ort, (name) => ort.InferenceSession.create(`/bench/${name}.sdx`, { executionProviders: ["webgpu"] })];
  }
  const ort = await import("/npm/onnxruntime-web/dist/ort.webgpu.min.mjs");
  Object.assign(ort.env.wasm, { wasmPaths: "/npm/onnxruntime-web/dist/", numThreads: 1 });
  if (logLevel) ort.env.logLevel = logLevel;
  return [ort, (name) => ort.InferenceSession.create(`/bench/${name}.onnx`, { executionProviders: ["webgpu"], ...(logLevel ? { logSeverityLevel: 0 } : {}) })];
}

export async function measure({ name, runtime, seconds, feeds }) {
  const [ort, make] = await open(runtime);
  const timed = async (what) => {
    const start = performance.now();
    return [await what(), performance.now() - start];
  };
  const since = (before) => Object.fromEntries(Object.entries(counts).map(([key, value]) => [key, value - before[key]]));
  const inputs = {};
  for (const [port, [type, dims, url]] of Object.entries(feeds)) inputs[port] = new ort.Tensor(type, new KINDS[type](await (await fetch(url)).arrayBuffer()), dims);
  const at = { ...counts };
  const [session, create] = await timed(() => make(name));
  const created = since(at);
  count(GPUComputePassEncoder, "dispatchWorkgroups", () => counts.dispatches++);
  const [outputs, first] = await timed(() => session.run(inputs));
  const after = { ...counts }, opened = since(at), compiled = compiling.known && opened.pipelines ? compiling.to - compiling.from : null;
  const until = performance.now() + 1000 * seconds;
  let [, run] = await timed(() => session.run(inputs));
  const made = since(after);
  while (performance.now() < until) run = Math.min(run, (await timed(() => session.run(inputs)))[1]);
  const replayed = runtime === "sardonyx" && seconds ? { replayed: await replay(ort, () => session.run(inputs), session.engine.webgpu.dispatches) } : {};
  return { create, first, run, compiling: compiled, created, opened, counts: made, ...replayed, outputs: session.outputNames.map((port) => Array.from(outputs[port].data, Number).slice(0, 4096)) };
}

/** Microseconds a dispatch costs in JavaScript: the compute passes of `run`, recorded by sardonyx and thrown away; the least of 20 times 50 passes. */
async function replay(ort, run, dispatches) {
  const { GpuProgram } = await import("/sardonyx/gpu.js");
  const original = GpuProgram.prototype.run, players = new Set();
  GpuProgram.prototype.run = function (...given) {
    players.add(this);
    return original.apply(this, given);
  };
  await run();
  GpuProgram.prototype.run = original;
  const { device } = ort.env.webgpu;
  let least = Infinity;
  for (let i = 0; i < 20; i++) {
    const encoder = device.createCommandEncoder(), start = performance.now();
    for (let k = 0; k < 50; k++) for (const player of players) player.replay(encoder);
    least = Math.min(least, performance.now() - start);
  }
  return (1000 * least) / (50 * dispatches);
}

/** onnxruntime-web opens the model and says in the console where its nodes are. */
export async function place({ name }) {
  const [, make] = await open("onnxruntime-web", "verbose");
  await (await make(name)).release();
}
