"""OrtValue: a value the caller holds, shared with NumPy and, through DLPack, with others."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import Fail, InvalidArgument
from ..types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType
from .devices import OrtDevice, OrtMemoryInfo, keeper
from .exceptions import InvalidType, expect
from .sparse import SparseTensor


class OrtValue:
    """A tensor, sparse tensor, sequence, map or empty optional. Made by the class methods, or given by a session."""

    __slots__ = ("_data", "_type")

    def __init__(self, ortvalue: OrtValue, numpy_obj: np.ndarray | None = None, session: Any = None) -> None:
        if not isinstance(ortvalue, OrtValue):
            raise InvalidArgument(f"OrtValue(...) takes an OrtValue, not {type(ortvalue).__name__}; use OrtValue.ortvalue_from_numpy(array)")
        self._data: Any = ortvalue._data
        self._type: ValueType = ortvalue._type

    @classmethod
    def _of(cls, data: Any, kind: ValueType) -> OrtValue:
        made = cls.__new__(cls)
        made._data, made._type = data, kind
        return made

    @classmethod
    def ortvalue_from_numpy(cls, numpy_obj: np.ndarray, /, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1) -> OrtValue:
        """A value that shares the array's memory; a strided or byte-swapped array is copied. Strings are accepted. `device_type="webgpu"`: a copy on the GPU (float32, int32, uint32)."""
        keep = keeper(device_type)
        if not isinstance(numpy_obj, np.ndarray):
            raise InvalidType(f"an OrtValue is made from a numpy array, not {type(numpy_obj).__name__}; use numpy.asarray(...)")
        array = native(numpy_obj)
        return cls._of(array if keep is None else keep.upload(array), TensorType(DType.of(array), array.shape))

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(cls, data: np.ndarray, /, onnx_element_type: int) -> OrtValue:
        """The array's bytes read as elements of another type of the same size: uint16 as BFLOAT16 (16), uint8 as FLOAT8E4M3FN (17)."""
        expect(data, np.ndarray, "data")
        dtype = DType(onnx_element_type)
        if dtype is DType.STRING or data.dtype.itemsize != dtype.numpy.itemsize:
            raise Fail(f"Items size in the incoming array: {data.dtype.itemsize} specified by onnxtype {dtype.text}: {dtype.numpy.itemsize}")
        array = native(data).view(dtype.numpy)
        return cls._of(array, TensorType(dtype, array.shape))

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1,
                                     memory_info: OrtMemoryInfo | None = None) -> OrtValue:
        """A tensor of zeros. element_type: a numpy dtype or an ONNX code."""
        keep = keeper(device_type)
        dtype = element_dtype(element_type)
        if any(int(d) < 0 for d in shape):
            raise InvalidArgument(f"shape {list(shape)} has a negative size")
        array = np.zeros([int(d) for d in shape], dtype.numpy) if dtype is not DType.STRING else np.full([int(d) for d in shape], "", object)
        return cls._of(array if keep is None else keep.upload(array), TensorType(dtype, array.shape))

    @classmethod
    def ort_value_from_sparse_tensor(cls, sparse_tensor: SparseTensor) -> OrtValue:
        """A value that holds a sparse tensor."""
        expect(sparse_tensor, SparseTensor, "sparse_tensor")
        return cls._of(sparse_tensor, SparseTensorType(DType.of(sparse_tensor.values()), tuple(sparse_tensor.dense_shape())))

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """A value that shares the memory of a DLPack object or capsule; the tensor must lie in host memory, contiguous."""
        if type(data).__name__ == "PyCapsule":
            data = _Capsule(data)
        if not hasattr(data, "__dlpack__"):
            raise InvalidType(f"from_dlpack expected an object with __dlpack__ or a capsule named 'dltensor', not {type(data).__name__}")
        array = np.from_dlpack(data)
        if not array.flags.c_contiguous:
            raise InvalidArgument("only contiguous tensors can be shared; make it contiguous first, e.g. numpy.ascontiguousarray(x)")
        return cls._of(array, TensorType(DType.of(array), array.shape))

    # -- looking -----------------------------------------------------------------------------------------------------------------------------
    def numpy(self) -> np.ndarray:
        """The tensor as an array that shares its memory (on a device: a copy); Fail for what is not a tensor."""
        return self._data.numpy() if self._on_device() else self._array().view()

    def shape(self) -> list[int]:
        """The sizes of a tensor or sparse tensor."""
        if isinstance(self._data, SparseTensor):
            return self._data.dense_shape()
        return list(self._data.shape if self._on_device() else self._array().shape)

    def data_type(self) -> str:
        """`tensor(float)`, `seq(map(int64,tensor(float)))` …"""
        return str(self._type)

    def element_type(self) -> int:
        """The ONNX code of a tensor's element type."""
        if not isinstance(self._type, (TensorType, SparseTensorType)) or self._type.dtype is None:
            raise Fail(f"a value of type {self._type} has no element type")
        return int(self._type.dtype)

    def device_name(self) -> str:
        """`cpu` or `webgpu`."""
        return "webgpu" if self._on_device() else "cpu"

    def data_ptr(self) -> int:
        """The address of a tensor's first element."""
        return int(self._numeric().ctypes.data)

    def tensor_size_in_bytes(self) -> int:
        """The bytes of a tensor's elements."""
        return int(self._data.nbytes if self._on_device() else self._numeric().nbytes)

    def has_value(self) -> bool:
        """False for an empty optional."""
        return self._data is not None

    def is_tensor(self) -> bool:
        """Whether it holds a (dense) tensor."""
        return isinstance(self._data, np.ndarray) or self._on_device()

    def is_sparse_tensor(self) -> bool:
        """Whether it holds a sparse tensor."""
        return isinstance(self._data, SparseTensor)

    def is_tensor_sequence(self) -> bool:
        """Whether it holds a list of tensors."""
        return isinstance(self._type, SequenceType) and isinstance(self._type.element, TensorType)

    def as_sparse_tensor(self) -> SparseTensor:
        """The sparse tensor in it."""
        if not isinstance(self._data, SparseTensor):
            raise Fail(f"This OrtValue does not contain SparseTensor; it is a {self.data_type()}")
        return self._data

    # -- writing and sharing --------------------------------------------------------------------------------------------------------------------
    def update_inplace(self, data: np.ndarray | OrtValue) -> None:
        """Overwrite the elements. The dtype and the number of elements must agree."""
        source = data.numpy() if isinstance(data, OrtValue) else data
        if not isinstance(source, np.ndarray):
            raise InvalidType("data must be a numpy.ndarray or an OrtValue.")
        target: Any = self._data if self._on_device() else self._array()
        if source.size != target.size:
            raise Fail(f"The input size of numpy arrays does not match the size of the OrtValue: {source.size} elements, not {target.size}")
        if native(source).dtype != target.dtype:
            raise InvalidArgument(f"an OrtValue of {target.dtype} can not take elements of {source.dtype}; use .astype('{target.dtype}')")
        if self._on_device():
            target.write(native(source))
        else:
            target.reshape(-1)[:] = source.reshape(-1)

    def __dlpack__(self, **keywords: Any) -> Any:
        """A DLPack capsule of the tensor's memory."""
        return self._numeric().__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        """(1, 0): the host."""
        return 1, 0

    def to_dlpack(self) -> Any:
        """A DLPack capsule of the tensor's memory."""
        return self.__dlpack__()

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    def _get_c_value(self) -> OrtValue:
        return self

    def _on_device(self) -> bool:
        return getattr(self._data, "on_device", False)

    def _array(self) -> np.ndarray:
        if self._on_device():
            raise Fail(f"this OrtValue lies on device '{self.device_name()}', which has no address here; use .numpy() for a copy")
        if not isinstance(self._data, np.ndarray):
            raise Fail(f"Only OrtValues that are Tensors are convertible to Numpy objects; this one is a {self.data_type()}")
        return self._data

    def _numeric(self) -> np.ndarray:
        array = self._array()
        if array.dtype == object:
            raise Fail("a tensor of strings has no memory of its own; use .numpy()")
        return array

    def __repr__(self) -> str:
        return f"OrtValue({self._type.describe() if isinstance(self._type, TensorType) else self._type})"


