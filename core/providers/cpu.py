"""CPUExecutionProvider: programs on the C engine, the nodes it has no kernels for on their NumPy bodies (refused when strict).

Programs are planned when a run first needs a range of sizes (segmented.py) and bound for each new size inside it (engine/binding.py).
"""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..dtypes import COMPUTED, data_operands, row_of
from ..engine.binding import Packed
from ..errors import InvalidArgument
from ..graph import Model
from ..lowering import KernelCall, View
from ..plan.planner import Plan
from ..program import RANK
from .memory import memory_limit
from .segmented import SegmentedExecutor

if sys.platform == "emscripten":  # the same engine, a WebAssembly instance beside Pyodide
    from ..wasm.binding import EngineProgram, available, kernels
else:
    from ..engine.binding import EngineProgram, available, kernels

NAME = "CPUExecutionProvider"
#: Session configuration entry: "1" refuses nodes that would run on NumPy.
STRICT = "session.disable_cpu_ep_fallback"
THREADS = "session.intra_op_num_threads"
#: GraphOptimizationLevel; "0" (ORT_DISABLE_ALL) runs the graph as the file has it.
LEVEL = "session.graph_optimization_level"


def refusal(call: KernelCall) -> str:
    """Why the engine can not run a kernel call, or ""."""
    if call.kind is None:
        return ""
    name = call.kind.name.lower()
    if call.kind not in kernels():
        return f"the C engine has no {name} kernel"
    views = [v for v in (*call.inputs, *call.outputs) if v is not None]
    if any(v.rank > RANK or len(v.buffer.shape) > RANK for v in views):
        return f"the C engine takes at most {RANK} dims"
    data = row_of(call.kind, call.params).loads
    allowed = data if data >= COMPUTED else COMPUTED
    operands = data_operands(call.kind)
    for i, view in enumerate(call.inputs):
        if view is not None and view.dtype not in (data if i < operands else allowed):
            return f"the C engine has no {name} of {view.dtype.text}"
    wrong = next((v.dtype for v in call.outputs if v.dtype not in allowed), None)
    return f"the C engine has no {name} that makes {wrong.text}" if wrong is not None else ""


def optimize(model: Model) -> None:
    """Recognise what exporters spell out, as a conversion would have done; a converted model stays as it is."""
    if model.optimized:
        return
    from ..converter.passes import run_passes, session_passes
    run_passes(model, session_passes())
    model.optimized = True


def accepts(calls: Sequence[KernelCall], outputs: Sequence[View]) -> str:
    """Why a node's kernel calls can not run here, or ""."""
    return next((why for why in map(refusal, calls) if why), "")


class EngineExecutor(SegmentedExecutor):
    """A model on the C engine."""

    def __init__(self, model: Model, *, threads: int = 0, strict: bool = False, limit: int | None = None, optimized: bool = True) -> None:
        self.threads = threads
        self.packed: Packed = {}
        super().__init__(model, NAME, self._make, strict=strict, limit=limit, accepts=lambda: accepts, prepare=optimize if optimized else None)

    def _make(self, plan: Plan) -> EngineProgram:
        return EngineProgram(plan.program, plan.constants, threads=self.threads, memory_limit=self.limit or 0, shared=self.packed)

    def close(self) -> None:
        """Drop plans and constants."""
        super().close()
        self.packed = {}


class CpuProvider:
    """The C engine. Label: executed in CI."""

    name = NAME

    def available(self) -> str:
        """Why the engine is not there, or ""."""
        return available()

    def compile(self, model: Model, options: Mapping[str, Any]) -> EngineExecutor:
        """Partition now; plan at the first run of a range of sizes. Strict refuses nodes that would run on NumPy."""
        threads = str(options.get(THREADS, "0"))
        if not threads.isascii() or not threads.isdigit():
            raise InvalidArgument(f"'{THREADS}' must be a number of threads (0: one for each core), not '{threads[:40]}'")
        return EngineExecutor(model, threads=int(threads), strict=str(options.get(STRICT, "0")) == "1", limit=memory_limit(options), optimized=str(options.get(LEVEL, "99")) != "0")
