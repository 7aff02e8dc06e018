"""com.microsoft: GroupQueryAttention, attention of decoders over a cache of keys and values.

Per batch entry b: T = seqlens_k[b] + 1 tokens are in the cache after the step, P = T − (new tokens) before it; a first prompt, which has as many new tokens as
total_sequence_length, has P = 0.
Present tensors have max(past's, total_sequence_length) rows, so that a caller may bind them to the memory of the past ones; rows from T on are zeros here and mean nothing.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import dim_max, exact_div
from ..expr import Compute, E, Op, binary, cast, coord
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .attention import RotaryEmbedding, _heads, _packed, _scale, _unpacked, rotated
from .common import fresh_shape, same_type
from .contrib_attention import appended_view, attend
from .contrib_common import needed, sizes
from .gather import gathered
from .maps import whole_number
from .norm import RMSNormalization
from .precision import widened
from .registry import Spec, operator, require


def _split(query: np.ndarray, key: Any, value: Any, heads: int, kv_heads: int) -> list[np.ndarray]:
    """Q, K and V [B, heads, L, D], in float32, from three tensors or one that holds them side by side."""
    if key is None:
        head = query.shape[2] // (heads + 2 * kv_heads)
        query, key, value = np.split(query, [heads * head, (heads + kv_heads) * head], 2)
    needed(value=value)
    return [widened(_heads(x, n, name)) for x, n, name in ((query, heads, "query"), (key, kv_heads, "key"), (value, kv_heads, "value"))]


def resident(tokens: int, capacity: int, window: int) -> int:
    """How many of `tokens` a window-sized cache keeps: eviction frees capacity − window + 1 rows at once."""
    if tokens <= capacity:
        return tokens
    freed = capacity - window + 1
    return tokens - freed * -(-(tokens - capacity) // freed)


class Cache:
    """How rows are stored: as they are, or as 8- or 4-bit integers (two to a byte, low half first, 8 added) in units of a scale."""

    def __init__(self, past: Any, scale: Any, kind: str, bits: int, like: np.ndarray) -> None:
        self.dtype = like.dtype if past is None else past.dtype
        self.bits = 0 if kind == "NONE" else bits or 8
        require(not self.bits or scale is not None, "a quantised cache needs k_scale and v_scale")
        self.scale: Any = scale if scale is None or scale.ndim == 4 else scale.reshape(1, 1, 1, -1)

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """float32 [1, H, L, D] → what the cache holds."""
        if not self.bits:
            return rows.astype(self.dtype, copy=False)
        limit = 1 << (self.bits - 1)
        whole = np.clip(np.rint(rows / self.scale), -limit, limit - 1).astype(np.int8)
        if self.bits == 8:
            return whole if self.dtype == np.int8 else (whole.astype(np.int16) + 128).astype(self.dtype)
        nibbles = (whole + 8).astype(np.uint8)
        return nibbles[..., ::2] | nibbles[..., 1::2] << 4

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """What the cache holds → float32."""
        if not self.bits:
            return widened(rows)
        if self.bits == 4:
            whole = np.stack([rows & 15, rows >> 4], -1).reshape(*rows.shape[:-1], -1).astype(np.float32) - 8
        else:
            whole = rows.astype(np.float32) - (0 if self.dtype == np.int8 else 128)
        return whole * self.scale


@operator("com.microsoft")
def GroupQueryAttention(query: Any, key: Any = None, value: Any = None, past_key: Any = None, past_value: Any = None, seqlens_k: Any = None, total_sequence_length: Any = None,
                        cos_cache: Any = None, sin_cache: Any = None, position_ids: Any = None, attention_bias: Any = None, head_sink: Any = None, k_scale: Any = None,
                        v_scale: Any = None, q_norm_weight: Any = None, k_norm_weight: Any = None, query_seqlens: Any = None, *, causal: int = 1, do_rotary: int = 0,
                        k_norm_epsilon: float | None = None, k_quant_type: str = "NONE", kv_cache_bit_width: int = 0, kv_num_heads: int, local_window_size: int = -1,
                        num_heads: int, q_norm_epsilon: float | None = None, qk_norm_epsilon: float = 9.999999974752427e-07, qk_output: int = 0, rotary_interleaved: int = 0,
                        scale: float = 0.0, sliding_window_cache: int = 0, smooth_softmax: int = -1, softcap: float = 0.0, v_quant_type: str = "NONE") -> Any:
    """Attention of new tokens to the cache and to themselves; outputs [B, S, heads * D], the present keys and values, and with `qk_output` the scores (1) or the weights (2)."""
    needed(seqlens_k=seqlens_k, total_sequence_length=total_sequence_length)
    q, k, v = _split(query, key, value, num_heads, kv_num_heads)
    if q_norm_weight is not None and k_norm_weight is not None:
        q = RMSNormalization(q, widened(q_norm_weight), epsilon=q_norm_epsilon or qk_norm_epsilon)
        k = RMSNormalization(k, widened(k_norm_weight), epsilon=k_norm_epsilon or qk_norm_epsilon)
    batch, _, length, head = q.shape
    total = int(total_sequence_length.reshape(()))
    prompt = query_seqlens is None and length == total
    ends = seqlens_k.reshape(-1).astype(np.int64) + 1
    new = np.full(batch, k.shape[2]) if query_seqlens is None else query_seqlens.reshape(-1).astype(np.int64)
    starts = np.zeros(batch, np.int64) if prompt else ends - new
    require(np.all(starts >= 0), f"seqlens_k {seqlens_k.tolist()} means fewer tokens than the {k.shape[2]} new ones")
    if do_rotary:
        needed(cos_cache=cos_cache, sin_cache=sin_cache)
        q, k = (_rotated(x, starts, prompt, position_ids, cos_cache, sin_cache, rotary_interleaved) for x in (q, k))

    caches = [Cache(p, s, t, kv_cache_bit_width, query) for p, s, t in ((past_key, k_scale, k_quant_type), (past_value, v_scale, v_quant_type))]
    capacity = 0 if past_key is None else past_key.shape[2]
    rows = capacity if sliding_window_cache else max(total, capacity)
    require(not sliding_window_cache or (0 < local_window_size <= capacity), f"a sliding_window_cache of {capacity} rows must hold the local_window_size {local_window_size}")
    sink = head_sink if head_sink is not None else np.zeros(num_heads, np.float32) if smooth_softmax == 1 else None
    presents = [np.zeros((batch, kv_num_heads, rows, head // 2 if c.bits == 4 else head), c.dtype) for c in caches]
    y = np.zeros_like(q)
    stages = np.zeros((batch, num_heads, length, total), np.float32)
    for b in range(batch):
        begin, count = int(starts[b]), int(new[b])
        end = min(int(ends[b]), begin + count)  # rows of a first prompt beyond its length are padding
        kept, last = (resident(t, capacity, local_window_size) if sliding_window_cache else t for t in (begin, end))
        held: list[np.ndarray] = []
        for cache, past, fresh_rows, present in zip(caches, (past_key, past_value), (k, v), presents, strict=True):
            stored = cache.encode(fresh_rows[b:b + 1, :, :end - begin])
            if kept:
                stored = np.concatenate([past[b:b + 1, :, :kept], stored], 2)
            present[b, :, :last] = stored[0, :, stored.shape[2] - last:]
            held.append(cache.decode(stored))
        first = begin - kept  # the position of the first key held
        seen = _seen(begin + np.arange(length), first + np.arange(held[0].shape[2]), causal, local_window_size)
        bias = np.where(seen, np.float32(0), np.float32(-np.inf))
        if attention_bias is not None:
            bias = bias + widened(attention_bias)[min(b, len(attention_bias) - 1), :, :, first:end]
        y[b], scores, weights = (x[0] for x in attend(q[b:b + 1], held[0], held[1], bias, scale, softcap, None if sink is None else widened(sink)))
        stages[b, :, :, first:end] = np.where(seen, scores if qk_output == 1 else weights, 0)
    made = (_packed(y).astype(query.dtype, copy=False), *presents)
    return (*made, stages.astype(query.dtype, copy=False)) if qk_output else made


def _rotated(x: np.ndarray, starts: np.ndarray, prompt: bool, position_ids: Any, cos: Any, sin: Any, interleaved: int) -> np.ndarray:
    """Rotary embedding at each token's position: given, or counted from the entry's start. Of a first prompt's position_ids only the first element counts."""
    steps = np.arange(x.shape[2])
    if position_ids is None:
        positions = starts[:, None] + steps
    elif prompt:
        positions = np.broadcast_to(position_ids.ravel()[0] + steps, (len(x), steps.size))
    else:
        positions = position_ids
    return np.asarray(RotaryEmbedding(x, widened(cos), widened(sin), np.minimum(positions, len(cos) - 1), interleaved=interleaved, rotary_embedding_dim=2 * cos.shape[1]))


