"""ai.onnx.ml: encoders, scalers, imputers and the operators on maps."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..dim import Dim, fresh
from ..expr import Compute, E, Op, binary, cast, compute_type, const, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType, MapType, SequenceType, TensorType, ValueType
from .common import like
from .ml_common import as_type, known_features, row_count, rows_view
from .registry import Spec, operator, require


@operator("ai.onnx.ml")
def ArrayFeatureExtractor(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """The elements of X at the indices Y along the last axis; a vector X gives [1, len(Y)]."""
    require(X.ndim > 0 and Y.size > 0, f"X must have at least one axis and Y at least one index, not {list(X.shape)} and {list(Y.shape)}")
    indices = Y.ravel()
    require(indices.min() >= 0 and indices.max() < X.shape[-1], f"indices {indices.min()} to {indices.max()} are out of range for {X.shape[-1]} features")
    Z = X[..., indices]
    return Z[None] if X.ndim == 1 else Z


@ArrayFeatureExtractor.shape
def _(X: Spec, Y: Spec) -> Spec:
    if X.shape is None:
        return Spec(X.dtype)
    require(X.shape, "X must have at least one axis")
    count: Dim = fresh()
    if Y.shape is not None:
        count = 1
        for size in Y.shape:
            count = count * size
    return Spec(X.dtype, (*(X.shape[:-1] or (1,)), count))


@operator("ai.onnx.ml")
def Binarizer(X: np.ndarray, *, threshold: float = 0.0) -> np.ndarray:
    """1 where X > threshold, else 0, in X's type."""
    return np.greater(X, threshold).astype(X.dtype)


Binarizer.shape(like)


