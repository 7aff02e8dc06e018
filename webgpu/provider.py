"""`WebGpuExecutionProvider`: a session's programs on the shared device."""
from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..dim import Undecidable
from ..engine.binding import Packed
from ..errors import InvalidArgument
from ..graph import Model
from ..kernels import Kernel
from ..lowering import CannotLower, KernelCall, View
from ..package import Device as Place
from ..plan.planner import Plan
from ..providers.base import RunContext
from ..providers.engine import NAME as CPU
from ..providers.engine import EngineProgram, accepts, available, optimize
from ..providers.interpreter import Interpreter
from ..providers.limit import memory_limit
from ..providers.segmented import Beside, NeedsBounds, SegmentedExecutor
from .device import open_device, unavailable
from .device.base import Device, Limits, MissingFeature
from .executor import WebGpuProgram, Weights
from .kernels import build
from .kernels.tiles import load
from .resident import GpuTensor
from .steps import CallSteps
from .wgsl.shader import Context

NAME = "WebGpuExecutionProvider"
PRECISION = "precision"
STRICT = "session.disable_cpu_ep_fallback"


class Acceptance:
    """Says of a node's kernel calls and outputs, in the graph's order, why they can not run here ("" where they can). The kernels themselves are asked: they are built and thrown away."""

    def __init__(self, limits: Limits, cpu: bool, ranges: Mapping[str, tuple[int, int | None]] | None = None, counted: bool = False) -> None:
        self.context = Context(limits, cpu, planning=True, uppers=dict(ranges or {}), counted=counted)
        self.steps = CallSteps(self.context.ranges)

    def __call__(self, calls: Sequence[KernelCall], outputs: Sequence[View]) -> str:
        try:
            for call in calls:
                narrow = next((v.dtype for v in (*call.inputs, *call.outputs) if v is not None and v.dtype.is_narrow_float), None)
                if narrow is not None and call.kind not in (Kernel.COPY, Kernel.GATHER, None):
                    raise CannotLower(f"no kernel computes with {narrow.text}")
                if call.kind is not None:
                    build(self.steps.step(call), self.context)
            for view in outputs:
                self.steps.operand(view)
        except (CannotLower, Undecidable) as reason:
            return str(reason)
        return ""


class Deferred:
    """A program made when it first runs: the pipelines of a branch that is not taken are never compiled. `known` gives the outputs of one without inputs, for when the device can not hold them:
    constants that go to a node of the host."""

    def __init__(self, make: Callable[[], WebGpuProgram], timestamps: bool, known: Callable[[], list[np.ndarray]] | None = None) -> None:
        self.make, self.measures_steps, self.known, self.lock = make, timestamps, known, threading.Lock()
        self.program: WebGpuProgram | None = None

    keeps = True

    def run(self, inputs: Sequence[Any], *, terminated: Callable[[], bool] | None = None, keep: Mapping[int, Any] | Collection[int] = (), times: np.ndarray | None = None,
            submitted: Callable[[], None] | None = None) -> list[Any]:
        """As WebGpuProgram's. NeedsBounds (an EPFail) where a whole program can not be built although its nodes can: sums of integers whose number nobody knows may not fit 32 bits."""
        with self.lock:
            if self.program is None:
                try:
                    self.program = self.make()
                except CannotLower as reason:
                    if self.known is not None:
                        return self.known()
                    raise NeedsBounds(f"{NAME}: {reason}. Run the model on CPUExecutionProvider") from None
        return self.program.run(inputs, terminated=terminated, keep=keep, times=times, submitted=submitted)


