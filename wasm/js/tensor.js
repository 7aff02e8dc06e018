// tensor.js: Tensor with onnxruntime-web's names and shapes. Data lie in memory of the page (location "cpu"), of a session's engine ("cpu-pinned") or of the GPU; strings are arrays of strings.
// float16 is Float16Array where the browser has it, else Uint16Array with the bits; 4-bit types hold two elements a byte, first in the low bits, as in onnxruntime-web.
import { InvalidArgument } from "./errors.js";

const half = globalThis.Float16Array ?? Uint16Array;

/** ONNX's number of an element type → [name, array, bits]. */
export const TYPES = {
  1: ["float32", Float32Array, 32], 2: ["uint8", Uint8Array, 8], 3: ["int8", Int8Array, 8], 4: ["uint16", Uint16Array, 16], 5: ["int16", Int16Array, 16], 6: ["int32", Int32Array, 32],
  7: ["int64", BigInt64Array, 64], 8: ["string", Array, 0], 9: ["bool", Uint8Array, 8], 10: ["float16", half, 16], 11: ["float64", Float64Array, 64], 12: ["uint32", Uint32Array, 32],
  13: ["uint64", BigUint64Array, 64], 14: ["complex64", Float32Array, 64], 15: ["complex128", Float64Array, 128], 16: ["bfloat16", Uint16Array, 16], 17: ["float8e4m3fn", Uint8Array, 8],
  18: ["float8e4m3fnuz", Uint8Array, 8], 19: ["float8e5m2", Uint8Array, 8], 20: ["float8e5m2fnuz", Uint8Array, 8], 21: ["uint4", Uint8Array, 4], 22: ["int4", Int8Array, 4],
  23: ["float4e2m1", Uint8Array, 4], 24: ["float8e8m0", Uint8Array, 8], 25: ["uint2", Uint8Array, 2], 26: ["int2", Int8Array, 2], 27: ["float6e2m3", Uint8Array, 8], 28: ["float6e3m2", Uint8Array, 8],
};
/** Name → ONNX's number. */
export const NUMBERS = Object.fromEntries(Object.entries(TYPES).map(([number, [name]]) => [name, Number(number)]));

const DEFAULTS = new Map([[Float32Array, 1], [Uint8Array, 2], [Int8Array, 3], [Uint16Array, 4], [Int16Array, 5], [Int32Array, 6], [BigInt64Array, 7], [Float64Array, 11], [Uint32Array, 12],
  [BigUint64Array, 13], [Uint8ClampedArray, 2], ...(globalThis.Float16Array ? [[Float16Array, 10]] : [])]);

/** Elements of these dims; InvalidArgument for what is no size. */
export function sizeOf(dims) {
  let size = 1;
  for (const [axis, d] of dims.entries()) {
    if (!Number.isSafeInteger(d) || d < 0) throw new InvalidArgument(`dims[${axis}] is ${d}: sizes are whole numbers, zero or more`);
    size *= d;
  }
  if (!Number.isSafeInteger(size)) throw new InvalidArgument(`a tensor of dims [${dims}] has more elements than can be counted`);
  return size;
}

/** Elements of a data array for `size` elements of a type. */
export const lengthOf = (number, size) => (TYPES[number][2] < 8 && TYPES[number][2] ? Math.ceil((size * TYPES[number][2]) / 8) : number === 14 || number === 15 ? 2 * size : size);

function convert(type, number, values) {
  const [, kind] = TYPES[number];
  if (number === 8) return [...values];
  if (kind === BigInt64Array || kind === BigUint64Array) return kind.from(values, BigInt);
  if (type === "float16" && kind === Uint16Array) throw new InvalidArgument("float16 from numbers needs Float16Array, which this browser lacks; give the bits as a Uint16Array");
  return kind.from(values);
}

function accept(type, number, data) {
  if (number === 8) {
    if (Array.isArray(data)) return data;
    throw new InvalidArgument(`a string tensor takes an array of strings, not ${data?.constructor?.name}`);
  }
  const kind = TYPES[number][1];
  if (data instanceof kind) return data;
  if (Array.isArray(data)) return convert(type, number, data);
  if (type === "float16" && data instanceof Uint16Array) return data;
  if (data instanceof Uint8ClampedArray && kind === Uint8Array) return new Uint8Array(data.buffer, data.byteOffset, data.length);
  throw new InvalidArgument(`a ${type} tensor takes a ${kind.name}, not ${data?.constructor?.name ?? typeof data}`);
}

