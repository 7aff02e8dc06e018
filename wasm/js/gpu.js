// gpu.js: the WebGPU part of a session (session.js calls it): which device, the file's WebGPU section, weights from the stream into GPU buffers, runs. Shape arithmetic, control flow and what
// WGSL has no kernels for run on the wasm engine, whose package says when it is the GPU's turn.
import { log } from "./env.js";
import { EPFail, InvalidModelFile, MissingFeature, NotImplemented, SardonyxError } from "./errors.js";
import { FEATURES, openDevice, Pouring } from "./gpu-device.js";
import { GpuProgram, mustFit, unwritable } from "./gpu-program.js";
import { fromBuffer, halves, toBuffer } from "./gpu-words.js";
import { lengthOf, sizeOf, TYPES } from "./tensor.js";

const VERSION = 1, HEADER = 32, REMEDY = "convert it again: npx sardonyx convert model.onnx --webgpu";

export { openDevice } from "./gpu-device.js";
export { GpuProgram } from "./gpu-program.js";

export class Gpu {
  programs = new Map(); // number in the package → {player, program, key}
  #targets = []; // {at, bytes, write(piece, offset), done()}: where pieces of the tensor data go
  #late = []; // promises: what the browser says about the weights' buffers

  /**
   * The GPU for a session that asked for it; null where it may run on the CPU instead (a warning says why). `fallback`: another provider is listed; `strict`: nothing may run elsewhere, nor in another
   * precision.
   */
  static async open({ fallback, strict, precision = "f32" }) {
    const made = new Gpu();
    Object.assign(made, { fallback, strict, precision });
    try {
      made.device = await openDevice();
    } catch (error) {
      return made.refuse(error);
    }
    if (precision === "f16" && !made.has("shader-f16")) made.#full(new MissingFeature(`${made.device.name} lacks shader-f16, which the option precision: 'f16' takes; leave it out, or use another adapter`));
    return made;
  }

  /** Whether the device's WGSL has a feature. */
  has(feature) {
    return this.device.device.features.has(feature);
  }

