"""OrtValue, SparseTensor, devices and IOBinding beside onnxruntime's."""
from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import sardonyx
from sardonyx import errors

from . import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
BOTH = pytest.mark.parametrize("ort", [onnxruntime, sardonyx], ids=["onnxruntime", "sardonyx"])


def open_(ort: Any, data: bytes) -> Any:
    return ort.InferenceSession(data, providers=["CPUExecutionProvider" if ort is onnxruntime else "ReferenceExecutionProvider"])


@BOTH
def test_ortvalue_of_an_array(ort: Any) -> None:
    x = X.copy()
    value = ort.OrtValue.ortvalue_from_numpy(x)
    assert (value.shape(), value.data_type(), value.element_type(), value.device_name(), value.tensor_size_in_bytes()) == ([2, 3], "tensor(float)", 1, "cpu", 24)
    assert (value.is_tensor(), value.is_sparse_tensor(), value.is_tensor_sequence(), value.has_value()) == (True, False, False, True)
    assert value.data_ptr() == x.ctypes.data
    x[0, 0] = 9
    assert value.numpy()[0, 0] == 9
    value.update_inplace(np.ones((2, 3), np.float32))
    assert x.tolist() == [[1] * 3] * 2
    value.update_inplace(ort.OrtValue.ortvalue_from_numpy(X.copy()))
    assert x.tolist() == X.tolist()
    with pytest.raises(RuntimeError):
        value.update_inplace(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError):
        value.update_inplace([1])
    with pytest.raises(RuntimeError):
        value.as_sparse_tensor()
    strided = ort.OrtValue.ortvalue_from_numpy(X.T)
    assert strided.numpy().tolist() == X.T.tolist()


@BOTH
def test_ortvalue_refusals(ort: Any) -> None:
    make = ort.OrtValue
    for bad in (lambda: make.ortvalue_from_numpy([1, 2]), lambda: make.ortvalue_from_numpy(X, "cuda", 0), lambda: make.ortvalue_from_numpy(X, "foo", 0),
                lambda: make.ortvalue_from_shape_and_type([2, -3], np.float32), lambda: make.ortvalue_from_shape_and_type([2], 99),
                lambda: make.ortvalue_from_numpy_with_onnx_type(np.ones(3, np.uint16), 1), lambda: make(None), lambda: make.from_dlpack([1]), lambda: make.from_dlpack(X.T)):
        with pytest.raises(Exception) as caught:  # noqa: B017
            bad()
        assert ort is onnxruntime or isinstance(caught.value, errors.SardonyxError)


@BOTH
def test_ortvalue_of_a_shape(ort: Any) -> None:
    for kind, name in ((np.float32, "float"), (7, "int64"), (16, "bfloat16"), ("float64", "double"), (np.bool_, "bool")):
        value = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], kind)
        assert (value.shape(), value.data_type()) == ([2, 3], f"tensor({name})")
    bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.array([0x3F80], np.uint16), 16)
    assert bits.data_type() == "tensor(bfloat16)"
    if ort is sardonyx:
        assert bits.numpy().dtype == ml_dtypes.bfloat16 and bits.numpy()[0] == 1


@BOTH
def test_dlpack(ort: Any) -> None:
    value = ort.OrtValue.ortvalue_from_numpy(X.copy())
    assert value.__dlpack_device__() == (1, 0)
    assert np.shares_memory(np.from_dlpack(value), value.numpy())
    assert ort.OrtValue.from_dlpack(X).numpy().tolist() == X.tolist()
    assert ort.OrtValue.from_dlpack(value.__dlpack__()).data_ptr() == value.data_ptr()
    assert ort.OrtValue.from_dlpack(np.ones(2, bool)).data_type() == "tensor(bool)"


