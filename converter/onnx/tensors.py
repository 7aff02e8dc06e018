"""TensorProto and SparseTensorProto → Tensor. Elements stay where they are in the file wherever NumPy can look at them there.

Which field holds the elements of which type (onnx.proto): raw_data any type but strings; float_data float and complex64; double_data double
and complex128; int64_data int64; uint64_data uint64 and uint32; string_data strings; int32_data all types of 32 bits or less that are left,
float16 and bfloat16 as their bits, 4- and 2-bit types packed into bytes, 6-bit floats one per number (packed only in raw_data).
The bytes a shape needs are compared with the bytes there are before anything is made.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from sardonyx.errors import InvalidGraph, InvalidProtobuf
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.graph import Tensor
from sardonyx.types import DType

from .external import ExternalData
from .proto import SparseTensorProto, TensorProto
from .wire import count_varints, varints

#: A sparse constant may become at most this many bytes, or this many times its stored bytes, when it is written out densely.
DENSE_BYTES, DENSE_RATIO = 64 << 20, 64

_SIX_BITS = (DType.FLOAT6E2M3, DType.FLOAT6E3M2)
_PLAIN = {dtype: dtype.numpy for dtype in DType if dtype.is_numpys_own}
_DTYPES = {int(dtype): dtype for dtype in DType}


def dtype_of(code: int, what: str) -> DType:
    """The DType of an ONNX code; InvalidGraph naming `what` where there is none."""
    found = _DTYPES.get(code)
    if found is None:
        raise InvalidGraph(f"{what}: element type {code} does not exist; ONNX has 1 to {max(_DTYPES)}")
    return found


def dims_of(dims: Any, what: str) -> tuple[int, ...]:
    """Checked sizes of a constant."""
    shape = tuple(dims)
    if any(d < 0 for d in shape):
        raise InvalidGraph(f"{what}: shape {list(shape)} of a constant has a negative size")
    if len(shape) > 64:
        raise InvalidGraph(f"{what}: a constant of rank {len(shape)} is not possible; at most 64 axes are")
    return shape


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for d in shape:
        total *= d
    return total


def read_tensor(proto: TensorProto, external: ExternalData, what: str = "") -> Tensor:
    """The Tensor of a TensorProto. `what` names it in errors where the proto has no name."""
    what = f"tensor '{proto.name}'" if proto.name else what or "a tensor"
    if not proto.data_type:
        raise InvalidGraph(f"{what}: has no element type")
    if proto.segment is not None:
        raise NotImplementedHere(f"{what}: tensors stored in segments are not supported; save the model again with the onnx package")
    dtype = dtype_of(proto.data_type, what)
    shape = dims_of(proto.dims, what)
    if dtype is DType.STRING:
        return _strings(proto, shape, what)
    size = file_bytes(dtype, _count(shape))
    data: Any
    if proto.data_location == 1:
        data = external.bytes_of(proto.name, {e.key: e.value for e in proto.external_data}, size)
    elif "raw_data" in proto.__dict__:
        data = proto.raw_data
    else:
        data = _typed_field(proto, dtype, shape, what)
    if len(data) != size:
        raise InvalidGraph(f"{what}: {dtype.text}{list(shape)} needs {size} bytes, but the file holds {len(data)}")
    return from_bytes(data, dtype, shape)


def file_bytes(dtype: DType, count: int) -> int:
    """Bytes of `count` elements in an ONNX file: like `DType.nbytes`, but 6-bit floats are packed."""
    return (count * 6 + 7) // 8 if dtype in _SIX_BITS else dtype.nbytes(count)


def from_bytes(data: Any, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """A Tensor over bytes in ONNX's raw layout (little-endian; 2-, 4- and 6-bit types packed, first element in the low bits), in place.

    Types NumPy lacks are viewed when they are asked for: only then is ml_dtypes imported."""
    plain = _PLAIN.get(dtype)
    if plain is not None:
        # reshape of an empty array refuses sizes whose product overflows, although the array is empty
        array = np.frombuffer(data, plain).reshape(shape) if len(data) else _empty(plain, shape)
        return Tensor(array, dtype=dtype)
    return Tensor(dtype=dtype, shape=shape, load=partial(_unpack, data, dtype, shape))


def _empty(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError:
        raise InvalidGraph(f"a constant of shape {list(shape)} is not possible") from None


def _unpack(data: Any, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Elements of a type NumPy lacks, one (bfloat16: two) bytes each."""
    if dtype in _SIX_BITS:
        return _unpack_bits(data, 6, _count(shape)).view(dtype.numpy).reshape(shape)
    if dtype.bits >= 8:
        return np.frombuffer(data, dtype.numpy).reshape(shape)
    return _unpack_bits(data, dtype.bits, _count(shape)).view(dtype.numpy).reshape(shape)


