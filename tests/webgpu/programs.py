"""Small programs for tests: a lowering rule written by hand is planned, then run here and by the NumPy interpreter."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sardonyx.dim import Dim
from sardonyx.graph import Tensor
from sardonyx.lowering import Buffer, Lowering, View
from sardonyx.plan.encode import encode
from sardonyx.plan.fuse import fuse
from sardonyx.plan.layout import choose_layout
from sardonyx.plan.lower import Lowered
from sardonyx.plan.memory import place
from sardonyx.plan.pack import pack_constants
from sardonyx.plan.planner import own_outputs
from sardonyx.program import Program
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType

Rule = Callable[..., View | Sequence[View]]


def planned(rule: Rule, ports: Sequence[tuple[DType, Sequence[Dim]]], ranges: Mapping[str, tuple[int, int | None]] | None = None) -> tuple[Program, list[Tensor]]:
    """The program of `rule(k, *input views)`."""
    k = Lowering()
    k.name, k.origin = "t", ("the node",)
    inputs = [Buffer(f"x{i}", dtype, tuple(dims), port=("input", i)).whole() for i, (dtype, dims) in enumerate(ports)]
    made = rule(k, *inputs)
    outputs = [made] if isinstance(made, View) else list(made)
    lowered = Lowered(k.calls, inputs, outputs, [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(len(outputs))])
    own_outputs(lowered)
    fuse(lowered)
    choose_layout(lowered)
    pack_constants(lowered)
    return encode(lowered, place(lowered, ranges or {}), ranges or {})


def both(device: Any, rule: Rule, *inputs: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(the device's outputs, the interpreter's)."""
    from sardonyx.webgpu.executor import WebGpuProgram
    program, constants = planned(rule, [(DType.of(x), x.shape) for x in inputs])
    runner = WebGpuProgram(device, program, constants)
    try:
        for d in runner.recording.dispatches:
            assert len(d.buffers) <= 8
        return runner.run(inputs), Interpreter(program, constants).run(inputs)
    finally:
        runner.close()


def agree(device: Any, rule: Rule, *inputs: np.ndarray, rtol: float = 1e-5, atol: float = 1e-6) -> list[np.ndarray]:
    """Run both and compare: integers exactly, floats within the tolerance, NaN and infinity in the same places."""
    mine, wanted = both(device, rule, *inputs)
    for a, b in zip(mine, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=rtol, atol=atol)
    return mine
