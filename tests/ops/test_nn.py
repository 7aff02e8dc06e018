"""Neural-network operators against onnxruntime on configurations the backend suite barely covers, and their shape rules on symbolic sizes.

Every case also checks the shape rule twice: with plain sizes, and with one symbol per size, bound afterwards.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.dim import Expr, fresh_scope, substitute, symbol
from sardonyx.errors import InvalidGraph
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.ops import Spec, lookup
from sardonyx.types import DType

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

SMALL = 64  # inputs up to this many int64 or float elements are known to the rules, as constants would be


def values(*shape: int, seed: int = 0, low: float = -1, high: float = 1, dtype: Any = np.float32) -> np.ndarray:
    """Reproducible values; integers where `dtype` is one."""
    random = np.random.default_rng([seed, *shape])
    if np.dtype(dtype).kind in "iu":
        return random.integers(int(low), int(high), shape).astype(dtype)
    return random.uniform(low, high, shape).astype(dtype)


def peer(op: str, inputs: list[Any], attributes: dict[str, Any], outputs: int, opset: int) -> list[np.ndarray]:
    """onnxruntime's results of one node."""
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, [f"o{k}" for k in range(outputs)], **attributes)
    graph = onnx.helper.make_graph(
        [node], "case", [onnx.helper.make_tensor_value_info(f"i{k}", onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in enumerate(inputs) if v is not None],
        [onnx.helper.make_empty_tensor_value_info(f"o{k}") for k in range(outputs)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {f"i{k}": v for k, v in enumerate(inputs) if v is not None})


def ours(op: str, inputs: list[Any], attributes: dict[str, Any], outputs: int) -> list[np.ndarray]:
    """The reference body's results."""
    operator = lookup("", op)
    special = {"n_outputs": outputs} if "n_outputs" in operator.wants else {}
    with np.errstate(all="ignore"):
        made = operator(*inputs, **attributes, **special)
    return [np.asarray(v) for v in (made if isinstance(made, tuple) else (made,))][:outputs]


def check_rule(op: str, inputs: list[Any], attributes: dict[str, Any], results: list[np.ndarray]) -> None:
    """The rule agrees with the results, on plain and on symbolic sizes."""
    sizes: dict[str, int] = {}

    def spec(k: int, v: Any, symbolic: bool) -> Spec | None:
        if v is None:
            return None
        known = v if v.ndim <= 1 and v.size <= SMALL else None
        if not symbolic or known is not None:
            return Spec(DType.of(v), v.shape, known)
        sizes.update({f"s{k}_{axis}": size for axis, size in enumerate(v.shape)})
        return Spec(DType.of(v), tuple(symbol(f"s{k}_{axis}") for axis in range(v.ndim)))
    for symbolic in (False, True):
        with fresh_scope("t"):
            made = lookup("", op).shape_rule(*(spec(k, v, symbolic) for k, v in enumerate(inputs)), **attributes)
        for out, result in zip(made if isinstance(made, tuple) else (made,), results, strict=False):
            assert out.dtype == DType.of(result)
            bound = [substitute(d, sizes) for d in out.shape]
            assert len(bound) == result.ndim
            for size, expected in zip(bound, result.shape, strict=True):
                assert size == expected or (isinstance(size, Expr) and "?" in str(size) and symbolic), f"{out} is not {result.shape}"


def check(op: str, inputs: list[Any], attributes: dict[str, Any] | None = None, *, outputs: int = 1, opset: int = 22, tolerance: float = 2e-5) -> None:
    """Ours equals onnxruntime's, in dtype, shape and value."""
    attributes = attributes or {}
    results = ours(op, inputs, attributes, outputs)
    check_rule(op, inputs, attributes, results)
    for mine, theirs in zip(results, peer(op, inputs, attributes, outputs, opset), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if theirs.dtype.kind in "biu":
            np.testing.assert_array_equal(mine, theirs)
        else:
            np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance)


# -- convolution ---------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("x", "w", "attributes"), [
    ((2, 4, 13), (6, 2, 3), dict(group=2, dilations=[2], strides=[3], pads=[1, 4])),
    ((1, 6, 11, 9), (9, 2, 3, 2), dict(group=3, dilations=[2, 3], pads=[0, 1, 3, 2])),
    ((3, 5, 10, 7), (10, 1, 3, 3), dict(group=5, strides=[2, 1], pads=[1, 0, 2, 1])),
    ((1, 8, 12, 12), (8, 1, 5, 4), dict(group=8, strides=[3, 2], auto_pad="SAME_LOWER")),
    ((1, 3, 9, 8), (4, 3, 4, 3), dict(auto_pad="SAME_UPPER", strides=[2, 3])),
    ((1, 3, 9, 8), (4, 3, 4, 3), dict(auto_pad="VALID", strides=[2, 3])),
    ((2, 4, 5, 6, 7), (4, 2, 2, 3, 2), dict(group=2, strides=[1, 2, 2], pads=[1, 0, 1, 0, 1, 0], dilations=[1, 1, 2])),
    ((0, 3, 5, 5), (2, 3, 3, 3), {}),
    ((1, 3, 1, 1), (2, 3, 1, 1), dict(pads=[2, 1, 0, 0])),
])
def test_conv(x: Any, w: Any, attributes: Any) -> None:
    check("Conv", [values(*x), values(*w, seed=1), values(w[0], seed=2)], attributes)


