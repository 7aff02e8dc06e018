"""The C engine through ctypes: `EngineProgram(program, constants).run(inputs)`.

How to think
- Opening verifies the packed program; binding decides all sizes for one set of input shapes. Bound states are kept by shape and handed out to one run each, so threads may run one program at once.
- A run fills two arrays of pointers and makes one call. Whatever the engine refuses comes back as a typed error whose text is the engine's.
"""
from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int, c_int32, c_int64, c_uint64, c_void_p
from functools import cache, partial
from typing import Any

import numpy as np

from ..errors import InvalidArgument, InvalidModelFile, MemoryLimit, NotPlanned, RuntimeException, SardonyxError, Terminated
from ..errors import NotImplemented as NotImplementedHere
from ..graph import Tensor
from ..kernels import Kernel
from ..model.packing import Packing, pack
from ..program import Home, Program
from .locate import EngineMissing, locate
from .outputs import LARGE, Outputs
from .room import ALIGN, Room

#: Numbers of `enum sx_status`.
UNSUPPORTED, INDEX, DIVISION, SHAPE, MEMORY, FORMAT, TERMINATED, DTYPE, GUARD, ARGUMENT, YIELD = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100
_ERRORS: dict[int, type[SardonyxError]] = {
    UNSUPPORTED: NotImplementedHere, INDEX: RuntimeException, DIVISION: RuntimeException, SHAPE: RuntimeException, MEMORY: MemoryLimit, FORMAT: InvalidModelFile, TERMINATED: Terminated,
    DTYPE: InvalidModelFile, GUARD: NotPlanned, ARGUMENT: InvalidArgument,
}
#: Shapes (with the values of elements that decide sizes) whose bound states are kept.
KEPT_SHAPES = 64
Key = tuple[Any, ...]


class Packed:
    """The packed constants of a model. `forms`: where an array lies and how it is packed → the array, held so that nothing else comes to lie there, and its packed form."""

    def __init__(self) -> None:
        self.forms: dict[Key, tuple[np.ndarray, np.ndarray]] = {}
        self.room = Room()


class _Report(Structure):
    _fields_ = [("code", c_int32), ("rule", c_int32), ("step", c_int64), ("operand", c_int64), ("values", c_int64 * 2),
                ("program", c_int32), ("block", c_int32), ("segment", c_int32), ("reserved", c_int32)]


class _Options(Structure):
    _fields_ = [("threads", c_int32), ("isa", c_int32), ("memory_limit", c_int64)]


