"""A node of a com.microsoft operator by onnxruntime, by our NumPy body and by the engine, and the check that they agree."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.dim import Expr, fresh_scope, substitute, symbol
from sardonyx.ops import Spec, lookup
from sardonyx.types import DType

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

DOMAIN = "com.microsoft"
KNOWN = 8  # integer vectors up to this many elements are known to the rules, as constants would be


def real(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> np.ndarray:
    """Reproducible float32 values."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def whole(*shape: int, seed: int = 0, dtype: Any = np.uint8, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Reproducible integers over the type's range, or in [low, high)."""
    limits = np.iinfo(dtype)
    return np.random.default_rng([seed, *shape]).integers(limits.min if low is None else low, limits.max + 1 if high is None else high, shape).astype(dtype)


def scalar(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(value, dtype)


def ints(*values: int, dtype: Any = np.int32) -> np.ndarray:
    return np.array(values, dtype)


def one_node(op: str, inputs: list[Any], attributes: dict[str, Any], results: list[np.ndarray], domain: str, constants: tuple[int, ...]) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of one node, and what to feed it."""
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, [f"o{k}" for k in range(len(results))], domain=domain, **attributes)

    def info(name: str, value: np.ndarray, shape: Any) -> Any:
        return onnx.helper.make_tensor_value_info(name, int(DType.of(value)), shape)
    fed = {f"i{k}": v for k, v in enumerate(inputs) if v is not None and k not in constants}
    fixed = [onnx.numpy_helper.from_array(inputs[k], f"i{k}") for k in constants if inputs[k] is not None]
    graph = onnx.helper.make_graph([node], "case", [info(n, v, v.shape) for n, v in fed.items()], [info(f"o{k}", v, None) for k, v in enumerate(results)], fixed)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, 1)], ir_version=10)
    return model, fed


def peer(op: str, inputs: list[Any], attributes: dict[str, Any], results: list[np.ndarray], domain: str = DOMAIN, constants: tuple[int, ...] = ()) -> list[np.ndarray]:
    """onnxruntime's results of one node, on one thread; `constants` are the inputs it wants as initializers."""
    model, fed = one_node(op, inputs, attributes, results, domain, constants)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, fed)


def ours(op: str, inputs: list[Any], attributes: dict[str, Any], domain: str = DOMAIN) -> list[np.ndarray]:
    """The reference body's results."""
    with np.errstate(all="ignore"):
        made = lookup(domain, op)(*inputs, **attributes)
    return [np.asarray(v) for v in (made if isinstance(made, tuple) else (made,))]


def check_rule(op: str, inputs: list[Any], attributes: dict[str, Any], results: list[np.ndarray], domain: str) -> None:
    """The rule agrees with the results on plain, symbolic and unknown shapes."""
    sizes: dict[str, int] = {}

    def spec(k: int, v: Any, mode: str) -> Spec | None:
        if v is None:
            return None
        if v.ndim == 0 or (v.ndim == 1 and v.size <= KNOWN and v.dtype.kind == "i"):
            return Spec(DType.of(v), v.shape, v)
        if mode == "unknown":
            return Spec(DType.of(v))
        sizes.update({f"s{k}_{axis}": size for axis, size in enumerate(v.shape)})
        return Spec(DType.of(v), v.shape if mode == "plain" else tuple(symbol(f"s{k}_{axis}") for axis in range(v.ndim)))
    for mode in ("plain", "symbolic", "unknown"):
        with fresh_scope("t"):
            made = lookup(domain, op).shape_rule(*(spec(k, v, mode) for k, v in enumerate(inputs)), **attributes)
        for out, result in zip(made if isinstance(made, tuple) else (made,), results, strict=False):
            assert out.dtype == DType.of(result), mode
            if out.shape is None:
                assert mode != "plain"
                continue
            assert len(out.shape) == result.ndim, mode
            for size, expected in zip([substitute(d, sizes) for d in out.shape], result.shape, strict=True):
                assert size == expected or (isinstance(size, Expr) and (mode != "plain" or op == "Unique") and "?" in str(size)), f"{mode}: {out} is not {result.shape}"


def check(op: str, inputs: list[Any], attributes: dict[str, Any] | None = None, *, outputs: int = 1, domain: str = DOMAIN, tolerance: float = 2e-5, steps: int = 0,
          constants: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Ours equals onnxruntime's in dtype, shape and value (integers: within `steps`), and so does what the engine computes with no node left to NumPy; returns ours."""
    attributes = attributes or {}
    results = ours(op, inputs, attributes, domain)[:outputs]
    check_rule(op, inputs, attributes, results, domain)
    expected = peer(op, inputs, attributes, results, domain, constants)
    for made in (results, engine(op, inputs, attributes, results, domain, constants)):
        for mine, theirs in zip(made, expected, strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            if theirs.dtype.kind in "biu":
                assert np.abs(mine.astype(np.int64) - theirs.astype(np.int64)).max(initial=0) <= steps
            else:
                np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol=tolerance, atol=tolerance)
    return results


def engine(op: str, inputs: list[Any], attributes: dict[str, Any], results: list[np.ndarray], domain: str = DOMAIN, constants: tuple[int, ...] = ()) -> list[np.ndarray]:
    """The engine's results of one node, strictly: it refuses what it has no kernels for."""
    model, fed = one_node(op, inputs, attributes, results, domain, constants)
    strict = sardonyx.SessionOptions()
    strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    made: list[np.ndarray] = sardonyx.InferenceSession(model.SerializeToString(), strict, providers=["CPUExecutionProvider"]).run(None, fed)
    return made
