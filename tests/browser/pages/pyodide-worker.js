import { run } from "./pyodide.js";
self.onmessage = async ({ data: { wheels, code, files } }) => {
  try {
    self.postMessage({ result: await run(wheels, code, files) });
  } catch (error) {
    self.postMessage({ error: String(error) });
  }
};
