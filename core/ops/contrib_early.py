"""com.microsoft: operators ai.onnx took over later, under the signatures they had before: Inverse, Trilu, Range, Unique, ExpandDims, Pad, GatherND, CDist."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..expr import E, Op, binary, unary
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .cast import cast_view
from .common import check_equal, fresh_shape, same_type
from .contrib_common import ruled, sizes
from .create import Range as OnnxRange
from .elementwise import Trilu as OnnxTrilu
from .gather import GatherND as OnnxGatherND
from .move import Pad as OnnxPad
from .precision import widened
from .registry import Operator, Spec, operator, require
from .shape import Unsqueeze
from .sort import Unique as OnnxUnique


@operator("com.microsoft")
def Inverse(X: np.ndarray) -> np.ndarray:
    """The inverses of square matrices on the last two axes."""
    return np.linalg.inv(widened(X)).astype(X.dtype, copy=False)


@Inverse.shape
def _(X: Spec) -> Spec:
    if X.shape is not None:
        require(len(X.shape) >= 2, f"the input must have at least rank 2, not {X}")
        check_equal(X.shape[-2], X.shape[-1], f"the last two axes of {X} must form square matrices")
    return Spec(X.dtype, X.shape)


@operator("com.microsoft", symbolic=True)
def ExpandDims(X: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """X with an axis of size 1 inserted at `axis`."""
    return np.asarray(Unsqueeze(X, axis.reshape(1)))


@ExpandDims.shape
def _(X: Spec, axis: Spec) -> Any:
    given = axis.constant
    if given is None:
        return Spec(X.dtype, None if X.shape is None else fresh_shape(len(X.shape) + 1))
    return ruled(Unsqueeze, X, Spec(DType.INT64, (1,), given.reshape(1)))


@operator("com.microsoft")
def Trilu(X: np.ndarray, k: np.ndarray | None = None, *, upper: int = 1) -> np.ndarray:
    """ai.onnx's Trilu."""
    return np.asarray(OnnxTrilu(X, k, upper=upper))


@Trilu.shape
def _(X: Spec, k: Spec | None = None, *, upper: int = 1) -> Any:
    return ruled(OnnxTrilu, X, k, upper=upper)


def _step(start: Any, delta: Any) -> Any:
    return np.ones((), start.dtype) if delta is None else delta.reshape(())


@operator("com.microsoft")
def Range(start: np.ndarray, limit: np.ndarray, delta: np.ndarray | None = None) -> np.ndarray:
    """ai.onnx's Range; `delta` is 1 unless it is given, and one-element vectors are scalars."""
    return np.asarray(OnnxRange(start.reshape(()), limit.reshape(()), _step(start, delta)))


@Range.shape
def _(start: Spec, limit: Spec, delta: Spec | None = None) -> Any:
    def scalar(x: Spec) -> Spec:
        return Spec(x.dtype, (), None if x.value is None else np.asarray(x.value).reshape(()))
    one = Spec(start.dtype, (), None if start.dtype is None else np.ones((), start.dtype.numpy))
    return ruled(OnnxRange, scalar(start), scalar(limit), one if delta is None else scalar(delta))