@cache
def library() -> Any:
    """The loaded engine; builds it in a checkout. Raises EngineMissing where that can not be done."""
    found = ctypes.CDLL(locate())
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "sx_open": (c_int, [c_char_p, c_uint64, POINTER(_Options), POINTER(c_void_p), POINTER(_Report)]), "sx_close": (None, [c_void_p]),
        "sx_set_constant": (c_int, [c_void_p, c_int64, c_void_p, c_uint64, POINTER(_Report)]),
        "sx_bind": (c_int, [c_void_p, POINTER(c_int64), c_int64, c_void_p, POINTER(c_void_p), POINTER(_Report)]), "sx_unbind": (None, [c_void_p]),
        "sx_output_shape": (c_int, [c_void_p, c_int64, POINTER(c_int64)]), "sx_arena_bytes": (c_int64, [c_void_p]),
        "sx_run": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_void_p]), "sx_continue": (c_int, [c_void_p, c_int64, c_void_p]),
        "sx_terminate": (None, [c_void_p]), "sx_profile": (None, [c_void_p, POINTER(c_int64)]), "sx_counts": (c_int64, [c_void_p, c_int]),
        "sx_error_text": (c_int64, [POINTER(_Report), c_void_p, POINTER(c_char), c_int64]), "sx_isa_name": (c_char_p, [c_int]), "sx_isa_available": (c_int, [c_int]),
        "sx_kernel_available": (c_int, [c_int]),
        "sx_use_bfloat16": (c_int, [c_void_p]), "sx_package_use_bfloat16": (c_int, [c_void_p]), "sx_bfloat16_available": (c_int, []), "sx_in_bfloat16": (c_int, [c_void_p, c_int64]),
        "sx_package_open": (c_int, [c_void_p, c_uint64, POINTER(_Options), POINTER(c_void_p), POINTER(_Report)]), "sx_package_close": (None, [c_void_p]),
        "sx_package_data": (c_int, [c_void_p, c_void_p, c_uint64, POINTER(_Report)]), "sx_package_set": (c_int, [c_void_p, c_int64, c_void_p, c_uint64, POINTER(_Report)]),
        "sx_package_program": (c_void_p, [c_void_p, c_int64]), "sx_package_single": (c_int64, [c_void_p, POINTER(c_int64), c_int64]), "sx_package_count": (c_int64, [c_void_p, c_int]),
        "sx_package_error_text": (c_int64, [POINTER(_Report), c_void_p, POINTER(c_char), c_int64]),
        "sx_session_open": (c_int, [c_void_p, POINTER(c_void_p), POINTER(_Report)]), "sx_session_close": (None, [c_void_p]),
        "sx_session_run": (c_int, [c_void_p, c_void_p, c_int64, c_int64, POINTER(_Report)]), "sx_session_continue": (c_int, [c_void_p, c_int64, POINTER(_Report)]),
        "sx_session_terminate": (None, [c_void_p]), "sx_session_output": (c_int, [c_void_p, c_int64, c_void_p]), "sx_session_take": (c_int, [c_void_p, c_int64, c_void_p]),
        "sx_tensor_free": (None, [c_void_p]), "sx_session_waiting": (c_int, [c_void_p, c_void_p]), "sx_session_input": (c_int, [c_void_p, c_int64, c_void_p]),
        "sx_session_put": (c_int, [c_void_p, c_int64, c_void_p, POINTER(_Report)]), "sx_session_profile": (c_int64, [c_void_p, c_void_p, c_int64]),
        "sx_session_memory": (c_int64, [c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def available() -> str:
    """Why the engine is not there, or ""."""
    try:
        library()
    except (EngineMissing, OSError) as reason:
        return str(reason)
    return ""


def bfloat16_missing() -> str:
    """Why float products can not round to bfloat16 here, or ""."""
    return "" if available() or library().sx_bfloat16_available() else "this machine has no AVX512_BF16 instructions"


@cache
def isas() -> tuple[str, ...]:
    """Names of the instruction sets this build has and this machine runs, best first."""
    engine, made, number = library(), [], 0
    while (name := engine.sx_isa_name(number)) is not None:
        if engine.sx_isa_available(number):
            made.append(name.decode())
        number += 1
    return tuple(made)


@cache
def kernels() -> frozenset[Kernel]:
    """The kernel kinds this build has."""
    return frozenset(kind for kind in Kernel if library().sx_kernel_available(int(kind)))


def _data_offset() -> int:
    """Where in an ndarray object the pointer to its elements lies (the first field of NumPy's PyArrayObject), checked; 0 where it is not there. Asking the array costs a microsecond."""
    arrays = [np.empty(n, np.uint8) for n in (1, 100, 100_000)]
    at = object.__basicsize__
    if sys.implementation.name != "cpython" or any(c_void_p.from_address(id(x) + at).value != x.__array_interface__["data"][0] for x in (*arrays, arrays[1][7:])):
        return 0
    return at


_AT = _data_offset()


def address(array: np.ndarray) -> int:
    """Where an array's elements begin."""
    found: int = c_void_p.from_address(id(array) + _AT).value if _AT else array.__array_interface__["data"][0]  # type: ignore[assignment]
    return found


def _isa_number(name: str | None) -> int:
    """An instruction set's number plus 1, 0 for the best. `SARDONYX_ISA` forces one where none is asked for."""
    name = name or os.environ.get("SARDONYX_ISA")
    if not name:
        return 0
    engine, number = library(), 0
    while (found := engine.sx_isa_name(number)) is not None:
        number += 1
        if found.decode() == name:
            return number
    raise InvalidArgument(f"instruction set '{name}' is not in this engine; this machine runs {', '.join(isas())}")


class _Bound:
    """A state for one set of input shapes, with the pointer arrays of a run."""

    __slots__ = ("state", "shapes", "large", "inputs", "outputs", "in_at", "out_at", "report", "report_at", "times", "release", "given")

    def __init__(self, program: EngineProgram, state: int) -> None:
        engine = library()
        self.state, self.release = state, engine.sx_unbind
        self.shapes = []
        dims = (c_int64 * 8)()
        for i, port in enumerate(program.program.outputs):
            rank = engine.sx_output_shape(state, i, dims)
            self.shapes.append((tuple(dims[:rank]), port.dtype.numpy))
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in self.shapes]
        self.large = {i: size for i, size in enumerate(sizes) if size >= LARGE}     # outputs that are recycled
        program.outputs.note(sum(self.large.values()))
        self.inputs = (c_void_p * max(len(program.program.inputs), 1))()
        self.outputs = (c_void_p * max(len(self.shapes), 1))()
        self.report = _Report()
        self.in_at, self.out_at, self.report_at = map(ctypes.addressof, (self.inputs, self.outputs, self.report))
        self.times: Any = None
        self.given: list[int] = []          # bytes of each input, where outputs might touch them

    def __del__(self) -> None:
        self.release(self.state)


class EngineProgram:
    """A Program with its constants, opened in the engine. Safe to run from several threads at once."""

    measures_steps = True
    takes_into = True   # `run` has the argument `into`

    def __init__(self, program: Program, constants: Sequence[Tensor], *, threads: int = 0, isa: str | None = None, memory_limit: int = 0, shared: Packed | None = None,
                 bfloat16: bool = False) -> None:
        """`shared`: packed constants that programs of one model have in common; this one adds its own. `bfloat16`: float products round their factors so, where the machine can."""
        packed = program.pack()
        self.program = program
        self._open(packed, [constant(program, i, t, shared) for i, t in enumerate(constants)], _Options(threads, _isa_number(isa), memory_limit))
        self._rounds = bool(bfloat16 and self._engine.sx_use_bfloat16(self._handle))

    @classmethod
    def from_bytes(cls, packed: bytes, constants: Sequence[np.ndarray], program: Program, *, threads: int = 0, isa: str | None = None) -> EngineProgram:
        """A packed program as it is; `program` only names and types inputs and outputs. `constants` are arrays of bytes as the engine reads them."""
        made = cls.__new__(cls)
        made.program = program
        made._open(packed, list(constants), _Options(threads, _isa_number(isa), 0))
        return made

    @classmethod
    def lent(cls, handle: int, ports: Program) -> EngineProgram:
        """A program that is open already (of a package, which outlives it); none of its sizes are elements. `ports`: what names and types its inputs and outputs."""
        made = cls.__new__(cls)
        made.program, made._engine = ports, library()
        made._prepare()
        made._handle, made._constants, made._owned = c_void_p(handle), [], False
        made._run = made._engine.sx_run
        return made

    def _prepare(self) -> None:
        self._owned, self._rounds = True, False
        self._free: OrderedDict[Key, list[Any]] = OrderedDict()
        self._elements = self.program.elements
        self.outputs = Outputs()
        self._same: set[tuple[int, int]] | None = None
        self._lock = threading.Lock()
        self._dtypes = [port.dtype.numpy for port in self.program.inputs]

    def _open(self, packed: bytes, constants: list[np.ndarray], options: _Options) -> None:
        self._engine = engine = library()
        self._prepare()
        self._constants = constants
        self._handle = c_void_p()
        report = _Report()
        if engine.sx_open(packed, len(packed), byref(options), byref(self._handle), byref(report)):
            raise self._error(report)
        for i, data in enumerate(constants):
            if engine.sx_set_constant(self._handle, i, data.ctypes.data, data.nbytes, byref(report)):
                raise self._error(report)
        self._run = engine.sx_run

    def _error(self, report: _Report) -> SardonyxError:
        text = ctypes.create_string_buffer(1024)
        self._engine.sx_error_text(byref(report), self._handle, text, 1024)
        return error_of(report.code, text.value.decode(errors="replace"))

    # -- binding -----------------------------------------------------------------------------------------------------------------------------
    def _take(self, key: Key, inputs: Sequence[np.ndarray]) -> Any:
        pool = self._free.get(key)
        if pool:
            try:
                return pool.pop()
            except IndexError:  # another thread took the last one
                pass
        return self.bind([x.shape for x in inputs], inputs if self._elements else None)

    def bind(self, shapes: Sequence[Sequence[int]], inputs: Sequence[np.ndarray] | None = None) -> Any:
        """A new state for these input shapes and, where elements of inputs decide sizes, `inputs`. Raises InvalidArgument where the program does not cover them."""
        flat = [d for shape in shapes for d in shape]
        self._check_ranks(shapes)
        state, report, pointers, dense = c_void_p(), _Report(), None, []
        if inputs is not None:
            dense = [np.ascontiguousarray(x) if x.dtype == t else self._dense(i, x) for i, (x, t) in enumerate(zip(inputs, self._dtypes, strict=True))]
            pointers = (c_void_p * max(len(dense), 1))(*[x.ctypes.data for x in dense])
        if self._engine.sx_bind(self._handle, (c_int64 * max(len(flat), 1))(*flat), len(flat), pointers, byref(state), byref(report)):
            raise self._error(report)
        assert state.value is not None
        return _Bound(self, state.value)

    def _check_ranks(self, shapes: Sequence[Sequence[int]]) -> None:
        if len(shapes) != len(self.program.inputs) or any(len(s) != len(p.dims) for s, p in zip(shapes, self.program.inputs, strict=True)):
            raise InvalidArgument(f"the program takes {len(self.program.inputs)} inputs of ranks {[len(p.dims) for p in self.program.inputs]}, given are shapes {[tuple(s) for s in shapes]}")

    def _key(self, inputs: Sequence[np.ndarray]) -> Key:
        """What decides the sizes of a run."""
        key: Key = tuple([x.shape for x in inputs])
        if self._elements:
            key += tuple([int(inputs[port].reshape(-1)[at]) for port, at in self._elements if at < inputs[port].size])
        return key

    def _give(self, key: Key, bound: Any) -> None:
        pool = self._free.get(key)
        if pool is not None:
            pool.append(bound)
            return
        with self._lock:
            self._free.setdefault(key, []).append(bound)
            while len(self._free) > KEPT_SHAPES:
                self._free.popitem(last=False)

    def arena_bytes(self, shapes: Sequence[Sequence[int]]) -> int:
        """Bytes of working memory for these input shapes: arena and scratch of all workers."""
        return int(self._engine.sx_arena_bytes(self.bind(shapes).state))

    # -- running ------------------------------------------------------------------------------------------------------------------------------
    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, budget: int = 5_000_000, arena: int | None = None, times: np.ndarray | None = None,
            outputs: Sequence[np.ndarray] | None = None, into: Sequence[np.ndarray | None] | None = None) -> list[np.ndarray]:
        """The outputs for arrays of the program's types. `terminated` is polled every `budget` nanoseconds; `arena`: the address of working memory; `times` (int64[steps, 2]) takes each
        step's start and duration; `outputs`: dense arrays to write to; `into`: arrays to write to where they fit an output exactly."""
        key = self._key(inputs)
        bound = self._take(key, inputs)
        pointers, held = bound.inputs, []
        for i, x in enumerate(inputs):
            if x.dtype != self._dtypes[i] or not x.flags.c_contiguous:
                x = self._dense(i, x)
                held.append(x)
            pointers[i] = address(x)
        if into is not None:
            bound.given = [x.nbytes for x in inputs]
        if outputs is not None:
            made = list(outputs)
        elif bound.large:
            made = [self.outputs.make(shape, dtype, bound.large[i]) if i in bound.large else np.empty(shape, dtype) for i, (shape, dtype) in enumerate(bound.shapes)]
        else:
            made = [np.empty(shape, dtype) for shape, dtype in bound.shapes]
        if into is not None:
            self._write_into(made, into, bound)
        pointers = bound.outputs
        for i, y in enumerate(made):
            pointers[i] = address(y)
        if times is not None:
            self._engine.sx_profile(bound.state, times.ctypes.data_as(POINTER(c_int64)))
        code = driven(terminated, partial(self._engine.sx_terminate, bound.state), (self._engine.sx_continue, bound.state, budget, bound.report_at),
                      self._run, bound.state, bound.in_at, bound.out_at, arena, 0 if terminated is None else budget, bound.report_at)
        if times is not None:
            self._engine.sx_profile(bound.state, None)
        if code:
            error = self._error(bound.report)
            self._give(key, bound)
            raise error
        self._give(key, bound)
        return made

    def rounded(self, inputs: Sequence[np.ndarray]) -> frozenset[int]:
        """The steps that round the factors of their products to bfloat16, for inputs of these sizes."""
        if not self._rounds:
            return frozenset()
        key = self._key(inputs)
        bound = self._take(key, inputs)
        found = frozenset(i for i in range(len(self.program.steps)) if self._engine.sx_in_bfloat16(bound.state, i))
        self._give(key, bound)
        return found

    def _write_into(self, made: list[np.ndarray], into: Sequence[np.ndarray | None], bound: _Bound) -> None:
        """Put the caller's arrays in place of `made` where they fit and share no memory with an input, or with the one whose place they may take."""
        for i, (y, (shape, dtype)) in enumerate(zip(into, bound.shapes, strict=True)):
            if y is None or y.shape != shape or y.dtype != dtype or not (y.flags.c_contiguous and y.flags.writeable and y.flags.aligned):
                continue
            begin, end = address(y), address(y) + y.nbytes
            starts = [at or 0 for at in bound.inputs]
            touched = [j for j, size in enumerate(bound.given) if size and starts[j] < end and begin < starts[j] + size]
            if all((j, i) in self._in_place() and starts[j] == begin for j in touched):
                made[i] = y

    def _in_place(self) -> set[tuple[int, int]]:
        """(input, output) that may be the same memory: all that reads the input is one COPY to the output, before anything else writes there."""
        if self._same is None:
            program = self.program
            readers: dict[int, list[int]] = {}
            writers: dict[int, list[int]] = {}
            for number, step in enumerate(program.steps):
                for views, found, home in ((step.inputs, readers, Home.INPUT), (step.outputs, writers, Home.OUTPUT)):
                    for view in views:
                        at = program.buffers[program.views[view].buffer] if view >= 0 else None
                        if at is not None and at[0] == home:
                            found.setdefault(at[1], []).append(number)
            self._same = {(i, o) for i, reads in readers.items() for o, writes in writers.items()
                          if len(reads) == 1 and program.steps[reads[0]].kind is Kernel.COPY and writes[0] == reads[0] and i not in {port for port, _ in program.elements}}
        return self._same

    def _dense(self, index: int, x: np.ndarray) -> np.ndarray:
        if x.dtype != self._dtypes[index]:
            raise InvalidArgument(f"input '{self.program.strings[self.program.inputs[index].name]}' is {x.dtype}, the program takes {self._dtypes[index]}")
        return np.ascontiguousarray(x)

    def close(self) -> None:
        """Give the engine's memory back; the program is not used again."""
        self._free.clear()
        self.outputs.close()
        handle, self._handle = self._handle, c_void_p()
        if self._owned:
            self._engine.sx_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def driven(terminated: Callable[[], bool] | None, stop: Callable[[], object], proceed: tuple[Any, ...], start: Callable[..., int], *arguments: Any) -> int:
    """The status of a run, which `start` begins, `proceed` (a function and its arguments) takes up where its budget ended, and `stop` ends: as soon as `terminated` is so where it can tell
    (providers/base.py's can), else when it is asked, between."""
    if terminated is None:
        return start(*arguments)
    tell = getattr(terminated, "tell", None)
    if tell is not None:
        tell(stop)
    try:
        if tell is not None and terminated():  # said before anybody could be told
            raise error_of(TERMINATED, "the run was stopped")
        code = start(*arguments)
        while code == YIELD:
            if terminated():
                stop()
            code = proceed[0](*proceed[1:])
        return code
    finally:
        if tell is not None:
            terminated.forget(stop)  # type: ignore[attr-defined]


