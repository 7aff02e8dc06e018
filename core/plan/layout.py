"""Stage 4, layout: the physical order of every buffer's dims, and the few Copies that takes. Activations of Conv, Pool and Resize are channels-last.

Rules
1. Graph inputs, outputs and constants are row-major (constants of a Conv's weights are packed, see encode).
2. Conv and Pool read and write channels-last: their outputs (whole, or parts of a Concat) are given that order; an input whose channels are not innermost takes a Copy (one a
   buffer, shared by all readers). Dims of size 1 do not matter.
   A depthwise or pointwise Conv of stride 1 between a row-major input and a graph output stays row-major: the kernel takes that, and two copies cost more than it gains.
3. The output of any other kernel (or the buffer it writes a part of) takes the order of its first input that lies so and has the same dims, so channels-last runs through
   elementwise chains, slices and Concats.
   So does what a Copy writes that moves only the innermost dims (a channel shuffle).
4. An alias that splits channels, or joins dims that follow one another to channels, takes its source's order; otherwise it
   needs its source row-major: where it is not, the alias becomes a Copy. So does what an expression loads from by index.
"""
from __future__ import annotations

from dataclasses import replace

from ..dim import Dim
from ..kernels import Kernel
from ..lowering import Buffer, KernelCall, View, loaded
from ..model.packing import Packing
from ..types import DType
from .lower import Lowered
from .pack import choose

SPATIAL = frozenset({Kernel.CONV, Kernel.POOL})


def choose_layout(lowered: Lowered) -> None:
    """Set `buffer.order` everywhere and insert Copies."""
    calls: list[KernelCall] = []
    copies: dict[Buffer, Buffer] = {}
    outputs = {v.buffer for v in lowered.outputs}
    for call in lowered.calls:
        if call.kind is Kernel.CONV and _stays_row_major(call, outputs):
            calls.append(call)
            continue
        if call.kind in SPATIAL:                                                                          # 2
            view = call.inputs[0]
            assert view is not None
            call.inputs[0] = _channels_last_input(view, calls, copies, call)
            call.outputs = [_channels_last_output(v, outputs, calls) for v in call.outputs]
            calls.append(call)
            _flush(call, calls)
            continue
        if call.kind is None:                                                                             # 4
            _resolve_alias(call, calls)
            continue
        for out in call.outputs:                                                                          # 3
            if out.buffer.order is None and out.buffer not in outputs and out.buffer.port is None and _is_part(out):
                out.buffer.order = next((v.buffer.order for v in call.inputs if v is not None and _is_part(v) and v.shape == out.shape and v.buffer.order is not None), None)
        if call.kind is Kernel.COPY:                                                                      # 3
            _shuffled_order(call, outputs)
        if call.kind is Kernel.MAP:                                                                       # 4
            for i in loaded(call):
                view = call.inputs[i]
                if view is not None and not same_order(view.buffer.shape, view.buffer.order, None):
                    call.inputs[i] = _row_major(view, calls, call)
        calls.append(call)
    lowered.calls = calls


def channels_last(rank: int) -> tuple[int, ...]:
    """N, spatial…, C."""
    return (0, *range(2, rank), 1)


