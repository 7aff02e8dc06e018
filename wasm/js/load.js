// load.js: where a model's bytes come from. One `Source` reads them front to back, in pieces, whatever they are: a URL, Request, Response, Blob, stream, array, or (node) a path.
//
// How to think
// - A reader asks for exact lengths: `take(n)` gives a small piece as one array, `pour(n, sink)` hands a long one over as it arrives, so that nothing is held twice.
// - A connection that breaks is taken up again where it broke (Range, checked with the ETag); a server without ranges sends all again and the known part is skipped.
// - With `cache` the bytes go to Cache Storage while they pass (cache.js); the next visit asks the server only whether they changed, needs no network if there is none, and takes up what is
//   incomplete where it broke off.
import { Aborted, checkAborted, InvalidArgument, NetworkError, NoSuchFile } from "./errors.js";
import { log } from "./env.js";
import { Kept } from "./cache.js";
import { reading } from "./pipe.js";
import { Sha256 } from "./sha256.js";
import { isNode } from "./spawn.js";

const RETRIES = 4;
const PIECE = 1 << 20; // bytes read at once
const PAUSE = 300; // ms before the first retry; doubled each time

/** A Source for whatever a caller may give. `options`: signal, progress, cache, integrity, early: a promise of the answer to a URL, which somebody else asked for (null: nothing came of it). */
export async function open(what, options = {}) {
  const { signal } = options;
  checkAborted(signal);
  const source = new Source(options);
  if (options.integrity) source.hash = expected(options.integrity);
  if (typeof what === "string" || what instanceof URL || isA(what, "Request")) await source.fromUrl(what);
  else if (isA(what, "Response")) source.fromResponse(what);
  else if (isA(what, "Blob")) source.fromStream(what.stream(), what.size);
  else if (isA(what, "ReadableStream")) source.fromStream(what);
  else if (ArrayBuffer.isView(what)) source.fromArray(new Uint8Array(what.buffer, what.byteOffset, what.byteLength));
  else if (what instanceof ArrayBuffer || isA(what, "SharedArrayBuffer")) source.fromArray(new Uint8Array(what));
  else throw new InvalidArgument(`a model is given as a URL, Request, Response, Blob, stream, ArrayBuffer or typed array, not ${what?.constructor?.name ?? typeof what}`);
  return source;
}

/** What a promise gives, or Aborted as soon as the signal says so: nobody waits any longer for what may never come. */
export const orAborted = (promise, signal) => !signal ? promise : new Promise((resolve, reject) => {
  const stop = () => Promise.resolve(signal).then(checkAborted).catch(reject);
  stop();
  signal.addEventListener("abort", stop);
  promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
});

/** Whether something is of a class that not every place knows. */
export const isA = (what, name) => typeof globalThis[name] === "function" && what instanceof globalThis[name];

class Source {
  constructor({ signal, progress, cache, early }) {
    Object.assign(this, { signal, progress, early, useCache: cache });
    this.position = 0; // bytes given to the reader
    this.total = undefined; // bytes to come in all, where known
    this.name = "the model";
    this.rest = null; // the unread part of the last piece
    this.hash = null;
  }

  // -- where from --------------------------------------------------------------------------------------------------------------------------------

  async fromUrl(what) {
    this.name = String(what?.url ?? what);
    if (isNode && !/^(https?|data|blob):/.test(this.name)) return this.fromPath(what);
    this.request = isA(what, "Request") ? what : new Request(this.name);
    if (this.useCache) return this.fromCache();
    this.fromResponse((this.early && (await this.early)) || (await this.get({})));
  }

  fromResponse(response) {
    if (!response.ok) throw refused(response.status, response.url || this.name);
    if (response.bodyUsed || !response.body) throw new InvalidArgument("the Response's body was read already; give a fresh one (response.clone())");
    const encoded = response.headers.get("content-encoding");
    const length = Number(response.headers.get("content-length"));
    if (response.url) this.name = response.url;
    this.tag = tagOf(response);
    this.ranges = !encoded;
    // The page a server sends instead of a missing file is told by its first bytes, see sdx.js; its type makes the message clearer.
    this.kind = response.headers.get("content-type") ?? "";
    this.request ??= /^https?:/.test(response.url) ? new Request(response.url) : undefined;
    this.fromStream(response.body, !encoded && length ? length : undefined);
  }

  fromStream(stream, total) {
    this.total = total;
    this.reader = passing(stream);
  }

  fromArray(bytes) {
    this.total = bytes.length;
    let at = 0;
    this.reader = { read: async () => (at < bytes.length ? { value: bytes.subarray(at, (at = Math.min(at + (4 << 20), bytes.length))) } : { done: true }), cancel: async () => {} };
  }

