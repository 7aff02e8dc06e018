"""Feeds: what the caller gave → what the executor takes, checked as onnxruntime checks it, with messages that say what to do.

Checked: names, element types, ranks, fixed sizes. Not checked, as in onnxruntime: that a symbolic size is the same in all inputs, and the rank of inputs
declared without sizes (unknown rank, scalars).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidArgument
from ..errors import NotImplemented as NotImplementedHere
from ..graph import Value
from ..narrow import astype
from ..types import DType, MapType, OptionalType, SequenceType, SparseTensorType, TensorType, ValueType, stand_ins
from .exceptions import InvalidType
from .sparse import SparseTensor
from .values import OrtValue, native


class Plain:
    """The inputs of a model that takes nothing but tensors of numbers: `collect` for feeds that need no conversion, and for nothing else."""

    __slots__ = ("kinds",)

    def __init__(self, inputs: Sequence[Value]) -> None:
        self.kinds: list[tuple[str, Any, int, list[tuple[int, int]]]] | None = []
        for value in inputs:
            kind = value.type
            if not isinstance(kind, TensorType) or kind.dtype in (None, DType.STRING) or not kind.shape:  # unknown ranks and scalars take any rank
                self.kinds = None
                return
            assert kind.dtype is not None
            self.kinds.append((value.name, kind.dtype.numpy, len(kind.shape), [(i, d) for i, d in enumerate(kind.shape) if isinstance(d, int)]))

    def collect(self, feed: Any) -> list[np.ndarray] | None:
        """The arrays as they are; None where one is not exactly what the model declares, or more or fewer are given."""
        if self.kinds is None or type(feed) is not dict or len(feed) != len(self.kinds):
            return None
        found = []
        for name, dtype, rank, fixed in self.kinds:
            array = feed.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.ndim != rank or not array.flags.c_contiguous or not array.dtype.isnative:
                return None
            for axis, size in fixed:
                if array.shape[axis] != size:
                    return None
            found.append(array)
        return found


def collect(inputs: Sequence[Value], feed: Any) -> list[Any]:
    """The value of each graph input, in order. Initializers the caller does not override take their defaults, optionals None."""
    if not isinstance(feed, Mapping):
        raise InvalidType(f"input_feed must be a dict of input names to values, not {type(feed).__name__}; the inputs are {describe(inputs)}")
    missing = [v.name for v in inputs if v.name not in feed and v.const is None and not isinstance(v.type, OptionalType)]
    if missing:
        raise InvalidArgument(f"Required inputs ({missing}) are missing from input feed ({list(feed)}). The inputs are {describe(inputs)}")
    known = {v.name for v in inputs}
    wrong = [name for name in feed if name not in known]
    if wrong:
        raise InvalidArgument(f"Invalid input name: {', '.join(map(str, wrong))}. The inputs are {describe(inputs)}")
    return [convert(v.name, v.type, feed[v.name]) if v.name in feed else None if v.const is None else v.const.numpy() for v in inputs]


def describe(values: Sequence[Value]) -> str:
    """`x: float[batch, 3], y: seq(tensor(float))`, for messages."""
    return ", ".join(f"{v.name}: {_text(v.type)}" for v in values) or "none"


def convert(name: str, kind: ValueType | None, value: Any) -> Any:
    """One input as the executor takes it: a native C-contiguous array, a list, a dict or None."""
    if isinstance(value, OrtValue):
        value = value._data
    if isinstance(kind, OptionalType):
        return None if value is None else convert(name, kind.element, value)
    if value is None:
        raise InvalidArgument(f"input '{name}' is None; it must be {_text(kind)}")
    if getattr(value, "on_device", False):
        return _resident(name, kind, value)
    if isinstance(kind, SequenceType):
        return _sequence(name, kind, value)
    if isinstance(kind, MapType):
        return _map(name, kind, value)
    if isinstance(kind, SparseTensorType) and isinstance(value, SparseTensor):
        value = value.to_dense()
    return _tensor(name, kind, value)


def _resident(name: str, kind: Any, value: Any) -> Any:
    """A tensor on a device, where it is what the input declares."""
    if not isinstance(kind, TensorType) or value.type is not kind.dtype:
        raise InvalidArgument(f"Unexpected input data type. Actual: (tensor({value.type.text})) , expected: ({_text(kind)}) for input '{name}'")
    if kind.shape:
        _check_shape(name, kind, value)
    return value


def _sequence(name: str, kind: SequenceType, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InvalidArgument(f"input '{name}' is a sequence, {kind}: give a list, not {_given(value)}")
    return [convert(f"{name}[{i}]", kind.element, item) for i, item in enumerate(value)]


def _map(name: str, kind: MapType, value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"input '{name}' is a map, {kind}: give a dict, not {_given(value)}")
    text_keys = kind.key is DType.STRING
    for key in value:
        if isinstance(key, str) is not text_keys or (not text_keys and not isinstance(key, (int, np.integer))):
            raise InvalidArgument(f"Unexpected input data type for the keys of input '{name}'. Actual: {type(key).__name__} {key!r:.40}, expected: {kind.key.text}")
    return {(key if text_keys else int(key)): _map_value(name, kind.value, item) for key, item in value.items()}


def _map_value(name: str, kind: ValueType, value: Any) -> Any:
    made = convert(f"{name}[...]", kind, value)
    return made.item() if isinstance(made, np.ndarray) and made.ndim == 0 else made


def _tensor(name: str, kind: Any, value: Any) -> np.ndarray:
    array = value if isinstance(value, np.ndarray) else _from_python(name, kind, value)
    if array.dtype != kind.dtype.numpy or not array.flags.c_contiguous or type(array) is not np.ndarray:
        array = _as_dtype(name, kind, array)
    elif kind.dtype is DType.STRING:
        array = _strings(name, array)
    if kind.shape:
        _check_shape(name, kind, array)
    return array


def _as_dtype(name: str, kind: Any, array: np.ndarray) -> np.ndarray:
    """The array in native order where its elements are of the declared type; InvalidArgument where they are not."""
    if array.dtype.kind == "S":
        array = array.astype(object)
    array = native(np.asarray(array))
    try:
        given = DType.of(array)
    except NotImplementedHere:
        given = None
    if given is not kind.dtype:
        actual = f"tensor({given.text})" if given is not None else f"numpy {array.dtype}"
        raise InvalidArgument(f"Unexpected input data type. Actual: ({actual}) , expected: (tensor({kind.dtype.text})) for input '{name}'; {_remedy(kind.dtype, array)}")
    if given is DType.STRING:
        return _strings(name, array)
    return array if array.dtype == given.numpy else array.view(given.numpy)  # ml_dtypes came after the first model that needed it


def _remedy(expected: DType, array: np.ndarray) -> str:
    if expected is DType.STRING:
        return "give an array of str, e.g. .astype(object)"
    name = expected.numpy.name
    if not expected.is_numpys_own:
        same_size = array.dtype.kind in "iu" and array.dtype.itemsize == expected.numpy.itemsize
        if expected.numpy not in stand_ins:
            return f"convert it with {'.view' if same_size else '.astype'}(ml_dtypes.{name})"
        bits = f"OrtValue.ortvalue_from_numpy_with_onnx_type(array, {int(expected)}) takes an array of uint{8 * expected.numpy.itemsize} with the elements' bits"
        return bits if same_size else f"{bits}; ml_dtypes, installed before sardonyx is imported, converts numbers"
    return f"convert it with .astype(np.{name if name != 'bool' else 'bool_'})"


def _strings(name: str, array: np.ndarray) -> np.ndarray:
    """An object array whose elements are all str: bytes are read as UTF-8, other things by str(), as onnxruntime does."""
    if all(type(item) is str for item in array.flat):
        return array
    made = np.empty(array.shape, object)
    flat = made.reshape(-1)
    for i, item in enumerate(array.flat):
        if isinstance(item, (list, tuple, dict, np.ndarray)):
            raise InvalidArgument(f"input '{name}' holds a {type(item).__name__} where a string must be: {item!r:.60}; all rows need the same length")
        flat[i] = item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
    return made


def _from_python(name: str, kind: Any, value: Any) -> np.ndarray:
    """Nested lists, numbers, strings and objects with `__array__` as an array of the declared type."""
    expected: DType = kind.dtype
    if isinstance(value, np.generic):
        return np.asarray(value)  # it has a dtype of its own, which is checked
    if isinstance(value, (list, tuple, str, bytes, bool, int, float, complex)):
        return _from_list(name, expected, kind, value)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise InvalidArgument(f"input '{name}' must be {_text(kind)}: give a numpy array, an OrtValue or a nested list, not {_given(value)}")


def _from_list(name: str, expected: DType, kind: Any, value: Any) -> np.ndarray:
    if expected is DType.STRING:
        return _strings(name, np.array(value, dtype=object))
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InvalidArgument(f"input '{name}': the nested list is ragged; it must be {_text(kind)}, all rows of one length") from None
    if array.dtype == expected.numpy:
        return array
    if array.dtype.kind not in "biufc" or (array.dtype.kind == "c" and not expected.is_complex):
        raise InvalidArgument(f"input '{name}' must be {_text(kind)}; the list holds {_what(array)}")
    if expected.is_integer and array.size:
        _check_range(name, expected, array)
    return astype(array, expected)


def _check_range(name: str, expected: DType, array: np.ndarray) -> None:
    """InvalidArgument where a number of the list is no number of the integer type."""
    bits = expected.bits
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if expected.is_signed_integer else (0, (1 << bits) - 1)
    smallest, greatest = array.min().item(), array.max().item()
    if not (low <= smallest and greatest <= high):  # NaN fails too
        raise InvalidArgument(f"input '{name}' is {expected.text}, numbers from {low} to {high}; the list holds {smallest} to {greatest}")


def _check_shape(name: str, kind: Any, array: np.ndarray) -> None:
    declared = kind.shape
    if array.ndim != len(declared):
        raise InvalidArgument(f"Invalid rank for input: {name} Got: {array.ndim} Expected: {len(declared)} Please fix either the inputs/outputs or the model. "
                              f"Input '{name}' must be {kind.describe()}, not of shape {list(array.shape)}{_rank_remedy(array.ndim, len(declared))}")
    wrong = [i for i, (got, want) in enumerate(zip(array.shape, declared, strict=True)) if isinstance(want, int) and got != want]
    if wrong:
        lines = "".join(f"\n index: {i} Got: {array.shape[i]} Expected: {declared[i]}" for i in wrong)
        raise InvalidArgument(f"Got invalid dimensions for input: {name} for the following indices{lines}\n Please fix either the inputs/outputs or the model. "
                              f"Input '{name}' must be {kind.describe()}, not of shape {list(array.shape)}")


def _rank_remedy(got: int, expected: int) -> str:
    return "; array[np.newaxis] adds a leading dimension of 1" if got == expected - 1 else ""


def _text(kind: Any) -> str:
    return kind.describe() if isinstance(kind, TensorType) else str(kind)


def _what(array: np.ndarray) -> str:
    names = sorted({type(item).__name__ for item in array.ravel().tolist()[:1000]})
    return " and ".join(names)


def _given(value: Any) -> str:
    return f"an array of {value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"{type(value).__name__} {value!r:.40}"


def own(value: Any) -> Any:
    """An output as the caller gets it: arrays that share memory with nothing, strings as objects, map entries as Python values."""
    if isinstance(value, np.ndarray):
        return np.array(value, dtype=object if value.dtype.kind in "USTO" else None, order="C", copy=True)
    if isinstance(value, (list, tuple)):
        return [own(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


def _plain(item: Any) -> Any:
    """NumPy scalars as Python's; other values owned."""
    return item.item() if isinstance(item, np.generic) or (isinstance(item, np.ndarray) and item.ndim == 0) else own(item)
