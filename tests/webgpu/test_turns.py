"""Long loops on llvmpipe, which ends an invocation's loops after 65,535 turns of all of them and says nothing: a node whose loops are longer runs elsewhere, visibly, or is refused in strict sessions;
what runs on the GPU is right up to the last turn."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as h
import pytest
import sardonyx
from onnx import TensorProto as T
from sardonyx.dim import dim_min, symbol
from sardonyx.errors import EPFail, RuntimeException
from sardonyx.lowering import CannotLower
from sardonyx.webgpu.device import open_device, unavailable
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.wgsl.shader import Context, Shader
from sardonyx.webgpu.wgsl.turns import LOOPS

RNG = np.random.default_rng(7)
N = 200_000
WEBGPU, CPU = "WebGpuExecutionProvider", "CPUExecutionProvider"
REFUSED = "llvmpipe ends a shader's loops after 65,535 turns, and this one takes"


def model(nodes: list[Any], inputs: dict[str, list[Any]], kind: int = T.FLOAT, **constants: Any) -> bytes:
    given = [h.make_tensor_value_info(name, T.FLOAT, dims) for name, dims in inputs.items()]
    graph = h.make_graph(nodes, "g", given, [h.make_tensor_value_info("y", kind, None)], [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()])
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 23)], ir_version=11).SerializeToString()


def session(data: bytes, strict: bool = False) -> Any:
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(strict)))
    return sardonyx.InferenceSession(data, options, providers=[WEBGPU] if strict else [WEBGPU, CPU])


def refused(made: Any) -> dict[str, str]:
    """Operator → why it does not run on WebGPU."""
    return {p.node.op_type: p.reason for p in made._executor.placements() if p.provider != WEBGPU}


X, W = RNG.standard_normal((2, N)).astype(np.float32), RNG.standard_normal((N, 3)).astype(np.float32)
LONG: dict[str, tuple[list[Any], dict[str, Any], Any]] = {
    "CumSum": ([h.make_node("CumSum", ["x", "a"], ["y"])], {"a": np.int64(1)}, lambda: X.astype(np.float64).cumsum(1)),
    "TopK": ([h.make_node("TopK", ["x", "k"], ["y", "i"], axis=1)], {"k": np.array([5])}, lambda: -np.sort(-X, 1)[:, :5]),
    "MatMul": ([h.make_node("MatMul", ["x", "w"], ["y"])], {"w": W}, lambda: X.astype(np.float64) @ W),
    "Unique": ([h.make_node("Round", ["x"], ["r"]), h.make_node("Unique", ["r"], ["y"])], {}, lambda: np.unique(np.round(X))),
}


@pytest.fixture(autouse=True)
def llvmpipe() -> None:
    if why := unavailable():
        pytest.skip(why)
    if not open_device().adapter.counts:
        pytest.skip(f"{open_device().adapter.name} does not count turns")


@pytest.mark.parametrize("name", LONG)
def test_long_loops_are_refused(name: str) -> None:
    nodes, constants, wanted = LONG[name]
    data = model(nodes, {"x": list(X.shape)}, **constants)
    with pytest.raises(EPFail, match=REFUSED):
        session(data, strict=True)
    made = session(data)
    assert np.allclose(made.run(None, {"x": X})[0], wanted(), rtol=1e-4, atol=1e-2)
    assert REFUSED in refused(made)[name]


def test_only_the_run_knows() -> None:
    """One session: on the GPU while a run is short, elsewhere or refused where it is long, and on the GPU again."""
    data = model(LONG["CumSum"][0], {"x": ["b", "n"]}, a=np.int64(1))
    for strict in (False, True):
        made = session(data, strict)
        for size in (1000, N, 77, N):
            wanted = X[:, :size].astype(np.float64).cumsum(1)
            if strict and size == N:
                with pytest.raises(EPFail, match=REFUSED):
                    made.run(None, {"x": X})
                continue
            assert np.allclose(made.run(None, {"x": np.ascontiguousarray(X[:, :size])})[0], wanted, rtol=1e-4, atol=1e-2)
            assert ("CumSum" in refused(made)) is (size == N)


def test_sizes_that_data_decide() -> None:
    """How many there are is known when they have been counted; no name of a size stands for it."""
    data = model([h.make_node("Less", ["x", "most"], ["c"]), h.make_node("Compress", ["x", "c"], ["z"]), h.make_node("CumSum", ["z", "a"], ["y"])], {"x": ["n"]}, a=np.int64(0), most=np.float32(0.9))
    made = session(data)
    for size in (500, N):
        x = X[0, :size]
        assert np.allclose(made.run(None, {"x": x})[0], x[x < np.float32(0.9)].astype(np.float64).cumsum(), rtol=1e-4, atol=1e-2)


def test_keys_of_attention() -> None:
    """Every key costs a turn for each element of a head, twice."""
    data = model([h.make_node("Attention", ["q", "k", "v"], ["y"])], {"q": [1, 2, 8, 64], "k": [1, 2, "n", 64], "v": [1, 2, "n", 64]})
    made = session(data)
    for keys in (300, 800):
        q, k, v = (RNG.standard_normal((1, 2, size, 64)) for size in (8, keys, keys))
        scores = np.exp(q @ k.swapaxes(2, 3) / 8)
        feed = {name: x.astype(np.float32) for name, x in zip("qkv", (q, k, v), strict=True)}
        assert np.allclose(made.run(None, feed)[0], scores / scores.sum(-1, keepdims=True) @ v, rtol=1e-4, atol=1e-5)
        assert ("Attention" in refused(made)) is (keys == 800)
    made = session(model([h.make_node("Attention", ["q", "k", "v"], ["y"])], {"q": [1, 2, 8, 64], "k": [1, 2, 800, 64], "v": [1, 2, 800, 64]}), strict=True)
    assert np.allclose(made.run(None, feed)[0], scores / scores.sum(-1, keepdims=True) @ v, rtol=1e-4, atol=1e-5), "known sizes: four elements a turn"


@pytest.mark.parametrize("size", [LOOPS - 1, LOOPS])
def test_the_last_turn(size: int) -> None:
    """The turn in which a loop's condition fails counts: one round less than there are turns."""
    data = model(LONG["CumSum"][0], {"x": [2, size]}, a=np.int64(1))
    if size == LOOPS:
        with pytest.raises(EPFail, match=f"{REFUSED} 65,536"):
            session(data, strict=True)
        return
    x = X[:, :size]
    assert np.allclose(session(data, strict=True).run(None, {"x": np.ascontiguousarray(x)})[0], x.astype(np.float64).cumsum(1), rtol=1e-4, atol=1e-2)


