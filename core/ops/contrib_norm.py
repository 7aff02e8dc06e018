"""com.microsoft: layer normalizations with the residual sum or the embedding look-ups fused in.

Sums and statistics are taken in float32 for half-width floats, and each output is rounded once.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..types import DType
from .common import broadcast_shapes, fresh_shape, same_type
from .contrib_common import needed
from .norm import LayerNormalization
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
