"""A NumPy interpreter of Programs: the second executor every engine is compared with. It runs the packed tables, not the graph: binds sizes, lays views over
one arena of bytes, and does each kernel kind in a few lines. Slow, and only for tests and for finding out which side is wrong.

`poison` fills the arena with a byte pattern first, so that reading what was never written shows.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..errors import NotImplemented as NotImplementedHere
from ..errors import RuntimeException
from ..expr import WORDS, Code, Compute, E, Op, evaluate
from ..graph import Tensor
from ..kernels import RECORDS, Kernel
from ..program import Home, Program, StepRecord
from ..types import DType


class Interpreter:
    """Runs one Program with its constants."""

    def __init__(self, program: Program, constants: Sequence[Tensor], poison: int = 0xA5) -> None:
        self.program, self.constants, self.poison = program, constants, poison

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs that satisfy the program's guards."""
        sizes = self.program.bind([x.shape for x in inputs])
        outputs = [np.empty([sizes[d] for d in port.dims], port.dtype.numpy) for port in self.program.outputs]
        arena = np.full(self.program.arena, self.poison, np.uint8)
        memory = _Memory(self.program, sizes, arena, [np.ascontiguousarray(x) for x in inputs], outputs, [np.ascontiguousarray(t.numpy()) for t in self.constants])
        with np.errstate(all="ignore"):
            for step in self.program.steps:
                body = KERNELS.get(step.kind)
                if body is None:
                    raise NotImplementedHere(f"the interpreter has no {step.kind.name.lower()} kernel")
                body(Call(step, memory))
        return outputs


class _Memory:
    def __init__(self, program: Program, sizes: list[int], arena: np.ndarray, inputs: list[np.ndarray], outputs: list[np.ndarray], constants: list[np.ndarray]) -> None:
        self.program, self.sizes = program, sizes
        self.homes = {Home.ARENA: [arena], Home.INPUT: inputs, Home.OUTPUT: outputs, Home.DATA: constants}

    def view(self, index: int) -> np.ndarray | None:
        """A view as a strided array, checked to lie inside its buffer."""
        if index < 0:
            return None
        record = self.program.views[index]
        home, at, nbytes, _ = self.program.buffers[record.buffer]
        item = record.dtype.numpy.itemsize
        raw = self.homes[Home(home)][0 if home == Home.ARENA else at].reshape(-1).view(np.uint8)
        begin = at if home == Home.ARENA else 0
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
        return as_strided(data[start:], dims, [s * item for s in strides])


@dataclass
class Call:
    """A step with its operands as arrays and its parameters by name."""

    step: StepRecord
    memory: _Memory

    def inputs(self) -> list[np.ndarray | None]:
        return [self.memory.view(v) for v in self.step.inputs]

    def outputs(self) -> list[np.ndarray | None]:
        return [self.memory.view(v) for v in self.step.outputs]

    def params(self) -> dict[str, Any]:
        values = [self.memory.sizes[p] for p in self.step.params]
        out: dict[str, Any] = {}
        at = 0
        for name in RECORDS[self.step.kind].params:
            base, _, count = name.rstrip("]").partition("[")
            n = int(count) if count else 1
            out[base] = values[at:at + n] if count else values[at]
            at += n
        return out

    def real(self, value: int) -> float:
        """A float parameter from its bits."""
        return float(struct.unpack("<d", struct.pack("<q", value))[0])

    def finish(self, accumulated: np.ndarray) -> None:
        """Run the epilogue on the result and store it."""
        out = self.memory.view(self.step.outputs[0])
        assert out is not None
        if self.step.epilogue < 0:
            store(out, accumulated, self.memory.program.views[self.step.outputs[0]].dtype)
            return
        code, first = self.memory.program.codes[self.step.epilogue]
        operands = self.inputs()[first:]
        store(out, evaluate(decode(code)[0], operands, out.shape, accumulated), self.memory.program.views[self.step.outputs[0]].dtype)


def store(out: np.ndarray, value: np.ndarray, dtype: DType) -> None:
    """Write with the conversion of the dtype matrix: integers wrap, floats round to nearest."""
    out[...] = (value != 0) if dtype is DType.BOOL else value.astype(out.dtype)


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


# -- kernels ------------------------------------------------------------------------------------------------------------------------------------

def _map(call: Call) -> None:
    code, _ = call.memory.program.codes[call.step.epilogue]
    operands = call.inputs()
    results = decode(code)
    values = []
    for result, out in zip(results, call.outputs(), strict=True):
        assert out is not None
        values.append(evaluate(result, operands, out.shape).copy())
    for value, out, index in zip(values, call.outputs(), call.step.outputs, strict=True):
        assert out is not None
        store(out, value, call.memory.program.views[index].dtype)


