"""Cast, CastLike, BitCast, Identity, and the conversions between element types that other families share (`convert`, `saturate`)."""
from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..dim import dim_trunc
from ..expr import Compute, E, Op, binary, cast, compute_type, select, unary
from ..lowering import CannotLower, Lowering, View
from ..narrow import astype, bits_of, plain
from ..types import DType
from .maps import as_bool
from .numeric import equal, known_sizes, wide
from .registry import Spec, operator, require

#: The largest finite value of each float type NumPy has no `finfo` for. All but FLOAT8E8M0 (which has no sign) are symmetric.
_LARGEST = {
    DType.BFLOAT16: 3.3895313892515355e38, DType.FLOAT8E4M3FN: 448.0, DType.FLOAT8E4M3FNUZ: 240.0, DType.FLOAT8E5M2: 57344.0, DType.FLOAT8E5M2FNUZ: 57344.0,
    DType.FLOAT4E2M1: 6.0, DType.FLOAT6E2M3: 7.5, DType.FLOAT6E3M2: 28.0, DType.FLOAT8E8M0: 2.0**127,
}
_FLOAT8 = (DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ)


def highest(dtype: DType) -> Any:
    """The highest finite value of a number type, as a Python number."""
    if dtype.is_integer:
        return 2 ** (dtype.bits - dtype.is_signed_integer) - 1
    return _LARGEST[dtype] if dtype in _LARGEST else float(np.finfo(dtype.numpy).max)


def lowest(dtype: DType) -> Any:
    """The lowest finite value of a number type, as a Python number."""
    if dtype.is_integer:
        return -(2 ** (dtype.bits - 1)) if dtype.is_signed_integer else 0
    return 2.0**-127 if dtype is DType.FLOAT8E8M0 else -highest(dtype)


def saturate(x: np.ndarray, dtype: DType) -> np.ndarray:
    """Numbers as an integer type: floats are rounded half to even, what is out of range becomes the nearest end of it, NaN the lowest value."""
    if x.dtype.kind not in "biu" and DType.of(x).is_float:
        x = np.rint(wide(x).astype(np.float64))
        x = np.where(np.isnan(x), lowest(dtype), x)
    elif x.dtype.kind not in "biu":
        x = plain(x)  # 4- and 2-bit integers
    # Ends beyond the source type's own range clip nothing, and NumPy refuses them.
    if x.dtype.kind == "f":
        if dtype.bits == 64:  # 2^63 − 1 is no float64: pick the ends by comparison
            low, high = float(lowest(dtype)), float(highest(dtype))
            ends = np.where(x < 0, lowest(dtype), highest(dtype)).astype(dtype.numpy)
            return np.where((x >= low) & (x < high), x, 0).astype(dtype.numpy) + np.where((x >= low) & (x < high), 0, ends).astype(dtype.numpy)
        return astype(np.clip(x, lowest(dtype), highest(dtype)), dtype)
    source = DType.of(x)
    if source is DType.BOOL:
        return astype(x, dtype)
    return astype(np.clip(x, max(lowest(dtype), lowest(source)), min(highest(dtype), highest(source))), dtype)


def convert(x: np.ndarray, dtype: DType, saturated: bool = True, round_mode: str = "up") -> np.ndarray:
    """`Cast`'s conversion of an array to another element type. `saturated` and `round_mode` matter for float8 types only."""
    source = DType.of(x)
    if source is dtype:
        return x
    if dtype is DType.STRING:
        return _to_strings(x, source)
    if source is DType.STRING:
        return _from_strings(x, dtype, saturated, round_mode)
    if dtype is DType.FLOAT8E8M0:
        return _to_e8m0(x, saturated, round_mode)
    if dtype in _FLOAT8 and saturated:
        return astype(np.clip(plain(x), -highest(dtype), highest(dtype)), dtype)
    return astype(x, dtype)


def _to_e8m0(x: np.ndarray, saturated: bool, round_mode: str) -> np.ndarray:
    """Powers of two 2^-127 … 2^127 of |x|. Non-saturating: NaN for zero, infinity and what is out of range."""
    require(round_mode in ("up", "down", "nearest"), f"round_mode '{round_mode}' is not one of up, down, nearest")
    magnitude = np.abs(plain(x).astype(np.float64))
    fraction, exponent = np.frexp(magnitude)  # magnitude = fraction · 2^exponent, fraction in [1/2, 1)
    above = {"up": fraction > 0.5, "down": np.zeros_like(fraction, bool), "nearest": fraction >= 0.75}[round_mode]
    power = exponent - 1 + above
    power = np.where(magnitude == 0, -1000, np.where(np.isinf(magnitude), 1000, power))
    bad = np.isnan(magnitude) if saturated else np.isnan(magnitude) | (np.abs(power) > 127)
    return np.where(bad, 255, np.clip(power, -127, 127) + 127).astype(np.uint8).view(DType.FLOAT8E8M0.numpy)


