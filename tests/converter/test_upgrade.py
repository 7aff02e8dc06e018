"""Opset upgrading: every (operator, since_version) against onnx.reference, onnxruntime or NumPy; and what `upgrade_graph` promises besides."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import defs, parser  # noqa: E402
from sardonyx import errors  # noqa: E402
from sardonyx.converter.onnx import load_model  # noqa: E402
from sardonyx.converter.upgrade import ADAPTERS, upgrade_graph  # noqa: E402
from sardonyx.graph import OPSETS, Graph, Node, Value  # noqa: E402
from sardonyx.types import DType, TensorType  # noqa: E402

from .version_cases import PEERS, Pair, VersionCase, accepted, all_cases, by_onnxruntime, by_sardonyx, finish_model, made, pairs, same, unranked  # noqa: E402

#: Where a peer is known to compute something else than the version's document says, and why it is not followed. Another peer or NumPy confirms each such case.
PEER_DIFFERS = {
    ("AveragePool", "onnx.reference"): "below 7 it divides by the whole window, padding included",
    ("BatchNormalization", "onnx.reference"): "version 9: mixes running and batch statistics in test mode",
    ("BatchNormalization", "onnxruntime"): "versions 7 and 9 in training mode: leaves the running statistics unset",
    ("Constant", "onnx.reference"): "an optional's element is a list",
    ("DictVectorizer", "onnx.reference"): "float64 from float values",
    ("Dropout", "onnx.reference"): "version 7: a bool mask, which is of the data's type by the schema",
    ("Dropout", "onnxruntime"): "versions 7 and 10: an all-false mask of what is kept",
    ("Hardmax", "onnx.reference"): "below 13 it does not coerce to 2-D",
    ("If", "onnx.reference"): "Softmax in the branch: below 13 it does not coerce to 2-D; an optional's element is a list",
    ("LogSoftmax", "onnx.reference"): "below 13 it does not coerce to 2-D",
    ("MaxPool", "onnx.reference"): "auto_pad SAME_LOWER: rounds the output size down",
    ("MaxUnpool", "onnxruntime"): "does not spread indices over a given output shape",
    ("Optional", "onnx.reference"): "an optional's element is a list",
    ("OptionalGetElement", "onnx.reference"): "an optional's element is a list",
    ("RoiAlign", "onnx.reference"): "version 10: shifts by half a pixel",
    ("Selu", "onnx.reference"): "version 1: the defaults of version 6",
    ("Softmax", "onnx.reference"): "below 13 it does not coerce to 2-D",
    ("Unsqueeze", "onnx.reference"): "below 13 with axes out of order: inserts one after the other",
}
differing: set[tuple[str, str]] = set()


def label(pair: Pair) -> str:
    """`Softmax-11`, `ml.Scaler-1`."""
    return f"{'ml.' if pair[0] else ''}{pair[1]}-{pair[2]}"


def difference(outputs: list[Any], expected: list[Any], case: VersionCase) -> str:
    """Empty where the outputs are as expected."""
    try:
        assert len(outputs) == len(expected), f"{len(outputs)} outputs, expected {len(expected)}"
        for got, want in zip(outputs, expected, strict=True):
            same(got, want, case)
    except AssertionError as error:
        return str(error).strip() or "differs"
    return ""


def confirm(pair: Pair, case: VersionCase, outputs: list[Any]) -> None:
    """Fail unless the outputs are what is expected, or, where nothing was written down, what a peer or (without one) the backend suite says."""
    if case.check is not None:
        case.check(outputs)
        return
    if case.expected is not None:
        assert not difference(outputs, case.expected, case), difference(outputs, case.expected, case)
    confirmed = case.expected is not None
    for peer, run in PEERS.items():
        try:
            expected = run(case)
        except Exception:  # the peer does not have this version
            continue
        why = difference(outputs, expected, case)
        assert not why or (pair[1], peer) in PEER_DIFFERS, f"{peer}: {why}"
        confirmed |= not why
        if why:
            differing.add((pair[1], peer))
    if not confirmed:
        assert case.stored is not None, "neither peer has this version: write down what is expected"
        assert not difference(outputs, case.stored, case), difference(outputs, case.stored, case)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pair", pairs(), ids=label)
def test_version(pair: Pair) -> None:
    """At least one model at an opset where exactly this version is in force computes what it should; where there are adapters, also with no rank known."""
    found = all_cases(pair)
    assert found, "no case: write one in version_hand.py or version_graphs.py"
    adapted = any(version > pair[2] for version, _ in ADAPTERS.get(pair[:2], []))
    for case in found:
        if not accepted(case.model):
            assert defs.get_schema(pair[1], pair[2], pair[0]).deprecated, f"{case.name}: onnx.checker rejects the model"
        outputs = by_sardonyx(case)
        try:
            confirm(pair, case, outputs)
            if adapted and case.check is None:
                same(by_sardonyx(unranked(case)), outputs, case)
        except AssertionError as error:
            raise AssertionError(f"{label(pair)}, case {case.name}: {error}") from None


def test_every_adapter_is_for_a_version() -> None:
    """An adapter's version is one at which the operator changed."""
    known = {(d, n): {v for dd, nn, v in pairs() if (dd, nn) == (d, n)} for d, n, _ in pairs()}
    for key, entries in ADAPTERS.items():
        for version, function in entries:
            assert function.__module__.endswith(".experimental") or version in known[key], f"{key} did not change at {version}"


