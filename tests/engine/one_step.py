"""Programs of one step over random strided views, run by the engine on every instruction set and with one and two threads, beside the NumPy interpreter."""
from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from sardonyx.expr import E, encode
from sardonyx.graph import Tensor
from sardonyx.kernels import FLOATS, RECORDS, Kernel
from sardonyx.program import Home, PortRecord, Program, StepRecord, ViewRecord
from sardonyx.providers.interpreter import Interpreter
from sardonyx.types import DType

from .remote import engines, opened

CANARY = 0x5B


@dataclass
class Operand:
    """A view of a dense port: what the port's array is, and the window's dims, strides (elements) and start."""

    number: int
    index: int
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    def window(self, array: np.ndarray) -> np.ndarray:
        """The view's elements of the port's array."""
        if 0 in self.dims:
            return np.empty(self.dims, array.dtype)
        raw = array.reshape(-1)[self.start:].view(f"V{array.itemsize}")
        return as_strided(raw, self.dims, [s * array.itemsize for s in self.strides]).view(array.dtype)


class OneStep:
    """A program with one step; `operand` and `result` make its views, `step` the step."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.program = rng, Program()
        self.arrays: list[np.ndarray] = []
        self.results: list[Operand] = []
        self.constants: list[Tensor] = []

    def _view(self, home: Home, dims: Sequence[int], dtype: DType, broadcast: bool, dense: bool) -> Operand:
        rng, p, rank = self.rng, self.program, len(dims)
        repeat = [broadcast and rng.random() < 0.25 for _ in dims]
        step = [0 if r else 1 if dense or rng.random() < 0.6 else int(rng.choice([-2, -1, 2, 3])) for r in repeat]
        sizes = [1 if r else (max(d, 1) - 1) * abs(s) + 1 + (0 if dense else int(rng.integers(0, 2))) for d, s, r in zip(dims, step, repeat, strict=True)]
        order = list(range(rank)) if dense else list(rng.permutation(rank))
        strides, run = [0] * rank, 1
        for axis in reversed(order):
            strides[axis], run = run, run * sizes[axis]
        start = sum((max(d, 1) - 1) * -s * t for d, s, t in zip(dims, step, strides, strict=True) if s < 0)
        moves = [s * t for s, t in zip(step, strides, strict=True)]
        shape = tuple(sizes[a] for a in order)
        number = len(p.inputs if home == Home.INPUT else p.outputs)
        p.buffers.append((int(home), number, p.size(run * dtype.numpy.itemsize)))
        made = p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, dims)), tuple(map(p.size, moves)), p.size(start), p.size(run)))
        (p.inputs if home == Home.INPUT else p.outputs).append(PortRecord(p.string(f"{home.name}{number}"), dtype, made, tuple(map(p.size, shape))))
        return Operand(number, made, shape, tuple(dims), tuple(moves), start)

    def operand(self, values: np.ndarray, *, broadcast: bool = True, dense: bool = False) -> int:
        """A view index of these values (a broadcast axis keeps the first)."""
        dtype = DType.of(values)
        made = self._view(Home.INPUT, values.shape, dtype, broadcast, dense)
        array = np.zeros(made.shape, dtype.numpy)
        array.reshape(-1).view(np.uint8)[:] = CANARY if dtype is not DType.BOOL else 1
        if values.size:
            made.window(array)[...] = values
        self.arrays.append(array)
        return made.index

    def constant(self, values: np.ndarray) -> int:
        """A view index of a dense constant."""
        p, dtype = self.program, DType.of(values)
        strides = [int(np.prod(values.shape[i + 1:])) for i in range(values.ndim)]
        p.buffers.append((int(Home.DATA), len(self.constants), p.size(values.nbytes)))
        self.constants.append(Tensor(np.array(values)))
        return p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, values.shape)), tuple(map(p.size, strides)), p.size(0), p.size(values.size)))

    def result(self, dims: Sequence[int], dtype: DType, *, dense: bool = False) -> int:
        """A view index of an output no two positions of which coincide."""
        made = self._view(Home.OUTPUT, dims, dtype, False, dense)
        self.results.append(made)
        return made.index

    def step(self, kind: Kernel, inputs: Sequence[int], outputs: Sequence[int], params: dict[str, Any] | None = None, epilogue: Sequence[E] = (),
             prologue: E | None = None, first_leaf: int = 0) -> OneStep:
        """Add the step; parameters by name as in RECORDS."""
        p, words = self.program, []
        for name in RECORDS[kind].params:
            base, _, count = name.rstrip("]").partition("[")
            given = (params or {}).get(base, 0)
            values = list(given) if isinstance(given, (list, tuple)) else [given]
            values += [0] * (int(count or 1) - len(values))
            words += [p.size(struct.unpack("<q", struct.pack("<d", v))[0] if base in FLOATS else v) for v in values]
        codes = [-1, -1]
        for i, roots in enumerate(([prologue] if prologue is not None else [], list(epilogue))):
            if roots:
                codes[i] = len(p.codes)
                p.codes.append((encode(roots), first_leaf))
        p.steps.append(StepRecord(kind, p.string(f"{kind.name.lower()}_under_test"), tuple(inputs), tuple(outputs), tuple(words), *codes))
        return self

    # -- running ---------------------------------------------------------------------------------------------------------------------------------
    def expected(self) -> list[np.ndarray]:
        """The interpreter's outputs."""
        made = Interpreter(self.program, self.constants).run(self.arrays)
        return [r.window(y).copy() for r, y in zip(self.results, made, strict=True)]

    def run(self, isa: str | None = None, threads: int = 1, **how: Any) -> list[np.ndarray]:
        """The engine's outputs; nothing outside them may have been written. `how`: for EngineProgram.run."""
        engine = opened(self.program, self.constants, isa, threads)
        outputs = []
        for r, port in zip(self.results, self.program.outputs, strict=True):
            raw = np.full((int(np.prod(r.shape)) * port.dtype.numpy.itemsize,), CANARY, np.uint8)
            outputs.append(raw.view(port.dtype.numpy).reshape(r.shape))
        engine.run(self.arrays, outputs=outputs, **how)
        found = []
        for r, y in zip(self.results, outputs, strict=True):
            found.append(r.window(y).copy())
            if found[-1].size:
                r.window(y.view(f"V{y.itemsize}"))[...] = np.void(bytes([CANARY] * y.itemsize))
            assert (y.reshape(-1).view(np.uint8) == CANARY).all(), "the engine wrote outside its output"
        return found

    def check(self, rtol: float = 0.0, atol: float = 0.0) -> None:
        """Every instruction set, one and two threads, against the interpreter; threads bit for bit."""
        want = self.expected()
        for isa in engines():
            one, two = self.run(isa, 1), self.run(isa, 2)
            for w, a, b in zip(want, one, two, strict=True):
                assert a.tobytes() == b.tobytes(), f"{isa}: one and two threads differ"
                compare(a, w, rtol, atol, f"{isa}: {self.program.steps[0].kind.name}")
            if "@" not in isa:
                for a, b in zip(one, self.run(isa, 2, terminated=lambda: False, budget=1), strict=True):
                    assert a.tobytes() == b.tobytes(), f"{isa}: a run left after every tile differs"


