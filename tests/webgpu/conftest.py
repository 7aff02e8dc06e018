"""A device for the tests: a software Vulkan driver (lavapipe) where there is one, with WebGPU's default limits. Everything here is skipped, with the reason, where there is no device."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LAVAPIPE = Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
if LAVAPIPE.exists():
    os.environ.setdefault("VK_DRIVER_FILES", str(LAVAPIPE))


@pytest.fixture(scope="session")
def device() -> Any:
    """The shared device."""
    from sardonyx.webgpu.device import open_device
    from sardonyx.webgpu.device.base import NoAdapter
    try:
        return open_device()
    except NoAdapter as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["barrier-free", "workgroup"])
def variant(request: Any, device: Any) -> Iterator[Any]:
    """The shared device as the software adapter it is, and as if it were a GPU (kernels with workgroup memory and barriers)."""
    before = device.adapter
    device.adapter = dataclasses.replace(before, is_cpu=request.param == "barrier-free")
    yield device
    device.adapter = before
