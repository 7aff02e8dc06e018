"""Numbers for the reference bodies: narrow floats are computed in float32 and rounded once; the error function; exact arithmetic of known sizes.

Rule of precision: float16, bfloat16 and narrower floats are widened to float32, the whole operator is computed there and the result is rounded to the
input's type once. float32 and float64 are computed in themselves, except that long sums of float32 accumulate in float64 (`accumulator`).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial, reduce
from typing import Any

import numpy as np

from ..dim import Expr, Undecidable, as_exact, bounds, ceildiv, dim_max, dim_min, floordiv, provably
from ..dim import mod as dim_mod
from ..narrow import plain
from ..types import DType
from .registry import Spec, require


def wide(x: np.ndarray) -> np.ndarray:
    """A float narrower than 32 bits as float32; any other array as it is."""
    dtype = x.dtype
    if dtype.kind in "biuOc" or dtype in (np.float32, np.float64) or not DType.of(dtype).is_float:
        return x
    return plain(x) if not DType.of(dtype).is_numpys_own else x.astype(np.float32)


def accumulator(x: np.ndarray) -> np.dtype[Any]:
    """The type sums of `x` accumulate in: float64 for real floats, the (wrapping) type itself for integers."""
    return np.dtype(np.float64) if x.dtype.kind not in "biu" and DType.of(x).is_float else x.dtype


def rounded(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """`function` of the widened arrays, rounded to the first one's type."""
    return np.asarray(function(*map(wide, arrays))).astype(arrays[0].dtype, copy=False)


def require_nonzero(divisor: np.ndarray, operator: str) -> None:
    """Integer division by zero has no value: InvalidGraph (the executor names the node) instead of what the processor does."""
    if divisor.dtype.kind in "iu" and not np.all(divisor):
        where = [int(i) for i in np.argwhere(divisor == 0)[0]]
        require(False, f"integer {operator} by zero: B is 0 at index {where}; make the divisor non-zero or divide in floating point")


# -- error function: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), coefficients of CALERF --------

_A = (3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02, 3.20937758913846947e03, 1.85777706184603153e-1)
_B = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
_C = (5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e01, 2.98635138197400131e02, 8.81952221241769090e02, 1.71204761263407058e03,
      2.05107837782607147e03, 1.23033935479799725e03, 2.15311535474403846e-8)
_D = (1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02, 1.62138957456669019e03, 3.29079923573345963e03, 4.36261909014324716e03,
      3.43936767414372164e03, 1.23033935480374942e03)
_P = (3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4, 1.63153871373020978e-2)
_Q = (2.56852019228982242e00, 1.87295284992346725e00, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3)


def _rational(t: np.ndarray, above: Sequence[float], below: Sequence[float]) -> np.ndarray:
    """Cody's quotient: numerator coefficients `above` (leading one last), denominator monic with coefficients `below`, both by Horner's rule."""
    numerator, denominator = above[-1] * t, t
    for a, b in zip(above[:-2], below[:-1], strict=True):
        numerator, denominator = (numerator + a) * t, (denominator + b) * t
    return (numerator + above[-2]) / (denominator + below[-1])


def erfc(x: np.ndarray) -> np.ndarray:
    """1 − erf(x) in float64, accurate in relative terms in the positive tail too."""
    y = np.abs(np.asarray(x, np.float64))
    small = y <= 0.46875
    middle = np.where(small | (y > 4), 1.0, y)
    large = np.clip(y, 4, 30)  # erfc(30) is 0
    inverse = 1 / (large * large)
    tail = np.where(y > 4, (1 / np.sqrt(np.pi) - inverse * _rational(inverse, _P, _Q)) / large, _rational(middle, _C, _D)) * np.exp(-np.minimum(y, 30) ** 2)
    return np.where(small, 1 - erf_small(np.where(small, x, 0.0)), np.where(np.asarray(x) < 0, 2 - tail, tail)) + 0 * np.where(np.isnan(y), y, 0)


