"""GPU buffers of the page as inputs and outputs: bound where they lie, in the layout the host has, for every type WGSL can hold; runs that follow each other without waiting for results."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from playwright.sync_api import Page

from .webgpu import Maker, ask, mlp

#: Counts what a run copies and writes.
COUNTED = """
  const counts = { copied: 0, written: 0, groups: 0 };
  const count = (Class, method, note) => {
    const original = Class.prototype[method];
    Class.prototype[method] = function (...given) { note(given); return original.apply(this, given); };
  };
  count(GPUCommandEncoder, 'copyBufferToBuffer', (given) => { counts.copied += given.findLast((one) => typeof one === 'number'); });
  count(GPUQueue, 'writeBuffer', ([, , data, offset = 0, size]) => { counts.written += size ?? data.byteLength; });
  count(GPUDevice, 'createBindGroup', () => { counts.groups++; });
"""
STATUS = 16   # bytes of the status words a run copies: to be read, and reset
STEP = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1, 2, past, 4] k, float[1, 2, 1, 4] new) => (float[1, 2, total, 4] present, float[1, 2, 1, total] scores) {
  present = Concat<axis = 2>(k, new)
  turned = Transpose<perm = [0, 1, 3, 2]>(present)
  scores = MatMul(new, turned)
}"""
CHAIN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n, 4] x) => (float[n] y) <float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, int64[1] one = {1}> {
  a = MatMul(x, w)
  b = Softmax<axis = 1>(a)
  c = Softmax<axis = 0>(b)
  y = ReduceMax<keepdims = 0>(c, one)
}"""
CASTS = '<ir_version: 10, opset_import: ["" : 21]>\ng (float[n] x) => ({type}[n] y) {{ a = Mul(x, x) y = Cast<to = {number}>(a) }}'
TYPES = {"float16": 10, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "bool": 9, "int64": 7, "bfloat16": 16, "int32": 6, "uint32": 12}


def test_buffers_are_bound_not_copied(page: Page, isolated: str, keep: Maker) -> None:
    mlp(keep)
    page.goto(isolated)
    found = ask(page, COUNTED + """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { ...gpu, preferredOutputLocation: 'gpu-buffer' });
      const { device } = ort.env.webgpu, { x } = await tensors('gpu-mlp.in'), made = [], bytes = [];
      for (const usage of [GPUBufferUsage.STORAGE, GPUBufferUsage.COPY_SRC, GPUBufferUsage.STORAGE]) { // what can not be bound is copied
        const buffer = device.createBuffer({ size: 64, usage: usage | GPUBufferUsage.COPY_DST });
        device.queue.writeBuffer(buffer, 0, x.data);
        const feeds = { x: ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: [2, 4] }) };
        const runs = [];
        for (let i = 0; i < 3; i++) {
          const { y } = await session.run(feeds);
          Object.assign(counts, { copied: 0, written: 0, groups: 0 });
          const again = (await session.run(feeds)).y;
          runs.push({ ...counts });
          made.push(difference({ y: { dims: y.dims, data: await y.getData(true) } }, await tensors('gpu-mlp.out')));
          again.dispose();
        }
        bytes.push(runs.at(-1));
      }
      return { made, bytes };
    """)
    assert max(found["made"]) <= 1e-5
    assert found["bytes"] == [{"copied": STATUS, "written": 0, "groups": 0}, {"copied": STATUS + 32, "written": 0, "groups": 0}, {"copied": STATUS, "written": 0, "groups": 0}]


def test_a_cache_grows_on_the_gpu(page: Page, isolated: str, keep: Maker) -> None:
    """`present` of a run is `past` of the next one, never copied: a run moves what is new and the scores."""
    rng = np.random.default_rng(6)
    keep("gpu-step", parser.parse_model(STEP), k=rng.normal(size=(1, 2, 3, 4)).astype(np.float32), new=rng.normal(size=(1, 2, 1, 4)).astype(np.float32))
    page.goto(isolated)
    found = ask(page, COUNTED + """
      const session = await ort.InferenceSession.create('/models/gpu-step.sdx', { ...gpu, preferredOutputLocation: { present: 'gpu-buffer' } });
      const device = await openDevice(), feeds = await tensors('gpu-step.in'), first = await session.run(feeds);
      const made = [difference({ ...first, present: { dims: first.present.dims, data: await first.present.getData() } }, await tensors('gpu-step.out'))];
      let past = feeds.k, bytes = [], held = [];
      const rows = [];
      for (let i = 0; i < 40; i++) {
        const step = new ort.Tensor('float32', Float32Array.from({ length: 8 }, (_, j) => Math.sin(i * 8 + j)), [1, 2, 1, 4]);
        rows.push(step.data);
        Object.assign(counts, { copied: 0, written: 0 });
        const { present, scores } = await session.run({ k: past, new: step });
        bytes.push(counts.copied + counts.written - 4 * scores.size);
        past.dispose();
        past = present;
        held.push(device.buffers);
        for (const h of [0, 1]) {
          const mine = rows.at(-1).subarray(4 * h, 4 * h + 4), all = rows.map((row) => row.subarray(4 * h, 4 * h + 4).reduce((sum, v, j) => sum + v * mine[j], 0));
          made.push(...all.map((v, t) => Math.abs(v - scores.data[h * (4 + i) + 3 + t])));
        }
      }
      return { made: Math.max(...made), bytes: bytes.slice(1), dims: past.dims, held, released: (past.dispose(), await session.release(), device.buffers) };
    """)
    assert found["made"] <= 1e-5 and found["dims"] == [1, 2, 43, 4]
    assert len(set(found["bytes"])) == 1 and found["bytes"][0] <= 32 + STATUS + 1024, "the new row, the status, sizes"
    assert found["held"][-1] <= found["held"][5] + 8 and found["released"] <= 4, "buffers of disposed tensors are used again"


@pytest.mark.parametrize("name", TYPES)
def test_outputs_of_every_type_lie_as_on_the_host(page: Page, isolated: str, keep: Maker, name: str) -> None:
    model = parser.parse_model(CASTS.format(type=name, number=TYPES[name]))
    x = np.array([0, 1, 2, 3.5, -4, 5.5, 7, 11, 0.1], np.float32)
    keep(f"gpu-cast-{name}", model, x=np.concatenate([x, [300, 1e-4, np.inf, np.nan]]).astype(np.float32) if name in ("float16", "bfloat16") else x)
    page.goto(isolated)
    found = ask(page, """
      const feeds = await tensors(`gpu-cast-${given}.in`), wanted = await ort.InferenceSession.create(`/models/gpu-cast-${given}.sdx`, gpu);
      const session = await ort.InferenceSession.create(`/models/gpu-cast-${given}.sdx`, { ...gpu, preferredOutputLocation: 'gpu-buffer' });
      const { y } = await session.run(feeds), again = (await session.run(feeds)).y;
      const bits = ({ buffer, byteOffset, byteLength }) => Array.from(new Uint8Array(buffer, byteOffset, byteLength));
      const host = (await wanted.run(feeds)).y;
      return { location: y.location, type: y.type, dims: y.dims, made: bits(await y.getData()), again: bits(await again.getData()), wanted: bits(host.data), size: host.size };
    """, name)
    assert found["location"] == "gpu-buffer" and found["type"] == name and found["size"] == found["dims"][0]
    assert found["made"] == found["again"] == found["wanted"] and len(found["made"]) == found["size"] * {"int64": 8, "int32": 4, "uint32": 4, "uint8": 1, "int8": 1, "bool": 1}.get(name, 2)


def test_int64_inputs_on_the_gpu(page: Page, isolated: str, keep: Maker) -> None:
    """They are narrowed and checked there; what does not fit is named, and the next run goes on."""
    keep("gpu-count", parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\ng (int64[n] x) => (int64[n] y) { y = Add(x, x) }'), x=np.array([3, -5, 1 << 20]))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-count.sdx', { ...gpu, preferredOutputLocation: 'gpu-buffer' });
      const { device } = ort.env.webgpu;
      const on = (values) => {
        const data = BigInt64Array.from(values), buffer = device.createBuffer({ size: data.byteLength, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
        device.queue.writeBuffer(buffer, 0, data);
        return ort.Tensor.fromGpuBuffer(buffer, { dataType: 'int64', dims: [data.length] });
      };
      const { y } = await session.run({ x: on([3n, -5n, 1n << 20n]) });
      const twice = (await session.run({ x: y })).y; // an output as the next input
      return { y: Array.from(await y.getData(), Number), twice: Array.from(await twice.getData(), Number),
               wrong: [await failure(() => session.run({ x: on([1n, 1n << 40n]) })), await failure(() => session.run({ x: on([-(1n << 40n)]) }))],
               after: Array.from(await (await session.run({ x: on([7n, 8n]) })).y.getData(), Number) };
    """)
    assert found["y"] == [6, -10, 1 << 21] and found["twice"] == [12, -20, 1 << 22] and found["after"] == [14, 16]
    assert [(w[0], w[2]) for w in found["wrong"]] == [("RuntimeException", True)] * 2 and "element 1" in found["wrong"][0][1] and "32 bits" in found["wrong"][0][1]


