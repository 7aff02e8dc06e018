"""Activation functions, and the three that look along an axis: Softmax, LogSoftmax, Hardmax."""
from __future__ import annotations

import numpy as np

from ..expr import E, Op, binary, select, unary
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .common import broadcast_shapes, like, normalize_axis, same_type
from .maps import elementwise, op1
from .numeric import erfc, rounded, wide
from .registry import Spec, operator, require


@operator()
def Relu(X: np.ndarray) -> np.ndarray:
    """max(X, 0)."""
    return rounded(lambda x: np.maximum(x, x.dtype.type(0)), X)


@operator()
def LeakyRelu(X: np.ndarray, *, alpha: float = 0.009999999776482582) -> np.ndarray:
    """X where X ≥ 0, alpha·X elsewhere."""
    return rounded(lambda x: np.where(x < 0, alpha * x, x), X)


@operator()
def PRelu(X: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """X where X ≥ 0, slope·X elsewhere; slope broadcasts to X."""
    return rounded(lambda x, s: np.where(x < 0, s * x, x), X, slope)


@operator()
def ThresholdedRelu(X: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """X where X > alpha, 0 elsewhere."""
    return rounded(lambda x: np.where(x > alpha, x, 0), X)


@operator()
def Elu(X: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """X where X ≥ 0, alpha·(e^X − 1) elsewhere."""
    return rounded(lambda x: np.where(x < 0, alpha * np.expm1(x), x), X)


@operator()
def Selu(X: np.ndarray, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> np.ndarray:
    """gamma·X where X > 0, gamma·alpha·(e^X − 1) elsewhere."""
    return rounded(lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(x)), X)


@operator()
def Celu(X: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """max(0, X) + min(0, alpha·(e^(X/alpha) − 1))."""
    return rounded(lambda x: np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0), X)


@operator()
def Sigmoid(X: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−X)."""
    return rounded(sigmoid, X)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


@operator()
def HardSigmoid(X: np.ndarray, *, alpha: float = 0.20000000298023224, beta: float = 0.5) -> np.ndarray:
    """max(0, min(1, alpha·X + beta))."""
    return rounded(lambda x: np.clip(alpha * x + beta, 0, 1), X)


@operator()
def HardSwish(X: np.ndarray) -> np.ndarray:
    """X · max(0, min(1, X/6 + 1/2))."""
    return rounded(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), X)


@operator()
def Swish(X: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """X · sigmoid(alpha·X)."""
    return rounded(lambda x: x * sigmoid(alpha * x), X)


@operator()
def SwiGLU(A: np.ndarray, B: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    """Swish(A) · B; equal shapes."""
    require(A.shape == B.shape, f"A {list(A.shape)} and B {list(B.shape)} must have equal shapes: SwiGLU does not broadcast")
    return rounded(lambda a, b: a * sigmoid(alpha * a) * b, A, B)


@operator()
def Softplus(X: np.ndarray) -> np.ndarray:
    """log(1 + e^X)."""
    return rounded(softplus, X)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@operator()
def Mish(X: np.ndarray) -> np.ndarray:
    """X · tanh(softplus(X))."""
    return rounded(lambda x: x * np.tanh(softplus(x)), X)


@operator()
def Gelu(X: np.ndarray, *, approximate: str = "none") -> np.ndarray:
    """X · Φ(X) with Φ the normal distribution, or its tanh approximation."""
    require(approximate in ("none", "tanh"), f"approximate '{approximate}' is not 'none' or 'tanh'")
    if approximate == "tanh":
        return rounded(lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), X)
    return rounded(lambda x: 0.5 * x * erfc(-x / np.sqrt(2)), X)


@operator()
def Softsign(input: np.ndarray) -> np.ndarray:
    """x / (1 + |x|)."""
    return rounded(lambda x: x / (1 + np.abs(x)), input)


@operator()
def Shrink(input: np.ndarray, *, bias: float = 0.0, lambd: float = 0.5) -> np.ndarray:
    """x + bias below −lambd, x − bias above lambd, 0 between; integers are truncated."""
    return rounded(lambda x: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)), input)


for _op in (Relu, LeakyRelu, ThresholdedRelu, Elu, Selu, Celu, Sigmoid, HardSigmoid, HardSwish, Swish, Softplus, Mish, Gelu, Softsign, Shrink):
    _op.shape(like)


@PRelu.shape
def _(X: Spec, slope: Spec) -> Spec:
    if X.rank is not None and slope.rank is not None:
        require(slope.rank <= X.rank, f"slope {slope} must broadcast to X {X}: it has more axes")
        broadcast_shapes(X.shape, slope.shape)
    return Spec(same_type(X, slope, names="X and slope"), X.shape)


@SwiGLU.shape
def _(A: Spec, B: Spec, *, alpha: float = 1.0) -> Spec:
    require(A.rank is None or B.rank is None or A.rank == B.rank, f"A {A} and B {B} must have equal shapes: SwiGLU does not broadcast")
    for a, b in zip(A.shape or (), B.shape or (), strict=False):
        require(not (isinstance(a, int) and isinstance(b, int)) or a == b, f"A {A} and B {B} must have equal shapes: SwiGLU does not broadcast")
    return Spec(same_type(A, B), A.shape if A.shape is not None else B.shape)


# -- along an axis ---------------------------------------------------------------------------------------------------------------------------


@operator()
def Softmax(input: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """e^x divided by its sum along the axis. In a narrow float every step rounds to it, as the specification's function body does; the sum accumulates in float32."""
    def step(x: np.ndarray) -> np.ndarray:
        return wide(x.astype(input.dtype))
    x = wide(input)
    powers = step(np.exp(step(x - x.max(axis, keepdims=True, initial=-np.inf))))
    return np.asarray((powers / step(powers.sum(axis, keepdims=True))).astype(input.dtype))


@operator()
def LogSoftmax(input: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """The logarithm of Softmax."""
    return rounded(lambda x: log_softmax(x, axis), input)


def log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """log of Softmax along an axis, without forming it."""
    shifted = x - x.max(axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


@operator()
def Hardmax(input: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """1 at the first greatest element along the axis, 0 elsewhere."""
    out = np.zeros(input.shape, input.dtype)
    if input.size:
        np.put_along_axis(out, np.expand_dims(np.argmax(rounded(np.positive, input), axis), axis), input.dtype.type(1), axis)
    return out


@Softmax.shape
@LogSoftmax.shape
@Hardmax.shape
def _(input: Spec, *, axis: int = -1) -> Spec:
    if input.rank is not None:
        normalize_axis(axis, input.rank)
    return like(input)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _gelu(x: E, approximate: str = "none") -> E:
    if approximate == "tanh":
        return 0.5 * x * (1 + unary(Op.TANH, 0.7978845608028654 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + unary(Op.ERF, x * 0.7071067811865476))


Relu.lower(elementwise(lambda x: binary(Op.MAX, x, 0)))
LeakyRelu.lower(elementwise(lambda x, alpha=0.01: select(binary(Op.LT, x, 0), x * alpha, x)))
PRelu.lower(elementwise(lambda x, slope: select(binary(Op.LT, x, 0), x * slope, x)))
Sigmoid.lower(op1(Op.SIGMOID))
HardSigmoid.lower(elementwise(lambda x, alpha=0.2, beta=0.5: binary(Op.MAX, binary(Op.MIN, x * alpha + beta, 1), 0)))
HardSwish.lower(elementwise(lambda x: x * binary(Op.MAX, binary(Op.MIN, x * (1 / 6) + 0.5, 1), 0)))
Swish.lower(elementwise(lambda x, alpha=1.0: x * unary(Op.SIGMOID, x * alpha)))
SwiGLU.lower(elementwise(lambda a, b, alpha=1.0: a * unary(Op.SIGMOID, a * alpha) * b))
Gelu.lower(elementwise(_gelu))
Elu.lower(elementwise(lambda x, alpha=1.0: select(binary(Op.LT, x, 0), (unary(Op.EXP, x) - 1) * alpha, x)))
Softsign.lower(elementwise(lambda x: x / (1 + unary(Op.ABS, x))))


def softmax_view(k: Lowering, x: View, axis: int, mode: int = 0, dtype: DType | None = None) -> View:
    """Softmax (mode 0), its logarithm (1) or Hardmax (2) along an axis."""
    made = k.buffer(dtype or x.dtype, x.shape).whole()
    k.call(Kernel.SOFTMAX, [x, None], [made], axis=axis % x.rank, mode=mode, scale=1.0)
    return made


Softmax.lower(lambda k, input, *, axis=-1, out: softmax_view(k, input, axis, 0))
LogSoftmax.lower(lambda k, input, *, axis=-1, out: softmax_view(k, input, axis, 1))
Hardmax.lower(lambda k, input, *, axis=-1, out: softmax_view(k, input, axis, 2))




ThresholdedRelu.lower(elementwise(lambda x, alpha=1.0: select(binary(Op.GT, x, alpha), x, 0)))
Selu.lower(elementwise(lambda x, alpha=1.6732631921768188, gamma=1.0507010221481323: select(binary(Op.GT, x, 0), x, (unary(Op.EXP, x) - 1) * alpha) * gamma))
Celu.lower(elementwise(lambda x, alpha=1.0: binary(Op.MAX, x, 0) + binary(Op.MIN, (unary(Op.EXP, x / alpha) - 1) * alpha, 0)))
Shrink.lower(elementwise(lambda x, bias=0.0, lambd=0.5: select(binary(Op.LT, x, -lambd), x + bias, select(binary(Op.GT, x, lambd), x - bias, x - x))))
Softplus.lower(elementwise(lambda x: _softplus(x)))
Mish.lower(elementwise(lambda x: x * unary(Op.TANH, _softplus(x))))


def _softplus(x: E) -> E:
    return binary(Op.MAX, x, 0) + unary(Op.LOG1P, unary(Op.EXP, -unary(Op.ABS, x)))
