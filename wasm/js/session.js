// session.js: a stored model on an engine, on this thread. It streams a .sdx into the engine's memory, opens its package (sardonyx.h says what these calls do) and runs it.
import { Engine, HOST, YIELD } from "./engine.js";
import { askDevice } from "./env.js";
import { checkAborted, DeviceLost, InvalidArgument, NotImplemented, RuntimeException, SardonyxError, MemoryLimit } from "./errors.js";
import { bytesIn, elements, Kept, LEAST, packed } from "./kept.js";
import { open, orAborted } from "./load.js";
import { checkPrograms, DATA_HEADER, embed, foreign, HEADER, readDataHeader, readHeader, runnable } from "./sdx.js";
import { TYPES } from "./tensor.js";

/** Layout of the structs, core/engine/WASM.md. */
const TENSOR = 80, PORT = 88, DATA = 72, NAME_BYTES = 80;
const ABI = 2;
/** A run that can be stopped gives its thread back this often. */
const SLICE = 20_000_000n; // ns
/** Bytes up to which an input has a place of its own between runs. */
const ROOM = 1 << 14;
/** Bytes of an input whose copy takes long enough to wake the other threads meanwhile. */
const LONG = 1 << 16;
const HIGH = 2 ** 32;
/** The engine's number for sizes that no stored program covers. */
const GUARD = 9;
/** Steps a profile has room for in one run: int64 program, step, start, duration of each. */
const PROFILED = 1 << 14, ROW = 32;
/** Sizes a session plans for one by one, where not all can be planned together. */
const PLANNED = 16;

export class Session {
  kept = new Kept(this);
  #lengths = []; // bytes of each output when it was last made
  #desk = {}; // what every run of this engine uses: {engine, table: of the inputs, cell: a tensor, rooms: of small inputs [address, bytes], count: of inputs}

  /**
   * `module`: the compiled engine, or a promise of it; `ready` is called when there is nothing more urgent to do than to compile it (pipelines come first). Options: signal, progress, cache, integrity,
   * externalData, planner, freeDimensionOverrides, webgpu ({fallback, strict, precision}: run there, see gpu.js).
   */
  static async create(what, options, { file, module, threads, ready = () => {} }) {
    const session = new Session();
    if (!options.webgpu) ready();
    Object.assign(session, { ready, options, picked: { file, threads }, module, planned: [] });
    const opened = options.webgpu && openGpu(options.webgpu);
    opened?.catch(() => {});
    const engine = Promise.resolve(module).then((compiled) => Engine.create(compiled, threads)), started = orAborted(engine, options.signal);
    started.catch(() => {});
    let source;
    try {
      source = await open(what, options);
      session.gpu = await opened;
      while (source) source = await session.#read(source, started);
      checkAborted(options.signal);
      await session.#begin();
      await session.engine.lent;
      if (session.gpu && reopens(what)) session.origin = { what, options: { ...options, early: undefined } };
      session.options = { planner: options.planner }; // the rest may hold the model's bytes
      return session;
    } catch (error) {
      ready();
      await source?.cancel();
      (await opened?.catch(() => null))?.release();
      engine.then((one) => one.close(), () => {}); // when it comes
      throw asTyped(error);
    }
  }

