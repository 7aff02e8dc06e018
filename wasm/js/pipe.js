// pipe.js: bytes of the page's thread on their way to a worker, piece by piece on request, so that a model that is in the page's memory is not there twice.

/** The worker's end: `stream(size)` is read there; each read asks the page for a piece (`pull`). */
export class Pipe {
  #waiting;

  constructor(pull) {
    this.pull = pull;
  }

  push(chunk) {
    this.#waiting?.(chunk);
  }

  stream(size) {
    const pipe = this;
    const made = new ReadableStream({
      async pull(controller) {
        const { bytes, done, error } = await new Promise((resolve) => {
          pipe.#waiting = resolve;
          pipe.pull();
        });
        if (error) controller.error(new Error(error));
        else if (done) controller.close();
        else controller.enqueue(bytes);
      },
    }, { highWaterMark: 0 });
    made.size = size;
    return made;
  }
}

const PIECE = 4 << 20;

/** The page's end: the next piece each time it is called, as {bytes} the worker may keep, or {done}. */
export function feeder(what) {
  if (what instanceof ReadableStream) {
    const reader = what.getReader();
    return async () => {
      const { value, done } = await reader.read();
      return done ? { done } : { bytes: value.byteLength === value.buffer.byteLength ? value : value.slice() }; // the stream's own buffers are given away
    };
  }
  const bytes = ArrayBuffer.isView(what) ? new Uint8Array(what.buffer, what.byteOffset, what.byteLength) : new Uint8Array(what);
  let at = 0;
  return async () => {
    if (at >= bytes.length) return { done: true };
    const part = bytes.slice(at, at + PIECE);
    at += part.length;
    return { bytes: part };
  };
}
