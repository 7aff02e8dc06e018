// read.js: text in a picture. PP-OCR's detector says where lines are, its recogniser reads each; text.js has what is between them.
import { $, dropZone, fail, loadAll, make, ort, place, say, served } from "./common.js";
import { boxes, decode, planes } from "./text.js";

const LONGEST = 960, LINE = 48, NARROWEST = 320, SCORE = 0.5;
const [characters, [finder, reader]] = await Promise.all([served.then(() => fetch("models/ocr-characters.json")).then((r) => r.json()), loadAll(["ocr-det.sdx", "ocr-rec.sdx"])])
  .catch((error) => (fail(error), Promise.reject(error)));

const sheet = (width, height) => Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
const run = async (session, data, dims) => (await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", data, dims) }))[session.outputNames[0]];

/** The lines of text in a picture (canvas): boxes in its pixels, with text and score. */
async function read(picture) {
  const shrink = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((size) => Math.max(32, 32 * Math.round((size * shrink) / 32)));
  const small = sheet(width, height), begin = performance.now();
  small.drawImage(picture, 0, 0, width, height);
  const map = await run(finder, planes(small.getImageData(0, 0, width, height)), [1, 3, height, width]);
  const middle = performance.now(), lines = [], sx = picture.width / width, sy = picture.height / height;
  for (const box of boxes(map.data, width, height)) {
    const line = { ...box, centre: [box.centre[0] * sx, box.centre[1] * sy], width: box.width * sx, height: box.height * sy };
    const { text, score } = await spell(crop(picture, line));
    if (score >= SCORE && text.trim()) lines.push({ ...line, text, score });
  }
  return { lines, found: middle - begin, spelt: performance.now() - middle };
}

/** A line cut out and laid flat, LINE pixels high. A column is turned, as the recogniser was trained. */
function crop(picture, { centre: [x, y], along, across, width, height }) {
  const upright = height >= 1.5 * width, [length, thick] = upright ? [height, width] : [width, height];
  const [u, v] = upright ? [across, [-along[0], -along[1]]] : [along, across];
  const scale = LINE / thick, cut = sheet(Math.max(1, Math.min(Math.round(length * scale), 3200)), LINE);
  cut.imageSmoothingQuality = "high";
  cut.setTransform(u[0] * scale, v[0] * scale, u[1] * scale, v[1] * scale, cut.canvas.width / 2 - (u[0] * x + u[1] * y) * scale, LINE / 2 - (v[0] * x + v[1] * y) * scale);
  cut.drawImage(picture, 0, 0);
  return cut.getImageData(0, 0, cut.canvas.width, LINE);
}

async function spell(pixels) {
  const padded = Math.max(NARROWEST, pixels.width), { data, dims } = await run(reader, planes(pixels, padded), [1, 3, LINE, padded]);
  return decode(data, dims[2], characters);
}

function draw(picture, lines) {
  const canvas = $("picture"), paint = canvas.getContext("2d");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  paint.drawImage(picture, 0, 0);
  paint.lineWidth = Math.max(2, picture.width / 400);
  paint.strokeStyle = "#d6431b";
  paint.fillStyle = "#d6431b22";
  for (const { centre: [x, y], along: [ux, uy], width, height } of lines) {
    paint.setTransform(ux, uy, -uy, ux, x, y);
    paint.fillRect(-width / 2, -height / 2, width, height);
    paint.strokeRect(-width / 2, -height / 2, width, height);
  }
  paint.resetTransform();
  canvas.hidden = false;
  canvas.setAttribute("aria-label", `The picture, ${lines.length} lines of text marked`);
  $("rows").replaceChildren(...lines.map(({ text, score }) => make("tr", {}, make("td", { className: "name" }, text), make("td", { className: "number" }, `${(100 * score).toFixed(0)} %`))));
}

async function show(picture) {
  const { lines, found, spelt } = await read(picture);
  draw(picture, lines);
  say(`${lines.length} line${lines.length === 1 ? "" : "s"} of text: found in ${found.toFixed(0)} ms, read in ${spelt.toFixed(0)} ms. ${place(finder)}.`);
}

/** What can be drawn, as a canvas of at most 2000 pixels a side. */
function still(image, width, height) {
  const scale = Math.min(1, 2000 / Math.max(width, height)), made = sheet(Math.round(width * scale), Math.round(height * scale));
  made.fillStyle = "white"; // under what is transparent
  made.fillRect(0, 0, made.canvas.width, made.canvas.height);
  made.drawImage(image, 0, 0, made.canvas.width, made.canvas.height);
  return made.canvas;
}

async function open(file) {
  const image = await createImageBitmap(file).catch(() => Promise.reject(new Error(`'${file.name}' is not a picture this browser can read`)));
  say("Reading…");
  await show(still(image, image.width, image.height));
}

/** A made-up ticket: lines of several sizes, light on dark, and one that is not level. */
function sample() {
  const paint = sheet(900, 560);
  const write = (text, x, y, font, colour = "#1d1d1f") => Object.assign(paint, { font, fillStyle: colour }).fillText(text, x, y);
  paint.fillStyle = "#f4efe6";
  paint.fillRect(0, 0, 900, 560);
  paint.fillStyle = "#8a2f14";
  paint.fillRect(0, 0, 900, 120);
  write("SARDONYX EXPRESS", 50, 80, "bold 56px sans-serif", "white");
  write("Platform 7", 50, 200, "44px sans-serif");
  write("Departure 14:35", 470, 200, "44px sans-serif");
  write("Reserved seat in the quiet carriage", 50, 285, "34px serif");
  write("Price: 29.90 EUR", 50, 360, "bold 38px monospace");
  paint.translate(520, 510);
  paint.rotate(-0.2);
  write("valid today only", 0, 0, "italic 40px serif", "#8a2f14");
  paint.resetTransform();
  write("Keep this ticket", 50, 480, "30px sans-serif");
  return paint.canvas;
}

let stop;
async function camera() {
  if (stop) return stop();
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
  const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  let running = true;
  $("camera").textContent = "Stop";
  stop = () => {
    running = false;
    stop = undefined;
    for (const track of stream.getTracks()) track.stop();
    $("camera").textContent = "Use the camera";
  };
  while (running) await show(still(video, video.videoWidth, video.videoHeight));
}

for (const id of ["input", "sample", "camera"]) $(id).disabled = false;
dropZone($("drop"), ([file]) => open(file).catch(fail));
$("sample").onclick = () => show(sample()).catch(fail);
$("camera").onclick = () => camera().catch((error) => (stop?.(), fail(error)));
