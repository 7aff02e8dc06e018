// engine.js: the C engine as a WebAssembly instance: which of the four modules a page can run, compiling it once, memory, threads, errors. core/engine/WASM.md is the other side.
//
// How to think
// - A session has an instance and a memory of its own: releasing it gives everything back, and what goes wrong in one can not harm another. The compiled module is shared.
// - Threads are workers that instantiate the module on the same memory and stay in sx_worker. They need cross-origin isolation, and a caller that may wait: not a page's main thread.
import { env, log } from "./env.js";
import { EngineUnavailable, InvalidArgument, InvalidModelFile, MemoryLimit, NotImplemented, RuntimeException, SardonyxError, Aborted } from "./errors.js";
import { isNode, spawn } from "./spawn.js";

const STACK = 1 << 20;
/** Smallest functions that need a feature: v128.const; relaxed f32x4 multiply-add. */
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 23, 1, 21, 0, 253, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 11];
const RELAXED = [0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11];

const valid = (bytes) => WebAssembly.validate(new Uint8Array(bytes));

/** Threads a session gets here. `caller`: "main" for a page's main thread, which may not wait. */
export function threadsHere(caller) {
  const shared = typeof SharedArrayBuffer === "function" && (isNode || (globalThis.crossOriginIsolated === true && typeof Worker === "function")); // a service worker has no workers
  const wanted = env.wasm.numThreads;
  if (wanted !== undefined && (!Number.isInteger(wanted) || wanted < 0 || wanted > 64)) throw new InvalidArgument(`env.wasm.numThreads is ${wanted}; it is a whole number from 0 (the runtime chooses) to 64`);
  if (!shared || caller === "main") {
    if (wanted > 1) log("warning", shared ? "on a page's main thread a session has one thread; set env.wasm.proxy = true for more"
      : `one thread instead of ${wanted}: ${typeof Worker === "function" ? "the page is not cross-origin isolated (serve it with COOP and COEP headers: sardonyx serve)" : "a service worker has no workers"}`);
    return 1;
  }
  return wanted || Math.min(4, Math.ceil((globalThis.navigator?.hardwareConcurrency ?? 2) / 2));
}

/** File name of the module for this browser. Throws EngineUnavailable where none runs. */
export function choose(threads) {
  if (typeof WebAssembly !== "object") throw new EngineUnavailable("this browser has no WebAssembly, or it is switched off; sardonyx needs it");
  if (!valid(SIMD)) throw new EngineUnavailable("this browser's WebAssembly has no SIMD; update the browser (Chrome 91, Firefox 89, Safari 16.4 or newer)");
  return `sardonyx-${valid(RELAXED) ? "relaxed" : "simd128"}${threads > 1 ? "-threads" : ""}.wasm`;
}

const compiled = new Map(), fetched = new Map();

/** The module's bytes may come while there is something more urgent to do than to compile it. */
export function prefetch(file) {
  const url = urlOf(file);
  if (env.wasm.wasmBinary || compiled.has(url) || fetched.has(url) || url.startsWith("file:")) return;
  fetched.set(url, fetch(url));
  fetched.get(url).catch(() => {}); // whoever compiles it hears of it
}

/** The compiled module, once a page. */
export function compile(file, progress) {
  const { wasmBinary } = env.wasm;
  const key = wasmBinary ?? urlOf(file);
  if (!compiled.has(key)) {
    const made = wasmBinary instanceof WebAssembly.Module ? Promise.resolve(wasmBinary) : build(file, wasmBinary);
    made.catch(() => compiled.delete(key));
    compiled.set(key, made);
  }
  progress?.({ phase: "compile", loaded: 0, total: 1 });
  return compiled.get(key).then((module) => (progress?.({ phase: "compile", loaded: 1, total: 1 }), module));
}

export function urlOf(file) {
  const { wasmPaths } = env.wasm;
  if (typeof wasmPaths === "string") return new URL(wasmPaths + file, globalThis.location?.href ?? import.meta.url).href;
  const listed = wasmPaths?.[file] ?? wasmPaths?.wasm;
  return listed ? new URL(listed, globalThis.location?.href ?? import.meta.url).href : new URL(file, import.meta.url).href;
}

async function build(file, binary) {
  const url = urlOf(file);
  try {
    if (binary) return await WebAssembly.compile(binary);
    if (url.startsWith("file:")) return await WebAssembly.compile(await (await import("node:fs/promises")).readFile(new URL(url)));
    const coming = fetched.get(url) ?? fetch(url);
    fetched.delete(url);
    const response = await coming;
    if (!response.ok) throw new EngineUnavailable(`the engine is not at ${url} (HTTP ${response.status}); env.wasm.wasmPaths says where the .wasm files are`);
    if ((response.headers.get("content-type") ?? "").startsWith("application/wasm")) return await WebAssembly.compileStreaming(response);
    log("info", `${url} comes without the type application/wasm: compiling starts only when all of it is there`);
    return await WebAssembly.compile(await response.arrayBuffer());
  } catch (error) {
    if (error instanceof SardonyxError) throw error;
    if (/unsafe-eval|Content Security Policy/i.test(error.message)) {
      throw new EngineUnavailable("the page's Content-Security-Policy forbids WebAssembly; add 'wasm-unsafe-eval' to its script-src", { cause: error });
    }
    throw new EngineUnavailable(`the engine (${url}) can not be loaded: ${error.message}`, { cause: error });
  }
}

