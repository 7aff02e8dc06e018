"""ReferenceExecutionProvider: runs a graph node by node with the operators' NumPy bodies. The oracle of every other executor.

A graph is compiled once into a flat list of steps over numbered slots; a value's slot is cleared after its last use. Nested graphs are
compiled with the values they capture as extra inputs.
"""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..errors import InvalidGraph, MemoryLimit, RuntimeException, SardonyxError, Terminated
from ..graph import Graph, Model, Node, Tensor, Value
from ..ops import Context, lookup
from ..philox import draws_of_run
from ..plan.shapes import attribute_arguments, check_arity
from ..types import DType
from .base import Event, Placement, RunContext
from .limit import memory_limit
from .memory import Guard, guard

NAME = "ReferenceExecutionProvider"


@dataclass(slots=True)
class Step:
    """One node: its body, where its inputs and outputs are, and which slots are dead afterwards."""

    node: Node
    body: Any
    inputs: tuple[int, ...]      # -1: absent
    outputs: tuple[int, ...]     # -1: not wanted
    dead: tuple[int, ...]
    wants_context: bool
    guard: Guard | None


class Compiled:
    """A graph as steps over slots. Slots: inputs, captures, constants, then node outputs. limit: see `memory`."""

    def __init__(self, graph: Graph, limit: int | None = None) -> None:
        self.graph, self.limit = graph, limit
        self.captures = graph.captures()
        slot: dict[Value, int] = {}
        for value in [*graph.inputs, *self.captures]:
            slot[value] = len(slot)
        self.n_given = len(slot)
        self.constants: list[Tensor] = []
        for value in graph.constants():
            if value not in slot and value.const is not None:
                slot[value] = len(slot)
                self.constants.append(value.const)
        self.nested: dict[int, Compiled] = {}
        self.steps = [self._step(node, slot) for node in graph.nodes]
        self.outputs = [slot[v] for v in graph.outputs]
        self.n_slots = len(slot)
        self._plain: list[np.ndarray | None] = [None] * len(self.constants)
        self._mark_dead()

    def _step(self, node: Node, slot: dict[Value, int]) -> Step:
        operator = lookup(node.domain, node.op_type)
        check_arity(node, operator)
        arguments = attribute_arguments(node, operator)
        inputs = [-1 if v is None else slot[v] for v in node.inputs]
        for graph in node.subgraphs():
            compiled = self.nested[id(graph)] = Compiled(graph, self.limit)
            inputs += [slot[v] for v in compiled.captures]  # kept alive until this node, dropped before the call
        outputs = []
        for value in node.outputs:
            if value is not None:
                slot[value] = len(slot)
            outputs.append(-1 if value is None else slot[value])
        checked = guard(node, operator, arguments, self.limit)
        if "n_outputs" in operator.wants:
            arguments = {**arguments, "n_outputs": len(node.outputs)}
        return Step(node, partial(operator, **arguments), tuple(inputs), tuple(outputs), (), "context" in operator.wants, checked)

    def _mark_dead(self) -> None:
        constants = range(self.n_given, self.n_given + len(self.constants))
        kept = set(self.outputs) | set(constants)
        for step in reversed(self.steps):
            step.dead = tuple({s for s in (*step.inputs, *step.outputs) if s >= 0 and s not in kept})
            kept.update(step.dead)

    def constant(self, index: int) -> np.ndarray:
        found = self._plain[index]
        if found is None:
            found = self._plain[index] = self.constants[index].numpy()
        return found

    def run(self, given: Sequence[Any], run: RunContext, generator: Any) -> list[Any]:
        slots: list[Any] = [None] * self.n_slots
        slots[:len(given)] = given
        for i in range(len(self.constants)):
            slots[self.n_given + i] = self.constant(i)
        context = Context(partial(self._run_nested, slots, run, generator), generator, run.terminated)
        for step in self.steps:
            if run.terminated():
                raise Terminated("the run was stopped by RunOptions.terminate")
            start = time.perf_counter_ns() if run.events is not None else 0
            inputs = [slots[s] if s >= 0 else None for s in step.inputs[:len(step.node.inputs)]]
            if step.guard is not None:
                step.guard.check(inputs)
            made = _call(step, inputs, context)
            for s, value in zip(step.outputs, made, strict=False):
                if s >= 0:
                    slots[s] = value
            if run.events is not None:
                run.events.append(Event(f"{'+'.join(step.node.origin) or step.node.op_type}_kernel_time", "Node", start, time.perf_counter_ns() - start,
                                        {"op_name": step.node.op_type, "provider": NAME, "input_type_shape": _types_and_shapes(inputs),
                                         "output_type_shape": _types_and_shapes(made)}))
            for s in step.dead:
                slots[s] = None
        return [slots[s] for s in self.outputs]

    def _run_nested(self, slots: list[Any], run: RunContext, generator: Any, graph: Graph, inputs: Sequence[Any]) -> list[Any]:
        compiled = self.nested[id(graph)]
        own = self._slot_of
        return compiled.run([*inputs, *(slots[own[v]] for v in compiled.captures)], run, generator)

    @property
    def _slot_of(self) -> dict[Value, int]:
        found: dict[Value, int] | None = self.__dict__.get("_slots")
        if found is None:
            found = {}
            for i, value in enumerate([*self.graph.inputs, *self.captures]):
                found[value] = i
            for step in self.steps:
                found.update((v, s) for v, s in zip(step.node.outputs, step.outputs, strict=True) if v is not None)
            self.__dict__["_slots"] = found
        return found


