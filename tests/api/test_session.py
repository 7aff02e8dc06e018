"""Sessions: loading, what they say, providers, options, threads, profiles, closing."""
from __future__ import annotations

import io
import json
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import sardonyx
from onnx import TensorProto
from sardonyx import errors
from sardonyx.api import session as session_module
from sardonyx.providers.cpu import CpuProvider

from tests.patience import SECONDS, at_once, until

from . import models

REFERENCE = ["ReferenceExecutionProvider"]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def open_(data: Any, options: Any = None, **keywords: Any) -> Any:
    return sardonyx.InferenceSession(data, options, providers=REFERENCE, **keywords)


def theirs(data: Any, options: Any = None) -> Any:
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


# -- loading -----------------------------------------------------------------------------------------------------------------------------------

def test_sources(tmp_path: Path) -> None:
    data = models.scaled()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for source in (str(path), path, data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert open_(source).run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]
    options = sardonyx.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.sdx")
    open_(path, options)
    converted = tmp_path / "renamed.onnx"  # the first bytes decide, not the name
    converted.write_bytes((tmp_path / "model.sdx").read_bytes())
    for source in (tmp_path / "model.sdx", converted, converted.read_bytes()):
        assert open_(source).run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize(("source", "kind"), [("nope.onnx", FileNotFoundError), (b"garbage", errors.InvalidProtobuf), (b"", ValueError), (5, TypeError), (None, TypeError), ("/", ValueError),
                                              (b"SDX", ValueError), (models.model([models.node("Foo", ["x"], ["y"])], [models.vi("x", 1, [1])], [models.vi("y", 1, [1])]), errors.NotImplemented),
                                              (models.model([models.node("Add", ["x", "nope"], ["y"])], [models.vi("x", 1, [1])], [models.vi("y", 1, [1])]), errors.InvalidGraph)])
def test_sources_that_are_wrong(source: Any, kind: type) -> None:
    with pytest.raises(kind) as caught:
        open_(source)
    assert isinstance(caught.value, errors.SardonyxError)
    with pytest.raises(Exception):  # noqa: B017 - onnxruntime refuses them too
        theirs(source)


# -- what a session says --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [models.add_mul, models.scaled, models.identity, models.sequences, models.zipmap, models.vectorizer, models.optional, models.branches])
def test_interface(make: Any) -> None:
    ours, other = open_(make()), theirs(make())
    for method in ("get_inputs", "get_outputs", "get_overridable_initializers"):
        assert [(a.name, a.type, a.shape) for a in getattr(ours, method)()] == [(a.name, a.type, a.shape) for a in getattr(other, method)()]
        assert [str(a) for a in getattr(ours, method)()] == [str(a) for a in getattr(other, method)()]
    meta, expected = ours.get_modelmeta(), other.get_modelmeta()
    for name in ("custom_metadata_map", "description", "domain", "graph_description", "graph_name", "producer_name", "version"):
        assert getattr(meta, name) == getattr(expected, name)


@pytest.mark.parametrize(("nodes", "inputs", "outputs"), [
    ([("Concat", ["x", "x"], {"axis": 0})], [["n", 3]], None), ([("Add", ["x", "y"], {})], [["n", 3], ["m", 3]], ["p", "q"]), ([("NonZero", ["x"], {})], [["n", 3]], None),
    ([("Identity", ["x"], {})], [[4, "N"]], None), ([("Identity", ["x"], {})], [None], None)])
def test_shapes_of_outputs(nodes: Any, inputs: Any, outputs: Any) -> None:
    (op_type, names, attributes), = nodes
    kind = models.INT64 if op_type == "NonZero" else models.FLOAT
    data = models.model([models.node(op_type, names, ["o"], **attributes)], [models.vi(n, models.FLOAT, s) for n, s in zip(("x", "y"), inputs, strict=False)], [models.vi("o", kind, outputs)])
    assert open_(data).get_outputs()[0].shape == theirs(data).get_outputs()[0].shape


# -- providers --------------------------------------------------------------------------------------------------------------------------------