@operator("ai.onnx.ml")
def Scaler(X: np.ndarray, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> np.ndarray:
    """(X - offset) · scale, both of one element or of one for each feature (the last axis); float32."""
    for name, values in (("offset", offset), ("scale", scale)):
        require(len(values) <= 1 or (X.ndim and len(values) == X.shape[-1]), f"{name} has {len(values)} elements; it needs 1 or {X.shape[-1:]}, one for each feature")
    shifted = X - np.asarray(offset or [0], np.float32)
    return np.asarray(shifted * np.asarray(scale or [1], np.float32), np.float32)


@Scaler.shape
def _(X: Spec, *, offset: Sequence[float] = (), scale: Sequence[float] = ()) -> Spec:
    return Spec(DType.FLOAT, X.shape)


@operator("ai.onnx.ml")
def Normalizer(X: np.ndarray, *, norm: str = "MAX") -> np.ndarray:
    """Each row of X ([N, C] or [C]) divided by its maximum (MAX), sum of magnitudes (L1) or Euclidean length (L2); a row whose divisor is 0 stays. float32."""
    require(X.ndim in (1, 2), f"X must have shape [N, C] or [C], not {list(X.shape)}")
    require(norm in ("MAX", "L1", "L2"), f"norm is '{norm}'; it must be MAX, L1 or L2")
    x = X.astype(np.float64)
    if not x.size:
        return x.astype(np.float32)
    divisor = x.max(-1, keepdims=True) if norm == "MAX" else np.abs(x).sum(-1, keepdims=True) if norm == "L1" else np.sqrt(np.square(x).sum(-1, keepdims=True))
    return (x / np.where(divisor == 0, 1, divisor)).astype(np.float32)


@Normalizer.shape
def _(X: Spec, *, norm: str = "MAX") -> Spec:
    return Spec(DType.FLOAT, X.shape)


@operator("ai.onnx.ml")
def Imputer(X: np.ndarray, *, imputed_value_floats: Sequence[float] = (), imputed_value_int64s: Sequence[int] = (), replaced_value_float: float = 0.0,
            replaced_value_int64: int = 0) -> np.ndarray:
    """X with every `replaced_value` (NaN: every NaN) replaced by the imputed value, one for all or one for each feature (the last axis)."""
    is_float = X.dtype.kind == "f"
    values = np.asarray(imputed_value_floats if is_float else imputed_value_int64s)
    require(values.size, f"X is {DType.of(X).text}: the attribute imputed_value_{'floats' if is_float else 'int64s'} must be given")
    require(values.size == 1 or (X.ndim and values.size == X.shape[-1]), f"{values.size} imputed values do not fit X {list(X.shape)}; give 1 or one for each feature")
    replaced = X.dtype.type(replaced_value_float if is_float else replaced_value_int64)
    missing = np.isnan(X) if is_float and np.isnan(replaced) else np.equal(X, replaced)
    return np.where(missing, values.astype(X.dtype), X)


@Imputer.shape
def _(X: Spec, *, imputed_value_floats: Sequence[float] = (), imputed_value_int64s: Sequence[int] = (), replaced_value_float: float = 0.0, replaced_value_int64: int = 0) -> Spec:
    return Spec(X.dtype, X.shape)


@operator("ai.onnx.ml")
def FeatureVectorizer(*X: np.ndarray, inputdimensions: Sequence[int] = ()) -> np.ndarray:
    """The inputs ([N, C] or [C] as [1, C]) side by side, each cut or padded with zeros to its `inputdimensions`; float32."""
    require(len(inputdimensions) in (0, len(X)), f"{len(X)} inputs do not fit inputdimensions {list(inputdimensions)}")
    rows = [x.reshape(1 if x.ndim == 1 else x.shape[0], -1) for x in X]
    widths = inputdimensions or [r.shape[1] for r in rows]
    Y = np.zeros((rows[0].shape[0], sum(widths)), np.float32)
    start = 0
    for r, width in zip(rows, widths, strict=True):
        used = min(width, r.shape[1])
        Y[:, start:start + used] = r[:, :used]
        start += width
    return Y


@FeatureVectorizer.shape
def _(*X: Spec, inputdimensions: Sequence[int] = ()) -> Spec:
    require(X, "needs at least one input")
    width: Dim = sum(inputdimensions)
    if not inputdimensions:
        known = [x.shape for x in X if x.shape is not None and len(x.shape) in (1, 2)]
        width = sum((s[-1] for s in known), 0) if len(known) == len(X) else fresh()
    return Spec(DType.FLOAT, (row_count(X[0]), width))


@operator("ai.onnx.ml")
def OneHotEncoder(X: np.ndarray, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), zeros: int = 1) -> np.ndarray:
    """float32 [*X, categories]: 1 at the category of each element (floats are truncated to integers). An unknown one gives zeros, or an error where `zeros` is 0."""
    categories: Sequence[Any] = cats_strings if X.dtype == object else cats_int64s
    require(categories, f"X is {DType.of(X).text}: the attribute cats_{'strings' if X.dtype == object else 'int64s'} must be given")
    place, found = _find(X if X.dtype == object else X.astype(np.int64), categories)
    require(zeros or found.all(), "X has a category that the model does not know, and zeros=0 makes that an error")
    return ((place[..., None] == np.arange(len(categories))) & found[..., None]).astype(np.float32)


@OneHotEncoder.shape
def _(X: Spec, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), zeros: int = 1) -> Spec:
    return Spec(DType.FLOAT, None if X.shape is None else (*X.shape, len(cats_strings if X.dtype is DType.STRING else cats_int64s)))


@operator("ai.onnx.ml")
def CategoryMapper(X: np.ndarray, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), default_int64: int = -1, default_string: str = "_Unused") -> np.ndarray:
    """Strings to the integers at the same place of the two lists, or integers to strings; what is not in the list becomes the default."""
    require(len(cats_int64s) == len(cats_strings), f"cats_int64s has {len(cats_int64s)} elements and cats_strings {len(cats_strings)}; they must have the same number")
    if X.dtype == object:
        return _mapped(X, cats_strings, np.asarray(cats_int64s, np.int64), np.int64(default_int64))
    return _mapped(X, cats_int64s, _texts(cats_strings), default_string)


@CategoryMapper.shape
def _(X: Spec, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), default_int64: int = -1, default_string: str = "_Unused") -> Spec:
    return Spec(None if X.dtype is None else DType.INT64 if X.dtype is DType.STRING else DType.STRING, X.shape)