let heldOf, holding;

export class Tensor {
  #data;
  #held; // {location, download, dispose, and buffer, or owner and id} where the data are not in the page's memory; {location, owner, id, read, dispose, users …}: of an output nobody has read

  static {
    heldOf = (tensor) => tensor.#held;
    holding = (number, dims, held) => {
      const made = new Tensor(TYPES[number][0], new TYPES[number][1](0), [0]);
      made.dims = Object.freeze([...dims]);
      made.size = sizeOf(dims);
      made.#data = undefined;
      made.#held = held;
      return made;
    };
  }

  /** new Tensor(type, data, dims?) or new Tensor(data, dims?): without dims, one axis. */
  constructor(first, second, third) {
    let type, data, dims;
    if (typeof first === "string") {
      [type, data, dims] = [first, second, third];
      if (!(type in NUMBERS)) throw new InvalidArgument(`'${type}' is not an element type; known are ${Object.keys(NUMBERS).join(", ")}`);
      data = accept(type, NUMBERS[type], data);
    } else {
      [data, dims] = [first, second];
      if (Array.isArray(data)) {
        if (typeof data[0] === "string") type = "string";
        else if (typeof data[0] === "boolean") [type, data] = ["bool", Uint8Array.from(data)];
        else throw new InvalidArgument("an array of numbers needs a type: new Tensor('float32', [1, 2, 3], [3])");
      } else {
        const number = DEFAULTS.get(data?.constructor);
        if (!number) throw new InvalidArgument(`a tensor is made of a typed array or an array, not ${data?.constructor?.name ?? typeof data}`);
        type = TYPES[number][0];
        if (data instanceof Uint8ClampedArray) data = accept(type, number, data);
      }
    }
    if (dims !== undefined && !Array.isArray(dims)) throw new InvalidArgument("a tensor's dims must be a number array");
    this.type = type;
    this.dims = Object.freeze([...(dims ?? [data.length])]);
    this.size = sizeOf(this.dims);
    const length = lengthOf(NUMBERS[type], this.size);
    if (length !== data.length) throw new InvalidArgument(`Tensor's size (${length}) does not match data length (${data.length}): dims are [${this.dims}] of ${type}`);
    this.#data = data;
  }

  /** A tensor whose data are a GPUBuffer of env.webgpu.device, dense and row-major. Options: dataType, dims, download (async () => data), dispose. */
  static fromGpuBuffer(buffer, { dataType = "float32", dims, download, dispose } = {}) {
    const number = NUMBERS[dataType];
    if (!number || dataType === "string") throw new InvalidArgument(`'${dataType}' is not an element type of a GPU buffer`);
    if (!Array.isArray(dims)) throw new InvalidArgument("a tensor of a GPU buffer needs its dims: Tensor.fromGpuBuffer(buffer, { dataType, dims })");
    const bytes = Math.ceil((sizeOf(dims) * TYPES[number][2]) / 32) * 4; // whole words
    if (!(buffer?.size >= bytes)) throw new InvalidArgument(`the GPU buffer has ${buffer?.size} bytes, ${dataType}[${dims}] takes ${bytes}`);
    return holding(number, dims, { location: "gpu-buffer", buffer, download, dispose });
  }

  /** A picture: ImageData, ImageBitmap, VideoFrame, image, video, canvas, Blob, URL, GPUTexture. Options as onnxruntime-web's, and location: "gpu-buffer" (image.js). */
  static async fromImage(source, options) {
    const { pictured } = await import("./image.js");
    const { type, dims, data, gpu, device } = await pictured(source, options);
    if (!gpu) return new Tensor(type, data, dims);
    return Tensor.fromGpuBuffer(gpu, { dataType: type, dims, download: () => device.download(gpu, 4 * sizeOf(dims), Float32Array), dispose: () => device.free(gpu) });
  }

