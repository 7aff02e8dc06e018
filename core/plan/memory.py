"""Stage 6, memory: where every buffer lies. One arena; offsets are constants, computed at the upper bound of the program's sizes.

Rules
1. Inputs, outputs and constants have homes of their own; an alias lies where its source lies.
2. A buffer lives from the call that writes it to the last call that reads it or an alias of it.
3. In place: a Map may write over an input that dies there, if that input is whole, of the same bytes and order, read position by position, and every other operand is another buffer.
   So may a Scatter write over the tensor it updates.
4. The rest by greedy best fit, largest first (Pisarchyk & Lee, 2020: "Efficient memory management for deep neural net inference"), 64-byte aligned.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..dim import bounds, product
from ..errors import MemoryLimit
from ..kernels import Kernel
from ..lowering import Buffer, View, loaded
from .layout import same_order
from .lower import Lowered

ALIGN = 64


@dataclass
class Placed:
    """Byte offsets of arena buffers, the arena's size, and the largest sum of live bytes (the least any arena could be)."""

    offsets: dict[Buffer, int]
    arena: int
    live: int


def root(buffer: Buffer) -> Buffer:
    """The buffer whose memory this one uses."""
    while buffer.alias is not None:
        buffer = buffer.alias
    return buffer


def upper_bytes(buffer: Buffer, ranges: Mapping[str, tuple[int, int | None]]) -> int:
    """Bytes at the upper bound of the sizes."""
    high = bounds(product(buffer.shape), ranges)[1]
    if high is None:
        raise MemoryLimit(f"'{buffer.name}' has dims {list(map(str, buffer.shape))} without an upper bound; give one: --plan \"name=1..N\"")
    return int(high) * buffer.dtype.numpy.itemsize


def place(lowered: Lowered, ranges: Mapping[str, tuple[int, int | None]], limit: int | None = None) -> Placed:
    """Place every intermediate buffer; MemoryLimit before anything is allocated where the arena would exceed `limit` bytes."""
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
    spans = {head: (min(first[b] for b in members), max(last[b] for b in members), max(upper_bytes(b, ranges) for b in members)) for head, members in groups.items()}
    offsets: dict[Buffer, int] = {}
    arena = 0
    placed: list[tuple[int, int, int, int]] = []
    for head, (start, end, size) in sorted(spans.items(), key=lambda item: (-item[1][2], item[1][0])):    # 4
        at = _fit(sorted((o, s) for o, s, a, b in placed if a <= end and start <= b), size)
        placed.append((at, size, start, end))
        arena = max(arena, at + size)
        for member in groups[head]:
            offsets[member] = at
    if limit is not None and arena > limit:
        raise MemoryLimit(f"the program needs {arena:,} bytes of working memory, the limit is {limit:,}: use smaller sizes or raise session.memory_limit")
    live = max((sum(s for _, s, a, b in placed if a <= i <= b) for i in range(len(lowered.calls))), default=0)
    return Placed(offsets, -(-arena // ALIGN) * ALIGN, live)


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