/** sx_status → class and what the text lacks. */
const STATUS = { 1: NotImplemented, 2: RuntimeException, 3: RuntimeException, 4: RuntimeException, 5: MemoryLimit, 6: InvalidModelFile, 7: Aborted, 8: InvalidModelFile, 9: InvalidArgument, 10: InvalidArgument };
export const YIELD = 100;
export const HOST = 101;
const REPORT = 64;

/** An instance of the engine with its memory and its threads. `lent` fulfils when all of these have come; a model can be loaded before, and a run takes those that are there. */
export class Engine {
  static async create(module, threads) {
    const engine = new Engine();
    engine.threads = threads;
    const shared = WebAssembly.Module.imports(module).some((one) => one.kind === "memory");
    if (shared) engine.memory = sharedMemory();
    try {
      const instance = await WebAssembly.instantiate(module, { env: { now: () => performance.now(), memory: engine.memory } });
      engine.c = instance.exports;
    } catch (error) {
      throw new EngineUnavailable(`the engine can not be started: ${error.message}`, { cause: error });
    }
    engine.memory ??= engine.c.memory;
    engine.report = engine.alloc(REPORT);
    engine.workers = [];
    if (shared && threads > 1) engine.lent = engine.#lend(module);
    engine.lent?.catch(() => {});
    return engine;
  }

  async #lend(module) {
    const started = Array.from({ length: this.threads - 1 }, async () => {
      const worker = await spawn("thread.js", "sardonyx thread");
      if (!this.c) return worker.terminate(); // closed meanwhile
      this.workers.push(worker);
      worker.post({ module, memory: this.memory, stack: this.alloc(STACK) + STACK });
      await worker.ready;
      worker.unref?.(); // node: a sleeping worker keeps no process alive
    });
    await Promise.all(started);
    // sx_worker has begun once the pool counts it.
    for (let turn = 0; this.c?.sx_workers() < this.threads - 1 && turn < 2000; turn++) await new Promise((wake) => setTimeout(wake, 1));
  }

  /** Bytes of memory, 64-byte aligned. MemoryLimit where there are none. */
  alloc(bytes) {
    const at = this.c.sx_alloc(bytes) >>> 0;
    if (!at) throw new MemoryLimit(`WebAssembly gives no ${bytes.toLocaleString("en")} bytes more (it has ${this.memory.buffer.byteLength.toLocaleString("en")}, and never more than 4 GB); use a smaller model or smaller inputs`);
    return at;
  }

  free(at) {
    if (at) this.c.sx_free(at);
  }

  /** All memory as bytes; a growth makes the last view useless, so it is asked for each time. */
  get bytes() {
    this.#look();
    return this.#view;
  }

  get words() {
    this.#look();
    return this.#words;
  }

  #view;
  #words;

  #look() {
    const { buffer } = this.memory;
    if (buffer === this.#view?.buffer && buffer.byteLength === this.#view.length) return;
    this.#view = new Uint8Array(buffer);
    this.#words = new DataView(buffer);
  }

  /** Copy bytes in and return where they are. */
  put(bytes) {
    const at = this.alloc(bytes.length);
    this.bytes.set(bytes, at);
    return at;
  }

  text(at) {
    const bytes = this.bytes;
    let end = at;
    while (bytes[end]) end++;
    return new TextDecoder().decode(bytes.slice(at, end));
  }

  /** The error of the last call that did not return 0. `words(report, text, size)` puts it into words. */
  error(code, words) {
    const text = this.alloc(1024);
    try {
      words(this.report, text, 1024);
      const said = this.text(text);
      return Object.assign(new (STATUS[code] ?? RuntimeException)(said || `the engine gives error ${code}`), { status: code });
    } finally {
      this.free(text);
    }
  }

  close() {
    for (const worker of this.workers) worker.terminate();
    this.workers = [];
    this.c = this.memory = this.#view = this.#words = null;
  }
}

/** Shared memory with as much room to grow as the device promises. */
function sharedMemory() {
  for (let pages = 65536; ; pages /= 2) {
    try {
      return new WebAssembly.Memory({ initial: 64, maximum: pages, shared: true });
    } catch (error) {
      if (pages <= 4096) throw new MemoryLimit(`the page gets no memory to share between threads: ${error.message}; set env.wasm.numThreads = 1`, { cause: error });
    }
  }
}
