// kept.js: tensors that stay in an engine's memory after the run that made them: outputs with preferredOutputLocation "cpu-pinned", and large outputs until somebody reads them.
//
// How to think
// - What nobody reads is never copied out, and what is fed to the session again is read where it lies. A cache that a language model takes and gives, a row longer, grows in place there
//   (core/engine/src/session_grow.c): all its tensors are the first rows of one memory.
// - An unread output is "cpu" to callers: reading its `data` copies them out, once. It is the page's from then on, and the engine forgets it; so it does where the tensor is disposed or collected.
// - Unread outputs take LIMIT bytes at most, or 2.5 times what the last run left; then the event loop gets a turn, in which those that were collected are forgotten, and if that was not enough the
//   oldest are copied out. So that they are collected, a tensor holds an array as large as the memory that is its (tensor.js), which costs nothing: the garbage collector knows what is at stake.
//   A session that is released, or finds no memory, copies all out.
// - Of a session in a worker the same, where page and worker share the engine's memory (cross-origin isolated, with threads): the page reads it itself (remote.js), and copies out what the worker asks
//   it to (`asks`), which is forgotten here. Elsewhere a page can not wait for what `data` gives, and all outputs are copied to it at once.
import { InvalidArgument } from "./errors.js";
import { lengthOf, sizeOf, TYPES } from "./tensor.js";

const LIMIT = 32 << 20;
/** Bytes from which an output is worth it. */
export const LEAST = 1 << 16;

export class Kept {
  /** Number → {type, dims, bytes, at: address, blocks, apart: how its bytes lie (0: dense), taken: from the engine, users: runs that read it, gone: when they have ended; unread: an output
   * nobody read; out: its bytes, where they were copied out}. */
  #tensors = new Map();
  #last = 0;
  #memory = new Map(); // address → {bytes, tensors}
  #total = 0;
  #grows = []; // what the engine was told of each output
  /** Where those who have the tensors read this memory from another thread: tells them to copy one out and to forget it here. */
  asks;

  constructor(session) {
    this.session = session;
  }

