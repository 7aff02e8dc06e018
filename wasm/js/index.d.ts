// Types of the package `sardonyx`. Names and shapes are onnxruntime-web's, so that porting is a changed import and a converted file.

export type Type =
  | "float32" | "uint8" | "int8" | "uint16" | "int16" | "int32" | "int64" | "string" | "bool" | "float16" | "float64" | "uint32" | "uint64" | "complex64" | "complex128" | "bfloat16"
  | "float8e4m3fn" | "float8e4m3fnuz" | "float8e5m2" | "float8e5m2fnuz" | "uint4" | "int4" | "float4e2m1" | "float8e8m0" | "uint2" | "int2" | "float6e2m3" | "float6e3m2";

type Numbers = Float32Array | Float64Array | Int8Array | Int16Array | Int32Array | Uint8Array | Uint16Array | Uint32Array;
export interface DataTypes {
  float32: Float32Array; float64: Float64Array; int8: Int8Array; int16: Int16Array; int32: Int32Array; int64: BigInt64Array; uint8: Uint8Array; uint16: Uint16Array; uint32: Uint32Array;
  uint64: BigUint64Array; bool: Uint8Array; string: string[]; float16: Uint16Array | ArrayBufferView; bfloat16: Uint16Array; complex64: Float32Array; complex128: Float64Array;
  float8e4m3fn: Uint8Array; float8e4m3fnuz: Uint8Array; float8e5m2: Uint8Array; float8e5m2fnuz: Uint8Array; float8e8m0: Uint8Array; float4e2m1: Uint8Array; float6e2m3: Uint8Array;
  float6e3m2: Uint8Array; uint4: Uint8Array; int4: Int8Array; uint2: Uint8Array; int2: Int8Array;
}

/** What is asked of a GPUBuffer here, so that these types need none of WebGPU's. */
export interface GpuBuffer {
  readonly size: number;
  destroy(): void;
}

/** An array of elements with dims. Data are dense and row-major. */
export class Tensor<T extends Type = Type> {
  constructor(type: T, data: DataTypes[T] | readonly number[] | readonly bigint[] | readonly string[] | readonly boolean[], dims?: readonly number[]);
  constructor(data: Numbers | BigInt64Array | BigUint64Array | readonly string[] | readonly boolean[], dims?: readonly number[]);
  readonly type: T;
  readonly dims: readonly number[];
  readonly size: number;
  /** Of a large output: copied out of the engine's memory when it is first read (a run that takes the tensor before that needs no copy). */
  readonly data: DataTypes[T];
  /** A tensor whose data are a GPUBuffer of env.webgpu.device (or the device sardonyx opened), dense and row-major. With usage STORAGE a run binds it as it is; with COPY_SRC alone it copies. */
  static fromGpuBuffer<T extends Type = "float32">(buffer: GpuBuffer, options: { dataType?: T; dims: readonly number[]; download?(): Promise<DataTypes[T]>; dispose?(): void }): Tensor<T>;
  readonly gpuBuffer: GpuBuffer;
  /** A picture: ImageData, ImageBitmap, VideoFrame, an image, video or canvas element, Blob, URL, or (for "gpu-buffer") a GPUTexture. Values are (pixel + bias) / mean. */
  static fromImage(source: object | string, options?: {
    resizedWidth?: number; resizedHeight?: number; tensorFormat?: "RGB" | "BGR" | "RGBA"; tensorLayout?: "NCHW" | "NHWC"; dataType?: "float32" | "uint8";
    norm?: { mean?: number | readonly number[]; bias?: number | readonly number[] }; location?: "cpu" | "gpu-buffer";
  }): Promise<Tensor<"float32"> | Tensor<"uint8">>;
  /** "cpu", "cpu-pinned" (in the engine's memory of the session that made it), "gpu-buffer", or "none" once disposed. */
  readonly location: "cpu" | "cpu-pinned" | "gpu-buffer" | "none";
  /** The data, wherever they are: `data` is there for "cpu" only. With `release` what was elsewhere is given up. */
  getData(release?: boolean): Promise<DataTypes[T]>;
  /** Give the data up. A large output that is not needed, and was not read, gives its memory back at once instead of when it is collected. */
  dispose(): void;
  reshape(dims: readonly number[]): Tensor<T>;
}

