"""ai.onnx.ml: whole scikit-learn models converted by skl2onnx, and single operators with random attributes, against onnxruntime; the specification where onnxruntime departs from it."""
from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sardonyx.converter.onnx import load_model
from sardonyx.dim import symbol
from sardonyx.errors import InvalidGraph
from sardonyx.ops import lookup
from sardonyx.plan.shapes import infer_shapes
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.reference import ReferenceProvider
from sardonyx.types import DType, MapType, SequenceType, TensorType
from skl2onnx import to_onnx
from sklearn.base import is_classifier
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import ExtraTreesClassifier, GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import Binarizer, KBinsDiscretizer, MinMaxScaler, Normalizer, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.patience import least

ML = "ai.onnx.ml"
F = np.float32
onnxruntime.set_default_logger_severity(4)


def op(name: str, *inputs: Any, **attributes: Any) -> Any:
    """The operator's body."""
    with np.errstate(all="ignore"):
        return lookup(ML, name)(*inputs, **attributes)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Import, infer (outputs must agree with what was inferred), run."""
    ours = load_model(model)
    infer_shapes(ours)
    made = ReferenceProvider().compile(ours, {}).run([feeds[v.name] for v in ours.graph.inputs], range(len(ours.graph.outputs)), RunContext())
    for value, array in zip(ours.graph.outputs, made, strict=True):
        if isinstance(array, np.ndarray):
            assert value.dtype == DType.of(array)
            if value.shape is not None:
                assert len(value.shape) == array.ndim and all(not isinstance(d, int) or d == n for d, n in zip(value.shape, array.shape, strict=True))
        else:
            assert isinstance(value.type, SequenceType)
    on_engine(ours, feeds, made)
    return made


#: Operators with numbers alone that the engine has no kernels for, and why.
HOST = {"Scan": "no kernels", "SVMClassifier": "coupled by iterating", "OneHotEncoder": "unknown category is an error"}


def on_engine(model: Any, feeds: dict[str, Any], wanted: list[Any], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """The same on the C engine; what runs on the host there has strings or maps, or is listed."""
    executor = EngineExecutor(model, threads=1)
    made = executor.run([feeds[v.name] for v in model.graph.inputs], range(len(wanted)), RunContext())
    for node, why in executor.latest.fallbacks.items():
        assert "string" in why or lookup(node.domain, node.op_type).host_only or HOST.get(node.op_type, "?") in why, why
    for a, b in zip(made, wanted, strict=True):
        if isinstance(b, np.ndarray) and b.dtype.kind == "f":
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        elif isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
    executor.close()


def expected(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds))


def check(model: onnx.ModelProto, feeds: dict[str, Any], rtol: float = 1e-4, atol: float = 1e-5) -> list[Any]:
    made = run(model, feeds)
    for a, b in zip(made, expected(model, feeds), strict=True):
        if isinstance(b, list):
            assert [list(m) for m in a] == [list(m) for m in b]  # keys, in order
            np.testing.assert_allclose([list(m.values()) for m in a], [list(m.values()) for m in b], rtol=rtol, atol=atol)
            continue
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, a.shape, b.dtype, b.shape)
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(a, b)
    return made


def single(name: str, inputs: list[np.ndarray], outputs: list[int], domain_version: int = 3, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one ai.onnx.ml node, and its feeds."""
    def kind(x: np.ndarray) -> int:
        return TensorProto.STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    names = [f"i{k}" for k in range(len(inputs))]
    node = helper.make_node(name, names, [f"o{k}" for k in range(len(outputs))], domain=ML, **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, kind(x), [None] * x.ndim) for n, x in zip(names, inputs, strict=True)],
                              [helper.make_tensor_value_info(f"o{k}", t, None) for k, t in enumerate(outputs)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(ML, domain_version)], ir_version=10)
    return model, dict(zip(names, inputs, strict=True))


def check_single(name: str, inputs: list[np.ndarray], outputs: list[int], domain_version: int = 3, **attributes: Any) -> list[Any]:
    return check(*single(name, inputs, outputs, domain_version, **attributes))


# -- scikit-learn models -----------------------------------------------------------------------------------------------------------------------

