"""Stage 1, partition: which nodes run as programs and which on the host, cut into segments.

Rules
1. A node whose outputs shape inference knows (numbers or expressions of sizes) is *free*: nobody computes it, unless a host node or a graph output needs the value.
2. A node whose rule lowers it, to kernels the device accepts, runs in a program. Every other node runs on the host, with the rule's or the device's reason.
3. Nodes are ordered so that segments are long: the device of the last segment goes on while it has ready nodes.
4. A free value that the host needs is computed on the host (integer shape tensors of at most MAX_KNOWN elements: the exemption of strict mode).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..dim import symbols
from ..graph import Graph, Node, Value
from ..lowering import CannotLower, KernelCall, Lowering, View
from ..ops import lookup
from .lower import HOST_TYPES, input_view, lower_node
from .shapes import MAX_KNOWN, Specs, spec_of


@dataclass
class Segment:
    """A run of nodes on one device. `inputs` and `outputs`: values that cross its border. `reasons`: why each host node is not in a program."""

    host: bool
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    reasons: dict[Node, str] = field(default_factory=dict)


#: What a device says of a node's kernel calls and the views of its outputs: why it can not run them, or "". Asked of the nodes in the graph's order.
Accepts = Callable[[Sequence[KernelCall], Sequence[View]], str]


def partition(graph: Graph, specs: Specs, accepts: Accepts | None = None) -> list[Segment]:
    """Segments in the order they run."""
    reasons = host_nodes(graph, specs, accepts)
    free = {n for n in graph.nodes if n not in reasons and n.outputs and all(v is None or specs[v].value is not None for v in n.outputs)}
    _revive(graph, free, reasons)                                                                         # 4
    segments = _order([n for n in graph.nodes if n not in free], reasons, free)
    outputs = set(graph.outputs)
    there = [v for v in graph.inputs if v.const is None]
    for i, segment in enumerate(segments):
        inside = {v for n in segment.nodes for v in n.outputs if v is not None}
        later = {v for s in segments[i + 1:] for n in s.nodes for v in _reads(n)} | outputs
        segment.outputs = [v for n in segment.nodes for v in n.outputs if v is not None and v in later and v.const is None]
        read = dict.fromkeys(v for n in segment.nodes for v in _reads(n) if v not in inside and v.const is None)
        segment.inputs = [v for v in read if segment.host or specs[v].value is None]
        segment.reasons = {n: reasons[n] for n in segment.nodes if n in reasons}
        if not segment.host:
            segment.inputs += [v for v in _size_sources(segment, specs, there) if v not in segment.inputs]
        there += [v for n in segment.nodes for v in n.outputs if v is not None and v.const is None]
    _keep_sources(segments)
    return segments


def host_nodes(graph: Graph, specs: Specs, accepts: Accepts | None = None) -> dict[Node, str]:
    """Node → why it has no kernels, for those that have none (2), or none the device accepts. Every rule is tried on views of its inputs' types."""
    k = Lowering()
    reasons: dict[Node, str] = {}
    views: dict[Value, View] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value is None or value.const is not None or value in views or specs[value].value is not None:
                continue
            try:
                views[value] = input_view(value, 0, specs)
            except CannotLower as reason:
                reasons[node] = str(reason)
        if node in reasons:
            continue
        kept = len(k.calls)
        try:
            lower_node(k, node, views, specs)
        except CannotLower as reason:
            del k.calls[kept:]
            reasons[node] = str(reason)
            continue
        refused = accepts(k.calls[kept:], [views[v] for v in node.outputs if v is not None and v in views]) if accepts is not None else ""
        if refused:
            del k.calls[kept:]
            reasons[node] = f"{node.label}: {refused}"
            for value in node.outputs:
                if value is not None:
                    views.pop(value, None)
    return reasons


#: Names of the operator inputs whose values decide sizes and axes: what lowering rules ask numbers of.
DECIDING = frozenset({"axes", "axis", "shape", "starts", "ends", "steps", "repeats", "split", "pads", "K", "depth", "sizes", "scales", "roi", "size", "image_shape", "block_shape", "output_shape",
                      "start", "limit", "delta", "dft_length", "frame_step", "frame_length", "cond"})


