// gpu-words.js: elements as they lie in GPU memory (webgpu/wgsl/storage.py): inputs and outputs, there and back.
// Inputs: 32-bit types and the packed ones (8 and 16 bits) keep their bytes, padded to words; 64-bit integers become 32-bit ones where they fit; what is smaller or float8 is widened.
// Outputs: every element is one word: f32, i32 or u32.
import { RuntimeException } from "./errors.js";
import { joined } from "./gpu-device.js";
import { TYPES } from "./tensor.js";

const PLAIN = new Set([1, 6, 12]);
const PACKED = new Set([2, 3, 4, 5, 9, 10, 16]);
const WIDE = new Set([7, 13]);
/** How a GPU buffer of the page's, whose elements lie as the host's, becomes an input: "" where programs read it as it is; "narrow": `NARROW` makes it 32 bits; null where it can not. */
export const fromBuffer = (type) => (PLAIN.has(type) || PACKED.has(type) ? "" : WIDE.has(type) ? "narrow" : null);
/** How an output becomes such a buffer: "" where it is one; "pack": by `packed(type)`; null where it can not. */
export const toBuffer = (type) => (PLAIN.has(type) ? "" : type in PACK ? "pack" : null);

/** Floats of 8 bits and fewer: [exponent bits, mantissa bits, bias, infinity, NaN only as the negative zero]. */
const SMALL = { 17: [4, 3, 7], 18: [4, 3, 8, false, true], 19: [5, 2, 15, true], 20: [5, 2, 16, false, true], 23: [2, 1, 1], 24: [8, 0, 127], 27: [2, 3, 1], 28: [3, 2, 3] };

function valueOf(type, code) {
  if (type === 24) return code === 255 ? NaN : 2 ** (code - 127);
  const [e, m, bias, infinite, zeroNan] = SMALL[type];
  const sign = (code >> (e + m)) & 1, exponent = (code >> m) & ((1 << e) - 1), mantissa = code & ((1 << m) - 1), top = (1 << e) - 1;
  if (zeroNan && sign && !exponent && !mantissa) return NaN;
  if (infinite && exponent === top) return mantissa ? NaN : sign ? -Infinity : Infinity;
  if (type === 17 && exponent === top && mantissa === 7) return NaN;
  const value = exponent ? (1 + mantissa / (1 << m)) * 2 ** (exponent - bias) : (mantissa / (1 << m)) * 2 ** (1 - bias);
  return sign ? -value : value;
}

const tables = {};
const table = (type) => (tables[type] ??= Float32Array.from({ length: 256 }, (_, code) => valueOf(type, code)));

const view = (Kind, bytes) => {
  const from = bytes.byteOffset % Kind.BYTES_PER_ELEMENT ? bytes.slice() : bytes;
  return new Kind(from.buffer, from.byteOffset, from.byteLength / Kind.BYTES_PER_ELEMENT);
};

/** Elements (the engine's bytes) as what is uploaded, a multiple of 4 bytes. `allowed`: [least, most] of 64-bit integers; RuntimeException names the input. */
export function toWords(type, bytes, allowed, name) {
  if (PLAIN.has(type)) return bytes;
  if (PACKED.has(type)) {
    if (bytes.byteLength % 4 === 0) return bytes;
    const made = new Uint8Array(Math.ceil(bytes.byteLength / 4) * 4);
    made.set(bytes);
    return made;
  }
  if (type === 7 || type === 13) return narrowed(type, view(Int32Array, bytes), allowed, name);
  if (type in SMALL) return Float32Array.from(bytes, (code) => table(type)[code]);
  return Int32Array.from(TYPES[type][1] === Int8Array ? view(Int8Array, bytes) : bytes); // 4- and 2-bit integers
}

function narrowed(type, halves, [least, most], name) {
  const made = new Int32Array(halves.length / 2), unsigned = new Uint32Array(made.buffer), signed = type === 7;
  for (let i = 0; i < made.length; i++) {
    const low = (made[i] = halves[2 * i]), high = halves[2 * i + 1];
    const value = signed ? low : unsigned[i];
    if (high !== (signed ? low >> 31 : 0) || value < least || value > most) {
      throw new RuntimeException(`input '${name}' holds ${(BigInt(high) << 32n) | BigInt(low >>> 0)}; on WebGPU this model's ${TYPES[type][0]} inputs must lie within ${least} … ${most}, for which 32 bits are proved to be enough. Run it with executionProviders: ['wasm']`);
    }
  }
  return made;
}

const HEAD = `@compute @workgroup_size(64) fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) g: vec3<u32>, @builtin(local_invocation_index) l: u32) {
  let i = (w.x + w.y * g.x) * 64 + l;
  if (i >= arrayLength(&made)) { return; }`;
