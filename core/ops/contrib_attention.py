"""com.microsoft: Attention, MultiHeadAttention, QAttention, RotaryEmbedding. (GroupQueryAttention: contrib_gqa.)

Everything is computed in float32 where the inputs are half-width, and rounded once. A mask does not hide: it adds `mask_filter_value`; causal order does hide.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dim import Dim, exact_div, product
from ..expr import Compute, E, Op, binary, cast, const, coord, select
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .activation import softmax_view
from .attention import RotaryEmbedding as OnnxRotaryEmbedding
from .attention import _grouped_matmul, _grouped_product, _head_view, _heads, _packed, _scale, _softmax, _unpacked
from .cast import cast_view
from .common import check_equal, fresh_shape, like, same_type
from .contrib_common import needed, sizes
from .contrib_quantize import MatMulIntegerToFloat
from .maps import whole_number
from .move import joined
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


# -- lowering ----------------------------------------------------------------------------------------------------------------------------------


def appended_view(k: Lowering, past: View | None, new: View, begin: View, shape: Any) -> View:
    """The cache [B, H, rows, D]: what it held, zeros behind, and the new tokens of each entry from its `begin` on."""
    held = new if past is None else past
    made = k.move(held, k.buffer(new.dtype, shape).whole(), mode=0 if held.shape == tuple(shape) else 1)
    if past is not None:  # the new rows go over what lies there; no second copy of the cache
        order = (0, 2, 1, 3)
        # Numbers beyond 2^30 are outside anyway; so bounded, their sum fits 32 bits.
        at = k.map(lambda b: select(binary(Op.EQ, coord(2), 0), coord(0), binary(Op.MIN, coord(1), (1 << 30) - 1) + binary(Op.MIN, b, 1 << 30)), begin.unsqueeze(1).unsqueeze(2),
                   dtype=DType.INT64, shape=(new.shape[0], new.shape[2], 2))
        k.call(Kernel.SCATTER, [made.permute(order), at, new.permute(order)], [made.permute(order)], axis=0, mode=1, reduction=0)
    return made


#: A view [B or 1, 1, S or 1, T or 1] and what an element of it says: whether a key may be seen.
_Test = tuple[View, Callable[[E], E]]


def _mask_tests(k: Lowering, mask: View | None, batch: Dim, length: Dim, total: Dim, held: Dim) -> list[_Test]:
    """A mask in any of the forms that `mask_bias` names."""
    if mask is None:
        return []
    if mask.rank == 1:
        count = mask.shape[0]
        if count not in (batch, 2 * batch, 3 * batch + 2):
            raise CannotLower(f"a mask of {count} elements for a batch of {batch}: which form it has is not known before the model runs")

        def column(at: Dim) -> View:
            return mask.slice(0, at, batch).unsqueeze(1).unsqueeze(2).unsqueeze(3)
        ends: _Test = (column(0), lambda n: binary(Op.LT, coord(3), cast(n, Compute.I64)))
        return [ends, (column(batch), lambda n: binary(Op.GE, coord(3), cast(n, Compute.I64)))] if count == 2 * batch else [ends]
    view = mask.unsqueeze(1).unsqueeze(1) if mask.rank == 2 else mask.unsqueeze(1) if mask.rank == 3 else mask.slice(2, held, length).slice(3, 0, total)
    if view.shape[3] != total:  # of the new keys only; or of all, by a symbol of its own: then nothing is put before it
        shown = k.constant(np.ones((), mask.dtype.numpy), mask.dtype)
        view = k.move(view, k.buffer(mask.dtype, (*view.shape[:3], total)).whole(), 1, [0, 0, 0, total - view.shape[3]], shown)
    return [(view, lambda x: binary(Op.GT, x, 0))]


def _column(view: View) -> View:
    """One number, or one for each batch entry, beside scores [B, heads, S, T]."""
    return view.unsqueeze(1).unsqueeze(2).unsqueeze(3)


def _bias_view(k: Lowering, shape: Sequence[Dim], tests: Sequence[_Test], filter_value: float | None, hard: Sequence[tuple[_Test, float]], added: View | None) -> View | None:
    """What is added to scores of `shape`: `filter_value` where a test fails, a hard test's number in place of it where that fails, and `added`."""
    if not tests and not hard:
        return added
    views = [*(v for v, _ in tests), *(v for (v, _), _ in hard), *([] if added is None else [added])]
    dims = [size if any(v.shape[axis] != 1 for v in views) else 1 for axis, size in enumerate(shape)]

    def body(*leaves: E) -> E:
        seen = const(1, Compute.I32)
        for (_, test), x in zip(tests, leaves, strict=False):
            seen = binary(Op.AND, seen, test(x))
        bias = select(seen, const(0.0, Compute.F32), const(-10000.0 if filter_value is None else filter_value, Compute.F32))
        for ((_, test), number), x in zip(hard, leaves[len(tests):], strict=False):
            bias = select(test(x), bias, const(number, Compute.F32))
        return bias if added is None else bias + cast(leaves[-1], Compute.F32)
    return k.map(body, *views, dtype=DType.FLOAT, shape=(dims[0], dims[1], shape[2] if hard else dims[2], shape[3]))


