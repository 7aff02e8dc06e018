"""The devices of these tests: both software Vulkan drivers there are (lavapipe of Debian's Mesa, SwiftShader of Debian's chromium), opened with WebGPU's default limits (8 storage buffers,
256 invocations, 128 MiB a binding, 256-byte offsets) whatever more they have. A missing one is skipped with the reason."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Adapter (a part of its name) → the Vulkan driver that makes it.
DRIVERS = {"llvmpipe": Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json"), "SwiftShader": Path("/usr/lib/chromium/vk_swiftshader_icd.json")}
if any(path.exists() for path in DRIVERS.values()):
    os.environ.setdefault("VK_DRIVER_FILES", ":".join(str(path) for path in DRIVERS.values() if path.exists()))
os.environ.setdefault("SARDONYX_WEBGPU_ADAPTER", "llvmpipe")  # what sessions open by themselves


@pytest.fixture(scope="session", params=list(DRIVERS))
def device(request: Any) -> Iterator[Any]:
    """One device an adapter, for all tests."""
    from sardonyx.webgpu.device.base import Limits, NoAdapter
    from sardonyx.webgpu.device.native import ADAPTER, NativeDevice
    before = os.environ[ADAPTER]
    os.environ[ADAPTER] = request.param
    try:
        made = NativeDevice(Limits())
    except NoAdapter as reason:
        pytest.skip(str(reason))
    finally:
        os.environ[ADAPTER] = before
    yield made
    made.close()


@pytest.fixture(params=["barrier-free", "workgroup"])
def variant(request: Any, device: Any) -> Iterator[Any]:
    """The device as the software adapter it is, and as if it were a GPU (kernels with workgroup memory and barriers)."""
    before = device.adapter, device.features
    device.adapter = dataclasses.replace(before[0], is_cpu=request.param == "barrier-free")
    device.features = before[1] - {"subgroups"}
    yield device
    device.adapter, device.features = before


@pytest.fixture(params=["barrier-free", "workgroup", "subgroups"])
def lanes(request: Any, device: Any) -> Iterator[Any]:
    """As `variant`, and with subgroups where the adapter has them (both have: of 8 and of 4 invocations)."""
    if request.param == "subgroups" and "subgroups" not in device.features:
        pytest.skip(f"{device.adapter.name} has no subgroups")
    before = device.adapter, device.features
    device.adapter = dataclasses.replace(before[0], is_cpu=request.param == "barrier-free")
    device.features = before[1] if request.param == "subgroups" else before[1] - {"subgroups"}
    yield device
    device.adapter, device.features = before


@pytest.fixture(params=["barrier-free", "quads", "workgroup"])
def player(request: Any, device: Any) -> Iterator[Any]:
    """As `variant`, and as the software adapter with subgroups, whose quads share what they read."""
    if request.param == "quads" and "subgroups" not in device.features:
        pytest.skip(f"{device.adapter.name} has no subgroups")
    before = device.adapter, device.features
    device.adapter = dataclasses.replace(before[0], is_cpu=request.param != "workgroup")
    device.features = before[1] if request.param == "quads" else before[1] - {"subgroups"}
    yield device
    device.adapter, device.features = before


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A device all sessions of the test share, which it may break."""
    from sardonyx.webgpu import device as shared
    from sardonyx.webgpu.device.base import NoAdapter
    monkeypatch.setattr(shared, "_shared", [])
    try:
        yield shared.open_device()
    except NoAdapter as reason:
        pytest.skip(str(reason))
    shared.open_device().close()
