"""What a conversion stores for WebGPU: no device is needed. The section is deterministic, other sections do not change by it, weights exist once."""
from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import parser
from sardonyx.errors import InvalidArgument, InvalidModelFile
from sardonyx.model import read_model
from sardonyx.model.format import Header
from sardonyx.model.recorded import unpack_recorded
from sardonyx.package import Device, Package

from tests.models import generated


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
    assert version == (1, 0) and stored["direct"] == 0 and stored["beside"] == []
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
