// memory.js: what a page holds while one runtime works. `start` loads the runtime and runs a model of one node; `work` opens and runs the real one; `end` releases it.
export async function start(runtime, address, threads) {
  const ort = await import(address);
  Object.assign(ort.env.wasm, { numThreads: threads }, runtime === "sardonyx" ? {} : { wasmPaths: "/npm/onnxruntime-web/dist/" });
  Object.assign(globalThis, { ort, kind: runtime === "sardonyx" ? "sdx" : "onnx" });
  const session = await ort.InferenceSession.create(`/bench/add.${kind}`);
  await session.run({ x: new ort.Tensor("float32", new Float32Array(8), [8]) });
  await session.release();
}

const run = () => globalThis.session.run({ input: new ort.Tensor("float32", new Float32Array(150528), [1, 3, 224, 224]) });

export async function work(name) {
  globalThis.session = await ort.InferenceSession.create(`/bench/${name}.${kind}`);
  await run();
}

export async function repeat(times) {
  for (let i = 0; i < times; i++) await run();
}

export async function end() {
  await globalThis.session.release();
  globalThis.session = null;
}

// Bytes after a garbage collection; the flag ForceEagerMeasureMemory makes Chromium collect at once.
export async function held() {
  return (await performance.measureUserAgentSpecificMemory()).bytes;
}