def _copy(call: Call) -> None:
    given, value, out, params = call.memory.view(call.step.inputs[0]), call.memory.view(call.step.inputs[1]), call.memory.view(call.step.outputs[0]), call.params()
    assert given is not None and out is not None
    if params["mode"] == 0:
        out[...] = given.copy()
        return
    begin = params["begin"][:out.ndim]
    index = [np.arange(n) - b for n, b in zip(out.shape, begin, strict=True)]
    if params["mode"] == 1:
        out[...] = value if value is not None else 0
        keep = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, given.shape, strict=True)]
        out[np.ix_(*keep)] = given[np.ix_(*(i[k] for i, k in zip(index, keep, strict=True)))]
        return
    out[...] = given[np.ix_(*(_pad_index(i, n, params["mode"]) for i, n in zip(index, given.shape, strict=True)))]


def _pad_index(index: np.ndarray, n: int, mode: int) -> np.ndarray:
    if mode == 3:
        return np.clip(index, 0, n - 1)
    if mode == 4:
        return index % n
    period = max(2 * (n - 1), 1)
    folded = index % period
    return np.where(folded >= n, period - folded, folded)


def _matmul(call: Call) -> None:
    a, b = call.inputs()[:2]
    assert a is not None and b is not None
    params = call.params()
    if a.dtype.kind in "iu":
        zero_a, zero_b = (call.memory.view(call.step.inputs[params[z]]) if params[z] >= 0 else None for z in ("zero_a", "zero_b"))
        left = a.astype(np.int32) - (0 if zero_a is None else zero_a.astype(np.int32).reshape(-1, 1) if zero_a.ndim else zero_a.astype(np.int32))
        right = b.astype(np.int32) - (0 if zero_b is None else zero_b.astype(np.int32))
        call.finish(np.matmul(left, right))
        return
    wide = np.float64 if a.dtype == np.float64 else np.float32
    call.finish(np.matmul(a.astype(wide), b.astype(wide)))


def _conv(call: Call) -> None:
    x, w = call.inputs()[:2]
    out = call.memory.view(call.step.outputs[0])
    assert x is not None and w is not None and out is not None
    p = call.params()
    n = p["spatial"]
    spans = [(o - 1) * s + 1 for o, s in zip(out.shape[2:], p["strides"], strict=False)]
    need = [span + d * (k - 1) for span, k, d in zip(spans, p["kernel"], p["dilations"], strict=False)]
    pads = [(0, 0), (0, 0)] + [(p["pads"][i], max(need[i] - x.shape[2 + i] - p["pads"][i], 0)) for i in range(n)]
    padded = np.pad(x.astype(np.float32), pads)
    group, m = p["group"], w.shape[0]
    total = np.zeros(out.shape, np.float32)
    for tap in np.ndindex(*w.shape[2:]):
        window = padded[(slice(None), slice(None), *(slice(t * p["dilations"][i], t * p["dilations"][i] + spans[i], p["strides"][i]) for i, t in enumerate(tap)))]
        split = window.reshape(x.shape[0], group, -1, *out.shape[2:])
        taps = w[(slice(None), slice(None), *tap)].astype(np.float32).reshape(group, m // group, -1)
        total += np.einsum("ngc...,gmc->ngm...", split, taps).reshape(out.shape)
    call.finish(total)


def _reduce(call: Call) -> None:
    x, out = call.memory.view(call.step.inputs[0]), call.memory.view(call.step.outputs[0])
    assert x is not None and out is not None
    p = call.params()
    axes = tuple(i for i in range(x.ndim) if p["axes"] >> i & 1)
    if call.step.prologue >= 0:
        code, _ = call.memory.program.codes[call.step.prologue]
        x = evaluate(decode(code)[0], call.inputs(), x.shape)
    call.finish(_REDUCE[p["op"]](x, axes, bool(p["last"])).reshape(out.shape))


def _arg(pick: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def run(x: np.ndarray, axes: tuple[int, ...], last: bool) -> np.ndarray:
        axis = axes[0]
        found: np.ndarray = x.shape[axis] - 1 - pick(np.flip(x, axis), axis) if last else pick(x, axis)
        return found
    return run


_REDUCE: dict[int, Callable[..., np.ndarray]] = {
    0: lambda x, axes, last: x.sum(axes), 1: lambda x, axes, last: x.prod(axes), 2: lambda x, axes, last: x.min(axes), 3: lambda x, axes, last: x.max(axes),
    4: _arg(np.argmin), 5: _arg(np.argmax), 6: lambda x, axes, last: x.mean(axes),
}


def _softmax(call: Call) -> None:
    x, mask, out = call.memory.view(call.step.inputs[0]), call.memory.view(call.step.inputs[1]), call.memory.view(call.step.outputs[0])
    assert x is not None and out is not None
    p = call.params()
    z = x.astype(np.float32 if x.dtype.itemsize <= 4 else x.dtype) * (call.real(p["scale"]) or 1.0)
    z = z if mask is None else z + mask
    if x.dtype.itemsize < 4 and p["mode"] == 0:  # narrow floats round at every step, as the specification's function body does
        e = np.exp((z - z.max(p["axis"], keepdims=True)).astype(x.dtype).astype(np.float32)).astype(x.dtype).astype(np.float32)
        call.finish(e / e.sum(p["axis"], keepdims=True).astype(x.dtype).astype(np.float32))
        return
    e = np.exp(z - z.max(p["axis"], keepdims=True))
    total = e.sum(p["axis"], keepdims=True)
    call.finish(e / total if p["mode"] == 0 else z - z.max(p["axis"], keepdims=True) - np.log(total))


def _norm(call: Call) -> None:
    x, scale, bias, skip = (call.inputs() + [None] * 4)[:4]
    assert x is not None
    p = call.params()
    z = x.astype(np.float32 if x.dtype.itemsize <= 4 else x.dtype)
    z = z if skip is None else z + skip
    axes = tuple(range(p["axis"], x.ndim))
    centred = z - z.mean(axes, keepdims=True) if p["mode"] == 0 else z
    y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + call.real(p["epsilon"]))
    y = y if scale is None else y * scale
    call.finish(y if bias is None else y + bias)


def _attention(call: Call) -> None:
    q, key, v, mask = (call.inputs() + [None])[:4]
    assert q is not None and key is not None and v is not None
    p = call.params()
    repeat = q.shape[1] // key.shape[1]
    key, v = np.repeat(key, repeat, 1), np.repeat(v, repeat, 1)
    scores = np.matmul(q, np.swapaxes(key, 2, 3)).astype(np.float32) * call.real(p["scale"])
    cap = call.real(p["softcap"])
    scores = np.tanh(scores / cap) * cap if cap else scores
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if p["causal"]:
        s, t = np.arange(q.shape[2])[:, None], np.arange(key.shape[2])
        scores = np.where(t <= s + p["offset"], scores, -np.inf)
    top = scores.max(3, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(top), top, 0))
    call.finish(np.matmul(e / np.maximum(e.sum(3, keepdims=True), np.float32(1e-38)), v))


