"""Runs a partitioned graph: segments of programs on some program runner, the nodes between them on their NumPy bodies. What runs where is `placements()`.

A program is planned for a bucket of sizes when a run first needs it and kept; a new size inside the bucket is only bound. Buckets: a size n is planned for
(2^(k-1), 2^k] ∋ n, so that memory is at most doubled and n plans cover sizes up to 2^n.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..dim import symbols
from ..errors import EPFail, InvalidArgument, Terminated
from ..graph import Graph, Model, Node, Value
from ..ops.registry import MAX_KNOWN
from ..plan.partition import Accepts, Segment, deciding_inputs, partition
from ..plan.planner import Plan, plan_nodes
from ..plan.shapes import Specs, infer_shapes
from .base import Event, Placement, RunContext
from .reference import NAME as REFERENCE
from .reference import Compiled


class Runner(Protocol):
    """Something that runs one planned program. `run` raises InvalidArgument where the inputs' sizes are outside the plan's."""

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None) -> list[np.ndarray]:
        """The outputs, as arrays of their own. `terminated` is polled where the runner can stop in the middle; it raises Terminated."""


def bucket(size: int) -> tuple[int, int]:
    """The range of sizes a plan for `size` covers."""
    if size <= 1:
        return size, size
    top = 1 << (size - 1).bit_length()
    return top // 2 + 1, top


class ProgramSegment:
    """A segment with its plans."""

    def __init__(self, segment: Segment, specs: Specs, ranges: Mapping[str, tuple[int, int | None]], make: Callable[[Plan], Runner], limit: int | None) -> None:
        self.segment, self.specs, self.ranges, self.make, self.limit = segment, specs, ranges, make, limit
        self.runners: list[Runner] = []
        self.lock = threading.Lock()

    def run(self, inputs: Sequence[np.ndarray], terminated: Callable[[], bool]) -> list[np.ndarray]:
        """Run on a plan that covers these sizes, planning one if there is none."""
        for runner in self.runners:
            try:
                return runner.run(inputs, terminated=terminated)
            except InvalidArgument:
                continue
        with self.lock:
            runner = self.make(plan_nodes(self.segment.inputs, self.segment.nodes, self.segment.outputs, self.specs, {**self.ranges, **self._bucket(inputs)}, self.limit))
            self.runners.insert(0, runner)
        return runner.run(inputs, terminated=terminated)

    def _bucket(self, inputs: Sequence[np.ndarray]) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for value, array in zip(self.segment.inputs, inputs, strict=True):
            for said, size in zip(self.specs[value].shape or (), array.shape, strict=True):
                names = symbols(said)
                if len(names) == 1 and str(said) == next(iter(names)).name:
                    found.setdefault(str(said), bucket(size))
        return found


class Division:
    """A graph divided into segments with what runs them, for given values and shapes of some inputs (none: for every run)."""

    def __init__(self, model: Model, make: Callable[[Plan], Runner], limit: int | None, values: Mapping[Value, np.ndarray] | None = None,
                 shapes: Mapping[Value, tuple[int, ...]] | None = None, accepts: Callable[[], Accepts] | None = None) -> None:
        self.specs = infer_shapes(model, values, shapes)
        self.segments = partition(model.graph, self.specs, accepts() if accepts is not None else None)
        self.parts: list[ProgramSegment | Compiled] = [
            Compiled(Graph(f"{model.graph.name}.{i}", s.inputs, s.outputs, s.nodes), limit) if s.host else ProgramSegment(s, self.specs, model.symbols, make, limit)
            for i, s in enumerate(self.segments)]
        self.host = {n: why for s in self.segments for n, why in s.reasons.items()}
        self.direct = self._direct(model.graph)

    def _direct(self, graph: Graph) -> tuple[list[int], list[int]] | None:
        """Where one program is all there is and makes every output: which graph inputs are its inputs, and which of its outputs the graph's are."""
        if len(self.parts) != 1 or isinstance(self.parts[0], Compiled):
            return None
        segment = self.segments[0]
        if not all(v in graph.inputs for v in segment.inputs) or not all(v.const is None and v in segment.outputs for v in graph.outputs):
            return None
        return [graph.inputs.index(v) for v in segment.inputs], [segment.outputs.index(v) for v in graph.outputs]

    @property
    def fallbacks(self) -> dict[Node, str]:
        """Nodes that run on NumPy bodies, and why; shape arithmetic does not count."""
        return {n: why for n, why in self.host.items() if not why.startswith("shape arithmetic")}


#: How many values and shapes of deciding inputs are planned for; a model fed yet more runs the nodes concerned on the host.
VALUES = 16


