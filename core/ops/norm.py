"""Normalizations. Statistics of half-width floats are taken in float32; where the specification says in which type a stage runs (stash_type), that type is used."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, product
from ..expr import E, Op, binary, cast, compute_type, const, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .common import check_equal, like, normalize_axes, normalize_axis, same_type
from .maps import elementwise
from .precision import widened
from .registry import Spec, operator, require


def _channels(v: np.ndarray, rank: int) -> np.ndarray:
    """A vector [C] so that it broadcasts along axis 1 of a tensor of `rank`."""
    return widened(v).reshape(-1, *[1] * (rank - 2))


def _check_channels(X: Spec, *vectors: Spec | None) -> None:
    if X.shape is not None and len(X.shape) > 1:
        for v in vectors:
            if v is not None and v.shape is not None:
                if len(v.shape) != 1:  # no message is made in vain
                    require(False, f"per-channel inputs must be 1-D, not {v}")
                check_equal(v.shape[0], X.shape[1], "a per-channel input does not have one element a channel")


@operator()
def BatchNormalization(X: Any, scale: Any, B: Any, input_mean: Any, input_var: Any, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0) -> Any:
    """(X - mean) / sqrt(var + epsilon) * scale + B per channel; in training with the batch's statistics, and the updated running ones as further outputs."""
    x = widened(X)
    rank = max(X.ndim, 2)  # a 1-D input is a batch of single values
    mean, var = widened(input_mean), widened(input_var)
    if training_mode:
        axes = tuple(a for a in range(x.ndim) if a != 1)
        running = mean, var
        mean, var = x.mean(axes).reshape(-1), x.var(axes).reshape(-1)
    # In the widest type at hand, so that float16 inputs with float32 statistics lose nothing.
    y = (x - _channels(mean, rank)) / np.sqrt(_channels(var, rank) + np.float32(epsilon)) * _channels(scale, rank) + _channels(B, rank)
    y = y.astype(X.dtype, copy=False)
    if not training_mode:
        return y
    return y, *((old * momentum + new * (1 - momentum)).astype(input_mean.dtype) for old, new in zip(running, (mean, var), strict=True))


@BatchNormalization.shape
def _(X: Spec, scale: Spec, B: Spec, input_mean: Spec, input_var: Spec, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0) -> Any:
    _check_channels(X, scale, B, input_mean, input_var)
    Y = Spec(X.dtype, X.shape)
    return (Y, Spec(input_mean.dtype, input_mean.shape), Spec(input_var.dtype, input_var.shape)) if training_mode else Y


def _standardized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    deviation = x - x.mean(axes, keepdims=True)
    return deviation / np.sqrt((deviation * deviation).mean(axes, keepdims=True) + np.asarray(epsilon, x.dtype))


@operator()
def InstanceNormalization(input: Any, scale: Any, B: Any, *, epsilon: float = 1e-5) -> Any:
    """Standardized over the spatial axes of each instance and channel, then scaled and shifted per channel."""
    y = _standardized(widened(input), tuple(range(2, input.ndim)), epsilon)
    return (y * _channels(scale, input.ndim) + _channels(B, input.ndim)).astype(input.dtype, copy=False)


@InstanceNormalization.shape
def _(input: Spec, scale: Spec, B: Spec, *, epsilon: float = 1e-5) -> Spec:
    _check_channels(input, scale, B)
    return Spec(same_type(input, scale, B), input.shape)


@operator()
def GroupNormalization(X: Any, scale: Any, bias: Any, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1) -> Any:
    """Standardized over each group of channels of each instance, then scaled and shifted per channel (arXiv:1803.08494)."""
    require(X.shape[1] % num_groups == 0, f"{X.shape[1]} channels are not a multiple of num_groups {num_groups}")
    groups = X.astype(DType(stash_type).numpy, copy=False).reshape(X.shape[0], num_groups, -1)
    y = _standardized(groups, (2,), epsilon).reshape(X.shape).astype(X.dtype)
    shape = (-1, *[1] * (X.ndim - 2))
    return y * scale.reshape(shape) + bias.reshape(shape)


