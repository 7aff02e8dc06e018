"""The engine's WebAssembly modules under wasmtime: `WasmProgram` is to them what `sardonyx.engine.binding.EngineProgram` is to the native library.

A module is compiled once (wasmtime keeps what it made beside the module) and instantiated for each thread that uses it. Addresses are offsets into its memory; numbers cross as i32, i64 and f64.
"""
from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import wasmtime
from sardonyx.engine.binding import _ERRORS, YIELD, constant
from sardonyx.engine.build import TARGETS, find
from sardonyx.errors import MemoryLimit, RuntimeException, SardonyxError
from sardonyx.graph import Tensor
from sardonyx.program import Program

BUILDS = ("simd128", "relaxed")


@cache
def _engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_threads = True
    config.shared_memory = True
    config.wasm_relaxed_simd = True
    config.cranelift_opt_level = "speed"
    return wasmtime.Engine(config)


@cache
def module(build: str) -> wasmtime.Module:
    """A module of core/engine/build.py, compiled: `simd128`, `relaxed`, each also with `-threads`."""
    path = find(TARGETS["wasm", build])
    compiled = path.with_suffix(f".wasmtime-{version('wasmtime')}")
    if compiled.exists():
        return wasmtime.Module.deserialize_file(_engine(), str(compiled))
    made = wasmtime.Module(_engine(), path.read_bytes())
    part = compiled.with_suffix(f".{time.monotonic_ns()}")
    part.write_bytes(made.serialize())
    part.replace(compiled)
    return made


