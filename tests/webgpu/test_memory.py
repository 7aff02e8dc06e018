"""Memory on the GPU, counted where buffers are made: weights once, and no more than a fifth above what is needed at the same time; it comes back, and grows with sizes and no further."""
from __future__ import annotations

import gc
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.providers.base import RunContext
from sardonyx.webgpu.provider import WebGpuExecutor

from tests.bench.roofline import Bound, bind
from tests.models.generated import bert_layer

from .paper import recorded
from .test_models import RNG, bert, bert_weights, floats, model, written

#: Bytes that every program and device take: sizes, status words, the least staging buffer.
FIXED = 1 << 17


def tower(layers: int = 4, width: int = 64) -> bytes:
    """Products and normalisations with residuals, of any number of rows: what lives at the same time is three tensors of [rows, width]."""
    lines, x = [], "x"
    for i in range(layers):
        lines.append(f"h{i} = LayerNormalization<axis = -1>({x}, s) m{i} = MatMul(h{i}, w{i}) t{i} = Softmax<axis = -1>(m{i}) x{i} = Add(t{i}, {x})")
        x = f"x{i}"
    constants = [f"float[{width}] s = {{{written(width)}}}", *(f"float[{width}, {width}] w{i} = {{{written(width, width)}}}" for i in range(layers))]
    return model(f"g (float[rows, {width}] x) => (float[rows, {width}] {x}) {{\n    " + "\n    ".join(lines) + " }", *constants)


def needed(data: bytes, inputs: list[np.ndarray], cpu: bool) -> tuple[int, int]:
    """(bytes of the weights, of the largest live set)."""
    (plan, recording, sizes), = recorded(data, cpu)
    made = Bound(plan, recording, bind(sizes, inputs))
    return made.weights, made.live


def alive(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What gives the bytes of all buffers made from now on and not destroyed."""
    held, make = [], device._buffer
    monkeypatch.setattr(device, "_buffer", lambda *given: (held.append(make(*given)), held[-1])[1])
    return lambda: sum(b.nbytes for b in held if b.handle is not None)


@pytest.mark.parametrize("rows", [1000, 513])
def test_memory_is_weights_and_what_lives_at_the_same_time(variant: Any, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """The first size of a program gets what it takes and no more, wherever it lies in the sizes that program is for."""
    gc.collect()
    counted = alive(variant, monkeypatch)
    data, x = tower(2), floats(rows, 64)
    weights, live = needed(data, [x], variant.adapter.is_cpu)
    executor = WebGpuExecutor(variant, load_model(data), strict=True)
    for _ in range(3):
        executor.run([x], [0], RunContext(stay=frozenset({0})))[0].close()
    kept = x.nbytes                                  # the output, which went back to the pool
    staged = sum(b.nbytes for b in variant._staging)
    assert live >= 2 * x.nbytes
    assert weights < counted() <= weights + 1.2 * live + kept + staged + FIXED
    executor.close()
    del executor
    gc.collect()
    assert counted() <= max(staged, FIXED), "a closed session holds memory"


def test_memory_grows_with_the_sizes_and_no_further(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that grows a little every run: memory is made anew seldom, and stays within a quarter more than the largest size takes."""
    counted, data = alive(device, monkeypatch), tower(2)
    executor = WebGpuExecutor(device, load_model(data), strict=True)
    changes, last = 0, 0
    for rows in range(520, 1020, 20):                # one program's sizes: (512, 1024]
        executor.run([floats(rows, 64)], [0], RunContext())
        changes, last = changes + (counted() != last), counted()
    weights, live = needed(data, [floats(1000, 64)], True)
    assert changes <= 6
    assert counted() - sum(b.nbytes for b in device._staging) <= weights + 1.25 * 1.2 * live + FIXED
    executor.close()


def test_sizes_of_other_ranges_compile_nothing(variant: Any) -> None:
    """Each range of sizes is a plan of its own (core/providers/segmented.py), but the shaders are the same."""
    data, weights = bert(), bert_weights()
    executor = WebGpuExecutor(variant, load_model(data), strict=True)
    compiled = 0
    for batch, sequence in ((2, 13), (2, 20), (3, 40), (1, 100), (4, 9)):
        mask = (RNG.random((batch, sequence)) > 0.2).astype(np.int64)
        executor.run([floats(batch, sequence, 24), mask, *weights], [0], RunContext())
        compiled = compiled or variant.compiled
        assert variant.compiled == compiled, (batch, sequence)
    executor.close()


def test_weights_are_uploaded_from_the_mapped_file(own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file's packed matrices lie as kernels read them: no copy of them is made on the way to the GPU."""
    bert_layer(tmp_path / "bert.onnx", hidden=192, heads=4)
    sardonyx.convert(tmp_path / "bert.onnx", tmp_path / "bert.sdx", plan=[{}])
    written, write = [], own.write

    def noted(buffer: Any, data: Any, offset: int = 0) -> None:
        base = np.asarray(data)
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        written.append((np.asarray(data).nbytes, isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap)))
        write(buffer, data, offset)
    monkeypatch.setattr(own, "write", noted)
    session, peer = (sardonyx.InferenceSession(tmp_path / "bert.sdx", providers=[f"{name}ExecutionProvider"]) for name in ("WebGpu", "CPU"))
    names = [v.name for v in session.get_inputs()]
    feeds = dict(zip(names, (floats(1, 7, 192), np.ones((1, 7), np.int64)), strict=False))
    np.testing.assert_allclose(session.run(None, feeds)[0], peer.run(None, feeds)[0], rtol=1e-3, atol=1e-4)
    large = [mapped for nbytes, mapped in written if nbytes >= 192 * 192 * 4]
    assert len(large) >= 4 and all(large)


def test_sessions_give_their_memory_back(own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Opened, run and closed again and again, with tensors that outlive their session."""
    counted, data, x = alive(own, monkeypatch), tower(2), floats(500, 64)
    held = []
    for i in range(8):
        session = sardonyx.InferenceSession(data, providers=["WebGpuExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_output("x1", "webgpu")
        session.run_with_iobinding(binding)
        if i % 4 == 0:
            held.append(binding.get_outputs()[0])
        session.close()
        del session, binding
    gc.collect()
    assert counted() <= FIXED + len(held) * x.nbytes
    assert all(np.isfinite(value.numpy()).all() for value in held)
