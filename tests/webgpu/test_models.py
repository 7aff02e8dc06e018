"""Small models end to end on the device: through planned programs and through sessions, with sizes that change."""
from __future__ import annotations

import gc
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import parser
from sardonyx.converter.onnx import load_model
from sardonyx.errors import EPFail, InvalidArgument
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceExecutor

from tests.engine.test_sizes import slicing
from tests.models import test_public_models as public
from tests.models.generated import bert_layer, mobilenet_v2
from tests.models.inputs import SCRIPTS, play
from tests.models.registry import light_models

from .paper import recorded

RNG = np.random.default_rng(11)


@pytest.fixture
def lavapipe(device: Any) -> Any:
    """Sessions open the process's own device, which is lavapipe whatever this parameter is: once is enough."""
    if device.adapter.name.startswith("SwiftShader"):
        pytest.skip("sessions open lavapipe")
    return device


MLP = """g (float[batch, 20] x) => (float[batch, 5] y) <float[20, 32] w1 = {%s}, float[32] b1 = {%s}, float[32, 5] w2 = {%s}> {
    a = MatMul(x, w1) b = Add(a, b1) c = Gelu(b) d = MatMul(c, w2) y = Softmax<axis = 1>(d) }"""
CONV = """g (float[batch, 3, 12, 12] x, float[8, 3, 3, 3] w, float[8] b, float[8, 1, 3, 3] v, float[16, 8, 1, 1] u) => (float[batch, 16] y) {
    a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b) r = Relu(a) d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, v) e = Clip(d, low, high) s = Add(e, r)
    p = Conv(s, u) q = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(p) m = GlobalAveragePool(q) y = Flatten(m) }"""
BERT = """g (float[batch, seq, 24] x, int64[batch, seq] mask, float[24, 72] wq, float[24, 24] wo, float[24, 48] w1, float[48, 24] w2, float[24] s, float[24] t) => (float[batch, seq, 24] y) {
    qkv = MatMul(x, wq) q, k, v = Split<axis = 2, num_outputs = 3>(qkv)
    q4 = Reshape(q, heads) k4 = Reshape(k, heads) v4 = Reshape(v, heads)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4) kt = Transpose<perm = [0, 2, 3, 1]>(k4) vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    scores = MatMul(qt, kt) scaled = Mul(scores, factor)
    m3 = Unsqueeze(mask, axes) m = Cast<to = 1>(m3) flipped = Sub(one, m) bias = Mul(flipped, large) masked = Add(scaled, bias)
    p = Softmax<axis = -1>(masked) c = MatMul(p, vt) ct = Transpose<perm = [0, 2, 1, 3]>(c) merged = Reshape(ct, flat)
    o = MatMul(merged, wo) r = Add(o, x) n = LayerNormalization<axis = -1>(r, s, t)
    h = MatMul(n, w1) e = Gelu(h) f = MatMul(e, w2) z = Add(f, n) y = LayerNormalization<axis = -1>(z, s, t) }"""


def model(text: str, *constants: str) -> bytes:
    """ONNX bytes of a graph in onnx's text form; constants go after its inputs."""
    if constants:
        head, _, body = text.partition("{\n    ")
        text = f"{head}<{', '.join(constants)}> {{\n    {body}"
    return parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}').SerializeToString()  # type: ignore[no-any-return]


def floats(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.3).astype(np.float32)


def written(*shape: int) -> str:
    return ", ".join(f"{x:.6g}" for x in floats(*shape).ravel())


@cache
def mlp() -> bytes:
    return model(MLP % (written(20, 32), written(32), written(32, 5)))


def conv() -> bytes:
    return model(CONV, "float low = {0}", "float high = {6}")


def bert() -> bytes:
    return model(BERT, "int64[4] heads = {0, 0, 4, 6}", "int64[3] flat = {0, 0, 24}", "float factor = {0.408}", "float one = {1}", "float large = {-10000}", "int64[2] axes = {1, 2}")


def bert_weights() -> list[np.ndarray]:
    return [floats(24, 72), floats(24, 24), floats(24, 48), floats(48, 24), floats(24) + 1, floats(24)]


def check(executor: Any, data: bytes, inputs: list[np.ndarray]) -> None:
    mine = executor.run(inputs, [0], RunContext())[0]
    wanted = ReferenceExecutor(load_model(data)).run(inputs, [0], RunContext())[0]
    np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-5)