def same_order(shape: tuple[Dim, ...], a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> bool:
    """Whether two orders lay memory out alike: dims of size 1 do not matter."""
    row_major = tuple(range(len(shape)))
    return [d for d in a or row_major if shape[d] != 1] == [d for d in b or row_major if shape[d] != 1]


def _is_part(view: View) -> bool:
    """Whether axis i runs along dim i, for all dims: the whole buffer or a slice of it."""
    return len(view.axes) == len(view.buffer.shape) and all(a.dim == i for i, a in enumerate(view.axes))


def _channels_innermost(view: View) -> bool:
    """Whether axis 1 runs along the innermost dim, one element after the other."""
    dims = [a.dim for a in view.axes if a.dim is not None]
    if len(set(dims)) < len(dims):
        return False
    inner = [d for d in view.buffer.order or range(len(view.buffer.shape)) if view.buffer.shape[d] != 1]
    return view.is_whole and not inner or bool(inner) and view.axes[1].dim == inner[-1] and view.axes[1].step == 1


def _stays_row_major(call: KernelCall, outputs: set[Buffer]) -> bool:                                      # 2
    """Whether core/engine/src/conv_rows.c computes this Conv as it lies."""
    x, w, y = call.inputs[0], call.inputs[1], call.outputs[0]
    assert x is not None and w is not None
    views = (x, w, y, *(v for v in call.inputs[call.first_leaf:] if call.epilogue and v is not None))
    if any(v.dtype is not DType.FLOAT for v in (x, w, y)) or not (x.is_whole and y.is_whole and x.rank in (3, 4)) or y.buffer not in outputs:
        return False
    if not all(same_order(v.buffer.shape, v.buffer.order, None) for v in views):
        return False
    channels, group = x.shape[1], call.params.get("group", 1)
    ones = all(n == 1 for name in ("strides", "dilations") for n in call.params.get(name, ()))
    if call.params.get("transposed") or not ones or not isinstance(channels, int) or channels < 2:
        return False
    packing = choose(call)
    point = all(d == 1 for d in w.shape[2:]) and not any(call.params.get("pads", ())) and x.shape[2:] == y.shape[2:]
    return packing is Packing.DEPTHWISE and group == channels == y.shape[1] or packing is Packing.CONV and group == 1 and point


def _channels_last_input(view: View, calls: list[KernelCall], copies: dict[Buffer, Buffer], call: KernelCall) -> View:
    wanted = channels_last(view.rank)
    if _channels_innermost(view) or view.is_whole and same_order(view.buffer.shape, view.buffer.order, wanted):
        return view
    if view.is_whole and view.buffer in copies:
        return copies[view.buffer].whole()
    made = Buffer(f"{view.buffer.name}.nhwc", view.dtype, view.shape)
    made.order = wanted
    calls.append(KernelCall(Kernel.COPY, [view, None], [made.whole()], {"mode": 0, "begin": [0] * view.rank}, origin=call.origin))
    if view.is_whole:
        copies[view.buffer] = made
    return made.whole()


def _channels_last_output(view: View, outputs: set[Buffer], calls: list[KernelCall]) -> View:
    wanted = channels_last(view.rank)
    if _is_part(view) and view.buffer.order is None and view.buffer not in outputs and view.buffer.port is None:
        view.buffer.order = wanted
    if _channels_innermost(view) or view.is_whole and same_order(view.buffer.shape, view.buffer.order, wanted):
        return view
    made = Buffer(f"{view.buffer.name}.nhwc", view.dtype, view.shape)
    made.order = wanted
    return replace(made.whole(), value=view)


def _flush(call: KernelCall, calls: list[KernelCall]) -> None:
    """Copy outputs that were written to a channels-last stand-in to where they belong."""
    for i, out in enumerate(call.outputs):
        if isinstance(out.value, View):
            calls.append(KernelCall(Kernel.COPY, [out.buffer.whole(), None], [out.value], {"mode": 0, "begin": [0] * out.rank}, origin=call.origin))
            call.outputs[i] = out.buffer.whole()


def _resolve_alias(call: KernelCall, calls: list[KernelCall]) -> None:
    source, target = call.inputs[0], call.outputs[0]
    assert source is not None
    if same_order(source.buffer.shape, source.buffer.order, None):
        return
    if source.is_whole and target.is_whole and target.buffer.alias is source.buffer and target.buffer.order is None:
        target.buffer.order = reshaped_order(source.buffer.shape, source.buffer.order or (), target.buffer.shape)
        if target.buffer.order is not None:
            return
    target.buffer.alias = _row_major(source, calls, call).buffer


def reshaped_order(shape: tuple[Dim, ...], order: tuple[int, ...], wanted: tuple[Dim, ...]) -> tuple[int, ...] | None:      # 4
    """The order of the same memory under other dims where channels alone are split or joined, else None. Dims are matched in groups of equal products, from the left."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) and j < len(wanted):
        here, there = [i], [j]
        a, b = shape[i], wanted[j]
        while a != b:
            if not isinstance(a, int) or not isinstance(b, int) or 0 in (a, b):
                return None
            if a < b:
                i += 1
                if i == len(shape) or not isinstance(shape[i], int):
                    return None
                here.append(i)
                a *= shape[i]
            else:
                j += 1
                if j == len(wanted) or not isinstance(wanted[j], int):
                    return None
                there.append(j)
                b *= wanted[j]
        groups.append((here, there))
        i, j = i + 1, j + 1
    if i < len(shape) or j < len(wanted) or not all(len(here) == len(there) == 1 or here == [1] or there == [1] for here, there in groups):
        return None
    made: list[int] = []
    place = {dim: n for n, dim in enumerate(order)}
    by_first = {here[0]: (here, there) for here, there in groups}
    if any(place[b] != place[a] + 1 for here, _ in groups for a, b in zip(here, here[1:], strict=False)):
        return None
    for dim in order:
        if dim in by_first:
            made += by_first[dim][1]
    return tuple(made)


def _shuffled_order(call: KernelCall, outputs: set[Buffer]) -> None:                                       # 3
    view, out = call.inputs[0], call.outputs[0]
    assert view is not None
    order = view.buffer.order
    if call.params.get("mode") or order is None or view.fixed or not out.is_whole or out.buffer.order is not None or out.buffer in outputs or out.buffer.port is not None:
        return
    dims = [a.dim for a in view.axes]
    if sorted(d if d is not None else -1 for d in dims) != list(range(len(view.buffer.shape))) or any(a.start != 0 or a.step != 1 or a.size != view.buffer.shape[a.dim] for a in view.axes):  # type: ignore[index]
        return
    moved = [i for i, d in enumerate(dims) if d != i]
    if moved and list(order[-len(moved):]) == moved:
        out.buffer.order = order


def _row_major(view: View, calls: list[KernelCall], call: KernelCall) -> View:
    made = Buffer(f"{view.buffer.name}.rows", view.dtype, view.buffer.shape)
    calls.append(KernelCall(Kernel.COPY, [view, None], [made.whole()], {"mode": 0, "begin": [0] * view.rank}, origin=call.origin))
    return made.whole()
