"""A model on the programs its file holds, opened without graph, planner or shapes. These come only where a run has sizes nobody planned for or binds an output to the memory of an input,
or somebody asks what runs where."""
from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotPlanned
from ..model import StoredModel
from ..package import Package
from .base import Executor, Placement, RunContext
from .bfloat16 import Rounding

if TYPE_CHECKING:
    from ..plan.costs import Cost

if sys.platform == "emscripten":  # the same engine, a WebAssembly instance beside Pyodide
    from ..wasm.package import EnginePackage
else:
    from ..engine.package import EnginePackage

NAME = "CPUExecutionProvider"
#: Steps a profile has room for in one run.
PROFILED = 1 << 14
#: What a profile adds to the number of a step that rounds to bfloat16.
ROUNDED = 1 << 32


class StoredExecutor:
    """A model on the programs its file holds, without its graph. Sizes they were not planned for are planned from the graph, like a model without programs."""

    strict = True  # nothing here runs on NumPy; what is planned from the graph refuses by itself

    def __init__(self, model: StoredModel, *, threads: int = 0, strict: bool = False, limit: int | None = None, rounding: Rounding | None = None) -> None:
        self.model = model
        self._options: Any = {"threads": threads, "strict": strict, "limit": limit, "rounding": rounding}
        self.notes, self.unmet = (rounding.notes, rounding.unmet) if rounding else ((), "")
        self._engine = EnginePackage(model.stored.packed, model.stored.inputs, model.stored.outputs, data=model.stored.data, threads=threads, memory_limit=limit or 0,
                                     bfloat16=bool(rounding and rounding.used))
        self._planned: Executor | None = None
        self._package: Package | None = None     # as records, for profiles
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """See `Executor.run`."""
        if context.into is not None and sys.platform != "emscripten" and _over_inputs(inputs, context.into):
            return self.planned.run(inputs, wanted, context)    # grows a cache where it lies; a package's session makes its outputs itself
        rows = np.empty((PROFILED, 4), np.int64) if context.events is not None else None
        try:
            made = self._engine.run(inputs, terminated=context.terminated, rows=rows)
        except NotPlanned:
            return self.planned.run(inputs, wanted, context)
        if rows is not None:
            self._report(rows, context)
        context.owned = len(set(wanted)) == len(wanted)
        return [made[i] for i in wanted]

    @property
    def planned(self) -> Executor:
        """The executor that plans the graph, made when it is needed."""
        with self._lock:
            if self._planned is None:
                from .engine import EngineExecutor
                self._planned = EngineExecutor(self.model, **self._options)
            return self._planned

    def _report(self, rows: np.ndarray, context: RunContext) -> None:
        """An event for every step, with its rates; the rows before a program's steps say for which sizes it was bound."""
        from .profile import costs_of, step_event
        if self._package is None:
            self._package = Package.unpack(self.model.stored.packed)
        assert context.events is not None
        given: dict[int, dict[int, int]] = {}
        known: dict[tuple[int, tuple[int, ...]], list[Cost]] = {}
        for number, step, start, duration in rows[rows[:, 0] != -1].tolist():
            if number < 0:
                given.setdefault(-2 - number, {})[step] = start
                continue
            step, rounded = step % ROUNDED, step >= ROUNDED
            program, sizes = self._package.programs[number].program, tuple(given.get(number, {}).values())
            if (number, sizes) not in known:
                known[number, sizes] = costs_of(program, sizes)
            context.events.append(step_event(program, step, start, duration, NAME, known[number, sizes][step], rounded))

    def placements(self) -> list[Placement]:
        """Where each node runs: all in programs."""
        return [Placement(n, NAME) for n in self.model.graph.walk()] if self._planned is None else self._planned.placements()

    def close(self) -> None:
        """Give the programs back."""
        self._engine.close()
        if self._planned is not None:
            self._planned.close()


def _over_inputs(inputs: Sequence[Any], into: Sequence[Any]) -> bool:
    """Whether an output is bound to the memory of an input: a cache that is both past and present."""
    given = {x.__array_interface__["data"][0] for x in inputs if isinstance(x, np.ndarray) and x.nbytes}
    return any(y.__array_interface__["data"][0] in given for y in into if isinstance(y, np.ndarray) and y.nbytes)