  /** Where the data are: "cpu", "cpu-pinned" (in the engine's memory of the session that made it), "gpu-buffer", or "none" once disposed. */
  get location() {
    return this.#held?.location ?? (this.#data === undefined ? "none" : "cpu");
  }

  get gpuBuffer() {
    if (this.location !== "gpu-buffer") throw new InvalidArgument(`the tensor's data are not on the GPU: its location is "${this.location}"`);
    return this.#held.buffer;
  }

  get data() {
    if (this.#held?.read) {
      this.#data = this.#held.read();
      this.#held = undefined;
    }
    if (this.#held) throw new InvalidArgument(`the tensor's data are ${this.#held.buffer ? "on the GPU" : "in the engine's memory"} (location "${this.location}"): await tensor.getData()`);
    if (this.#data === undefined) throw new InvalidArgument("the tensor is disposed");
    return this.#data;
  }

  /** The data; from the GPU they stay here afterwards, in the engine's memory they stay too. With `release` the tensor gives up what is there, or its data. */
  async getData(release = false) {
    if (this.#held && !this.#held.read) {
      const { download, location } = this.#held;
      if (!download) throw new InvalidArgument("the tensor was made of a GPU buffer without a way to download it: Tensor.fromGpuBuffer(buffer, { …, download })");
      const data = await download();
      if (location === "cpu-pinned" && !release) return data; // a copy
      if (release) this.#held?.dispose?.();
      this.#held = undefined;
      this.#data = data;
      return data;
    }
    const data = this.data;
    if (release) this.dispose();
    return data;
  }

  dispose() {
    this.#held?.dispose?.();
    this.#held = undefined;
    this.#data = undefined;
  }

  /** The same data with other dims; where they are not in the page's memory, they stay this tensor's to dispose. */
  reshape(dims) {
    if (this.#held && !this.#held.read) {
      if (sizeOf(dims) !== this.size) throw new InvalidArgument(`${this} has ${this.size} elements, [${dims}] has ${sizeOf(dims)}`);
      return holding(NUMBERS[this.type], dims, { ...this.#held, dispose: undefined });
    }
    return new Tensor(this.type, this.data, dims);
  }

  toString() {
    return `${this.type}[${this.dims}]`;
  }
}

/** A tensor in the engine's memory of `owner` (a session), where it has the number `id`. */
export const pinnedTensor = ({ type, dims, pinned: id }, owner) =>
  holding(type, dims, { location: "cpu-pinned", owner, id, download: () => owner.pinnedData(id), dispose: () => owner.unpin(id) });

/** {owner, id} of such a tensor. */
export const pinOf = (tensor) => heldOf(tensor);

/** Outputs nobody read and nobody has any more. */
const collected = typeof FinalizationRegistry === "function" ? new FinalizationRegistry((held) => held.dispose()) : undefined;
/** Whether a page can be told of those; else its outputs are copied out at once. */
export const canWait = !!collected;

/** Nothing of so many bytes, which no memory is taken for: the garbage collector knows then what a tensor keeps in the engine. */
function weighing(bytes) {
  try {
    return bytes ? new ArrayBuffer(bytes) : undefined;
  } catch {
    return undefined; // no addresses left for it
  }
}

/** An output that is copied out of the engine's memory of `owner`, where it has the number `id`, when its data are read. */
export function unreadTensor({ type, dims, unread: id, weight }, owner) {
  const held = { location: "cpu", owner, id, users: 0, over: false, weight: weighing(weight) };
  const end = () => {
    collected.unregister(held);
    held.over = true;
    if (!held.users) owner.unpin(id);
  };
  Object.assign(held, {
    dispose: end,
    read() {
      const data = held.users ? owner.kept.read(id) : owner.unreadData(id);
      end();
      return data;
    },
    /** A run will read it: it stays until that has ended. */
    use: () => held.users++,
    done: () => !--held.users && held.over && owner.unpin(id),
  });
  const made = holding(type, dims, held);
  collected.register(made, held, held);
  return made;
}

/** The same of an output nobody has read, else undefined. */
export const unreadOf = (tensor) => (tensor instanceof Tensor && heldOf(tensor)?.read ? heldOf(tensor) : undefined);
