"""Stage 2, lower: every operator becomes kernel calls by its `@Op.lower` rule.

Rules
1. Graph inputs and constants become buffers; every other Value becomes what its node's rule returns.
2. A value that shape inference knows as numbers or Dims is not computed: rules read it as `view.value`; if a kernel needs it after all, numbers become a constant,
   and sizes are computed from the bound ones.
3. A node whose outputs are all known this way, or unused, is not lowered (shape arithmetic disappears at planning).
4. A node with no rule, or whose rule raises CannotLower, ends lowering with the node's name and the reason: the caller partitions or falls back.
5. So does a node that makes a size data decide (NonZero, a Range to a computed limit): that size binds the next segment.
6. And a node whose kernels would compute with an element type that is only moved (float8).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from ..dim import Expr, Undecidable, provably, symbols
from ..expr import Compute, E, Op, cast, compute_type, const
from ..graph import Graph, Node, Value
from ..kernels import Kernel
from ..lowering import Axis, Buffer, CannotLower, KernelCall, Lowering, View
from ..ops import Spec, lookup
from ..program import RANK
from ..types import DType
from .shapes import Specs, attribute_arguments, spec_of

#: Element types no kernel loads.
HOST_TYPES = frozenset({DType.STRING, DType.COMPLEX64, DType.COMPLEX128})
#: Element types kernels compute with; the others are moved only, by MOVES. 4- and 2-bit integers take a byte each.
COMPUTED = frozenset({DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.BOOL, DType.INT8, DType.INT16, DType.INT32, DType.INT64, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64,
                      DType.INT4, DType.UINT4, DType.INT2, DType.UINT2})
MOVES = frozenset({Kernel.COPY, Kernel.GATHER, None})


@dataclass
class Lowered:
    """The kernel calls of a graph: inputs and outputs as views, in the graph's order."""

    calls: list[KernelCall]
    inputs: list[View]
    outputs: list[View]
    input_names: list[str]
    output_names: list[str]


def lower(inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value], specs: Specs) -> Lowered:
    """Lower nodes that make `outputs` from `inputs`; raises CannotLower naming the first node that has no kernels."""
    k = Lowering()
    views: dict[Value, View] = {}
    for i, value in enumerate(inputs):
        views[value] = input_view(value, i, specs)
    for node in nodes:
        lower_node(k, node, views, specs)
    made = [_view(k, v, views, specs) for v in outputs]
    _compute_sizes(k, "graph output", made, len(k.calls))
    return Lowered(k.calls, [views[v] for v in inputs], made, [v.name for v in inputs], [v.name for v in outputs])


def input_view(value: Value, number: int, specs: Specs) -> View:
    """The view of an input of a program; CannotLower for what is no tensor of known rank."""
    spec = spec_of(value, specs)
    if spec.dtype is None or spec.shape is None:
        raise CannotLower(f"input '{value.name}' is {spec}: programs take tensors of known rank")
    if spec.dtype in HOST_TYPES:
        raise CannotLower(f"input '{value.name}' is {spec}: {spec.dtype.text} runs on the host")
    if len(spec.shape) > RANK:
        raise CannotLower(f"input '{value.name}' is {spec}: programs take tensors of rank {RANK} at most")
    return Buffer(value.name, spec.dtype, spec.shape, port=("input", number)).whole()


def lower_node(k: Lowering, node: Node, views: dict[Value, View], specs: Specs) -> None:
    """Add one node's calls and record the views of its outputs."""
    wanted = [v for v in node.outputs if v is not None]
    if all(specs[v].value is not None for v in wanted):                                                   # 3
        return
    operator = lookup(node.domain, node.op_type)
    if operator.lowering is None:
        raise CannotLower(f"{node.label}: {node.operator} has no kernels")
    k.origin, k.name = node.origin, wanted[0].name
    inputs = [None if v is None else _view(k, v, views, specs) for v in node.inputs]
    arguments: dict[str, Any] = attribute_arguments(node, operator)
    if "n_outputs" in operator.lowering_wants:
        arguments["n_outputs"] = len(node.outputs)
    nested = next(node.subgraphs(), None) is not None   # inlined: its own nodes answer for their types and sizes
    for value in wanted:
        spec = specs[value]
        if nested:
            continue
        if spec.dtype is None or spec.shape is None:
            raise CannotLower(f"{node.label}: the type of '{value.name}' is not known before the model runs ({spec})")
        if _own_sizes(spec, inputs):                                                                      # 5
            raise CannotLower(f"{node.label}: data decide the size of '{value.name}' ({spec})")
    host = next((v for v in (*inputs, *(specs[v] for v in wanted)) if v is not None and v.dtype in HOST_TYPES), None)
    if host is not None:
        raise CannotLower(f"{node.label}: {host.dtype.text} runs on the host")  # type: ignore[union-attr]
    before = len(k.calls)
    k.inline = lambda graph, given: inline(k, graph, given, views, specs)
    try:
        made = operator.lowering(k, *inputs, **arguments, out=_declared([specs.get(v) if v is not None else None for v in node.outputs]))
    except CannotLower as reason:
        raise CannotLower(f"{node.label}: {reason}") from None
    except Undecidable as reason:
        raise CannotLower(f"{node.label}: sizes that only the run knows decide how it computes ({reason})") from None
    for call in k.calls[before:]:
        moved = next((v for v in (*call.inputs, *call.outputs) if v is not None and v.dtype not in COMPUTED), None)
        if moved is not None and call.kind not in MOVES:                                                  # 6
            raise CannotLower(f"{node.label}: no kernel computes with {moved.dtype.text}")
        if any(v is not None and v.rank > RANK for v in (*call.inputs, *call.outputs)):
            raise CannotLower(f"{node.label}: takes views of more than {RANK} axes")
    _compute_sizes(k, node.label, [v for call in k.calls[before:] for v in call.inputs], before)
    for output, view in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
        if output is not None and view is not None:
            views[output] = replace(view, value=specs[output].value)


