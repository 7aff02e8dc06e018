"""What a conversion stores of a model for WebGPU, so that a page replays it with no Python: a package whose device segments are programs without steps (bind evaluates their sizes), and the
recordings of these programs as JSON text.

Rules
1. Kernels are built for the limits every WebGPU device has (`Limits()`), for GPUs and without barriers for software adapters; and again with what a device may have beyond (subgroups; f16 memory,
   for float16 models and, where it is asked for, for float32 ones: the precision "f16"). What comes out the same is stored once: equal recordings, equal shaders; and a shader that is much
   like that of a device without is stored as the lines that differ. Weights are never stored twice: a page makes f16 of float32 as they arrive. A page takes the first that its device can run.
2. Nodes WGSL has no kernels for run on the engine beside, and so does a program that can not be recorded although its nodes could; a node that only NumPy could run means that nothing is
   stored.
3. Constants are stored as the GPU reads them; where that is how the graph's or the CPU package's constant lies, they are the same bytes.

The text, an object (numbers of buffers: slabs, then constants, then the status word; rows: of the program's size table):

    version   [major, minor]: another major one is not read
    hash      sha256 of all shaders' sources
    shaders   [source, written bindings as 0 and 1 …]
    labels    strings
    constants [offset in the tensor data, bytes, item]: item > 0: the one element of `item` bytes there, repeated
    programs  {program of the package: {gpu: recording, cpu: recording, or nothing where it is the same, variants (since 1.1): [[1 for software adapters, features it takes, between spaces,
              precision, recording] …], the best first}}
    edits     (since 1.1) [number of the shader it is like, written bindings, [first line, line behind, lines in their place] …, the last ones first]: shaders that follow those of `shaders`
    precisions (since 1.1) what was recorded: "f32", "f16"
    direct    the program that is all a run does, on the model's inputs and outputs in their order; -1: there is more to do
    beside    [names of nodes, why they run on the engine, 1 where they make small integer tensors, as shape arithmetic does]
    recording slabs [most bytes or -1, row, bytes each, row, bytes each …], constants [number …], dispatches [shader, row of workgroups, label, buffers, rows of uniforms],
              inputs [slab or -1, element type, least, most (or nothing)], outputs [slab, element type, rows of dims], steps [label …], elements [input, element] that decide sizes,
              half [numbers of constants, float32 in the file, that lie as f16] (since 1.1, where there are any),
              same [[input, output, dispatch] …] (since 1.1, where there are any): where both are one buffer of equal sizes, the dispatch is left out (recording.py)
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
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
from ..types import DType
from .device.base import Limits
from .provider import Acceptance
from .recording import Constant, Recording, Shader, record
from .steps import Sizes
from .wgsl.storage import PACKED, PLAIN, word_bytes

PRECISIONS = ("f32", "f16")

#: Elements a shape has at most.
SHAPE = 64
#: Bounds tried for sizes the model does not bound: integers whose number of addends is not known may not fit 32 bits.
BOUNDS = (None, 1 << 16, 1 << 12)


@dataclass(frozen=True)
class Target:
    """What recordings are for: a software adapter or a GPU, what its WGSL has beyond every device's, how float32 lies ("f16" takes "shader-f16")."""

    software: bool = False
    features: frozenset[str] = frozenset()
    precision: str = "f32"

    def plays(self, other: Target) -> bool:
        """Whether a device that is this runs what is recorded for the other."""
        return self.software == other.software and other.features <= self.features


#: What is recorded, each after those that are played where it is left out.
_DEVICES = ((False, ()), (True, ()), (False, ("subgroups",)), (True, ("subgroups",)), (False, ("shader-f16",)), (True, ("shader-f16",)), (False, ("shader-f16", "subgroups")))
TARGETS = tuple(Target(software, frozenset(features), precision) for precision in PRECISIONS for software, features in _DEVICES if precision == "f32" or "shader-f16" in features)


def record_package(model: Model, ranges: Mapping[str, tuple[int, int | None]] | None = None, precisions: Collection[str] = PRECISIONS[:1], device: Target | None = None) -> tuple[Recorded | None, str]:
    """(what is stored, "") or (None, why not). `device`: for this alone, as a page's planner wants it."""
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
            return _Recorder(plan, precisions, device).made(), ""
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
    shaders: dict[Shader, int] = field(default_factory=dict)
    like: dict[Shader, Shader] = field(default_factory=dict)   # of a device with features: that of the same dispatch without

    def label(self, text: str) -> int:
        return self.labels.setdefault(text, len(self.labels))

    def stored(self) -> tuple[list[Any], list[Any]]:
        """Whole texts and edits; numbers become those of the one after the other."""
        edits = {shader: made for shader, like in self.like.items() if (made := edited(like.source, shader.source)) is not None}
        edits = {shader: lines for shader, lines in edits.items() if self.like[shader] not in edits}
        whole = [s for s in self.shaders if s not in edits]
        self.shaders = {s: i for i, s in enumerate([*whole, *edits])}
        return ([[s.source, _bits(s)] for s in whole], [[self.shaders[self.like[s]], _bits(s), *lines] for s, lines in edits.items()])


def _bits(shader: Shader) -> str:
    return "".join("01"[w] for w in shader.writes)


def edited(before: str, after: str) -> list[list[Any]] | None:
    """The lines of `before` that give `after` when they are replaced, the last first: [first, behind the last, lines]. None where that is hardly shorter."""
    old, new = before.split("\n"), after.split("\n")
    made = [[i, j, "\n".join(new[k:end])] if end > k else [i, j] for what, i, j, k, end in SequenceMatcher(None, old, new, False).get_opcodes() if what != "equal"]
    return made[::-1] if sum(len(str(e)) for e in made) < len(after) / 2 else None


