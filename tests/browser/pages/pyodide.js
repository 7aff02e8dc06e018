// Boots Pyodide with the wheels of /wheels/ by micropip; in a page or a module worker. `start(list)` gives the Pyodide object.
export async function start(wheels, home = "/pyodide/") {
  const { loadPyodide } = await import(home + "pyodide.mjs");
  const py = await loadPyodide({ indexURL: new URL(home, location.href).href });
  await py.loadPackage(["numpy", "micropip"]);
  py.globals.set("wheels", wheels.map((name) => new URL(`/wheels/${name}`, location.href).href));
  await py.runPythonAsync("import micropip\nawait micropip.install(wheels.to_py() if hasattr(wheels, 'to_py') else wheels)");
  return py;
}
export async function run(wheels, code, files = {}, home = undefined) {
  const py = await start(wheels, home);
  for (const [name, url] of Object.entries(files)) py.FS.writeFile(name, new Uint8Array(await (await fetch(url)).arrayBuffer()));
  const result = await py.runPythonAsync(code);
  return result?.toJs ? result.toJs({ dict_converter: Object.fromEntries }) : result;
}
