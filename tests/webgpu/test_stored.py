"""What a conversion stores for WebGPU: no device is needed. The section is deterministic, other sections do not change by it, weights exist once."""
from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper, numpy_helper, parser
from sardonyx.errors import InvalidArgument, InvalidModelFile
from sardonyx.model import read_model
from sardonyx.model.format import Header
from sardonyx.model.recorded import unpack_recorded
from sardonyx.package import Device, Package
from sardonyx.webgpu.recording import Dispatch, Recording, Shader

from tests.models import generated

from .replay import play, shaders_of, text_of
from .test_dawn import compiled


def section(data: bytes) -> memoryview:
    """The WebGPU section of a file."""
    at, length = Header.unpack(memoryview(data)).webgpu
    return memoryview(data)[at:at + length]


def converted(model: Any, **options: Any) -> bytes:
    """A model as .sdx bytes."""
    file = io.BytesIO()
    sardonyx.convert(model, file, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT layer whose weights are too large for pools."""
    path = tmp_path_factory.mktemp("stored") / "bert.onnx"
    generated.bert_layer(path, hidden=192, heads=4)
    return str(path)


def test_the_section_is_beside_all_others(bert: str) -> None:
    plain, both = converted(bert), converted(bert, webgpu=True)
    assert both == converted(bert, webgpu=True), "equal conversions give equal bytes"
    assert not len(section(plain)) and len(section(both))
    before, after = Header.unpack(memoryview(plain)), Header.unpack(memoryview(both))
    graph = [data[h.graph[0]:sum(h.graph)] for data, h in ((plain, before), (both, after))]
    assert graph[0] == graph[1], "the graph does not know of it"
    assert after.data[1] - before.data[1] < 0.02 * before.data[1], "weights exist once"
    read_model(both).graph.verify()
    session = sardonyx.InferenceSession(both, providers=["CPUExecutionProvider"])
    names = [v.name for v in session.get_inputs()]
    feeds = {names[0]: np.ones((1, 5, 192), np.float32), **({names[1]: np.ones((1, 5), np.int64)} if len(names) > 1 else {})}
    np.testing.assert_array_equal(session.run(None, feeds)[0], sardonyx.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(None, feeds)[0])


def test_what_is_in_it(bert: str) -> None:
    data = converted(bert, webgpu=True)
    version, packed, text = unpack_recorded(section(data))
    package, stored = Package.unpack(packed), json.loads(bytes(text))
    assert version == (1, 1) and stored["direct"] == 0 and stored["beside"] == []
    assert [s.device for b in package.blocks for s in b.segments] == [Device.WEBGPU] and not package.programs[0].program.steps
    length = Header.unpack(memoryview(data)).data[1]
    assert all(0 <= at and at + (item or count) <= length for at, count, item in stored["constants"])
    recording = stored["programs"]["0"]["gpu"]
    assert 0 < len(recording["dispatches"]) <= 12
    rows = len(package.programs[0].program.sizes)
    assert all(max([groups, *uniforms]) < rows for _, groups, _, _, uniforms in recording["dispatches"])
    assert all("fn main" in source for source, _ in stored["shaders"])


def test_nodes_without_wgsl_run_on_the_engine_beside() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]>\ng (float[n] x) => (double[n] y) { a = Exp(x) b = Cast<to = 11>(a) y = Add(b, b) }'
    _, packed, stored = unpack_recorded(section(converted(parser.parse_model(text), webgpu=True)))
    devices = [s.device for b in Package.unpack(packed).blocks for s in b.segments]
    assert set(devices) == {Device.WEBGPU, Device.ENGINE} and json.loads(bytes(stored))["direct"] == -1
    assert any("double" in why for _, why, *_ in json.loads(bytes(stored))["beside"])


@pytest.mark.parametrize(("text", "why"), [("g (double[n] x) => (double[n] y) { y = Add(x, x) }", "no node of it runs on WebGPU: .*double"),
                                           ("g (string[n] x) => (string[n] y) { y = Identity(x) }", "have no kernels")])
def test_what_can_not_be_recorded_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"nothing can be recorded for WebGPU: .*{why}"):
        converted(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}'), webgpu=True)


def test_damaged_sections_are_refused(bert: str) -> None:
    data = converted(bert, webgpu=True)
    whole = bytes(section(data))
    for damaged in (whole[:20], b"SDXX" + whole[4:], whole[:8] + (8 + len(whole)).to_bytes(8, "little") + whole[16:]):
        with pytest.raises(InvalidModelFile, match="WebGPU section"):
            unpack_recorded(memoryview(damaged))
    at = Header.unpack(memoryview(data)).webgpu[0]
    with pytest.raises(InvalidModelFile, match="header, offset 80: the WebGPU section"):
        Header.unpack(memoryview(data[:80] + (at + 64 * len(data)).to_bytes(8, "little") + data[88:]))


@pytest.fixture(scope="module")
def decoder() -> bytes:
    """One row through two layers of large weights and a norm: what has variants for every feature."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gelu", ["h"], ["g"]), helper.make_node("MatMul", ["g", "v"], ["d"]), helper.make_node("Add", ["d", "x"], ["s"]),
             helper.make_node("LayerNormalization", ["s", "scale"], ["y"])]
    weights = {"w": rng.normal(size=(200, 640)) / 14, "v": rng.normal(size=(640, 200)) / 25, "scale": np.ones(200)}
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [3, 200])], [helper.make_tensor_value_info("y", 1, [3, 200])],
                              [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()])
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    return made