def _attended(k: Lowering, parts: Sequence[View], pasts: Sequence[View | None], presents: Sequence[View | None], filled: View | None, mask: View | None, added: View | None,
              causal: int, filter_value: float | None, scale: float | None, scores_wanted: bool) -> tuple[View, View, View, View | None]:
    """Attention of Q, K and V [B, heads, L, D] to the pasts' rows and theirs: y [B, S, heads * Dv], the present keys and values (in `presents` where these are given), the scores if wanted.

    `filled`: so many rows of the pasts are in use, and the presents have as many rows as the pasts."""
    q, new_key, new_value = parts
    dtype, old_key, old_value = q.dtype, *pasts
    if dtype not in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16) or any(v is not None and v.dtype is not dtype for v in (*parts, *pasts)):
        raise CannotLower(f"attention of {dtype.text}, or with a cache of another type")
    (batch, heads, length, depth), new = q.shape, new_key.shape[2]
    out, y = _unpacked(k, dtype, (batch, heads, length, new_value.shape[3]), 3)
    held: Dim = 0 if old_key is None else old_key.shape[2]
    total = held if filled is not None else held + new
    shapes = [(*x.shape[:2], total, x.shape[3]) for x in (new_key, new_value)]
    keys, values, pieces, hard = new_key, new_value, False, []
    if filled is not None:
        if scores_wanted or mask is not None and mask.rank > 1:
            raise CannotLower("the scores, or a mask for each key, where past_sequence_length says how many there are")
        begin = k.map(lambda n: cast(n, Compute.I64), k.reshape(filled, (1,)), dtype=DType.INT64)
        keys, values = (appended_view(k, p, x, begin.expand((batch,)), s) for p, x, s in zip(pasts, (new_key, new_value), shapes, strict=True))
        last = k.map(lambda n, more: n + more, begin, k.sized([new]), dtype=DType.INT64)
        hard.append(((_column(last), lambda n: binary(Op.LT, coord(3), n)), -math.inf))
        if added is not None and added.shape[3] != total:
            added = k.move(added, k.buffer(added.dtype, (*added.shape[:3], total)).whole(), 1)
    elif old_key is not None and old_value is not None and not scores_wanted:
        pieces = True
        keys, values = (k.buffer(dtype, s).whole() if p is None else p for p, s in zip(presents, shapes, strict=True))
    elif old_key is not None and old_value is not None:
        keys, values = (joined(k, [p, x], 2, Spec(dtype, s)) for p, x, s in ((old_key, new_key, shapes[0]), (old_value, new_value, shapes[1])))
    if not pieces and presents[0] is not None and presents[1] is not None:
        keys, values = k.move(keys, presents[0]), k.move(values, presents[1])
    if causal and (filled is not None or scores_wanted):
        first = begin if filled is not None else k.sized([held])
        hard.append(((_column(first), lambda n: binary(Op.LE, coord(3), n + coord(2))), float(np.finfo(np.float32).min)))
    bias = _bias_view(k, (*q.shape[:3], total), _mask_tests(k, mask, batch, length, total, held), filter_value, hard, added)
    factor = _scale(depth, scale or None)
    if scores_wanted:
        scores = k.buffer(DType.FLOAT, (*q.shape[:3], total)).whole()
        _grouped_product(k, cast_view(k, q, DType.FLOAT), cast_view(k, keys, DType.FLOAT).permute((0, 1, 3, 2)), scores, factor)
        if bias is not None:
            scores = k.map(lambda x, b: x + cast(b, Compute.F32), scores, bias, dtype=DType.FLOAT)
        weighed = k.buffer(DType.FLOAT, out.shape).whole()
        _grouped_product(k, softmax_view(k, scores, 3), cast_view(k, values, DType.FLOAT), weighed)
        k.map(lambda x: x, weighed, dtype=dtype, out=out)
        return y, keys, values, cast_view(k, scores, dtype)
    whole = None if bias is None else bias.expand((*q.shape[:3], total))
    operands = [q, new_key, new_value, whole, *pasts] if pieces else [q, keys, values, whole]
    k.call(Kernel.ATTENTION, operands, [out, keys, values] if pieces else [out], scale=factor, softcap=0.0, causal=int(bool(causal) and not hard), offset=held)
    return y, keys, values, None


