"""What an operator is lowered to: kernels on views of buffers. Between the Graph and a Program; device-neutral, no layout, tiles or packing.

How to think
- A `Buffer` is a logical tensor that will have memory: dtype, dims (Dims), and later a physical order of its dims (`order`, chosen by the layout stage).
- A `View` is a window on a buffer: each of its axes runs along one dim of the buffer (or along none: broadcast), with a start and a step. Transpose, Slice, Expand, Squeeze,
  Unsqueeze, Split and Concat are view arithmetic and move nothing; strides exist only when the program is encoded.
- A `KernelCall` is one kernel of `kernels.RECORDS` with views, parameters and expressions.
- `Lowering` is what an operator's `@Op.lower` rule gets as first argument: it makes buffers and calls. A rule takes Views where the body takes arrays and returns Views.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .dim import Dim, Expr, Shape, bounds, dim_min, product, symbols
from .errors import NotImplemented as NotImplementedHere
from .expr import Compute, E, Op, acc, cast, compute_type, leaf, substitute
from .graph import Node, Tensor, Value
from .kernels import Kernel
from .types import DType, TensorType


class Buffer:
    """A logical tensor with memory. `tensor`: its constant, if it is one. `port`: (\"input\" or \"output\", number). `alias`: the buffer whose memory it re-reads with other dims."""

    __slots__ = ("name", "dtype", "shape", "tensor", "port", "alias", "order", "packing")

    def __init__(self, name: str, dtype: DType, shape: Shape, *, tensor: Tensor | None = None, port: tuple[str, int] | None = None, alias: Buffer | None = None) -> None:
        self.name, self.dtype, self.shape, self.tensor, self.port, self.alias = name, dtype, tuple(shape), tensor, port, alias
        self.order: tuple[int, ...] | None = None   # physical order of the dims, outermost first; None: not chosen (row-major unless the layout stage says otherwise)
        self.packing = 0

    def whole(self) -> View:
        """The view of all of it."""
        return View(self, tuple(Axis(size, dim) for dim, size in enumerate(self.shape)))

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype.text}[{', '.join(map(str, self.shape))}]"


class Opaque(Buffer):
    """What no program holds (strings, a sequence, a map, a tensor of unknown rank): only nodes of the host read and write it, and control flow hands it on."""

    def __init__(self, name: str) -> None:
        super().__init__(name, DType.STRING, ())


