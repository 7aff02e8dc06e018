"""The commands on small models: what they print, write and return."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.converter.cli.app import app
from typer.testing import CliRunner

from tests.models.registry import fetch


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: dict[str, np.ndarray] | None = None, opset: int = 17, **keywords: Any) -> Path:
    """A model file of these nodes; inputs and outputs are (name, element type, shape)."""
    constants = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info(*i) for i in inputs], [helper.make_tensor_value_info(*o) for o in outputs], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **keywords), path)
    return path


@pytest.fixture()
def classifier(tmp_path: Path) -> Path:
    """x[batch, 4] → MatMul fc → Tanh act → Add bias → y[batch, 6]."""
    weights = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="fc"), helper.make_node("Tanh", ["a"], ["b"], name="act"), helper.make_node("Add", ["b", "c"], ["y"], name="bias")]
    return save(tmp_path / "classifier.onnx", nodes, [("x", TensorProto.FLOAT, ["batch", 4])], [("y", TensorProto.FLOAT, ["batch", 6])],
                {"w": weights, "c": np.ones(6, np.float32)}, producer_name="tests")


def identity(path: Path, kind: int, shape: list[Any]) -> Path:
    """x → y, for looking at what an input became."""
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [("x", kind, shape)], [("y", kind, None)])


def call(*words: Any, code: int = 0) -> Any:
    """Run a command in this process; the exit code is checked, output is without colours whatever the tests' environment says."""
    environment = {"COLUMNS": "120", "NO_COLOR": "1", "FORCE_COLOR": None, "TERM": "dumb", "SARDONYX_DEBUG": None}
    done = CliRunner().invoke(app, [str(w) for w in words], env=environment)
    assert done.exit_code == code, done.output + repr(done.exception)
    return done


