// common.js: what all pages share: navigation, status line, progress of downloads, drop zones, the service worker. No framework.
import * as ort from "./sardonyx/index.js";

export { ort };
export const $ = (id) => document.getElementById(id);

const PAGES = [["./", "Start"], ["files.html", "File types"], ["read.html", "Read text"], ["voice.html", "Voice activity"], ["similar.html", "Similar sentences"], ["python.html", "Python"], ["convert.html", "Convert"],
  ["speed.html", "Benchmark"]];

/** An element: make("td", {className: "name"}, "text", child). */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const here = location.pathname.split("/").pop() || "./";
document.querySelector("nav")?.append(...PAGES.map(([href, text]) => {
  const link = make("a", { href }, text);
  if (href === here || (href === "./" && here === "index.html")) link.setAttribute("aria-current", "page");
  return link;
}));

export const say = (text) => ($("status").textContent = text);
export const fail = (error) => say(`${error.name ?? "Error"}: ${error.message ?? error}`);

/** Headers that give the page threads where the host sends none, and offline use after one visit: models and Python are loaded once the service worker is there (or after 10 s without it). */
export const served = Promise.race([serve().catch((error) => console.info(`no service worker here: ${error.message}`)), new Promise((wake) => setTimeout(wake, 10000))]);

async function serve() {
  if (!("serviceWorker" in navigator)) return;
  const had = navigator.serviceWorker.controller;
  const controlled = had ? undefined : new Promise((wake) => navigator.serviceWorker.addEventListener("controllerchange", wake, { once: true }));
  await navigator.serviceWorker.register("sw.js");
  await navigator.serviceWorker.ready;
  if (!globalThis.crossOriginIsolated && !had && !sessionStorage.reloaded) {
    sessionStorage.reloaded = "1";
    return location.reload();
  }
  await controlled;
  if (had) return;
  const keep = (urls) => urls.length && navigator.serviceWorker.controller?.postMessage({ keep: urls });
  keep([location.href.split("#")[0]]);
  // What was on its way before the worker was there ends at some later time: told then. What the worker has seen (workerStart) it has kept itself.
  new PerformanceObserver((list) => keep(list.getEntries().filter((entry) => !entry.workerStart).map((entry) => entry.name))).observe({ type: "resource", buffered: true });
}

/** Sessions of models in models/, their downloads shown together in #progress. */
export async function loadAll(names) {
  const bar = $("progress"), parts = names.map(() => ({ loaded: 0, total: 0 })), sum = (what) => parts.reduce((all, part) => all + part[what], 0);
  const words = names.length > 1 ? "models" : "model";
  say(`Loading the ${words}…`);
  await served;
  const executionProviders = await providers();
  const sessions = await Promise.all(names.map((name, i) => ort.InferenceSession.create(`models/${name}`, {
    executionProviders,
    progress: ({ phase, loaded, total }) => {
      if (phase !== "download") return;
      parts[i] = { loaded, total: total ?? loaded };
      [bar.max, bar.value] = [sum("total"), sum("loaded")];
      say(`Loading the ${words}: ${(sum("loaded") / 1e6).toFixed(1)} of ${(sum("total") / 1e6).toFixed(1)} MB`);
    },
  })));
  bar.hidden = true;
  say(`Ready. ${place(sessions[0])}.`);
  if (navigator.gpu) offer(sessions.some(({ engine }) => engine.webgpu));
  return sessions;
}

/** The GPU where there is a real one; `?device=cpu` and `?device=gpu` choose. */
export async function providers() {
  const asked = new URLSearchParams(location.search).get("device");
  if (asked === "cpu" || !navigator.gpu) return ["wasm"];
  if (asked === "gpu") return ["webgpu", "wasm"];
  const { info = {} } = (await navigator.gpu.requestAdapter().catch(() => null)) ?? {};
  return info.vendor && !info.isFallbackAdapter && !/swiftshader|llvmpipe/i.test(`${info.architecture} ${info.description}`) ? ["webgpu", "wasm"] : ["wasm"];
}

/** A link to the same page on the other device. */
function offer(onGpu) {
  const other = new URL(location.href);
  other.searchParams.set("device", onGpu ? "cpu" : "gpu");
  $("device")?.remove();
  $("status").after(make("p", { id: "device" }, make("a", { href: other.href }, onGpu ? "Run on the CPU instead" : "Run on the GPU instead")));
}

export const load = async (name) => (await loadAll([name]))[0];

/** Where a session runs, in words. */
export function place({ engine: { file, threads, worker, webgpu } }) {
  if (webgpu) return `WebGPU (${webgpu.device}), ${webgpu.dispatches} dispatches`;
  const kind = file.includes("relaxed") ? "relaxed SIMD" : "SIMD";
  return `WebAssembly (${kind}), ${threads} thread${threads > 1 ? "s" : ""}, ${worker ? "in a worker" : "in the page"}`;
}

/** A label with a file input takes files by click, keyboard and drop. */
export function dropZone(label, take) {
  const input = label.querySelector("input");
  input.addEventListener("change", () => input.files.length && take([...input.files]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    label.addEventListener(kind, (event) => {
      event.preventDefault();
      label.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
  }
}

export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`);