@operator("ai.onnx.ml")
def LabelEncoder(X: np.ndarray, *, default_float: float = -0.0, default_int64: int = -1, default_string: str = "_Unused", default_tensor: np.ndarray | None = None,
                 keys_floats: Sequence[float] = (), keys_int64s: Sequence[int] = (), keys_strings: Sequence[str] = (), keys_tensor: np.ndarray | None = None,
                 values_floats: Sequence[float] = (), values_int64s: Sequence[int] = (), values_strings: Sequence[str] = (), values_tensor: np.ndarray | None = None) -> np.ndarray:
    """The value at the place of each element of X among the keys (NaN finds NaN, of equal keys the last counts), else the default."""
    keys: Any = keys_tensor.ravel().tolist() if keys_tensor is not None else keys_floats or keys_int64s or keys_strings
    if values_tensor is not None:
        values = values_tensor.ravel()
    else:
        values = np.asarray(values_floats, np.float32) if values_floats else np.asarray(values_int64s, np.int64) if values_int64s else _texts(values_strings)
    require(len(keys) == len(values), f"there are {len(keys)} keys and {len(values)} values; there must be the same number")
    default: Any = default_string if values.dtype == object else default_float if values.dtype.kind == "f" else default_int64
    return _mapped(X, keys, values, default if default_tensor is None else default_tensor.ravel()[0])


@LabelEncoder.shape
def _(X: Spec, *, values_floats: Sequence[float] = (), values_int64s: Sequence[int] = (), values_strings: Sequence[str] = (), values_tensor: np.ndarray | None = None,
      **_: Any) -> Spec:
    dtype = DType.of(values_tensor) if values_tensor is not None else DType.FLOAT if values_floats else DType.INT64 if values_int64s else DType.STRING
    return Spec(dtype, X.shape)


# -- maps --------------------------------------------------------------------------------------------------------------------------------------

_CASTS = {"TO_FLOAT": DType.FLOAT, "TO_INT64": DType.INT64, "TO_STRING": DType.STRING}


@operator("ai.onnx.ml")
def CastMap(X: Mapping[int, Any], *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1) -> np.ndarray:
    """The values of X in the order of the keys, [1, len(X)]; SPARSE: each at the place its key says, [1, max_map], the others 0 (as a string "0.f")."""
    dtype = _cast_dtype(cast_to, map_form)
    if map_form == "DENSE":
        places = range(len(X))
    else:
        places = sorted(X)  # type: ignore[assignment]
        require(not X or (places[0] >= 0 and places[-1] < max_map), f"the keys {places[:1]} to {places[-1:]} are not in [0, {max_map}): max_map is too small or a key is negative")
    Y = np.zeros((1, len(X) if map_form == "DENSE" else max_map), dtype.numpy)
    if dtype is DType.STRING:
        Y[:] = "0.f"  # onnxruntime's text for a missing value
    for place, key in zip(places, sorted(X), strict=True):
        Y[0, place] = _cast(X[key], dtype)
    return Y


@CastMap.shape
def _(X: Spec, *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1) -> Spec:
    return Spec(_cast_dtype(cast_to, map_form), (1, fresh() if map_form == "DENSE" else max_map))


def _cast_dtype(cast_to: str, map_form: str) -> DType:
    require(cast_to in _CASTS, f"cast_to is '{cast_to}'; it must be one of {', '.join(_CASTS)}")
    require(map_form in ("DENSE", "SPARSE"), f"map_form is '{map_form}'; it must be DENSE or SPARSE")
    return _CASTS[cast_to]


def _cast(value: Any, dtype: DType) -> Any:
    if dtype is DType.STRING:
        return value if isinstance(value, str) else f"{value:f}"
    return float(value) if dtype is DType.FLOAT else int(value)


@operator("ai.onnx.ml")
def DictVectorizer(X: Mapping[Any, Any], *, int64_vocabulary: Sequence[int] = (), string_vocabulary: Sequence[str] = ()) -> np.ndarray:
    """[1, vocabulary]: the value of X for each key of the vocabulary, 0 or "" where X has none. Two axes, as in onnxruntime, for the operators that follow it."""
    require(bool(int64_vocabulary) != bool(string_vocabulary), "exactly one of int64_vocabulary and string_vocabulary must be given")
    vocabulary: Sequence[Any] = int64_vocabulary or string_vocabulary
    if any(isinstance(v, str) for v in X.values()):
        return _texts([X.get(key, "") for key in vocabulary])[None]
    return np.array([[X.get(key, 0) for key in vocabulary]], _value_dtype(X.values()))


