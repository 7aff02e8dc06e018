"""Dispatches that do not wait for each other become one: the products that make queries, keys and values, the halves of rotary embeddings, a cache's past and new rows. Starting a dispatch costs a GPU
2 to 10 µs, which is what a decoding step's small kernels take; in one dispatch they also fill it better. A workgroup's number says whose work it does: `if (group < n) { part_0(…) } else …`,
which is uniform control flow, so that parts may have barriers.

1. A dispatch moves up to one of the last WINDOW ones when it needs nothing of what comes between, and nothing between or there needs or writes what it does.
   (Of sessions that plan: the last of as many products, which are several dispatches there, product.py.)
2. Two may write the same memory where their views are neighbours in it (the parts of a Concat).
3. Only kinds of KINDS, only the same kind, except that what moves elements (LIGHT) goes with each other; at most MOST of them, and no more buffers than a dispatch may bind.
4. A copy that is left out when both ends are one buffer (a cache that grows in place: recording.py) stays by itself. So does everything on software adapters: they start dispatches for nearly
   nothing, and compile slowly.
"""
from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...dim import Dim
from ...lowering import CannotLower
from ..wgsl.shader import STATUS, Built, Context, Shader
from ..wgsl.space import Operand
from .tiles import RANGES

WINDOW, MOST = 4, 6
LIGHT = frozenset({"map", "copy", "gather", "scatter", "attention"})
KINDS = LIGHT | {"matmul", "norm"}


@dataclass
class _Group:
    """Dispatches of a kind that become one; `step`: of the first."""

    step: int
    parts: list[Built]
    reads: set[Any] = field(default_factory=set)
    writes: set[Any] = field(default_factory=set)

    def add(self, built: Built) -> None:
        """Take another."""
        self.parts.append(built)
        reads, writes = _touched(built)
        self.reads |= reads
        self.writes |= writes


def merge(steps: Sequence[Sequence[Built]], context: Context, alone: Collection[int]) -> list[list[Built]]:
    """The dispatches of every step with those merged that can be. `alone`: ids of those that stay by themselves."""
    groups: list[_Group] = []
    window = WINDOW * (RANGES if context.several else 1)
    for number, built in ((n, b) for n, step in enumerate(steps) for b in step):
        target = None
        if id(built) not in alone and _kind(built) in KINDS:
            for group in reversed(groups[-window:]):
                if id(group.parts[0]) not in alone and _fits(group, built, context):
                    target = group
                if _waits(built, group):
                    break
        if target is None:
            target = _Group(number, [])
            groups.append(target)
        target.add(built)
    made: list[list[Built]] = [[] for _ in steps]
    for group in groups:
        made[group.step].append(_one(group.parts, context) if len(group.parts) > 1 else group.parts[0])
    return made


def _kind(built: Built) -> str:
    return built.label.partition(" ")[0]


def _touched(built: Built) -> tuple[set[Any], set[Any]]:
    """What it reads and what it writes; the status word is everybody's."""
    assert built.shader is not None
    writes = {key for key, write in built.bindings if write} - {STATUS}
    return {key for key, write in built.bindings if not write} | (built.shader.loaded & writes), writes


def _waits(built: Built, group: _Group) -> bool:
    """Whether it must come after the group."""
    reads, writes = _touched(built)
    if reads & group.writes or writes & group.reads:
        return True
    return any(not _apart(key, built, other) for key in writes & group.writes for other in group.parts if key in _touched(other)[1])


def _fits(group: _Group, built: Built, context: Context) -> bool:
    """Whether it can be one of the group."""
    kinds = {_kind(group.parts[0]), _kind(built)}
    if len(group.parts) >= MOST or not (len(kinds) == 1 or kinds <= LIGHT) or _kind(group.parts[0]) not in KINDS or _waits(built, group):
        return False
    shaders = [b.shader for b in (*group.parts, built) if b.shader is not None]
    if len({(s.invocations, s.subgroups) for s in shaders}) > 1 or len({binding for s in shaders for binding in s.bindings}) > context.limits.storage_buffers:
        return False
    lines = {line for s in shaders for line in s.globals}                # only one part uses them in a workgroup, so all may share them
    return any(set(s.globals) == lines for s in shaders)


def _apart(key: Any, a: Built, b: Built) -> bool:                                                           # 2
    """Whether what two dispatches write of a buffer is known not to meet, and neither reads it."""
    assert a.shader is not None and b.shader is not None
    if key in a.shader.loaded or key in b.shader.loaded:
        return False
    mine, others = ([o for o in x.shader.written if o.buffer == key] for x in (a, b))  # type: ignore[union-attr]
    return bool(mine) and bool(others) and all(_neighbours(x, y) or _neighbours(y, x) for x in mine for y in others)


def _neighbours(x: Operand, y: Operand) -> bool:
    """Whether y begins where x ends along an axis, and both together fill that axis of the memory."""
    if x.rank != y.rank or x.strides != y.strides:
        return False
    for axis, stride in enumerate(x.strides):
        others = [i for i in range(x.rank) if i != axis]
        if stride != 0 and y.start - x.start == x.dims[axis] * stride and all(x.dims[i] == y.dims[i] for i in others):
            return any(x.strides[i] == (x.dims[axis] + y.dims[axis]) * stride for i in others)
    return False


def _one(parts: Sequence[Built], context: Context) -> Built:
    """The dispatch that does the work of all parts."""
    first = parts[0].shader
    assert first is not None
    s = Shader(context, first.invocations)
    s.subgroups = first.subgroups
    begin: Dim = 0
    calls = []
    for number, part in enumerate(parts):
        assert part.shader is not None
        rename = _Rename(s, part.shader, number)
        s.functions += [rename(text) for text in part.shader.functions]
        for line in part.shader.globals:
            s.declare(line)
        s.functions.append("\n".join([f"fn part_{number}(group: i32, lane: i32) {{", *map(rename, part.shader.lines), "}"]))
        at = s.param(begin)
        begin = begin + part.groups
        calls.append((s.param(begin), f"part_{number}(group - {at}, lane);"))
    for limit, call in calls:
        s.add(f"if (group < {limit}) {{ {call} return; }}")
    try:
        return s.dispatch(begin, f"{parts[0].label} and {len(parts) - 1} beside it")
    except CannotLower as reason:  # _fits has looked
        raise AssertionError(f"{parts[0].label}: {reason}") from reason


class _Rename:
    """A part's text in the shader of all: its sizes, bindings and functions."""

    def __init__(self, shader: Shader, part: Shader, number: int) -> None:
        self.first = len(shader.params)
        shader.params += part.params
        self.names = {name: shader.binding(key, element, write) for (key, element), (name, write) in part.bindings.items()}
        self.names |= {name: f"{name}_{number}" for text in part.functions for name in re.findall(r"\bfn (\w+)\(", text)}
        self.pattern = re.compile(r"\bsize_(\d+)\b|\b(?:b\d+" + "".join(f"|{re.escape(name)}" for name in self.names if not re.fullmatch(r"b\d+", name)) + r")\b")

    def __call__(self, text: str) -> str:
        return self.pattern.sub(lambda found: f"size_{self.first + int(found[1])}" if found[1] else self.names.get(found[0], found[0]), text)