def _wanted(out: Any, number: int) -> bool:
    return isinstance(out, list) and len(out) > number and out[number] is not None


def _self_attended(k: Lowering, projected: View, mask: View | None, past: View | None, added: View | None, filled: View | None, heads: int, hidden: Any, unidirectional: int,
                   filter_value: float | None, scale: float | None, out: Any) -> Any:
    """Attention of the projected Q, K, V, side by side in the last axis; the present is one tensor."""
    width = projected.shape[2]
    q_size, k_size, v_size = hidden or [exact_div(width, 3)] * 3
    parts = [_head_view(k, projected.slice(2, at, n), heads) for at, n in ((0, q_size), (q_size, k_size), (q_size + k_size, v_size))]
    pasts: Sequence[View | None] = [None, None] if past is None else [past.slice(0, i, 1).squeeze(0) for i in range(2)]
    presents: Sequence[View | None] = [None, None]
    if _wanted(out, 1):
        present = k.buffer(projected.dtype, out[1].shape).whole()
        presents = [present.slice(0, i, 1).squeeze(0) for i in range(2)]
    y = _attended(k, parts, pasts, presents, filled, mask, added, unidirectional, filter_value, scale, False)[0]
    return (y, present) if _wanted(out, 1) else y


@Attention.lower
def _(k: Lowering, input: View, weights: View, bias: View | None = None, mask_index: View | None = None, past: View | None = None, attention_bias: View | None = None,
      past_sequence_length: View | None = None, *, do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int, past_present_share_buffer: int = 0,
      qkv_hidden_sizes: Ints = None, rotary_embedding_dim: int = 0, scale: float | None = None, unidirectional: int = 0, out: Any) -> Any:
    if do_rotary:
        raise CannotLower("do_rotary")
    shape = (*input.shape[:2], weights.shape[1])
    projected = k.matmul(input, weights, input.dtype, shape, None if bias is None else lambda x, b: x + b, [] if bias is None else [bias])
    filled = past_sequence_length if past_present_share_buffer else None
    return _self_attended(k, projected, mask_index, past, attention_bias, filled, num_heads, qkv_hidden_sizes, unidirectional, mask_filter_value, scale, out)


