"""What a conversion stores of a model for WebGPU, so that a page replays it with no Python: a package whose device segments are programs without steps (bind evaluates their sizes), and the
recordings of these programs as JSON text.

Rules
1. Kernels are built for what every WebGPU device has (`Limits()`), twice: for GPUs, and without barriers for software adapters. Equal shaders are one text.
2. Nodes WGSL has no kernels for run on the engine beside, and so does a program that can not be recorded although its nodes could; a node that only NumPy could run means that nothing is
   stored.
3. Constants are stored as the GPU reads them; where that is how the graph's or the CPU package's constant lies, they are the same bytes.

The text, an object (numbers of buffers: slabs, then constants, then the status word; rows: of the program's size table):

    version   [major, minor]: another major one is not read
    hash      sha256 of all shaders' sources
    shaders   [source, written bindings as 0 and 1 …]
    labels    strings
    constants [offset in the tensor data, bytes, item]: item > 0: the one element of `item` bytes there, repeated
    programs  {program of the package: {gpu: recording, cpu: recording, or nothing where it is the same}}
    direct    the program that is all a run does, on the model's inputs and outputs in their order; -1: there is more to do
    beside    [names of nodes, why they run on the engine, 1 where they make small integer tensors, as shape arithmetic does]
    recording slabs [most bytes or -1, row, bytes each, row, bytes each …], constants [number …], dispatches [shader, row of workgroups, label, buffers, rows of uniforms],
              inputs [slab or -1, element type, least, most (or nothing)], outputs [slab, element type, rows of dims], steps [label …], elements [input, element] that decide sizes
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..dim import Undecidable, product
from ..errors import SardonyxError
from ..graph import Model, Node, Tensor
from ..lowering import CannotLower
from ..model.recorded import VERSION, Recorded
from ..package import Device, Do, Package, Place, Placed
from ..plan.planner import PackagePlan, Plan, plan_package
from ..plan.shapes import infer_plan
from ..program import Home, Program
from ..providers.engine import EngineProgram, accepts
from .device.base import Limits
from .provider import Acceptance
from .recording import Constant, Recording, record
from .steps import Sizes
from .wgsl.storage import PACKED, PLAIN, word_bytes

#: Elements a shape has at most.
SHAPE = 64
#: Bounds tried for sizes the model does not bound: integers whose number of addends is not known may not fit 32 bits.
BOUNDS = (None, 1 << 16, 1 << 12)


def record_package(model: Model, ranges: Mapping[str, tuple[int, int | None]] | None = None) -> tuple[Recorded | None, str]:
    """(what is stored, "") or (None, why not)."""
    reason = ""
    for most in BOUNDS:
        bounded = _bounded(model, {**model.symbols, **(ranges or {})}, most)
        if most is not None and not bounded:
            break
        try:
            plan = plan_package(model, infer_plan(model.graph), {**model.symbols, **(ranges or {}), **bounded}, None, Acceptance(Limits(), False), True, Device.WEBGPU, accepts)
        except (SardonyxError, Undecidable) as error:
            return None, str(error)
        if plan.host:
            node, why = next(iter(plan.host.items()))
            return None, f"{len(plan.host)} of its nodes have no kernels ({node.label}: {why})"
        if hosted := next((s for b in plan.package.blocks for s in b.segments if s.device is Device.HOST), None):
            return None, f"{hosted.origin} has no kernels"
        try:
            return _Recorder(plan).made(), ""
        except (CannotLower, Undecidable) as error:
            reason = str(error)
    return None, reason


def _bounded(model: Model, ranges: Mapping[str, tuple[int, int | None]], most: int | None) -> dict[str, tuple[int, int]]:
    """Ranges up to `most` for named sizes of the inputs without an upper bound."""
    names = {str(d) for v in model.graph.inputs if v.const is None for d in v.shape or () if not isinstance(d, int) and not str(d).startswith("?") and str(d).isidentifier()}
    return {} if most is None else {n: (ranges.get(n, (0, None))[0], most) for n in sorted(names) if ranges.get(n, (0, None))[1] is None}


@dataclass
class _Texts:
    """Strings and shaders, each once."""

    labels: dict[str, int] = field(default_factory=dict)
    shaders: dict[Any, int] = field(default_factory=dict)

    def label(self, text: str) -> int:
        return self.labels.setdefault(text, len(self.labels))


class _Recorder:
    """Records the device's programs of a planned package."""

    def __init__(self, plan: PackagePlan) -> None:
        self.plan, self.texts = plan, _Texts()
        self.constants: dict[Any, int] = {}
        self.ranges: list[tuple[int, int, int]] = []    # of each: which of `kept`, from which byte, how many (0: all)
        self.kept: list[tuple[Tensor, tuple[int, int]]] = []
        self.numbers: dict[Any, int] = {}               # of a tensor in a form
        self.programs: dict[int, dict[str, Any]] = {}
        self.refused: dict[int, str] = {}               # programs that run on the engine after all, and why

    def made(self) -> Recorded:
        package = self.plan.package
        recorded: dict[int, Program] = {}
        for number in sorted({s.program for b in package.blocks for s in b.segments if s.do is Do.PROGRAM and s.device is Device.WEBGPU}):
            try:
                recorded[number] = self._program(number, self.plan.plans[number])
            except (CannotLower, Undecidable) as reason:
                self._give_up(number, str(reason))
        if not recorded:
            why = next((f": {reason}" for reason in (*self.plan.beside.values(), *self.refused.values())), "")
            raise CannotLower(f"no node of it runs on WebGPU{why}")
        for block in package.blocks:
            block.segments = [replace(s, device=Device.ENGINE) if s.do is Do.PROGRAM and s.program in self.refused else s for s in block.segments]
        out = Package(blocks=package.blocks, variants=package.variants, inputs=package.inputs, outputs=package.outputs)
        numbers: dict[int, int] = {}
        for i, placed in enumerate(package.programs):
            if i in recorded:
                out.programs.append(Placed(recorded[i], ()))
                continue
            out.programs.append(Placed(placed.program, tuple(numbers.setdefault(c, len(numbers)) for c in placed.constants)))
        out.constants = [package.constants[c] for c in numbers]
        return Recorded(out, self.kept, self._text)

    def _give_up(self, number: int, reason: str) -> None:
        """The engine runs a program instead, where it can."""
        plan = self.plan.plans[number]
        try:
            EngineProgram(plan.program, plan.constants).close()
        except SardonyxError as error:
            raise CannotLower(f"{reason}; nor does the engine run it: {error}") from None
        self.refused[number] = reason

    def _program(self, number: int, plan: Plan) -> Program:
        """Record one program; what bind needs of it."""
        sizes = Sizes(plan.program)
        made = [self._recording(record(plan.program, plan.constants, Limits(), cpu, sizes)[0], plan.program) for cpu in (False, True)]
        self.programs[number] = {"gpu": made[0]} if made[0] == made[1] else {"gpu": made[0], "cpu": made[1]}
        return bindable(plan.program, sizes)

    def _recording(self, r: Recording, program: Program) -> dict[str, Any]:
        text = self.texts
        shaders = [text.shaders.setdefault(s, len(text.shaders)) for s in r.shaders]
        return {
            "slabs": [[-1 if s.most > 1 << 52 else int(s.most), *(x for tenant in s.tenants for x in tenant)] for s in r.slabs],
            "constants": [self._constant(c) for c in r.constants],
            "dispatches": [[shaders[d.shader], d.groups, text.label(d.label), list(d.buffers), list(d.uniforms)] for d in r.dispatches],
            "inputs": [[i.slab, int(i.dtype), *(i.allowed or ())] for i in r.inputs],
            "outputs": [[o.slab, int(o.dtype), list(o.dims)] for o in r.outputs],
            "steps": [text.label(s) for s in r.steps],
            "elements": [list(e) for e in program.elements],
        }

    def _constant(self, constant: Constant) -> int:
        """The number of a constant among all; those whose bytes are a tensor's own as that tensor, the others as words of their own."""
        if constant.key not in self.constants:
            self.constants[constant.key] = len(self.constants)
            tensor, form = constant.parts[0]
            if constant.pooled or form.half or tensor.dtype not in PACKED | PLAIN:
                words = constant.bytes().reshape(-1).view(np.uint8)
                self.kept.append((Tensor(np.concatenate([words, np.zeros(-words.size % 4, np.uint8)]).view(np.int32)), (0, 1)))
                self.ranges.append((len(self.kept) - 1, 0, 0))
            else:
                number = self.numbers.setdefault((id(tensor), form), len(self.kept))
                if number == len(self.kept):
                    self.kept.append((tensor, (int(form.packing), form.group)))
                each = word_bytes(tensor.dtype, True)
                self.ranges.append((number, constant.first * each, constant.count * each))
        return self.constants[constant.key]

    def _direct(self) -> int:
        """See `direct` in the head."""
        package = self.plan.package
        block = package.blocks[package.variants[0].block]
        segment = block.segments[0] if len(package.variants) == len(block.segments) == 1 else None
        if segment is None or segment.do is not Do.PROGRAM or segment.device is not Device.WEBGPU or segment.inputs != block.inputs or segment.outputs != block.outputs:
            return -1
        return segment.program

    def _text(self, places: Sequence[Place]) -> bytes:
        sources = [s.source for s in self.texts.shaders]
        made = {
            "version": list(VERSION), "hash": hashlib.sha256("\0".join(sources).encode()).hexdigest(), "direct": self._direct(),
            "shaders": [[s.source, "".join("01"[w] for w in s.writes)] for s in self.texts.shaders], "labels": list(self.texts.labels),
            "constants": [_range(places[number], first, count) for number, first, count in self.ranges], "programs": {str(k): v for k, v in self.programs.items()},
            "beside": [["+".join(node.origin) or node.label, why, *([1] if _is_shape(node) else [])] for node, why in self.plan.beside.items()]
            + [[name, why] for number, why in self.refused.items() for name in dict.fromkeys(p.strings[s.origin] for p in (self.plan.plans[number].program,) for s in p.steps)],
        }
        return json.dumps(made, separators=(",", ":"), ensure_ascii=True).encode()


