"""A model on the C engine: what its kernels take, and the executor that plans a graph into blocks of programs (segmented.py), bound for each new size (engine/binding.py)."""
from __future__ import annotations

import sys
from collections.abc import Sequence

from ..dtypes import COMPUTED, data_operands, row_of
from ..engine.binding import Packed
from ..graph import Model
from ..lowering import KernelCall, View
from ..plan.planner import Plan
from ..program import RANK
from .bfloat16 import Rounding
from .segmented import SegmentedExecutor

if sys.platform == "emscripten":  # the same engine, a WebAssembly instance beside Pyodide
    from ..wasm.binding import EngineProgram, available, kernels
else:
    from ..engine.binding import EngineProgram, available, kernels

__all__ = ["NAME", "EngineExecutor", "accepts", "available", "kernels", "refusal"]
NAME = "CPUExecutionProvider"


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
    wrong = next((v.dtype for v in call.outputs if v.dtype not in (allowed if operands else data)), None)
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

    def __init__(self, model: Model, *, threads: int = 0, strict: bool = False, limit: int | None = None, optimized: bool = True, rounding: Rounding | None = None) -> None:
        self.threads, self.rounds = threads, bool(rounding and rounding.used)
        self.notes, self.unmet = (rounding.notes, rounding.unmet) if rounding else ((), "")
        self.packed = Packed()
        super().__init__(model, NAME, self._make, strict=strict, limit=limit, accepts=lambda ranges: accepts, prepare=optimize if optimized else None)

    def _make(self, plan: Plan) -> EngineProgram:
        return EngineProgram(plan.program, plan.constants, threads=self.threads, memory_limit=self.limit or 0, shared=self.packed, bfloat16=self.rounds)

    def close(self) -> None:
        """Drop plans and constants."""
        super().close()
        self.packed = Packed()