@BOTH
def test_devices_and_memory(ort: Any) -> None:
    device = ort.OrtDevice.make("cpu", 0)
    assert (device.device_type(), device.device_id(), device.device_mem_type(), device.device_vendor_id()) == (0, 0, 0, 0)
    found = {name: (d.device_type(), d.device_vendor_id()) for name in ("cuda", "dml", "webgpu", "cann", "gpu", "npu") for d in [ort.OrtDevice.make(name, 1)]}
    assert found == {"cuda": (1, 0x10DE), "dml": (1, 0x1414), "webgpu": (1, 0), "cann": (3, 0x19E5), "gpu": (1, 0), "npu": (3, 0)}
    with pytest.raises(Exception, match="Unsupported device type: foo"):
        ort.OrtDevice.make("foo", 0)
    session = open_(ort, models.scaled())
    for info in (ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT), session.get_input_memory_infos()[0]):
        assert (info.name, info.device_id, int(info.mem_type), int(info.allocator_type), int(info.device_mem_type), info.device_vendor_id) == ("Cpu", 0, 0, 1, 0, 0)
    with pytest.raises(RuntimeError):
        ort.OrtMemoryInfo("Nowhere", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    assert ort.OrtArenaCfg({"max_mem": 5}).max_mem == 5


@BOTH
def test_sparse(ort: Any) -> None:
    cpu = ort.OrtDevice.make("cpu", 0)
    shape, values = np.array([3, 3], np.int64), np.array([1, 2, 3], np.float32)
    coo = ort.SparseTensor.sparse_coo_from_numpy(shape, values, np.array([1, 3, 5], np.int64), cpu)
    assert (coo.data_type(), coo.dense_shape(), str(coo.format()), coo.device_name()) == ("sparse_tensor(float)", [3, 3], "OrtSparseFormat.ORT_SPARSE_COO", "cpu")
    assert coo.values().tolist() == [1, 2, 3] and coo.as_coo_view().indices().tolist() == [1, 3, 5]
    pairs = ort.SparseTensor.sparse_coo_from_numpy(shape, values, np.array([0, 1, 1, 0, 1, 2], np.int64), cpu)
    assert pairs.as_coo_view().indices().tolist() == [[0, 1], [1, 0], [1, 2]]
    csr = ort.SparseTensor.sparse_csr_from_numpy(shape, values, np.array([1, 0, 2], np.int64), np.array([0, 1, 3, 3], np.int64), cpu)
    assert csr.as_csrc_view().inner().tolist() == [1, 0, 2] and csr.as_csrc_view().outer().tolist() == [0, 1, 3, 3]
    for bad in (coo.as_csrc_view, coo.as_blocksparse_view, csr.as_coo_view, lambda: coo.to_cuda(cpu)):
        with pytest.raises(RuntimeError):
            bad()
    with pytest.raises(Exception, match="must be equal to or twice"):
        ort.SparseTensor.sparse_coo_from_numpy(shape, values, np.array([1, 3], np.int64), cpu)
    held = ort.OrtValue.ort_value_from_sparse_tensor(coo)
    assert (held.is_sparse_tensor(), held.is_tensor(), held.data_type(), held.shape(), held.element_type()) == (True, False, "sparse_tensor(float)", [3, 3], 1)
    assert held.as_sparse_tensor().values().tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError):
        held.numpy()
    if ort is sardonyx:
        dense = [[0, 1, 0], [2, 0, 3], [0, 0, 0]]
        assert coo.to_dense().tolist() == pairs.to_dense().tolist() == csr.to_dense().tolist() == dense
        with pytest.raises(errors.InvalidArgument, match="outside"):
            ort.SparseTensor.sparse_coo_from_numpy(shape, values, np.array([1, 3, 99], np.int64), cpu)


@BOTH
def test_ortvalues_in_and_out(ort: Any) -> None:
    session = open_(ort, models.add_mul())
    feed = {name: ort.OrtValue.ortvalue_from_numpy(X.copy()) for name in "xy"}
    out = session.run_with_ort_values(["q"], feed)
    assert isinstance(out, list) and out[0].numpy().tolist() == (4 * X).tolist()
    assert len(session.run_with_ort_values(None, feed)) == 2
    assert session.run(["q"], feed)[0].tolist() == (4 * X).tolist()
    with pytest.raises((TypeError, AttributeError)):
        session.run_with_ort_values(["q"], {"x": X, "y": X})
    with pytest.raises(ValueError, match="Required inputs"):
        session.run_with_ort_values(["q"], {"x": feed["x"]})
    maps = open_(ort, models.zipmap()).run_with_ort_values(None, {"x": ort.OrtValue.ortvalue_from_numpy(X[:, :2].copy())})[0]
    assert maps.data_type() == "seq(map(int64,tensor(float)))"
    with pytest.raises(RuntimeError):
        maps.numpy()
    with pytest.raises(RuntimeError):
        maps.shape()


