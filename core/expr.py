"""Elementwise expressions: what a Map kernel computes, and what runs before (prologue) or after (epilogue) another kernel.

An expression is a DAG of `E` nodes over one iteration space. Its leaves are
- `leaf(i, dtype)`: the element of operand i at this position (the operand's view broadcasts with stride 0),
- `acc(dtype)`: the finished value of the kernel whose epilogue this is,
- `coord(axis)`: the position along an axis, as int64,
- `load(i, index, dtype)`: element number `index` of operand i, bounds-checked,
- `const(value, dtype)`.
Arithmetic is in one of five compute types (F32, F64, I32, I64, U64); storage types are converted when loaded and stored: f16, bf16 and f8 compute in F32,
8/16-bit integers and bool in I32, uint32 in I64. Integers wrap at the *storage* type when stored; `saturate` is an operation of its own.
Booleans are I32 0 or 1.

`encode` gives the flat words a stored program carries (see `Code`); `evaluate` is the NumPy interpreter that every device is compared with.
"""
from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .narrow import plain
from .types import DType


class Compute(enum.IntEnum):
    """A compute type."""

    F32 = 0
    F64 = 1
    I32 = 2
    I64 = 3
    U64 = 4

    @property
    def numpy(self) -> np.dtype[Any]:
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (Compute.F32, Compute.F64)


_NUMPY: dict[Compute, np.dtype[Any]] = {
    Compute.F32: np.dtype("float32"), Compute.F64: np.dtype("float64"), Compute.I32: np.dtype("int32"), Compute.I64: np.dtype("int64"), Compute.U64: np.dtype("uint64"),
}


def compute_type(dtype: DType) -> Compute:
    """The type a storage type is computed in: one row of the dtype matrix."""
    if dtype is DType.DOUBLE:
        return Compute.F64
    if dtype.is_float:
        return Compute.F32
    if dtype is DType.UINT64:
        return Compute.U64
    if dtype in (DType.INT64, DType.UINT32):
        return Compute.I64
    if dtype.is_integer or dtype is DType.BOOL:
        return Compute.I32
    raise ValueError(f"{dtype.text} is not computed in kernels")


class Op(enum.IntEnum):
    """What an instruction does. Numbers are part of the stored format: never re-used."""

    CONST = 0
    LEAF = 1
    ACC = 2
    COORD = 3
    LOAD = 4
    CAST = 5
    SATURATE = 6       # clamp to the range of the storage dtype in `b`, rounding a float to nearest even first; NaN → 0
    ADD = 10
    SUB = 11
    MUL = 12
    DIV = 13           # floats: IEEE; integers: towards zero, division by zero raises
    MOD = 14           # sign of the divisor (ONNX Mod fmod=0)
    FMOD = 15          # sign of the dividend (C fmod)
    MIN = 16           # NaN if either is NaN
    MAX = 17
    POW = 18
    FMA = 19           # a * b + c, one rounding where the machine has it
    NEG = 20
    ABS = 21
    SIGN = 22
    FLOOR = 23
    CEIL = 24
    ROUND = 25         # nearest, ties to even
    TRUNC = 26
    SQRT = 27
    RECIPROCAL = 28
    EXP = 29
    LOG = 30
    SIN = 31
    COS = 32
    TAN = 33
    ASIN = 34
    ACOS = 35
    ATAN = 36
    SINH = 37
    COSH = 38
    TANH = 39
    ASINH = 40
    ACOSH = 41
    ATANH = 42
    ERF = 43
    SIGMOID = 44
    LOG1P = 45
    EQ = 50            # comparisons take any compute type and give I32
    NE = 51
    LT = 52
    LE = 53
    GT = 54
    GE = 55
    AND = 56           # bitwise, integers
    OR = 57
    XOR = 58
    NOT = 59           # bitwise complement; logical not is EQ with 0
    SHL = 60
    SHR = 61           # logical for U64 and for unsigned storage (`b` of a U64), arithmetic otherwise
    SELECT = 62        # a ? b : c
    ISNAN = 63
    ISINF = 64


_COMPARE = (Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE, Op.ISNAN, Op.ISINF)


