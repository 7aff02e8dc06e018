"""CPUExecutionProvider: the C engine. Programs come from the file where it has them (stored.py), else from planning its graph (engine.py); nodes without kernels run on their NumPy bodies
(refused when strict)."""
from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgument
from ..graph import Model
from ..model import StoredModel
from .base import Executor
from .bfloat16 import Rounding
from .limit import memory_limit

if sys.platform == "emscripten":  # the same engine, a WebAssembly instance beside Pyodide
    from ..wasm.binding import available
else:
    from ..engine.binding import available

NAME = "CPUExecutionProvider"
#: Session configuration entry: "1" refuses nodes that would run on NumPy.
STRICT = "session.disable_cpu_ep_fallback"
THREADS = "session.intra_op_num_threads"
#: GraphOptimizationLevel; "0" (ORT_DISABLE_ALL) runs the graph as the file has it.
LEVEL = "session.graph_optimization_level"


class CpuProvider:
    """The C engine. Label: executed in CI."""

    name = NAME

    def available(self) -> str:
        """Why the engine is not there, or ""."""
        return available()

    def compile(self, model: Model, options: Mapping[str, Any]) -> Executor:
        """Open the file's programs where it has them. Otherwise partition now; plan at the first run of a range of sizes. Strict refuses nodes that would run on NumPy."""
        threads = str(options.get(THREADS, "0"))
        if not threads.isascii() or not threads.isdigit():
            raise InvalidArgument(f"'{THREADS}' must be a number of threads (0: one for each core), not '{threads[:40]}'")
        rounding = Rounding(options)
        optimized = str(options.get(LEVEL, "99")) != "0"
        if optimized and isinstance(model, StoredModel):
            from .stored import StoredExecutor
            return StoredExecutor(model, threads=int(threads), strict=str(options.get(STRICT, "0")) == "1", limit=memory_limit(options), rounding=rounding)
        from .engine import EngineExecutor
        return EngineExecutor(model, threads=int(threads), strict=str(options.get(STRICT, "0")) == "1", limit=memory_limit(options), optimized=optimized, rounding=rounding)