def test_conv_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfolding a few rows at a time gives the same result."""
    from sardonyx.ops import conv
    x, w = values(2, 4, 11, 7), values(6, 2, 3, 3, seed=1)
    whole = ours("Conv", [x, w], dict(group=2, pads=[1, 1, 1, 1]), 1)[0]
    monkeypatch.setattr(conv, "BLOCK", 700)
    np.testing.assert_allclose(ours("Conv", [x, w], dict(group=2, pads=[1, 1, 1, 1]), 1)[0], whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("x", "w", "attributes"), [
    ((2, 4, 7), (4, 3, 3), dict(group=2, strides=[2], pads=[1, 0], output_padding=[1])),
    ((1, 6, 5, 4), (6, 2, 3, 2), dict(group=3, dilations=[2, 1], strides=[2, 3], pads=[0, 1, 2, 0], output_padding=[1, 2])),
    ((1, 3, 5, 4), (3, 2, 3, 3), dict(strides=[2, 2], auto_pad="SAME_LOWER")),
    ((1, 3, 5, 4), (3, 2, 3, 3), dict(strides=[2, 2], output_shape=[11, 10])),
    ((1, 2, 3, 4, 3), (2, 2, 2, 2, 3), dict(strides=[2, 1, 2])),
])
def test_conv_transpose(x: Any, w: Any, attributes: Any) -> None:
    check("ConvTranspose", [values(*x), values(*w, seed=1), values(w[1] * attributes.get("group", 1), seed=2)], attributes)


@pytest.mark.parametrize("x_type", [np.uint8, np.int8])
@pytest.mark.parametrize(("x", "w", "attributes"), [
    ((1, 4, 9, 8), (6, 2, 3, 3), dict(group=2, pads=[1, 2, 0, 1], strides=[2, 1])),
    ((2, 3, 8, 8), (3, 1, 3, 3), dict(group=3, pads=[1, 1, 1, 1], dilations=[2, 2])),
])
def test_integer_conv(x_type: Any, x: Any, w: Any, attributes: Any) -> None:
    limits = np.iinfo(x_type)
    data, weights = values(*x, low=limits.min, high=limits.max + 1, dtype=x_type), values(*w, seed=1, low=-128, high=128, dtype=np.int8)
    point = np.array(x_type(7))
    if x_type == np.uint8:
        check("ConvInteger", [data, weights, point, np.array(np.int8(0))], attributes)
    scale = np.array(0.02, np.float32)
    quantized = [data, scale, point, weights, values(w[0], low=0.001, high=0.02), np.zeros(w[0], np.int8), np.array(0.9, np.float32), np.array(x_type(5)),
                 values(w[0], low=-999, high=999, dtype=np.int32)]
    check("QLinearConv", quantized, attributes)


def test_integer_conv_is_exact_at_the_limits() -> None:
    """255 * 255 * 4096 = 266 342 400 is beyond float32's whole numbers."""
    x, w = np.full((1, 4096, 1, 1), 255, np.uint8), np.full((1, 4096, 1, 1), 255, np.uint8)
    assert ours("ConvInteger", [x, w], {}, 1)[0].item() == 255 * 255 * 4096
    assert ours("ConvInteger", [x, w, np.uint8(255), np.uint8(1)], {}, 1)[0].item() == 0


