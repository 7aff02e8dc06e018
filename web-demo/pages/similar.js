// similar.js: sentences → vectors (MiniLM, the mean over a sentence's tokens) → cosines of all pairs.
import { $, fail, load, make, ort, place, say } from "./common.js";
import { Tokenizer } from "./words.js";

const TOKENS = 2; // the output with a vector for every token
const [vocabulary, session] = await Promise.all([fetch("models/minilm-vocabulary.json").then((r) => r.json()), load("minilm.sdx")]).catch((error) => (fail(error), Promise.reject(error)));
const tokenizer = new Tokenizer(vocabulary);

/** A unit vector for every sentence. All go through the model at once, shorter ones padded; the mask says where. */
async function embed(sentences) {
  const rows = sentences.map((text) => tokenizer.encode(text)), length = Math.max(...rows.map((row) => row.length)), dims = [rows.length, length];
  const fill = (value) => new ort.Tensor("int64", BigInt64Array.from(rows.flatMap((row) => Array.from({ length }, (_, i) => value(row, i))), BigInt), dims);
  const name = session.outputNames[TOKENS];
  const made = (await session.run({ input_ids: fill((row, i) => row[i] ?? 0), attention_mask: fill((row, i) => (i < row.length ? 1 : 0)) }, [name]))[name];
  const size = made.dims[2];
  return rows.map((row, r) => {
    const mean = new Float32Array(size);
    for (let i = 0; i < row.length; i++) for (let k = 0; k < size; k++) mean[k] += made.data[(r * length + i) * size + k];
    const norm = Math.hypot(...mean);
    return mean.map((v) => v / norm);
  });
}

const cosine = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

function draw(sentences, map) {
  $("head").replaceChildren(make("tr", {}, make("th", { scope: "col" }, "Sentence"), ...sentences.map((text, i) => make("th", { scope: "col", className: "number", title: text }, `${i + 1}`))));
  $("rows").replaceChildren(...sentences.map((text, r) => make("tr", {}, make("th", { scope: "row" }, `${r + 1}. ${text}`), ...map[r].map((value, c) => {
    const cell = make("td", { className: "number", title: `${text} · ${sentences[c]}` }, value.toFixed(2));
    cell.style.setProperty("--heat", `${Math.round(100 * Math.max(0, value))}%`);
    return cell;
  }))));
  const pairs = sentences.flatMap((a, i) => sentences.slice(i + 1).map((b, k) => [map[i][i + 1 + k], a, b])).sort((a, b) => b[0] - a[0]).slice(0, 3);
  $("pairs").replaceChildren(...pairs.map(([value, a, b]) => make("li", {}, `${value.toFixed(2)}: “${a}” and “${b}”`)));
}

async function compare() {
  const sentences = $("text").value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 24);
  if (sentences.length < 2) return say("Write at least two sentences, one a line.");
  const start = performance.now(), vectors = await embed(sentences), took = performance.now() - start;
  draw(sentences, vectors.map((a) => vectors.map((b) => cosine(a, b))));
  say(`${sentences.length} sentences in ${took.toFixed(0)} ms. ${place(session)}.`);
}

$("compare").disabled = false;
$("compare").onclick = () => compare().catch(fail);
$("text").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && compare().catch(fail));