def _seen(query: np.ndarray, key: np.ndarray, causal: int, window: int) -> np.ndarray:
    """Which keys [S, T] a query at its position sees: none behind it and, with a window, none more than window − 1 positions before it."""
    seen = np.ones((query.size, key.size), bool)
    if causal:
        seen &= key <= query[:, None]
    if window >= 0:
        seen &= key > query[:, None] - window
    return seen


@GroupQueryAttention.shape
def _(query: Spec, key: Spec | None = None, value: Spec | None = None, past_key: Spec | None = None, past_value: Spec | None = None, seqlens_k: Spec | None = None,
      total_sequence_length: Spec | None = None, cos_cache: Spec | None = None, sin_cache: Spec | None = None, position_ids: Spec | None = None,
      attention_bias: Spec | None = None, head_sink: Spec | None = None, k_scale: Spec | None = None, v_scale: Spec | None = None, q_norm_weight: Spec | None = None,
      k_norm_weight: Spec | None = None, query_seqlens: Spec | None = None, *, causal: int = 1, do_rotary: int = 0, k_norm_epsilon: float | None = None,
      k_quant_type: str = "NONE", kv_cache_bit_width: int = 0, kv_num_heads: int, local_window_size: int = -1, num_heads: int, q_norm_epsilon: float | None = None,
      qk_norm_epsilon: float = 1e-6, qk_output: int = 0, rotary_interleaved: int = 0, scale: float = 0.0, sliding_window_cache: int = 0, smooth_softmax: int = -1,
      softcap: float = 0.0, v_quant_type: str = "NONE") -> tuple[Spec, ...]:
    needed(seqlens_k=seqlens_k, total_sequence_length=total_sequence_length)
    assert total_sequence_length is not None
    require(num_heads > 0 and kv_num_heads > 0 and num_heads % kv_num_heads == 0, f"num_heads {num_heads} must be a multiple of kv_num_heads {kv_num_heads}")
    require(not do_rotary or (cos_cache is not None and sin_cache is not None), "do_rotary needs cos_cache and sin_cache")
    require((past_key is None) == (past_value is None), "past_key and past_value must be given together")
    dtype = same_type(query, key, value, cos_cache, sin_cache, attention_bias, head_sink)
    batch, length, width = sizes(query, 3, "query")
    parts = num_heads if key is not None else num_heads + 2 * kv_num_heads
    require(not isinstance(width, int) or width % parts == 0, f"query {query} does not split into {parts} heads")
    head = exact_div(width, parts)
    total = (total_sequence_length.ints or fresh_shape(1))[0]  # type: ignore[index]
    before = sizes(past_key, 4, "past_key") if past_key is not None else None
    rows = total if before is None else before[2] if sliding_window_cache else dim_max(before[2], total)
    present = (batch, kv_num_heads, rows, head if before is None else before[3])
    kinds = [dtype if p is None or p.dtype is None else p.dtype for p in (past_key, past_value)]
    made = (Spec(dtype, (batch, length, num_heads * head)), Spec(kinds[0], present), Spec(kinds[1], present))
    return (*made, Spec(dtype, (batch, num_heads, length, total))) if qk_output else made