def test_variants_for_what_devices_have(decoder: bytes) -> None:
    """What is stored for devices with more than every device has; weights are not stored again, nor what is the same."""
    plain, both, narrow = (converted(decoder, **options) for options in ({"webgpu": True}, {"webgpu_f16": True}, {"webgpu": True, "fp16": True}))
    texts = [text_of(data)[1] for data in (plain, both, narrow)]
    kinds = [[tuple(v[:3]) for v in text["programs"]["0"]["variants"]] for text in texts]
    full = [(0, "shader-f16 subgroups"), (1, "shader-f16"), (0, "shader-f16")]
    assert kinds[0] == [(0, "subgroups", "f32")] and kinds[1] == [*((*k, "f16") for k in full), (0, "subgroups", "f32")]
    assert [k for k in kinds[2] if k[2] == "f32"] == [*((*k, "f32") for k in full), (0, "subgroups", "f32")]
    assert [text["precisions"] for text in texts] == [["f32"], ["f32", "f16"], ["f32", "f16"]]
    data = [Header.unpack(memoryview(d)).data[1] for d in (plain, both)]
    assert data[0] == data[1] and len(section(both)) < 2 * len(section(plain)), "f16 costs text, and less than what is there"
    half = texts[1]["programs"]["0"]["variants"][0][3]["half"]
    assert sorted(texts[1]["constants"][c][1] for c in half) == [4 * 200 * 640, 4 * 208 * 640], "the float32 constants themselves"
    assert not any("half" in v[3] for v in texts[2]["programs"]["0"]["variants"]), "what is float16 is so in the file"
    for text in texts:
        assert all(like < len(text["shaders"]) for like, *_ in text.get("edits", ()))
        assert all("enable f16;" not in source and "enable subgroups;" not in source for d in text["programs"]["0"]["gpu"]["dispatches"] for source in [shaders_of(text)[d[0]][0]])


def test_for_one_device(decoder: bytes) -> None:
    """What a page's planner asks for: one recording, that of the device."""
    text = text_of(converted(decoder, webgpu_device=(False, ["shader-f16", "subgroups"], "f16")))[1]
    wanted = text_of(converted(decoder, webgpu_f16=True))[1]
    assert list(text["programs"]["0"]) == ["gpu"] and text["precisions"] == ["f16"]
    sources = [[shaders_of(t)[d[0]][0] for d in r["dispatches"]] for t, r in ((text, text["programs"]["0"]["gpu"]), (wanted, wanted["programs"]["0"]["variants"][0][3]))]
    assert sources[0] == sources[1] and any("subgroupAdd" in s and "array<vec4<f16>>" in s for s in sources[0])
    with pytest.raises(InvalidArgument, match="'f16' with the feature shader-f16"):
        converted(decoder, webgpu_device=(False, [], "f16"))


@pytest.mark.parametrize("options", [{"webgpu_f16": True}, {"webgpu": True, "fp16": True}], ids=["float32", "float16"])
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_stored_variants_on_a_device(lanes: Any, decoder: bytes, options: dict[str, Any], precision: str) -> None:
    """Every variant a device here can play, played from the file, against the reference."""
    data, x = converted(decoder, **options), np.random.default_rng(1).normal(size=(3, 200)).astype(np.float32)
    (made,), recording, sources = play(lanes, data, [x], precision)
    wanted = sardonyx.InferenceSession(decoder, providers=["ReferenceExecutionProvider"]).run(None, {"x": x})[0]
    assert made.dtype == np.float32 and np.abs(made - wanted).max() <= (8e-3 if "fp16" in options or precision == "f16" else 1e-5) * np.abs(wanted).max()
    narrow = "shader-f16" in lanes.features and (precision == "f16" or "fp16" in options)
    assert any("enable f16;" in s for s in sources) == narrow and bool(recording.get("half")) == (narrow and "fp16" not in options)
    assert any("subgroupAdd" in s for s in sources) == ("subgroups" in lanes.features and not lanes.adapter.is_cpu)


def test_quads_are_stored_for_software_adapters(device: Any) -> None:
    """Products of more than a few rows, where the adapter has subgroups."""
    rng = np.random.default_rng(2)
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, ["m", 37])], [helper.make_tensor_value_info("y", 1, ["m", 50])],
                              [numpy_helper.from_array(rng.normal(size=(37, 50)).astype(np.float32), "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    x = rng.normal(size=(19, 37)).astype(np.float32)
    (made,), _, sources = play(device, converted(model, webgpu=True), [x], "f32")
    wanted = sardonyx.InferenceSession(model, providers=["ReferenceExecutionProvider"]).run(None, {"x": x})[0]
    assert any("quadBroadcast" in s for s in sources) and np.abs(made - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_stored_texts_compile_in_dawn(decoder: bytes) -> None:
    """Edits included."""
    for options in ({"webgpu_f16": True}, {"webgpu": True, "fp16": True}):
        found = shaders_of(text_of(converted(decoder, **options))[1])
        recording = Recording([Shader(*one) for one in found], dispatches=[Dispatch(i, (), 0, (), f"number {i}") for i in range(len(found))])
        assert sum("enable f16;" in s.source for s in recording.shaders) >= 4 and compiled([("stored", recording)])[1] == []


@pytest.mark.parametrize(("count", "exempt"), [(64, True), (65, False)])
def test_strict_exempts_small_integers_alone(count: int, exempt: bool) -> None:
    """What int64 holds beyond 32 bits runs on the engine; a strict session in a page takes that for shape arithmetic up to 64 elements, and refuses it above (wasm/js/gpu.js reads the mark)."""
    text = f'g (int64[{count}] x, float[3] f) => (int64[{count}] y, float[3] e) <int64[1] c = {{1099511627776}}> {{ y = Mul(x, c) e = Exp(f) }}'
    stored = json.loads(bytes(unpack_recorded(section(converted(parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}'), webgpu=True)))[2]))
    assert stored["beside"] == [["y", "a constant holds 1099511627776, which does not fit 32 bits", *([1] if exempt else [])]]