def compare(found: np.ndarray, want: np.ndarray, rtol: float, atol: float, what: str) -> None:
    """Equal, or within the bound for floats; narrow floats within one step of theirs as well."""
    if found.dtype.kind in "iub":
        np.testing.assert_array_equal(found, want, what)
        return
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(found.dtype.name, 0.0)
    np.testing.assert_allclose(found.astype(np.float64), want.astype(np.float64), rtol=max(rtol, eps), atol=atol + (6e-8 if found.dtype.name == "float16" else 0), err_msg=what)


def numbers(rng: np.random.Generator, shape: Sequence[int], dtype: DType, special: bool = True, low: float = -4.0, high: float = 4.0) -> np.ndarray:
    """Random values of a type; floats with some NaN, infinities and zeros where `special`."""
    if dtype.is_float:
        x = rng.uniform(low, high, tuple(shape))
        if special and x.size:
            at = rng.random(tuple(shape)) < 0.05
            x = np.where(at, rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], tuple(shape)), x)
        return np.asarray(x).astype(dtype.numpy)
    if dtype is DType.BOOL:
        return rng.random(tuple(shape)) < 0.5
    info = np.iinfo(dtype.numpy)
    small = rng.integers(max(info.min, -9), 10, tuple(shape), dtype.numpy)
    return np.where(rng.random(tuple(shape)) < 0.2, rng.integers(info.min, info.max, tuple(shape), dtype.numpy, endpoint=True), small).astype(dtype.numpy)


def dims(rng: np.random.Generator, most: int = 5, zero: bool = True) -> tuple[int, ...]:
    """Random dims: some small, one perhaps long, sometimes zero."""
    rank = int(rng.integers(0, most + 1))
    made = [int(rng.choice([1, 2, 3, 5, 7])) for _ in range(rank)]
    if rank and rng.random() < 0.5:
        made[int(rng.integers(rank))] = int(rng.choice([17, 64, 130, 300, 1500]))
    if rank and zero and rng.random() < 0.05:
        made[int(rng.integers(rank))] = 0
    while np.prod(made, dtype=np.int64) > 60000:
        made[int(np.argmax(made))] = 3
    return tuple(made)
