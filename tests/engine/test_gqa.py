"""GroupQueryAttention on the engine, strictly, against its NumPy body: first prompts, padded ones, decoding into caches that are full or have room, windows, rotary embedding."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import helper
from sardonyx.providers.stored import StoredExecutor

from tests.ops.contrib import ours
from tests.ops.test_contrib_attention import gqa

NAMES = ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]


@pytest.mark.parametrize("options", [{}, dict(packed_input=True), dict(rotary=True), dict(rotary=True, rotary_interleaved=1, packed_input=True), dict(local_window_size=3),
                                     dict(softcap=1.5), dict(scale=0.4), dict(causal=0)])
@pytest.mark.parametrize(("length", "ends", "total", "past"), [
    (5, [5, 5], 5, None), (5, [5, 3], 5, None), (1, [5, 3], 5, 4), (1, [5, 3], 5, 9), (3, [7], 7, 4), (3, [7], 7, 12), (1, [1], 1, 0), (1, [40], 40, 64),
])
def test_against_the_body(options: dict[str, Any], length: int, ends: list[int], total: int, past: int | None) -> None:
    inputs, attributes = gqa(length, ends, total, past, **options)
    expected = ours("GroupQueryAttention", inputs, attributes)
    given = {n: np.asarray(x) for n, x in zip(NAMES, inputs, strict=False) if x is not None}
    node = helper.make_node("GroupQueryAttention", [n if n in given else "" for n in NAMES[:len(inputs)]], ["y", "present_key", "present_value"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()],
                              [helper.make_tensor_value_info(n, 1, None) for n in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8).SerializeToString()
    strict = sardonyx.SessionOptions()
    strict.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    made = sardonyx.InferenceSession(model, strict, providers=["CPUExecutionProvider"]).run(None, given)
    for b, end in enumerate(ends):
        valid = min(length, end)
        np.testing.assert_allclose(made[0][b, :valid], expected[0][b, :valid], rtol=1e-4, atol=1e-5)
        for k in (1, 2):
            assert made[k].shape == expected[k].shape
            np.testing.assert_allclose(made[k][b, :, :end], expected[k][b, :, :end], rtol=1e-5, atol=1e-6)


def test_cache_grows_in_place() -> None:
    """Past and present bound to one OrtValue: a step writes its rows there, and copies nothing."""
    inputs, attributes = gqa(1, [6, 6], 6, 16, rotary=True)
    expected = ours("GroupQueryAttention", inputs, attributes)
    given = {n: np.asarray(x) for n, x in zip(NAMES, inputs, strict=False) if x is not None}
    node = helper.make_node("GroupQueryAttention", NAMES[:len(inputs)], ["y", "present_key", "present_value"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()],
                              [helper.make_tensor_value_info(n, 1, None) for n in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8).SerializeToString()
    session = sardonyx.InferenceSession(model, providers=["CPUExecutionProvider"])
    session.run(None, given)
    program = session._executor.latest.blocks.direct
    caches = {name: sardonyx.OrtValue.ortvalue_from_numpy(given[name].copy()) for name in ("past_key", "past_value")}
    memory = {name: value._array() for name, value in caches.items()}
    assert program is not None and {(program.program.strings[program.program.inputs[i].name], o) for i, o in program._in_place()} == {("past_key", 1), ("past_value", 2)}
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, caches.get(name) or sardonyx.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output("y")
    binding.bind_ortvalue_output("present_key", caches["past_key"])
    binding.bind_ortvalue_output("present_value", caches["past_value"])
    session.run_with_iobinding(binding)
    made = [value.numpy() for value in binding.get_outputs()]
    assert np.shares_memory(made[1], memory["past_key"]) and np.shares_memory(made[2], memory["past_value"])
    for a, e in zip(made, expected, strict=True):
        np.testing.assert_allclose(a if a.ndim < 4 else a[:, :, :6], e if e.ndim < 4 else e[:, :, :6], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made[1][:, :, 6:], given["past_key"][:, :, 6:])  # what lay behind stays


@pytest.mark.parametrize("order", [("y", "present_key", "present_value"), ("present_value", "y", "present_key"), ("present_key", "present_value")])
@pytest.mark.parametrize("stored", [False, True])
def test_bound_outputs_in_any_order(order: tuple[str, ...], stored: bool, tmp_path: Path) -> None:
    """Outputs bound in another order than the model's, or only some: the run still writes to the memory bound for them, and to each what is its own. Also where a file's programs run else."""
    inputs, attributes = gqa(1, [6, 6], 6, 16)
    expected = dict(zip(("y", "present_key", "present_value"), ours("GroupQueryAttention", inputs, attributes), strict=True))
    given = {n: np.asarray(x) for n, x in zip(NAMES, inputs, strict=False) if x is not None}
    node = helper.make_node("GroupQueryAttention", NAMES[:len(inputs)], ["y", "present_key", "present_value"], domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given.items()],
                              [helper.make_tensor_value_info(n, 1, None) for n in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10).SerializeToString()
    if stored:
        assert sardonyx.convert(model, tmp_path / "m.sdx").not_stored == ""
    session = sardonyx.InferenceSession(str(tmp_path / "m.sdx") if stored else model, providers=["CPUExecutionProvider"])
    assert isinstance(session._executor, StoredExecutor) == stored
    binding = session.io_binding()
    caches = {name: sardonyx.OrtValue.ortvalue_from_numpy(given[name].copy()) for name in ("past_key", "past_value")}
    for name, array in given.items():
        binding.bind_ortvalue_input(name, caches.get(name) or sardonyx.OrtValue.ortvalue_from_numpy(array))
    room = {"y": np.empty_like(expected["y"]), "present_key": caches["past_key"]._array(), "present_value": caches["past_value"]._array()}
    targets = {"present_key": caches["past_key"], "present_value": caches["past_value"], "y": sardonyx.OrtValue.ortvalue_from_numpy(room["y"])}
    room["y"] = targets["y"]._array()
    for name in order:
        binding.bind_ortvalue_output(name, targets[name])
    runner = session._executor
    made: list[Any] = []
    original = runner.run
    runner.run = lambda *a: made.extend(original(*a)) or made   # what the run itself made, before anything is copied
    session.run_with_iobinding(binding)
    for name, array, value in zip(order, made, binding.get_outputs(), strict=True):
        assert array is room[name] and value is targets[name]
        rows = (..., slice(0, 6), slice(None)) if array.ndim == 4 else ...
        np.testing.assert_allclose(array[rows], expected[name][rows], rtol=1e-4, atol=1e-5)


def test_outputs_on_other_inputs_are_written_after_the_run() -> None:
    """An output bound to the memory of an input that is still read: as if it were copied at the end."""
    graph = helper.make_graph([helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("Add", ["x", "t"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, ["n", "n"])],
                              [helper.make_tensor_value_info("y", 1, ["n", "n"])])
    session = sardonyx.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    value, binding = sardonyx.OrtValue.ortvalue_from_numpy(x.copy()), session.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_ortvalue_output("y", value)
    for _ in range(2):
        value._array()[...] = x
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(value.numpy(), x + x.T)