  /** Take a file in. Where it has nothing that runs here and there is a planner: gives what the planner made of it, to be read instead. */
  async #read(source, started) {
    const { options } = this, { progress } = options, planner = this.converted ? undefined : options.planner;
    if (planner && foreign(await source.peek(HEADER), source.name, source.kind)) {
      const files = { "model.onnx": await source.all() };
      let { position } = source;
      for (const { path, data } of options.externalData ?? []) position += (files[path] = await (await open(data, further(options, position))).all()).length;
      return this.#convert(files);
    }
    const header = (this.header = readHeader(await source.peek(HEADER), source.name, source.kind));
    this.front = options.planner && [];
    source.keep = (bytes, at) => this.front?.push([at, bytes.slice()]);
    source.total ??= header.end;
    await source.skip(HEADER);
    if (this.gpu && !header.webgpu.length) this.gpu = this.gpu.refuse(new NotImplemented(`'${source.name}' holds no programs for WebGPU; convert it with them: npx sardonyx convert model.onnx --webgpu`));
    if (!this.gpu) {
      this.ready();
      this.engine = await started;
    }
    for (const section of header.order) {
      await source.skip(section.offset - source.position);
      if (section === header.graph || section === (this.gpu ? header.programs : header.webgpu)) await source.skip(section.length);
      else if (section === header.webgpu) await this.#record(await source.take(section.length), source.name, progress, started);
      else if (section === header.programs) await this.#open(await source.take(section.length), source.name, progress, planner);
      else this.data = await this.#load(source, section.length);
    }
    if (!this.package && !planner) checkPrograms(new Uint8Array(16), 0, source.name, ABI);
    await source.finish();
    if (header.external) this.data = await this.#external(header, options);
    if (this.package) return null;
    const files = this.#files();
    this.engine.free(this.data);
    this.data = 0;
    return this.#convert(files);
  }

  /** What the planner makes of files, as a source. */
  async #convert(files) {
    const { options } = this, fixed = Object.entries(options.freeDimensionOverrides ?? {}).map(([name, size]) => [name, [size, size]]);
    this.converted = true; // what it made is not asked about again
    return open(await options.planner.convert(files, [Object.fromEntries(fixed)], { ...options, webgpu: this.gpu && { needed: !this.gpu.fallback, target: this.gpu.target } }));
  }

  /** The file as it came, put together again: its tensor data lie in the engine's memory. Where they came from a file beside it, they are in it now. */
  #files() {
    const { header, engine } = this, { length } = header.data, offset = header.external ? Math.ceil(header.end / 64) * 64 : header.data.offset;
    const made = new Uint8Array(Math.max(header.end, offset + length));
    for (const [at, bytes] of this.front) made.set(bytes, at);
    made.set(engine.bytes.subarray(this.data, this.data + length), offset);
    if (header.external) embed(made, offset);
    return { "model.sdx": made };
  }

  async #open(section, name, progress, planner) {
    if (planner && !runnable(section, ABI)) return; // the planner makes what runs
    checkPrograms(section, section.length, name, ABI);
    this.#package(section, progress);
  }

  /** The package for the GPU: the engine runs what is between, and evaluates sizes. */
  async #record(section, name, progress, started) {
    const packaged = this.gpu.section(section, name); // pipelines compile from here on
    this.ready();
    this.engine = await started;
    this.#package(packaged, progress);
    this.gpu.prepare(this);
  }

  #package(section, progress) {
    if (!this.converted) progress?.({ phase: "plan", loaded: 0, total: 1 }); // else it began with the planner
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
    if (this.gpu) return this.gpu.load(source, length);
    const { engine } = this;
    const at = engine.alloc(length), { keep } = source;
    source.keep = undefined;
    await source.pour(length, (piece, offset) => engine.bytes.set(piece, at + offset));
    source.keep = keep;
    return at;
  }

  async #external(header, options) {
    const given = options.externalData?.[0];
    if (!given) throw new InvalidArgument("the model's tensor data lie in a file beside it; give it: create(url, {externalData: [{path: 'model.sdx.data', data: url}]})");
    const source = await open(typeof given === "object" && "data" in given ? given.data : given, further(options, header.end));
    try {
      const length = readDataHeader(await source.take(DATA_HEADER), header, source.name);
      source.total ??= length + DATA_HEADER;
      const at = await this.#load(source, length);
      await source.finish();
      return at;
    } catch (error) {
      await source.cancel();
      throw error;
    }
  }

  async #begin() {
    const { engine } = this, { c } = engine, { length } = this.header.data;
    if (this.gpu) await this.gpu.begin(this);
    else if (this.data) this.#check(c.sx_package_data(this.package, this.data, BigInt(length), engine.report));
    const cell = engine.alloc(8);
    const code = c.sx_session_open(this.package, cell, engine.report);
    this.handle = engine.words.getUint32(cell, true);
    engine.free(cell);
    this.#check(code);
    this.inputs = this.ports(0);
    this.outputs = this.ports(1);
  }

  /** The inputs (0) or outputs (1) of the model. */
  ports(output) {
    return Array.from({ length: this.#count(output) }, (_, i) => this.#port(output, i));
  }

  #count(what) {
    return Number(this.engine.c.sx_package_count(this.package, what));
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
    return d < -1 ? this.#symbol(-2 - d) : d < 0 ? "" : d;
  }

  #symbol(number) {
    const { engine } = this, cell = engine.alloc(8);
    const at = engine.c.sx_package_symbol(this.package, BigInt(number), cell) >>> 0;
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

  /** Throw where a call of the engine did not return 0. */
  check(code) {
    this.#check(code);
  }

  describe() {
    return { inputs: this.inputs, outputs: this.outputs, engine: { ...this.picked, ...(this.gpu ? { webgpu: this.gpu.describe() } : {}) } };
  }

  /**
   * feeds: {type, dims, data} of every input in order; fetches: numbers of outputs. Gives {outputs: the same of these, with arrays of their own, events: with `profile`, of every step}, or a promise of
   * it where something is waited for: a small model's run takes as long as five promises.
   */
  run(feeds, fetches, options = {}) {
    try {
      const made = this.#run(feeds, fetches, options);
      return made instanceof Promise ? made.catch((error) => this.#again(error, feeds, fetches, options)) : made;
    } catch (error) {
      return this.#again(error, feeds, fetches, options);
    }
  }

  /** A run that failed once more, where that helps. */
  async #again(error, feeds, fetches, options) {
    if (error instanceof MemoryLimit && this.engine && (await this.kept.leave(0, false, feeds.map((feed) => feed.pinned)))) return this.run(feeds, fetches, options);
    if (error.status !== GUARD) throw error;
    if (!this.options.planner || this.gpu) throw this.#uncovered(feeds, error);
    await this.#plan(feeds, options);
    return this.#run(feeds, fetches, options);
  }

  #run(feeds, fetches, options) {
    if (!this.engine) throw new InvalidArgument("the session was released");
    return this.gpu ? this.#onGpu(feeds, fetches, options) : this.engineRun(feeds, fetches, options);
  }

  async #onGpu(feeds, fetches, options) {
    if (this.gpu.device.failure) await this.#rebuild(options);
    return this.gpu.run(this, feeds, fetches, options);
  }

  /** Sizes that no stored program covers: everything is planned anew for these (and all others, where that is possible), and takes this session's place. */
  async #plan(feeds, { signal }) {
    const { options, picked, module } = this;
    const sizes = Object.fromEntries(Object.entries(this.#sizes(feeds)).map(([name, size]) => [name, [size, size]]));
    const planned = [sizes, ...this.planned].slice(0, PLANNED);
    const made = await options.planner.convert(this.#files(), [...planned, {}], { signal });
    const next = await Session.create(made, { planner: options.planner, signal }, { ...picked, module });
    if (!this.engine) return next.engine.close(); // released meanwhile
    const { kept } = this;
    kept.move();
    this.engine.close();
    Object.assign(this, next, { options, planned, kept, names: undefined });
  }

  /** {name: size} of the named sizes of these inputs. */
  #sizes(feeds) {
    return Object.fromEntries(this.inputs.flatMap(({ dims }, i) => dims.flatMap((name, axis) => (name && typeof name === "string" ? [[name, feeds[i].dims[axis]]] : []))));
  }

  /** What the stored programs are for, and the command that makes others. */
  #uncovered(feeds, error) {
    const { engine } = this, cell = engine.alloc(16), names = Array.from({ length: this.#count(6) }, (_, k) => this.#symbol(k));
    const ranges = Array.from({ length: this.#count(5) }, (_, v) => names.map((name, k) => {
      engine.c.sx_package_range(this.package, BigInt(v), BigInt(k), cell, cell + 8);
      const [least, most] = [engine.words.getBigInt64(cell, true), engine.words.getBigInt64(cell + 8, true)];
      return `${name}=${least === most ? least : `${least}..${most < 0 ? "" : most}`}`;
    }).join(","));
    engine.free(cell);
    const asked = Object.entries(this.#sizes(feeds)).map(([name, size]) => `${name}=${size}`).join(",");
    const why = error.message.startsWith("no plan covers") ? "" : ` (${error.message.split(";")[0]})`;
    const command = `npx sardonyx convert model.onnx ${[...ranges, asked].filter(Boolean).map((plan) => `--plan ${plan}`).join(" ")}`;
    return new InvalidArgument(`no stored program covers ${asked || "these sizes"}: they are for ${ranges.filter(Boolean).join(" or ") || "fixed sizes"}${why}. `
      + `Make programs for them too: ${command}  (or create the session with {planner: "pyodide"}: it plans in the page)`);
  }

  /** The GPU device is gone: load the model onto a new one, in this session's place. */
  async #rebuild({ signal }) {
    const { origin } = this;
    if (!origin) throw new DeviceLost(`${this.gpu.device.failure.message.split(":")[0]}, and the model was not given as a URL, Request or Blob: make the session again`);
    const made = await Session.create(origin.what, { ...origin.options, signal, progress: undefined }, { ...this.picked, module: this.module });
    this.gpu.release();
    this.engine?.close();
    Object.assign(this, made, { kept: this.kept });
  }

  /** On the engine; `turn` runs the parts of another device. As `run`. */
  engineRun(feeds, fetches, { signal, profile, into = [], pin = [], unread = false } = {}, turn = undefined) {
    const run = { fetches, signal, profile, into, pin, unread, turn, budget: signal ? SLICE : 0n, rows: 0, lent: [], read: [],
      stays: fetches.map((number, i) => !!pin[i] || (unread && !into[i] && this.#lengths[number] >= LEAST)) };
    let rest;
    try {
      const code = this.#start(run, feeds), made = this.#waits(run, code) ? undefined : this.#finish(run, code);
      return made && !made.left ? made : (rest = this.#rest(run, code, made));
    } catch (error) {
      throw this.#failed(run, error);
    } finally {
      if (!rest) this.#end(run);
    }
  }

  /** What is left of a run that gives the thread back in between. */
  async #rest(run, code, made) {
    try {
      while (this.#waits(run, code)) {
        await (code === HOST ? run.turn() : breathe());
        if (!this.engine) throw new InvalidArgument("the session was released");
        if (run.signal?.aborted) this.engine.c.sx_session_terminate(this.handle);
        code = this.engine.c.sx_session_continue(this.handle, run.budget, this.engine.report);
      }
      made ??= this.#finish(run, code);
      if (made.left) await this.kept.limit(made.left, breathe, made.outputs.map((one) => one.unread));
      return made;
    } catch (error) {
      throw this.#failed(run, error);
    } finally {
      this.#end(run);
    }
  }

  #waits({ turn }, code) {
    return code === YIELD || (code === HOST && turn);
  }

  /** Inputs to their places; then the engine runs. */
  #start(run, feeds) {
    const { engine } = this, { c } = engine, { table, count } = this.#ready(feeds.length);
    for (let i = 0; i < feeds.length; i++) this.writeTensor(table + TENSOR * i, feeds[i], this.#place(i, feeds[i], run));
    for (let i = 0; i < run.stays.length; i++) this.kept.grows(run.fetches[i], run.stays[i]);
    if (run.profile) {
      run.lent.push((run.rows = engine.alloc(ROW * PROFILED)));
      c.sx_session_profile(this.handle, run.rows, BigInt(PROFILED));
    }
    return c.sx_session_run(this.handle, table, count, run.budget, engine.report);
  }

  #finish(run, code) {
    if (code === HOST) throw new NotImplemented("a part of the model was planned for another device than the wasm engine; convert it again without that device");
    this.#check(code);
    const events = run.rows ? this.#events(run.rows, Number(this.engine.c.sx_session_profile(this.handle, 0, 0n))) : undefined;
    return this.#outputs(run, events);
  }

  #failed({ profile }, error) {
    if (profile && this.engine) this.engine.c.sx_session_profile(this.handle, 0, 0n);
    return asTyped(error);
  }

  #end({ lent, read }) {
    if (this.engine) for (const at of lent) this.engine.free(at);
    for (const one of read) this.kept.done(one);
  }

  /** The desk, of this engine and for so many inputs. */
  #ready(inputs) {
    const { engine } = this;
    if (this.#desk.engine !== engine) this.#desk = { engine, table: engine.alloc(TENSOR * Math.max(inputs, 1)), cell: engine.alloc(TENSOR), rooms: [], count: BigInt(inputs) };
    return this.#desk;
  }

  /** Where input i lies in the engine's memory: it does already (then a run reads it: `read`), or is put there: small ones to rooms of their own, others to what is lent for the run. */
  #place(i, feed, { lent, read }) {
    if (feed.pinned !== undefined) {
      read.push(this.kept.use(feed.pinned));
      return read.at(-1).at;
    }
    const { engine } = this, bytes = stored(feed), { length } = bytes, { rooms } = this.#desk;
    if (length > ROOM) {
      if (length >= LONG) engine.c.sx_workers_wake?.(); // they wake while it is copied
      lent.push(engine.put(bytes));
      return lent.at(-1);
    }
    let room = rooms[i];
    if (!room || room[1] < length) {
      if (room) engine.free(room[0]);
      rooms[i] = undefined;
      rooms[i] = room = [engine.alloc(length), length];
    }
    engine.bytes.set(bytes, room[0]);
    return room[0];
  }

  /** What the engine noted of a run's steps, with the names of the model's nodes they came from. */
  #events(rows, count) {
    const { words } = this.engine, at = (i, k) => Number(words.getBigInt64(rows + ROW * i + 8 * k, true));
    return Array.from({ length: count }, (_, i) => ({ program: at(i, 0), step: at(i, 1), start: at(i, 2) / 1e6, duration: at(i, 3) / 1e6 }))
      .filter(({ program }) => program >= 0).map((one) => ({ name: this.#nodes(one), ...one }));
  }

  /** The engine names a step's nodes where it reports an error of it. */
  #nodes({ program, step }) {
    const key = program * PROFILED + step, { engine } = this;
    this.names ??= new Map();
    if (!this.names.has(key)) {
      const report = engine.alloc(64), text = engine.alloc(1024);
      engine.bytes.fill(0, report, report + 64);
      engine.words.setBigInt64(report + 8, BigInt(step), true);
      engine.words.setInt32(report + 40, program, true);
      engine.c.sx_package_error_text(report, this.package, text, 1024n);
      this.names.set(key, /^'([^]*)' \(step \d+\): /.exec(engine.text(text))?.[1] ?? "");
      engine.free(report);
      engine.free(text);
    }
    return this.names.get(key);
  }

  /** A tensor's bytes as the engine has them. */
  bytesOf(feed) {
    return stored(feed);
  }

  /** The tensor a struct of the engine's describes; `bytes` are a copy. */
  tensorAt(at) {
    const made = this.#described(at);
    return { type: made.type, dims: made.dims, bytes: this.engine.bytes.slice(made.at, made.at + bytesIn(made)) };
  }

  #described(at) {
    const { words } = this.engine, rank = words.getInt32(at + 4, true), dims = [];
    for (let d = 0; d < rank; d++) dims.push(words.getUint32(at + 8 + 8 * d, true) + HIGH * words.getInt32(at + 12 + 8 * d, true));
    return { type: words.getInt32(at, true), dims, at: words.getUint32(at + DATA, true) };
  }

  writeTensor(at, { type, dims }, data) {
    const { words } = this.engine;
    words.setInt32(at, type, true);
    words.setInt32(at + 4, dims.length, true);
    for (let i = 0; i < dims.length; i++) {
      words.setUint32(at + 8 + 8 * i, dims[i] >>> 0, true); // modulo 2^32
      words.setInt32(at + 12 + 8 * i, Math.floor(dims[i] / HIGH), true);
    }
    words.setUint32(at + DATA, data, true);
  }

  /** An output that is there: copied to `into`, an array of its type and length, else to a new one: one of many megabytes costs more than the copy (the system clears its pages). */
  #copied({ type, dims, at }, size, into) {
    const [, kind, bits] = TYPES[type];
    if (bits < 8) return { type, dims, data: packed(this.engine.bytes.subarray(at, at + size), bits, kind) };
    const here = new kind(this.engine.memory.buffer, at, size / kind.BYTES_PER_ELEMENT);
    if (!(into instanceof kind && into.length === here.length)) return { type, dims, data: here.slice() }; // of a few bytes: V8 needs no buffer for it, and takes a tenth of the time
    into.set(here);
    return { type, dims, data: into };
  }

  /** What the engine says of an output: {type, dims, at}. */
  #given(call, number) {
    const { cell } = this.#desk;
    this.#check(this.engine.c[call](this.handle, BigInt(number), cell));
    return this.#described(cell);
  }

  /**
   * The outputs of a run: those with `pin` stay where they are, as {type, dims, pinned: number}; `unread`: so do large ones, as {type, dims, unread: number}, until they are read. `stays`: they must
   * be taken, however they lie. `left`: bytes nobody has read.
   */
  #outputs({ fetches, into, pin, unread, stays }, events) {
    const made = [];
    let left = 0;
    try {
      for (let i = 0; i < fetches.length; i++) {
        const number = fetches[i];
        const known = fetches.indexOf(number); // a name may come twice
        if (known < i) {
          made[i] = made[known];
          continue;
        }
        const found = stays[i] ? undefined : this.#given("sx_session_output", number), size = found && bytesIn(found);
        if (found && !(unread && !into[i] && size >= LEAST)) {
          made[i] = this.#copied(found, size, into[i]);
          this.#lengths[number] = size;
          continue;
        }
        const { type, dims, ...taken } = this.#given("sx_session_take", number), id = this.kept.add({ type, dims, ...taken }, !pin[i]);
        made[i] = pin[i] ? { type, dims, pinned: id } : { type, dims, unread: id, weight: this.kept.weight(id) };
        this.#lengths[number] = this.kept.bytes(id);
        if (!pin[i] && this.#lengths[number] < LEAST) made[i] = { type, dims, data: this.kept.give(id) };
        else if (!pin[i]) left += this.#lengths[number];
      }
    } catch (error) {
      for (const one of made) this.kept.drop(one?.pinned ?? one?.unread);
      throw error;
    }
    return { outputs: made, events, left };
  }

  /** A copy of the elements of a tensor that stays here. */
  async pinnedData(number) {
    return this.kept.read(number);
  }

  /** The elements of an output nobody has read. */
  unreadData(number) {
    return this.kept.give(number);
  }

  /** Forget such a tensor; where a run reads it, after that. */
  unpin(number) {
    this.kept.drop(number);
  }

  /** Bytes as the engine has them as a result. */
  resultOf({ type, dims, data, gpu }) {
    const [, kind, bits] = TYPES[type];
    return gpu ? { type, dims, gpu } : { type, dims, data: bits < 8 ? packed(data, bits, kind) : data };
  }

  /** Bytes of wasm memory: {held: by the page, free: of these unused}. */
  memory() {
    return { held: this.engine.memory.buffer.byteLength, free: this.engine.c.sx_memory_free() };
  }

  release() {
    this.gpu?.release();
    if (this.engine) this.kept.close();
    this.engine?.close();
    this.engine = null;
    this.options.planner?.release();
  }
}

/** The GPU for a session: asked for while the module that plays on it loads, and behind all that is fetched: a browser may take its time before it says that it has heard. */
async function openGpu(options) {
  const loaded = import("./gpu.js");
  await null;
  askDevice().catch(() => {}); // Gpu.open says what is wrong
  return (await loaded).Gpu.open(options);
}

/** The options for a file beside a model, before which so many bytes came. */
function further({ progress, ...options }, before) {
  return { ...options, integrity: undefined, early: undefined, progress: progress && (({ phase, loaded, total }) => progress({ phase, loaded: before + loaded, total: total && before + total })) };
}

/** Whether a source can be read once more, without its bytes being held. */
const reopens = (what) => typeof what === "string" || ["URL", "Request", "Blob"].some((name) => typeof globalThis[name] === "function" && what instanceof globalThis[name]);

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