def test_runs_queue_on_the_device(page: Page, isolated: str, keep: Maker) -> None:
    """Several runs are submitted before the first is read; results are each run's own, also where one of them fails; memory stays bounded."""
    mlp(keep)
    keep("gpu-gather2",
         parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\ng (float[5] x, int64[n] i) => (float[n] y) { y = Gather(x, i) }'), x=np.arange(5, dtype=np.float32), i=np.array([1, -1]))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), device = await openDevice();
      const x = (n, v) => new ort.Tensor('float32', new Float32Array(4 * n).fill(v), [n, 4]), w = [22, 26, 30], b = [0.5, -0.5, 0];
      await session.run({ x: x(9, 1) });
      let ahead = 0, most = 0, buffers = 0;
      const submit = GPUQueue.prototype.submit, map = GPUBuffer.prototype.mapAsync;
      GPUQueue.prototype.submit = function (...given) { most = Math.max(most, ++ahead); buffers = Math.max(buffers, device.buffers); return submit.apply(this, given); };
      GPUBuffer.prototype.mapAsync = async function (...given) { try { return await map.apply(this, given); } finally { ahead--; } };
      const before = device.buffers;
      const made = await Promise.all(Array.from({ length: 60 }, (_, i) => session.run({ x: x(1 + (i % 9), i) })));
      Object.assign(GPUQueue.prototype, { submit });
      Object.assign(GPUBuffer.prototype, { mapAsync: map });
      const wrong = made.map(({ y }, i) => (y.dims[0] === 1 + (i % 9) ? Math.max(...y.data.map((v, k) => Math.abs(v - (i * w[k % 3] + b[k % 3])))) : Infinity));
      const gather = await ort.InferenceSession.create('/models/gpu-gather2.sdx', gpu), data = new ort.Tensor('float32', [0, 10, 20, 30, 40], [5]);
      const some = await Promise.all([[1n], [7n], [2n], [-9n], [3n], [4n]].map(async (at) => {
        let y;
        const error = await failure(async () => ({ y } = await gather.run({ x: data, i: new ort.Tensor('int64', BigInt64Array.from(at), [1]) })));
        return y ? y.data[0] : error[0];
      }));
      return { wrong: Math.max(...wrong), most, grown: buffers - before, some };
    """)
    assert found["wrong"] <= 1e-3 and 2 <= found["most"] <= 4 and found["grown"] <= 4
    assert found["some"] == [10, "RuntimeException", 20, "RuntimeException", 30, 40]


def test_the_first_run_begins_before_all_is_compiled(page: Page, isolated: str, keep: Maker) -> None:
    """Dispatches are submitted while a later pipeline still compiles."""
    mlp(keep)
    keep("gpu-chain", parser.parse_model(CHAIN), x=np.arange(12, dtype=np.float32).reshape(3, 4) / 10)
    page.goto(isolated)
    found = ask(page, """
      await openDevice();
      const original = GPUDevice.prototype.createComputePipelineAsync, held = [];
      let number = 0;
      GPUDevice.prototype.createComputePipelineAsync = async function (...given) {
        const first = !number++, made = await original.apply(this, given);
        if (!first) await new Promise((go) => held.push(go));
        return made;
      };
      let submitted = 0;
      const submit = GPUQueue.prototype.submit;
      GPUQueue.prototype.submit = function (...given) { submitted++; return submit.apply(this, given); };
      const session = await ort.InferenceSession.create('/models/gpu-chain.sdx', gpu), feeds = await tensors('gpu-chain.in');
      const waiting = session.run(feeds);
      for (let i = 0; i < 9000 && !(submitted && held.length); i++) await new Promise((wake) => setTimeout(wake, 20));
      const early = submitted, compiling = held.length;
      const go = setInterval(() => { while (held.length) held.pop()(); }, 10);
      const made = difference(await waiting, await tensors('gpu-chain.out'));
      clearInterval(go);
      const before = submitted, again = difference(await session.run(feeds), await tensors('gpu-chain.out')), after = submitted - before;
      return { early, compiling, made, again, after };
    """)
    assert found["early"] >= 1 and found["compiling"] >= 1 and found["made"] <= 1e-5 and found["again"] <= 1e-5 and found["after"] == 1
