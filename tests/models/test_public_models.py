"""Every public model, from its `.onnx` and from the `.sdx` all passes make of it, gives onnxruntime's outputs.

Bounds: floats 1e-3 of the tensor's largest magnitude over the model's whole script; integers and labels exact. Quantised networks are chaotic: where two correct
runtimes sum in a different order, one value rounds to the next step and everything after it moves (onnxruntime differs from itself by 3 % on smart-turn between
optimisation levels). For those, `test_nodes_within_one_step` bounds each node given onnxruntime's own inputs, and here the decision must be the same.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.graph import Node
from sardonyx.ops import Context, lookup
from sardonyx.plan.shapes import attribute_arguments

from .inputs import SCRIPTS, Feed, light, play
from .registry import MODELS, fetch, light_models

#: The providers under test, each listed alone.
PROVIDERS = ("ReferenceExecutionProvider", "CPUExecutionProvider")
FORMATS = ("onnx", "sdx")
#: Quantised models: the bound on float outputs relative to their scale, and the decision made from the first output.
QUANTISED: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "smart-turn": (0.15, lambda p: p > 0.5),
    "tashkeel-bilstm": (0.05, lambda logits: logits.argmax(-1)),
    "tashkeel-rawi": (0.05, lambda logits: logits.argmax(-1)),
    "tashkeel-rawi-ensemble": (0.05, lambda labels: labels),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow if MODELS[name].big else ()) for name in SCRIPTS]


def peer(source: str | bytes, optimise: bool = True) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread: with more, DynamicQuantizeLSTM cuts the batch in parts and quantises each with its own scale."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@cache
def expected(name: str) -> list[list[np.ndarray]]:
    """onnxruntime's outputs over the model's script."""
    session = peer(str(_path(name)))
    return play(_script(name, session), lambda feed: session.run(None, feed))


def _path(name: str) -> Path:
    return fetch(name) if name in MODELS else light_models()[name]


def _script(name: str, session: Any) -> Any:
    return SCRIPTS[name]() if name in SCRIPTS else light(session.get_inputs()[0].name)()


def _actual(name: str, form: str, provider: str, folder: Path) -> list[list[np.ndarray]]:
    path = _path(name)
    if form == "sdx":
        source, path = path, folder / "model.sdx"
        assert not sardonyx.convert(source, path).not_stored, "every public model runs from its programs"
        bare = folder / "bare.sdx"
        sardonyx.convert(source, bare, store=False)
        assert bare.stat().st_size <= 1.01 * source.stat().st_size + 65536, "an .sdx is hardly larger than its .onnx"
        assert path.stat().st_size <= 1.1 * bare.stat().st_size + (512 << 10), "a stored program adds little"
    with sardonyx.InferenceSession(path, providers=[provider]) as session:
        if form == "sdx":
            assert {row.provider for row in session.explain()} == {provider}, "known before the first run"
        return play(_script(name, session), lambda feed: session.run(None, feed))


def _compare(actual: list[list[np.ndarray]], wanted: list[list[np.ndarray]], bound: float) -> None:
    assert len(actual) == len(wanted)
    for output in range(len(wanted[0])):
        scale = max(_magnitude(step[output]) for step in wanted)
        for number, (got, want) in enumerate(zip(actual, wanted, strict=True)):
            label = f"output {output} of step {number}"
            assert (got[output].dtype, got[output].shape) == (want[output].dtype, want[output].shape), label
            if want[output].dtype.kind != "f":
                np.testing.assert_array_equal(got[output], want[output], label)
            else:
                np.testing.assert_allclose(got[output], want[output], rtol=0, atol=bound * scale, err_msg=label)


def _clear(wanted: np.ndarray) -> Any:
    """Where a decision is one: the best two of many logits are more than 0.5 % of the scale apart. A rounding before a quantisation may turn nearer ones."""
    if wanted.dtype.kind != "f" or wanted.shape[-1] < 2:
        return ...
    best = np.sort(wanted, -1)
    return best[..., -1] - best[..., -2] > 5e-3 * _magnitude(wanted)


def agree(name: str, actual: list[list[np.ndarray]], wanted: list[list[np.ndarray]]) -> None:
    """A model's outputs are within its bound, and where it decides, the decisions are the same."""
    bound, decide = QUANTISED.get(name, (1e-3, None))
    _compare(actual, wanted, bound)
    if decide:
        for got, want in zip(actual, wanted, strict=True):
            clear = _clear(want[0])
            np.testing.assert_array_equal(decide(got[0])[clear], decide(want[0])[clear])


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0)) if array.dtype.kind == "f" else 0.0


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_registry_model(name: str, form: str, provider: str, tmp_path: Path) -> None:
    agree(name, _actual(name, form, provider, tmp_path), expected(name))


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", sorted(light_models()))
def test_light_model(name: str, form: str, provider: str, tmp_path: Path) -> None:
    _compare(_actual(name, form, provider, tmp_path), expected(name), 1e-3)


def test_romanizer_decodes_the_same_names() -> None:
    """Encoder and decoder in the loop their package runs, each choosing its own letters."""
    def decode(make: Callable[[str], Any]) -> np.ndarray:
        encoder, decoder = (make(str(fetch(f"romanizer-{part}"))) for part in ("encoder", "decoder"))
        feed = next(SCRIPTS["romanizer-encoder"]())
        memory, mask, hidden = encoder.run(None, feed)
        prefix = np.ones((len(mask), 1), np.int64)
        for _ in range(12):
            scores, hidden = decoder.run(None, {"prefix": prefix, "memory": memory, "src_mask": mask, "hidden": hidden})
            prefix = np.concatenate([prefix, scores.argmax(-1)[:, None]], 1)
        return prefix
    np.testing.assert_array_equal(decode(lambda path: sardonyx.InferenceSession(path, providers=[PROVIDERS[0]])), decode(peer))


@pytest.mark.parametrize("name", sorted(QUANTISED))
def test_nodes_within_one_step(name: str) -> None:
    """Each node's body, given onnxruntime's inputs to that node: integers within one quantisation step, floats within 1e-3 (recurrences: the model's bound)."""
    proto = onnx.load(fetch(name))
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=o) for node in proto.graph.node for o in node.output if o and o not in known)
    session = peer(proto.SerializeToString(), optimise=False)
    names = [value.name for value in session.get_outputs()]
    graph = load_model(fetch(name)).graph
    for feed in list(SCRIPTS[name]())[:3]:
        values: Feed = dict(zip(names, session.run(None, feed), strict=True)) | feed
        for node in graph.nodes:
            made = _body(node, values)
            for value, got in zip(node.outputs, made, strict=False):
                if value is not None and value.name in values:
                    want = values[value.name]
                    bound = 1.0 if want.dtype.kind != "f" else _magnitude(want) * (QUANTISED[name][0] if node.op_type.endswith("LSTM") else 1e-3)
                    np.testing.assert_allclose(np.asarray(got, np.float64), want.astype(np.float64), rtol=0, atol=bound, err_msg=node.label)


def _body(node: Node, values: Feed) -> tuple[Any, ...]:
    """Run one node on named values."""
    operator = lookup(node.domain, node.op_type)
    inputs = [None if v is None else v.const.numpy() if v.const is not None else values[v.name] for v in node.inputs]
    arguments = attribute_arguments(node, operator) | {"n_outputs": len(node.outputs)} if "n_outputs" in operator.wants else attribute_arguments(node, operator)
    if "context" in operator.wants:
        arguments["context"] = Context(None, None, lambda: False)
    made = operator.function(*inputs, **arguments)
    return made if isinstance(made, tuple) else (made,)
