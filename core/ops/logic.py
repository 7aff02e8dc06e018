"""Boolean logic, comparisons and bitwise operators. Comparisons of known symbolic sizes give a known bool where it is provable either way."""
from __future__ import annotations

import numpy as np

from ..expr import E, Op, binary, cast, compute_type, const, select, unary
from ..lowering import Lowering, View
from .common import broadcasting, comparing, like, same_type
from .maps import as_bool, elementwise, op1, op2
from .numeric import equal, sizes_rule
from .registry import Spec, operator, require


@operator()
def And(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A ∧ B."""
    return np.logical_and(A, B)


@operator()
def Or(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A ∨ B."""
    return np.logical_or(A, B)


@operator()
def Xor(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A ≠ B of bools."""
    return np.logical_xor(A, B)


@operator()
def Not(X: np.ndarray) -> np.ndarray:
    """¬X."""
    return np.logical_not(X)


@operator()
def Equal(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A = B, strings too; NaN equals nothing."""
    return np.asarray(A == B, bool)


@operator()
def Greater(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A > B."""
    return A > B


@operator()
def GreaterOrEqual(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A ≥ B."""
    return A >= B


@operator()
def Less(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A < B."""
    return A < B


@operator()
def LessOrEqual(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A ≤ B."""
    return A <= B


@operator()
def BitwiseAnd(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The bits set in both."""
    return A & B


@operator()
def BitwiseOr(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The bits set in either."""
    return A | B


@operator()
def BitwiseXor(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The bits set in one only."""
    return A ^ B


@operator()
def BitwiseNot(X: np.ndarray) -> np.ndarray:
    """The bits inverted."""
    return ~X


@operator()
def BitShift(X: np.ndarray, Y: np.ndarray, *, direction: str) -> np.ndarray:
    """X shifted by Y bits; right shifts of signed types copy the sign. A shift outside [0, bits) leaves only the fill: −1 or 0."""
    require(direction in ("LEFT", "RIGHT"), f"direction '{direction}' is not LEFT or RIGHT")
    inside = (Y >= 0) & np.less(Y, 8 * Y.dtype.itemsize)
    amount = np.where(inside, Y, Y.dtype.type(0))
    if direction == "LEFT":
        return np.where(inside, X << amount, X.dtype.type(0))
    return np.where(inside, X >> amount, -(X < 0).astype(X.dtype))


for _op in (And, Or, Xor, Equal, Greater, GreaterOrEqual, Less, LessOrEqual):
    _op.shape(comparing)
for _op in (BitwiseAnd, BitwiseOr, BitwiseXor):
    _op.shape(broadcasting)
for _op in (Not, BitwiseNot):
    _op.shape(like)
Equal.values(sizes_rule(equal))
Greater.values(sizes_rule(lambda a, b: a > b))
GreaterOrEqual.values(sizes_rule(lambda a, b: a >= b))
Less.values(sizes_rule(lambda a, b: a < b))
LessOrEqual.values(sizes_rule(lambda a, b: a <= b))


@BitShift.shape
def _(X: Spec, Y: Spec, *, direction: str) -> Spec:
    require(direction in ("LEFT", "RIGHT"), f"direction '{direction}' is not LEFT or RIGHT")
    dtype = same_type(X, Y)
    require(dtype is None or dtype.is_integer, f"BitShift needs integers, not {dtype.text if dtype else '?'}")
    return broadcasting(X, Y)


# -- lowering: bools are I32 0 or 1 ---------------------------------------------------------------------------------------------------------

for _operator, _expression in ((Equal, Op.EQ), (Greater, Op.GT), (GreaterOrEqual, Op.GE), (Less, Op.LT), (LessOrEqual, Op.LE), (BitwiseAnd, Op.AND), (BitwiseOr, Op.OR), (BitwiseXor, Op.XOR)):
    _operator.lower(op2(_expression))
BitwiseNot.lower(op1(Op.NOT))
And.lower(elementwise(lambda a, b: binary(Op.AND, as_bool(a), as_bool(b))))
Or.lower(elementwise(lambda a, b: binary(Op.OR, as_bool(a), as_bool(b))))
Xor.lower(elementwise(lambda a, b: binary(Op.NE, as_bool(a), as_bool(b))))
Not.lower(elementwise(lambda x: binary(Op.EQ, x, 0)))


@BitShift.lower
def _(k: Lowering, X: View, Y: View, *, direction: str, out: Spec) -> View:
    bits, wide = X.dtype.bits, compute_type(X.dtype)

    def body(x: E, y: E) -> E:
        inside = binary(Op.AND, binary(Op.GE, y, 0), binary(Op.LT, y, bits))
        amount = select(inside, y, const(0, wide))
        left = direction == "LEFT"
        shifted = binary(Op.SHL if left else Op.SHR, x, amount)
        fill = const(0, wide) if left or not X.dtype.is_signed_integer else cast(unary(Op.NEG, binary(Op.LT, x, 0)), wide)
        return select(inside, shifted, fill)
    return elementwise(body)(k, X, Y, out=out)