def test_mlp_of_any_batch(variant: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    executor = WebGpuExecutor(variant, load_model(mlp()), strict=True)
    for batch in (3, 4, 1, 17, 32):
        check(executor, mlp(), [floats(batch, 20)])
    executor.close()


def test_conv_block_of_any_batch(variant: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = conv()
    executor = WebGpuExecutor(variant, load_model(data), strict=True)
    weights = [floats(8, 3, 3, 3), floats(8), floats(8, 1, 3, 3), floats(16, 8, 1, 1)]
    for batch in (2, 1, 5):
        check(executor, data, [floats(batch, 3, 12, 12), *weights])
    executor.close()


def test_bert_layer_and_new_sizes_compile_nothing(variant: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = bert()
    executor = WebGpuExecutor(variant, load_model(data), strict=True)
    weights = bert_weights()

    def run(batch: int, seq: int) -> None:
        mask = (RNG.random((batch, seq)) > 0.2).astype(np.int64)
        mask[:, 0] = 1
        check(executor, data, [floats(batch, seq, 24), mask, *weights])
    run(2, 13)
    compiled = variant.compiled
    for size in ((2, 9), (2, 16), (1, 1), (5, 70), (2, 13)):
        run(*size)
    assert variant.compiled == compiled, "a size compiled a pipeline"
    executor.close()


#: Public models that take a few seconds on a software adapter; `make test-all` runs the others too.
QUICK = ("magika", "silero-vad-half", "silero-vad-op15", "tashkeel-rawi", "romanizer-encoder", "romanizer-decoder", "surfaces-gradient-boosting", "surfaces-k-neighbors",
         "surfaces-k-neighbors-validity")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in (*SCRIPTS, *sorted(light_models()))])
def test_public_model_with_fallback_disabled(lavapipe: Any, name: str) -> None:
    """From a session, strict: no node runs on NumPy, but integer shape tensors of at most 64 elements."""
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with sardonyx.InferenceSession(public._path(name), options, providers=["WebGpuExecutionProvider"]) as session:
        found, wanted = play(public._script(name, session), lambda feed: session.run(None, feed)), public.expected(name)
        assert session.get_providers()[0] == "WebGpuExecutionProvider"
    public.agree(name, found, wanted)


@pytest.mark.parametrize(("build", "most"), [(mobilenet_v2, 56), (bert_layer, 10)], ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("cpu", [False, True], ids=["gpu", "software"])
def test_dispatches(build: Any, most: int, cpu: bool, tmp_path: Path) -> None:
    """Bias, activations, residuals and normalisations are epilogues; transposes and reshapes are views; attention is one dispatch."""
    build(tmp_path / "model.onnx")
    labels = [d.label for _, recording, _ in recorded(tmp_path / "model.onnx", cpu) for d in recording.dispatches]
    assert 0 < len(labels) <= most, "\n".join(labels)


def test_runs_leak_no_buffer(device: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    gc.collect()
    before = device.buffers
    data = mlp()
    executor = WebGpuExecutor(device, load_model(data), strict=True)
    check(executor, data, [floats(3, 20)])
    after_one = device.buffers
    for i in range(200):
        executor.run([floats(3 + i % 2, 20)], [0], RunContext())
    assert device.buffers == after_one
    executor.close()
    del executor
    gc.collect()
    assert device.buffers == before


def test_equal_models_share_pipelines_and_sizes_repeat(device: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = mlp()
    first = WebGpuExecutor(device, load_model(data))
    check(first, data, [floats(3, 20)])
    compiled = device.compiled
    second = WebGpuExecutor(device, load_model(data))
    check(second, data, [floats(3, 20)])
    check(first, data, [floats(3, 20)])
    assert device.compiled == compiled


def test_session(device: Any) -> None:
    assert ("WebGpuExecutionProvider" in sardonyx.get_available_providers()) is not device.adapter.is_cpu
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = sardonyx.InferenceSession(mlp(), options, providers=["WebGpuExecutionProvider"])
    x = floats(3, 20)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].sum(1), np.ones(3), rtol=1e-5)


def test_options_that_mean_nothing(own: Any) -> None:
    """A value that is none is refused, though another provider is listed; a name that is none is said."""
    for providers in (["CPUExecutionProvider"], []):
        with pytest.raises(InvalidArgument, match="'f32' or 'f16', not 'f8'"):
            sardonyx.InferenceSession(mlp(), providers=[("WebGpuExecutionProvider", {"precision": "f8"}), *providers])
    with pytest.warns(UserWarning, match="WebGpuExecutionProvider: the options precison have no effect .it has 'precision'"):
        session = sardonyx.InferenceSession(mlp(), providers=[("WebGpuExecutionProvider", {"precison": "f16", "precision": "f32"})])
    x = floats(3, 20)
    np.testing.assert_allclose(session.run(None, {"x": x})[0].sum(1), np.ones(3), rtol=1e-5)


def test_strict_refuses_doubles_by_name(device: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = model("g (double[3] x, double[3] y) => (double[3] z) {\n    z = Add(x, y) }")
    with pytest.raises(EPFail, match="fallback refused: .*Add.*double"):
        WebGpuExecutor(device, load_model(data), strict=True)
    loose = WebGpuExecutor(device, load_model(data))
    assert loose.run([np.ones(3), np.ones(3)], [0], RunContext())[0].tolist() == [2, 2, 2]
    assert "double" in loose.placements()[0].reason


def test_a_double_that_is_known_goes_to_the_host(device: Any) -> None:
    """Made at planning by a program without inputs, which the device can not hold: flexattention_double's scale."""
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = model("g (double[2, 3] x) => (double[2, 3] z) {\n    n = Size(x) d = Cast<to = 11>(n) r = Sqrt(d) z = Mul(x, r) }")
    executor = WebGpuExecutor(device, load_model(data))
    x = floats(2, 3).astype(np.float64)
    for _ in range(2):
        np.testing.assert_allclose(executor.run([x], [0], RunContext())[0], x * np.sqrt(6), rtol=1e-15)
    executor.close()


def test_host_and_device_segments_mix(device: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    data = model("g (float[n] x) => (double[n] z) {\n    a = Exp(x) b = Cast<to = 11>(a) c = Add(b, b) z = Sin(c) }")
    executor = WebGpuExecutor(device, load_model(data))
    x = floats(9)
    np.testing.assert_allclose(executor.run([x], [0], RunContext())[0], np.sin(2 * np.exp(x).astype(np.float64)), rtol=1e-5)


def test_elements_decide_sizes(device: Any) -> None:
    """Sizes that are elements of an input: bound anew for each of their values; inputs that only decide sizes may hold any number."""
    from sardonyx.webgpu.executor import WebGpuProgram
    executor = WebGpuProgram(device, slicing(), [])
    x = np.arange(100, dtype="f4")
    for start, count in ((0, 5), (3, 4), (-7, 2), (90, 90), (2**63 - 1, 2**63 - 1)):
        low = min(max(start, 0), 100)
        np.testing.assert_array_equal(executor.run([x, np.array([start, count])])[0], x[low:low + min(max(count, 0), 100)])
    executor.close()


def test_profiles_say_which_kernel_took_how_long(device: Any) -> None:
    from sardonyx.webgpu.provider import WebGpuExecutor
    executor = WebGpuExecutor(device, load_model(conv()), strict=True)
    inputs = [floats(2, 3, 12, 12), floats(8, 3, 3, 3), floats(8), floats(8, 1, 3, 3), floats(16, 8, 1, 1)]
    context = RunContext(events=[])
    made = executor.run(inputs, [0], context)[0]
    np.testing.assert_array_equal(made, executor.run(inputs, [0], RunContext())[0])
    assert context.events
    assert {"conv", "pool", "reduce"} <= {e.args["kernel"] for e in context.events}
    for event in context.events:
        assert event.args["provider"] == "WebGpuExecutionProvider" and event.duration >= 0
    if device.timestamps:
        assert sum(e.duration for e in context.events) > 0 and all("gflops" in e.args for e in context.events)
    executor.close()


DOUBLES = "g (float[n] x) => (double[n] z) {\n    a = Exp(x) b = Cast<to = 11>(a) c = Add(b, b) z = Sqrt(c) }"


@pytest.mark.parametrize("strict", ["0", "1"])
def test_what_wgsl_lacks_runs_on_the_engine_where_the_cpu_is_listed(own: Any, strict: str) -> None:
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", strict)
    session = sardonyx.InferenceSession(model(DOUBLES), options, providers=["WebGpuExecutionProvider", "CPUExecutionProvider"])
    for n in (9, 4, 300):
        x = floats(n)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.sqrt(2 * np.exp(x).astype(np.float64)), rtol=1e-6)
    where = {p.node.op_type: p.provider for p in session._executor.placements()}
    assert where == {"Exp": "WebGpuExecutionProvider", "Cast": "CPUExecutionProvider", "Add": "CPUExecutionProvider", "Sqrt": "CPUExecutionProvider"}
    assert "double" in str(session.explain())


def test_strict_without_the_cpu_refuses_the_engine(own: Any) -> None:
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(EPFail, match="fallback refused: .*double"):
        sardonyx.InferenceSession(model(DOUBLES), options, providers=["WebGpuExecutionProvider"]).run(None, {"x": floats(3)})


def test_a_tensor_on_the_device_reaches_the_engine(own: Any) -> None:
    session = sardonyx.InferenceSession(model("g (float[4] x) => (double[4] z) {\n    b = Cast<to = 11>(x) z = Add(b, b) }"), providers=["WebGpuExecutionProvider", "CPUExecutionProvider"])
    x = floats(4)
    made = session.run_with_ort_values(["z"], {"x": sardonyx.OrtValue.ortvalue_from_numpy(x, "webgpu")})[0]
    np.testing.assert_array_equal(made.numpy(), 2 * x.astype(np.float64))
