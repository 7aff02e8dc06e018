"""Control flow: If, Loop, Scan, SequenceMap. Their bodies are graphs, run by `context.run` and inferred by `infer`.

Shape rules. If: what both branches agree on. Loop and Scan: a fixed point; the body is inferred with the initial types of the carried values, every
size that the body changes becomes a symbol that stands for "the size in this iteration", until nothing changes. A carried rank that changes is unknown.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..dim import Dim, Expr, dim_max, fresh, provably
from ..errors import InvalidGraph
from ..graph import Graph, Value
from ..kernels import Kernel
from ..lowering import Body, CannotLower, Lowering, View
from ..types import DType, SequenceType, ValueType
from .common import normalize_axis
from .registry import Context, Spec, operator, require
from .unify import anonymous, anonymous_of, element_type, join_types, map_dims, map_shapes, spec_of_type

Infer = Callable[[Graph, Sequence[Spec]], list[Spec]]

#: Rounds of an outermost loop's fixed point; each loop around it leaves a quarter.
MAX_ROUNDS = 16
_depth: ContextVar[int] = ContextVar("loops around the one being inferred", default=0)


@operator()
def If(cond: np.ndarray, *, then_branch: Graph, else_branch: Graph, context: Context) -> tuple[Any, ...]:
    """The outputs of `then_branch` where `cond` (one element) is true, of `else_branch` otherwise."""
    return tuple(context.run(then_branch if _truth(cond) else else_branch, []))


@If.shape
def _(cond: Spec, *, then_branch: Graph, else_branch: Graph, infer: Infer, possible: Callable[[Graph], bool]) -> tuple[Spec, ...]:
    require(len(then_branch.outputs) == len(else_branch.outputs),
            f"then_branch has {len(then_branch.outputs)} outputs and else_branch {len(else_branch.outputs)}; they must have the same number")
    known = cond.constant
    if known is not None and known.size == 1:
        taken, other = (then_branch, else_branch) if known.item() else (else_branch, then_branch)
        with suppress(InvalidGraph):  # exporters guard operations that are wrong for these shapes by exactly such conditions; that branch never runs
            infer(other, [])
        return tuple(infer(taken, []))
    for branch, other in ((then_branch, else_branch), (else_branch, then_branch)):
        if not possible(branch):
            return tuple(infer(other, []))
    outer = anonymous_of(v.type for g in (then_branch, else_branch) for v in g.captures())

    def dim(a: Dim, b: Dim) -> Dim:
        return a if a == b and anonymous(a) <= outer else fresh()  # equal anonymous names made in the two branches mean nothing
    pairs = zip(infer(then_branch, []), infer(else_branch, []), strict=True)
    return tuple(spec_of_type(join_types(a.as_type, b.as_type, dim)) for a, b in pairs)


@operator()
def Loop(M: np.ndarray | None = None, cond: np.ndarray | None = None, *v_initial: Any, body: Graph, context: Context) -> tuple[Any, ...]:
    """`body`(iteration, cond, carried…) → (cond, carried…, scanned…), at most `M` times and while `cond`; the final carried values, then the scanned ones stacked."""
    limit = None if M is None else int(M.item())
    going = True if cond is None else _truth(cond)
    carried = list(v_initial)
    scanned: list[list[Any]] = [[] for _ in body.outputs[1 + len(carried):]]
    iteration = 0
    while going and (limit is None or iteration < limit):
        context.check()
        made = context.run(body, [_like_declared(np.int64(iteration), body.inputs[0]), _like_declared(np.bool_(going), body.inputs[1]), *carried])
        # Without `cond` the loop is a plain `for`: the body's condition is there and ignored.
        going = cond is None or _truth(made[0])
        carried = made[1:1 + len(carried)]
        for items, item in zip(scanned, made[1 + len(carried):], strict=True):
            items.append(item)
        iteration += 1
    return (*carried, *(_stack(items, 0, value) for items, value in zip(scanned, body.outputs[1 + len(carried):], strict=True)))


@Loop.shape
def _(M: Spec | None = None, cond: Spec | None = None, *v_initial: Spec, body: Graph, infer: Infer) -> tuple[Spec, ...]:
    count = len(v_initial)
    require(len(body.inputs) == count + 2, f"body has {len(body.inputs)} inputs; it needs the iteration number, the condition and {count} carried values")
    require(len(body.outputs) >= count + 1, f"body has {len(body.outputs)} outputs; it needs the condition and {count} carried values")
    head = [Spec(DType.INT64, _declared_scalar_shape(body.inputs[0])), Spec(DType.BOOL, _declared_scalar_shape(body.inputs[1]))]
    carried, made = _fixed_point(body, head, v_initial, [], infer, offset=1)
    trips = _trip_count(M, cond, made[0])
    outer = anonymous_of([*(v.type for v in body.captures()), *(s.as_type for s in v_initial)])
    scanned = [_scanned(spec, trips, 0, outer) for spec in made[1 + count:]]
    return (*carried, *scanned)


@operator()
def Scan(*initial_state_and_scan_inputs: np.ndarray, body: Graph, num_scan_inputs: int, scan_input_axes: Sequence[int] = (), scan_input_directions: Sequence[int] = (),
         scan_output_axes: Sequence[int] = (), scan_output_directions: Sequence[int] = (), context: Context) -> tuple[Any, ...]:
    """`body`(state…, slice…) → (state…, element…) over slices of the last `num_scan_inputs` inputs; the final states, then the elements stacked."""
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    states = list(initial_state_and_scan_inputs[:count])
    sliced = [_slices(x, *options) for x, options in
              zip(initial_state_and_scan_inputs[count:], _options(num_scan_inputs, scan_input_axes, scan_input_directions), strict=True)]
    lengths = {len(x) for x in sliced}
    require(len(lengths) == 1, f"the scanned inputs have different lengths along their scan axes: {[len(x) for x in sliced]}")
    collected: list[list[Any]] = [[] for _ in body.outputs[count:]]
    for step in zip(*sliced, strict=True):
        context.check()
        made = context.run(body, [*states, *step])
        states = made[:count]
        for items, item in zip(collected, made[count:], strict=True):
            items.append(item)
    stacked = []
    for items, value, (axis, reverse) in zip(collected, body.outputs[count:], _options(len(collected), scan_output_axes, scan_output_directions), strict=True):
        stacked.append(_stack(items[::-1] if reverse else items, axis, value))
    return (*states, *stacked)


@Scan.shape
def _(*inputs: Spec, body: Graph, num_scan_inputs: int, scan_input_axes: Sequence[int] = (), scan_input_directions: Sequence[int] = (),
      scan_output_axes: Sequence[int] = (), scan_output_directions: Sequence[int] = (), infer: Infer) -> tuple[Spec, ...]:
    require(1 <= num_scan_inputs <= len(inputs), f"num_scan_inputs is {num_scan_inputs}; it must be in [1, {len(inputs)}], the number of inputs")
    count = len(inputs) - num_scan_inputs
    require(len(body.inputs) == len(inputs), f"body has {len(body.inputs)} inputs and the node {len(inputs)}; they must be equal")
    length: Dim | None = None
    slices = []
    for spec, (axis, _) in zip(inputs[count:], _options(num_scan_inputs, scan_input_axes, scan_input_directions), strict=True):
        if spec.shape is None:
            slices.append(Spec(spec.dtype))
            continue
        axis = normalize_axis(axis, len(spec.shape), "scan_input_axes")
        size = spec.shape[axis]
        require(not isinstance(length, int) or not isinstance(size, int) or length == size, f"scanned inputs have different lengths: {length} and {size}")
        length = size if length is None or isinstance(size, int) else length
        slices.append(Spec(spec.dtype, spec.shape[:axis] + spec.shape[axis + 1:]))
    states, made = _fixed_point(body, [], inputs[:count], slices, infer, offset=0)
    steps = fresh() if length is None else length
    outer = anonymous_of([*(v.type for v in body.captures()), *(s.as_type for s in inputs)])
    axes = _options(len(made) - count, scan_output_axes, scan_output_directions)
    return (*states, *(_scanned(spec, steps, axis, outer) for spec, (axis, _) in zip(made[count:], axes, strict=True)))


@operator()
def SequenceMap(input_sequence: list[Any], *additional_inputs: Any, body: Graph, context: Context) -> tuple[list[Any], ...]:
    """`body` applied to each element (of several sequences in step; tensors are passed whole); one sequence for each of its outputs."""
    for other in additional_inputs:
        require(not isinstance(other, list) or len(other) == len(input_sequence), "all input sequences must have the same length")
    rows = []
    for i, item in enumerate(input_sequence):
        context.check()
        rows.append(context.run(body, [item, *(x[i] if isinstance(x, list) else x for x in additional_inputs)]))
    return tuple([row[k] for row in rows] for k in range(len(body.outputs)))


@SequenceMap.shape
def _(input_sequence: Spec, *additional_inputs: Spec, body: Graph, infer: Infer) -> tuple[Spec, ...]:
    given = [spec_of_type(element_type(s)) if isinstance(s.type, SequenceType) or s is input_sequence else s for s in (input_sequence, *additional_inputs)]
    return tuple(Spec(None, type=SequenceType(made.as_type)) for made in infer(body, given))


# -- bodies ------------------------------------------------------------------------------------------------------------------------------------

def _truth(cond: Any) -> bool:
    require(np.size(cond) == 1, f"the condition must have one element, not shape {list(np.shape(cond))}")
    return bool(np.asarray(cond).item())


def _declared_scalar_shape(value: Value) -> tuple[Dim, ...]:
    """() or, where the body declares its iteration number or condition as a vector, (1,): both occur in models."""
    return (1,) if value.shape is not None and len(value.shape) == 1 else ()


def _like_declared(scalar: Any, value: Value) -> np.ndarray:
    return np.asarray(scalar).reshape(_declared_scalar_shape(value))  # type: ignore[arg-type]


def _slices(x: np.ndarray, axis: int, reverse: int) -> np.ndarray:
    moved = np.moveaxis(x, normalize_axis(axis, x.ndim, "scan_input_axes"), 0)
    return moved[::-1] if reverse else moved


def _options(count: int, axes: Sequence[int], directions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(axis, direction) of each scanned input or output; both attributes default to all zero."""
    require(len(axes) in (0, count) and len(directions) in (0, count), f"scan axes {list(axes)} and directions {list(directions)} must have {count} elements or be absent")
    return zip(axes or [0] * count, directions or [0] * count, strict=True)


