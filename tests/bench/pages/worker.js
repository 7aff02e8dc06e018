// worker.js: one workload on both runtimes, inside a worker (where both may use threads), in turns. Message: {name, threads, seconds, feeds}; answer: the least milliseconds of each.
import * as ours from "/sardonyx/index.js";
import * as theirs from "/npm/onnxruntime-web/dist/ort.wasm.min.mjs";

const KINDS = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, bool: Uint8Array };

async function feed(runtime, feeds) {
  const made = {};
  for (const [name, [type, dims, url]] of Object.entries(feeds)) made[name] = new runtime.Tensor(type, new KINDS[type](await (await fetch(url)).arrayBuffer()), dims);
  return made;
}

async function measure({ name, threads, seconds, feeds }) {
  Object.assign(ours.env.wasm, { numThreads: threads, proxy: false });
  Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: "/npm/onnxruntime-web/dist/" });
  const time = async (what) => {
    const start = performance.now();
    return [await what(), performance.now() - start];
  };
  const [a, openOurs] = await time(() => ours.InferenceSession.create(`/bench/${name}.sdx`));
  const [b, openTheirs] = await time(() => theirs.InferenceSession.create(`/bench/${name}.onnx`));
  const mine = await feed(ours, feeds), other = await feed(theirs, feeds);
  const [x, firstOurs] = await time(() => a.run(mine));
  const [y, firstTheirs] = await time(() => b.run(other));
  let difference = 0, scale = 0;
  for (const port of a.outputNames) {
    for (let i = 0; i < y[port].data.length; i++) {
      const want = Number(y[port].data[i]);
      difference = Math.max(difference, Math.abs(Number(x[port].data[i]) - want));
      scale = Math.max(scale, Math.abs(want));
    }
  }
  const best = [Infinity, Infinity], until = performance.now() + 1000 * seconds;
  const turns = [() => a.run(mine), () => b.run(other)];
  for (let round = 0; round < 3 || performance.now() < until; round++) {
    for (const k of [0, 1]) {
      const stop = performance.now() + 150;
      do best[k] = Math.min(best[k], (await time(turns[k]))[1]);
      while (performance.now() < stop);
    }
  }
  return { ours: best[0], theirs: best[1], openOurs, openTheirs, firstOurs, firstTheirs, difference: difference / (scale || 1), engine: a.engine.file, threads: a.engine.threads };
}

self.onmessage = ({ data }) => measure(data).then((result) => self.postMessage({ result }), (error) => self.postMessage({ error: `${error.name}: ${error.message}` }));