@QAttention.lower
def _(k: Lowering, input: View, weight: View, bias: View, input_scale: View, weight_scale: View, mask_index: View | None = None, input_zero_point: View | None = None,
      weight_zero_point: View | None = None, past: View | None = None, *, do_rotary: int = 0, mask_filter_value: float | None = None, num_heads: int,
      past_present_share_buffer: int = 0, scale: float | None = None, unidirectional: int = 0, out: Any) -> Any:
    if do_rotary or past_present_share_buffer:
        raise CannotLower("do_rotary or past_present_share_buffer")
    assert MatMulIntegerToFloat.lowering is not None
    shape = Spec(bias.dtype, (*input.shape[:2], weight.shape[1]))
    projected = MatMulIntegerToFloat.lowering(k, input, weight, input_scale, weight_scale, input_zero_point, weight_zero_point, bias, out=shape)
    return _self_attended(k, projected, mask_index, past, None, None, num_heads, None, unidirectional, mask_filter_value, scale, out)


def _biased(k: Lowering, x: View, bias: View | None, at: Dim) -> tuple[View, Dim]:
    """x [B, L, hidden] or [B, L, heads, D] plus its part of the bias, and where the next part begins."""
    size = product(x.shape[2:])
    if bias is None:
        return x, at + size
    part = bias.slice(0, at, size)
    return k.map(lambda a, b: a + b, x, part if x.rank == 3 else part.split(0, *x.shape[2:]), dtype=x.dtype), at + size


@MultiHeadAttention.lower
def _(k: Lowering, query: View, key: View | None = None, value: View | None = None, bias: View | None = None, key_padding_mask: View | None = None,
      attention_bias: View | None = None, past_key: View | None = None, past_value: View | None = None, past_sequence_length: View | None = None,
      cache_indirection: View | None = None, *, mask_filter_value: float | None = None, num_heads: int, scale: float | None = None, unidirectional: int = 0, out: Any) -> Any:
    if cache_indirection is not None:
        raise CannotLower("cache_indirection")
    if query.rank == 5:
        given = [query.slice(3, i, 1).squeeze(3) for i in range(3)]
    elif key is not None and key.rank == 5:
        given = [query, *(key.slice(3, i, 1).squeeze(3) for i in range(2))]
    else:
        assert key is not None and value is not None
        given = [query, key, value]
    at: Dim = 0
    parts: list[View] = []
    for x in given:
        if parts and key is not None and key.rank == 4:     # keys and values with their heads split have their biases already
            parts.append(_head_view(k, x, num_heads))
            continue
        x, at = _biased(k, x, bias, at)
        parts.append(x.permute((0, 2, 1, 3)) if x.rank == 4 else _head_view(k, x, num_heads))
    pasts = (past_key, past_value)
    filled = past_sequence_length if past_key is not None else None
    y, keys, values, scores = _attended(k, parts, pasts, (None, None), filled, key_padding_mask, attention_bias, unidirectional, mask_filter_value, scale, _wanted(out, 3))
    return y, keys, values, scores


@RotaryEmbedding.lower
def _(k: Lowering, input: View, position_ids: View, cos_cache: View, sin_cache: View, *, interleaved: int = 0, is_packed_batching: int = 0, num_heads: int = 0,
      rotary_embedding_dim: int = 0, scale: float = 1.0, out: Spec) -> View:
    assert OnnxRotaryEmbedding.lowering is not None
    batch, length = (input.shape[0], input.shape[2]) if input.rank == 4 else input.shape[:2]
    turned = 2 * whole_number(cos_cache.shape[1], "half of what is rotated")
    if position_ids.rank < 2 or position_ids.shape == (1, 1):   # one offset for all
        position_ids = k.map(lambda p: cast(p, Compute.I64) + coord(1), k.reshape(position_ids, (1, 1)), dtype=DType.INT64, shape=(batch, length))
    heads = num_heads or (whole_number(input.shape[2], "the hidden size") // turned if input.rank == 3 else None)
    made: View = OnnxRotaryEmbedding.lowering(k, input, cos_cache, sin_cache, position_ids, interleaved=interleaved, num_heads=heads,
                                              rotary_embedding_dim=rotary_embedding_dim or turned, out=out)
    return made
