// worker.js: one model on both runtimes, inside a worker (where both may use threads), in turns. Message: {name, threads, seconds, feeds}; answer: the least milliseconds of each.
import * as ours from "/sardonyx/index.js";
import * as theirs from "/npm/onnxruntime-web/dist/ort.wasm.min.mjs";

const KINDS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array };
const BURST = 100, LEAST = 1; // ms: of one runtime's turn, and of what is timed (the clock of an isolated page ticks every 5 µs)

async function feed(runtime, feeds) {
  const made = {};
  for (const [name, [type, dims, url]] of Object.entries(feeds)) made[name] = new runtime.Tensor(type, new KINDS[type](await (await fetch(url)).arrayBuffer()), dims);
  return made;
}

async function timed(what) {
  const start = performance.now();
  return [await what(), performance.now() - start];
}

// The largest difference relative to the largest magnitude, over outputs of numbers.
function difference(made, wanted, names) {
  let most = 0, scale = 0;
  for (const name of names) {
    const { data: a } = made[name], { data: b } = wanted[name];
    if (a.length !== b.length) return Infinity;
    if (typeof b[0] === "string") continue;
    for (let i = 0; i < b.length; i++) {
      const want = Number(b[i]);
      most = Math.max(most, Math.abs(Number(a[i]) - want));
      scale = Math.max(scale, Math.abs(want));
    }
  }
  return most / (scale || 1);
}

async function measure({ name, threads, seconds, feeds }) {
  Object.assign(ours.env.wasm, { numThreads: threads, proxy: false });
  Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: "/npm/onnxruntime-web/dist/" });
  theirs.env.logLevel = "error";
  const [a, openOurs] = await timed(() => ours.InferenceSession.create(`/bench/${name}.sdx`));
  const [b, openTheirs] = await timed(() => theirs.InferenceSession.create(`/bench/${name}.onnx`));
  const mine = await feed(ours, feeds), other = await feed(theirs, feeds);
  const [x, firstOurs] = await timed(() => a.run(mine));
  const [y, firstTheirs] = await timed(() => b.run(other));
  const far = difference(x, y, a.outputNames);
  // Later runs write to the tensors of the first, as a loop would: new arrays of many megabytes cost either runtime more than copying them.
  const best = [Infinity, Infinity], turns = [() => a.run(mine, { ...x }), () => b.run(other, { ...y })], together = [1, 1];
  for (const k of [0, 1]) {
    const start = performance.now();
    let runs = 0;
    do runs++, await turns[k](); // V8 compiles what is hot
    while (performance.now() - start < 2 * BURST);
    together[k] = Math.ceil((LEAST * runs) / (performance.now() - start));
  }
  for (const until = performance.now() + 1000 * seconds, least = 3, rounds = { done: 0 }; rounds.done < least || performance.now() < until; rounds.done++) {
    for (const k of [0, 1]) {
      const stop = performance.now() + BURST;
      do {
        const start = performance.now();
        for (let i = 0; i < together[k]; i++) await turns[k]();
        best[k] = Math.min(best[k], (performance.now() - start) / together[k]);
      } while (performance.now() < stop);
    }
  }
  return { ours: best[0], theirs: best[1], openOurs, openTheirs, firstOurs, firstTheirs, difference: far, engine: a.engine.file, threads: a.engine.threads };
}

self.onmessage = ({ data }) => measure(data).then((result) => self.postMessage({ result }), (error) => self.postMessage({ error: `${error.name}: ${error.message}` }));
