"""Stage 1, lower: every operator becomes kernel calls by its `@Op.lower` rule.

Rules
1. Graph inputs and constants become buffers; every other Value becomes what its node's rule returns.
2. A value that shape inference knows as numbers or Dims is not computed: rules read it as `view.value`; if a kernel needs it after all, numbers become a constant,
   and sizes are computed from the bound ones.
3. A node whose outputs are all known this way, or unused, is not lowered (shape arithmetic disappears at planning). Where what is known speaks of data (`shapes.py`, rule 5), the node
   is lowered too: its elements decide the sizes, and its numbers may be wanted. What nobody wants in the end, the stage `cut` drops.
4. A node with no rule, or whose rule raises CannotLower, or whose calls the device does not take, runs on the host: one `Outside` call, and the reason is kept. Without a host, lowering
   ends with the node's name and the reason. Where a device has the engine `beside` it, calls that only the engine takes are marked for it.
5. So does a node whose output has a size that neither its inputs' sizes nor an element some call computes (`k.decide`) says.
6. And a node whose kernels would compute with an element type that is only moved (complex), or, other than in Maps, with a float of 8 bits or fewer.
7. Nested graphs become bodies: lists of calls of their own, which may read any buffer made around them.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np

from ..dim import Dim, Expr, Undecidable, dim_max, provably, symbols
from ..dtypes import COMPUTED, row_of
from ..expr import Compute, E, Op, cast, compute_type, const
from ..graph import Graph, Node, Value
from ..kernels import Kernel
from ..lowering import Axis, Buffer, CannotLower, KernelCall, Lowering, Opaque, Outside, View
from ..narrow import astype
from ..ops import Spec, lookup
from ..ops.host import HOST_ONLY
from ..program import RANK
from ..types import DType
from .shapes import GivenSpecs, Specs, attribute_arguments, decided_by, spec_of

#: Element types no kernel loads.
HOST_TYPES = frozenset({DType.STRING, DType.COMPLEX64, DType.COMPLEX128})

#: What a device says of a node's kernel calls and the views of its outputs: why it can not run them, or "". Asked of the nodes in the graph's order.
Accepts = Callable[[Sequence[KernelCall], Sequence[View]], str]


@dataclass
class Lowered:
    """The kernel calls of a graph, or of one program of it: inputs and outputs as views. `decided`: symbol → the element that is its number; `elements`: the same for one program, as
    (number of an input, element). `host`: why nodes run on the host."""

    calls: list[KernelCall]
    inputs: list[View]
    outputs: list[View]
    input_names: list[str]
    output_names: list[str]
    decided: dict[str, tuple[View, int]] = field(default_factory=dict)
    elements: dict[str, tuple[int, int]] = field(default_factory=dict)
    host: dict[Node, str] = field(default_factory=dict)
    beside: dict[Node, str] = field(default_factory=dict)


def lower(inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value], specs: Specs, accepts: Accepts | None = None, host: bool = False, beside: Accepts | None = None) -> Lowered:
    """Lower nodes that make `outputs` from `inputs`. Without a `host` CannotLower names the first node that has no kernels."""
    k = Lowering()
    work = _Lower(k, specs, accepts, host, beside)
    given = [work.input(value, i) for i, value in enumerate(inputs)]
    for value, view in zip(inputs, given, strict=True):
        work.remember(value, view)
    work.nodes(nodes)
    made = work.results(outputs)
    return Lowered(k.calls, given, made, [v.name for v in inputs], [v.name for v in outputs], k.decided, host=work.reasons, beside=work.away)


def problem(value: Value, specs: Specs) -> str:
    """Why no program can hold a value, or ""."""
    spec = spec_of(value, specs)
    if spec.dtype is None or spec.shape is None:
        return f"'{value.name}' is {spec}: programs take tensors of known rank"
    if spec.dtype in HOST_TYPES:
        return f"'{value.name}' is {spec}: {spec.dtype.text} runs on the host"
    return f"'{value.name}' is {spec}: programs take tensors of rank {RANK} at most" if len(spec.shape) > RANK else ""


def _buffer_of(value: Value, specs: Specs) -> Buffer:
    """A buffer for a value that some call makes."""
    spec = spec_of(value, specs)
    return Opaque(value.name) if problem(value, specs) else Buffer(value.name, spec.dtype, spec.shape)  # type: ignore[arg-type]


class _Lower:
    """Lowers nodes in order; `views`: Value → View, nested graphs included."""

    def __init__(self, k: Lowering, specs: Specs, accepts: Accepts | None, host: bool, beside: Accepts | None = None) -> None:
        self.k, self.specs, self.accepts, self.host, self.beside = k, specs, accepts, host, beside
        self.away: dict[Node, str] = {}      # nodes whose calls only the engine takes, and why
        self.views: dict[Value, View] = {}
        self.known: dict[Buffer, Any] = {}   # buffers of `views` that stand for sizes, computed so far or not
        self.reasons: dict[Node, str] = {}
        self.current: Any = None             # the node being lowered
        k.host = host
        k.inline, k.nested, k.spec = self.inline, self.nested, lambda value: spec_of(value, specs)

    def input(self, value: Value, number: int) -> View:
        """The view of a graph input."""
        why = problem(value, self.specs)
        if why and not self.host:
            raise CannotLower(f"input {why}")
        buffer = _buffer_of(value, self.specs)
        buffer.port = ("input", number)
        return View(buffer, ()) if why else buffer.whole()

    def remember(self, value: Value, view: View) -> None:
        """A value has been computed: its view, its known value, and the symbols its elements decide."""
        known = spec_of(value, self.specs).value
        self.views[value] = replace(view, value=known)
        for element, symbol in enumerate(decided_by(value, known)):
            self.k.decide(symbol, view, element)

    def results(self, outputs: Sequence[Value]) -> list[View]:
        """The views of a graph's outputs; known ones are computed."""
        k = self.k
        made = [self.view(v) for v in outputs]
        before = len(k.calls)
        self.compute_sizes("graph output", made, before)
        return made

    # -- nested graphs -----------------------------------------------------------------------------------------------------------------------
    def inline(self, graph: Graph, given: Sequence[View]) -> list[View]:
        """A nested graph whose inputs are `given`, as if its nodes stood where it is used; shape inference has recorded its values."""
        k = self.k
        origin, name = k.origin, k.name
        self.views.update(zip(graph.inputs, given, strict=True))
        self.nodes(graph.nodes)
        k.origin, k.name = origin, name
        return [self.view(v) for v in graph.outputs]

    def nested(self, graph: Graph, given: Sequence[View]) -> tuple[list[KernelCall], list[View]]:                                      # 7
        """A nested graph as calls of its own."""
        k = self.k
        origin, name, calls, current = k.origin, k.name, k.calls, self.current
        outer, sizes, count = self.own_sizes(), k.sizes, len(self.known)
        k.calls = []
        try:
            if isinstance(self.specs, GivenSpecs) and id(graph) in self.specs.impossible:
                return self.impossible()
            for value, view in zip(graph.inputs, given, strict=True):
                self.remember(value, self.as_declared(value, view))
            self.nodes(graph.nodes)
            outputs = self.results(graph.outputs)
            made = k.calls
        finally:
            k.origin, k.name, k.calls, self.current = origin, name, calls, current
            inner = set(list(self.known)[count:])
            self.views = {v: view for v, view in self.views.items() if view.buffer not in inner} | outer
            self.known = dict(list(self.known.items())[:count])
            k.sizes = sizes
        return made, outputs

    def own_sizes(self) -> dict[Value, View]:
        """Sizes nobody has computed so far get buffers for a nested graph alone: what it computes is not there around it, and a buffer is written in one place. The views as they were."""
        k = self.k
        before = {value: view for value, view in self.views.items() if view.buffer in k.sizes}
        own = {b: Buffer(b.name, b.dtype, b.shape) for b in dict.fromkeys(view.buffer for view in before.values())}
        self.views.update({value: replace(view, buffer=own[view.buffer]) for value, view in before.items()})
        k.sizes = {**k.sizes, **{own[b]: k.sizes[b] for b in own}}
        return before

    def impossible(self) -> tuple[list[KernelCall], list[View]]:
        """The calls of a branch that is wrong for the shapes planned for: the node itself, whose body says so if the branch is ever taken."""
        node = self.current
        views = dict(self.views)
        self.outside(node, [v for v in node.outputs if v is not None])
        self.views = views
        made = iter(self.k.calls[-1].outputs)
        return self.k.calls, [None if v is None else next(made) for v in node.outputs]  # type: ignore[misc]

    def as_declared(self, value: Value, view: View) -> View:
        """A scalar as the vector of one element that a body may say its iteration number or condition is."""
        shape = spec_of(value, self.specs).shape
        return self.k.reshape(view, shape) if shape is not None and view.rank == 0 and shape == (1,) else view

    # -- nodes ---------------------------------------------------------------------------------------------------------------------------------
    def nodes(self, nodes: Sequence[Node]) -> None:
        """Lower nodes in order."""
        for node in nodes:
            wanted = [v for v in node.outputs if v is not None]
            known = [self.specs[v].value for v in wanted]
            free = all(v is not None for v in known)
            if free and not any(map(speaks_of_data, known)):                                              # 3
                continue
            kept = len(self.k.calls), self.open_sizes(), dict(self.k.decided)
            try:
                self.node(node, wanted)
            except CannotLower as reason:
                del self.k.calls[kept[0]:]
                self.reopen(kept[1])
                self.k.decided = kept[2]
                for value in wanted:
                    self.views.pop(value, None)
                if free and not any(decided_by(v, spec_of(v, self.specs).value) for v in wanted):
                    continue                                                                              # its numbers are computed from the sizes
                if not self.host:
                    raise
                self.reasons[node] = str(reason)
                self.outside(node, wanted)

    def node(self, node: Node, wanted: Sequence[Value]) -> None:
        """Add one node's calls and record the views of its outputs."""
        k, specs = self.k, self.specs
        operator = lookup(node.domain, node.op_type)
        if operator.lowering is None:
            raise CannotLower(f"{node.label}: {node.operator} {HOST_ONLY.get((node.domain, node.op_type), 'has no kernels')}")
        for value in (*node.inputs, *wanted):
            why = problem(value, specs) if value is not None else ""
            if why:
                raise CannotLower(f"{node.label}: {why}")
        before = len(k.calls)
        inputs = [None if v is None else self.view(v) for v in node.inputs]
        arguments: dict[str, Any] = attribute_arguments(node, operator)
        if "n_outputs" in operator.lowering_wants:
            arguments["n_outputs"] = len(node.outputs)
        k.origin, k.name = node.origin, wanted[0].name
        self.current = node
        nested = next(node.subgraphs(), None) is not None   # its own nodes answer for their types and sizes
        try:
            made = operator.lowering(k, *inputs, **arguments, out=_declared([specs.get(v) if v is not None else None for v in node.outputs]))
        except CannotLower as reason:
            raise CannotLower(f"{node.label}: {reason}") from None
        except Undecidable as reason:
            raise CannotLower(f"{node.label}: sizes that only the run knows decide how it computes ({reason})") from None
        self.check_calls(node, k.calls[before:])
        if not nested:
            for value in wanted:
                own = {s.name for s in _own_sizes(specs[value], inputs)} - set(k.decided)
                if own:                                                                                   # 5
                    raise CannotLower(f"{node.label}: data decide the size of '{value.name}' ({specs[value]})")
        self.compute_sizes(node.label, [v for call in k.calls[before:] for v in call.inputs], before)
        results = list(made) if isinstance(made, tuple) else [made]
        if self.accepts is not None and not nested:
            asked = [c for c in k.calls[before:] if not isinstance(c, Outside)], [v for v in results if v is not None]
            refused = self.accepts(*asked)
            if refused and (self.beside is None or self.beside(*asked)):
                raise CannotLower(f"{node.label}: {refused}")
            if refused:
                self.away[node] = refused
                for call in asked[0]:
                    call.beside = True
        for output, view in zip(node.outputs, results, strict=False):
            if output is not None and view is not None:
                self.remember(output, view)

    def check_calls(self, node: Node, calls: Sequence[KernelCall]) -> None:
        """Rules of the element types and ranks."""
        for call in calls:
            if isinstance(call, Outside):
                continue
            moved = next((v for v in (*call.inputs, *call.outputs) if v is not None and v.dtype not in COMPUTED), None)
            if moved is not None and call.kind is not None and moved.dtype not in row_of(call.kind, call.params).loads:                              # 6
                raise CannotLower(f"{node.label}: no kernel computes with {moved.dtype.text}")
            if any(v is not None and v.rank > RANK for v in (*call.inputs, *call.outputs)):
                raise CannotLower(f"{node.label}: takes views of more than {RANK} axes")

    def outside(self, node: Node, wanted: Sequence[Value]) -> None:                                       # 4
        """A node of the host."""
        k = self.k
        k.origin, k.name = node.origin, wanted[0].name if wanted else node.name
        captured = [c for g in node.subgraphs() for c in g.captures()]
        values = list(dict.fromkeys(v for v in (*node.inputs, *captured) if v is not None and v.const is None))
        before = len(k.calls)
        views = [k.port(self.view(v)) for v in values]
        self.compute_sizes(node.label, [v for call in k.calls[before:] for v in call.inputs], before)
        self.compute_sizes(node.label, views, before)
        outputs = [View(b, ()) if isinstance(b, Opaque) else b.whole() for b in (_buffer_of(v, self.specs) for v in wanted)]
        k.calls.append(Outside(None, list(views), outputs, origin=node.origin, node=node, values=values))
        for value, view in zip(wanted, outputs, strict=True):
            self.remember(value, view)

    # -- values that are known ---------------------------------------------------------------------------------------------------------------
    def view(self, value: Value) -> View:
        """The view of a value: computed, a constant, or known."""
        found = self.views.get(value)
        if found is not None:
            return found
        spec = spec_of(value, self.specs)
        if value.const is not None:
            found = replace(Buffer(value.name, value.const.dtype, value.const.shape, tensor=value.const).whole(), value=spec.value)
        elif spec.value is None:
            raise CannotLower(f"'{value.name}' has not been computed")
        else:                                                                                             # 2
            numbers = spec.constant
            if numbers is not None and not any(isinstance(x, Expr) for x in np.asarray(spec.value, object).ravel()):
                assert spec.dtype is not None
                exact = astype(np.asarray(numbers), spec.dtype, copy=False)  # arithmetic of sizes keeps whole floats as integers
                found = replace(self.k.constant(exact, spec.dtype), value=spec.value)
            else:
                assert spec.dtype is not None and spec.shape is not None
                found = replace(Buffer(value.name, spec.dtype, spec.shape).whole(), value=spec.value)
                self.k.sizes[found.buffer] = self.known[found.buffer] = spec.value
        self.views[value] = found
        return found

    def open_sizes(self) -> tuple[dict[Buffer, Any], int]:
        """The sizes nobody has computed so far, to go back to with `reopen`."""
        return dict(self.k.sizes), len(self.known)

    def reopen(self, before: tuple[dict[Buffer, Any], int]) -> None:
        """Sizes computed since then are not there: the calls are dropped, or a nested graph's own."""
        self.k.sizes = {**before[0], **dict(list(self.known.items())[before[1]:])}

    def compute_sizes(self, label: str, views: Sequence[View | None], before: int) -> None:
        """Kernels that read sizes as data (rule 2) get them from Reduces, put before the call number `before`: n is the sum of n ones."""
        k = self.k
        for buffer in dict.fromkeys(v.buffer for v in views if v is not None):
            value = k.sizes.pop(buffer, None)
            if value is None:
                continue
            rest, k.calls = k.calls[before:], k.calls[:before]
            for place, size in np.ndenumerate(np.asarray(value, object)):
                _write_size(k, label, View(buffer, (Axis(1, None),), tuple((dim, at) for dim, at in enumerate(place) if at)), size)
            k.calls += rest


