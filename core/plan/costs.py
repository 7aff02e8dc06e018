"""What a program costs: floating-point (or integer) operations and bytes of every step, for bound sizes. Profiles divide them by measured times; the roofline adds them up.

Rules
1. A multiplication and an addition are two operations. MatMul: 2·M·N·K of every batch; Conv: 2 per output and tap (transposed: per input and tap); Attention: 2·(D + Dv) per query and key it may see.
2. An expression costs one operation per instruction that computes (not leaves, constants, coordinates, casts) and element; that counts exp and + alike.
3. Softmax 5, Norm 8 per element; Pool one per tap; FFT 5·n·log2 n; Rnn 2·gates·H·(I + H) per step of time, batch and direction (without w: 2·gates·H·H). Kinds that move data cost 0.
4. Bytes: every operand once, the elements its view reaches (broadcast axes once), packed constants with their padding; results once. What a cache saves or a kernel reads twice is not known here.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod

from ..expr import WORDS, Op
from ..kernels import RECORDS, Kernel
from ..model.packing import Packing, packed_nbytes
from ..program import Program, StepRecord

_FREE = frozenset({Op.CONST, Op.LEAF, Op.ACC, Op.COORD, Op.LOAD, Op.CAST, Op.SATURATE})
_GATES = (4, 3, 1)  # LSTM, GRU, RNN


@dataclass(frozen=True)
class Cost:
    """Of one step: operations, and bytes read and written at least."""

    operations: int
    bytes: int


def costs(program: Program, table: Sequence[int]) -> list[Cost]:
    """Cost of every step; `table`: the bound sizes (`Program.bind`)."""
    sizes = _Sizes(program, table)
    return [Cost(sizes.operations(step), sizes.bytes(step)) for step in program.steps]


class _Sizes:
    def __init__(self, program: Program, table: Sequence[int]) -> None:
        self.program, self.table = program, table

    def dims(self, view: int) -> list[int]:
        return [self.table[d] for d in self.program.views[view].dims] if view >= 0 else []

    def params(self, step: StepRecord) -> dict[str, list[int]]:
        """The record's parameters by name, each a list."""
        found, at = {}, 0
        for name in RECORDS[step.kind].params:
            base, _, count = name.rstrip("]").partition("[")
            found[base] = [self.table[i] for i in step.params[at:at + int(count or 1)]]
            at += int(count or 1)
        return found

    def bytes(self, step: StepRecord) -> int:                                                             # 4
        group = self.params(step)["group"][0] if step.kind is Kernel.CONV else 1
        return sum(self._reach(v, group) for v in (*dict.fromkeys(step.inputs), *step.outputs) if v >= 0)

    def _reach(self, view: int, group: int) -> int:
        row, item = self.program.views[view], self.program.views[view].dtype.numpy.itemsize
        if row.packing:
            packing, shape = Packing(row.packing), tuple(self.dims(view))
            return packed_nbytes(packing, item, shape, group if packing is Packing.CONV else shape[0] if packing is Packing.SCALES else 1)
        return prod(d for d, s in zip(self.dims(view), row.strides, strict=True) if self.table[s]) * item

    def _expression(self, code: int) -> int:                                                              # 2
        if code < 0:
            return 0
        words = self.program.codes[code][0].words
        return sum(Op(op) not in _FREE for op in words[::WORDS])

    def operations(self, step: StepRecord) -> int:
        """Rules 1 to 3."""
        x, y = self.dims(step.inputs[0] if step.inputs else -1), self.dims(next((v for v in step.outputs if v >= 0), -1))
        out = prod(y)
        own = _OWN.get(step.kind)
        return (own(self, step, x, y) if own else 0) + self._expression(step.prologue) * prod(x) + self._expression(step.epilogue) * out


def _matmul(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    return 2 * prod(y) * x[-1]


def _conv(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    p = sizes.params(step)
    taps = prod(p["kernel"])
    return 2 * taps * (prod(x) * y[1] if p["transposed"][0] else prod(y) * x[1]) // max(p["group"][0], 1)


def _pool(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    return prod(y) * prod(sizes.params(step)["kernel"])


def _attention(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    p, keys = sizes.params(step), sizes.dims(step.inputs[1])[2] + (sizes.dims(step.inputs[4])[2] if len(step.inputs) > 4 else 0)
    seen = sum(min(max(s + p["offset"][0] + 1, 0), keys) for s in range(x[2])) if p["causal"][0] else x[2] * keys
    return 2 * (x[3] + y[3]) * seen * x[0] * x[1]


def _rnn(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    directions, hidden = y[-3], y[-1]
    given = x[2] if step.inputs[1] >= 0 else 0   # without w its product is a step of its own
    return 2 * directions * _GATES[sizes.params(step)["cell"][0]] * hidden * (given + hidden) * x[0] * x[1]


def _fft(sizes: _Sizes, step: StepRecord, x: list[int], y: list[int]) -> int:
    p = sizes.params(step)
    n = p["length"][0]
    lines = prod(d for i, d in enumerate(x[:-1]) if i != p["axis"][0])
    return int(5 * n * log2(n) * lines) if n > 1 else 0


_OWN = {
    Kernel.MATMUL: _matmul, Kernel.CONV: _conv, Kernel.POOL: _pool, Kernel.ATTENTION: _attention, Kernel.RNN: _rnn, Kernel.FFT: _fft,
    Kernel.REDUCE: lambda s, step, x, y: prod(x), Kernel.SCAN: lambda s, step, x, y: prod(x), Kernel.SOFTMAX: lambda s, step, x, y: 5 * prod(x), Kernel.NORM: lambda s, step, x, y: 8 * prod(x),
}