def _stack(items: list[Any], axis: int, value: Value) -> np.ndarray:
    """Scanned elements as one tensor. Without any, the inferred type of the element tells dtype and shape (sizes it does not know are 0)."""
    if items:
        shapes = {np.shape(item) for item in items}
        require(len(shapes) == 1, f"scan output '{value.name}' changes its shape between iterations: {sorted(shapes)[:4]}")
        return np.stack(items, normalize_axis(axis, np.ndim(items[0]) + 1, "scan_output_axes"))
    require(value.dtype is not None, f"there was no iteration and the element type of scan output '{value.name}' is not known; declare it in the body")
    assert value.dtype is not None
    shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
    shape.insert(normalize_axis(axis, len(shape) + 1, "scan_output_axes"), 0)
    return np.zeros(shape, value.dtype.numpy)


# -- shape rules -------------------------------------------------------------------------------------------------------------------------------

def _fixed_point(body: Graph, head: Sequence[Spec], initial: Sequence[Spec], tail: Sequence[Spec], infer: Infer, offset: int) -> tuple[list[Spec], list[Spec]]:
    """(Specs of the carried values after the loop, Specs of the body's outputs), with the body inferred for any iteration.

    The body's inputs are head, carried, tail; its outputs from `offset` on are the carried values. Each round either ends or makes a size or a rank
    unknown that was known, so it ends. Rounds multiply where loops are nested, so they are few (MAX_ROUNDS), and the carried shapes
    are given up after them.
    """
    declared = [(v, v.type) for g in body.graphs() for v in [*g.inputs, *(out for n in g.nodes for out in n.outputs)] if v is not None]
    varying: set[Dim] = set()

    def dim(now: Dim, then: Dim) -> Dim:
        if now == then or now in varying:
            return now
        size = fresh()
        varying.add(size)
        return size
    types = [s.as_type for s in initial]
    depth, first = _depth.get(), len(head)
    constant = [body.outputs[offset + i] is body.inputs[first + i] for i in range(len(types))]
    token = _depth.set(depth + 1)
    try:
        for rounds in itertools.count():
            for value, type in declared:
                value.type = type  # an earlier round recorded types that hold for its sizes only
            if rounds == MAX_ROUNDS >> 2 * depth:
                types = [map_shapes(t, lambda _: None) for t in types]
            given = [s if same else spec_of_type(t) for s, t, same in zip(initial, types, constant, strict=True)]
            made = infer(body, [*head, *given, *tail])
            joined = [join_types(t, m.as_type, dim) for t, m in zip(types, made[offset:offset + len(types)], strict=True)]
            if joined == types:
                break
            types = joined
    finally:
        _depth.reset(token)
    after = [s if same else spec_of_type(_after(t, varying)) for s, t, same in zip(initial, types, constant, strict=True)]
    return after, made


