"""Plays a recording (`recording.py`) on a device: `WebGpuProgram(device, program, constants).run(inputs)`.

Slabs are made for the first sizes, and grow when a later size asks for it, by a quarter more than that where the program's range allows. Only then bind groups change.
A run: sizes bound (skipped when they are the last run's), inputs written, the recorded list submitted, outputs and the status word read in one go. The device's lock is held until the run is
submitted with the copies of its results: another thread's run may follow before this one's results are read (`AHEAD` of them at most; the queue keeps the order, each has a staging buffer of its
own, and the status word is reset on the GPU).
"""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidArgument, RuntimeException
from ..graph import Tensor
from ..program import Program
from ..providers.segmented import NeedsBounds
from .device.base import Buffer, Device, Dispatch
from .kernels.base import LARGEST
from .recording import Constant, Input, record
from .recording import Dispatch as Record
from .resident import GpuTensor, Pool
from .wgsl.shader import ENDS, FAULTS, INDEX, SINGULAR, TURNS
from .wgsl.storage import PLAIN, download, extent, upload
from .wgsl.turns import LOOPS

CLEAR = np.full(1, 0xFFFFFFFF, np.uint32)


class Weights:
    """What a session's programs have in common on the device: constants, each once, and the pool of tensors that stay there."""

    def __init__(self, device: Device) -> None:
        self.device, self.pool = device, Pool(device)
        self._held: dict[Any, tuple[Constant, Buffer]] = {}

    def get(self, constant: Constant) -> Buffer:
        """The buffer of a constant, uploaded at the first call."""
        if constant.key not in self._held:
            data = constant.bytes()
            made = self.device.buffer(data.nbytes, label="constants")
            self.device.write(made, data)
            self._held[constant.key] = (constant, made)
        return self._held[constant.key][1]

    def close(self) -> None:
        """Give the memory back."""
        for _, made in self._held.values():
            made.destroy()
        self._held.clear()
        self.pool.close()


