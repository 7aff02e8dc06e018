"""Kernels that do the same are one shader: which sizes happen to be equal, and where constants lie, is not in their text."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.graph import Tensor
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.recording import record

from .paper import recorded
from .programs import agree, planned
from .test_models import floats, model, written

CHAIN = """g (float[1, 8, 6, 6] x) => (float[1, 24, 6, 6] y) {
    a = Conv(x, w0, b0) b = Conv(a, w1, b1) c = Conv(b, w2, b2) y = Conv(c, w3, b3) }"""


@pytest.mark.parametrize("cpu", [True, False])
def test_layers_of_a_kind_are_one_shader(cpu: bool) -> None:
    """8 → 8 channels (of 6 × 6 positions), 8 → 36, 36 → 200 and 200 → 24: sizes that are equal in one layer differ in another; one weight is small enough for the pool, one is not."""
    sizes = [8, 8, 36, 500, 24]
    constants = [f"float[{n}, {m}, 1, 1] w{i} = {{{written(n, m)}}}, float[{n}] b{i} = {{{written(n)}}}" for i, (m, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))]
    (_, recording, _), = recorded(model(CHAIN, *constants), cpu)
    convolutions = {d.shader for d in recording.dispatches if d.label.startswith("conv")}
    assert len([d for d in recording.dispatches if d.label.startswith("conv")]) == 4 and len(convolutions) == 1
    assert "size_" not in "".join(s.source for s in recording.shaders)
    assert {len(d.uniforms) for d in recording.dispatches if d.shader in convolutions} == {len(next(d for d in recording.dispatches if d.shader in convolutions).uniforms)}


def row(i: int) -> np.ndarray:
    """A constant that is no other."""
    return (np.arange(7) * 0.25 + i).astype(np.float32)


def many(k: Any, x: Any) -> Any:
    """A Map of more constants than a dispatch may bind."""
    for i in range(12):
        x = k.map(lambda a, b: a * 0.5 + b, x, k.constant(row(i)), dtype=x.dtype)
    return x


def test_many_small_constants_are_bound_as_one(device: Any) -> None:
    x = floats(5, 7)
    program, constants = planned(many, [(Tensor(x).dtype, x.shape)])
    recording, _ = record(program, constants, Limits(), True)
    assert len(recording.dispatches) == 1 and len(recording.constants) == 1 and len(recording.dispatches[0].buffers) == 3, "the input, the pool, the output"
    agree(device, many, x)


def test_few_small_constants_are_bound_one_by_one(device: Any) -> None:
    """The same buffer several times."""
    def few(k: Any, x: Any) -> Any:
        for i in range(3):
            x = k.map(lambda a, b: a * 0.5 + b, x, k.constant(row(i)), dtype=x.dtype)
        return x
    x = floats(5, 7)
    program, constants = planned(few, [(Tensor(x).dtype, x.shape)])
    recording, _ = record(program, constants, Limits(), True)
    (dispatch,) = recording.dispatches
    assert len(recording.constants) == 1 and len(dispatch.buffers) == 5 and len(set(dispatch.buffers)) == 3
    agree(device, few, x)