CLASSIFIERS = [
    DecisionTreeClassifier(max_depth=5, random_state=0), RandomForestClassifier(10, max_depth=6, random_state=0), ExtraTreesClassifier(10, max_depth=6, random_state=0),
    GradientBoostingClassifier(n_estimators=8, random_state=0), LogisticRegression(), OneVsRestClassifier(LogisticRegression()),
    SGDClassifier(loss="log_loss", random_state=0), LinearSVC(random_state=0), KNeighborsClassifier(3),
    *(SVC(kernel=k, probability=p, random_state=0, gamma=0.1, coef0=0.3, degree=d) for k, d in (("linear", 3), ("poly", 2), ("poly", 3), ("rbf", 3), ("sigmoid", 3)) for p in (False, True)),
    NuSVC(probability=True, random_state=0, nu=0.3),
]


def name_of(model: Any) -> str:
    return f"{type(model).__name__}-{getattr(model, 'kernel', '')}-{getattr(model, 'probability', '')}-{getattr(model, 'degree', '')}"


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=name_of)
def test_classifiers(model: Any, classes: int) -> None:
    X, y = make_classification(240, 8, n_informative=6, n_classes=classes, random_state=classes)
    X = X.astype(F)
    model.fit(X[:120], y[:120] * 3 + 5)
    converted = to_onnx(model, X[:1], options=None if isinstance(model, LinearSVC) else {"zipmap": False})
    labels = check(converted, {"X": X[120:]}, rtol=2e-3, atol=1e-4 if "probability" in vars(model) else 1e-5)[0]
    assert (labels == model.predict(X[120:])).mean() > 0.95  # skl2onnx computes in float32, and SGD's scores are often close


def test_string_labels_and_zipmap() -> None:
    X, y = make_classification(200, 8, n_informative=6, n_classes=3, random_state=1)
    X, names = X.astype(F), np.array(["zebra", "ant", "mole"])[y]
    for model in (RandomForestClassifier(5, random_state=0), LogisticRegression(), SVC(probability=True, random_state=0)):
        labels, scores = check(to_onnx(model.fit(X[:150], names[:150]), X[:1]), {"X": X[150:]}, rtol=2e-3, atol=1e-4)
        assert labels.dtype == object and set(scores[0]) == {"zebra", "ant", "mole"} and type(scores[0]["ant"]) is float


@pytest.mark.parametrize("model", [RandomForestClassifier(9, max_depth=4, random_state=0), GradientBoostingClassifier(n_estimators=5, random_state=0), LogisticRegression(), SVC()],
                         ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_models_with_string_labels_have_kernels(model: Any, classes: int) -> None:
    """Only the words of the answer are the host's."""
    X, y = make_classification(60, 6, n_informative=4, n_classes=classes, random_state=2)
    X = X.astype(F)
    fitted = model.fit(X, np.array(["cat", "dog", "emu"])[y])
    proto = to_onnx(fitted, X[:1], options={"zipmap": False})
    executor = EngineExecutor(load_model(proto), threads=1)
    made = executor.run([X], [0, 1], RunContext())
    want = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"X": X})
    assert list(made[0]) == list(want[0])
    np.testing.assert_allclose(made[1], want[1], rtol=1e-4, atol=1e-5)
    assert {n.op_type for n in executor.latest.fallbacks} <= {"LabelEncoder", "ArrayFeatureExtractor", "Cast", "Reshape", "Identity"}
    assert all("string" in why for why in executor.latest.fallbacks.values()), executor.latest.fallbacks


