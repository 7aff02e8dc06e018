// worker.js: one session in a worker. Messages are {id, op, …}; answers {id, result} or {id, error}, in between {id, progress} and {id, log}. remote.js is the other side.
import { env } from "./env.js";
import { pack } from "./errors.js";
import { Session } from "./session.js";
import { listen } from "./spawn.js";
import { Pipe } from "./pipe.js";

let session;
let arrived;
const module = new Promise((resolve) => (arrived = resolve)); // compiled by the page, once for all its workers
const pending = new Map(); // id → {abort, pipe}

const operations = {
  async create({ id, source, options, file, threads, settings }, post) {
    Object.assign(env, settings.env);
    Object.assign(env.wasm, settings.wasm);
    const abort = new AbortController();
    const pipe = source.pipe && new Pipe(() => post({ id, pull: true }));
    pending.set(id, { abort, pipe });
    session = await Session.create(pipe ? pipe.stream(source.size) : source.value, {
      ...options, signal: abort.signal, progress: options.progress ? (progress) => post({ id, progress }) : undefined,
    }, { file, module, threads });
    return [session.describe()];
  },
  async run({ id, feeds, fetches, options }) {
    const abort = new AbortController();
    pending.set(id, { abort });
    const made = await session.run(feeds, fetches, { ...options, signal: options.signal ? abort.signal : undefined });
    return [made, made.map((one) => one?.data?.buffer).filter(Boolean)];
  },
  abort: ({ of, reason }) => pending.get(of)?.abort.abort(reason),
  module: (message) => arrived(message.module),
  chunk: ({ of, ...chunk }) => pending.get(of)?.pipe.push(chunk),
};

listen(async (message, post) => {
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