class SegmentedExecutor:
    """A model on programs where it can be, on NumPy bodies where not. `strict` refuses the latter, shape arithmetic excepted.

    Where small inputs decide sizes or axes (Slice's starts, Range's limit), the graph is divided and planned again for each of their values; where nodes have kernels only for
    known sizes (an If that asks for a size), for each set of the inputs' shapes. `prepare`: rewrites the model before it is divided for the first time."""

    def __init__(self, model: Model, name: str, make: Callable[[Plan], Runner], *, strict: bool = False, limit: int | None = None,
                 accepts: Callable[[], Accepts] | None = None, prepare: Callable[[Model], object] | None = None) -> None:
        self.model, self.name, self.make, self.strict, self.limit, self.accepts, self.prepare = model, name, make, strict, limit, accepts, prepare
        self.divisions: dict[Any, Division] = {}
        self.lock = threading.Lock()
        self._general: Division | None = None
        self._latest: Division | None = None
        if strict and not self.deciding and not self.shaped:
            self._check(self.general)

    @property
    def general(self) -> Division:
        """The division for inputs of any value. Made when it is first needed: opening a session takes no planning (but a strict one, which must say what it refuses)."""
        if self._general is None:
            with self.lock:
                if self._general is None:
                    if self.prepare is not None:
                        self.prepare(self.model)
                    made = Division(self.model, self.make, self.limit, accepts=self.accepts)
                    self._deciding = deciding_inputs(self.model.graph, made.specs, made.fallbacks)
                    symbolic = [v for v in self.model.graph.inputs if any(symbols(d) for d in made.specs[v].shape or ())]
                    self._shaped = symbolic if made.fallbacks else []
                    self._general = made
        return self._general

    @property
    def deciding(self) -> Any:
        """The inputs whose values decide sizes or axes."""
        _ = self.general
        return self._deciding

    @property
    def shaped(self) -> list[Value]:
        """The inputs whose shapes are looked at for a division of their own; none once that has won nothing."""
        _ = self.general
        return self._shaped

    @property
    def latest(self) -> Division:
        """The division of the last run."""
        return self._latest or self.general

    def _check(self, division: Division) -> None:
        if self.strict and division.fallbacks:
            node, why = next(iter(division.fallbacks.items()))
            more = f" (and {len(division.fallbacks) - 1} more nodes)" if len(division.fallbacks) > 1 else ""
            raise EPFail(f"fallback refused: {node.label} ({node.operator}) would run on NumPy: {why}{more}")

    def _division(self, values: Mapping[Value, Any]) -> Division:
        """The division for this run's values and shapes of the inputs that decide."""
        given = {v: values[v] for v in self.deciding if values[v].size <= MAX_KNOWN}
        shapes = {v: values[v].shape for v in self.shaped}
        if not given and not shapes:
            self._check(self.general)
            return self.general
        key = (tuple((a.shape, a.tobytes()) for a in given.values()), tuple(shapes.values()))
        with self.lock:
            found = self.divisions.get(key)
            if found is None and len(self.divisions) < VALUES:
                found = self.divisions[key] = self._divide(given, shapes)
        found = found or self.general
        self._check(found)
        return found

    def _divide(self, values: Mapping[Value, np.ndarray], shapes: Mapping[Value, tuple[int, ...]]) -> Division:
        """The division for these values and shapes; shapes are looked at no more where they win nothing."""
        made = Division(self.model, self.make, self.limit, values, shapes, self.accepts)
        if shapes:
            without = Division(self.model, self.make, self.limit, values, None, self.accepts) if values else self.general
            if len(made.fallbacks) >= len(without.fallbacks):
                self._shaped, made = [], without
        return made

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """See `Executor.run`."""
        general = self._general
        if general is not None and general.direct is not None and not (self._deciding or self._shaped or context.events is not None):
            return self._run_direct(general, inputs, wanted, context)
        values: dict[Value, Any] = dict(zip(self.model.graph.inputs, inputs, strict=True))
        shared: list[np.random.Generator] = []

        def generator(seed: float | None) -> np.random.Generator:
            if seed is not None:
                return np.random.default_rng(int(np.float32(seed).view(np.uint32)))
            if not shared:  # it costs more than a small program
                shared.append(np.random.default_rng(context.seed))
            return shared[0]
        self._latest = division = self._division(values)
        for segment, part in zip(division.segments, division.parts, strict=True):
            if context.terminated():
                raise Terminated("the run was stopped by RunOptions.terminate")
            given = [values[v] for v in segment.inputs]
            start = time.perf_counter_ns()
            if isinstance(part, Compiled):
                with np.errstate(all="ignore"):
                    made = part.run(given, context, generator)
            else:
                made = part.run(given, context.terminated)
                if context.events is not None:
                    context.events.append(Event("program", "Node", start, time.perf_counter_ns() - start, {"provider": self.name, "nodes": len(segment.nodes)}))
            values.update(zip(segment.outputs, made, strict=True))
        outputs = self.model.graph.outputs
        context.owned = self._owned(division, [outputs[i] for i in wanted])
        return [outputs[i].const.numpy() if outputs[i].const is not None else values[outputs[i]] for i in wanted]  # type: ignore[union-attr]

    def _owned(self, division: Division, wanted: Sequence[Value]) -> bool:
        """Whether programs make all these, each once: their outputs are arrays of their own."""
        made = {v for segment, part in zip(division.segments, division.parts, strict=True) if not isinstance(part, Compiled) for v in segment.outputs}
        return len(set(wanted)) == len(wanted) and all(v in made and v.const is None for v in wanted)

    def _run_direct(self, division: Division, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """The run of a model that is one program."""
        assert division.direct is not None
        self._latest = division
        taken, makes = division.direct
        made = division.parts[0].run([inputs[i] for i in taken], context.terminated)  # type: ignore[call-arg, arg-type]
        context.owned = len({makes[i] for i in wanted}) == len(wanted)
        return [made[makes[i]] for i in wanted]

    def placements(self) -> list[Placement]:
        """Where each node ran last (before the first run: would run, whatever small inputs say); free nodes (shape arithmetic done at planning) count for the programs."""
        host = self.latest.host
        return [Placement(n, REFERENCE, host[n]) if n in host else Placement(n, self.name) for n in self.model.graph.walk()]

    def close(self) -> None:
        """Drop plans and constants."""
        if self._general is not None:
            self._general.parts = []
        self.divisions = {}
