"""Hand-written cases of `version_cases.py` with more than one node or a nested graph (control flow, sequences), recurrent networks, and ai.onnx.ml."""
from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper, parser

from .version_cases import Pair, VersionCase, finish_model, made
from .version_hand import F32, HAND, I64, STR, Cases, cases, noise, ramp

__all__ = ["HAND"]

# -- graphs in ONNX's text form: (operators in it, first and last version, text, inputs, expected) ---------------------------------------------

LOOP_1 = """agraph (int64 n, bool c, float[2] x) => (float[2] last, float[k, 2] all) {
    last, all = Loop (n, c, x) <body = body (int64 i, bool going, float[2] a) => (bool going_on, float[2] b, float[2] b2) {
        b = Add (a, a) b2 = Identity (b) going_on = Identity (going) }> }"""
SEQUENCES = {
    "SequenceConstruct": "agraph (float[2] x, float[2] y) => (float[4] z) { s = SequenceConstruct (x, y) z = ConcatFromSequence <axis = 0> (s) }",
    "ConcatFromSequence": "agraph (float[2] x, float[2] y) => (float[2, 2] z) { s = SequenceConstruct (x, y) z = ConcatFromSequence <axis = 1, new_axis = 1> (s) }",
    "SequenceAt": "agraph (float[2] x, float[2] y) => (float[2] z) { s = SequenceConstruct (x, y) i = Constant <value = int64 {-1}> () z = SequenceAt (s, i) }",
    "SequenceEmpty": "agraph (float[2] x) => (float[2] z) { e = SequenceEmpty () s = SequenceInsert (e, x) i = Constant <value = int64 {0}> () z = SequenceAt (s, i) }",
    "SequenceErase": "agraph (float[2] x, float[2] y) => (float[2] z) { s = SequenceConstruct (x, y) i = Constant <value = int64 {0}> () t = SequenceErase (s, i) z = SequenceAt (t, i) }",
    "SequenceLength": "agraph (float[2] x, float[2] y) => (int64 z) { s = SequenceConstruct (x, y) z = SequenceLength (s) }",
}
X, Y = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
EXPECTED = {"SequenceConstruct": np.concatenate([X, Y]), "ConcatFromSequence": np.stack([X, Y], 1), "SequenceAt": Y, "SequenceEmpty": X, "SequenceErase": Y, "SequenceLength": np.array(2)}


def parsed(pair: Pair, text: str, inputs: list[Any], expected: list[Any] | None = None, name: str = "graph", **more: Any) -> VersionCase:
    """A case of a graph in ONNX's text form."""
    return VersionCase(name, finish_model(parser.parse_graph(text), pair[0], pair[2]), inputs, expected, **more)


@cases(*SEQUENCES)
def sequences(pair: Pair) -> Cases:
    """Made and used in one graph."""
    inputs = [X] if pair[1] == "SequenceEmpty" else [X, Y]
    yield parsed(pair, SEQUENCES[pair[1]], inputs, [EXPECTED[pair[1]]])


@cases("Loop")
def loop(pair: Pair) -> Cases:
    """A state and a collected output."""
    yield parsed(pair, LOOP_1, [np.array(3), np.array(True), X], [X * 8, np.stack([X * 2, X * 4, X * 8])])


@cases("If")
def if_(pair: Pair) -> Cases:
    """Branches with operators that changed, on a value of the outer graph."""
    then = "Softmax <axis = 0> (x)" if pair[2] < 13 else "Softmax (x)"
    text = f"agraph (bool c, float[2, 3] x) => (float[2, 3] y) {{ y = If (c) <then_branch = t () => (float[2, 3] a) {{ a = {then} }}, else_branch = e () => (float[2, 3] b) {{ b = Relu (x) }}> }}"
    x = noise(2, 3)
    total = np.exp(x).sum() if pair[2] < 13 else np.exp(x).sum(axis=1, keepdims=True)
    yield parsed(pair, text, [np.array(True), x], [np.exp(x) / total], "then")
    yield parsed(pair, text, [np.array(False), x], [np.maximum(x, 0)], "else")


@cases("Optional", "OptionalGetElement", "OptionalHasElement")
def optional(pair: Pair) -> Cases:
    """Wrapped, asked and unwrapped."""
    use = {"OptionalHasElement": "=> (bool z) { o = Optional (x) z = OptionalHasElement (o) }"}.get(pair[1], "=> (float[2] z) { o = Optional (x) z = OptionalGetElement (o) }")
    yield parsed(pair, f"agraph (float[2] x) {use}", [X], [np.array(True) if pair[1] == "OptionalHasElement" else X])


