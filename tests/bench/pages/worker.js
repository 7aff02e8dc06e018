// worker.js: one model on both runtimes, inside a worker (where both may use threads), in turns. Message: {name, threads, seconds, feeds, cache}; answer: the least milliseconds of each.
// cache: a language model's keys and values stay in sardonyx's engine from step to step; onnxruntime-web (wasm) has no such place and takes and gives arrays.
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

// Feeds with one row less in the cache: a step on them makes a cache as long as that of `feeds`.
function shorter(feeds) {
  const made = { ...feeds };
  for (const [name, tensor] of Object.entries(feeds)) {
    const axis = name.startsWith("past_key_values.") ? 2 : name === "attention_mask" ? 1 : undefined;
    if (axis === undefined) continue;
    const dims = tensor.dims.with(axis, tensor.dims[axis] - 1), inner = tensor.dims.slice(axis + 1).reduce((a, b) => a * b, 1), row = tensor.dims[axis] * inner, outer = tensor.data.length / row;
    const data = new tensor.data.constructor(outer * (row - inner));
    for (let i = 0; i < outer; i++) data.set(tensor.data.subarray(i * row, (i + 1) * row - inner), i * (row - inner));
    made[name] = new ours.Tensor(tensor.type, data, dims);
  }
  return made;
}

// Both runtimes' cache becomes what a step before gave: here it stays where it is, the other gets a copy.
async function keepCache(session, mine, other) {
  const made = await session.run(shorter(mine));
  for (const name of session.outputNames.filter((one) => one.startsWith("present."))) {
    const past = name.replace("present.", "past_key_values."), { type, dims } = (mine[past] = made[name]);
    other[past] = new theirs.Tensor(type, await made[name].getData(), dims);
  }
}

async function measure({ name, threads, seconds, feeds, cache }) {
  Object.assign(ours.env.wasm, { numThreads: threads, proxy: false });
  Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: "/npm/onnxruntime-web/dist/" });
  theirs.env.logLevel = "error";
  const [a, openOurs] = await timed(() => ours.InferenceSession.create(`/bench/${name}.sdx`, cache ? { preferredOutputLocation: "cpu-pinned" } : {}));
  const [b, openTheirs] = await timed(() => theirs.InferenceSession.create(`/bench/${name}.onnx`));
  const mine = await feed(ours, feeds), other = await feed(theirs, feeds);
  if (cache) await keepCache(a, mine, other);
  const [x, firstOurs] = await timed(() => a.run(mine));
  const [y, firstTheirs] = await timed(() => b.run(other));
  const here = Object.fromEntries(await Promise.all(a.outputNames.map(async (port) => [port, { data: await x[port].getData() }])));
  const far = difference(here, y, a.outputNames);
  const step = async () => {
    const made = await a.run(mine);
    await made.logits.getData(true); // what a program reads of it
    for (const port of a.outputNames) made[port].dispose();
  };
  // Later runs write to the tensors of the first, as a loop would: new arrays of many megabytes cost either runtime more than copying them.
  const best = [Infinity, Infinity], turns = [cache ? step : () => a.run(mine, { ...x }), () => b.run(other, { ...y })], together = [1, 1];
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
