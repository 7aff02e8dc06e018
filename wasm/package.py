"""Packages on the engine beside Pyodide: what engine/package.py is where there is ctypes on a native library, with the same interface.

How to think
- The tensor data are copied into the engine's memory once, when the package is opened; afterwards this class holds nothing of the file.
- A run is two or three calls into JavaScript: `start` takes a table of the inputs and copies them to where the session keeps room for them, `made` says what came out, `gather` copies it into
  NumPy's memory. A session serves one run at a time; they are kept and handed out.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..engine import binding as native
from ..errors import InvalidArgument, SardonyxError
from ..package import Port
from ..types import DType
from .binding import address, engine, memory_error

#: int32 words of sx_tensor (core/engine/WASM.md): 0 dtype, 1 rank, 2 dim (int64 × 8), 18 address. The last one is padding, and holds how many bytes an input has on its way to the engine.
WORDS, DIMS, DATA, BYTES = 20, 2, 18, 19


class EnginePackage:
    """A packed package, opened. `data`: the tensor data its constants lie in; `constants`: arrays of bytes for those that lie nowhere."""

    def __init__(self, packed: bytes | memoryview, inputs: Sequence[Port], outputs: Sequence[Port], *, data: np.ndarray | None = None, constants: Sequence[np.ndarray | None] = (),
                 threads: int = 0, isa: str | None = None, memory_limit: int = 0, bfloat16: bool = False) -> None:
        if isa is not None:
            raise InvalidArgument(f"the instruction set can not be chosen ('{isa}'): Pyodide runs the one module this browser takes; leave it out")
        self.inputs, self.outputs = list(inputs), list(outputs)
        self._sessions: list[_Session] = []
        self._places: list[int] = []
        self._handle = 0
        e, words = engine(), np.frombuffer(packed, np.uint8)
        try:
            code, self._handle = e.packageOpen(address(words), words.nbytes, threads or e.threads, memory_limit)
            if code:
                raise self.error()
            if data is not None and e.packageData(self._handle, self._put(data), data.nbytes):
                raise self.error()
            for i, array in enumerate(constants):
                if array is not None and e.packageSet(self._handle, i, self._put(array), array.nbytes):
                    raise self.error()
        except Exception as error:
            self.close()
            raise memory_error(error) from None

    def _put(self, array: np.ndarray) -> int:
        dense = np.ascontiguousarray(array)
        self._places.append(engine().put(address(dense), dense.nbytes))
        return self._places[-1]

    def error(self) -> SardonyxError:
        """The report of the engine's last call as an exception."""
        return native.error_of(*engine().packageError(self._handle))

    def run(self, inputs: Sequence[np.ndarray], *, terminated: Callable[[], bool] | None = None, budget: int = 50_000_000, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """See engine.package.EnginePackage.run."""
        session = self._sessions.pop() if self._sessions else _Session(self)
        try:
            return session.run(self, inputs, terminated, budget / 1e6, rows)
        except Exception as error:
            raise memory_error(error) from None
        finally:
            self._sessions.append(session)

    def close(self) -> None:
        """Give the engine's memory back; the package is not used again."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()
        handle, self._handle = self._handle, 0
        if handle:
            engine().packageClose(handle)
        for at in self._places:
            engine().free(at)
        self._places.clear()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self.close()


class _Session:
    """A session of a package, which it does not refer to (no cycle); one run at a time."""

    def __init__(self, package: EnginePackage) -> None:
        code, self.handle = engine().sessionOpen(package._handle)
        if code:
            raise package.error()
        self.dtypes = [p.dtype.numpy for p in package.inputs]
        self.shapes: Any = None  # those the table holds
        self.given = np.zeros((max(len(package.inputs), 1), WORDS), np.int32)
        self.given[:len(package.inputs), 0] = [int(p.dtype) for p in package.inputs]
        self.made = np.zeros((max(len(package.outputs), 1), WORDS), np.int32)
        self.into = np.zeros((max(len(package.outputs), 1), 3), np.uint32)  # address in the engine, address here, bytes
        self.given_at, self.made_at, self.into_at = address(self.given), address(self.made), address(self.into)

    def run(self, package: EnginePackage, inputs: Sequence[np.ndarray], terminated: Callable[[], bool] | None, budget: float, rows: np.ndarray | None) -> list[np.ndarray]:
        """One run of the package."""
        e, held = engine(), self._fill(package, inputs)
        stamps = 0
        if rows is not None:
            rows[:] = -1
            stamps = e.put(address(rows), rows.nbytes)
            e.sessionProfile(self.handle, stamps, len(rows))
        try:
            code = native.driven(terminated, partial(e.sessionTerminate, self.handle), (e.sessionContinue, self.handle, budget),
                                 e.start, self.handle, self.given_at, len(held), 0 if terminated is None else budget)
        finally:
            if rows is not None:
                e.sessionProfile(self.handle, 0, 0)
                e.copyOut(stamps, address(rows), rows.nbytes)
                e.free(stamps)
        if code:
            raise package.error()
        return self._outputs(len(package.outputs))

    def _fill(self, package: EnginePackage, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The table of the inputs; returns the arrays it points at."""
        if len(inputs) != len(package.inputs):
            raise InvalidArgument(f"the model takes {len(package.inputs)} inputs, given are {len(inputs)}")
        held = []
        for x, dtype, port in zip(inputs, self.dtypes, package.inputs, strict=True):
            if x.dtype != dtype:
                raise InvalidArgument(f"input '{port.name}' is {x.dtype}, the model takes {dtype}")
            if x.ndim > 8:
                raise InvalidArgument(f"input '{port.name}' has rank {x.ndim}, the model takes {len(port.dims)}")
            held.append(x if x.flags.c_contiguous else np.ascontiguousarray(x))
        shapes = [x.shape for x in held]
        table = self.given
        if shapes != self.shapes:
            for i, x in enumerate(held):
                table[i, 1], table[i, BYTES] = x.ndim, x.nbytes
                table[i, DIMS:DATA].view(np.int64)[:x.ndim] = x.shape
            self.shapes = shapes
        for i, x in enumerate(held):
            table.view(np.uint32)[i, DATA] = address(x)
        return held

    def _outputs(self, count: int) -> list[np.ndarray]:
        engine().made(self.handle, self.made_at, count)
        found = []
        for i in range(count):
            row = self.made[i]
            array = np.empty(row[DIMS:DATA].view(np.int64)[:row[1]].tolist(), DType(int(row[0])).numpy)
            self.into[i] = row[DATA:].view(np.uint32)[0], address(array), array.nbytes
            found.append(array)
        engine().gather(self.into_at, count)
        return found

    def close(self) -> None:
        """Before the package is closed."""
        handle, self.handle = self.handle, 0
        engine().sessionClose(handle)