class WebGpuExecutor(SegmentedExecutor):
    """Programs on the device; with `engine`, what WGSL lacks on the C engine; the rest on the NumPy bodies (refused when strict)."""

    unmet = ""
    residents = "webgpu"   # the device whose OrtValues it takes as they are

    def __init__(self, device: Device, model: Model, *, strict: bool = False, limit: int | None = None, engine: bool = False, threads: int = 0, precision: str = "f32") -> None:
        self.precision = precision
        self._use(device)
        self.threads, self.packed = threads, Packed()
        beside = Beside(Place.WEBGPU, CPU, accepts, self._make_beside) if engine else None
        super().__init__(model, NAME, self._make, strict=strict, limit=limit, accepts=self._acceptance, prepare=optimize, beside=beside)

    def _acceptance(self, ranges: Mapping[str, tuple[int, int | None]]) -> Acceptance:
        adapter = self.device.adapter
        return Acceptance(self.device.limits, adapter.is_cpu, ranges, adapter.counts)

    def _make_beside(self, plan: Plan) -> EngineProgram:
        return EngineProgram(plan.program, plan.constants, threads=self.threads, memory_limit=self.limit or 0, shared=self.packed)

    def _use(self, device: Device) -> None:
        if self.precision == "f16" and "shader-f16" not in device.features:
            raise MissingFeature(f"{device.adapter.name} lacks shader-f16, which the option {PRECISION}='f16' of {NAME} takes: leave it out, or use another adapter")
        if device.tiles is None:
            device.tiles = load(device.adapter)
        self.device, self.weights = device, Weights(device)

    def _make(self, plan: Plan) -> Deferred:
        known = None if plan.program.inputs else lambda: Interpreter(plan.program, plan.constants).run([])
        return Deferred(lambda: WebGpuProgram(self.device, plan.program, plan.constants, self.weights, self.precision), self.device.timestamps, known)

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """See `Executor.run`. The run in which the device is lost raises DeviceLost; the next one opens a device and makes the programs anew."""
        if self.device.lost:
            with self.lock:
                self._recover()
        return super().run(inputs, wanted, context)

    def _recover(self) -> None:
        if not self.device.lost:  # another thread was here first
            return
        device = open_device()
        self.close()
        self._use(device)

    def close(self) -> None:
        """Give memory back."""
        super().close()
        self.weights.close()
        self.packed = Packed()


class WebGpuProvider:
    """Programs on the GPU by WebGPU. Label: executed in CI (on a software adapter)."""

    name = NAME

    def available(self) -> str:
        """Why there is no device here, or ""."""
        return unavailable()

    def upload(self, array: np.ndarray) -> GpuTensor:
        """A copy of an array on the shared device. Fail for element types that can not stay there."""
        return GpuTensor.upload(open_device(), array)

    def emulated(self) -> bool:
        """Whether the adapter is a processor that plays a GPU (lavapipe, SwiftShader): it works, slower than the CPU provider."""
        return open_device().adapter.is_cpu

    def compile(self, model: Model, options: Mapping[str, Any]) -> WebGpuExecutor:
        """Partition and, at the first run, plan and compile, for sizes of any kind. What WGSL lacks runs on the C engine where CPUExecutionProvider is one of the session's; strict refuses NumPy.

        The provider option `precision`: "f32" (the default) or "f16": float32 intermediates and large weights lie as f16 on the GPU, sums are float32's; inputs and outputs stay float32.
        MissingFeature where the adapter has no shader-f16."""
        precision = str(options.get(PRECISION, "f32"))
        if precision not in ("f32", "f16"):
            raise InvalidArgument(f"{NAME}: the option {PRECISION} is 'f32' or 'f16', not {precision!r}")
        idle = sorted(key for key in options if "." not in key and key != PRECISION)
        engine = CPU in options.get("session.providers", ()) and not available()
        made = WebGpuExecutor(open_device(), model, strict=str(options.get(STRICT, "0")) == "1", limit=memory_limit(options), engine=engine,
                              threads=int(options.get("session.intra_op_num_threads", 0)), precision=precision)
        made.unmet = f"{NAME}: the options {', '.join(idle)} have no effect (it has '{PRECISION}')" if idle else ""
        return made