/**
 * Each phase goes from 0 to its total and never back. The engine compiles while bytes come, and programs are opened ("plan") when the engine and their bytes are there, so phases overlap. Bytes that come
 * from the cache or are given pass as a "download", too; an engine that is compiled already takes no time.
 */
export interface Progress {
  phase: "download" | "compile" | "plan";
  loaded: number;
  total?: number;
}

export type Source = string | URL | Request | Response | Blob | ReadableStream<Uint8Array> | ArrayBufferLike | ArrayBufferView;

export interface SessionOptions {
  /** Stops loading; the promise is rejected with an AbortError. */
  signal?: AbortSignal;
  progress?(progress: Progress): void;
  /**
   * Keep the file in Cache Storage: the next visit asks the server only whether it changed, needs no network if there is none, and takes up what is incomplete. With `integrity` the file is known
   * by its content: once it is here, nothing is asked.
   */
  cache?: boolean;
  /** The file's sha256: 64 hexadecimal digits, or "sha256-" and base64. */
  integrity?: string;
  /** The file beside a .sdx whose tensor data are not in it. */
  externalData?: readonly (Source | { path?: string; data: Source })[];
  /** "pyodide": Python in a worker (`env.pyodide`) converts ONNX files, and plans for sizes the file's programs do not cover. It starts when it is needed. */
  planner?: "pyodide";
  freeDimensionOverrides?: Readonly<Record<string, number>>;
  /**
   * "cpu-pinned": outputs stay in the engine's memory, and are read there where they are fed to this session again (a language model's cache); dispose them, or release the session.
   * "gpu-buffer": outputs stay on the GPU, dense and as the host has them (types of 8 bits and more that WGSL can hold; not float8); dispose them.
   */
  preferredOutputLocation?: "cpu" | "cpu-pinned" | "gpu-buffer" | Readonly<Record<string, "cpu" | "cpu-pinned" | "gpu-buffer">>;
  /** ["webgpu"]: on the GPU, or an error. ["webgpu", "wasm"]: on the GPU where there is one, with a warning else. Files need programs for it: sardonyx convert --webgpu.
   * {name: "webgpu", precision: "f16"}: float32 lies as f16 on the GPU (sums, inputs and outputs stay float32); files need --webgpu-f16. Where that can not be (no shader-f16): a warning and float32, in strict
   * sessions an error; explain() says which.
   */
  executionProviders?: readonly (string | { name: string; precision?: "f32" | "f16"; [other: string]: unknown })[];
  /** {session: {disable_cpu_ep_fallback: "1"}}: refuse a model of which anything but shape arithmetic would not run on the GPU. */
  extra?: Readonly<Record<string, unknown>>;
  [other: string]: unknown;
}

export interface RunOptions {
  /** Stops the run between two of its steps. */
  signal?: AbortSignal;
  [other: string]: unknown;
}

export interface ValueMetadata {
  readonly name: string;
  readonly isTensor: true;
  readonly type: Type;
  /** Sizes; a name where the size is free, "" where the model gave none. */
  readonly shape: readonly (number | string)[];
}

export type Feeds = Readonly<Record<string, Tensor>>;
export type Fetches = readonly string[] | Readonly<Record<string, Tensor | null>>;
export type Results = Readonly<Record<string, Tensor>>;

/** One step of a run: the names of the model's nodes it came from, and milliseconds on the clock of the thread that ran it. */
export interface StepTime {
  readonly name: string;
  readonly program: number;
  readonly step: number;
  readonly start: number;
  readonly duration: number;
}