# -- strings: onnxruntime's formats (printf %.8g; strtod, strtoll), which read the longest numeric prefix --------------------------------------------

_FLOAT_TEXT = re.compile(r"\s*([+-]?(?:inf(?:inity)?|nan|0x[0-9a-f]+|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?))", re.IGNORECASE)
_INTEGER_TEXT = re.compile(r"\s*([+-]?\d+)")


def _to_strings(x: np.ndarray, source: DType) -> np.ndarray:
    out = np.empty(x.shape, object)
    items = plain(x).ravel().tolist()
    if source.is_float:
        words = ["NaN" if v != v else "INF" if v == np.inf else "-INF" if v == -np.inf else f"{v:.8g}" for v in items]
    else:
        words = [str(int(v)) for v in items]
    out.reshape(-1)[:] = words
    return out


def _from_strings(x: np.ndarray, dtype: DType, saturated: bool, round_mode: str) -> np.ndarray:
    words = [w.decode() if isinstance(w, bytes) else w for w in x.ravel().tolist()]
    if dtype.is_float:
        numbers = np.array([_read_float(w) for w in words], np.float64).reshape(x.shape)
        return convert(numbers, dtype, saturated, round_mode)
    integers = [_read_integer(w, dtype) for w in words]
    if dtype is DType.BOOL:
        return np.array([v != 0 for v in integers], bool).reshape(x.shape)
    # Out of range: the higher bits are dropped, as between integer types.
    wrapped = np.array([v & 0xFFFFFFFFFFFFFFFF for v in integers], np.uint64).reshape(x.shape)
    return convert(wrapped, dtype)


def _read_float(word: str) -> float:
    found = _FLOAT_TEXT.match(word)
    require(found, f"'{word}' is not a number; Cast from string reads plain and scientific notation, INF and NaN")
    text = found.group(1).lower()  # type: ignore[union-attr]
    return float(int(text, 16)) if "x" in text else float(text)


def _read_integer(word: str, dtype: DType) -> int:
    found = _INTEGER_TEXT.match(word)
    require(found, f"'{word}' is not an integer; cast to a float type first, or clean the text before Cast to {dtype.text}")
    return int(found.group(1))  # type: ignore[union-attr]


# -- operators -----------------------------------------------------------------------------------------------------------------------------------


