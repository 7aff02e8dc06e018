"""com.microsoft: QLinear*: operators between 8-bit tensors. The inputs are dequantised, the operator is computed in float32, the result is quantised."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dim import product
from ..lowering import Lowering, View
from ..types import DType
from .activation import LeakyRelu, Sigmoid, Softmax
from .common import broadcast_shapes, like, normalize_axis, same_type
from .contrib_common import needed, ruled
from .conv import QLinearConv as OnnxQLinearConv
from .elementwise import Add, Mul, Where
from .move import Concat
from .pool import AveragePool, GlobalAveragePool, MaxPool
from .quantize import DequantizeLinear, QuantizeLinear, numbers_of, to_quantized
from .registry import Ints, Operator, Spec, operator, require


def real(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """x as float32; one scale and zero point for all."""
    centred = x.astype(np.int32) - (0 if zero is None else zero.astype(np.int32).reshape(()))
    return np.asarray(centred.astype(np.float32) * scale.reshape(()))


def quantized(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, dtype: Any) -> np.ndarray:
    """float32 as the 8-bit type `dtype`."""
    return to_quantized(x / scale.reshape(()), None if zero is None else zero.reshape(()), DType.of(np.dtype(dtype)))


def _binary(function: Callable[..., np.ndarray], A: np.ndarray, A_scale: np.ndarray, A_zero_point: Any, B: Any, B_scale: Any, B_zero_point: Any, C_scale: Any,
            C_zero_point: Any) -> np.ndarray:
    needed(B=B, B_scale=B_scale, C_scale=C_scale)
    return quantized(function(real(A, A_scale, A_zero_point), real(B, B_scale, B_zero_point)), C_scale, C_zero_point, A.dtype)


@operator("com.microsoft")
def QLinearAdd(A: Any, A_scale: Any, A_zero_point: Any = None, B: Any = None, B_scale: Any = None, B_zero_point: Any = None, C_scale: Any = None, C_zero_point: Any = None) -> Any:
    """A + B; the operands broadcast."""
    return _binary(np.add, A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point)


@operator("com.microsoft")
def QLinearMul(A: Any, A_scale: Any, A_zero_point: Any = None, B: Any = None, B_scale: Any = None, B_zero_point: Any = None, C_scale: Any = None, C_zero_point: Any = None) -> Any:
    """A · B; the operands broadcast."""
    return _binary(np.multiply, A, A_scale, A_zero_point, B, B_scale, B_zero_point, C_scale, C_zero_point)


@QLinearAdd.shape
@QLinearMul.shape
def _(A: Spec, A_scale: Spec, A_zero_point: Spec | None = None, B: Spec | None = None, B_scale: Spec | None = None, B_zero_point: Spec | None = None, C_scale: Spec | None = None,
      C_zero_point: Spec | None = None) -> Spec:
    needed(B=B, B_scale=B_scale, C_scale=C_scale)
    assert B is not None
    return Spec(same_type(A, A_zero_point, B, B_zero_point, C_zero_point, names="operands, their zero points and C_zero_point"), broadcast_shapes(A.shape, B.shape))


@operator("com.microsoft")
def QLinearSigmoid(X: Any, X_scale: Any, X_zero_point: Any = None, Y_scale: Any = None, Y_zero_point: Any = None) -> Any:
    """1 / (1 + e^−X)."""
    needed(Y_scale=Y_scale)
    return quantized(Sigmoid(real(X, X_scale, X_zero_point)), Y_scale, Y_zero_point, X.dtype)


@operator("com.microsoft")
def QLinearLeakyRelu(X: Any, X_scale: Any, X_zero_point: Any = None, Y_scale: Any = None, Y_zero_point: Any = None, *, alpha: float = 0.009999999776482582) -> Any:
    """X where X ≥ 0, alpha·X elsewhere."""
    needed(Y_scale=Y_scale)
    return quantized(LeakyRelu(real(X, X_scale, X_zero_point), alpha=alpha), Y_scale, Y_zero_point, X.dtype)


@QLinearSigmoid.shape
@QLinearLeakyRelu.shape
def _(X: Spec, X_scale: Spec, X_zero_point: Spec | None = None, Y_scale: Spec | None = None, Y_zero_point: Spec | None = None, *, alpha: float = 0.01) -> Spec:
    needed(Y_scale=Y_scale)
    same_type(X, X_zero_point, Y_zero_point, names="X and the zero points")
    return like(X)


@operator("com.microsoft")
def QLinearSoftmax(X: Any, X_scale: Any, x_zero_point: Any = None, y_scale: Any = None, y_zero_point: Any = None, *, axis: int = -1, opset: int) -> Any:
    """Softmax along `axis`; before opset 13 of ai.onnx, over all axes from `axis` on."""
    needed(y_scale=y_scale, y_zero_point=y_zero_point)
    x = real(X, X_scale, x_zero_point)
    if opset < 13:
        x = x.reshape(*x.shape[:normalize_axis(axis, x.ndim)], -1)
    y = Softmax(x, axis=axis if opset >= 13 else -1).reshape(X.shape)
    return quantized(y, y_scale, y_zero_point, X.dtype)


@QLinearSoftmax.shape
def _(X: Spec, X_scale: Spec, x_zero_point: Spec | None = None, y_scale: Spec | None = None, y_zero_point: Spec | None = None, *, axis: int = -1, opset: int) -> Spec:
    needed(y_scale=y_scale, y_zero_point=y_zero_point)
    same_type(X, x_zero_point, y_zero_point, names="X and the zero points")
    if X.rank is not None:
        normalize_axis(axis, X.rank)
    return like(X)


@operator("com.microsoft")
def QLinearConcat(Y_scale: Any, Y_zero_point: Any, *inputs: Any, axis: int) -> Any:
    """The tensors joined along `axis`; `inputs` holds a tensor, its scale and its zero point in turn."""
    parts = [real(*inputs[i:i + 3]) for i in range(0, len(inputs), 3)]
    return quantized(np.concatenate(parts, axis), Y_scale, Y_zero_point, Y_zero_point.dtype)


@QLinearConcat.shape
def _(Y_scale: Spec, Y_zero_point: Spec, *inputs: Spec, axis: int) -> Spec:
    require(inputs and len(inputs) % 3 == 0, f"{len(inputs)} inputs after Y_zero_point are not triples of tensor, scale and zero point")
    return Spec(Y_zero_point.dtype, ruled(Concat, *inputs[::3], axis=axis).shape)


@operator("com.microsoft")
def QLinearWhere(condition: Any, X: Any, x_scale: Any, x_zero_point: Any, Y: Any, y_scale: Any, y_zero_point: Any, z_scale: Any, z_zero_point: Any) -> Any:
    """X where the condition holds, Y elsewhere."""
    return quantized(np.where(condition, real(X, x_scale, x_zero_point), real(Y, y_scale, y_zero_point)), z_scale, z_zero_point, X.dtype)


@QLinearWhere.shape
def _(condition: Spec, X: Spec, x_scale: Spec, x_zero_point: Spec, Y: Spec, y_scale: Spec, y_zero_point: Spec, z_scale: Spec, z_zero_point: Spec) -> Spec:
    return Spec(same_type(X, Y, x_zero_point, y_zero_point, z_zero_point), broadcast_shapes(condition.shape, X.shape, Y.shape))


# -- windows, with channels first or last --------------------------------------------------------------------------------------------------------


def _first(x: np.ndarray, channels_last: int) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if channels_last else x


def _last(x: np.ndarray, channels_last: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if channels_last else x


def _window_shape(operator: Operator, x: Spec, *inputs: Spec | None, channels_last: int, **attributes: Any) -> Any:
    """The shape of the operator's result for an input whose channels may come last."""
    if channels_last and x.shape is not None:
        batch, *spatial, channels = x.shape
        x = x.with_shape((batch, channels, *spatial))
    made = ruled(operator, x, *inputs, **attributes)
    shape = (made[0] if isinstance(made, tuple) else made).shape
    return (shape[0], *shape[2:], shape[1]) if channels_last and shape is not None else shape


