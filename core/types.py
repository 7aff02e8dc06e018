"""Element types and value types, with ONNX's codes and names.

`DType` is the one enumeration of element types in the project: its integer value is ONNX's `TensorProto.DataType`, which is also what
`.sdx` stores. NumPy has no bfloat16, float8, float6, float4, int4 or int2: those map to `ml_dtypes` if it is installed (which the first
question for one of them finds out), else to stand-ins: dtypes with one field named as ml_dtypes names the type, `[("bfloat16", "V2")]`, that
hold elements and compute nothing; `.view(np.uint16)` is their bits. In memory such elements take one byte each (bfloat16: two); in a file
4- and 2-bit types are packed, first element in the low bits, as ONNX does.
"""
from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .dim import Shape, shape_text
from .errors import NotImplemented as NotImplementedHere


class DType(enum.IntEnum):
    """ONNX element type. The value is the code in `TensorProto.DataType`."""

    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28

    @property
    def text(self) -> str:
        """The name used in ONNX type strings: `float` for FLOAT, `int64` for INT64."""
        return self.name.lower()

    @property
    def bits(self) -> int:
        """Bits one element takes in a file. 0 for STRING. (The 6-bit floats are stored one per byte.)"""
        return _BITS[self]

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that holds this type in memory; strings are `object` arrays of `str`."""
        return _numpy_dtype(self)

    @property
    def is_numpys_own(self) -> bool:
        """False for the types NumPy lacks."""
        return self in _NUMPY_NAMES

    @property
    def is_float(self) -> bool:
        """True for real floating-point types of any width."""
        return self in _FLOATS

    @property
    def is_narrow_float(self) -> bool:
        """True for floats of 8 bits or fewer: a byte each in memory, converted to and from float32 by Map kernels, moved by the others."""
        return self in _FLOATS and _BITS[self] <= 8

    @property
    def is_complex(self) -> bool:
        return self in (DType.COMPLEX64, DType.COMPLEX128)

    @property
    def is_signed_integer(self) -> bool:
        return self in (DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.INT4, DType.INT2)

    @property
    def is_unsigned_integer(self) -> bool:
        return self in (DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64, DType.UINT4, DType.UINT2)

    @property
    def is_integer(self) -> bool:
        return self.is_signed_integer or self.is_unsigned_integer

    def nbytes(self, count: int) -> int:
        """Bytes `count` elements take in a file (4- and 2-bit types are packed)."""
        return (count * self.bits + 7) // 8

    @classmethod
    def of(cls, array: Any) -> DType:
        """The DType of a NumPy array or dtype. `object` and text arrays are STRING."""
        dtype = np.dtype(getattr(array, "dtype", array))
        found = _by_numpy().get(dtype)
        if found is not None:
            return found
        if dtype.kind in "OUST":
            return cls.STRING
        found = _by_ml_name().get(dtype.names[0] if dtype in stand_ins and dtype.names else dtype.name)
        if found is not None:
            return found
        raise NotImplementedHere(f"numpy dtype {dtype} has no ONNX element type; convert the array first, e.g. array.astype('float32')")

    @classmethod
    def parse(cls, text: str) -> DType:
        """`float`, `float32`, `tensor(float)`, `int64` … → DType."""
        word = text.strip().lower()
        if word.startswith("tensor(") and word.endswith(")"):
            word = word[7:-1]
        word = {"float32": "float", "float64": "double", "string": "string", "str": "string"}.get(word, word)
        try:
            return cls[word.upper()]
        except KeyError:
            raise NotImplementedHere(f"unknown element type '{text}'; known: {', '.join(t.text for t in cls)}") from None


_BITS = {
    DType.FLOAT: 32, DType.UINT8: 8, DType.INT8: 8, DType.UINT16: 16, DType.INT16: 16, DType.INT32: 32, DType.INT64: 64, DType.STRING: 0,
    DType.BOOL: 8, DType.FLOAT16: 16, DType.DOUBLE: 64, DType.UINT32: 32, DType.UINT64: 64, DType.COMPLEX64: 64, DType.COMPLEX128: 128,
    DType.BFLOAT16: 16, DType.FLOAT8E4M3FN: 8, DType.FLOAT8E4M3FNUZ: 8, DType.FLOAT8E5M2: 8, DType.FLOAT8E5M2FNUZ: 8, DType.UINT4: 4,
    DType.INT4: 4, DType.FLOAT4E2M1: 4, DType.FLOAT8E8M0: 8, DType.UINT2: 2, DType.INT2: 2, DType.FLOAT6E2M3: 8, DType.FLOAT6E3M2: 8,
}
_NUMPY_NAMES = {
    DType.FLOAT: "float32", DType.UINT8: "uint8", DType.INT8: "int8", DType.UINT16: "uint16", DType.INT16: "int16", DType.INT32: "int32",
    DType.INT64: "int64", DType.STRING: "object", DType.BOOL: "bool", DType.FLOAT16: "float16", DType.DOUBLE: "float64",
    DType.UINT32: "uint32", DType.UINT64: "uint64", DType.COMPLEX64: "complex64", DType.COMPLEX128: "complex128",
}
_ML_NAMES = {
    DType.BFLOAT16: "bfloat16", DType.FLOAT8E4M3FN: "float8_e4m3fn", DType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz", DType.FLOAT8E5M2: "float8_e5m2",
    DType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz", DType.UINT4: "uint4", DType.INT4: "int4", DType.FLOAT4E2M1: "float4_e2m1fn",
    DType.FLOAT8E8M0: "float8_e8m0fnu", DType.UINT2: "uint2", DType.INT2: "int2", DType.FLOAT6E2M3: "float6_e2m3fn", DType.FLOAT6E3M2: "float6_e3m2fn",
}
_FLOATS = frozenset({
    DType.FLOAT, DType.FLOAT16, DType.DOUBLE, DType.BFLOAT16, DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2,
    DType.FLOAT8E5M2FNUZ, DType.FLOAT4E2M1, DType.FLOAT8E8M0, DType.FLOAT6E2M3, DType.FLOAT6E3M2,
})


@cache
def _numpy_dtype(dtype: DType) -> np.dtype[Any]:
    if dtype in _NUMPY_NAMES:
        return np.dtype(_NUMPY_NAMES[dtype])
    module = _ml_dtypes()
    if module is not None:
        return np.dtype(getattr(module, _ML_NAMES[dtype]))
    made = np.dtype([(_ML_NAMES[dtype], f"V{max(dtype.bits // 8, 1)}")])
    stand_ins.add(made)
    return made


#: The dtypes that stand in for ml_dtypes' in this process: they have no arithmetic, and NumPy's conversions to and from them mean nothing (`narrow` converts).
stand_ins: set[np.dtype[Any]] = set()


@cache
def _ml_dtypes() -> Any:
    """The module, None where it is not installed. Only models with types NumPy lacks pay for it."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes


