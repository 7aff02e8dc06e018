"""The planner: graph → Package. The stages in order; each is a module whose docstring states its rules."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..dim import Shape
from ..graph import Graph, Model, Node, Tensor, Value
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall
from ..package import Device, Package, Placed, Port, Variant
from ..program import Program
from ..types import DType
from . import memory
from .cut import cut
from .encode import encode
from .fold import fold
from .fuse import fuse
from .layout import choose_layout
from .lower import Accepts, Lowered, lower
from .pack import pack_constants
from .ranges import narrow
from .schedule import schedule
from .shapes import Specs, infer_plan

Ranges = Mapping[str, tuple[int, int | None]]


@dataclass
class Plan:
    """A program with its constants (numbered as its DATA buffers) and what the memory stage found."""

    program: Program
    constants: list[Tensor]
    placed: memory.Placed


@dataclass
class PackagePlan:
    """A package, the graphs its HOST segments' `program` numbers mean, why nodes are there (`host`) or on the engine beside the device, the plan of each program, and the types of each block's
    outputs."""

    package: Package
    hosted: list[Graph] = field(default_factory=list)
    host: dict[Node, str] = field(default_factory=dict)
    beside: dict[Node, str] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    types: list[list[tuple[DType, Shape]]] = field(default_factory=list)


def plan(model: Model, ranges: Ranges | None = None, limit: int | None = None) -> Plan:
    """Plan a model that is one program, for sizes within `ranges` ({symbol: (least, most)}). Raises CannotLower naming the first node without kernels."""
    made = plan_package(model, infer_plan(model.graph), {**model.symbols, **(ranges or {})}, limit)
    assert len(made.plans) == 1, f"the model is {len(made.plans)} programs: plan_package"
    return made.plans[0]


def plan_package(model: Model, specs: Specs, ranges: Ranges, limit: int | None = None, accepts: Accepts | None = None, host: bool = False, device: Device = Device.ENGINE,
                 beside: Accepts | None = None) -> PackagePlan:
    """Plan a whole model; its package takes `given_inputs`. `host`: nodes without kernels, or whose calls the device does not accept, become HOST segments; without it CannotLower names the first.
    `beside`: says which of the calls the device refuses run on the engine instead."""
    graph = model.graph
    lowered = lower(given_inputs(graph), graph.nodes, graph.outputs, specs, accepts, host, beside)
    inputs, outputs = ([Port.of(name, v.dtype, v.shape) for name, v in zip(names, views, strict=True)]
                       for names, views in ((lowered.input_names, lowered.inputs), (lowered.output_names, lowered.outputs)))
    made = cut(lowered, device)
    named = sorted({d for port in inputs for d in port.dims if isinstance(d, str) and d in ranges})
    package = Package(blocks=made.blocks, variants=[Variant(made.root, tuple((n, *ranges[n]) for n in named))], inputs=inputs, outputs=outputs)
    plans = [plan_program(part, ranges, limit) for part in made.programs]
    numbers: dict[tuple[int, tuple[int, int]], int] = {}
    for one in plans:
        constants = []
        for i, tensor in enumerate(one.constants):
            key = (id(tensor), one.program.form(i))
            if key not in numbers:
                numbers[key] = len(package.constants)
                package.constants.append(tensor)
            constants.append(numbers[key])
        package.programs.append(Placed(one.program, tuple(constants)))
    return PackagePlan(package, made.hosted, lowered.host, lowered.beside, plans, made.types)


def given_inputs(graph: Graph) -> list[Value]:
    """The inputs a run gives: those that are no constants."""
    return [v for v in graph.inputs if v.const is None]


def plan_program(lowered: Lowered, ranges: Ranges, limit: int | None = None) -> Plan:
    """The stages from calls to one program."""
    for stage in stages(ranges):
        stage(lowered)
    placed = memory.place(lowered, ranges, limit)
    program, constants = encode(lowered, placed, ranges)
    return Plan(program, constants, placed)


def stages(ranges: Ranges) -> tuple[Callable[[Lowered], None], ...]:
    """The stages that rewrite the calls of one program, in order; memory and encode follow."""
    return own_outputs, fold, fuse, partial(narrow, ranges=ranges), choose_layout, pack_constants, schedule


def own_outputs(lowered: Lowered) -> None:
    """Give every output of a program a buffer of its own, which its producer writes; a view, alias, input, constant or second name takes a Copy."""
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
