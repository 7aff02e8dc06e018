// speed.js: this browser's times. A worker a model (speed-worker.js), so that both runtimes may use threads and the page stays alive.
import { $, fail, make, say, served } from "./common.js";

const float = (...dims) => ["float32", dims];
const MODELS = [
  ["File types (magika)", "magika", { bytes: ["int32", [1, 2048]] }],
  ["Voice activity (silero-vad)", "silero-vad", { input: float(1, 576), state: float(2, 1, 128), sr: ["int64", [], 16000] }],
  ["Text detection (PP-OCRv4, 320 × 320)", "ocr-det", { x: float(1, 3, 320, 320) }],
  ["Text recognition (PP-OCRv4, 48 × 320)", "ocr-rec", { x: float(1, 3, 48, 320) }],
];

const most = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
$("threads").append(...[1, 2, 4, 8].filter((n) => n <= most).map((n) => make("option", { value: n }, `${n}`)));
$("threads").value = $("threads").lastElementChild.value;

const ask = (message) => new Promise((resolve, reject) => {
  const worker = new Worker(new URL("speed-worker.js", import.meta.url), { type: "module" });
  const end = (settle, value) => (worker.terminate(), settle(value));
  worker.onmessage = ({ data }) => (data.error ? end(reject, new Error(data.error)) : end(resolve, data.result));
  worker.onerror = (event) => end(reject, new Error(event.message || "the worker could not be started"));
  worker.postMessage(message);
});

async function measure() {
  const bar = $("progress"), threads = Number($("threads").value), peer = $("peer").checked, ratios = [];
  $("run").disabled = true;
  Object.assign(bar, { hidden: false, value: 0, max: MODELS.length });
  $("rows").replaceChildren();
  for (const head of document.querySelectorAll(".theirs")) head.hidden = !peer;
  let engine = "";
  try {
    await served;
    for (const [title, name, feeds] of MODELS) {
      say(`Measuring ${title}…`);
      const { ours, theirs, file, source } = await ask({ name, feeds, threads, peer, seconds: 1.5 });
      const text = (ms) => ms.toFixed(ms < 10 ? 2 : 0);
      const cells = [text(ours.least), ...(peer ? [text(theirs.least), `${(ours.least / theirs.least).toFixed(2)} ×`] : []), text(ours.median), text(ours.opened)];
      if (peer) ratios.push(ours.least / theirs.least);
      $("rows").append(make("tr", {}, make("th", { scope: "row" }, title), ...cells.map((text) => make("td", { className: "number" }, text))));
      engine = `WebAssembly (${file.includes("relaxed") ? "relaxed SIMD" : "SIMD"}), ${threads} thread${threads > 1 ? "s" : ""}, in a worker${peer ? `; onnxruntime-web from ${source}` : ""}`;
      bar.value++;
    }
    const mean = Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length);
    say(`Done. ${engine}.${peer ? ` Geometric mean of the ratios: ${mean.toFixed(2)}.` : ""}`);
  } finally {
    bar.hidden = true;
    $("run").disabled = false;
  }
}

$("run").onclick = () => measure().catch(fail);
