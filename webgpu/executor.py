"""Runs a planned Program on a device: `WebGpuProgram(device, program, constants).run(inputs)`.

Memory (DESIGN "WebGPU": disjoint slabs, because one buffer may not be bound for reading and for writing in a dispatch)
- Every intermediate gets a *slab*, a GPU buffer of its own, shared by intermediates whose lifetimes do not meet. The Program's arena offsets are not used: elements have other sizes
  here (`wgsl/storage.py`), and what a dispatch reads and writes then always lies in different buffers. The price: no in-place Maps.
- Inputs and outputs have a buffer each. Constants above `POOLED` bytes too, shared by the programs of a session (`Weights`); the small ones lie together, one buffer a WGSL type,
  so that a dispatch with many of them binds one.
- Buffers are made for the first sizes, up to twice as large where the program's range allows, and grow when a later size asks for it. Only then bind groups change.

A run: sizes bound (skipped when they are the last run's), inputs written, the recorded list submitted, outputs and the status word read in one go.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dim import bounds
from ..errors import InvalidArgument, RuntimeException
from ..graph import Tensor
from ..kernels import Kernel
from ..lowering import CannotLower
from ..model.packing import Packing, pack, packed_shape
from ..program import Home, Program
from ..types import DType
from .device.base import Buffer, Device, Dispatch, Pipeline
from .kernels import build
from .steps import REACH, ProgramSteps, Sizes, assumed, constant_interval
from .wgsl.shader import FAULTS, INDEX, STATUS, Built, Context
from .wgsl.space import Operand, Temporary
from .wgsl.storage import PACKED, download, extent, interval, upload, word, word_bytes

#: Constants of at most this many bytes lie together.
POOLED = 1 << 16
CLEAR = np.full(1, 0xFFFFFFFF, np.uint32)


@dataclass(frozen=True)
class Form:
    """How a constant lies: plain, or packed for `group` groups (core/model/packing.py)."""

    packing: Packing = Packing.NONE
    group: int = 1

    def bytes(self, tensor: Tensor) -> np.ndarray:
        """What is uploaded."""
        array = tensor.numpy()
        if self.packing is not Packing.NONE:
            array = pack(np.ascontiguousarray(array), self.packing, self.group).view(tensor.dtype.numpy)
        return upload(array, tensor.dtype)

    def count(self, tensor: Tensor) -> int:
        """Elements of that."""
        return tensor.size if self.packing is Packing.NONE else math.prod(packed_shape(self.packing, tensor.dtype.numpy.itemsize, tensor.shape, self.group))


class Weights:
    """Constants on the device, each once a session."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: dict[tuple[int, Form], tuple[Tensor, Buffer]] = {}

    def get(self, tensor: Tensor, form: Form) -> Buffer:
        """The buffer of a constant in a form, uploaded at the first call."""
        key = id(tensor), form
        if key not in self._held:
            data = form.bytes(tensor)
            made = self.device.buffer(data.nbytes, label="a constant")
            self.device.write(made, data)
            self._held[key] = (tensor, made)
        return self._held[key][1]

    def buffers(self) -> set[int]:
        """Identities of the buffers held here."""
        return {id(made) for _, made in self._held.values()}

    def close(self) -> None:
        """Give the memory back."""
        for _, made in self._held.values():
            made.destroy()
        self._held.clear()


@dataclass
class _Slot:
    """Memory that lives in a run: how many bytes it takes (a table row of elements times bytes each), when it is used, and its slab."""

    row: int
    each: int
    most: float
    first: int
    last: int
    own: bool
    slab: int = -1