def _after(type: ValueType, varying: set[Dim]) -> ValueType:
    return map_dims(type, lambda d: fresh() if d in varying else d)


def _trip_count(M: Spec | None, cond: Spec | None, body_cond: Spec) -> Dim:
    """The number of iterations: known where `M` is and nothing can stop the loop earlier."""
    begins = True if cond is None else None if cond.constant is None else bool(np.all(cond.constant))
    if begins is False:
        return 0
    limit = None if M is None or M.ints is None or len(M.ints) != 1 else M.ints[0]
    goes_on = cond is None or (body_cond.constant is not None and bool(np.all(body_cond.constant)))
    if limit is None:
        return fresh()
    limit = dim_max(limit, 0)
    return limit if begins and goes_on else fresh(upper=limit)


def _scanned(element: Spec, count: Dim, axis: int, outer: set[str]) -> Spec:
    """The Spec of `count` elements stacked along `axis`. Sizes made inside the body get names of their own outside it."""
    require(element.type is None, f"scan outputs must be tensors, not {element}")
    if element.shape is None:
        return Spec(element.dtype)
    # Where there may be no round, nobody computes the sizes of an element: they are 0 then, unless they are numbers.
    rounds = provably(lambda: count >= 1)
    shape = [d if isinstance(d, int) or (rounds and anonymous(d) <= outer) else fresh() for d in element.shape]
    shape.insert(normalize_axis(axis, len(shape) + 1, "scan_output_axes"), count)
    return Spec(element.dtype, tuple(shape))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@If.lower