@pytest.mark.parametrize("model", [
    DecisionTreeRegressor(max_depth=5), RandomForestRegressor(10, max_depth=6, random_state=0), GradientBoostingRegressor(n_estimators=8, random_state=0), LinearRegression(), Ridge(),
    *(SVR(kernel=k, gamma=0.1, coef0=0.2) for k in ("linear", "poly", "rbf", "sigmoid")), OneClassSVM(gamma=0.05, nu=0.3),
], ids=name_of)
def test_regressors(model: Any) -> None:
    X, y = make_regression(200, 6, noise=5, random_state=0)
    X = X.astype(F)
    model.fit(X[:100], y[:100] / 50)
    check(to_onnx(model, X[:1]), {"X": X[100:]}, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("targets", [2, 5])
def test_several_targets(targets: int) -> None:
    X, y = make_regression(200, 6, n_targets=targets, noise=5, random_state=0)
    X = X.astype(F)
    for model in (LinearRegression(), RandomForestRegressor(5, max_depth=4, random_state=0)):
        made = check(to_onnx(model.fit(X[:100], y[:100]), X[:1]), {"X": X[100:]}, rtol=1e-3, atol=1e-3)
        assert made[0].shape == (100, targets)


@pytest.mark.parametrize("pipeline", [
    make_pipeline(SimpleImputer(strategy="mean"), StandardScaler(), LogisticRegression()), make_pipeline(SimpleImputer(), RobustScaler(), Normalizer("l1"), SVC(random_state=0)),
    make_pipeline(SimpleImputer(strategy="median"), make_union(MinMaxScaler(), Normalizer("l2"), Binarizer(threshold=0.3)), RandomForestClassifier(5, random_state=0)),
    make_pipeline(SimpleImputer(), KBinsDiscretizer(4, encode="onehot-dense"), GradientBoostingRegressor(n_estimators=3, random_state=0)),
], ids=lambda p: "-".join(type(s).__name__ for _, s in p.steps))
def test_pipelines(pipeline: Any) -> None:
    X, y = make_classification(200, 6, n_informative=4, n_classes=3, random_state=0)
    X = X.astype(F)
    X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
    pipeline.fit(X[:120], y[:120])
    check(to_onnx(pipeline, X[:1], options={"zipmap": False} if is_classifier(pipeline) else None), {"X": X[120:]}, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["string", "integer"])
def test_categories(kind: str) -> None:
    rng = np.random.default_rng(0)
    X: Any = rng.integers(0, 4, (60, 3))
    X = np.array(["red", "green", "blue", "tan"], object)[X] if kind == "string" else X
    for encoder in (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), OrdinalEncoder()):
        converted = to_onnx(encoder.fit(X[:40]), X[:1])
        made, = check(converted, {"X": X[40:]})
        np.testing.assert_array_equal(made, encoder.transform(X[40:]))


def test_dictionaries() -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DictionaryType, FloatTensorType, StringTensorType
    rows = [{"a": 1.0, "b": 2.5}, {"b": 4.0, "c": -1.0}]
    vectorizer = DictVectorizer(sparse=False).fit(rows)
    converted = convert_sklearn(vectorizer, initial_types=[("x", DictionaryType(StringTensorType([1]), FloatTensorType([1])))])
    for row in rows:
        made, = check(converted, {"x": row})
        np.testing.assert_array_equal(made, vectorizer.transform([row]))


# -- tree operators ----------------------------------------------------------------------------------------------------------------------------

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def random_forest(rng: np.random.Generator, trees: int, features: int, ids: list[int], modes: list[str], prefix: str, all_ids: bool, low: float) -> dict[str, Any]:
    """Attributes of TreeEnsembleClassifier (prefix class) or -Regressor (target): random trees of depth ≤ 4 with thresholds from a small set, so that values meet them."""
    nodes: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    leaves: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, depth: int, counter: list[int]) -> int:
        node, at = counter[0], len(nodes["nodeids"])
        counter[0] += 1
        leaf = depth == 0 or (depth < 4 and rng.random() < 0.2)
        row = {"treeids": tree, "nodeids": node, "featureids": int(rng.integers(features)), "modes": "LEAF" if leaf else str(rng.choice(modes)),
               "values": float(rng.integers(-2, 3)), "truenodeids": 0, "falsenodeids": 0, "missing_value_tracks_true": int(rng.integers(2))}
        for k, v in row.items():
            nodes[k].append(v)
        if leaf:
            for i in ids if all_ids else [int(rng.choice(ids))]:
                for k, v in {"treeids": tree, "nodeids": node, "ids": i, "weights": float(F(rng.uniform(low, 1)))}.items():
                    leaves[k].append(v)
        else:
            nodes["truenodeids"][at] = grow(tree, depth - 1, counter)
            nodes["falsenodeids"][at] = grow(tree, depth - 1, counter)
        return node
    for tree in range(trees):
        grow(tree, 4, [0])
    return {**{f"nodes_{k}": v for k, v in nodes.items()}, **{f"{prefix}_{k}": v for k, v in leaves.items()}}