def _unpack_bits(data: Any, bits: int, count: int) -> np.ndarray:
    """`count` codes of `bits` bits, first in the low bits, as one byte each."""
    packed = np.frombuffer(data, np.uint8)
    if bits == 6:
        rows = np.unpackbits(packed, count=count * 6, bitorder="little").reshape(count, 6)
        return np.packbits(rows, axis=1, bitorder="little").reshape(-1)
    out = np.empty((len(packed), 8 // bits), np.uint8)
    for k in range(8 // bits):
        np.bitwise_and(packed >> np.uint8(k * bits), np.uint8((1 << bits) - 1), out=out[:, k])
    return out.reshape(-1)[:count]


def _pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes of one byte each → packed, the reverse of `_unpack_bits`."""
    rows = np.unpackbits(codes.reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(rows.reshape(-1), bitorder="little").tobytes()


def _typed_field(proto: TensorProto, dtype: DType, shape: tuple[int, ...], what: str) -> Any:
    """The elements from the typed field of their dtype, as raw bytes."""
    if dtype in (DType.FLOAT, DType.COMPLEX64):
        return proto.float_data or b""
    if dtype in (DType.DOUBLE, DType.COMPLEX128):
        return proto.double_data or b""
    count = _count(shape)
    stored: np.dtype[Any] = np.dtype(np.uint8)
    if dtype is DType.INT64:
        packed, stored = proto.int64_data, np.dtype(np.int64)
    elif dtype in (DType.UINT64, DType.UINT32):
        packed, stored = proto.uint64_data, dtype.numpy
    else:
        packed = proto.int32_data
        if dtype.bits < 8:
            count = dtype.nbytes(count)
        elif dtype in (DType.FLOAT16, DType.BFLOAT16):
            stored = np.dtype(np.uint16)
        elif dtype in _PLAIN:
            stored = np.dtype(np.uint8) if dtype is DType.BOOL else dtype.numpy
    there = count_varints(packed) if packed else 0
    if there != count:
        raise InvalidGraph(f"{what}: {dtype.text}{list(shape)} needs {count} stored numbers, but the file holds {there}")
    try:
        numbers = varints(packed or b"", stored)
    except InvalidProtobuf as error:
        raise InvalidProtobuf(f"{what}: {error}") from None
    if dtype in _SIX_BITS:
        return _pack(numbers, 6)
    if dtype is DType.BOOL:
        numbers = (numbers != 0).view(np.uint8)
    return numbers.data.cast("B") if len(numbers) else b""


def _strings(proto: TensorProto, shape: tuple[int, ...], what: str) -> Tensor:
    if proto.data_location == 1:
        raise InvalidGraph(f"{what}: strings can not lie in an external file")
    if len(proto.string_data) != _count(shape):
        raise InvalidGraph(f"{what}: string{list(shape)} needs {_count(shape)} strings, but the file holds {len(proto.string_data)}")
    if not proto.string_data:
        return Tensor(_empty(np.dtype(object), shape), dtype=DType.STRING)
    array = np.empty(len(proto.string_data), object)
    array[:] = [text(item) for item in proto.string_data]
    return Tensor(array.reshape(shape), dtype=DType.STRING)


def text(data: Any) -> str:
    """Bytes of an ONNX string as str; bytes that are not UTF-8 survive as surrogates."""
    return str(data, "utf-8", "surrogateescape")


def read_sparse(proto: SparseTensorProto, external: ExternalData, what: str = "") -> Tensor:
    """A sparse constant, written out densely when its elements are asked for. Indices (nnz,) linear or (nnz, rank) are checked now."""
    if proto.values is None or proto.indices is None:
        raise InvalidGraph(f"{what or 'a sparse tensor'}: has no values or no indices")
    what = f"sparse tensor '{proto.values.name}'" if proto.values.name else what or "a sparse tensor"
    values, indices, shape = read_tensor(proto.values, external, what), read_tensor(proto.indices, external, what), dims_of(proto.dims, what)
    count, stored = _count(shape), values.size
    if len(values.shape) != 1 or indices.dtype is not DType.INT64 or indices.shape not in ((stored,), (stored, len(shape))):
        raise InvalidGraph(f"{what}: {stored} values {list(values.shape)} of a tensor {list(shape)} need int64 indices [{stored}] or [{stored}, {len(shape)}], "
                           f"not {indices!r}")
    if count * max(1, values.dtype.bits // 8) > max(DENSE_BYTES, DENSE_RATIO * (values.nbytes + indices.nbytes)):
        raise InvalidGraph(f"{what}: {values.dtype.text}{list(shape)} with {stored} values is too sparse to be written out densely ({count * values.dtype.bits // 8} bytes)")
    places = indices.numpy()
    sizes = (count,) if places.ndim == 1 else shape
    if stored and ((places < 0).any() or (places.reshape(stored, -1) >= np.array(sizes, np.int64)).any()):
        raise InvalidGraph(f"{what}: an index is outside its shape {list(shape)}")
    return Tensor(dtype=values.dtype, shape=shape, load=_densifier(values, places, shape))


def _densifier(values: Tensor, places: np.ndarray, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        dense = np.full(shape, "", object) if values.dtype is DType.STRING else np.zeros(shape, values.dtype.numpy)
        if places.ndim == 1:
            dense.reshape(-1)[places] = values.numpy()
        else:
            dense[tuple(places.T)] = values.numpy()
        return dense
    return load