class _Capsule:
    """A bare capsule as the object NumPy wants."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class OrtValueVector(list[OrtValue]):
    """A list of OrtValues with the method names onnxruntime's has."""

    push_back = list.append

    def reserve(self, count: int) -> None:
        """Does nothing: lists grow."""

    def shrink_to_fit(self) -> None:
        """Does nothing."""

    def element_type_at(self, index: int) -> int:
        """The ONNX code of one value's element type."""
        return self[index].element_type()

    def dlpack_at(self, index: int) -> Any:
        """A DLPack capsule of one value."""
        return self[index].to_dlpack()

    def to_dlpacks(self, to_tensor: Any = None) -> list[Any]:
        """DLPack capsules of all values, each given to `to_tensor` where that is not None."""
        capsules = [value.to_dlpack() for value in self]
        return capsules if to_tensor is None else [to_tensor(c) for c in capsules]


def native(array: np.ndarray) -> np.ndarray:
    """The array C-contiguous and in the machine's byte order, itself where it is; texts become objects."""
    dtype = array.dtype
    if dtype.kind in "UT":
        return np.asarray(array.astype(object), order="C")
    if not dtype.isnative:
        dtype = dtype.newbyteorder("=")
    return np.asarray(array, dtype, order="C")


def element_dtype(element_type: Any) -> DType:
    """An ONNX code or anything NumPy takes for a dtype → DType."""
    if isinstance(element_type, DType):
        return element_type
    if isinstance(element_type, (int, np.integer)) and not isinstance(element_type, bool):
        try:
            return DType(int(element_type))
        except ValueError:
            raise InvalidArgument(f"tensor type {element_type} is not supported; ONNX element types are 1 to {max(DType)}") from None
    try:
        return DType.of(np.dtype(element_type))
    except TypeError:
        raise InvalidType(f"{element_type!r} is neither a numpy dtype nor an ONNX element type") from None


