"""Tensors that stay on the GPU: OrtValues and IOBinding of device 'webgpu', and what goes between programs."""
from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.errors import Fail, InvalidArgument
from sardonyx.providers.base import RunContext
from sardonyx.webgpu.device.base import DeviceLost
from sardonyx.webgpu.provider import WebGpuExecutor
from sardonyx.webgpu.resident import GpuTensor

from .test_models import floats, mlp, model

CACHE = """g (float[2, past, 8] past_key, float[2, new, 8] key) => (float[2, all, 8] present_key, float[2, 8] total) {
    present_key = Concat<axis = 1>(past_key, key) total = ReduceSum<keepdims = 0>(present_key, axes) }"""


def session(data: bytes, *providers: str) -> Any:
    return sardonyx.InferenceSession(data, providers=list(providers or ["WebGpuExecutionProvider"]))


def test_an_ortvalue_lives_on_the_device(own: Any) -> None:
    x = floats(3, 20)
    value = sardonyx.OrtValue.ortvalue_from_numpy(x, "webgpu")
    assert (value.device_name(), value.shape(), value.data_type(), value.is_tensor(), value.tensor_size_in_bytes()) == ("webgpu", [3, 20], "tensor(float)", True, 240)
    np.testing.assert_array_equal(value.numpy(), x)
    value.update_inplace(x + 1)
    np.testing.assert_array_equal(value.numpy(), x + 1)
    with pytest.raises(Fail, match="lies on device 'webgpu'"):
        value.data_ptr()
    zeros = sardonyx.OrtValue.ortvalue_from_shape_and_type([2, 0, 3], np.int32, "webgpu")
    assert zeros.numpy().shape == (2, 0, 3) and zeros.numpy().dtype == np.int32
    with pytest.raises(Fail, match="float16 can not stay on WebGPU"):
        sardonyx.OrtValue.ortvalue_from_numpy(x.astype(np.float16), "webgpu")
    with pytest.raises(Fail, match="'cuda' can not be used"):
        sardonyx.OrtValue.ortvalue_from_numpy(x, "cuda")