def erf_small(x: np.ndarray) -> np.ndarray:
    """erf(x) for |x| ≤ 0.46875."""
    return x * _rational(x * x, _A, _B)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, computed in float64; the result is float64."""
    x = np.asarray(x, np.float64)
    small = np.abs(x) <= 0.46875
    return np.where(small, erf_small(np.where(small, x, 0.0)), np.copysign(1 - erfc(np.abs(x)), x))


# -- arithmetic of known sizes: what value rules of elementwise operators are made of --------------------------------------------------------------


def exact(value: Any) -> np.ndarray:
    """An array of numbers and Dims as an object array of ints, Fractions and Dims (floats as the short fraction they stand for)."""
    array = np.asarray(value)
    out = np.empty(array.shape, object)
    for i, item in enumerate(array.ravel().tolist()):
        out.reshape(-1)[i] = as_exact(item) if isinstance(item, float) else item
    return out


def known_sizes(*specs: Spec | None) -> list[np.ndarray] | None:
    """The known values as object arrays, where all are known and at least one is symbolic (plain numbers are the body's business)."""
    values = [None if s is None else s.value for s in specs]
    if any(v is None for v in values) or not any(np.asarray(v).dtype == object for v in values):
        return None
    if any(s is not None and s.dtype in (None, DType.STRING) for s in specs):
        return None
    try:
        return [exact(v) for v in values]
    except (OverflowError, ValueError):  # infinity or NaN among them: no size
        return None


def sizes_rule(function: Callable[..., Any], *, fold: bool = False) -> Callable[..., Any]:
    """A value rule that applies `function` element by element (`fold`: pairwise over any number of inputs). Undecidable elements make the value unknown."""
    def rule(*specs: Spec | None, **attributes: Any) -> np.ndarray | None:
        given = known_sizes(*specs)
        if given is None:
            return None
        if fold:
            return reduce(np.frompyfunc(function, 2, 1), given)
        return np.frompyfunc(partial(function, **attributes), len(given), 1)(*given)
    return rule


def is_integral(value: Any) -> bool:
    """True for an int and for an expression with integer coefficients."""
    return isinstance(value, int) or (isinstance(value, Expr) and all(isinstance(f, int) for _, f in value.terms))


def trunc_div(a: Any, b: Any) -> Any:
    """ONNX's integer division of sizes: a / b rounded towards zero."""
    if not isinstance(b, Expr) and b < 0:
        return trunc_div(-a, -b)
    if isinstance(b, Expr) and not provably(lambda: b >= 0):
        raise Undecidable(f"cannot divide {a} by {b}: its sign is not known")
    if provably(lambda: a >= 0):
        return floordiv(a, b)
    return dim_max(floordiv(a, b), 0) + dim_min(ceildiv(a, b), 0)


def remainder(a: Any, b: Any, fmod: int = 0) -> Any:
    """`Mod` of sizes: the sign of the divisor (fmod 0) or of the dividend (fmod 1)."""
    if fmod:
        return a - b * trunc_div(a, b)
    if isinstance(a, Expr) or isinstance(b, Expr):
        if not provably(lambda: b >= 0):
            raise Undecidable(f"{a} modulo {b}: the divisor may be negative")
        return dim_mod(a, b)
    return a % b


def equal(a: Any, b: Any) -> bool:
    """Whether two sizes are equal, where that is provable either way; Undecidable otherwise."""
    if a == b:
        return True
    low, high = bounds(a - b)
    if (low is not None and low > 0) or (high is not None and high < 0):
        return False
    raise Undecidable(f"cannot decide whether {a} == {b} before the model runs")


def nearest(value: Any) -> Any:
    """Round half to even of a size or Fraction."""
    if is_integral(value):
        return value
    if isinstance(value, Fraction):
        return round(value)
    raise Undecidable(f"cannot round {value} to the nearest integer before the model runs")


def power(base: Any, exponent: Any) -> Any:
    """base ** exponent for a small whole exponent."""
    if not isinstance(exponent, int) or not 0 <= exponent <= 16:
        raise Undecidable(f"{base} ** {exponent}")
    return reduce(lambda product, _: product * base, range(exponent), 1)