def quiet(providers: Any, **keywords: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sardonyx.InferenceSession(models.scaled(), providers=providers, **keywords)


@pytest.mark.parametrize("providers", [None, [], ["CPUExecutionProvider"], ["CUDAExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"], [("CPUExecutionProvider", {"a": 1})],
                                       [("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"], ["CPUExecutionProvider", "CPUExecutionProvider"], "CPUExecutionProvider"])
def test_providers_as_onnxruntime(providers: Any, capfd: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = onnxruntime.InferenceSession(models.scaled(), providers=providers)
    ours = quiet(providers)
    assert ours.get_providers() == other.get_providers() == ["CPUExecutionProvider"]
    assert set(ours.get_provider_options()) == {"CPUExecutionProvider"}


def test_unavailable_providers_warn_once_with_the_reason() -> None:
    with pytest.warns(UserWarning) as caught:
        session = sardonyx.InferenceSession(models.scaled(), providers=["cuda", "coreml", "reference"])
    about = [str(w.message) for w in caught if "not available" in str(w.message)]
    assert len(about) == 1 and "CUDAExecutionProvider" in about[0] and "CoreMLExecutionProvider" in about[0] and "takes over" in about[0]
    assert caught[0].filename == __file__
    assert session.get_providers() == REFERENCE
    assert "CUDAExecutionProvider is not used" in str(session.explain())


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the engine can not be loaded."""
    monkeypatch.setattr(CpuProvider, "available", lambda self: "the C engine is not built here")


def test_the_cpu_runs_on_the_engine() -> None:
    session = quiet(None)
    assert session.get_providers() == ["CPUExecutionProvider"]
    row, = session.explain()
    assert (row.names, row.operator, row.provider, row.reason) == (("q",), "Mul", "CPUExecutionProvider", "")
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for threads in (1, 2):
        options.intra_op_num_threads = threads
        assert sardonyx.InferenceSession(models.scaled(), options).run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]


def test_the_cpu_is_honest(no_engine: None) -> None:
    session_module._warned.clear()
    with pytest.warns(UserWarning, match="CPUExecutionProvider runs the NumPy reference operators: the C engine is not built here"):
        session = sardonyx.InferenceSession(models.scaled())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sardonyx.InferenceSession(models.scaled())  # once a process
    row, = session.explain()
    assert (row.names, row.operator, row.provider, row.reason) == (("q",), "Mul", "ReferenceExecutionProvider", "the C engine is not built here")
    assert "Mul" in str(session.explain()) and "the C engine is not built" in str(session.explain())
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert sardonyx.get_available_providers()[-1] == "CPUExecutionProvider"
    assert set(onnxruntime.get_all_providers()) <= set(sardonyx.get_all_providers()) and sardonyx.get_all_providers()[-1] == "CPUExecutionProvider"


def test_strict_sessions_refuse_to_fall_back(no_engine: None) -> None:
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for providers in (None, ["cpu"], ["cuda"], ["cuda", "cpu"]):
        with pytest.raises(errors.EPFail) as caught:
            sardonyx.InferenceSession(models.branches(), options, providers=providers)
        for word in ("fallback", "Add", "adder", "C engine" if providers != ["cuda"] else "CUDAExecutionProvider"):
            assert word in str(caught.value)
    assert open_(models.scaled(), options).get_providers() == REFERENCE


@pytest.mark.parametrize(("providers", "options", "words"), [
    (["NopeExecutionProvider"], None, "known are TensorrtExecutionProvider"), ([5], None, "strings or"), ([("cpu",)], None, "tuples"), ([("cpu", "x")], None, "tuples"),
    (["cpu"], [], "same length"), ([("cpu", {})], [{"a": 1}], "Only string values")])
def test_wrong_providers(providers: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sardonyx.InferenceSession(models.scaled(), providers=providers, provider_options=options)


def test_provider_options_and_change() -> None:
    session = quiet(["cpu"], provider_options=[{"threads": 2}])
    assert session.get_provider_options() == {"CPUExecutionProvider": {"threads": "2"}}
    session.set_providers(["reference"])
    assert session.get_providers() == REFERENCE
    assert session.run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [2, 2, 2]
    options = sardonyx.SessionOptions()
    options.add_provider("reference", {})
    assert sardonyx.InferenceSession(models.scaled(), options).get_providers() == REFERENCE
    group, = session.get_provider_graph_assignment_info()
    assert group.ep_name == REFERENCE[0] and [n.op_type for n in group.get_nodes()] == ["Mul"]


# -- options ----------------------------------------------------------------------------------------------------------------------------------

def test_options_are_checked() -> None:
    for kind, other in ((sardonyx.SessionOptions, onnxruntime.SessionOptions), (sardonyx.RunOptions, onnxruntime.RunOptions)):
        for options in (kind(), other()):
            with pytest.raises(AttributeError):
                options.no_such_option = 1
            with pytest.raises(TypeError):
                options.log_severity_level = "a"
            with pytest.raises(TypeError):
                options.logid = 5
    for options in (sardonyx.SessionOptions(), onnxruntime.SessionOptions()):
        options.add_session_config_entry("a", "b")
        assert options.get_session_config_entry("a") == "b"
        for bad in ("", "x" * 2000):
            with pytest.raises(RuntimeError):
                options.add_session_config_entry(bad, "1")
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("missing")
    mine = sardonyx.SessionOptions()
    mine.graph_optimization_level = 99
    assert mine.graph_optimization_level is sardonyx.GraphOptimizationLevel.ORT_ENABLE_ALL
    with pytest.raises(ValueError):
        mine.graph_optimization_level = 5
    with pytest.raises(TypeError):
        open_(models.scaled(), "options")
    session = open_(models.scaled(), mine)
    mine.logid = "later"
    assert session.get_session_options().logid == ""
    with pytest.raises(errors.NotImplemented):
        mine.register_custom_ops_library("custom.so")
    with pytest.warns(UserWarning, match="unknown argument 'foo'"):
        open_(models.scaled(), foo=1)


@pytest.mark.parametrize(("name", "size"), [("batch", 2), ("nope", 2)])
def test_free_dimensions(name: str, size: int) -> None:
    sessions = []
    for module, opener in ((onnxruntime, theirs), (sardonyx, open_)):
        options = module.SessionOptions()
        options.add_free_dimension_override_by_name(name, size)
        options.add_free_dimension_override_by_denotation("DATA_BATCH", 1)
        sessions.append(opener(models.add_mul(), options))
    shapes = [[a.shape for a in (*s.get_inputs(), *s.get_outputs())] for s in sessions]
    assert shapes[0] == shapes[1]
    if name == "batch":
        for session in sessions:
            with pytest.raises(Exception, match="Got invalid dimensions for input: x"):
                session.run(None, {"x": X[:1], "y": X})


def test_shared_initializers() -> None:
    shared = sardonyx.OrtValue.ortvalue_from_numpy(np.array([9], np.float32))
    options = sardonyx.SessionOptions()
    options.add_initializer("w", shared)
    options.add_external_initializers(["unused"], [shared])
    session = open_(models.scaled(), options)
    assert session.run(None, {"x": np.ones(3, np.float32)})[0].tolist() == [9, 9, 9]
    with pytest.raises(ValueError, match="already been added"):
        options.add_initializer("w", shared)
    wrong = sardonyx.SessionOptions()
    wrong.add_initializer("w", sardonyx.OrtValue.ortvalue_from_numpy(np.ones(2)))
    with pytest.raises(ValueError, match=r"float\[1\].*double\[2\]"):
        open_(models.scaled(), wrong)
    cancelled = sardonyx.SessionOptions()
    cancelled.set_load_cancellation_flag(True)
    with pytest.raises(errors.Fail, match="cancelled"):
        open_(models.scaled(), cancelled)


def test_seed() -> None:
    def draws() -> list[Any]:
        sardonyx.set_seed(7)
        session = open_(models.noise())
        return [session.run(None, {})[0].tolist() for _ in range(2)]
    first, second = draws(), draws()
    assert first == second and first[0] != first[1]


# -- threads ---------------------------------------------------------------------------------------------------------------------------------

def test_terminate_from_another_thread() -> None:
    session, options = open_(models.endless()), sardonyx.RunOptions()
    timer = threading.Timer(0.2, lambda: setattr(options, "terminate", True))
    timer.start()
    with pytest.raises(errors.Fail, match="terminate"):
        session.run(None, {"x": np.ones(1, np.float32)}, options)
    with pytest.raises(errors.Terminated):
        session.run(None, {"x": np.ones(1, np.float32)}, options)
    with pytest.raises(TypeError):
        session.run(None, {"x": np.ones(1, np.float32)}, "options")


def asynchronous(session: Any, names: Any, feed: Any, options: Any = None) -> Any:
    done, got = threading.Event(), []

    def callback(results: Any, data: Any, error: str) -> None:
        got.append((results, data, error, threading.get_ident()))
        done.set()
    session.run_async(names, feed, callback, "mine", options)
    assert done.wait(10)
    return got[0]


def test_run_async() -> None:
    for session in (open_(models.add_mul()), theirs(models.add_mul())):
        results, data, error, thread = asynchronous(session, ["q"], {"x": X, "y": X})
        assert data == "mine" and error == "" and thread != threading.get_ident()
        np.testing.assert_array_equal(results[0], 4 * X)
        assert asynchronous(session, ["nope"], {"x": X, "y": X})[0] == []
        assert "Invalid output name" in asynchronous(session, ["nope"], {"x": X, "y": X})[2]
        assert "Invalid rank" in asynchronous(session, None, {"x": X[0], "y": X})[2]
        with pytest.raises(ValueError, match="Required inputs"):
            session.run_async(None, {"x": X}, print, None)
        with pytest.raises(TypeError):
            session.run_async(None, {"x": X, "y": X}, 5, None)
    options = sardonyx.RunOptions()
    threading.Timer(0.2, lambda: setattr(options, "terminate", True)).start()
    assert "terminate" in asynchronous(open_(models.endless()), None, {"x": np.ones(1, np.float32)}, options)[2]


def test_threads_share_a_session() -> None:
    session, wrong = open_(models.branches()), []

    def work(number: int) -> None:
        x = np.full((number + 1, 3), number, np.float32)
        for turn in range(50):
            sign = turn % 2 == 0
            out, = session.run(None, {"x": x, "y": x, "c": np.array(sign)})
            if out.shape != x.shape or not (out == (2 if sign else -2) * number).all():
                wrong.append((number, turn))
    at_once(4, work)
    assert not wrong


def test_close() -> None:
    with open_(models.add_mul()) as session:
        binding = session.io_binding()
        assert session.run(["q"], {"x": X, "y": X})
    session.close()
    session.close()
    for use in (lambda: session.run(None, {"x": X, "y": X}), lambda: session.run_async(None, {"x": X, "y": X}, print, None), session.explain, lambda: session.set_providers(["cpu"]),
                lambda: session.run_with_ort_values(None, {n: sardonyx.OrtValue.ortvalue_from_numpy(X) for n in "xy"})):
        with pytest.raises(errors.NoModel, match="closed"):
            use()
    binding.bind_cpu_input("x", X)
    assert session.get_inputs()[0].name == "x"


def test_close_lets_a_run_finish() -> None:
    session, options, got = open_(models.endless()), sardonyx.RunOptions(), []

    def work() -> None:
        try:
            session.run(None, {"x": np.ones(1, np.float32)}, options)
        except Exception as error:
            got.append(error)
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: session._gate._active)
    session.close()
    with pytest.raises(errors.NoModel):
        session.run(None, {"x": np.ones(1, np.float32)})
    assert thread.is_alive()
    options.terminate = True
    thread.join(SECONDS)
    assert [type(e) for e in got] == [errors.Terminated]


def test_a_failing_node_is_named() -> None:
    session = open_(models.add_mul())
    with pytest.raises(errors.RuntimeException, match="adder"):
        session.run(None, {"x": X, "y": np.ones((5, 3), np.float32)})
    assert session.run(["q"], {"x": X, "y": X})


# -- profiles -----------------------------------------------------------------------------------------------------------------------------------

def test_profile(tmp_path: Path) -> None:
    rows = []
    for module, opener in ((onnxruntime, theirs), (sardonyx, open_)):
        options = module.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / module.__name__)
        session = opener(models.branches(), options)
        now = time.time_ns()
        assert abs(session.get_profiling_start_time_ns() - now) < 60e9
        session.run(None, {"x": X, "y": X, "c": np.array(False)})
        path = session.end_profiling()
        assert Path(path).name.startswith(module.__name__ + "_") and path.endswith(".json") and session.end_profiling() == ""
        rows.append(json.loads(Path(path).read_text()))
        session.run(None, {"x": X, "y": X, "c": np.array(False)})
    expected, made = rows
    assert set(made[0]) == set(expected[0])
    def names(events: Any, category: str) -> set[str]:
        return {e["name"] for e in events if e["cat"] == category}
    assert names(made, "Node") == names(expected, "Node") == {"adder_kernel_time", "choose_kernel_time", "negate_kernel_time"}
    assert names(made, "Session") == names(expected, "Session") - {"SequentialExecutor::Execute"}
    add, other = ({**e["args"]} for events in (made, expected) for e in events if e["name"] == "adder_kernel_time")
    assert {k: add[k] for k in ("op_name", "input_type_shape", "output_type_shape")} == {k: other[k] for k in ("op_name", "input_type_shape", "output_type_shape")}
    plain = open_(models.scaled())
    assert plain.get_profiling_start_time_ns() == 0 and plain.end_profiling() == ""


@pytest.mark.parametrize("stored", [False, True])
def test_profile_of_the_engine_names_kernels_and_rates(stored: bool, tmp_path: Path) -> None:
    """Every step with the nodes it came from, its kernel, and operations and bytes over its time: planned from an .onnx, and from the programs of an .sdx."""
    options = sardonyx.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "engine")
    weights = np.ones((64, 48), np.float32)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = onnx.helper.make_graph([node], "g", [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
                                   [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [onnx.numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]).SerializeToString()
    if stored:
        sardonyx.convert(model, file := io.BytesIO())
        model = file.getvalue()
    session = sardonyx.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones((7, 64), np.float32)})
    steps = [e for e in json.loads(Path(session.end_profiling()).read_text()) if e["cat"] == "Node"]
    assert [e["name"] for e in steps] == ["product_kernel_time"]
    args = steps[0]["args"]
    assert (args["kernel"], args["operations"], args["bytes"], args["provider"]) == ("matmul", 2 * 7 * 64 * 48, 4 * (7 * 64 + 64 * 48 + 7 * 48), "CPUExecutionProvider")
    assert args["gflops"] > 0 and args["gbytes_per_second"] > 0


@pytest.mark.parametrize("stored", [False, True])
def test_profile_of_sizes_that_data_decide(stored: bool, tmp_path: Path) -> None:
    """Rates of the program behind a NonZero are those of what it found: 3 places, then 5."""
    options = sardonyx.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "engine")
    nodes = [onnx.helper.make_node("NonZero", ["x"], ["places"]), onnx.helper.make_node("Transpose", ["places"], ["rows"]), onnx.helper.make_node("Cast", ["rows"], ["numbers"], to=TensorProto.FLOAT),
             onnx.helper.make_node("MatMul", ["numbers", "w"], ["y"], name="product")]
    graph = onnx.helper.make_graph(nodes, "g", [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])], [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                                   [onnx.numpy_helper.from_array(np.ones((1, 8), np.float32), "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]).SerializeToString()
    if stored:
        sardonyx.convert(model, file := io.BytesIO())
        model = file.getvalue()
    session = sardonyx.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for count in (3, 5):
        session.run(None, {"x": (np.arange(9) < count).astype(np.float32)})
    steps = [e["args"] for e in json.loads(Path(session.end_profiling()).read_text()) if e["cat"] == "Node"]
    assert [a["operations"] for a in steps if a["kernel"] == "matmul"] == [2 * 3 * 8, 2 * 5 * 8]
    assert all("gbytes_per_second" in a for a in steps)


# -- the process ----------------------------------------------------------------------------------------------------------------------------------

def test_environment(capsys: Any) -> None:
    assert sardonyx.get_device() == onnxruntime.get_device() == "CPU"
    assert sardonyx.has_collective_ops() is False
    assert "1.32.0" in sardonyx.get_build_info() and sardonyx.__version__ in sardonyx.get_build_info() and sardonyx.get_version_string() == sardonyx.__version__
    sardonyx.enable_telemetry_events()
    sardonyx.disable_telemetry_events()
    for module in (sardonyx, onnxruntime):
        with pytest.raises(RuntimeError):
            module.set_default_logger_severity(9)
        with pytest.raises(TypeError):
            module.set_seed("a")
        with pytest.raises(TypeError):
            module.set_default_logger_severity("a")
    sardonyx.print_debug_info()
    assert "numpy" in capsys.readouterr().out
    seen: list[Any] = []
    sardonyx.set_default_logger_callback(lambda *record: seen.append(record), 2)
    try:
        quiet(["cuda", "reference"])
    finally:
        sardonyx.set_default_logger_callback(None)
    assert len(seen) == 1 and seen[0][0] == 2 and "CUDAExecutionProvider" in seen[0][4]
    sardonyx.set_default_logger_severity(2)
    device, = sardonyx.get_ep_devices()
    assert device.ep_name == "CPUExecutionProvider" and device.device.type == sardonyx.OrtHardwareDeviceType.CPU


def test_unknown_rank_is_not_checked() -> None:
    session = open_(models.identity(TensorProto.FLOAT, None))
    for shape in ((), (2,), (2, 0, 3)):
        assert session.run(None, {"x": np.zeros(shape, np.float32)})[0].shape == shape
