"""Caches of keys and values: decoding step by step against the NumPy bodies, with past and present in one buffer of the GPU (nothing copied) and in two (one copy)."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, parser
from sardonyx.converter.onnx import load_model
from sardonyx.providers.base import RunContext
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.webgpu.provider import WebGpuExecutor
from sardonyx.webgpu.resident import GpuTensor

from tests.models.generated import llama

from .paper import recorded
from .test_models import RNG, floats

HEADS, SHARED, SIZE, ROOM = 4, 2, 8, 16
CACHES = {"past_key": "present_key", "past_value": "present_value"}


def grouped(**attributes: int | float) -> bytes:
    """GroupQueryAttention with rotary embedding on caches of ROOM rows, of any batch and length."""
    sizes = {"query": ["batch", "length", HEADS * SIZE], "key": ["batch", "length", SHARED * SIZE], "value": ["batch", "length", SHARED * SIZE], "past_key": ["batch", SHARED, ROOM, SIZE],
             "past_value": ["batch", SHARED, ROOM, SIZE], "seqlens_k": ["batch"], "total_sequence_length": [1]}
    angles = np.arange(2 * ROOM)[:, None] / 10 ** (np.arange(SIZE // 2) / 4)
    tables = [helper.make_tensor(n, TensorProto.FLOAT, angles.shape, f(angles).ravel()) for n, f in (("cos", np.cos), ("sin", np.sin))]
    node = helper.make_node("GroupQueryAttention", [*sizes, "cos", "sin"], ["y", *CACHES.values()], domain="com.microsoft", num_heads=HEADS, kv_num_heads=SHARED, do_rotary=1, **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, TensorProto.INT32 if len(s) == 1 else TensorProto.FLOAT, s) for n, s in sizes.items()],
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output], tables)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8).SerializeToString()  # type: ignore[no-any-return]


def steps(batch: int) -> Any:
    """A prompt of five tokens (entries after the first have fewer: padding behind), then single ones, then two at once: (feed without the caches, tokens in each entry's cache)."""
    held = np.array([5 - i for i in range(batch)], np.int32)
    for length in (5, 1, 1, 1, 2, 1, 1):
        if length != 5:
            held = held + length
        yield {"query": floats(batch, length, HEADS * SIZE), "key": floats(batch, length, SHARED * SIZE), "value": floats(batch, length, SHARED * SIZE),
               "seqlens_k": (held - 1).astype(np.int32), "total_sequence_length": np.array([held.max()], np.int32)}, held


def agree(made: np.ndarray, wanted: np.ndarray, held: np.ndarray, caches: Any) -> None:
    """Where rows mean something."""
    for b, count in enumerate(held):
        valid = min(made.shape[1], count)
        np.testing.assert_allclose(made[b, :valid], wanted[b, :valid], rtol=1e-4, atol=1e-5)
        for mine, theirs in caches:
            np.testing.assert_allclose(mine[b, :, :count], theirs[b, :, :count], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attributes", [{}, {"local_window_size": 3}, {"softcap": 1.5, "rotary_interleaved": 1}], ids=["plain", "window", "softcap"])
@pytest.mark.parametrize("shared", [True, False], ids=["one buffer", "two buffers"])
def test_decoding_with_a_cache_on_the_gpu(variant: Any, monkeypatch: pytest.MonkeyPatch, shared: bool, attributes: dict[str, Any]) -> None:
    data = grouped(**attributes)
    executor, reference = WebGpuExecutor(variant, load_model(data), strict=True), ReferenceExecutor(load_model(data))
    # What lies behind the tokens is nobody's: NaN there must reach nothing.
    host = {n: np.full((2, SHARED, ROOM, SIZE), np.nan, np.float32) for n in CACHES}
    held_there = {n: np.zeros((2, SHARED, ROOM, SIZE), np.float32) for n in CACHES}
    mine = {n: GpuTensor.upload(variant, x, executor.weights.pool) for n, x in host.items()}
    buffers, counted, submit = [x._buffer for x in mine.values()], [], variant.submit
    monkeypatch.setattr(variant, "submit", lambda work: (counted.append(len(work)), submit(work))[1])
    names = [v.name for v in executor.inputs]
    for feed, held in steps(2):
        wanted = reference.run([{**feed, **held_there}[n] for n in names], [0, 1, 2], RunContext())
        held_there = dict(zip(CACHES, wanted[1:], strict=True))
        context = RunContext(stay=frozenset({1, 2}), into=[None, *mine.values()] if shared else [None] * 3)
        made = executor.run([{**feed, **mine}[n] for n in names], [0, 1, 2], context)
        if shared:
            assert made[1] is mine["past_key"] and made[2] is mine["past_value"]
        mine = dict(zip(CACHES, made[1:], strict=True))
        agree(made[0], wanted[0], held, [(x.numpy(), held_there[n]) for n, x in mine.items()])
    assert ([x._buffer for x in mine.values()] == buffers) is shared
    recording = executor.latest.blocks.direct.program.recording
    assert [(s.input, s.output) for s in recording.same] == [(3, 1), (4, 2)]
    assert set(counted) == {len(recording.dispatches) - 2 * shared}, "the copies of the caches are left out, and only those"
    for x in mine.values():
        x.close()
    executor.close()


def test_iobinding_with_past_and_present_in_one_ortvalue(own: Any) -> None:
    """onnxruntime's past_present_share_buffer: the cache is bound once as an input and once as an output, and stays where it is."""
    data = grouped()
    session, reference = sardonyx.InferenceSession(data, providers=["WebGpuExecutionProvider"]), ReferenceExecutor(load_model(data))
    there = {n: np.zeros((1, SHARED, ROOM, SIZE), np.float32) for n in CACHES}
    values = {n: sardonyx.OrtValue.ortvalue_from_numpy(x, "webgpu") for n, x in there.items()}
    buffers = [v._data._buffer for v in values.values()]
    binding = session.io_binding()
    for past, present in CACHES.items():
        binding.bind_ortvalue_input(past, values[past])
        binding.bind_ortvalue_output(present, values[past])
    binding.bind_output("y")
    alive: dict[int, int] = {}
    for feed, held in steps(1):
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        session.run_with_iobinding(binding)
        names = [v.name for v in session.get_inputs()]
        wanted = reference.run([{**feed, **there}[n] for n in names], [0, 1, 2], RunContext())
        there = dict(zip(CACHES, wanted[1:], strict=True))
        y = dict(zip((*CACHES.values(), "y"), binding.get_outputs(), strict=True))["y"].numpy()
        agree(y, wanted[0], held, [(v.numpy(), there[n]) for n, v in values.items()])
        assert [v._data._buffer for v in values.values()] == buffers
        grown, length = own.buffers - sum(alive.values()), feed["query"].shape[1]
        assert grown == 0 or length not in alive, "a length that was there before allocates nothing"
        alive.setdefault(length, grown)


def test_an_output_is_written_to_a_tensor_that_is_given(variant: Any) -> None:
    """One that is no input; one that the program reads elsewhere, one given twice, one of another size: those are made anew."""
    executor = WebGpuExecutor(variant, load_model(parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\ng (float[n, n] x) => (float[n, n] y, float[n, n] z) '
                                                                    "{ y = MatMul(x, x) z = Add(x, x) }").SerializeToString()), strict=True)
    pool, x = executor.weights.pool, floats(4, 4)
    given, target, small = (GpuTensor.upload(variant, a, pool) for a in (x, floats(4, 4), floats(3, 4)))

    def run(*into: Any) -> Any:
        made = executor.run([given], [0, 1], RunContext(stay=frozenset({0, 1}), into=into))
        np.testing.assert_allclose(made[0].numpy(), x @ x, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(made[1].numpy(), x + x)
        np.testing.assert_array_equal(given.numpy(), x)
        return [a is b for a, b in zip(made, into, strict=True)]
    assert run(target, None) == [True, False]
    assert run(target, target) == [True, False]
    assert run(given, None) == [False, False]
    assert run(small, target) == [False, True]
    executor.close()


TENSOR_SCATTER = """<ir_version: 11, opset_import: ["" : 24]>
g (float[2, 3, 12, 4] past, float[2, 3, n, 4] new, int64[2] at, float[2, 3, n, 4] q) => (float[2, 3, n, 4] y, float[2, 3, 12, 4] present) {
    present = TensorScatter<axis = 2>(past, new, at) y = Attention(q, present, present) }"""


def test_tensor_scatter_in_place(variant: Any) -> None:
    """The standard's own operator for such caches."""
    data = parser.parse_model(TENSOR_SCATTER).SerializeToString()
    executor, reference = WebGpuExecutor(variant, load_model(data), strict=True), ReferenceExecutor(load_model(data))
    past = floats(2, 3, 12, 4)
    mine = GpuTensor.upload(variant, past, executor.weights.pool)
    for at in range(0, 6, 2):
        new, where, q = floats(2, 3, 2, 4), np.array([at, at + 3]), floats(2, 3, 2, 4)
        wanted, past = reference.run([past, new, where, q], [0, 1], RunContext())
        made = executor.run([mine, new, where, q], [0, 1], RunContext(stay=frozenset({1}), into=[None, mine]))
        assert made[1] is mine
        np.testing.assert_allclose(made[0], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(mine.numpy(), past)
    executor.close()


def test_a_decoder_spelled_out(lanes: Any, tmp_path: Path) -> None:
    """Two layers of Llama's kind, whose cache grows by a row a step: a prompt, then single tokens; what is present goes back as past without leaving the device."""
    llama(tmp_path / "llama.onnx", layers=2, hidden=32, heads=4, vocabulary=50, inner=48)
    model = load_model(tmp_path / "llama.onnx")
    executor, reference = WebGpuExecutor(lanes, model, strict=True), ReferenceExecutor(load_model(tmp_path / "llama.onnx"))
    names, count = [v.name for v in executor.inputs], len(executor.model.graph.outputs)
    pasts = [n for n in names if n.startswith("past")]
    theirs: dict[str, Any] = {n: np.zeros((2, 4, 0, 8), np.float32) for n in pasts}
    mine = dict(theirs)
    held = 0
    for length in (5, 1, 1, 1):
        feed = {"input_ids": RNG.integers(0, 50, (2, length)), "attention_mask": np.ones((2, held + length), np.int64), "position_ids": np.tile(np.arange(held, held + length), (2, 1))}
        wanted = reference.run([{**feed, **theirs}[n] for n in names], range(count), RunContext())
        made = executor.run([{**feed, **mine}[n] for n in names], range(count), RunContext(stay=frozenset(range(1, count))))
        np.testing.assert_allclose(made[0], wanted[0], rtol=1e-3, atol=1e-4)
        theirs, mine = (dict(zip(pasts, x[1:], strict=True)) for x in (wanted, made))
        for n in pasts:
            np.testing.assert_allclose(mine[n].numpy(), theirs[n], rtol=1e-4, atol=1e-5)
        held += length
    executor.close()


def test_dispatches_of_a_decoding_step(tmp_path: Path) -> None:
    """What does not wait for each other is one dispatch on a GPU: ten a layer, and six before and behind."""
    llama(tmp_path / "llama.onnx", layers=3, hidden=64, heads=4, vocabulary=50, inner=128)
    (plan, gpu, sizes), = recorded(tmp_path / "llama.onnx", cpu=False)
    (_, software, _), = recorded(tmp_path / "llama.onnx", cpu=True)
    shapes = {"input_ids": (1, 1), "attention_mask": (1, 8), "position_ids": (1, 1)}
    table = sizes.table.bind([shapes.get(plan.program.strings[port.name], (1, 4, 7, 16)) for port in plan.program.inputs])
    taken = [d.label for d in gpu.dispatches if table[d.groups] > 0]   # products are there for one row and for many
    assert len(taken) <= 3 * 10 + 6 < len(software.dispatches), "\n".join(taken)
