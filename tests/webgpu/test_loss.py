"""Sessions on a device that goes away, has no memory left, or is shared by many."""
from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.errors import MemoryLimit
from sardonyx.webgpu import device as shared
from sardonyx.webgpu.device.base import AHEAD, DeviceLost, OutOfDeviceMemory
from sardonyx.webgpu.provider import WebGpuExecutor

from tests.patience import at_once

from .test_models import check, floats, mlp


def test_a_device_lost_in_a_run_fails_that_run_only(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    check(executor, mlp(), [floats(3, 20)])
    submit = own.submit

    def lose(work: Any) -> None:
        submit(work)
        own.close()
    monkeypatch.setattr(own, "submit", lose)
    with pytest.raises(DeviceLost, match="make a new session|was lost"):
        check(executor, mlp(), [floats(3, 20)])
    check(executor, mlp(), [floats(3, 20)])
    assert executor.device is not own and not executor.device.lost
    assert executor.device is shared.open_device()
    check(executor, mlp(), [floats(20, 20)])
    executor.close()


def test_a_device_lost_between_runs_is_replaced(own: Any) -> None:
    first, second = (WebGpuExecutor(own, load_model(mlp())) for _ in range(2))
    check(first, mlp(), [floats(3, 20)])
    check(second, mlp(), [floats(3, 20)])
    own.close()
    check(first, mlp(), [floats(3, 20)])
    check(second, mlp(), [floats(4, 20)])
    assert first.device is second.device is not own
    first.close()
    second.close()


def test_cpu_sessions_do_not_notice(own: Any) -> None:
    session = sardonyx.InferenceSession(mlp(), providers=["CPUExecutionProvider"])
    x = floats(3, 20)
    before = session.run(None, {"x": x})[0]
    own.close()
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before)


def test_no_memory_left_is_a_typed_error_and_the_next_run_works(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's refusal is simulated: lavapipe would take this machine's memory first."""
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    check(executor, mlp(), [floats(3, 20)])
    create = own._device.create_buffer

    def refuse(**given: Any) -> Any:
        raise own._wgpu.GPUOutOfMemoryError("Not enough memory left")
    monkeypatch.setattr(own._device, "create_buffer", refuse)
    with pytest.raises(OutOfDeviceMemory, match="no .* bytes for .*close sessions or use smaller sizes") as caught:
        check(executor, mlp(), [floats(300, 20)])
    assert isinstance(caught.value, MemoryLimit)
    check(executor, mlp(), [floats(3, 20)])
    monkeypatch.setattr(own._device, "create_buffer", create)
    check(executor, mlp(), [floats(300, 20)])
    executor.close()


def test_many_sessions_share_a_device(own: Any) -> None:
    """30 sessions in 6 threads, all alive at once: right results, pipelines compiled once, all memory given back."""
    gc.collect()
    first = WebGpuExecutor(own, load_model(mlp()), strict=True)
    check(first, mlp(), [floats(3, 20)])
    compiled, before = own.compiled, own.buffers - len(own._staging)
    made: list[WebGpuExecutor] = []

    def work(_: int) -> None:
        mine = [WebGpuExecutor(own, load_model(mlp()), strict=True) for _ in range(5)]
        made.extend(mine)
        for batch in (3, 4):
            for executor in mine:
                check(executor, mlp(), [floats(batch, 20)])
    at_once(6, work)
    assert len(made) == 30
    assert own.compiled == compiled
    for executor in made:
        executor.close()
    made.clear()
    gc.collect()
    assert own.buffers - len(own._staging) == before and len(own._staging) <= AHEAD
    first.close()
