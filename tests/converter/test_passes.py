"""Every pass on small graphs: the operators left are the expected ones and the results stay."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from sardonyx.converter.fp16 import Float16, float16_passes  # noqa: E402
from sardonyx.converter.options import ConvertOptions  # noqa: E402
from sardonyx.converter.passes import (  # noqa: E402
    CleanMoves,
    CommonSubexpressions,
    DeadCode,
    DuplicateConstants,
    FoldBatchNorm,
    FoldConstants,
    MergeProducts,
    NoOps,
    NormalizeQDQ,
    Pass,
    default_passes,
    run_passes,
)
from sardonyx.errors import Fail  # noqa: E402
from sardonyx.types import DType  # noqa: E402

from .pass_graphs import build, check, distance, interface, normal, operators, run  # noqa: E402

X = normal(2, 4, 6)
VECTOR = "(float[n, 4, 6] x) => (float[n, 4, 6] y)"


def everything() -> list[Any]:
    return default_passes(ConvertOptions())


# -- dead code, no-ops, sharing ------------------------------------------------------------------------------------------------------------------

def test_dead_code_goes_and_optional_outputs_become_absent() -> None:
    model = build("(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y)", "d = Exp(x) e = Sqrt(d) y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)")
    check(model, [DeadCode()], [normal(1, 1, 4, 4)], {"MaxPool": 1})
    assert len(model.graph.nodes[0].outputs) == 1


def test_dead_code_keeps_what_a_branch_uses() -> None:
    body = "a = Exp(x) b = Neg(x) y = If (c) <then_branch = t () => (float[n] p) { p = Sqrt(a) }, else_branch = e () => (float[n] q) { q = Abs(x) dead = Neg(b) }>"
    check(build("(float[n] x, bool c) => (float[n] y)", body), [DeadCode()], [normal(3), np.array(True)], {"Exp": 1, "If": 1, "Sqrt": 1, "Abs": 1})


@pytest.mark.parametrize("body, constants", [
    ("y = Identity(x)", {}),
    ("y = Cast <to = 1> (x)", {}),
    ("y = Reshape(x, s)", {"s": [0, 4, 6]}),
    ("s = Shape(x) y = Reshape(x, s)", {}),
    ("y = Add(x, z)", {"z": np.zeros((1, 1, 6), np.float32)}),
    ("y = Add(z, x)", {"z": 0.0}),
    ("y = Sub(x, z)", {"z": 0.0}),
    ("y = Mul(x, o)", {"o": np.ones((4, 1), np.float32)}),
    ("y = Div(x, o)", {"o": 1.0}),
    ("y = Transpose <perm = [0, 1, 2]> (x)", {}),
    ("y = Slice(x, a, b)", {"a": [0, 0, 0], "b": [1 << 62, 4, 6]}),
    ("y = Pad(x, p)", {"p": [0] * 6}),
    ("y = Concat <axis = 1> (x)", {}),
    ("y = Dropout(x)", {}),
    ("y = Tile(x, t)", {"t": [1, 1, 1]}),
    ("y = Expand(x, t)", {"t": [1, 4, 1]}),
])
def test_no_ops_go(body: str, constants: dict[str, Any]) -> None:
    check(build(VECTOR, f"h = Exp(x) {body.replace('(x', '(h').replace(', x)', ', h)')}", constants), [NoOps(), DeadCode()], [X], {"Exp": 1}, 0)


@pytest.mark.parametrize("body, constants", [
    ("y = Sub(z, x)", {"z": 0.0}),
    ("y = Div(o, x)", {"o": 1.0}),
    ("y = Transpose <perm = [2, 1, 0]> (x)", {}),
    ("y = Slice(x, a, b, c, d)", {"a": [3], "b": [-100], "c": [1], "d": [-1]}),
    ("y = Add(x, z)", {"z": np.zeros((3, 1, 1, 1), np.float32)}),
])
def test_lookalikes_of_no_ops_stay(body: str, constants: dict[str, Any]) -> None:
    cube = normal(4, 4, 4)
    out = "float[a, b, c, d]" if "z" in constants and "Add" in body else "float[a, b, c]"
    check(build(f"(float[4, 4, 4] x) => ({out} y)", body, constants), [NoOps()], [cube], None, 0)


def test_a_slice_whose_declared_size_is_wrong_stays() -> None:
    """Exporters give outputs the names of input sizes by mistake; only what the rule derives counts."""
    body = "k = NonZero(x) s = Shape <start = 1, end = 2> (k) y = Slice(x, zero, s)"
    check(build("(float[n] x) => (float[n] y)", body, {"zero": [0]}), [NoOps()], [np.array([1, 0, 2], np.float32)], {"NonZero": 1, "Shape": 1, "Slice": 1})


def test_identity_between_input_and_output_stays() -> None:
    check(build(VECTOR, "y = Identity(x)"), everything(), [X], {"Identity": 1})


def test_one_value_under_two_output_names() -> None:
    check(build("(float[n] x) => (float[n] y, float[n] z)", "a = Exp(x) y = Identity(a) z = Identity(a)"), everything(), [normal(3)], {"Exp": 1, "Identity": 1})


def test_equal_subexpressions_are_shared_and_random_ones_are_not() -> None:
    body = "a = Exp(x) b = Exp(x) c = Add(a, b) r = RandomNormalLike(x) q = RandomNormalLike(x) d = Sub(r, q) e = Mul(c, d) y = Mul(e, zero)"
    model = build(VECTOR, body, {"zero": 0.0})
    check(model, [CommonSubexpressions()], [X], {"Exp": 1, "Add": 1, "RandomNormalLike": 2, "Sub": 1, "Mul": 2})
    assert model.graph.nodes[0].origin == ("node_a", "node_b")


def test_equal_constants_become_one() -> None:
    w = normal(6)
    model = build(VECTOR, "a = Add(x, v) b = Add(a, w) y = Add(b, u)", {"v": w, "w": w.copy(), "u": -w})
    check(model, [DuplicateConstants()], [X], {"Add": 3})
    assert len(model.graph.constants()) == 2


def test_signed_zeros_and_types_are_not_duplicates() -> None:
    model = build("(float[2] x) => (float[2] y, float[2] z)", "y = Div(x, p) z = Div(x, n)", {"p": np.zeros(2, np.float32), "n": -np.zeros(2, np.float32)})
    check(model, [DuplicateConstants()], [np.ones(2, np.float32)], {"Div": 2})
    assert len(model.graph.constants()) == 2


# -- constant folding ----------------------------------------------------------------------------------------------------------------------------

def test_constants_are_folded() -> None:
    body = "a = Mul(v, v) b = Sqrt(a) t = Transpose(m) c = MatMul(x, t) y = Add(c, b)"
    model = build("(float[n, 3] x) => (float[n, 5] y)", body, {"v": normal(5), "m": normal(5, 3)})
    check(model, [FoldConstants()], [normal(2, 3)], {"MatMul": 1, "Add": 1})


def test_shape_arithmetic_of_fixed_sizes_is_folded() -> None:
    body = "s = Shape(x) a = Gather(s, one) b = Unsqueeze(a, zero) c = Concat <axis = 0> (minus, b) y = Reshape(x, c)"
    check(build("(float[2, 3, 4] x) => (float[8, 3] y)", body, {"one": np.array(1), "zero": [0], "minus": [-1]}), [FoldConstants()], [normal(2, 3, 4)], {"Reshape": 1})


def test_folding_keeps_to_its_budget_and_uniform_tensors_stay_uniform() -> None:
    body = "a = ConstantOfShape <value = float[1] {3.0}> (s) b = Sqrt(a) t = Transpose(b) c = Tile(v, r) d = Add(x, t) y = Add(d, c)"
    model = build("(float[512, 1024] x) => (float[512, 1024] y)", body, {"s": [1024, 512], "v": normal(1, 1024), "r": [512, 1]})
    check(model, [FoldConstants(budget=1000)], [normal(512, 1024)], {"Tile": 1, "Add": 2})
    uniform = [v.const for v in model.graph.constants() if v.const is not None and v.const.shape == (512, 1024)]
    assert [t.is_splat for t in uniform] == [True]


def test_random_and_failing_nodes_are_not_folded() -> None:
    body = "r = RandomNormal <shape = [4, 6]> () i = Div(one, none) c = Cast <to = 1> (i) k = Mul(c, zero) s = Mul(r, zero) t = Add(s, x) y = Add(t, k)"
    model = build(VECTOR, body, {"one": np.array([1]), "none": np.array([0]), "zero": 0.0})
    run_passes(model, [FoldConstants()])
    assert {"RandomNormal", "Div"} <= set(operators(model))


def test_a_constant_condition_picks_its_branch() -> None:
    branches = "<then_branch = t () => (float[n] p) { i = Exp(x) p = Neg(i) }, else_branch = e () => (float[n] q) { q = Abs(x) }>"
    body = f"c = Less(a, b) u = If (c) {branches} v = If (c) {branches} w = If (c) <then_branch = t () => (float[n] p) {{ p = Identity(x) }}, else_branch = e () => (float[n] q) {{ q = Abs(x) }}>" \
           " s = Add(u, v) y = Add(s, w)"
    model = check(build("(float[n] x) => (float[n] y)", body, {"a": 1.0, "b": 2.0}), [FoldConstants(), NoOps()], [normal(3)], {"Exp": 2, "Neg": 2, "Add": 2})
    made = [v.name for node in model.graph.nodes for v in node.outputs if v is not None]
    assert len(made) == len(set(made)), "names of inlined branches collide"


def test_values_that_change_in_a_loop_are_not_folded() -> None:
    body = "k = Constant <value = int64[1] {1}> () t = Constant <value = bool {1}> () " \
           "y = Loop (m, t, k) <body = b (int64 i, bool c, int64[1] s) => (bool d, int64[1] u) { d = Identity(c) u = Add(s, s) }>"
    check(build("(int64 m) => (int64[1] y)", body), everything(), [np.array(3)], None)


def test_an_overridable_default_is_not_a_constant() -> None:
    body = "a = Mul(w, w) b = Add(x, z) y = Add(a, b)"
    model = build("(float[3] x, float[3] w, float[3] z) => (float[3] y)", body, {"w": np.ones(3, np.float32), "z": np.zeros(3, np.float32)})
    feeds = [normal(3), normal(3), normal(3)]
    check(model, everything(), feeds, {"Mul": 1, "Add": 2})
    assert [v.const is not None for v in model.graph.inputs] == [False, True, True]


# -- affine maps -----------------------------------------------------------------------------------------------------------------------------------

def batch_norm(channels: int) -> dict[str, np.ndarray]:
    """scale, bias, mean and variance."""
    return {"s": normal(channels), "b": normal(channels), "m": normal(channels), "v": np.abs(normal(channels)) + 0.5}


CONV = {"w": normal(6, 2, 3, 3), "c": normal(6)}
IMAGE = "(float[n, 4, 5, 5] x) => (float[n, 6, h, k] y)"
NORM = "y = BatchNormalization <epsilon = 0.01> (h, s, b, m, v)"
image = normal(2, 4, 5, 5)


@pytest.mark.parametrize("before, signature, feed, weights, channels", [
    ("h = Conv <group = 2> (x, w, c)", IMAGE, image, CONV, 6),
    ("h = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w)", IMAGE, image, {"w": CONV["w"]}, 6),
    ("h = ConvTranspose <group = 2> (x, w, c)", IMAGE, image, {"w": normal(4, 3, 3, 3), "c": normal(6)}, 6),
    ("h = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, c)", "(float[n, 4] x) => (float[n, 6] y)", normal(3, 4), {"w": normal(6, 4), "c": normal(1, 6)}, 6),
    ("h = Gemm (x, w)", "(float[n, 4] x) => (float[n, 6] y)", normal(3, 4), {"w": normal(4, 6)}, 6),
])
def test_batch_normalization_goes_into_the_weights(before: str, signature: str, feed: Any, weights: dict[str, Any], channels: int) -> None:
    model = build(signature, f"{before} {NORM}", {**weights, **batch_norm(channels)})
    made = check(model, [FoldBatchNorm()], [feed], {before.split()[2].split("(")[0]: 1})
    assert made.graph.nodes[0].origin == ("node_h", "node_y")


def test_batch_normalization_after_matmul_makes_a_gemm() -> None:
    model = build("(float[n, 4] x) => (float[n, 6] y)", f"h = MatMul(x, w) {NORM}", {"w": normal(4, 6), **batch_norm(6)})
    check(model, [FoldBatchNorm()], [normal(3, 4)], {"Gemm": 1})


def test_batch_normalization_after_matmul_and_add() -> None:
    model = build("(float[n, 4] x) => (float[n, 6] y)", f"g = MatMul(x, w) h = Add(c, g) {NORM}", {"w": normal(4, 6), "c": normal(6), **batch_norm(6)})
    check(model, [FoldBatchNorm()], [normal(3, 4)], {"Gemm": 1})


@pytest.mark.parametrize("tail, constants", [
    ("y = Mul(h, k)", {"k": normal(1, 6, 1, 1)}),
    ("y = Div(h, k)", {"k": 3.0}),
    ("y = Add(k, h)", {"k": normal(6, 1, 1)}),
    ("y = Sub(h, k)", {"k": normal(6, 1, 1)}),
    ("y = Sub(k, h)", {"k": normal(6, 1, 1)}),
    ("a = Mul(h, k) b = Add(a, l) y = Div(b, z)", {"k": normal(6, 1, 1), "l": normal(6, 1, 1), "z": 2.0}),
])
def test_affine_maps_after_a_convolution(tail: str, constants: dict[str, Any]) -> None:
    check(build(IMAGE, f"h = Conv <group = 2> (x, w, c) {tail}", {**CONV, **constants}), [FoldBatchNorm()], [image], {"Conv": 1})


@pytest.mark.parametrize("tail, constants", [
    ("y = Mul(h, k)", {"k": normal(1, 1, 1, 3)}),                    # along the width
    ("y = Add(h, k)", {"k": normal(6, 3, 3)}),                       # a whole image
    ("e = Exp(h) a = Mul(h, k) y = Add(a, e)", {"k": 2.0}),          # used twice
    ("y = Div(k, h)", {"k": 2.0}),
    ("y = Div(h, k)", {"k": 0.0}),                                   # not finite
])
def test_what_is_not_an_affine_map_per_channel_stays(tail: str, constants: dict[str, Any]) -> None:
    model = build(IMAGE, f"h = Conv <group = 2> (x, w, c) {tail}", {**CONV, **constants})
    check(model, [FoldBatchNorm()], [image], operators(model), 0)


@pytest.mark.parametrize("head, pads, left", [
    ("h = Mul(x, k)", 1, {"Conv": 1}), ("h = Div(x, k)", 1, {"Conv": 1}), ("h = Add(x, k)", 0, {"Conv": 1}), ("h = Sub(k, x)", 0, {"Conv": 1}),
    ("h = Add(x, k)", 1, {"Add": 1, "Conv": 1}), ("g = Sub(x, k) h = Div(g, d)", 1, {"Sub": 1, "Conv": 1}), ("g = Sub(x, k) h = Div(g, d)", 0, {"Conv": 1}),
])
def test_affine_maps_before_a_convolution(head: str, pads: int, left: dict[str, int]) -> None:
    model = build(IMAGE, f"{head} y = Conv <group = 2, pads = [{pads}, {pads}, {pads}, {pads}]> (h, w, c)", {**CONV, "k": normal(4, 1, 1), "d": np.abs(normal(1, 4, 1, 1)) + 1})
    check(model, [FoldBatchNorm()], [image], left)


@pytest.mark.parametrize("node, left", [("y = Gemm <transB = 1, alpha = 0.5> (h, w, c)", {"Gemm": 1}), ("u = Transpose(w) y = MatMul(h, u)", {"Add": 1, "MatMul": 1})])
def test_affine_maps_before_a_product(node: str, left: dict[str, int]) -> None:
    model = build("(float[n, 4] x) => (float[n, 6] y)", f"g = Mul(x, k) h = Add(g, l) {node}", {"w": normal(6, 4), "c": normal(6), "k": normal(4), "l": normal(4)})
    check(model, [FoldConstants(), FoldBatchNorm()], [normal(3, 4)], {"Mul": 1, **left} if "MatMul" in left else left)


def test_batch_normalization_alone_becomes_mul_and_add() -> None:
    model = build("(float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y)", f"h = Relu(x) {NORM}", batch_norm(4))
    check(model, [FoldBatchNorm()], [image], {"Relu": 1, "Mul": 1, "Add": 1})


def test_chains_of_affine_maps_become_one() -> None:
    body = "h = Relu(x) g = BatchNormalization(h, s, b, m, v) f = Mul(g, k) e = Add(f, l) d = Sub(e, l) y = Div(d, two)"
    model = build("(float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y)", body, {**batch_norm(4), "k": normal(4, 1, 1), "l": normal(4, 1, 1), "two": 2.0})
    check(model, [FoldBatchNorm()], [image], {"Relu": 1, "Mul": 1, "Add": 1})


def test_uniform_weights_stay_uniform() -> None:
    same = {"s": np.full(6, 2, np.float32), "b": np.full(6, 1, np.float32), "m": np.full(6, 3, np.float32), "v": np.full(6, 4, np.float32), "t": [6, 4, 3, 3]}
    model = build(IMAGE, f"w = ConstantOfShape <value = float[1] {{0.25}}> (t) h = Conv(x, w) {NORM}", same)
    check(model, [FoldConstants(), FoldBatchNorm()], [image], {"Conv": 1})
    assert all(v.const is not None and v.const.is_splat for v in model.graph.constants())


def test_large_uniform_weights_are_not_spelled_out() -> None:
    body = f"w = ConstantOfShape <value = float[1] {{0.25}}> (t) h = Conv(x, w) {NORM}"
    model = build("(float[n, 4, 5, 5] x) => (float[n, 64, 3, 3] y)", body, {**batch_norm(64), "t": [64, 4, 3, 3]})
    check(model, [FoldConstants(), FoldBatchNorm()], [image], {"Conv": 1, "Mul": 1, "Add": 1})


def test_shared_weights_are_not_scaled() -> None:
    body = "h = Conv(x, w) g = Conv(x, w) i = Mul(h, k) y = Add(i, g)"
    check(build("(float[n, 4, 5, 5] x) => (float[n, 6, 3, 3] y)", body, {"w": normal(6, 4, 3, 3), "k": 2.0}), [FoldBatchNorm()], [image], {"Conv": 2, "Mul": 1, "Add": 1})


# -- moves -----------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("body, left", [
    ("a = Transpose <perm = [1, 2, 0]> (x) b = Transpose <perm = [2, 0, 1]> (a) y = Exp(b)", {"Exp": 1}),
    ("a = Transpose <perm = [1, 2, 0]> (x) b = Transpose <perm = [0, 2, 1]> (a) c = Exp(b) d = Transpose(c) y = Neg(d)", {"Transpose": 2, "Exp": 1, "Neg": 1}),
    ("a = Transpose <perm = [1, 2, 0]> (x) b = Transpose <perm = [0, 2, 1]> (a) c = Exp(b) d = Transpose <perm = [1, 0, 2]> (c) e = Transpose <perm = [1, 0, 2]> (c) y = Sub(d, e)",
     {"Exp": 1, "Sub": 1}),
    ("a = Transpose <perm = [0, 2, 1]> (x) b = Exp(a) c = Mul(b, k) d = Add(c, a) e = Clip(d, lo, hi) f = Where(t, e, b) y = Transpose <perm = [0, 2, 1]> (f)",
     {"Exp": 1, "Mul": 1, "Add": 1, "Clip": 1, "Where": 1}),
    ("a = Transpose <perm = [0, 2, 1]> (x) b = Exp(a) c = Softmax(b) d = Transpose <perm = [0, 2, 1]> (c) y = Neg(d)", {"Transpose": 2, "Exp": 1, "Softmax": 1, "Neg": 1}),
    ("a = Transpose <perm = [0, 2, 1]> (x) b = Exp(a) c = Neg(b) d = Add(b, c) e = Mul(d, b) y = Transpose <perm = [0, 2, 1]> (e)", {"Exp": 1, "Neg": 1, "Add": 1, "Mul": 1}),
    ("a = Unsqueeze(x, one) b = Squeeze(a, one) y = Exp(b)", {"Exp": 1}),
    ("a = Flatten(x) b = Unsqueeze(a, one) c = Reshape(b, s) y = Exp(c)", {"Exp": 1}),
    ("a = Unsqueeze(x, zero) b = Reshape(a, s) c = Exp(b) d = Reshape(c, t) e = Flatten(d) y = Reshape(e, s)", {"Exp": 1}),
    ("s1 = Shape(x) i = Gather(s1, zero) j = Concat <axis = 0> (i, four, six) a = Exp(x) b = Reshape(a, j) y = Neg(b)", {"Exp": 1, "Neg": 1}),
    ("a = Exp(x) k1 = Shape(x) b = Expand(v, k1) y = Add(a, b)", {"Exp": 1, "Add": 1}),
    ("a = Cast <to = 11> (x) b = Cast <to = 10> (a) y = Cast <to = 1> (b)", {"Cast": 2}),
])
def test_moves_are_cleaned_up(body: str, left: dict[str, int]) -> None:
    constants = {"k": normal(6, 1), "lo": -1.0, "hi": 1.0, "t": np.array([0, 24]), "one": [1], "zero": [0], "s": [-1, 4, 6], "four": [4], "six": [6], "v": normal(6)}
    if "Where" in body:
        constants["t"] = np.array([[[True, False, True, False]]])
    check(build(VECTOR, body, constants), [CleanMoves(), FoldConstants(), DeadCode(), CleanMoves(), NoOps(), DeadCode()], [X], left, 0)


def test_moves_keep_zero_sizes() -> None:
    body = "a = Reshape(x, s) b = Transpose <perm = [0, 2, 1]> (a) c = Flatten(b) d = Exp(c) e = Reshape(d, t) y = Transpose <perm = [0, 2, 1]> (e)"
    model = build("(float[n, 24] x) => (float[n, 4, 6] y)", body, {"s": [0, 4, 6], "t": [0, 6, 4]})
    check(model, everything(), [np.zeros((0, 24), np.float32)], None)
    assert run(model, [normal(3, 24)])[0].shape == (3, 4, 6)


@pytest.mark.parametrize("first, between, last, kept", [
    ("float", "double", "float", 0), ("float", "double", "int32", 1), ("float16", "float", "float16", 0), ("float", "float16", "float", 2), ("int32", "int64", "int8", 1),
    ("int8", "float", "float16", 1), ("int32", "float", "int32", 2), ("int32", "double", "int8", 2), ("uint8", "int8", "int32", 2), ("bool", "int64", "bool", 0),
    ("int64", "bool", "int64", 2), ("int16", "uint16", "int32", 2),
])
def test_casts_that_lose_nothing_go(first: str, between: str, last: str, kept: int) -> None:
    a, b, c = (DType.parse(t) for t in (first, between, last))
    values = np.array([0, 1, 100, 127], np.float64).astype(a.numpy) if a is not DType.FLOAT else np.array([0.5, -1.25, 1e30, 3e-20], np.float32)
    values = values if c is not DType.INT32 or a is not DType.FLOAT else np.array([1.5, -7.25], np.float32)
    model = build(f"({first}[n] x) => ({last}[n] y)", f"a = Cast <to = {int(b)}> (x) z = Cast <to = {int(c)}> (a) y = Identity(z)")
    check(model, [CleanMoves(), DeadCode(), NoOps()], [values], None, 0)
    assert operators(model).get("Cast", 0) == kept


def test_transposes_of_matrices_become_flags_of_gemm() -> None:
    body = "a = Transpose(x) b = Transpose(w) y = Gemm <transB = 1> (a, b, c)"
    check(build("(float[4, 3] x, float[4, 5] w) => (float[3, 5] y)", body, {"c": normal(5)}), [CleanMoves()], [normal(4, 3), normal(4, 5)], {"Gemm": 1})


# -- QDQ -------------------------------------------------------------------------------------------------------------------------------------------

SCALES = {"s": 0.05, "r": 0.07, "z": np.array(10, np.uint8), "o": np.array(0, np.uint8)}


@pytest.mark.parametrize("body, left", [
    # a round trip with equal parameters
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) p = QuantizeLinear(d, s, z) y = DequantizeLinear(p, s, z)", {"QuantizeLinear": 1, "DequantizeLinear": 1}),
    # with others
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) p = QuantizeLinear(d, r, z) y = DequantizeLinear(p, r, z)", {"QuantizeLinear": 2, "DequantizeLinear": 2}),
    # moves between
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) t = Transpose(d) p = QuantizeLinear(t, s, z) e = DequantizeLinear(p, s, z) y = Transpose(e)",
     {"QuantizeLinear": 1, "Transpose": 2, "DequantizeLinear": 1}),
    ("a = Exp(x) t = Transpose <perm = [0, 2, 1]> (a) f = Flatten(t) q = QuantizeLinear(f, s, z) d = DequantizeLinear(q, s, z) g = Reshape(d, h) y = Neg(g)",
     {"Exp": 1, "QuantizeLinear": 1, "Transpose": 1, "Flatten": 1, "Reshape": 1, "DequantizeLinear": 1, "Neg": 1}),
    # Q moves into a Concat of dequantised tensors; the one with other parameters is quantised anew, the others are as they were
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) p = QuantizeLinear(x, r, z) e = DequantizeLinear(p, r, z) c = Concat <axis = 1> (d, e, d) t = QuantizeLinear(c, s, z) "
     "y = DequantizeLinear(t, s, z)", {"QuantizeLinear": 3, "DequantizeLinear": 2, "Concat": 1}),
    ("a = Exp(x) c = Concat <axis = 1> (a, x) q = QuantizeLinear(c, s, z) y = DequantizeLinear(q, s, z)", {"Exp": 1, "QuantizeLinear": 1, "DequantizeLinear": 1, "Concat": 1}),
    # a Relu or Clip that saturation does
    ("a = Relu(x) q = QuantizeLinear(a, s, o) y = DequantizeLinear(q, s, o)", {"QuantizeLinear": 1, "DequantizeLinear": 1}),
    ("a = Clip(x, f0) q = QuantizeLinear(a, s) y = DequantizeLinear(q, s)", {"QuantizeLinear": 1, "DequantizeLinear": 1}),
    ("a = Clip(x, f0, f13) q = QuantizeLinear(a, s, o) y = DequantizeLinear(q, s, o)", {"QuantizeLinear": 1, "DequantizeLinear": 1}),
    ("a = Clip(x, f0, f12) q = QuantizeLinear(a, s, o) y = DequantizeLinear(q, s, o)", {"Clip": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}),
    ("a = Relu(x) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z)", {"Relu": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}),
])
def test_qdq(body: str, left: dict[str, int]) -> None:
    model = build(VECTOR, body, {**SCALES, "h": [-1, 4, 6], "f0": 0.0, "f12": 12.0, "f13": 12.75})
    check(model, [NormalizeQDQ(), DeadCode()], [X], left, 0)
    for node in model.graph.nodes:
        if "Linear" in node.op_type:
            assert len(node.inputs) == 3 and node.inputs[2] is not None and node.inputs[2].const is not None


def test_max_pool_runs_on_bytes() -> None:
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) m = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (d) p = QuantizeLinear(m, s, z) y = DequantizeLinear(p, s, z)"
    model = build("(float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y)", body, SCALES)
    check(model, [NormalizeQDQ(), DeadCode()], [image], {"QuantizeLinear": 1, "MaxPool": 1, "DequantizeLinear": 1}, 0)
    assert [n.op_type for n in model.graph.nodes] == ["QuantizeLinear", "MaxPool", "DequantizeLinear"]


def test_quantised_weights_stay_quantised_and_follow_their_axis() -> None:
    body = "q = QuantizeLinear <axis = 0> (w, k, n) d = DequantizeLinear <axis = 0> (q, k, n) t = Transpose(d) y = MatMul(x, t)"
    constants = {"w": normal(6, 4), "k": np.abs(normal(6)) + 0.01, "n": np.zeros(6, np.int8)}
    model = check(build("(float[n, 4] x) => (float[n, 6] y)", body, constants), [FoldConstants(), NormalizeQDQ(), FoldConstants(), DeadCode()], [normal(3, 4)], {"DequantizeLinear": 1, "MatMul": 1})
    node = model.graph.nodes[0]
    assert node.attributes["axis"] == 1 and node.inputs[0] is not None and node.inputs[0].const is not None and node.inputs[0].const.dtype is DType.INT8


def test_a_bias_of_int32_keeps_its_dequantisation() -> None:
    body = "b = DequantizeLinear(i, s) y = Add(x, b)"
    check(build(VECTOR, body, {"i": np.arange(6, dtype=np.int32), "s": 0.5}), everything(), [X], {"DequantizeLinear": 1, "Add": 1}, 0)


# -- float16 ---------------------------------------------------------------------------------------------------------------------------------------

def test_float16_keeps_the_interface_and_casts_once() -> None:
    body = "a = MatMul(x, w) b = Add(a, c) d = Relu(b) y = Softmax(d) z = Neg(d)"
    model = build("(float[n, 4] x) => (float[n, 6] y, float[n, 6] z)", body, {"w": normal(4, 6), "c": normal(6)})
    check(model, float16_passes(), [normal(3, 4)], {"Cast": 3, "MatMul": 1, "Add": 1, "Relu": 1, "Softmax": 1, "Neg": 1}, 4e-3)
    assert {v.const.dtype for v in model.graph.constants() if v.const is not None} == {DType.FLOAT16}


def test_float16_leaves_what_has_no_float16_form() -> None:
    body = "a = Exp(x) q, s, z = DynamicQuantizeLinear(a) d = DequantizeLinear(q, s, z) r = Resize(d, , k) y = Neg(r)"
    model = build("(float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y)", body, {"k": np.array([1, 1, 2, 2], np.float32)})
    check(model, float16_passes(), [normal(1, 1, 4, 4)], None, 4e-3)
    by_name = {n.op_type: n for n in model.graph.nodes}
    assert by_name["DynamicQuantizeLinear"].inputs[0].dtype is DType.FLOAT and by_name["Resize"].inputs[2].dtype is DType.FLOAT and by_name["Resize"].outputs[0].dtype is DType.FLOAT16


def test_float16_reports_what_is_out_of_range() -> None:
    body = "a = Mul(x, big) b = Add(x, tiny) d = Mul(m, mask) e = Add(a, d) y = Add(e, b)"
    model = build("(float[n] x, float[n] m) => (float[n] y)", body, {"big": 1e6, "tiny": 1e-9, "mask": -3.4e38})
    before = run(model, [normal(3) / 1e3, np.zeros(3, np.float32)])
    notes = [note for result in run_passes(model, [Float16()]) for note in result.notes]
    assert len(notes) == 3 and "1e+06" in notes[0] and "rounds to 0" in notes[1] and "taken for infinity" in notes[2] and "node_d" in notes[2]
    assert np.isfinite(before[0]).all() and all(np.isfinite(run(model, [normal(3) / 1e3, np.ones(3, np.float32)])[0]))


def test_float16_in_branches_and_loops() -> None:
    body = "a = Exp(x) t = Constant <value = bool {1}> () b = If (c) <then_branch = t () => (float[n] p) { p = Sqrt(a) }, else_branch = e () => (float[n] q) { q = Identity(x) }> " \
           "l, s = Loop (m, t, b) <body = b (int64 i, bool d, float[n] u) => (bool e, float[n] v, float[n] w) { e = Identity(d) v = Mul(u, k) w = Add(v, a) }> y = ReduceSum(s, zero) z = Neg(l)"
    signature = "(float[n] x, bool c, int64 m) => (float[k, n] y, float[n] z)"
    for taken in (True, False):
        model = build(signature, body, {"k": 0.5, "zero": [0]})
        check(model, float16_passes(), [normal(3), np.array(taken), np.array(2)], None, 4e-3)


# -- all together ------------------------------------------------------------------------------------------------------------------------------------

def test_passes_are_deterministic_and_reach_an_end() -> None:
    def made() -> Any:
        body = f"e = Exp(x) g = Transpose <perm = [0, 2, 3, 1]> (e) i = Transpose <perm = [0, 3, 1, 2]> (g) h = Conv <group = 2> (i, w, c) {NORM}"
        return build(IMAGE, body, {**CONV, "s": np.ones(6, np.float32), "b": np.ones(6, np.float32), "m": np.zeros(6, np.float32), "v": np.ones(6, np.float32)})
    one, two = made(), made()
    for model in (one, two):
        run_passes(model, everything())
    assert str(one.graph) == str(two.graph) and operators(one) == {"Exp": 1, "Conv": 1}
    again = [r.rewrites for r in run_passes(one, everything())]
    assert not any(again), "a second run finds something more"
    assert interface(one) == interface(two) and distance(run(one, [image]), run(two, [image])) == 0


def test_a_pass_that_stumbles_says_so() -> None:
    class Stumbles(Pass):
        """Raises what NumPy would."""

        name = "stumbling"

        def run(self, model: Any) -> int:
            raise ValueError("cannot reshape")
    with pytest.raises(Fail, match="pass 'stumbling' failed .*cannot reshape.*optimize=False"):
        run_passes(build(VECTOR, "y = Exp(x)"), [Stumbles()])


def test_an_output_that_is_constant_keeps_its_name() -> None:
    model = build("(float[2, 3] x) => (int64[2] y, float[2, 3] z)", "y = Shape(x) z = Exp(x)")
    check(model, everything(), [normal(2, 3)], {"Exp": 1}, 0)
    assert model.graph.outputs[0].const is not None


# -- products of one tensor ----------------------------------------------------------------------------------------------------------------------------

HEADS = "(float[b, n, 6] x) => (float[b, n, 2, 4] q, float[b, n, 2, 4] k, float[b, n, 3] v)"
MERGED = {"u": normal(6, 8), "w": normal(6, 8) * 2, "z": normal(6, 3), "a": normal(8), "c": normal(8) * 2, "e": normal(3), "s": [0, 0, 2, 4], "t": [0, 0, 3]}


@pytest.mark.parametrize(("body", "expected"), [
    ("h = Exp(x) i = MatMul(h, u) j = Add(i, a) q = Reshape(j, s) l = MatMul(h, w) m = Add(c, l) k = Reshape(m, s) o = MatMul(h, z) p = Add(o, e) v = Reshape(p, t)",
     {"Exp": 1, "MatMul": 1, "Add": 1, "Split": 1, "Reshape": 3}),
    # a product that is computed with, one without a bias, one whose sum is an output, one that is read before the sum
    ("h = Exp(x) i = MatMul(h, u) j = Add(i, a) q = Reshape(j, s) l = MatMul(h, w) m = Add(c, l) n2 = Relu(m) k = Reshape(n2, s) o = MatMul(h, z) p = Add(o, e) v = Reshape(p, t)",
     {"Exp": 1, "MatMul": 2, "Add": 2, "Split": 1, "Reshape": 3, "Relu": 1}),
    ("h = Exp(x) i = MatMul(h, u) q = Reshape(i, s) l = MatMul(h, w) k = Reshape(l, s) o = MatMul(h, z) v = Reshape(o, t)", {"Exp": 1, "MatMul": 3, "Reshape": 3}),
    ("h = Exp(x) i = MatMul(h, u) j = Add(i, a) q = Reshape(j, s) l = MatMul(x, w) m = Add(c, l) k = Reshape(m, s) o = MatMul(h, z) v = Add(o, e)",
     {"Exp": 1, "MatMul": 3, "Add": 3, "Reshape": 2}),
    ("h = Exp(x) i = MatMul(h, u) j = Add(i, a) q = Reshape(j, s) l = MatMul(h, u) m = Add(l, c) k = Reshape(m, s) o = MatMul(h, z) p = Add(o, e) v = Reshape(p, t)",
     {"Exp": 1, "MatMul": 3, "Add": 3, "Reshape": 3}),
])
def test_products_of_one_tensor_are_merged(body: str, expected: dict[str, int]) -> None:
    used = {name: value for name, value in MERGED.items() if f"{name})" in body or f"({name}," in body}
    model = build(HEADS, body, used)
    check(model, [MergeProducts()], [normal(2, 5, 6)], expected, 1e-6)
    if "Split" in expected:
        product = next(n for n in model.graph.nodes if n.op_type == "MatMul" and n.inputs[1].const.shape[1] > 8)
        assert {"node_i", "node_j", "node_o", "node_p"} <= set(product.origin)