def root(buffer: Buffer) -> Buffer:
    """The buffer whose memory this one uses."""
    while buffer.alias is not None:
        buffer = buffer.alias
    return buffer


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a view: `size` positions along buffer dim `dim` from `start` by `step`; dim None repeats one element. Several axes may run along one dim (a dim split in two)."""

    size: Dim
    dim: int | None
    start: Dim = 0
    step: Dim = 1


@dataclass(frozen=True, slots=True)
class View:
    """A window on a buffer. `fixed`: (dim, position) of buffer dims no axis runs along, where the position is not 0."""

    buffer: Buffer
    axes: tuple[Axis, ...]
    fixed: tuple[tuple[int, Dim], ...] = ()
    value: Any = field(default=None, compare=False)     # the known value (Spec.value), for rules that need it at planning

    @property
    def shape(self) -> Shape:
        return tuple(a.size for a in self.axes)

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole buffer, axis by axis."""
        shape = self.buffer.shape
        if self.fixed or len(self.axes) != len(shape):
            return False
        return all(axis.dim == dim and axis.size == shape[dim] and axis.start == 0 and axis.step == 1 for dim, axis in enumerate(self.axes))

    def places(self, strides: Sequence[Dim]) -> tuple[Dim, tuple[Dim, ...]]:
        """Where the first element lies, and the stride of each axis (0: it repeats), in a buffer whose dims have these strides."""
        start: Dim = 0
        for dim, position in self.fixed:
            start = start + strides[dim] * position
        for axis in self.axes:
            if axis.dim is not None:
                start = start + strides[axis.dim] * axis.start
        return start, tuple(0 if a.dim is None else strides[a.dim] * a.step for a in self.axes)

    def permute(self, order: Sequence[int]) -> View:
        """Axes in another order (Transpose)."""
        return replace(self, axes=tuple(self.axes[i] for i in order), value=None)

    def expand(self, shape: Sequence[Dim]) -> View:
        """Broadcast to a shape, NumPy's rule. A symbolic size that may be 1 steps by min(size - 1, 1): the run decides whether it repeats."""
        missing = len(shape) - len(self.axes)
        axes = [Axis(d, None) for d in shape[:missing]]
        for axis, size in zip(self.axes, shape[missing:], strict=True):
            if axis.size == size:
                axes.append(axis)
            elif axis.size == 1:
                axes.append(Axis(size, None))
            else:
                axes.append(replace(axis, size=size, step=axis.step * dim_min(axis.size - 1, 1) if _may_be_one(axis.size) else axis.step))
        view = replace(self, axes=tuple(axes), value=None)
        return view._fix([a for a, size in zip(self.axes, shape[missing:], strict=True) if a.size == 1 and size != 1])

    def _fix(self, dropped: Sequence[Axis]) -> View:
        more = tuple((a.dim, a.start) for a in dropped if a.dim is not None and a.start != 0)
        return replace(self, fixed=self.fixed + more) if more else self

    def slice(self, axis: int, start: Dim, size: Dim, step: int = 1) -> View:
        """`size` positions along `axis` from `start` by `step`."""
        old = self.axes[axis]
        new = replace(old, size=size, start=old.start + start * old.step, step=old.step * step)
        return replace(self, axes=(*self.axes[:axis], new, *self.axes[axis + 1:]), value=None)

    def unsqueeze(self, axis: int) -> View:
        """Insert an axis of size 1."""
        return replace(self, axes=(*self.axes[:axis], Axis(1, None), *self.axes[axis:]))

    def squeeze(self, axis: int) -> View:
        """Drop an axis of size 1."""
        return replace(self, axes=(*self.axes[:axis], *self.axes[axis + 1:]))._fix([self.axes[axis]])

    def split(self, axis: int, *sizes: Dim) -> View:
        """An axis as several, the last the fastest; their sizes multiply to its size."""
        old = self.axes[axis]
        made: list[Axis] = []
        step = old.step
        for size in reversed(sizes):
            made.insert(0, Axis(size, old.dim, 0, step))
            step = step * size
        made[0] = replace(made[0], start=old.start)
        return replace(self, axes=(*self.axes[:axis], *made, *self.axes[axis + 1:]), value=None)

    def frames(self, axis: int, count: Dim, step: Dim, length: Dim) -> View:
        """An axis as `count` frames of `length` positions each, `step` apart: two axes that may overlap (to be read, not written)."""
        old = self.axes[axis]
        made = (replace(old, size=count, step=old.step * step), replace(old, size=length, start=0))
        return replace(self, axes=(*self.axes[:axis], *made, *self.axes[axis + 1:]), value=None)

    def refined(self, shape: Sequence[Dim]) -> View | None:
        """The same elements under `shape`, if that only splits axes and inserts or drops axes of size 1; else None."""
        axes: list[Axis] = []
        rest = list(shape)
        for axis in self.axes:
            parts: list[Dim] = []
            while rest and product(parts) != axis.size:
                parts.append(rest.pop(0))
            if axis.size == 1 and not parts:
                continue
            if product(parts) != axis.size:
                return None
            axes += View(self.buffer, (axis,)).split(0, *parts).axes if parts else (axis,)
        if any(size != 1 for size in rest):
            return None
        kept = tuple(Axis(1, None) if a.size == 1 and a.start == 0 else a for a in axes) + tuple(Axis(1, None) for _ in rest)
        return replace(self, axes=kept, value=None)._fix([a for a in self.axes if a.size == 1])


def _may_be_one(size: Dim) -> bool:
    if not isinstance(size, Expr):
        return size == 1
    low = bounds(size)[0]
    return low is None or low < 2


