import { run } from "./pyodide.js";
self.onmessage = async ({ data: { wheels, code, files, home } }) => {
  try {
    self.postMessage({ result: await run(wheels, code, files, home) });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};
