// index.js: the start page says what this browser can do.
import { $ } from "./common.js";

const threads = globalThis.crossOriginIsolated ? `threads (${navigator.hardwareConcurrency} cores)` : "one thread (the page is not cross-origin isolated)";
$("where").textContent = `This browser: WebAssembly, ${threads}${"gpu" in navigator ? ", WebGPU" : ""}.`;
