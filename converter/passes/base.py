"""What a pass is, and how passes are run.

A pass is one class with a `name`; its docstring numbers the cases it rewrites and the body follows the numbers. `run` changes the model in place and
returns how many rewrites it made. It keeps the graph's interface (names, order and types of inputs and outputs), and leaves a graph that can be sorted and
for which `graph.verify()` then holds. New nodes carry the origins of what they replace. A pass never changes results beyond floating-point rounding; each
states where it rounds differently.

While passes run, the defaults of overridable inputs are set aside: to a pass `value.const` is a constant, without exception.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sardonyx.errors import Fail, SardonyxError
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.narrow import astype
from sardonyx.ops.registry import Spec
from sardonyx.plan.shapes import Specs, infer_node, infer_shapes, spec_of
from sardonyx.types import DType, TensorType


class Pass:
    """Base class; see the module's docstring. `specs`: shape inference of the model as it was before the pass, kept up by `add`. `outputs`: every output of every graph."""

    name = ""

    def __init__(self) -> None:
        self.specs: Specs = {}
        self.outputs: set[Value] = set()
        self.notes: list[str] = []

    def run(self, model: Model) -> int:
        """Rewrite the model; return the number of rewrites."""
        raise NotImplementedError

    # -- what is known ---------------------------------------------------------------------------------------------------------------------
    def spec(self, value: Value) -> Spec:
        """What inference knows of a value."""
        return spec_of(value, self.specs)

    def shape(self, value: Value) -> Any:
        """The shape as a tuple of Dims, None where the rank is not known."""
        return self.spec(value).shape

    def dtype(self, value: Value) -> DType | None:
        return self.spec(value).dtype

    def only_use(self, value: Value) -> bool:
        """Whether one node input is the value's only use."""
        return len(value.uses) == 1 and value not in self.outputs

    # -- rewriting -------------------------------------------------------------------------------------------------------------------------
    def add(self, graph: Graph, op_type: str, inputs: Iterable[Value | None], before: Node, origin: tuple[str, ...], **attributes: Any) -> Value:
        """A new node before another one; its output, with its type inferred."""
        node = graph.node(op_type, inputs, origin=origin, before=before, **attributes)
        infer_node(node, self.specs)
        made = node.outputs[0]
        assert made is not None
        return made

    def replace(self, graph: Graph, old: Value, new: Value) -> None:
        """`new` stands for `old` from now on, outputs included (see `graph.replace_value`)."""
        if old not in self.outputs:
            old.replace_by(new)
            return
        declared = old.type
        graph.replace_value(old, new)
        self.outputs.discard(old)
        for nested in graph.graphs():
            self.outputs.update(nested.outputs)
        if new in self.outputs and isinstance(declared, TensorType):
            new.type = declared

    def prune(self, graph: Graph, *nodes: Node | None) -> None:
        """Remove the nodes, and what only they used, as far as nothing uses them any more: so that `only_use` holds for what they used."""
        stack, dead = [n for n in nodes if n is not None], []
        while stack:
            node = stack.pop()
            if any(v is not None and (v.uses or v in self.outputs) for v in node.outputs) or node not in graph.nodes:
                continue
            used = [v.producer for v in node.inputs if v is not None and v.producer is not None]
            node.detach()
            dead.append(node)
            stack.extend(used)
        if dead:
            graph.remove(*dead)


@dataclass(frozen=True)
class PassResult:
    """What one pass did: rewrites, nodes before and after, seconds, and remarks for the user."""

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    seconds: float
    notes: tuple[str, ...] = ()


