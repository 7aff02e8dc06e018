// errors.js: every error the runtime throws. One class a kind, named as in Python's sardonyx.errors; `code` is onnxruntime's number of the same kind.
// The message names the thing and what to do about it; errors cross from a worker by `pack` and `unpack`.

export class SardonyxError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.kind;
    this.code = new.target.code;
  }
  static kind = "SardonyxError";
  static code = 1;
}

const define = (kind, code, base = SardonyxError) => class extends base {
  static kind = kind;
  static code = code;
};

export const Fail = define("Fail", 1);
export const InvalidArgument = define("InvalidArgument", 2);
export const NoSuchFile = define("NoSuchFile", 3);
export const RuntimeException = define("RuntimeException", 6);
/** Not an ONNX file, or a damaged one (the planner says so). */
export const InvalidProtobuf = define("InvalidProtobuf", 7);
/** Not a .sdx file, or a damaged one. */
export const InvalidModelFile = define("InvalidModelFile", 7, InvalidProtobuf);
/** A model that breaks ONNX's rules (the planner says so). */
export const InvalidGraph = define("InvalidGraph", 10);
export const NotImplemented = define("NotImplemented", 9);
/** wasm is switched off, has no SIMD, or the page's CSP forbids it. */
export const EngineUnavailable = define("EngineUnavailable", 5);
/** The network failed, or gave something else than the file asked for. */
export const NetworkError = define("NetworkError", 1);
/** Memory refused to grow, or the model needs more than wasm can address. */
export const MemoryLimit = define("MemoryLimit", 1);
/** The caller's AbortSignal, or `release` during a run. Its name is AbortError, as for fetch. */
export const Aborted = define("AbortError", 12);
/** The worker that ran the session ended by itself. Make the session again. */
export const WorkerCrashed = define("WorkerCrashed", 11);
/** An execution provider can not do what it was asked for. */
export const EPFail = define("EPFail", 11);
/** There is no WebGPU adapter here. */
export const NoAdapter = define("NoAdapter", 11, EPFail);
/** The GPU lacks a feature that was asked for. */
export const MissingFeature = define("MissingFeature", 11, EPFail);
/** Something is larger than the GPU's limits allow. */
export const LimitExceeded = define("LimitExceeded", 11, EPFail);
/** The GPU has no memory left. */
export const OutOfDeviceMemory = define("OutOfDeviceMemory", 11, EPFail);
/** A shader did not compile: the message names the kernel, the node and the WGSL line. */
export const ShaderRejected = define("ShaderRejected", 11, EPFail);
/** The GPU device is gone (driver reset, GPU removed, destroyed by the page). The next run opens a new one. */
export const DeviceLost = define("DeviceLost", 11, EPFail);

const KINDS = [SardonyxError, Fail, InvalidArgument, NoSuchFile, RuntimeException, InvalidProtobuf, InvalidModelFile, InvalidGraph, NotImplemented, EngineUnavailable, NetworkError, MemoryLimit, Aborted, WorkerCrashed,
  EPFail, NoAdapter, MissingFeature, LimitExceeded, OutOfDeviceMemory, ShaderRejected, DeviceLost];

/** What postMessage can carry of an error. */
export const pack = (error) => ({ kind: error?.name ?? "Error", message: error?.message ?? String(error), stack: error?.stack });

/** The error of `pack`, as the class it was. */
export function unpack({ kind, message, stack }) {
  const found = KINDS.find((one) => one.kind === kind);
  const made = found ? new found(message) : new RuntimeException(`${kind}: ${message}`);
  if (stack) made.stack = stack;
  return made;
}

/** Throw Aborted where the signal says so. */
export function checkAborted(signal) {
  if (signal?.aborted) throw new Aborted(`loading was stopped by the caller's AbortSignal (${signal.reason?.message ?? signal.reason ?? "no reason given"})`);
}