SCAN_BODY = "body (float[2] s, float[2] x) => (float[2] s_out, float[2] y) { s_out = Add (s, x) y = Identity (s_out) }"


@cases("Scan")
def scan(pair: Pair) -> Cases:
    """Version 8: batched, with lengths, backwards."""
    if pair[2] != 8:
        return
    start, x, lengths = ramp(3, 2), noise(3, 4, 2), np.array([4, 2, 0])
    for backwards in (False, True):
        more = ", directions = [1]" if backwards else ""
        sums = start[:, None] + np.cumsum(x[:, ::-1] if backwards else x, axis=1)
        text = f"agraph (float[3, 2] s, float[3, 4, 2] x) => (float[3, 2] last, float[3, 4, 2] all) {{ last, all = Scan <num_scan_inputs = 1, body = {SCAN_BODY}{more}> (\"\", s, x) }}"
        yield parsed(pair, text, [start, x], [sums[:, -1], sums], f"backwards {backwards}", rtol=1e-5)
    text = f"agraph (int64[3] n, float[3, 2] s, float[3, 4, 2] x) => (float[3, 2] last, float[3, 4, 2] all) {{ last, all = Scan <num_scan_inputs = 1, body = {SCAN_BODY}> (n, s, x) }}"
    sums = start[:, None] + np.cumsum(x, axis=1)
    whole, last = np.zeros_like(sums), start.copy()
    for b, n in enumerate(lengths):
        whole[b, :n] = sums[b, :n]
        last[b] = sums[b, n - 1] if n else start[b]
    yield parsed(pair, text, [lengths, start, x], [last, whole], "lengths", rtol=1e-5)


@cases("RNN", "LSTM", "GRU")
def recurrent(pair: Pair) -> Cases:
    """`output_sequence`; both directions."""
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[pair[1]]
    x, w, r, b = noise(3, 2, 4), noise(2, gates * 5, 4, seed=1) * 0.4, noise(2, gates * 5, 5, seed=2) * 0.4, noise(2, gates * 10, seed=3) * 0.4
    attributes: dict[str, Any] = {"hidden_size": 5, "direction": "bidirectional"}
    more = {} if pair[2] >= 7 else {"output_sequence": 1}
    expected = _recurrent(pair[1], x, w, r, b)
    yield made(pair, [x, w, r, b], [(F32, 4), (F32, 3)], {**attributes, **more}, expected=expected)
    yield made(pair, [x, w, r, b], [(0, 0), (F32, 3)], attributes, expected=expected[1:], name="last")


