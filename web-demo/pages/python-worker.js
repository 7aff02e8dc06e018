// python-worker.js: Pyodide with numpy and sardonyx, from the folder pyodide/ of this site.
const HOME = new URL("pyodide/", self.location.href).href;

let starting;
async function start(files) {
  const { loadPyodide } = await import(HOME + "pyodide.mjs");
  const print = (text) => self.postMessage({ print: text + "\n" });
  const python = await loadPyodide({ indexURL: HOME, stdout: print, stderr: print });
  await python.loadPackage("sardonyx", { messageCallback: () => {} });
  for (const [path, url] of Object.entries(files)) python.FS.writeFile(path, new Uint8Array(await (await fetch(url)).arrayBuffer()));
  return python;
}

self.onmessage = async ({ data: { code, given, wanted, files } }) => {
  try {
    const python = await (starting ??= start(files));
    for (const [path, bytes] of Object.entries(given)) python.FS.writeFile(path, new Uint8Array(bytes));
    await python.runPythonAsync(code);
    self.postMessage({ files: Object.fromEntries(wanted.map((path) => [path, python.FS.readFile(path)])) });
  } catch (error) {
    self.postMessage({ error: error.message });
  }
};
