"""com.microsoft: layer normalizations with the residual sum or the embedding look-ups fused in.

Sums and statistics are taken in float32 for half-width floats, and each output is rounded once.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim
from ..expr import Compute, E, Op, binary, const, select
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .common import broadcast_shapes, fresh_shape, same_type
from .contrib_common import needed
from .gather import gathered
from .norm import LayerNormalization, normalized
from .norm import SimplifiedLayerNormalization as OnnxSimplifiedLayerNormalization
from .precision import widened
from .registry import Spec, operator, require


@operator("com.microsoft")
def SimplifiedLayerNormalization(X: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """The operator of that name in ai.onnx's domain, where onnxruntime's exporters put it."""
    return OnnxSimplifiedLayerNormalization(X, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)


SimplifiedLayerNormalization.shape(OnnxSimplifiedLayerNormalization.shape_rule)  # type: ignore[arg-type]


def _residual(input: np.ndarray, skip: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """input + skip + bias in compute precision."""
    total = widened(input) + widened(skip)
    return total if bias is None else total + widened(bias)


@operator("com.microsoft")
def SkipLayerNormalization(input: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None, *, epsilon: float = 9.999999960041972e-13) -> Any:
    """LayerNormalization of input + skip + bias; also its mean, 1 / standard deviation, and the sum."""
    total = _residual(input, skip, bias)
    y, mean, inverse = LayerNormalization(total, widened(gamma), None if beta is None else widened(beta), epsilon=epsilon)
    return y.astype(input.dtype, copy=False), mean, inverse, total.astype(input.dtype, copy=False)


@operator("com.microsoft")
def SkipSimplifiedLayerNormalization(input: Any, skip: Any, gamma: Any, bias: Any = None, *, epsilon: float = 9.999999960041972e-13) -> Any:
    """SimplifiedLayerNormalization of input + skip + bias; also its mean (zeros: it has none), 1 / root mean square, and the sum."""
    total = _residual(input, skip, bias)
    y, inverse = OnnxSimplifiedLayerNormalization(total, widened(gamma), epsilon=epsilon)
    return y.astype(input.dtype, copy=False), np.zeros_like(inverse), inverse, total.astype(input.dtype, copy=False)


def _skip_shapes(input: Spec, skip: Spec, *vectors: Spec | None) -> tuple[Spec, Spec, Spec, Spec]:
    dtype = same_type(input, skip, *vectors)
    if input.shape is None:
        return Spec(dtype), Spec(DType.FLOAT), Spec(DType.FLOAT), Spec(dtype)
    require(len(input.shape) in (2, 3), f"input {input} must have rank 2 or 3")
    if skip.shape is not None:
        require(len(skip.shape) <= len(input.shape), f"skip {skip} must broadcast to input {input}")
    broadcast_shapes(input.shape, skip.shape, *(v.shape for v in vectors if v is not None))
    statistics = Spec(DType.FLOAT, (*input.shape[:-1], 1))
    return Spec(dtype, input.shape), statistics, statistics, Spec(dtype, input.shape)


@SkipLayerNormalization.shape
def _(input: Spec, skip: Spec, gamma: Spec, beta: Spec | None = None, bias: Spec | None = None, *, epsilon: float = 1e-12) -> tuple[Spec, ...]:
    return _skip_shapes(input, skip, gamma, beta, bias)


@SkipSimplifiedLayerNormalization.shape
def _(input: Spec, skip: Spec, gamma: Spec, bias: Spec | None = None, *, epsilon: float = 1e-12) -> tuple[Spec, ...]:
    return _skip_shapes(input, skip, gamma, bias)


@operator("com.microsoft")
def EmbedLayerNormalization(input_ids: Any, segment_ids: Any = None, word_embedding: Any = None, position_embedding: Any = None, segment_embedding: Any = None, gamma: Any = None,
                            beta: Any = None, mask: Any = None, position_ids: Any = None, *, epsilon: float = 9.999999960041972e-13, mask_index_type: int | None = None) -> Any:
    """LayerNormalization of the sum of word, position and segment embeddings; also the number of words the mask keeps of each sentence (0 without a mask), and the sum."""
    needed(word_embedding=word_embedding, position_embedding=position_embedding, gamma=gamma, beta=beta)
    batch, length = input_ids.shape
    positions = np.arange(length)[None] if position_ids is None else position_ids
    total = widened(word_embedding[input_ids]) + widened(position_embedding[positions])
    if segment_embedding is not None and segment_ids is not None:
        total = total + widened(segment_embedding[segment_ids])
    y = LayerNormalization(total, widened(gamma), widened(beta), epsilon=epsilon)[0]
    kept = np.zeros(batch, np.int32) if mask is None else (mask == 1).sum(1).astype(np.int32)
    return y.astype(gamma.dtype, copy=False), kept, total.astype(gamma.dtype, copy=False)


@EmbedLayerNormalization.shape
def _(input_ids: Spec, segment_ids: Spec | None = None, word_embedding: Spec | None = None, position_embedding: Spec | None = None, segment_embedding: Spec | None = None,
      gamma: Spec | None = None, beta: Spec | None = None, mask: Spec | None = None, position_ids: Spec | None = None, *, epsilon: float = 1e-12,
      mask_index_type: int | None = None) -> tuple[Spec, ...]:
    needed(word_embedding=word_embedding, position_embedding=position_embedding, gamma=gamma, beta=beta)
    dtype = same_type(word_embedding, position_embedding, segment_embedding, gamma, beta)
    require(input_ids.shape is None or len(input_ids.shape) == 2, f"input_ids {input_ids} must be [batch, sequence]")
    ids = input_ids.shape or fresh_shape(2)
    hidden = next((s.shape[-1] for s in (gamma, beta, word_embedding, position_embedding) if s is not None and s.shape is not None), None)
    hidden = fresh_shape(1)[0] if hidden is None else hidden  # type: ignore[index]
    shape = (*ids, hidden)  # type: ignore[misc]
    return Spec(dtype, shape), Spec(DType.INT32, shape[:1]), Spec(dtype, shape)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

SimplifiedLayerNormalization.lower(OnnxSimplifiedLayerNormalization.lowering)  # type: ignore[arg-type]


def _wide(dtype: DType) -> DType:
    if dtype is DType.DOUBLE:
        raise CannotLower("statistics of doubles in float")
    return DType.FLOAT


def _skip_rule(mode: int) -> Any:
    """A lowering rule: the sum as a Map, then NORM of it in the given mode."""
    def rule(k: Lowering, input: View, skip: View, gamma: View, *rest: View | None, epsilon: float = 1e-12, out: Any) -> tuple[View | None, ...]:
        beta, bias = (*rest, None, None)[:2] if mode == 0 else (None, (*rest, None)[0])
        wanted = [spec is not None for spec in out] if isinstance(out, list) else [True]
        total = k.map(lambda a, b, *c: _sum(a, b, *c), input, skip, *([] if bias is None else [bias]), dtype=_wide(input.dtype), shape=input.shape)
        made = normalized(k, total, gamma, beta, mode, input.rank - 1, epsilon, input.dtype, DType.FLOAT, any(wanted[1:3]))
        statistics: tuple[View | None, ...] = made[1:] or (None, None)
        if mode == 1 and len(made) > 1:
            statistics = (k.constant(np.zeros((), np.float32)).expand(made[2].shape), made[2])
        residual = total if total.dtype is input.dtype else k.map(lambda x: x, total, dtype=input.dtype)
        return made[0], *statistics, residual
    return rule


def _sum(a: E, b: E, *rest: E) -> E:
    total = a + b
    for x in rest:
        total = total + x
    return total


SkipLayerNormalization.lower(_skip_rule(0))
SkipSimplifiedLayerNormalization.lower(_skip_rule(1))


@EmbedLayerNormalization.lower
def _(k: Lowering, input_ids: View, segment_ids: View | None = None, word_embedding: View | None = None, position_embedding: View | None = None, segment_embedding: View | None = None,
      gamma: View | None = None, beta: View | None = None, mask: View | None = None, position_ids: View | None = None, *, epsilon: float = 1e-12, mask_index_type: int | None = None,
      out: Any) -> tuple[View, View, View]:
    assert word_embedding is not None and position_embedding is not None and gamma is not None
    shape: tuple[Dim, ...] = (*input_ids.shape, word_embedding.shape[1])
    parts = [gathered(k, word_embedding, input_ids, 0, 0, shape)]
    if position_ids is None:
        parts.append(position_embedding.slice(0, 0, shape[1]).unsqueeze(0))
    else:
        parts.append(gathered(k, position_embedding, position_ids, 0, 0, (*position_ids.shape, shape[2])))
    if segment_embedding is not None and segment_ids is not None:
        parts.append(gathered(k, segment_embedding, segment_ids, 0, 0, shape))
    total = k.map(_sum, *parts, dtype=_wide(gamma.dtype), shape=shape)
    (y,) = normalized(k, total, gamma, beta, 0, 2, epsilon, gamma.dtype, DType.FLOAT)
    if mask is None:
        kept = k.constant(np.zeros((), np.int32)).expand(shape[:1])
    else:
        kept = k.reduce(0, mask, (1,), DType.INT32, lambda m: select(binary(Op.EQ, m, 1), const(1, Compute.I32), const(0, Compute.I32))).squeeze(1)
    return y, kept, total if total.dtype is gamma.dtype else k.map(lambda x: x, total, dtype=gamma.dtype)