def _call(step: Step, inputs: list[Any], context: Context) -> list[Any]:
    try:
        made = step.body(*inputs, context=context) if step.wants_context else step.body(*inputs)
    except (RuntimeException, MemoryLimit):
        raise  # a nested graph's node, already named
    except MemoryError as error:
        raise MemoryLimit(f"{step.node.label}: not enough memory ({error}); inputs: {', '.join(map(_describe, inputs))}. Use smaller inputs or a larger machine") from error
    except SardonyxError as error:
        kind = RuntimeException if isinstance(error, InvalidGraph) else type(error)
        raise kind(f"{step.node.label}: {error}; inputs: {', '.join(map(_describe, inputs))}") from error
    except Exception as error:
        raise RuntimeException(f"{step.node.label} failed: {type(error).__name__}: {error}; inputs: {', '.join(map(_describe, inputs))}") from error
    return [_normal(v) for v in (made if isinstance(made, tuple) else (made,))]


def _normal(value: Any) -> Any:
    """NumPy scalars become 0-d arrays; lists (sequences), dicts (maps) and None (empty optional) stay."""
    return value if value is None or isinstance(value, (np.ndarray, list, dict)) else np.asarray(value)


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{DType.of(value).text}{list(value.shape)}"
    return "absent" if value is None else type(value).__name__


def _types_and_shapes(values: Sequence[Any]) -> list[dict[str, list[int]]]:
    """`[{"float": [2, 3]}]`, as onnxruntime's profiles say it; values that are no tensors are left out."""
    return [{DType.of(v).text: list(v.shape)} for v in values if isinstance(v, np.ndarray)]


class ReferenceExecutor:
    """See `Compiled`; this adds the session's side of the interface."""

    def __init__(self, model: Model, limit: int | None = None) -> None:
        self.model = model
        self._compiled = Compiled(model.graph, limit)

    def run(self, inputs: Sequence[Any], wanted: Sequence[int], context: RunContext) -> list[Any]:
        """See `Executor.run`."""
        generator = draws_of_run(context.seed)
        with np.errstate(all="ignore"):
            outputs = self._compiled.run(inputs, context, generator)
        return [outputs[i] for i in wanted]

    def placements(self) -> list[Placement]:
        """Every node, nested ones included, runs here."""
        return [Placement(node, NAME) for node in self.model.graph.walk()]

    def close(self) -> None:
        """Drop the compiled steps and the plain forms of constants."""
        del self._compiled


class ReferenceProvider:
    """Always available; slow and exact."""

    name = NAME

    def available(self) -> str:
        """NumPy is a dependency, so it always works."""
        return ""

    def compile(self, model: Model, options: Mapping[str, Any]) -> ReferenceExecutor:
        """Resolve every operator now, so that an unknown one is an error at load and not in the middle of a run."""
        return ReferenceExecutor(model, memory_limit(options))