const small = (bits) => `${Array.from({ length: 32 / bits }, (_, k) => `((words[i * ${32 / bits} + ${k}] & ${2 ** bits - 1}u) << ${k * bits}u)`).join(" | ")}`;
/** Word `i` of the packed elements. A float16's bits are made as `half` below makes them. */
const PACK = {
  2: small(8), 3: small(8), 9: small(8), 4: small(16), 5: small(16), 16: "(words[2 * i] >> 16u) | (words[2 * i + 1] & 0xffff0000u)", 10: "half(words[2 * i]) | (half(words[2 * i + 1]) << 16u)",
  7: "select(words[i >> 1u], u32(bitcast<i32>(words[i >> 1u]) >> 31u), (i & 1u) == 1u)", 13: "select(words[i >> 1u], 0u, (i & 1u) == 1u)",
};
const HALF = `fn half(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u; let exponent = (bits >> 23u) & 255u; let mantissa = bits & 0x7fffffu;
  if (exponent == 255u) { return sign | 0x7c00u | select(0u, 0x200u | (mantissa >> 13u), mantissa != 0u); }
  if (exponent > 142u) { return sign | 0x7c00u; }
  if (exponent >= 113u) { return sign | ((exponent - 112u) << 10u) | (mantissa >> 13u); }
  return select(sign | ((mantissa | 0x800000u) >> min(126u - exponent, 31u)), sign, exponent < 102u);
}
`;
/** WGSL that packs an output's words (binding 1) as the host has them (binding 2). */
export const packed = (type) => `@group(0) @binding(1) var<storage, read> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> made: array<u32>;
${type === 10 ? HALF : ""}${HEAD}
  made[i] = ${PACK[type]};
}`;
/** WGSL that narrows 64-bit integers (1) to words (2); what is not within `allowed` sets word 1 of the status (3) to the least number of such an element. */
export const narrow = (type, [least, most]) => `@group(0) @binding(1) var<storage, read> words: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> made: array<u32>;
@group(0) @binding(3) var<storage, read_write> status: array<atomic<u32>>;
${HEAD}
  if (i >= arrayLength(&words)) { return; }
  let low = words[i].x; let value = bitcast<i32>(low);
  made[i] = low;
  let fits = ${type === 7 ? `words[i].y == select(0u, 0xffffffffu, value < 0) && value >= ${literal(least)} && value <= ${literal(most)}` : `words[i].y == 0u && low >= ${least}u && low <= ${most}u`};
  if (!fits) { atomicMin(&status[1], i); }
}`;
/** An i32 in WGSL, of a number that may be beyond. */
const literal = (value) => (value <= -2147483648 ? "(-2147483647 - 1)" : String(Math.min(value, 2147483647)));

/** `size` elements from words (a buffer of its own) as the engine's bytes in the type's array; what is smaller than a byte is one a byte. */
export function fromWords(type, buffer, size) {
  const Kind = TYPES[type][1];
  if (PLAIN.has(type)) return new Kind(buffer, 0, size);
  if (type === 7 || type === 13) {
    const words = new Int32Array(buffer, 0, size), made = new Kind(size), halves = new Int32Array(made.buffer);
    for (let i = 0; i < size; i++) {
      halves[2 * i] = words[i];
      halves[2 * i + 1] = type === 7 ? words[i] >> 31 : 0;
    }
    return made;
  }
  if (type === 16) return Uint16Array.from(new Uint32Array(buffer, 0, size), (bits) => bits >>> 16);
  if (type === 10) return Kind === Uint16Array ? Uint16Array.from(new Uint32Array(buffer, 0, size), half) : Kind.from(new Float32Array(buffer, 0, size));
  if (type in SMALL) {
    const codes = new Map(Array.from(table(type), (value, code) => [Object.is(value, -0) ? "-0" : value, code]).reverse());
    return Uint8Array.from(new Float32Array(buffer, 0, size), (value) => codes.get(Object.is(value, -0) ? "-0" : value) ?? 0);
  }
  return Kind.from(new Int32Array(buffer, 0, size));
}

/** The bits of the float16 next to these bits of a float32, ties to even; finite numbers beyond become its largest, as webgpu/recording.py's Form has them. */
export function nearest(bits) {
  const sign = (bits >>> 16) & 0x8000, rest = bits & 0x7fffffff;
  if (rest >= 0x38800000 && rest < 0x477fe000) return sign | ((rest + 0xfff + ((rest >>> 13) & 1) - 0x38000000) >>> 13);
  if (rest >= 0x38800000) return sign | (rest > 0x7f800000 ? 0x7e00 : rest === 0x7f800000 ? 0x7c00 : 0x7bff);
  const shift = 126 - (rest >>> 23);
  if (shift > 25) return sign;
  const mantissa = (rest & 0x7fffff) | 0x800000, low = mantissa & ((1 << shift) - 1), made = mantissa >>> shift, middle = 1 << (shift - 1);
  return sign | (made + (low > middle || (low === middle && made & 1) ? 1 : 0));
}

/** A function of the pieces of float32, cut anywhere, that gives their whole elements as float16 (bytes). */
export function halves() {
  let rest = new Uint8Array(0);
  return (piece) => {
    const all = joined(rest, piece), whole = all.length & ~3, words = view(Uint32Array, all.subarray(0, whole)), made = new Uint16Array(words.length);
    for (let i = 0; i < made.length; i++) made[i] = nearest(words[i]);
    rest = all.slice(whole);
    return new Uint8Array(made.buffer);
  };
}

/** The bits of a float16 that these bits of a float32 are exactly. */
function half(bits) {
  const sign = (bits >>> 16) & 0x8000, exponent = (bits >>> 23) & 255, mantissa = bits & 0x7fffff;
  if (exponent === 255) return sign | 0x7c00 | (mantissa ? 0x200 | (mantissa >>> 13) : 0);
  if (exponent > 142) return sign | 0x7c00;
  if (exponent >= 113) return sign | ((exponent - 112) << 10) | (mantissa >>> 13);
  return exponent < 102 ? sign : sign | ((mantissa | 0x800000) >>> (126 - exponent));
}
