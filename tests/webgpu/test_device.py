"""The device layer: typed errors that say what to do, limits, loss."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sardonyx.errors import EPFail, MemoryLimit
from sardonyx.webgpu.device.base import DeviceLost, Dispatch, LimitExceeded, Limits, MissingFeature, NoAdapter, ShaderRejected

DOUBLE = """@group(0) @binding(0) var<uniform> p: array<vec4<i32>, 1>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) g: vec3<u32>) { if (i32(g.x) < p[0].x) { y[g.x] = 2.0 * x[g.x]; } }"""


def twice(device: Any, data: np.ndarray) -> np.ndarray:
    pipeline = device.wait(device.pipeline(DOUBLE, (False, True), "twice"))
    x, y, p = device.buffer(data.nbytes), device.buffer(data.nbytes), device.buffer(16, uniform=True)
    device.write(x, data)
    device.write(p, np.array([len(data), 0, 0, 0], np.int32))
    device.submit([Dispatch(pipeline, device.bind(pipeline, (p, 0, 16), [x, y]), -(-len(data) // 64))])
    found = np.frombuffer(device.wait(device.read([(y, 0, data.nbytes)]))[0], np.float32)
    for buffer in (x, y, p):
        buffer.destroy()
        buffer.destroy()
    return found


def test_a_dispatch(device: Any) -> None:
    before, groups = device.buffers, len(device._groups)
    x = np.arange(1000, dtype=np.float32)
    assert np.array_equal(twice(device, x), 2 * x)
    assert np.array_equal(twice(device, x[:7]), 2 * x[:7])
    assert device.buffers - before <= 1, "only the staging buffer may stay"
    assert len(device._groups) == groups, "bind groups go with their buffers"


def test_a_rejected_shader_names_kernel_and_line(device: Any) -> None:
    with pytest.raises(ShaderRejected, match=r"map of node 'a'.*no definition.*line 4: .*nothing"):
        device.wait(device.pipeline(DOUBLE.replace("2.0 *", "nothing *"), (False, True), "map of node 'a'"))


def test_too_large_a_buffer_is_named(device: Any) -> None:
    with pytest.raises(LimitExceeded, match="'a tensor' takes .* bytes") as caught:
        device.buffer(1 << 40, label="a tensor")
    assert isinstance(caught.value, MemoryLimit) and isinstance(caught.value, EPFail)


def test_missing_features_and_limits(device: Any) -> None:
    from sardonyx.webgpu.device.native import NativeDevice
    with pytest.raises(MissingFeature, match="lacks texture-compression-fractal"):
        NativeDevice(features=["texture-compression-fractal"])
    with pytest.raises(LimitExceeded, match="max-storage-buffers-per-shader-stage"):
        NativeDevice(Limits(storage_buffers=10_000))


def test_no_adapter_says_what_to_install(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.webgpu.device import native
    monkeypatch.setenv(native.ADAPTER, "no such card")
    with pytest.raises(NoAdapter, match="is named 'no such card'.*there are .*llvmpipe.*install a Vulkan driver"):
        native.NativeDevice()


def test_a_strict_session_without_an_adapter_says_what_to_do(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sardonyx
    from sardonyx.webgpu import device as shared
    from sardonyx.webgpu.device import native

    from .test_models import mlp
    monkeypatch.setattr(shared, "_shared", [])
    monkeypatch.setenv(native.ADAPTER, "no such card")
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(EPFail, match="fallback.*install a Vulkan driver.*list 'CPUExecutionProvider' too to run on the C engine, or remove the entry") as caught:
        sardonyx.InferenceSession(mlp(), options, providers=["WebGpuExecutionProvider"])
    assert "Reference" not in str(caught.value)
    with pytest.warns(UserWarning, match="CPUExecutionProvider takes over"):
        session = sardonyx.InferenceSession(mlp(), options, providers=["WebGpuExecutionProvider", "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_a_closed_device_is_lost_and_others_live(device: Any) -> None:
    from sardonyx.webgpu.device.native import NativeDevice
    other = NativeDevice()
    x = np.arange(9, dtype=np.float32)
    assert np.array_equal(twice(other, x), 2 * x)
    other.close()
    with pytest.raises(DeviceLost, match="make a new session"):
        other.buffer(4)
    assert np.array_equal(twice(device, x), 2 * x)


def test_the_shared_device_is_opened_anew_after_loss(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.webgpu import device as module
    monkeypatch.setattr(module, "_shared", [])
    first = module.open_device()
    assert module.open_device() is first
    first.close()
    second = module.open_device()
    assert second is not first and not second.lost
    second.close()


def test_dispatches_recorded_by_the_library_and_by_the_api_agree(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`raw.py` is for tested releases of wgpu-py only; everything else goes through the public API, with the same results."""
    from sardonyx.webgpu.device import raw
    assert device._raw is not None, "the pinned wgpu-py is one that raw.py knows"
    x = np.arange(100, dtype=np.float32)
    fast = twice(device, x)
    monkeypatch.setattr(device, "_raw", None)
    assert np.array_equal(twice(device, x), fast)
    monkeypatch.setattr(raw, "TESTED", frozenset())
    import wgpu
    assert raw.raw_pass(wgpu) is None


def test_the_demo_chooses_its_device(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo`: the GPU where there is a real one, and the other by name."""
    import sardonyx
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "web-demo"))
    from demo import CPU, GPU, providers  # type: ignore[import-not-found]
    assert providers("gpu")[0] == [GPU, CPU] and providers("cpu")[0] == [CPU] and "DEVICE=gpu" in providers("cpu")[1]
    for listed, wanted in (([GPU, CPU], [GPU, CPU]), ([CPU], [CPU])):
        monkeypatch.setattr(sardonyx, "get_available_providers", lambda listed=listed: listed)
        assert providers("")[0] == wanted
    with pytest.raises(SystemExit, match="DEVICE is cpu or gpu, not 'tpu'"):
        providers("tpu")


def test_what_drivers_remark_is_not_everybodys(device: Any) -> None:
    """wgpu logs what its drivers lack; a program that set no logging up does not see it."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("wgpu").handlers)