@dataclass(eq=False)
class KernelCall:
    """One kernel. `epilogue`: an expression per output over leaves = `inputs[first_leaf:]` and acc; for MAP the expressions themselves (first_leaf 0).
    `ALIAS` calls (kind None) say that the output's buffer re-reads the input's memory in row-major order; the layout stage makes them aliases or copies."""

    kind: Kernel | None
    inputs: list[View | None]
    outputs: list[View]
    params: dict[str, Any] = field(default_factory=dict)
    prologue: E | None = None
    epilogue: list[E] = field(default_factory=list)
    first_leaf: int = 0
    origin: tuple[str, ...] = ()
    beside: bool = False   # the device planned for refuses it: it runs on the engine
    settled: Any = None     # the epilogue and inputs that the stage `fold` has nothing to do for

    def __repr__(self) -> str:
        name = self.kind.name.lower() if self.kind is not None else "alias"
        text = f"{', '.join(map(repr, (v.buffer for v in self.outputs)))} = {name}({', '.join('_' if v is None else repr(v.buffer) for v in self.inputs)})"
        return text + (f" {{{'; '.join(map(str, self.epilogue))}}}" if self.epilogue else "")


@dataclass(eq=False)
class Body:
    """A nested graph, lowered: calls that make `outputs` from the buffers `inputs`, and from any buffer of the graphs around it, which are captured."""

    inputs: list[Buffer]
    calls: list[KernelCall]
    outputs: list[View]


@dataclass(eq=False)
class Outside(KernelCall):
    """A call that no program makes (kind None): the stage `cut` makes it a segment of its own.

    Control flow has `bodies`: If's two (inputs: the condition), Loop's and Scan's one (inputs as Segment's LOOP says, captured ones excepted; `flags` its params).
    A node of the host has `node`; `values` are what its `inputs` are called there."""

    bodies: list[Body] = field(default_factory=list)
    flags: tuple[int, ...] = ()
    node: Any = None
    values: list[Any] = field(default_factory=list)


def is_alias(call: KernelCall) -> bool:
    """Whether the call only says that a buffer re-reads the memory of another."""
    return call.kind is None and not isinstance(call, Outside)


def loaded(call: KernelCall) -> set[int]:
    """Numbers of the operands a Map loads from by index: they lie in memory row-major and are read whole."""
    found: set[int] = set()
    for expression in call.epilogue:
        substitute(expression, lambda node: found.add(call.first_leaf + node.data) if node.op is Op.LOAD else None)
    return found


@dataclass(frozen=True, slots=True)
class Quantized:
    """Integers that stand for (values - zero) · scale. `scale` and `zero` have one element, or one for each index of `axis`."""

    values: View
    scale: View
    zero: View | None
    axis: int | None


class CannotLower(NotImplementedHere):
    """A rule's way to say that this node, with these attributes or types, has no kernels (yet): the node runs elsewhere, with this reason."""


def _no_graphs(graph: Any, views: Any) -> Any:
    raise CannotLower("a nested graph")