@BOTH
def test_binding(ort: Any) -> None:
    session = open_(ort, models.add_mul())
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_ortvalue_input("y", ort.OrtValue.ortvalue_from_numpy(X.copy()))
    with pytest.raises(RuntimeError, match="At least one output"):
        session.run_with_iobinding(binding)
    binding.bind_output("q")
    session.run_with_iobinding(binding)
    assert binding.get_outputs()[0].numpy().tolist() == (4 * X).tolist()
    assert [o.tolist() for o in binding.copy_outputs_to_cpu()] == [(4 * X).tolist()]
    mine = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    binding.bind_ortvalue_output("z", mine)
    session.run_with_iobinding(binding)
    assert mine.numpy().tolist() == (2 * X).tolist() and [v.shape() for v in binding.get_outputs()] == [[2, 3], [2, 3]]
    binding.clear_binding_outputs()
    memory = np.zeros((2, 3), np.float32)
    binding.bind_output("z", "cpu", 0, np.float32, [2, 3], memory.ctypes.data)
    session.run_with_iobinding(binding)
    assert memory.tolist() == (2 * X).tolist()
    other = 10 * X
    binding.bind_input("x", "cpu", 0, np.float32, [2, 3], other.ctypes.data)
    session.run_with_iobinding(binding)
    assert memory.tolist() == (11 * X).tolist()
    for shape, kind in (([2, 4], np.float32), ([2, 3], np.int64)):
        binding.clear_binding_outputs()
        binding.bind_ortvalue_output("z", ort.OrtValue.ortvalue_from_shape_and_type(shape, kind))
        with pytest.raises(RuntimeError):
            session.run_with_iobinding(binding)
    with pytest.raises(Exception, match="nope"):
        binding.bind_cpu_input("nope", X)
    with pytest.raises(ValueError, match="element_type"):
        binding.bind_output("z", "cpu", 0, None, [1], 5)
    with pytest.raises(Exception, match="Unsupported device type: foo"):
        binding.bind_output("z", "foo", 0)
    with pytest.raises(ValueError, match="session that created it"):
        open_(ort, models.add_mul()).run_with_iobinding(binding)
    binding.clear_binding_inputs()
    binding.synchronize_inputs()
    binding.synchronize_outputs()


def test_ours_only() -> None:
    text = sardonyx.OrtValue.ortvalue_from_numpy(np.array(["a", "b"]))
    assert text.numpy().tolist() == ["a", "b"] and text.data_type() == "tensor(string)"
    with pytest.raises(RuntimeError):
        text.data_ptr()
    with pytest.raises(errors.InvalidArgument, match="astype"):
        sardonyx.OrtValue.ortvalue_from_numpy(X.copy()).update_inplace(X.astype(np.float64))
    swapped = sardonyx.OrtValue.ortvalue_from_numpy(X.astype(">f4"))
    assert swapped.numpy().tolist() == X.tolist()
    target = sardonyx.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    sardonyx.copy_tensors([swapped], [target])
    assert target.numpy().tolist() == X.tolist()
    with pytest.raises(RuntimeError):
        sardonyx.copy_tensors([swapped], [])
    session = open_(sardonyx, models.add_mul())
    results = sardonyx.OrtValueVector()
    session.run_with_ortvaluevector(sardonyx.RunOptions(), ["x", "y"], [target, target], ["z"], results)
    assert results[0].numpy().tolist() == (2 * X).tolist() and results.element_type_at(0) == 1
    wrong = session.io_binding()
    wrong.bind_cpu_input("x", X.astype(np.float64))
    wrong.bind_cpu_input("y", X)
    wrong.bind_output("z")
    with pytest.raises(errors.InvalidArgument, match="tensor\\(double\\)"):
        session.run_with_iobinding(wrong)
