"""Memory of the page's GPU, counted where the browser makes buffers: weights once, and no more than a fifth above what is needed at the same time."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from playwright.sync_api import Page

from tests.models import generated
from tests.webgpu.test_memory import FIXED, floats, needed, tower

from .webgpu import Maker, ask

COUNTED = """
  let alive = 0;
  const make = GPUDevice.prototype.createBuffer, drop = GPUBuffer.prototype.destroy, dropped = new WeakSet();
  GPUDevice.prototype.createBuffer = function (what) { alive += what.size; return make.call(this, what); };
  GPUBuffer.prototype.destroy = function () { if (!dropped.has(this)) alive -= this.size; dropped.add(this); return drop.call(this); };
"""


def test_weights_go_from_the_stream_to_the_gpu(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    """The second half of the file comes only when the weights of the first are in GPU buffers; no write is more than a piece of the stream."""
    generated.bert_layer(models / "gpu-stream.onnx", hidden=192, heads=4)
    scale = keep("gpu-stream", models / "gpu-stream.onnx", hidden_states=np.random.default_rng(2).normal(size=(1, 7, 192)).astype(np.float32), attention_mask=np.ones((1, 7), np.int64))
    page.goto(isolated)
    found = ask(page, """
      await openDevice();
      const original = fetch, write = GPUQueue.prototype.writeBuffer, seen = { total: 0, most: 0, half: 0 }, PIECE = 1 << 16;
      GPUQueue.prototype.writeBuffer = function (...given) {
        const size = given[4] ?? given[2].byteLength;
        Object.assign(seen, { total: seen.total + size, most: Math.max(seen.most, size) });
        return write.apply(this, given);
      };
      globalThis.fetch = async (what, ...more) => {
        const answer = await original(what, ...more);
        if (!String(what.url ?? what).endsWith('gpu-stream.sdx')) return answer;
        const bytes = new Uint8Array(await answer.arrayBuffer());
        const body = new ReadableStream({
          async start(stream) {
            for (let at = 0; at < bytes.length; at += PIECE) {
              stream.enqueue(bytes.slice(at, at + PIECE));
              if (at <= bytes.length / 2 && at + PIECE > bytes.length / 2) {
                for (let i = 0; i < 6000 && seen.total < bytes.length / 4; i++) await new Promise((wake) => setTimeout(wake, 10));
                seen.half = seen.total;
              }
            }
            stream.close();
          },
        });
        return new Response(body, { headers: answer.headers });
      };
      const session = await ort.InferenceSession.create('/models/gpu-stream.sdx', gpu), created = { ...seen };
      Object.assign(globalThis, { fetch: original });
      GPUQueue.prototype.writeBuffer = write;
      return { created, made: difference(await session.run(await tensors('gpu-stream.in')), await tensors('gpu-stream.out')) };
    """)
    weights = 12 * 192 * 192 * 4
    assert found["created"]["half"] >= weights / 4 and found["created"]["total"] >= weights and found["created"]["most"] <= 1 << 17 and found["made"] <= 1e-4 * scale


def test_memory_is_weights_and_what_lives_at_the_same_time(page: Page, isolated: str, keep: Maker) -> None:
    """For the first size and for one that grew; all of it comes back."""
    data, x = tower(), floats(1000, 64)
    keep("gpu-tower", data, x=x)
    weights, live = needed(data, [x], True)
    page.goto(isolated)
    found = ask(page, COUNTED + """
      const session = await ort.InferenceSession.create('/models/gpu-tower.sdx', gpu), feeds = await tensors('gpu-tower.in'), wanted = await tensors('gpu-tower.out');
      const off = difference(await session.run(feeds), wanted);
      for (let i = 0; i < 5; i++) await session.run(feeds);
      const first = alive, rows = (n) => ({ x: new ort.Tensor('float32', new Float32Array(64 * n).fill(0.5), [n, 64]) });
      await session.run(rows(1100));
      const grown = alive;
      for (let n = 1101; n < 1120; n++) await session.run(rows(n));
      const after = alive;
      await session.release();
      return { off, first, grown, after, released: alive };
    """)
    staged = 1 << 18   # the result, up to a power of two
    assert found["off"] <= 1e-3 and live >= 2 * x.nbytes
    assert weights < found["first"] <= weights + 1.2 * live + staged + FIXED
    assert found["grown"] <= weights + 1.1 * 1.25 * 1.2 * live + 3 * staged + FIXED and found["after"] == found["grown"]
    assert found["released"] <= 3 * staged + FIXED
