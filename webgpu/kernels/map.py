"""Map and Copy: one invocation an element.

A Map whose operands are more than a dispatch may bind is cut: the largest part of its expression that fits is computed into a temporary first.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ...expr import Compute, E, leaf, leaves, substitute
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import Value, whole
from ..wgsl.shader import Built, Context, Shader, TooManyBindings, each, groups
from ..wgsl.space import Operand, Space, Temporary, broadcast, even
from .base import Step, coordinates_used, elements, emitter, kernel, offsets_in, strides_of

_STORED = {Compute.F32: DType.FLOAT, Compute.I32: DType.INT32, Compute.I64: DType.INT64, Compute.U64: DType.UINT64}


@kernel(Kernel.MAP)
def map_(step: Step, context: Context) -> list[Built]:
    """Outputs[i] = epilogue[i], position by position."""
    ranges = dict(context.ranges)
    try:
        return [_map(step, context)]
    except TooManyBindings:
        context.ranges.clear()
        context.ranges.update(ranges)
        return _cut(step, context)


def _map(step: Step, context: Context) -> Built:
    outputs = [(root, o) for root, o in zip(step.epilogue, step.outputs, strict=True) if o is not None]
    dims = outputs[0][1].dims
    read, _ = elements(step.inputs, step.epilogue, step.first)
    operands = [o for _, o in outputs] + [step.there(i) for i in read]
    space = Space.of(dims, [broadcast(o, dims) for _, o in outputs] + strides_of(step.inputs, read, dims), coordinates_used(step.epilogue))
    shader = Shader(context)

    def values(at: list[str]) -> tuple[list[Value], list[str]]:
        places = offsets_in(shader, space, operands, at)

        def coordinate(axis: int) -> str:
            where = space.where[axis]
            return "0" if where is None else at[where]
        expressions = emitter(shader, step, dict(zip(read, places[len(outputs):], strict=True)), coordinate, dims)
        return [expressions.emit(root) for root, _ in outputs], places
    if in_words([o for _, o in outputs], space):
        with words(shader, space, [o for _, o in outputs]) as (at, add):
            for i, value in enumerate(values(at)[0]):
                add(i, value)
        return shader.dispatch(groups(shader, space.count // 4))
    made, places = values(shader.coordinates(space, each(shader, space.count)))
    for value, (_, out), place in zip(made, outputs, places, strict=False):
        shader.write(out, place, value)
    return shader.dispatch(groups(shader, space.count))


def in_words(outputs: Sequence[Operand], space: Space) -> bool:
    """Whether all outputs (the space's first operands) are bytes of which four neighbours in the last axis are one word."""
    return all(o.packed and even(o.start) and space.dims and space.strides[i][-1] == 1 and all(even(x) for x in (space.dims[-1], *space.strides[i][:-1])) for i, o in enumerate(outputs))


@contextmanager
def words(shader: Shader, space: Space, outputs: Sequence[Operand]) -> Iterator[tuple[list[str], Callable[[int, Value], None]]]:
    """An invocation a word: a loop over its four positions. Gives the coordinates, and what adds an element to output i."""
    quads = Space([*space.dims[:-1], space.dims[-1] // 4], [[*s[:-1], s[-1] * 4] for s in space.strides])
    first = shader.coordinates(quads, each(shader, quads.count))
    names = [shader.name("word") for _ in outputs]
    for name in names:
        shader.add(f"var {name}: u32;")
    q = shader.name("q")
    with shader.block(f"for (var {q} = 0; {q} < 4; {q} += 1)"):
        last = shader.let(f"{first[-1]} * 4 + {q}")
        yield [*first[:-1], last], lambda i, value: shader.add(f"{names[i]} |= (u32({shader.element(outputs[i], value)}) & 255u) << u32({q} * 8);")
    for i, (name, out) in enumerate(zip(names, outputs, strict=True)):
        shader.write_word(out, shader.offset(quads, i, first, shader.size(out.start)), name)


def _cut(step: Step, context: Context) -> list[Built]:
    """Compute a part of the first expression into a temporary, then the rest."""
    dims = step.output().dims
    part = _part(step.epilogue, context.limits.storage_buffers - 3)
    if part is None:
        raise CannotLower("one operation takes more operands than a dispatch may bind")
    number = len(step.inputs) - step.first
    middle = Temporary.operand(_STORED[part.type], dims)
    before = replace(step, outputs=[middle], epilogue=[part])
    built = map_(before, context)
    low, high = context.ranges.get(middle.buffer, (middle.low, middle.high))
    after = replace(step, inputs=[*step.inputs, replace(middle, low=low, high=high)],
                    epilogue=[substitute(root, lambda n: leaf(number, middle.dtype) if n is part else None) for root in step.epilogue])
    return built + map_(after, context)


def _part(roots: Sequence[E], fit: int) -> E | None:
    """The node with the most operands among those with at most `fit`."""
    best: tuple[int, E] | None = None
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        count = len(leaves(node))
        if 1 < count <= fit and node.args and (best is None or count > best[0]) and not any(node is r for r in roots):
            best = count, node
        stack += node.args
    return best[1] if best else None


@kernel(Kernel.COPY)
def copy(step: Step, context: Context) -> list[Built]:
    """A strided move; modes 1 to 4 pad."""
    x, value, out, mode = step.there(0), step.input(1), step.output(), step.whole("mode")
    if x.dtype != out.dtype:
        raise CannotLower(f"a copy of {x.dtype.text} as {out.dtype.text}")
    shader = Shader(context)
    if mode == 0:
        space = Space.of(out.dims, [broadcast(out, out.dims), broadcast(x, out.dims)])
        if in_words([out], space):
            with words(shader, space, [out]) as (at, add):
                add(0, shader.load(x, offsets_in(shader, space, [out, x], at)[1]))
            return [shader.dispatch(groups(shader, space.count // 4))]
        at = shader.coordinates(space, each(shader, space.count))
        to, source = offsets_in(shader, space, [out, x], at)
        shader.write(out, to, shader.load(x, source))
        return [replace(shader.dispatch(groups(shader, space.count)), moved=(x, out))]
    moved = {a for a in range(out.rank) if step.params["begin"][a] != 0 or out.dims[a] != x.dims[a]}
    space = Space.of(out.dims, [out.strides, tuple(0 if a in moved else s for a, s in enumerate(x.strides))], moved)
    at = shader.coordinates(space, each(shader, space.count))
    to, source = offsets_in(shader, space, [out, x], at)
    inside = "true"
    for axis in sorted(moved):
        where = space.where[axis]
        position = shader.let(f"{'0' if where is None else at[where]} - {shader.size(step.params['begin'][axis])}")
        n = shader.size(x.dims[axis])
        if mode == 1:
            inside = shader.let(f"{inside} & ({position} >= 0) & ({position} < {n})", "bool")
            position = shader.let(f"clamp({position}, 0, max({n} - 1, 0))")
        else:
            position = shader.let(_folded(shader, position, n, mode))
        source = shader.let(f"{source} + {position} * {shader.size(x.strides[axis])}")
    filler = _filler(shader, value, out)
    empty = inside if mode == 1 else "true"
    chosen = shader.name("x")
    rep = filler.rep
    shader.add(f"var {chosen}: {rep} = {filler.text};")
    with shader.block(f"if ({empty})"):
        found = shader.load(x, source)
        shader.add(f"{chosen} = {found.text};")
    shader.write(out, to, Value(chosen, rep, min(found.low, filler.low), max(found.high, filler.high)))
    only = mode == 1 and all(isinstance(b, int) and b == 0 for b in step.params["begin"])   # where the sizes are equal, too
    return [replace(shader.dispatch(groups(shader, space.count)), moved=(x, out) if only else None)]


def _filler(shader: Shader, value: Operand | None, out: Operand) -> Value:
    if value is not None:
        return shader.load(value, shader.let(shader.size(value.start)))
    if out.dtype.is_float:
        return Value("0.0", "f32", 0, 0)
    return Value("0u", "u32", 0, 0) if out.dtype in (DType.UINT32, DType.UINT64) else whole("0", 0, 0)


def _folded(shader: Shader, position: str, n: str, mode: int) -> str:
    """The source coordinate of a padded one: 2 reflect, 3 edge, 4 wrap."""
    if mode == 3:
        return f"clamp({position}, 0, {n} - 1)"
    if mode == 4:
        return f"sx_modi({position}, {n})"
    period = shader.let(f"max(2 * ({n} - 1), 1)")
    folded = shader.let(f"sx_modi({position}, {period})")
    return f"select({folded}, {period} - {folded}, {folded} >= {n})"


def temporary_map(root: E, inputs: Sequence[Operand | None], out: Operand, context: Context, label: str) -> list[Built]:
    """A Map another kernel needs as one of its dispatches."""
    return map_(Step(Kernel.MAP, list(inputs), [out], {}, None, [root], 0, label), context)
