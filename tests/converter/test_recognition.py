"""Recognition of standard operators in what exporters spell out: each spelling, and lookalikes that must stay."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from sardonyx.converter.options import ConvertOptions  # noqa: E402
from sardonyx.converter.passes import DeadCode, RecogniseActivations, RecogniseGelu, RecogniseLayerNormalization, StandardForms, default_passes  # noqa: E402

from .pass_graphs import build, check, normal, operators  # noqa: E402

X = normal(2, 5, 8)
VECTOR = "(float[n, 5, 8] x) => (float[n, 5, 8] y)"
HALF = "(float16[n, 5, 8] x) => (float16[n, 5, 8] y)"


def everything() -> list[Any]:
    return default_passes(ConvertOptions())


# -- activations -----------------------------------------------------------------------------------------------------------------------------------

NUMBERS = {"half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "zero": 0.0, "sixth": 1 / 6, "root": math.sqrt(2), "inverse": math.sqrt(0.5), "c": 0.044715, "t": math.sqrt(2 / math.pi),
           "alpha": 1.702}
TANH = "a = Pow(x, three) b = Mul(a, c) d = Add(x, b) e = Mul(d, t) f = Tanh(e) g = Add(f, one)"


@pytest.mark.parametrize("body, operator, attributes", [
    ("a = Div(x, root) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, half)", "Gelu", {}),                               # torch
    ("a = Mul(x, half) b = Mul(inverse, x) d = Erf(b) e = Add(one, d) y = Mul(a, e)", "Gelu", {}),                            # Keras
    ("b = Div(x, root) d = Erf(b) e = Add(d, one) f = Mul(e, half) y = Mul(f, x)", "Gelu", {}),
    ("b = Div(x, root) d = Erf(b) e = Add(d, one) f = Mul(x, e) y = Div(f, two)", "Gelu", {}),
    (f"{TANH} h = Mul(x, half) y = Mul(h, g)", "Gelu", {"approximate": "tanh"}),                                             # torch
    (f"{TANH} h = Mul(g, half) y = Mul(x, h)", "Gelu", {"approximate": "tanh"}),                                             # TensorFlow
    ("a = Mul(x, x) b = Mul(a, x) d = Mul(c, b) e = Add(x, d) f = Mul(t, e) g = Tanh(f) h = Add(one, g) i = Mul(x, h) y = Mul(half, i)", "Gelu", {"approximate": "tanh"}),  # GPT-2
    ("s = Sigmoid(x) y = Mul(x, s)", "Swish", {}),
    ("a = Mul(x, alpha) s = Sigmoid(a) y = Mul(s, x)", "Swish", {"alpha": 1.702}),
    ("a = Neg(x) e = Exp(a) b = Add(e, one) y = Div(x, b)", "Swish", {}),
    ("a = Neg(x) e = Exp(a) b = Add(one, e) y = Reciprocal(b)", "Sigmoid", {}),
    ("a = Neg(x) e = Exp(a) b = Add(one, e) y = Div(one, b)", "Sigmoid", {}),
    ("e = Exp(x) b = Add(one, e) y = Log(b)", "Softplus", {}),
    ("e = Exp(x) b = Add(one, e) l = Log(b) t1 = Tanh(l) y = Mul(t1, x)", "Mish", {}),
    ("p = Softplus(x) t1 = Tanh(p) y = Mul(x, t1)", "Mish", {}),
    ("h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(x, h)", "HardSwish", {}),
    ("a = Add(x, three) b = Clip(a, zero, six) d = Mul(x, b) y = Div(d, six)", "HardSwish", {}),
    ("a = Add(x, three) b = Clip(a, zero, six) d = Div(b, six) y = Mul(x, d)", "HardSwish", {}),
    ("a = Add(x, three) b = Clip(a, zero, six) y = Mul(b, sixth)", "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("a = Div(x, six) b = Add(a, half) y = Clip(b, zero, one)", "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
])
def test_activations(body: str, operator: str, attributes: dict[str, Any]) -> None:
    model = check(build(VECTOR, body, NUMBERS), everything(), [X], {operator: 1})
    node = model.graph.nodes[0]
    assert node.attributes == {k: pytest.approx(v) for k, v in attributes.items()}
    assert node.origin[-1] == "node_y"


@pytest.mark.parametrize("body", [
    "a = Div(x, root) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, two)",                       # twice too much
    "a = Div(x, two) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, half)",                       # another scale
    "a = Div(x, root) b = Erf(a) d = Add(b, one) e = Mul(x, d) f = Mul(e, half) y = Add(f, b)",        # the erf is used elsewhere
    "n = Neg(x) a = Div(n, root) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, half)",           # of something else
    "a = Add(x, three) b = Clip(a, zero, one) d = Mul(x, b) y = Div(d, six)",
    "h = HardSigmoid(x) y = Mul(x, h)",                                                                # its slope is 0.2
    "n = Neg(x) s = Sigmoid(x) y = Mul(n, s)",
    "e = Exp(x) b = Add(two, e) y = Log(b)",
])
def test_lookalikes_of_activations_stay(body: str) -> None:
    model = build(VECTOR, body, NUMBERS)
    check(model, [RecogniseGelu(), RecogniseActivations()], [X], operators(model), 0)


def test_a_constant_of_higher_rank_changes_the_shape() -> None:
    model = build("(float[n, 5, 8] x) => (float[a, n, 5, 8] y)", "s = Sigmoid(x) m = Mul(x, s) y = Mul(m, k)", {"k": np.ones((1, 1, 1, 1), np.float32)})
    check(model, [RecogniseActivations()], [X], {"Swish": 1, "Mul": 1})


def test_gelu_in_half_precision() -> None:
    constants = {k: np.asarray(v, np.float16) for k, v in NUMBERS.items()}
    check(build(HALF, "a = Div(x, root) b = Erf(a) d = Add(b, one) e = Mul(x, d) y = Mul(e, half)", constants), everything(), [X.astype(np.float16)], {"Gelu": 1}, 3e-3)


# -- normalizations ----------------------------------------------------------------------------------------------------------------------------------

LAST = {"last": [-1], "eps": 1e-5, "two": 2.0, "g": normal(8), "b": normal(8), "one": 1.0, "minus": -0.5, "half": 0.5}
DEVIATION = "mean = ReduceMean(x, last) d = Sub(x, mean) p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps)"
SQUARES = "p = Pow(x, two) v = ReduceMean(p, last) e = Add(v, eps)"


@pytest.mark.parametrize("root", ["r = Sqrt(e) n = Div(d, r)", "s = Sqrt(e) r = Reciprocal(s) n = Mul(d, r)", "s = Sqrt(e) r = Div(one, s) n = Mul(r, d)", "r = Pow(e, half) n = Div(d, r)",
                                  "r = Pow(e, minus) n = Mul(d, r)"])
@pytest.mark.parametrize("tail, inputs", [("y = Identity(n)", 2), ("y = Mul(n, g)", 2), ("m = Mul(g, n) y = Add(m, b)", 3), ("y = Add(n, b)", 3)])
def test_layer_normalization(root: str, tail: str, inputs: int) -> None:
    model = check(build(VECTOR, f"{DEVIATION} {root} {tail}", LAST), everything(), [X], {"LayerNormalization": 1})
    node = model.graph.nodes[0]
    assert len(node.inputs) == inputs and node.attributes == {"axis": -1, "epsilon": pytest.approx(1e-5)}


def test_layer_normalization_over_two_axes_with_two_deviations() -> None:
    body = "mean = ReduceMean(x, axes) d = Sub(x, mean) f = Sub(x, mean) p = Mul(d, d) v = ReduceMean(p, axes) e = Add(v, eps) r = Sqrt(e) n = Div(f, r) m = Mul(n, g) y = Add(m, b)"
    model = check(build(VECTOR, body, {**LAST, "axes": [1, 2], "g": normal(5, 8), "b": normal(1, 5, 8)}), everything(), [X], {"LayerNormalization": 1})
    assert model.graph.nodes[0].attributes["axis"] == -2


def test_layer_normalization_of_tensorflow() -> None:
    body = f"{DEVIATION} s = Sqrt(e) r = Reciprocal(s) f = Mul(r, g) h = Mul(x, f) i = Mul(mean, f) j = Sub(b, i) y = Add(h, j)"
    check(build(VECTOR, body, LAST), everything(), [X], {"LayerNormalization": 1}, 1e-4)


def test_layer_normalization_of_jax() -> None:
    body = "s1 = ReduceSum <keepdims = 0> (x, last) m = Mul(s1, share) q = Mul(x, x) s2 = ReduceSum <keepdims = 0> (q, last) w = Mul(s2, share) o = Mul(m, m) v = Sub(w, o) u = Max(zero, v) " \
           "mk = Reshape(m, kept) vk = Reshape(u, kept) d = Sub(x, mk) e = Add(vk, eps) t = Sqrt(e) r = Reciprocal(t) f = Mul(r, g) h = Mul(d, f) y = Add(h, b)"
    check(build("(float[2, 5, 8] x) => (float[2, 5, 8] y)", body, {**LAST, "share": 0.125, "zero": 0.0, "kept": [2, 5, 1]}), everything(), [X], {"LayerNormalization": 1}, 1e-4)


@pytest.mark.parametrize("body, constants", [
    (f"{DEVIATION} r = Sqrt(e) y = Div(d, r)", {"last": [1]}),                                                     # not the last axis
    (f"{DEVIATION.replace('v = ReduceMean(p, last)', 'v = ReduceMean(p, other)')} r = Sqrt(e) y = Div(d, r)", {"other": [1]}),
    (f"{DEVIATION} r = Sqrt(e) n = Div(d, r) y = Add(n, v)", {}),                                                  # the variance is used elsewhere
    (f"{DEVIATION.replace('Sub(x, mean)', 'Sub(mean, x)')} r = Sqrt(e) y = Div(d, r)", {}),
])
def test_lookalikes_of_layer_normalization_stay(body: str, constants: dict[str, Any]) -> None:
    model = build(VECTOR, body, {**LAST, **constants})
    check(model, [RecogniseLayerNormalization()], [X], operators(model), 0)


def test_a_scale_along_another_axis_stays_outside() -> None:
    check(build(VECTOR, f"{DEVIATION} r = Sqrt(e) n = Div(d, r) y = Mul(n, k)", {**LAST, "k": normal(5, 1)}), everything(), [X], {"LayerNormalization": 1, "Mul": 1})


@pytest.mark.parametrize("root", ["s = Sqrt(e) r = Reciprocal(s) n = Mul(x, r)", "r = Sqrt(e) n = Div(x, r)", "r = Pow(e, minus) n = Mul(x, r)", "s = Sqrt(e) r = Div(one, s) n = Mul(x, r)"])
@pytest.mark.parametrize("tail", ["y = Mul(n, g)", "y = Mul(g, n)", "y = Identity(n)"])
def test_rms_normalization(root: str, tail: str) -> None:
    check(build(VECTOR, f"{SQUARES} {root} {tail}", LAST), everything(), [X], {"RMSNormalization": 1})


def test_rms_normalization_of_a_half_precision_llama() -> None:
    body = f"w = Cast <to = 1> (h) {SQUARES.replace('(x', '(w')} s = Sqrt(e) r = Reciprocal(s) n = Mul(w, r) k = Cast <to = 10> (n) y = Mul(g, k)"
    constants = {**LAST, "g": LAST["g"].astype(np.float16)}
    check(build("(float16[n, 5, 8] h) => (float16[n, 5, 8] y)", body, constants), everything(), [X.astype(np.float16)], {"RMSNormalization": 1}, 0)


# -- attention -----------------------------------------------------------------------------------------------------------------------------------------

B, H, S, T, D = 2, 3, 4, 5, 8
Q, K, V = normal(B, S, H * D), normal(B, T, H * D), normal(B, T, H * D)
HEADS = "q0 = Reshape(q, split) qh = Transpose <perm = [0, 2, 1, 3]> (q0) k0 = Reshape(k, split) kt = Transpose <perm = [0, 2, 3, 1]> (k0) " \
        "v0 = Reshape(v, split) vh = Transpose <perm = [0, 2, 1, 3]> (v0)"
JOIN = "z = Transpose <perm = [0, 2, 1, 3]> (c) y = Reshape(z, join)"
INPUTS = f"float[b, s, {H * D}] q, float[b, t, {H * D}] k, float[b, t, {H * D}] v"
OUTPUT = f"(float[b, s, {H * D}] y)"
SPLITS = {"split": [0, 0, H, D], "join": [0, 0, H * D], "scale": D ** -0.5, "root": D ** 0.5, "fourth": D ** -0.25, "inf": np.float32(-np.inf), "zero": 0.0}
LEFT = {"Attention": 1, "Reshape": 4, "Transpose": 4}


@pytest.mark.parametrize("middle", [
    "s0 = MatMul(qh, kt) s1 = Div(s0, root) w = Softmax(s1)", "s0 = MatMul(qh, kt) s1 = Mul(scale, s0) w = Softmax <axis = 3> (s1)",
    "q1 = Mul(qh, scale) s1 = MatMul(q1, kt) w = Softmax(s1)", "q1 = Div(qh, root) s1 = MatMul(q1, kt) w = Softmax(s1)",
    "q1 = Mul(qh, fourth) k1 = Mul(kt, fourth) s1 = MatMul(q1, k1) w = Softmax(s1)", "s1 = MatMul(qh, kt) w = Softmax(s1)",
])
def test_attention_scales(middle: str) -> None:
    model = check(build(f"({INPUTS}) => {OUTPUT}", f"{HEADS} {middle} c = MatMul(w, vh) {JOIN}", SPLITS), everything(), [Q, K, V], LEFT)
    made = next(n for n in model.graph.nodes if n.op_type == "Attention")
    assert made.attributes == {"scale": pytest.approx(1.0 if middle.startswith("s1") else D ** -0.5)}


@pytest.mark.parametrize("declared, shape, middle, left", [
    ("float[b, 1, 1, t] m", (B, 1, 1, T), "s2 = Add(s1, m)", {}),
    ("float[s, t] m", (S, T), "s2 = Add(m, s1)", {}),
    (f"float[b, {H}, s, t] m", (B, H, S, T), "s2 = Add(s1, m)", {}),
    ("bool[b, 1, s, t] m", (B, 1, S, T), "s2 = Where(m, s1, inf)", {}),
    ("bool[b, 1, s, t] m", (B, 1, S, T), "s2 = Where(m, inf, s1)", {"Not": 1}),
])
@pytest.mark.parametrize("guarded", [False, True])
def test_attention_masks(declared: str, shape: tuple[int, ...], middle: str, left: dict[str, int], guarded: bool) -> None:
    mask = normal(*shape) if "float" in declared else np.broadcast_to(np.tri(S, T, dtype=bool) ^ ("inf, s1" in middle), shape).copy()
    weights = "w0 = Softmax(s2) nan = IsNaN(w0) w = Where(nan, zero, w0)" if guarded else "w = Softmax(s2)"
    body = f"{HEADS} s0 = MatMul(qh, kt) s1 = Mul(s0, scale) {middle} {weights} c = MatMul(w, vh) {JOIN}"
    check(build(f"({INPUTS}, {declared}) => {OUTPUT}", body, SPLITS), everything(), [Q, K, V, mask], {**LEFT, **left})


def test_a_guarded_row_that_sees_nothing_is_zero() -> None:
    mask = np.zeros((B, 1, S, T), bool)
    body = f"{HEADS} s0 = MatMul(qh, kt) s2 = Where(m, s0, inf) w0 = Softmax(s2) nan = IsNaN(w0) w = Where(nan, zero, w0) c = MatMul(w, vh) {JOIN}"
    check(build(f"({INPUTS}, bool[b, 1, s, t] m) => {OUTPUT}", body, SPLITS), everything(), [Q, K, V, mask], LEFT)


@pytest.mark.parametrize("declared, middle", [
    ("float[b, 1, s, 1] m", "s2 = Add(s1, m)"),                          # Attention pads a short mask where Add repeats it
    ("float[b, 1, s, u] m", "s2 = Add(s1, m)"),                          # not known to be as long as the keys
    ("bool[b, 1, s, t] m", "s2 = Where(m, s1, big)"),                    # a finite fill: a row that sees nothing is uniform, and zero in Attention
    ("float[b, 1, s, t] m", "s2 = Mul(s1, m)"),
])
def test_what_attention_does_not_say_stays(declared: str, middle: str) -> None:
    mask = normal(B, 1, S, 1 if ", 1] m" in declared else T) if "float" in declared else np.tri(S, T, dtype=bool)[None, None].repeat(B, 0)
    body = f"{HEADS} s0 = MatMul(qh, kt) s1 = Mul(s0, scale) {middle} w = Softmax(s2) c = MatMul(w, vh) {JOIN}"
    model = check(build(f"({INPUTS}, {declared}) => {OUTPUT}", body, {**SPLITS, "big": -1e9}), everything(), [Q, K, V, mask], None)
    assert "Attention" not in operators(model)


def test_attention_weights_that_are_wanted_stay() -> None:
    body = f"{HEADS} s0 = MatMul(qh, kt) w = Softmax(s0) c = MatMul(w, vh) {JOIN}"
    model = check(build(f"({INPUTS}) => (float[b, s, {H * D}] y, float[b, {H}, s, t] w)", body, SPLITS), everything(), [Q, K, V], None)
    assert "Attention" not in operators(model)


def test_attention_of_rank_3() -> None:
    body = "kt = Transpose <perm = [0, 2, 1]> (k) s0 = MatMul(q, kt) s1 = Mul(s0, scale) s2 = Add(s1, m) w = Softmax(s2) y = MatMul(w, v)"
    model = build("(float[6, s, 8] q, float[6, t, 8] k, float[6, t, 8] v, float[s, t] m) => (float[6, s, 8] y)", body, SPLITS)
    check(model, everything(), [normal(6, S, D), normal(6, T, D), normal(6, T, D), normal(S, T)], {"Attention": 1, "Unsqueeze": 3, "Squeeze": 1})


def test_attention_that_broadcasts_stays() -> None:
    body = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul(q, kt) w = Softmax(s0) y = MatMul(w, v)"
    model = build("(float[2, 3, 4, 8] q, float[2, 1, 5, 8] k, float[2, 1, 5, 8] v) => (float[2, 3, 4, 8] y)", body)
    check(model, everything(), [normal(2, 3, 4, 8), normal(2, 1, 5, 8), normal(2, 1, 5, 8)], {"Transpose": 1, "MatMul": 2, "Softmax": 1})


# -- rotary embedding ------------------------------------------------------------------------------------------------------------------------------------

ROTARY = {"zero": [0], "middle": [D // 2], "end": [1 << 62], "last": [-1], "heads": [1], "inverse": (10000.0 ** -(np.arange(0, D, 2) / D)).astype(np.float32), "one": [1], "scaling": 1.25}
#: As Hugging Face's Llama: frequencies of the positions, twice beside each other.
TABLES = "p = Cast <to = 1> (positions) p1 = Unsqueeze(p, last) f = Mul(p1, inverse) ff = Concat <axis = -1> (f, f) c0 = Cos(ff) s0 = Sin(ff)"
UP = " c = Unsqueeze(c0, heads) s = Unsqueeze(s0, heads)"
SLICES = "{x}1 = Slice({x}, zero, middle, last) {x}2 = Slice({x}, middle, end, last) {x}3 = Neg({x}2) {x}4 = Concat <axis = -1> ({x}3, {x}1)"
SPLIT = "{x}1, {x}2 = Split <axis = -1, num_outputs = 2> ({x}) {x}3 = Neg({x}2) {x}4 = Concat <axis = -1> ({x}3, {x}1)"
TURN = " {x}5 = Mul({x}, c) {x}6 = Mul({x}4, s) {y} = Add({x}5, {x}6)"
x4, k4 = normal(B, H, S, D), normal(B, H, S, D)


@pytest.mark.parametrize("half", [SLICES, SPLIT])
def test_rotary_embedding_of_queries_and_keys(half: str) -> None:
    body = f"{TABLES}{UP} {(half + TURN).format(x='q', y='y')} {(half + TURN).format(x='k', y='z')}"
    signature = f"(float[b, h, s0, {D}] q, float[b, h, s0, {D}] k, int64[b, s0] positions) => (float[b, h, s0, {D}] y, float[b, h, s0, {D}] z)"
    positions = np.arange(S)[None].repeat(B, 0) + 3
    model = build(signature.replace("s0", "t"), body, ROTARY)
    check(model, everything(), [x4, k4, positions], {"Cast": 1, "Unsqueeze": 1, "Mul": 1, "Cos": 1, "Sin": 1, "RotaryEmbedding": 2})


def test_rotary_embedding_with_scaled_tables_and_one_batch() -> None:
    body = f"{TABLES.replace('c0 =', 'ca =').replace('s0 =', 'sa =')} c0 = Mul(ca, scaling) s0 = Mul(scaling, sa){UP} {(SLICES + TURN).format(x='q', y='y')}"
    model = build(f"(float[b, h, t, {D}] q, int64[1, t] positions) => (float[b, h, t, {D}] y)", body, ROTARY)
    check(model, everything(), [x4, np.arange(S)[None]], None)
    assert operators(model)["RotaryEmbedding"] == 1 and operators(model)["Expand"] == 2


def test_rotary_embedding_with_constant_tables() -> None:
    angles = np.concatenate([np.arange(S)[:, None] * ROTARY["inverse"]] * 2, -1).astype(np.float32)
    body = f"c = Identity(c0) s = Identity(s0) {(SPLIT + TURN).format(x='q', y='y')}"
    model = build(f"(float[{B}, h, {S}, {D}] q) => (float[{B}, h, {S}, {D}] y)", body, {**ROTARY, "c0": np.cos(angles), "s0": np.sin(angles)})
    check(model, everything(), [x4], {"RotaryEmbedding": 1})


@pytest.mark.parametrize("change", [
    ("ff = Concat <axis = -1> (f, f)", "g = Neg(f) ff = Concat <axis = -1> (f, g)"),        # halves that differ
    ("q3 = Neg(q2) q4 = Concat <axis = -1> (q3, q1)", "q3 = Neg(q1) q4 = Concat <axis = -1> (q2, q3)"),  # turned the other way
    ("Slice(q, zero, middle, last)", "Slice(q, zero, middle, two)"),                        # halves of another axis
])
def test_lookalikes_of_rotary_embedding_stay(change: tuple[str, str]) -> None:
    body = f"{TABLES}{UP} {(SLICES + TURN).format(x='q', y='y')}".replace(*change)
    if "two" in change[1]:
        body = body.replace("Slice(q, middle, end, last)", "Slice(q, middle, end, two)").replace("Concat <axis = -1> (q3", "Concat <axis = 2> (q3")
    model = build(f"(float[b, h, {D}, {D}] q, int64[b, {D}] positions) => (float[b, h, {D}, {D}] y)", body, {**ROTARY, "two": [2]})
    check(model, everything(), [normal(B, H, D, D), np.arange(D)[None].repeat(B, 0)], None)
    assert "RotaryEmbedding" not in operators(model)


# -- com.microsoft ---------------------------------------------------------------------------------------------------------------------------------------

CONTRIB = {"g": normal(8), "b": normal(8), "k": normal(8), "w": normal(8, 8), "tri": np.array(1)}


@pytest.mark.parametrize("body, left", [
    ("y = com.microsoft.Gelu(x)", {"Gelu": 1}),
    ("y = com.microsoft.QuickGelu(x)", {"Swish": 1}),
    ("y = com.microsoft.QuickGelu <alpha = 0.5> (x)", {"Swish": 1}),
    ("y = com.microsoft.FastGelu(x)", {"Gelu": 1}),
    ("y = com.microsoft.FastGelu(x, b)", {"Add": 1, "Gelu": 1}),
    ("y = com.microsoft.BiasGelu(x, b)", {"Add": 1, "Gelu": 1}),
    ("y = com.microsoft.Trilu <upper = 0> (x, tri)", {"Trilu": 1}),
    ("y = com.microsoft.SimplifiedLayerNormalization <epsilon = 0.001> (x, g)", {"RMSNormalization": 1}),
    ("y = SimplifiedLayerNormalization(x, g)", {"RMSNormalization": 1}),
    ("y, i = SimplifiedLayerNormalization(x, g) z = Neg(i)", None),
    ("e = Exp(x) y = com.microsoft.SkipLayerNormalization(x, e, g, b, k)", {"Exp": 1, "Add": 2, "LayerNormalization": 1}),
    ("e = Exp(x) z, m, i, s = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.1> (x, e, g) y = Add(z, s)", {"Exp": 1, "Add": 2, "RMSNormalization": 1}),
    ("t = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, x) y = MatMul(t, x)", {"Transpose": 1, "MatMul": 2, "Mul": 1}),
    ("y = com.microsoft.FusedMatMul(x, w)", {"MatMul": 1}),
    ("f = Reshape(x, rows) h = com.microsoft.FusedGemm <activation = \"LeakyRelu\", activation_alpha = 0.3, transB = 1> (f, w, b) y = Reshape(h, back)", {"Reshape": 2, "Gemm": 1, "LeakyRelu": 1}),
])
def test_standard_forms(body: str, left: dict[str, int] | None) -> None:
    check(build("(float[2, 5, 8] x) => (float[2, 5, 8] y)", body, {**CONTRIB, "rows": [10, 8], "back": [2, 5, 8]}), [StandardForms(), DeadCode()], [X], left)


@pytest.mark.parametrize("activation, left", [("", {}), ("activation = \"Relu\"", {"Relu": 1}), ("activation = \"Clip\", activation_params = [0.0, 1.0]", {"Clip": 1}),
                                              ("activation = \"HardSigmoid\", activation_params = [0.3, 0.4]", {"HardSigmoid": 1})])
def test_fused_convolutions(activation: str, left: dict[str, int]) -> None:
    body = f"y = com.microsoft.FusedConv <{', '.join(filter(None, ['pads = [1, 1, 1, 1]', activation]))}> (x, w, , x)"
    check(build("(float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y)", body, {"w": normal(4, 4, 3, 3)}), [StandardForms()], [normal(1, 4, 5, 5)], {"Conv": 1, "Add": 1, **left})


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding_of_contrib(interleaved: int) -> None:
    body = f"y = com.microsoft.RotaryEmbedding <interleaved = {interleaved}> (x, p, cos, sin)"
    tables = {"cos": normal(20, 2), "sin": normal(20, 2)}
    check(build("(float[n, 5, 8] x, int64[n, 5] p) => (float[n, 5, 8] y)", body, tables), [StandardForms()], [X, np.arange(10).reshape(2, 5)], {"RotaryEmbedding": 1})
    model = check(build("(float[n, 5, 8] x, int64[1] p) => (float[n, 5, 8] y)", body, tables), [StandardForms()], [X, np.array([3])], {"RotaryEmbedding": 1})
    assert model.graph.nodes[0].domain == "com.microsoft"


def test_multi_head_attention() -> None:
    masked = build("(float[b, s, 8] q, float[b, t, 8] k, float[b, t, 8] v, float[1, 2, s, t] m) => (float[b, s, 8] y)", "y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, , , m)")
    feeds = [normal(2, 3, 8), normal(2, 4, 8), normal(2, 4, 8), normal(1, 2, 3, 4)]
    assert check(masked, [StandardForms()], feeds, {"Attention": 1}).graph.nodes[0].domain == ""
    biased = build("(float[b, s, 8] q, float[b, t, 8] k, float[b, t, 8] v) => (float[b, s, 8] y)", "y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, c)", {"c": normal(24)})
    assert check(biased, [StandardForms()], feeds[:3], {"MultiHeadAttention": 1}).graph.nodes[0].domain == "com.microsoft"


# -- a whole layer ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dynamic", [True, False])
def test_a_bert_layer(tmp_path: Any, dynamic: bool) -> None:
    from sardonyx.converter.onnx import load_model

    from ..models.generated import bert_layer
    bert_layer(tmp_path / "bert.onnx", dynamic=dynamic, hidden=32, heads=4)
    model = load_model(tmp_path / "bert.onnx")
    length = 6 if dynamic else 128
    mask = np.ones((1, length), np.int64)
    mask[:, -2:] = 0
    left = {"Add": 6, "MatMul": 4, "Split": 1, "Reshape": 4, "Transpose": 4, "LayerNormalization": 2, "Attention": 1, "Gelu": 1, "Cast": 1, "Sub": 1, "Mul": 1}
    check(model, everything(), [normal(1, length, 32), mask], {**left, "Unsqueeze": 2} if dynamic else {**left, "Reshape": 5})
