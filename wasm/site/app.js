// app.js: the page of `sardonyx bundle`: loads model.sdx with progress, shows its inputs, runs it on random numbers, says where and how long.
import * as ort from "./sardonyx/index.js";

if ("{{pyodide}}") ort.env.pyodide.indexURL = "{{pyodide}}"; // Python plans for sizes the file has no programs for

const $ = (id) => document.getElementById(id);
const say = (text) => ($("status").textContent = text);
const cells = (row, ...texts) => row.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
const rows = (id, list) => $(id).replaceChildren(...list.map((texts) => (cells((texts.row = document.createElement("tr")), ...texts), texts.row)));

// The service worker adds the headers that give the page threads where the host can not send them (one reload), and keeps the site for offline use: what is loaded before it is there is told to it.
const served = "serviceWorker" in navigator ? serve().catch((error) => console.info(`no service worker: ${error.message}`)) : undefined;
async function serve() {
  const worker = navigator.serviceWorker, before = worker.controller;
  const controlled = before ? undefined : new Promise((wake) => worker.addEventListener("controllerchange", wake, { once: true }));
  await worker.register("sw.js");
  await worker.ready;
  if (!globalThis.crossOriginIsolated && !before && !sessionStorage.reloaded) {
    sessionStorage.reloaded = "1";
    location.reload();
    await new Promise(() => {});
  }
  await controlled;
  return before ? undefined : worker.controller;
}
if (!globalThis.crossOriginIsolated && !sessionStorage.reloaded) await served; // it is about to be loaded again

/** The model, on its way from the first moment. Where no service worker sees it, a copy goes to where it will look. */
async function model() {
  const response = await fetch("model.sdx");
  if (response.ok && globalThis.caches && !navigator.serviceWorker?.controller) {
    const copy = response.clone();
    kept = caches.open("sardonyx-site-{{version}}").then((cache) => cache.put("model.sdx", copy)).catch((error) => console.info(`the model is not kept for offline use: ${error.message}`));
  }
  return response;
}
let kept;

/** Once all is loaded: its addresses, and that of what workers load. */
async function keep() {
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name), beside = new URL("sardonyx/thread.js", location.href).href;
  await kept;
  (await served)?.postMessage({ keep: [location.href.split("#")[0], ...loaded, beside] });
}

/** Random numbers of a type; free sizes are 1. */
function random({ type, shape }) {
  const dims = shape.map((d) => (typeof d === "number" ? d : 1));
  const size = dims.reduce((a, b) => a * b, 1);
  if (type === "string") return new ort.Tensor("string", Array(size).fill(""), dims);
  if (type === "bool") return new ort.Tensor("bool", new Uint8Array(size), dims);
  const whole = !type.includes("float");
  return new ort.Tensor(type, Array.from({ length: size }, () => (whole ? (type.endsWith("64") ? 1n : 1) : Math.random())), dims);
}

try {
  const session = await ort.InferenceSession.create(await model(), {
    planner: ort.env.pyodide.indexURL ? "pyodide" : undefined,
    executionProviders: "{{webgpu}}" && !location.search.includes("cpu") ? ["webgpu", "wasm"] : ["wasm"],
    progress: ({ phase, loaded, total }) => {
      if (phase !== "download") return;
      $("progress").max = total ?? loaded;
      $("progress").value = loaded;
      say(`Loading the model: ${(loaded / 1e6).toFixed(1)} of ${((total ?? loaded) / 1e6).toFixed(1)} MB`);
    },
  });
  const { threads, worker, webgpu } = session.engine, file = webgpu ? `WebGPU on ${webgpu.device}` : session.engine.file;
  keep();
  $("progress").hidden = true;
  say(`Ready: ${file}, ${threads} thread${threads > 1 ? "s" : ""}, ${worker ? "in a worker" : "in the page"}.`);
  rows("inputs", session.inputMetadata.map(({ name, type, shape }) => [name, type, `[${shape.map((d) => d || "?").join(", ")}]`]));
  $("run").disabled = false;
  $("run").onclick = async () => {
    try {
      const feeds = Object.fromEntries(session.inputMetadata.map((port) => [port.name, random(port)]));
      const start = performance.now();
      const made = await session.run(feeds);
      say(`${(performance.now() - start).toFixed(1)} ms on ${file}, ${threads} thread${threads > 1 ? "s" : ""}.`);
      rows("outputs", Object.entries(made).map(([name, t]) => [name, `[${t.dims.join(", ")}]`, Array.from(t.data.slice(0, 6), (v) => (typeof v === "number" ? +v.toPrecision(5) : String(v))).join(", ")]));
    } catch (error) {
      say(`${error.name}: ${error.message}`);
    }
  };
} catch (error) {
  $("progress").hidden = true;
  say(`${error.name}: ${error.message}`);
}
