"""com.microsoft: Attention, MultiHeadAttention, QAttention, RotaryEmbedding. (GroupQueryAttention: contrib_gqa.)

Everything is computed in float32 where the inputs are half-width, and rounded once. A mask does not hide: it adds `mask_filter_value`; causal order does hide.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dim import Dim
from .attention import RotaryEmbedding as OnnxRotaryEmbedding
from .attention import _grouped_matmul, _heads, _packed, _softmax
from .common import check_equal, fresh_shape, like, same_type
from .contrib_common import needed, sizes
from .contrib_quantize import MatMulIntegerToFloat
from .precision import widened
from .registry import Ints, Spec, operator, require


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: Any, scale: float | None, softcap: float = 0.0, sink: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """softmax(softcap(q kᵀ · scale) + bias) v for q [B, Hq, S, D], k and v [B, Hkv, T, D]; the scores and the weights too. `sink` [Hq]: a score of a key without a value."""
    scores = _grouped_matmul(q, k.transpose(0, 1, 3, 2)) * q.dtype.type(scale or 1 / math.sqrt(q.shape[3]))
    if softcap:
        scores = np.tanh(scores / q.dtype.type(softcap)) * q.dtype.type(softcap)
    if bias is not None:
        scores = scores + bias
    if sink is None:
        weights = _softmax(scores)
    else:
        weights = _softmax(np.concatenate([scores, np.broadcast_to(sink.reshape(1, -1, 1, 1), (*scores.shape[:3], 1))], 3))[..., :-1]
    return _grouped_matmul(weights, v), scores, weights


def mask_bias(mask: Any, batch: int, length: int, total: int, past: int, filter_value: float | None, causal: int) -> np.ndarray:
    """The additive bias [B or 1, 1, S or 1, T] of a mask in any of its forms: [B] ends, [2 B] ends and starts, [3 B + 2] ends and offsets of packed rows, [B, T], [B, S, T], and
    [B, 1, max, max]; 0 masks. A [B, T - past] mask leaves the past visible."""
    key = np.arange(total)
    seen = np.ones((1, 1, 1, total), bool)
    if mask is not None and mask.ndim == 1:
        require(mask.size in (batch, 2 * batch, 3 * batch + 2), f"a mask of {mask.size} elements must have {batch}, {2 * batch} or {3 * batch + 2} for a batch of {batch}")
        seen = key < mask[:batch].reshape(-1, 1, 1, 1)
        if mask.size == 2 * batch:
            seen = seen & (key >= mask[batch:].reshape(-1, 1, 1, 1))
    elif mask is not None:
        seen = mask[:, None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask[:, :, past:past + length, :total]
        seen = seen > 0
        if seen.shape[3] != total:
            require(seen.shape[3] == total - past, f"a mask {list(mask.shape)} must cover {total} keys, or the {total - past} new ones")
            seen = np.pad(seen, [(0, 0), (0, 0), (0, 0), (past, 0)], constant_values=True)
    bias = np.where(seen, np.float32(0), np.float32(-10000 if filter_value is None else filter_value))
    return np.where(key <= np.arange(length)[:, None] + past, bias, np.finfo(np.float32).min) if causal else bias


def appended(past: Any, new: np.ndarray, filled: int | None) -> tuple[np.ndarray, np.ndarray]:
    """`new` [B, H, L, D] behind the past: the keys to attend to, and the present. With `filled`, past is a buffer of which so many rows are in use; the present has its size."""
    if past is None:
        return new, new
    if filled is None:
        joined = np.concatenate([past, new.astype(past.dtype, copy=False)], 2)
        return joined, joined
    end = filled + new.shape[2]
    require(end <= past.shape[2], f"{filled} filled rows and {new.shape[2]} new ones do not fit a buffer of {past.shape[2]}")
    present = np.array(past)
    present[:, :, filled:end] = new
    return present[:, :, :end], present


def _scalar(value: Any) -> int | None:
    return None if value is None else int(value.reshape(()))


def _self_attention(projected: np.ndarray, dtype: Any, mask: Any, past: Any, attention_bias: Any, filled: int | None, heads: int, hidden: Any, unidirectional: int,
                    filter_value: float | None, scale: float | None) -> tuple[np.ndarray, ...]:
    """Attention of the projected Q, K, V, side by side in the last axis."""
    batch, length, width = projected.shape
    q_size, k_size, v_size = hidden or [width // 3] * 3
    require(q_size == k_size and q_size + k_size + v_size == width, f"qkv_hidden_sizes {[q_size, k_size, v_size]} do not fit a projection of {width} columns")
    q, k, v = (_heads(x, heads, "projection") for x in np.split(projected, [q_size, q_size + k_size], 2))
    pasts = (None, None) if past is None else past
    (keys, present_key), (values, present_value) = (appended(p, x, filled) for p, x in zip(pasts, (k, v), strict=True))
    total = keys.shape[2]
    bias = mask_bias(mask, batch, length, total, total - length, filter_value, unidirectional)
    y = attend(q, widened(keys), widened(values), bias if attention_bias is None else bias + widened(attention_bias), scale)[0]
    y = _packed(y).astype(dtype, copy=False)
    # Keys and values of different sizes have no common tensor, and so no present.
    return (y, np.stack([present_key, present_value]).astype(dtype, copy=False)) if q_size == v_size else (y,)


@operator("com.microsoft")
def Attention(input: Any, weights: Any, bias: Any = None, mask_index: Any = None, past: Any = None, attention_bias: Any = None, past_sequence_length: Any = None, *,
              do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int, past_present_share_buffer: int = 0, qkv_hidden_sizes: Ints = None,
              rotary_embedding_dim: int = 0, scale: float | None = None, unidirectional: int = 0) -> Any:
    """Self-attention of input · weights + bias [B, S, Q + K + V]; outputs [B, S, V] and the keys and values [2, B, heads, T, D]."""
    require(not do_rotary, "do_rotary in Attention is not supported (nor is it on onnxruntime's CPU); export with MultiHeadAttention and RotaryEmbedding")
    projected = np.matmul(widened(input), widened(weights))
    if bias is not None:
        projected = projected + widened(bias)
    filled = _scalar(past_sequence_length) if past_present_share_buffer else None
    return _self_attention(projected, input.dtype, mask_index, past, attention_bias, filled, num_heads, qkv_hidden_sizes, unidirectional, mask_filter_value, scale)


@operator("com.microsoft")
def QAttention(input: Any, weight: Any, bias: Any, input_scale: Any, weight_scale: Any, mask_index: Any = None, input_zero_point: Any = None, weight_zero_point: Any = None,
               past: Any = None, *, do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int, past_present_share_buffer: int = 0, scale: float | None = None,
               unidirectional: int = 0) -> Any:
    """Attention with a quantised input and weights: the projection is exact in int32, everything after it is float32."""
    require(not do_rotary and not past_present_share_buffer, "do_rotary and past_present_share_buffer in QAttention are not supported; export without them")
    projected = MatMulIntegerToFloat(input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias)
    return _self_attention(widened(projected), bias.dtype, mask_index, past, None, None, num_heads, None, unidirectional, mask_filter_value, scale)


def _self_attention_shapes(input: Spec, weights: Spec, past: Spec | None, heads: int, hidden: Any, shared: int, dtype: Any, n_outputs: int = 1) -> tuple[Spec, Spec]:
    batch, length, inner = sizes(input, 3, "input")
    rows, columns = sizes(weights, 2, "weights")
    check_equal(inner, rows, f"input {input} and weights {weights} do not fit")
    q_size, _, v_size = hidden or [columns // 3] * 3
    require(n_outputs == 1 or not hidden or q_size == v_size, f"with qkv_hidden_sizes {hidden} the present can not be asked for: keys and values differ in size")
    require(not isinstance(q_size, int) or q_size % heads == 0, f"the hidden size {q_size} is not a multiple of num_heads {heads}")
    total: Dim = length
    if past is not None:
        before = sizes(past, 5, "past")[3]
        total = before if shared else before + length
    return Spec(dtype, (batch, length, v_size)), Spec(dtype, (2, batch, heads, total, q_size // heads))


@Attention.shape
def _(input: Spec, weights: Spec, bias: Spec | None = None, mask_index: Spec | None = None, past: Spec | None = None, attention_bias: Spec | None = None,
      past_sequence_length: Spec | None = None, *, do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int, past_present_share_buffer: int = 0,
      qkv_hidden_sizes: Ints = None, rotary_embedding_dim: int = 0, scale: float | None = None, unidirectional: int = 0, n_outputs: int = 1) -> Any:
    return _self_attention_shapes(input, weights, past, num_heads, qkv_hidden_sizes, past_present_share_buffer, same_type(input, weights, bias, past, attention_bias), n_outputs)


@QAttention.shape
def _(input: Spec, weight: Spec, bias: Spec, input_scale: Spec, weight_scale: Spec, mask_index: Spec | None = None, input_zero_point: Spec | None = None,
      weight_zero_point: Spec | None = None, past: Spec | None = None, *, do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int,
      past_present_share_buffer: int = 0, scale: float | None = None, unidirectional: int = 0) -> Any:
    return _self_attention_shapes(input, weight, past, num_heads, None, 0, same_type(bias, input_scale, weight_scale, past))


# -- MultiHeadAttention ------------------------------------------------------------------------------------------------------------------------


def _query_key_value(query: np.ndarray, key: Any, value: Any, heads: int) -> list[np.ndarray]:
    """Q, K and V [B, heads, L, D] from packed QKV [B, S, heads, 3, D], from Q and packed KV [B, L, heads, 2, D], or from three tensors, of which
    K and V may have their heads split already."""
    if query.ndim == 5:
        return [query[:, :, :, i].transpose(0, 2, 1, 3) for i in range(3)]
    needed(key=key)
    if key.ndim == 5:
        return [_heads(query, heads, "query"), *(key[:, :, :, i].transpose(0, 2, 1, 3) for i in range(2))]
    needed(value=value)
    return [_heads(x, heads, name) for x, name in ((query, "query"), (key, "key"), (value, "value"))]


@operator("com.microsoft")
def MultiHeadAttention(query: Any, key: Any = None, value: Any = None, bias: Any = None, key_padding_mask: Any = None, attention_bias: Any = None, past_key: Any = None,
                       past_value: Any = None, past_sequence_length: Any = None, cache_indirection: Any = None, *, mask_filter_value: float | None = None, num_heads: int,
                       scale: float | None = None, unidirectional: int = 0) -> Any:
    """Attention of projected Q, K, V plus their biases; outputs [B, S, heads * Dv], present key, present value, and the scores before the softmax."""
    require(cache_indirection is None, "cache_indirection (beam search over a shared cache) is not supported; run beams as separate batch entries")
    parts = [widened(x) for x in _query_key_value(query, key, value, num_heads)]
    if bias is not None:
        split = np.split(widened(bias), np.cumsum([x.shape[1] * x.shape[3] for x in parts[:2]]))
        biased = 1 if key is not None and key.ndim == 4 else 3  # keys and values with their heads split already have theirs
        parts[:biased] = [x + b.reshape(1, x.shape[1], 1, x.shape[3]) for x, b in zip(parts[:biased], split, strict=False)]
    filled = _scalar(past_sequence_length)
    (keys, present_key), (values, present_value) = (appended(p, x, filled) for p, x in zip((past_key, past_value), parts[1:], strict=True))
    length, total = parts[0].shape[2], keys.shape[2]
    mask = mask_bias(key_padding_mask, len(query), length, total, total - parts[1].shape[2], mask_filter_value, unidirectional)
    y, scores, _ = attend(parts[0], widened(keys), widened(values), mask if attention_bias is None else mask + widened(attention_bias), scale)
    return tuple(x.astype(query.dtype, copy=False) for x in (_packed(y), present_key, present_value, scores))


@MultiHeadAttention.shape
def _(query: Spec, key: Spec | None = None, value: Spec | None = None, bias: Spec | None = None, key_padding_mask: Spec | None = None, attention_bias: Spec | None = None,
      past_key: Spec | None = None, past_value: Spec | None = None, past_sequence_length: Spec | None = None, cache_indirection: Spec | None = None, *,
      mask_filter_value: float | None = None, num_heads: int, scale: float | None = None, unidirectional: int = 0) -> tuple[Spec, ...]:
    dtype = same_type(query, key, value, bias, past_key, past_value)
    if query.shape is None:
        return Spec(dtype, fresh_shape(3)), *[Spec(dtype, fresh_shape(4))] * 3
    require(len(query.shape) == 5 or (len(query.shape) == 3 and key is not None), f"query {query} must be [B, S, hidden] with a key, or packed [B, S, {num_heads}, 3, D]")
    batch, length = query.shape[:2]
    require(len(query.shape) == 5 or not isinstance(query.shape[2], int) or query.shape[2] % num_heads == 0, f"query {query} does not split into {num_heads} heads")
    head = query.shape[4] if len(query.shape) == 5 else query.shape[2] // num_heads
    new, value_head = _keys(query, key, value, num_heads, length, head)
    before = 0 if past_key is None else sizes(past_key, 4, "past_key")[2]
    total = before if past_sequence_length is not None else before + new
    filled = total if past_sequence_length is None else None if past_sequence_length.ints is None else past_sequence_length.ints[0]
    attended = fresh_shape(1)[0] if filled is None else total if past_sequence_length is None else filled + new  # type: ignore[index]
    return (Spec(dtype, (batch, length, num_heads * value_head)), Spec(dtype, (batch, num_heads, total, head)), Spec(dtype, (batch, num_heads, total, value_head)),
            Spec(dtype, (batch, num_heads, length, attended)))


def _keys(query: Spec, key: Spec | None, value: Spec | None, heads: int, length: Dim, head: Dim) -> tuple[Dim, Dim]:
    """How many new keys there are, and the head size of the values."""
    if key is None:
        return length, head
    if key.shape is None:
        new, value_head = fresh_shape(2) or ()
        return new, value_head
    if len(key.shape) == 5:
        return key.shape[1], head
    new = key.shape[2] if len(key.shape) == 4 else key.shape[1]
    if value is None or value.shape is None:
        return new, fresh_shape(1)[0]  # type: ignore[index]
    return new, value.shape[3] if len(value.shape) == 4 else value.shape[2] // heads


# -- RotaryEmbedding ---------------------------------------------------------------------------------------------------------------------------


@operator("com.microsoft")
def RotaryEmbedding(input: Any, position_ids: Any, cos_cache: Any, sin_cache: Any, *, interleaved: int = 0, is_packed_batching: int = 0, num_heads: int = 0,
                    rotary_embedding_dim: int = 0, scale: float = 1.0) -> Any:
    """Rotary position embedding of [B, S, hidden] or [B, heads, S, D]; position_ids [B, S], or one offset for all. `scale` has no effect, as in onnxruntime."""
    batch, length = (input.shape[0], input.shape[2]) if input.ndim == 4 else input.shape[:2]
    positions = position_ids.reshape(()) + np.broadcast_to(np.arange(length), (batch, length)) if position_ids.size == 1 else position_ids.reshape(batch, length)
    turned = 2 * cos_cache.shape[1]
    heads = num_heads or (input.shape[2] // turned if input.ndim == 3 else None)
    return OnnxRotaryEmbedding(input, cos_cache, sin_cache, positions, interleaved=interleaved, num_heads=heads, rotary_embedding_dim=rotary_embedding_dim or turned)


@RotaryEmbedding.shape
def _(input: Spec, position_ids: Spec, cos_cache: Spec, sin_cache: Spec, *, interleaved: int = 0, is_packed_batching: int = 0, num_heads: int = 0, rotary_embedding_dim: int = 0,
      scale: float = 1.0) -> Spec:
    require(input.shape is None or len(input.shape) in (3, 4), f"input {input} must be [B, S, hidden] or [B, heads, S, D]")
    same_type(input, cos_cache, sin_cache, names="input and the caches")
    return like(input)
