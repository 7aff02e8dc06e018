// gpu-program.js: plays a recording (webgpu/recording.py, as webgpu/stored.py writes it): sizes bound, inputs written, the recorded list submitted, outputs and the status word read in one go.
//
// How to think
// - A table of sizes decides everything that changes: uniforms, workgroups, bytes of memory. It comes from the engine's bind; the same table again changes nothing.
// - Buffers are made for the first sizes, up to twice as large where the model allows, and grow when a later size asks for it. Only then bind groups change. No size compiles anything.
import { InvalidArgument, InvalidModelFile, RuntimeException } from "./errors.js";
import { fromWords, toWords } from "./gpu-words.js";
import { sizeOf } from "./tensor.js";

const FAULTS = 4, CLEAR = 0xffffffff;
const SAID = ["", "an index is outside the tensor", "an integer is divided by zero", "a matrix has no inverse"];
const GROUPS = 65535;

export class GpuProgram {
  #dispatches = []; // {pipeline, layout, groupsRow, buffers, offset, bytes, group, x, y}
  #slabs = [];
  #list = [];

  /** `stored`: the section's text; `constants`: {buffer} of all programs, filled while pipelines compile. `names`: of the inputs. */
  static async create(device, stored, recording, constants, names) {
    const made = new GpuProgram();
    Object.assign(made, { device, recording, names, labels: stored.labels });
    const compiled = new Map();
    for (const [shader, , label] of recording.dispatches) {
      if (!compiled.has(shader)) compiled.set(shader, device.pipeline(...stored.shaders[shader], stored.labels[label]));
    }
    await Promise.all(compiled.values());
    made.fixed = [...recording.constants.map((c) => constants[c]), { buffer: (made.status = device.storage(4, "status")) }];
    device.device.queue.writeBuffer(made.status, 0, new Uint32Array([CLEAR]));
    let at = 0;
    const rows = [];
    for (const [shader, groupsRow, , buffers, uniforms] of recording.dispatches) {
      const bytes = Math.max(16, Math.ceil(uniforms.length / 4) * 16);
      made.#dispatches.push({ ...(await compiled.get(shader)), groupsRow, buffers, offset: at, bytes, group: null, x: 0, y: 0 });
      uniforms.forEach((row, i) => rows.push(at / 4 + i, row));
      at += Math.ceil(bytes / device.alignment) * device.alignment;
    }
    made.rows = Uint32Array.from(rows); // (word of the block, row of the table)
    made.block = new Int32Array(Math.max(4, at / 4));
    made.uniforms = device.uniform(made.block.byteLength);
    made.#slabs = recording.slabs.map(() => null);
    return made;
  }

  /** Sizes: `words`, the bound table (int64) as pairs of 32 bits; `wide`: the same as BigInt64Array. */
  async bind(words, wide) {
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
    this.shapes = this.recording.outputs.map(([, , dims]) => dims.map((row) => Number(wide[row])));
    const grown = needs.some((bytes, i) => !this.#slabs[i] || this.#slabs[i].size < bytes);
    for (const one of this.#dispatches) {
      const count = Number(wide[one.groupsRow]);
      one.x = Math.min(count, GROUPS);
      one.y = count > 0 ? Math.ceil(count / one.x) : 0;
    }
    this.#list = this.#dispatches.filter((one) => one.x > 0);
    if (grown || this.#list.some((one) => !one.group)) await this.device.guarded(() => this.#place(needs, grown));
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
        const roomy = Math.min(most < 0 ? Infinity : most, 2 * needs[i], device.limits.maxStorageBufferBindingSize);
        this.#slabs[i] = device.storage(Math.max(needs[i], roomy), `memory of ${this.labels[this.recording.dispatches[0]?.[2]] ?? "a program"}`);
      });
      for (const one of this.#dispatches) one.group = null;
    }
    for (const one of this.#list) {
      one.group ??= device.device.createBindGroup({
        layout: one.layout,
        entries: [{ binding: 0, resource: { buffer: this.uniforms, offset: one.offset, size: one.bytes } }, ...one.buffers.map((b, i) => ({ binding: i + 1, resource: { buffer: this.buffer(b) } }))],
      });
    }
  }