class Machine:
    """One instance of a module and its memory."""

    def __init__(self, build: str = "simd128") -> None:
        self.build = build
        self.store = wasmtime.Store(_engine())
        linker = wasmtime.Linker(_engine())
        linker.define_func("env", "now", wasmtime.FuncType([], [wasmtime.ValType.f64()]), lambda: time.perf_counter() * 1e3)
        made = module(build)
        shared = next((i.type for i in made.imports if isinstance(i.type, wasmtime.MemoryType)), None)
        if shared is not None:
            self.shared = wasmtime.SharedMemory(_engine(), shared)
            linker.define(self.store, "env", "memory", self.shared)
        instance = linker.instantiate(self.store, made)
        self.exports = instance.exports(self.store)
        self.memory: Any = self.exports["memory"] if shared is None else None
        self._functions: dict[str, Any] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """An exported function's result."""
        function = self._functions.get(name) or self._functions.setdefault(name, self.exports[name])
        return function(self.store, *arguments)

    @property
    def bytes(self) -> np.ndarray:
        """All of memory; not to be kept: growing moves it."""
        if self.memory is None:
            return np.ctypeslib.as_array(ctypes.cast(self.shared.data_ptr(), ctypes.POINTER(ctypes.c_uint8)), (self.shared.data_len(),))
        return np.ctypeslib.as_array(ctypes.cast(self.memory.data_ptr(self.store), ctypes.POINTER(ctypes.c_uint8)), (self.memory.data_len(self.store),))

    def allocate(self, size: int) -> int:
        """The address of new memory. Raises MemoryLimit."""
        at = int(self.call("sx_alloc", float(size))) & 0xffffffff
        if not at:
            raise MemoryLimit(f"the module has no {size:,} bytes; WebAssembly has 4 GB in all")
        return at

    def put(self, data: np.ndarray | bytes) -> int:
        """A copy of `data` in new memory; its address."""
        flat = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        at = self.allocate(max(flat.nbytes, 1))
        self.bytes[at:at + flat.nbytes] = flat
        return at

    def get(self, at: int, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """A copy of the array at an address."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.bytes[at:at + count].copy().view(dtype).reshape(shape)

    def word(self, at: int) -> int:
        """The 32-bit number at an address."""
        return int(self.bytes[at:at + 4].view(np.uint32)[0])

    def free(self, *addresses: int) -> None:
        """Give memory back."""
        for at in addresses:
            self.call("sx_free", at)

    def text(self, at: int) -> str:
        """The C string at an address."""
        memory = self.bytes
        end = at + int(np.argmin(memory[at:at + 4096]))
        return bytes(memory[at:end]).decode(errors="replace")


@cache
def machine(build: str = "simd128") -> Machine:
    """The process's instance of a build."""
    return Machine(build)


class WasmProgram:
    """A Program with its constants, opened in a module. For one thread."""

    def __init__(self, program: Program, constants: Sequence[Tensor], *, build: str = "simd128", on: Machine | None = None, threads: int = 1, memory_limit: int = 0) -> None:
        self.program = program
        self._open(program.pack(), [constant(program, i, t) for i, t in enumerate(constants)], on or machine(build), threads, memory_limit)

    @classmethod
    def from_bytes(cls, packed: bytes, constants: Sequence[np.ndarray], program: Program, *, build: str = "simd128", on: Machine | None = None, threads: int = 1) -> WasmProgram:
        """A packed program as it is; `program` only names and types inputs and outputs."""
        made = cls.__new__(cls)
        made.program = program
        made._open(packed, list(constants), on or machine(build), threads, 0)
        return made

    def _open(self, packed: bytes, constants: list[np.ndarray], on: Machine, threads: int, limit: int) -> None:
        self.on, self.handle = on, 0
        self.states: dict[tuple[Any, ...], int] = {}
        self.report, self.out = on.allocate(64), on.allocate(8)
        self.constants = []
        options, code = on.put(np.array([threads, limit], np.int64)), on.put(packed)
        failed = on.call("sx_open", code, len(packed), options, self.out, self.report)
        on.free(options, code)
        if failed:
            raise self._error()
        self.handle = on.word(self.out)
        for i, data in enumerate(constants):
            self.constants.append(on.put(data))
            if on.call("sx_set_constant", self.handle, i, self.constants[-1], data.nbytes, self.report):
                raise self._error()

    def _error(self) -> SardonyxError:
        at = self.on.allocate(1024)
        self.on.call("sx_error_text", self.report, self.handle, at, 1024)
        text = self.on.text(at)
        self.on.free(at)
        return _ERRORS.get(self.on.word(self.report), RuntimeException)(text)

    def _key(self, inputs: Sequence[np.ndarray]) -> tuple[Any, ...]:
        return (*(x.shape for x in inputs), *(int(inputs[port].reshape(-1)[at]) for port, at in self.program.elements if at < inputs[port].size))

    def bind(self, shapes: Sequence[Sequence[int]], pointers: int = 0) -> int:
        """A new state for these input shapes; `pointers`: the address of the inputs' addresses, where elements of inputs decide sizes."""
        flat = [d for shape in shapes for d in shape]
        dims = self.on.put(np.array(flat or [0], np.int64))
        failed = self.on.call("sx_bind", self.handle, dims, len(flat), pointers, self.out, self.report)
        self.on.free(dims)
        if failed:
            raise self._error()
        return self.on.word(self.out)

    def _shape(self, state: int, number: int) -> tuple[int, ...]:
        dims = self.on.allocate(64)
        rank = self.on.call("sx_output_shape", state, number, dims)
        made = tuple(int(d) for d in self.on.get(dims, (rank,), np.int64))
        self.on.free(dims)
        return made

    def run(self, inputs: Sequence[np.ndarray], *, budget: int = 0, terminated: Callable[[], bool] | None = None, outputs: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
        """The outputs for arrays of the program's types. `budget`: nanoseconds until the module returns to ask `terminated`. `outputs`: dense arrays to write to."""
        on, key, held = self.on, self._key(inputs), []

        def put(data: np.ndarray) -> int:
            held.append(on.put(data))
            return held[-1]

        try:
            given = [put(np.ascontiguousarray(x, port.dtype.numpy)) for x, port in zip(inputs, self.program.inputs, strict=True)]
            at_inputs = put(np.array(given or [0], np.uint32))
            if key not in self.states:
                self.states[key] = self.bind([x.shape for x in inputs], at_inputs)
            state, types = self.states[key], [port.dtype.numpy for port in self.program.outputs]
            shapes = [self._shape(state, i) for i in range(len(types))]
            fresh = [np.empty(s, t) for s, t in zip(shapes, types, strict=True)] if outputs is None else list(outputs)
            made = [put(y) for y in fresh]
            at_outputs = put(np.array(made or [0], np.uint32))
            code = on.call("sx_run", state, at_inputs, at_outputs, 0, budget, self.report)
            while code == YIELD:
                if terminated is not None and terminated():
                    on.call("sx_terminate", state)
                code = on.call("sx_continue", state, budget, self.report)
            if code:
                raise self._error()
            for y, at in zip(fresh, made, strict=True):
                y.reshape(-1).view(np.uint8)[:] = on.bytes[at:at + y.nbytes]
            return fresh
        except wasmtime.Trap:  # nothing can be said about this instance any more
            machine.cache_clear()
            held.clear()
            raise
        finally:
            on.free(*held)

    def close(self) -> None:
        """Give the module's memory back; the program is not used again."""
        for state in self.states.values():
            self.on.call("sx_unbind", state)
        if self.handle:
            self.on.call("sx_close", self.handle)
        self.on.free(self.report, self.out, *self.constants)
        self.states, self.handle, self.constants, self.report, self.out = {}, 0, [], 0, 0

    def __del__(self) -> None:
        if getattr(self, "handle", 0):
            self.close()


def module_bytes(build: str) -> bytes:
    """The module as it is shipped."""
    return Path(find(TARGETS["wasm", build])).read_bytes()
