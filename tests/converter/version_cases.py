"""For every (operator, since_version) of ONNX: models that use the operator at an opset where exactly that version is in force, and what they should compute.

Most are the node cases of onnx's backend suite re-targeted to the older opset, where onnx.checker accepts them there; operators whose signature or meaning changed have
cases written by hand (`version_hand.py`). What a model should compute is asked of onnx.reference and of onnxruntime at that opset.
"""
from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, defs, helper

from tests.conformance.suite import load

DOMAINS = ("", "ai.onnx.ml")
#: How many re-targeted cases a pair gets, the smallest that the checker accepts.
PER_PAIR = 4
#: (operator, case) → the versions below this one give the case's attributes another meaning; those are tested by hand.
NOT_BELOW = {("PRelu", "test_prelu_broadcast"): 7, ("Dropout", "test_dropout_default_old"): 7, ("Dropout", "test_dropout_random_old"): 7,
             ("BatchNormalization", "test_batchnorm_example"): 7, ("BatchNormalization", "test_batchnorm_epsilon"): 7}
#: Operators whose output is random: only hand-written cases.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

Pair = tuple[str, str, int]


@dataclass
class VersionCase:
    """One model at an old opset. `expected`: where neither peer is to be asked."""

    name: str
    model: ModelProto
    inputs: list[Any]
    expected: list[Any] | None = None
    stored: list[Any] | None = None  # what the backend suite expects of the newest version
    rtol: float = 1e-3
    atol: float = 1e-5
    check: Any = None  # for generators: a function of the outputs instead of expected values


@cache
def pairs() -> list[Pair]:
    """All (domain, operator, since_version) of ai.onnx and ai.onnx.ml."""
    return sorted((s.domain, s.name, s.since_version) for s in defs.get_all_schemas_with_history() if s.domain in DOMAINS)


def opset_imports(domain: str, version: int) -> list[Any]:
    """The import of one domain at a version; models of ai.onnx.ml use ai.onnx of their time."""
    if domain == "":
        return [helper.make_opsetid("", version)]
    return [helper.make_opsetid(domain, version), helper.make_opsetid("", {1: 8, 2: 11, 3: 15, 4: 18, 5: 21}[version])]


def finish_model(graph: Any, domain: str, version: int) -> ModelProto:
    """A model at the opset, of the IR version of its time (at least 4, which lets initializers be no inputs)."""
    imports = opset_imports(domain, version)
    oldest = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=imports, ir_version=max(4, oldest), producer_name="sardonyx tests")


def accepted(model: ModelProto) -> bool:
    """Whether onnx's checker, types and shapes included, takes the model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


@cache
def backend_cases() -> dict[tuple[str, str], list[tuple[int, ModelProto, Any]]]:
    """(domain, operator) → node cases about it, smallest first."""
    found: dict[tuple[str, str], list[tuple[int, ModelProto, Any]]] = defaultdict(list)
    for case in load():
        if case.kind != "node" or "_expanded" in case.name:
            continue
        model = ModelProto.FromString(case.model)
        names = {(n.domain if n.domain != "ai.onnx" else "", n.op_type) for n in nodes_of(model.graph)}
        main = [key for key in names if key[0] in DOMAINS]
        size = len(case.model) + sum(getattr(v, "nbytes", 0) for v in case.sets[0][0])
        for key in main:
            found[key].append((size + 100_000 * (len(names) - 1), model, case))
    return {key: sorted(entries, key=lambda e: e[0]) for key, entries in found.items()}


def nodes_of(graph: Any) -> Iterator[NodeProto]:
    """All nodes, nested ones included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def retargeted(pair: Pair) -> Iterator[VersionCase]:
    """Backend cases of the pair's operator that are valid at its opset."""
    domain, name, since = pair
    count = 0
    for _, model, case in backend_cases().get((domain, name), []):
        if count >= PER_PAIR:
            return
        if name in RANDOM or since < NOT_BELOW.get((name, case.name), 0):
            continue
        changed = finish_model(copy.deepcopy(model.graph), domain, since)
        if "consumed_inputs" in defs.get_schema(name, since, domain).attributes:
            for node in nodes_of(changed.graph):
                if node.op_type == name:
                    node.attribute.append(helper.make_attribute("consumed_inputs", [0] * len(node.input)))
        if accepted(changed):
            count += 1
            inputs, outputs = case.sets[0]
            yield VersionCase(case.name, changed, list(inputs), stored=outputs, rtol=case.rtol, atol=max(case.atol, 1e-5))