@dataclass(frozen=True, eq=False)
class E:
    """One node of an expression. `data`: operand index, axis, constant, or storage dtype, as the op needs."""

    op: Op
    type: Compute
    args: tuple[E, ...] = ()
    data: Any = None

    def __add__(self, other: Any) -> E:
        return binary(Op.ADD, self, other)

    def __radd__(self, other: Any) -> E:
        return binary(Op.ADD, other, self)

    def __sub__(self, other: Any) -> E:
        return binary(Op.SUB, self, other)

    def __rsub__(self, other: Any) -> E:
        return binary(Op.SUB, other, self)

    def __mul__(self, other: Any) -> E:
        return binary(Op.MUL, self, other)

    def __rmul__(self, other: Any) -> E:
        return binary(Op.MUL, other, self)

    def __truediv__(self, other: Any) -> E:
        return binary(Op.DIV, self, other)

    def __rtruediv__(self, other: Any) -> E:
        return binary(Op.DIV, other, self)

    def __neg__(self) -> E:
        return unary(Op.NEG, self)

    def __str__(self) -> str:
        if self.op is Op.CONST:
            return f"{self.data}"
        if self.op is Op.LEAF:
            return f"x{self.data}"
        if self.op is Op.ACC:
            return "acc"
        if self.op is Op.COORD:
            return f"i{self.data}"
        extra = f", {self.data.text}" if isinstance(self.data, DType) else f", x{self.data}" if self.op is Op.LOAD else ""
        return f"{self.op.name.lower()}{'.' + self.type.name.lower() if self.op is Op.CAST else ''}({', '.join(map(str, self.args))}{extra})"


def leaf(index: int, dtype: DType) -> E:
    """The element of operand `index` at this position."""
    return E(Op.LEAF, compute_type(dtype), data=index)


def acc(dtype: DType) -> E:
    """The kernel's own result, in an epilogue."""
    return E(Op.ACC, compute_type(dtype))


def coord(axis: int) -> E:
    """The position along `axis`, int64."""
    return E(Op.COORD, Compute.I64, data=axis)


def load(index: int, position: E, dtype: DType) -> E:
    """Element number `position` (I64) of operand `index` in memory order; outside its extent is an error at run time."""
    return E(Op.LOAD, compute_type(dtype), (cast(position, Compute.I64),), index)


def const(value: Any, type: Compute) -> E:
    """A number."""
    return E(Op.CONST, type, data=float(value) if type.is_float else int(value))


def cast(value: E, type: Compute) -> E:
    """Convert between compute types; float → integer truncates."""
    return value if value.type is type else E(Op.CAST, type, (value,))


def saturate(value: E, dtype: DType) -> E:
    """Round (floats, to even) and clamp to the integer storage type's range."""
    return E(Op.SATURATE, compute_type(dtype), (value,), dtype)


def unary(op: Op, value: E) -> E:
    """One-argument operation."""
    return E(op, Compute.I32 if op in _COMPARE else value.type, (value,))


def binary(op: Op, a: Any, b: Any) -> E:
    """Two-argument operation; Python numbers take the other side's type."""
    type = a.type if isinstance(a, E) else b.type
    left = a if isinstance(a, E) else const(a, type)
    right = b if isinstance(b, E) else const(b, type)
    assert left.type is right.type, f"{op.name} of {left.type.name} and {right.type.name}"
    return E(op, Compute.I32 if op in _COMPARE else type, (left, right))


def select(condition: E, a: Any, b: Any) -> E:
    """`a` where the condition is not 0, else `b`."""
    type = a.type if isinstance(a, E) else b.type
    left = a if isinstance(a, E) else const(a, type)
    right = b if isinstance(b, E) else const(b, type)
    assert left.type is right.type
    return E(Op.SELECT, type, (condition, left, right))


def substitute(root: E, replace: Callable[[E], E | None]) -> E:
    """The expression with nodes for which `replace` gives a node replaced by it (fusion puts one expression into another's leaf)."""
    made: dict[int, E] = {}

    def walk(node: E) -> E:
        found = made.get(id(node))
        if found is None:
            found = replace(node)
            if found is None:
                args = tuple(walk(a) for a in node.args)
                found = node if args == node.args else E(node.op, node.type, args, node.data)
            made[id(node)] = found
        return found
    return walk(root)


