// gpu.js: one workload on WebGPU, by sardonyx or by onnxruntime-web's WebGPU provider, in a page of its own. `measure({name, runtime, seconds, feeds})` gives milliseconds of create, of the first
// run and of the quickest later one, what the device was asked for in between, and the outputs.
const KINDS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };
const counts = { dispatches: 0, pipelines: 0, written: 0, copied: 0, buffers: 0 };

function count(Class, method, note) {
  const original = Class.prototype[method];
  Class.prototype[method] = function (...given) {
    note(given);
    return original.apply(this, given);
  };
}
count(GPUDevice, "createComputePipeline", () => counts.pipelines++);
count(GPUDevice, "createComputePipelineAsync", () => counts.pipelines++);
count(GPUDevice, "createBuffer", ([{ size }]) => (counts.buffers += size));
count(GPUCommandEncoder, "copyBufferToBuffer", (given) => (counts.copied += given.findLast((one) => typeof one === "number")));
count(GPUQueue, "writeBuffer", ([, , data, offset = 0, size]) => (counts.written += size ?? (data.byteLength ?? data.length) - offset));

async function open(runtime) {
  if (runtime === "sardonyx") {
    const ort = await import("/sardonyx/index.js");
    return [ort, (name) => ort.InferenceSession.create(`/bench/${name}.sdx`, { executionProviders: ["webgpu"] })];
  }
  const ort = await import("/npm/onnxruntime-web/dist/ort.webgpu.min.mjs");
  Object.assign(ort.env.wasm, { wasmPaths: "/npm/onnxruntime-web/dist/", numThreads: 1 });
  return [ort, (name) => ort.InferenceSession.create(`/bench/${name}.onnx`, { executionProviders: ["webgpu"] })];
}

export async function measure({ name, runtime, seconds, feeds }) {
  const [ort, make] = await open(runtime);
  const timed = async (what) => {
    const start = performance.now();
    return [await what(), performance.now() - start];
  };
  const since = (before) => Object.fromEntries(Object.entries(counts).map(([key, value]) => [key, value - before[key]]));
  const at = { ...counts };
  const inputs = {};
  for (const [port, [type, dims, url]] of Object.entries(feeds)) inputs[port] = new ort.Tensor(type, new KINDS[type](await (await fetch(url)).arrayBuffer()), dims);
  const [session, create] = await timed(() => make(name));
  const created = since(at);
  let least = Infinity;
  count(GPUComputePassEncoder, "dispatchWorkgroups", () => counts.dispatches++);
  const [outputs, first] = await timed(() => session.run(inputs));
  const after = { ...counts };
  await session.run(inputs);
  const run = since(after);
  const until = performance.now() + 1000 * seconds;
  for (let round = 0; round < 3 || performance.now() < until; round++) least = Math.min(least, (await timed(() => session.run(inputs)))[1]);
  return { create, first, run: least, created, counts: run, outputs: session.outputNames.map((port) => Array.from(outputs[port].data, Number).slice(0, 4096)) };
}

/** Microseconds a dispatch costs in JavaScript: compute passes recorded by sardonyx, and thrown away; the least of `rounds` times `repeat` passes. */
export async function replay({ name, rounds, repeat, feeds }) {
  const [ort, make] = await open("sardonyx");
  const { GpuProgram } = await import("/sardonyx/gpu-program.js");
  const { run } = GpuProgram.prototype, players = new Set();
  GpuProgram.prototype.run = function (...given) {
    players.add(this);
    return run.apply(this, given);
  };
  const inputs = {};
  for (const [port, [type, dims, url]] of Object.entries(feeds)) inputs[port] = new ort.Tensor(type, new KINDS[type](await (await fetch(url)).arrayBuffer()), dims);
  const session = await make(name);
  await session.run(inputs);
  const { dispatches } = session.engine.webgpu, { device } = ort.env.webgpu;
  let least = Infinity;
  for (let i = 0; i < rounds; i++) {
    const encoder = device.createCommandEncoder(), start = performance.now();
    for (let k = 0; k < repeat; k++) for (const player of players) player.replay(encoder);
    least = Math.min(least, performance.now() - start);
  }
  return { microseconds: (1000 * least) / (repeat * dispatches), dispatches };
}
