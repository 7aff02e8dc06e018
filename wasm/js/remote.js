// remote.js: a session that lives in a worker, with the interface of session.js's Session. Its worker is its own: ending it gives all memory back, and a crash ends no other session.
import { compile } from "./engine.js";
import { env } from "./env.js";
import { Aborted, InvalidArgument, pack, unpack } from "./errors.js";
import { copyOf, elements } from "./kept.js";
import { Feeder } from "./pipe.js";
import { spawn } from "./spawn.js";
import { SESSION } from "./worker.js";

export class RemoteSession {
  #worker;
  #waiting = new Map(); // id → {resolve, reject, progress, feeder}
  #next = 1;
  #failed;
  #memory; // the engine's, where it is shared between threads
  #unread = new Map(); // number of an output nobody has read → {type, dims, place: where it lies there (kept.js), out: its bytes, once they are copied out}

  static async create(source, options, { file, threads }) {
    const { signal, progress, planner, externalData, ...rest } = options;
    const session = new RemoteSession();
    session.planner = planner;
    const beside = await Promise.all((externalData ?? []).map(movable));
    const sent = portable(source, rest.cache);
    session.#worker = await spawn("index.js", SESSION); // first: to start takes it longer than all the others
    session.#worker.onmessage = (message) => session.#take(message);
    session.#worker.onfail = (error) => session.#fail(error);
    try {
      const early = sent.early ? ask(source, signal) : undefined, module = compile(file, progress); // meanwhile
      module.then((ready) => session.#worker.post({ op: "module", module: ready }), (error) => session.#fail(error));
      const settings = { env: { logLevel: env.logLevel, debug: env.debug }, wasm: { wasmPaths: env.wasm.wasmPaths } };
      const { memory, ...description } = await session.#ask({ op: "create", options: { ...rest, externalData: beside, progress: !!progress, planner: !!planner }, file, threads, settings, source: sent },
        { signal, progress, early, feed: sent.pipe && pipeable(source) });
      session.description = description;
      session.#memory = memory;
    } catch (error) {
      session.release();
      throw error;
    }
    return session;
  }

  describe() {
    return this.description;
  }

  /** Whether this thread can read what lies in the engine's memory: outputs may stay there until somebody does. */
  get shared() {
    return !!this.#memory;
  }

