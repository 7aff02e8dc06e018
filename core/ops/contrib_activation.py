"""com.microsoft: Gelu and its variants, and the products and convolutions with an activation fused in."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..expr import E, Op, binary, unary
from ..lowering import Lowering, View
from ..narrow import asarray
from . import lookup
from .activation import Gelu as OnnxGelu
from .activation import sigmoid
from .common import broadcast_shapes, broadcasting, like, same_type
from .conv import Conv
from .linalg import Gemm, MatMul
from .maps import elementwise
from .numeric import rounded
from .precision import matmul, widened
from .registry import Ints, Operator, Spec, operator, require


@operator("com.microsoft")
def Gelu(X: np.ndarray) -> np.ndarray:
    """X · Φ(X)."""
    return np.asarray(OnnxGelu(X))


Gelu.shape(like)


@operator("com.microsoft")
def QuickGelu(X: np.ndarray, *, alpha: float = 1.7020000219345093) -> np.ndarray:
    """X · sigmoid(alpha·X)."""
    return rounded(lambda x: x * sigmoid(alpha * x), X)


QuickGelu.shape(like)


@operator("com.microsoft")
def BiasGelu(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """(A + B) · Φ(A + B)."""
    return rounded(lambda a, b: OnnxGelu(a + b), A, B)


@operator("com.microsoft")
def FastGelu(X: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """The tanh approximation of Gelu of X + bias."""
    if bias is None:
        return np.asarray(OnnxGelu(X, approximate="tanh"))
    return rounded(lambda x, b: OnnxGelu(x + b, approximate="tanh"), X, bias)


@BiasGelu.shape
@FastGelu.shape
def _(X: Spec, bias: Spec | None = None) -> Spec:
    if bias is not None:
        broadcasting(X, bias)  # a bias that does not fit is found here; the result has X's shape
    return like(X)


# -- products ----------------------------------------------------------------------------------------------------------------------------------


def _rotation(rank: int, batch: int, matrix: int) -> list[int]:
    """The axes of a FusedMatMul operand in MatMul's order: `batch` moves the first axis behind the batch axes, `matrix` then swaps the last two."""
    order = list(range(rank))
    if batch and rank > 2:
        order = [*order[1:-1], 0, rank - 1]
    if matrix and rank > 1:
        order[-2:] = order[:-3:-1]
    return order


@operator("com.microsoft")
def FusedMatMul(A: np.ndarray, B: np.ndarray, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0) -> np.ndarray:
    """alpha · A' @ B', the operands' axes in the order `trans*` and `transBatch*` ask for."""
    left, right = A.transpose(_rotation(A.ndim, transBatchA, transA)), B.transpose(_rotation(B.ndim, transBatchB, transB))
    product = matmul(widened(left), widened(right))
    return np.asarray(product * product.dtype.type(alpha)).astype(A.dtype, copy=False)


@operator("com.microsoft")
def TransposeMatMul(A: np.ndarray, B: np.ndarray, *, alpha: float = 1.0, transA: int = 0, transB: int = 0) -> np.ndarray:
    """FusedMatMul's earlier name."""
    return np.asarray(FusedMatMul(A, B, alpha=alpha, transA=transA, transB=transB))


@FusedMatMul.shape
@TransposeMatMul.shape
def _(A: Spec, B: Spec, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0) -> Spec:
    def turned(x: Spec, batch: int, matrix: int) -> Spec:
        return x if x.shape is None else x.with_shape([x.shape[i] for i in _rotation(len(x.shape), batch, matrix)])
    assert MatMul.shape_rule is not None
    made: Spec = MatMul.shape_rule(turned(A, transBatchA, transA), turned(B, transBatchB, transB))
    return made


#: What a node may fuse, with the names of the parameters in `activation_params`.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "Gelu": (), "HardSwish": (), "LeakyRelu": ("alpha",), "ThresholdedRelu": ("alpha",), "Elu": ("alpha",),
    "Celu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma"), "Clip": ("min", "max"),
}


def _activation(name: str | None) -> Operator | None:
    if not name:
        return None
    require(name in ACTIVATIONS, f"activation '{name}' is not one of {', '.join(ACTIVATIONS)}")
    return lookup("", name)


