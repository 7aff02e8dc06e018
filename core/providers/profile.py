"""What a profile says of a program's steps: which nodes, which kernel, how long, and how that compares with the machine: GFLOP/s and GB/s (operations and bytes as plan/costs.py counts them)."""
from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from ..plan.costs import Cost, costs
from ..program import Program
from .base import Event


def step_events(program: Program, inputs: Sequence[np.ndarray], times: Sequence[Sequence[int]], provider: str, rounded: Container[int] = ()) -> list[Event]:
    """An event for every step of a run on these inputs; `times`: (start, duration) of each in nanoseconds; `rounded`: the steps that multiplied in bfloat16."""
    table = program.bind([x.shape for x in inputs], inputs)
    return [step_event(program, i, start, duration, provider, cost, i in rounded) for i, ((start, duration), cost) in enumerate(zip(times, costs(program, table), strict=True))]


def costs_of(program: Program, bound: Sequence[int]) -> list[Cost]:
    """The cost of every step; `bound`: the sizes of all inputs, one after the other, then the elements that decide sizes."""
    shapes, at = [], 0
    for port in program.inputs:
        shapes.append(tuple(bound[at:at + len(port.dims)]))
        at += len(port.dims)
    inputs: list[np.ndarray] = [np.zeros(shape, np.int64) if any(at == i for at, _ in program.elements) else np.empty(0) for i, shape in enumerate(shapes)]
    for (number, element), value in zip(program.elements, bound[at:], strict=True):
        inputs[number].reshape(-1)[element] = value
    return costs(program, program.bind(shapes, inputs))


def step_event(program: Program, number: int, start: int, duration: int, provider: str, cost: Cost, rounded: bool = False) -> Event:
    """The event of one step. One that multiplied in bfloat16 says so as its `arithmetic`."""
    step = program.steps[number]
    nodes, kernel = program.strings[step.origin], step.kind.name.lower()
    seconds = max(duration, 1) * 1e-9
    args: dict[str, Any] = {"provider": provider, "kernel": kernel, "op_name": kernel, "operations": cost.operations, "bytes": cost.bytes,
                            "gflops": round(cost.operations / seconds / 1e9, 3), "gbytes_per_second": round(cost.bytes / seconds / 1e9, 3)}
    if rounded:
        args["arithmetic"] = "bfloat16"
    return Event(f"{nodes or kernel}_kernel_time", "Node", start, duration, args)