def leaves(root: E) -> list[int]:
    """Operand indices the expression reads, each once, in order."""
    found: dict[int, None] = {}
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.op in (Op.LEAF, Op.LOAD):
            found[node.data] = None
        stack += node.args[::-1]
    return list(found)


#: int32 words of one instruction: op, compute type, destination register, a, b, c.
WORDS = 6
#: Registers an expression may need at once.
MAX_REGISTERS = 32


@dataclass(frozen=True)
class Code:
    """An expression as instructions. `words`: WORDS int32 each; CONST keeps its 64-bit payload in (a, b), CAST the source's compute type in b, SATURATE the storage dtype in b,
    COORD and LEAF their index in a, LOAD the operand in a and the index register in b. `results`: the register of each result."""

    words: tuple[int, ...]
    registers: int
    results: tuple[int, ...]


def encode(roots: Sequence[E]) -> Code:
    """Flatten to instructions in evaluation order, common subexpressions once, registers re-used after their last read."""
    order: list[E] = []
    keys: dict[Any, int] = {}
    number: dict[int, int] = {}

    def visit(node: E) -> int:
        if id(node) not in number:
            args = tuple(visit(a) for a in node.args)
            payload = struct.pack("<d", node.data) if node.op is Op.CONST and node.type.is_float else node.data
            key = (node.op, node.type, args, payload)
            if key not in keys:
                keys[key] = len(order)
                order.append(node)
                operands.append(args)
            number[id(node)] = keys[key]
        return number[id(node)]

    operands: list[tuple[int, ...]] = []
    wanted = [visit(r) for r in roots]
    last = {a: i for i, args in enumerate(operands) for a in args} | {w: len(order) for w in wanted}
    registers: dict[int, int] = {}
    free: list[int] = []
    used = 0
    words: list[int] = []
    for i, (node, args) in enumerate(zip(order, operands, strict=True)):
        sources = [registers[a] for a in args]
        for a in set(args):
            if last[a] == i:
                free.append(registers[a])
        if free:
            target = free.pop()
        else:
            target, used = used, used + 1
        registers[i] = target
        words += _instruction(node, target, sources)
    if used > MAX_REGISTERS:
        raise ValueError(f"expression needs {used} registers, at most {MAX_REGISTERS}: split it")
    return Code(tuple(words), used, tuple(registers[w] for w in wanted))


def _instruction(node: E, target: int, sources: list[int]) -> list[int]:
    a, b, c = [*sources, 0, 0, 0][:3]
    if node.op is Op.CONST:
        raw = struct.pack("<d", node.data) if node.type is Compute.F64 else struct.pack("<ff", node.data, 0.0) if node.type is Compute.F32 \
            else struct.pack("<Q", node.data % (1 << 64))
        a, b = struct.unpack("<ii", raw)
    elif node.op in (Op.LEAF, Op.COORD):
        a = node.data
    elif node.op is Op.LOAD:
        a, b = node.data, sources[0]
    elif node.op is Op.CAST:
        b = int(node.args[0].type)
    elif node.op is Op.SATURATE:
        b, c = int(node.data), int(node.args[0].type)
    elif node.op in _COMPARE:
        c = int(node.args[0].type)
    return [int(node.op), int(node.type), target, a, b, c]


def evaluate(root: E, operands: Sequence[np.ndarray | None], shape: tuple[int, ...], accumulated: np.ndarray | None = None) -> np.ndarray:
    """The expression over an iteration space of `shape` by NumPy: operands broadcast to it. Returns an array of the compute type."""
    made: dict[int, np.ndarray] = {}

    def value(node: E) -> np.ndarray:
        if id(node) not in made:
            made[id(node)] = np.asarray(_evaluate_node(node, value, operands, shape, accumulated), node.type.numpy)
        return made[id(node)]
    with np.errstate(all="ignore"):
        return np.broadcast_to(value(root), shape)


