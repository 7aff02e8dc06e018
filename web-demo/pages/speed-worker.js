// speed-worker.js: one model's times. Message: {name, feeds: {input: [type, dims, value?]}, threads, peer, seconds}; answer: {ours, theirs, file, source}, times in ms.
import * as ort from "./sardonyx/index.js";

const PEER = ["./onnxruntime-web/", "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"];
const KINDS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

/** onnxruntime-web from the first place that has it: the site's folder, then a CDN. */
async function peerRuntime() {
  for (const place of PEER) {
    const base = new URL(place, self.location.href).href;
    const peer = await import(`${base}ort.wasm.min.mjs`).catch(() => null);
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

async function open(runtime, url, feeds) {
  const start = performance.now(), session = await runtime.InferenceSession.create(url), opened = performance.now() - start;
  const given = fill(runtime, feeds);
  await session.run(given);
  return { session, given, opened, times: [] };
}

async function measure({ name, feeds, threads, peer, seconds }) {
  Object.assign(ort.env.wasm, { numThreads: threads, proxy: false });
  const turns = [await open(ort, `models/${name}.sdx`, feeds)];
  let source = "";
  if (peer) {
    const [theirs, base] = await peerRuntime();
    source = base.startsWith(self.location.origin) ? "this site" : "its CDN";
    Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: base });
    turns.push(await open(theirs, new URL(`models/${name}.onnx`, self.location.href).href, feeds));
  }
  const until = performance.now() + 1000 * seconds * turns.length;
  for (let round = 0; round < 3 || performance.now() < until; round++) {
    for (const { session, given, times } of turns) {
      const stop = performance.now() + 150;
      do {
        const start = performance.now();
        await session.run(given);
        times.push(performance.now() - start);
      } while (performance.now() < stop);
    }
  }
  const [ours, theirs] = turns.map(({ times, opened }) => ({ least: Math.min(...times), median: times.sort((a, b) => a - b)[times.length >> 1], opened }));
  return { ours, theirs, file: turns[0].session.engine.file, source };
}

self.onmessage = ({ data }) => measure(data).then((result) => self.postMessage({ result }), (error) => self.postMessage({ error: error.message }));