def test_turns_that_data_decide() -> None:
    """A region's samples are as many as its pixels: 300 × 300 are said to be too many, 200 × 200 are right."""
    node = h.make_node("RoiAlign", ["x", "r", "b"], ["y"], output_height=1, output_width=1, sampling_ratio=0, coordinate_transformation_mode="output_half_pixel")
    made = session(model([node], {"x": [1, 1, 320, 320], "r": [1, 4]}, b=np.zeros(1, np.int64)), strict=True)
    x = RNG.standard_normal((1, 1, 320, 320)).astype(np.float32)
    for size in (300, 200, 300):
        feed = {"x": x, "r": np.array([[0, 0, size, size]], np.float32)}
        if size == 300:
            with pytest.raises(RuntimeException, match="llvmpipe ends a shader's loops after 65,535 turns, and these inputs ask for more"):
                made.run(None, feed)
        else:   # samples between pixels: the mean of four neighbours each
            around = (x[0, 0, :size, :size] + x[0, 0, 1:size + 1, :size] + x[0, 0, :size, 1:size + 1] + x[0, 0, 1:size + 1, 1:size + 1]) / 4
            assert np.allclose(made.run(None, feed)[0].item(), around.mean(dtype=np.float64), atol=1e-5)


# -- how turns are counted -----------------------------------------------------------------------------------------------------------------------

def shader(**more: Any) -> Shader:
    return Shader(Context(Limits(), True, counted=True, **more))


def counted(s: Shader) -> Any:
    assert s.turns is not None
    return s.turns.total


def test_heads_are_read() -> None:
    n = symbol("n")
    heads: list[tuple[Any, Any]] = [
        (lambda s: f"for (var i = 0; i < {s.param(n)}; i += 1)", n), (lambda s: f"for (var i = lane; i < {s.param(256)}; i += 64)", 4), (lambda s: "for (var i = 2; i <= 7; i += 1)", 6),
        (lambda s: "for (var h = 32; h > 0; h = h / 2)", 6), (lambda s: f"for (var i = 0; i < min({s.param(n)}, 5); i += {s.param(1)})", dim_min(n, 5)),
        (lambda s: f"for (var i = {s.let('lane / 16')}; i < {s.let(f'{s.param(n)} * 3 + 2')}; i += 1)", 3 * n + 2),
        (lambda s: f"for (var i = 0; i < min(4, {s.param(9)} - {s.let('group % 3 * 2')}); i += 1)", 4),
        (lambda s: f"for (var i = 0; i < {s.let('b0[lane]')}; i += 1)", 1),
    ]
    for head, rounds in heads:
        s = shader()
        with s.block(head(s)):
            s.add("x += 1;")
        assert counted(s) == rounds + 1, head(s)


def test_loops_inside_and_behind() -> None:
    s = shader()
    with s.function("far(x: i32) -> i32"), s.block("for (var i = 0; i < 10; i += 1)"):
        s.add("x += 1;")
    with s.block(f"for (var i = 0; i < {s.param(100)}; i += 1)"), s.block("if (far(i) > far(2))"):
        s.add("for (var j = 0; j < 3; j += 1) { far(j); }")
    s.add("let y = far(1);")
    assert counted(s) == 100 * (1 + 2 * 11 + 3 * (1 + 11) + 1) + 1 + 11 == 6012
    with s.block("for (var i = first; i < end; i += 1)", turns=7):
        s.add("x += 1;")
    assert counted(s) == 6012 + 8


def test_what_is_said_of_ranges() -> None:
    n = symbol("n")
    for uppers, refuses, later in (({}, False, True), ({"n": (0, 900)}, False, False), ({"n": (0, LOOPS)}, True, False), ({"n": (LOOPS, None)}, True, False)):
        s = shader(uppers=uppers)
        s.add(f"for (var i = 0; i < {s.param(n)}; i += 1) {{ x += 1; }}")
        if refuses:
            with pytest.raises(CannotLower, match=REFUSED):
                s.dispatch(1)
        else:
            assert (s.dispatch(1).turns is not None) is later


def test_other_drivers_do_not_count() -> None:
    s = Shader(Context(Limits(), True))
    s.add(f"for (var i = 0; i < {s.param(10**6)}; i += 1) {{ x += 1; }}")
    assert s.turns is None and s.dispatch(1).turns is None
