// index.js: the package's face: InferenceSession, Tensor and env with onnxruntime-web's names and shapes, and every error class.
//
//     import * as ort from "sardonyx";
//     const session = await ort.InferenceSession.create("model.sdx");
//     const { y } = await session.run({ x: new ort.Tensor("float32", data, [1, 3, 224, 224]) });
import { choose, compile, prefetch, threadsHere } from "./engine.js";
import { env, log } from "./env.js";
import { Aborted, checkAborted, InvalidArgument, NotImplemented } from "./errors.js";
import { RemoteSession } from "./remote.js";
import { Session } from "./session.js";
import { isNode } from "./spawn.js";
import { lengthOf, NUMBERS, pinnedTensor, pinOf, sizeOf, Tensor, TYPES, canWait, unreadOf, unreadTensor } from "./tensor.js";
import "./worker.js"; // what this file is where it is started as a session's worker

export { env, Tensor };
export {
  Aborted, DeviceLost, EngineUnavailable, EPFail, Fail, InvalidArgument, InvalidGraph, InvalidModelFile, InvalidProtobuf, LimitExceeded, MemoryLimit, MissingFeature, NetworkError, NoAdapter, NoSuchFile, NotImplemented, OutOfDeviceMemory,
  RuntimeException, SardonyxError, ShaderRejected, WorkerCrashed,
} from "./errors.js";

const isPage = typeof document === "object" && typeof Worker === "function";

export class InferenceSession {
  #session;
  #queue = Promise.resolve();
  #running = 0; // runs that have not ended
  #events; // of the runs since startProfiling
  #kept; // for each output whether it stays on the GPU
  #pinned; // and whether it stays in the engine's memory, where one does
  #all; // see #wanted: every output
  #came = new WeakMap(); // outputs that were copied out of a worker → their names

