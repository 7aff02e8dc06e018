"""Caches of keys and values: where past and new ones are put together only for ATTENTION (and to be kept), it reads them in their two pieces and keeps what is wanted. Part of stage 3.

A decoding step then reads its cache once, and writes it once where it grows out of place, instead of writing it, reading it and reading it again. For each ATTENTION:

1. Its keys are all of a buffer, in any order of axes, whose first rows (axis 2 of the keys) a Copy writes, and whose other rows other calls write. So are its values, with as many first rows.
2. The Copies go: their sources are past_k and past_v. Where a second Copy writes the other rows it goes too; other calls write to a buffer that has those rows only.
3. A buffer that is an output, or read by others, is written by ATTENTION as present_k or present_v. Those others come later in the program; where one does not, nothing is changed.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

from ..dim import Dim
from ..kernels import Kernel
from ..lowering import Axis, Buffer, KernelCall, View
from .lower import Lowered


@dataclass
class _Pieces:
    """Keys or values: `whole` is the view ATTENTION reads, `copy` writes its first rows, `others` (call, number of its output) the rest. `kept`: whether somebody else wants them."""

    whole: View
    copy: KernelCall
    others: list[tuple[KernelCall, int]]
    held: Dim
    kept: bool


def join_past(lowered: Lowered) -> None:
    """Rewrite `lowered.calls` in place."""
    kept = {v.buffer for v in lowered.outputs}
    for call in list(lowered.calls):
        if call.kind is not Kernel.ATTENTION or len(call.inputs) > 4:
            continue
        position = lowered.calls.index(call)
        keys, values = (_pieces(lowered, call, position, i, kept) for i in (1, 2))
        if keys is None or values is None or keys.held != values.held or keys.whole.buffer is values.whole.buffer:
            continue
        past, present = [], []
        for i, pieces in ((1, keys), (2, values)):
            assert pieces.copy.inputs[0] is not None
            past.append(_under(pieces.copy.inputs[0], pieces.whole))
            call.inputs[i] = _rest(lowered, pieces)
            present.append(pieces.whole)
            lowered.calls.remove(pieces.copy)
        mask = call.inputs[3] if len(call.inputs) > 3 else None
        call.inputs = [*call.inputs[:3], mask, *past]
        if keys.kept or values.kept:
            call.outputs = [*call.outputs, *present]
        call.origin = tuple(dict.fromkeys((*keys.copy.origin, *values.copy.origin, *call.origin)))


def _pieces(lowered: Lowered, call: KernelCall, position: int, operand: int, kept: set[Buffer]) -> _Pieces | None:      # 1
    view = call.inputs[operand]
    assert view is not None
    buffer = view.buffer
    if buffer.tensor is not None or buffer.alias is not None or not _permutes(view):
        return None
    along = view.axes[2].dim
    first: KernelCall | None = None
    others: list[tuple[KernelCall, int]] = []
    readers = 0
    for at, other in enumerate(lowered.calls):
        for i, out in enumerate(other.outputs):
            if out.buffer is buffer:
                if other.kind is Kernel.COPY and not other.params.get("mode") and first is None and _starts(out, along):
                    first = other
                else:
                    others.append((other, i))
        reads = sum(v is not None and v.buffer is buffer for v in other.inputs)
        readers += reads
        if reads and at < position or other is call and reads != 1:                                       # 3
            return None
    if first is None or not others or along is None:
        return None
    held = first.outputs[0].axes[along].size
    if any(_moved(c.outputs[i], along, held) is None for c, i in others):
        return None
    return _Pieces(view, first, others, held, buffer in kept or readers > 1)


def _permutes(view: View) -> bool:
    """Whether a view is all of its buffer, its axes in any order, with axes of size 1 put in."""
    dims = sorted(a.dim for a in view.axes if a.dim is not None)
    shape = view.buffer.shape
    return not view.fixed and dims == list(range(len(shape))) and all(a.size == 1 if a.dim is None else a.start == 0 and a.step == 1 and a.size == shape[a.dim] for a in view.axes)


def _starts(out: View, along: int | None) -> bool:
    """Whether a call's output is the first rows of its buffer along a dim."""
    return not out.fixed and len(out.axes) == len(out.buffer.shape) and all(
        a.dim == i and a.start == 0 and a.step == 1 and (i == along or a.size == out.buffer.shape[i]) for i, a in enumerate(out.axes))


def _moved(out: View, along: int, held: Dim) -> View | None:
    """An output behind the first `held` rows as one that begins with them left out; None where it is not behind them."""
    axes, fixed, found = list(out.axes), list(out.fixed), False
    for i, axis in enumerate(axes):
        if axis.dim == along and not found and _behind(axis.start, held):
            axes[i], found = replace(axis, start=axis.start - held), True
    for i, (dim, at) in enumerate(fixed):
        if dim == along and not found and _behind(at, held):
            fixed[i], found = (dim, at - held), True
    return replace(out, axes=tuple(axes), fixed=tuple(f for f in fixed if f[1] != 0), value=None) if found else None


def _behind(at: Dim, held: Dim) -> bool:
    left = at - held
    return isinstance(left, int) and left >= 0


def _under(source: View, whole: View) -> View:
    """A view with a buffer's dims under the axes `whole` looks at that buffer with."""
    return replace(source, axes=tuple(Axis(1, None) if a.dim is None else source.axes[a.dim] for a in whole.axes), value=None)


def _rest(lowered: Lowered, pieces: _Pieces) -> View:                                                     # 2
    """The rows behind the first: what the only other Copy reads, or a buffer that the other calls write."""
    buffer, along = pieces.whole.buffer, pieces.whole.axes[2].dim
    assert along is not None
    size = buffer.shape[along] - pieces.held
    if len(pieces.others) == 1:
        call, number = pieces.others[0]
        source, out = call.inputs[0] if call.inputs else None, _moved(call.outputs[number], along, pieces.held)
        plain = out is not None and not out.fixed and all(a.dim == i and a.start == 0 and a.step == 1 for i, a in enumerate(out.axes)) and len(out.axes) == len(buffer.shape)
        if call.kind is Kernel.COPY and not call.params.get("mode") and plain and source is not None and source.axes[along].size == size:
            lowered.calls.remove(call)
            return _under(source, pieces.whole)
    rest = Buffer(f"{buffer.name}.new", buffer.dtype, (*buffer.shape[:along], size, *buffer.shape[along + 1:]))
    for call, number in pieces.others:
        moved = _moved(call.outputs[number], along, pieces.held)
        assert moved is not None
        call.outputs[number] = replace(moved, buffer=rest)
    return _under(rest.whole(), pieces.whole)
