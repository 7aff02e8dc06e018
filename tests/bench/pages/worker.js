// worker.js: one model on both runtimes, inside a worker (where both may use threads), in turns. Message: {name, threads, seconds, feeds, decodes}; answer: the least milliseconds of each.
// decodes: a language model's own loop (decoder, below) instead of the same inputs again and again.
import * as ours from "/sardonyx/index.js";
import * as theirs from "/npm/onnxruntime-web/dist/ort.wasm.min.mjs";

const KINDS = { float32: Float32Array, float64: Float64Array, int64: BigInt64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array };
const TOKENS = 16;
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

// A language model at work, a token a step: each step's `present.*` are the next one's `past_key_values.*`, and its logits are read. After TOKENS steps it begins again with `feeds`. The tokens are
// given, so that both runtimes do the same. Nothing is disposed: what is no longer used is left to the garbage collector, on both sides.
function decoder(runtime, session, feeds) {
  const integers = (values) => new runtime.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]), begin = feeds.position_ids.data[0];
  let step = 0, next;
  return async () => {
    const made = await session.run(step ? next : feeds), position = Number(begin) + ++step;
    made.best = largest(made.logits.data);
    next = { input_ids: integers([step]), attention_mask: integers(Array(position + 1).fill(1)), position_ids: integers([position]) };
    for (const name of session.outputNames) if (name.startsWith("present.")) next[name.replace("present.", "past_key_values.")] = made[name];
    step %= TOKENS;
    return made;
  };
}

function largest(data) {
  let best = 0;
  for (let i = 1; i < data.length; i++) if (data[i] > data[best]) best = i;
  return best;
}

async function measure({ name, threads, seconds, feeds, decodes }) {
  Object.assign(ours.env.wasm, { numThreads: threads, proxy: false });
  Object.assign(theirs.env.wasm, { numThreads: threads, wasmPaths: "/npm/onnxruntime-web/dist/" });
  theirs.env.logLevel = "error";
  const [a, openOurs] = await timed(() => ours.InferenceSession.create(`/bench/${name}.sdx`));
  const [b, openTheirs] = await timed(() => theirs.InferenceSession.create(`/bench/${name}.onnx`));
  const mine = await feed(ours, feeds), other = await feed(theirs, feeds);
  const steps = decodes ? [decoder(ours, a, mine), decoder(theirs, b, other)] : undefined;
  let [x, firstOurs] = await timed(steps ? steps[0] : () => a.run(mine));
  let [y, firstTheirs] = await timed(steps ? steps[1] : () => b.run(other));
  for (let i = 1; steps && i < TOKENS; i++) [x, y] = [await steps[0](), await steps[1]()];
  const far = difference(x, y, a.outputNames);
  // Later runs of the same inputs write to the tensors of the first, as a loop would: new arrays of many megabytes cost either runtime more than copying them.
  const best = [Infinity, Infinity], turns = steps ?? [() => a.run(mine, { ...x }), () => b.run(other, { ...y })], together = [1, 1];
  for (const k of [0, 1]) {
    const start = performance.now();
    let runs = 0;
    do runs++, await turns[k](); // V8 compiles what is hot
    while (performance.now() - start < 2 * BURST);
    together[k] = Math.ceil((LEAST * runs) / (performance.now() - start));
    if (steps) together[k] = TOKENS; // a whole round: what its first step and the garbage collector take is in it
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