def inline(k: Lowering, graph: Graph, given: Sequence[View], views: dict[Value, View], specs: Specs) -> list[View]:
    """Lower a nested graph whose inputs are `given` as if its nodes stood where it is used; shape inference has recorded its values."""
    origin, name = k.origin, k.name
    views.update(zip(graph.inputs, given, strict=True))
    for node in graph.nodes:
        lower_node(k, node, views, specs)
    k.origin, k.name = origin, name
    return [_view(k, v, views, specs) for v in graph.outputs]


def _compute_sizes(k: Lowering, label: str, views: Sequence[View | None], before: int) -> None:
    """Kernels that read sizes as data (rule 2) get them from Reduces, put before the call number `before`: n is the sum of n ones."""
    for buffer in dict.fromkeys(v.buffer for v in views if v is not None):
        value = k.sizes.pop(buffer, None)
        if value is None:
            continue
        rest, k.calls = k.calls[before:], k.calls[:before]
        for place, size in np.ndenumerate(np.asarray(value, object)):
            _write_size(k, label, View(buffer, (Axis(1, None),), tuple((dim, at) for dim, at in enumerate(place) if at)), size)
        k.calls += rest


def _write_size(k: Lowering, label: str, target: View, size: Any) -> None:
    wide = compute_type(target.dtype)
    if not isinstance(size, Expr):
        k.call(Kernel.MAP, [], [target], epilogue=[const(size, wide)])
        return
    below = lcm(*(Fraction(f).denominator for _, f in size.terms))
    count: Any = size * below
    if not provably(lambda: count >= 0) or (below > 1 and not wide.is_float):
        raise CannotLower(f"{label}: computes with the size {size}, which may be negative or a fraction")
    total = E(Op.ACC, Compute.I64)
    result = cast(total, wide) / below if below > 1 else cast(total, wide)
    ones = k.constant(np.ones((), np.int64)).expand((count,))
    k.call(Kernel.REDUCE, [ones], [target], epilogue=[result], op=0, axes=1, last=0)


def _own_sizes(spec: Spec, inputs: Sequence[View | None]) -> set[Any]:
    """Symbols in an output's dims that no input's dims or known value speak of: sizes that only the data decide."""
    made = {s for d in spec.shape or () for s in symbols(d)}
    if made:
        for view in inputs:
            if view is not None:
                made -= {s for d in view.shape for s in symbols(d)}
                if view.value is not None:
                    made -= {s for d in np.asarray(view.value, object).ravel() for s in symbols(d)}
    return made


def _declared(specs: list[Spec | None]) -> Any:
    """What rules get as `out`: the Spec of the one output, or a list of Specs."""
    return specs[0] if len(specs) == 1 else specs


def _view(k: Lowering, value: Value, views: dict[Value, View], specs: Specs) -> View:
    found = views.get(value)
    if found is not None:
        return found
    spec = spec_of(value, specs)
    if value.const is not None:
        found = replace(Buffer(value.name, value.const.dtype, value.const.shape, tensor=value.const).whole(), value=spec.value)
    else:                                                                                                 # 2: known, never computed
        numbers = spec.constant
        if numbers is not None and not any(isinstance(x, Expr) for x in np.asarray(spec.value, object).ravel()):
            found = replace(k.constant(numbers, spec.dtype), value=spec.value)
        else:
            assert spec.dtype is not None and spec.shape is not None
            found = replace(Buffer(value.name, spec.dtype, spec.shape).whole(), value=spec.value)
            k.sizes[found.buffer] = spec.value
    views[value] = found
    return found
