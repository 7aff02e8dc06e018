"""Packages on the C engine: `EnginePackage(packed, data=…).run(inputs)` (core/package.py; engine/src/session.c does the work).

How to think
- Where a variant is one program on the model's inputs and outputs, a run is that program's run (binding.py), which writes straight into NumPy's memory.
- Otherwise a session runs the blocks. A session serves one run at a time; they are kept and handed out, so threads may run one package at once.
"""
from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from ctypes import Structure, byref, c_char, c_int32, c_int64, c_void_p
from functools import partial
from typing import Any

import numpy as np

from ..errors import InvalidArgument, RuntimeException, SardonyxError
from ..package import Port
from ..program import PortRecord, Program
from ..types import DType
from .binding import EngineProgram, _isa_number, _Options, _Report, driven, error_of, library

#: Outputs of at least this many bytes are handed over, smaller ones copied: making an owner of memory costs more than copying so much.
TAKEN = 1 << 16


class Tensor(Structure):
    """sx_tensor."""

    _fields_ = [("dtype", c_int32), ("rank", c_int32), ("dim", c_int64 * 8), ("data", c_void_p)]


class Waiting(Structure):
    """sx_waiting."""

    _fields_ = [("block", c_int32), ("segment", c_int32), ("program", c_int32), ("device", c_int32), ("n_in", c_int32), ("n_out", c_int32)]


class EnginePackage:
    """A packed package, opened. `data`: the tensor data its constants lie in; `constants`: arrays of bytes for those that lie nowhere. Both must not change. `bfloat16`: float products
    round their factors so, where the machine can."""

    def __init__(self, packed: bytes | memoryview, inputs: Sequence[Port], outputs: Sequence[Port], *, data: np.ndarray | None = None, constants: Sequence[np.ndarray | None] = (),
                 threads: int = 0, isa: str | None = None, memory_limit: int = 0, bfloat16: bool = False) -> None:
        self._engine = engine = library()
        self._held = (data, list(constants))
        self._handle = c_void_p()
        self._sessions: list[_Session] = []
        self._single: dict[Any, EngineProgram | None] = {}
        self._programs: dict[int, EngineProgram] = {}
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._ports = Program()
        self._ports.inputs, self._ports.outputs = ([PortRecord(self._ports.string(p.name), p.dtype, -1, tuple(0 for _ in p.dims)) for p in part] for part in (inputs, outputs))
        report = _Report()
        raw = np.frombuffer(packed, np.uint8)
        if engine.sx_package_open(raw.ctypes.data, raw.nbytes, byref(_Options(threads, _isa_number(isa), memory_limit)), byref(self._handle), byref(report)):
            raise self.error(report)
        if bfloat16:
            engine.sx_package_use_bfloat16(self._handle)
        if data is not None and engine.sx_package_data(self._handle, data.ctypes.data, data.nbytes, byref(report)):
            raise self.error(report)
        for i, array in enumerate(constants):
            if array is not None and engine.sx_package_set(self._handle, i, array.ctypes.data, array.nbytes, byref(report)):
                raise self.error(report)

    def error(self, report: _Report) -> SardonyxError:
        """A report as an exception."""
        text = ctypes.create_string_buffer(1024)
        self._engine.sx_package_error_text(byref(report), self._handle, text, 1024)
        return error_of(report.code, text.value.decode(errors="replace"))

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, budget: int = 5_000_000, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """The outputs for arrays of the model's types. `terminated` is polled every `budget` nanoseconds; `rows` (int64[n, 4]) takes (program, step, start, duration) of what ran and is -1
        behind it; 2^32 is added to the number of a step that rounds to bfloat16."""
        key = tuple([x.shape for x in inputs])
        single = self._single.get(key, self)
        if single is self:
            single = self._find_single(key)
        if single is not None and rows is None:
            return single.run(inputs, terminated=terminated, budget=budget)
        try:
            session = self._sessions.pop()
        except IndexError:
            session = _Session(self)
        try:
            return session.run(self, inputs, terminated, budget, rows)
        finally:
            self._sessions.append(session)

    def _find_single(self, key: tuple[tuple[int, ...], ...]) -> EngineProgram | None:
        flat = [d for shape in key for d in shape]
        found = -1
        if len(key) == len(self.inputs) and all(len(s) == len(p.dims) for s, p in zip(key, self.inputs, strict=True)):
            found = self._engine.sx_package_single(self._handle, (c_int64 * max(len(flat), 1))(*flat), len(flat))
        if found >= 0 and self._engine.sx_counts(self._engine.sx_package_program(self._handle, found), 4):
            found = -1  # elements decide sizes: a session keeps states by their values
        if found >= 0 and found not in self._programs:
            self._programs[found] = EngineProgram.lent(self._engine.sx_package_program(self._handle, found), self._ports)
        if len(self._single) > 1000:
            self._single.clear()
        self._single[key] = self._programs.get(found)
        return self._single[key]

    def close(self) -> None:
        """Give the engine's memory back; the package is not used again."""
        self._single.clear()
        for program in self._programs.values():
            program.close()
        for session in self._sessions:
            session.close()
        self._programs.clear()
        self._sessions.clear()
        handle, self._handle = self._handle, c_void_p()
        self._engine.sx_package_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


