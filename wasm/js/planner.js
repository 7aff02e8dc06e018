// planner.js: this thread's end of the worker with Python in it (planner-worker.js). It starts with the first conversion, serves all sessions, and ends with the last session that used it.
import { env } from "./env.js";
import { checkAborted, InvalidArgument, unpack } from "./errors.js";
import { orAborted } from "./load.js";
import { isNode, spawn } from "./spawn.js";

let shared; // what `start` gives

/** What a session holds: `convert` until `release`. */
export class Planner {
  #own;

  /**
   * The .sdx of a model. files: {name: bytes}, the first is the model (.onnx or .sdx), the bytes are given away; plans: [{size: [least, most or null]}], in this order; {} is every size. webgpu: see convertFile.
   * Throws what the converter says against the model.
   */
  async convert(files, plans, { signal, progress, webgpu } = {}) {
    checkAborted(signal);
    if (!this.#own) {
      this.#own = shared ??= start();
      this.#own.users++;
    }
    const own = this.#own, worker = await own.worker, id = own.next++;
    progress?.({ phase: "plan", loaded: 0, total: 1 });
    try {
      return await orAborted(new Promise((resolve, reject) => {
        own.waiting.set(id, { resolve, reject, progress });
        worker.ref?.();
        worker.post({ id, files, plans, webgpu, settings: settings() }, Object.values(files).map((bytes) => bytes.buffer));
      }), signal); // the worker goes on; nobody waits for what it makes
    } finally {
      own.waiting.delete(id);
      if (!own.waiting.size) worker.unref?.();
    }
  }

  release() {
    const own = this.#own;
    this.#own = undefined;
    if (!own || --own.users) return;
    if (shared === own) shared = undefined;
    own.worker.then((worker) => worker.terminate(), () => {});
  }
}

/** What is wrong with the settings, before anything is loaded. */
export function checkPlanner() {
  if (!isNode && !env.pyodide.indexURL) {
    throw new InvalidArgument("planner 'pyodide' needs env.pyodide.indexURL: the folder of Pyodide's files that 'sardonyx bundle --pyodide' writes (nothing is loaded from elsewhere unasked)");
  }
}

function settings() {
  const { indexURL, wheels } = env.pyodide;
  const absolute = (url) => (isNode ? String(url) : new URL(url, globalThis.document?.baseURI ?? location.href).href);
  return { indexURL: indexURL && absolute(indexURL), wheels: wheels?.map(absolute) };
}

/** A worker, and who waits for what of it. */
function start() {
  const made = { users: 0, waiting: new Map(), next: 1 };
  const end = (error) => {
    if (shared === made) shared = undefined; // the next conversion starts another
    for (const { reject } of made.waiting.values()) reject(error);
  };
  made.worker = spawn("planner-worker.js", "sardonyx planner").then((worker) => {
    worker.onfail = end;
    worker.onmessage = ({ id, result, error, progress }) => {
      const waiting = made.waiting.get(id);
      if (progress !== undefined) waiting?.progress?.({ phase: "plan", loaded: progress, total: 1 });
      else if (error) waiting?.reject(unpack(error));
      else waiting?.resolve(result);
    };
    return worker;
  });
  made.worker.catch(end);
  return made;
}
