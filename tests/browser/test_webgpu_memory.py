"""Memory of the page's GPU, counted where the browser makes buffers: weights once, and no more than a fifth above what is needed at the same time."""
from __future__ import annotations

from playwright.sync_api import Page

from tests.webgpu.test_memory import FIXED, floats, needed, tower

from .webgpu import Maker, ask

COUNTED = """
  let alive = 0;
  const make = GPUDevice.prototype.createBuffer, drop = GPUBuffer.prototype.destroy, dropped = new WeakSet();
  GPUDevice.prototype.createBuffer = function (what) { alive += what.size; return make.call(this, what); };
  GPUBuffer.prototype.destroy = function () { if (!dropped.has(this)) alive -= this.size; dropped.add(this); return drop.call(this); };
"""


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