  async fromPath(what) {
    const { open } = await import("node:fs/promises");
    let file;
    try {
      file = await open(what instanceof URL ? what : this.name);
      this.total = (await file.stat()).size;
    } catch (error) {
      throw new NoSuchFile(`'${this.name}' can not be opened: ${error.message}`);
    }
    const piece = new Uint8Array(1 << 20);
    this.reader = {
      read: async () => {
        const { bytesRead } = await file.read(piece, 0, piece.length);
        return bytesRead ? { value: piece.subarray(0, bytesRead) } : { done: true };
      },
      cancel: () => file.close(),
    };
  }

  async get(headers) {
    try {
      const given = new Headers(this.request.headers);
      for (const [name, value] of Object.entries(headers)) given.set(name, value);
      return await fetch(new Request(this.request.clone(), { headers: given, signal: this.signal }));
    } catch (error) {
      checkAborted(this.signal);
      throw new NetworkError(`'${this.name}' can not be fetched: ${error.message}. Check the address and the connection; another origin must allow this page (CORS)`, { cause: error });
    }
  }

  // -- cache -------------------------------------------------------------------------------------------------------------------------------------

  /** Take what this device has of the file; the rest comes from the server. */
  async fromCache() {
    const kept = await Kept.open(this.request.url, this.hash?.wanted);
    if (!kept) return this.fromResponse(await this.get({}));
    const { tag } = kept, known = !!this.hash; // by its content
    if (kept.whole && known) return this.#fromKept(kept);
    if (!kept.whole && kept.bytes && !(kept.ranges && (tag || known))) await kept.drop();
    try {
      let now = await this.get(kept.whole ? ifChanged(tag) : kept.bytes ? { Range: `bytes=${kept.bytes}-`, ...(tag && !known ? { "If-Range": tag } : {}) } : {});
      if (now.status === 416) now = await this.get({}); // no such range: what is here is longer than the file
      const same = tag && tagOf(now) === tag;
      if (kept.whole && (now.status === 304 || (now.ok && same))) {
        await now.body?.cancel();
        return this.#fromKept(kept);
      }
      if (!now.ok) throw refused(now.status, this.name);
      const goesOn = now.status === 206 && (known || same);
      if (!goesOn) await kept.drop();
      this.fromResponse(now);
      if (goesOn) {
        log("info", `${this.name}: ${kept.bytes} bytes are here from an earlier visit`);
        if (this.total !== undefined) this.total += kept.bytes;
        this.reader = kept.reader(this.reader);
      } else if (now.status === 206) throw new NetworkError(`'${this.name}' changed on the server; load it again`);
      kept.begin({ tag: this.tag, ranges: this.ranges });
      this.kept = kept;
    } catch (error) {
      if (!kept.whole || !(error instanceof NetworkError)) throw error;
      log("info", `offline: ${this.name} is taken from the cache`);
      this.#fromKept(kept);
    }
  }