def error_of(code: int, text: str) -> SardonyxError:
    """The error for a status of the engine and its words."""
    return _ERRORS.get(code, RuntimeException)(text + (" by RunOptions.terminate" if code == TERMINATED else ""))


def constant(program: Program, number: int, tensor: Tensor, shared: Packed | None = None) -> np.ndarray:
    """A constant as the engine reads it: dense, or packed where the program's views say so. What is in `shared` is not packed again."""
    found, group = program.form(number)
    packing = Packing(found)
    if packing is Packing.NONE:
        dense = np.require(tensor.numpy(), requirements=("C", "A"))  # bytes of an .onnx file lie anywhere
        return _lined_up(dense, shared) if dense.ctypes.data % ALIGN and _read_again(program, number) else dense
    stored = tensor.storage
    if stored is not None and (stored.packing, stored.group) == (packing, group):  # used in place, from the map
        return stored.data
    plain = tensor.numpy()
    if shared is None:
        return pack(plain, packing, group)
    key = (plain.__array_interface__["data"][0], plain.shape, plain.strides, plain.dtype.str, found, group)
    if key not in shared.forms:
        shared.forms[key] = plain, pack(plain, packing, group, shared.room.take)
    return shared.forms[key][1]


def _read_again(program: Program, number: int) -> bool:
    """Whether a kernel reads a constant many times in a run: a recurrence's R, which it would bring to the start of a cache line at every run."""
    views = {i for i, view in enumerate(program.views) if program.buffers[view.buffer][:2] == (Home.DATA, number)}
    return any(step.kind is Kernel.RNN and step.inputs[2] in views for step in program.steps)


def _lined_up(dense: np.ndarray, shared: Packed | None) -> np.ndarray:
    """A copy from the start of a cache line."""
    made = (shared.room if shared is not None else Room()).take(dense.nbytes).view(dense.dtype).reshape(dense.shape)
    made[...] = dense
    return made