def _value_dtype(values: Iterable[Any]) -> np.dtype[Any]:
    """The element type of a map's values: that of NumPy scalars, else int64 for Python ints and float for Python floats."""
    numpy = [v.dtype for v in values if isinstance(v, (np.generic, np.ndarray))]
    if numpy:
        return np.result_type(*numpy)
    return np.dtype(np.int64 if all(isinstance(v, int) for v in values) else np.float32)


@DictVectorizer.shape
def _(X: Spec, *, int64_vocabulary: Sequence[int] = (), string_vocabulary: Sequence[str] = ()) -> Spec:
    value = X.type.value if isinstance(X.type, MapType) else None
    return Spec(value.dtype if isinstance(value, TensorType) else None, (1, len(int64_vocabulary or string_vocabulary)))


@operator("ai.onnx.ml")
def ZipMap(X: np.ndarray, *, classlabels_int64s: Sequence[int] = (), classlabels_strings: Sequence[str] = ()) -> list[dict[Any, float]]:
    """A dict {label: score} for each row of X ([N, labels] or [labels]), in the order of the labels."""
    labels: Sequence[Any] = classlabels_int64s or classlabels_strings
    require(bool(classlabels_int64s) != bool(classlabels_strings), "exactly one of classlabels_int64s and classlabels_strings must be given")
    require(X.ndim in (1, 2) and X.shape[-1] == len(labels), f"X {list(X.shape)} must have one column for each of the {len(labels)} labels")
    order = sorted(range(len(labels)), key=labels.__getitem__)
    keys = [labels[i] for i in order]
    return [dict(zip(keys, row, strict=True)) for row in X.reshape(-1, len(labels))[:, order].tolist()]


@ZipMap.shape
def _(X: Spec, *, classlabels_int64s: Sequence[int] = (), classlabels_strings: Sequence[str] = ()) -> Spec:
    element: ValueType = MapType(DType.INT64 if classlabels_int64s else DType.STRING, TensorType(DType.FLOAT, ()))
    return Spec(None, type=SequenceType(element))


# -- looking up --------------------------------------------------------------------------------------------------------------------------------

def _texts(words: Sequence[str]) -> np.ndarray:
    out = np.empty(len(words), object)
    out[:] = list(words)
    return out