def tree_input(rng: np.random.Generator, features: int, nan: bool, dtype: Any = F) -> np.ndarray:
    X = rng.integers(-3, 4, (40, features)).astype(dtype)
    if nan:
        X[rng.random(X.shape) < 0.15] = np.nan
    return X


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["SUM", "AVERAGE", "MIN", "MAX"]), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]))
def test_tree_regressor(seed: int, aggregate: str, targets: int, base: bool, one_mode: bool, sparse: bool, transform: str) -> None:
    rng = np.random.default_rng(seed)
    # With NaN, NEQ follows the specification (missing_value_tracks_true) and not onnxruntime; see test_missing_values.
    modes = [MODES[int(rng.integers(5))]] if one_mode else MODES[:5]
    attributes = random_forest(rng, int(rng.integers(1, 8)), 4, list(range(targets)), modes, "target", not sparse, -1)
    if base and not sparse:  # onnxruntime forgets the base value of a target that no leaf of the row names
        attributes["base_values"] = rng.standard_normal(targets).astype(F).tolist()
    # With one target onnxruntime ignores every transform but PROBIT.
    check_single("TreeEnsembleRegressor", [tree_input(rng, 4, nan=True)], [TensorProto.FLOAT], n_targets=targets, aggregate_function=aggregate,
                 post_transform=transform if targets > 1 else "NONE", **attributes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["binary 0", "binary 1", "3", "5 sparse"]), st.sampled_from(["none", "one", "all"]), st.booleans(), st.booleans(),
       st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]))
def test_tree_classifier(seed: int, kind: str, base: str, positive: bool, strings: bool, transform: str) -> None:
    rng = np.random.default_rng(seed)
    classes = 2 if "binary" in kind else int(kind[0])
    ids = [int(kind[-1])] if "binary" in kind else list(range(classes))
    attributes = random_forest(rng, int(rng.integers(1, 8)), 4, ids, MODES, "class", kind != "5 sparse", 0 if positive else -1)
    if base == "one" and classes == 2:
        attributes["base_values"] = [0.125]
    elif base == "all" and classes > 2:
        attributes["base_values"] = rng.standard_normal(classes).astype(F).tolist()
    labels = {"classlabels_strings": list("vwxyz"[:classes])} if strings else {"classlabels_int64s": [7, 5, 3, 2, 1][:classes]}
    # Five classes and one tree: a class that no leaf of the row names has no score, and never wins, not even over negative ones.
    check_single("TreeEnsembleClassifier", [tree_input(rng, 4, nan=False)], [TensorProto.STRING if strings else TensorProto.INT64, TensorProto.FLOAT],
                 post_transform=transform, **attributes, **labels)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_tree_input_types_and_double_attributes(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    attributes = random_forest(rng, 5, 4, [0, 1, 2], MODES, "class", True, -1)
    X = tree_input(rng, 4, False, dtype)
    check_single("TreeEnsembleClassifier", [X], [TensorProto.INT64, TensorProto.FLOAT], classlabels_int64s=[4, 5, 6], **attributes)
    if dtype is np.float64:
        for name in ("nodes_values", "class_weights"):
            values = attributes.pop(name)
            attributes[f"{name}_as_tensor"] = helper.make_tensor(name, TensorProto.DOUBLE, [len(values)], np.array(values) + 1e-12)
        check_single("TreeEnsembleClassifier", [X], [TensorProto.INT64, TensorProto.FLOAT], classlabels_int64s=[4, 5, 6], **attributes)


def stump(weights: list[list[float]], **extra: Any) -> dict[str, Any]:
    """x ≤ 0.5 ? weights[0] : weights[1], one weight for each class."""
    count = len(weights[0])
    return {"nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"], "nodes_values": [0.5, 0.0, 0.0],
            "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "class_treeids": [0] * 2 * count, "class_nodeids": [1] * count + [2] * count,
            "class_ids": list(range(count)) * 2, "class_weights": [*weights[0], *weights[1]], **extra}


def test_two_classes_with_scores_of_their_own_follow_the_specification() -> None:
    # "Returns the top class" and "base values, added to final class score": onnxruntime answers 1 and 1 here, which are not labels of the model.
    X = np.array([[0], [1]], F)
    labels, scores = op("TreeEnsembleClassifier", X, classlabels_int64s=[5, 7], **stump([[0.25, 0.75], [0.75, 0.25]]))
    assert labels.tolist() == [7, 5] and scores.tolist() == [[0.25, 0.75], [0.75, 0.25]]
    labels, scores = op("TreeEnsembleClassifier", X, classlabels_int64s=[5, 7], base_values=[0.0, 1.0], **stump([[0.25, 0.75], [0.75, 0.25]]))
    assert labels.tolist() == [7, 7] and scores.tolist() == [[0.25, 1.75], [0.75, 1.25]]


