// gpu-program.js: plays a recording (webgpu/recording.py, as webgpu/stored.py writes it): sizes bound, inputs written, the recorded list submitted, outputs and the status word read in one go.
//
// How to think
// - A table of sizes decides everything that changes: uniforms, workgroups, bytes of memory. It comes from the engine's bind; the same table again changes nothing.
// - Buffers are made for the first sizes, and grow when a later size asks for it, by a quarter more than that where the model allows. Only then bind groups change. No size compiles anything.
// - The first run does not wait for all pipelines: what is compiled is submitted, while the others still compile.
// - A GPU buffer given as an input, or for an output, or kept as one, is bound in the place of the slab: nothing is copied. The same one may be both where the recording says so (a cache that grows in
//   place): the dispatch that would copy it is left out. Bind groups are kept by what they bind, so those of a loop over the same tensors exist.
// - A run ends at its submission, as far as the next one is concerned (`submitted`): the queue keeps the order, each run has a staging buffer of its own, and the status word is reset on the GPU.
import { Aborted, InvalidArgument, InvalidModelFile, RuntimeException } from "./errors.js";
import { fromBuffer, fromWords, narrow, packed, toBuffer, toWords } from "./gpu-words.js";
import { lengthOf, sizeOf, TYPES } from "./tensor.js";

const FAULTS = 4, CLEAR = 0xffffffff;
const SAID = ["", "an index is outside the tensor", "an integer is divided by zero", "a matrix has no inverse"];
const GROUPS = 65535, USABLE = 0x80; // GPUBufferUsage.STORAGE
/** Runs that may be submitted and not yet read; bind groups kept of a dispatch; buffers of disposed outputs kept for the next. */
const AHEAD = 4, KEPT = 8, SPARE = 4;

export class GpuProgram {
  #dispatches = []; // {label, number, made: of device.compile, groupsRow, buffers, offset, bytes, group, groups: by what they bind, now: the group of this run, x, y}
  #slabs = [];
  #list = [];
  #spare = [];
  #flying = 0;
  #waiting = null;
  #late = null; // a promise: what the browser says about the buffers made last