  /** Not for callers: see `create`. */
  constructor(session, { inputs, outputs, engine }, { freeDimensionOverrides: overrides = {}, preferredOutputLocation: place }) {
    this.#session = session;
    const stays = (where) => outputs.map(({ name }) => (typeof place === "object" && place ? place[name] : place) === where);
    this.#kept = stays("gpu-buffer");
    const pinned = stays("cpu-pinned");
    if (pinned.includes(true)) this.#pinned = pinned;
    if (engine.webgpu && this.#pinned) throw new NotImplemented("preferredOutputLocation 'cpu-pinned' is the wasm engine's memory, and the session runs on WebGPU; there outputs stay in 'gpu-buffer'");
    if (this.#kept.includes(true) && (!engine.webgpu || engine.worker)) throw new NotImplemented(`preferredOutputLocation 'gpu-buffer': the session ${engine.worker ? "runs in a worker (env.wasm.proxy)" : "does not run on WebGPU"}; its outputs are in "cpu"`);
    this.inputMetadata = Object.freeze(inputs.map((port) => metadata(port, overrides)));
    this.outputMetadata = Object.freeze(outputs.map((port) => metadata(port, overrides)));
    this.inputNames = Object.freeze(inputs.map((port) => port.name));
    this.outputNames = Object.freeze(outputs.map((port) => port.name));
    this.#all = this.#named(this.outputNames);
    /** What runs it: {file, threads, worker, webgpu: {device, software, dispatches, beside}}. */
    this.engine = Object.freeze(engine);
  }

  /**
   * create(url | Request | Response | Blob | ReadableStream, options?) or create(buffer, byteOffset?, byteLength?, options?).
   * Options: signal, progress, cache, integrity, externalData, planner, freeDimensionOverrides, preferredOutputLocation, executionProviders.
   */
  static async create(source, ...rest) {
    const options = rest.findLast?.((one) => typeof one === "object" && one !== null) ?? {};
    checkOptions(options);
    checkAborted(options.signal);
    if (typeof rest[0] === "number") source = slice(source, rest[0], typeof rest[1] === "number" ? rest[1] : undefined);
    const webgpu = wantsGpu(options);
    const proxy = env.wasm.proxy ?? (isPage && !webgpu); // GPU tensors are of the page's own device
    const threads = threadsHere(proxy || !isPage ? "worker" : "main");
    const file = choose(threads);
    const { signal, progress, cache, integrity, externalData, freeDimensionOverrides } = options;
    const inner = { signal, progress, cache, integrity, externalData, freeDimensionOverrides, webgpu, planner: await planner(options.planner) };
    const session = await (proxy ? RemoteSession : here).create(source, inner, { file, threads }).catch((error) => {
      inner.planner?.release();
      throw error;
    });
    const about = session.describe();
    const engine = { ...about.engine, worker: proxy };
    env.wasm.picked = engine;
    log("info", `engine ${engine.file}, ${engine.threads} thread${engine.threads > 1 ? "s" : ""}, ${proxy ? "in a worker" : "on this thread"}`);
    try {
      return new InferenceSession(session, { ...about, engine }, options);
    } catch (error) {
      session.release();
      throw error;
    }
  }

  /**
   * run(feeds, options?) or run(feeds, fetches, options?): fetches are names, or {name: a tensor to write to, or null}. Runs of one session follow each other; on WebGPU
   * the next one is submitted before this one's results are here.
   * Options: signal (stops a run between steps).
   */
  async run(feeds, second, third) {
    const session = this.#session;
    if (session === null) throw new InvalidArgument("the session was released");
    const two = third !== undefined || Array.isArray(second) || this.#areFetches(second), options = (two ? third : second) ?? {};
    const wanted = this.#wanted(two ? second : undefined), unread = []; // inputs that stay in the engine until the run has ended
    let running = 0;
    try {
      const given = this.#feeds(feeds, unread), queued = this.engine.webgpu || this.#running, turn = queued ? this.#queued(session, given, wanted, options) : this.#go(session, given, wanted, options);
      if (!queued && turn instanceof Promise) this.#queue = turn.then(nothing, nothing);
      this.#running += running = 1;
      return this.#tensors(session, wanted, await turn);
    } finally {
      this.#running -= running;
      for (const one of unread) one.done();
    }
  }

  /** A run's outputs and events, or a promise of them. `submitted`: called where the next run on the GPU may begin. */
  #go(session, given, { numbers, targets }, options, submitted) {
    if (this.#session === null) throw new Aborted("the session was released");
    checkAborted(options.signal);
    const { webgpu, worker } = this.engine, told = { signal: options.signal, profile: !!this.#events };
    if (this.#pinned) told.pin = numbers.map((number, i) => this.#pinned[number] && !targets?.[i]);
    if (targets && !worker) told.into = targets.map((target) => (onGpu(target) ? undefined : target?.data));
    if (targets && webgpu) told.targets = this.#places(numbers, targets);
    if (canWait && !webgpu && (!worker || (session.shared && !targets))) told.unread = true;
    if (webgpu) Object.assign(told, { keep: this.#kept }, worker ? {} : { submitted });
    return session.run(given, numbers, told);
  }

  /** After the runs that have not ended; on the GPU this one need not wait for their results, nor the next for its. */
  #queued(session, given, wanted, options) {
    let submitted;
    const gave = this.engine.webgpu && new Promise((resolve) => (submitted = resolve)), turn = this.#queue.then(() => this.#go(session, given, wanted, options, submitted));
    this.#queue = gave ? Promise.race([turn.catch(nothing), gave]) : turn.then(nothing, nothing);
    return turn;
  }

  #tensors(session, { names, numbers, targets, blank }, { outputs, events }) {
    if (this.#session === null && outputs.some((one) => one.gpu)) {
      for (const one of outputs) one.give?.();
      throw new Aborted("the session was released");
    }
    if (events) this.#events?.push(...events);
    const made = { ...blank };
    for (let i = 0; i < numbers.length; i++) made[names[i]] = this.#tensor(session, names[i], outputs[i], targets?.[i]);
    return made;
  }

  #tensor(session, name, made, target) {
    if (onGpu(target)) return target;
    if (made.gpu) return this.#onGpu(made);
    if (made.pinned) return pinnedTensor(made, session);
    if (made.unread) return unreadTensor(made, session);
    const tensor = deliver(name, made, target);
    if (this.engine.worker && tensor.data.byteLength > LARGE) this.#came?.set(tensor, name);
    return tensor;
  }

  /** Large outputs of a worker that are its inputs again: say once what it costs, and what does without. */
  #around(tensors) {
    const names = tensors.map((tensor) => this.#came.get(tensor)).filter(Boolean);
    if (!names.length) return;
    this.#came = undefined;
    const places = names.slice(0, 2).map((name) => `'${name}': 'cpu-pinned'`).join(", ") + (names.length > 2 ? ", …" : "");
    log("warning", `${names.length} large output${names.length > 1 ? "s are inputs" : " is an input"} again: each run copies them out of the session's worker and in. `
      + `InferenceSession.create(model, { preferredOutputLocation: { ${places} } }) keeps them there: dispose() each when it is no longer needed`);
  }

  #onGpu({ type, dims, gpu, give }) {
    const { device } = this.#session.gpu;
    return Tensor.fromGpuBuffer(gpu, { dataType: TYPES[type][0], dims, download: () => device.download(gpu, (sizeOf(dims) * TYPES[type][2]) >> 3, TYPES[type][1]), dispose: give });
  }

  /** Where the model runs, and what not on the GPU, with the reasons: {providers, webgpu: {device, software, dispatches, beside: [{node, reason}]}}. */
  explain() {
    const { webgpu } = this.engine;
    return { providers: webgpu ? ["webgpu", "wasm"] : ["wasm"], ...(webgpu ? { webgpu } : {}) };
  }

  /** Stop what runs and give all memory back. */
  async release() {
    const session = this.#session;
    this.#session = null;
    session?.release();
  }

  /** Note how long each step of the coming runs takes. */
  startProfiling() {
    this.#events ??= [];
  }

  /** The steps of the runs since `startProfiling`: {name: the model's nodes, program, step, start, duration: ms}. On WebGPU a row a dispatch ({…, gpu: true}, name: the kernel and the nodes), where the device has
   *  a clock (timestamp-query); browsers may round it. */
  endProfiling() {
    const events = this.#events ?? [];
    this.#events = undefined;
    return events;
  }

  /** By output number, what of `targets` is on the GPU. */
  #places(numbers, targets) {
    return this.outputNames.map((_, number) => targets[numbers.indexOf(number)]).map((target) => onGpu(target) && { gpu: target.gpuBuffer, type: NUMBERS[target.type], dims: target.dims });
  }

  #takesGpu(port, what = "input") {
    if (!this.engine.webgpu || this.engine.worker) throw new InvalidArgument(`${what} '${port.name}' is on the GPU and the session ${this.engine.worker ? "runs in a worker (env.wasm.proxy)" : "on the wasm engine"}: ${what === "input" ? "give its data (await tensor.getData())" : "take it as data, without a tensor in 'fetches'"}`);
    return true;
  }