@operator()
def Cast(input: np.ndarray, *, to: int, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """The input's elements as type `to`."""
    return convert(input, DType(to), bool(saturate), round_mode)


@operator()
def CastLike(input: np.ndarray, target_type: np.ndarray, *, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """The input's elements as the second input's type."""
    return convert(input, DType.of(target_type), bool(saturate), round_mode)


def _cast_sizes(input: Spec, dtype: DType | None) -> Any:
    """A known symbolic value under a cast: exact in float, towards zero in integers; bool where it is provable."""
    given = known_sizes(input)
    if given is None or dtype is None or not (dtype.is_integer or dtype.is_float or dtype is DType.BOOL):
        return None
    if dtype is DType.BOOL:
        return np.frompyfunc(lambda v: not equal(v, 0), 1, 1)(given[0])
    return given[0] if dtype.is_float else np.frompyfunc(dim_trunc, 1, 1)(given[0])


@Cast.shape
def _(input: Spec, *, to: int, saturate: int = 1, round_mode: str = "up") -> Spec:
    require(to in DType.__members__.values() and not DType(to).is_complex, f"to={to} is not an element type Cast makes")
    return Spec(DType(to), input.shape)


@Cast.values
def _(input: Spec, *, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    return _cast_sizes(input, DType(to))


@CastLike.shape
def _(input: Spec, target_type: Spec, **_: Any) -> Spec:
    return Spec(target_type.dtype, input.shape)


@CastLike.values
def _(input: Spec, target_type: Spec, **_: Any) -> Any:
    return _cast_sizes(input, target_type.dtype)


@operator()
def BitCast(input: np.ndarray, *, to: int) -> np.ndarray:
    """The same bits read as another element type of equal width."""
    source, dtype = DType.of(input), DType(to)
    require(source.bits == dtype.bits and source.bits, f"cannot reinterpret {source.text} ({source.bits} bits) as {dtype.text} ({dtype.bits} bits): widths must be equal")
    if source.bits < 8:
        return (bits_of(input) & np.uint8((1 << source.bits) - 1)).view(dtype.numpy)
    if dtype is DType.BOOL:
        return np.ascontiguousarray(input).view(np.uint8).reshape(input.shape) != 0  # a bool of NumPy must be 0 or 1
    return np.ascontiguousarray(input).view(dtype.numpy).reshape(input.shape)


@BitCast.shape
def _(input: Spec, *, to: int) -> Spec:
    dtype = DType(to)
    require(input.dtype is None or (input.dtype.bits == dtype.bits and dtype.bits), f"cannot reinterpret {input} as {dtype.text}: element widths must be equal")
    return Spec(dtype, input.shape)


@operator(symbolic=True)
def Identity(input: np.ndarray) -> np.ndarray:
    """The input: a tensor, sequence, optional or map."""
    return input


@Identity.shape
def _(input: Spec) -> Spec:
    return Spec(input.dtype, input.shape, type=input.type)


# -- lowering ------------------------------------------------------------------------------------------------------------------------------------

@Identity.lower
def _(k: Lowering, input: View, *, out: Spec) -> View:
    return input


@Cast.lower
@CastLike.lower
def _(k: Lowering, input: View, *_: View, saturate: int = 1, round_mode: str = "up", out: Spec, **__: Any) -> View:
    assert out.dtype is not None
    return cast_view(k, input, out.dtype, bool(saturate), round_mode)


def cast_view(k: Lowering, view: View, dtype: DType, saturated: bool = True, round_mode: str = "up") -> View:
    """The view's elements as another type: floats to integers truncate, integers wrap, bool is ≠ 0; see `convert`."""
    if view.dtype is dtype:
        return view
    if dtype.is_narrow_float:
        if compute_type(view.dtype) in (Compute.F64, Compute.U64, Compute.I64):
            raise CannotLower(f"{view.dtype.text} as {dtype.text} would be rounded twice")
        if dtype is DType.FLOAT8E8M0:
            return _lower_e8m0(k, view, saturated, round_mode)
        return k.map(lambda x: bounded(cast(x, Compute.F32), dtype, saturated), view, dtype=dtype)
    return k.map(as_bool if dtype is DType.BOOL else lambda x: x, view, dtype=dtype)


def bounded(x: E, dtype: DType, saturated: bool = True) -> E:
    """A float32 value brought into the range of a float8 type, where it saturates; NaN stays."""
    if dtype not in _FLOAT8 or not saturated:
        return x
    return binary(Op.MIN, binary(Op.MAX, x, -highest(dtype)), highest(dtype))


def _lower_e8m0(k: Lowering, view: View, saturated: bool, round_mode: str) -> View:
    """See `_to_e8m0`: the exponent's bits, one more where the fraction is rounded up."""
    require(round_mode in ("up", "down", "nearest"), f"round_mode '{round_mode}' is not one of up, down, nearest")
    if not saturated:
        raise CannotLower("a cast to float8e8m0 that does not saturate")
    bits = k.reinterpret(k.map(lambda x: unary(Op.ABS, cast(x, Compute.F32)), view, dtype=DType.FLOAT), DType.INT32)
    half = {"up": 1, "nearest": 1 << 22, "down": 1 << 23}[round_mode]   # the least fraction that is rounded up

    def body(b: E) -> E:
        exponent, fraction = binary(Op.SHR, b, 23), binary(Op.AND, b, (1 << 23) - 1)
        normal = binary(Op.MIN, exponent + binary(Op.GE, fraction, half), 254)
        tiny = binary(Op.GE, b, (1 << 22) + (half >> 1 if round_mode == "nearest" else half))   # below 2^-126: 2^-127, or 2^-126
        return select(binary(Op.GT, b, 0x7F800000), 255, select(binary(Op.EQ, exponent, 0), tiny, normal))
    return k.reinterpret(k.map(body, bits, dtype=DType.UINT8), DType.FLOAT8E8M0)


@BitCast.lower
def _(k: Lowering, input: View, *, to: int, out: Spec) -> View:
    dtype = DType(to)
    if min(input.dtype.bits, dtype.bits) < 8:
        raise CannotLower(f"bits of {input.dtype.text} as {dtype.text}")
    if dtype is DType.BOOL:
        return cast_view(k, input, dtype)
    return k.reinterpret(input, dtype)