def _recurrent(kind: str, x: Any, w: Any, r: Any, b: Any) -> list[Any]:
    """The equations of the documents, default activations."""
    def sigmoid(v: Any) -> Any:
        return 1 / (1 + np.exp(-v))
    n = r.shape[2]
    all_steps, last = np.zeros((len(x), 2, x.shape[1], n), np.float32), []
    for d in range(2):
        h = c = np.zeros((x.shape[1], n))
        wb, rb = np.split(b[d], 2)
        for t in range(len(x))[::-1 if d else 1]:
            wx, rh = np.split(x[t] @ w[d].T + wb, len(wb) // n, -1), np.split(h @ r[d].T + rb, len(rb) // n, -1)
            if kind == "RNN":
                h = np.tanh(wx[0] + rh[0])
            elif kind == "GRU":
                z, reset = sigmoid(wx[0] + rh[0]), sigmoid(wx[1] + rh[1])
                candidate = np.tanh(wx[2] + (reset * h) @ r[d][2 * n:].T + rb[2 * n:])
                h = (1 - z) * candidate + z * h
            else:
                i, o, f, g = (wx[k] + rh[k] for k in range(4))
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            all_steps[t, d] = h
        last.append(h)
    return [all_steps, np.stack(last).astype(np.float32)]


# -- ai.onnx.ml ---------------------------------------------------------------------------------------------------------------------------------

ML = "ai.onnx.ml"


def strings(*items: str) -> Any:
    """An object array of str."""
    return np.array(items, object)


@cases("LabelEncoder", domain=ML)
def label_encoder(pair: Pair) -> Cases:
    """Version 1 numbers one list, both ways; 2 and 4 have keys and values."""
    if pair[2] == 1:
        yield made(pair, [strings("b", "?", "a", "c")], [(I64, 1)], {"classes_strings": ["a", "b", "c"], "default_int64": -7}, expected=[np.array([1, -7, 0, 2])])
        yield made(pair, [np.array([2, 9, 0])], [(STR, 1)], {"classes_strings": ["a", "b", "c"], "default_string": "?"}, expected=[strings("c", "?", "a")], name="to strings")
    else:
        yield made(pair, [np.array([2, 9, 0])], [(F32, 1)], {"keys_int64s": [0, 2], "values_floats": [0.5, 1.5], "default_float": 3.0}, expected=[np.array([1.5, 3, 0.5], np.float32)])
        yield made(pair, [np.array([2, 9], np.float32)], [(STR, 1)], {"keys_floats": [0.0, 2.0], "values_strings": ["zero", "two"]}, expected=[strings("two", "_Unused")], name="floats")


@cases("CastMap", "DictVectorizer", "ZipMap", domain=ML)
def maps(pair: Pair) -> Cases:
    """Maps from int64 or string to float."""
    if pair[1] == "ZipMap":
        x = ramp(2, 3)
        graph = helper.make_graph([helper.make_node("ZipMap", ["x"], ["y"], domain=ML, classlabels_strings=["a", "b", "c"])], "g", [helper.make_tensor_value_info("x", F32, [2, 3])],
                                  [helper.make_value_info("y", helper.make_sequence_type_proto(helper.make_map_type_proto(STR, helper.make_tensor_type_proto(F32, None))))])
        yield VersionCase("strings", finish_model(graph, ML, 1), [x], [[dict(zip("abc", map(float, row), strict=True)) for row in x]])
        return
    key, keys = (I64, [0, 2]) if pair[1] == "CastMap" else (STR, ["a", "c"])
    attributes: dict[str, Any] = {"map_form": "SPARSE", "max_map": 4, "cast_to": "TO_FLOAT"} if pair[1] == "CastMap" else {"string_vocabulary": ["a", "b", "c", "d"]}
    graph = helper.make_graph([helper.make_node(pair[1], ["x"], ["y"], domain=ML, **attributes)], "g",
                              [helper.make_value_info("x", helper.make_map_type_proto(key, helper.make_tensor_type_proto(F32, [])))], [helper.make_tensor_value_info("y", F32, [None, None])])
    yield VersionCase("map", finish_model(graph, ML, 1), [dict(zip(keys, [1.5, 2.5], strict=True))], [np.array([[1.5, 0, 2.5, 0]], np.float32)])


@cases("CategoryMapper", domain=ML)
def category_mapper(pair: Pair) -> Cases:
    """Both ways."""
    attributes = {"cats_strings": ["a", "b"], "cats_int64s": [5, 7], "default_int64": -1, "default_string": "?"}
    yield made(pair, [strings("b", "x", "a")], [(I64, 1)], attributes, expected=[np.array([7, -1, 5])])
    yield made(pair, [np.array([5, 6])], [(STR, 1)], attributes, expected=[strings("a", "?")], name="to strings")


@cases("FeatureVectorizer", "Imputer", "Normalizer", "OneHotEncoder", "Scaler", "Binarizer", "ArrayFeatureExtractor", domain=ML)
def features(pair: Pair) -> Cases:
    """Small preparations of features."""
    x = np.array([[1, -2, 3], [0.5, 4, -1]], np.float32)
    if pair[1] == "FeatureVectorizer":
        yield made(pair, [x, x[:, :1]], [(F32, 2)], {"inputdimensions": [3, 1]}, expected=[np.concatenate([x, x[:, :1]], 1)])
    elif pair[1] == "Imputer":
        yield made(pair, [x], [(F32, 2)], {"imputed_value_floats": [9.0, 8.0, 7.0], "replaced_value_float": -2.0}, expected=[np.where(x == -2, np.float32(8), x)])
    elif pair[1] == "Normalizer":
        for norm, size in (("MAX", x.max(1)), ("L1", np.abs(x).sum(1)), ("L2", np.sqrt((x * x).sum(1)))):
            yield made(pair, [x], [(F32, 2)], {"norm": norm}, expected=[x / size[:, None]], name=norm)
    elif pair[1] == "OneHotEncoder":
        yield made(pair, [np.array([3, 1, 4])], [(F32, 2)], {"cats_int64s": [1, 2, 3]}, expected=[np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)])
    elif pair[1] == "Scaler":
        yield made(pair, [x], [(F32, 2)], {"offset": [1.0, 0.0, -1.0], "scale": [2.0, 3.0, 0.5]}, expected=[((x - [1, 0, -1]) * [2, 3, 0.5]).astype(np.float32)])
    elif pair[1] == "Binarizer":
        yield made(pair, [x], [(F32, 2)], {"threshold": 1.0}, expected=[(x > 1).astype(np.float32)])
    else:
        yield made(pair, [x, np.array([2, 0])], [(F32, 2)], {}, expected=[x[:, [2, 0]]])


