// pyodide.js: the converter and planner, which are Python, in a Pyodide of this thread: a worker of planner.js, or node (cli.mjs). Pages that run converted files never load it.
import { InvalidArgument, SardonyxError, unpack } from "./errors.js";
import { isNode } from "./spawn.js";

/** Converts with programs for the engine, whatever they add to the file: pages run nothing else. Where not every size can be planned, those that are asked for. */
const CONVERT = `
import json
import sardonyx
from sardonyx.errors import SardonyxError

def convert(source, target, plans, progress, asked_gpu):
    gpu = json.loads(asked_gpu or "null")
    options = {"webgpu_device": gpu["target"]} if gpu and gpu.get("target") else {"webgpu": bool(gpu), "webgpu_f16": bool(gpu) and bool(gpu.get("f16"))}
    if progress is not None:
        report, progress = progress, lambda what, fraction: report(what, float(fraction))
    ranges = [{name: (low, high) for name, (low, high) in plan.items()} for plan in json.loads(plans)]
    asked = [plan for plan in ranges if plan]
    try:
        try:
            sardonyx.convert(source, target, plan=ranges or [{}], progress=progress, **options)
        except SardonyxError as error:
            if gpu and not gpu["needed"] and "recorded for WebGPU" in str(error):
                return convert(source, target, plans, progress, "")
            if not asked or asked == ranges:
                raise
            sardonyx.convert(source, target, plan=asked, progress=progress, **options)
    except (SardonyxError, OSError, ImportError, MemoryError) as error:
        return f"{type(error).__name__}: {error}".replace(". Leave --plan out to store the graph alone", "")
    return ""
convert`;

/** Pyodide with sardonyx. indexURL: where its files are; undefined in node: the npm package 'pyodide'. wheels: URLs of the wheels, where its lock file does not list sardonyx. */
export async function boot({ indexURL, wheels }) {
  const home = isNode ? await nodeHome(indexURL) : slashed(indexURL);
  const { loadPyodide } = await import(isNode ? await fileUrl(home + "pyodide.mjs") : home + "pyodide.mjs").catch((error) => {
    throw new InvalidArgument(`Pyodide is not at ${home} (${error.message}); env.pyodide.indexURL is the folder with pyodide.mjs, such as 'sardonyx bundle --pyodide' writes`, { cause: error });
  });
  const python = await loadPyodide({ indexURL: home });
  const quiet = { messageCallback: () => {}, errorCallback: () => {} };
  if (python.lockfile?.packages?.sardonyx) await python.loadPackage("sardonyx", quiet);
  else {
    await python.loadPackage("numpy", quiet);
    for (const wheel of await found(wheels)) python.unpackArchive(wheel, "wheel");
  }
  return { python, convert: await python.runPythonAsync(CONVERT) };
}

/** Convert one file of Python's file system to another. plans: [{size: [least, most or null]}]. webgpu: with programs for WebGPU, {needed: or none where it can not be, f16: also with
 * float32 as f16, target: for one device alone, as converter/options.py says}. Throws what Python said, as an error of this package. */
export function convertFile({ convert }, source, target, plans, progress, webgpu) {
  const failed = convert(source, target, JSON.stringify(plans), progress, webgpu ? JSON.stringify(webgpu) : "");
  if (!failed) return;
  const [, kind, message] = /^(\w+): ([^]*)$/.exec(failed);
  throw unpack({ kind, message });
}

/** files: {name: bytes}, the first is the model, others lie beside it (external data). Gives the .sdx. */
export function convertBytes(booted, files, plans, progress, webgpu) {
  const { FS } = booted.python, names = Object.keys(files);
  FS.mkdirTree("/planner");
  try {
    for (const [name, bytes] of Object.entries(files)) {
      FS.mkdirTree(`/planner/${name}`.replace(/\/[^/]*$/, ""));
      FS.writeFile(`/planner/${name}`, bytes, { canOwn: true });
    }
    convertFile(booted, `/planner/${names[0]}`, "/planner.sdx", plans, progress, webgpu);
    return FS.readFile("/planner.sdx").slice();
  } catch (error) {
    if (error instanceof SardonyxError) throw error;
    throw new SardonyxError(`the planner failed: ${error.message}`, { cause: error });
  } finally {
    for (const path of [...names.map((name) => `/planner/${name}`), "/planner.sdx"]) if (FS.analyzePath(path).exists) FS.unlink(path);
  }
}

const slashed = (folder) => (folder.endsWith("/") ? folder : folder + "/");

async function nodeHome(folder) {
  const { dirname, resolve } = await import("node:path");
  if (folder) return slashed(resolve(String(folder)));
  try {
    const { createRequire } = await import("node:module");
    return slashed(dirname(createRequire(import.meta.url).resolve("pyodide/pyodide.mjs")));
  } catch {
    throw new InvalidArgument("converting needs Pyodide: npm install pyodide@314.0.3  (or use Python: pip install 'sardonyx[convert]')");
  }
}

const fileUrl = async (path) => (await import("node:url")).pathToFileURL(path).href;

/** The bytes of the wheels: given ones, or in node those of this package. */
async function found(wheels) {
  if (wheels?.length) {
    return Promise.all(wheels.map(async (url) => {
      const response = await fetch(url);
      if (!response.ok) throw new InvalidArgument(`env.pyodide.wheels: ${url} is not there (HTTP ${response.status})`);
      return response.arrayBuffer();
    }));
  }
  if (!isNode) throw new InvalidArgument("Pyodide's lock file at env.pyodide.indexURL does not list sardonyx; take a folder written by 'sardonyx bundle --pyodide', or name the wheels in env.pyodide.wheels");
  const { readdir, readFile } = await import("node:fs/promises");
  const folder = new URL("wheels/", import.meta.url);
  return Promise.all((await readdir(folder)).map(async (name) => new Uint8Array(await readFile(new URL(name, folder)))));
}