  #fromKept(kept) {
    this.cached = true;
    this.total = kept.bytes;
    this.reader = kept.reader();
  }

  // -- reading -----------------------------------------------------------------------------------------------------------------------------------

  /** The next piece, or null at the end. */
  async #next() {
    for (let attempt = 0; ; attempt++) {
      checkAborted(this.signal);
      let why;
      try {
        const { value, done, kept } = await this.reader.read();
        if (!done) {
          this.got = (this.got ?? 0) + value.length;
          this.hash?.update(value);
          if (!kept) await this.kept?.write(value);
          return value;
        }
        if (this.total === undefined || this.got >= this.total) return null;
        why = "it ended early";
      } catch (error) {
        checkAborted(this.signal);
        if (error instanceof Aborted) throw error;
        why = error.message;
      }
      if (!this.request || this.cached || attempt === RETRIES) throw this.#lost(why);
      log("info", `${this.name}: ${why} after ${this.got ?? 0} bytes; going on from there`);
      await new Promise((wake) => setTimeout(wake, PAUSE << attempt));
      await this.#resume().catch((error) => {
        if (!(error instanceof NetworkError) || error.final) throw error;
      });
    }
  }

  #lost(why) {
    const far = `${this.got ?? 0}${this.total ? ` of ${this.total}` : ""} bytes`;
    const remedy = this.request ? "Load it again; if it stays so, the file on the server is cut off" : "Give all the bytes of the .sdx file";
    return new NetworkError(`'${this.name}' is incomplete: ${why} (${far}). ${remedy}`);
  }

  async #resume() {
    const from = this.got ?? 0;
    const response = await this.get(this.ranges && from ? { Range: `bytes=${from}-`, ...(this.tag ? { "If-Range": this.tag } : {}) } : {});
    const tag = tagOf(response);
    if (!response.ok || tag !== this.tag) {
      const error = response.ok ? new NetworkError(`'${this.name}' changed on the server while it was downloaded; load it again`) : refused(response.status, this.name);
      error.final = response.ok || response.status < 500;
      throw error;
    }
    this.reader = passing(response.body);
    if (response.status === 206) return;
    for (let skip = from; skip > 0; ) {
      const { value, done } = await this.reader.read();
      if (done) throw this.#lost("it ended early");
      if (value.length > skip) {
        const reader = this.reader;
        let first = value.subarray(skip);
        this.reader = { read: async () => (first ? { value: first, done: (first = null) !== null } : reader.read()), cancel: () => reader.cancel() };
      }
      skip -= value.length;
    }
  }

  /** Hand the next `n` bytes to `sink(piece, offset)`. Throws where the source ends before. */
  async pour(n, sink) {
    for (let done = 0; done < n; ) {
      const piece = this.rest ?? (await this.#next());
      if (!piece) throw this.#lost("it ended early");
      const part = piece.subarray(0, n - done);
      this.rest = part.length < piece.length ? piece.subarray(part.length) : null;
      sink(part, done);
      this.keep?.(part, this.position);
      done += part.length;
      this.position += part.length;
      this.progress?.({ phase: "download", loaded: this.position, total: this.total });
    }
  }

  /** The next `n` bytes as one array. */
  async take(n) {
    const made = new Uint8Array(n);
    await this.pour(n, (piece, at) => made.set(piece, at));
    return made;
  }

  /** Everything that is still to come, as one array. */
  async all() {
    const parts = [];
    for (let piece = this.rest ?? (await this.#next()); piece; piece = await this.#next()) {
      parts.push(piece.slice());
      this.position += piece.length;
      this.progress?.({ phase: "download", loaded: this.position, total: this.total });
    }
    this.rest = null;
    await this.finish();
    const made = new Uint8Array(this.position);
    parts.reduce((at, part) => (made.set(part, at), at + part.length), 0);
    return made;
  }

  async skip(n) {
    await this.pour(n, () => {});
  }

  /** Up to `n` first bytes, which stay to be read. */
  async peek(n) {
    const parts = [];
    let have = 0;
    for (let piece = this.rest; have < n; piece = null) {
      piece ??= await this.#next();
      if (!piece) break;
      parts.push(piece.slice());
      have += piece.length;
    }
    const made = new Uint8Array(have);
    parts.reduce((at, part) => (made.set(part, at), at + part.length), 0);
    this.rest = have ? made : null;
    return made.subarray(0, n);
  }

  /** Read to the end (it may go on after the last section), check the hash, close the copy in the cache. */
  async finish() {
    if (this.hash || this.kept) {
      this.rest = null;
      while (await this.#next());
    }
    try {
      if (this.hash && !this.hash.matches()) throw new NetworkError(`'${this.name}' is not the file that was asked for: its sha256 is ${this.hash.text()}, expected ${this.hash.wanted}. Load it again, or correct 'integrity'`);
    } catch (error) {
      await this.cancel();
      await this.kept?.drop();
      throw error;
    }
    await this.kept?.finish(this.got ?? 0);
    await this.reader.cancel().catch(() => {});
  }

  /** Give the source up. */
  async cancel() {
    await this.kept?.stop();
    await this.reader?.cancel().catch(() => {});
  }
}

/** A reader of a stream whose pieces are good until the next is read: all into one buffer. A new one for each piece was, for a large model, half as much memory again. */
function passing(stream) {
  let buffer;
  const reader = reading(stream, () => (buffer ??= new ArrayBuffer(PIECE)));
  return {
    read: async () => {
      const { value, done } = await reader.read();
      buffer &&= value?.buffer;
      return { value, done };
    },
    cancel: reader.cancel,
  };
}

/** Headers that ask for a file only if it is another version. */
const ifChanged = (tag) => (!tag ? {} : tag.includes('"') ? { "If-None-Match": tag } : { "If-Modified-Since": tag });

/** What tells one version of a file on a server from another. */
const tagOf = (response) => response.headers.get("etag") ?? response.headers.get("last-modified");

function refused(status, name) {
  if (status === 404 || status === 410) return new NoSuchFile(`'${name}' does not exist on the server (HTTP ${status}); check the address`);
  return new NetworkError(`the server answers HTTP ${status} for '${name}'`);
}

/** "sha256-<base64>" (as in HTML) or hex → a hash that knows what it should become. */
function expected(integrity) {
  const hash = new Sha256();
  const hex = /^[0-9a-f]{64}$/i.test(integrity) ? integrity.toLowerCase() : undefined;
  const base = /^sha256-([A-Za-z0-9+/]{43}=)$/.exec(integrity)?.[1];
  if (!hex && !base) throw new InvalidArgument("'integrity' is a sha256: 64 hexadecimal digits, or 'sha256-' and base64");
  hash.wanted = hex ?? Array.from(atob(base), (c) => c.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  hash.matches = () => hash.text() === hash.wanted;
  return hash;
}
