// glue.js: the engine beside Pyodide. binding.py evaluates this expression: a function that makes the engine's instance and what Python calls of it.
//
// How to think
// - Two memories: Pyodide's (Python's arrays) and the engine's. Addresses of the first are called `src` and `dst`; bytes cross by one copy, never through a JavaScript value.
// - Python makes one call a run: it hands over the address of a table (uint32: address and bytes of each input, then of each output) and which bound state to run.
(pyodide, source, size, wanted, thread) => {
  const heap = () => pyodide.HEAPU8; // Pyodide's memory; a growth replaces the array
  const page = typeof document === "object";
  const shared = !page && typeof SharedArrayBuffer === "function" && globalThis.crossOriginIsolated === true;
  const threads = shared ? wanted || Math.min(4, Math.ceil((navigator.hardwareConcurrency ?? 2) / 2)) : 1;
  const module = new WebAssembly.Module(heap().slice(source, source + size));
  const imported = WebAssembly.Module.imports(module).some((one) => one.kind === "memory");
  const now = () => performance.now();
  const own = imported ? new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true }) : undefined;
  const c = new WebAssembly.Instance(module, { env: { now, memory: own } }).exports;
  const memory = own ?? c.memory;
  const bytes = () => new Uint8Array(memory.buffer);
  const view = () => new DataView(memory.buffer);
  const states = new Map();
  const TENSOR = 80;

  const alloc = (n) => {
    const at = c.sx_alloc(Math.max(n, 1)) >>> 0;
    if (!at) throw new RangeError(`the engine gets no ${n} bytes more of WebAssembly memory`);
    return at;
  };
  const put = (src, n) => {
    const at = alloc(n);
    bytes().set(heap().subarray(src, src + n), at);
    return at;
  };
  const report = alloc(64), cell = alloc(128);
  const sessions = new Map(); // handle → {at, room: of each input; table: sx_tensor of each}
  const nanoseconds = (ms) => BigInt(Math.round(ms * 1e6));
  /** sx_options, in `cell`; brings the workers they ask for. */
  const options = (count, limit) => {
    lend(count);
    view().setInt32(cell, count, true);
    view().setInt32(cell + 4, 0, true);
    view().setBigInt64(cell + 8, BigInt(limit), true);
    return cell;
  };
  const string = (at) => {
    const all = bytes();
    let end = at;
    while (all[end]) end++;
    return new TextDecoder().decode(all.slice(at, end));
  };
  /** [code, text] of the last error; `words(report, text, size)` puts it into words. */
  const said = (words) => {
    const text = alloc(1024);
    words(report, text, 1024n);
    const found = string(text);
    c.sx_free(text);
    return [view().getInt32(report, true), found];
  };

  /** Have `count - 1` workers, where memory is shared. They arrive when this thread's event loop has turned: until then, and where there are none, a run is on the caller alone. */
  let lent = 0;
  const lend = (count) => {
    if (!imported) return;
    const url = URL.createObjectURL(new Blob([thread], { type: "text/javascript" }));
    for (; lent < count - 1; lent++) new Worker(url, { name: "sardonyx" }).postMessage({ module, memory, stack: alloc(1 << 20) + (1 << 20) });
  };
  lend(threads);

  /** Pointers of one run: the inputs copied in, room for the outputs. */
  const bound = (state, inputs, outputs) => {
    const ports = [...inputs, ...outputs].map((n) => [alloc(n), n]);
    const pointers = alloc(4 * ports.length + 8);
    ports.forEach(([at], i) => view().setUint32(pointers + 4 * i, at, true));
    return { state, ports, pointers, inputs: inputs.length };
  };

  return {
    threads,
    /** How many workers have arrived. */
    workers: () => (imported ? c.sx_workers() : 0),
    alloc,
    put,
    free: (at) => c.sx_free(at),
    open(at, n, count, limit) {
      const code = c.sx_open(at, BigInt(n), options(count, limit), cell + 16, report);
      return [code, view().getUint32(cell + 16, true)];
    },
    constant: (program, i, at, n) => c.sx_set_constant(program, BigInt(i), at, BigInt(n), report),
    /** table: the input's address and bytes, as for `run`, or 0 where no element of an input decides a size. Returns [code, state, [dims of each output]]. */
    bind(program, dims, table, inputs, outputs) {
      const n = inputs;
      const at = alloc(8 * dims.length + 4 * n + 8);
      dims.forEach((d, i) => view().setBigInt64(at + 8 * i, BigInt(d), true));
      const lent = [];
      if (table) {
        const from = new Uint32Array(heap().buffer, table, 2 * n);
        for (let i = 0; i < n; i++) lent.push(put(from[2 * i], from[2 * i + 1]));
        lent.forEach((address, i) => view().setUint32(at + 8 * dims.length + 4 * i, address, true));
      }
      const code = c.sx_bind(program, at, BigInt(dims.length), table ? at + 8 * dims.length : 0, cell, report);
      const state = view().getUint32(cell, true);
      lent.forEach((address) => c.sx_free(address));
      c.sx_free(at);
      if (code) return [code];
      const shapes = [];
      for (let o = 0; o < outputs; o++) {
        const rank = c.sx_output_shape(state, BigInt(o), cell);
        shapes.push(Array.from({ length: rank }, (_, d) => Number(view().getBigInt64(cell + 8 * d, true))));
      }
      return [0, state, shapes];
    },
    attach: (state, inputs, outputs) => states.set(state, bound(state, inputs, outputs)),
    /** Copy the inputs in and begin; `budget` in ms, 0: to the end. */
    run(state, table, budget, times) {
      const b = states.get(state);
      const from = new Uint32Array(heap().buffer, table, 2 * b.ports.length), into = bytes();
      for (let i = 0; i < b.inputs; i++) into.set(heap().subarray(from[2 * i], from[2 * i] + from[2 * i + 1]), b.ports[i][0]);
      if (times) c.sx_profile(state, times);
      return c.sx_run(state, b.pointers, b.pointers + 4 * b.inputs, 0, nanoseconds(budget), report);
    },
    proceed: (state, budget) => c.sx_continue(state, nanoseconds(budget), report),
    /** Copy the outputs of a run that ended to where the table says. */
    collect(state, table) {
      const b = states.get(state);
      const to = new Uint32Array(heap().buffer, table, 2 * b.ports.length), from = bytes();
      for (let i = b.inputs; i < b.ports.length; i++) heap().set(from.subarray(b.ports[i][0], b.ports[i][0] + to[2 * i + 1]), to[2 * i]);
    },
    copyOut: (at, dst, n) => heap().set(bytes().subarray(at, at + n), dst),
    terminate: (state) => c.sx_terminate(state),
    profile: (state, at) => c.sx_profile(state, at),
    arena: (state) => Number(c.sx_arena_bytes(state)),
    unbind(state) {
      for (const [at] of states.get(state)?.ports ?? []) c.sx_free(at);
      if (states.has(state)) c.sx_free(states.get(state).pointers);
      states.delete(state);
      c.sx_unbind(state);
    },
    close: (program) => c.sx_close(program),
    error: (program) => said((...to) => c.sx_error_text(to[0], program, to[1], to[2])),
    kernel: (kind) => c.sx_kernel_available(kind),
    isa: () => string(c.sx_isa_name(0)),

    // Packages (package.py). TENSOR: bytes of an sx_tensor; its address stands at 72, and at 76, in Python's tables only, how many bytes it has.
    packageOpen(src, n, count, limit) {
      const at = put(src, n);
      const code = c.sx_package_open(at, BigInt(n), options(count, limit), cell + 16, report);
      c.sx_free(at);
      return [code, view().getUint32(cell + 16, true)];
    },
    packageData: (handle, at, n) => c.sx_package_data(handle, at, BigInt(n), report),
    packageSet: (handle, i, at, n) => c.sx_package_set(handle, BigInt(i), at, BigInt(n), report),
    packageError: (handle) => said((...to) => c.sx_package_error_text(to[0], handle, to[1], to[2])),
    packageClose: (handle) => c.sx_package_close(handle),
    sessionOpen(handle) {
      const code = c.sx_session_open(handle, cell, report);
      return [code, view().getUint32(cell, true)];
    },
    /** Copy the inputs in and begin; `budget` in ms, 0: to the end. */
    start(session, table, n, budget) {
      if (!sessions.has(session)) sessions.set(session, { at: Array(n).fill(0), room: Array(n).fill(-1), table: alloc(TENSOR * n) });
      const s = sessions.get(session);
      const from = new DataView(heap().buffer, table, TENSOR * n);
      for (let i = 0; i < n; i++) {
        const src = from.getUint32(TENSOR * i + 72, true), size = from.getUint32(TENSOR * i + 76, true);
        if (s.room[i] < size) {
          c.sx_free(s.at[i]);
          [s.at[i], s.room[i]] = [0, -1];
          [s.at[i], s.room[i]] = [alloc(size), size];
        }
        const into = bytes();
        into.set(heap().subarray(src, src + size), s.at[i]);
        into.set(heap().subarray(table + TENSOR * i, table + TENSOR * i + 72), s.table + TENSOR * i);
        view().setUint32(s.table + TENSOR * i + 72, s.at[i], true);
      }
      return c.sx_session_run(session, s.table, BigInt(n), nanoseconds(budget), report);
    },
    sessionContinue: (session, budget) => c.sx_session_continue(session, nanoseconds(budget), report),
    sessionTerminate: (session) => c.sx_session_terminate(session),
    sessionProfile: (session, at, n) => void c.sx_session_profile(session, at, BigInt(n)),
    /** sx_tensor of each output into Python's table. */
    made(session, table, n) {
      for (let i = 0; i < n; i++) {
        c.sx_session_output(session, BigInt(i), cell);
        heap().set(bytes().subarray(cell, cell + TENSOR), table + TENSOR * i);
      }
    },
    /** Copy out, as rows of a table of uint32 say: from, to, bytes. */
    gather(table, n) {
      const rows = new Uint32Array(heap().buffer, table, 3 * n), from = bytes();
      for (let i = 0; i < n; i++) heap().set(from.subarray(rows[3 * i], rows[3 * i] + rows[3 * i + 2]), rows[3 * i + 1]);
    },
    sessionClose(session) {
      for (const at of [...(sessions.get(session)?.at ?? []), sessions.get(session)?.table ?? 0]) c.sx_free(at);
      sessions.delete(session);
      c.sx_session_close(session);
    },
    memory: () => [memory.buffer.byteLength, c.sx_memory_free()],
  };
}
