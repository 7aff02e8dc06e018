"""com.microsoft's attention operators against onnxruntime: masks, pasts, caches of any size, rotary embeddings, grouped queries. Every case also checks the shape rule."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.kernels import Kernel

from .contrib import DOMAIN, check, check_rule, engine, ints, one_node, ours, peer, real, scalar, whole

# -- attention -----------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mask", [None, ints(3, 2), ints(4, 3, 1, 0), ints(3, 2, 0, 4, 8, 0, 4, 8), np.array([[1, 1, 0, 1], [0, 0, 0, 0]], np.int32),
                                  whole(2, 4, 4, dtype=np.int32, low=0, high=2)])
@pytest.mark.parametrize("attributes", [{}, dict(unidirectional=1), dict(scale=0.3, mask_filter_value=-3.0)])
def test_attention_masks(mask: Any, attributes: Any) -> None:
    check("Attention", [real(2, 4, 5), real(5, 24), real(24), mask], dict(num_heads=2, **attributes), outputs=2)


def test_attention_past_bias_and_sizes() -> None:
    past = real(2, 2, 2, 3, 4)
    check("Attention", [real(2, 4, 5), real(5, 24), real(24), None, past], dict(num_heads=2, unidirectional=1), outputs=2)
    check("Attention", [real(2, 4, 5), real(5, 24), real(24), whole(2, 7, dtype=np.int32, low=0, high=2), past], dict(num_heads=2), outputs=2)
    check("Attention", [real(2, 4, 5), real(5, 24), real(24), whole(2, 4, dtype=np.int32, low=0, high=2), None, real(1, 2, 4, 4)], dict(num_heads=2), tolerance=1e-3)
    check("Attention", [real(2, 4, 5), real(5, 8 + 8 + 6)], dict(num_heads=2, qkv_hidden_sizes=[8, 8, 6]))


def test_attention_shared_buffer() -> None:
    """A buffer with 3 filled rows is the same as a past of 3 rows."""
    past, x, w = real(2, 2, 2, 3, 4), real(2, 4, 5), real(5, 24)
    plain, buffer = ours("Attention", [x, w, None, None, past], dict(num_heads=2)), np.zeros((2, 2, 2, 9, 4), np.float32)
    buffer[:, :, :, :3] = past
    inputs = [x, w, None, None, buffer, None, ints(3)]
    shared = ours("Attention", inputs, dict(num_heads=2, past_present_share_buffer=1))
    check_rule("Attention", inputs, dict(num_heads=2, past_present_share_buffer=1), shared, DOMAIN)
    np.testing.assert_allclose(shared[0], plain[0], rtol=1e-6)
    np.testing.assert_array_equal(shared[1][:, :, :, :7], plain[1])
    y, present = engine("Attention", inputs, dict(num_heads=2, past_present_share_buffer=1), shared)
    np.testing.assert_allclose(y, plain[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(present[:, :, :, :7], plain[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(np.uint8, np.uint8), (np.uint8, np.int8)])
def test_qattention(a: Any, b: Any) -> None:
    x, w = whole(2, 4, 5, dtype=a), whole(5, 24, dtype=b)
    check("QAttention", [x, w, real(24), scalar(0.02), scalar(0.01), ints(3, 2), scalar(9, a), scalar(2, b)], dict(num_heads=2), outputs=2, tolerance=1e-4)
    check("QAttention", [x, w, real(24), scalar(0.02), real(24, low=0.01, high=0.02), None, scalar(9, a), np.full(24, 2, b), real(2, 2, 2, 3, 4)],
        dict(num_heads=2, unidirectional=1), outputs=2,
          tolerance=1e-4)


@pytest.mark.parametrize("mask", [None, ints(3, 2), np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0]], np.int32), whole(2, 4, 5, dtype=np.int32, low=0, high=2)])
@pytest.mark.parametrize("attributes", [{}, dict(scale=0.3, mask_filter_value=-3.0)])
def test_multi_head_attention_cross(mask: Any, attributes: Any) -> None:
    inputs = [real(2, 4, 8), real(2, 5, 8), real(2, 5, 6), real(22), mask, real(2, 1, 4, 5)]
    # Scores of masked keys are near -10000, where float32 has steps of 0.001.
    check("MultiHeadAttention", inputs, dict(num_heads=2, **attributes), outputs=4, tolerance=1e-3)
    check("MultiHeadAttention", inputs[:3], dict(num_heads=2, **attributes))


def test_multi_head_attention_past() -> None:
    past = [real(2, 2, 3, 4), real(2, 2, 3, 4, seed=1)]
    for attributes in ({}, dict(unidirectional=1)):
        for mask in (None, whole(2, 7, dtype=np.int32, low=0, high=2)):
            inputs = [real(2, 4, 8), real(2, 4, 8, seed=1), real(2, 4, 8, seed=2), real(24), mask, real(1, 2, 4, 7), *past]
            check("MultiHeadAttention", inputs, dict(num_heads=2, **attributes), outputs=4)


def test_multi_head_attention_split_keys() -> None:
    """Keys and values that come with their heads split (of a cross attention's cache) get no bias."""
    check("MultiHeadAttention", [real(2, 4, 8), real(2, 2, 5, 4), real(2, 2, 5, 4, seed=1)], dict(num_heads=2))
    check("MultiHeadAttention", [real(2, 4, 8), real(2, 2, 5, 4), real(2, 2, 5, 4, seed=1), np.concatenate([real(8), np.zeros(16, np.float32)])], dict(num_heads=2))


def test_multi_head_attention_packed() -> None:
    """Packed forms, which onnxruntime's CPU kernel lacks, equal the separate ones."""
    q, k, v, bias = real(2, 4, 8), real(2, 4, 8, seed=1), real(2, 4, 8, seed=2), real(24)
    split = [x.reshape(2, 4, 2, 4) for x in (q, k, v)]
    plain = ours("MultiHeadAttention", [q, k, v, bias], dict(num_heads=2))
    for inputs in ([np.stack(split, 3), None, None, bias], [q, np.stack(split[1:], 3), None, bias]):
        results = ours("MultiHeadAttention", inputs, dict(num_heads=2))
        check_rule("MultiHeadAttention", inputs, dict(num_heads=2), results, DOMAIN)
        np.testing.assert_array_equal(results[0], plain[0])
        np.testing.assert_allclose(engine("MultiHeadAttention", inputs, dict(num_heads=2), results[:3])[0], plain[0], rtol=1e-5, atol=1e-5)


def test_multi_head_attention_shared_buffer() -> None:
    past = [real(2, 2, 3, 4), real(2, 2, 3, 4, seed=1)]
    buffers = [np.concatenate([p, np.zeros((2, 2, 6, 4), np.float32)], 2) for p in past]
    inputs = [real(2, 1, 8), real(2, 1, 8, seed=1), real(2, 1, 8, seed=2), None, None, None]
    plain, shared = ours("MultiHeadAttention", [*inputs, *past], dict(num_heads=2)), ours("MultiHeadAttention", [*inputs, *buffers, ints(3)], dict(num_heads=2))
    check_rule("MultiHeadAttention", [*inputs, *buffers, ints(3)], dict(num_heads=2), shared, DOMAIN)
    np.testing.assert_array_equal(shared[0], plain[0])
    np.testing.assert_array_equal(shared[1][:, :, :4], plain[1])
    for more in ({}, dict(unidirectional=1)):
        for given in ([*inputs, *buffers, ints(3)], [*inputs[:4], ints(2, 4), real(1, 1, 1, 4), *buffers, ints(3)]):
            expected = ours("MultiHeadAttention", given, dict(num_heads=2, **more))[:3]
            y, *presents = engine("MultiHeadAttention", given, dict(num_heads=2, **more), expected)
            np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
            for mine, theirs in zip(presents, expected[1:], strict=True):
                np.testing.assert_array_equal(mine[:, :, :4], theirs[:, :, :4])


#: Sizes of the inputs that are symbols, by input: s new tokens, p past ones, m a mask's, t a bias'.
SIZES = {"Attention": {0: [2, "s", 5], 3: [2, "m"], 4: [2, 2, 2, "p", 16], 5: [2, 2, "s", "t"]},
         "MultiHeadAttention": {0: [2, "s", 32], 1: [2, "s", 32], 2: [2, "s", 32], 4: [2, "m"], 5: [2, 2, "s", "t"], 6: [2, 2, "p", 16], 7: [2, 2, "p", 16]}}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("form", ["plain", "mask", "new mask", "bias", "causal", "all"])
@pytest.mark.parametrize("op", ["Attention", "MultiHeadAttention"])
def test_decoding_with_any_sizes(op: str, form: str, half: bool) -> None:
    """One session for any past, none too: the engine's ATTENTION reads past and new keys where they lie and writes the presents. onnxruntime's results, or our body's where it refuses."""
    attributes = dict(num_heads=2, **(dict(unidirectional=1) if form in ("causal", "all") else {}))
    session: Any = None
    for past, new in ((3, 1), (0, 4), (300, 1), (17, 35), (1, 1)):
        mask = {"mask": past + new, "all": past + new, "new mask": new}.get(form)
        mask = None if mask is None else whole(2, mask, dtype=np.int32, low=0, high=2)
        added = real(2, 2, new, past + new) if form in ("bias", "all") else None
        if op == "Attention":
            inputs: list[Any] = [real(2, new, 5), real(5, 96), real(96), mask, real(2, 2, 2, past, 16), added]
        else:
            inputs = [*(real(2, new, 32, seed=i) for i in range(3)), real(96) if form == "all" else None, mask, added, *(real(2, 2, past, 16, seed=i) for i in range(2))]
        inputs = [x.astype(np.float16) if half and x is not None and x.dtype == np.float32 else x for x in inputs]
        constants = (1,) if op == "Attention" else ()
        results = ours(op, inputs, attributes)[:3]
        model, fed = one_node(op, inputs, attributes, results, DOMAIN, constants)
        if session is None:
            for port in model.graph.input:
                for dim, size in zip(port.type.tensor_type.shape.dim, SIZES[op].get(int(port.name[1:]), []), strict=False):
                    if isinstance(size, str):
                        dim.dim_param = size
            strict = sardonyx.SessionOptions()
            strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            session = sardonyx.InferenceSession(model.SerializeToString(), strict, providers=["CPUExecutionProvider"])
        tolerance = 1e-2 if half else 2e-3 if mask is not None else 2e-5
        refused = half or form == "new mask" or op == "Attention" and added is not None     # by onnxruntime, with a past
        for mine, theirs in zip(session.run(None, fed), results if refused else peer(op, inputs, attributes, results, DOMAIN, constants), strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance)
    steps = [step for runner in session._executor.latest.blocks.runners for step in runner.program.steps]
    attention, = (step for step in steps if step.kind is Kernel.ATTENTION)
    assert len(attention.inputs) == 6 and len(attention.outputs) == 3
    assert sum(step.kind is Kernel.COPY for step in steps) <= (mask is not None)   # a mask of the new keys gets the past's before it; no cache is copied


@pytest.mark.parametrize(("shape", "positions", "attributes"), [
    ((2, 3, 16), [[0, 1, 2], [5, 6, 9]], {}), ((2, 3, 16), [4], dict(interleaved=1)), ((2, 2, 3, 8), [[0, 1, 2], [5, 6, 9]], {}), ((2, 3, 32), [2],
    dict(num_heads=2, rotary_embedding_dim=8)),
    ((2, 2, 3, 16), [2], dict(num_heads=2, rotary_embedding_dim=8, interleaved=1)), ((2, 3, 16), [[0, 1, 2], [5, 6, 9]], dict(is_packed_batching=1, scale=2.0)),
    ((2, 3, 16), [1], dict(num_heads=2)),
])
def test_rotary_embedding(shape: Any, positions: Any, attributes: Any) -> None:
    check("RotaryEmbedding", [real(*shape), np.array(positions, np.int64), real(12, 4), real(12, 4, seed=1)], attributes)


# -- GroupQueryAttention ---------------------------------------------------------------------------------------------------------------------------------

HEADS, KV_HEADS, SIZE = 4, 2, 16


def gqa(length: int, ends: list[int], total: int, past: int | None, *, packed_input: bool = False, rotary: bool = False, positions: Any = None, bias: bool = False,
        sink: bool = False, kind: Any = np.float32, **attributes: Any) -> tuple[list[Any], dict[str, Any]]:
    """The inputs and attributes of a node; `ends`: tokens in the cache after the step, per batch entry."""
    batch = len(ends)
    q, k, v = (real(batch, length, n * SIZE, seed=s).astype(kind) for s, n in enumerate((HEADS, KV_HEADS, KV_HEADS)))
    caches = [None, None] if past is None else [real(batch, KV_HEADS, past, SIZE, seed=s).astype(kind) for s in (3, 4)]
    angles = np.arange(40)[:, None] / 10 ** (np.arange(SIZE // 2) / 4)
    inputs = [*((np.concatenate([q, k, v], 2), None, None) if packed_input else (q, k, v)), *caches, ints(*(e - 1 for e in ends)), ints(total),
              *((f(angles).astype(kind) for f in (np.cos, np.sin)) if rotary else (None, None)), positions, real(1, HEADS, length, total).astype(kind) if bias else None,
              real(HEADS).astype(kind) if sink else None]
    while inputs[-1] is None:
        inputs.pop()
    return inputs, dict(num_heads=HEADS, kv_num_heads=KV_HEADS, do_rotary=int(rotary), **attributes)


def check_gqa(inputs: list[Any], attributes: dict[str, Any], length: int, ends: list[int], tolerance: float = 1e-4) -> None:
    """Equal where rows mean something: queries within a sequence, cache rows below its end."""
    outputs = 4 if attributes.get("qk_output") else 3
    results = ours("GroupQueryAttention", inputs, attributes)
    check_rule("GroupQueryAttention", inputs, attributes, results, DOMAIN)
    theirs = peer("GroupQueryAttention", inputs, attributes, results)
    for b, end in enumerate(ends):
        valid = min(length, end)
        for k in range(outputs):
            a, e = (x[k][b].astype(np.float64) for x in (results, theirs))
            assert a.shape == e.shape
            rows: Any = slice(valid) if k == 0 else (slice(None), slice(end)) if k < 3 else (slice(None), slice(valid), slice(end))
            np.testing.assert_allclose(a[rows], e[rows], rtol=tolerance, atol=tolerance, err_msg=f"output {k}, entry {b}")


@pytest.mark.parametrize("options", [{}, dict(packed_input=True), dict(rotary=True), dict(rotary=True, rotary_interleaved=1, packed_input=True),
                                     dict(local_window_size=3), dict(softcap=1.5),
                                     dict(scale=0.4), dict(smooth_softmax=1), dict(sink=True), dict(bias=True), dict(rotary=True, local_window_size=2, softcap=2.0, sink=True)])
@pytest.mark.parametrize(("length", "ends", "total", "past"), [
    (5, [5, 5], 5, None), (5, [5, 3], 5, None), (5, [5, 2], 5, 8), (1, [5, 3], 5, 4), (1, [5, 3], 5, 9), (3, [7], 7, 4), (3, [7], 7, 12), (1, [1], 1, 0),
])
def test_group_query_attention(options: dict[str, Any], length: int, ends: list[int], total: int, past: int | None) -> None:
    inputs, attributes = gqa(length, ends, total, past, **options)
    check_gqa(inputs, attributes, length, ends)


@pytest.mark.parametrize("output", [1, 2])
def test_group_query_attention_scores(output: int) -> None:
    for length, ends, total, past in ((5, [5, 5], 5, None), (1, [5, 5], 5, 4)):
        inputs, attributes = gqa(length, ends, total, past, qk_output=output)
        check_gqa(inputs, attributes, length, ends)


def test_group_query_attention_positions_half_and_bidirectional() -> None:
    inputs, attributes = gqa(4, [4, 4], 4, None, rotary=True, positions=np.array([[2, 3, 4, 5], [2, 3, 4, 5]], np.int64))
    check_gqa(inputs, attributes, 4, [4, 4])
    inputs, attributes = gqa(1, [5, 3], 5, 4, rotary=True, positions=np.array([[9], [7]], np.int64))
    check_gqa(inputs, attributes, 1, [5, 3])
    inputs, attributes = gqa(1, [5, 3], 5, 4, rotary=True, kind=np.float16)
    check_gqa(inputs, attributes, 1, [5, 3], 5e-3)
    inputs, attributes = gqa(4, [4, 4], 4, None, causal=0)
    check_gqa(inputs, attributes, 4, [4, 4])


def test_group_query_attention_padded_chunks() -> None:
    inputs, attributes = gqa(3, [7, 2], 8, 10, rotary=True)
    inputs += [None] * (16 - len(inputs)) + [ints(2, 1)]
    results = ours("GroupQueryAttention", inputs, attributes)
    check_rule("GroupQueryAttention", inputs, attributes, results, DOMAIN)
    for b, (valid, end) in enumerate(((2, 7), (1, 2))):
        for k, (a, e) in enumerate(zip(results, peer("GroupQueryAttention", inputs, attributes, results), strict=True)):
            rows: Any = slice(valid) if k == 0 else (slice(None), slice(end))
            np.testing.assert_allclose(a[b][rows], e[b][rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("capacity", "length", "ends"), [(4, 1, [3, 2]), (4, 1, [9, 5]), (6, 1, [9, 15]), (6, 3, [9])])
def test_group_query_attention_window_cache(capacity: int, length: int, ends: list[int]) -> None:
    from sardonyx.ops.contrib_gqa import resident
    inputs, attributes = gqa(length, ends, max(ends), capacity, rotary=True, local_window_size=4, sliding_window_cache=1)
    results = ours("GroupQueryAttention", inputs, attributes)
    check_rule("GroupQueryAttention", inputs, attributes, results, DOMAIN)
    theirs = peer("GroupQueryAttention", inputs, attributes, results)
    np.testing.assert_allclose(results[0], theirs[0], rtol=1e-4, atol=1e-4)
    for b, end in enumerate(ends):
        for k in (1, 2):
            rows = resident(end, capacity, 4)
            np.testing.assert_allclose(results[k][b, :, :rows], theirs[k][b, :, :rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["PER_TENSOR", "PER_CHANNEL"])
def test_group_query_attention_quantized_cache(bits: int, kind: str) -> None:
    inputs, attributes = gqa(1, [5, 3], 5, 8, k_quant_type=kind, v_quant_type=kind, kv_cache_bit_width=bits)
    inputs[3:5] = [whole(2, KV_HEADS, 8, SIZE * bits // 8, seed=s, dtype=np.int8 if bits == 8 else np.uint8) for s in (3, 4)]
    scale = [real(1, seed=s, low=0.01, high=0.02) if kind == "PER_TENSOR" else real(1, KV_HEADS, 1, SIZE, seed=s, low=0.01, high=0.02) for s in (5, 6)]
    inputs += [None] * (12 - len(inputs)) + [s * (1 if bits == 8 else 16) for s in scale]
    check_gqa(inputs, attributes, 1, [5, 3], 1e-3)


def test_group_query_attention_head_norm() -> None:
    """RMS normalization of each head, which onnxruntime's CPU kernel lacks, equals normalizing before."""
    inputs, attributes = gqa(4, [4, 4], 4, None, rotary=True)
    weights = [real(SIZE, low=0.5, high=1.5, seed=s) for s in (7, 8)]
    normal = [ours("SimplifiedLayerNormalization", [x.reshape(2, 4, -1, SIZE), w], dict(epsilon=1e-6))[0].reshape(x.shape) for x, w in zip(inputs, weights, strict=False)]
    expected = ours("GroupQueryAttention", [*normal, *inputs[2:]], attributes)
    given = [*inputs, *[None] * (14 - len(inputs)), *weights]
    for a, e in zip(ours("GroupQueryAttention", given, attributes), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
