"""Expressions of core/expr.py as WGSL statements, every integer with the interval it lies in.

64-bit integers do not exist in WGSL. An I64 or U64 value (uint32 elements are computed as I64 too) is held in 32 bits, as one of
- i32 or u32, where its interval fits: the value itself;
- a *residue*, where it does not: the value modulo 2^32 as u32. Sums, products, shifts to the left and bit operations of residues are residues, and are right again as soon as the
  interval of a result fits or the result is stored in a type of at most 32 bits. Anything else (comparing, dividing, converting to float) refuses with the reason.
So nothing is ever truncated: either the interval proves it, or the node does not run here. I32 wraps as it does everywhere. F64 is refused.

The same code answers the planner's question whether a node can run at all (`provider`), which is why leaves, coordinates and loads are callbacks.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ...expr import Compute, E, Op
from ...lowering import CannotLower
from ...types import DType
from .storage import INT32, UINT32, interval


@dataclass(frozen=True)
class Value:
    """WGSL text of type `rep` (f32, i32, u32) that stands for a value within [low, high]; `exact` False: a residue modulo 2^32."""

    text: str
    rep: str
    low: float
    high: float
    exact: bool = True

    def within(self, bounds: tuple[float, float]) -> bool:
        return bounds[0] <= self.low and self.high <= bounds[1]


def real(text: str, low: float = -math.inf, high: float = math.inf) -> Value:
    """An f32."""
    return Value(text, "f32", low, high)


def whole(text: str, low: float = INT32[0], high: float = INT32[1]) -> Value:
    """An i32."""
    return Value(text, "i32", low, high)


def number(x: float) -> str:
    """A WGSL f32 literal of exactly this number."""
    single = np.float32(x)
    if not np.isfinite(single) or (single == 0 and np.signbit(single)) or 0 < abs(single) < 1.1754944e-38:
        return f"sx_bits(0x{int(single.view(np.uint32)):08x}u)"
    text = repr(float(single))
    return f"{text}f" if "e" in text or "." in text else f"{text}.0f"


_RING = {Op.ADD: "+", Op.SUB: "-", Op.MUL: "*", Op.AND: "&", Op.OR: "|", Op.XOR: "^"}
_COMPARE = {Op.EQ: "==", Op.NE: "!=", Op.LT: "<", Op.LE: "<=", Op.GT: ">", Op.GE: ">="}
_FLOAT1 = {
    Op.NEG: "-({})", Op.ABS: "abs({})", Op.SIGN: "sx_sign({})", Op.FLOOR: "floor({})", Op.CEIL: "ceil({})", Op.ROUND: "round({})", Op.TRUNC: "trunc({})", Op.SQRT: "sqrt({})",
    Op.RECIPROCAL: "1.0 / {}", Op.EXP: "sx_exp({})", Op.LOG: "sx_log({})", Op.SIN: "sx_sin({})", Op.COS: "sx_cos({})", Op.TAN: "sx_tan({})", Op.ASIN: "sx_asin({})", Op.ACOS: "sx_acos({})",
    Op.ATAN: "sx_atan({})", Op.SINH: "sx_sinh({})", Op.COSH: "sx_cosh({})", Op.TANH: "sx_tanh({})", Op.ASINH: "sx_asinh({})", Op.ACOSH: "sx_acosh({})", Op.ATANH: "sx_atanh({})",
    Op.ERF: "sx_erf({})", Op.SIGMOID: "sx_sigmoid({})", Op.LOG1P: "sx_log1p({})",
}
_FLOAT2 = {Op.ADD: "{} + {}", Op.SUB: "{} - {}", Op.MUL: "{} * {}", Op.DIV: "{} / {}", Op.MOD: "sx_mod({}, {})", Op.FMOD: "sx_fmod({}, {})", Op.MIN: "sx_min({}, {})", Op.MAX: "sx_max({}, {})",
           Op.POW: "sx_pow({}, {})"}
#: Float functions that keep order: their interval follows from the ends.
_MONOTONE: dict[Op, Callable[[float], float]] = {Op.FLOOR: np.floor, Op.CEIL: np.ceil, Op.ROUND: np.rint, Op.TRUNC: np.trunc}


class Emitter:
    """Writes one expression after another. `let(text, rep)` makes a statement and gives the name of its value; `fault(condition)` one that reports a run-time error where it holds."""

    def __init__(self, let: Callable[[str, str], str], leaf: Callable[[int], Value], coord: Callable[[int], Value], load: Callable[[int, Value], Value], fault: Callable[[str], None],
                 acc: Value | None = None) -> None:
        self.let, self.leaf, self.coord, self.load, self.fault, self.acc = let, leaf, coord, load, fault, acc
        self.made: dict[int, Value] = {}

    def emit(self, node: E) -> Value:
        """The value of an expression, its statements written. CannotLower says what WGSL can not do."""
        found = self.made.get(id(node))
        if found is None:
            found = self._named(node)
            self.made[id(node)] = found
        return found

    def _named(self, node: E) -> Value:
        value = self._value(node)
        if node.op in (Op.CONST, Op.LEAF, Op.ACC, Op.COORD):
            return value
        return replace(value, text=self.let(value.text, value.rep))

    def _value(self, node: E) -> Value:
        if node.type is Compute.F64:
            raise CannotLower("computes in double, which WGSL has not")
        if node.op is Op.CONST:
            return constant(node)
        if node.op is Op.LEAF:
            return self.leaf(node.data)
        if node.op is Op.COORD:
            return self.coord(node.data)
        if node.op is Op.ACC:
            assert self.acc is not None
            return self.acc
        if node.op is Op.LOAD:
            return self.load(node.data, _as(self.emit(node.args[0]), "i32", "the position of a load"))
        args = [self.emit(a) for a in node.args]
        if node.op is Op.CAST:
            return _cast(args[0], node.args[0].type, node.type)
        if node.op is Op.SATURATE:
            return _saturate(args[0], node.data)
        if node.op is Op.SELECT:
            return _select(args, node.type)
        if node.op in _COMPARE:
            return _compare(node.op, *args)
        if node.op in (Op.ISNAN, Op.ISINF):
            return whole(f"select(0, 1, sx_{node.op.name.lower()}({args[0].text}))", 0, 1) if args[0].rep == "f32" else whole("0", 0, 0)
        if node.type is Compute.F32:
            return _float(node.op, args)
        return self._integer(node, args)

    def _integer(self, node: E, args: list[Value]) -> Value:
        op = node.op
        low, high = _interval(op, args)
        wide = node.type is not Compute.I32
        if op is Op.NOT and node.type is Compute.U64:
            low, high = (1 << 64) - 1 - high, (1 << 64) - 1 - low
        if op in _RING or op in (Op.NEG, Op.NOT, Op.SHL, Op.FMA):
            return fit(_ring(op, args), low, high, wide)
        if op in (Op.DIV, Op.MOD, Op.FMOD):
            a, b = _together(args, op)
            if args[1].low <= 0 <= args[1].high:
                self.fault(f"{b.text} == {_literal(0, b.rep)}")
            safe = b.text if not args[1].low <= 0 <= args[1].high else f"select({b.text}, {_literal(1, b.rep)}, {b.text} == {_literal(0, b.rep)})"
            if op is Op.MOD and a.rep == "i32":
                return fit(Value(f"sx_modi({a.text}, {safe})", a.rep, low, high), low, high, wide)
            return fit(Value(f"{a.text} {'/' if op is Op.DIV else '%'} {safe}", a.rep, low, high), low, high, wide)
        if op in (Op.MIN, Op.MAX):
            a, b = _together(args, op)
            return Value(f"{op.name.lower()}({a.text}, {b.text})", a.rep, low, high)
        if op is Op.SHR:
            a, n = args[0], _places(args[1])
            if not a.exact:
                raise _too_wide("a shift to the right", a)
            return Value(f"{a.text} >> min({n.text}, 31u)" if a.rep == "i32" else f"select({a.text} >> ({n.text} & 31u), 0u, {n.text} > 31u)", a.rep, low, high)
        if op in (Op.ABS, Op.SIGN):
            a = args[0]
            if not a.exact:
                raise _too_wide(op.name.lower(), a)
            if a.rep == "u32":
                return replace(a, text=a.text if op is Op.ABS else f"min({a.text}, 1u)", low=low, high=high)
            return fit(Value(f"{op.name.lower()}({a.text})", "i32", low, high), low, high, wide)
        if op is Op.POW:
            if wide and not (args[0].exact and args[1].exact and args[1].within(INT32)):
                raise _too_wide("pow", args[1])
            return fit(Value(f"sx_powi({_bits(args[0], 'i32')}, {_bits(args[1], 'i32')})", "i32", low, high), low, high, wide)
        if op in (Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC):
            return args[0]
        raise CannotLower(f"{op.name.lower()} of integers is not written in WGSL")


def constant(node: E) -> Value:
    """A number."""
    if node.type is Compute.F32:
        x = float(np.float32(node.data))
        return real(number(x), x, x) if not math.isnan(x) else real(number(x))
    n = int(node.data)
    if node.type is Compute.I32 and n > INT32[1]:
        n -= 1 << 32
    if INT32[0] <= n <= INT32[1]:
        return whole(_literal(n, "i32"), n, n)
    return Value(_literal(n % (1 << 32), "u32"), "u32", n, n, 0 <= n <= UINT32[1])


def _literal(n: int, rep: str) -> str:
    if rep == "u32":
        return f"{n}u"
    return f"{n}i" if n >= 0 else "(-2147483647i - 1i)" if n == INT32[0] else f"({n}i)"


def _bits(value: Value, rep: str) -> str:
    """The low 32 bits as `rep`."""
    return value.text if value.rep == rep else f"bitcast<{rep}>({value.text})"


def _too_wide(what: str, value: Value) -> CannotLower:
    return CannotLower(f"{what} of integers within {_shown(value.low)} … {_shown(value.high)}, which do not fit 32 bits")


def _shown(x: float) -> str:
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _as(value: Value, rep: str, what: str) -> Value:
    """The exact value as `rep`; refuses where it may not fit."""
    if not value.exact or not value.within(INT32 if rep == "i32" else UINT32):
        raise _too_wide(what, value)
    return replace(value, text=_bits(value, rep), rep=rep)


def _together(args: list[Value], op: Op) -> tuple[Value, Value]:
    """Two exact values in one representation."""
    rep = "i32" if all(v.exact and v.within(INT32) for v in args) else "u32"
    a, b = (_as(v, rep, op.name.lower()) for v in args)
    return a, b


def fit(value: Value, low: float, high: float, wide: bool) -> Value:
    """32 bits that hold the value modulo 2^32, as the representation its interval allows; I32 (not wide) wraps."""
    if low >= INT32[0] and high <= INT32[1]:
        return Value(_bits(value, "i32"), "i32", low, high)
    if not wide:
        return Value(_bits(value, "i32"), "i32", *INT32)
    return Value(_bits(value, "u32"), "u32", low, high, low >= 0 and high <= UINT32[1])


def _ring(op: Op, args: list[Value]) -> Value:
    """Modulo 2^32; signed and unsigned bits are the same."""
    a = _bits(args[0], "i32")
    if op is Op.NEG:
        text = f"-({a})"
    elif op is Op.NOT:
        text = f"~({a})"
    elif op is Op.FMA:
        text = f"{a} * {_bits(args[1], 'i32')} + {_bits(args[2], 'i32')}"
    elif op is Op.SHL:
        n = _places(args[1]).text
        text = f"select({a} << ({n} & 31u), 0i, {n} > 31u)"
    else:
        text = f"{a} {_RING[op]} {_bits(args[1], 'i32')}"
    return Value(text, "i32", 0, 0)


def _places(value: Value) -> Value:
    """How far to shift, as u32: a negative number shifts everything out."""
    if not value.exact:
        raise _too_wide("a shift", value)
    return replace(value, text=_bits(value, "u32"), rep="u32")


def _interval(op: Op, args: list[Value]) -> tuple[float, float]:
    """Where the true (unbounded) result lies."""
    a, b = args[0], args[-1]
    if op is Op.ADD:
        return a.low + b.low, a.high + b.high
    if op is Op.SUB:
        return a.low - b.high, a.high - b.low
    if op is Op.MUL:
        return _corners(a, b, lambda x, y: x * y)
    if op is Op.FMA:
        low, high = _corners(a, args[1], lambda x, y: x * y)
        return low + b.low, high + b.high
    if op is Op.NEG:
        return -a.high, -a.low
    if op is Op.NOT:
        return ~int(a.high), ~int(a.low)
    if op is Op.ABS:
        return (0 if a.low <= 0 <= a.high else min(abs(a.low), abs(a.high))), max(abs(a.low), abs(a.high))
    if op is Op.SIGN:
        return (-1 if a.low < 0 else 0 if a.low == 0 else 1), (1 if a.high > 0 else 0 if a.high == 0 else -1)
    if op is Op.MIN:
        return min(a.low, b.low), min(a.high, b.high)
    if op is Op.MAX:
        return max(a.low, b.low), max(a.high, b.high)
    if op is Op.DIV:
        most = max(abs(a.low), abs(a.high)) // max(min(abs(b.low), abs(b.high)) if b.low > 0 or b.high < 0 else 1, 1)
        return (-most if a.low < 0 or b.low < 0 else 0), most
    if op in (Op.MOD, Op.FMOD):
        most = max(abs(b.low), abs(b.high), 1) - 1
        if op is Op.FMOD:
            return (-most if a.low < 0 else 0), (most if a.high > 0 else 0)
        return (-most if b.low < 0 else 0), (most if b.high > 0 else 0)
    if op in (Op.AND, Op.OR, Op.XOR):
        if a.low >= 0 and b.low >= 0:
            most = (1 << max(int(a.high), int(b.high)).bit_length()) - 1
            return 0, (min(a.high, b.high) if op is Op.AND else most)
        if op is Op.AND and (a.low >= 0 or b.low >= 0):
            return 0, a.high if a.low >= 0 else b.high
        bits = max(int(abs(v)).bit_length() for v in (a.low, a.high, b.low, b.high))
        return -(1 << bits), (1 << bits) - 1
    if op is Op.SHL:
        return _corners(a, b, lambda x, n: x * 2 ** int(min(max(n, 0), 64)))
    if op is Op.SHR:
        return min(a.low, 0), max(a.high, 0)
    if op is Op.POW:
        most = max(abs(a.low), abs(a.high), 1) ** int(min(max(b.high, 0), 64)) if b.high <= 64 else 1 << 70
        return (-most if a.low < 0 else 0), most
    return a.low, a.high


def _corners(a: Value, b: Value, f: Callable[[float, float], float]) -> tuple[float, float]:
    found = [f(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return min(found), max(found)


def _float(op: Op, args: list[Value]) -> Value:
    texts = [a.text for a in args]
    if op is Op.FMA:
        return real(f"fma({texts[0]}, {texts[1]}, {texts[2]})")
    if op in _FLOAT1:
        found = real(_FLOAT1[op].format(*texts))
        if op in _MONOTONE:
            found = replace(found, low=float(_MONOTONE[op](args[0].low)), high=float(_MONOTONE[op](args[0].high)))
        return found
    if op not in _FLOAT2:
        raise CannotLower(f"{op.name.lower()} of floats is not written in WGSL")
    found = real(_FLOAT2[op].format(*texts))
    if op in (Op.MIN, Op.MAX):
        pick = min if op is Op.MIN else max
        found = replace(found, low=pick(args[0].low, args[1].low), high=pick(args[0].high, args[1].high))
    return found


def _compare(op: Op, a: Value, b: Value) -> Value:
    if a.rep == "f32":
        if op is Op.EQ or op is Op.NE:
            return whole(f"select({'0, 1' if op is Op.EQ else '1, 0'}, sx_eq({a.text}, {b.text}))", 0, 1)
        return whole(f"select(0, 1, {a.text} {_COMPARE[op]} {b.text})", 0, 1)
    a, b = _together([a, b], op)
    return whole(f"select(0, 1, {a.text} {_COMPARE[op]} {b.text})", 0, 1)


def _select(args: list[Value], type: Compute) -> Value:
    condition, a, b = args
    low, high = min(a.low, b.low), max(a.high, b.high)
    if type is Compute.F32:
        return real(f"select({b.text}, {a.text}, {condition.text} != {_literal(0, condition.rep)})", low, high)
    chosen = Value(f"select({_bits(b, 'i32')}, {_bits(a, 'i32')}, {condition.text} != {_literal(0, condition.rep)})", "i32", low, high)
    return fit(chosen, low, high, type is not Compute.I32)


def _cast(value: Value, source: Compute, target: Compute) -> Value:
    if source is Compute.F64:
        raise CannotLower("computes in double, which WGSL has not")
    if target is Compute.F32:
        if not value.exact:
            raise _too_wide("conversion to float", value)
        return real(f"f32({value.text})", float(np.float32(value.low)), float(np.float32(value.high)))
    if source is Compute.F32:
        low, high = _truncated(value.low, target), _truncated(value.high, target)
        if target is Compute.I32 or (low >= INT32[0] and high <= INT32[1]):
            return whole(f"sx_to_i32({value.text})", max(min(low, 0), INT32[0]), min(max(high, 0), INT32[1]))
        if low >= 0 and high <= UINT32[1]:
            return Value(f"sx_to_u32({value.text})", "u32", 0, high)
        raise CannotLower(f"conversion of floats of any size to {'int64' if target is Compute.I64 else 'uint64'}, which do not fit 32 bits")
    low, high = value.low, value.high
    if target is Compute.U64 and low < 0:
        low, high = 0, (1 << 64) - 1
        return Value(_bits(value, "u32"), "u32", low, high, False)
    return fit(value, low, high, target is not Compute.I32)


def _truncated(x: float, target: Compute) -> float:
    if math.isinf(x):
        return x
    return int(x)


def _saturate(value: Value, dtype: DType) -> Value:
    low, high = interval(dtype) if dtype.bits <= 32 else (-(1 << 63), (1 << 63) - 1) if dtype is DType.INT64 else (0, (1 << 64) - 1)
    if value.rep == "f32":
        low, high = max(low, math.floor(value.low) if math.isfinite(value.low) else low), min(high, math.ceil(value.high) if math.isfinite(value.high) else high)
        low, high = min(low, 0), max(high, 0)
        if low >= INT32[0] and high <= INT32[1]:
            rounded = f"sx_to_i32(round({value.text}))"
            return whole(f"clamp({rounded}, {_literal(int(low), 'i32')}, {_literal(int(high), 'i32')})" if dtype.bits < 32 else rounded, low, high)
        if low >= 0 and high <= UINT32[1]:
            return Value(f"sx_to_u32(round({value.text}))", "u32", low, high)
        raise CannotLower(f"rounding floats of any size to {dtype.text}, which do not fit 32 bits")
    if not value.exact:
        raise _too_wide("saturation", value)
    kept = max(low, value.low), min(high, value.high)
    if value.low >= low and value.high <= high:
        return value
    if kept[0] > kept[1]:
        kept = (low, low) if value.high < low else (high, high)
    ends = INT32 if value.rep == "i32" else UINT32
    bottom, top = (_literal(int(min(max(x, ends[0]), ends[1])), value.rep) for x in (low, high))
    return Value(f"clamp({value.text}, {bottom}, {top})", value.rep, *kept)


def stored(value: Value, dtype: DType) -> tuple[str, tuple[float, float]]:
    """The word that stores a value of this element type's compute type, and the interval of what is stored. CannotLower where 64-bit integers may not fit."""
    if dtype.is_float:
        assert value.rep == "f32"
        if dtype is DType.FLOAT:
            return value.text, (value.low, value.high)
        if dtype in (DType.FLOAT16, DType.BFLOAT16):
            return f"sx_{'f16' if dtype is DType.FLOAT16 else 'bf16'}({value.text})", (-math.inf, math.inf)
        raise CannotLower(f"{dtype.text} is not written in WGSL")
    if dtype is DType.BOOL:
        return f"select(0, 1, {value.text} != {_literal(0, value.rep)})", (0, 1)
    if dtype in (DType.INT64, DType.UINT64):
        rep = "i32" if dtype is DType.INT64 else "u32"
        return _as(value, rep, dtype.text).text, (value.low, value.high)
    bounds = interval(dtype)
    inside = value.exact and value.within(bounds)
    if dtype.bits == 32:
        return _bits(value, "u32" if dtype is DType.UINT32 else "i32"), (value.low, value.high) if inside else bounds
    if inside:
        return _bits(value, "i32"), (value.low, value.high)
    text = f"extractBits({_bits(value, 'i32')}, 0u, {dtype.bits}u)" if dtype.is_signed_integer else f"({_bits(value, 'i32')} & {(1 << dtype.bits) - 1})"
    return text, bounds
