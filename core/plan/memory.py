"""Stage 6, memory: where every buffer lies. One arena.

Rules
1. Inputs, outputs and constants have homes of their own; an alias lies where its source lies.
2. A buffer lives from the call that writes it to the last call that reads it or an alias of it.
3. In place: a Map may write over an input that dies there, if that input is whole, of the same bytes and order, read position by position, and every other operand is another buffer.
   So may a Scatter write over the tensor it updates.
4. What has an upper bound: constant offsets by greedy best fit, largest first (Pisarchyk & Lee, 2020: "Efficient memory management for deep neural net inference"), 64-byte aligned.
5. What has none, or one beyond FAR (sizes without a range, or that data decide): slots after those. Buffers that do not live at once share a slot, those of like size first (sizes are
   compared with every symbol at TYPICAL); a slot is as long as its longest buffer, aligned, and offsets are the running sum, as expressions that bind computes.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..dim import Dim, bounds, is_static, product, substitute, symbols
from ..errors import MemoryLimit
from ..kernels import Kernel
from ..lowering import Buffer, View, loaded, root
from .layout import same_order
from .lower import Lowered

ALIGN = 64
#: What a size without a bound is taken for where buffers are compared.
TYPICAL = 97
#: Bytes from which on a symbolic size is placed as one without a bound.
FAR = 1 << 30


@dataclass(frozen=True)
class Slot:
    """The place of slot `number`: after the constant part and all slots before it."""

    number: int


@dataclass
class Placed:
    """Byte offsets of arena buffers (constants, or slots); `arena`: bytes of the constant part; `live`: the largest sum of live bytes in it, the least that it could be.
    `slots`: for each, the sizes in bytes of what lies there: it is as long as the longest, aligned."""

    offsets: dict[Buffer, int | Slot]
    arena: int
    live: int
    slots: list[list[Dim]]


def upper_bytes(buffer: Buffer, ranges: Mapping[str, tuple[int, int | None]]) -> int | None:
    """Bytes at the upper bound of the sizes; None where there is none."""
    high = bounds(product(buffer.shape), ranges)[1]
    return None if high is None else int(high) * buffer.dtype.numpy.itemsize


def place(lowered: Lowered, ranges: Mapping[str, tuple[int, int | None]], limit: int | None = None) -> Placed:
    """Place every intermediate buffer; MemoryLimit before anything is allocated where the bounded part of the arena would exceed `limit` bytes."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, call in enumerate(lowered.calls):
        for view in (*call.inputs, *call.outputs):
            if view is not None:
                base = root(view.buffer)
                if base.port is None and base.tensor is None:
                    first.setdefault(base, i)
                    last[base] = i
    for view in lowered.outputs:
        base = root(view.buffer)
        if base in first:
            last[base] = len(lowered.calls)
    shared = _in_place(lowered, first, last)                                                              # 3
    groups: dict[Buffer, list[Buffer]] = {}
    for buffer in first:
        groups.setdefault(_find(shared, buffer), []).append(buffer)
    lives = {head: (min(first[b] for b in members), max(last[b] for b in members)) for head, members in groups.items()}
    spans: dict[Buffer, tuple[int, int, int]] = {}
    for head, members in groups.items():
        sizes = [bound for b in members if (bound := None if _far(b, ranges) else upper_bytes(b, ranges)) is not None]
        if len(sizes) == len(members):
            spans[head] = (*lives[head], max(sizes))
    placed, arena = _best_fit(spans)                                                                      # 4
    if limit is not None and arena > limit:
        raise MemoryLimit(f"the program needs {arena:,} bytes of working memory, the limit is {limit:,}: use smaller sizes or raise session.memory_limit")
    steps = sorted((i, sign * size) for start, end, size in spans.values() for i, sign in ((start, 1), (end + 1, -1)))
    live = most = 0
    for _, change in steps:                                        # frees sort before takes of the same call
        live += change
        most = max(most, live)
    heads: dict[Buffer, int | Slot] = dict(placed)
    open_ = {head: lives[head] for head in groups if head not in spans}
    slots = _slots(open_, groups)                                                                         # 5
    heads.update((head, Slot(i)) for i, slot in enumerate(slots) for head in slot)
    lengths = [list(dict.fromkeys(_bytes(b) for head in slot for b in groups[head])) for slot in slots]
    return Placed({member: heads[head] for head, members in groups.items() for member in members}, -(-arena // ALIGN) * ALIGN, most, lengths)


def _far(buffer: Buffer, ranges: Mapping[str, tuple[int, int | None]]) -> bool:
    """Whether a symbolic size's upper bound is no help: the sizes it is made of are never all large at once."""
    return not is_static(buffer.shape) and (upper_bytes(buffer, ranges) or 0) > FAR


def _bytes(buffer: Buffer) -> Dim:
    return product(buffer.shape) * buffer.dtype.numpy.itemsize


def _typical(size: Dim) -> int:
    return int(substitute(size, {s.name: TYPICAL for s in symbols(size)}))


def _slots(lives: Mapping[Buffer, tuple[int, int]], groups: Mapping[Buffer, list[Buffer]]) -> list[list[Buffer]]:
    """Buffers in slots: largest first, each to the slot of the nearest size that is free while it lives."""
    sizes = {head: max(_typical(_bytes(b)) for b in groups[head]) for head in lives}
    slots: list[list[Buffer]] = []
    for head in sorted(lives, key=lambda h: (-sizes[h], lives[h])):
        start, end = lives[head]
        free = [slot for slot in slots if all(lives[o][0] > end or start > lives[o][1] for o in slot)]
        if free:
            min(free, key=lambda slot: sizes[slot[0]]).append(head)
        else:
            slots.append([head])
    return slots


def _best_fit(spans: Mapping[Buffer, tuple[int, int, int]]) -> tuple[dict[Buffer, int], int]:
    """Offsets of buffers with (first, last, bytes), and where they end."""
    offsets: dict[Buffer, int] = {}
    arena = 0
    placed: list[tuple[int, int, int, int]] = []
    for head, (start, end, size) in sorted(spans.items(), key=lambda item: (-item[1][2], item[1][0])):
        at = _fit(sorted((o, s) for o, s, a, b in placed if a <= end and start <= b), size)
        placed.append((at, size, start, end))
        arena = max(arena, at + size)
        offsets[head] = at
    return offsets, arena


def _fit(taken: list[tuple[int, int]], size: int) -> int:
    """The smallest gap between taken spans that holds `size`, or the end."""
    best, best_gap, at = None, None, 0
    for offset, length in taken:
        if offset - at >= size and (best_gap is None or offset - at < best_gap):
            best, best_gap = at, offset - at
        at = max(at, -(-(offset + length) // ALIGN) * ALIGN)
    return at if best is None else best


def _in_place(lowered: Lowered, first: dict[Buffer, int], last: dict[Buffer, int]) -> dict[Buffer, Buffer]:
    shared: dict[Buffer, Buffer] = {}
    for i, call in enumerate(lowered.calls):
        if call.kind not in (Kernel.MAP, Kernel.SCATTER) or len(call.outputs) != 1:
            continue
        out = call.outputs[0]
        fixed = loaded(call) if call.kind is Kernel.MAP else set(range(1, len(call.inputs)))
        for j, view in enumerate(call.inputs):
            if view is None or j in fixed or view.buffer not in first or last[view.buffer] != i or first.get(out.buffer) != i:
                continue
            others = [v.buffer for v in call.inputs if v is not None and v is not view]
            if view.is_whole and out.is_whole and _same_memory(view, out) and all(root(b) is not view.buffer for b in others) and view.buffer not in shared.values():
                shared[out.buffer] = view.buffer
                break
    return shared


def _same_memory(a: View, b: View) -> bool:
    return a.buffer.shape == b.buffer.shape and a.dtype.bits == b.dtype.bits and same_order(a.buffer.shape, a.buffer.order, b.buffer.order)


def _find(shared: dict[Buffer, Buffer], buffer: Buffer) -> Buffer:
    while buffer in shared:
        buffer = shared[buffer]
    return buffer
