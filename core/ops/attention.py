"""Attention, FlexAttention, LinearAttention, RotaryEmbedding.

Roundings follow the specification's function bodies: each product is accumulated in float32 (float64 for double) and every step is rounded to the type that the
composed form gives it.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dim import Dim, floordiv
from ..expr import Compute, E, Op, acc, binary, cast, compute_type, const, coord, select, unary
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..narrow import asarray, plain
from ..types import DType
from .activation import softmax_view
from .cast import cast_view
from .common import check_equal, fresh_shape, same_type
from .gather import gathered
from .maps import whole_number
from .move import joined
from .precision import matmul, widened
from .registry import Spec, operator, require


def _heads(x: np.ndarray, count: int | None, name: str) -> np.ndarray:
    """[B, S, heads * D] → [B, heads, S, D]; a rank-4 tensor stays."""
    if x.ndim == 4:
        return x
    require(x.ndim == 3 and count, f"a rank-3 {name} {list(x.shape)} needs its number of heads as an attribute")
    assert count is not None
    require(x.shape[2] % count == 0, f"{name}'s hidden size {x.shape[2]} is not a multiple of its {count} heads")
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def _packed(x: np.ndarray) -> np.ndarray:
    """[B, heads, S, D] → [B, S, heads * D]."""
    b, h, s, d = x.shape
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(b, s, h * d)


def _grouped_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a [B, Hq, M, K] @ b [B, Hkv, K, N], each of b's heads serving Hq / Hkv consecutive heads of a."""
    (batch, q_heads, m, k), kv_heads = a.shape, b.shape[1]
    require(kv_heads and q_heads % kv_heads == 0, f"{q_heads} query heads are not a multiple of {kv_heads} key/value heads")
    return matmul(a.reshape(batch, kv_heads, q_heads // kv_heads, m, k), b[:, :, None]).reshape(batch, q_heads, m, b.shape[3])


def _softmax(x: np.ndarray) -> np.ndarray:
    """Softmax of the last axis, every step rounded to the dtype of x (the suite's bfloat16 results need it); a row of -inf gives zeros."""
    zero, one = np.zeros((), x.dtype), np.ones((), x.dtype)
    top = _top(x)
    powers = np.exp(x - np.where(np.isneginf(top), zero, top))
    total = powers.sum(-1, keepdims=True)
    return powers / np.where(total == zero, one, total)


def _top(x: np.ndarray) -> np.ndarray:
    """The maximum of the last axis, -inf where it is empty."""
    return widened(x).max(-1, keepdims=True, initial=-np.inf).astype(x.dtype, copy=False)


def _allowed(q_length: int, kv_length: int, offset: Any, is_causal: int, left: int, right: int, valid: Any) -> np.ndarray:
    """Which keys each query may see, [1 or B, 1, q, kv]: causal order, the window, and the valid keys of a padded cache."""
    place = np.arange(q_length)[:, None] + np.asarray(offset).reshape(-1, 1, 1, 1)
    key = np.arange(kv_length)
    seen = np.ones(np.broadcast_shapes(place.shape, key.shape), bool)
    if is_causal:
        seen &= key <= place
    if left >= 0:
        seen &= key >= place - left
    if right >= 0:
        seen &= key <= place + right
    return seen if valid is None else seen & (key < valid.reshape(-1, 1, 1, 1))


def _bias(mask: Any, allowed: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The additive bias of the mask and of the keys out of sight; a mask shorter than the keys hides the rest."""
    zero, hidden = np.zeros((), dtype), np.asarray(-np.inf, dtype)
    if mask is None:
        return np.where(allowed, zero, hidden)
    missing = allowed.shape[-1] - mask.shape[-1]
    if missing > 0:
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=False if mask.dtype == bool else -np.inf)
    if mask.dtype == bool:
        return np.where(allowed & mask, zero, hidden)
    return np.where(allowed, mask.astype(dtype, copy=False), hidden)


@operator()
def Attention(Q: Any, K: Any, V: Any, attn_mask: Any = None, past_key: Any = None, past_value: Any = None, nonpad_kv_seqlen: Any = None, *, is_causal: int = 0,
              kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0, right_window_size: int = -1,
              scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None) -> Any:
    """softmax(softcap(Q Kᵀ · scale) + bias) V over heads; outputs Y, present key, present value, and the scores at the stage `qk_matmul_output_mode` names."""
    require((past_key is None) == (past_value is None), "past_key and past_value must be given together")
    require(nonpad_kv_seqlen is None or past_key is None, "nonpad_kv_seqlen is for caches kept outside; it can not be combined with past_key and past_value")
    q, k, v = _heads(Q, q_num_heads, "Q"), _heads(K, kv_num_heads, "K"), _heads(V, kv_num_heads, "V")
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    length = q.shape[2]
    offset = nonpad_kv_seqlen.reshape(-1) - length if nonpad_kv_seqlen is not None else past
    bias = _bias(attn_mask, _allowed(length, k.shape[2], offset, is_causal, left_window_size, right_window_size, nonpad_kv_seqlen), q.dtype)

    root = np.asarray(math.sqrt(1 / math.sqrt(q.shape[3]) if scale is None else scale), q.dtype)
    scores = raw = _grouped_matmul(q * root, (k * root).transpose(0, 1, 3, 2))
    if softcap:
        cap = np.asarray(softcap, q.dtype)
        scores = np.tanh(scores / cap) * cap
    biased = scores + bias
    precision = DType(softmax_precision).numpy if softmax_precision else q.dtype
    # Whether a query sees nothing is read off the bias: its scores could be NaN.
    sees_nothing = np.isneginf(_top(bias))
    weights = np.where(sees_nothing, np.zeros((), precision), _softmax(biased.astype(precision, copy=False))).astype(q.dtype, copy=False)
    y = _grouped_matmul(weights, v)
    stages = (raw, scores, biased, weights)
    return y if Q.ndim == 4 else _packed(y), k, v, stages[qk_matmul_output_mode]


def _heads_shape(x: Spec, count: int | None, name: str) -> Any:
    """(B, heads, S, D) of a rank-3 or rank-4 Spec; four new sizes where its rank is unknown."""
    if x.shape is None:
        return fresh_shape(4)
    require(len(x.shape) == 4 or (len(x.shape) == 3 and count), f"{name} {x} must be [B, heads, S, D], or [B, S, heads * D] with its number of heads as an attribute")
    if len(x.shape) == 4:
        return x.shape
    require(not isinstance(x.shape[2], int) or x.shape[2] % count == 0, f"{name}'s hidden size {x.shape[2]} is not a multiple of its {count} heads")  # type: ignore[operator]
    return (x.shape[0], count, x.shape[1], x.shape[2] // count)  # type: ignore[operator]


@Attention.shape
def _(Q: Spec, K: Spec, V: Spec, attn_mask: Spec | None = None, past_key: Spec | None = None, past_value: Spec | None = None, nonpad_kv_seqlen: Spec | None = None, *,
      is_causal: int = 0, kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
      right_window_size: int = -1, scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None) -> Any:
    require(qk_matmul_output_mode in (0, 1, 2, 3), f"qk_matmul_output_mode {qk_matmul_output_mode} is not one of 0, 1, 2, 3")
    dtype = same_type(Q, K, past_key, names="Q, K and past_key")
    if Q.shape is None:
        return Spec(dtype), Spec(dtype, fresh_shape(4)), Spec(V.dtype, fresh_shape(4)), Spec(dtype, fresh_shape(4))
    q, k, v = _heads_shape(Q, q_num_heads, "Q"), _heads_shape(K, kv_num_heads, "K"), _heads_shape(V, kv_num_heads, "V")
    check_equal(q[3], k[3], "the head sizes of Q and K differ")
    total = k[2]
    if past_key is not None:
        total = total + (past_key.shape[2] if past_key.shape is not None else fresh_shape(1)[0])  # type: ignore[index]
    Y = (*q[:3], v[3]) if len(Q.shape) == 4 else (*Q.shape[:2], q[1] * v[3])
    return Spec(dtype, Y), Spec(dtype, (*k[:2], total, k[3])), Spec(V.dtype, (*v[:2], total, v[3])), Spec(dtype, (*q[:3], total))


@operator()
def RotaryEmbedding(X: Any, cos_cache: Any, sin_cache: Any, position_ids: Any = None, *, interleaved: int = 0, num_heads: int | None = None, rotary_embedding_dim: int = 0) -> Any:
    """The first `rotary_embedding_dim` elements of each head, in pairs, turned by the angle of their position (arXiv:2104.09864)."""
    x = widened(_heads(X, num_heads, "X"))
    size = rotary_embedding_dim or x.shape[3]
    cos, sin = (widened(c if position_ids is None else c[position_ids])[:, None] for c in (cos_cache, sin_cache))
    require(cos.shape[-1] == sin.shape[-1] == size // 2, f"caches {list(cos_cache.shape)} and {list(sin_cache.shape)} must have {size // 2} columns, half of what is rotated")
    pairs = (slice(0, size, 2), slice(1, size, 2)) if interleaved else (slice(0, size // 2), slice(size // 2, size))
    a, b = (x[..., p] for p in pairs)
    out = np.array(x)
    out[..., pairs[0]] = cos * a - sin * b
    out[..., pairs[1]] = sin * a + cos * b
    return (out if X.ndim == 4 else _packed(out)).astype(X.dtype, copy=False)


@RotaryEmbedding.shape
def _(X: Spec, cos_cache: Spec, sin_cache: Spec, position_ids: Spec | None = None, *, interleaved: int = 0, num_heads: int | None = None, rotary_embedding_dim: int = 0) -> Spec:
    require(X.shape is None or len(X.shape) == 4 or num_heads, f"a rank-3 input {X} needs num_heads")
    return Spec(same_type(X, cos_cache, sin_cache, names="X and the caches"), X.shape)


@operator()
def LinearAttention(query: Any, key: Any, value: Any, past_state: Any = None, decay: Any = None, beta: Any = None, *, chunk_size: int = 64, kv_num_heads: int,
                    q_num_heads: int, scale: float = 0.0, update_rule: str = "gated_delta") -> Any:
    """Attention through a recurrent state S [B, H_kv, d_k, d_v], updated token by token in float32; outputs [B, T, H_q * d_v] and the last state."""
    _check_linear(update_rule, decay is not None, beta is not None, q_num_heads, kv_num_heads)
    batch, steps, _ = query.shape
    q, k, v = (_heads(x, h, n).astype(np.float32) for x, h, n in ((query, q_num_heads, "query"), (key, kv_num_heads, "key"), (value, kv_num_heads, "value")))
    d_k, d_v = q.shape[3], v.shape[3]
    state = np.zeros((batch, kv_num_heads, d_k, d_v), np.float32) if past_state is None else past_state.astype(np.float32)
    gates = None if decay is None else np.exp(_heads(decay, kv_num_heads, "decay").astype(np.float32))  # [B, H, T, 1 or d_k]
    rates = None if beta is None else beta.astype(np.float32).transpose(0, 2, 1)[..., None]           # [B, 1 or H, T, 1]
    out = np.empty((batch, q_num_heads, steps, d_v), np.float32)
    grouped = out.reshape(batch, kv_num_heads, q_num_heads // kv_num_heads, steps, d_v)
    queries = q.reshape(batch, kv_num_heads, q_num_heads // kv_num_heads, steps, d_k)
    for t in range(steps):
        written = v[:, :, t]
        if gates is not None:
            state = state * gates[:, :, t, :, None]
        if rates is not None:
            written = rates[:, :, t] * (written - np.matmul(k[:, :, t, None], state)[:, :, 0])
        state = state + k[:, :, t, :, None] * written[:, :, None]
        grouped[:, :, :, t] = np.matmul(queries[:, :, :, t], state)
    factor = np.float32(scale or 1 / math.sqrt(d_k))
    return _packed(factor * out).astype(query.dtype, copy=False), state.astype(query.dtype if past_state is None else past_state.dtype, copy=False)


def _check_linear(rule: str, has_decay: bool, has_beta: bool, q_heads: int, kv_heads: int) -> None:
    require(rule in ("linear", "gated", "delta", "gated_delta"), f"update_rule '{rule}' is not one of linear, gated, delta, gated_delta")
    require(has_decay == (rule in ("gated", "gated_delta")), f"update_rule '{rule}' {'does not take' if has_decay else 'needs'} the input decay")
    require(has_beta == (rule in ("delta", "gated_delta")), f"update_rule '{rule}' {'does not take' if has_beta else 'needs'} the input beta")
    require(q_heads > 0 and kv_heads > 0 and q_heads % kv_heads == 0, f"q_num_heads {q_heads} must be a positive multiple of kv_num_heads {kv_heads}")


@LinearAttention.shape
def _(query: Spec, key: Spec, value: Spec, past_state: Spec | None = None, decay: Spec | None = None, beta: Spec | None = None, *, chunk_size: int = 64, kv_num_heads: int,
      q_num_heads: int, scale: float = 0.0, update_rule: str = "gated_delta") -> tuple[Spec, Spec]:
    _check_linear(update_rule, decay is not None, beta is not None, q_num_heads, kv_num_heads)
    dtype = same_type(query, key, value, decay, beta)
    (batch, _, steps, d_k), (_, _, _, d_v) = _heads_shape(query, q_num_heads, "query"), _heads_shape(value, kv_num_heads, "value")
    state = past_state.shape if past_state is not None and past_state.shape is not None else (batch, kv_num_heads, d_k, d_v)
    return Spec(dtype, (batch, steps, q_num_heads * d_v)), Spec(past_state.dtype if past_state is not None else dtype, state)


@operator("ai.onnx.preview")
def FlexAttention(Q: Any, K: Any, V: Any, *, prob_mod: Any = None, scale: float | None = None, score_mod: Any = None, softmax_precision: int | None = None, context: Any) -> Any:
    """prob_mod(softmax(score_mod(Q Kᵀ · scale))) V; the two modifiers are graphs over [B, Hq, L, S] in the softmax's precision."""
    require(Q.ndim == K.ndim == V.ndim == 4, f"Q, K and V must have rank 4, not shapes {list(Q.shape)}, {list(K.shape)}, {list(V.shape)}")
    root = np.asarray(math.sqrt(1 / math.sqrt(Q.shape[3]) if scale is None else scale), np.float32).astype(Q.dtype)
    precision = _flex_precision(DType.of(Q), softmax_precision).numpy
    scores = _grouped_matmul(Q * root, (K * root).transpose(0, 1, 3, 2)).astype(precision, copy=False)
    if score_mod is not None:
        scores = context.run(score_mod, [scores])[0]
    weights = _softmax(scores)
    if prob_mod is not None:
        weights = context.run(prob_mod, [weights])[0]
    return _grouped_matmul(weights, V.astype(precision, copy=False)).astype(Q.dtype, copy=False)


def _flex_precision(dtype: DType, softmax_precision: int | None) -> DType:
    return DType(softmax_precision) if softmax_precision else DType.DOUBLE if dtype is DType.DOUBLE else DType.FLOAT


@FlexAttention.shape
def _(Q: Spec, K: Spec, V: Spec, *, prob_mod: Any = None, scale: float | None = None, score_mod: Any = None, softmax_precision: int | None = None, infer: Any) -> Spec:
    dtype = same_type(Q, K, V, names="Q, K and V")
    q, k, v = _heads_shape(Q, None, "Q"), _heads_shape(K, None, "K"), _heads_shape(V, None, "V")
    stage = Spec(_flex_precision(dtype, softmax_precision) if dtype is not None else None, (*q[:3], k[2]))
    for graph in (score_mod, prob_mod):
        if graph is not None:
            require(len(graph.inputs) == len(graph.outputs) == 1, f"the modifier graph '{graph.name}' must have one input and one output")
            infer(graph, [stage])
    return Spec(dtype, (*q[:3], v[3]))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _head_view(k: Lowering, x: View, count: int | None) -> View:
    """[B, heads, S, D] of a rank-3 or rank-4 operand: a view, nothing moves."""
    if x.rank == 4:
        return x
    assert count
    batch, length, hidden = x.shape
    return k.reshape(x, (batch, length, count, hidden // count)).permute((0, 2, 1, 3))


def _unpacked(k: Lowering, dtype: DType, shape: Any, rank: int) -> tuple[View, View]:
    """A new buffer for [B, heads, S, D], packed to [B, S, heads * D] where the operator's rank is 3: (its view as heads, the operator's output)."""
    batch, heads, length, depth = shape
    if rank == 4:
        made = k.buffer(dtype, shape).whole()
        return made, made
    packed = k.buffer(dtype, (batch, length, heads * depth)).whole()
    return packed.split(2, heads, depth).permute((0, 2, 1, 3)), packed


def _grouped_product(k: Lowering, a: View, b: View, out: View, factor: float = 1.0) -> None:
    """out = factor · a @ b over heads [B, Hq, M, K] @ [B, Hkv, K, N], each of b's heads serving Hq / Hkv consecutive heads of a."""
    heads, kv_heads = a.shape[1], b.shape[1]
    if heads != kv_heads:
        group = floordiv(heads, kv_heads)
        a, out, b = a.split(1, kv_heads, group), out.split(1, kv_heads, group), b.unsqueeze(2)
    epilogue = [] if factor == 1 else [acc(a.dtype) * factor]
    k.call(Kernel.MATMUL, [a, b.expand((*a.shape[:-2], *b.shape[-2:]))], [out], epilogue=epilogue, first_leaf=2, zero_a=-1, zero_b=-1)


def _scale(depth: Dim, scale: float | None) -> float:
    return 1 / math.sqrt(whole_number(depth, "the head size")) if scale is None else scale


def _scores(k: Lowering, q: View, key: View, scale: float) -> View:
    """q keyᵀ · scale [B, Hq, S, T]. Half-width floats are scaled by √scale first, as the specification's function body does: it decides how they round."""
    out = k.buffer(q.dtype, (*q.shape[:3], key.shape[2])).whole()
    if q.dtype in (DType.FLOAT16, DType.BFLOAT16):
        root = float(plain(asarray(math.sqrt(scale), q.dtype)))
        q, key = (k.map(lambda x: x * root, v, dtype=v.dtype) for v in (q, key))
        scale = 1.0
    _grouped_product(k, q, key.permute((0, 1, 3, 2)), out, scale)
    return out


def _bias_view(k: Lowering, mask: View | None, dtype: DType, lengths: tuple[Dim, Dim], offset: Dim, is_causal: int, left: int, right: int, valid: View | None) -> View | None:
    """What is added to the scores: the mask, and -inf where a query may not look. None where everybody sees everything."""
    length, total = lengths
    if mask is not None and mask.shape[-1] != total:  # a mask shorter than the keys hides the rest
        hidden = k.constant(asarray(False if mask.dtype is DType.BOOL else -np.inf, mask.dtype), mask.dtype)
        padded = k.buffer(mask.dtype, (*mask.shape[:-1], total)).whole()
        mask = k.move(mask, padded, 1, [0] * mask.rank, hidden)
    if mask is None and not is_causal and left < 0 and right < 0 and valid is None:
        return None
    positional = bool(is_causal) or left >= 0 or right >= 0
    shift = whole_number(offset, "the length of the past") if positional and valid is None else 0
    wide = compute_type(dtype)

    def body(*operands: E) -> E:
        rest = list(operands)
        given = rest.pop(0) if mask is not None else None
        count = cast(rest.pop(0), Compute.I64) if valid is not None else None
        place = coord(2) + ((cast(rest.pop(0), Compute.I64) if rest else 0) if valid is not None else shift)
        seen = const(1, Compute.I32)
        for wanted, test in ((bool(is_causal), lambda: binary(Op.LE, coord(3), place)), (left >= 0, lambda: binary(Op.GE, coord(3), place - left)),
                             (right >= 0, lambda: binary(Op.LE, coord(3), place + right)), (count is not None, lambda: binary(Op.LT, coord(3), count))):
            seen = binary(Op.AND, seen, test()) if wanted else seen
        bias = const(0, wide) if given is None else select(given, const(0, wide), const(-math.inf, wide)) if mask is not None and mask.dtype is DType.BOOL else cast(given, wide)
        return select(seen, bias, const(-math.inf, wide))
    views = []
    shape: tuple[Dim, ...] = (1, 1, length, total)
    if mask is not None:
        for _ in range(4 - mask.rank):
            mask = mask.unsqueeze(0)
        views.append(mask)
        shape = (*mask.shape[:2], length, total)
    if valid is not None:
        per_batch = k.reshape(valid, (valid.shape[0], 1, 1, 1))
        views.append(per_batch)
        shape = (valid.shape[0], shape[1], length, total)
        if positional:
            size = whole_number(length, "the number of queries")
            views.append(k.map(lambda n: n - size, per_batch, dtype=per_batch.dtype))
    return k.map(body, *views, dtype=dtype, shape=shape)


@Attention.lower
def _(k: Lowering, Q: View, K: View, V: View, attn_mask: View | None = None, past_key: View | None = None, past_value: View | None = None, nonpad_kv_seqlen: View | None = None, *,
      is_causal: int = 0, kv_num_heads: int | None = None, left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
      right_window_size: int = -1, scale: float | None = None, softcap: float = 0.0, softmax_precision: int | None = None, out: Any) -> Any:
    q, key, v = _head_view(k, Q, q_num_heads), _head_view(k, K, kv_num_heads), _head_view(k, V, kv_num_heads)
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, v = (joined(k, [old, new], 2, Spec(new.dtype, (*new.shape[:2], past + new.shape[2], new.shape[3]))) for old, new in ((past_key, key), (past_value, v)))
    factor = _scale(q.shape[3], scale)
    heads, y = _unpacked(k, Q.dtype, (*q.shape[:3], v.shape[3]), Q.rank)
    scores_wanted = isinstance(out, list) and len(out) > 3 and out[3] is not None
    plain_mask = attn_mask is None or attn_mask.shape[-1] == key.shape[2] and attn_mask.dtype in (DType.BOOL, DType.FLOAT)
    if Q.dtype is DType.FLOAT and V.dtype is DType.FLOAT and plain_mask and not scores_wanted and nonpad_kv_seqlen is None and left_window_size < 0 and right_window_size < 0:
        mask = None if attn_mask is None else attn_mask.expand((*q.shape[:3], key.shape[2]))
        k.call(Kernel.ATTENTION, [q, key, v, mask], [heads], scale=factor, softcap=softcap, causal=is_causal, offset=past)
        return y, key, v, None
    raw = scores = _scores(k, q, key, factor)
    if softcap:
        scores = k.map(lambda x: unary(Op.TANH, x / softcap) * softcap, raw, dtype=Q.dtype)
    bias = _bias_view(k, attn_mask, Q.dtype, (q.shape[2], key.shape[2]), past, is_causal, left_window_size, right_window_size, nonpad_kv_seqlen)
    biased = scores if bias is None else k.map(lambda x, b: x + b, scores, bias, dtype=Q.dtype)
    weights = _weights(k, biased, bias, DType(softmax_precision) if softmax_precision else Q.dtype)
    _grouped_product(k, weights, v, heads)
    return y, key, v, (raw, scores, biased, weights)[qk_matmul_output_mode]


def _weights(k: Lowering, biased: View, bias: View | None, precision: DType) -> View:
    """Softmax in `precision`; a query that sees nothing weighs nothing. Whether it does is read off the bias: its scores could be NaN."""
    weights = softmax_view(k, cast_view(k, biased, precision), 3)
    if bias is None:
        return cast_view(k, weights, biased.dtype)
    top = k.reduce(3, bias, (3,), bias.dtype)
    wide = compute_type(precision)
    return k.map(lambda w, t: select(binary(Op.EQ, t, -math.inf), const(0, wide), w), weights, top, dtype=biased.dtype)


@FlexAttention.lower
def _(k: Lowering, Q: View, K: View, V: View, *, prob_mod: Any = None, scale: float | None = None, score_mod: Any = None, softmax_precision: int | None = None, out: Spec) -> View:
    precision = _flex_precision(Q.dtype, softmax_precision)
    scores = cast_view(k, _scores(k, Q, K, _scale(Q.shape[3], scale)), precision)
    if score_mod is not None:
        scores = k.inline(score_mod, [scores])[0]
    weights = softmax_view(k, scores, 3)
    if prob_mod is not None:
        weights = k.inline(prob_mod, [weights])[0]
    made = k.buffer(precision, out.shape or ()).whole()
    _grouped_product(k, weights, cast_view(k, V, precision), made)
    return cast_view(k, made, Q.dtype)


@RotaryEmbedding.lower
def _(k: Lowering, X: View, cos_cache: View, sin_cache: View, position_ids: View | None = None, *, interleaved: int = 0, num_heads: int | None = None, rotary_embedding_dim: int = 0,
      out: Spec) -> View:
    x = _head_view(k, X, num_heads)
    caches = [c if position_ids is None else gathered(k, c, position_ids, 0, 0, (*position_ids.shape, c.shape[1])) for c in (cos_cache, sin_cache)]
    return rotated(k, x, caches[0].unsqueeze(1), caches[1].unsqueeze(1), X.rank, interleaved, rotary_embedding_dim)


def rotated(k: Lowering, x: View, cos: View, sin: View, rank: int, interleaved: int, size: int) -> View:
    """The first `size` (0: all) elements of each head [B, heads, S, D] turned by cos and sin [B or 1, heads or 1, S, size / 2]; packed to [B, S, heads * D] where `rank` is 3."""
    depth = whole_number(x.shape[3], "the head size")
    size = size or depth
    target, made = _unpacked(k, x.dtype, x.shape, rank)
    half = size // 2

    def pair(view: View, which: int) -> View:
        return view.slice(3, which, half, 2) if interleaved else view.slice(3, which * half, half)
    operands = (pair(x, 0), pair(x, 1), cos, sin)
    k.map(lambda a, b, c, s: c * a - s * b, *operands, dtype=x.dtype, out=pair(target, 0))
    k.map(lambda a, b, c, s: s * a + c * b, *operands, dtype=x.dtype, out=pair(target, 1))
    if size < depth:
        k.move(x.slice(3, size, depth - size), target.slice(3, size, depth - size))
    return made


@LinearAttention.lower
def _(k: Lowering, query: View, key: View, value: View, past_state: View | None = None, decay: View | None = None, beta: View | None = None, *, chunk_size: int = 64,
      kv_num_heads: int, q_num_heads: int, scale: float = 0.0, update_rule: str = "gated_delta", out: Any) -> tuple[View, View]:
    q, keys, v = _head_view(k, query, q_num_heads), _head_view(k, key, kv_num_heads), _head_view(k, value, kv_num_heads)
    heads, y = _unpacked(k, query.dtype, (*q.shape[:3], v.shape[3]), 3)
    state = k.buffer(query.dtype if past_state is None else past_state.dtype, (q.shape[0], kv_num_heads, q.shape[3], v.shape[3])).whole()
    operands = [q, keys, v, past_state, None if decay is None else _head_view(k, decay, kv_num_heads), None if beta is None else beta.permute((0, 2, 1)).unsqueeze(3)]
    k.call(Kernel.SCAN, operands, [heads, state], axis=2, op=2, scale=scale or _scale(q.shape[3], None))
    return y, state