def ensemble(modes: list[int], splits: list[float], dtype: Any = F, **extra: Any) -> dict[str, Any]:
    """TreeEnsemble: a chain; node k goes to leaf k where true, to node k + 1 (at last to leaf n) where false. Leaf k weighs k."""
    n = len(modes)
    return {"tree_roots": [0], "nodes_modes": np.array(modes, np.uint8), "nodes_splits": np.array(splits, dtype), "nodes_featureids": [0] * n, "nodes_trueleafs": [1] * n,
            "nodes_truenodeids": list(range(n)), "nodes_falseleafs": [0] * (n - 1) + [1], "nodes_falsenodeids": [*range(1, n), n], "leaf_targetids": [0] * (n + 1),
            "leaf_weights": np.arange(n + 1).astype(dtype), "n_targets": 1, **extra}


@pytest.mark.parametrize("dtype", [np.float16, F, np.float64])
def test_membership_sets(dtype: Any) -> None:
    nan = np.nan
    attributes = ensemble([6, 0, 6], [9, -5, 9], dtype, membership_values=np.array([3, 1, nan, 4, 1.5, 8, nan], dtype))
    X = np.array([[1], [3], [2], [4], [1.5], [8], [-6], [9], [nan]], dtype)
    made = op("TreeEnsemble", X, **attributes)
    assert made.dtype == dtype and made.ravel().tolist() == [0, 0, 3, 2, 2, 2, 1, 3, 3]
    tracked = op("TreeEnsemble", X[-1:], **attributes, nodes_missing_value_tracks_true=[0, 0, 1])
    assert tracked.item() == 2


@pytest.mark.parametrize("mode", range(7))
def test_missing_values(mode: int) -> None:
    for tracks, leaf in ((1, 0), (0, 1)):
        attributes = ensemble([mode], [0.0], membership_values=np.array([0.0], F))
        assert op("TreeEnsemble", np.array([[np.nan]], F), **attributes, nodes_missing_value_tracks_true=[tracks]).item() == leaf


def test_tree_transforms_of_one_target_follow_the_specification() -> None:
    attributes = ensemble([0], [0.5])
    X = np.array([[0], [1]], F)
    np.testing.assert_allclose(op("TreeEnsemble", X, **attributes, post_transform=2).ravel(), [0.5, 1 / (1 + np.exp(-1))], rtol=1e-6)
    assert op("TreeEnsemble", X, **attributes, post_transform=1).tolist() == [[1], [1]]


def test_ensemble_of_version_5_is_that_of_version_3() -> None:
    X, y = make_regression(400, 6, n_targets=2, random_state=3)
    X = X.astype(F)
    model = RandomForestRegressor(7, max_depth=6, random_state=0).fit(X[:200], y[:200])
    old = {a.name: helper.get_attribute_value(a) for a in to_onnx(model, X[:1]).graph.node[0].attribute}
    position = {(t, n): i for i, (t, n) in enumerate(zip(old["nodes_treeids"], old["nodes_nodeids"], strict=True))}
    inner = [i for i, m in enumerate(old["nodes_modes"]) if m != b"LEAF"]
    rank = {node: k for k, node in enumerate(inner)}
    # Version 5 has one target a leaf, so each target has trees of its own.
    nodes: dict[str, list[Any]] = {k: [] for k in ("features", "splits", "true", "false", "true_leaf", "false_leaf")}
    leaves: list[tuple[int, float]] = []
    roots: list[int] = []
    for target in range(2):
        weight = {position[t, n]: w for t, n, k, w in zip(old["target_treeids"], old["target_nodeids"], old["target_ids"], old["target_weights"], strict=True) if k == target}
        first = target * len(inner)
        roots += [first + rank[position[t, 0]] for t in sorted(set(old["nodes_treeids"]))]
        for i in inner:
            nodes["features"].append(old["nodes_featureids"][i])
            nodes["splits"].append(old["nodes_values"][i])
            for branch in ("true", "false"):
                child = position[old["nodes_treeids"][i], old[f"nodes_{branch}nodeids"][i]]
                nodes[f"{branch}_leaf"].append(int(child not in rank))
                nodes[branch].append(first + rank[child] if child in rank else len(leaves))
                if child not in rank:
                    leaves.append((target, weight[child]))
    new = {"tree_roots": roots, "nodes_modes": np.zeros(len(inner) * 2, np.uint8), "nodes_splits": np.array(nodes["splits"], F), "nodes_featureids": nodes["features"],
           "nodes_trueleafs": nodes["true_leaf"], "nodes_truenodeids": nodes["true"], "nodes_falseleafs": nodes["false_leaf"], "nodes_falsenodeids": nodes["false"],
           "leaf_targetids": [t for t, _ in leaves], "leaf_weights": np.array([w for _, w in leaves], F), "n_targets": 2}
    made = op("TreeEnsemble", X[200:], **new)
    np.testing.assert_allclose(made, expected(to_onnx(model, X[:1]), {"X": X[200:]})[0], rtol=1e-4, atol=1e-3)
    tensors = {k: helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v) if isinstance(v, np.ndarray) else v for k, v in new.items()}
    check_single("TreeEnsemble", [X[200:]], [TensorProto.FLOAT], 5, **tensors)