def _(k: Lowering, cond: View, *, then_branch: Graph, else_branch: Graph, out: Any) -> tuple[View, ...]:
    if cond.value is not None and not speaks_of_sizes(cond.value):
        return tuple(k.inline(then_branch if _truth(np.asarray(cond.value)) else else_branch, []))
    made = _made(k, _as_list(out))
    k.outside(Kernel.IF, [cond], [v for v in made if v is not None], [_only(k.body(g, []), made) for g in (then_branch, else_branch)])
    return tuple(made)  # type: ignore[arg-type]


def speaks_of_sizes(value: Any) -> bool:
    """Whether a known value is an expression of sizes, which only a run knows."""
    return any(isinstance(v, Expr) for v in np.asarray(value, object).ravel().tolist())


@Loop.lower
def _(k: Lowering, M: View | None = None, cond: View | None = None, *v_initial: View, body: Graph, out: Any) -> tuple[View, ...]:
    count = len(v_initial)
    specs = _as_list(out)
    lowered = k.body(body, [(DType.INT64, ()), (DType.BOOL, ()), *_types(body.inputs[2:], k)])
    made = _made(k, specs)
    stacks = len(body.outputs) - 1 - count
    k.outside(Kernel.LOOP, [M, cond, *v_initial], _wanted(k, made, lowered.outputs[1:], count), [lowered], [1, count, 0, stacks, *[0, 0] * stacks])
    return tuple(made)  # type: ignore[arg-type]


@Scan.lower
def _(k: Lowering, *initial_state_and_scan_inputs: View, body: Graph, num_scan_inputs: int, scan_input_axes: Sequence[int] = (), scan_input_directions: Sequence[int] = (),
      scan_output_axes: Sequence[int] = (), scan_output_directions: Sequence[int] = (), out: Any) -> tuple[View, ...]:
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    lowered = k.body(body, _types(body.inputs, k))
    made = _made(k, _as_list(out))
    flags = [0, count, num_scan_inputs, len(body.outputs) - count]
    for view, (axis, reverse) in zip(initial_state_and_scan_inputs[count:], _options(num_scan_inputs, scan_input_axes, scan_input_directions), strict=True):
        flags += [normalize_axis(axis, view.rank, "scan_input_axes"), reverse]
    for view, (axis, reverse) in zip(lowered.outputs[count:], _options(len(body.outputs) - count, scan_output_axes, scan_output_directions), strict=True):
        flags += [normalize_axis(axis, view.rank + 1, "scan_output_axes"), reverse]
    k.outside(Kernel.LOOP, [None, None, *initial_state_and_scan_inputs], _wanted(k, made, lowered.outputs, count), [lowered], flags)
    return tuple(made)  # type: ignore[arg-type]


def _as_list(out: Any) -> list[Spec | None]:
    return out if isinstance(out, list) else [out]


def _made(k: Lowering, specs: Sequence[Spec | None]) -> list[View | None]:
    """Buffers for the outputs the model uses."""
    return [None if s is None or s.dtype is None or s.shape is None else k.buffer(s.dtype, s.shape).whole() for s in specs]


def _only(body: Body, made: Sequence[View | None]) -> Body:
    """The body without the outputs the model does not use."""
    body.outputs = [v for v, wanted in zip(body.outputs, made, strict=False) if wanted is not None]
    return body


def _wanted(k: Lowering, made: Sequence[View | None], outputs: Sequence[View], count: int) -> list[View]:
    """An output for every carried and stacked value, those nobody uses included."""
    found = []
    for i, view in enumerate(outputs):
        known = made[i] if i < len(made) else None
        found.append(known if known is not None else k.buffer(view.dtype, view.shape if i < count else (0, *view.shape)).whole())
    return found


def _types(values: Sequence[Value], k: Lowering) -> list[tuple[DType, tuple[Dim, ...]]]:
    """Element type and shape of a body's inputs."""
    found = []
    for value in values:
        spec = k.spec(value)
        if spec.dtype is None or spec.shape is None or spec.dtype is DType.STRING:
            raise CannotLower(f"the body's input '{value.name}' is {spec}: programs take tensors of known rank")
        found.append((spec.dtype, spec.shape))
    return found
