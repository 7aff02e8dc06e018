"""Stage 7, memory: where every buffer lies. One arena.

Rules
1. Inputs, outputs and constants have homes of their own; an alias lies where its source lies.
2. A buffer lives from the call that writes it to the last call that reads it or an alias of it.
3. In place: a Map may write over an input that dies there, if that input is whole, of the same bytes and order, read position by position, and every other operand is another buffer.
   So may a Scatter write over the tensor it updates.
4. Where every size has an upper bound: constant offsets by greedy best fit, largest first (Pisarchyk & Lee, 2020: "Efficient memory management for deep neural net inference"), 64-byte aligned.
5. Where one has none, or one beyond FAR (sizes without a range, or that data decide): all are placed likewise at sizes where every symbol is one of TYPICAL; of two buffers that live at once
   the one that lies lower there lies lower at all sizes: an offset is the greatest end of what lies below, an expression that bind computes.
Best fit tries the orders of ORDERS and keeps the smallest arena.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..dim import Dim, bounds, is_static, product, substitute, symbols
from ..errors import MemoryLimit
from ..kernels import Kernel
from ..lowering import Buffer, View, loaded, root
from .layout import same_order
from .lower import Lowered

ALIGN = 64
#: What sizes without a bound are taken for where buffers are compared: the first that leaves none empty (97 samples of sound are no frame).
TYPICAL = (97, 577, 4099, 16411)
#: Bytes from which on a symbolic size is placed as one without a bound.
FAR = 1 << 30


@dataclass(eq=False)
class Stacked:
    """A place without a constant offset: behind all places `below`; as long as the longest of `sizes` (bytes), aligned."""

    sizes: list[Dim]
    below: list[Stacked]


@dataclass
class Placed:
    """Byte offsets of arena buffers: constants, then `arena` is their bytes, or places that are stacked, then it is 0. `live`: the largest sum of live bytes of what has an upper bound.
    `stacked`: the places, each after those below it."""

    offsets: dict[Buffer, int | Stacked]
    arena: int
    live: int
    stacked: list[Stacked]

    def at(self, number: Callable[[Dim], int]) -> tuple[dict[Buffer, int], int]:
        """Offsets and the size of the arena where `number` says what sizes are."""
        ends: dict[Stacked, int] = {}
        starts: dict[Stacked, int] = {}
        for place in self.stacked:
            starts[place] = max((ends[p] for p in place.below), default=self.arena)
            ends[place] = starts[place] + -(-max(map(number, place.sizes)) // ALIGN) * ALIGN
        return {b: at if isinstance(at, int) else starts[at] for b, at in self.offsets.items()}, max([self.arena, *ends.values()])


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
    placed, arena = best_fit(spans)                                                                       # 4
    if limit is not None and arena > limit:
        raise MemoryLimit(f"the program needs {arena:,} bytes of working memory, the limit is {limit:,}: use smaller sizes or raise session.memory_limit")
    steps = sorted((i, sign * size) for start, end, size in spans.values() for i, sign in ((start, 1), (end + 1, -1)))
    live = most = 0
    for _, change in steps:                                        # frees sort before takes of the same call
        live += change
        most = max(most, live)
    if len(spans) == len(groups):
        heads: dict[Buffer, int | Stacked] = dict(placed)
        stacked: dict[Buffer, Stacked] = {}
    else:
        arena, stacked = 0, _stack(lives, groups)                                                         # 5
        heads = dict(stacked)
    return Placed({member: heads[head] for head, members in groups.items() for member in members}, -(-arena // ALIGN) * ALIGN, most, list(stacked.values()))


def _bytes(buffer: Buffer) -> Dim:
    return product(buffer.shape) * buffer.dtype.numpy.itemsize


def _far(buffer: Buffer, ranges: Mapping[str, tuple[int, int | None]]) -> bool:
    """Whether a symbolic size's upper bound is no help: the sizes it is made of are never all large at once."""
    return not is_static(buffer.shape) and (upper_bytes(buffer, ranges) or 0) > FAR


def typical(sizes: Iterable[Dim]) -> dict[Dim, int]:
    """What sizes are where every symbol is one of TYPICAL."""
    sizes = list(dict.fromkeys(sizes))

    def at(number: int) -> dict[Dim, int]:
        return {size: size if isinstance(size, int) else int(substitute(size, {s.name: number for s in symbols(size)})) for size in sizes}
    tried = map(at, TYPICAL)
    return next((found for found in tried if all(n > 0 for size, n in found.items() if not isinstance(size, int))), None) or at(TYPICAL[0])


def typical_bytes(buffers: Iterable[Buffer]) -> dict[Buffer, int]:
    """Bytes there."""
    sizes = {buffer: _bytes(buffer) for buffer in buffers}
    known = typical(sizes.values())
    return {buffer: known[size] for buffer, size in sizes.items()}


def _stack(lives: Mapping[Buffer, tuple[int, int]], groups: Mapping[Buffer, list[Buffer]]) -> dict[Buffer, Stacked]:
    """Places of buffers that live from the first to the last of two calls, lower ones first."""
    sizes = {head: list(dict.fromkeys(map(_bytes, groups[head]))) for head in lives}
    known = typical(size for many in sizes.values() for size in many)
    offsets, _ = best_fit({head: (*lives[head], max(known[s] for s in sizes[head])) for head in lives})
    made: dict[Buffer, Stacked] = {}
    reach: dict[Buffer, set[Buffer]] = {}      # all that lies below, directly or not
    for head in sorted(lives, key=lambda h: (offsets[h], lives[h])):
        start, end = lives[head]
        below = [h for h in made if lives[h][0] <= end and start <= lives[h][1]]
        under = {h for b in below for h in reach[b]}
        reach[head] = under | set(below)
        made[head] = Stacked(sizes[head], [made[h] for h in below if h not in under])
    return made


#: Orders in which buffers (first, last, bytes) are placed: largest first; longest-lived first among like sizes; most bytes times calls first.
ORDERS: tuple[Callable[[tuple[int, int, int]], tuple[int, ...]], ...] = (
    lambda span: (-span[2], span[0]), lambda span: (-span[2].bit_length(), span[0] - span[1], -span[2]), lambda span: ((span[0] - span[1] - 1) * span[2], span[0]))


def best_fit(spans: Mapping[Buffer, tuple[int, int, int]]) -> tuple[dict[Buffer, int], int]:
    """Offsets of buffers with (first, last, bytes), and where they end."""
    found = [_in_order(spans, order) for order in ORDERS]
    return min(found, key=lambda item: item[1])


def _in_order(spans: Mapping[Buffer, tuple[int, int, int]], order: Callable[[tuple[int, int, int]], tuple[int, ...]]) -> tuple[dict[Buffer, int], int]:
    offsets: dict[Buffer, int] = {}
    arena = 0
    placed: list[tuple[int, int, int, int]] = []
    for head, (start, end, size) in sorted(spans.items(), key=lambda item: order(item[1])):
        at = _fit(sorted([(o, s) for o, s, a, b in placed if a <= end and start <= b]), size)
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