@cache
def _by_ml_name() -> dict[str, DType]:
    return {name: code for code, name in _ML_NAMES.items()}


@cache
def _by_numpy() -> dict[np.dtype[Any], DType]:
    return {np.dtype(name): code for code, name in _NUMPY_NAMES.items() if code is not DType.STRING}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor: element type (None: not known yet) and shape (None: rank not known; a dim is an int or a `Dim` expression)."""

    dtype: DType | None
    shape: Shape | None = None

    def __str__(self) -> str:
        return f"tensor({self.dtype.text if self.dtype else '?'})"

    def describe(self) -> str:
        """`float[batch, 3, 224, 224]`, for messages."""
        return f"{self.dtype.text if self.dtype else '?'}{shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class SparseTensorType:
    """A COO sparse tensor; only graph inputs and attributes carry it, constants are densified on import."""

    dtype: DType
    shape: Shape | None = None

    def __str__(self) -> str:
        return f"sparse_tensor({self.dtype.text})"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A Python list of `element` values."""

    element: ValueType

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """None, or a value of type `element`."""

    element: ValueType

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True, slots=True)
class MapType:
    """A Python dict from `key` (an integer type or STRING) to `value`."""

    key: DType
    value: ValueType

    def __str__(self) -> str:
        return f"map({self.key.text},{self.value})"


ValueType = TensorType | SparseTensorType | SequenceType | OptionalType | MapType
