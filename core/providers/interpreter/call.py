"""What a kernel of the interpreter is given: a `Call` with its operands as arrays and its parameters by name; and the table of kernels, which the modules beside this one fill."""
from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...errors import RuntimeException
from ...expr import WORDS, Code, Compute, E, Op, compute_type, evaluate
from ...kernels import FLOATS, RECORDS, Kernel
from ...narrow import astype, plain
from ...program import Home, Program, StepRecord
from ...types import DType


class Memory:
    """Sizes and buffers of one run."""

    def __init__(self, program: Program, sizes: list[int], arena: np.ndarray, inputs: list[np.ndarray], outputs: list[np.ndarray], constants: list[np.ndarray]) -> None:
        self.program, self.sizes = program, sizes
        self.homes = {Home.ARENA: [arena], Home.INPUT: inputs, Home.OUTPUT: outputs, Home.DATA: constants}

    def view(self, index: int) -> np.ndarray | None:
        """A view as a strided array, checked to lie inside its buffer."""
        if index < 0:
            return None
        record = self.program.views[index]
        home, at, nbytes = self.program.buffers[record.buffer]
        item = record.dtype.numpy.itemsize
        raw = self.homes[Home(home)][0 if home == Home.ARENA else at].reshape(-1).view(np.uint8)
        begin = self.sizes[at] if home == Home.ARENA else 0
        data = raw[begin:begin + self.sizes[nbytes]].view(record.dtype.numpy)
        dims, strides = [self.sizes[d] for d in record.dims], [self.sizes[s] for s in record.strides]
        start = self.sizes[record.start]
        if all(dims):
            reach = [(d - 1) * s for d, s in zip(dims, strides, strict=True)]
            low, high = start + sum(min(r, 0) for r in reach), start + sum(max(r, 0) for r in reach)
            if low < 0 or high >= len(data):
                raise RuntimeException(f"view {index} reaches elements {low} … {high} of a buffer of {len(data)}: the plan is wrong")
        else:
            start = 0
        # as bytes: NumPy strides no array of a type it knows from ml_dtypes alone
        return as_strided(data[start:].view(f"V{item}"), dims, [s * item for s in strides]).view(record.dtype.numpy)


@dataclass
class Call:
    """A step with its operands as arrays and its parameters by name."""

    step: StepRecord
    memory: Memory

    def input(self, i: int) -> np.ndarray | None:
        """Operand i as it lies in memory; None where absent."""
        return self.memory.view(self.step.inputs[i]) if i < len(self.step.inputs) else None

    def wide(self, i: int) -> np.ndarray:
        """Operand i, which must be there, in the compute type of its dtype."""
        found = self.input(i)
        assert found is not None
        return plain(found).astype(compute_type(self.dtype(self.step.inputs[i])).numpy)

    def wide_or_none(self, i: int) -> np.ndarray | None:
        """Operand i in its compute type; None where absent."""
        return None if self.input(i) is None else self.wide(i)

    def inputs(self) -> list[np.ndarray | None]:
        """All operands."""
        return [self.memory.view(v) for v in self.step.inputs]

    def dtype(self, view: int) -> DType:
        """The element type of a view."""
        return self.memory.program.views[view].dtype

    def shape(self, i: int = 0) -> tuple[int, ...]:
        """Dims of output i."""
        out = self.memory.view(self.step.outputs[i])
        assert out is not None
        return out.shape

    @cached_property
    def params(self) -> dict[str, Any]:
        """Parameters by name; counted ones are lists."""
        values = [self.memory.sizes[p] for p in self.step.params]
        out: dict[str, Any] = {}
        at = 0
        for name in RECORDS[self.step.kind].params:
            base, _, count = name.rstrip("]").partition("[")
            n = int(count) if count else 1
            part = [_real(v) for v in values[at:at + n]] if base in FLOATS else values[at:at + n]
            out[base] = part if count else part[0]
            at += n
        return out

    def prologue(self, shape: tuple[int, ...]) -> np.ndarray:
        """The prologue's value at every position, or operand 0 where there is none."""
        if self.step.prologue < 0:
            return self.wide(0)
        code, first = self.memory.program.codes[self.step.prologue]
        return evaluate(decode(code)[0], self.inputs()[first:], shape)

    def put(self, value: np.ndarray, i: int = 0) -> None:
        """Store output i, if it is wanted."""
        if i < len(self.step.outputs) and self.step.outputs[i] >= 0:
            out = self.memory.view(self.step.outputs[i])
            assert out is not None
            store(out, value, self.dtype(self.step.outputs[i]))

    def finish(self, accumulated: np.ndarray) -> None:
        """Run the epilogue on the result and store it."""
        if self.step.epilogue >= 0:
            code, first = self.memory.program.codes[self.step.epilogue]
            accumulated = evaluate(decode(code)[0], self.inputs()[first:], self.shape(), accumulated)
        self.put(accumulated)


def _real(bits: int) -> float:
    """A float parameter from its bits."""
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def store(out: np.ndarray, value: np.ndarray, dtype: DType) -> None:
    """Write with the conversion of the dtype matrix: integers wrap, floats round to nearest."""
    out[...] = (value != 0) if dtype is DType.BOOL else astype(value, dtype)


def decode(code: Code) -> list[E]:
    """The expressions of encoded instructions."""
    registers: dict[int, E] = {}
    for at in range(0, len(code.words), WORDS):
        op, kind, target, a, b, c = code.words[at:at + WORDS]
        op, kind = Op(op), Compute(kind)
        if op is Op.CONST:
            raw = struct.pack("<ii", a, b)[:4 if kind is Compute.F32 else 8]
            registers[target] = E(op, kind, data=struct.unpack({Compute.F32: "<f", Compute.F64: "<d", Compute.U64: "<Q"}.get(kind, "<q"), raw)[0])
        elif op in (Op.LEAF, Op.COORD, Op.ACC):
            registers[target] = E(op, kind, data=a)
        elif op is Op.LOAD:
            registers[target] = E(op, kind, (registers[b],), a)
        elif op is Op.CAST:
            registers[target] = E(op, kind, (registers[a],))
        elif op is Op.SATURATE:
            registers[target] = E(op, kind, (registers[a],), DType(b))
        else:
            count = 3 if op in (Op.SELECT, Op.FMA) else 2 if op in _BINARY else 1
            registers[target] = E(op, kind, tuple(registers[r] for r in (a, b, c)[:count]))
    return [registers[r] for r in code.results]


_BINARY = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MOD, Op.FMOD, Op.MIN, Op.MAX, Op.POW, Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE, Op.AND, Op.OR, Op.XOR, Op.SHL, Op.SHR})


KERNELS: dict[Kernel, Callable[[Call], None]] = {}


def kernel(kind: Kernel) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    """Decorator: the function runs this kind."""
    def register(function: Callable[[Call], None]) -> Callable[[Call], None]:
        KERNELS[kind] = function
        return function
    return register