def fails(*words: Any) -> str:
    """The one line of a user error."""
    done = call(*words, code=2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("warning:", "random inputs:", "sizes chosen:"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in done.output, done.output
    return lines[0]


def fed(model: Path, *words: Any) -> Any:
    """What `run` fed the one output of an identity model."""
    target = model.with_suffix(".out.npz")
    call("run", model, "-p", "reference", "-o", target, *words)
    return np.load(target)["y"]


# -- convert ----------------------------------------------------------------------------------------------------------------------------------

def test_convert_writes_beside_the_model(classifier: Path) -> None:
    done = call("convert", classifier)
    target = classifier.with_suffix(".sdx")
    assert f"{classifier}" in done.stdout and f"→ {target}" in done.stdout
    x = np.ones((2, 4), np.float32)
    ours, theirs = (sardonyx.InferenceSession(p, providers=["reference"]).run(None, {"x": x})[0] for p in (target, classifier))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_convert_report(classifier: Path, tmp_path: Path) -> None:
    shown = call("convert", classifier, "--report").stdout
    assert "Passes" in shown and "Operators" in shown and "MatMul" in shown
    file = tmp_path / "report.json"
    assert "report written" in call("convert", classifier, "--report", file).stdout
    report = json.loads(file.read_text())
    assert report["operators_before"] == {"MatMul": 1, "Tanh": 1, "Add": 1} and report["size"] == classifier.with_suffix(".sdx").stat().st_size and report["passes"]
    file.unlink()
    assert call("convert", classifier, "-q", f"--report={file}").stdout == ""
    assert json.loads(file.read_text())["seconds"] > 0
    assert "none were run" in call("convert", "--no-optimize", "--report", classifier).stdout


def test_convert_back_to_onnx(classifier: Path, tmp_path: Path) -> None:
    call("convert", classifier, "-o", tmp_path / "a.sdx")
    call("convert", tmp_path / "a.sdx", "-o", tmp_path / "b.onnx", "--no-optimize")
    onnx.checker.check_model(str(tmp_path / "b.onnx"))
    call("convert", classifier, "-o", tmp_path / "c.onnx", "--external-data")
    call("check", tmp_path / "c.onnx", "-p", "reference")


def test_convert_options(classifier: Path, tmp_path: Path) -> None:
    target = tmp_path / "cut.sdx"
    call("convert", classifier, "-o", target, "--fix-dim", "batch=3", "--outputs", "b", "--no-pack", "--external-data", "--fold-budget", 0)
    found = json.loads(call("inspect", target, "--json").stdout)
    assert [v["name"] for v in found["outputs"]] == ["b"] and found["inputs"][0]["type"]["shape"] == [3, 4]
    assert found["external_data"] and (tmp_path / "cut.sdx.data").exists() and {w["storage"] for w in found["weights"]} == {"plain"}


def test_convert_errors(classifier: Path, tmp_path: Path) -> None:
    assert "does not exist" in fails("convert", tmp_path / "none.onnx")
    assert "no symbolic size 'rows'" in fails("convert", classifier, "--fix-dim", "rows=3")
    assert "NAME=N" in fails("convert", classifier, "--fix-dim", "batch=three")
    assert "no value 'z'" in fails("convert", classifier, "--outputs", "z")
    assert "the source itself" in fails("convert", classifier, "-o", classifier)
    assert "does not exist; create it" in fails("convert", classifier, "-o", tmp_path / "no" / "x.sdx")
    (tmp_path / "text.onnx").write_text("not a model")
    assert "is not an ONNX file" in fails("convert", tmp_path / "text.onnx")
    damaged = tmp_path / "cut.onnx"
    damaged.write_bytes(classifier.read_bytes()[:100])
    fails("convert", damaged)
    assert not damaged.with_suffix(".sdx").exists()


# -- inspect ----------------------------------------------------------------------------------------------------------------------------------

def test_inspect_shows_the_model(classifier: Path) -> None:
    shown = call("inspect", classifier, "--nodes").stdout
    for text in ("ONNX, IR version 8", "ai.onnx 17", "float[batch, 4]", "float[batch, 6]", "MatMul", "fc", "float[4, 6]", "96 B"):
        assert text in shown, shown
    assert "\x1b" not in shown and all(line == line.rstrip() for line in shown.splitlines())


def test_inspect_json_is_complete(classifier: Path, tmp_path: Path) -> None:
    for path in (classifier, tmp_path / "classifier.sdx"):
        call("convert", classifier, "-q", "--no-optimize")
        found = json.loads(call("inspect", path, "--json").stdout)
        assert [(n["op_type"], n["name"], n["inputs"], n["outputs"]) for n in found["nodes"]] == [
            ("MatMul", "fc", ["x", "w"], ["a"]), ("Tanh", "act", ["a"], ["b"]), ("Add", "bias", ["b", "c"], ["y"])]
        assert found["operators"] == {"Add": 1, "MatMul": 1, "Tanh": 1} and found["producer_name"] == "tests" and found["parameters"] == 30
        assert [v["name"] for v in found["values"]] == ["a", "b", "y"]
    assert found["kind"] == "sdx" and found["sections"]["data"]["bytes"] > 0 and "packed" in {w["storage"] for w in found["weights"]}


def test_inspect_nested_graphs_and_attributes(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("LeakyRelu", ["x"], ["r"], alpha=float("inf"))], "branch", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch), helper.make_node("ConstantOfShape", ["s"], ["z"], value=numpy_helper.from_array(np.array([7], np.int64)))]
    path = save(tmp_path / "if.onnx", nodes, [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2]), ("s", TensorProto.INT64, [None])],
                [("y", TensorProto.FLOAT, None), ("z", TensorProto.INT64, None)])
    found = json.loads(call("inspect", path, "--json").stdout)
    assert found["nodes"][0]["attributes"]["then_branch"]["nodes"][0]["attributes"] == {"alpha": "inf"}
    assert found["nodes"][1]["attributes"]["value"] == {"tensor": {"dtype": "int64", "shape": [1], "values": [7]}}
    assert found["operators"]["LeakyRelu"] == 2
    assert "0.then_branch.0" in call("inspect", path, "--nodes").stdout


