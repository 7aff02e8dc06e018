// program.js: one packed program (core/program.py) on an engine, through the calls of sardonyx.h. What a session that plans in the page (Pyodide) runs; stored models run as packages.
import { Engine, YIELD } from "./engine.js";

export class Program {
  /** `packed`: the program's bytes. */
  constructor(engine, packed, threads) {
    this.engine = engine;
    const { c, report } = engine;
    const at = engine.put(packed), room = engine.alloc(32);
    engine.words.setInt32(room, threads, true);
    engine.words.setInt32(room + 4, 0, true);
    engine.words.setBigInt64(room + 8, 0n, true);
    const code = c.sx_open(at, BigInt(packed.length), room, room + 16, report);
    this.handle = engine.words.getUint32(room + 16, true);
    engine.free(at);
    engine.free(room);
    if (code) throw this.error(code);
    this.states = new Map();
    this.constants = [];
  }
  error(code) {
    return this.engine.error(code, (report, text, size) => this.engine.c.sx_error_text(report, this.handle, text, BigInt(size)));
  }
  setConstant(i, at, bytes) {
    const code = this.engine.c.sx_set_constant(this.handle, BigInt(i), at, BigInt(bytes), this.engine.report);
    if (code) throw this.error(code);
  }
  bind(dims, ranksOut) {
    const { engine } = this;
    const at = engine.alloc(8 * dims.length + 8);
    dims.forEach((d, i) => engine.words.setBigInt64(at + 8 * i, BigInt(d), true));
    const out = engine.alloc(80);
    const code = engine.c.sx_bind(this.handle, at, BigInt(dims.length), 0, out, engine.report);
    const state = engine.words.getUint32(out, true);
    engine.free(at);
    if (code) { engine.free(out); throw this.error(code); }
    const shapes = [];
    for (let o = 0; o < ranksOut; o++) {
      const rank = engine.c.sx_output_shape(state, BigInt(o), out);
      shapes.push(Array.from({ length: rank }, (_, d) => Number(engine.words.getBigInt64(out + 8 * d, true))));
    }
    engine.free(out);
    return { state, shapes };
  }
}
void [Engine, YIELD];
