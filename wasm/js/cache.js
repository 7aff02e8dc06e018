// cache.js: models on this device, in Cache Storage, as parts of a fixed size: what a lost connection or a closed page left is taken up again by the next visit.
//
// How to think
// - A model is known by its sha256 where the page gave one (then what is here needs no network at all), else by its URL, and is good as long as the server's ETag is.
// - Parts are written while they pass, one behind; an entry "end" says that all of them are there.
import { log } from "./env.js";

const CACHE = "sardonyx-models";
const PART = 1 << 20;

export class Kept {
  #store;
  #name;
  #part;
  #fill = 0;
  #written = Promise.resolve();
  #off = false;

  /** What is kept of a model: {bytes, whole, tag, ranges}. null where there is no Cache Storage. */
  static async open(url, hash) {
    const kept = new Kept();
    try {
      kept.#store = await caches.open(CACHE);
      const name = new URL(hash ? `https://sha256.invalid/${hash}` : url);
      name.hash = "";
      name.searchParams.append("sardonyx-part", "");
      kept.#name = name.href;
      const keys = new Set((await kept.#store.keys()).map((request) => request.url));
      let parts = 0;
      while (keys.has(kept.#key(parts))) parts++;
      const end = await kept.#store.match(kept.#key("end")), first = parts ? await kept.#store.match(kept.#key(0)) : undefined;
      const about = JSON.parse((end ?? first)?.headers.get("x-sardonyx") ?? "{}");
      const whole = !!end && parts === Math.ceil(about.total / PART);
      Object.assign(kept, { ...about, whole, bytes: whole ? about.total : end ? 0 : parts * PART });
    } catch (error) {
      log("warning", `no cache for models here (${error.message})`);
      return null;
    }
    return kept;
  }

  #key(part) {
    return this.#name + part;
  }

  /** A reader of the kept bytes, then of the rest. */
  reader(rest) {
    let at = 0;
    return {
      read: async () => {
        if (at >= this.bytes) return rest ? rest.read() : { done: true };
        const found = await this.#store.match(this.#key(at / PART));
        const value = found && new Uint8Array(await found.arrayBuffer());
        if (value?.length !== Math.min(PART, this.bytes - at)) {
          this.#off = true;
          await this.drop();
          throw new Error("a part is gone from this device's cache");
        }
        at += PART;
        return { value, kept: true };
      },
      cancel: async () => rest?.cancel(),
    };
  }

  /** Keep what comes from now on, behind the bytes that are there. about: {tag, ranges} of the server's answer. */
  begin(about) {
    this.about = about;
    this.next = this.bytes / PART;
    this.#part = new Uint8Array(PART);
  }

  async write(piece) {
    for (let at = 0; at < piece.length && !this.#off;) {
      const some = piece.subarray(at, at + PART - this.#fill);
      this.#part.set(some, this.#fill);
      at += some.length;
      if ((this.#fill += some.length) === PART) await this.#flush();
    }
  }

  async #flush() {
    await this.#written; // the part before
    if (this.#off || !this.#fill) return;
    const data = this.#part.slice(0, this.#fill);
    this.#fill = 0;
    this.#written = this.#put(this.next++, data);
  }

  #put(part, data, about = this.about) {
    return this.#store.put(this.#key(part), new Response(data, { headers: { "x-sardonyx": JSON.stringify(about) } })).catch(async (error) => {
      log("warning", `the model is not kept for the next visit: ${error.message}`);
      this.#off = true;
      await this.drop();
    });
  }

  /** All of it is there: `total` bytes. */
  async finish(total) {
    await this.#flush();
    await this.#written;
    if (!this.#off) await this.#put("end", null, { ...this.about, total });
  }

  /** Nothing more comes; what was written stays for the next time. */
  async stop() {
    this.#off = true;
    await this.#written;
  }

  /** Forget the model. */
  async drop() {
    const { length } = this.#name;
    for (const { url } of await this.#store.keys()) if (url.startsWith(this.#name) && /^(\d+|end)$/.test(url.slice(length))) await this.#store.delete(url);
    Object.assign(this, { bytes: 0, whole: false });
  }
}
