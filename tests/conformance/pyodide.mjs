// Pyodide under node as a server on stdin and stdout: `node pyodide.mjs FOLDER SERVER.PY WHEEL…`. A message is its length (uint32, little-endian) and its bytes, a pickle either way; server.py answers.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, server, ...wheels] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(join(folder, "pyodide.mjs")).href);
const python = await loadPyodide({ indexURL: folder, stdout: console.error });
await python.loadPackage(["numpy", "pillow"], { messageCallback: () => {} });
for (const path of wheels) python.unpackArchive(new Uint8Array(readFileSync(path)), "wheel");
python.runPython(readFileSync(server, "utf8"));
const answer = python.globals.get("answer");

process.stdout.on("error", () => process.exit(1)); // who asked has gone
process.stdout.write("ready");
let held = Buffer.alloc(0);
for await (const piece of process.stdin) {
  held = Buffer.concat([held, piece]);
  while (held.length >= 4 && held.length >= 4 + held.readUInt32LE(0)) {
    const end = 4 + held.readUInt32LE(0);
    const proxy = answer(python.toPy(new Uint8Array(held.subarray(4, end))));
    held = held.subarray(end);
    const made = proxy.toJs();
    proxy.destroy();
    process.stdout.write(new Uint8Array(Uint32Array.of(made.length).buffer));
    process.stdout.write(made);
  }
}