def _find(X: np.ndarray, keys: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """(place among the keys, whether it is there) of each element of X. Of equal keys the last counts; NaN finds NaN."""
    if X.dtype == object:
        places = {key: i for i, key in enumerate(keys)}
        flat = np.array([places.get(item, -1) for item in X.ravel()], np.int64).reshape(X.shape)
        return flat, flat >= 0
    table = np.asarray(keys).astype(X.dtype)
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    nearest = np.searchsorted(ordered, X, side="right").clip(1, max(len(table), 1)) - 1  # the last of equal keys; NaN sorts last, so it finds NaN
    if not len(table):
        return np.zeros(X.shape, np.int64), np.zeros(X.shape, np.bool_)
    hit = ordered[nearest]
    found = (hit == X) | ((hit != hit) & (X != X))
    return order[nearest], found


def _mapped(X: np.ndarray, keys: Sequence[Any], values: np.ndarray, default: Any) -> np.ndarray:
    place, found = _find(X, keys)
    if not len(values):
        return np.full(X.shape, default, values.dtype)
    filled = np.full((), default, values.dtype) if values.dtype != object else default
    return np.where(found, values[np.where(found, place, 0)], filled).astype(values.dtype, copy=False)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@ArrayFeatureExtractor.lower
def _(k: Lowering, X: View, Y: View, *, out: Spec) -> View:
    assert out.shape is not None
    count = out.shape[-1]
    if Y.value is not None:
        require(all(not isinstance(i, int) or i >= 0 for i in np.asarray(Y.value).ravel().tolist()), "an index is negative")
        places = k.reshape(Y, (count,))
    else:  # a negative index must not count from the end: it becomes one that is out of range
        places = k.reshape(k.map(lambda i: select(binary(Op.LT, i, 0), const(1 << 62, Compute.I64), i), as_type(k, Y, DType.INT64), dtype=DType.INT64), (count,))
    rows = X.unsqueeze(0) if X.rank == 1 else X
    made = k.buffer(X.dtype, (*rows.shape[:-1], count)).whole()
    k.call(Kernel.GATHER, [rows, places], [made], axis=rows.rank - 1, mode=0)
    return made


def _comparable(dtype: DType) -> Compute:
    """The type in which NumPy compares elements with a Python float."""
    return Compute.F32 if compute_type(dtype) is Compute.F32 else Compute.F64


def _one_for_each(X: View, count: Any, name: str) -> None:
    """An attribute has one element, or one for each feature."""
    if count != 1:
        features = known_features(X)
        require(count == features, f"{name} has {count} elements; it needs 1 or {features}, one for each feature")


@Binarizer.lower
def _(k: Lowering, X: View, *, threshold: float = 0.0, out: Spec) -> View:
    wide = _comparable(X.dtype)
    return k.map(lambda x: cast(binary(Op.GT, cast(x, wide), threshold), compute_type(X.dtype)), X, dtype=X.dtype)


@Scaler.lower
def _(k: Lowering, X: View, *, offset: Sequence[float] = (), scale: Sequence[float] = (), out: Spec) -> View:
    wide = _comparable(X.dtype)
    shift, factor = (k.constant(np.asarray(values or [default], np.float32)) for values, default in ((offset, 0.0), (scale, 1.0)))
    for view, name in ((shift, "offset"), (factor, "scale")):
        _one_for_each(X, view.shape[0], name)
    return k.map(lambda x, o, f: cast((cast(x, wide) - cast(o, wide)) * cast(f, wide), Compute.F32), X, shift, factor, dtype=DType.FLOAT, shape=X.shape)


@Normalizer.lower
def _(k: Lowering, X: View, *, norm: str = "MAX", out: Spec) -> View:
    require(norm in ("MAX", "L1", "L2"), f"norm is '{norm}'; it must be MAX, L1 or L2")
    rows = rows_view(k, X)

    def before(x: E) -> E:
        x = cast(x, Compute.F64)
        return x if norm == "MAX" else unary(Op.ABS, x) if norm == "L1" else x * x
    divisor = k.reduce(3 if norm == "MAX" else 0, rows, (1,), DType.DOUBLE, prologue=before)

    def scaled(x: E, total: E) -> E:
        length = unary(Op.SQRT, total) if norm == "L2" else total
        return cast(cast(x, Compute.F64) / select(binary(Op.EQ, length, 0), const(1, Compute.F64), length), Compute.F32)
    made = k.map(scaled, rows, divisor, dtype=DType.FLOAT)
    return k.reshape(made, X.shape)


@Imputer.lower
def _(k: Lowering, X: View, *, imputed_value_floats: Sequence[float] = (), imputed_value_int64s: Sequence[int] = (), replaced_value_float: float = 0.0,
      replaced_value_int64: int = 0, out: Spec) -> View:
    wide, values = compute_type(X.dtype), imputed_value_floats if X.dtype.is_float else imputed_value_int64s
    require(len(values), f"X is {X.dtype.text}: the attribute imputed_value_{'floats' if X.dtype.is_float else 'int64s'} must be given")
    _one_for_each(X, len(values), "imputed_value")
    replaced = X.dtype.numpy.type(replaced_value_float if X.dtype.is_float else replaced_value_int64)

    def body(x: E, value: E) -> E:
        missing = unary(Op.ISNAN, x) if X.dtype.is_float and np.isnan(replaced) else binary(Op.EQ, x, const(replaced, wide))
        return select(missing, value, x)
    return k.map(body, X, k.constant(np.asarray(values).astype(X.dtype.numpy)), dtype=X.dtype, shape=X.shape)


@FeatureVectorizer.lower
def _(k: Lowering, *X: View, inputdimensions: Sequence[int] = (), out: Spec) -> View:
    require(len(inputdimensions) in (0, len(X)), f"{len(X)} inputs do not fit inputdimensions {list(inputdimensions)}")
    rows = [rows_view(k, x) for x in X]
    made = k.buffer(DType.FLOAT, (rows[0].shape[0], sum(inputdimensions) if inputdimensions else sum((r.shape[1] for r in rows), 0))).whole()
    start: Dim = 0
    for i, r in enumerate(rows):
        have, width = r.shape[1], inputdimensions[i] if inputdimensions else r.shape[1]
        if not isinstance(have, int) and have != width:
            raise CannotLower(f"input {i} has {have} features, which may be more or fewer than its {width} places")
        used = min(have, width) if isinstance(have, int) and isinstance(width, int) else width
        k.map(lambda x: cast(x, Compute.F32), r.slice(1, 0, used), dtype=DType.FLOAT, out=made.slice(1, start, used))
        if used != width:
            k.map(lambda: const(0, Compute.F32), dtype=DType.FLOAT, out=made.slice(1, start + used, width - used))
        start = start + width
    return made


@OneHotEncoder.lower
def _(k: Lowering, X: View, *, cats_int64s: Sequence[int] = (), cats_strings: Sequence[str] = (), zeros: int = 1, out: Spec) -> View:
    require(cats_int64s, f"X is {X.dtype.text}: the attribute cats_int64s must be given")
    if not zeros:
        raise CannotLower("an unknown category is an error (zeros=0)")
    if len(set(cats_int64s)) != len(cats_int64s):
        raise CannotLower("a category is listed twice")
    wide, shape = Compute.F64 if X.dtype.is_float else Compute.I64, (*X.shape, len(cats_int64s))

    def body(x: E, category: E) -> E:
        x = cast(x, wide)
        return cast(binary(Op.EQ, unary(Op.TRUNC, x) if wide is Compute.F64 else x, cast(category, wide)), Compute.F32)
    return k.map(body, X.unsqueeze(X.rank), k.constant(np.asarray(cats_int64s, np.int64)), dtype=DType.FLOAT, shape=shape)


@LabelEncoder.lower
def _(k: Lowering, X: View, *, default_float: float = -0.0, default_int64: int = -1, default_tensor: np.ndarray | None = None, keys_floats: Sequence[float] = (),
      keys_int64s: Sequence[int] = (), keys_tensor: np.ndarray | None = None, values_floats: Sequence[float] = (), values_int64s: Sequence[int] = (),
      values_tensor: np.ndarray | None = None, out: Spec, **_: Any) -> View:
    keys: Any = keys_tensor.ravel().tolist() if keys_tensor is not None else keys_floats or keys_int64s
    values = values_tensor.ravel() if values_tensor is not None else np.asarray(values_floats, np.float32) if values_floats else np.asarray(values_int64s, np.int64)
    require(len(keys) == len(values), f"there are {len(keys)} keys and {len(values)} values; there must be the same number")
    default = default_tensor.ravel()[0] if default_tensor is not None else default_float if values.dtype.kind == "f" else default_int64
    table = np.concatenate([np.full(1, default, values.dtype), values])

    def place(x: E, key: E, number: E) -> E:
        same = binary(Op.EQ, x, key)
        if X.dtype.is_float:
            same = binary(Op.OR, same, binary(Op.AND, unary(Op.ISNAN, x), unary(Op.ISNAN, key)))
        return select(same, number, 0)
    if not len(keys):
        return k.constant(table[:1].reshape(())).expand(X.shape)
    wide = X.unsqueeze(X.rank).expand((*X.shape, len(keys)))
    found = k.reduce(3, wide, (X.rank,), DType.INT64, prologue=place, leaves=[k.constant(np.asarray(keys).astype(X.dtype.numpy)), k.constant(np.arange(1, len(keys) + 1))])
    made = k.buffer(DType.of(values), X.shape).whole()
    k.call(Kernel.GATHER, [k.constant(table), found.squeeze(X.rank)], [made], axis=0, mode=0)
    return made
