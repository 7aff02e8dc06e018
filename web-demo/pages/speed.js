// speed.js: this browser's times. A worker a model (speed-worker.js), so that both runtimes may use threads or the GPU and the page stays alive.
import { $, fail, make, providers, say, served } from "./common.js";

const float = (...dims) => ["float32", dims];
const ALL = [
  ["File types (magika)", "magika", { bytes: ["int32", [1, 2048]] }],
  ["Voice activity (silero-vad)", "silero-vad", { input: float(1, 576), state: float(2, 1, 128), sr: ["int64", [], 16000] }],
  ["Text detection (PP-OCRv4, 320 × 320)", "ocr-det", { x: float(1, 3, 320, 320) }],
  ["Text recognition (PP-OCRv4, 48 × 320)", "ocr-rec", { x: float(1, 3, 48, 320) }],
  ["MobileNetV2 (224 × 224)", "mobilenet-v2", { input: float(1, 3, 224, 224) }],
];

/** `?models=magika,ocr-det`: only these. */
const asked = new URLSearchParams(location.search).get("models")?.split(","), MODELS = ALL.filter(([, name]) => !asked || asked.includes(name));

const most = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
$("threads").append(...[1, 2, 4, 8].filter((n) => n <= most).map((n) => make("option", { value: n }, `${n}`)));
$("threads").value = $("threads").lastElementChild.value;
const onDevice = () => ($("many").hidden = $("device").value === "gpu");
if (navigator.gpu) $("device").append(make("option", { value: "gpu" }, "the GPU (WebGPU)"));
$("device").value = navigator.gpu && (await providers())[0] === "webgpu" ? "gpu" : "cpu";
$("device").onchange = onDevice;
onDevice();

const ask = (message) => new Promise((resolve, reject) => {
  const worker = new Worker(new URL("speed-worker.js", import.meta.url), { type: "module" });
  const end = (settle, value) => (worker.terminate(), settle(value));
  worker.onmessage = ({ data }) => (data.error ? end(reject, new Error(data.error)) : end(resolve, data.result));
  worker.onerror = (event) => end(reject, new Error(event.message || "the worker could not be started"));
  worker.postMessage(message);
});

const text = (ms) => ms.toFixed(ms < 10 ? 2 : 0);
/** [theirs, ratio] in words; a model that does not run there has neither. */
const beside = ({ ours, theirs }) => (theirs.failed ? ["–", "–"] : [text(theirs.least), `${(ours.least / theirs.least).toFixed(2)} ×`]);

/** Where sardonyx ran, in words. */
function where({ file, threads, webgpu }) {
  if (webgpu) return `WebGPU (${webgpu.device}${webgpu.software ? ", a processor that plays a GPU" : ""})`;
  return `WebAssembly (${file.includes("relaxed") ? "relaxed SIMD" : "SIMD"}), ${threads} thread${threads > 1 ? "s" : ""}`;
}

/** The browser and the system, as short as they say it. */
function browser() {
  const { brands = [], platform = navigator.platform } = navigator.userAgentData ?? {}, known = brands.filter(({ brand }) => !/not.?a.?brand/i.test(brand)).at(-1);
  return `${known ? `${known.brand} ${known.version}` : navigator.userAgent}, ${platform}`;
}

/** The results as Markdown. */
function report(results, place, version, mean) {
  const peer = mean !== "", heads = ["model", "least", ...(peer ? ["onnxruntime-web", "ratio"] : []), "median", "first run", "opened in", ...(results[0].engine.webgpu ? ["dispatches"] : [])];
  const rows = results.map(({ title, ours, theirs, engine }) => [title, text(ours.least), ...(peer ? beside({ ours, theirs }) : []), text(ours.median), text(ours.first),
    text(ours.opened), ...(engine.webgpu ? [engine.webgpu.dispatches] : [])]);
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [`sardonyx ${version} on ${place}; ${browser()}; ${new Date().toISOString().slice(0, 10)}. Milliseconds.`, "", line(heads), line(heads.map((_, i) => (i ? "--:" : "---"))), ...rows.map(line),
    ...results.filter(({ theirs }) => theirs?.failed).map(({ title, theirs }) => `\n${title} does not run on onnxruntime-web here: ${theirs.failed.slice(0, 200)}`),
    ...(peer ? ["", mean] : [])].join("\n");
}

/** The mean ratio of those models that run on both, as a sentence. */
function meanOf(results) {
  const ratios = results.filter(({ theirs }) => !theirs.failed).map(({ ours, theirs }) => ours.least / theirs.least);
  if (!ratios.length) return "Geometric mean of the ratios: – (onnxruntime-web runs none of these models here, so there is nothing to compare).";
  return `Geometric mean of the ratios: ${Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length).toFixed(2)}.`;
}

async function measure() {
  const bar = $("progress"), gpu = $("device").value === "gpu", threads = gpu ? 1 : Number($("threads").value), peer = $("peer").checked, results = [];
  $("run").disabled = true;
  $("publish").hidden = true;
  Object.assign(bar, { hidden: false, value: 0, max: MODELS.length });
  $("rows").replaceChildren();
  for (const head of document.querySelectorAll(".theirs")) head.hidden = !peer;
  try {
    await served;
    for (const [title, name, feeds] of MODELS) {
      say(`Measuring ${title}…`);
      const result = await ask({ name, feeds, gpu, threads, peer, seconds: 1.5 }), { ours } = result;
      const cells = [text(ours.least), ...(peer ? beside(result) : []), text(ours.median), text(ours.first), text(ours.opened)];
      results.push({ title, ...result });
      $("rows").append(make("tr", {}, make("th", { scope: "row" }, title), ...cells.map((text) => make("td", { className: "number" }, text))));
      bar.value++;
    }
    const { engine, source, version } = results[0], place = where(engine), mean = peer ? meanOf(results) : "";
    $("report").value = report(results, place, version, mean);
    $("publish").hidden = false;
    say(`Done. ${place}, in a worker${peer ? `; onnxruntime-web from ${source}` : ""}. ${mean}`);
  } finally {
    bar.hidden = true;
    $("run").disabled = false;
  }
}

$("run").onclick = () => measure().catch(fail);
$("copy").onclick = async () => {
  $("report").select();
  await navigator.clipboard.writeText($("report").value).then(() => say("Copied."), () => say("The browser does not let this page copy: the text is selected."));
};