  /** Buffer number `n`: slabs, constants, the status word. */
  buffer(n) {
    return n < this.#slabs.length ? this.#slabs[n] : this.fixed[n - this.#slabs.length].buffer;
  }

  /**
   * Run what is bound. `inputs`: {bytes} as the engine has them, or {gpu: a buffer}. `keep[i]`: leave output i on the GPU. Returns for each output {type, dims, data | gpu}; a kept buffer is the caller's.
   */
  async run(inputs, keep = []) {
    const { device, recording } = this, { queue } = device.device;
    device.check();
    const foreign = inputs.some((one) => one.gpu);
    if (foreign) device.device.pushErrorScope("validation");
    const encoder = device.device.createCommandEncoder();
    recording.inputs.forEach(([slab, type, ...allowed], i) => {
      if (slab < 0) return; // it only decides sizes
      const { bytes, gpu, size } = inputs[i];
      if (gpu) {
        if (size) encoder.copyBufferToBuffer(gpu, 0, this.buffer(slab), 0, size);
      } else if (bytes.byteLength) queue.writeBuffer(this.buffer(slab), 0, toWords(type, bytes, allowed, this.names[i]));
    });
    if (this.#list.length) this.replay(encoder);
    const made = recording.outputs.map(([slab, type], i) => ({ type, dims: this.shapes[i], bytes: 4 * sizeOf(this.shapes[i]), slab }));
    let total = 8;
    made.forEach((one, i) => {
      if (keep[i]) {
        one.gpu = device.storage(one.bytes, "an output");
        if (one.bytes) encoder.copyBufferToBuffer(this.buffer(one.slab), 0, one.gpu, 0, one.bytes);
      } else {
        one.at = total;
        total += Math.ceil(one.bytes / 8) * 8;
      }
    });
    const staging = device.stage(total);
    encoder.copyBufferToBuffer(this.status, 0, staging, 0, 4);
    for (const one of made) if (one.at && one.bytes) encoder.copyBufferToBuffer(this.buffer(one.slab), 0, staging, one.at, one.bytes);
    queue.submit([encoder.finish()]);
    const wrong = foreign ? await device.device.popErrorScope().catch(() => null) : null;
    if (wrong) {
      device.unstage(staging);
      for (const one of made) device.free(one.gpu);
      throw new InvalidArgument(`a GPU buffer given as an input can not be read: ${wrong.message}. It must belong to env.webgpu.device and have the usage COPY_SRC`);
    }
    try {
      await staging.mapAsync(1, 0, total);
    } catch (error) {
      await Promise.race([device.lost, new Promise((wake) => setTimeout(wake, 200))]);
      device.check();
      throw new RuntimeException(`results could not be read: ${error.message}`, { cause: error });
    }
    const mapped = staging.getMappedRange(0, total);
    const status = new Uint32Array(mapped, 0, 1)[0];
    const results = made.map(({ type, dims, bytes, at, gpu }) => (gpu ? { type, dims, gpu } : { type, dims, data: fromWords(type, mapped.slice(at, at + bytes), bytes / 4) }));
    staging.unmap();
    device.unstage(staging);
    if (status !== CLEAR) {
      for (const one of results) device.free(one.gpu);
      this.#fail(status);
    }
    return results;
  }

  /** The recorded list as one compute pass. */
  replay(encoder) {
    const pass = encoder.beginComputePass();
    let last = null;
    for (const { pipeline, group, x, y } of this.#list) {
      if (pipeline !== last) pass.setPipeline((last = pipeline));
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(x, y);
    }
    pass.end();
  }

  #fail(status) {
    this.device.device.queue.writeBuffer(this.status, 0, new Uint32Array([CLEAR]));
    const where = this.labels[this.recording.steps[Math.floor(status / FAULTS)]] ?? "a step";
    throw new RuntimeException(`${where}: ${SAID[status % FAULTS]}`);
  }

  release() {
    for (const one of [this.uniforms, this.status, ...this.#slabs]) this.device.free(one);
    this.#slabs = [];
  }
}
