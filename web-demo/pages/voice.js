// voice.js: silero-vad. 16 kHz; each chunk of 512 samples goes with the 64 before it; the state of a run goes into the next.
import { $, dropZone, fail, load, make, ort, place, say } from "./common.js";
import { speak } from "./speak.js";

const RATE = 16000, CHUNK = 512, CONTEXT = 64;
const session = await load("silero-vad.sdx").catch((error) => (fail(error), Promise.reject(error)));
const rate = new ort.Tensor("int64", [BigInt(RATE)], []);

class Detector {
  state = new ort.Tensor("float32", new Float32Array(256), [2, 1, 128]);
  context = new Float32Array(CONTEXT);
  probabilities = [];

  /** 512 samples → how likely they are speech. */
  async take(chunk) {
    const window = new Float32Array(CONTEXT + CHUNK);
    window.set(this.context);
    window.set(chunk, CONTEXT);
    this.context = window.slice(-CONTEXT);
    const made = await session.run({ input: new ort.Tensor("float32", window, [1, window.length]), state: this.state, sr: rate });
    const [probability, state] = session.outputNames.map((name) => made[name]);
    this.state = state;
    this.probabilities.push(probability.data[0]);
  }
}

/** [start, end] in seconds: begins above 0.5, ends where it stays below 0.35 for 0.2 s. */
export function segments(probabilities) {
  const found = [], pause = 0.2 * RATE;
  let begin = -1, quiet = -1;
  probabilities.forEach((p, i) => {
    const at = i * CHUNK;
    if (p >= 0.5) [begin, quiet] = [begin < 0 ? at : begin, -1];
    else if (p < 0.35 && begin >= 0) {
      quiet = quiet < 0 ? at : quiet;
      if (at - quiet >= pause) {
        found.push([begin / RATE, quiet / RATE]);
        begin = quiet = -1;
      }
    }
  });
  if (begin >= 0) found.push([begin / RATE, (quiet < 0 ? probabilities.length * CHUNK : quiet) / RATE]);
  return found;
}

let drawn = [];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(drawn));

function draw(probabilities) {
  const canvas = $("chart"), paint = canvas.getContext("2d"), { color } = getComputedStyle(canvas);
  drawn = probabilities;
  paint.clearRect(0, 0, canvas.width, canvas.height);
  paint.fillStyle = color;
  const width = canvas.width / Math.max(probabilities.length, 1);
  probabilities.forEach((p, i) => paint.fillRect(Math.floor(i * width), canvas.height * (1 - p), Math.ceil(width), canvas.height * p));
  paint.globalAlpha = 0.4;
  paint.fillRect(0, canvas.height / 2, canvas.width, 2); // from here it counts as speech
  paint.globalAlpha = 1;
  const found = segments(probabilities);
  $("segments").replaceChildren(...found.map(([a, b]) => make("li", {}, `${a.toFixed(2)} s to ${b.toFixed(2)} s`)));
  return found;
}

async function listen(sound) {
  const detector = new Detector(), start = performance.now();
  for (let at = 0; at < sound.length; at += CHUNK) {
    const chunk = new Float32Array(CHUNK);
    chunk.set(sound.subarray(at, at + CHUNK));
    await detector.take(chunk);
    if (at % (CHUNK * 50) === 0) draw(detector.probabilities);
  }
  const found = draw(detector.probabilities), took = performance.now() - start;
  say(`${(sound.length / RATE).toFixed(1)} s of sound in ${took.toFixed(0)} ms (${(sound.length / RATE / (took / 1000)).toFixed(0)} × real time): ${found.length} piece${found.length === 1 ? "" : "s"} of speech. ${place(session)}.`);
}

async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const { duration, ...rest } = await context.decodeAudioData(await file.arrayBuffer()).then((b) => ({ buffer: b, duration: b.duration }));
  const mono = new OfflineAudioContext(1, Math.ceil(duration * RATE), RATE);
  const source = mono.createBufferSource();
  source.buffer = rest.buffer;
  source.connect(mono.destination);
  source.start();
  return (await mono.startRendering()).getChannelData(0);
}

let stop;
async function microphone() {
  if (stop) return stop();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext({ sampleRate: RATE });
  await context.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(context, "chunks");
  context.createMediaStreamSource(stream).connect(node);
  const detector = new Detector();
  let busy = Promise.resolve();
  node.port.onmessage = ({ data }) => (busy = busy.then(() => detector.take(data)).then(() => draw(detector.probabilities.slice(-600))).catch(fail));
  $("microphone").textContent = "Stop";
  say(`Listening. ${place(session)}.`);
  stop = () => {
    stop = undefined;
    for (const track of stream.getTracks()) track.stop();
    context.close();
    $("microphone").textContent = "Listen to the microphone";
  };
}

for (const id of ["input", "microphone", "sample"]) $(id).disabled = false;
dropZone($("drop"), ([file]) => decode(file).then(listen).catch((error) => fail(error.name === "EncodingError" ? new Error(`'${file.name}' is not a sound this browser can read`) : error)));
$("sample").onclick = () => listen(speak(RATE)).catch(fail);
$("microphone").onclick = () => microphone().catch(fail);
