// session.js: a stored model on an engine, on this thread. It streams a .sdx into the engine's memory, opens its package (sardonyx.h says what these calls do) and runs it.
import { Engine, HOST, YIELD } from "./engine.js";
import { checkAborted, InvalidArgument, NotImplemented, RuntimeException, SardonyxError, MemoryLimit } from "./errors.js";
import { open } from "./load.js";
import { checkPrograms, HEADER, readDataHeader, readHeader } from "./sdx.js";
import { lengthOf, TYPES } from "./tensor.js";

/** Layout of the structs, core/engine/WASM.md. */
const TENSOR = 80, PORT = 88, DATA = 72, NAME_BYTES = 80;
const ABI = 2;
/** A run that can be stopped gives its thread back this often. */
const SLICE = 20_000_000n; // ns

export class Session {
  /** `module`: the compiled engine, or a promise of it. Options: signal, progress, cache, integrity, externalData. */
  static async create(what, options, { file, module, threads }) {
    const { signal, progress } = options;
    const session = new Session();
    const started = Promise.resolve(module).then((ready) => Engine.create(ready, threads));
    started.catch(() => {});
    const source = await open(what, options);
    try {
      const header = readHeader(await source.peek(HEADER), source.name, source.kind);
      await source.skip(HEADER);
      source.total ??= header.end;
      session.engine = await started;
      session.picked = { file, threads };
      for (const section of header.order) {
        await source.skip(section.offset - source.position);
        if (section === header.graph) await source.skip(section.length);
        else if (section === header.programs) await session.#open(await source.take(section.length), source.name, progress);
        else session.data = await session.#load(source, section.length);
      }
      if (!session.package) checkPrograms(new Uint8Array(16), 0, source.name, ABI);
      await source.finish();
      if (header.external) session.data = await session.#external(header, options);
      checkAborted(signal);
      session.#begin(header.data.length);
      return session;
    } catch (error) {
      await source.cancel();
      await started.then((engine) => engine.close(), () => {});
      throw asTyped(error);
    }
  }