  /** `stored`: the section's text; `constants`: {buffer} of each of the recording's, filled while pipelines compile. */
  constructor(device, stored, recording, constants) {
    Object.assign(this, { device, recording, labels: stored.labels });
    const rows = [], compiled = new Map();
    let at = 0;
    for (const [shader, groupsRow, label, buffers, uniforms] of recording.dispatches) {
      if (!compiled.has(shader)) compiled.set(shader, device.compile(...stored.shaders[shader], stored.labels[label]));
      const bytes = Math.max(16, Math.ceil(uniforms.length / 4) * 16);
      this.#dispatches.push({ label: stored.labels[label], number: this.#dispatches.length, made: compiled.get(shader), groupsRow, buffers, offset: at, bytes, group: null, groups: new Map(), now: null, x: 0, y: 0 });
      uniforms.forEach((row, i) => rows.push(at / 4 + i, row));
      at += Math.ceil(bytes / device.alignment) * device.alignment;
    }
    /** Resolves when the browser understands every shader. */
    this.accepted = Promise.all(Array.from(compiled.values(), (one) => one.accepted));
    this.same = new Map((recording.same ?? []).map(([input, output, dispatch]) => [`${input} ${output}`, this.#dispatches[dispatch]]));
    this.rows = Uint32Array.from(rows); // (word of the block, row of the table)
    this.block = new Int32Array(Math.max(4, at / 4));
    this.written = new Set(recording.dispatches.flatMap(([shader, , , buffers]) => buffers.filter((_, i) => stored.shaders[shader][1][i] === "1")));
    this.#slabs = recording.slabs.map(() => null);
    this.uniforms = device.uniform(this.block.byteLength);
    this.status = device.storage(8, "status");
    this.clear = device.storage(8, "status");
    this.fixed = [...constants, { buffer: this.status }];
    for (const one of [this.status, this.clear]) device.device.queue.writeBuffer(one, 0, new Uint32Array([CLEAR, CLEAR]));
  }

  /** Sizes: `words`, the bound table (int64) as pairs of 32 bits; `wide`: the same as BigInt64Array. */
  bind(words, wide) {
    const { block, rows } = this;
    if (this.rowCount !== wide.length) this.#check((this.rowCount = wide.length));
    for (let i = 0; i < rows.length; i += 2) {
      const at = 2 * rows[i + 1], size = (block[rows[i]] = words[at]);
      if (words[at + 1] !== size >> 31) throw new RuntimeException(`a size or stride of ${wide[rows[i + 1]]} does not fit the 32 bits WebGPU counts in: use smaller inputs, or executionProviders: ['wasm']`);
    }
    this.device.device.queue.writeBuffer(this.uniforms, 0, block);
    const needs = this.recording.slabs.map(([, ...tenants]) => {
      let most = 0;
      for (let i = 0; i < tenants.length; i += 2) most = Math.max(most, Number(wide[tenants[i]]) * tenants[i + 1]);
      return most;
    });
    this.bound = true;
    this.shapes = this.recording.outputs.map(([, , dims]) => dims.map((row) => Number(wide[row])));
    const grown = needs.some((bytes, i) => !this.#slabs[i] || this.#slabs[i].size < bytes);
    for (const one of this.#dispatches) {
      const count = Number(wide[one.groupsRow]);
      one.x = Math.min(count, GROUPS);
      one.y = count > 0 ? Math.ceil(count / one.x) : 0;
    }
    this.#list = this.#dispatches.filter((one) => one.x > 0);
    if (grown || this.#list.some((one) => !one.group)) this.#late = this.device.watched(() => this.#place(needs, grown))[1];
  }

  /** Every row a recording names is in the table: checked once; what else it names, gpu.js has checked. */
  #check(rows) {
    const { dispatches, slabs, outputs } = this.recording;
    const named = [...dispatches.flatMap(([, groups, , , uniforms]) => [groups, ...uniforms]), ...slabs.flatMap(([, ...tenants]) => tenants.filter((_, i) => i % 2 === 0)), ...outputs.flatMap(([, , dims]) => dims)];
    if (named.some((row) => row >= rows)) throw new InvalidModelFile("WebGPU section: a recording refers to a size that is not there; convert the model again");
  }

  #place(needs, grown) {
    const { device } = this;
    if (grown) {
      this.recording.slabs.forEach(([most], i) => {
        const held = this.#slabs[i];
        if (held && held.size >= needs[i]) return;
        device.free(held);
        this.#slabs[i] = null;
        const roomy = Math.min(most < 0 ? Infinity : most, held ? 1.25 * needs[i] : needs[i], device.limits.maxStorageBufferBindingSize);
        this.#slabs[i] = device.storage(Math.max(needs[i], roomy), `memory of ${this.labels[this.recording.dispatches[0]?.[2]] ?? "a program"}`);
      });
      for (const one of this.#dispatches) this.#unbind(one);
    }
    for (const one of this.#list) one.group ??= this.#group(one, one.buffers.map((b) => ({ buffer: this.buffer(b) })));
  }

  #unbind(one) {
    one.group = one.now = null;
    one.groups.clear();
  }

  #group({ made, offset, bytes }, resources) {
    const entries = [{ buffer: this.uniforms, offset, size: bytes }, ...resources];
    return this.device.device.createBindGroup({ layout: made.layout, entries: entries.map((resource, binding) => ({ binding, resource })) });
  }

  /** Buffer number `n`: slabs, constants, the status word. */
  buffer(n) {
    return n < this.#slabs.length ? this.#slabs[n] : this.fixed[n - this.#slabs.length].buffer;
  }

  /**
   * Run what is bound. `inputs`: {type, bytes} as the engine has them, or {type, gpu: a buffer, size: its bytes}. `keep[i]`: leave output i on the GPU, or {gpu, type, dims, name}: there. `submitted` is
   * called when the next run may begin. `note`: told the {name, step, start, duration: ms} of each dispatch, where the device has a clock. Returns for each output {type, dims, data | gpu, given}; a kept buffer is the caller's, who gives it back by `give` unless it was `given`.
   */
  async run(inputs, keep = [], submitted = () => {}, note = null) {
    const { device, recording } = this;
    device.check();
    const placed = this.#late, late = [], given = keep.some((one) => one?.gpu), watched = Boolean(placed) || given || inputs.some((one) => one.gpu);
    this.#late = null;
    const made = recording.outputs.map(([slab, type], i) => ({ type, dims: this.shapes[i], bytes: 4 * sizeOf(this.shapes[i]), slab, keep: Boolean(keep[i]), given: keep[i]?.gpu ?? null }));
    checkTargets(made, keep);
    const clock = note && this.#list.length ? device.clock(this.#list.length) : null;
    let staging = null;
    try {
      const steps = await this.#helpers(inputs, made);
      if (clock) await Promise.all(this.#list.map(({ made: { ready } }) => ready)); // its passes are one submission's
      staging = await this.#submit(inputs, made, steps, clock, (what) => {
        if (!watched) return what();
        const [result, error] = device.watched(what, given ? unwritable : (why) => new InvalidArgument(`a GPU buffer given as an input can not be read: ${why}. It must belong to env.webgpu.device, be alive and not mapped, and have the usage STORAGE or COPY_SRC`));
        late.push(error);
        return result;
      });
      const error = await placed;
      if (error) throw (this.#forget(), error);
      this.#begun(submitted);
      const [start, ran] = [performance.now(), this.#list.filter(({ now }) => now)];
      const results = await this.#results(made, staging, late).finally(() => this.#ended());
      if (clock) (await clock.read()).forEach(([begin, duration], i) => note({ name: ran[i].label, step: ran[i].number, start: start + begin / 1e6, duration: duration / 1e6 }));
      return results;
    } catch (error) {
      for (const one of made) if (!one.given) device.free(one.gpu);
      throw error;
    } finally {
      clock?.free();
      if (staging?.mapState === "unmapped") device.unstage(staging);
      else device.free(staging);
    }
  }

  /** Pipelines that turn the page's elements into words and back: for inputs and for outputs, null where none is needed. */
  async #helpers(inputs, made) {
    const { device, recording } = this, label = (i) => `input '${this.names[i]}'`;
    const find = async (source, writes, what) => {
      const found = device.compile(source, writes, what);
      await found.ready;
      return found;
    };
    return {
      inputs: await Promise.all(recording.inputs.map(([slab, type, ...allowed], i) => (slab >= 0 && inputs[i].gpu && fromBuffer(type) === "narrow" ? find(narrow(type, allowed), "011", label(i)) : null))),
      outputs: await Promise.all(made.map(({ type, keep }) => (keep && toBuffer(type) === "pack" ? find(packed(type), "01", "an output") : null))),
    };
  }

  /** Queue everything a run does on the GPU; the staging buffer with the status and what is not kept. `checked(what)` does it where mistakes of the page's are found. */
  async #submit(inputs, made, helpers, clock, checked) {
    const { device } = this, instead = new Map(); // slab → what is bound in its place
    let encoder = device.device.createCommandEncoder();
    checked(() => {
      this.#take(encoder, inputs, instead, helpers.inputs);
      const left = this.#stay(made, instead, inputs);
      for (const one of this.#list) one.now = left.has(one) ? null : instead.size && one.buffers.some((b) => instead.has(b)) ? this.#rebound(one, instead) : one.group;
    });
    for (let at = 0; at < this.#list.length; ) {
      const waits = this.#list.findIndex((one, i) => i >= at && !one.made.pipeline), end = waits < 0 ? this.#list.length : waits;
      if (end > at) this.replay(encoder, at, end, clock);
      at = end;
      if (waits < 0) break;
      checked(() => device.device.queue.submit([encoder.finish()])); // while the rest compiles
      await this.#list[at].made.ready;
      device.check();
      if (!this.#slabs) throw new Aborted("the session was released");
      encoder = device.device.createCommandEncoder();
    }
    const staging = device.stage(this.#lay(made));
    checked(() => {
      made.forEach((one, i) => {
        const from = instead.get(one.slab)?.buffer ?? this.buffer(one.slab);
        if (!one.bytes || from === one.gpu) return;
        if (helpers.outputs[i]) this.#help(encoder, helpers.outputs[i], [{ buffer: from }, { buffer: one.gpu, size: one.held }], one.held / 4);
        else encoder.copyBufferToBuffer(from, 0, one.gpu ?? staging, one.gpu ? 0 : one.at, one.bytes);
      });
      clock?.end(encoder);
      encoder.copyBufferToBuffer(this.status, 0, staging, 0, 8);
      encoder.copyBufferToBuffer(this.clear, 0, this.status, 0, 8);
      device.device.queue.submit([encoder.finish()]);
    });
    return staging;
  }

  /** Where the outputs that are not kept lie in the staging buffer; bytes of it. */
  #lay(made) {
    let total = 8;
    for (const one of made) {
      one.at = total;
      if (!one.keep) total += Math.ceil(one.bytes / 8) * 8;
    }
    return total;
  }

  /** Inputs: written to their slabs, or what is bound in their place. */
  #take(encoder, inputs, instead, helpers) {
    const { queue } = this.device.device;
    this.recording.inputs.forEach(([slab, type, ...allowed], i) => {
      if (slab < 0) return; // it only decides sizes
      const { bytes, gpu, size } = inputs[i];
      if (!gpu) {
        if (bytes.byteLength) queue.writeBuffer(this.buffer(slab), 0, toWords(type, bytes, allowed, this.names[i]));
      } else if (!size) {
        return;
      } else if (helpers[i]) this.#help(encoder, helpers[i], [{ buffer: gpu, size }, { buffer: this.buffer(slab) }, { buffer: this.status }], size / 8);
      else if (gpu.usage & USABLE && !this.written.has(slab)) instead.set(slab, { buffer: gpu, size: Math.ceil(size / 4) * 4 });
      else encoder.copyBufferToBuffer(gpu, 0, this.buffer(slab), 0, Math.ceil(size / 4) * 4);
    });
  }

  /** Kept outputs: buffers of their own or the page's, written in place where their elements lie as programs write them. The dispatches to leave out: both their ends are one buffer. */
  #stay(made, instead, inputs) {
    const left = new Set();
    for (const [i, one] of made.entries()) {
      if (!one.keep) continue;
      one.held = Math.ceil((lengthOf(one.type, sizeOf(one.dims)) * TYPES[one.type][1].BYTES_PER_ELEMENT) / 4) * 4;
      const at = one.given ? -1 : this.#spare.findIndex(({ size }) => size >= one.held && size <= Math.max(2 * one.held, 4096));
      one.gpu = one.given ?? (at < 0 ? this.device.storage(one.held, "an output") : this.#spare.splice(at, 1)[0]);
      if (!one.bytes || toBuffer(one.type) !== "" || instead.has(one.slab)) continue;
      if (one.given) {
        const readers = inputs.flatMap(({ gpu, dims }, j) => (gpu === one.given ? [String(dims) === String(one.dims) && this.same.get(`${j} ${i}`)] : []));
        if (!(one.given.usage & USABLE) || !readers.every(Boolean)) continue; // copied there when the run is over
        for (const dispatch of readers) left.add(dispatch);
      }
      instead.set(one.slab, one.given ? { buffer: one.gpu, size: one.held } : { buffer: one.gpu });
    }
    return left;
  }

  /** The bind group with other buffers in the place of slabs. */
  #rebound(one, instead) {
    const resources = one.buffers.map((b) => instead.get(b) ?? { buffer: this.buffer(b) });
    const key = resources.map(({ buffer, size = 0 }) => `${this.device.numberOf(buffer)}:${size}`).join();
    if (!one.groups.has(key)) {
      if (one.groups.size === KEPT) one.groups.clear();
      one.groups.set(key, this.#group(one, resources));
    }
    return one.groups.get(key);
  }

  /** A helper's dispatch for `count` items. */
  #help(encoder, { pipeline, layout }, resources, count) {
    const groups = Math.ceil(count / 64), pass = encoder.beginComputePass(), entries = [{ buffer: this.uniforms, offset: 0, size: 16 }, ...resources];
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, this.device.device.createBindGroup({ layout, entries: entries.map((resource, binding) => ({ binding, resource })) }));
    pass.dispatchWorkgroups(Math.min(groups, GROUPS), Math.ceil(groups / GROUPS));
    pass.end();
  }

  /** What a run made, once it is done. */
  async #results(made, staging, late) {
    const { device } = this, total = this.#lay(made);
    try {
      await staging.mapAsync(1, 0, total);
    } catch (error) {
      await Promise.race([device.lost, new Promise((wake) => setTimeout(wake, 200))]);
      device.check();
      throw new RuntimeException(`results could not be read: ${error.message}`, { cause: error });
    }
    const mapped = staging.getMappedRange(0, total), status = new Uint32Array(mapped.slice(0, 8));
    const results = made.map(({ type, dims, bytes, at, gpu, given }) => (gpu ? { type, dims, gpu, given: Boolean(given) } : { type, dims, data: fromWords(type, mapped.slice(at, at + bytes), bytes / 4) }));
    staging.unmap();
    const wrong = (await Promise.all(late)).find((error) => error);
    if (wrong) {
      for (const one of this.#dispatches) one.groups.clear();
      throw wrong;
    }
    if (status[1] !== CLEAR) throw new RuntimeException(`an int64 or uint64 input on the GPU holds, at element ${status[1]}, a number beyond what 32 bits are proved to be enough for; run this model with executionProviders: ['wasm']`);
    if (status[0] !== CLEAR) throw this.#fault(status[0]);
    return results;
  }

  /** A run is on its way: the next may begin, unless there are many. */
  #begun(submitted) {
    if (++this.#flying < AHEAD) submitted();
    else this.#waiting = submitted;
  }

  #ended() {
    this.#flying--;
    this.#waiting?.();
    this.#waiting = null;
  }

