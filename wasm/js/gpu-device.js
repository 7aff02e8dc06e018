// gpu-device.js: the page's GPU: one device for all sessions of a thread, opened once and again after it was lost; pipelines by source, buffers counted, staging buffers to read back with.
import { askDevice, env, forgetDevice, log } from "./env.js";
import { DeviceLost, LimitExceeded, NoAdapter, OutOfDeviceMemory, ShaderRejected } from "./errors.js";

/** Features of WGSL beyond every device's, which a device is opened with where the adapter has them (env.js), and how a text says that it uses them. */
export const FEATURES = { "shader-f16": "enable f16;\n", subgroups: "enable subgroups;\n" };
/** Its clock, for profiles; no part of WGSL. */
const CLOCK = "timestamp-query", QUERIES = 4096; // a query set's most
const SOFTWARE = /swiftshader|llvmpipe|lavapipe/i;
const STORAGE = 0x80 | 4 | 8, UNIFORM = 0x40 | 8, STAGING = 1 | 8, RESOLVED = 0x200 | 4; // GPUBufferUsage: STORAGE | COPY_SRC | COPY_DST, UNIFORM | COPY_DST, MAP_READ | COPY_DST, QUERY_RESOLVE | COPY_SRC

/** The product of four bytes, for every device (webgpu/wgsl/functions.py), and WGSL's own, which takes its place where the language has it. */
const DOT4 = /fn sx_dot4\([^]*?\n\}/, DOT4_NATIVE = "fn sx_dot4(a: u32, b: u32) -> i32 { return dot4I8Packed(a, b); }";

let shared;

/** The device all sessions share. NoAdapter says why there is none. */
export function openDevice() {
  if (!shared) {
    const gone = () => {
      shared = undefined;
      forgetDevice();
    };
    shared = GpuDevice.open();
    shared.then((made) => made.lost.then(gone), gone);
  }
  return shared;
}

export class GpuDevice {
  pipelines = 0; // compiled so far
  buffers = 0; // alive
  failure = null; // once lost
  #made = new Map(); // source → {layout, pipeline, ready, accepted}
  #layouts = new Map();
  #staging = [];
  #numbers = new WeakMap(); // of buffers
  #seen = 0;

  static async open() {
    const { gpu } = globalThis.navigator ?? {};
    const given = env.webgpu.device;
    if (!gpu && !given) throw new NoAdapter("this browser has no WebGPU (navigator.gpu is missing): use Chrome or Edge 113, Safari 26, Firefox 141 or newer, over https or on localhost; or executionProviders: ['wasm']");
    const made = new GpuDevice();
    const { adapter, device } = await askDevice().catch((error) => {
      throw new NoAdapter(`the adapter gives no device: ${error.message}; reload the page, or executionProviders: ['wasm']`, { cause: error });
    });
    if (!adapter && !given) throw new NoAdapter("the browser gives no WebGPU adapter: no GPU, a blocked driver, or hardware acceleration is switched off (chrome://gpu says which); or executionProviders: ['wasm']");
    made.device = given ?? device;
    const info = made.device.adapterInfo ?? adapter?.info ?? {};
    made.name = info.description || [info.vendor, info.architecture].filter(Boolean).join(" ") || "the GPU";
    made.isCpu = Boolean(info.isFallbackAdapter ?? adapter?.isFallbackAdapter) || SOFTWARE.test(`${info.description} ${info.architecture} ${info.device}`);
    made.limits = made.device.limits;
    made.alignment = made.limits.minUniformBufferOffsetAlignment;
    env.webgpu.device = made.device;
    made.lost = made.device.lost.then(({ reason, message }) => {
      if (env.webgpu.device === made.device) env.webgpu.device = env.webgpu.adapter = undefined; // an adapter gives one device
      made.failure = new DeviceLost(`${made.name} was lost (${reason === "destroyed" ? "destroyed by the page" : message || reason || "no reason given"}): this run is gone; the session's next run opens a new device`);
    });
    made.device.onuncapturederror = ({ error }) => log("error", `WebGPU: ${error.message}`);
    log("info", `WebGPU on ${made.name}${made.isCpu ? " (a processor that plays a GPU)" : ""}`);
    return made;
  }

  /** Throw where the device is gone. */
  check() {
    if (this.failure) throw this.failure;
  }

  // -- memory ------------------------------------------------------------------------------------------------------------------------------------

  /** Storage of at least `bytes`. LimitExceeded names `label`. */
  storage(bytes, label) {
    return this.#buffer(bytes, STORAGE, label, Math.min(this.limits.maxBufferSize, this.limits.maxStorageBufferBindingSize));
  }

