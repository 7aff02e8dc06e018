"""Runs a package's blocks from Python: programs on some runner, control flow here, the host's nodes on their NumPy bodies.

A slot holds an array (or, between nodes of the host, whatever they make; or, between programs of a runner that `keeps`, a tensor on its device); it is emptied after the last segment
that reads it.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..dim import Shape
from ..errors import RuntimeException, Terminated
from ..package import Block, Device, Do, Segment
from ..plan.planner import PackagePlan, Plan
from ..program import Home, Program
from ..types import DType
from .base import Event, RunContext, on_host
from .profile import step_events
from .reference import Compiled


@runtime_checkable
class Rounds(Protocol):
    """A runner whose products may round to bfloat16."""

    def rounded(self, inputs: Sequence[np.ndarray]) -> Container[int]:
        """The steps that do, for these inputs."""


class Runner(Protocol):
    """Something that runs one planned program. `run` raises InvalidArgument where the inputs' sizes are outside the plan's."""

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None) -> list[np.ndarray]:
        """The outputs, as arrays of their own. `terminated` is polled where the runner can stop in the middle; it raises Terminated."""


@runtime_checkable
class MeasuresSteps(Protocol):
    """A runner that fills `times` (int64[steps, 2]) with each step's start and duration in nanoseconds, if `measures_steps`."""

    measures_steps: bool

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, times: np.ndarray | None = None) -> list[np.ndarray]:
        """As Runner's."""


