"""The planner: graph → Program. The stages in order; each is a module whose docstring states its rules."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..graph import Model, Node, Tensor, Value
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall
from ..program import Program
from .encode import encode
from .fold import fold
from .fuse import fuse
from .layout import choose_layout
from .lower import Lowered, lower
from .memory import Placed, place
from .pack import pack_constants
from .shapes import Specs, infer_shapes


@dataclass
class Plan:
    """A program with its constants (numbered as its DATA buffers) and what the memory stage found."""

    program: Program
    constants: list[Tensor]
    placed: Placed


Ranges = Mapping[str, tuple[int, int | None]]


def plan(model: Model, ranges: Ranges | None = None, limit: int | None = None) -> Plan:
    """Plan a whole model for sizes within `ranges` ({symbol: (least, most)}). Raises CannotLower naming the first node without kernels."""
    graph = model.graph
    return plan_nodes(graph.inputs, graph.nodes, graph.outputs, infer_shapes(model), {**model.symbols, **(ranges or {})}, limit)


def plan_nodes(inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value], specs: Specs, ranges: Ranges, limit: int | None = None) -> Plan:
    """Plan the nodes that make `outputs` from `inputs` (a whole graph, or one segment of it)."""
    lowered = lower(inputs, nodes, outputs, specs)
    own_outputs(lowered)
    fold(lowered)
    fuse(lowered)
    choose_layout(lowered)
    pack_constants(lowered)
    placed = place(lowered, ranges, limit)
    program, constants = encode(lowered, placed, ranges)
    return Plan(program, constants, placed)


def own_outputs(lowered: Lowered) -> None:
    """Give every graph output a buffer of its own, which its producer writes; a view, alias, input, constant or second name takes a Copy."""
    written = {v.buffer for c in lowered.calls if c.kind is not None for v in c.outputs}
    aliased = {c.outputs[0].buffer.alias for c in lowered.calls if c.kind is None}
    for i, view in enumerate(lowered.outputs):
        buffer = view.buffer
        if view.is_whole and buffer in written and buffer.port is None and buffer not in aliased:
            buffer.port = ("output", i)
            lowered.outputs[i] = replace(view, value=None)
            continue
        own = Buffer(lowered.output_names[i], view.dtype, view.shape, port=("output", i))
        lowered.calls.append(KernelCall(Kernel.COPY, [view, None], [own.whole()], {"mode": 0, "begin": [0] * view.rank}))
        lowered.outputs[i] = own.whole()