def run_passes(model: Model, passes: Sequence[Pass], progress: Callable[[str, float], None] | None = None) -> list[PassResult]:
    """Run the passes in order; `progress` gets (pass name, fraction done)."""
    results: list[PassResult] = []
    specs: Specs | None = None  # of the model as it is; a pass that rewrites nothing leaves them, and the outputs and the number of nodes, true
    outputs: set[Value] = set()
    count = 0
    with _defaults_aside(model.graph):
        for i, step in enumerate(passes):
            if progress is not None:
                progress(step.name, i / len(passes))
            if specs is None:
                specs, outputs, count = infer_shapes(model), all_outputs(model.graph), sum(1 for _ in model.graph.walk())
            results.append(_run_pass(model, step, specs, set(outputs), count))
            if results[-1].rewrites:
                specs = None
    return results


def _run_pass(model: Model, step: Pass, specs: Specs, outputs: set[Value], before: int) -> PassResult:
    start = time.perf_counter()
    step.specs, step.outputs, step.notes = specs, outputs, []
    try:
        rewrites = step.run(model)
    except SardonyxError:
        raise
    except Exception as error:  # inference accepts what a rewrite then stumbles over: sizes that do not fit, where ranks were not known
        raise Fail(f"pass '{step.name}' failed ({type(error).__name__}: {error}): the model is probably not valid (`onnx.checker` may say where); optimize=False converts it as it is") from error
    step.specs, step.outputs = {}, set()
    if rewrites:
        for graph in model.graph.graphs():
            graph.sort()
        model.graph.verify()
    after = sum(1 for _ in model.graph.walk()) if rewrites else before
    return PassResult(step.name, rewrites, before, after, time.perf_counter() - start, tuple(step.notes))


@contextmanager
def _defaults_aside(graph: Graph) -> Iterator[None]:
    """Within, graph inputs that have a default are plain inputs: their values may differ in every run."""
    defaults: list[tuple[Value, Tensor]] = [(v, v.const) for g in graph.graphs() for v in g.inputs if v.const is not None]
    for value, _ in defaults:
        value.const = None
    try:
        yield
    finally:
        for value, const in defaults:
            value.const = const


# -- looking at a graph -----------------------------------------------------------------------------------------------------------------------

def is_op(node: Node | None, *names: str) -> bool:
    """Whether the node is one of the named ai.onnx operators."""
    return node is not None and node.domain == "" and node.op_type in names


def producer(value: Value | None, *names: str) -> Node | None:
    """The node that makes `value` as its first output, if it is one of the named ai.onnx operators."""
    node = value.producer if value is not None else None
    return node if node is not None and is_op(node, *names) and node.outputs[0] is value else None


def constant_of(value: Value | None) -> np.ndarray | None:
    """The array of a constant value; None for anything else."""
    return value.const.numpy() if value is not None and value.const is not None else None


def scalar_of(value: Value | None) -> float | None:
    """The number in a one-element numeric constant, None for anything else."""
    if value is None or value.const is None or value.const.size != 1 or value.const.dtype in (DType.STRING, DType.COMPLEX64, DType.COMPLEX128):
        return None
    return float(value.const.numpy().reshape(-1)[0])


def input_of(node: Node, index: int) -> Value | None:
    """An input that may be absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def all_outputs(graph: Graph) -> set[Value]:
    """The outputs of the graph and of every nested one."""
    return {value for g in graph.graphs() for value in g.outputs}


def uniform(tensor: Tensor) -> Any:
    """The one value of a splat as a NumPy scalar, None for a tensor not known to be uniform."""
    return tensor.numpy()[(0,) * len(tensor.shape)] if tensor.is_splat else None


def tensor_of(array: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """A constant of the given type: a splat where `array` has one element and the shape more."""
    if array.size == 1 and int(np.prod(shape)) > 1:
        return Tensor.splat(astype(array, dtype).reshape(()), dtype, shape)
    return Tensor(np.ascontiguousarray(astype(array, dtype, copy=False).reshape(shape)), dtype=dtype)


__all__ = ["Pass", "PassResult", "all_outputs", "constant_of", "input_of", "is_op", "merge_origins", "producer", "run_passes", "scalar_of", "tensor_of", "uniform"]