def test_a_large_forest_is_quick() -> None:
    X, y = make_classification(2000, 20, n_informative=12, n_classes=5, random_state=0)
    X = X.astype(F)
    model = RandomForestClassifier(100, max_depth=8, random_state=0).fit(X[1000:], y[1000:])
    ours = ReferenceProvider().compile(load_model(to_onnx(model, X[:1], options={"zipmap": False})), {})
    ours.run([X[:1]], [0], RunContext())

    def seconds() -> float:
        start = time.process_time()  # the processor's: whatever else the machine does
        ours.run([X[:1000]], [0, 1], RunContext())
        return time.process_time() - start
    assert least(seconds, 1) < 1


def test_rows_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.ops import ml_trees
    rng = np.random.default_rng(0)
    attributes = random_forest(rng, 6, 4, [0, 1, 2], MODES, "target", True, -1)
    X = tree_input(rng, 4, nan=True)
    whole = op("TreeEnsembleRegressor", X, n_targets=3, **attributes)
    monkeypatch.setattr(ml_trees, "BLOCK", 20)
    np.testing.assert_array_equal(op("TreeEnsembleRegressor", X, n_targets=3, **attributes), whole)
    assert op("TreeEnsembleRegressor", X[:0], n_targets=3, **attributes).shape == (0, 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"nodes_truenodeids": [9, 0, 0]}, "does not exist"), ({"nodes_truenodeids": [0, 0, 0]}, "cycle"), ({"nodes_nodeids": [0, 1, 1]}, "appears twice"),
    ({"nodes_values": [0.5]}, "same length"), ({"nodes_modes": ["BRANCH_NO", "LEAF", "LEAF"]}, "BRANCH_NO"), ({"nodes_featureids": [3, 0, 0]}, "feature 3"),
    ({"class_ids": [0, 1, 0, 2]}, "target"), ({"class_nodeids": [1, 1, 2, 8]}, "does not exist"), ({"base_values": [1.0, 2.0, 3.0]}, "base_values"), ({"nodes_featureids": [-1, 0, 0]}, "negative"),
])
def test_wrong_trees_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        op("TreeEnsembleClassifier", np.zeros((2, 2), F), classlabels_int64s=[0, 1], **{**stump([[0.25, 0.75], [0.75, 0.25]]), **change})


# -- the other models --------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]), st.booleans(), st.sampled_from([F, np.float64, np.int64, np.int32]))
def test_linear_classifier(seed: int, scores: int, transform: str, strings: bool, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    classes = max(2, scores)
    X = (rng.standard_normal((15, 3)) * 3).astype(dtype)
    labels = {"classlabels_strings": list("vwxyz"[:classes])} if strings else {"classlabels_ints": [7, 5, 3, 2, 1][:classes]}
    check_single("LinearClassifier", [X], [TensorProto.STRING if strings else TensorProto.INT64, TensorProto.FLOAT], post_transform=transform,
                 coefficients=rng.standard_normal(3 * scores).tolist(), intercepts=rng.standard_normal(scores).tolist(), **labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]), st.sampled_from(["votes", "probabilities", "linear"]),
       st.sampled_from(["LINEAR", "POLY", "RBF", "SIGMOID"]))
