"""The JavaScript runtime on WebGPU in Chromium (SwiftShader): stored models give Python's numbers, a new size compiles nothing, nothing leaks, loss of the device and what the GPU can not do
are typed errors, and CPU sessions go on."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sardonyx as ort
from onnx import parser
from playwright.sync_api import Page
from sardonyx.errors import InvalidArgument
from sardonyx.model.format import Header
from sardonyx.model.recorded import unpack_recorded

from tests.models import generated, registry

from .webgpu import MLP, Maker, ask, mlp

GATHER = '<ir_version: 10, opset_import: ["" : 21]>\ng (float[5] x, int64[n] i) => (float[n] y) { y = Gather(x, i) }'
MIXED = '<ir_version: 10, opset_import: ["" : 21]>\ng (float[n] x) => (double[n] y) { a = Exp(x) b = Cast<to = 11>(a) y = Add(b, b) }'


def test_mobilenet(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    generated.mobilenet_v2(models / "gpu-mobilenet.onnx", batch=1)
    scale = keep("gpu-mobilenet", models / "gpu-mobilenet.onnx", input=np.random.default_rng(3).normal(size=(1, 3, 224, 224)).astype(np.float32))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mobilenet.sdx', gpu);
      const made = difference(await session.run(await tensors('gpu-mobilenet.in')), await tensors('gpu-mobilenet.out'));
      return { made, about: session.explain(), engine: session.engine };
    """)
    assert found["made"] <= 1e-4 * scale
    assert found["about"]["webgpu"]["dispatches"] <= 56 and found["about"]["webgpu"]["beside"] == [] and found["engine"]["worker"] is False


@pytest.mark.parametrize("proxy", [False, True])
def test_bert_layer_of_any_length_compiles_once(page: Page, isolated: str, keep: Maker, models: Path, proxy: bool) -> None:
    path = models / "gpu-bert.onnx"
    generated.bert_layer(path, hidden=48, heads=4)
    names = [v.name for v in ort.InferenceSession(str(path)).get_inputs()]
    rng = np.random.default_rng(4)
    scales = []
    for seq in (7, 13, 5, 40):
        inputs: dict[str, np.ndarray] = {names[0]: rng.normal(size=(1, seq, 48)).astype(np.float32)}
        if len(names) > 1:
            inputs[names[1]] = np.ones((1, seq), np.int64)
        scales.append(keep("gpu-bert", path, tag=str(seq), **inputs))
    page.goto(isolated)
    found = ask(page, """
      ort.env.wasm.proxy = given[1] || undefined;
      const session = await ort.InferenceSession.create('/models/gpu-bert.sdx', gpu);
      const made = [], device = given[1] ? {} : await openDevice();
      for (const seq of given[0]) made.push([difference(await session.run(await tensors(`gpu-bert${seq}.in`)), await tensors(`gpu-bert${seq}.out`)), device.pipelines]);
      return made;
    """, [[7, 13, 5, 40], proxy])
    assert all(d <= 1e-4 * scale for (d, _), scale in zip(found, scales, strict=True))
    assert len({compiled for _, compiled in found}) == 1, "a new size compiled a pipeline"


def test_magika(page: Page, isolated: str, keep: Maker) -> None:
    model = registry.CACHE / "models" / "magika.onnx"
    if not model.exists():
        pytest.skip("magika is not in the cache: tests/models fetches it")
    session = ort.InferenceSession(str(model))
    port = session.get_inputs()[0]
    x = np.random.default_rng(5).integers(0, 256, (2, *port.shape[1:])).astype(np.int32)
    scale = keep("gpu-magika", model, **{port.name: x})
    page.goto(isolated)
    assert ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-magika.sdx', { executionProviders: ['webgpu'], extra: { session: { disable_cpu_ep_fallback: '1' } } });
      return difference(await session.run(await tensors('gpu-magika.in')), await tensors('gpu-magika.out'));
    """) <= 1e-4 * scale


def test_runs_leak_nothing(page: Page, isolated: str, keep: Maker) -> None:
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      const device = await openDevice();
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu);
      const x = (n) => new ort.Tensor('float32', new Float32Array(4 * n).fill(1), [n, 4]);
      await session.run({ x: x(9) });
      const before = device.buffers;
      const started = performance.now();
      for (let i = 0; i < 500; i++) await session.run({ x: x(1 + (i % 9)) });
      const after = device.buffers;
      await session.release();
      return { before, after, released: device.buffers, engine: session.engine.webgpu.dispatches };
    """)
    assert found["after"] == found["before"] and found["released"] <= 1, "only the staging buffer may stay"


