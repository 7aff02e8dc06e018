"""Products that round their factors to bfloat16 (session.enable_bf16): every layout exactly, with factors that are bfloat16 already; rounding against a NumPy model; what sessions and files say."""
from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.engine.binding import bfloat16_missing
from sardonyx.errors import InvalidArgument
from sardonyx.model.packing import Packing
from sardonyx.providers.bfloat16 import BFLOAT16
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.stored import StoredExecutor

from . import float_harness, test_conv, test_conv_forms, test_matmul

ISA = "avx512"
here = pytest.mark.skipif(bool(bfloat16_missing()), reason=bfloat16_missing() or "-")
rng = np.random.default_rng(5)


@pytest.fixture(params=[1, 2], ids=["panels", "words"])
def rounding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The kernels of float_harness round, on constants as files hold them or as words; the list says of each whether it did."""
    monkeypatch.setattr(float_harness, "BF16", request.param)
    monkeypatch.setattr(float_harness, "ROUNDED", [])
    return float_harness.ROUNDED


def rounded(x: np.ndarray) -> np.ndarray:
    """To bfloat16 and back; what is below the smallest normal number is 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.where(np.abs(x) < 2.0**-126, np.float32(0) * x, x).astype(ml_dtypes.bfloat16).astype(np.float64)
    return y


# -- layouts: factors of few bits, so that every sum is exact -----------------------------------------------------------------------------------

@here
@pytest.mark.parametrize("m,n,k", [*test_matmul.SIZES, (37, 70, 1537), (1, 33, 2305), (60, 300, 769)])
def test_matmul_layouts(rounding: list[bool], m: int, n: int, k: int) -> None:
    a, b = test_matmul.values(m, k), test_matmul.values(k, n)
    for epilogue in (False, True):
        test_matmul.check(ISA, a, b, float_harness.packed(b, Packing.MATRIX), epilogue)
        test_matmul.check(ISA, a, b, None, epilogue)
        test_matmul.check(ISA, a, test_matmul.values(n, k).T, None, epilogue)
    test_matmul.check(ISA, test_matmul.values(k, m).T, b)
    assert rounding[0] and all(rounding) == (m > 4)   # few rows times what is no constant stay float


@here
def test_matmul_strides_and_batches(rounding: list[bool]) -> None:
    test_matmul.test_random_shapes_and_strides(ISA)
    a, b = test_matmul.values(3, 2, 20, 30), test_matmul.values(2, 30, 40)
    test_matmul.check(ISA, a, np.broadcast_to(b, (3, 2, 30, 40)))
    assert any(rounding)


@here
@pytest.mark.parametrize("form", ["packed", "plain"])
def test_conv_layouts(rounding: list[bool], form: str) -> None:
    test_conv.test_random(ISA, form)
    test_conv.test_lines_copied_for_all_tasks(ISA, form)
    assert sum(rounding) > len(rounding) / 4


@here
def test_conv_shapes_of_real_models(rounding: list[bool]) -> None:
    test_conv.test_shapes_of_real_models(ISA)
    test_conv_forms.test_channels_first(ISA)
    test_conv.test_empty(ISA)
    test_conv.check(ISA, test_conv.values(1, 130, 9, 11), test_conv.values(40, 65, 3, 3), 2, pads=[1, 1])   # two groups, K odd
    assert any(rounding)


# -- rounding -------------------------------------------------------------------------------------------------------------------------------------

def product(a: np.ndarray, b: np.ndarray, constant: bool = True) -> np.ndarray:
    y = np.full((a.shape[0], b.shape[1]), 77, np.float32)
    float_harness.run("matmul", ISA, [a, float_harness.packed(b, Packing.MATRIX) if constant else b], [y], [-1, -1])
    return y


@here
@pytest.mark.parametrize("m,n,k", [(1, 40, 900), (5, 16, 1), (30, 100, 333), (64, 64, 2048), (13, 300, 800)])
def test_rounds_factors_and_adds_in_float(rounding: list[bool], m: int, n: int, k: int) -> None:
    """Against a model that rounds factors and adds exactly: float32's error of K additions. Against float64: 2^-7 of Σ|a·b| at most, and 2^-8 · √K of a typical product."""
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    y, size = product(a, b), np.abs(rounded(a)) @ np.abs(rounded(b))
    assert (np.abs(y - rounded(a) @ rounded(b)) <= (k + 4) * 2.0**-24 * size).all()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert (np.abs(y - exact) <= 2.0**-7 * (np.abs(a).astype(np.float64) @ np.abs(b)) + 1e-30).all()
    assert k < 100 or float(np.sqrt(np.mean((y - exact) ** 2))) < 2.0**-8 * k**0.5
    if m > 4:
        assert product(a, b, constant=False).tobytes() == y.tobytes()   # wherever B comes from