@GroupQueryAttention.lower
def _(k: Lowering, query: View, key: View | None = None, value: View | None = None, past_key: View | None = None, past_value: View | None = None, seqlens_k: View | None = None,
      total_sequence_length: View | None = None, cos_cache: View | None = None, sin_cache: View | None = None, position_ids: View | None = None,
      attention_bias: View | None = None, head_sink: View | None = None, k_scale: View | None = None, v_scale: View | None = None, q_norm_weight: View | None = None,
      k_norm_weight: View | None = None, query_seqlens: View | None = None, *, causal: int = 1, do_rotary: int = 0, k_norm_epsilon: float | None = None,
      k_quant_type: str = "NONE", kv_cache_bit_width: int = 0, kv_num_heads: int, local_window_size: int = -1, num_heads: int, q_norm_epsilon: float | None = None,
      qk_norm_epsilon: float = 1e-6, qk_output: int = 0, rotary_interleaved: int = 0, scale: float = 0.0, sliding_window_cache: int = 0, smooth_softmax: int = -1,
      softcap: float = 0.0, v_quant_type: str = "NONE", out: Any) -> tuple[View, View, View]:
    rare = {"position_ids": position_ids, "attention_bias": attention_bias, "head_sink": head_sink, "k_scale": k_scale, "v_scale": v_scale, "q_norm_weight": q_norm_weight,
            "query_seqlens": query_seqlens}
    for name, given in rare.items():
        if given is not None:
            raise CannotLower(f"the input {name}")
    if qk_output or sliding_window_cache or smooth_softmax == 1 or query.dtype is not DType.FLOAT or any(p is not None and p.dtype is not DType.FLOAT for p in (past_key, past_value)):
        raise CannotLower("scores as an output, a cache of a window's size, a sink, or other types than float")
    assert seqlens_k is not None and total_sequence_length is not None
    batch, length, width = query.shape
    if key is None or value is None:
        head = exact_div(width, num_heads + 2 * kv_num_heads)
        starts = (0, num_heads * head, (num_heads + kv_num_heads) * head)
        query, key, value = (query.slice(2, s, n * head) for s, n in zip(starts, (num_heads, kv_num_heads, kv_num_heads), strict=True))
    q, new_key, new_value = (x.split(2, n, exact_div(x.shape[2], n)).permute((0, 2, 1, 3)) for x, n in ((query, num_heads), (key, kv_num_heads), (value, kv_num_heads)))
    # Where each entry's new tokens begin: after those its cache holds, at 0 in a first prompt, padded or not.
    tokens = k.sized([length])
    # (Written so that 32 bits are provably enough, whatever a run gives: fewer than none and more than INT_MAX - 1 are as good as these.)
    held = k.map(lambda n: binary(Op.MIN, binary(Op.MAX, cast(n, Compute.I64), -1), (1 << 31) - 2) + 1, k.reshape(seqlens_k, (batch,)), dtype=DType.INT64)
    begin = k.map(lambda n, new: binary(Op.MAX, n - new, 0), held, tokens, dtype=DType.INT64)
    if do_rotary:
        assert cos_cache is not None and sin_cache is not None
        most = cos_cache.shape[0] - 1 if isinstance(cos_cache.shape[0], int) else None
        places = k.map(lambda b: coord(1) + b if most is None else binary(Op.MIN, binary(Op.MIN, coord(1), most) + binary(Op.MIN, b, most), most), begin.unsqueeze(1), dtype=DType.INT64,
                       shape=(batch, length))
        tables = [gathered(k, c, places, 0, 0, (batch, length, c.shape[1])).unsqueeze(1) for c in (cos_cache, sin_cache)]
        turned = 2 * whole_number(cos_cache.shape[1], "half of what is rotated")
        q, new_key = (rotated(k, x, tables[0], tables[1], 4, rotary_interleaved, turned) for x in (q, new_key))
    presents = [appended_view(k, past, new, begin, out[1 + i].shape) for i, (past, new) in enumerate(((past_key, new_key), (past_value, new_value)))]
    rows = presents[0].shape[2]
    heads, y = _unpacked(k, query.dtype, (batch, num_heads, length, presents[1].shape[3]), 3)

    def seen(b: E, n: E) -> E:
        shown = binary(Op.LT, coord(3), n)
        if causal:
            shown = binary(Op.AND, shown, binary(Op.LE, coord(3) - coord(2), b))
        if local_window_size >= 0:
            shown = binary(Op.AND, shown, binary(Op.GT, coord(3) - coord(2), b - local_window_size))
        return shown
    column = [v.unsqueeze(1).unsqueeze(2).unsqueeze(3) for v in (begin, held)]
    mask = k.map(seen, *column, dtype=DType.BOOL, shape=(batch, 1, length, rows)).expand((batch, num_heads, length, rows))
    k.call(Kernel.ATTENTION, [q, *presents, mask], [heads], scale=scale or _scale(q.shape[3], None), softcap=softcap, causal=0, offset=0)
    return y, presents[0], presents[1]