@operator("com.microsoft")
def Unique(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct elements of a vector in order of first occurrence, which of them each element is, and their counts."""
    values, _, places, counts = OnnxUnique(x, sorted=0)
    return values, places, counts


@Unique.shape
def _(x: Spec) -> tuple[Spec, Spec, Spec]:
    length, = sizes(x, 1, "x")
    count, = fresh_shape(1) or ()
    return Spec(x.dtype, (count,)), Spec(DType.INT64, (length,)), Spec(DType.INT64, (count,))


@operator("com.microsoft")
def Pad(data: np.ndarray, pads: np.ndarray, value: np.ndarray | None = None, *, mode: str = "constant") -> np.ndarray:
    """ai.onnx's Pad; `pads` may be a row."""
    return np.asarray(OnnxPad(data, pads.reshape(-1), None if value is None else value.reshape(()), mode=mode))


@Pad.shape
def _(data: Spec, pads: Spec, value: Spec | None = None, *, mode: str = "constant") -> Any:
    flat = None if pads.shape is None else pads.shape[-1:]
    return ruled(OnnxPad, data, Spec(pads.dtype, flat, None if pads.value is None else np.asarray(pads.value).reshape(-1)), mode=mode)


@operator("com.microsoft")
def GatherND(data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """ai.onnx's GatherND without batch axes."""
    return np.asarray(OnnxGatherND(data, indices))


@GatherND.shape
def _(data: Spec, indices: Spec) -> Any:
    return ruled(OnnxGatherND, data, indices)


@operator("com.microsoft")
def CDist(A: np.ndarray, B: np.ndarray, *, metric: str = "sqeuclidean") -> np.ndarray:
    """The distance of each row of A to each row of B: euclidean, or its square."""
    squares = np.maximum((A * A).sum(1)[:, None] - 2 * (A @ B.T) + (B * B).sum(1), 0).astype(A.dtype)
    return np.sqrt(squares) if metric == "euclidean" else squares


@CDist.shape
def _(A: Spec, B: Spec, *, metric: str = "sqeuclidean") -> Spec:
    require(metric in ("euclidean", "sqeuclidean"), f"metric '{metric}' is not euclidean or sqeuclidean; onnxruntime has no other either")
    (rows, width), (columns, other) = sizes(A, 2, "A"), sizes(B, 2, "B")
    check_equal(width, other, f"rows of A {A} and B {B} differ in size")
    return Spec(same_type(A, B), (rows, columns))


# -- lowering: ai.onnx's rules under the older signatures --------------------------------------------------------------------------------------


def _rule(operator: Operator) -> Callable[..., Any]:
    assert operator.lowering is not None
    return operator.lowering


@Inverse.lower
def _(k: Lowering, X: View, *, out: Spec) -> View:
    wide = cast_view(k, X, X.dtype if X.dtype is DType.DOUBLE else DType.FLOAT)
    made = k.buffer(wide.dtype, X.shape).whole()
    k.call(Kernel.LINALG, [wide], [made], op=1)
    return cast_view(k, made, X.dtype)


@CDist.lower
def _(k: Lowering, A: View, B: View, *, metric: str = "sqeuclidean", out: Spec) -> View:
    squares = [k.reduce(0, v, (1,), v.dtype, lambda x: x * x) for v in (A, B)]

    def distance(dot: E, a: E, b: E) -> E:
        square = binary(Op.MAX, a - dot * 2.0 + b, 0.0)
        return unary(Op.SQRT, square) if metric == "euclidean" else square
    return k.matmul(A, B.permute((1, 0)), A.dtype, (A.shape[0], B.shape[0]), distance, [squares[0], squares[1].permute((1, 0))])


@Range.lower
def _(k: Lowering, start: View, limit: View, delta: View | None = None, *, out: Spec) -> Any:
    return _rule(OnnxRange)(k, start, limit, k.constant(np.ones((), start.dtype.numpy), start.dtype) if delta is None else delta, out=out)


@Unique.lower
def _(k: Lowering, x: View, *, out: Any) -> tuple[View, ...]:
    values, places, counts = [*(out if isinstance(out, list) else [out]), None, None][:3]
    made, _, inverse, number = _rule(OnnxUnique)(k, x, sorted=0, out=[values, None, places, counts])
    return made, inverse, number


@Pad.lower
def _(k: Lowering, data: View, pads: View, value: View | None = None, *, mode: str = "constant", out: Spec) -> Any:
    return _rule(OnnxPad)(k, data, pads, None if value is None else k.reshape(value, ()), mode=mode, out=out)


ExpandDims.lower(lambda k, X, axis, *, out: _rule(Unsqueeze)(k, X, axis, out=out))
Trilu.lower(lambda k, X, k_=None, *, upper=1, out: _rule(OnnxTrilu)(k, X, k_, upper=upper, out=out))
GatherND.lower(lambda k, data, indices, *, out: _rule(OnnxGatherND)(k, data, indices, out=out))