@operator("com.microsoft")
def QLinearAveragePool(X: Any, x_scale: Any, x_zero_point: Any = None, y_scale: Any = None, y_zero_point: Any = None, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                       channels_last: int = 0, count_include_pad: int = 0, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Any:
    """Mean of each window."""
    needed(y_scale=y_scale)
    x = _first(real(X, x_scale, x_zero_point), channels_last)
    y = AveragePool(x, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return quantized(_last(y, channels_last), y_scale, y_zero_point, X.dtype)


@QLinearAveragePool.shape
def _(X: Spec, x_scale: Spec, x_zero_point: Spec | None = None, y_scale: Spec | None = None, y_zero_point: Spec | None = None, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
      channels_last: int = 0, count_include_pad: int = 0, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Spec:
    needed(y_scale=y_scale)
    made = _window_shape(AveragePool, X, channels_last=channels_last, auto_pad=auto_pad, ceil_mode=ceil_mode, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return Spec(same_type(X, x_zero_point, y_zero_point), made)


@operator("com.microsoft")
def QLinearGlobalAveragePool(X: Any, x_scale: Any, x_zero_point: Any, y_scale: Any, y_zero_point: Any, *, channels_last: int = 0) -> Any:
    """Mean over all spatial axes, kept as 1."""
    y = GlobalAveragePool(_first(real(X, x_scale, x_zero_point), channels_last))
    return quantized(_last(y, channels_last), y_scale, y_zero_point, X.dtype)


@QLinearGlobalAveragePool.shape
def _(X: Spec, x_scale: Spec, x_zero_point: Spec, y_scale: Spec, y_zero_point: Spec, *, channels_last: int = 0) -> Spec:
    return Spec(same_type(X, x_zero_point, y_zero_point), _window_shape(GlobalAveragePool, X, channels_last=channels_last))


@operator("com.microsoft")
def QLinearConv(x: Any, x_scale: Any, x_zero_point: Any, w: Any, w_scale: Any, w_zero_point: Any, y_scale: Any, y_zero_point: Any, B: Any = None, *, auto_pad: str = "NOTSET",
                channels_last: int = 0, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Any:
    """ai.onnx's QLinearConv, whose input and output may have their channels last (the weights do not)."""
    y = OnnxQLinearConv(_first(x, channels_last), x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, auto_pad=auto_pad, dilations=dilations,
                        group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return _last(y, channels_last)


@QLinearConv.shape
def _(x: Spec, x_scale: Spec, x_zero_point: Spec, w: Spec, w_scale: Spec, w_zero_point: Spec, y_scale: Spec, y_zero_point: Spec, B: Spec | None = None, *, auto_pad: str = "NOTSET",
      channels_last: int = 0, dilations: Ints = None, group: int = 1, kernel_shape: Ints = None, pads: Ints = None, strides: Ints = None) -> Spec:
    made = _window_shape(OnnxQLinearConv, x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, channels_last=channels_last, auto_pad=auto_pad,
                         dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return Spec(y_zero_point.dtype, made)


@operator("com.microsoft")
def NhwcMaxPool(x: Any, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Any:
    """MaxPool of [N, *sizes, C]."""
    return _last(MaxPool(_first(x, 1), auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations, kernel_shape=kernel_shape, pads=pads, strides=strides), 1)


@NhwcMaxPool.shape
def _(x: Spec, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Ints = None, kernel_shape: Ints, pads: Ints = None, strides: Ints = None) -> Spec:
    made = _window_shape(MaxPool, x, channels_last=1, auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations, kernel_shape=kernel_shape, pads=pads, strides=strides)
    return Spec(x.dtype, made)


# -- lowering: dequantise, the operator's own rule, quantise. Fusion leaves no floats in memory where it can -------------------------------------------------------


def _real(k: Lowering, x: View, scale: View, zero: View | None) -> View:
    rule = DequantizeLinear.lowering
    assert rule is not None
    made: View = rule(k, x, k.reshape(scale, ()), None if zero is None else k.reshape(zero, ()), out=Spec(DType.FLOAT, x.shape))
    return made


def _bytes(k: Lowering, x: View, scale: View, zero: View | None, dtype: DType) -> View:
    rule = QuantizeLinear.lowering
    assert rule is not None
    made: View = rule(k, x, k.reshape(scale, ()), None if zero is None else k.reshape(zero, ()), out=Spec(dtype, x.shape))
    return made


def _of(operator: Operator, k: Lowering, *views: View, out: Spec, **attributes: Any) -> View:
    """An operator's own rule on floats."""
    assert operator.lowering is not None
    made = operator.lowering(k, *views, **attributes, out=Spec(DType.FLOAT, out.shape))
    return made[0] if isinstance(made, tuple) else made


def _elementwise(operator: Operator, inputs: int) -> Callable[..., View]:
    """A rule for operators whose inputs come with a scale and a zero point each, then the output's."""
    def rule(k: Lowering, *views: View | None, out: Spec, **attributes: Any) -> View:
        triples = [(*views, *[None] * (3 * inputs + 2 - len(views)))[3 * i:3 * i + 3] for i in range(inputs + 1)]
        *given, (scale, zero, *_) = triples
        assert scale is not None and out.dtype is not None
        y = _of(operator, k, *(_real(k, *one) for one in given), out=out, **attributes)  # type: ignore[arg-type]
        return _bytes(k, y, scale, zero, out.dtype)
    return rule


QLinearAdd.lower(_elementwise(Add, 2))
QLinearMul.lower(_elementwise(Mul, 2))
QLinearSigmoid.lower(_elementwise(Sigmoid, 1))


@QLinearLeakyRelu.lower
def _(k: Lowering, X: View, X_scale: View, X_zero_point: View | None = None, Y_scale: View | None = None, Y_zero_point: View | None = None, *, alpha: float = 0.009999999776482582, out: Spec) -> View:
    return _elementwise(LeakyRelu, 1)(k, X, X_scale, X_zero_point, Y_scale, Y_zero_point, alpha=alpha, out=out)


@QLinearSoftmax.lower
def _(k: Lowering, X: View, X_scale: View, x_zero_point: View | None = None, y_scale: View | None = None, y_zero_point: View | None = None, *, axis: int = -1, opset: int, out: Spec) -> View:
    assert y_scale is not None and out.dtype is not None
    if opset < 13:
        at = normalize_axis(axis, X.rank)
        X, axis = k.reshape(X, (*X.shape[:at], product(X.shape[at:]))), -1
    y = _of(Softmax, k, _real(k, X, X_scale, x_zero_point), out=Spec(out.dtype, X.shape), axis=axis)
    return k.reshape(_bytes(k, y, y_scale, y_zero_point, out.dtype), out.shape or ())


@QLinearConcat.lower
def _(k: Lowering, Y_scale: View, Y_zero_point: View, *inputs: View, axis: int, out: Spec) -> View:
    assert out.dtype is not None and out.shape is not None
    made, at, start = k.buffer(out.dtype, out.shape).whole(), normalize_axis(axis, len(out.shape)), 0
    for x, scale, zero in zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True):
        part = x if _same(scale, Y_scale) and _same(zero, Y_zero_point) and x.dtype is out.dtype else _bytes(k, _real(k, x, scale, zero), Y_scale, Y_zero_point, out.dtype)
        k.move(part, made.slice(at, start, x.shape[at]))
        start = start + x.shape[at]
    return made


def _same(a: View, b: View) -> bool:
    """Whether two parameters are known to be equal."""
    left, right = numbers_of(a), numbers_of(b)
    return left is not None and right is not None and left.dtype == right.dtype and np.array_equal(left.ravel(), right.ravel())


@QLinearWhere.lower
def _(k: Lowering, condition: View, X: View, x_scale: View, x_zero_point: View, Y: View, y_scale: View, y_zero_point: View, z_scale: View, z_zero_point: View, *, out: Spec) -> View:
    assert out.dtype is not None
    chosen = _of(Where, k, condition, _real(k, X, x_scale, x_zero_point), _real(k, Y, y_scale, y_zero_point), out=out)
    return _bytes(k, chosen, z_scale, z_zero_point, out.dtype)


def _first_view(x: View, channels_last: int) -> View:
    return x.permute((0, x.rank - 1, *range(1, x.rank - 1))) if channels_last else x


def _last_view(x: View, channels_last: int) -> View:
    return x.permute((0, *range(2, x.rank), 1)) if channels_last else x


def _first_spec(out: Spec, channels_last: int) -> Spec:
    if channels_last and out.shape is not None:
        return out.with_shape((out.shape[0], out.shape[-1], *out.shape[1:-1]))
    return out


@QLinearAveragePool.lower
def _(k: Lowering, X: View, x_scale: View, x_zero_point: View | None = None, y_scale: View | None = None, y_zero_point: View | None = None, *, channels_last: int = 0, out: Spec,
      **attributes: Any) -> View:
    assert y_scale is not None and out.dtype is not None
    y = _of(AveragePool, k, _real(k, _first_view(X, channels_last), x_scale, x_zero_point), out=_first_spec(out, channels_last), **attributes)
    return _last_view(_bytes(k, y, y_scale, y_zero_point, out.dtype), channels_last)


@QLinearGlobalAveragePool.lower
def _(k: Lowering, X: View, x_scale: View, x_zero_point: View, y_scale: View, y_zero_point: View, *, channels_last: int = 0, out: Spec) -> View:
    assert out.dtype is not None
    y = _of(GlobalAveragePool, k, _real(k, _first_view(X, channels_last), x_scale, x_zero_point), out=_first_spec(out, channels_last))
    return _last_view(_bytes(k, y, y_scale, y_zero_point, out.dtype), channels_last)


@QLinearConv.lower
def _(k: Lowering, x: View, *parameters: View | None, channels_last: int = 0, out: Spec, **attributes: Any) -> View:
    assert OnnxQLinearConv.lowering is not None
    made: View = OnnxQLinearConv.lowering(k, _first_view(x, channels_last), *parameters, out=_first_spec(out, channels_last), **attributes)
    return _last_view(made, channels_last)


@NhwcMaxPool.lower
def _(k: Lowering, x: View, *, out: Spec, **attributes: Any) -> View:
    assert MaxPool.lowering is not None
    made = MaxPool.lowering(k, _first_view(x, 1), out=_first_spec(out, 1), **attributes)
    return _last_view(made[0] if isinstance(made, tuple) else made, 1)