  async #open(section, name, progress) {
    checkPrograms(section, section.length, name, ABI);
    progress?.({ phase: "plan", loaded: 0, total: 1 });
    const { engine } = this, { c } = engine;
    const at = engine.put(section), options = engine.alloc(32);
    engine.words.setInt32(options, this.picked.threads, true);
    engine.words.setInt32(options + 4, 0, true);
    engine.words.setBigInt64(options + 8, 0n, true);
    const code = c.sx_package_open(at, BigInt(section.length), options, options + 16, engine.report);
    this.package = engine.words.getUint32(options + 16, true);
    engine.free(at);
    engine.free(options);
    this.#check(code);
    progress?.({ phase: "plan", loaded: 1, total: 1 });
  }

  /** Tensor data, straight to where they stay. */
  async #load(source, length) {
    if (!length) return 0;
    const { engine } = this;
    const at = engine.alloc(length);
    await source.pour(length, (piece, offset) => engine.bytes.set(piece, at + offset));
    return at;
  }

  async #external(header, options) {
    const given = options.externalData?.[0];
    if (!given) throw new InvalidArgument("the model's tensor data lie in a file beside it; give it: create(url, {externalData: [{path: 'model.sdx.data', data: url}]})");
    const source = await open(typeof given === "object" && "data" in given ? given.data : given, { ...options, integrity: undefined });
    try {
      const length = readDataHeader(await source.take(64), header, source.name);
      source.total ??= length + 64;
      const at = await this.#load(source, length);
      await source.finish();
      return at;
    } catch (error) {
      await source.cancel();
      throw error;
    }
  }

  #begin(length) {
    const { engine } = this, { c } = engine;
    if (this.data) this.#check(c.sx_package_data(this.package, this.data, BigInt(length), engine.report));
    const cell = engine.alloc(8);
    const code = c.sx_session_open(this.package, cell, engine.report);
    this.handle = engine.words.getUint32(cell, true);
    engine.free(cell);
    this.#check(code);
    const count = (what) => Number(c.sx_package_count(this.package, what));
    this.inputs = Array.from({ length: count(0) }, (_, i) => this.#port(0, i));
    this.outputs = Array.from({ length: count(1) }, (_, i) => this.#port(1, i));
  }

  #port(output, number) {
    const { engine } = this, at = engine.alloc(PORT);
    this.#check(engine.c.sx_package_port(this.package, output, BigInt(number), at));
    const words = engine.words, rank = words.getInt32(at + 4, true);
    const made = { type: words.getInt32(at, true), name: this.#string(words.getUint32(at + DATA, true), Number(words.getBigInt64(at + NAME_BYTES, true))) };
    made.dims = Array.from({ length: rank }, (_, d) => this.#dim(Number(engine.words.getBigInt64(at + 8 + 8 * d, true))));
    engine.free(at);
    return made;
  }

  /** A size, a symbol's name, or "" for any size. */
  #dim(d) {
    if (d >= -1) return d < 0 ? "" : d;
    const { engine } = this, cell = engine.alloc(8);
    const at = engine.c.sx_package_symbol(this.package, BigInt(-2 - d), cell) >>> 0;
    const name = this.#string(at, Number(engine.words.getBigInt64(cell, true)));
    engine.free(cell);
    return name;
  }

  #string(at, length) {
    return new TextDecoder().decode(this.engine.bytes.slice(at, at + length));
  }

  #check(code) {
    if (code) throw this.engine.error(code, (report, text, size) => this.engine.c.sx_package_error_text(report, this.package ?? 0, text, BigInt(size)));
  }

  describe() {
    return { inputs: this.inputs, outputs: this.outputs, engine: { ...this.picked } };
  }

  /** feeds: {type, dims, data} of every input in order; fetches: numbers of outputs. Returns the same of the outputs, with arrays of their own. */
  async run(feeds, fetches, { signal } = {}) {
    if (!this.engine) throw new InvalidArgument("the session was released");
    const { engine } = this, { c } = engine;
    const lent = [];
    try {
      const table = engine.alloc(TENSOR * Math.max(feeds.length, 1));
      lent.push(table);
      for (const [i, feed] of feeds.entries()) {
        const bytes = stored(feed);
        lent.push(engine.put(bytes));
        this.#write(table + TENSOR * i, feed, lent.at(-1));
      }
      const budget = signal ? SLICE : 0n;
      let code = c.sx_session_run(this.handle, table, BigInt(feeds.length), budget, engine.report);
      while (code === YIELD) {
        await breathe();
        if (signal?.aborted) c.sx_session_terminate(this.handle);
        code = c.sx_session_continue(this.handle, budget, engine.report);
      }
      if (code === HOST) throw new NotImplemented("a part of the model was planned for another device than the wasm engine; convert it again without that device");
      this.#check(code);
      return fetches.map((number) => this.#output(number));
    } catch (error) {
      throw asTyped(error);
    } finally {
      if (this.engine) for (const at of lent) engine.free(at);
    }
  }

  #write(at, { type, dims }, data) {
    const { words } = this.engine;
    words.setInt32(at, type, true);
    words.setInt32(at + 4, dims.length, true);
    dims.forEach((d, i) => words.setBigInt64(at + 8 + 8 * i, BigInt(d), true));
    words.setUint32(at + DATA, data, true);
  }

  #output(number) {
    const { engine } = this, at = engine.alloc(TENSOR);
    this.#check(engine.c.sx_session_output(this.handle, BigInt(number), at));
    const { words } = engine;
    const type = words.getInt32(at, true), rank = words.getInt32(at + 4, true), from = words.getUint32(at + DATA, true);
    const dims = Array.from({ length: rank }, (_, d) => Number(words.getBigInt64(at + 8 + 8 * d, true)));
    engine.free(at);
    const [, kind, bits] = TYPES[type];
    const size = dims.reduce((a, b) => a * b, 1);
    const bytes = engine.bytes.slice(from, from + size * Math.max(bits >> 3, 1));
    return { type, dims, data: bits < 8 ? packed(bytes, bits, kind) : new kind(bytes.buffer, 0, lengthOf(type, size)) };
  }

  /** Bytes of wasm memory: {held: by the page, free: of these unused}. */
  memory() {
    return { held: this.engine.memory.buffer.byteLength, free: this.engine.c.sx_memory_free() };
  }

  release() {
    this.engine?.close();
    this.engine = null;
  }
}

/** A feed's elements as the engine has them: 4- and 2-bit types one a byte. */
function stored({ type, dims, data }) {
  const bits = TYPES[type][2];
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (bits >= 8) return bytes;
  const size = dims.reduce((a, b) => a * b, 1), each = 8 / bits, signed = TYPES[type][1] === Int8Array;
  return Uint8Array.from({ length: size }, (_, i) => {
    const value = (bytes[Math.floor(i / each)] >> (bits * (i % each))) & ((1 << bits) - 1);
    return signed && value >> (bits - 1) ? value - (1 << bits) : value;
  });
}

/** The other way round. */
function packed(bytes, bits, kind) {
  const each = 8 / bits, made = new Uint8Array(Math.ceil(bytes.length / each));
  bytes.forEach((value, i) => (made[Math.floor(i / each)] |= (value & ((1 << bits) - 1)) << (bits * (i % each))));
  return new kind(made.buffer);
}

/** Let messages and timers have their turn. */
const breathe = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => (port1.close(), resolve());
  port2.postMessage(0);
});

/** What JavaScript itself throws, as one of ours. */
function asTyped(error) {
  if (error instanceof SardonyxError || error?.name === "AbortError") return error;
  if (error instanceof RangeError) return new MemoryLimit(`the page has no memory left: ${error.message}`, { cause: error });
  if (error instanceof WebAssembly.RuntimeError) return new RuntimeException(`the engine stopped: ${error.message}. Release this session and make a new one; please report it with the model`, { cause: error });
  return error;
}