def test_a_cache_grows_on_the_device(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder's loop: `present` of a run is `past` of the next. Nothing of it is uploaded or read back."""
    mine = session(model(CACHE, "int64[1] axes = {1}"))
    past = np.zeros((2, 0, 8), np.float32)
    binding = mine.io_binding()
    binding.bind_cpu_input("past_key", past)
    binding.bind_output("present_key", "webgpu")
    binding.bind_output("total")
    written: list[int] = []
    read: list[int] = []
    write, fetch = own.write, own.fetch
    monkeypatch.setattr(own, "write", lambda buffer, data, offset=0: (written.append(np.asarray(data).nbytes), write(buffer, data, offset)))
    monkeypatch.setattr(own, "fetch", lambda spans, reset=None: (read.append(sum(s[2] for s in spans)), fetch(spans, reset))[1])
    for _ in range(12):
        key = floats(2, 1, 8)
        past = np.concatenate([past, key], 1)
        binding.bind_cpu_input("key", key)
        mine.run_with_iobinding(binding)
        present, total = binding.get_outputs()
        assert present.device_name() == "webgpu" and total.device_name() == "cpu"
        np.testing.assert_allclose(total.numpy(), past.sum(1), rtol=1e-5, atol=1e-6)
        binding.bind_ortvalue_input("past_key", present)
    assert max(read) == 2 * 8 * 4 + 4 and max(written[-4:]) < 2000
    np.testing.assert_array_equal(present.numpy(), past)
    assert [v.shape for v in binding.copy_outputs_to_cpu()] == [(2, 12, 8), (2, 8)]


def test_the_same_tensor_in_and_out(own: Any) -> None:
    """An OrtValue bound as an input and as an output: the run reads what it held and leaves the result in it."""
    mine = session(model("g (float[4, 4] x) => (float[4, 4] y) {\n    y = MatMul(x, x) }"))
    x = floats(4, 4)
    value = sardonyx.OrtValue.ortvalue_from_numpy(x, "webgpu")
    binding = mine.io_binding()
    for _ in range(3):
        binding.bind_ortvalue_input("x", value)
        binding.bind_ortvalue_output("y", value)
        mine.run_with_iobinding(binding)
        x = x @ x
    np.testing.assert_allclose(value.numpy(), x, rtol=1e-4, atol=1e-7)


def test_a_loop_over_the_same_sizes_allocates_nothing(own: Any) -> None:
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    x = GpuTensor.upload(own, floats(3, 20))
    for i in range(20):
        made = executor.run([x], [0], RunContext(stay=frozenset({0})))[0]
        assert made.on_device and made.shape == (3, 5)
        if i == 3:
            buffers, groups = own.buffers, len(own._groups)
    assert (own.buffers, len(own._groups)) == (buffers, groups)
    np.testing.assert_allclose(made.numpy(), executor.run([x.numpy()], [0], RunContext())[0], rtol=1e-6)
    del made
    x.close()
    x.pool.close()
    executor.close()
    del executor
    gc.collect()
    assert own.buffers <= 1, "only the staging buffer may stay"


def test_tensors_between_programs_stay(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that data decide ends a program; what the next one only computes with is not read back."""
    data = model("g (float[64, 16] x, bool[64] keep) => (float[m, 16] y) {\n    "
                 "e = Exp(x) s = Mul(e, e) c = Compress<axis = 0>(x, keep) z = ReduceSum<keepdims = 1>(s, axes) w = ReduceSum<keepdims = 1>(z, axes1) d = Add(c, w) y = Mul(d, w) }",
                 "int64[1] axes = {0}", "int64[1] axes1 = {1}")
    executor = WebGpuExecutor(own, load_model(data))
    x, keep = floats(64, 16), np.arange(64) % 3 == 0
    out = executor.run([x, keep], [0], RunContext())[0]
    w = np.exp(x.astype(np.float64))**2
    np.testing.assert_allclose(out, (x[keep] + w.sum()) * w.sum(), rtol=1e-4)


def test_errors_name_what_is_wrong(own: Any) -> None:
    from sardonyx.webgpu.device.native import NativeDevice
    other = NativeDevice()
    executor = WebGpuExecutor(own, load_model(mlp()), strict=True)
    alien = GpuTensor.upload(other, floats(3, 20))
    with pytest.raises(InvalidArgument, match="input 'x' lies on another device"):
        executor.run([alien], [0], RunContext())
    closed = GpuTensor.upload(own, floats(3, 20))
    closed.close()
    with pytest.raises(InvalidArgument, match="was closed"):
        executor.run([closed], [0], RunContext())
    mine = session(mlp())
    with pytest.raises(InvalidArgument, match="Got invalid dimensions"):
        mine.run_with_ort_values(["y"], {"x": sardonyx.OrtValue.ortvalue_from_numpy(floats(3, 21), "webgpu")})
    with pytest.raises(InvalidArgument, match="Unexpected input data type.*int32"):
        mine.run_with_ort_values(["y"], {"x": sardonyx.OrtValue.ortvalue_from_numpy(np.zeros((3, 20), np.int32), "webgpu")})
    other.close()
    with pytest.raises(DeviceLost, match="lost with its device"):
        executor.run([alien], [0], RunContext())
    executor.close()


def test_a_session_on_the_cpu_takes_them_and_refuses_to_keep(own: Any) -> None:
    mine, x = session(mlp(), "CPUExecutionProvider"), floats(3, 20)
    value = sardonyx.OrtValue.ortvalue_from_numpy(x, "webgpu")
    np.testing.assert_array_equal(mine.run_with_ort_values(["y"], {"x": value})[0].numpy(), mine.run(["y"], {"x": x})[0])
    binding = mine.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("y", "webgpu")
    with pytest.raises(Fail, match="output 'y' can not stay on the device.*CPUExecutionProvider"):
        mine.run_with_iobinding(binding)