class Lowering:
    """Collects the kernel calls of a graph; given to lowering rules as `k`."""

    def __init__(self) -> None:
        self.calls: list[KernelCall] = []
        self.origin: tuple[str, ...] = ()
        self.name = ""
        self.inline: Callable[[Any, Sequence[View]], list[View]] = _no_graphs   # (nested graph, views of its inputs) → views of its outputs; set by the lower stage
        self.nested: Callable[[Any, Sequence[View]], tuple[list[KernelCall], list[View]]] = _no_graphs  # the same as calls of their own; set by the lower stage
        self.spec: Callable[[Any], Any] = lambda value: None                                         # Value → Spec, for rules that look into nested graphs; set by the lower stage
        self.decided: dict[str, tuple[View, int]] = {}   # symbol → the element that is its number
        self.sizes: dict[Buffer, Any] = {}      # buffers nobody has computed: their elements are known sizes (numbers and Dims)
        self.quantized: dict[Buffer, Quantized] = {}    # what a DequantizeLinear's result was made from: products of integers need no floats
        self.host = False       # whether nodes of the host may stand beside programs
        self._count = 0

    # -- making ------------------------------------------------------------------------------------------------------------------------------
    def buffer(self, dtype: DType, shape: Sequence[Dim]) -> Buffer:
        """A new intermediate buffer."""
        self._count += 1
        return Buffer(f"{self.name}.{self._count}", dtype, tuple(shape))

    def constant(self, array: Any, dtype: DType | None = None) -> View:
        """A constant made by a rule (an ndarray)."""
        tensor = Tensor(array, dtype=dtype)
        self._count += 1
        return replace(Buffer(f"{self.name}.c{self._count}", tensor.dtype, tensor.shape, tensor=tensor).whole(), value=array if array.size <= 64 else None)

    def sized(self, sizes: Sequence[Dim]) -> View:
        """Sizes as an int64 vector that kernels read."""
        value = np.empty(len(sizes), object)
        value[:] = sizes
        if all(isinstance(d, int) for d in sizes):
            return self.constant(value.astype(np.int64))
        made = self.buffer(DType.INT64, (len(sizes),))
        self.sizes[made] = value
        return replace(made.whole(), value=value)

    def call(self, kind: Kernel, inputs: Sequence[View | None], outputs: Sequence[View], *, prologue: E | None = None, epilogue: Sequence[E] = (), first_leaf: int = 0, **params: Any) -> KernelCall:
        """Add a kernel call."""
        made = KernelCall(kind, list(inputs), list(outputs), params, prologue, list(epilogue), first_leaf, self.origin)
        self.calls.append(made)
        return made

    def map(self, function: Callable[..., E], *views: View, dtype: DType, shape: Sequence[Dim] | None = None, tables: Sequence[View] = (), out: View | None = None) -> View:
        """y = function(leaf of each view) over the broadcast shape, stored as `dtype`. `tables` are operands after the views, whole, that the expression `load`s from.
        `out`: the view to write, where it is not a new buffer."""
        shape = out.shape if out is not None else tuple(shape) if shape is not None else _broadcast([v.shape for v in views])
        out = self.buffer(dtype, shape).whole() if out is None else out
        result = function(*(leaf(i, v.dtype) for i, v in enumerate(views)))
        self.call(Kernel.MAP, [*(v.expand(shape) for v in views), *(self.copy(t) for t in tables)], [out], epilogue=[cast(result, compute_type(dtype))])
        return out

    def copy(self, view: View) -> View:
        """The view as a whole buffer of its own."""
        return view if view.is_whole else self.move(view, self.buffer(view.dtype, view.shape).whole())

    def move(self, view: View, target: View, mode: int = 0, begin: Sequence[Dim] = (), value: View | None = None) -> View:
        """Copy a view's elements to where `target` looks; `mode` and `begin` as the COPY record says."""
        self.call(Kernel.COPY, [view, value], [target], mode=mode, begin=list(begin) or [0] * view.rank)
        return target

    def decide(self, size: Dim, view: View, element: int = 0) -> None:
        """The anonymous symbol `size` (of an output's dims) is element `element`, in row-major order, of an integer view that the calls so far compute: what uses the symbol runs
        after them, in another program, which binds it. A size the model declares as a number is taken at its word."""
        names = symbols(size)
        if not names:
            return
        assert len(names) == 1 and view.dtype in (DType.INT64, DType.INT32), f"{size} is not one symbol, or {view.dtype.text} does not decide sizes"
        whole = self.copy(view) if view.buffer.tensor is None else self.port(view)
        self.decided[next(iter(names)).name] = (root(whole.buffer).whole(), element)

    def port(self, view: View) -> View:
        """The view as what can cross from one program to another, or a copy of it: a whole buffer with memory of its own."""
        buffer = view.buffer
        if isinstance(buffer, Opaque) or view.is_whole and buffer.alias is None and buffer.tensor is None:
            return view
        return self.move(view, self.buffer(view.dtype, view.shape).whole())

    def outside(self, kind: Kernel, inputs: Sequence[View | None], outputs: Sequence[View], bodies: Sequence[Body], flags: Sequence[int] = ()) -> None:
        """Add control flow; `inputs` are made whole buffers."""
        given = [None if v is None else self.port(v) for v in inputs]
        self.calls.append(Outside(kind, given, list(outputs), origin=self.origin, bodies=list(bodies), flags=tuple(flags)))

    def body(self, graph: Any, inputs: Sequence[tuple[DType, Shape]]) -> Body:
        """A nested graph, to run by itself, for inputs of these types."""
        buffers = [Buffer(f"{self.name}.{value.name}", dtype, shape) for value, (dtype, shape) in zip(graph.inputs, inputs, strict=True)]
        calls, outputs = self.nested(graph, [b.whole() for b in buffers])
        return Body(buffers, calls, outputs)

    def reshape(self, view: View, shape: Sequence[Dim]) -> View:
        """The elements in row-major order under other dims. Free where the memory is row-major, or where axes are only split."""
        shape = tuple(shape)
        if view.shape == shape:
            return view
        if not view.is_whole:
            found = view.refined(shape)
            if found is not None:
                return found
        return self._alias(self.copy(view), view.dtype, shape)

    def reinterpret(self, view: View, dtype: DType) -> View:
        """The same bytes as another element type of equal width."""
        whole = self.copy(view)
        return self._alias(whole, dtype, whole.shape)

    def integers(self, view: View) -> Quantized | None:
        """The integers a view was dequantised from, under the view's axes; None where it was not, or where they do not lie so."""
        found = self.quantized.get(view.buffer)
        if found is None or view.fixed or not (view.is_whole or found.values.is_whole):
            return None
        if view.is_whole:
            return found
        dims = [a.dim for a in view.axes]
        if found.axis is not None and (dims.count(found.axis) != 1 or view.axes[dims.index(found.axis)].size != found.values.shape[found.axis]):
            return None
        return replace(found, values=replace(view, buffer=found.values.buffer, value=None), axis=None if found.axis is None else dims.index(found.axis))

    def _alias(self, whole: View, dtype: DType, shape: Shape) -> View:
        self._count += 1
        made = Buffer(f"{self.name}.{self._count}", dtype, shape, alias=whole.buffer)
        self.calls.append(KernelCall(None, [whole], [made.whole()], origin=self.origin))
        return made.whole()

    def reduce(self, op: int, x: View, axes: Sequence[int], dtype: DType, prologue: Callable[..., E] | None = None, epilogue: Callable[..., E] | None = None,
               leaves: Sequence[View] = (), after: Sequence[View] = (), last: int = 0) -> View:
        """x reduced over `axes`, which stay with size 1. op: the REDUCE record's. prologue(x, *leaves) gives the value to reduce (leaves broadcast to x), epilogue(acc, *after) the result."""
        shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
        out = self.buffer(dtype, shape).whole()
        inputs = [x, *(v.expand(x.shape) for v in leaves), *(v.expand(shape) for v in after)]
        before = prologue(*(leaf(i, v.dtype) for i, v in enumerate(inputs[:1 + len(leaves)]))) if prologue is not None else leaf(0, x.dtype)
        total = E(Op.ACC, Compute.I64 if op in (4, 5) else before.type)
        result = epilogue(total, *(leaf(1 + len(leaves) + i, v.dtype) for i, v in enumerate(after))) if epilogue is not None else total
        finished = [] if result is total and total.type is compute_type(dtype) else [cast(result, compute_type(dtype))]
        self.call(Kernel.REDUCE, inputs, [out], prologue=before if prologue is not None else None, epilogue=finished, op=op, axes=sum(1 << a for a in axes), last=last)
        return out

    def hosted(self, domain: str, op_type: str, dtype: DType, shape: Shape) -> View:
        """What an operator of the host without inputs makes in every run, before the program that reads it."""
        if not self.host:
            raise CannotLower("it draws from the run's random numbers, which a stored program has none of; give the node a seed")
        self._count += 1
        value = Value(f"{self.name}.{self._count}", TensorType(dtype, tuple(shape)))
        made = Buffer(value.name, dtype, shape).whole()
        self.calls.append(Outside(None, [], [made], origin=self.origin, node=Node(op_type, [], [value], domain=domain, name=value.name, origin=self.origin)))
        return made

    def matmul(self, a: View, b: View, dtype: DType, shape: Sequence[Dim], epilogue: Callable[..., E] | None = None, leaves: Sequence[View] = ()) -> View:
        """out[..., M, N]; `epilogue(acc, *leaves)` where given, leaves broadcast to the output."""
        out = self.buffer(dtype, shape).whole()
        expression = [cast(epilogue(acc(dtype), *(leaf(i, v.dtype) for i, v in enumerate(leaves))), compute_type(dtype))] if epilogue else []
        self.call(Kernel.MATMUL, [a, b, *(v.expand(tuple(shape)) for v in leaves)], [out], epilogue=expression, first_leaf=2, zero_a=-1, zero_b=-1)
        return out


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    out: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = [s[axis] for s in shapes if len(s) >= -axis and s[axis] != 1]
        out.append(sizes[0] if sizes else 1)
    return tuple(out)


def element_count(view: View) -> Dim:
    """Number of elements."""
    return product(view.shape)