class _Recorder:
    """Records the device's programs of a planned package."""

    def __init__(self, plan: PackagePlan, precisions: Collection[str], device: Target | None) -> None:
        self.plan, self.texts, self.precisions, self.device = plan, _Texts(), precisions, device
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
        if self.device is not None:
            self.programs[number] = {"gpu": self._recording(self._record(plan, self.device, sizes), plan.program)}
            return bindable(plan.program, sizes)
        narrow = any(view.dtype is DType.FLOAT16 for view in plan.program.views)
        made: dict[Target, tuple[Recording, dict[str, Any]]] = {}
        for target in TARGETS:
            if target.precision not in self.precisions or (target.precision == "f32" and "shader-f16" in target.features and not narrow):
                continue
            try:
                recording = self._record(plan, target, sizes)
            except (CannotLower, Undecidable):
                if not target.features:
                    raise
                continue   # a device that has them plays what is recorded without
            found = self._recording(recording, plan.program, (made.get(Target(target.software)) or made[Target()])[0] if target.features else None)
            if found != self._played(made, target):
                made[target] = recording, found
        whole = {name: made[target][1] for name, target in (("gpu", Target()), ("cpu", Target(True))) if target in made}
        variants = [[int(t.software), " ".join(sorted(t.features)), t.precision, found] for t, (_, found) in reversed(made.items()) if t not in (Target(), Target(True))]
        self.programs[number] = {**whole, **({"variants": variants} if variants else {})}
        return bindable(plan.program, sizes)

    def _record(self, plan: Plan, target: Target, sizes: Sizes) -> Recording:
        return record(plan.program, plan.constants, Limits(), target.software, sizes, features=target.features, precision=target.precision)[0]

    @staticmethod
    def _played(made: dict[Target, tuple[Recording, dict[str, Any]]], target: Target) -> dict[str, Any] | None:
        """What a player takes for a device that is this, of what there is: the order of gpu.js."""
        if not made:
            return None
        best = [t for precision in dict.fromkeys((target.precision, "f32")) for t in reversed(made) if t.precision == precision and target.plays(t)]
        return made[best[0] if best else Target()][1]

    def _recording(self, r: Recording, program: Program, like: Recording | None = None) -> dict[str, Any]:
        """`like`: without features; where it has the same dispatches, their shaders are alike."""
        text = self.texts
        for d, other in zip(r.dispatches, like.dispatches if like is not None and len(like.dispatches) == len(r.dispatches) else (), strict=False):
            if like is not None and (shader := r.shaders[d.shader]) not in text.shaders:
                text.like.setdefault(shader, like.shaders[other.shader])
        shaders = {i: text.shaders.setdefault(s, len(text.shaders)) for i, s in enumerate(r.shaders)}
        half = sorted({self._constant(c) for c in r.constants if is_narrowed(c)})
        return {
            "slabs": [[-1 if s.most > 1 << 52 else int(s.most), *(x for tenant in s.tenants for x in tenant)] for s in r.slabs],
            "constants": [self._constant(c) for c in r.constants],
            **({"half": half} if half else {}),
            "dispatches": [[shaders[d.shader], d.groups, text.label(d.label), list(d.buffers), list(d.uniforms)] for d in r.dispatches],
            "inputs": [[i.slab, int(i.dtype), *(i.allowed or ())] for i in r.inputs],
            "outputs": [[o.slab, int(o.dtype), list(o.dims)] for o in r.outputs],
            "steps": [text.label(s) for s in r.steps],
            "elements": [list(e) for e in program.elements],
            **({"same": [[s.input, s.output, s.dispatch] for s in r.same]} if r.same else {}),
        }

    def _constant(self, constant: Constant) -> int:
        """The number of a constant among all; those whose bytes are a tensor's own as that tensor, the others as words of their own. What a page makes f16 of is the float32 constant."""
        if not constant.pooled and constant.parts[0][1].half:
            constant = replace(constant, parts=tuple((tensor, replace(form, half=False)) for tensor, form in constant.parts))
        if constant.key not in self.constants:
            self.constants[constant.key] = len(self.constants)
            tensor, form = constant.parts[0]
            if constant.pooled or tensor.dtype not in PACKED | PLAIN:
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
        before, (whole, edits) = list(self.texts.shaders), self.texts.stored()
        moved = {i: self.texts.shaders[s] for i, s in enumerate(before)}
        for recording in (r for both in self.programs.values() for r in (both["gpu"], *([both["cpu"]] if "cpu" in both else []), *(v[-1] for v in both.get("variants", ())))):
            recording["dispatches"] = [[moved[d[0]], *d[1:]] for d in recording["dispatches"]]
        sources = [s.source for s in self.texts.shaders]
        made = {
            "version": list(VERSION), "hash": hashlib.sha256("\0".join(sources).encode()).hexdigest(), "direct": self._direct(),
            "shaders": whole, **({"edits": edits} if edits else {}), "precisions": sorted({self.device.precision} if self.device is not None else self.precisions, reverse=True),
            "labels": list(self.texts.labels),
            "constants": [_range(places[number], first, count) for number, first, count in self.ranges], "programs": {str(k): v for k, v in self.programs.items()},
            "beside": [["+".join(node.origin) or node.label, why, *([1] if _is_shape(node) else [])] for node, why in self.plan.beside.items()]
            + [[name, why] for number, why in self.refused.items() for name in dict.fromkeys(p.strings[s.origin] for p in (self.plan.plans[number].program,) for s in p.steps)],
        }
        return json.dumps(made, separators=(",", ":"), ensure_ascii=True).encode()


def is_narrowed(constant: Constant) -> bool:
    """Whether it is float32 in the file and lies as f16."""
    tensor, form = constant.parts[0]
    return not constant.pooled and form.half and tensor.dtype is DType.FLOAT


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


