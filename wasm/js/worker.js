// worker.js: one session in a worker, which loads index.js as its page did: one file for both. Messages are {id, op, …}; answers {id, result} or {id, error}, in between {id, progress} and {id, log}. remote.js is the other side.
import { env } from "./env.js";
import { pack, unpack } from "./errors.js";
import { orAborted } from "./load.js";
import { Session } from "./session.js";
import { Pipe } from "./pipe.js";
import { isSpawned, listen } from "./spawn.js";

let session;
let arrived;
const module = new Promise((resolve) => (arrived = resolve)); // compiled by the page, once for all its workers
const pending = new Map(); // id → {abort, pipe}
const plans = new Map(); // number of a question to the page's planner → {resolve, reject, progress}
let asked = 0;

/** The planner of the page, as session.js uses it. */
const planner = (post) => ({
  convert: (files, ranges, { signal, progress, webgpu } = {}) => orAborted(new Promise((resolve, reject) => {
    const turn = ++asked;
    plans.set(turn, { resolve, reject, progress });
    post({ plan: { turn, files, plans: ranges, webgpu } }, Object.values(files).map((bytes) => bytes.buffer));
  }), signal),
  release: () => {}, // the page does, when it ends this worker
});

const operations = {
  async create({ id, source, options, file, threads, settings }, post) {
    Object.assign(env, settings.env);
    Object.assign(env.wasm, settings.wasm);
    const abort = new AbortController();
    const pipe = (source.pipe || source.early) && new Pipe((took) => post({ id, took }, [took]));
    const early = source.early && new Promise((resolve) => pending.set(id, { abort, pipe, head: (head) => resolve(head && { ...head, headers: new Headers(head.headers), body: pipe.stream() }) }));
    if (!early) pending.set(id, { abort, pipe });
    session = await Session.create(source.pipe ? pipe.stream(source.size) : source.init ? new Request(source.value, source.init) : source.value, {
      ...options, early, signal: abort.signal, planner: options.planner ? planner(post) : undefined, progress: options.progress ? (progress) => post({ id, progress }) : undefined,
    }, { file, module, threads });
    const { memory } = session.engine, shared = typeof SharedArrayBuffer === "function" && memory.buffer instanceof SharedArrayBuffer && !options.planner && !options.webgpu;
    if (shared) session.kept.asks = (leave) => post({ leave });
    return [{ ...session.describe(), memory: shared ? memory : undefined }];
  },
  async run({ id, feeds, fetches, options }) {
    const abort = new AbortController();
    pending.set(id, { abort });
    const made = await session.run(feeds, fetches, { ...options, signal: options.signal ? abort.signal : undefined });
    for (const one of made.outputs) if (one.unread) one.place = session.kept.place(one.unread);
    return [made, [...new Set(made.outputs.filter((one) => one.data).map((one) => one.data.buffer))]];
  },
  async pinned({ of }) {
    const data = await session.pinnedData(of);
    return [data, [data.buffer]];
  },
  unpin: ({ of }) => session?.unpin(of),
  stays: ({ of }) => session.kept.stays(of),
  abort: ({ of, reason }) => pending.get(of)?.abort.abort(reason),
  planned({ turn, result, error, progress }) {
    const { resolve, reject, progress: tell } = plans.get(turn);
    if (progress) return tell?.(progress);
    plans.delete(turn);
    if (error) reject(unpack(error));
    else resolve(result);
  },
  module: (message) => arrived(message.module),
  head: ({ of, head }) => pending.get(of)?.head(head),
  chunk: ({ of, ...chunk }) => pending.get(of)?.pipe.push(chunk),
};

/** The name such a worker is started with. */
export const SESSION = "sardonyx session";

if (isSpawned(SESSION)) listen(async (message, post) => {
  const { id, op } = message;
  if (id === undefined) return operations[op](message);
  try {
    const [result, transfer] = await operations[op](message, post);
    post({ id, result }, transfer);
  } catch (error) {
    post({ id, error: pack(error) });
  } finally {
    pending.delete(id);
  }
});