  /** Float32 as it is, with a warning, where f16 can not be had; strict sessions throw. */
  #full(error) {
    if (this.strict) throw error;
    log("warning", `float32 is not f16 on WebGPU: ${error.message}`);
    this.precision = "f32";
  }

  /** What a planner records for: this device alone (converter/options.py). */
  get target() {
    return [this.device.isCpu, Object.keys(FEATURES).filter((name) => this.has(name)), this.precision];
  }

  /** Go on without the GPU, or throw. */
  refuse(error) {
    this.release();
    if (!this.fallback || this.strict || !(error instanceof SardonyxError)) throw error;
    log("warning", `not on WebGPU: ${error.message}`);
    return null;
  }

  // -- loading -----------------------------------------------------------------------------------------------------------------------------------

  /** Take the WebGPU section in; the package for the engine. */
  section(bytes, name) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < HEADER || view.getUint32(0, true) !== 0x57584453) throw new InvalidModelFile("WebGPU section: wrong magic");
    const major = view.getUint16(4, true), size = Number(view.getBigUint64(8, true)), text = Number(view.getBigUint64(16, true));
    if (major !== VERSION) throw new NotImplemented(`'${name}' holds programs for WebGPU of version ${major}.${view.getUint16(6, true)}, this runtime plays ${VERSION}.x; ${REMEDY}`);
    if (HEADER + size + text !== bytes.length) throw new InvalidModelFile("WebGPU section: its parts do not fit its length");
    try {
      this.stored = verified(JSON.parse(new TextDecoder().decode(bytes.subarray(HEADER + size))));
    } catch (error) {
      throw new InvalidModelFile(`WebGPU section: ${error.message}; ${REMEDY}`, { cause: error });
    }
    const others = this.stored.beside.filter(([, , shape]) => !shape);
    const { precisions = ["f32"] } = this.stored;
    if (!precisions.includes(this.precision)) this.#full(new NotImplemented(`'${name}' holds no programs for WebGPU with float32 as f16; convert it with them: npx sardonyx convert model.onnx --webgpu-f16`));
    if (this.strict && others.length) throw new EPFail(`fallback refused: ${others[0][0]} would run on the CPU: ${others[0][1]}${others.length > 1 ? ` (and ${others.length - 1} more nodes)` : ""}`);
    this.#compile();
    return bytes.subarray(HEADER, HEADER + size);
  }

  /** Pipelines begin to compile. */
  #compile() {
    const { stored, device } = this;
    const held = {};
    const constant = (c, half) => (held[half ? ~c : c] ??= this.#upload(...stored.constants[c], half));
    for (const [number, both] of Object.entries(stored.programs)) {
      const recording = this.#recording(both), constants = recording.constants.map((c) => constant(c, Boolean(recording.half?.includes(c))));
      this.programs.set(Number(number), { player: new GpuProgram(device, stored, recording, constants), recording });
    }
    this.constants = Object.values(held);
    this.accepted = Promise.all(Array.from(this.programs.values(), ({ player }) => player.accepted));
    this.accepted.catch(() => {});
  }

  /** Of a program's recordings the first that this device plays, in the precision that is asked for where there is one (webgpu/stored.py). */
  #recording({ gpu, cpu, variants = [] }) {
    const { isCpu } = this.device, plays = ([software, features]) => Boolean(software) === isCpu && features.split(" ").every((name) => this.has(name));
    for (const precision of [this.precision, "f32"]) {
      const found = variants.find((one) => one[2] === precision && plays(one));
      if (found) return found[3];
    }
    return (isCpu && cpu) || gpu;
  }

  /** The package is open: it is known where tensor data go. */
  prepare(session) {
    const { engine } = session;
    for (const [number, { player, recording }] of this.programs) {
      player.names = number === this.stored.direct ? session.ports(0).map((one) => one.name) : recording.inputs.map((_, i) => `input ${i} of part ${number}`);
    }
    this.lent = [];
    const cells = engine.alloc(16), count = Number(engine.c.sx_package_count(session.package, 2));
    for (let n = 0; n < count; n++) {
      const item = Number(engine.c.sx_package_constant(session.package, BigInt(n), cells, cells + 8));
      this.#lend(engine, n, Number(engine.words.getBigInt64(cells, true)), Number(engine.words.getBigInt64(cells + 8, true)), item);
    }
    engine.free(cells);
    this.#targets.sort((a, b) => a.at - b.at);
  }

  /**
   * A constant of the GPU (`half`: float32 that becomes f16): pieces go to its buffer as they come. (Written while it is mapped, 64 MB took 2.5 times as long in Chromium: one more copy, and memory
   * whose pages are used once.)
   */
  #upload(at, bytes, item, half) {
    const { device } = this, holder = { buffer: null }, as = half ? halves() : (piece) => piece;
    let pouring;
    const watched = (what) => {
      const [made, late] = device.watched(what);
      this.#late.push(late);
      return made;
    };
    const begin = () => {
      holder.buffer = watched(() => device.storage(half ? bytes / 2 : bytes, "weights"));
      return new Pouring(device.device.queue, holder.buffer);
    };
    let element; // that is all over the constant
    if (!bytes) begin();
    else this.#targets.push({
      at, bytes: item || bytes,
      write: (piece, offset) => {
        pouring ??= begin();
        if (item) (element ??= new Uint8Array(bytes)).set(piece, offset);
        else watched(() => pouring.write(as(piece)));
      },
      done: () => watched(() => {
        if (item) repeat(element, item, bytes), pouring.write(as(element));
        pouring.end();
      }),
    });
    return holder;
  }

  /** A constant of a part that runs on the engine. */
  #lend(engine, number, at, bytes, item) {
    const place = engine.alloc(Math.max(bytes, 1));
    this.lent[number] = { place, bytes };
    if (bytes) this.#targets.push({ at, bytes: item || bytes, write: (piece, offset) => engine.bytes.set(piece, place + offset), done: () => repeat(engine.bytes.subarray(place, place + bytes), item, bytes) });
  }

  /** Tensor data, from the stream to where they stay. */
  async load(source, length) {
    const targets = this.#targets, last = targets.reduce((end, one) => Math.max(end, one.at + one.bytes), 0);
    if (last > length) throw new InvalidModelFile(`WebGPU section: a constant ends at ${last}, the tensor data have ${length} bytes`);
    let first = 0;
    await source.pour(length, (piece, offset) => {
      const end = offset + piece.length;
      for (let i = first; i < targets.length && targets[i].at < end; i++) {
        const one = targets[i], from = Math.max(one.at, offset), to = Math.min(one.at + one.bytes, end);
        if (to > from) one.write(piece.subarray(from - offset, to - offset), from - one.at);
        if (to > from && to === one.at + one.bytes) one.done();
        if (to <= offset && i === first) first++;
      }
    });
    this.#targets = [];
  }

  /** Everything is there: the engine is told where its constants are. Pipelines may compile still: the first run waits for each as it comes to it (gpu-program.js). */
  async begin(session) {
    const { engine } = session;
    this.lent.forEach(({ place, bytes }, n) => session.check(engine.c.sx_package_set(session.package, BigInt(n), place, BigInt(bytes), engine.report)));
    await this.accepted;
    const error = (await Promise.all(this.#late)).find((one) => one);
    if (error) throw error;
    this.#late = [];
    for (const [number, one] of this.programs) one.program = engine.c.sx_package_program(session.package, BigInt(number));
  }

  // -- running -----------------------------------------------------------------------------------------------------------------------------------

  /** See Session.run. `keep[i]`: output i of the model stays on the GPU; `targets[i]`: {gpu, type, dims} the page wants it written to; `submitted` is called when the next run may begin, if that is before this one's end. */
  async run(session, feeds, fetches, { signal, profile, keep = [], targets = [], submitted }) {
    this.device.check();
    const gpu = feeds.findIndex((feed) => feed.gpu && fromBuffer(feed.type) === null);
    if (gpu >= 0) throw new NotImplemented(`input '${session.inputs[gpu].name}': ${TYPES[feeds[gpu].type][0]} is not taken from a GPU buffer; give its data`);
    const kept = session.outputs.map((port, i) => {
      if ((keep[i] || targets[i]) && toBuffer(port.type) === null) throw new NotImplemented(`output '${port.name}' is ${TYPES[port.type][0]}, which has no form in a GPU buffer; take it with preferredOutputLocation 'cpu'`);
      return fetches.includes(i) && (targets[i] ? { ...targets[i], name: port.name } : Boolean(keep[i]));
    });
    const { direct } = this.stored, noted = profile ? [] : undefined;
    if (profile && !this.device.timestamps) log("warning", `${this.device.name} has no clock (timestamp-query): the profile lacks what runs on it`);
    if (direct >= 0) {
      const { player } = this.programs.get(direct);
      const made = await this.#segment(session, direct, feeds.map((feed) => (feed.gpu ? { ...feed, size: bytesOf(feed) } : { ...feed, bytes: session.bytesOf(feed) })), kept, submitted, noted);
      return { events: noted, outputs: fetches.map((i) => (made[i].gpu ? { ...made[i], give: () => made[i].given || player.give(made[i].gpu) } : session.resultOf(made[i]))) };
    }
    const host = await Promise.all(feeds.map(async (feed) => (feed.gpu ? { ...feed, data: await this.device.download(feed.gpu, bytesOf(feed), TYPES[feed.type][1]) } : feed)));
    const { outputs, events } = await session.engineRun(host, fetches, { signal, profile }, () => this.#turn(session, noted));
    if (noted) events.push(...noted);
    return { outputs: await Promise.all(outputs.map((one, i) => (kept[fetches[i]] ? this.#kept(one, kept[fetches[i]]) : one))), events };
  }

  /** An output the engine made, on the GPU; `target`: where, or true. */
  async #kept({ type, dims, data }, target) {
    if (target !== true) {
      mustFit(target, { type, dims });
      await this.device.guarded(() => this.device.uploaded(data, target.gpu), unwritable);
      return { type, dims, gpu: target.gpu, give() {} };
    }
    const gpu = this.device.uploaded(data);
    return { type, dims, gpu, give: () => this.device.free(gpu) };
  }

  /** The engine waits: run the part of the package that is the GPU's. */
  async #turn(session, noted) {
    const { engine } = session, { c } = engine, at = engine.alloc(96);
    try {
      session.check(c.sx_session_waiting(session.handle, at));
      const number = engine.words.getInt32(at + 8, true), n = engine.words.getInt32(at + 16, true);
      const inputs = Array.from({ length: n }, (_, i) => {
        session.check(c.sx_session_input(session.handle, BigInt(i), at));
        return session.tensorAt(at);
      });
      const made = await this.#segment(session, number, inputs, undefined, undefined, noted);
      for (const [i, one] of made.entries()) {
        const place = engine.put(new Uint8Array(one.data.buffer, one.data.byteOffset, one.data.byteLength));
        session.writeTensor(at, one, place);
        const code = c.sx_session_put(session.handle, BigInt(i), at, engine.report);
        engine.free(place);
        session.check(code);
      }
    } finally {
      engine.free(at);
    }
  }

  /** One recorded program on inputs {dims, bytes | gpu}. */
  async #segment(session, number, inputs, keep, submitted, noted) {
    const one = this.programs.get(number);
    if (!one) throw new InvalidModelFile(`WebGPU section: part ${number} of the package is not recorded`);
    const { player, recording } = one;
    const dims = inputs.flatMap((input) => input.dims);
    const elements = recording.elements.map(([i, element]) => this.#element(inputs[i], recording.inputs[i][1], element));
    const key = `${dims}|${elements}`;
    if (key !== one.key || !player.bound) {
      one.key = null;
      this.#bind(session, one, dims, inputs);
      one.key = key;
    }
    return player.run(inputs, keep, submitted, noted && this.device.timestamps ? (event) => noted.push({ ...event, program: number, gpu: true }) : null);
  }

  #element({ bytes, gpu }, type, element) {
    if (gpu) throw new NotImplemented("an input that decides sizes is given on the GPU; give its data");
    const { BYTES_PER_ELEMENT: item } = TYPES[type][1];
    return bytes.subarray(element * item, (element + 1) * item).join();
  }

  /** The engine evaluates the sizes. */
  #bind(session, { player, program, recording }, dims, inputs) {
    const { engine } = session, { c } = engine;
    const lent = [], take = (n) => (lent.push(engine.alloc(n)), lent.at(-1));
    try {
      const table = take(8 * Math.max(dims.length, 1)), cell = take(16), pointers = take(4 * Math.max(inputs.length, 1));
      const read = new Set(recording.elements.map(([i]) => i));
      const places = inputs.map(({ bytes }, i) => (read.has(i) ? (lent.push(engine.put(bytes)), lent.at(-1)) : 0));
      dims.forEach((d, i) => engine.words.setBigInt64(table + 8 * i, BigInt(d), true));
      places.forEach((place, i) => engine.words.setUint32(pointers + 4 * i, place, true));
      const code = c.sx_bind(program, table, BigInt(dims.length), pointers, cell, engine.report);
      session.check(code);
      const state = engine.words.getUint32(cell, true);
      const at = c.sx_sizes(state, cell + 8) >>> 0, count = Number(engine.words.getBigInt64(cell + 8, true));
      const copy = engine.bytes.slice(at, at + 8 * count).buffer;
      c.sx_unbind(state);
      player.bind(new Int32Array(copy), new BigInt64Array(copy));
    } finally {
      for (const at of lent) engine.free(at);
    }
  }

  /** What runs where: {device, software, precision: how float32 lies, features: of WGSL, that are used, dispatches, beside: [{node, reason, shape: integers that only say sizes}]}. */
  describe() {
    const { device, stored } = this;
    return {
      device: device.name, software: device.isCpu, precision: this.precision, features: this.#features(), dispatches: [...this.programs.values()].reduce((sum, { recording }) => sum + recording.dispatches.length, 0),
      beside: stored.beside.map(([node, reason, shape]) => ({ node, reason, shape: Boolean(shape) })),
    };
  }

  #features() {
    const sources = [...this.programs.values()].flatMap(({ recording }) => recording.dispatches.map(([shader]) => this.stored.shaders[shader][0]));
    return Object.entries(FEATURES).filter(([, line]) => sources.some((source) => source.includes(line))).map(([name]) => name);
  }

  release() {
    for (const { player } of this.programs.values()) player.release();
    for (const holder of this.constants ?? []) if (holder.buffer) this.device.free(holder.buffer);
    this.programs.clear();
    this.constants = [];
  }
}

/** The text as it must be (webgpu/stored.py), every number where it is looked up; rows of size tables are checked when there is one (gpu-program.js). Throws where it is not. */
function verified(text) {
  const must = (good, what) => {
    if (!good) throw new TypeError(`${what} is not valid`);
  };
  const number = (n, least = 0, below = Number.MAX_SAFE_INTEGER) => Number.isSafeInteger(n) && n >= least && n < below;
  const all = (list, good, what) => must(Array.isArray(list) && list.every(good), what);
  const { shaders, edits = [], labels, constants, programs, beside, direct } = text;
  all(shaders, (one) => Array.isArray(one) && typeof one[0] === "string" && /^[01]*$/.test(one[1]), "a shader");
  all(edits, (one) => Array.isArray(one) && number(one[0], 0, shaders.length) && /^[01]*$/.test(one[1]), "an edit");
  shaders.push(...edits.map(([like, writes, ...changes]) => {
    const lines = shaders[like][0].split("\n");
    for (const [from, to, made] of changes) lines.splice(from, to - from, ...(made === undefined ? [] : [String(made)]));
    return [lines.join("\n"), writes];
  }));
  all(labels, (one) => typeof one === "string", "a label");
  all(constants, (one) => Array.isArray(one) && number(one[0]) && number(one[1]) && number(one[2], 0, 17) && number(one[0] + one[1]) && (!one[2] || one[1] % one[2] === 0), "a constant");
  all(beside, (one) => Array.isArray(one) && typeof one[0] === "string", "a node beside");
  must(programs !== null && typeof programs === "object" && number(direct, -1) && (direct < 0 || direct in programs), "a program");
  const variants = ({ variants: list = [] }) => (all(list, (one) => Array.isArray(one) && typeof one[1] === "string" && one[3], "a variant"), list.map((one) => one[3]));
  for (const recording of Object.entries(programs).flatMap(([key, both]) => (must(number(Number(key)) && both?.gpu, "a program"), [both.gpu, ...(both.cpu ? [both.cpu] : []), ...variants(both)]))) {
    const { slabs, inputs, outputs, dispatches, steps, elements, half = [], same = [] } = recording, rows = (list) => Array.isArray(list) && list.every((row) => number(row));
    all(slabs, (one) => Array.isArray(one) && number(one[0], -1) && one.length % 2 === 1 && rows(one.slice(1)), "a slab");
    all(recording.constants, (c) => number(c, 0, constants.length), "a constant's number");
    all(half, (c) => number(c, 0, constants.length) && constants[c][1] % 4 === 0 && constants[c][2] % 4 === 0, "a constant of f16");
    all(inputs, (one) => Array.isArray(one) && number(one[0], -1, slabs.length) && one[1] in TYPES && one[1] !== 8 && (one.length === 2 || one.length === 4), "an input");
    all(outputs, (one) => Array.isArray(one) && number(one[0], 0, slabs.length) && one[1] in TYPES && one[1] !== 8 && rows(one[2]), "an output");
    const buffers = slabs.length + recording.constants.length + 1;
    all(dispatches, (one) => Array.isArray(one) && number(one[0], 0, shaders.length) && number(one[1]) && number(one[2], 0, labels.length) && Array.isArray(one[3])
      && one[3].every((b) => number(b, 0, buffers)) && one[3].length === shaders[one[0]][1].length && rows(one[4]), "a dispatch");
    all(steps, (one) => number(one, 0, labels.length), "a step");
    all(elements, (one) => Array.isArray(one) && number(one[0], 0, inputs.length) && number(one[1]), "an element");
    all(same, (one) => Array.isArray(one) && number(one[0], 0, inputs.length) && number(one[1], 0, outputs.length) && number(one[2], 0, dispatches.length), "an input that may be an output");
  }
  return text;
}

const bytesOf = ({ type, dims }) => (lengthOf(type, sizeOf(dims)) * TYPES[type][2]) >> 3;

/** The first `item` bytes all over `bytes` bytes. */
function repeat(target, item, bytes) {
  for (let done = item; item && done < bytes; done *= 2) target.copyWithin(done, 0, Math.min(done, bytes - done));
}