def test_excuses_are_used() -> None:
    """The table of differing peers has no entry that is no longer true (checked where all versions were run before)."""
    if len(differing) > 5:
        assert differing == set(PEER_DIFFERS)


EXPERIMENTAL: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"alpha": 2.0, "beta": 1.0}), ("Scale", {"scale": 3.0}), ("ImageScaler", {"scale": 2.0, "bias": [1.0, -1.0]}), ("ParametricSoftplus", {"alpha": 2.0, "beta": 0.5}),
    ("ScaledTanh", {"alpha": 2.0, "beta": 0.5}), ("Crop", {"border": [1, 0, 1, 1]}), ("Crop", {"border": [1, 1, 0, 0], "scale": [2, 2]}), ("Crop", {"border": [0, 0, 0, 0]}),
    ("ThresholdedRelu", {"alpha": 0.5}), ("MeanVarianceNormalization", {}), ("MeanVarianceNormalization", {"across_channels": 1}), ("MeanVarianceNormalization", {"normalize_variance": 0})]


@pytest.mark.parametrize(("op_type", "attributes"), EXPERIMENTAL)
def test_experimental_operator(op_type: str, attributes: dict[str, Any]) -> None:
    """What ONNX never made official, as onnxruntime runs it."""
    case = made(("", op_type, 7), [np.linspace(-2, 3, 48).astype(np.float32).reshape(2, 2, 3, 4)], [(1, 4)], attributes)
    same(by_sardonyx(case), by_onnxruntime(case), case)


# -- what upgrade_graph promises ----------------------------------------------------------------------------------------------------------------

def graph_of(op_type: str, *types: TensorType | None, domain: str = "", **attributes: Any) -> Graph:
    """A graph of one node named `n`."""
    graph = Graph("g", [Value(f"x{i}", t) for i, t in enumerate(types)])
    graph.nodes = [Node(op_type, graph.inputs, [Value("y")], attributes, domain=domain, name="n")]
    graph.outputs = [graph.nodes[0].outputs[0]]
    return graph


FLOAT = TensorType(DType.FLOAT, (2, 3))


def test_canonical_graph_is_left_alone() -> None:
    """Nothing to do at the canonical opset."""
    graph = graph_of("Softmax", FLOAT)
    node = graph.nodes[0]
    upgrade_graph(graph, OPSETS)
    assert graph.nodes == [node] and node.attributes == {}


def test_names_and_origins_stay() -> None:
    """The node's output keeps its Value and name; every new node comes from the model's node."""
    graph = graph_of("Softmax", TensorType(DType.FLOAT, (2, 3, 4)))
    output = graph.outputs[0]
    upgrade_graph(graph, {"ai.onnx": 11})
    graph.verify()
    assert [n.op_type for n in graph.nodes] == ["Flatten", "Shape", "Softmax", "Reshape"]
    assert graph.outputs == [output] and output.name == "y" and output.producer is graph.nodes[-1]
    assert all(n.origin == ("n",) for n in graph.nodes)
    assert len({v.name for n in graph.nodes for v in n.outputs if v is not None}) == 4


