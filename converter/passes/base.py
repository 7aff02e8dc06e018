"""What a pass is, and how passes are run.

A pass is one class with a `name`; its docstring numbers the cases it rewrites and the body follows the numbers. `run` changes the model in place and
returns how many rewrites it made. It may rely on `self.specs` (shape inference, done before the pass when `needs_shapes`), keeps the graph's
interface (names, order and types of inputs and outputs), and leaves a graph for which `graph.verify()` holds. New nodes carry the origins of what
they replace. A pass never changes results beyond floating-point rounding; each states where it rounds differently.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx.graph import Graph, Model, Node, Value
from sardonyx.plan.shapes import Specs, infer_shapes


class Pass:
    """Base class; see the module's docstring."""

    name = ""
    needs_shapes = True

    def __init__(self) -> None:
        self.specs: Specs = {}

    def run(self, model: Model) -> int:
        """Rewrite the model; return the number of rewrites."""
        raise NotImplementedError


@dataclass(frozen=True)
class PassResult:
    """What one pass did: rewrites, nodes before and after, seconds."""

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    seconds: float


def run_passes(model: Model, passes: Sequence[Pass], progress: Callable[[str, float], None] | None = None) -> list[PassResult]:
    """Run the passes in order; `progress` gets (pass name, fraction done)."""
    results = []
    for i, step in enumerate(passes):
        if progress is not None:
            progress(step.name, i / len(passes))
        start, before = time.perf_counter(), sum(1 for _ in model.graph.walk())
        if step.needs_shapes:
            step.specs = infer_shapes(model)
        rewrites = step.run(model)
        step.specs = {}
        if rewrites:
            for graph in model.graph.graphs():
                graph.sort()
            model.graph.verify()
        results.append(PassResult(step.name, rewrites, before, sum(1 for _ in model.graph.walk()), time.perf_counter() - start))
    return results


# -- looking at a graph, for patterns ---------------------------------------------------------------------------------------------------------

def is_op(node: Node | None, *names: str, domain: str = "") -> bool:
    """Whether the node is one of the named operators."""
    return node is not None and node.domain == domain and node.op_type in names


def producer(value: Value | None, *names: str, domain: str = "") -> Node | None:
    """The node that makes `value` if it is one of the named operators."""
    node = value.producer if value is not None else None
    return node if is_op(node, *names, domain=domain) else None


def constant_of(value: Value | None) -> np.ndarray | None:
    """The array of a constant value; None for anything else. (An overridable default of a graph input is not a constant.)"""
    return value.const.numpy() if value is not None and value.const is not None else None


def scalar_of(value: Value | None) -> float | None:
    """The number in a one-element constant, None for anything else."""
    if value is None or value.const is None or value.const.size != 1:
        return None
    return float(value.const.numpy().reshape(-1)[0])


def only_use(value: Value, graph_outputs: Iterable[Value]) -> bool:
    """Whether one node input is the value's only use, graph outputs counted (`all_outputs(model)`)."""
    return len(value.uses) == 1 and value not in graph_outputs


def all_outputs(graph: Graph) -> set[Value]:
    """The outputs of the graph and of every nested one."""
    return {value for g in graph.graphs() for value in g.outputs}


def overridable(graph: Graph) -> set[Value]:
    """Graph inputs that have a default: constants at first sight, and not to be folded."""
    return {value for g in graph.graphs() for value in g.inputs if value.const is not None}