def _gather(call: Call) -> None:
    x, index = call.inputs()[:2]
    assert x is not None and index is not None
    p = call.params()
    n = x.shape[p["axis"]]
    if index.size and (index.min() < -n or index.max() >= n):
        raise RuntimeException(f"gather index outside -{n} … {n - 1}")
    call.finish(np.take(x, index, p["axis"]) if p["mode"] == 0 else np.take_along_axis(x, index, p["axis"]))


def _pool(call: Call) -> None:
    x, out = call.memory.view(call.step.inputs[0]), call.memory.view(call.step.outputs[0])
    assert x is not None and out is not None
    p = call.params()
    n, op, power = p["spatial"], p["op"], call.real(p["p"])
    spans = [(o - 1) * s + 1 for o, s in zip(out.shape[2:], p["strides"], strict=False)]
    ends = [max(span + d * (k - 1) - size - b, 0) for span, k, d, size, b in zip(spans, p["kernel"], p["dilations"], x.shape[2:], p["pads"], strict=False)]
    pads = [(0, 0), (0, 0)] + [(b, e) for b, e in zip(p["pads"], ends, strict=False)]
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = np.pad(x, pads, constant_values=least if op == 0 else 0)
    # A position counts for an average if it lies in the input, or in its declared padding where that counts.
    counted = np.pad(np.ones(x.shape[2:], np.float32), [(b, e) for b, e in zip(p["pads"], p["pads_end"], strict=False)][:n], constant_values=1.0 if p["count_include_pad"] else 0.0)
    counted = np.pad(counted, [(0, max(padded.shape[2 + i] - counted.shape[i], 0)) for i in range(n)])
    places = np.pad(np.arange(int(np.prod(x.shape[2:]))).reshape(x.shape[2:], order="F" if p["storage_order"] else "C"), pads[2:], constant_values=-1)
    total: Any = None
    count: Any = 0
    where: Any = None
    for tap in np.ndindex(*p["kernel"][:n]):
        window = tuple(slice(t * p["dilations"][i], t * p["dilations"][i] + spans[i], p["strides"][i]) for i, t in enumerate(tap))
        part = padded[(slice(None), slice(None), *window)]
        if op == 0:
            place = np.broadcast_to(places[window], part.shape)
            better = np.ones(part.shape, bool) if total is None else (part > total) | (np.isnan(part) & ~np.isnan(total) if x.dtype.kind == "f" else False) | ((where < 0) & (place >= 0))
            total = part.copy() if total is None else np.where(better, part, total)
            where = place.copy() if where is None else np.where(better, place, where)
            continue
        part = part.astype(np.float32)
        part = part if op == 1 else np.abs(part) ** power
        total = part if total is None else total + part
        count = count + counted[window]
    if op == 0:
        call.finish(total)
        if len(call.step.outputs) > 1:
            indices = call.memory.view(call.step.outputs[1])
            assert indices is not None
            image = int(np.prod(x.shape[2:]))
            indices[...] = where + (np.arange(x.shape[0] * x.shape[1]) * image).reshape(*x.shape[:2], *[1] * n)
        return
    call.finish(total / count if op == 1 else total ** (1 / power))


KERNELS: dict[Kernel, Callable[[Call], None]] = {
    Kernel.MAP: _map, Kernel.COPY: _copy, Kernel.MATMUL: _matmul, Kernel.CONV: _conv, Kernel.REDUCE: _reduce, Kernel.SOFTMAX: _softmax, Kernel.NORM: _norm,
    Kernel.ATTENTION: _attention, Kernel.GATHER: _gather, Kernel.POOL: _pool,
}