  async run(feeds, fetches, { signal, ...options }) {
    const given = feeds.map((feed) => (this.#unread.get(feed.pinned)?.out ? { type: feed.type, dims: feed.dims, data: this.kept.read(feed.pinned) } : feed));
    const made = await this.#ask({ op: "run", feeds: given, fetches, options: { ...options, signal: !!signal } }, { signal });
    for (const { unread, ...one } of made.outputs) if (unread) this.#unread.set(unread, one);
    return made;
  }

  /** As Session's, of outputs nobody has read. */
  kept = {
    read: (number) => {
      const one = this.#unread.get(number);
      if (!one) throw new InvalidArgument("the tensor is disposed");
      return elements(one, this.#copy(one));
    },
  };

  /** See Session. */
  unreadData(number) {
    const data = this.kept.read(number);
    this.unpin(number);
    return data;
  }

  #copy({ place, out }) {
    if (out) return out.slice();
    if (place.at + place.blocks * place.apart + place.bytes > this.#memory.buffer.byteLength) this.#memory.grow(0); // the worker made it larger, and this thread was not told
    return copyOf(new Uint8Array(this.#memory.buffer), place);
  }

  /** The worker needs the room. */
  #leave(number) {
    const one = this.#unread.get(number);
    if (!one) return; // that it is forgotten is on its way
    try {
      one.out = this.#copy(one);
    } catch {
      return this.#worker.post({ op: "stays", of: number }); // this thread has no room either
    }
    this.#worker.post({ op: "unpin", of: number });
  }

  /** See Session. */
  pinnedData(number) {
    return this.#ask({ op: "pinned", of: number });
  }

  unpin(number) {
    this.#unread.delete(number);
    if (!this.#failed) this.#worker.post({ op: "unpin", of: number });
  }

  release() {
    for (const one of this.#unread.values()) one.out ??= this.#copy(one);
    this.#memory = undefined;
    this.#fail(new Aborted("the session was released"));
    this.#worker?.terminate();
    this.planner?.release();
  }

  // -- messages ----------------------------------------------------------------------------------------------------------------------------------

  async #ask(message, { signal, progress, early, feed } = {}) {
    if (this.#failed) throw this.#failed;
    const id = this.#next++;
    const abort = () => this.#worker.post({ op: "abort", of: id, reason: String(signal.reason?.message ?? signal.reason) });
    if (signal?.aborted) throw new Aborted(`stopped by the caller's AbortSignal (${signal.reason?.message ?? signal.reason})`);
    signal?.addEventListener("abort", abort);
    this.#worker.ref?.();
    try {
      return await new Promise((resolve, reject) => {
        const asked = { resolve, reject, progress };
        this.#waiting.set(id, asked);
        try {
          this.#worker.post({ id, ...message });
          const start = (what) => (asked.feeder = new Feeder(what, (chunk) => this.#worker.post({ op: "chunk", of: id, ...chunk }, chunk.bytes ? [chunk.bytes.buffer] : [])));
          if (feed) start(feed);
          early?.then((response) => {
            if (!this.#waiting.has(id)) return response?.body?.cancel();
            this.#worker.post({ op: "head", of: id, head: response && { ok: response.ok, status: response.status, url: response.url, headers: [...response.headers] } });
            if (response?.ok) start(response.body);
            else response?.body?.cancel();
          });
        } catch (error) {
          reject(new InvalidArgument(`what was given can not be sent to a worker: ${error.message}`));
        }
      });
    } finally {
      this.#waiting.get(id)?.feeder?.stop();
      this.#waiting.delete(id);
      signal?.removeEventListener("abort", abort);
      if (!this.#waiting.size) this.#worker.unref?.();
    }
  }

  #take({ id, result, error, progress, took, plan, leave }) {
    if (plan) return this.#plan(plan);
    if (leave) return this.#leave(leave);
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    if (progress) return waiting.progress?.(progress);
    if (took) return waiting.feeder?.took(took);
    if (error) waiting.reject(unpack(error));
    else waiting.resolve(result);
  }

  /** The planner is this thread's: all sessions share it. */
  async #plan({ turn, files, plans, webgpu }) {
    const answer = (what, transfer) => this.#worker.post({ op: "planned", turn, ...what }, transfer);
    try {
      const result = await this.planner.convert(files, plans, { webgpu, progress: (progress) => answer({ progress }) });
      answer({ result }, [result.buffer]);
    } catch (error) {
      answer({ error: pack(error) });
    }
  }

  #fail(error) {
    this.#failed ??= error;
    for (const { reject } of this.#waiting.values()) reject(error);
  }
}

/** A source as a message can carry it; what is in this thread's memory goes in pieces. `early`: asked for here while the worker starts, who goes on alone where that breaks. */
function portable(source, cache) {
  if (typeof source === "string" || source instanceof URL) return { value: absolute(source), early: !cache && /^https?:/.test(absolute(source)) };
  if (typeof Request === "function" && source instanceof Request) return { value: source.url, init: { headers: [...source.headers], credentials: source.credentials }, early: !cache };
  if (typeof Blob === "function" && source instanceof Blob) return { value: source };
  return { pipe: true, size: source.byteLength ?? sizeOf(source) };
}

/** The answer to a request, null where there is none: the worker finds out why. */
const ask = (source, signal) => fetch(source, { signal }).catch(() => null);

/** A file beside the model as a message can carry it. */
async function movable(given) {
  const data = typeof given === "object" && "data" in given ? given.data : given;
  const isBody = (typeof Response === "function" && data instanceof Response) || (typeof ReadableStream === "function" && data instanceof ReadableStream);
  return { path: given.path, data: isBody ? await new Response(data instanceof Response ? data.body : data).blob() : typeof data === "string" || data instanceof URL ? absolute(data) : data };
}

function pipeable(source) {
  return typeof Response === "function" && source instanceof Response ? source.body : source;
}

function sizeOf(source) {
  const length = Number(source.headers?.get("content-length"));
  return length && !source.headers.get("content-encoding") ? length : undefined;
}

const absolute = (source) => (globalThis.document ? new URL(source, document.baseURI).href : String(source));
