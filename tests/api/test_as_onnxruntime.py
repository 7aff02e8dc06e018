"""as_onnxruntime(), each check in a process of its own, because the real onnxruntime is imported here."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime  # noqa: F401
import pytest
import sardonyx

from . import models


def run(code: str, folder: Path) -> str:
    (folder / "m.onnx").write_bytes(models.scaled())
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_packages_find_us(tmp_path: Path) -> None:
    assert run("""
import sardonyx
handle = sardonyx.as_onnxruntime()
assert handle.active and sardonyx.as_onnxruntime() is handle
import importlib, importlib.metadata, importlib.util, os, numpy
import onnxruntime
import onnxruntime as ort
from onnxruntime import InferenceSession, SessionOptions, GraphOptimizationLevel
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, NoSuchFile, NotImplemented, InvalidGraph, InvalidProtobuf, RuntimeException, EPFail, ModelRequiresCompilation
from onnxruntime.capi import _pybind_state as C
from onnxruntime.capi._pybind_state import get_available_providers
from onnxruntime.capi.onnxruntime_inference_collection import Session, OrtValue, IOBinding
import onnxruntime.capi.onnxruntime_validation
assert ort.__version__ == ort.get_version_string() == ort.version == "1.32.0" and sardonyx.get_version_string() != "1.32.0"
assert importlib.metadata.version("onnxruntime") == "1.32.0" and importlib.metadata.distribution("onnxruntime").metadata["Name"] == "onnxruntime"
assert importlib.metadata.version("numpy") == numpy.__version__
assert "onnxruntime" in {d.metadata["Name"] for d in importlib.metadata.distributions()}
assert importlib.util.find_spec("onnxruntime").name == "onnxruntime" and importlib.util.find_spec("onnxruntime.capi._pybind_state") is not None
assert importlib.import_module("onnxruntime.capi") is ort.capi and os.path.exists(ort.__file__)
assert InferenceSession is sardonyx.InferenceSession is Session and C.OrtValue is OrtValue and Fail is sardonyx.errors.Fail
assert "InferenceSession" in dir(ort) and "CPUExecutionProvider" in ort.get_available_providers() == get_available_providers()
session = ort.InferenceSession("m.onnx", SessionOptions(), providers=["CPUExecutionProvider"])
assert isinstance(session, Session)
try:
    session.run(None, {"x": numpy.ones(3)})
except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
    print("caught", "tensor(double)" in str(error))
try:
    ort.InferenceSession("nope.onnx")
except NoSuchFile:
    print("no such file")
print(session.run(None, {"x": numpy.ones(3, "f4")})[0].tolist())
""", tmp_path).split("\n")[:3] == ["caught True", "no such file", "[2.0, 2.0, 2.0]"]


def test_what_is_refused_names_our_command(tmp_path: Path) -> None:
    assert run("""
import sardonyx
sardonyx.as_onnxruntime()
import importlib
for name in ("quantization", "transformers", "training", "tools", "quantization.calibrate"):
    try:
        importlib.import_module("onnxruntime." + name)
        print("imported")
    except ImportError as error:
        assert "sardonyx convert" in str(error), error
try:
    from onnxruntime import quantization
except ImportError as error:
    assert "sardonyx convert" in str(error), error
try:
    importlib.import_module("onnxruntime.nonsense")
except ModuleNotFoundError:
    print("done")
""", tmp_path) == "done\n"


def test_undo(tmp_path: Path) -> None:
    assert run("""
import sys, importlib.metadata, sardonyx
with sardonyx.as_onnxruntime() as handle:
    import onnxruntime
    assert onnxruntime.InferenceSession is sardonyx.InferenceSession
assert not handle.active and not [n for n in sys.modules if n.startswith("onnxruntime")]
handle.undo()
import onnxruntime as real
assert real.InferenceSession is not sardonyx.InferenceSession
print("done")
""", tmp_path) == "done\n"


def test_too_late() -> None:
    with pytest.warns(UserWarning, match="imported already"):
        handle = sardonyx.as_onnxruntime()
    assert not handle.active
    handle.undo()
    assert onnxruntime.InferenceSession is not sardonyx.InferenceSession


def test_pyodide_tells_micropip(tmp_path: Path) -> None:
    """With stand-ins for Pyodide's modules: the mock is registered, its source works, and it is taken back."""
    assert run("""
import sys, types
calls = []
sys.modules["pyodide"] = types.ModuleType("pyodide")
micropip = sys.modules["micropip"] = types.ModuleType("micropip")
micropip.add_mock_package = lambda name, version, modules: calls.append((name, version, modules))
micropip.remove_mock_package = lambda name: calls.append(name)
import sardonyx
handle = sardonyx.as_onnxruntime()
(name, version, modules), = calls
assert (name, version) == ("onnxruntime", "1.32.0")
handle.undo()
assert calls[-1] == "onnxruntime"
# in a fresh interpreter the mock's source is what `import onnxruntime` executes
with open("onnxruntime.py", "w") as file:
    file.write(modules["onnxruntime"])
sys.path.insert(0, ".")
import onnxruntime
assert onnxruntime.InferenceSession is sardonyx.InferenceSession
print("done")
""", tmp_path) == "done\n"
