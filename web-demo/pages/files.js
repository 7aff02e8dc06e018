// files.js: magika. Its input: int32[2048]: the first 1024 bytes of the head without leading white space, padded behind, and the last 1024 of the tail without trailing white space, padded in front.
import { $, bytes, dropZone, fail, load, make, ort, place, say } from "./common.js";

const [config, session] = await Promise.all([fetch("models/magika-config.json").then((r) => r.json()), load("magika.sdx")]).catch((error) => (fail(error), Promise.reject(error)));
const SPACE = new Set([9, 10, 11, 12, 13, 32]);

function features(head, tail) {
  const { beg_size: first, end_size: last, padding_token: padding } = config;
  let start = 0, end = tail.length;
  while (start < head.length && SPACE.has(head[start])) start++;
  while (end > 0 && SPACE.has(tail[end - 1])) end--;
  const made = new Int32Array(first + last).fill(padding);
  made.set(head.subarray(start, start + first));
  const kept = tail.subarray(Math.max(0, end - last), end);
  made.set(kept, first + last - kept.length);
  return made;
}

async function look(files) {
  const rows = [];
  const start = performance.now();
  let running = 0;
  for (const file of files) {
    const head = new Uint8Array(await file.slice(0, config.block_size).arrayBuffer()), tail = new Uint8Array(await file.slice(-config.block_size).arrayBuffer());
    let type = "empty", score = "";
    if (file.size >= 8) {
      const before = performance.now();
      const made = await session.run({ [session.inputNames[0]]: new ort.Tensor("int32", features(head, tail), [1, config.beg_size + config.end_size]) });
      running += performance.now() - before;
      const scores = made[session.outputNames[0]].data;
      const best = scores.indexOf(Math.max(...scores));
      [type, score] = [config.target_labels_space[best], `${(100 * scores[best]).toFixed(1)} %`];
    } else if (file.size) type = "too short to tell";
    rows.push(make("tr", {}, make("td", { className: "name" }, file.name), make("td", { className: "number" }, bytes(file.size)), make("td", {}, type), make("td", { className: "number" }, score)));
  }
  $("rows").prepend(...rows);
  say(`${files.length} file${files.length > 1 ? "s" : ""} in ${(performance.now() - start).toFixed(0)} ms, ${(running / files.length).toFixed(1)} ms of it the model each. ${place(session)}.`);
}

$("input").disabled = false;
dropZone($("drop"), (files) => look(files).catch(fail));