class WebGpuProgram:
    """See the head of this module. CannotLower (at construction) says why a program can not run here; several threads may run one, one after the other."""

    measures_steps = property(lambda self: self.device.timestamps, doc="Whether `run` fills `times`.")
    keeps = True   # `run` takes tensors on the device, and has the argument `keep`

    def __init__(self, device: Device, program: Program, constants: Sequence[Tensor], weights: Weights | None = None, precision: str = "f32") -> None:
        self.device, self.program = device, program
        self._weights, self._own_weights = weights or Weights(device), weights is None
        self._recorded: list[Dispatch] = []          # of the sizes that are bound
        self._active: list[int] = []                 # their numbers in the recording
        self._output_shapes: list[list[int]] = []
        self._decided: tuple[Any, Any] | None = None  # shapes and elements that are bound now
        self._closed = False
        self.recording, self.sizes = record(program, constants, device.limits, device.adapter.is_cpu, tiles=device.tiles, features=device.features, precision=precision,
                                              several=True, counted=device.adapter.counts)
        made = self.recording
        self._label = f"a program that begins with {made.dispatches[0].label}" if made.dispatches else "a program"
        self._same = {(s.input, s.output): s.dispatch for s in made.same}
        self._slabs: list[Buffer | None] = [None] * len(made.slabs)
        self._groups: list[Any] = [None] * len(made.dispatches)
        self._lay_out_uniforms()
        with device.lock:
            compiled = device.wait(device.pipelines([(s.source, s.writes, next(d.label for d in made.dispatches if d.shader == i)) for i, s in enumerate(made.shaders)]))
            self._pipelines = [compiled[d.shader] for d in made.dispatches]
            self._uniforms = device.buffer(max(16, self._rows.size * 4), uniform=True, label="sizes")
            self._status, self._clear = (device.buffer(4, label="status") for _ in range(2))
            for word in (self._status, self._clear):
                device.write(word, np.full(word.nbytes // 4, CLEAR[0]))
            self._fixed = [*(self._weights.get(c) for c in made.constants), self._status]

    def _lay_out_uniforms(self) -> None:
        """One buffer for the uniforms of all dispatches, each at a multiple of the device's alignment: `_rows` of sizes, then `_spans` (offset, bytes)."""
        align, zero = self.device.limits.alignment // 4, self.sizes.row(0)
        rows: list[int] = []
        self._spans: list[tuple[int, int]] = []
        for d in self.recording.dispatches:
            count = max(4, -(-len(d.uniforms) // 4) * 4)
            self._spans.append((len(rows) * 4, count * 4))
            rows += [*d.uniforms, *[zero] * (count - len(d.uniforms))]
            rows += [zero] * (-len(rows) % align)
        self._rows = np.array(rows, np.int64)

    @property
    def taken(self) -> list[Record]:
        """The dispatches that have workgroups at the sizes of the last run."""
        return [self.recording.dispatches[i] for i in self._active]

    # -- running -----------------------------------------------------------------------------------------------------------------------------
    def run(self, inputs: Sequence[Any], *, terminated: Callable[[], bool] | None = None, keep: Mapping[int, Any] | Collection[int] = (),
            times: np.ndarray | None = None, submitted: Callable[[], None] | None = None) -> list[Any]:
        """The outputs for inputs (arrays, or tensors on the device) within the program's sizes (InvalidArgument otherwise). RuntimeException where an index is outside or an integer
        is divided by zero. A run is one submission: `terminated` is not polled in it. `keep`: numbers of outputs that stay on the device, where their type can (`GpuTensor`), perhaps each
        with the tensor to write to (or None), which is returned where it fits; it may be an input's, when all that the program does with that input is to take it over (`Recording.same`).
        `times` (int64[steps, 2]), where the device has timestamps: filled with each step's start and duration in nanoseconds. `submitted` is called when the next run may begin, if that is
        before this one's end."""
        return self.device.wait(self.run_async(inputs, keep, times, submitted))

    async def run_async(self, inputs: Sequence[Any], keep: Mapping[int, Any] | Collection[int] = (), times: np.ndarray | None = None, submitted: Callable[[], None] | None = None) -> list[Any]:
        """`run`, awaitable."""
        with self.device.ahead:
            fetched, read, kept, shapes = await self._submit(inputs, keep, times)
            if callable(read):
                if submitted is not None:
                    submitted()
                read = read()
        *raw, status = read
        self._judge(int(np.frombuffer(status, np.uint32)[0]))
        found = dict(zip(fetched, raw, strict=True))
        return [kept[i] if i in kept else download(found[i], o.dtype, shape) for i, (o, shape) in enumerate(zip(self.recording.outputs, shapes, strict=True))]

    async def _submit(self, inputs: Sequence[Any], keep: Mapping[int, Any] | Collection[int], times: np.ndarray | None) -> tuple[list[int], Any, dict[int, GpuTensor], list[list[int]]]:
        """Queue a run: (outputs that are read, their bytes and the status or what gives them, outputs that stay, shapes)."""
        with self.device.lock:
            if self._closed:
                raise InvalidArgument("the program was closed")
            decided = [x.shape for x in inputs], [int(np.asarray(inputs[port]).reshape(-1)[at]) for port, at in self.program.elements if at < inputs[port].size]
            if decided != self._decided:
                self._bind(inputs)
                self._decided = decided
            elsewhere = self._take_inputs(inputs)
            kept, left = self._keep(inputs, keep if isinstance(keep, Mapping) else dict.fromkeys(keep))
            elsewhere |= {self.recording.outputs[i].slab: x.on(self.device, "") for i, x in kept.items()}
            work = self._rebound(elsewhere, left) if elsewhere else self._recorded
            if work and times is not None:
                self._sum_up(times, time.perf_counter_ns(), await self.device.timed(work))
            elif work:
                self.device.submit(work)
            fetched = [i for i in range(len(self.recording.outputs)) if i not in kept]
            spans = [(self._memory(self.recording.outputs[i].slab), 0, 4 * math.prod(self._output_shapes[i])) for i in fetched]
            spans.append((self._status, 0, 4))
            read = self.device.fetch(spans, (self._clear, self._status)) or await self.device.read(spans)
            if not callable(read) and read[-1] != CLEAR.tobytes():
                self.device.write(self._status, CLEAR)
            return fetched, read, kept, self._output_shapes

    def _sum_up(self, times: np.ndarray, start: int, spans: Sequence[tuple[int, int]]) -> None:
        """Dispatches' times as their steps'; the device's clock begins anywhere, so the first dispatch begins at `start`."""
        times[:, 0] = start
        for i, (begin, duration) in zip(self._active, spans, strict=True):
            step = self.recording.dispatches[i].step
            if not times[step, 1]:
                times[step, 0] = start + begin - spans[0][0]
            times[step, 1] += duration

    def _take_inputs(self, inputs: Sequence[Any]) -> dict[int, Buffer]:
        """Write arrays to their slabs; slab → buffer of what is on the device already."""
        elsewhere = {}
        for x, port, taken in zip(inputs, self.program.inputs, self.recording.inputs, strict=True):
            if not x.size or taken.slab < 0:  # it only decides sizes
                continue
            name = self.program.strings[port.name]
            if isinstance(x, GpuTensor):
                elsewhere[taken.slab] = x.on(self.device, name)
            else:
                check_reach(x, taken, name)
                self.device.write(self._memory(taken.slab), upload(x, port.dtype))
        return elsewhere

    def _keep(self, inputs: Sequence[Any], keep: Mapping[int, Any]) -> tuple[dict[int, GpuTensor], set[int]]:
        """The tensors that outputs become, and the dispatches to leave out because their two ends are one buffer."""
        kept: dict[int, GpuTensor] = {}
        left: set[int] = set()
        if not keep:
            return kept, left
        given: dict[int, list[int]] = {}
        for i, x in enumerate(inputs):
            if isinstance(x, GpuTensor) and x.size and self.recording.inputs[i].slab >= 0:
                given.setdefault(id(x.on(self.device, self.program.strings[self.program.inputs[i].name])), []).append(i)
        taken: set[int] = set()
        for i, target in keep.items():
            output, shape = self.recording.outputs[i], tuple(self._output_shapes[i])
            if output.dtype not in PLAIN:
                continue
            fits = isinstance(target, GpuTensor) and target.device is self.device and (target.type, target.shape) == (output.dtype, shape)
            buffer = target.on(self.device, "") if fits else None
            readers = given.get(id(buffer), ()) if buffer is not None else ()
            if buffer is None or id(buffer) in taken or any((j, i) not in self._same or inputs[j].shape != shape for j in readers):
                target = GpuTensor(self._weights.pool, self._weights.pool.take(max(4, 4 * math.prod(shape))), output.dtype, shape)
            else:
                taken.add(id(buffer))
                left |= {self._same[j, i] for j in readers}
            kept[i] = target
        return kept, left

    def _rebound(self, elsewhere: Mapping[int, Buffer], left: Collection[int]) -> list[Dispatch]:
        """The recorded list with some slabs replaced by other buffers, and some dispatches left out. The device keeps bind groups by their buffers: those of a loop over the same tensors exist."""
        made = []
        for i, dispatch in zip(self._active, self._recorded, strict=True):
            if i in left:
                continue
            buffers = self.recording.dispatches[i].buffers
            if not elsewhere.keys().isdisjoint(buffers):
                group = self.device.bind(dispatch.pipeline, (self._uniforms, *self._spans[i]), [elsewhere[b] if b in elsewhere else self._memory(b) for b in buffers])
                dispatch = Dispatch(dispatch.pipeline, group, dispatch.x, dispatch.y)
            made.append(dispatch)
        return made

    def _judge(self, status: int) -> None:
        if status == int(CLEAR[0]):
            return
        step, fault = divmod(status, FAULTS)
        if fault == TURNS:
            raise RuntimeException(f"{self.program.steps[step].kind.name.lower()} of {self.recording.steps[step]}: {ENDS}, and these inputs ask for more: run the model on CPUExecutionProvider")
        what = {INDEX: "an index is outside the tensor", SINGULAR: "a matrix has no inverse"}.get(fault, "an integer is divided by zero")
        raise RuntimeException(f"{self.program.steps[step].kind.name.lower()} of {self.recording.steps[step]}: {what}; the same run on CPUExecutionProvider says which")

    # -- binding -----------------------------------------------------------------------------------------------------------------------------
    def _bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Sizes: uniforms, workgroups, memory."""
        table = np.array(self.sizes.table.bind([x.shape for x in inputs], inputs), np.int64)
        block = np.zeros(self._rows.shape, np.int32)
        values = table[self._rows]
        if values.size and (values.max() > LARGEST or values.min() < -LARGEST - 1):
            raise RuntimeException(f"a size or stride of {int(np.abs(values).max())} does not fit the 32 bits WebGPU counts in: use smaller sizes, or CPUExecutionProvider")
        for d in self.recording.dispatches:
            if d.turns >= 0 and table[d.turns] > LOOPS and table[d.groups] > 0:
                raise NeedsBounds(f"{d.label}: {ENDS}, and this one takes {int(table[d.turns]):,}: use smaller sizes, or CPUExecutionProvider")
        np.copyto(block, values, casting="unsafe")
        self._decided = None
        if block.size:
            self.device.write(self._uniforms, block)
        self._grow(table)
        recorded, self._active = [], []
        for i, (d, pipeline) in enumerate(zip(self.recording.dispatches, self._pipelines, strict=True)):
            count = int(table[d.groups])
            if count <= 0:
                continue
            x = min(count, self.device.limits.groups)
            if self._groups[i] is None:
                self._groups[i] = self.device.bind(pipeline, (self._uniforms, *self._spans[i]), [self._memory(b) for b in d.buffers])
            self._active.append(i)
            recorded.append(Dispatch(pipeline, self._groups[i], x, -(-count // x)))
        self._recorded = recorded
        self._output_shapes = [[int(table[d]) for d in o.dims] for o in self.recording.outputs]

    def _grow(self, table: np.ndarray) -> None:
        """Make slabs large enough. Where there is no memory for one, what is there stays: smaller sizes run as before."""
        for i, slab in enumerate(self.recording.slabs):
            nbytes, held = slab.bytes(table), self._slabs[i]
            if held is None or held.nbytes < nbytes:
                # A size that grows mostly grows again, as a cache does; the first one may be the only one.
                roomy = min(slab.most, nbytes if held is None else nbytes * 5 // 4, self.device.limits.binding_bytes)
                self._slabs[i] = self.device.buffer(max(nbytes, int(roomy)), label=f"memory of {self._label}")
                self._groups = [None] * len(self._groups)   # also those of dispatches without workgroups at these sizes
                if held is not None:
                    held.destroy()

    def _memory(self, number: int) -> Buffer:
        if number >= len(self._slabs):
            return self._fixed[number - len(self._slabs)]
        found = self._slabs[number]
        assert found is not None
        return found

    def close(self) -> None:
        """Give the memory back."""
        if self._closed:
            return
        self._closed = True
        for made in (self._uniforms, self._status, self._clear, *self._slabs):
            if made is not None:
                made.destroy()
        if self._own_weights:
            self._weights.close()
        self._fixed, self._slabs, self._recorded = [], [], []

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_fixed"):
            self.close()


def check_reach(x: np.ndarray, record: Input, name: str) -> None:
    """Refuse 64-bit integers that are not proved to fit 32 bits (RuntimeException)."""
    if record.allowed is None:
        return
    (low, high), allowed = extent(x), record.allowed
    if low < allowed[0] or high > allowed[1]:
        raise RuntimeException(f"input '{name}' holds {low if low < allowed[0] else high}; on WebGPU this model's {record.dtype.text} inputs must lie within {allowed[0]} … {allowed[1]}, "
                               "for which 32 bits are proved to be enough. Run it on CPUExecutionProvider")