def _evaluate_node(node: E, value: Callable[[E], np.ndarray], operands: Sequence[np.ndarray | None], shape: tuple[int, ...], accumulated: np.ndarray | None) -> Any:
    if node.op is Op.CONST:
        return np.array(node.data % (1 << 64) if node.type is Compute.U64 else node.data, node.type.numpy)
    if node.op is Op.LEAF:
        operand = operands[node.data]
        assert operand is not None
        return plain(operand).astype(node.type.numpy)
    if node.op is Op.ACC:
        assert accumulated is not None
        return accumulated.astype(node.type.numpy)
    if node.op is Op.COORD:
        return np.arange(shape[node.data]).reshape([-1 if i == node.data else 1 for i in range(len(shape))])
    if node.op is Op.LOAD:
        operand, index = operands[node.data], value(node.args[0])
        assert operand is not None
        if index.size and (index.min() < 0 or index.max() >= operand.size):
            raise IndexError(f"load index outside 0 … {operand.size - 1}")
        return plain(operand.reshape(-1)[index]).astype(node.type.numpy)
    args = [value(a) for a in node.args]
    if node.op is Op.SATURATE:
        return _saturate(args[0], node.data)
    if node.op is Op.CAST:
        return _truncate(args[0], node.type)
    return _APPLY[node.op](*args)


def _truncate(x: np.ndarray, type: Compute) -> np.ndarray:
    """Float → integer truncates and saturates at the compute type, NaN gives 0; integers wrap."""
    if x.dtype.kind != "f" or type.is_float:
        return x.astype(type.numpy)
    info = np.iinfo(type.numpy)
    wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    clipped = np.clip(wide, float(info.min), np.nextafter(float(info.max) + 1, 0))
    return np.where(wide >= float(info.max), info.max, np.where(wide <= float(info.min), info.min, clipped.astype(type.numpy)))


def _saturate(x: np.ndarray, dtype: DType) -> np.ndarray:
    bits = dtype.bits if dtype is not DType.BOOL else 1
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed_integer else (0, (1 << bits) - 1)
    if x.dtype.kind == "f":
        x = np.nan_to_num(np.rint(x.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    return np.clip(x, low, high)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if not np.all(b):
        raise ZeroDivisionError("integer division by zero")
    if a.dtype.kind == "u":
        return a // b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64)).reshape(x.shape)


_APPLY: dict[Op, Callable[..., Any]] = {
    Op.ADD: np.add, Op.SUB: np.subtract, Op.MUL: np.multiply, Op.DIV: _divide, Op.MOD: np.mod, Op.FMOD: np.fmod, Op.MIN: np.minimum, Op.MAX: np.maximum, Op.POW: np.power,
    Op.FMA: lambda a, b, c: a * b + c, Op.NEG: np.negative, Op.ABS: np.abs, Op.SIGN: np.sign, Op.FLOOR: np.floor, Op.CEIL: np.ceil, Op.ROUND: np.rint, Op.TRUNC: np.trunc,
    Op.SQRT: np.sqrt, Op.RECIPROCAL: lambda a: 1 / a, Op.EXP: np.exp, Op.LOG: np.log, Op.SIN: np.sin, Op.COS: np.cos, Op.TAN: np.tan, Op.ASIN: np.arcsin, Op.ACOS: np.arccos,
    Op.ATAN: np.arctan, Op.SINH: np.sinh, Op.COSH: np.cosh, Op.TANH: np.tanh, Op.ASINH: np.arcsinh, Op.ACOSH: np.arccosh, Op.ATANH: np.arctanh, Op.ERF: _erf,
    Op.SIGMOID: lambda a: 1 / (1 + np.exp(-a)), Op.LOG1P: np.log1p, Op.EQ: np.equal, Op.NE: np.not_equal, Op.LT: np.less, Op.LE: np.less_equal, Op.GT: np.greater,
    Op.GE: np.greater_equal, Op.AND: np.bitwise_and, Op.OR: np.bitwise_or, Op.XOR: np.bitwise_xor, Op.NOT: np.invert, Op.SHL: np.left_shift, Op.SHR: np.right_shift,
    Op.SELECT: lambda c, a, b: np.where(c != 0, a, b), Op.ISNAN: np.isnan, Op.ISINF: np.isinf,
}
