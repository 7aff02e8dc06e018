#!/usr/bin/env node
// cli.mjs: `npx sardonyx convert model.onnx [-o model.sdx]`: the converter, which is Python, in Pyodide under node. The wheels lie in ./wheels; Pyodide is the npm package of that name.
import { existsSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { boot, convertFile } from "./pyodide.js";

const USAGE = `usage: npx sardonyx convert MODEL.onnx [-o MODEL.sdx] [--plan SIZE=N,SIZE=LEAST..MOST]… [--webgpu] [--webgpu-f16] [--pyodide FOLDER]

Converts an ONNX model to the .sdx file that pages run. --plan: programs for these sizes only (a number, a range, or LEAST..), repeated for several.
--webgpu: programs for the GPU too. --webgpu-f16: and with float32 in half the memory there, for pages that ask for precision: 'f16'. --pyodide: a folder with Pyodide (default: the npm package 'pyodide'; its numpy comes from Pyodide's CDN).
The Python package does the same, and more: pip install sardonyx[convert]`;

function options(words) {
  const found = { model: undefined, output: undefined, plans: [], webgpu: undefined, pyodide: process.env.SARDONYX_PYODIDE };
  for (let i = 0; i < words.length; i++) {
    if (words[i] === "-o" || words[i] === "--output") found.output = words[++i];
    else if (words[i] === "--pyodide") found.pyodide = words[++i];
    else if (words[i] === "--webgpu") found.webgpu = { needed: true, ...found.webgpu };
    else if (words[i] === "--webgpu-f16") found.webgpu = { needed: true, f16: true };
    else if (words[i] === "--plan") found.plans.push(ranges(words[++i] ?? ""));
    else if (words[i].startsWith("-") || found.model) throw new Error(`'${words[i]}' is not understood\n\n${USAGE}`);
    else found.model = words[i];
  }
  if (!found.model) throw new Error(USAGE);
  if (!existsSync(found.model)) throw new Error(`'${found.model}' does not exist`);
  found.output ??= found.model.replace(/\.onnx$/i, "") + ".sdx";
  return found;
}

/** "n=1,m=1..512,k=2.." → {n: [1, 1], m: [1, 512], k: [2, null]}. */
function ranges(text) {
  return Object.fromEntries(text.split(",").map((part) => {
    const [, name, least, dots, most] = /^\s*([^=]+)=(\d+)(\.\.)?(\d*)\s*$/.exec(part) ?? [];
    if (!name || (!dots && most)) throw new Error(`--plan: '${part}' is not SIZE=NUMBER, SIZE=LEAST..MOST or SIZE=LEAST..`);
    return [name, [Number(least), most ? Number(most) : dots ? null : Number(least)]];
  }));
}

async function convert({ model, output, plans, webgpu, pyodide }) {
  const booted = await boot({ indexURL: pyodide }), { python } = booted;
  for (const [at, path] of [["/from", dirname(resolve(model))], ["/to", dirname(resolve(output))]]) {
    python.FS.mkdir(at);
    python.mountNodeFS(at, path);
  }
  convertFile(booted, `/from/${basename(model)}`, `/to/${basename(output)}`, plans, undefined, webgpu);
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
