// pipe.js: bytes on their way to a worker, piece by piece, so that a model that is in the page's memory is not there twice. The page sends up to AHEAD bytes before it hears that any were read:
// the download need not wait until the worker has started.

/** The worker's end: `stream(size)` is read there; `took(buffer)` gives a buffer back to the page once its piece was read: it is filled again, not left to be collected. */
export class Pipe {
  #chunks = [];
  #waiting;

  constructor(took) {
    this.took = took;
  }

  push(chunk) {
    if (this.#waiting) this.#waiting(chunk);
    else this.#chunks.push(chunk);
    this.#waiting = undefined;
  }

  stream(size) {
    const pipe = this;
    let last;
    const made = new ReadableStream({
      async pull(controller) {
        if (last) pipe.took(last.buffer); // who asks for the next piece has done with the last
        last = undefined;
        const { bytes, done, error } = pipe.#chunks.shift() ?? (await new Promise((resolve) => (pipe.#waiting = resolve)));
        if (error) controller.error(new Error(error));
        else if (done) controller.close();
        else controller.enqueue((last = bytes));
      },
    }, { highWaterMark: 0 });
    made.size = size;
    return made;
  }
}

const PIECE = 4 << 20, READ = 1 << 18, AHEAD = 16 << 20;

/** The page's end: `post({bytes})` for each piece, which is given away, then `post({done})` or `post({error})`. */
export class Feeder {
  #out = 0; // bytes of the buffers that are there
  #spare = []; // those that came back
  #wake;

  constructor(what, post) {
    this.#pump(what instanceof ReadableStream ? pieces(what, this.#spare) : parts(what), post).catch((why) => post({ error: why.message }));
  }

  took(buffer) {
    this.#out -= buffer.byteLength;
    if (buffer.byteLength === READ) this.#spare.push(buffer);
    this.#wake?.();
  }

  /** Nobody reads any more. */
  stop() {
    this.stopped = true;
    this.#wake?.();
  }

  async #pump(source, post) {
    for await (const bytes of source) {
      const size = bytes.buffer.byteLength;
      while (this.#out > 0 && this.#out + size > AHEAD && !this.stopped) await new Promise((resolve) => (this.#wake = resolve));
      if (this.stopped) return; // which cancels the stream
      this.#out += size;
      post({ bytes });
    }
    post({ done: true });
  }
}

const reads = new Set();

/** What reads a stream, piece by piece: into what `buffer()` gives where the stream can, else as it gives them (they are garbage until somebody collects them). */
export function reading(stream, buffer) {
  let reader, next;
  try {
    reader = stream.getReader({ mode: "byob" });
    next = () => reader.read(new Uint8Array(buffer()));
  } catch {
    reader = stream.getReader();
    next = () => reader.read();
  }
  return { read: () => held(reader, next()), cancel: (why) => reader.cancel(why) };
}

/** What a stream's reader promises. Chromium collects a Blob's stream of which somebody only waits for the next piece, and the piece never comes: so it is held while it is read. */
async function held(reader, promise) {
  reads.add(reader);
  try {
    return await promise;
  } finally {
    reads.delete(reader);
  }
}

async function* pieces(stream, spare) {
  const reader = reading(stream, () => spare.pop() ?? new ArrayBuffer(READ));
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value.byteLength === value.buffer.byteLength || value.buffer.byteLength === READ ? value : value.slice();
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function* parts(what) {
  const bytes = ArrayBuffer.isView(what) ? new Uint8Array(what.buffer, what.byteOffset, what.byteLength) : new Uint8Array(what);
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.slice(at, at + PIECE);
}