  uniform(bytes) {
    return this.#buffer(bytes, UNIFORM, "sizes", this.limits.maxBufferSize);
  }

  #buffer(bytes, usage, label, most) {
    this.check();
    const size = Math.max(16, Math.ceil(bytes / 4) * 4);
    if (size > most) throw new LimitExceeded(`'${label}' takes ${size.toLocaleString("en")} bytes, a buffer of ${this.name} holds ${most.toLocaleString("en")}: use smaller inputs, or executionProviders: ['wasm']`);
    let made;
    try {
      made = this.device.createBuffer({ size, usage, label });
    } catch (error) {
      throw new OutOfDeviceMemory(`${this.name} has no ${size.toLocaleString("en")} bytes for '${label}': ${error.message}; release sessions or use smaller inputs`, { cause: error });
    }
    this.buffers++;
    return made;
  }

  /** Give a buffer back. */
  free(buffer) {
    if (!buffer) return;
    this.buffers--;
    buffer.destroy();
  }

  /**
   * Run `make`, which creates buffers and bind groups or submits, and return [what it made, a promise]: the promise is of null, or of the error the browser reports late, as ours. `refused` words
   * what is wrong with what was asked for.
   */
  watched(make, refused = (why) => new ShaderRejected(`${this.name} refuses what a recording asks for: ${why}; please report it with the model, and use executionProviders: ['wasm']`)) {
    this.device.pushErrorScope("validation");
    this.device.pushErrorScope("out-of-memory");
    let made, late;
    try {
      made = make();
    } finally {
      const scopes = [this.device.popErrorScope(), this.device.popErrorScope()].map((scope) => scope.catch(() => null));
      late = Promise.all(scopes).then(([memory, wrong]) => this.failure ?? (memory ? this.full(memory.message) : wrong ? refused(wrong.message) : null));
    }
    return [made, late];
  }

  /** `watched`, waited for. */
  async guarded(make, refused = undefined) {
    const [made, late] = this.watched(make, refused), error = await late;
    if (error) throw error;
    return made;
  }

  /** The error that says so. */
  full(why) {
    return new OutOfDeviceMemory(`${this.name} has no memory left: ${why}; release sessions or use smaller inputs, or executionProviders: ['wasm']`);
  }

  /** A number for a buffer, the same each time. */
  numberOf(buffer) {
    if (!this.#numbers.has(buffer)) this.#numbers.set(buffer, ++this.#seen);
    return this.#numbers.get(buffer);
  }

  /** A staging buffer of at least `bytes` that nobody uses; give it back with `unstage`. */
  stage(bytes) {
    const at = this.#staging.findIndex((one) => one.size >= bytes);
    if (at >= 0) return this.#staging.splice(at, 1)[0];
    const small = this.#staging.shift();
    if (small) this.free(small);
    return this.#buffer(Math.max(1 << 16, 2 ** Math.ceil(Math.log2(bytes))), STAGING, "staging", this.limits.maxBufferSize);
  }

  unstage(buffer) {
    if (this.#staging.length < 4) this.#staging.push(buffer);
    else this.free(buffer);
  }

  /** Whether dispatches can be timed. */
  get timestamps() {
    return this.device.features.has(CLOCK);
  }

  /** A clock for at most `count` dispatches of one submission. */
  clock(count) {
    const sets = Array.from({ length: Math.ceil((2 * count) / QUERIES) }, () => this.device.createQuerySet({ type: "timestamp", count: QUERIES }));
    return new Clock(this, sets, sets.map(() => this.#buffer(8 * QUERIES, RESOLVED, "timestamps", this.limits.maxBufferSize)));
  }

  /** The bytes of a buffer as an array. */
  async download(buffer, bytes, Kind) {
    const staging = this.stage(bytes || 4), encoder = this.device.createCommandEncoder();
    if (bytes) encoder.copyBufferToBuffer(buffer, 0, staging, 0, Math.ceil(bytes / 4) * 4);
    this.device.queue.submit([encoder.finish()]);
    await staging.mapAsync(1).catch((error) => {
      this.check();
      throw error;
    });
    const made = new Kind(staging.getMappedRange().slice(0, bytes));
    staging.unmap();
    this.unstage(staging);
    return made;
  }

  /** A buffer with these elements: the caller's, or `made`. */
  uploaded(data, made = this.storage(data.byteLength, "an output")) {
    const pouring = new Pouring(this.device.queue, made);
    pouring.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    pouring.end();
    return made;
  }

  // -- pipelines ---------------------------------------------------------------------------------------------------------------------------------

  /** The pipeline of a WGSL source and its layout, compiled once a device. `writes`: for each storage binding "1" where it is written. ShaderRejected names `label`. */
  pipeline(source, writes, label) {
    return this.compile(source, writes, label).ready;
  }

  /** Begin to compile: {layout, pipeline: once it is there, ready: a promise of this, accepted: a promise that the browser understands the text, which is known much sooner}. */
  compile(source, writes, label) {
    const key = `${writes}\n${source}`;
    let found = this.#made.get(key);
    if (!found) {
      this.pipelines++;
      found = { layout: this.#layout(writes), pipeline: null };
      this.#made.set(key, found);
      this.#compile(found, source, label);
      found.ready.catch(() => this.#made.delete(key));
      found.accepted.catch(() => {});
    }
    return found;
  }

  #compile(found, source, label) {
    this.device.pushErrorScope("validation");
    const code = globalThis.navigator?.gpu?.wgslLanguageFeatures?.has("packed_4x8_integer_dot_product") ? source.replace(DOT4, DOT4_NATIVE) : source;
    const module = this.device.createShaderModule({ code, label });
    const scope = this.device.popErrorScope();
    const rejected = async (error) => {
      this.check();
      const wrong = (await module.getCompilationInfo().catch(() => ({ messages: [] }))).messages.find((one) => one.type === "error");
      const where = wrong ? `${wrong.message}; line ${wrong.lineNum}: ${source.split("\n")[wrong.lineNum - 1]?.trim().slice(0, 200)}` : error.message;
      throw new ShaderRejected(`${this.name} rejected the shader of ${label}: ${where}; please report it, and use executionProviders: ['wasm']`, { cause: error });
    };
    found.accepted = scope.then((error) => (error ? rejected(error) : undefined), () => this.check());
    found.ready = this.device.createComputePipelineAsync({ label, layout: this.device.createPipelineLayout({ bindGroupLayouts: [found.layout] }), compute: { module, entryPoint: "main" } })
      .then((pipeline) => Object.assign(found, { pipeline }), rejected);
  }

  #layout(writes) {
    if (!this.#layouts.has(writes)) {
      const types = ["uniform", ...Array.from(writes, (w) => (w === "1" ? "storage" : "read-only-storage"))];
      this.#layouts.set(writes, this.device.createBindGroupLayout({ entries: types.map((type, binding) => ({ binding, visibility: 4, buffer: { type } })) }));
    }
    return this.#layouts.get(writes);
  }
}

/** Times passes, each of one dispatch: `pass` begins one, `end` comes before the submission, `read` after it, `free` in any case. */
class Clock {
  #passes = 0;

  constructor(gpu, sets, buffers) {
    Object.assign(this, { gpu, sets, buffers });
  }

  pass(encoder) {
    const at = 2 * this.#passes++, first = at % QUERIES;
    return encoder.beginComputePass({ timestampWrites: { querySet: this.sets[Math.floor(at / QUERIES)], beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 } });
  }

  end(encoder) {
    this.sets.forEach((set, i) => encoder.resolveQuerySet(set, 0, QUERIES, this.buffers[i], 0));
  }

  /** [begin, duration] of each pass in nanoseconds, from the first one's begin on. */
  async read() {
    const ticks = [];
    for (const one of this.buffers) ticks.push(...(await this.gpu.download(one, 8 * QUERIES, BigInt64Array)));
    return Array.from({ length: this.#passes }, (_, i) => [Number(ticks[2 * i] - ticks[0]), Math.max(Number(ticks[2 * i + 1] - ticks[2 * i]), 0)]);
  }

  free() {
    for (const one of this.sets) one.destroy();
    for (const one of this.buffers) this.gpu.free(one);
  }
}

/** A piece behind what the one before it left; the piece itself where that was nothing. */
export function joined(rest, piece) {
  if (!rest.length) return piece;
  const made = new Uint8Array(rest.length + piece.length);
  made.set(rest);
  made.set(piece, rest.length);
  return made;
}

/** Bytes on their way into a buffer, from its beginning, in pieces of any length. A buffer takes whole words: what a piece ends with waits for the next. */
export class Pouring {
  #at = 0;
  #rest = new Uint8Array(0);

  constructor(queue, buffer) {
    Object.assign(this, { queue, buffer });
  }

  write(piece) {
    const all = joined(this.#rest, piece), whole = all.length & ~3;
    if (whole) this.queue.writeBuffer(this.buffer, this.#at, all, 0, whole);
    this.#at += whole;
    this.#rest = all.slice(whole);
  }

  /** No more will come. */
  end() {
    if (this.#rest.length) this.write(new Uint8Array(4 - this.#rest.length));
  }
}
