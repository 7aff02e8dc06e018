"""What a model is on a GPU, without one: planned and recorded for WebGPU's default limits, as a software adapter or as a GPU would get it."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sardonyx.converter.onnx import load_model
from sardonyx.lowering import CannotLower
from sardonyx.plan.planner import Plan, plan_package
from sardonyx.plan.shapes import infer_plan
from sardonyx.providers.engine import optimize
from sardonyx.webgpu.device.base import Limits
from sardonyx.webgpu.provider import Acceptance
from sardonyx.webgpu.recording import Recording, record
from sardonyx.webgpu.steps import Sizes


def recorded(source: Any, cpu: bool, limits: Limits | None = None, tiles: Any = None, features: frozenset[str] = frozenset(),
             precision: str = "f32") -> Iterator[tuple[Plan, Recording, Sizes]]:
    """The programs of a model (ONNX bytes or path) with their recordings, in order. Programs that are refused as a whole have none."""
    limits = limits or Limits()
    model = load_model(source)
    optimize(model)
    plan = plan_package(model, infer_plan(model.graph), model.symbols, None, Acceptance(limits, cpu), host=True)
    for each in plan.plans:
        try:
            yield each, *record(each.program, each.constants, limits, cpu, tiles=tiles, features=features, precision=precision)
        except CannotLower:
            continue