def test_tensors_on_the_gpu(page: Page, isolated: str, keep: Maker) -> None:
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { ...gpu, preferredOutputLocation: 'gpu-buffer' });
      const { device } = ort.env.webgpu, counted = await openDevice();
      const buffer = device.createBuffer({ size: 32, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
      device.queue.writeBuffer(buffer, 0, (await tensors('gpu-mlp.in')).x.data);
      const x = ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims: [2, 4] });
      const first = counted.buffers;
      const { y } = await session.run({ x });
      const where = [x.location, y.location, (await failure(() => y.data))[0], y.dims, y.gpuBuffer.size];
      const made = difference({ y: { dims: y.dims, data: await y.getData() } }, await tensors('gpu-mlp.out'));
      const again = (await session.run({ x })).y;
      again.dispose();
      const other = await (await navigator.gpu.requestAdapter()).requestDevice();
      const foreign = other.createBuffer({ size: 32, usage: GPUBufferUsage.COPY_SRC });
      const wrong = [await failure(() => ort.Tensor.fromGpuBuffer(buffer, { dims: [3, 4] })), await failure(() => session.run({ x: ort.Tensor.fromGpuBuffer(foreign, { dims: [2, 4] }) }))];
      const cpu = await ort.InferenceSession.create('/models/gpu-mlp.sdx');
      wrong.push(await failure(() => cpu.run({ x })), await failure(() => ort.InferenceSession.create('/models/gpu-mlp.sdx', { preferredOutputLocation: 'gpu-buffer' })));
      return { where, made, wrong, after: difference({ y: { dims: [2, 3], data: await (await session.run({ x })).y.getData() } }, await tensors('gpu-mlp.out')), gone: again.location };
    """)
    assert found["where"] == ["gpu-buffer", "gpu-buffer", "InvalidArgument", [2, 3], 24] and found["made"] <= 1e-5 and found["after"] <= 1e-5 and found["gone"] == "none"
    assert [w[0] for w in found["wrong"]] == ["InvalidArgument", "InvalidArgument", "InvalidArgument", "NotImplemented"]
    assert "has 32 bytes" in found["wrong"][0][1] and "env.webgpu.device" in found["wrong"][1][1] and "getData" in found["wrong"][2][1]


def test_a_lost_device(page: Page, isolated: str, keep: Maker) -> None:
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      const cpu = await ort.InferenceSession.create('/models/gpu-mlp.sdx', { executionProviders: ['wasm'] });
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu);
      const bytes = await (await fetch('/models/gpu-mlp.sdx')).arrayBuffer();
      const other = await ort.InferenceSession.create(bytes, gpu);
      const feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      const device = await openDevice();
      const inRun = failure(() => session.run(feeds));
      device.device.destroy();
      await device.lost;
      const raised = await inRun;
      const again = difference(await session.run(feeds), wanted);
      return { raised, cpu: difference(await cpu.run(feeds), wanted), again, another: (await openDevice()) !== device, other: await failure(() => other.run(feeds)) };
    """)
    assert found["raised"][0] in ("DeviceLost", "no error") and found["cpu"] <= 1e-5 and found["again"] <= 1e-5 and found["another"]
    assert found["other"][0] == "DeviceLost" and "make the session again" in found["other"][1]


