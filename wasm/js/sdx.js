// sdx.js: the frame of a .sdx file (core/model/FORMAT.md): header, programs section, tensor data. Nothing else of it is read here: the graph section is for Python.
import { InvalidModelFile, NotImplemented } from "./errors.js";

export const HEADER = 128;
/** What a file of tensor data alone begins with. */
export const DATA_HEADER = 64;
const MAGIC = [0x89, 0x53, 0x44, 0x58, 0x0d, 0x0a, 0x1a, 0x0a];
const DATA_MAGIC = [0x89, 0x53, 0x44, 0x44, 0x0d, 0x0a, 0x1a, 0x0a];
const CONVERTER = "npx sardonyx convert model.onnx";

const starts = (bytes, magic) => magic.every((b, i) => bytes[i] === b);

function u64(view, at, what) {
  const value = view.getBigUint64(at, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new InvalidModelFile(`header: ${what} is ${value}, more than a file can have`);
  return Number(value);
}

/** The sections of a header: {graph, programs, webgpu, data: {offset, length}, external, id}. `name` and `type` (a server's content type) are for messages. */
export function readHeader(bytes, name, type = "") {
  if (bytes.length < 8 || !starts(bytes, MAGIC)) throw notSdx(bytes, name, type);
  if (bytes.length < HEADER) throw new InvalidModelFile(`'${name}' is cut off inside its header (${bytes.length} of ${HEADER} bytes)`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const major = view.getUint16(8, true), minor = view.getUint16(10, true), flags = view.getUint32(12, true);
  if (major !== 1) throw new InvalidModelFile(`'${name}' has file format ${major}.${minor}; this runtime reads 1.x. Make it again: ${CONVERTER}`);
  if (flags & ~1) throw new InvalidModelFile(`header: flags ${flags} are not known`);
  const external = (flags & 1) === 1;
  const section = (at, what) => ({ what, offset: u64(view, at, `the ${what} section's offset`), length: u64(view, at + 8, `the ${what} section's length`) });
  const graph = section(16, "graph"), programs = section(32, "programs"), data = section(48, "tensor data"), webgpu = section(80, "WebGPU");
  const inside = [graph, programs, webgpu, ...(external ? [] : [data])].filter((s) => s.length).sort((a, b) => a.offset - b.offset);
  let end = HEADER;
  for (const s of inside) {
    if (s.offset % 64 || s.offset < end) throw new InvalidModelFile(`header: the ${s.what} section (offset ${s.offset}, ${s.length} bytes) is not at a multiple of 64 behind the others`);
    end = s.offset + s.length;
    if (!Number.isSafeInteger(end)) throw new InvalidModelFile(`header: the ${s.what} section ends beyond what a file can have`);
  }
  return { graph, programs, webgpu, data, external, end, order: inside, id: hex(bytes.subarray(64, 80)) };
}

const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

/** Whether a planner is worth asking what these first bytes are: no .sdx, and not one of the things servers send instead of a file. */
export const foreign = (bytes, name, type) => bytes.length > 0 && !starts(bytes, MAGIC) && !/web page|Git LFS/.test(notSdx(bytes, name, type).message);

function notSdx(bytes, name, type) {
  const text = new TextDecoder().decode(bytes.subarray(0, 64)).trimStart().toLowerCase();
  if (text.startsWith("<!doctype") || text.startsWith("<html") || (text.startsWith("<") && type.includes("html"))) {
    return new InvalidModelFile(`'${name}' is a web page (${type || "HTML"}), not a model: servers send one for a missing file; check the address`);
  }
  if (text.startsWith("version https://git-lfs")) return new InvalidModelFile(`'${name}' is a Git LFS pointer, not the model; fetch the file itself`);
  if (bytes[0] === 0x08 || /\.onnx($|\?)/.test(name)) {
    return new NotImplemented(`'${name}' looks like an ONNX file; pages run converted files. Convert it once: ${CONVERTER}  (in a browser: convert.html, the converter page of the demo site; or create it with {planner: "pyodide"})`);
  }
  return new InvalidModelFile(`'${name}' is not a .sdx file (it begins with ${hex(bytes.subarray(0, 8)) || "nothing"}${type ? `, the server calls it ${type}` : ""}); convert the model: ${CONVERTER}`);
}

/** Whether a programs section can run here at all; what else is wrong with it, `checkPrograms` says. */
export const runnable = (section, abi) => section.length >= 16 && new DataView(section.buffer, section.byteOffset).getUint16(4, true) === abi;

/** Where the words of the programs section's 16-byte header end. Throws where there are no programs or another ABI. */
export function checkPrograms(head, length, name, abi) {
  if (length < 16) throw new NotImplemented(`'${name}' holds no programs, which are what runs without Python; convert it with them: ${CONVERTER}`);
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (view.getUint32(0, true) !== 0x50584453) throw new InvalidModelFile("programs section: wrong magic");
  const major = view.getUint16(4, true), minor = view.getUint16(6, true);
  if (major !== abi) throw new InvalidModelFile(`'${name}' holds programs of ABI ${major}.${minor}, this runtime runs ${abi}.x; make it again: ${CONVERTER}`);
  const words = u64(view, 8, "the programs' length");
  if (words > length - 16 || words % 8) throw new InvalidModelFile(`programs section: ${words} bytes of words do not fit into ${length}`);
  return words;
}

/** Change a header that says "tensor data in another file" to "here, at `offset`". */
export function embed(file, offset) {
  const view = new DataView(file.buffer);
  view.setUint32(12, view.getUint32(12, true) & ~1, true);
  view.setBigUint64(48, BigInt(offset), true);
}

/** Check the 64 bytes a data file begins with; returns the bytes of tensor data. */
export function readDataHeader(bytes, header, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!starts(bytes, DATA_MAGIC)) throw new InvalidModelFile(`'${name}' is not a data file of a .sdx model`);
  if (hex(bytes.subarray(24, 40)) !== header.id) throw new InvalidModelFile(`'${name}' belongs to another model; give the data file written with this one`);
  const length = u64(view, 16, "the tensor data's length");
  if (length !== header.data.length) throw new InvalidModelFile(`'${name}' has ${length} bytes of tensor data, the model needs ${header.data.length}`);
  return length;
}
