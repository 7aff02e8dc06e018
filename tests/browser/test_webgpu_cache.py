"""Outputs written to GPU buffers of the page's, and caches of keys and values that are past and present in one buffer: decoding step by step against the NumPy bodies."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sardonyx as ort
from playwright.sync_api import Page
from sardonyx.converter.onnx import load_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceExecutor

from tests.webgpu.test_cache import CACHES, ROOM, SHARED, SIZE, grouped, steps

from .test_webgpu_tensors import COUNTED, STATUS
from .webgpu import Maker, ask, mlp, save

DECODE = COUNTED + """
  let dispatches = 0;
  count(GPUComputePassEncoder, 'dispatchWorkgroups', () => { dispatches++; });
  const device = await openDevice();
  const session = await ort.InferenceSession.create('/models/gpu-gqa.sdx', { ...gpu, preferredOutputLocation: given.shared ? undefined : { present_key: 'gpu-buffer', present_value: 'gpu-buffer' } });
  const own = () => {
    const buffer = device.device.createBuffer({ size: given.bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
    device.device.queue.writeBuffer(buffer, 0, new Float32Array(given.bytes / 4).fill(NaN));
    return ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: given.dims, download: () => device.download(buffer, given.bytes, Float32Array) });
  };
  let caches = { past_key: own(), past_value: own() };
  const first = caches, made = [], spent = [];
  for (let i = 0; i < given.steps; i++) {
    const feeds = { ...await tensors(`gpu-gqa${i}.in`), ...caches };
    Object.assign(counts, { copied: 0, groups: 0 });
    dispatches = 0;
    const found = await session.run(feeds, ...(given.shared ? [{ y: null, present_key: caches.past_key, present_value: caches.past_value }] : []));
    spent.push({ copied: counts.copied - found.y.data.byteLength - given.status, dispatches, buffers: device.buffers, pipelines: device.pipelines });
    if (!given.shared && i) for (const one of Object.values(caches)) one.dispose();
    caches = { past_key: found.present_key, past_value: found.present_value };
    const wanted = await tensors(`gpu-gqa${i}.out`), length = feeds.query.dims[1], wide = wanted.y.dims[2];
    for (const [b, held] of given.held[i].entries()) {
      const off = (a, e, from, count) => { for (let k = from; k < from + count; k++) made.push(Math.abs(a[k] - e[k])); };
      off(found.y.data, wanted.y.data, b * length * wide, Math.min(length, held) * wide);
      for (const [past, present] of [['past_key', 'present_key'], ['past_value', 'present_value']]) {
        const a = await device.download(caches[past].gpuBuffer, given.bytes, Float32Array), row = given.dims[3], room = given.dims[2];
        for (let h = 0; h < given.dims[1]; h++) off(a, wanted[present].data, (b * given.dims[1] + h) * room * row, held * row);
      }
    }
  }
  return { worst: made.reduce((a, b) => (a >= b ? a : b), 0), numbers: made.length, spent, same: caches.past_key === first.past_key && caches.past_value === first.past_value };
"""


@pytest.mark.parametrize("shared", [True, False], ids=["one buffer", "two buffers"])
def test_decoding(page: Page, isolated: str, models: Path, shared: bool) -> None:
    """In one buffer nothing of the cache is copied: two dispatches fewer, and no bytes but the results'."""
    data = grouped()
    if not (models / "gpu-gqa.sdx").exists():
        ort.convert(data, models / "gpu-gqa.sdx", webgpu=True)
    reference, there, counted = ReferenceExecutor(load_model(data)), {n: np.zeros((2, SHARED, ROOM, SIZE), np.float32) for n in CACHES}, []
    names = [v.name for v in load_model(data).graph.inputs if v.const is None]
    for i, (feed, held) in enumerate(steps(2)):
        wanted = reference.run([{**feed, **there}[n] for n in names], [0, 1, 2], RunContext())
        there = dict(zip(CACHES, wanted[1:], strict=True))
        save(models, f"gpu-gqa{i}.in", feed)
        save(models, f"gpu-gqa{i}.out", dict(zip(("y", *CACHES.values()), wanted, strict=True)))
        counted.append(held.tolist())
    page.goto(isolated)
    dims = [2, SHARED, ROOM, SIZE]
    found = ask(page, DECODE, {"shared": shared, "steps": len(counted), "held": counted, "dims": dims, "bytes": 4 * int(np.prod(dims)), "status": STATUS})
    assert found["numbers"] > 1000 and found["worst"] <= 1e-4
    assert found["same"] is shared
    assert all(one["copied"] == 0 for one in found["spent"])
    assert len({one["pipelines"] for one in found["spent"]}) == 1, "a new length compiled something"
    assert len({one["dispatches"] for one in found["spent"]}) == 1
    if shared:
        assert len({one["buffers"] for one in found["spent"][1:]}) == 1
        alone = ask(page, DECODE, {"shared": False, "steps": 2, "held": counted, "dims": dims, "bytes": 4 * int(np.prod(dims)), "status": STATUS})
        assert alone["spent"][0]["dispatches"] == found["spent"][0]["dispatches"] + 2