def test_faults_of_a_run_and_the_next_one(page: Page, isolated: str, keep: Maker) -> None:
    keep("gpu-gather", parser.parse_model(GATHER), x=np.arange(5, dtype=np.float32), i=np.array([1, -1]))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-gather.sdx', gpu);
      const feeds = await tensors('gpu-gather.in'), wanted = await tensors('gpu-gather.out');
      const i = (...at) => new ort.Tensor('int64', BigInt64Array.from(at.map(BigInt)), [at.length]);
      return [await failure(() => session.run({ ...feeds, i: i(0, 7) })), await failure(() => session.run({ ...feeds, i: i(2 ** 40) })), difference(await session.run(feeds), wanted)];
    """)
    assert found[0][0] == "RuntimeException" and "index is outside" in found[0][1] and found[0][2]
    assert found[1][0] == "RuntimeException" and "1099511627776" in found[1][1] and "32 bits" in found[1][1]
    assert found[2] == 0


def test_what_wgsl_can_not_do_runs_beside(page: Page, isolated: str, keep: Maker) -> None:
    scale = keep("gpu-mixed", parser.parse_model(MIXED), x=np.linspace(-1, 1, 9, dtype=np.float32))
    page.goto(isolated)
    found = ask(page, """
      const session = await ort.InferenceSession.create('/models/gpu-mixed.sdx', gpu);
      const made = difference(await session.run(await tensors('gpu-mixed.in')), await tensors('gpu-mixed.out'));
      const strict = { ...gpu, extra: { session: { disable_cpu_ep_fallback: '1' } } };
      return { made, beside: session.explain().webgpu.beside, strict: await failure(() => ort.InferenceSession.create('/models/gpu-mixed.sdx', strict)) };
    """)
    assert found["made"] <= 1e-5 * scale
    assert found["beside"] and "double" in found["beside"][0]["reason"]
    assert found["strict"][0] == "EPFail" and "fallback refused" in found["strict"][1]


def test_without_adapter_or_programs(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    mlp(keep)
    ort.convert(parser.parse_model(MLP), models / "no-gpu.sdx")
    page.goto(isolated)
    found = ask(page, """
      const warned = [], warn = console.warn;
      console.warn = (...words) => warned.push(words.join(' '));
      const both = { executionProviders: ['webgpu', 'wasm'] };
      Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => null }, configurable: true });
      const none = [await failure(() => ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu)), (await ort.InferenceSession.create('/models/gpu-mlp.sdx', both)).explain()];
      delete navigator.gpu;
      const bare = [await failure(() => ort.InferenceSession.create('/models/no-gpu.sdx', gpu)), (await ort.InferenceSession.create('/models/no-gpu.sdx', both)).explain()];
      console.warn = warn;
      return { bare, none, warned };
    """)
    assert found["bare"][0][0] == "NotImplemented" and "--webgpu" in found["bare"][0][1] and found["bare"][1] == {"providers": ["wasm"]}
    assert found["none"][0][0] == "NoAdapter" and found["none"][1] == {"providers": ["wasm"]}
    assert len(found["warned"]) == 2 and all("not on WebGPU" in w for w in found["warned"])


def test_a_rejected_shader_names_kernel_and_line(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    mlp(keep)
    data = bytearray((models / "gpu-mlp.sdx").read_bytes())
    header = Header.unpack(memoryview(bytes(data)))
    _, package, text = unpack_recorded(memoryview(bytes(data))[header.webgpu[0]:sum(header.webgpu)])
    at = header.webgpu[0] + 32 + len(package)
    broken = bytes(text).replace(b"let group =", b"let group -", 1)
    assert broken != bytes(text)
    data[at:at + len(text)] = broken
    (models / "broken-shader.sdx").write_bytes(data)
    page.goto(isolated)
    name, message, ours = ask(page, "return failure(() => ort.InferenceSession.create('/models/broken-shader.sdx', gpu));")
    assert (name, ours) == ("ShaderRejected", True) and "matmul of" in message and "line " in message and "let group -" in message


@pytest.mark.parametrize("proxy", [False, True])
def test_profile(page: Page, isolated: str, keep: Maker, proxy: bool) -> None:
    """Where the adapter has timestamps, a row a dispatch; what runs on the engine beside; without them a warning, and the engine's rows. The numbers are those of an ordinary run."""
    mlp(keep)
    keep("gpu-mixed", parser.parse_model(MIXED), x=np.linspace(-1, 1, 9, dtype=np.float32))
    page.goto(isolated)
    found = ask(page, """
      ort.env.wasm.proxy = given || undefined;
      const offered = (await navigator.gpu.requestAdapter()).features.has('timestamp-query'), profiles = {}, warned = [], warn = console.warn;
      const profile = async (name) => {
        const session = await ort.InferenceSession.create(`/models/${name}.sdx`, gpu), feeds = await tensors(`${name}.in`), wanted = await tensors(`${name}.out`);
        const off = [difference(await session.run(feeds), wanted)];
        session.startProfiling();
        off.push(difference(await session.run(feeds), wanted), difference(await session.run(feeds), wanted));
        const events = session.endProfiling();
        off.push(difference(await session.run(feeds), wanted));
        return { off, events, none: session.endProfiling(), dispatches: session.engine.webgpu.dispatches, buffers: given ? 0 : (await openDevice()).buffers };
      };
      for (const name of ['gpu-mlp', 'gpu-mixed']) profiles[name] = await profile(name);
      if (given) return { offered, profiles };
      (await openDevice()).device.destroy();
      await new Promise((wake) => setTimeout(wake, 100));
      ort.env.webgpu.device = await (await navigator.gpu.requestAdapter()).requestDevice(); // of no features
      console.warn = (...words) => warned.push(words.join(' '));
      const without = await profile('gpu-mixed');
      console.warn = warn;
      return { offered, profiles, without, warned };
    """, proxy)
    assert all(max(p["off"]) <= 1e-5 and p["none"] == [] for p in [*found["profiles"].values(), *([found["without"]] if not proxy else [])])
    for name, kernels in (("gpu-mlp", 1), ("gpu-mixed", 1)):
        events, count = found["profiles"][name]["events"], found["profiles"][name]["dispatches"]
        there = [e for e in events if e.get("gpu")]
        assert len(there) == (2 * count if found["offered"] else 0) and count >= kernels, (name, events)
        assert all(e["duration"] >= 0 and e["start"] > 0 and " of " in e["name"] for e in there)
        assert not there or [e["name"] for e in there[:count]] == [e["name"] for e in there[count:]]
        assert bool([e for e in events if not e.get("gpu")]) == (name == "gpu-mixed")
    if not proxy:
        assert found["without"]["events"] and not any(e.get("gpu") for e in found["without"]["events"]) and any("timestamp-query" in w for w in found["warned"])


