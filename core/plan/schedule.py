"""Stage 6, schedule: the order of the calls of a program, where another one needs less memory.

Rules
1. A call stands after all calls that write what it reads.
2. Of the calls that are ready, next is the one after which the fewest bytes are alive (what it writes less what dies with it), the earliest of equals: a branch is finished before another
   is begun, and what makes small things of large ones comes first. Sizes are compared with every symbol at one of memory.TYPICAL.
3. The order found is taken where it lowers the peak; otherwise the calls stay as they were. Programs of more than MOST calls are left alone.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..lowering import Buffer, KernelCall, root
from .lower import Lowered
from .memory import typical_bytes

MOST = 4000


def schedule(lowered: Lowered) -> None:
    """Reorder `lowered.calls` in place."""
    calls = lowered.calls
    if not 3 < len(calls) <= MOST:
        return
    reads = [{b for v in c.inputs if v is not None for b in [root(v.buffer)] if b.tensor is None} for c in calls]
    writes = [{root(v.buffer) for v in c.outputs} for c in calls]
    after = _dependencies(reads, writes)
    if all(len(after[i]) and max(after[i]) == i - 1 for i in range(1, len(calls))):
        return  # a chain
    moved = {b for part in (*reads, *writes) for b in part}
    sizes = {**dict.fromkeys(moved, 0), **typical_bytes(b for b in moved if b.port is None)}
    order = _greedy(reads, writes, after, sizes)
    if peak(reads, writes, sizes, order) < peak(reads, writes, sizes, range(len(calls))):                 # 3
        lowered.calls = [calls[i] for i in order]


def _dependencies(reads: Sequence[set[Buffer]], writes: Sequence[set[Buffer]]) -> list[set[int]]:         # 1
    """For each call the calls it must follow."""
    writers: dict[Buffer, list[int]] = {}
    for i, made in enumerate(writes):
        for buffer in made:
            writers.setdefault(buffer, []).append(i)
    return [{w for b in read for w in writers.get(b, ()) if w != i} for i, read in enumerate(reads)]


def _greedy(reads: Sequence[set[Buffer]], writes: Sequence[set[Buffer]], after: Sequence[set[int]], sizes: Mapping[Buffer, int]) -> list[int]:          # 2
    readers: dict[Buffer, int] = {}
    for read in reads:
        for buffer in read:
            readers[buffer] = readers.get(buffer, 0) + 1
    followers: list[list[int]] = [[] for _ in reads]
    waiting = [len(a) for a in after]
    for i, needs in enumerate(after):
        for need in needs:
            followers[need].append(i)
    ready = [i for i, n in enumerate(waiting) if not n]
    made: set[Buffer] = set()
    order: list[int] = []

    def growth(i: int) -> int:
        fresh = sum(sizes[b] for b in writes[i] if b not in made)
        return fresh - sum(sizes[b] for b in reads[i] if readers[b] == 1 and b in made)
    while ready:
        chosen = min(ready, key=lambda i: (growth(i), i)) if len(ready) > 1 else ready[0]
        ready.remove(chosen)
        order.append(chosen)
        made |= writes[chosen]
        for buffer in reads[chosen]:
            readers[buffer] -= 1
        for follower in followers[chosen]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.append(follower)
    return order


def peak(reads: Sequence[set[Buffer]], writes: Sequence[set[Buffer]], sizes: Mapping[Buffer, int], order: Sequence[int]) -> int:
    """The most bytes alive in one call, for calls in this order."""
    last: dict[Buffer, int] = {}
    for at, i in enumerate(order):
        for buffer in reads[i] | writes[i]:
            last[buffer] = at
    alive: dict[Buffer, int] = {}
    total = most = 0
    for at, i in enumerate(order):
        for buffer in writes[i]:
            if buffer not in alive:
                alive[buffer] = sizes[buffer]
                total += sizes[buffer]
        most = max(most, total)
        for buffer in reads[i] | writes[i]:
            if last[buffer] == at:
                total -= alive.pop(buffer, 0)
    return most


def ordered(calls: Sequence[KernelCall]) -> bool:
    """Whether every call stands after those that write what it reads (for tests)."""
    reads = [{root(v.buffer) for v in c.inputs if v is not None} for c in calls]
    after = _dependencies(reads, [{root(v.buffer) for v in c.outputs} for c in calls])
    return all(max(needs, default=-1) < i for i, needs in enumerate(after))