@GroupNormalization.shape
def _(X: Spec, scale: Spec, bias: Spec, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1) -> Spec:
    _check_channels(X, scale, bias)
    return Spec(same_type(X, scale, bias), X.shape)


@operator()
def LayerNormalization(X: Any, Scale: Any, B: Any = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """Standardized over the axes from `axis` on in `stash_type`, then scaled and shifted in X's type; also the mean and 1 / standard deviation."""
    axes = tuple(range(normalize_axis(axis, X.ndim), X.ndim))
    x = X.astype(DType(stash_type).numpy, copy=False)
    wide = widened(x)
    mean = wide.mean(axes, keepdims=True)
    deviation = wide - mean
    inverse = 1 / np.sqrt((deviation * deviation).mean(axes, keepdims=True) + np.asarray(epsilon, wide.dtype))
    y = (deviation * inverse).astype(X.dtype, copy=False) * Scale
    return y if B is None else y + B, mean.astype(x.dtype, copy=False), inverse.astype(x.dtype, copy=False)


@LayerNormalization.shape
def _(X: Spec, Scale: Spec, B: Spec | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Spec, Spec, Spec]:
    return _layer_norm_shapes(X, same_type(X, Scale, B), axis, stash_type)


def _layer_norm_shapes(X: Spec, dtype: DType | None, axis: int, stash_type: int) -> tuple[Spec, Spec, Spec]:
    """The result and two statistics, which keep the normalized axes as 1."""
    statistics = None
    if X.shape is not None:
        first = normalize_axis(axis, len(X.shape))
        statistics = (*X.shape[:first], *[1] * (len(X.shape) - first))
    stash = DType(stash_type)
    return Spec(dtype, X.shape), Spec(stash, statistics), Spec(stash, statistics)


@operator()
def RMSNormalization(X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """X / sqrt(mean(X²) + epsilon) over the axes from `axis` on, times `scale`, in the type of `scale` (arXiv:1910.07467)."""
    axes = tuple(range(normalize_axis(axis, X.ndim), X.ndim))
    x = widened(X.astype(DType(stash_type).numpy, copy=False))
    y = x / np.sqrt((x * x).mean(axes, keepdims=True) + np.asarray(epsilon, x.dtype))
    return y.astype(X.dtype, copy=False).astype(scale.dtype, copy=False) * scale


@RMSNormalization.shape
def _(X: Spec, scale: Spec, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Spec:
    if X.shape is not None:
        normalize_axis(axis, len(X.shape))
    return Spec(scale.dtype, X.shape)


@operator()
def SimplifiedLayerNormalization(X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """RMSNormalization under the name onnxruntime's exporters use, in ai.onnx's domain though the standard lacks it; also 1 / root mean square."""
    x = widened(X.astype(DType(stash_type).numpy, copy=False))
    axes = tuple(range(normalize_axis(axis, X.ndim), X.ndim))
    inverse = 1 / np.sqrt((x * x).mean(axes, keepdims=True) + np.asarray(epsilon, x.dtype))
    return RMSNormalization(X, scale, axis=axis, epsilon=epsilon, stash_type=stash_type), inverse.astype(DType(stash_type).numpy, copy=False)


@SimplifiedLayerNormalization.shape
def _(X: Spec, scale: Spec, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> tuple[Spec, Spec]:
    Y, statistics, _ = _layer_norm_shapes(X, scale.dtype, axis, stash_type)
    return Y, statistics


@operator()
def LpNormalization(input: Any, *, axis: int = -1, p: int = 2) -> Any:
    """input / its L1 or L2 norm along `axis`; 0 where the norm is 0."""
    require(p in (1, 2), f"p is {p}; only 1 and 2 are defined")
    x = widened(input)
    norm = np.abs(x).sum(axis, keepdims=True) if p == 1 else np.sqrt((x * x).sum(axis, keepdims=True))
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(input.dtype)


LpNormalization.shape(like)


@operator()
def LRN(X: Any, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Any:
    """X / (bias + alpha / size * Σ X² over `size` neighbouring channels) ** beta."""
    x = widened(X)
    squares, channels = x * x, x.shape[1]
    total = np.zeros_like(x)
    for shift in range(-((size - 1) // 2), size // 2 + 1):
        low, high = max(0, -shift), min(channels, channels - shift)
        if low < high:
            total[:, low:high] += squares[:, low + shift:high + shift]
    return (x / (x.dtype.type(bias) + x.dtype.type(alpha / size) * total) ** x.dtype.type(beta)).astype(X.dtype, copy=False)


LRN.shape(like)


@operator()
def MeanVarianceNormalization(X: Any, *, axes: Any = (0, 2, 3)) -> Any:
    """(X - mean) / (standard deviation + 1e-9) over `axes`."""
    x = widened(X)
    over = tuple(normalize_axes(axes, x.ndim))
    deviation = x - x.mean(over, keepdims=True)
    return (deviation / (np.sqrt((deviation * deviation).mean(over, keepdims=True)) + x.dtype.type(1e-9))).astype(X.dtype, copy=False)


MeanVarianceNormalization.shape(like)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def normalized(k: Lowering, X: View, scale: View, bias: View | None, mode: int, axis: int, epsilon: float, dtype: DType, stash: DType, statistics: bool = False,
               groups: Dim = 0) -> tuple[View, ...]:
    """NORM of X: the result, and where wanted the mean and the inverse deviation (axes from `axis` on have size 1)."""
    if compute_type(stash) is not compute_type(X.dtype):
        raise CannotLower(f"statistics of {X.dtype.text} in {stash.text}")
    made = [k.buffer(dtype, X.shape).whole()]
    if statistics:
        made += [k.buffer(stash, (*X.shape[:axis], *[1] * (X.rank - axis))).whole() for _ in range(2)]
    k.call(Kernel.NORM, [X, scale.expand(X.shape), None if bias is None else bias.expand(X.shape), None], made, mode=mode, axis=axis, groups=groups, epsilon=epsilon)
    return tuple(made)


def _wanted(out: Any) -> bool:
    return isinstance(out, list) and any(spec is not None for spec in out[1:])


@LayerNormalization.lower
def _(k: Lowering, X: View, Scale: View, B: View | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, out: Any) -> tuple[View, ...]:
    return normalized(k, X, Scale, B, 0, axis % X.rank, epsilon, X.dtype, DType(stash_type), _wanted(out))


@RMSNormalization.lower
def _(k: Lowering, X: View, scale: View, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, out: Spec) -> View:
    return normalized(k, X, scale, None, 1, axis % X.rank, epsilon, scale.dtype, DType(stash_type))[0]


@SimplifiedLayerNormalization.lower
def _(k: Lowering, X: View, scale: View, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, out: Any) -> tuple[View, ...]:
    made = normalized(k, X, scale, None, 1, axis % X.rank, epsilon, scale.dtype, DType(stash_type), _wanted(out))
    return made if len(made) == 1 else (made[0], made[2])


@InstanceNormalization.lower
def _(k: Lowering, input: View, scale: View, B: View, *, epsilon: float = 1e-5, out: Spec) -> View:
    scale, B = (_along_channels(v, input.rank) for v in (scale, B))
    return normalized(k, input, scale, B, 2, 0, epsilon, input.dtype, input.dtype, groups=input.shape[1])[0]


@GroupNormalization.lower
def _(k: Lowering, X: View, scale: View, bias: View, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1, out: Spec) -> View:
    scale, bias = (_along_channels(v, X.rank) for v in (scale, bias))
    return normalized(k, X, scale, bias, 2, 0, epsilon, X.dtype, DType(stash_type), groups=num_groups)[0]


def _wide(dtype: DType) -> DType:
    """The type statistics of `dtype` are kept in."""
    return DType.DOUBLE if dtype is DType.DOUBLE else DType.FLOAT


@LpNormalization.lower
def _(k: Lowering, input: View, *, axis: int = -1, p: int = 2, out: Spec) -> View:
    wide = compute_type(input.dtype)
    norm = k.reduce(0, input, (axis % input.rank,), _wide(input.dtype), (lambda x: unary(Op.ABS, x)) if p == 1 else (lambda x: x * x), None if p == 1 else lambda total: unary(Op.SQRT, total))
    return k.map(lambda x, n: select(binary(Op.EQ, n, 0), const(0, wide), x / n), input, norm, dtype=input.dtype)


@MeanVarianceNormalization.lower
def _(k: Lowering, X: View, *, axes: Any = (0, 2, 3), out: Spec) -> View:
    over = normalize_axes(axes, X.rank)
    mean = k.reduce(6, X, over, _wide(X.dtype))
    deviation = k.reduce(6, X, over, _wide(X.dtype), lambda x, m: (x - m) * (x - m), lambda variance: unary(Op.SQRT, variance) + 1e-9, [mean])
    return k.map(lambda x, m, d: (x - m) / d, X, mean, deviation, dtype=X.dtype)


@LRN.lower
def _(k: Lowering, X: View, *, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0, size: int, out: Spec) -> View:
    # The mean of `size` squares along the channels is an average pool that takes the pixels for channels and the channels for a spatial axis; padding counts.
    batch, channels, *spatial = X.shape
    squares = k.map(lambda x: x * x, X, dtype=_wide(X.dtype))
    pixels = k.reshape(squares, (batch, channels, product(spatial))).permute((0, 2, 1))
    means = k.buffer(squares.dtype, (batch, channels, product(spatial))).whole()
    k.call(Kernel.POOL, [pixels], [means.permute((0, 2, 1))], spatial=1, op=1, kernel=[size], pads=[(size - 1) // 2], pads_end=[size // 2], count_include_pad=1)
    wide = compute_type(X.dtype)

    def power(base: E) -> E:
        if beta == 0.75:  # the usual one: two roots cost a fraction of a power
            root = unary(Op.SQRT, base)
            return root * unary(Op.SQRT, root)
        return binary(Op.POW, base, const(beta, wide))
    return k.map(lambda x, mean: x / power(mean * alpha + bias), X, k.reshape(means, X.shape), dtype=X.dtype)


@BatchNormalization.lower
def _(k: Lowering, X: View, scale: View, B: View, input_mean: View, input_var: View, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, out: Any) -> Any:
    if training_mode:
        return _lower_training(k, X, scale, B, input_mean, input_var, epsilon, momentum)
    channels = [_along_channels(v, X.rank) for v in (scale, B, input_mean, input_var)]

    def body(x: E, s: E, b: E, mean: E, variance: E) -> E:
        return (x - mean) * (s / unary(Op.SQRT, variance + epsilon)) + b
    return elementwise(body)(k, X, *channels, out=out)


def _lower_training(k: Lowering, X: View, scale: View, B: View, input_mean: View, input_var: View, epsilon: float, momentum: float) -> tuple[View, View, View]:
    """With the batch's statistics; and the running ones moved towards them."""
    if X.rank < 2:
        raise CannotLower("BatchNormalization of a vector in training mode")
    dtype = DType.DOUBLE if X.dtype is DType.DOUBLE else DType.FLOAT
    wide, axes = compute_type(dtype), [a for a in range(X.rank) if a != 1]
    mean = k.reduce(6, X, axes, dtype)
    spread = k.reduce(6, X, axes, dtype, prologue=lambda x, m: (cast(x, wide) - m) * (cast(x, wide) - m), leaves=[mean])
    channels = [_along_channels(v, X.rank) for v in (scale, B)]

    def body(x: E, s: E, b: E, m: E, v: E) -> E:
        return (cast(x, wide) - m) / unary(Op.SQRT, v + epsilon) * cast(s, wide) + cast(b, wide)
    made = k.map(lambda *leaves: cast(body(*leaves), compute_type(X.dtype)), X, *channels, mean, spread, dtype=X.dtype, shape=X.shape)
    running = [k.map(lambda old, new: cast(cast(old, wide) * momentum + new * (1 - momentum), compute_type(input_mean.dtype)), old, k.reshape(new, (X.shape[1],)), dtype=input_mean.dtype)
               for old, new in ((input_mean, mean), (input_var, spread))]
    return made, running[0], running[1]


def _along_channels(values: View, rank: int) -> View:
    """A vector of channels with trailing axes of size 1, to broadcast against [N, C, …]."""
    for _ in range(rank - 2):
        values = values.unsqueeze(values.rank)
    return values