def wrap(data: Any, declared: ValueType | None) -> OrtValue:
    """A run's output as an OrtValue. Its type is the value's own where it is a tensor, else the declared one."""
    if isinstance(data, np.ndarray):
        return OrtValue._of(data, TensorType(DType.of(data), data.shape))
    if getattr(data, "on_device", False):
        return OrtValue._of(data, TensorType(data.type, data.shape))
    return OrtValue._of(data, declared if declared is not None else _type_of(data))


def _type_of(data: Any) -> ValueType:
    if isinstance(data, list) and data:
        return SequenceType(_type_of(data[0]))
    if isinstance(data, dict) and data:
        key, value = next(iter(data.items()))
        return MapType(DType.STRING if isinstance(key, str) else DType.INT64, TensorType(DType.of(np.asarray(value))))
    if isinstance(data, np.ndarray):
        return TensorType(DType.of(data), data.shape)
    return OptionalType(TensorType(None)) if data is None else SequenceType(TensorType(None))


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Copy each tensor of `src` into the one of `dst` at the same place."""
    if len(src) != len(dst):
        raise Fail(f"Invalid arguments provided to CopyTensors: {len(src)} sources and {len(dst)} destinations")
    for source, target in zip(src, dst, strict=True):
        target.update_inplace(source)


__all__ = ["OrtDevice", "OrtMemoryInfo", "OrtValue", "OrtValueVector", "SparseTensor", "copy_tensors", "element_dtype", "native", "wrap"]