@pytest.mark.parametrize("attributes", [dict(pads=[1, 1, 1, 1], group=2, offset_group=2), dict(strides=[2, 1], pads=[0, 1, 1, 1], dilations=[1, 2])])
def test_deform_conv(attributes: Any) -> None:
    x, w = values(2, 4, 8, 7), values(6, 4 // attributes.get("group", 1), 3, 3, seed=1)
    height, width = ours("Conv", [x, w], {k: v for k, v in attributes.items() if k != "offset_group"}, 1)[0].shape[2:]
    groups = attributes.get("offset_group", 1)
    offset, mask = values(2, 18 * groups, height, width, low=-3, high=3), values(2, 9 * groups, height, width, low=0)
    check("DeformConv", [x, w, offset, values(6, seed=3), mask], attributes)


def test_col2im() -> None:
    x = values(2, 3 * 6, 12)
    check("Col2Im", [x, np.array([7, 6], np.int64), np.array([2, 3], np.int64)], dict(pads=[1, 0, 0, 1], strides=[2, 1], dilations=[1, 2]))


# -- pooling -------------------------------------------------------------------------------------------------------------------------------

POOLS = [
    ((1, 3, 11), dict(kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1)),
    ((2, 2, 10, 9), dict(kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 0, 1], ceil_mode=1)),
    ((1, 2, 8, 8), dict(kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)),  # the last window would start beyond the input
    ((1, 2, 9, 7), dict(kernel_shape=[3, 3], dilations=[2, 2], pads=[1, 1, 1, 1])),
    ((1, 2, 9, 7), dict(kernel_shape=[4, 3], strides=[2, 2], auto_pad="SAME_UPPER")),
    ((1, 2, 9, 7), dict(kernel_shape=[4, 3], strides=[2, 2], auto_pad="SAME_LOWER")),
    ((1, 2, 5, 6, 7), dict(kernel_shape=[2, 3, 2], strides=[2, 2, 2], pads=[0, 1, 0, 1, 1, 1])),
]


@pytest.mark.parametrize(("x", "attributes"), POOLS)
@pytest.mark.parametrize("include_pad", [0, 1])
def test_average_pool(x: Any, attributes: Any, include_pad: int) -> None:
    check("AveragePool", [values(*x)], attributes | dict(count_include_pad=include_pad))


@pytest.mark.parametrize(("x", "attributes"), POOLS)
@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool(x: Any, attributes: Any, storage_order: int) -> None:
    check("MaxPool", [values(*x)], attributes)
    check("MaxPool", [np.round(values(*x) * 2)], attributes | dict(storage_order=storage_order), outputs=2)  # ties: the first one counts


def test_max_pool_of_integers_and_nan() -> None:
    check("MaxPool", [values(1, 2, 7, 6, low=-128, high=-100, dtype=np.int8)], dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    x = np.array([[[-np.inf, np.nan, 1.0, -np.inf]]], np.float32)
    y, index = ours("MaxPool", [x], dict(kernel_shape=[2]), 2)
    np.testing.assert_array_equal(y, [[[np.nan, np.nan, 1]]])
    np.testing.assert_array_equal(index, [[[1, 1, 2]]])
    np.testing.assert_array_equal(ours("MaxPool", [x], dict(kernel_shape=[2]), 1)[0], y)


@pytest.mark.parametrize(("x", "attributes"), POOLS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(x: Any, attributes: Any, p: int) -> None:
    check("LpPool", [values(*x)], attributes | dict(p=p))


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (1, 2, 3, 4, 5)])
def test_global_pools(shape: Any) -> None:
    x = values(*shape, low=-3, high=3)
    check("GlobalAveragePool", [x])
    check("GlobalMaxPool", [x])
    for p in (1, 2, 3):
        check("GlobalLpPool", [x], dict(p=p), opset=21)


