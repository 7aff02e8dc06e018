"""Gather and Scatter. An index outside is a run-time error: the run's status says so, and nothing is read or written there."""
from __future__ import annotations

from collections.abc import Sequence

from ...dim import Dim
from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.expression import Value
from ..wgsl.shader import Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space
from .base import Step, compute_rep, kernel, offsets_in
from .map import copy
from .split import rows


def _without(operand: Operand, axes: Sequence[int]) -> list[Dim]:
    """Strides with 0 on these axes."""
    return [0 if a in axes else s for a, s in enumerate(operand.strides)]


@kernel(Kernel.GATHER)
def gather(step: Step, context: Context) -> list[Built]:
    """See the GATHER record."""
    mode = step.whole("mode")
    return [_gather(step, context, mode, *part) for part in rows(step.there(0), step.whole("axis") if mode == 0 else -1, context)]


def _gather(step: Step, context: Context, mode: int, x: Operand, first: int, count: int) -> Built:
    """`x` holds rows `first` … of the table (count 0: all of it); positions that ask for others are left alone."""
    indices, out, axis = step.there(1), step.output(), step.whole("axis")
    own: list[Dim]
    if mode == 0:
        own = [*x.strides[:axis], *[0] * indices.rank, *x.strides[axis + 1:]]
        place: list[Dim] = [*[0] * axis, *indices.strides, *[0] * (x.rank - axis - 1)]
        reads = [(x.dims[axis], x.strides[axis], 0)]
    elif mode == 1:
        own, place = _without(x, [axis]), list(indices.strides)
        reads = [(x.dims[axis], x.strides[axis], 0)]
    else:
        length = indices.dims[-1]
        if not isinstance(length, int):
            raise CannotLower("tuples of indices whose length only the run knows")
        middle = indices.rank - 1 - axis
        own = [*x.strides[:axis], *[0] * middle, *x.strides[axis + length:]]
        place = [*indices.strides[:-1], *[0] * (x.rank - axis - length)]
        reads = [(x.dims[axis + i], x.strides[axis + i], i) for i in range(length)]
    space = Space.of(out.dims, [out.strides, own, place])
    s = Shader(context)
    at = s.coordinates(space, each(s, space.count))
    to, source, index = offsets_in(s, space, [out, x, indices], at)
    for size, stride, i in reads:
        found = s.index(indices, index if i == 0 else s.let(f"{index} + {s.size(i * indices.strides[-1])}"), size)
        if count:
            low = s.param(first)
            s.add(f"if ({found} < {low} || {found} - {low} >= {s.param(count)}) {{ return; }}")
            found = s.let(f"{found} - {low}")
        source = s.let(f"{source} + {found} * {s.size(stride)}")
    s.write(out, to, s.load(x, source))
    return s.dispatch(groups(s, space.count))


@kernel(Kernel.SCATTER)
def scatter(step: Step, context: Context) -> list[Built]:
    """A copy of X (where Y is not X's own memory), then the updates in order: each invocation owns the positions no other one can reach, and walks its updates in row-major order, so equal
    places need no atomics."""
    x, indices, updates, out = step.there(0), step.there(1), step.there(2), step.output()
    axis, mode, reduction = step.whole("axis"), step.whole("mode"), step.whole("reduction")
    there = x.buffer == out.buffer and (x.start, x.dims, x.strides) == (out.start, out.dims, out.strides)
    first = [] if there else copy(Step(Kernel.COPY, [x, None], [out], {"mode": 0}, label=step.label), context)
    s = Shader(context)
    if mode == 0:
        others = [a for a in range(out.rank) if a != axis]
        owned = Space.of([updates.dims[a] for a in others], [[o.strides[a] for a in others] for o in (out, indices, updates)])
        walk = Space.of([updates.dims[axis]], [[0], [indices.strides[axis]], [updates.strides[axis]]])
        reads = [(out.dims[axis], out.strides[axis], 0)]
    else:
        length = indices.dims[-1]
        if not isinstance(length, int):
            raise CannotLower("tuples of indices whose length only the run knows")
        lead = indices.rank - 1
        owned = Space.of(out.dims[length:], [list(out.strides[length:]), [0] * (out.rank - length), list(updates.strides[lead:])])
        walk = Space.of(indices.dims[:-1], [[0] * lead, list(indices.strides[:-1]), list(updates.strides[:lead])], ordered=True)
        reads = [(out.dims[i], out.strides[i], i) for i in range(length)]
    at = s.coordinates(owned, each(s, owned.count))
    bases = offsets_in(s, owned, [out, indices, updates], at)
    with s.block(f"for (var r = 0; r < {s.param(walk.count)}; r += 1)"):
        step_at = s.coordinates(walk, "r")
        to, index, update = offsets_in(s, walk, [out, indices, updates], step_at, bases)
        for size, stride, i in reads:
            found = s.index(indices, index if i == 0 else s.let(f"{index} + {s.size(i * indices.strides[-1])}"), size)
            to = s.let(f"{to} + {found} * {s.size(stride)}")
        value = s.load(updates, update)
        s.write(out, to, value if reduction == 0 else _combined(s, s.read(out, to), value, reduction, out))
    return [*first, s.dispatch(groups(s, owned.count))]


def _combined(s: Shader, old: Value, new: Value, reduction: int, out: Operand) -> Value:
    rep = compute_rep(out)
    if rep == "i32" and out.dtype.bits > 32:
        raise CannotLower("a reduction of 64-bit integers by scattering")
    if rep == "i32" and old.rep == "u32" and reduction > 2:
        raise CannotLower("extremes of uint32 by scattering")
    a, b = (v.text if v.rep == rep else f"bitcast<i32>({v.text})" for v in (old, new))
    text = (f"{a} + {b}", f"{a} * {b}", f"{'sx_' * (rep == 'f32')}max({a}, {b})", f"{'sx_' * (rep == 'f32')}min({a}, {b})")[reduction - 1]
    return Value(s.let(text, rep), rep, -(1 << 31), (1 << 31) - 1) if rep == "i32" else Value(s.let(text, rep), rep, float("-inf"), float("inf"))