def test_inspect_names_unsupported_operators(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.onnx", [helper.make_node("Frobnicate", ["x"], ["y"])], [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])])
    done = call("inspect", path)
    assert "not supported: Frobnicate (1)" in done.stderr
    assert "Frobnicate" in fails("convert", path)


def test_inspect_operators() -> None:
    shown = call("inspect", "--operators").stdout
    assert "ai.onnx.ml" in shown and "TreeEnsemble" in shown and "Softmax" in shown
    assert "Conv" in json.loads(call("inspect", "--operators", "--json").stdout)["operators"]["ai.onnx"]
    assert "name a model file" in fails("inspect")


# -- run: outputs -----------------------------------------------------------------------------------------------------------------------------

def test_run_shows_and_saves(classifier: Path, tmp_path: Path) -> None:
    done = call("run", classifier, "-i", "[[1, 2, 3, 4]]", "-p", "reference", "--output-dir", tmp_path / "out", "--repeat", 3, "--profile", tmp_path / "trace.json")
    assert "float[1, 6]" in done.stdout and "Highest in y" in done.stdout and "first run" in done.stdout and done.stderr == ""
    expected = sardonyx.InferenceSession(classifier, providers=["reference"]).run(None, {"x": np.array([[1, 2, 3, 4]], np.float32)})[0]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "y.npy"), expected)
    assert any(row["args"].get("op_name") == "MatMul" for row in json.loads((tmp_path / "trace.json").read_text()) if "args" in row)


def test_run_says_what_it_chose(classifier: Path) -> None:
    done = call("run", classifier, "-p", "reference")
    assert "random inputs: x" in done.stderr and "sizes chosen: batch=1; set them with --dim batch=N" in done.stderr and "float[1, 4]" in done.stdout
    assert "float[3, 4]" in call("run", classifier, "-p", "reference", "-d", "batch=3").stdout
    first, same, other = (call("run", classifier, "-p", "reference", "--seed", seed).stdout.split("Outputs")[0] for seed in (5, 5, 6))
    assert first == same != other


