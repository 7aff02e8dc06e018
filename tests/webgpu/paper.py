"""The shaders of a model without a device: planned and built for WebGPU's default limits, as a software adapter or as a GPU would get them."""
from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from sardonyx.converter.onnx import load_model
from sardonyx.lowering import CannotLower
from sardonyx.plan.planner import plan_package
from sardonyx.plan.shapes import infer_plan
from sardonyx.webgpu.device.base import Adapter, Limits
from sardonyx.webgpu.executor import _build
from sardonyx.webgpu.provider import Acceptance
from sardonyx.webgpu.wgsl.shader import Built


def paper(cpu: bool, limits: Limits | None = None) -> Any:
    """What kernels ask a device for."""
    return SimpleNamespace(limits=limits or Limits(), adapter=Adapter("paper", "", "", cpu))


def built(source: Any, cpu: bool) -> Iterator[Built]:
    """The dispatches of a model's programs (ONNX bytes or path), in order. Programs the device refuses as a whole have none."""
    device = paper(cpu)
    model = load_model(source)
    plan = plan_package(model, infer_plan(model.graph), model.symbols, None, Acceptance(device), host=True)
    for each in plan.plans:
        try:
            steps = _build(device, each.program, each.constants)[2]
        except CannotLower:
            continue
        for step in steps:
            yield from step