class _Session:
    """A session of a package, which it does not refer to (no cycle); one run at a time."""

    def __init__(self, package: EnginePackage) -> None:
        self._engine, self.outputs = package._engine, len(package.outputs)
        self.report = _Report()
        self.handle = c_void_p()
        if self._engine.sx_session_open(package._handle, byref(self.handle), byref(self.report)):
            raise package.error(self.report)
        self.given = (Tensor * max(len(package.inputs), 1))()
        self.made = Tensor()
        self.dtypes = [p.dtype.numpy for p in package.inputs]
        for t, port in zip(self.given, package.inputs, strict=False):
            t.dtype = int(port.dtype)

    def run(self, package: EnginePackage, inputs: Sequence[np.ndarray], terminated: Callable[[], bool] | None, budget: int, rows: np.ndarray | None) -> list[np.ndarray]:
        """One run of the package."""
        engine, held = self._engine, []
        if len(inputs) != len(package.inputs):
            raise InvalidArgument(f"the model takes {len(package.inputs)} inputs, given are {len(inputs)}")
        for t, x, dtype, port in zip(self.given, inputs, self.dtypes, package.inputs, strict=False):
            if x.dtype != dtype:
                raise InvalidArgument(f"input '{port.name}' is {x.dtype}, the model takes {dtype}")
            if x.ndim > 8:
                raise InvalidArgument(f"input '{port.name}' has rank {x.ndim}, the model takes {len(port.dims)}")
            x = np.ascontiguousarray(x) if x.ndim else x
            held.append(x)
            t.rank, t.data = x.ndim, x.__array_interface__["data"][0]
            t.dim[:x.ndim] = x.shape
        if rows is not None:
            rows[:] = -1
            engine.sx_session_profile(self.handle, rows.ctypes.data, len(rows))
        report = byref(self.report)
        code = driven(terminated, partial(engine.sx_session_terminate, self.handle), (engine.sx_session_continue, self.handle, budget, report),
                      engine.sx_session_run, self.handle, self.given, len(inputs), 0 if terminated is None else budget, report)
        if rows is not None:
            engine.sx_session_profile(self.handle, None, 0)
        if code:
            raise package.error(self.report)
        return [self._output(i) for i in range(self.outputs)]

    def _output(self, number: int) -> np.ndarray:
        engine, t = self._engine, self.made
        engine.sx_session_output(self.handle, number, byref(t))
        shape, dtype = tuple(t.dim[:t.rank]), DType(t.dtype).numpy
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < TAKEN:
            return np.frombuffer(ctypes.string_at(t.data, nbytes), dtype).reshape(shape).copy() if nbytes else np.empty(shape, dtype)
        if engine.sx_session_take(self.handle, number, byref(t)):
            raise RuntimeException(f"output {number} can not be taken: memory is short")
        block = (c_char * nbytes).from_address(t.data)
        weakref.finalize(block, engine.sx_tensor_free, t.data).atexit = False
        return np.frombuffer(block, dtype).reshape(shape)

    def close(self) -> None:
        """Before the package is closed."""
        handle, self.handle = self.handle, c_void_p()
        self._engine.sx_session_close(handle)
