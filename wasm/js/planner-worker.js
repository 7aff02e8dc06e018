// planner-worker.js: the worker of planner.js: one Pyodide, one conversion after the other. {id, settings, files, plans, webgpu} → {id, result} or {id, error}, in between {id, progress}.
import { pack } from "./errors.js";
import { boot, convertBytes } from "./pyodide.js";
import { listen } from "./spawn.js";

let booted;

listen(async ({ id, settings, files, plans, webgpu }, post) => {
  try {
    const python = await (booted ??= boot(settings));
    const result = convertBytes(python, files, plans, (what, fraction) => post({ id, progress: fraction }), webgpu);
    post({ id, result }, [result.buffer]);
  } catch (error) {
    if (booted) await booted.catch(() => (booted = undefined)); // a start that failed is tried again
    post({ id, error: pack(error) });
  }
});