@cases("LinearClassifier", "LinearRegressor", domain=ML)
def linear(pair: Pair) -> Cases:
    """Three classes by softmax; two targets."""
    x, w = noise(4, 2), noise(3, 2, seed=1)
    if pair[1] == "LinearRegressor":
        yield made(pair, [x], [(F32, 2)], {"coefficients": w[:2].ravel().tolist(), "intercepts": [0.5, -1.0], "targets": 2}, expected=[x @ w[:2].T + np.array([0.5, -1], np.float32)])
        return
    scores = x @ w.T + np.array([0.1, 0.2, 0.3], np.float32)
    attributes = {"coefficients": w.ravel().tolist(), "intercepts": [0.1, 0.2, 0.3], "classlabels_ints": [10, 20, 30], "multi_class": 1}
    yield made(pair, [x], [(I64, 1), (F32, 2)], attributes, expected=[np.array([10, 20, 30])[scores.argmax(1)], scores])
    softmax = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    yield made(pair, [x], [(I64, 1), (F32, 2)], {**attributes, "post_transform": "SOFTMAX"}, expected=[np.array([10, 20, 30])[scores.argmax(1)], softmax], name="softmax")


@cases("SVMClassifier", "SVMRegressor", domain=ML)
def svm(pair: Pair) -> Cases:
    """RBF kernel; three support vectors."""
    x, vectors, weights = noise(4, 2), noise(3, 2, seed=1), [0.5, -1.0, 0.75]
    kernel = np.exp(-0.5 * ((x[:, None] - vectors[None]) ** 2).sum(-1))
    attributes: dict[str, Any] = {"kernel_type": "RBF", "kernel_params": [0.5, 0.0, 3.0], "support_vectors": vectors.ravel().tolist(), "coefficients": weights, "rho": [0.25]}
    if pair[1] == "SVMRegressor":
        yield made(pair, [x], [(F32, 2)], {**attributes, "n_supports": 3}, expected=[(kernel @ np.array(weights, np.float32) + 0.25)[:, None].astype(np.float32)])
    else:
        yield made(pair, [x], [(I64, 1), (F32, 2)], {**attributes, "vectors_per_class": [2, 1], "classlabels_ints": [0, 1]})


TREE: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1], "nodes_nodeids": [0, 1, 2, 0, 1, 2], "nodes_featureids": [0, 0, 0, 1, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
    "nodes_truenodeids": [1, 0, 0, 1, 0, 0], "nodes_falsenodeids": [2, 0, 0, 2, 0, 0], "nodes_missing_value_tracks_true": [0] * 6}
THRESHOLDS, WEIGHTS = [0.25, 0.0, 0.0, -0.5, 0.0, 0.0], [1.0, 2.0, 4.0, 8.0]


@cases("TreeEnsembleClassifier", "TreeEnsembleRegressor", domain=ML)
def trees(pair: Pair) -> Cases:
    """Two stumps; from version 3 the numbers may be double tensors."""
    kind = "class" if pair[1] == "TreeEnsembleClassifier" else "target"
    classes = [0, 1, 2, 1]  # of the four leaves; three classes, as onnxruntime answers two with labels of its own
    leaves = {f"{kind}_treeids": [0, 0, 1, 1], f"{kind}_nodeids": [1, 2, 1, 2], f"{kind}_ids": classes if kind == "class" else [0] * 4}
    numbers = {"nodes_values": THRESHOLDS, f"{kind}_weights": WEIGHTS}
    more: dict[str, Any] = {"classlabels_int64s": [5, 6, 7]} if kind == "class" else {"n_targets": 1}
    x = noise(6, 2)
    scores = np.zeros((6, 3), np.float32)
    for row, leaf in enumerate(np.stack([np.where(x[:, 0] <= 0.25, 0, 1), np.where(x[:, 1] <= -0.5, 2, 3)], 1)):
        for k in leaf:
            scores[row, classes[k]] += WEIGHTS[k]
    expected = [np.array([5, 6, 7])[scores.argmax(1)], scores] if kind == "class" else [scores.sum(1, keepdims=True)]
    outputs = [(I64, 1), (F32, 2)] if kind == "class" else [(F32, 2)]
    yield made(pair, [x], outputs, {**TREE, **leaves, **numbers, **more}, expected=expected)
    if pair[2] == 3:
        doubles = {f"{name}_as_tensor": numpy_helper.from_array(np.array(values)) for name, values in numbers.items()}
        if kind == "class":
            yield made(pair, [x.astype(np.float64)], outputs, {**TREE, **leaves, **doubles, **more}, expected=expected, name="double")
        else:
            yield made(pair, [x.astype(np.float64)], [(F32, 2)], {**TREE, **leaves, **doubles, **more}, expected=expected, name="double")