def test_conversion_says_why_there_is_nothing_to_record(models: Path) -> None:
    strings = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\ng (string[n] x) => (string[n] y) { y = Identity(x) }')
    with pytest.raises(InvalidArgument, match="nothing can be recorded for WebGPU"):
        ort.convert(strings, models / "strings.sdx", webgpu=True)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pictures(page: Page, isolated: str, layout: str) -> None:
    """Tensor.fromImage: the CPU's and the GPU's numbers, for every kind of source; sizes, channels and normalisation as onnxruntime-web has them."""
    page.goto(isolated)
    found = ask(page, """
      const data = new ImageData(new Uint8ClampedArray(5 * 3 * 4).map((_, i) => (i % 4 === 3 ? 255 : (i * 37) % 256)), 5, 3);
      const canvas = new OffscreenCanvas(5, 3);
      canvas.getContext('2d').putImageData(data, 0, 0);
      const sources = { data, canvas, bitmap: await createImageBitmap(data), frame: new VideoFrame(canvas, { timestamp: 0 }), blob: await canvas.convertToBlob() };
      const options = { tensorLayout: given, tensorFormat: 'BGR', norm: { mean: [2, 4, 8], bias: [1, 0, -1] } };
      const made = {};
      for (const [name, source] of Object.entries(sources)) {
        for (const location of ['cpu', 'gpu-buffer']) {
          const tensor = await ort.Tensor.fromImage(source, { ...options, location });
          made[`${name} ${location}`] = [tensor.location, tensor.dims, Array.from(await tensor.getData())];
        }
      }
      const counted = await openDevice(), on = (device, usage) => device.createTexture({ size: [5, 3], format: 'rgba8unorm', usage: usage | GPUTextureUsage.COPY_DST });
      const texture = on(counted.device, GPUTextureUsage.TEXTURE_BINDING), stranger = on(await (await navigator.gpu.requestAdapter()).requestDevice(), GPUTextureUsage.TEXTURE_BINDING);
      counted.device.queue.writeTexture({ texture }, data.data, { bytesPerRow: 20 }, [5, 3]);
      const there = await ort.Tensor.fromImage(texture, options), before = counted.buffers;
      made['texture gpu-buffer'] = [there.location, there.dims, Array.from(await there.getData())];
      const textures = [await failure(() => ort.Tensor.fromImage(stranger, options)), await failure(() => ort.Tensor.fromImage(on(counted.device, GPUTextureUsage.COPY_SRC), options)),
                        await failure(() => ort.Tensor.fromImage(texture, { location: 'cpu' })), counted.buffers - before];
      const away = document.createElement('canvas'), held = counted.buffers;
      away.transferControlToOffscreen();
      const gone = [await failure(() => ort.Tensor.fromImage(away, { location: 'gpu-buffer' })), counted.buffers - held];
      const small = await ort.Tensor.fromImage(data, { resizedWidth: 10, resizedHeight: 6, location: 'gpu-buffer' });
      return { made, textures, gone, raw: Array.from(data.data), small: [small.dims, Math.max(...await small.getData())],
               wrong: [await failure(() => ort.Tensor.fromImage({}, {})),
                       await failure(() => ort.Tensor.fromImage(data, { tensorFormat: 'CMYK' })), await failure(() => ort.Tensor.fromImage('/models/none.png'))] };
    """, layout)
    raw = np.array(found["raw"], np.float32).reshape(3, 5, 4)[:, :, [2, 1, 0]]
    wanted = (raw + np.float32([1, 0, -1])) / np.float32([2, 4, 8])
    wanted = wanted[None] if layout == "NHWC" else wanted.transpose(2, 0, 1)[None]
    for name, (location, dims, data) in found["made"].items():
        assert name.endswith(location) and dims == list(wanted.shape)
        np.testing.assert_allclose(np.array(data, np.float32).reshape(wanted.shape), wanted, atol=1.01 if name.startswith("frame") else 1e-3, err_msg=name)
    *errors, left = found["textures"]
    assert all((name, ours) == ("InvalidArgument", True) and word in message for (name, message, ours), word in zip(errors, ("env.webgpu.device", "TEXTURE_BINDING", "gpu-buffer"), strict=True))
    assert left <= 1, "a staging buffer at most"
    (name, message, ours), left = found["gone"]
    assert (name, ours, left) == ("InvalidArgument", True, 0) and "can not be copied to the GPU" in message
    assert found["small"][0] == [1, 3, 6, 10] and 0.5 < found["small"][1] <= 1.001
    assert [w[0] for w in found["wrong"]] == ["InvalidArgument"] * 3


