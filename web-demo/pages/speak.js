// speak.js: a voice that says nothing: two phrases of vowels by a cascade formant synthesizer (Klatt, 1980), with silence around them. The same samples at every call.
const FORMANTS = { a: [730, 1090, 2440], i: [270, 2290, 3010], u: [300, 870, 2240], e: [530, 1840, 2480], o: [570, 840, 2410] }; // Hz, Peterson and Barney (1952)
const BANDWIDTHS = [80, 100, 140], SYLLABLE = 0.16, PITCH = 130;
/** Silence before, vowels, …, silence after; seconds. */
const SCRIPT = [0.6, "aeiouaie", 0.9, "oaeiuao", 0.7];

/** Even noise in -1…1: a linear congruential generator, so that the sample is always the same. */
function generator(seed) {
  return () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 31) - 1;
}

export function speak(rate) {
  const noise = generator(1), parts = SCRIPT.map((part) => (typeof part === "string" ? phrase(part, rate, noise) : new Float32Array(part * rate)));
  const sound = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (sound.set(part, at), at + part.length), 0);
  return sound.map((v) => v + 0.0008 * noise());
}

function phrase(vowels, rate, noise) {
  const length = Math.floor(vowels.length * SYLLABLE * rate), end = length / rate;
  let sound = new Float32Array(length), turn = 0, before = 0;
  for (let i = 0; i < length; i++) { // the source: a pulse of the glottis is open for 60 % of a period; the ear hears its change
    const t = i / rate;
    turn = (turn + (PITCH * (1 + 0.12 * Math.sin((2 * Math.PI * t) / 0.45) - (0.25 * t) / end)) / rate) % 1;
    const open = turn < 0.6 ? turn / 0.6 : 0, flow = open * open * (3 - 2 * open);
    const loud = (0.25 + 0.75 * Math.sqrt(Math.abs(Math.sin((Math.PI * t) / SYLLABLE)))) * Math.min(1, t / 0.03, (end - t) / 0.03);
    sound[i] = (flow - before + 0.007 * noise()) * loud;
    before = flow;
  }
  BANDWIDTHS.forEach((width, formant) => (sound = resonate(sound, rate, width, (t) => glide(vowels, formant, t))));
  const top = sound.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  return sound.map((v) => (0.5 * v) / top);
}

/** A formant's frequency at a time: vowels melt into each other. */
function glide(vowels, formant, t) {
  const at = Math.min(Math.max(t / SYLLABLE - 0.5, 0), vowels.length - 1), k = Math.floor(at), f = at - k;
  const from = FORMANTS[vowels[k]][formant], to = FORMANTS[vowels[Math.min(k + 1, vowels.length - 1)]][formant];
  return from + (to - from) * f * f * (3 - 2 * f);
}

/** A two-pole resonator of gain 1 at 0 Hz. */
function resonate(sound, rate, width, frequency) {
  const r = Math.exp((-Math.PI * width) / rate);
  let y1 = 0, y2 = 0;
  return sound.map((x, i) => {
    const c = 2 * r * Math.cos((2 * Math.PI * frequency(i / rate)) / rate), y = (1 - c + r * r) * x + c * y1 - r * r * y2;
    [y2, y1] = [y1, y];
    return y;
  });
}