def deciding_inputs(graph: Graph, specs: Specs, reasons: Mapping[Node, str]) -> list[Value]:
    """Small graph inputs whose values host nodes need before they can be planned: with these given, they may have kernels."""
    found: dict[Value, None] = {}
    for node in reasons:
        operator = lookup(node.domain, node.op_type)
        for value, name in zip(node.inputs, operator.inputs, strict=False):
            if value is not None and specs.get(value) is not None and specs[value].value is None and (name in DECIDING or node.op_type == "ConstantOfShape"):
                found.update(dict.fromkeys(_sources(value, specs) or ()))
    return list(found)


def _sources(value: Value, specs: Specs) -> list[Value] | None:
    """The graph inputs a value follows from, its shape arithmetic aside; None where one of them is not small."""
    out, stack, seen = [], [value], set()
    while stack:
        at = stack.pop()
        if at in seen or at.const is not None or specs[at].value is not None:
            continue
        seen.add(at)
        if at.producer is not None:
            stack += [] if at.producer.op_type in ("Shape", "Size") else _reads(at.producer)
            continue
        shape = specs[at].shape
        if shape is None or len(shape) > 1 or any(isinstance(d, int) and d > MAX_KNOWN for d in shape) or specs[at].dtype in HOST_TYPES:
            return None
        out.append(at)
    return out


def _reads(node: Node) -> list[Value]:
    return [v for v in (*node.inputs, *(c for g in node.subgraphs() for c in g.captures())) if v is not None]


def _revive(graph: Graph, free: set[Node], reasons: dict[Node, str]) -> None:
    needed = [v for n in graph.nodes if n in reasons for v in _reads(n)] + graph.outputs
    while needed:
        node = needed.pop().producer
        if node is not None and node in free:
            free.discard(node)
            reasons[node] = "shape arithmetic that the host needs"
            needed += _reads(node)


def _order(nodes: Sequence[Node], reasons: dict[Node, str], free: set[Node]) -> list[Segment]:            # 3
    position = {n: i for i, n in enumerate(nodes)}
    waiting = {n: {v.producer for v in _needs(n, free) if v.producer in position and v.producer is not n} for n in nodes}
    readers: dict[Node, list[Node]] = {n: [] for n in nodes}
    for node, needs in waiting.items():
        for source in needs:
            readers[source].append(node)
    ready = {True: [n for n in nodes if not waiting[n] and n in reasons], False: [n for n in nodes if not waiting[n] and n not in reasons]}
    segments: list[Segment] = []
    while ready[True] or ready[False]:
        host = segments[-1].host if segments and ready[segments[-1].host] else bool(not ready[False])
        if not segments or segments[-1].host != host:
            segments.append(Segment(host))
        node = min(ready[host], key=position.__getitem__)
        ready[host].remove(node)
        segments[-1].nodes.append(node)
        for reader in readers[node]:
            waiting[reader].discard(node)
            if not waiting[reader]:
                ready[reader in reasons].append(reader)
    return segments


def _needs(node: Node, free: set[Node]) -> list[Value]:
    """What must exist before a node runs: through free nodes, the tensors whose sizes they speak of."""
    out, stack, seen = [], _reads(node), set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.producer is not None and value.producer in free:
            stack += _reads(value.producer)
        else:
            out.append(value)
    return out


def _size_sources(segment: Segment, specs: Specs, there: Sequence[Value]) -> list[Value]:
    """Values that bind a size the segment uses but no input of it has: some tensor that exists by then with that size as a dim."""
    used = {s.name for n in segment.nodes for v in n.outputs if v is not None for d in (specs[v].shape or ()) for s in symbols(d)}
    used |= {s.name for n in segment.nodes for v in n.inputs if v is not None and v in specs and specs[v].value is not None and v.const is None for d in (specs[v].ints or ()) for s in symbols(d)}
    bound = {str(d) for v in segment.inputs for d in spec_of(v, specs).shape or ()}
    found = []
    for name in sorted(used - bound):
        source = next((v for v in there if specs[v].shape and name in map(str, specs[v].shape or ()) and specs[v].value is None), None)
        if source is not None and source not in found:
            found.append(source)
    return found


def _keep_sources(segments: Sequence[Segment]) -> None:
    """A value that a later segment reads only for its size is an output of its own segment too."""
    for i, segment in enumerate(segments):
        later = {v for s in segments[i + 1:] for v in s.inputs}
        own = [v for n in segment.nodes for v in n.outputs if v is not None and v in later and v not in segment.outputs]
        segment.outputs += own
