"""WebGPU in a page when things go wrong: no memory, buffers that are gone or another device's, the device lost in the middle of a run, a tab in the background. CPU sessions go on."""
from __future__ import annotations

import numpy as np
from onnx import parser
from playwright.sync_api import Page

from .webgpu import Maker, ask, mlp

#: What the browser says of the next buffers: that there is no memory for them (a real shortage would take the machine's).
FULL = """
  let full = false;
  const pop = GPUDevice.prototype.popErrorScope, push = GPUDevice.prototype.pushErrorScope, kinds = [];
  GPUDevice.prototype.pushErrorScope = function (kind) { kinds.push(kind); return push.call(this, kind); };
  GPUDevice.prototype.popErrorScope = async function () {
    const kind = kinds.pop(), said = await pop.call(this);
    return full && kind === 'out-of-memory' ? new GPUOutOfMemoryError('not enough memory left') : said;
  };
"""


def test_no_memory_left(page: Page, isolated: str, keep: Maker) -> None:
    """For weights the session is not made; for a run's memory the run fails, and smaller inputs run."""
    mlp(keep)
    page.goto(isolated)
    found = ask(page, FULL + """
      const cpu = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { executionProviders: ['wasm'] });
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      const made = [difference(await session.run(feeds), wanted)], device = await openDevice();
      full = true;
      const before = device.buffers;
      const weights = await failure(() => ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu)), left = device.buffers - before;
      const run = await failure(() => session.run({ x: new ort.Tensor('float32', new Float32Array(4000), [1000, 4]) }));
      const beside = difference(await cpu.run(feeds), wanted);
      full = false;
      made.push(difference(await session.run(feeds), wanted), difference(await session.run(feeds), wanted));
      return { made, weights, run, beside, left };
    """)
    assert max(found["made"]) <= 1e-5 and found["beside"] <= 1e-5 and found["left"] == 0
    for name, message, ours in (found["weights"], found["run"]):
        assert (name, ours) == ("OutOfDeviceMemory", True) and "no memory left" in message and "release sessions" in message


def test_buffers_that_can_not_be_read(page: Page, isolated: str, keep: Maker) -> None:
    """Destroyed, of another device, mapped, too small, of no usage: an InvalidArgument each, and the next run goes on."""
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      await session.run(feeds);
      const { device } = ort.env.webgpu, counted = await openDevice(), before = counted.buffers;
      const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage, other = await (await navigator.gpu.requestAdapter()).requestDevice();
      const on = (buffer) => ({ x: ort.Tensor.fromGpuBuffer(buffer, { dims: [2, 4] }) }), kinds = {};
      const good = device.createBuffer({ size: 32, usage: STORAGE | COPY_DST });
      device.queue.writeBuffer(good, 0, feeds.x.data);
      await session.run(on(good)); // its bind group is kept from here on
      good.destroy();
      const buffers = {
        destroyed: good, 'never used': device.createBuffer({ size: 32, usage: STORAGE }),
        other: other.createBuffer({ size: 32, usage: STORAGE }), 'other, copied': other.createBuffer({ size: 32, usage: COPY_SRC }),
        mapped: device.createBuffer({ size: 32, usage: STORAGE, mappedAtCreation: true }), useless: device.createBuffer({ size: 32, usage: COPY_DST }),
      };
      buffers['never used'].destroy();
      for (const [what, buffer] of Object.entries(buffers)) kinds[what] = await failure(() => session.run(on(buffer)));
      kinds.small = await failure(() => session.run(on(device.createBuffer({ size: 28, usage: STORAGE }))));
      kinds.none = await failure(() => session.run(on(null)));
      const fresh = device.createBuffer({ size: 32, usage: STORAGE | COPY_DST });
      device.queue.writeBuffer(fresh, 0, feeds.x.data);
      return { kinds, after: [difference(await session.run(feeds), wanted), difference(await session.run(on(fresh)), wanted)], left: counted.buffers - before };
    """)
    for what, (name, message, ours) in found["kinds"].items():
        assert (name, ours) == ("InvalidArgument", True), (what, name, message)
    assert all("env.webgpu.device" in found["kinds"][what][1] for what in ("destroyed", "other", "mapped", "useless"))
    assert max(found["after"]) <= 1e-5 and found["left"] == 0


def test_the_device_is_lost_during_runs(page: Page, isolated: str, keep: Maker) -> None:
    """Runs under way raise; what begins later is on a new device, tensors kept on the old one are refused, CPU sessions never notice."""
    mlp(keep)
    keep("gpu-slow", parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\ng (float[n, n] x) => (float[n, n] y) { a = MatMul(x, x) b = MatMul(a, x) y = MatMul(b, x) }'),
         x=np.eye(16, dtype=np.float32))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-slow.sdx', { ...gpu, preferredOutputLocation: 'gpu-buffer' }), small = await tensors('gpu-slow.in');
      const cpu = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { executionProviders: ['wasm'] }), feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      const kept = (await session.run(small)).y, device = await openDevice(), large = new ort.Tensor('float32', new Float32Array(512 * 512), [512, 512]);
      const { submit } = GPUQueue.prototype;
      const submitted = new Promise((wake) => { GPUQueue.prototype.submit = function (...given) { submit.apply(this, given); wake(); }; });
      const runs = [1, 2, 3].map(() => failure(() => session.run({ x: large })));
      await submitted;
      device.device.destroy();
      GPUQueue.prototype.submit = submit;
      const raised = await Promise.all(runs), beside = difference(await cpu.run(feeds), wanted);
      const again = (await session.run(small)).y, data = await again.getData();
      return {
        raised, beside, again: Math.max(...data.map((v, i) => Math.abs(v - Number(i % 17 === 0)))), another: (await openDevice()) !== device,
        old: await failure(() => session.run({ x: kept })),
      };
    """)
    name, message, ours = found["raised"][0]
    assert (name, ours) == ("DeviceLost", True) and "new device" in message and {one[0] for one in found["raised"]} <= {"DeviceLost", "no error"}
    assert found["beside"] <= 1e-5 and found["again"] <= 1e-5 and found["another"]
    assert found["old"][0] == "InvalidArgument" and found["old"][2]


def test_a_tab_in_the_background(page: Page, isolated: str, keep: Maker) -> None:
    """A hidden page, and one that is frozen and wakes up again: its runs end, and give the right numbers."""
    mlp(keep)
    page.goto(isolated)
    ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      globalThis.once = async () => difference(await session.run(feeds), wanted);
      globalThis.many = () => Promise.all(Array.from({ length: 50 }, once));
      await once();
    """)
    other = page.context.new_page()
    other.goto("about:blank")
    other.bring_to_front()
    assert page.evaluate("once()") <= 1e-5
    control = page.context.new_cdp_session(page)
    page.evaluate("{ globalThis.pending = many(); pending.catch(() => {}); }")
    control.send("Page.setWebLifecycleState", {"state": "frozen"})
    other.wait_for_timeout(300)
    control.send("Page.setWebLifecycleState", {"state": "active"})
    assert max(page.evaluate("pending")) <= 1e-5 and page.evaluate("once()") <= 1e-5
    other.close()