def test_max_unpool_inverts_max_pool() -> None:
    x = values(2, 3, 8, 6)
    pooled, index = ours("MaxPool", [x], dict(kernel_shape=[2, 2], strides=[2, 2]), 2)
    check("MaxUnpool", [pooled, index], dict(kernel_shape=[2, 2], strides=[2, 2]))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_max_roi_pool(scale: float) -> None:
    x = values(2, 3, 12, 10)
    rois = np.array([[0, 0, 0, 9, 11], [1, 2, 3, 5, 4], [0, 5, 5, 5, 5], [1, 8, 9, 30, 40], [0, 3, 7, 1, 2]], np.float32)
    rois[:, 1:] /= scale
    check("MaxRoiPool", [x, rois], dict(pooled_shape=[3, 2], spatial_scale=scale), opset=21)


# -- normalization -------------------------------------------------------------------------------------------------------------------------

def test_normalizations() -> None:
    x = values(3, 6, 5, 4, low=-2, high=5)
    scale, bias, mean, var = values(6), values(6, seed=1), values(6, seed=2), values(6, seed=3, low=0.1)
    check("BatchNormalization", [x, scale, bias, mean, var], dict(epsilon=1e-3))
    check("BatchNormalization", [x[..., 0, 0], scale, bias, mean, var])
    check("InstanceNormalization", [x, scale, bias])
    check("GroupNormalization", [x, scale, bias], dict(num_groups=3), opset=21)
    for axis in (-1, 1, 2):
        w, b = values(*x.shape[axis:]), values(*x.shape[axis:], seed=1)
        check("LayerNormalization", [x, w, b], dict(axis=axis), outputs=3)
        check("RMSNormalization", [x, w], dict(axis=axis), opset=23)
    check("LpNormalization", [np.where(x < 0, 0, x)], dict(axis=2, p=1))
    check("LpNormalization", [x], dict(axis=1, p=2))
    check("MeanVarianceNormalization", [x])
    for size in (1, 3, 5):
        check("LRN", [x], dict(size=size, alpha=0.3, beta=0.5, bias=1.5))