class Blocks:
    """A planned package made ready to run. `name`: who runs programs, for the profile. `beside`: makes runners for the engine's programs of a package for another device."""

    def __init__(self, plan: PackagePlan, name: str, make: Callable[[Plan], Runner], limit: int | None, beside: Callable[[Plan], Runner] | None = None) -> None:
        self.plan, self.name = plan, name
        self.package = plan.package
        engines = {s.program for b in self.package.blocks for s in b.segments if s.do is Do.PROGRAM and s.device is Device.ENGINE} if beside is not None else set()
        self.runners = [beside(p) if beside is not None and i in engines else make(p) for i, p in enumerate(plan.plans)]
        self.hosted = [Compiled(graph, limit) for graph in plan.hosted]
        self._dead: dict[int, list[tuple[int, ...]]] = {}
        self._residents: dict[int, frozenset[int]] = {}
        root = self.package.blocks[self.package.variants[0].block]
        programs = {s for segment in root.segments if segment.do is Do.PROGRAM and segment.device is not Device.HOST for s in segment.outputs}
        self.owned = [slot in programs for slot in root.outputs]     # whether an output is an array of its own
        single = len(self.package.blocks) == 1 and len(self.runners) == 1 and not self.hosted and not engines
        self.direct = self.runners[0] if single and root.segments[0].inputs == root.inputs and root.segments[0].outputs == root.outputs else None

    @cached_property
    def stepless(self) -> bool:
        """Whether no program reads anything but constants and there is no control flow: all is known at planning."""
        return not any(reads_data(p.program) for p in self.plan.plans) and all(s.do is Do.PROGRAM for b in self.package.blocks for s in b.segments)

    def run(self, inputs: Sequence[Any], context: RunContext, generator: Any, stay: frozenset[int] = frozenset()) -> list[Any]:
        """The outputs of the root block; those whose numbers are in `stay` remain on the runners' device, where they can."""
        if self.direct is not None and context.events is None:
            if _keeps(self.direct):
                return self.direct.run(inputs, terminated=context.terminated, keep=_targets(stay, context), submitted=context.submitted)  # type: ignore[call-arg]
            if context.into is not None and getattr(self.direct, "takes_into", False):
                return self.direct.run(inputs, terminated=context.terminated, into=context.into)  # type: ignore[call-arg]
            return self.direct.run(inputs, terminated=context.terminated)
        return self._block(self.package.variants[0].block, inputs, _Run(context, generator), stay)

    # -- blocks ---------------------------------------------------------------------------------------------------------------------------------
    def _block(self, number: int, inputs: Sequence[Any], run: _Run, stay: frozenset[int] = frozenset()) -> list[Any]:
        block = self.package.blocks[number]
        resident = {**dict.fromkeys(self._resident(number)), **{block.outputs[i]: target for i, target in _targets(stay, run.context).items()}}
        slots: list[Any] = [None] * block.slots
        for slot, value in zip(block.inputs, inputs, strict=True):
            slots[slot] = value
        for segment, dead in zip(block.segments, self._last_reads(number, block), strict=True):
            if run.context.terminated():
                raise Terminated("the run was stopped by RunOptions.terminate")
            given = [None if s < 0 else slots[s] for s in segment.inputs]
            made = self._segment(segment, given, run, resident)
            for slot, value in zip(segment.outputs, made, strict=True):
                if slot >= 0:
                    slots[slot] = value
            for slot in dead:
                slots[slot] = None
        return [slots[s] for s in block.outputs]

    def _last_reads(self, number: int, block: Block) -> list[tuple[int, ...]]:
        found = self._dead.get(number)
        if found is None:
            kept = set(block.outputs)
            found = []
            for segment in reversed(block.segments):
                dead = {s for s in (*segment.inputs, *segment.outputs) if s >= 0} - kept
                kept |= dead
                found.append(tuple(dead))
            found = self._dead[number] = found[::-1]
        return found

    def _resident(self, number: int) -> frozenset[int]:
        """The slots that go from programs to programs only: they may hold tensors of the runners' device. (Outputs of the block are its caller's to decide.)"""
        found = self._residents.get(number)
        if found is None:
            block = self.package.blocks[number]
            made, taken = set(), set(block.outputs)
            for segment in block.segments:
                if not self._on_device(segment):
                    taken |= {s for s in segment.inputs if s >= 0}
                    continue
                taken |= {segment.inputs[port] for port, _ in self.plan.plans[segment.program].program.elements}   # read by bind
                made |= set(segment.outputs)
            found = self._residents[number] = frozenset(made - taken)
        return found

    def _on_device(self, segment: Segment) -> bool:
        """Whether a segment takes and makes tensors on a device."""
        return segment.do is Do.PROGRAM and segment.device is not Device.HOST and _keeps(self.runners[segment.program])

    def _segment(self, segment: Segment, given: list[Any], run: _Run, resident: Mapping[int, Any]) -> list[Any]:
        on_device = self._on_device(segment)
        if not on_device:
            given = [on_host(x) for x in given]
        if segment.do is Do.IF:
            return self._block(segment.blocks[0 if _truth(given[0], segment) else 1], given[1:], run)
        if segment.do is Do.LOOP:
            return self._loop(segment, given, run)
        context = run.context
        if segment.device is Device.HOST:
            with np.errstate(all="ignore"):
                return self.hosted[segment.program].run(given, context, run.generator)
        runner = self.runners[segment.program]
        if on_device and context.events is None:
            return runner.run(given, terminated=context.terminated, keep={i: resident[s] for i, s in enumerate(segment.outputs) if s in resident})  # type: ignore[call-arg]
        return runner.run(given, terminated=context.terminated) if context.events is None else self._profiled(segment.program, runner, given, context)

    def _profiled(self, number: int, runner: Runner, given: list[Any], context: RunContext) -> list[Any]:
        """A run with an event for every step, where the runner measures steps, else one for all."""
        assert context.events is not None
        program, start = self.plan.plans[number].program, time.perf_counter_ns()
        if not isinstance(runner, MeasuresSteps) or not runner.measures_steps:
            made = runner.run(given, terminated=context.terminated)
            context.events.append(Event("program", "Node", start, time.perf_counter_ns() - start, {"provider": self.name, "steps": len(program.steps)}))
            return made
        times = np.zeros((len(program.steps), 2), np.int64)
        made = runner.run(given, terminated=context.terminated, times=times)
        context.events += step_events(program, given, times.tolist(), self.name, runner.rounded(given) if isinstance(runner, Rounds) else ())
        return made

    def _loop(self, segment: Segment, given: list[Any], run: _Run) -> list[Any]:
        """See package.Segment: (trip, cond, carried × n, scanned × m, captured…)."""
        flags, n, m, k, *options = segment.params
        body = segment.blocks[0]
        trip, cond, carried = given[0], given[1], given[2:2 + n]
        ways = list(zip(options[::2], options[1::2], strict=True))
        scanned = [_slices(x, *way) for x, way in zip(given[2 + n:2 + n + m], ways[:m], strict=True)]
        captured = given[2 + n + m:]
        rounds = int(np.asarray(trip).item()) if trip is not None else None
        if not flags & 1:
            lengths = {len(x) for x in scanned}
            if len(lengths) != 1:
                raise RuntimeException(f"{segment.origin}: the scanned inputs have different lengths along their scan axes: {[len(x) for x in scanned]}")
            rounds = lengths.pop()
        going = cond is None or _truth(cond, segment)
        stacked: list[list[Any]] = [[] for _ in range(k)]
        i = 0
        while going and (rounds is None or i < rounds):
            head = [np.array(i, np.int64), np.array(going)] if flags & 1 else []
            made = self._block(body, [*head, *carried, *(np.asarray(x[i]) for x in scanned), *captured], run)
            if flags & 1:
                going = cond is None or _truth(made[0], segment)
                made = made[1:]
            carried = made[:n]
            for items, item in zip(stacked, made[n:], strict=True):
                items.append(item)
            i += 1
        types = self.plan.types[body][(flags & 1) + n:]
        return [*carried, *(_stack(items, *way, *type, segment) for items, way, type in zip(stacked, ways[m:], types, strict=True))]


