// pipe.js: bytes on their way to a worker, piece by piece, so that a model that is in the page's memory is not there twice. The page sends up to AHEAD bytes before it hears that any were read:
// the download need not wait until the worker has started.

/** The worker's end: `stream(size)` is read there; `took(bytes)` tells the page what was. */
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
        last?.buffer.transfer?.(0); // who asks for the next piece has done with the last: it is freed, not left to be collected
        const { bytes, done, error } = pipe.#chunks.shift() ?? (await new Promise((resolve) => (pipe.#waiting = resolve)));
        if (error) controller.error(new Error(error));
        else if (done) controller.close();
        else {
          pipe.took(bytes.byteLength);
          controller.enqueue((last = bytes));
        }
      },
    }, { highWaterMark: 0 });
    made.size = size;
    return made;
  }
}

const PIECE = 4 << 20, AHEAD = 16 << 20;

/** The page's end: `post({bytes})` for each piece, which is given away, then `post({done})` or `post({error})`. */
export class Feeder {
  #out = 0; // bytes posted that nobody took yet
  #wake;

  constructor(what, post) {
    this.#pump(what instanceof ReadableStream ? pieces(what) : parts(what), post).catch((why) => post({ error: why.message }));
  }

  took(bytes) {
    this.#out -= bytes;
    this.#wake?.();
  }

  /** Nobody reads any more. */
  stop() {
    this.stopped = true;
    this.#wake?.();
  }

  async #pump(source, post) {
    for await (const bytes of source) {
      while (this.#out > 0 && this.#out + bytes.byteLength > AHEAD && !this.stopped) await new Promise((resolve) => (this.#wake = resolve));
      if (this.stopped) return; // which cancels the stream
      this.#out += bytes.byteLength;
      post({ bytes });
    }
    post({ done: true });
  }
}

async function* pieces(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value.byteLength === value.buffer.byteLength ? value : value.slice(); // the stream's own buffers are given away
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

async function* parts(what) {
  const bytes = ArrayBuffer.isView(what) ? new Uint8Array(what.buffer, what.byteOffset, what.byteLength) : new Uint8Array(what);
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.slice(at, at + PIECE);
}