def test_outputs_are_written_to_the_pages_buffers(page: Page, isolated: str, keep: Maker) -> None:
    """Bound, or copied where they can not be; also to an input's buffer that the model reads. What is wrong is said before or after the run, typed, and the next one goes on."""
    mlp(keep)
    page.goto(isolated)
    found = ask(page, COUNTED + """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      const { device } = ort.env.webgpu, counted = await openDevice(), { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
      const there = (buffer, dims = [2, 3], dataType = 'float32') => ort.Tensor.fromGpuBuffer(buffer, { dataType, dims, download: () => counted.download(buffer, 24, Float32Array) });
      const make = (usage, size = 24) => device.createBuffer({ size, usage: usage | COPY_SRC });
      const copied = [], off = [];
      await session.run(feeds);
      const before = counted.buffers;
      for (const usage of [STORAGE, STORAGE | COPY_DST, COPY_DST]) {
        const target = there(make(usage));
        Object.assign(counts, { copied: 0 });
        const made = await session.run(feeds, { y: target });
        copied.push(counts.copied);
        off.push(made.y === target ? difference({ y: { dims: target.dims, data: await target.getData() } }, wanted) : 9);
      }
      const both = make(STORAGE | COPY_DST, 32); // x [2, 4] and y [2, 3] in one buffer: the product reads x
      device.queue.writeBuffer(both, 0, feeds.x.data);
      const target = there(both);
      await session.run({ x: ort.Tensor.fromGpuBuffer(both, { dataType: 'float32', dims: [2, 4] }) }, { y: target });
      off.push(difference({ y: { dims: [2, 3], data: await target.getData() } }, wanted));
      const other = await (await navigator.gpu.requestAdapter()).requestDevice(), gone = make(STORAGE);
      gone.destroy();
      const wrong = {};
      for (const [what, tensor] of Object.entries({
        dims: there(make(STORAGE), [3, 2]), type: there(make(STORAGE), [2, 3], 'int32'), destroyed: there(gone),
            other: there(other.createBuffer({ size: 24, usage: STORAGE })), useless: there(make(0)),
      })) wrong[what] = await failure(() => session.run(feeds, { y: tensor }));
      const cpu = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { executionProviders: ['wasm'] });
      wrong.wasm = await failure(() => cpu.run(feeds, { y: there(make(STORAGE)) }));
      off.push(difference(await session.run(feeds), wanted));
      return { off, copied, wrong, left: counted.buffers - before };
    """)
    assert max(found["off"]) <= 1e-5 and found["left"] == 0
    assert found["copied"] == [STATUS, STATUS, STATUS + 24]
    for what, (name, message, ours) in found["wrong"].items():
        assert (name, ours) == ("InvalidArgument", True), (what, name, message)
    assert "'y' is float32[3,2], the output is float32[2,3]" in found["wrong"]["dims"][1] and "int32[2,3]" in found["wrong"]["type"][1]
    assert all("env.webgpu.device" in found["wrong"][what][1] for what in ("destroyed", "other", "useless")) and "output 'y' is on the GPU and the session" in found["wrong"]["wasm"][1]