def test_batch_normalization_in_training() -> None:
    x, one = values(4, 3, 5), np.ones(3, np.float32)
    y, mean, var = ours("BatchNormalization", [x, one, 0 * one, 0 * one, one], dict(training_mode=1, momentum=0.75), 3)
    np.testing.assert_allclose(mean, 0.25 * x.mean((0, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, 0.75 + 0.25 * x.var((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(y.mean((0, 2)), 0, atol=1e-6)


# -- attention -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attributes", [{}, dict(is_causal=1), dict(softcap=2.0), dict(scale=0.3, is_causal=1)])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_grouped_query_attention(attributes: Any, kv_heads: int) -> None:
    q, k, v = values(2, 6, 5, 8), values(2, kv_heads, 7, 8, seed=1), values(2, kv_heads, 7, 4, seed=2)
    check("Attention", [q, k, v], attributes, opset=24)
    check("Attention", [q, k, v, values(2, 1, 5, 7, seed=3)], attributes, opset=24)
    check("Attention", [q, k, v, values(5, 7, seed=3) > -0.7], attributes, opset=24)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_attention_with_cache(mode: int) -> None:
    q, k, v = values(2, 3, 12), values(2, 3, 4, seed=1), values(2, 3, 6, seed=2)
    past_key, past_value = values(2, 2, 4, 2, seed=3), values(2, 2, 4, 3, seed=4)
    # Stage 2 holds -inf where a key is hidden, onnxruntime has float32's lowest number there: compare it without hidden keys.
    attributes = dict(q_num_heads=6, kv_num_heads=2, is_causal=int(mode != 2), qk_matmul_output_mode=mode, softcap=0.5)
    check("Attention", [q, k, v, None, past_key, past_value], attributes, outputs=4, opset=24)


def test_attention_rows_without_keys_are_zero() -> None:
    q, k, v = values(1, 2, 4, 8), values(1, 2, 6, 8, seed=1), values(1, 2, 6, 8, seed=2)
    y = ours("Attention", [q, k, v, None, None, None, np.array([2], np.int64)], dict(is_causal=1), 1)[0]
    assert np.all(y[:, :, :2] == 0) and np.all(np.isfinite(y)) and np.any(y[:, :, 2:] != 0)
    assert np.all(ours("Attention", [q, k, v, np.zeros((4, 6), bool)], {}, 1)[0] == 0)


@pytest.mark.parametrize("attributes", [{}, dict(interleaved=1), dict(rotary_embedding_dim=4)])
def test_rotary_embedding(attributes: Any) -> None:
    half = attributes.get("rotary_embedding_dim", 8) // 2
    angle = values(20, half, high=3)
    position = values(2, 5, high=20, low=0, dtype=np.int64)
    for x, extra in ((values(2, 3, 5, 8), {}), (values(2, 5, 24), dict(num_heads=3))):
        check("RotaryEmbedding", [x, np.cos(angle), np.sin(angle), position], attributes | extra, opset=23)
    check("RotaryEmbedding", [values(2, 3, 5, 8), np.cos(angle)[position], np.sin(angle)[position]], attributes, opset=23)


def test_linear_attention_in_two_halves() -> None:
    """Continuing from the state gives what one pass gives."""
    attributes = dict(q_num_heads=4, kv_num_heads=2)
    q, k, v, decay, beta = values(2, 6, 12), values(2, 6, 6, seed=1), values(2, 6, 10, seed=2), values(2, 6, 2, low=-1, high=0), values(2, 6, 2, low=0)
    whole, state = ours("LinearAttention", [q, k, v, None, decay, beta], attributes, 2)
    first, middle = ours("LinearAttention", [q[:, :4], k[:, :4], v[:, :4], None, decay[:, :4], beta[:, :4]], attributes, 2)
    second, last = ours("LinearAttention", [q[:, 4:], k[:, 4:], v[:, 4:], middle, decay[:, 4:], beta[:, 4:]], attributes, 2)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, state, rtol=1e-5, atol=1e-6)


# -- recurrent -----------------------------------------------------------------------------------------------------------------------------

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent_inputs(op: str, directions: int, *, lengths: bool, steps: int = 5, batch: int = 3, size: int = 4, hidden: int = 3) -> list[Any]:
    gates = GATES[op]
    inputs: list[Any] = [values(steps, batch, size), values(directions, gates * hidden, size, seed=1), values(directions, gates * hidden, hidden, seed=2),
                         values(directions, 2 * gates * hidden, seed=3), np.array([5, 2, 3], np.int32) if lengths else None, values(directions, batch, hidden, seed=4)]
    return [*inputs, values(directions, batch, hidden, seed=5), values(directions, 3 * hidden, seed=6)] if op == "LSTM" else inputs


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_recurrent(op: str, direction: str, lengths: bool) -> None:
    inputs = recurrent_inputs(op, 2 if direction == "bidirectional" else 1, lengths=lengths)
    check(op, inputs, dict(direction=direction, hidden_size=3), outputs=3 if op == "LSTM" else 2, tolerance=1e-4)


@pytest.mark.parametrize(("op", "attributes"), [
    ("LSTM", dict(clip=0.4)),
    ("LSTM", dict(input_forget=1)),
    ("LSTM", dict(activations=["HardSigmoid", "Softsign", "LeakyRelu"], activation_alpha=[0.3, 0.2], activation_beta=[0.4])),
    ("GRU", dict(clip=0.3)),
    ("GRU", dict(linear_before_reset=1)),
    ("GRU", dict(linear_before_reset=1, activations=["Sigmoid", "Relu"])),
    ("GRU", dict(activations=["HardSigmoid", "ScaledTanh"], activation_alpha=[0.3, 1.2], activation_beta=[0.4, 0.7])),
    ("RNN", dict(clip=0.2, activations=["Affine"], activation_alpha=[0.7], activation_beta=[0.1])),
    ("RNN", dict(activations=["ThresholdedRelu"], activation_alpha=[0.3])),
    ("RNN", dict(activations=["Elu"], activation_alpha=[0.3])),
    ("RNN", dict(activations=["Softplus"])),
])
def test_recurrent_attributes(op: str, attributes: Any) -> None:
    check(op, recurrent_inputs(op, 1, lengths=True), attributes | dict(hidden_size=3), outputs=3 if op == "LSTM" else 2, tolerance=1e-4)


@pytest.mark.parametrize("op", GATES)
def test_recurrent_batch_first(op: str) -> None:
    """layout 1 is layout 0 with the batch axis in front."""
    inputs = recurrent_inputs(op, 2, lengths=True)
    outputs = 3 if op == "LSTM" else 2
    attributes = dict(direction="bidirectional", hidden_size=3)
    if op == "RNN":
        attributes["activations"] = ["Tanh", "Relu"]
    Y, *last = ours(op, inputs, attributes, outputs)
    turned = [v.transpose(1, 0, 2) if k in (0, 5, 6) else v for k, v in enumerate(inputs)]
    results = ours(op, turned, attributes | dict(layout=1), outputs)
    check_rule(op, turned, attributes | dict(layout=1), results)
    np.testing.assert_array_equal(results[0], Y.transpose(2, 0, 1, 3))
    for a, b in zip(results[1:], last, strict=True):
        np.testing.assert_array_equal(a, b.transpose(1, 0, 2))


# -- resize and sampling -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sizes", [(10, 14), (3, 5), (9, 4)])
def test_resize(coordinates: str, mode: str, sizes: Any) -> None:
    x = values(1, 2, 6, 7)
    attributes = dict(mode=mode, coordinate_transformation_mode=coordinates)
    check("Resize", [x, None, None, np.array([1, 2, *sizes], np.int64)], attributes, opset=19, tolerance=1e-4)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(2.0, 3.0), (0.5, 0.75), (1.7, 0.4)])
def test_resize_nearest(nearest: str, scales: Any) -> None:
    attributes = dict(nearest_mode=nearest, coordinate_transformation_mode="half_pixel")
    check("Resize", [values(1, 2, 8, 9), None, np.array([1, 1, *scales], np.float32)], attributes, opset=19)


@pytest.mark.parametrize(("mode", "options"), [
    ("linear", dict(antialias=1)),
    ("linear", dict(antialias=1, exclude_outside=1)),
    ("cubic", dict(antialias=1)),
    ("cubic", dict(antialias=1, exclude_outside=1)),
    ("cubic", dict(exclude_outside=1)),
    ("cubic", dict(cubic_coeff_a=-0.5)),
])
def test_resize_filters(mode: str, options: Any) -> None:
    check("Resize", [values(1, 2, 11, 12), None, np.array([1, 1, 0.4, 0.7], np.float32)], options | dict(mode=mode), opset=19, tolerance=1e-4)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_resize_keeps_aspect_ratio(policy: str) -> None:
    check("Resize", [values(1, 2, 6, 9), None, None, np.array([8, 7], np.int64)], dict(axes=[2, 3], keep_aspect_ratio_policy=policy, mode="linear"), opset=19, tolerance=1e-4)


def test_resize_crops_and_extrapolates() -> None:
    roi = np.array([0, 0, 0.2, -0.3, 1, 1, 0.8, 1.2], np.float32)
    for mode in ("nearest", "linear"):
        attributes = dict(mode=mode, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0)
        check("Resize", [values(1, 2, 6, 7), roi, None, np.array([1, 2, 5, 8], np.int64)], attributes, opset=19, tolerance=1e-4)


def test_resize_of_integers_saturates() -> None:
    x = np.array([[[[0, 255, 0, 255]]]], np.uint8)
    y = ours("Resize", [x, None, np.array([1, 1, 1, 2], np.float32)], dict(mode="cubic"), 1)[0]
    assert y.dtype == np.uint8 and y.min() == 0 and y.max() == 255


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    attributes = dict(mode=mode, padding_mode=padding, align_corners=align)
    check("GridSample", [values(2, 3, 6, 5), values(2, 4, 7, 2, low=-2.5, high=2.5)], attributes, tolerance=1e-4)
    if mode != "cubic":
        check("GridSample", [values(1, 2, 4, 6, 5), values(1, 3, 4, 5, 3, low=-2, high=2)], attributes, tolerance=1e-4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode: str, coordinates: str, ratio: int) -> None:
    rois = np.array([[0, 0, 19, 23], [-4, 3, 9, 8], [10, 10, 10.5, 10.5], [15, 12, 40, 44]], np.float32)
    attributes = dict(mode=mode, coordinate_transformation_mode=coordinates, output_height=3, output_width=2, sampling_ratio=ratio, spatial_scale=0.5)
    check("RoiAlign", [values(2, 3, 12, 10), rois, np.array([0, 1, 1, 0], np.int64)], attributes, opset=16)


# -- losses and spectra --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 5, 3), (2, 5, 3, 2)])
@pytest.mark.parametrize("ignore", [None, 3, -1])
def test_losses(reduction: str, shape: Any, ignore: int | None) -> None:
    scores, target, weight = values(*shape), values(shape[0], *shape[2:], low=0, high=5, dtype=np.int64), values(5, low=0.1)
    if ignore == -1:
        target.flat[0] = -1
    attributes: dict[str, Any] = dict(reduction=reduction) | ({} if ignore is None else dict(ignore_index=ignore))
    for weights in (None, weight):
        check("SoftmaxCrossEntropyLoss", [scores, target, weights], attributes, outputs=2)
        check("NegativeLogLikelihoodLoss", [np.log(np.abs(scores) + 0.1), target, weights], attributes, opset=13)


def test_spectra() -> None:
    x = values(2, 9, 4, 1)
    length, axis = np.array(8, np.int64), np.array(1, np.int64)
    check("DFT", [x, None, axis], opset=20, tolerance=1e-4)
    check("DFT", [x, length, axis], dict(onesided=1), opset=20, tolerance=1e-4)
    check("DFT", [values(2, 9, 4, 2), np.array(12, np.int64), np.array(-2, np.int64)], dict(inverse=1), opset=20, tolerance=1e-4)
    check("STFT", [values(2, 31, 1), np.array(5, np.int64), values(8, low=0)], dict(onesided=1), opset=17, tolerance=1e-4)
    check("STFT", [values(2, 31, 2), np.array(5, np.int64), None, np.array(8, np.int64)], dict(onesided=0), opset=17, tolerance=1e-4)
    spectrum = ours("DFT", [x, None, axis], dict(onesided=1), 1)[0]
    np.testing.assert_allclose(ours("DFT", [spectrum, np.array(9), axis], dict(onesided=1, inverse=1), 1)[0], x, atol=1e-6)
    mel = [np.array(v, t) for v, t in ((10, np.int64), (256, np.int64), (16000, np.int64), (20, np.float32), (7000, np.float32))]
    check("MelWeightMatrix", mel, opset=17)


# -- symbolic sizes ------------------------------------------------------------------------------------------------------------------------

b, h, w, n = (symbol(name) for name in "bhwn")


@pytest.mark.parametrize(("expected", "op", "shapes", "attributes"), [
    ((b, 64, (h + 1) // 2, (w + 1) // 2), "Conv", [(b, 3, h, w), (64, 3, 7, 7)], dict(pads=[3] * 4, strides=[2, 2])),
    ((b, 64, h, w - 4), "Conv", [(b, 3, h, w), (64, 3, 3, 3)], dict(pads=[1, 0, 1, 0], dilations=[1, 2])),
    ((b, 64, (h + 1) // 2, w), "Conv", [(b, 3, h, w), (64, 3, 7, 7)], dict(auto_pad="SAME_UPPER", strides=[2, 1])),
    ((b, 4, 2 * h, 2 * w + 1), "ConvTranspose", [(b, 3, h, w), (3, 4, 2, 3)], dict(strides=[2, 2])),
    ((b, 4, 2 * h, 3 * w), "ConvTranspose", [(b, 3, h, w), (3, 4, 5, 5)], dict(strides=[2, 3], auto_pad="SAME_UPPER")),
    ((b, 3, h // 2, (w + 1) // 2), "AveragePool", [(b, 3, h, w)], dict(kernel_shape=[2, 1], strides=[2, 2])),
    ((b, 3, (h + 1) // 2, w // 2 + 1), "AveragePool", [(b, 3, h, w)], dict(kernel_shape=[2, 2], strides=[2, 2], pads=[0, 1, 0, 1], ceil_mode=1)),
    ((b, 3, (h + 2) // 3), "MaxPool", [(b, 3, h)], dict(kernel_shape=[2], strides=[3], ceil_mode=1)),
    ((n, 3, 7, 7), "RoiAlign", [(b, 3, h, w), (n, 4), (n,)], dict(output_height=7, output_width=7)),
    ((b, 3, h, w), "GridSample", [(b, 3, 5, 6), (b, h, w, 2)], {}),
    ((h, 2, b, 16), "RNN", [(h, b, 8), (2, 16, 8), (2, 16, 16)], dict(direction="bidirectional")),
    ((b, h, 9), "Attention", [(b, h, 12), (b, w, 12), (b, w, 9)], dict(q_num_heads=3, kv_num_heads=3)),
])
def test_symbolic_shapes(expected: Any, op: str, shapes: Any, attributes: Any) -> None:
    with fresh_scope("t"):
        made = lookup("", op).shape_rule(*(Spec(DType.FLOAT, s) for s in shapes), **attributes)
    assert (made[0] if isinstance(made, tuple) else made).shape == expected


@pytest.mark.parametrize(("expected", "scales", "sizes"), [
    ((b, 3, 2 * h, w // 2), [1, 1, 2, 0.5], None),
    ((b, 3, 7 * h // 10, 3 * w // 2), [1.0, 1.0, float(np.float32(0.7)), 1.5], None),
    ((b, 3, 2 * h, w + 1), None, [b, 3, 2 * h, w + 1]),
])
def test_symbolic_resize(expected: Any, scales: Any, sizes: Any) -> None:
    known = [None if v is None else Spec(t, (4,), np.array(v, object)) for t, v in ((DType.FLOAT, scales), (DType.INT64, sizes))]
    assert lookup("", "Resize").shape_rule(Spec(DType.FLOAT, (b, 3, h, w)), None, *known).shape == expected


@pytest.mark.parametrize(("op", "shapes", "attributes", "words"), [
    ("Conv", [(1, 3, 8, 8), (4, 2, 3, 3)], {}, "channels"),
    ("Conv", [(1, 3, 2, 2), (4, 3, 5, 5)], {}, "spans 5"),
    ("Conv", [(1, 4, 8, 8), (5, 2, 3, 3)], dict(group=2), "multiple"),
    ("MaxPool", [(1, 3, 8)], dict(kernel_shape=[2, 2]), "rank 4"),
    ("MaxPool", [(1, 3, 8)], dict(kernel_shape=[2], strides=[0]), "positive"),
    ("Attention", [(1, 2, 12), (1, 2, 12), (1, 2, 12)], {}, "number of heads"),
    ("LSTM", [(5, 3, 4), (1, 12, 4), (1, 12, 3)], dict(direction="sideways"), "sideways"),
    ("Resize", [(1, 3, 4, 4)], {}, "scales and sizes"),
])
def test_wrong_models_are_named(op: str, shapes: Any, attributes: Any, words: str) -> None:
    with fresh_scope("t"), pytest.raises(InvalidGraph, match=words):
        lookup("", op).shape_rule(*(Spec(DType.FLOAT, s) for s in shapes), **attributes)


# -- images and training -------------------------------------------------------------------------------------------------------------------

def test_image_decoder() -> None:
    image = pytest.importorskip("PIL.Image")
    import io
    pixels = values(5, 7, 3, low=0, high=256, dtype=np.uint8)

    def encoded(picture: Any) -> np.ndarray:
        file = io.BytesIO()
        picture.save(file, "PNG")
        return np.frombuffer(file.getvalue(), np.uint8)
    decode = lookup("", "ImageDecoder")
    np.testing.assert_array_equal(decode(encoded(image.fromarray(pixels))), pixels)
    np.testing.assert_array_equal(decode(encoded(image.fromarray(pixels)), pixel_format="BGR"), pixels[..., ::-1])
    deep = (np.arange(6, dtype=np.uint16) * 13107).reshape(2, 3)
    np.testing.assert_array_equal(decode(encoded(image.fromarray(deep)), pixel_format="Grayscale")[..., 0], deep >> 8)
    assert decode(np.frombuffer(b"no image", np.uint8)).shape == (0, 0, 3)


def test_gradient_says_why_not() -> None:
    gradient = lookup("ai.onnx.preview.training", "Gradient")
    with pytest.raises(NotImplementedHere, match="inference only"):
        gradient(np.ones(3, np.float32), xs=["x"], y="loss")
    assert str(gradient.shape_rule(Spec(DType.FLOAT, (3,)), Spec(DType.FLOAT, (b,)), xs=["x"], zs=["z"], y="loss")[0]) == "float[3]"