@operator("com.microsoft")
def FusedGemm(A: np.ndarray, B: np.ndarray, C: np.ndarray | None = None, *, activation: str | None = None, activation_alpha: float | None = None,
              activation_beta: float | None = None, activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> np.ndarray:
    """Gemm, then the activation named."""
    product = Gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    function = _activation(activation)
    given = {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}
    return np.asarray(product if function is None else function(product, **{k: v for k, v in given.items() if v is not None and k in function.attributes}))


@FusedGemm.shape
def _(A: Spec, B: Spec, C: Spec | None = None, *, activation: str | None = None, activation_alpha: float | None = None, activation_beta: float | None = None,
      activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Spec:
    _activation(activation)
    assert Gemm.shape_rule is not None
    made: Spec = Gemm.shape_rule(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return made


@operator("com.microsoft")
def FusedConv(X: Any, W: Any, B: Any = None, Z: Any = None, *, activation: str | None = None, activation_params: Sequence[float] | None = None, auto_pad: str = "NOTSET",
              dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """Conv, plus Z, then the activation named."""
    y = Conv(X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    if Z is not None:
        y = y + Z
    function = _activation(activation)
    if function is None:
        return y
    given = dict(zip(ACTIVATIONS[function.name], activation_params or (), strict=False))
    return np.clip(y, *(y.dtype.type(given[k]) for k in ("min", "max"))) if function.name == "Clip" else function(y, **given)


@FusedConv.shape
def _(X: Spec, W: Spec, B: Spec | None = None, Z: Spec | None = None, *, activation: str | None = None, activation_params: Sequence[float] | None = None, auto_pad: str = "NOTSET",
      dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    _activation(activation)
    require(activation != "Clip" or len(activation_params or ()) == 2, f"activation 'Clip' needs two activation_params, not {activation_params}")
    assert Conv.shape_rule is not None
    made: Spec = Conv.shape_rule(X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    if Z is not None:
        broadcast_shapes(made.shape, Z.shape)
    return Spec(same_type(X, W, B, Z), made.shape)


# -- lowering: the standard operators' rules, composed ----------------------------------------------------------------------------------------------

def _gelu(x: E) -> E:
    return 0.5 * x * (1 + unary(Op.ERF, x * 0.7071067811865476))


def _fast_gelu(x: E) -> E:
    return 0.5 * x * (1 + unary(Op.TANH, 0.7978845608028654 * (x + 0.044715 * x * x * x)))


Gelu.lower(elementwise(_gelu))
QuickGelu.lower(elementwise(lambda x, alpha=1.702: x * unary(Op.SIGMOID, x * alpha)))
BiasGelu.lower(elementwise(lambda a, b: _gelu(a + b)))
FastGelu.lower(elementwise(lambda x, *bias: _fast_gelu(x + bias[0] if bias else x)))


@FusedMatMul.lower
@TransposeMatMul.lower
def _(k: Lowering, A: View, B: View, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0, out: Spec) -> View:
    left, right = A.permute(_rotation(A.rank, transBatchA, transA)), B.permute(_rotation(B.rank, transBatchB, transB))
    assert MatMul.lowering is not None
    made: View = MatMul.lowering(k, left, right, out=out)
    return made if alpha == 1 else k.map(lambda x: x * alpha, made, dtype=A.dtype)


def activated(k: Lowering, x: View, name: str | None, attributes: dict[str, Any], out: Spec) -> View:
    """The activation a fused operator names, of x."""
    function = _activation(name)
    if function is None:
        return x
    if function.name == "Clip":
        low, high = (k.constant(asarray(attributes[n], x.dtype), x.dtype) for n in ("min", "max"))
        return k.map(lambda v, a, b: binary(Op.MIN, binary(Op.MAX, v, a), b), x, low, high, dtype=x.dtype)
    assert function.lowering is not None
    made: View = function.lowering(k, x, **{n: v for n, v in attributes.items() if v is not None and n in function.attributes}, out=out)
    return made


@FusedGemm.lower
def _(k: Lowering, A: View, B: View, C: View | None = None, *, activation: str | None = None, activation_alpha: float | None = None, activation_beta: float | None = None,
      activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0, out: Spec) -> View:
    assert Gemm.lowering is not None
    made = Gemm.lowering(k, A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB, out=out)
    return activated(k, made, activation, {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}, out)


@FusedConv.lower
def _(k: Lowering, X: View, W: View, B: View | None = None, Z: View | None = None, *, activation: str | None = None, activation_params: Sequence[float] | None = None,
      out: Spec, **attributes: Any) -> View:
    assert Conv.lowering is not None
    made = Conv.lowering(k, X, W, B, **attributes, out=out)
    if Z is not None:
        made = k.map(lambda x, z: x + z, made, Z, dtype=X.dtype, shape=out.shape)
    return activated(k, made, activation, dict(zip(ACTIVATIONS[activation], activation_params or (), strict=False)) if activation else {}, out)