def _range(place: Place, first: int, count: int) -> list[int]:
    """`count` bytes (0: all) of a constant, from its byte `first`."""
    return [place.offset + (0 if place.item else first), count or place.nbytes, place.item]


def _is_shape(node: Node) -> bool:
    """Whether a node makes integers only, at most SHAPE of them: strict sessions allow these on the CPU."""
    return all(v is None or (v.dtype is not None and v.dtype.is_integer and v.shape is not None and all(isinstance(d, int) for d in v.shape) and product(v.shape) <= SHAPE) for v in node.outputs)


def bindable(program: Program, sizes: Sizes) -> Program:
    """What bind needs of a program: sizes (with the rows a recording added), guards, inputs and outputs."""
    made = Program(sizes=sizes.table.sizes, guards=program.guards)
    buffers: dict[int, int] = {}
    views: dict[int, int] = {}
    for ports, out in ((program.inputs, made.inputs), (program.outputs, made.outputs)):
        for i, port in enumerate(ports):
            view = program.views[port.view]
            home = Home.INPUT if out is made.inputs else Home.OUTPUT
            if view.buffer not in buffers:
                buffers[view.buffer] = len(made.buffers)
                made.buffers.append((int(home), i, program.buffers[view.buffer][2]))
            if port.view not in views:
                views[port.view] = len(made.views)
                made.views.append(_moved(view, buffers[view.buffer]))
            out.append(type(port)(made.string(program.strings[port.name]), port.dtype, views[port.view], port.dims))
    return made


def _moved(view: Any, buffer: int) -> Any:
    return type(view)(buffer, view.dtype, view.dims, view.strides, view.start, view.extent, view.packing)