def test_svm_classifier(seed: int, classes: int, transform: str, kind: str, kernel: str) -> None:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((15, 3)).astype(F)
    per_class, pairs = [int(v) for v in rng.integers(1, 4, classes)], classes * (classes - 1) // 2
    attributes = {"rho": rng.standard_normal(pairs).tolist(), "kernel_params": [0.5, 0.25, 2.0], "kernel_type": kernel, "post_transform": transform, "classlabels_ints": list(range(3, 3 + classes))}
    if kind == "linear":
        attributes |= {"coefficients": rng.standard_normal(classes * 3).tolist(), "kernel_type": "LINEAR"}
    else:
        attributes |= {"vectors_per_class": per_class, "support_vectors": rng.standard_normal(sum(per_class) * 3).tolist(),
                       "coefficients": rng.standard_normal((classes - 1) * sum(per_class)).tolist()}
    if kind == "probabilities":
        attributes |= {"prob_a": (-rng.uniform(0.5, 2, pairs)).tolist(), "prob_b": rng.standard_normal(pairs).tolist()}
    check_single("SVMClassifier", [X], [TensorProto.INT64, TensorProto.FLOAT], **attributes)


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_regression_transforms(transform: str) -> None:
    rng = np.random.default_rng(0)
    check_single("LinearRegressor", [rng.uniform(0.1, 0.3, (9, 2)).astype(F)], [TensorProto.FLOAT], coefficients=rng.uniform(0.5, 1, 6).tolist(), intercepts=[0.0, 0.1, 0.2], targets=3,
                 post_transform=transform)
    # One target: the specification applies the transform, onnxruntime only PROBIT.
    made = op("LinearRegressor", np.array([[0.25]], F), coefficients=[1.0], post_transform=transform)
    np.testing.assert_allclose(made, {"LOGISTIC": 0.5621765, "SOFTMAX": 1, "SOFTMAX_ZERO": 1, "PROBIT": -0.6744898}[transform], rtol=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([F, np.float64, np.int64, np.int32]), st.booleans())
def test_feature_operators(seed: int, dtype: Any, row: bool) -> None:
    rng = np.random.default_rng(seed)
    X = (rng.integers(-3, 4, 4 if row else (6, 4)) * (1.5 if np.dtype(dtype).kind == "f" else 1)).astype(dtype)
    out = [TensorProto.FLOAT]
    for norm in ("MAX", "L1", "L2"):
        check_single("Normalizer", [X], out, norm=norm)
    for size in (1, 4):
        check_single("Scaler", [X], out, offset=rng.standard_normal(size).tolist(), scale=rng.standard_normal(size).tolist())
    check_single("FeatureVectorizer", [X, X], out, inputdimensions=[3, 5])
    check_single("ArrayFeatureExtractor", [X, rng.integers(0, 4, (1, 3))], [helper.np_dtype_to_tensor_dtype(X.dtype)])
    if dtype in (F, np.int64):
        check_single("Imputer", [X], [helper.np_dtype_to_tensor_dtype(X.dtype)], **({"replaced_value_float": 3.0, "imputed_value_floats": [0.5, 1.5, 2.5, 3.5]} if dtype is F else
                                                                                   {"replaced_value_int64": 2, "imputed_value_int64s": [9]}))
    if dtype is F:
        check_single("Binarizer", [X], out, threshold=1.5)
    if dtype is not np.int32:
        check_single("OneHotEncoder", [X], out, cats_int64s=[3, 0, -1], zeros=1)


def test_imputer_of_nan_and_of_the_types_onnxruntime_lacks() -> None:
    X = np.array([[np.nan, 1], [2, np.nan]])
    assert op("Imputer", X.astype(F), replaced_value_float=np.nan, imputed_value_floats=[5.0, 6.0]).tolist() == [[5, 1], [2, 6]]
    made = op("Imputer", X, replaced_value_float=2.0, imputed_value_floats=[7.0])
    assert made.dtype == np.float64 and made[1, 0] == 7 and np.isnan(made[0, 0])
    assert op("Imputer", np.array([1, 0], np.int32), imputed_value_int64s=[4]).tolist() == [1, 4]
    with pytest.raises(InvalidGraph, match="imputed_value_floats"):
        op("Imputer", X, imputed_value_int64s=[4])