  get #engine() {
    return this.session.engine;
  }

  /** Tell the engine whether an output, which will be taken, may grow in place. */
  grows(number, may) {
    if (!!this.#grows[number] === may) return;
    this.#grows[number] = may;
    this.#engine.c.sx_session_grows(this.session.handle, BigInt(number), Number(may));
  }

  /** Take an output ({type, dims, at}, now the caller's) in. */
  add({ type, dims, at }, unread) {
    const engine = this.#engine, cell = engine.alloc(8), blocks = Number(engine.c.sx_tensor_blocks(at, cell)), apart = Number(engine.words.getBigInt64(cell, true));
    engine.free(cell);
    const one = { type, dims, at, blocks, apart, taken: true, users: 0, unread, bytes: bytesIn({ type, dims }) };
    this.#count(one);
    this.#tensors.set(++this.#last, one);
    return this.#last;
  }

  #count({ at, bytes, blocks, apart }) {
    const memory = this.#memory.get(at) ?? { bytes: blocks ? blocks * apart : bytes, tensors: 0 };
    if (!memory.tensors++) this.#total += memory.bytes;
    this.#memory.set(at, memory);
  }

  #free(one) {
    if (!one.at || !this.#engine) return;
    const memory = this.#memory.get(one.at);
    if (!--memory.tensors) {
      this.#memory.delete(one.at);
      this.#total -= memory.bytes;
    }
    this.#engine.c[one.taken ? "sx_tensor_free" : "sx_free"](one.at);
    one.at = 0;
  }

  #find(number) {
    const one = this.#tensors.get(number);
    if (one) return one;
    if (!this.#engine) throw new InvalidArgument("the session was released, and with it the tensors in its memory");
    throw new InvalidArgument("the tensor is disposed");
  }

  /** One for a run, which calls `done` with it; its `at` is where it lies. */
  use(number) {
    const one = this.#find(number);
    if (!one.at) {
      Object.assign(one, { at: this.#engine.put(one.out), taken: false, blocks: 0, out: undefined });
      this.#count(one);
    }
    one.users++;
    return one;
  }

  done(one) {
    if (!--one.users && one.gone) this.#free(one);
  }

  bytes(number) {
    return this.#find(number).bytes;
  }

  /** A copy of its bytes. */
  #copy(one) {
    return one.out?.slice() ?? copyOf(this.#engine.bytes, one);
  }

  /** Where one lies: {at, bytes, blocks, apart}. */
  place(number) {
    const { at, bytes, blocks, apart } = this.#find(number);
    return { at, bytes, blocks, apart };
  }

  /** A copy of its elements. */
  read(number) {
    const one = this.#find(number);
    return elements(one, this.#copy(one));
  }

  /** Its elements; it is forgotten. */
  give(number) {
    const one = this.#find(number), bytes = one.out ?? this.#copy(one);
    this.drop(number);
    return elements(one, bytes);
  }

  /** Forget one; where a run reads it, after that. */
  drop(number) {
    const one = this.#tensors.get(number);
    if (!one) return;
    this.#tensors.delete(number);
    one.gone = true;
    if (!one.users) this.#free(one);
    one.left?.();
  }

  /** Copy unread outputs out, the oldest first, until what is kept takes no more than `most` bytes. Whether one was. `but`: numbers that a run needs, where others are asked to (then it is a promise). */
  leave(most, used = false, but = []) {
    if (this.asks) return this.#asked(most, but);
    let found = false;
    for (const one of this.#tensors.values()) {
      if (this.#total <= most) break;
      if (!one.unread || (one.users && !used) || !one.at) continue;
      one.out = this.#copy(one);
      this.#free(one);
      found = true;
    }
    return found;
  }

  async #asked(most, but) {
    let found = false;
    for (const [number, one] of this.#tensors) {
      if (this.#total <= most) break;
      if (!one.unread || one.users || !one.at || but.includes(number)) continue;
      await new Promise((resolve) => {
        one.left = resolve;
        this.asks(number);
      });
      found ||= !this.#tensors.has(number);
    }
    return found;
  }

  /** Who was asked could not copy one out. */
  stays(number) {
    this.#tensors.get(number)?.left();
  }

  /** After a run that left so many bytes unread, in tensors of these numbers; `breathe` gives the event loop a turn. */
  async limit(bytes, breathe, made) {
    const most = Math.max(LIMIT, 2.5 * bytes);
    if (this.#total <= most) return;
    await breathe();
    if (this.#engine) await this.leave(most, false, made);
  }

  /** The bytes of the memory where one lies, 0 where others lie there too. */
  weight(number) {
    const memory = this.#memory.get(this.#find(number).at);
    return memory.tensors === 1 ? memory.bytes : 0;
  }

  /** The engine ends. */
  close() {
    this.leave(-1, true);
    for (const [number, one] of this.#tensors) if (!one.out) this.#tensors.delete(number);
    this.#memory.clear();
    this.#total = 0;
  }

  /** Another engine takes this one's place: what is kept is put there where it is needed. */
  move() {
    for (const one of this.#tensors.values()) if (one.at) Object.assign(one, { out: this.#copy(one), at: 0 });
    this.#memory.clear();
    this.#total = 0;
    this.#grows = [];
  }
}

/** A copy of the bytes of a tensor that lies in an engine's memory, which `from` shows: dense, or in blocks so many bytes apart. */
export function copyOf(from, { at, bytes, blocks, apart }) {
  if (!blocks) return from.slice(at, at + bytes);
  const made = new Uint8Array(bytes), each = bytes / blocks;
  for (let i = 0; i < blocks; i++) made.set(from.subarray(at + i * apart, at + i * apart + each), i * each);
  return made;
}

/** Bytes of a tensor as the engine has it: types below 8 bits one a byte. */
export function bytesIn({ type, dims }) {
  let length = TYPES[type][2] >> 3 || 1;
  for (const d of dims) length *= d;
  return length;
}

/** Bytes of the engine's (types below 8 bits one a byte), which are the caller's to give away, as an array of the page's. */
export function elements({ type, dims }, bytes) {
  const [, kind, bits] = TYPES[type];
  return bits < 8 ? packed(bytes, bits, kind) : new kind(bytes.buffer, 0, lengthOf(type, sizeOf(dims)));
}

/** Elements one a byte as the page has them. */
export function packed(bytes, bits, kind) {
  const each = 8 / bits, made = new Uint8Array(Math.ceil(bytes.length / each));
  bytes.forEach((value, i) => (made[Math.floor(i / each)] |= (value & ((1 << bits) - 1)) << (bits * (i % each))));
  return new kind(made.buffer);
}
