// text.js: around PP-OCR's two models, without DOM: what goes in, boxes out of the detector's map, characters out of the recogniser's scores. Numbers as in rapidocr's config.yaml.
// Detector: Liao et al., Real-time Scene Text Detection with Differentiable Binarization (2020): a box is a region above THRESHOLD, grown by what training had shrunk it.
export const THRESHOLD = 0.3, BOX_SCORE = 0.5, GROW = 1.6, SMALLEST = 3;

/** RGBA pixels [height, width, 4] → float32[1, 3, height, width] in -1…1, blue first, as the models were trained; columns from `width` to `padded` are 0. */
export function planes({ data, width, height }, padded = width) {
  const made = new Float32Array(3 * height * padded);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) made[(c * height + y) * padded + x] = data[(y * width + x) * 4 + 2 - c] / 127.5 - 1;
    }
  }
  return made;
}

/** Boxes of text in a map [height, width] of probabilities: {centre, along, across, width, height, score}; `along` and `across` are unit vectors, sizes in pixels of the map. */
export function boxes(map, width, height) {
  const mask = dilated(map, width, height), found = [];
  for (const pixels of components(mask, width, height)) {
    const score = pixels.reduce((sum, at) => sum + map[at], 0) / pixels.length;
    const box = smallestBox(pixels, width);
    if (Math.min(box.width, box.height) < SMALLEST || score < BOX_SCORE) continue;
    const grow = (GROW * box.width * box.height) / (box.width + box.height); // area × GROW / perimeter, on both sides
    found.push({ ...box, width: box.width + grow, height: box.height + grow, score });
  }
  return inReadingOrder(found);
}

/** 2×2 dilation of what is above THRESHOLD: joins letters that hardly touch. */
function dilated(map, width, height) {
  const made = new Uint8Array(map.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (map[y * width + x] <= THRESHOLD) continue;
      for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) if (x + dx < width && y + dy < height) made[(y + dy) * width + x + dx] = 1;
    }
  }
  return made;
}

/** The 8-connected regions of a mask, each a list of places; empties the mask. */
function components(mask, width, height) {
  const found = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start]) continue;
    const region = [start];
    mask[start] = 0;
    for (let i = 0; i < region.length; i++) {
      const x = region[i] % width, y = (region[i] - x) / width;
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          if (mask[v * width + u]) mask[v * width + u] = 0, region.push(v * width + u);
        }
      }
    }
    found.push(region);
  }
  return found;
}

/** Convex hull by Andrew's monotone chain: of every row only the ends can be on it. */
function hull(pixels, width) {
  const rows = new Map();
  for (const at of pixels) {
    const x = at % width, y = (at - x) / width, [low, high] = rows.get(y) ?? [x, x];
    rows.set(y, [Math.min(low, x), Math.max(high, x)]);
  }
  const points = [...rows].flatMap(([y, [low, high]]) => (low === high ? [[low, y]] : [[low, y], [high, y]])).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
  const half = (list) => list.reduce((chain, p) => {
    while (chain.length > 1 && turn(chain.at(-2), chain.at(-1), p) <= 0) chain.pop();
    chain.push(p);
    return chain;
  }, []);
  return points.length < 3 ? points : [...half(points).slice(0, -1), ...half(points.reverse()).slice(0, -1)];
}

/** The smallest rectangle around a region: one of its sides lies on a side of the hull. `along` points to the right, or down in a column. */
function smallestBox(pixels, width) {
  const corners = hull(pixels, width);
  let best = { area: Infinity };
  corners.forEach(([ax, ay], i) => {
    const [bx, by] = corners[(i + 1) % corners.length], length = Math.hypot(bx - ax, by - ay);
    const [ux, uy] = length ? [(bx - ax) / length, (by - ay) / length] : [1, 0];
    const us = corners.map(([x, y]) => x * ux + y * uy), vs = corners.map(([x, y]) => y * ux - x * uy);
    const [u0, u1, v0, v1] = [Math.min(...us), Math.max(...us), Math.min(...vs), Math.max(...vs)], area = (u1 - u0) * (v1 - v0);
    if (area < best.area) best = { area, ux, uy, u: (u0 + u1) / 2, v: (v0 + v1) / 2, width: u1 - u0, height: v1 - v0 };
  });
  let { ux, uy, width: w, height: h } = best;
  const centre = [best.u * ux - best.v * uy, best.u * uy + best.v * ux];
  if (Math.abs(ux) < Math.abs(uy)) [ux, uy, w, h] = [-uy, ux, h, w]; // the side nearer to the horizontal is the width
  if (ux < 0) [ux, uy] = [-ux, -uy];
  return { centre, along: [ux, uy], across: [-uy, ux], width: w, height: h };
}

/** Line by line: a box belongs to the line whose first box's centre is within half its height. */
function inReadingOrder(found) {
  const lines = [];
  for (const box of found.sort((a, b) => a.centre[1] - b.centre[1])) {
    const line = lines.at(-1);
    if (line && Math.abs(line[0].centre[1] - box.centre[1]) < Math.min(line[0].height, box.height) / 2) line.push(box);
    else lines.push([box]);
  }
  return lines.flatMap((line) => line.sort((a, b) => a.centre[0] - b.centre[0]));
}

/** The best path through scores [steps, classes]: repetitions are one character, class 0 is none (Graves et al., Connectionist Temporal Classification, 2006). {text, score}: the mean of its characters. */
export function decode(scores, classes, characters) {
  let text = "", sum = 0, count = 0, before = 0;
  for (let at = 0; at < scores.length; at += classes) {
    let best = 0;
    for (let k = 1; k < classes; k++) if (scores[at + k] > scores[at + best]) best = k;
    if (best && best !== before) [text, sum, count] = [text + characters[best - 1], sum + scores[at + best], count + 1];
    before = best;
  }
  return { text, score: count ? sum / count : 0 };
}