def test_label_encoder() -> None:
    strings = np.array([["a", "x"], ["b", "a"]], object)
    check_single("LabelEncoder", [strings], [TensorProto.INT64], keys_strings=["a", "b"], values_int64s=[4, 5])
    check_single("LabelEncoder", [strings], [TensorProto.FLOAT], keys_strings=["a", "b"], values_floats=[4.5, 5.5], default_float=1.5)
    check_single("LabelEncoder", [np.array([3, 1, 2])], [TensorProto.STRING], keys_int64s=[1, 2], values_strings=["one", "two"])
    check_single("LabelEncoder", [np.array([0.5, 1.5], F)], [TensorProto.STRING], keys_floats=[0.5], values_strings=["half"], default_string="?")
    check_single("LabelEncoder", [np.array([9, 1, 2])], [TensorProto.STRING], 1, classes_strings=["zero", "one", "two"])
    # The specification: of equal keys the last counts, NaN finds NaN. (onnxruntime: the first; not.)
    assert op("LabelEncoder", np.array([1, 2]), keys_int64s=[1, 2, 1], values_int64s=[10, 20, 30]).tolist() == [30, 20]
    assert op("LabelEncoder", np.array([np.nan, 1], F), keys_floats=[np.nan, 1.0], values_strings=["nan", "one"]).tolist() == ["nan", "one"]
    made = op("LabelEncoder", np.array([1.0, 7.0]), keys_tensor=np.array([7.0]), values_tensor=np.array([3], np.int16), default_tensor=np.array([-2], np.int16))
    assert made.dtype == np.int16 and made.tolist() == [-2, 3]
    made = op("LabelEncoder", np.array([1, 2]), keys_int64s=[2], values_floats=[0.5])
    assert made.dtype == F and np.signbit(made[0]) and made.tolist() == [0, 0.5]


def test_category_mapper() -> None:
    cats = {"cats_int64s": [3, 1, 2], "cats_strings": ["three", "one", "two"]}
    check_single("CategoryMapper", [np.array([1, 2, 9])], [TensorProto.STRING], default_string="?", **cats)
    check_single("CategoryMapper", [np.array([["one"], ["?"]], object)], [TensorProto.INT64], default_int64=-7, **cats)


def test_unknown_category_is_an_error_where_the_model_says_so() -> None:
    with pytest.raises(InvalidGraph, match="category"):
        op("OneHotEncoder", np.array([1, 2]), cats_int64s=[1], zeros=0)


@pytest.mark.parametrize("form", ["DENSE", "SPARSE"])
@pytest.mark.parametrize(("to", "kind"), [("TO_FLOAT", TensorProto.FLOAT), ("TO_INT64", TensorProto.INT64), ("TO_STRING", TensorProto.STRING)])
def test_cast_map(form: str, to: str, kind: int) -> None:
    node = helper.make_node("CastMap", ["x"], ["y"], domain=ML, cast_to=to, map_form=form, max_map=5)
    info = helper.make_value_info("x", helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    graph = helper.make_graph([node], "g", [info], [helper.make_tensor_value_info("y", kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(ML, 3)], ir_version=10)
    check(model, {"x": {3: 1.5, 1: 2.25}})


@pytest.mark.parametrize("keys", [[5], [-1, 2]])
def test_sparse_map_beyond_its_bounds(keys: list[int]) -> None:
    with pytest.raises(InvalidGraph, match="max_map"):
        op("CastMap", dict.fromkeys(keys, 1.0), map_form="SPARSE", max_map=5)


def test_types_of_maps() -> None:
    graph = load_model(single("ZipMap", [np.zeros((2, 2), F)], [TensorProto.FLOAT], classlabels_strings=["b", "a"])[0]).graph
    graph.outputs[0].type = None
    graph.inputs[0].type = TensorType(DType.FLOAT, (symbol("n"), 2))
    infer_shapes(graph)
    assert graph.outputs[0].type == SequenceType(MapType(DType.STRING, TensorType(DType.FLOAT, ())))
    with pytest.raises(InvalidGraph, match="column"):
        op("ZipMap", np.zeros((2, 3), F), classlabels_strings=["b", "a"])
