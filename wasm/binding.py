"""The C engine from Pyodide: what engine/binding.py is where there is ctypes on a native library. The engine is a WebAssembly instance of its own, with a memory of its own (glue.js).

How to think
- Constants are copied into the engine's memory once, when a program is opened; inputs and outputs cross by one copy each way, made in JavaScript from the arrays' addresses.
- One instance serves the process. What a closed program held is free for the next one.
- Threads need a worker in a cross-origin isolated page; everywhere else a run is on the caller's thread. A session that asks for more than there are brings more; they help once Python has
  returned to the event loop (an `await`).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..engine import binding as native
from ..engine.binding import TERMINATED
from ..errors import InvalidArgument, MemoryLimit, SardonyxError
from ..kernels import Kernel

HERE = Path(__file__).resolve().parent
LIB = HERE.parent / "engine" / "lib"
#: The smallest function with a relaxed SIMD instruction (f32x4.relaxed_madd).
_RELAXED = bytes([0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 1, 32, 2, 253, 133, 2, 11])
#: What a lent worker runs: it stays in sx_worker.
_THREAD = """onmessage = ({ data: { module, memory, stack } }) => {
  const { exports } = new WebAssembly.Instance(module, { env: { memory, now: () => performance.now() } });
  exports.__stack_pointer.value = stack;
  exports.sx_worker();
};"""


class EngineMissing(RuntimeError):
    """The engine can not run here; the message says why."""


@cache
def engine() -> Any:
    """The instance of this process. EngineMissing where the browser can not run it."""
    import js
    import pyodide_js
    from pyodide.code import run_js
    from pyodide.ffi import to_js
    threads = not hasattr(js, "document") and bool(getattr(js, "crossOriginIsolated", False))
    relaxed = js.WebAssembly.validate(to_js(_RELAXED))
    path = LIB / f"sardonyx-{'relaxed' if relaxed else 'simd128'}{'-threads' if threads else ''}.wasm"
    if not path.exists():
        raise EngineMissing(f"{path.name} is not in this installation of sardonyx; install the wheel sardonyx-…-py3-none-any.whl")
    data = np.fromfile(path, np.uint8)
    try:
        return run_js(HERE.joinpath("glue.js").read_text())(pyodide_js._module, address(data), data.nbytes, 0, _THREAD)
    except Exception as error:
        raise EngineMissing(f"this browser does not run the engine: {error}") from None


def available() -> str:
    """Why the engine is not there, or ""."""
    try:
        engine()
    except (EngineMissing, ImportError) as reason:
        return str(reason)
    return ""


def bfloat16_missing() -> str:
    """Why float products can not round to bfloat16 here."""
    return "WebAssembly has no bfloat16 instructions"


@cache
def isas() -> tuple[str, ...]:
    """The instruction set of the module that runs."""
    return (str(engine().isa()),)


@cache
def kernels() -> frozenset[Kernel]:
    """The kernel kinds this build has."""
    return frozenset(kind for kind in Kernel if engine().kernel(int(kind)))


def address(array: np.ndarray) -> int:
    """Where an array's elements lie in Pyodide's memory."""
    found: int = array.__array_interface__["data"][0]
    return found


class _Bound:
    """A state for one set of input shapes, with room for its inputs and outputs in the engine's memory."""

    __slots__ = ("state", "shapes", "table", "table_at", "release")

    def __init__(self, program: EngineProgram, state: int, dims: list[list[int]], given: Sequence[int]) -> None:
        self.state, self.release = state, engine().unbind
        self.shapes = [(tuple(d), port.dtype.numpy) for d, port in zip(dims, program.program.outputs, strict=True)]
        made = [prod(shape) * dtype.itemsize for shape, dtype in self.shapes]
        self.table = np.zeros((len(given) + len(made) + 1, 2), np.uint32)
        self.table[:len(given), 1] = given
        self.table[len(given):-1, 1] = made
        self.table_at = address(self.table)
        engine().attach(state, _numbers(given), _numbers(made))

    def __del__(self) -> None:
        self.release(self.state)


def _numbers(values: Sequence[int]) -> Any:
    from pyodide.ffi import to_js
    return to_js(list(values))


