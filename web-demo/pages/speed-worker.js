// speed-worker.js: one model's times. Message: {name, feeds: {input: [type, dims, value?]}, gpu, threads, peer, seconds}; answer: {ours, theirs (or {failed: why}), engine, version, source}, times in ms.
import * as ort from "./sardonyx/index.js";

const PEER = ["./onnxruntime-web/", "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"];
const KINDS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

/** onnxruntime-web from the first place that has it: the site's folder, then a CDN. */
async function peerRuntime(gpu) {
  for (const place of PEER) {
    const base = new URL(place, self.location.href).href;
    const peer = await import(`${base}ort.${gpu ? "webgpu" : "wasm"}.min.mjs`).catch(() => null);
    if (peer) return [peer, base];
  }
  throw new Error("onnxruntime-web is neither on this site nor can its CDN be reached");
}

function fill(runtime, feeds) {
  return Object.fromEntries(Object.entries(feeds).map(([name, [type, dims, value]]) => {
    const kind = KINDS[type], size = dims.reduce((a, b) => a * b, 1), wide = kind === BigInt64Array;
    const data = kind.from({ length: size }, (_, i) => (wide ? BigInt(value) : value ?? (type === "int32" ? (i * 37) % 256 : Math.sin(i)))); // the same on every visit
    return [name, new runtime.Tensor(type, data, dims)];
  }));
}

async function timed(what) {
  const start = performance.now();
  return [await what(), performance.now() - start];
}

async function open(runtime, url, feeds, gpu) {
  const [session, opened] = await timed(() => runtime.InferenceSession.create(url, { executionProviders: [gpu ? "webgpu" : "wasm"] })); // on the GPU: nowhere else, or an error
  const given = fill(runtime, feeds), [, first] = await timed(() => session.run(given));
  return { session, given, opened, first, times: [] };
}

async function measure({ name, feeds, gpu, threads, peer, seconds }) {
  Object.assign(ort.env.wasm, { numThreads: threads, proxy: false });
  const turns = [await open(ort, `models/${name}.sdx`, feeds, gpu)];
  let source = "", failed;
  if (peer) {
    const [theirs, base] = await peerRuntime(gpu);
    source = base.startsWith(self.location.origin) ? "this site" : "its CDN";
    Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: base });
    const beside = await open(theirs, new URL(`models/${name}.onnx`, self.location.href).href, feeds, gpu).catch((error) => ({ error: String(error.message ?? error) }));
    if (beside.error) failed = beside.error;
    else turns.push(beside);
  }
  const until = performance.now() + 1000 * seconds * turns.length;
  for (let round = 0; round < 2 || performance.now() < until; round++) {
    for (const { session, given, times } of turns) {
      const stop = performance.now() + 150;
      do times.push((await timed(() => session.run(given)))[1]);
      while (performance.now() < stop);
    }
  }
  const [ours, theirs] = turns.map(({ times, opened, first }) => ({ least: Math.min(...times), median: times.sort((a, b) => a - b)[times.length >> 1], opened, first }));
  return { ours, theirs: theirs ?? (failed && { failed }), engine: turns[0].session.engine, version: ort.env.versions.sardonyx, source };
}

self.onmessage = ({ data }) => measure(data).then((result) => self.postMessage({ result }), (error) => self.postMessage({ error: error.message }));