def test_run_sequences_and_strings(tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    graph = helper.make_graph([helper.make_node("SplitToSequence", ["x"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
                              [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert "list of 4" in call("run", path, "-p", "reference", "-o", tmp_path).stdout
    assert len(json.loads((tmp_path / "y.json").read_text())) == 4
    assert "no array" in fails("run", path, "-p", "reference", "-o", tmp_path / "y.npz")
    call("check", path, "-p", "reference")
    texts = identity(tmp_path / "text.onnx", TensorProto.STRING, ["n"])
    assert fed(texts, "-i", '["a", "bc"]').tolist() == ["a", "bc"] and fed(texts, "-d", "n=3").shape == (3,)
    (tmp_path / "lines.txt").write_text("one\ntwo words\n")
    assert fed(texts, "-i", tmp_path / "lines.txt").tolist() == ["one", "two words"]


# -- run: inputs ------------------------------------------------------------------------------------------------------------------------------

def test_inputs_from_files(classifier: Path, tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float64).reshape(2, 4)  # double is rounded to float
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    (tmp_path / "list.json").write_text(json.dumps(x.tolist()))
    (tmp_path / "named.json").write_text(json.dumps({"x": x.tolist()}))
    (tmp_path / "x.txt").write_text("0 1 2 3\n4, 5, 6, 7")
    model = identity(tmp_path / "id.onnx", TensorProto.FLOAT, ["batch", 4])
    for source in ("x.npy", "x.npz", "list.json", "named.json", "x.txt"):
        np.testing.assert_array_equal(fed(model, "-i", tmp_path / source), x)
        if source != "named.json":
            np.testing.assert_array_equal(fed(model, "-i", f"x={tmp_path / source}"), x)
    np.testing.assert_array_equal(fed(model, "-i", json.dumps({"x": x.tolist()})), x)
    assert fed(model, "-i", "x=random", "-d", "batch=5").shape == (5, 4)


def test_inputs_from_images(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    image_module.fromarray(pixels).save(tmp_path / "cat.png")
    source = ["-i", tmp_path / "cat.png"]
    np.testing.assert_array_equal(fed(identity(tmp_path / "hwc.onnx", TensorProto.UINT8, [1, None, None, 3]), *source), pixels[None])
    planes = fed(identity(tmp_path / "chw.onnx", TensorProto.FLOAT, ["n", 3, "h", "w"]), *source, "--image-mean", "0.5,0.25,0", "--image-std", "2")
    expected = (pixels / np.float32(255) - np.array([0.5, 0.25, 0], np.float32)) / 2
    np.testing.assert_allclose(planes, expected.transpose(2, 0, 1)[None], atol=1e-6)
    assert fed(identity(tmp_path / "resized.onnx", TensorProto.FLOAT, [1, 3, 4, 10]), *source).shape == (1, 3, 4, 10)
    assert fed(identity(tmp_path / "grey.onnx", TensorProto.FLOAT, [1, 1, 6, 8]), *source, "--image-scale", 1).max() > 1
    assert "is no image" in fails("run", identity(tmp_path / "flat.onnx", TensorProto.FLOAT, [10]), *source)
    assert "has 2 numbers" in fails("run", tmp_path / "chw.onnx", *source, "--image-mean", "1,2")
    assert "--image-std must not be 0" in fails("run", tmp_path / "chw.onnx", *source, "--image-std", "0")
    (tmp_path / "bad.png").write_text("no image")
    assert "is not an image" in fails("run", tmp_path / "chw.onnx", "-i", tmp_path / "bad.png")


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_inputs_from_sound(tmp_path: Path, width: int) -> None:
    samples = np.array([0.0, 0.5, -0.5, 0.25])
    whole = np.rint(samples * 2 ** (8 * width - 1)).astype(np.int64)
    data = (whole + 128).astype(np.uint8).tobytes() if width == 1 else b"".join(int(v).to_bytes(width, "little", signed=True) for v in whole)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, width, 16000, 0, "NONE", ""))
        file.writeframes(data)
    np.testing.assert_allclose(fed(identity(tmp_path / "open.onnx", TensorProto.FLOAT, [1, "samples"]), "-i", tmp_path / "a.wav"), samples[None])
    np.testing.assert_allclose(fed(identity(tmp_path / "fixed.onnx", TensorProto.FLOAT, [6]), "-i", tmp_path / "a.wav"), [*samples, 0, 0])
    assert fed(identity(tmp_path / "whole.onnx", TensorProto.INT16, ["n"]), "-i", tmp_path / "a.wav").tolist() == [0, 16384, -16384, 8192]


def test_sizes_are_shared_between_inputs(tmp_path: Path) -> None:
    model = save(tmp_path / "two.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], [("a", TensorProto.FLOAT, ["rows", "seq"]), ("b", TensorProto.FLOAT, ["rows", "seq"])],
                 [("y", TensorProto.FLOAT, ["rows", "seq"])])
    assert fed(model, "-i", "a=[[1, 2, 3]]").shape == (1, 3)
    assert "has 2 elements on axis 1 ('seq'), but input 'a' has seq=3" in fails("run", model, "-i", "a=[[1, 2, 3]]", "-i", "b=[[1, 2]]")
    assert "say which input" in fails("run", model, "-i", "[[1]]")


def test_random_indices_fit_their_table(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    model = save(tmp_path / "embed.onnx", nodes, [("ids", TensorProto.INT64, ["batch", "seq"])], [("y", TensorProto.FLOAT, None)], {"table": np.ones((3, 2), np.float32)})
    assert fed(model).shape == (1, 16, 2)


def test_input_errors(classifier: Path, tmp_path: Path) -> None:
    run = ("run", classifier, "-p", "reference")
    assert "no input 'z'" in fails(*run, "-i", "z=[[1]]")
    assert "given twice" in fails(*run, "-i", "x=random", "-i", "[[1, 2, 3, 4]]")
    assert "numbers expected" in fails(*run, "-i", 'x=[["a", "b", "c", "d"]]')
    assert "all rows of one length" in fails(*run, "-i", "x=[[1, 2], [3]]")
    assert "neither a file" in fails(*run, "-i", "x=hello")
    assert "does not exist" in fails(*run, "-i", "x=none.npy")
    assert "index: 1 Got: 2 Expected: 4" in fails(*run, "-i", "x=[[1, 2]]")
    assert "Invalid rank" in fails(*run, "-i", "x=[1, 2]")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    assert "is not a .npy file" in fails(*run, "-i", tmp_path / "bad.npy")
    np.savez(tmp_path / "other.npz", w=1)
    assert "no input 'w'" in fails(*run, "-i", tmp_path / "other.npz")
    (tmp_path / "bad.json").write_text("{")
    assert "is not JSON" in fails(*run, "-i", tmp_path / "bad.json")
    assert "no symbolic size 'q'" in fails(*run, "-d", "q=1")
    assert "Unknown Provider" in fails("run", classifier, "-p", "abacus")
    integers = identity(tmp_path / "int.onnx", TensorProto.INT64, ["n"])
    assert "not int64" in fails("run", integers, "-i", "[1.5]") and fed(integers, "-i", "[2.0]").tolist() == [2]
    assert "none.onnx" in fails("run", tmp_path / "none.onnx")


# -- check and explain ------------------------------------------------------------------------------------------------------------------------

def test_check_equal(classifier: Path) -> None:
    for words in ((classifier,), (classifier, "--intermediate"), (classifier, "-i", "[[1, 2, 3, 4]]", "--rtol", "1e-5")):
        assert "equal: " in call("check", *words, "-p", "reference").stdout
    call("convert", classifier, "-q")
    assert "equal: 1 output" in call("check", classifier.with_suffix(".sdx"), "-p", "reference").stdout


def test_check_finds_the_broken_node(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.ops import lookup
    body = lookup("", "Tanh").function
    monkeypatch.setattr(lookup("", "Tanh"), "function", lambda input: body(input) * np.float32(1.01))
    assert "DIFFERENT: 1 of 1 output differs" in call("check", classifier, "-p", "reference", code=1).stdout
    shown = call("check", classifier, "-p", "reference", "--intermediate", code=1).stdout
    story = shown[shown.index("First node that differs"):]
    assert "2 of 3" in story and "Tanh" in story and "act" in story and "this node is the cause" in story


def test_check_compares_whole_numbers_and_nan() -> None:
    from sardonyx.converter.cli.check import Tolerance, compare

    def over(ours: Any, theirs: Any, tolerance: Tolerance = Tolerance()) -> int:  # noqa: B008
        return compare("t", np.asarray(ours), np.asarray(theirs), tolerance)[0].over
    assert over(np.array([1, 2], np.int8), np.array([2, 2], np.int8)) == 0 and over(np.array([1, 2], np.int8), np.array([3, 2], np.int8)) == 1
    assert over(np.array([2**53, 5]), np.array([2**53 + 1, 5])) == 1
    assert over([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf]) == 0 and over([np.nan, 1.0], [1.0, np.nan]) == 2 and over([np.inf], [-np.inf]) == 1
    assert over([1.0, 0.001], [1.0, 0.0]) == 0 and over([1.0, 0.002], [1.0, 0.0]) == 1 and over([1.0, 0.002], [1.0, 0.0], Tolerance(1e-2)) == 0
    assert over(np.array(["a", "b"], object), np.array(["a", "c"], object)) == 1
    assert compare("t", np.zeros(2), np.zeros(3), Tolerance())[0].remark == "ours is double[2]"
    assert compare("t", [np.zeros(2)], [np.zeros(2), np.zeros(2)], Tolerance())[0].remark == "ours is list of 1"


def test_check_without_onnxruntime(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install onnxruntime" in fails("check", classifier)


def test_check_what_onnxruntime_can_not_run(tmp_path: Path) -> None:
    path = save(tmp_path / "wrong.onnx", [helper.make_node("Reshape", ["x", "s"], ["y"])], [("x", TensorProto.FLOAT, [4]), ("s", TensorProto.INT64, [1])], [("y", TensorProto.FLOAT, None)])
    assert "can not run this model" in fails("check", path, "-p", "reference", "-i", "s=[7]")


def test_explain(classifier: Path) -> None:
    shown = call("explain", classifier, "-p", "reference").stdout
    assert "3 nodes: 3 on ReferenceExecutionProvider" in shown and "fc" in shown and "MatMul" in shown
    found = json.loads(call("explain", classifier, "-p", "reference", "--json").stdout)
    assert [row["nodes"] for row in found["nodes"]] == [["fc"], ["act"], ["bias"]]


# -- the program as a whole -------------------------------------------------------------------------------------------------------------------

def script(*words: Any, code: str = "from sardonyx.converter.cli import main; main()", **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own."""
    keep = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "SARDONYX_DEBUG", "FORCE_COLOR")}
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=keep | environment, timeout=300)


def test_help_and_version() -> None:
    shown = call("--help").stdout
    assert all(command in shown for command in ("convert", "inspect", "run", "check", "explain", "Examples:"))
    for command in ("convert", "inspect", "run", "check", "explain"):
        assert "Examples:" in call(command, "--help").stdout
    assert call("--version").stdout == f"sardonyx {sardonyx.__version__}\n"
    assert "No such option" in call("run", "--nonsense", code=2).stderr
    assert "MODEL" in call("convert", code=2).stderr


def test_no_terminal_no_escapes_stable_width(classifier: Path) -> None:
    done = script("inspect", classifier, "--nodes")
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr and max(map(len, done.stdout.splitlines())) <= 100
    narrow = script("inspect", classifier, "--nodes", COLUMNS="40")
    assert max(len(line) for line in narrow.stdout.splitlines() if line != str(classifier)) <= 40


def test_tracebacks_are_for_debugging(tmp_path: Path) -> None:
    plain, debug = (script("run", tmp_path / "none.onnx", **more) for more in ({}, {"SARDONYX_DEBUG": "1"}))
    assert plain.returncode == 2 and plain.stderr.count("\n") == 1 and "Traceback" not in plain.stderr
    assert debug.returncode != 0 and "Traceback" in debug.stderr and "NoSuchFile" in debug.stderr


def test_bugs_say_so(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sardonyx.converter.cli.inspect.describe", lambda path: 1 / 0)
    assert "bug of sardonyx" in call("inspect", classifier, code=3).stderr


def test_without_typer() -> None:
    done = script(code="import sys; sys.modules['typer'] = None\nfrom sardonyx.converter.cli import main; main()")
    assert done.returncode != 0 and done.stderr == "error: the command line needs typer: pip install 'sardonyx[convert]'\n"


def test_a_reader_that_stops_is_no_error(classifier: Path) -> None:
    code = "from sardonyx.converter.cli import main; main()"
    done = subprocess.run(["bash", "-c", 'set -o pipefail; "$0" -c "$1" inspect --operators --json | head -1', sys.executable, code], capture_output=True, text=True, timeout=300)
    assert done.stderr == "" and done.returncode in (0, 141)


def test_a_real_model(tmp_path: Path) -> None:
    target = tmp_path / "magika.sdx"
    assert "Gelu" in call("convert", fetch("magika"), "-o", target, "--report").stdout
    assert "packed" in call("inspect", target).stdout
    assert "Highest in target_label" in call("run", target, "-p", "reference").stdout
    assert "equal: 1 output" in call("check", target, "-p", "reference").stdout
    assert "equal: 95 values" in call("check", fetch("magika"), "-p", "reference", "--intermediate").stdout
    assert "CPUExecutionProvider" in call("explain", target).stdout
