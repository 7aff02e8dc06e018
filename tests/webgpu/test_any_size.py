"""One plan for every size: after its first run a session compiles no pipeline, whatever ranges its next sizes lie in; and the numbers are onnxruntime's at all of them."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.converter.onnx import load_model
from sardonyx.dim import bounds, substitute, symbol
from sardonyx.errors import EPFail
from sardonyx.lowering import CannotLower
from sardonyx.program import Guard
from sardonyx.webgpu import provider
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.executor import WebGpuProgram
from sardonyx.webgpu.kernels.tiles import FEW, ends_of, ranges_of
from sardonyx.webgpu.provider import WebGpuExecutor
from sardonyx.webgpu.wgsl.shader import Context

from tests.models import test_public_models as public
from tests.models.registry import fetch

from .test_models import check, floats, mlp, model

Feed = dict[str, np.ndarray]
RNG = np.random.default_rng(5)


def ids(*shape: int, most: int = 40) -> np.ndarray:
    return RNG.integers(3, most, shape)


def vad(batch: int) -> Feed:
    return {"input": floats(batch, 576), "state": np.zeros((2, batch, 128), np.float32), "sr": np.array(16000)}


#: What a model is fed at given sizes; the sizes: a first run, then such that lie in other powers of two, below and above.
FEEDS: dict[str, tuple[Callable[..., Feed], list[tuple[int, ...]]]] = {
    "magika": (lambda n: {"bytes": ids(n, 2048, most=256).astype(np.int32)}, [(2,), (1,), (5,)]),
    "ocr-det": (lambda n, h, w: {"x": floats(n, 3, h, w)}, [(1, 64, 96), (1, 32, 32), (2, 96, 160)]),
    "ocr-rec": (lambda n, w: {"x": floats(n, 3, 48, w)}, [(1, 96), (3, 48), (1, 300)]),
    "ocr-cls": (lambda n: {"x": floats(n, 3, 48, 192)}, [(2,), (1,), (5,)]),
    "silero-vad": (vad, [(3,), (1,), (17,)]),
    "silero-vad-op15": (vad, [(3,), (1,), (17,)]),
    "silero-vad-half": (lambda n: {k: x for k, x in vad(n).items() if k != "sr"}, [(3,), (1,), (17,)]),
    "silero-vad-ifless": (vad, [(3,), (1,), (17,)]),
    "silero-vad-sequence": (lambda n: {"input": floats(n, 576), **{k: np.zeros((1, 1, 128), np.float32) for k in "hc"}}, [(9,), (1,), (70,)]),
    "basic-pitch": (lambda n: {"serving_default_input_2:0": floats(n, 43844, 1)}, [(1,), (2,)]),
    "smart-turn": (lambda n: {"input_features": floats(n, 80, 800)}, [(1,), (2,)]),
    "tashkeel-bilstm": (lambda n, length: {"input_ids": ids(n, length, most=16)}, [(1, 12), (1, 1), (2, 35)]),
    "tashkeel-rawi": (lambda n, length: {"input": ids(n, length)}, [(1, 12), (1, 1), (2, 35)]),
    "tashkeel-rawi-ensemble": (lambda n, length: {"input": ids(n, length)}, [(1, 12), (1, 1), (2, 35)]),
    "romanizer-encoder": (lambda n, length: {"src": ids(n, length, most=30), "src_mask": np.arange(length) < RNG.integers(1, length + 1, (n, 1))}, [(3, 11), (1, 1), (1, 6), (20, 5), (2, 70)]),
    "romanizer-decoder": (lambda n, to, of: {"prefix": ids(n, to, most=30), "memory": floats(n, of, 256), "src_mask": np.ones((n, of), bool), "hidden": floats(n, 2, 256)},
                          [(1, 1, 6), (3, 2, 11), (9, 7, 40), (1, 1, 1)]),
    "surfaces-gradient-boosting": (lambda n: {"input": floats(n, 4)}, [(3,), (1,), (500,)]),
    "surfaces-k-neighbors": (lambda n: {"input": floats(n, 4)}, [(3,), (1,), (500,)]),
    "surfaces-k-neighbors-validity": (lambda n: {"input": floats(n, 4)}, [(3,), (1,), (500,)]),
    "minilm": (lambda n, length: {"input_ids": ids(n, length, most=1000), "attention_mask": np.ones((n, length), np.int64)}, [(1, 9), (1, 1), (3, 40)]),
    "vit-focus": (lambda n: {"input_image": floats(n, 3, 224, 224)}, [(1,), (2,)]),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ("romanizer-encoder", "tashkeel-rawi", "surfaces-k-neighbors") else pytest.mark.slow) for n in FEEDS])
def test_public_models_compile_nothing_after_the_first_run(own: Any, name: str) -> None:
    make, sizes = FEEDS[name]
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    peer, found, wanted, compiled = public.peer(str(fetch(name))), [], [], 0
    with sardonyx.InferenceSession(fetch(name), options, providers=["WebGpuExecutionProvider"]) as session:
        for number, size in enumerate(sizes):
            feed = make(*size)
            found.append(session.run(None, feed))
            wanted.append(peer.run(None, feed))
            compiled = compiled if number else own.compiled
            assert own.compiled == compiled > 0, f"sizes {size} compiled {own.compiled - compiled} pipelines"
    if name in public.QUANTISED:
        public.agree(name, found, wanted)
        return
    for mine, theirs in zip(found, wanted, strict=True):
        for x, y in zip(mine, theirs, strict=True):
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 + 1e-3 * float(np.abs(y).max(initial=0)) if y.dtype.kind == "f" else 0)


def test_products_of_any_rows(variant: Any) -> None:
    """One dispatch a range of rows, of which one has workgroups; also as a GPU has them."""
    executor = WebGpuExecutor(variant, load_model(mlp()), strict=True)
    check(executor, mlp(), [floats(3, 20)])
    program, compiled = executor.latest.blocks.direct.program, variant.compiled
    for rows in (1, 4, 5, 200, 1, 3, 0):
        check(executor, mlp(), [floats(rows, 20)])
        assert len(program.taken) == (0 if rows == 0 else len({d.step for d in program.recording.dispatches}))
    assert variant.compiled == compiled
    assert executor.latest.blocks.direct.program is program
    executor.close()


@pytest.mark.parametrize("cpu", [True, False], ids=["software", "gpu"])
def test_ranges_meet_and_do_not_overlap(cpu: bool) -> None:
    batch, length = symbol("n"), symbol("length")
    context = Context(Limits(), cpu, several=True)
    for rows, values in ((batch, range(300)), (batch * length, range(300)), (49 * batch, range(0, 4900, 49))):
        ends = ends_of(context, 1, rows, 768, lambda known: tuple(known.caps.values()))
        assert (FEW in ends or 1 in ends) is (rows != batch * length)
        ranges = ranges_of(context, rows, ends)
        assert len(ranges) <= len(ends) + 1
        for value in values:
            taken = [known for known, condition in ranges if substitute(condition, {"n": value if rows != 49 * batch else value // 49, "length": 1})]
            assert len(taken) == 1 and value <= taken[0].caps.get(rows, value)
    assert bounds(ranges_of(context, 49 * batch, [FEW])[0][1]) == (1, 1), "49 n is never few"
    assert ranges_of(Context(Limits(), cpu), batch, [FEW])[0][1] == 1, "files have one"


@pytest.mark.parametrize("most", [1 << 12, 16])
def test_what_needs_bounds_is_planned_up_to_them(device: Any, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A program that can be made for bounded sizes only (said here by a program that refuses): for those up to 2^12 it is one again; where even these are too many, one for each power of two."""
    made: list[Any] = []

    def bounded(device: Any, program: Any, *rest: Any) -> WebGpuProgram:
        limits = [program.sizes[b][1] for kind, _, b in program.guards if kind == Guard.AT_MOST]
        if not limits or max(limits) > most:
            raise CannotLower("numbers may not fit")
        made.append(WebGpuProgram(device, program, *rest))
        return made[-1]
    monkeypatch.setattr(provider, "WebGpuProgram", bounded)
    data = model("g (float[n] x) => (float[n] y) {\n    y = Add(x, x) }")
    executor = WebGpuExecutor(device, load_model(data), strict=True)
    for n in (5, 1, 8, 16, 0, 5):
        check(executor, data, [floats(n)])
    assert len(made) == (1 if most == 1 << 12 else 4), "5 … 8, 1, 9 … 16, 0"
    if most == 16:
        with pytest.raises(EPFail, match="numbers may not fit. Run the model on CPUExecutionProvider"):
            check(executor, data, [floats(17)])
    executor.close()
