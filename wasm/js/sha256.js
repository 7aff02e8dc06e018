// sha256.js: SHA-256 (FIPS 180-4) of bytes that arrive in pieces; the browser's own digest wants them all at once. Used only where a caller gives `integrity`.

const primes = [];
for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
const K = Int32Array.from(primes, (p) => fraction(Math.cbrt(p)));
const START = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));

export class Sha256 {
  #state = Int32Array.from(START);
  #block = new Uint8Array(64);
  #words = new Int32Array(64);
  #view = new DataView(this.#block.buffer);
  #length = 0;
  #text;

  update(bytes) {
    let fill = this.#length % 64;
    this.#length += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + 64 - fill);
      this.#block.set(part, fill);
      at += part.length;
      fill = (fill + part.length) % 64;
      if (!fill) this.#round();
    }
    return this;
  }

  #round() {
    const w = this.#words;
    for (let i = 0; i < 16; i++) w[i] = this.#view.getInt32(4 * i);
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15], y = w[i - 2];
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (this.#state[i] += x));
  }

  /** The digest in hexadecimal; nothing can be added after. */
  text() {
    if (this.#text === undefined) {
      const bits = this.#length * 8;
      const tail = new Uint8Array(64);
      const pad = ((119 - (this.#length % 64)) % 64) + 1; // up to 8 bytes before the end of a block
      tail[0] = 0x80;
      this.update(tail.subarray(0, pad));
      const end = new DataView(new ArrayBuffer(8));
      end.setUint32(0, Math.floor(bits / 2 ** 32));
      end.setUint32(4, bits >>> 0);
      this.update(new Uint8Array(end.buffer));
      this.#text = Array.from(this.#state, (x) => (x >>> 0).toString(16).padStart(8, "0")).join("");
    }
    return this.#text;
  }
}
