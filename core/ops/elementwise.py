"""Arithmetic and elementary functions, element by element: Abs … Where, the cumulative sums, Trilu and Dropout."""
from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from ..dim import dim_ceil, dim_floor, dim_max, dim_min, exact_div, is_static
from ..expr import Compute, E, Op, binary, cast, compute_type, const, coord, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .cast import highest, lowest
from .common import broadcast_shapes, broadcasting, like, normalize_axis, same_type
from .maps import as_bool, elementwise, folded, known_number, numbers, op1, op2, scalar, whole_number
from .numeric import accumulator, erf, known_sizes, nearest, power, remainder, require_nonzero, rounded, sizes_rule, trunc_div, wide
from .random import drawn
from .registry import Context, Spec, operator, require

# -- arithmetic ------------------------------------------------------------------------------------------------------------------------------


@operator(symbolic=True)
def Add(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A + B; integers wrap."""
    return A + B


@operator(symbolic=True)
def Sub(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A − B; integers wrap."""
    return A - B


@operator(symbolic=True)
def Mul(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A · B; integers wrap."""
    return A * B


@operator()
def Div(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A / B; integers round towards zero, and an integer zero in B is an error."""
    if A.dtype.kind not in "iu":
        return A / B
    require_nonzero(B, "division")
    quotient = A // B  # rounded down; one up where that was away from zero
    return quotient + ((quotient < 0) & (quotient * B != A)).astype(A.dtype) if A.dtype.kind == "i" else quotient


@operator()
def Mod(A: np.ndarray, B: np.ndarray, *, fmod: int = 0) -> np.ndarray:
    """The remainder of A / B with the sign of B (fmod 0) or of A (fmod 1)."""
    require_nonzero(B, "modulo")
    return rounded(np.fmod if fmod else np.mod, A, B)


@operator()
def Pow(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """X to the power Y, in X's type. Integer powers wrap; negative integer exponents truncate (2 ** -1 is 0)."""
    if X.dtype.kind in "iu" and Y.dtype.kind in "iu":
        return _integer_power(X, Y)
    if X.dtype == Y.dtype:
        return rounded(np.power, X, Y)
    return np.asarray(np.power(X.astype(np.float64), Y.astype(np.float64))).astype(X.dtype)


def _integer_power(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    # Powers modulo 2^64 in unsigned arithmetic are right for two's complement bases and for every narrower type.
    whole = np.power(X.astype(np.int64).astype(np.uint64), np.maximum(Y, 0).astype(np.uint64)).astype(X.dtype)
    odd = (Y & Y.dtype.type(1)).astype(bool)
    inverse = np.where(X == 1, 1, np.where(X == -1, np.where(odd, -1, 1), 0)).astype(X.dtype)
    return np.where(Y < 0, inverse, whole)


@operator()
def Neg(X: np.ndarray) -> np.ndarray:
    """−X; the lowest integer stays itself."""
    return -X


@operator()
def Abs(X: np.ndarray) -> np.ndarray:
    """|X|; the lowest integer stays itself."""
    return np.abs(X)


@operator()
def Sign(input: np.ndarray) -> np.ndarray:
    """1, 0 or −1; NaN stays NaN."""
    return rounded(np.sign, input)


@operator()
def Reciprocal(X: np.ndarray) -> np.ndarray:
    """1 / X."""
    return rounded(lambda x: np.divide(1, x, dtype=x.dtype), X)


@operator()
def Floor(X: np.ndarray) -> np.ndarray:
    """The largest integer not above X."""
    return rounded(np.floor, X)


@operator()
def Ceil(X: np.ndarray) -> np.ndarray:
    """The smallest integer not below X."""
    return rounded(np.ceil, X)


@operator()
def Round(X: np.ndarray) -> np.ndarray:
    """The nearest integer, halves to even."""
    return rounded(np.rint, X)


@operator()
def Max(*data_0: np.ndarray) -> np.ndarray:
    """The greatest of the inputs; NaN wins."""
    return rounded(lambda *xs: reduce(np.maximum, xs), *data_0)


@operator()
def Min(*data_0: np.ndarray) -> np.ndarray:
    """The least of the inputs; NaN wins."""
    return rounded(lambda *xs: reduce(np.minimum, xs), *data_0)


@operator(symbolic=True)
def Sum(*data_0: np.ndarray) -> np.ndarray:
    """The sum of the inputs."""
    return rounded(lambda *xs: reduce(np.add, xs), *data_0)


@operator()
def Mean(*data_0: np.ndarray) -> np.ndarray:
    """The mean of the inputs."""
    return rounded(lambda *xs: reduce(np.add, xs) / np.asarray(len(xs), xs[0].dtype), *data_0)


@operator()
def Clip(input: np.ndarray, min: np.ndarray | None = None, max: np.ndarray | None = None) -> np.ndarray:
    """Min(max, Max(input, min)). An absent bound is the type's lowest or highest finite value, so infinities become finite, as in onnxruntime."""
    dtype = DType.of(input)
    low = np.asarray(lowest(dtype), input.dtype) if min is None else min.reshape(())
    high = np.asarray(highest(dtype), input.dtype) if max is None else max.reshape(())
    return rounded(lambda x, lo, hi: np.minimum(np.maximum(x, lo), hi), input, low, high)


@Clip.shape
def _(input: Spec, min: Spec | None = None, max: Spec | None = None) -> Spec:
    for bound, name in ((min, "min"), (max, "max")):
        if bound is not None and bound.shape and is_static(bound.shape) and any(d != 1 for d in bound.shape):
            require(False, f"{name} must be a scalar, not {bound}")
    return Spec(same_type(input, min, max), input.shape)


@Clip.values
def _(input: Spec, min: Spec | None = None, max: Spec | None = None) -> Any:
    given = known_sizes(*(s for s in (input, min, max) if s is not None))
    if given is None:
        return None
    value, *limits = given
    if min is not None:
        value = np.frompyfunc(dim_max, 2, 1)(value, limits.pop(0).reshape(()))
    if max is not None:
        value = np.frompyfunc(dim_min, 2, 1)(value, limits.pop(0).reshape(()))
    return value


def _divide(A: Spec, B: Spec) -> Any:
    return sizes_rule(exact_div if A.dtype is not None and A.dtype.is_float else trunc_div)(A, B)


def _mean(*inputs: Spec) -> Any:
    total = sizes_rule(lambda a, b: a + b, fold=True)(*inputs)
    return None if total is None else np.frompyfunc(lambda t: exact_div(t, len(inputs)), 1, 1)(total)


for _op in (Add, Sub, Mul, Div, Mod, Max, Min, Sum, Mean):
    _op.shape(broadcasting)
for _op in (Neg, Abs, Sign, Reciprocal, Floor, Ceil, Round):
    _op.shape(like)
Div.values(_divide)
Mod.values(sizes_rule(remainder))
Neg.values(sizes_rule(lambda x: -x))
Abs.values(sizes_rule(lambda x: dim_max(x, -x)))
Floor.values(sizes_rule(dim_floor))
Ceil.values(sizes_rule(dim_ceil))
Round.values(sizes_rule(nearest))
Reciprocal.values(sizes_rule(lambda x: exact_div(1, x)))
Max.values(sizes_rule(dim_max, fold=True))
Min.values(sizes_rule(dim_min, fold=True))
Mean.values(_mean)
Pow.values(sizes_rule(power))


@Pow.shape
def _(X: Spec, Y: Spec) -> Spec:
    return Spec(X.dtype, broadcast_shapes(X.shape, Y.shape))


# -- elementary functions of floats ----------------------------------------------------------------------------------------------------------


@operator()
def Sqrt(X: np.ndarray) -> np.ndarray:
    """√X; NaN for negative X."""
    return rounded(np.sqrt, X)


@operator()
def Exp(input: np.ndarray) -> np.ndarray:
    """e to the power of the input."""
    return rounded(np.exp, input)


@operator()
def Log(input: np.ndarray) -> np.ndarray:
    """The natural logarithm."""
    return rounded(np.log, input)


@operator()
def Erf(input: np.ndarray) -> np.ndarray:
    """The error function."""
    return rounded(erf, input)


@operator()
def Sin(input: np.ndarray) -> np.ndarray:
    """Sine."""
    return rounded(np.sin, input)


@operator()
def Cos(input: np.ndarray) -> np.ndarray:
    """Cosine."""
    return rounded(np.cos, input)


@operator()
def Tan(input: np.ndarray) -> np.ndarray:
    """Tangent."""
    return rounded(np.tan, input)


@operator()
def Asin(input: np.ndarray) -> np.ndarray:
    """Inverse sine."""
    return rounded(np.arcsin, input)


@operator()
def Acos(input: np.ndarray) -> np.ndarray:
    """Inverse cosine."""
    return rounded(np.arccos, input)


@operator()
def Atan(input: np.ndarray) -> np.ndarray:
    """Inverse tangent."""
    return rounded(np.arctan, input)


@operator()
def Sinh(input: np.ndarray) -> np.ndarray:
    """Hyperbolic sine."""
    return rounded(np.sinh, input)


@operator()
def Cosh(input: np.ndarray) -> np.ndarray:
    """Hyperbolic cosine."""
    return rounded(np.cosh, input)


@operator()
def Tanh(input: np.ndarray) -> np.ndarray:
    """Hyperbolic tangent."""
    return rounded(np.tanh, input)


@operator()
def Asinh(input: np.ndarray) -> np.ndarray:
    """Inverse hyperbolic sine."""
    return rounded(np.arcsinh, input)


@operator()
def Acosh(input: np.ndarray) -> np.ndarray:
    """Inverse hyperbolic cosine."""
    return rounded(np.arccosh, input)


@operator()
def Atanh(input: np.ndarray) -> np.ndarray:
    """Inverse hyperbolic tangent."""
    return rounded(np.arctanh, input)


@operator()
def IsNaN(X: np.ndarray) -> np.ndarray:
    """True where X is NaN."""
    return rounded_to_bool(np.isnan, X)


@operator()
def IsInf(X: np.ndarray, *, detect_negative: int = 1, detect_positive: int = 1) -> np.ndarray:
    """True where X is an infinity of a wanted sign."""
    return rounded_to_bool(lambda x: (bool(detect_negative) & np.isneginf(x)) | (bool(detect_positive) & np.isposinf(x)), X)


def rounded_to_bool(test: Callable[[np.ndarray], Any], X: np.ndarray) -> np.ndarray:
    """A predicate of any float type, by way of float32 for the narrow ones."""
    return np.asarray(test(X if X.dtype in (np.float32, np.float64) else X.astype(np.float32)), bool)


for _op in (Sqrt, Exp, Log, Erf, Sin, Cos, Tan, Asin, Acos, Atan, Sinh, Cosh, Tanh, Asinh, Acosh, Atanh):
    _op.shape(like)


@IsNaN.shape
@IsInf.shape
def _(X: Spec, **_: Any) -> Spec:
    return Spec(DType.BOOL, X.shape)


# -- along an axis, by position, by choice ---------------------------------------------------------------------------------------------------


def _cumulative(ufunc: np.ufunc, x: np.ndarray, axis: np.ndarray, exclusive: int, reverse: int) -> np.ndarray:
    """Running `ufunc` along an axis; exclusive: shifted by one, beginning with the identity."""
    along = normalize_axis(int(axis.reshape(())), x.ndim)
    if reverse:
        return np.flip(_cumulative(ufunc, np.flip(x, along), axis, exclusive, 0), along)
    terms = wide(x)
    out = ufunc.accumulate(terms, along, dtype=accumulator(x) if ufunc is np.add else terms.dtype)
    if exclusive and x.shape[along]:
        first = np.full_like(out.take([0], along), ufunc.identity)
        out = np.concatenate([first, out.take(range(x.shape[along] - 1), along)], along)
    return out.astype(x.dtype)


@operator(symbolic=True)
def CumSum(x: np.ndarray, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> np.ndarray:
    """Running sums along `axis`."""
    return _cumulative(np.add, x, axis, exclusive, reverse)


@operator(symbolic=True)
def CumProd(x: np.ndarray, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> np.ndarray:
    """Running products along `axis`."""
    return _cumulative(np.multiply, x, axis, exclusive, reverse)


@CumSum.shape
@CumProd.shape
def _(x: Spec, axis: Spec, **_: Any) -> Spec:
    along = axis.constant
    if along is not None and x.rank is not None:
        require(along.size == 1, f"axis must be one number, not {axis}")
        normalize_axis(int(along.reshape(())), x.rank)
    return like(x)


@operator()
def Trilu(input: np.ndarray, k: np.ndarray | None = None, *, upper: int = 1) -> np.ndarray:
    """The upper (or lower) triangle of the last two axes from diagonal k on; zeros (empty strings) elsewhere."""
    rows, columns = input.shape[-2:]
    diagonal = np.arange(columns) - np.arange(rows)[:, None]
    start = 0 if k is None else int(k.reshape(()))
    zero = np.zeros((), input.dtype) if input.dtype != object else np.array("", object)
    return np.where(diagonal >= start if upper else diagonal <= start, input, zero)


@Trilu.shape
def _(input: Spec, k: Spec | None = None, *, upper: int = 1) -> Spec:
    require(input.rank is None or input.rank >= 2, f"input must have rank 2 or more, not {input}")
    return like(input)


@operator()
def Where(condition: np.ndarray, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """X where the condition holds, Y elsewhere."""
    return np.where(condition, X, Y)


@Where.shape
def _(condition: Spec, X: Spec, Y: Spec) -> Spec:
    return Spec(same_type(X, Y, names="X and Y"), broadcast_shapes(condition.shape, X.shape, Y.shape))


@Where.values
def _(condition: Spec, X: Spec, Y: Spec) -> Any:
    chosen = condition.constant
    if chosen is None or X.dtype in (None, DType.STRING):
        return None
    shape = broadcast_shapes(condition.shape, X.shape, Y.shape)
    for wanted, source in ((chosen.all(), X), (not chosen.any(), Y)):
        if wanted and source.value is not None and shape is not None and is_static(shape):  # what the other branch holds does not matter
            return np.broadcast_to(source.value, [int(d) for d in shape])  # type: ignore[arg-type]
    given = known_sizes(X, Y)
    return None if given is None else np.where(chosen, *given)


@operator(random=True)
def Dropout(data: np.ndarray, ratio: np.ndarray | None = None, training_mode: np.ndarray | None = None, *, seed: int | None = None,
            context: Context) -> tuple[np.ndarray, np.ndarray]:
    """In training: data · mask / (1 − ratio), and the mask; otherwise data and an all-true mask. A given seed draws as ONNX's reference does (MT19937)."""
    share = 0.5 if ratio is None else float(ratio.reshape(()))
    if training_mode is None or not bool(training_mode.reshape(())) or share == 0:
        return data, np.ones(data.shape, bool)
    require(0 <= share < 1, f"ratio must be in [0, 1), not {share}")
    if seed is None:
        draws = context.random(None).uniform(data.shape)
    else:
        draws = _seeded(seed, data.shape)
    mask = draws >= share
    return rounded(lambda x: mask * x * x.dtype.type(1 / (1 - share)), data), mask


def _seeded(seed: int, shape: Any) -> np.ndarray:
    return np.asarray(np.random.RandomState(seed & 0xFFFFFFFF).uniform(0, 1, shape))


@Dropout.shape
def _(data: Spec, ratio: Spec | None = None, training_mode: Spec | None = None, *, seed: Any = None) -> tuple[Spec, Spec]:
    return Spec(data.dtype, data.shape), Spec(DType.BOOL, data.shape)


# -- lowering: one Map each -------------------------------------------------------------------------------------------------------------------

for _operator, _expression in ((Add, Op.ADD), (Sub, Op.SUB), (Mul, Op.MUL), (Div, Op.DIV)):
    _operator.lower(op2(_expression))
for _operator, _expression in ((Neg, Op.NEG), (Abs, Op.ABS), (Sign, Op.SIGN), (Reciprocal, Op.RECIPROCAL), (Floor, Op.FLOOR), (Ceil, Op.CEIL), (Round, Op.ROUND), (Sqrt, Op.SQRT), (Exp, Op.EXP),
                       (Log, Op.LOG), (Erf, Op.ERF), (Sin, Op.SIN), (Cos, Op.COS), (Tan, Op.TAN), (Asin, Op.ASIN), (Acos, Op.ACOS), (Atan, Op.ATAN), (Sinh, Op.SINH), (Cosh, Op.COSH),
                       (Tanh, Op.TANH), (Asinh, Op.ASINH), (Acosh, Op.ACOSH), (Atanh, Op.ATANH), (IsNaN, Op.ISNAN)):
    _operator.lower(op1(_expression))
Max.lower(folded(Op.MAX))
Min.lower(folded(Op.MIN))
Sum.lower(folded(Op.ADD))
Where.lower(elementwise(lambda condition, X, Y: select(as_bool(condition), X, Y)))
Mod.lower(elementwise(lambda A, B, fmod=0: binary(Op.FMOD if fmod else Op.MOD, A, B)))


def _mean_of(first: E, *rest: E) -> E:
    for x in rest:
        first = first + x
    return first / (1 + len(rest))


Mean.lower(elementwise(_mean_of))


@Pow.lower
def _(k: Lowering, X: View, Y: View, *, out: Spec) -> View:
    exponent = scalar(Y)
    if exponent == 2:
        return elementwise(lambda x: x * x)(k, X, out=Spec(out.dtype, X.shape)).expand(out.shape or ())
    if exponent == 0.5 and X.dtype.is_float:
        return elementwise(lambda x: unary(Op.SQRT, x))(k, X, out=Spec(out.dtype, X.shape)).expand(out.shape or ())
    wide_type = compute_type(X.dtype)
    return elementwise(lambda x, y: binary(Op.POW, cast(x, wide_type), cast(y, wide_type)))(k, X, Y, out=out)


@Clip.lower
def _(k: Lowering, input: View, min: View | None = None, max: View | None = None, *, out: Spec) -> View:
    low, high = scalar(min), scalar(max)
    if (min is not None and low is None) or (max is not None and high is None):
        views = [v for v in (input, min, max) if v is not None]

        def bounded(x: E, *limits: E) -> E:
            rest = list(limits)
            x = binary(Op.MAX, x, rest.pop(0)) if min is not None else x
            return binary(Op.MIN, x, rest.pop(0)) if max is not None else x
        return elementwise(bounded)(k, *views, out=out)

    def body(x: E) -> E:
        x = x if low is None else binary(Op.MAX, x, const(low, x.type))
        return x if high is None else binary(Op.MIN, x, const(high, x.type))
    return elementwise(body)(k, input, out=out)


def _cumulative_rule(op: int) -> Any:
    def rule(k: Lowering, x: View, axis: View, *, exclusive: int = 0, reverse: int = 0, out: Spec) -> View:
        along = normalize_axis(whole_number(numbers(axis, "axis")[0], "axis"), x.rank)
        made = k.buffer(x.dtype, x.shape).whole()
        k.call(Kernel.SCAN, [x], [made], axis=along, exclusive=exclusive, reverse=reverse, op=op)
        return made
    return rule


CumSum.lower(_cumulative_rule(0))
CumProd.lower(_cumulative_rule(1))


@Trilu.lower
def _(k: Lowering, input: View, k_: View | None = None, *, upper: int = 1, out: Spec) -> View:
    def body(x: E, *start: E) -> E:
        first = cast(start[0], Compute.I64) if start else const(0, Compute.I64)
        diagonal = coord(input.rank - 1) - coord(input.rank - 2)
        return select(binary(Op.GE if upper else Op.LE, diagonal, first), x, const(0, x.type))
    starts = [] if k_ is None else [k.reshape(k_, ())]
    return k.map(body, input, *starts, dtype=input.dtype, shape=input.shape)


#: Elements of a Dropout whose seeded draws become a constant: MT19937 is a sequence, which kernels can not enter anywhere.
MOST_SEEDED = 1 << 22


@Dropout.lower
def _(k: Lowering, data: View, ratio: View | None = None, training_mode: View | None = None, *, seed: int | None = None, out: Any) -> tuple[View, View]:
    training, share = None if training_mode is None else known_number(training_mode), 0.5 if ratio is None else known_number(ratio)
    if training_mode is None or training == 0 or share == 0:
        return data, k.constant(np.array(True)).expand(data.shape)
    if share is None or not 0 <= share < 1 or training is None:
        raise CannotLower("whether Dropout drops, and what share, is not known before the model runs")
    if seed is None:
        draws = drawn(k, None, False, 0.0, 1.0, data.shape, DType.DOUBLE)
    else:
        shape = [whole_number(d, "the shape of a seeded Dropout") for d in data.shape]
        if np.prod(shape, dtype=np.float64) > MOST_SEEDED:
            raise CannotLower(f"a seeded Dropout of more than {MOST_SEEDED:,} elements")
        draws = k.constant(_seeded(seed, shape))
    wide = compute_type(data.dtype)
    factor = float(np.asarray(1 / (1 - share)).astype(wide.numpy))
    mask = k.map(lambda u: binary(Op.GE, u, share), draws, dtype=DType.BOOL)
    return k.map(lambda x, m: cast(m, wide) * x * factor, data, mask, dtype=data.dtype), mask


@IsInf.lower
def _(k: Lowering, X: View, *, detect_negative: int = 1, detect_positive: int = 1, out: Spec) -> View:
    def body(x: E) -> E:
        found = unary(Op.ISINF, x)
        sign = binary(Op.AND, binary(Op.LT, x, 0), const(bool(detect_negative), Compute.I32))
        positive = binary(Op.AND, binary(Op.GT, x, 0), const(bool(detect_positive), Compute.I32))
        return binary(Op.AND, found, binary(Op.OR, sign, positive))
    return elementwise(body)(k, X, out=out)