class EngineProgram(native.EngineProgram):
    """A Program with its constants, opened in the engine beside Pyodide."""

    takes_into = False

    def _open(self, packed: bytes, constants: list[np.ndarray], options: Any) -> None:
        super()._prepare()
        e = engine()
        program = np.frombuffer(packed, np.uint8)
        self._places: list[int] = []
        self._handle = 0  # type: ignore[assignment]
        try:
            at = e.put(address(program), program.nbytes)
            code, self._handle = e.open(at, program.nbytes, options.threads or e.threads, options.memory_limit)
            e.free(at)
            if code:
                raise self._said()
            for i, data in enumerate(constants):
                dense = np.ascontiguousarray(data)
                self._places.append(e.put(address(dense), dense.nbytes))
                if e.constant(self._handle, i, self._places[-1], dense.nbytes):
                    raise self._said()
        except Exception as error:
            self.close()
            raise memory_error(error) from None

    def _said(self) -> SardonyxError:
        code, text = engine().error(self._handle)
        return native.error_of(code, text)

    def bind(self, shapes: Sequence[Sequence[int]], inputs: Sequence[np.ndarray] | None = None) -> Any:
        """See native.EngineProgram.bind."""
        self._check_ranks(shapes)
        table, dense = 0, []
        if inputs is not None:
            dense = [self._dense(i, x) for i, x in enumerate(inputs)]
            lent = np.array([(address(x), x.nbytes) for x in dense] or [(0, 0)], np.uint32)
            table = address(lent)
        try:
            code, *found = engine().bind(self._handle, _numbers([int(d) for shape in shapes for d in shape]), table, len(shapes), len(self.program.outputs)).to_py()
            if code:
                raise self._said()
            state, dims = found
            return _Bound(self, state, dims, [prod(shape) * t.itemsize for shape, t in zip(shapes, self._dtypes, strict=True)])
        except Exception as error:
            raise memory_error(error) from None

    def arena_bytes(self, shapes: Sequence[Sequence[int]]) -> int:
        """See native.EngineProgram.arena_bytes."""
        return int(engine().arena(self.bind(shapes).state))

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, budget: int = 50_000_000, arena: int | None = None, times: np.ndarray | None = None,
            outputs: Sequence[np.ndarray] | None = None, into: Sequence[np.ndarray | None] | None = None) -> list[np.ndarray]:
        """See native.EngineProgram.run; `into` is not used, `arena` must be None: addresses of Python's memory mean nothing to the engine."""
        if arena is not None:
            raise InvalidArgument("an arena of the caller's is not possible in Pyodide: the engine has a memory of its own")
        e, key = engine(), self._key(inputs)
        bound = self._take(key, inputs)
        held = [x if x.dtype == t and x.flags.c_contiguous else self._dense(i, x) for i, (x, t) in enumerate(zip(inputs, self._dtypes, strict=True))]
        made = [np.empty(shape, dtype) for shape, dtype in bound.shapes] if outputs is None else list(outputs)
        for i, x in enumerate([*held, *made]):
            bound.table[i, 0] = address(x)
        stamps = e.alloc(times.nbytes) if times is not None else 0
        code = native.driven(terminated, partial(e.terminate, bound.state), (e.proceed, bound.state, budget / 1e6),
                             e.run, bound.state, bound.table_at, 0 if terminated is None else budget / 1e6, stamps)
        if times is not None:
            e.profile(bound.state, 0)
            e.copyOut(stamps, address(times), times.nbytes)
            e.free(stamps)
        if code:
            error = self._said()
            self._give(key, bound)
            raise error
        e.collect(bound.state, bound.table_at)
        self._give(key, bound)
        return made

    def close(self) -> None:
        """Give the engine's memory back; the program is not used again."""
        self._free.clear()
        handle, self._handle = self._handle, 0  # type: ignore[assignment]
        if handle:
            engine().close(handle)
        for at in self._places:
            engine().free(at)
        self._places = []


def memory_error(error: Exception) -> Exception:
    """JavaScript's RangeError is what refused memory looks like."""
    return MemoryLimit(str(error)) if "WebAssembly memory" in str(error) and not isinstance(error, SardonyxError) else error


__all__ = ["EngineProgram", "address", "available", "engine", "isas", "kernels", "memory_error", "TERMINATED"]