@pytest.mark.parametrize(("shape", "expected"), [((2, 3), ["Softmax"]), ((2, 3, 1, 1), ["Softmax"]), (None, ["Flatten", "Shape", "Softmax", "Reshape"])])
def test_softmax_stays_one_node_where_it_can(shape: Any, expected: list[str]) -> None:
    """Where the flattened part is one axis."""
    graph = graph_of("Softmax", TensorType(DType.FLOAT, shape))
    upgrade_graph(graph, {"": 9})
    assert [n.op_type for n in graph.nodes] == expected


def test_ranks_are_inferred_through_the_graph() -> None:
    """Only the input has a shape; the rank of the Softmax's input follows."""
    text = "agraph (float[n, 4] x, float[4, 5] w) => (float[n, 5] y) { a = MatMul (x, w) b = Relu (a) y = Softmax (b) }"
    model = load_model(finish_model(parser.parse_graph(text), "", 11))
    assert [n.op_type for n in model.graph.nodes] == ["MatMul", "Relu", "Softmax"]


def test_unknown_type_is_found_at_run_time() -> None:
    """A bound of Clip takes the type of the data where that is not known."""
    graph = graph_of("Clip", None, min=0.5)
    upgrade_graph(graph, {"": 6})
    assert [n.op_type for n in graph.nodes] == ["CastLike", "Clip"]


@pytest.mark.parametrize("opsets", [{"": 29}, {"": 0}, {"ai.onnx.ml": 6}])
def test_opset_out_of_range(opsets: dict[str, int]) -> None:
    """The message says what there is."""
    with pytest.raises(errors.NotImplemented, match="this version of sardonyx has 1 to"):
        upgrade_graph(graph_of("Relu", FLOAT), opsets)


def test_missing_attribute_is_named() -> None:
    """An attribute that the old version requires."""
    with pytest.raises(errors.InvalidGraph, match="TopK 'n'.*'k'"):
        upgrade_graph(graph_of("TopK", FLOAT), {"": 1})


def test_mode_that_nothing_replaces() -> None:
    """Resize 11's tf_half_pixel_for_nn with a rounding that no later mode gives."""
    graph = graph_of("Resize", FLOAT, FLOAT, FLOAT, coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil")
    with pytest.raises(errors.NotImplemented, match="opset 13"):
        upgrade_graph(graph, {"": 11})


def test_retired_operator_in_a_newer_model() -> None:
    """Upsample at opset 18 is not valid, but exists."""
    graph = graph_of("Upsample", TensorType(DType.FLOAT, (1, 1, 2, 2)), TensorType(DType.FLOAT, (4,)))
    upgrade_graph(graph, {"": 18})
    assert graph.nodes[0].op_type == "Resize" and graph.nodes[0].inputs[1] is None
    assert graph.nodes[0].attributes == {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}


def test_mixed_nearest_scales() -> None:
    """Resize 10 rounds up where it shrinks and down where it enlarges: two nodes."""
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    text = "agraph (float[1, 1, 4, 4] x) => (float[1, 1, a, b] y) <float[4] s = {1, 1, 0.5, 2}> { y = Resize (x, s) }"
    case = VersionCase("mixed", finish_model(parser.parse_graph(text), "", 10), [x])
    np.testing.assert_array_equal(by_sardonyx(case)[0], x[:, :, ::2].repeat(2, 3))


def test_nested_graphs_and_captures() -> None:
    """A body two graphs deep that uses outer values."""
    text = """agraph (bool c, float[2, 3] x) => (float[2, 3] y) {
        y = If (c) <then_branch = t () => (float[2, 3] a) {
            a = If (c) <then_branch = tt () => (float[2, 3] aa) { m = ReduceMean <axes = [0]> (x) aa = Sub (x, m) }, else_branch = te () => (float[2, 3] ab) { ab = Identity (x) }> },
        else_branch = e () => (float[2, 3] b) { b = Identity (x) }> }"""
    x = np.array([[1, 2, 3], [5, 6, 9]], np.float32)
    case = VersionCase("nested", finish_model(parser.parse_graph(text), "", 11), [np.array(True), x])
    np.testing.assert_allclose(by_sardonyx(case)[0], x - x.mean(axis=0))