export class InferenceSession {
  private constructor();
  static create(source: Source, options?: SessionOptions): Promise<InferenceSession>;
  static create(buffer: ArrayBufferLike | ArrayBufferView, byteOffset: number, byteLength?: number, options?: SessionOptions): Promise<InferenceSession>;
  run(feeds: Feeds, options?: RunOptions): Promise<Results>;
  /** A tensor in `fetches` is written to and returned. On WebGPU it may be one of a GPU buffer, also a buffer that is fed: a cache that is past and present grows in place (GroupQueryAttention,
   * TensorScatter). After an error such a buffer holds anything. */
  run(feeds: Feeds, fetches: Fetches, options?: RunOptions): Promise<Results>;
  /** Stop what runs and give all memory back. */
  release(): Promise<void>;
  /** Note how long each step of the coming runs takes. */
  startProfiling(): void;
  /** The steps of the runs since then. */
  endProfiling(): readonly StepTime[];
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly ValueMetadata[];
  readonly outputMetadata: readonly ValueMetadata[];
  readonly engine: { readonly file: string; readonly threads: number; readonly worker: boolean; readonly webgpu?: WebGpuPlace };
  /** Where the model runs, and what not on the GPU, with the reasons. */
  explain(): { readonly providers: readonly string[]; readonly webgpu?: WebGpuPlace };
}

export interface WebGpuPlace {
  /** The adapter's name; `software`: a processor plays the GPU. */
  readonly device: string;
  readonly software: boolean;
  /** How float32 lies there; features of WGSL beyond every device's that are used. */
  readonly precision: "f32" | "f16";
  readonly features: readonly string[];
  /** Dispatches of a run, at most: of some, sizes decide which of two is taken. */
  readonly dispatches: number;
  /** Nodes that run on the wasm engine, and why; `shape`: small integers that only say sizes. */
  readonly beside: readonly { readonly node: string; readonly reason: string; readonly shape: boolean }[];
}

export interface Env {
  logLevel: "verbose" | "info" | "warning" | "error" | "fatal";
  debug: boolean;
  readonly versions: { readonly common: string; readonly sardonyx: string };
  readonly wasm: {
    /** Threads of a run; undefined or 0: the runtime chooses. More than one needs a cross-origin isolated page. */
    numThreads?: number;
    /** Where the engine's .wasm files are, if not beside the module: a prefix of URLs, or {file name: URL}. */
    wasmPaths?: string | Readonly<Record<string, string>>;
    wasmBinary?: ArrayBufferLike | Uint8Array | WebAssembly.Module;
    /** Run in a worker. Default: on a page's main thread yes, elsewhere no. */
    proxy?: boolean;
    /** What the last session picked. */
    readonly picked?: { readonly file: string; readonly threads: number; readonly worker: boolean };
  };
  readonly webgpu: {
    powerPreference?: "high-performance" | "low-power";
    forceFallbackAdapter?: boolean;
    /** A GPUAdapter or GPUDevice of the page's own, for all sessions of this thread: set before the first. `device` is the device in use once a session runs on it. */
    adapter?: object;
    device?: object;
  };
  readonly pyodide: {
    /** The folder of Pyodide's files for `planner`; `sardonyx bundle --pyodide` writes one. */
    indexURL?: string;
    /** URLs of the wheels of sardonyx and flatbuffers, where the folder's lock file does not list them. */
    wheels?: readonly string[];
  };
}
export const env: Env;

export class SardonyxError extends Error {
  readonly code: number;
}
export class Fail extends SardonyxError {}
export class InvalidArgument extends SardonyxError {}
export class NoSuchFile extends SardonyxError {}
export class RuntimeException extends SardonyxError {}
export class InvalidProtobuf extends SardonyxError {}
export class InvalidModelFile extends InvalidProtobuf {}
export class InvalidGraph extends SardonyxError {}
export class NotImplemented extends SardonyxError {}
export class EngineUnavailable extends SardonyxError {}
export class NetworkError extends SardonyxError {}
export class MemoryLimit extends SardonyxError {}
export class Aborted extends SardonyxError {}
export class WorkerCrashed extends SardonyxError {}
export class EPFail extends SardonyxError {}
export class NoAdapter extends EPFail {}
export class MissingFeature extends EPFail {}
export class LimitExceeded extends EPFail {}
export class OutOfDeviceMemory extends EPFail {}
export class ShaderRejected extends EPFail {}
export class DeviceLost extends EPFail {}