def all_cases(pair: Pair) -> list[VersionCase]:
    """Hand-written cases, then re-targeted ones."""
    from . import version_graphs, version_hand
    assert version_graphs.HAND is version_hand.HAND
    hand = version_hand.HAND.get(pair[:2])
    return [*(hand(pair) if hand else ()), *retargeted(pair)]


def value_info(name: str, value: Any) -> Any:
    """The declaration of an array as graph input."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype) if value.dtype != object else TensorProto.STRING, value.shape)


def made(pair: Pair, inputs: list[Any], outputs: Sequence[tuple[int, int]], attributes: dict[str, Any], *, constants: tuple[int, ...] = (), name: str = "hand", **more: Any) -> VersionCase:
    """A one-node model. inputs: arrays, or None where absent; outputs: (element type, rank), element type 0 where not asked for;
    constants: indices of inputs stored as initializers."""
    domain, op_type, since = pair
    names = ["" if v is None else f"x{i}" for i, v in enumerate(inputs)]
    node = helper.make_node(op_type, names, [f"y{i}" if t else "" for i, (t, _) in enumerate(outputs)], name="node", domain=domain, **attributes)
    graph = helper.make_graph(
        [node], "g", [value_info(n, v) for i, (n, v) in enumerate(zip(names, inputs, strict=True)) if v is not None and i not in constants],
        [helper.make_tensor_value_info(f"y{i}", t, [None] * r) for i, (t, r) in enumerate(outputs) if t],
        [onnx.numpy_helper.from_array(inputs[i], names[i]) for i in constants])
    return VersionCase(name, finish_model(graph, domain, since), [v for i, v in enumerate(inputs) if v is not None and i not in constants], **more)


def unranked(case: VersionCase) -> VersionCase:
    """The case without a shape on any input, so that adapters know no rank."""
    model = ModelProto.FromString(case.model.SerializeToString())
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return replace(case, model=model)


def same(got: Any, want: Any, case: VersionCase) -> None:
    """Raise AssertionError unless two outputs agree in kind, type, shape and value."""
    if want is None or isinstance(want, dict):
        assert got == want, f"{got} is not {want}"
    elif isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want), f"{type(got).__name__} is not a list of {len(want)}"
        for a, b in zip(got, want, strict=True):
            same(a, b, case)
    else:
        a, b = np.asarray(got), np.asarray(want)
        assert (a.dtype.kind in "OUS") == (b.dtype.kind in "OUS") and (a.dtype == b.dtype or b.dtype.kind in "OUS"), f"type {a.dtype} is not {b.dtype}"
        assert a.shape == b.shape, f"shape {a.shape} is not {b.shape}"
        if a.dtype.kind in "biuOUS":
            np.testing.assert_array_equal(a, b)
        else:
            wide = np.complex128 if a.dtype.kind == "c" else np.float64
            a, b = a.astype(wide), b.astype(wide)
            scale = np.abs(b[np.isfinite(b)]).max(initial=1.0)
            np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol * scale)


def by_reference(case: VersionCase) -> list[Any]:
    """The outputs by onnx.reference."""
    from onnx.reference import ReferenceEvaluator
    names = [v.name for v in case.model.graph.input]
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(case.model).run(None, dict(zip(names, case.inputs, strict=False))))


def by_onnxruntime(case: VersionCase) -> list[Any]:
    """The outputs by onnxruntime's CPU provider, its graph optimizations off."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: list[Any] = session.run(None, dict(zip([v.name for v in session.get_inputs()], case.inputs, strict=False)))
    return result


def by_sardonyx(case: VersionCase) -> list[Any]:
    """The outputs by the reference executor after upgrading."""
    from sardonyx.converter.onnx import load_model
    from sardonyx.plan.shapes import infer_shapes
    from sardonyx.providers.base import RunContext
    from sardonyx.providers.reference import ReferenceProvider
    model = load_model(case.model)
    infer_shapes(model)
    executor = ReferenceProvider().compile(model, {})
    inputs = [*case.inputs, *[None] * (len(model.graph.inputs) - len(case.inputs))]
    return executor.run(inputs, range(len(model.graph.outputs)), RunContext(seed=1))


PEERS = {"onnx.reference": by_reference, "onnxruntime": by_onnxruntime}