@here
def test_ties_and_ends_of_the_range(rounding: list[bool]) -> None:
    """Every halfway case rounds to even; small numbers vanish, large ones become infinite; NaN and infinities go through."""
    high = np.arange(0x0080, 0x7F80, 5, dtype=np.uint32) << 16
    x = np.concatenate([high, high | 0x8000, high | 0x7FFF, high | 0x8001]).view(np.float32)
    x = np.concatenate([x, -x, np.float32([0.0, -0.0, 1e-40, -1e-40, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38])]).astype(np.float32)
    x = x[:len(x) // 8 * 8].reshape(-1, 8)
    with np.errstate(invalid="ignore"):
        want = rounded(x)
    y = np.stack([product(x, np.eye(8, dtype=np.float32)[:, j:j + 1])[:, 0] for j in range(8)], 1)
    bad = ~np.isfinite(want).all(1)   # an infinity times 0 is NaN
    np.testing.assert_array_equal(y[~bad], want[~bad].astype(np.float32))
    assert np.isnan(y[bad]).any(1).all()
    a = np.float32([[np.inf, 1], [np.nan, 1], [1, 2], [-np.inf, 0], [3e38, 3e38]])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(product(a, np.ones((2, 3), np.float32))[:, 1], np.float32([np.inf, np.nan, 3, -np.inf, np.inf]))


# -- sessions -------------------------------------------------------------------------------------------------------------------------------------

def model() -> tuple[bytes, np.ndarray, np.ndarray]:
    """A 1×1 convolution, a MatMul and a Gemm with constants."""
    g = np.random.default_rng(1)
    w, b, c = g.standard_normal((64, 32, 1, 1), np.float32), g.standard_normal((64, 48), np.float32), g.standard_normal((40, 48), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Flatten", ["r"], ["f"], axis=2), helper.make_node("Reshape", ["f", "s"], ["q"]),
             helper.make_node("MatMul", ["q", "b"], ["p"]), helper.make_node("Gemm", ["p", "c"], ["y"], transB=1)]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 7, 5])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(t, n) for n, t in (("w", w), ("b", b), ("c", c), ("s", np.int64([-1, 64])))])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x = g.standard_normal((1, 32, 7, 5), np.float32)
    f = np.maximum(np.einsum("mc,chw->mhw", rounded(w[:, :, 0, 0]), rounded(x[0])), 0).astype(np.float32).reshape(-1, 64)
    p = (rounded(f) @ rounded(b)).astype(np.float32)
    return made.SerializeToString(), x, rounded(p) @ rounded(c).T


def opened(source: Any, value: str = "1", threads: int = 0, profile: Path | None = None) -> sardonyx.InferenceSession:
    options = sardonyx.SessionOptions()
    options.intra_op_num_threads = threads
    if value:
        options.add_session_config_entry(BFLOAT16, value)
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "p")
    return sardonyx.InferenceSession(source, options)


@here
@pytest.mark.parametrize("stored", [False, True])
def test_sessions_do_and_say_so(stored: bool, tmp_path: Path) -> None:
    raw, x, want = model()
    source: Any = raw
    if stored:
        source = tmp_path / "m.sdx"
        sardonyx.convert(raw, source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session, plain = opened(source, profile=tmp_path), opened(source, "")
    assert isinstance(session._executor, StoredExecutor if stored else EngineExecutor)
    y = session.run(None, {"x": x})[0]
    scale = float(np.abs(want).max())
    assert np.abs(y - want).max() < 2e-3 * scale   # a sum at the middle of two bfloat16 may round either way
    full = plain.run(None, {"x": x})[0]
    assert y.tobytes() != full.tobytes() and 1e-4 * scale < np.abs(y - full).max() < 3e-2 * scale
    assert y.tobytes() == opened(source, threads=1).run(None, {"x": x})[0].tobytes()
    assert full.tobytes() == opened(source, "0").run(None, {"x": x})[0].tobytes()
    assert "round their factors to bfloat16" in str(session.explain()) and session.explain().notes and not plain.explain().notes
    events = [e for e in json.loads(Path(session.end_profiling()).read_text()) if e.get("args", {}).get("kernel")]
    assert {e["args"]["kernel"] for e in events if e["args"].get("arithmetic") == "bfloat16"} == {"matmul", "conv"}
    assert all("arithmetic" not in e["args"] for e in events if e["args"]["kernel"] not in ("matmul", "conv"))


def test_machines_without_it_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARDONYX_BF16", "0")
    raw, x, _ = model()
    with pytest.warns(UserWarning, match="no AVX512_BF16.*float32"):
        session = opened(raw)
    assert "computed in float32" in str(session.explain())
    assert session.run(None, {"x": x})[0].tobytes() == opened(raw, "").run(None, {"x": x})[0].tobytes()


def test_other_values_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="session.enable_bf16.*'yes'"):
        opened(model()[0], "yes")