def speaks_of_data(value: Any) -> bool:
    """Whether a known value has symbols that elements of a tensor decide."""
    array = np.asarray(value)
    return array.dtype == object and any(s.name[0] == "?" and s.name[-1] == "]" for x in array.ravel().tolist() for s in symbols(x))


def _write_size(k: Lowering, label: str, target: View, size: Any) -> None:
    wide = compute_type(target.dtype)
    if not isinstance(size, Expr):
        k.call(Kernel.MAP, [], [target], epilogue=[const(size, wide)])
        return
    below = lcm(*(Fraction(f).denominator for _, f in size.terms))
    if below > 1 and not wide.is_float:
        raise CannotLower(f"{label}: computes with the size {size}, which may be a fraction")
    count: Any = size * below
    total = E(Op.ACC, Compute.I64)
    result = cast(total, wide) / below if below > 1 else cast(total, wide)
    if provably(lambda: count >= 0):
        _count(k, target, count, result)
        return
    parts = [k.buffer(target.dtype, (1,)).whole() for _ in range(2)]
    for part, n in zip(parts, (dim_max(count, 0), dim_max(-count, 0)), strict=True):
        _count(k, part, n, result)
    k.map(lambda a, b: a - b, *parts, dtype=target.dtype, out=target)


def _count(k: Lowering, target: View, count: Dim, result: E) -> None:
    ones = k.constant(np.ones((), np.int64)).expand((count,))
    k.call(Kernel.REDUCE, [ones], [target], epilogue=[result], op=0, axes=1, last=0)


def _own_sizes(spec: Spec, inputs: Sequence[View | None]) -> set[Any]:
    """Symbols in an output's dims that no input's dims or known value speak of: sizes that only the data decide."""
    made = {s for d in spec.shape or () if isinstance(d, Expr) for s in symbols(d)}
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
