#!/usr/bin/env node
// cli.mjs: `npx sardonyx convert model.onnx [-o model.sdx]`: the converter, which is Python, in Pyodide under node. The wheels lie in ./wheels; Pyodide is the npm package of that name.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const USAGE = `usage: npx sardonyx convert MODEL.onnx [-o MODEL.sdx] [--pyodide FOLDER]

Converts an ONNX model to the .sdx file that pages run. --pyodide: a folder with Pyodide (default: the npm package 'pyodide';
its numpy comes from Pyodide's CDN). The Python package does the same, and more: pip install sardonyx[convert]`;

function options(words) {
  const found = { model: undefined, output: undefined, pyodide: process.env.SARDONYX_PYODIDE };
  for (let i = 0; i < words.length; i++) {
    if (words[i] === "-o" || words[i] === "--output") found.output = words[++i];
    else if (words[i] === "--pyodide") found.pyodide = words[++i];
    else if (words[i].startsWith("-") || found.model) throw new Error(`'${words[i]}' is not understood\n\n${USAGE}`);
    else found.model = words[i];
  }
  if (!found.model) throw new Error(USAGE);
  if (!existsSync(found.model)) throw new Error(`'${found.model}' does not exist`);
  found.output ??= found.model.replace(/\.onnx$/i, "") + ".sdx";
  return found;
}

function home(folder) {
  if (folder) return resolve(folder);
  try {
    return dirname(createRequire(import.meta.url).resolve("pyodide/pyodide.mjs"));
  } catch {
    throw new Error("converting needs Pyodide: npm install pyodide@314.0.3  (or use Python: pip install 'sardonyx[convert]')");
  }
}

async function convert({ model, output, pyodide }) {
  const folder = home(pyodide);
  const { loadPyodide } = await import(pathToFileURL(join(folder, "pyodide.mjs")).href);
  const python = await loadPyodide(pyodide ? { indexURL: folder } : {});
  await python.loadPackage("numpy", { messageCallback: () => {} });
  const wheels = join(dirname(fileURLToPath(import.meta.url)), "wheels");
  for (const name of readdirSync(wheels)) python.unpackArchive(new Uint8Array(readFileSync(join(wheels, name))), "wheel");
  for (const [at, path] of [["/from", dirname(resolve(model))], ["/to", dirname(resolve(output))]]) {
    python.FS.mkdir(at);
    python.mountNodeFS(at, path);
  }
  python.globals.set("source", `/from/${basename(model)}`);
  python.globals.set("target", `/to/${basename(output)}`);
  const failed = await python.runPythonAsync(`
import sardonyx
failed = ""
try:
    sardonyx.convert(source, target)
except (sardonyx.errors.SardonyxError, OSError) as error:
    failed = f"{type(error).__name__}: {error}"
failed`);
  if (failed) throw new Error(failed);
  console.log(`${output}`);
}

const [command, ...rest] = process.argv.slice(2);
try {
  if (command !== "convert") throw new Error(USAGE);
  await convert(options(rest));
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}