  /** Buffers that could not be had are not used again. */
  #forget() {
    if (!this.#slabs) return; // released
    for (const slab of this.#slabs) this.device.free(slab);
    this.#slabs = this.recording.slabs.map(() => null);
    for (const one of this.#dispatches) this.#unbind(one);
    this.bound = false;
  }

  /** Take the buffer of a kept output back. */
  give(buffer) {
    if (!this.#slabs || this.device.failure) return this.device.free(buffer);
    this.#spare.push(buffer);
    if (this.#spare.length > SPARE * this.recording.outputs.length) this.device.free(this.#spare.shift());
  }

  /** The recorded list as one compute pass, or with a clock one pass a dispatch. */
  replay(encoder, from = 0, to = this.#list.length, clock = null) {
    let pass = clock ? null : encoder.beginComputePass(), last = null;
    for (let i = from; i < to; i++) {
      const { made, now, x, y } = this.#list[i];
      if (!now) continue;
      if (clock) {
        pass?.end();
        [pass, last] = [clock.pass(encoder), null];
      }
      if (made !== last) pass.setPipeline((last = made).pipeline);
      pass.setBindGroup(0, now);
      pass.dispatchWorkgroups(x, y);
    }
    pass?.end();
  }

  #fault(status) {
    const where = this.labels[this.recording.steps[Math.floor(status / FAULTS)]] ?? "a step";
    return new RuntimeException(`${where}: ${SAID[status % FAULTS]}; the same run with executionProviders: ['wasm'] says which`);
  }

  release() {
    for (const one of [this.uniforms, this.status, this.clear, ...(this.#slabs ?? []), ...this.#spare]) this.device.free(one);
    this.#slabs = null;
    this.#spare = [];
  }
}

/** A tensor of the page's for an output has its type and dims. */
export function mustFit(target, { type, dims }) {
  if (target.type === type && String(target.dims) === String(dims)) return;
  throw new InvalidArgument(`the tensor given for output '${target.name}' is ${TYPES[target.type][0]}[${target.dims}], the output is ${TYPES[type][0]}[${dims}]`);
}

function checkTargets(made, keep) {
  made.forEach((one, i) => one.given && mustFit(keep[i], one));
  const twice = made.findIndex((one, i) => one.given && made.findIndex((other) => other.given === one.given) < i);
  if (twice >= 0) throw new InvalidArgument(`the GPU buffer given for output '${keep[twice].name}' is another output's, too: give one of its own`);
}

/** What the browser says about a buffer that was given for an output, or another of that run. */
export const unwritable = (why) => new InvalidArgument(`a GPU buffer given for an input or output can not be used: ${why}. It must belong to env.webgpu.device, be alive and not mapped, and have the `
  + "usage STORAGE; an input that is copied COPY_SRC, an output COPY_DST");