  #areFetches(what) {
    if (what === null || typeof what !== "object") return false;
    let some = false;
    for (const name in what) {
      if (!this.outputNames.includes(name) || (what[name] !== null && !(what[name] instanceof Tensor))) return false;
      some = true;
    }
    return some;
  }

  /** What a run is asked for: names and numbers of outputs, the tensors to write to, and an object with the names (copying one is quicker than making it). */
  #wanted(fetches) {
    if (fetches === undefined || fetches === null) return this.#all;
    if (fetches instanceof Tensor || typeof fetches !== "object") throw new InvalidArgument("'fetches' is an array of output names, or an object of tensors by output name");
    if (Array.isArray(fetches)) return this.#named(fetches);
    const wanted = this.#named(Object.keys(fetches), fetches);
    wanted.targets = wanted.names.map((name) => (onGpu(fetches[name]) && this.#takesGpu({ name }, "output"), fetches[name]));
    return wanted;
  }

  #named(names, blank = Object.fromEntries(names.map((name) => [name]))) {
    const numbers = names.map((name) => this.outputNames.indexOf(name)), unknown = numbers.indexOf(-1);
    if (unknown >= 0) throw new InvalidArgument(`the model has no output '${names[unknown]}'; it has ${list(this.outputNames)}`);
    return { names, numbers, targets: undefined, blank };
  }

  /** `unread`: takes the inputs that are outputs nobody has read. */
  #feeds(feeds, unread) {
    if (feeds === null || typeof feeds !== "object" || feeds instanceof Tensor || Array.isArray(feeds)) throw new InvalidArgument("'feeds' is an object of tensors by input name");
    if (this.engine.worker && this.#came) this.#around(Object.values(feeds));
    for (const name of Object.keys(feeds)) if (!this.inputNames.includes(name)) throw new InvalidArgument(`the model has no input '${name}'; it has ${list(this.inputNames)}`);
    return this.inputMetadata.map((port) => {
      const tensor = feeds[port.name];
      if (tensor === undefined) throw new InvalidArgument(`input '${port.name}' is missing in 'feeds'; the model takes ${list(this.inputNames)}`);
      if (!isTensor(tensor)) throw new InvalidArgument(`feeds['${port.name}'] is not a Tensor`);
      check(tensor, port);
      if (tensor.location === "gpu-buffer") return { type: NUMBERS[tensor.type], dims: [...tensor.dims], gpu: this.#takesGpu(port) && tensor.gpuBuffer };
      const here = unreadOf(tensor);
      if (here?.owner === this.#session) {
        here.use();
        unread.push(here);
        return { type: NUMBERS[tensor.type], dims: [...tensor.dims], pinned: here.id };
      }
      if (isPinned(tensor)) return { type: NUMBERS[tensor.type], dims: [...tensor.dims], pinned: this.#own(tensor, port) };
      return { type: NUMBERS[tensor.type], dims: [...tensor.dims], data: tensor.data };
    });
  }

  #own(tensor, port) {
    const { owner, id } = pinOf(tensor);
    if (owner !== this.#session) throw new InvalidArgument(`input '${port.name}' is in the memory of another session: give its data (await tensor.getData())`);
    return id;
  }
}

/** A tensor of this package, or one of onnxruntime-web's, which has the same fields. */
const isTensor = (what) => what instanceof Tensor || (typeof what === "object" && what !== null && typeof what.type === "string" && Array.isArray(what.dims) && (what.location === "gpu-buffer" || what.data !== undefined));

/** Whether a tensor lies in a GPU buffer. */
const onGpu = (tensor) => tensor instanceof Tensor && tensor.location === "gpu-buffer";

/** In an engine's memory: not so onnxruntime-web's own tensors of that location. */
const isPinned = (tensor) => tensor instanceof Tensor && tensor.location === "cpu-pinned";

function check(tensor, port) {
  if (tensor.type !== port.type) throw new InvalidArgument(`input '${port.name}' takes ${port.type}, given is ${tensor.type}; make it with new Tensor('${port.type}', …)`);
  const fits = tensor.dims.length === port.shape.length && port.shape.every((d, i) => typeof d !== "number" || d === tensor.dims[i]);
  if (!fits) throw new InvalidArgument(`input '${port.name}' takes [${port.shape.join(", ")}], given is [${tensor.dims.join(", ")}]`);
  if (tensor.type === "string") throw new NotImplemented(`input '${port.name}' is of strings: they run in Python only (sardonyx in Pyodide)`);
  if (tensor.location !== "gpu-buffer" && !isPinned(tensor) && !unreadOf(tensor) && lengthOf(NUMBERS[tensor.type], sizeOf(tensor.dims)) !== tensor.data.length) throw new InvalidArgument(`input '${port.name}': ${tensor.data.length} elements do not make [${tensor.dims}]`);
}

function metadata({ name, type, dims }, overrides) {
  return Object.freeze({ name, isTensor: true, type: TYPES[type][0], shape: Object.freeze(dims.map((d) => (typeof d === "string" && Number.isInteger(overrides[d]) ? overrides[d] : d))) });
}

function deliver(name, { type, dims, data }, target) {
  if (!target) return new Tensor(TYPES[type][0], data, dims);
  if (target.type !== TYPES[type][0] || target.data.length !== data.length) throw new InvalidArgument(`the tensor given for output '${name}' is ${target.type}[${target.dims}], the output is ${TYPES[type][0]}[${dims}]`);
  if (target.data !== data) target.data.set(data); // else the engine's results were copied there
  return target;
}

/** Bytes of an output whose way between a page and a worker takes time. */
const LARGE = 1 << 20;

const nothing = () => {};

const list = (names) => names.map((name) => `'${name}'`).join(", ");

function slice(source, offset, length) {
  if (!(source instanceof ArrayBuffer) && !ArrayBuffer.isView(source) && !(typeof SharedArrayBuffer === "function" && source instanceof SharedArrayBuffer)) {
    throw new InvalidArgument("byteOffset and byteLength go with an ArrayBuffer");
  }
  const [buffer, begin, size] = ArrayBuffer.isView(source) ? [source.buffer, source.byteOffset, source.byteLength] : [source, 0, source.byteLength];
  if (!Number.isSafeInteger(offset) || offset < 0 || offset >= size) throw new InvalidArgument(`'byteOffset' is out of range [0, ${size})`);
  const end = length === undefined ? size - offset : length;
  if (!Number.isSafeInteger(end) || end <= 0 || offset + end > size) throw new InvalidArgument(`'byteLength' is out of range (0, ${size - offset}]`);
  return new Uint8Array(buffer, begin + offset, end);
}

/** On the caller's own thread. */
const here = {
  async create(source, options, { file, threads }) {
    let ready;
    const module = new Promise((resolve) => (ready = resolve)).then(() => compile(file, options.progress));
    module.catch(() => {});
    const made = Session.create(source, options, { file, module, threads, ready });
    prefetch(file); // the model is asked for first
    return made;
  },
};

/** What converts and plans for a session, where it was asked for. */
async function planner(name) {
  if (name === undefined || name === null) return undefined;
  if (name !== "pyodide") throw new InvalidArgument(`planner '${name}' is not known; "pyodide" is the only one`);
  if (typeof Worker !== "function" && !isNode) throw new NotImplemented("the planner runs in a worker of its own, and there are none here (a service worker); convert the model first: npx sardonyx convert model.onnx");
  const { checkPlanner, Planner } = await import("./planner.js");
  checkPlanner();
  return new Planner();
}

/** What session.js is told where WebGPU is asked for: whether another provider is listed, and whether nothing may run on the CPU. */
function wantsGpu({ executionProviders, extra }) {
  const names = (executionProviders ?? []).map(nameOf);
  if (!names.includes("webgpu")) return undefined;
  const { precision = "f32" } = executionProviders.find((one) => one?.name === "webgpu") ?? {};
  if (precision !== "f32" && precision !== "f16") throw new InvalidArgument(`the option precision of the execution provider 'webgpu' is 'f32' or 'f16', not '${precision}'`);
  return { precision, fallback: names.includes("wasm") || names.includes("cpu"), strict: String(extra?.session?.disable_cpu_ep_fallback ?? "0") === "1" };
}

const nameOf = (provider) => (typeof provider === "string" ? provider : provider?.name);

function checkOptions({ executionProviders, preferredOutputLocation, freeDimensionOverrides }) {
  for (const name of (executionProviders ?? []).map(nameOf)) {
    if (name !== "wasm" && name !== "cpu" && name !== "webgpu") log("warning", `the execution provider '${name}' is not in this runtime; the session runs on the wasm engine`);
  }
  const places = typeof preferredOutputLocation === "object" && preferredOutputLocation ? Object.values(preferredOutputLocation) : [preferredOutputLocation ?? "cpu"];
  for (const place of places) if (!["cpu", "cpu-pinned", "gpu-buffer"].includes(place)) throw new NotImplemented(`preferredOutputLocation '${place}': outputs are in "cpu", in the engine's memory ("cpu-pinned") or, on WebGPU, in "gpu-buffer"`);
  for (const [name, size] of Object.entries(freeDimensionOverrides ?? {})) {
    if (!Number.isSafeInteger(size) || size < 0) throw new InvalidArgument(`freeDimensionOverrides['${name}'] is ${size}; it is a size`);
  }
}
