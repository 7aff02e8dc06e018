// env.js: what a page sets before its first session. onnxruntime-web's names; what has no meaning here is absent.

const LEVELS = ["verbose", "info", "warning", "error", "fatal"];

export const VERSION = "0.1.0";

export const env = {
  /** "verbose", "info", "warning", "error" or "fatal": what is written to the console. */
  logLevel: "warning",
  debug: false,
  /** No `web`: programs take that for a version of onnxruntime-web, and point wasmPaths at its files (transformers.js does). */
  versions: Object.freeze({ common: VERSION, sardonyx: VERSION }),
  wasm: {
    /** Threads of a run; undefined: half of the page's cores, at most 4, where the page is cross-origin isolated; else 1. */
    numThreads: undefined,
    /** Where the engine's modules are: a prefix of URLs, or {file name: URL}. Default: beside this file. */
    wasmPaths: undefined,
    /** The bytes of an engine module, or a compiled WebAssembly.Module: nothing is fetched. It must be the flavour the page can run. */
    wasmBinary: undefined,
    /** Run in a worker. Default: on a page's main thread yes, elsewhere no. */
    proxy: undefined,
    /** What the last session picked: {file, threads, worker}. */
    picked: undefined,
  },
  /** The planner's Python (`planner: "pyodide"`). Nothing of it is loaded before a model needs it. */
  pyodide: {
    /** The folder of Pyodide's files; `sardonyx bundle --pyodide` writes one that is complete. Node: the npm package 'pyodide' by default. */
    indexURL: undefined,
    /** URLs of sardonyx's and flatbuffers' wheels, where the folder's lock file does not list sardonyx (Pyodide's own CDN). */
    wheels: undefined,
  },
  webgpu: {
    /** "high-performance" or "low-power": which GPU is asked for. */
    powerPreference: "high-performance",
    forceFallbackAdapter: undefined,
    /** A GPUAdapter or GPUDevice of the page's own, to be used by all sessions of this thread (set before the first). `device`: the one in use, once a session runs on it. */
    adapter: undefined,
    device: undefined,
  },
};

/** What a GPU device is opened with where the adapter has it: features of WGSL, a clock for profiles; sizes as the adapter's. Else stored kernels rely on what every device has (webgpu/device/base.py Limits). */
const FEATURES = ["shader-f16", "subgroups", "timestamp-query"], RAISED = ["maxBufferSize", "maxStorageBufferBindingSize"];
let asked;

/** {adapter, device} of the page, asked for once until `forgetDevice`: a session does so before the module that plays on it is here. No device where the page gave its own, or there is no adapter. */
export function askDevice() {
  return (asked ??= request());
}

export function forgetDevice() {
  asked = undefined;
}

async function request() {
  const { powerPreference, forceFallbackAdapter } = env.webgpu;
  const adapter = env.webgpu.adapter ?? (await globalThis.navigator?.gpu?.requestAdapter({ powerPreference, forceFallbackAdapter }));
  if (!adapter || env.webgpu.device) return { adapter };
  const requiredLimits = Object.fromEntries(RAISED.map((name) => [name, adapter.limits[name]]));
  return { adapter, device: await adapter.requestDevice({ requiredFeatures: FEATURES.filter((name) => adapter.features.has(name)), requiredLimits }) };
}

/** Write to the console where env.logLevel asks for it. */
export function log(level, ...words) {
  if (!env.debug && LEVELS.indexOf(level) < LEVELS.indexOf(env.logLevel)) return;
  (level === "warning" ? console.warn : level === "error" || level === "fatal" ? console.error : console.info)("[sardonyx]", ...words);
}