def test_sessions_share_the_device_and_its_pipelines(page: Page, isolated: str, keep: Maker) -> None:
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      const feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out');
      const first = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu), device = await openDevice(), compiled = device.pipelines;
      const others = await Promise.all([1, 2, 3, 4].map(() => ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu)));
      const made = await Promise.all([first, ...others, first].map(async (session) => difference(await session.run(feeds), wanted)));
      for (const session of [first, ...others]) await session.release();
      return { made, compiled: device.pipelines - compiled, same: (await openDevice()) === device, buffers: device.buffers };
    """)
    assert max(found["made"]) <= 1e-5 and found["compiled"] == 0 and found["same"] and found["buffers"] <= 4, "staging buffers only"


def test_a_device_of_the_pages_own_and_its_limits(page: Page, isolated: str, keep: Maker) -> None:
    """A device with WebGPU's default limits: what does not fit is named, and the session goes on."""
    mlp(keep)
    page.goto(isolated)
    found = ask(page, """
      ort.env.webgpu.device = await (await navigator.gpu.requestAdapter()).requestDevice();
      const session = await ort.InferenceSession.create('/models/gpu-mlp.sdx', gpu);
      const feeds = await tensors('gpu-mlp.in'), wanted = await tensors('gpu-mlp.out'), n = 9 << 20;
      return [(await openDevice()).device === ort.env.webgpu.device, await failure(() => session.run({ x: new ort.Tensor('float32', new Float32Array(4 * n), [n, 4]) })),
              difference(await session.run(feeds), wanted)];
    """)
    assert found[0] and found[1][0] == "LimitExceeded" and "134,217,728" in found[1][1] and found[2] <= 1e-5


def test_damaged_sections_are_typed_errors(page: Page, isolated: str, keep: Maker, models: Path) -> None:
    """Numbers of the text replaced, one at a time: an error of ours or a run, never a crash."""
    mlp(keep)
    page.goto(isolated)
    data = (models / "gpu-mlp.sdx").read_bytes()
    header = Header.unpack(memoryview(data))
    _, package, text = unpack_recorded(memoryview(data)[header.webgpu[0]:sum(header.webgpu)])
    at = header.webgpu[0] + 32 + len(package)
    found = ask(page, """
      const bytes = new Uint8Array(await (await fetch('/models/gpu-mlp.sdx')).arrayBuffer());
      const text = new TextDecoder().decode(bytes.subarray(given.at, given.at + given.length)), feeds = await tensors('gpu-mlp.in');
      const places = [...text.matchAll(/(?<=[\\[,:])-?\\d+(?=[\\],}])/g)], kinds = {};
      const attempt = async (damaged) => {
        const file = bytes.slice();
        file.set(new TextEncoder().encode(damaged), given.at);
        const [name, message] = await failure(async () => {
          const session = await ort.InferenceSession.create(file, gpu);
          try { await session.run(feeds); } finally { await session.release(); }
        });
        kinds[name] = message;
      };
      for (let i = 0; i < places.length; i += 1 + Math.floor(places.length / 60)) {
        const { index, 0: digits } = places[i];
        await attempt(text.slice(0, index) + '9'.repeat(digits.length) + text.slice(index + digits.length));
      }
      await attempt(text.replace('"shaders"', '"shadowy'));
      await attempt(text.replace('"programs":{', '"programs":['));
      return kinds;
    """, {"at": at, "length": len(text)})
    assert set(found) <= {"no error", "InvalidModelFile", "ShaderRejected", "LimitExceeded", "RuntimeException", "OutOfDeviceMemory", "InvalidArgument"}, found
    assert "InvalidModelFile" in found
