"""Files with stored programs: sessions run them without graph, planner and shapes; other sizes and versions are planned from the graph."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, parser
from sardonyx.errors import InvalidArgument
from sardonyx.model import read_programs
from sardonyx.package import Package
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.stored import StoredExecutor

MLP = """<ir_version: 10, opset_import: ["" : 21]> g (float[batch, seq, 8] x) => (float[batch, seq, 8] y) <float[8, 8] w = {%s}, float[8] zero = {0, 0, 0, 0, 0, 0, 0, 0}> {
    a = MatMul(x, w) b = Add(a, zero) c = Gelu(b) y = Softmax<axis = 2>(c) }"""
DECIDED = """<ir_version: 10, opset_import: ["" : 21]> g (float[n] x, int64 k) => (float[m] y, float[n] z) {
    below = Less(k, three) y = If(below)<then_branch = t () => (float[m] o) { nz = NonZero(x) i = Squeeze(nz, axis) o = Gather(x, i) }, else_branch = e () => (float[n] p) { p = Neg(x) }>
    z = Loop(k, , x)<body = l (int64 i, bool c, float[n] v) => (bool d, float[n] w) { d = Identity(c) w = Add(v, x) }> }"""


@pytest.fixture(scope="module")
def mlp() -> bytes:
    w = ", ".join(f"{v:.5g}" for v in np.random.default_rng(1).normal(size=64))
    return parser.parse_model(MLP % w).SerializeToString()  # type: ignore[no-any-return]


def decided() -> bytes:
    model = parser.parse_model(DECIDED.replace("{\n    below", "<int64 three = {3}, int64[1] axis = {0}> {\n    below", 1))
    return model.SerializeToString()  # type: ignore[no-any-return]


def session(path: Path, **options: object) -> sardonyx.InferenceSession:
    return sardonyx.InferenceSession(str(path), **options)  # type: ignore[arg-type]


def test_default_conversion_stores_programs(mlp: bytes, tmp_path: Path) -> None:
    report = sardonyx.convert(mlp, tmp_path / "m.sdx")
    assert report.not_stored == ""
    sardonyx.convert(mlp, tmp_path / "again.sdx")
    assert (tmp_path / "m.sdx").read_bytes() == (tmp_path / "again.sdx").read_bytes()
    stored, planned = session(tmp_path / "m.sdx"), sardonyx.InferenceSession(mlp)
    assert isinstance(stored._executor, StoredExecutor) and isinstance(planned._executor, EngineExecutor)
    assert [(i.name, i.type, i.shape) for i in stored.get_inputs()] == [("x", "tensor(float)", ["batch", "seq", 8])]
    for shape in ((1, 3, 8), (4, 1, 8), (0, 2, 8), (300, 7, 8)):
        x = np.random.default_rng(2).normal(size=shape).astype("f4")
        np.testing.assert_array_equal(stored.run(None, {"x": x})[0], planned.run(None, {"x": x})[0])
    assert {r.provider for r in stored.explain()} == {"CPUExecutionProvider"} and "Softmax" in str(stored.explain())
    with pytest.raises(InvalidArgument, match="x"):
        stored.run(None, {"x": np.zeros((1, 2, 9), "f4")})


def test_what_data_decide(tmp_path: Path) -> None:
    sardonyx.convert(decided(), tmp_path / "m.sdx")
    stored, planned = session(tmp_path / "m.sdx"), sardonyx.InferenceSession(decided())
    assert isinstance(stored._executor, StoredExecutor)
    x = np.array([1, 0, 2, 0, 3], "f4")
    for k in (0, 1, 5):
        for a, b in zip(stored.run(None, {"x": x, "k": np.array(k)}), planned.run(None, {"x": x, "k": np.array(k)}), strict=True):
            np.testing.assert_array_equal(a, b)
    assert stored.run(["z"], {"x": x, "k": np.array(1)})[0].tolist() == (2 * x).tolist()


def test_ranges(mlp: bytes, tmp_path: Path) -> None:
    """Sizes outside are planned from the graph, without a word."""
    sardonyx.convert(mlp, tmp_path / "m.sdx", plan=[{"batch": (1, 1), "seq": (1, 16)}, {"batch": (2, 8)}])
    package = Package.unpack(read_programs(tmp_path / "m.sdx")[1])
    assert [v.ranges for v in package.variants] == [(("batch", 1, 1), ("seq", 1, 16)), (("batch", 2, 8),)]
    stored, planned = session(tmp_path / "m.sdx"), sardonyx.InferenceSession(mlp)
    for shape in ((1, 16, 8), (2, 40, 8), (9, 2, 8), (1, 17, 8)):
        x = np.random.default_rng(2).normal(size=shape).astype("f4")
        np.testing.assert_allclose(stored.run(None, {"x": x})[0], planned.run(None, {"x": x})[0], rtol=1e-6)
    with pytest.raises(InvalidArgument, match="no size 'sequence'.*batch, seq"):
        sardonyx.convert(mlp, tmp_path / "n.sdx", plan=[{"sequence": (1, 2)}])
    with pytest.raises(InvalidArgument, match="is no range"):
        sardonyx.convert(mlp, tmp_path / "n.sdx", plan=[{"seq": (3, 2)}])


def test_nodes_without_kernels_store_nothing(tmp_path: Path) -> None:
    node = helper.make_node("StringNormalizer", ["s"], ["t"], name="lower", case_change_action="LOWER")
    model = helper.make_model(helper.make_graph([node], "g", [helper.make_tensor_value_info("s", TensorProto.STRING, ["n"])], [helper.make_tensor_value_info("t", TensorProto.STRING, ["n"])]))
    report = sardonyx.convert(model.SerializeToString(), tmp_path / "m.sdx")
    assert "lower" in report.not_stored and len(read_programs(tmp_path / "m.sdx")[1]) == 0
    assert session(tmp_path / "m.sdx").run(None, {"s": np.array(["AB"], object)})[0].tolist() == ["ab"]
    with pytest.raises(InvalidArgument, match="nothing can be planned.*Leave --plan out"):
        sardonyx.convert(model.SerializeToString(), tmp_path / "m.sdx", plan=[{"n": (1, 2)}])
    with pytest.raises(InvalidArgument, match="nothing can be planned.*lower") as bundled:  # as `sardonyx bundle` asks, which has no --plan
        sardonyx.convert(model.SerializeToString(), tmp_path / "m.sdx", plan=[{}])
    assert "--plan" not in str(bundled.value)


def test_other_abi_is_planned_again(mlp: bytes, tmp_path: Path) -> None:
    sardonyx.convert(mlp, tmp_path / "m.sdx")
    data = bytearray((tmp_path / "m.sdx").read_bytes())
    at = int.from_bytes(data[32:40], "little")
    data[at + 4] = 99
    s = sardonyx.InferenceSession(bytes(data))
    assert isinstance(s._executor, EngineExecutor)
    x = np.ones((1, 2, 8), "f4")
    np.testing.assert_array_equal(s.run(None, {"x": x})[0], session(tmp_path / "m.sdx").run(None, {"x": x})[0])


def test_options_that_need_the_graph(mlp: bytes, tmp_path: Path) -> None:
    sardonyx.convert(mlp, tmp_path / "m.sdx")
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert isinstance(session(tmp_path / "m.sdx", sess_options=options)._executor, EngineExecutor)
    sizes = sardonyx.SessionOptions()
    sizes.add_free_dimension_override_by_name("batch", 2)
    assert session(tmp_path / "m.sdx", sess_options=sizes).get_inputs()[0].shape == [2, "seq", 8]
    assert session(tmp_path / "m.sdx", providers=["ReferenceExecutionProvider"]).run(None, {"x": np.ones((1, 2, 8), "f4")})[0].shape == (1, 2, 8)


def test_profile_names_nodes(mlp: bytes, tmp_path: Path) -> None:
    sardonyx.convert(mlp, tmp_path / "m.sdx")
    options = sardonyx.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    s = session(tmp_path / "m.sdx", sess_options=options)
    s.run(None, {"x": np.ones((1, 2, 8), "f4")})
    text = Path(s.end_profiling()).read_text()
    assert '"kernel": "matmul"' in text and '"kernel": "softmax"' in text


def test_opening_imports_no_planner(mlp: bytes, tmp_path: Path) -> None:
    sardonyx.convert(mlp, tmp_path / "m.sdx")
    code = f"""import sys, numpy as np, sardonyx
s = sardonyx.InferenceSession({str(tmp_path / "m.sdx")!r})
s.run(None, {{"x": np.ones((1, 2, 8), "f4")}})
found = [m for m in sys.modules if m.startswith(("sardonyx.plan", "sardonyx.ops", "sardonyx.converter", "sardonyx.lowering", "flatbuffers"))]
assert not found, found
assert "graph" not in s._model.__dict__"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_command_line(mlp: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", "from sardonyx.converter.cli import main; main()", "convert", "m.onnx", *words], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run("--plan", "batch=1,seq=1..32").returncode == 0
    assert Package.unpack(read_programs(tmp_path / "m.sdx")[1]).variants[0].ranges == (("batch", 1, 1), ("seq", 1, 32))
    assert run("--no-plan").returncode == 0 and len(read_programs(tmp_path / "m.sdx")[1]) == 0
    wrong = run("--plan", "batch=x")
    assert wrong.returncode and "NAME=LEAST..MOST" in wrong.stderr + wrong.stdout