def reads_data(program: Program) -> bool:
    """Whether a step reads or sizes follow from what a run gives."""
    return bool(program.inputs) and bool(program.elements or any(v >= 0 and program.buffers[program.views[v].buffer][0] != Home.DATA for step in program.steps for v in step.inputs))


def _targets(stay: Collection[int], context: RunContext) -> dict[int, Any]:
    """Output number → the tensor on the device to write it to, or None, of those that stay."""
    return {i: context.into[i] if context.into is not None else None for i in stay}


def _keeps(runner: Runner) -> bool:
    """Whether a runner takes tensors on its device and has the arguments `keep` and `submitted`."""
    return getattr(runner, "keeps", False)


class _Run:
    """What a run hands through blocks."""

    __slots__ = ("context", "generator")

    def __init__(self, context: RunContext, generator: Any) -> None:
        self.context, self.generator = context, generator


def _truth(cond: Any, segment: Segment) -> bool:
    if np.size(cond) != 1:
        raise RuntimeException(f"{segment.origin}: the condition must have one element, not shape {list(np.shape(cond))}")
    return bool(np.asarray(cond).item())


def _slices(x: np.ndarray, axis: int, reverse: int) -> np.ndarray:
    moved = np.moveaxis(x, axis, 0)
    return moved[::-1] if reverse else moved


def _stack(items: list[Any], axis: int, reverse: int, dtype: DType, shape: Shape, segment: Segment) -> np.ndarray:
    """Elements along a new axis; without any, sizes that are no numbers are 0."""
    if not items:
        sizes = [d if isinstance(d, int) else 0 for d in shape]
        return np.zeros((*sizes[:axis], 0, *sizes[axis:]), dtype.numpy)
    if len({x.shape for x in items}) > 1:
        raise RuntimeException(f"{segment.origin}: a scan output changes its shape between iterations: {sorted({x.shape for x in items})[:4]}")
    return np.stack(items[::-1] if reverse else items, axis)