class WebGpuProgram:
    """See the head of this module. CannotLower (at construction) says why a program can not run here; several threads may run one, one after the other."""

    def __init__(self, device: Device, program: Program, constants: Sequence[Tensor], weights: Weights | None = None) -> None:
        self.device, self.program = device, program
        self._weights, self._own_weights = weights or Weights(device), weights is None
        self._fixed: dict[Any, Buffer] = {}
        self._slabs: list[Buffer | None] = []
        self._recorded: list[Dispatch] = []
        self._output_shapes: list[list[int]] = []
        self._decided: tuple[Any, Any] | None = None  # shapes and elements that are bound now
        self._closed = False
        self.sizes, self.reach, built = _build(device, program, constants)
        self.built = [b for step in built for b in step]
        self._label = [b.label for b in self.built]
        with device.lock:
            self._place()
            self._upload_constants(constants)
            self._pipelines: list[Pipeline] = [device.wait(device.pipeline(b.source, tuple(w for _, w in b.bindings), b.label)) for b in self.built]
            self._prepare_uniforms()

    # -- running -----------------------------------------------------------------------------------------------------------------------------
    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None) -> list[np.ndarray]:
        """The outputs for inputs within the program's sizes (InvalidArgument otherwise). RuntimeException where an index is outside or an integer
        is divided by zero. A run is one submission: `terminated` is not polled in it."""
        return self.device.wait(self.run_async(inputs))

    async def run_async(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`run`, awaitable."""
        with self.device.lock:
            if self._closed:
                raise InvalidArgument("the program was closed")
            decided = [x.shape for x in inputs], [int(inputs[port].reshape(-1)[at]) for port, at in self.program.elements if at < inputs[port].size]
            if decided != self._decided:
                self._bind(inputs)
                self._decided = decided
            for i, (x, port) in enumerate(zip(inputs, self.program.inputs, strict=True)):
                if x.size and i in self._input_rows:  # the others only decide sizes
                    self._check(x, port.dtype, self.program.strings[port.name])
                    self.device.write(self._memory(self._input_rows[i]), upload(x, port.dtype))
            if self._recorded:
                self.device.submit(self._recorded)
            spans = [(self._memory(row), 0, 4 * math.prod(shape)) for row, shape in zip(self._output_rows, self._output_shapes, strict=True)]
            *raw, status = await self.device.read([*spans, (self._fixed[STATUS], 0, 4)])
        self._judge(int(np.frombuffer(status, np.uint32)[0]))
        return [download(data, port.dtype, shape) for data, port, shape in zip(raw, self.program.outputs, self._output_shapes, strict=True)]

    def _check(self, x: np.ndarray, dtype: DType, name: str) -> None:
        if dtype in (DType.INT64, DType.UINT64):
            low, high = extent(x)
            if low < (allowed := assumed(dtype, self.reach))[0] or high > allowed[1]:
                raise RuntimeException(f"input '{name}' holds {low if low < allowed[0] else high}; on WebGPU this model's {dtype.text} inputs must lie within {allowed[0]} … {allowed[1]}, "
                                       "for which 32 bits are proved to be enough. Run it on CPUExecutionProvider")

    def _judge(self, status: int) -> None:
        if status == int(CLEAR[0]):
            return
        self.device.write(self._fixed[STATUS], CLEAR)
        step, fault = divmod(status, FAULTS)
        what = "an index is outside the tensor" if fault == INDEX else "an integer is divided by zero"
        raise RuntimeException(f"{self.program.strings[self.program.steps[step].origin]}: {what}")

    # -- binding -----------------------------------------------------------------------------------------------------------------------------
    def _bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Sizes: uniforms, workgroups, memory."""
        table = np.array(self.sizes.table.bind([x.shape for x in inputs], inputs), np.int64)
        block = np.zeros(self._uniform_rows.shape, np.int32)
        values = table[self._uniform_rows]
        np.copyto(block, values, casting="unsafe")
        self._decided = None
        if block.size:
            self.device.write(self._fixed["uniforms"], block)
        changed = self._grow(table)
        recorded = []
        for i, (b, pipeline) in enumerate(zip(self.built, self._pipelines, strict=True)):
            count = int(table[self._group_rows[i]])
            if count <= 0:
                continue
            x = min(count, self.device.limits.groups)
            if changed or self._groups[i] is None:
                offset, size = self._uniform_spans[i]
                self._groups[i] = self.device.bind(pipeline, (self._fixed["uniforms"], offset, size), [self._memory(key) for key, _ in b.bindings])
            recorded.append(Dispatch(pipeline, self._groups[i], x, -(-count // x)))
        self._recorded = recorded
        self._output_shapes = [[int(table[d]) for d in port.dims] for port in self.program.outputs]

    def _grow(self, table: np.ndarray) -> bool:
        """Make buffers large enough; whether any changed."""
        need = [0] * len(self._slabs)
        roof = [0.0] * len(self._slabs)
        for slot in self._slots.values():
            need[slot.slab] = max(need[slot.slab], int(table[slot.row]) * slot.each)
            roof[slot.slab] = max(roof[slot.slab], slot.most)
        changed = False
        for i, (nbytes, most) in enumerate(zip(need, roof, strict=True)):
            held = self._slabs[i]
            if held is None or held.nbytes < nbytes:
                if held is not None:
                    held.destroy()
                # Twice the size of now, or the most there will ever be: later sizes of the range mostly fit.
                self._slabs[i] = self.device.buffer(max(nbytes, int(min(most, 2 * nbytes, self.device.limits.binding_bytes))), label=f"memory of {self._label[0] if self._label else 'a program'}")
                changed = True
        return changed

    def _memory(self, key: Any) -> Buffer:
        if key in self._fixed:
            return self._fixed[key]
        found = self._slabs[self._slots[key].slab]
        assert found is not None
        return found

    # -- made once ---------------------------------------------------------------------------------------------------------------------------
    def _place(self) -> None:
        """Lifetimes, then slabs: greedy by size (shared objects of Pisarchyk & Lee, 2020)."""
        homes = [Home(b[0]) for b in self.program.buffers]
        types: dict[int, DType] = {}
        for view in self.program.views:
            types.setdefault(view.buffer, view.dtype)
        self._slots: dict[Any, _Slot] = {}
        for i, b in enumerate(self.built):
            for key, _ in b.bindings:
                if isinstance(key, (int, Temporary)) and (isinstance(key, Temporary) or homes[key] is not Home.DATA):
                    if key not in self._slots:
                        self._slots[key] = self._slot(key, types, i)
                    self._slots[key].last = i
        self._output_rows = [self.program.views[p.view].buffer for p in self.program.outputs]
        for row in self._output_rows:
            self._slots.setdefault(row, self._slot(row, types, 0))
        self._input_rows = {at: row for row, (home, at, _) in enumerate(self.program.buffers) if home == Home.INPUT and row in self._slots}
        taken: list[list[_Slot]] = []
        for slot in sorted(self._slots.values(), key=lambda s: -s.most):
            free = next((i for i, held in enumerate(taken) if not slot.own and not any(o.own or (o.first <= slot.last and slot.first <= o.last) for o in held)), len(taken))
            if free == len(taken):
                taken.append([])
            taken[free].append(slot)
            slot.slab = free
        self._slabs = [None] * len(taken)

    def _slot(self, key: Any, types: dict[int, DType], first: int) -> _Slot:
        if isinstance(key, Temporary):
            count, each, own = key.count, 4, False
        else:
            home, _, nbytes = self.program.buffers[key]
            count, own = self.sizes.dims[nbytes] // types[key].numpy.itemsize, home in (Home.INPUT, Home.OUTPUT)
            each = word_bytes(types[key], home == Home.INPUT)
        high = bounds(count, self.sizes.ranges)[1]
        return _Slot(self.sizes.row(count), each, math.inf if high is None else int(high) * each, first, first, own)

    def _upload_constants(self, constants: Sequence[Tensor]) -> None:
        used = {key for b in self.built for key, _ in b.bindings}
        forms = _forms(self.program)
        pools: dict[str, list[np.ndarray]] = {}
        for row, (home, at, _) in enumerate(self.program.buffers):
            if home != Home.DATA:
                continue
            form = forms.get(row, Form())
            pool = pool_of(constants[at], form)
            if pool is not None and pool in used:
                data = form.bytes(constants[at]).view(np.uint8).reshape(-1)
                pools.setdefault(pool, []).append(np.concatenate([data, np.zeros(-data.size % 16, np.uint8)]))
            elif pool is None and row in used:
                self._fixed[row] = self._weights.get(constants[at], form)
        for pool, parts in pools.items():
            data = np.concatenate(parts)
            self._fixed[pool] = self.device.buffer(data.nbytes, label="small constants")
            self.device.write(self._fixed[pool], data)
        self._fixed[STATUS] = self.device.buffer(4, label="status")
        self.device.write(self._fixed[STATUS], CLEAR)

    def _prepare_uniforms(self) -> None:
        align = self.device.limits.alignment // 4
        rows: list[int] = []
        zero = self.sizes.row(0)
        self._uniform_spans: list[tuple[int, int]] = []
        for b in self.built:
            count = max(4, -(-len(b.params) // 4) * 4)
            self._uniform_spans.append((len(rows) * 4, count * 4))
            rows += [self.sizes.row(d) for d in b.params] + [zero] * (count - len(b.params))
            rows += [zero] * (-len(rows) % align)
        self._group_rows = [self.sizes.row(b.groups) for b in self.built]
        self._groups: list[Any] = [None] * len(self.built)
        self._uniform_rows = np.array(rows, np.int64)
        self._fixed["uniforms"] = self.device.buffer(max(16, 4 * len(rows)), uniform=True, label="sizes")

    def close(self) -> None:
        """Give the memory back."""
        if self._closed:
            return
        self._closed = True
        shared = self._weights.buffers()
        for made in [*self._fixed.values(), *self._slabs]:
            if made is not None and id(made) not in shared:
                made.destroy()
        if self._own_weights:
            self._weights.close()
        self._fixed, self._slabs, self._recorded = {}, [], []

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


def pool_of(tensor: Tensor, form: Form) -> str | None:
    """The pool a small constant lies in; None for a large one."""
    if form.count(tensor) * word_bytes(tensor.dtype, True) > POOLED:
        return None
    return f"pool {'u32 packed' if tensor.dtype in PACKED else word(tensor.dtype)}"


def _forms(program: Program) -> dict[int, Form]:
    """The forms of packed constants, by buffer row."""
    found: dict[int, Form] = {}
    for step in program.steps:
        view = program.views[step.inputs[1]] if step.kind in (Kernel.MATMUL, Kernel.CONV) and step.inputs[1] >= 0 else None
        if view is not None and view.packing:
            group = program.sizes[step.params[1]][1] if step.kind is Kernel.CONV else 1
            found[view.buffer] = Form(Packing(view.packing), group)
    return found


def _build(device: Device, program: Program, constants: Sequence[Tensor]) -> tuple[Sizes, int, list[list[Built]]]:
    """Dispatches of every step, with the largest reach of 64-bit inputs for which everything fits."""
    wide = any(p.dtype in (DType.INT64, DType.UINT64) for p in program.inputs)
    for reach in REACH if wide else REACH[:1]:
        sizes = Sizes(program)
        context = Context(device.limits, device.adapter.is_cpu, uppers=sizes.ranges)
        for row, (home, at, _) in enumerate(program.buffers):
            if home == Home.INPUT:
                dtype = program.inputs[at].dtype
                context.ranges[row] = assumed(dtype, reach) if dtype in (DType.INT64, DType.UINT64) else interval(dtype)
        steps = ProgramSteps(program, sizes, _homes(program, constants), context.ranges)
        try:
            built = []
            for number, record in enumerate(program.steps):
                context.step = number
                built.append(_labelled(build, steps, record, context))
            return sizes, reach, built
        except CannotLower:
            if not wide or reach == REACH[-1]:
                raise
    raise AssertionError("unreachable")


def _labelled(make: Any, steps: ProgramSteps, record: Any, context: Context) -> list[Built]:
    step = steps.step(record)
    try:
        made: list[Built] = make(step, context)
        return made
    except CannotLower as reason:
        raise CannotLower(f"{step.label}: {reason}") from None


def _homes(program: Program, constants: Sequence[Tensor]) -> dict[int, Operand]:
    """Constants as operands of whole buffers: where they lie, and between which numbers."""
    homes: dict[int, Operand] = {}
    offsets: dict[str, int] = {}
    forms = _forms(program)
    for row, (home, at, _) in enumerate(program.buffers):
        if home != Home.DATA:
            continue
        tensor = constants[at]
        low, high = constant_interval(tensor)
        form = forms.get(row, Form())
        pool = pool_of(tensor, form)
        each = word_bytes(tensor.dtype, True)
        start = offsets.get(pool, 0) // each if pool is not None else 0
        homes[row] = Operand(pool if pool is not None else row, tensor.dtype, (), (), start, 0, True, low, high)
        if pool is not None:
            offsets[pool] = offsets.get(pool, 0) + -(-form.count(tensor) * each // 16) * 16
    return homes
