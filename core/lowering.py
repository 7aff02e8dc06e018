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

from .dim import Dim, Shape, product
from .errors import NotImplemented as NotImplementedHere
from .expr import E, acc, cast, compute_type, leaf
from .graph import Tensor
from .kernels import Kernel
from .types import DType


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


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a view: `size` positions along buffer dim `dim` from `start` by `step`; dim None repeats one element."""

    size: Dim
    dim: int | None
    start: Dim = 0
    step: int = 1


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
        return not self.fixed and len(self.axes) == len(self.buffer.shape) and all(a.dim == i and a.start == 0 and a.step == 1 and a.size == d for i, (a, d) in enumerate(zip(self.axes, self.buffer.shape, strict=True)))

    def permute(self, order: Sequence[int]) -> View:
        """Axes in another order (Transpose)."""
        return replace(self, axes=tuple(self.axes[i] for i in order), value=None)

    def expand(self, shape: Sequence[Dim]) -> View:
        """Broadcast to a shape, NumPy's rule."""
        missing = len(shape) - len(self.axes)
        axes = [Axis(d, None) for d in shape[:missing]]
        for axis, size in zip(self.axes, shape[missing:], strict=True):
            if axis.size == size:
                axes.append(axis)
            else:
                axes.append(Axis(size, None) if axis.size == 1 else replace(axis, size=size))
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

    def __repr__(self) -> str:
        name = self.kind.name.lower() if self.kind is not None else "alias"
        text = f"{', '.join(map(repr, (v.buffer for v in self.outputs)))} = {name}({', '.join('_' if v is None else repr(v.buffer) for v in self.inputs)})"
        return text + (f" {{{'; '.join(map(str, self.epilogue))}}}" if self.epilogue else "")


class CannotLower(NotImplementedHere):
    """A rule's way to say that this node, with these attributes or types, has no kernels (yet): the node runs elsewhere, with this reason."""


class Lowering:
    """Collects the kernel calls of a graph; given to lowering rules as `k`."""

    def __init__(self) -> None:
        self.calls: list[KernelCall] = []
        self.origin: tuple[str, ...] = ()
        self.name = ""
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

    def call(self, kind: Kernel, inputs: Sequence[View | None], outputs: Sequence[View], *, prologue: E | None = None, epilogue: Sequence[E] = (), first_leaf: int = 0, **params: Any) -> KernelCall:
        """Add a kernel call."""
        made = KernelCall(kind, list(inputs), list(outputs), params, prologue, list(epilogue), first_leaf, self.origin)
        self.calls.append(made)
        return made

    def map(self, function: Callable[..., E], *views: View, dtype: DType, shape: Sequence[Dim] | None = None) -> View:
        """y = function(leaf of each view) over the broadcast shape, stored as `dtype`."""
        shape = tuple(shape) if shape is not None else _broadcast([v.shape for v in views])
        out = self.buffer(dtype, shape).whole()
        result = function(*(leaf(i, v.dtype) for i, v in enumerate(views)))
        self.call(Kernel.MAP, [v.expand(shape) for v in views], [out], epilogue=[cast(result, compute_type(dtype))])
        return out

    def copy(self, view: View) -> View:
        """The view as a whole buffer of its own."""
        if view.is_whole:
            return view
        out = self.buffer(view.dtype, view.shape).whole()
        self.call(Kernel.COPY, [view, None], [out], mode=0, begin=[0] * view.rank)
        return out

    def reshape(self, view: View, shape: Sequence[Dim]) -> View:
        """The elements in row-major order under other dims. Free where the memory is row-major."""
        whole = self.copy(view)
        made = Buffer(f"{self.name}.{self._count}", view.dtype, tuple(shape), alias=whole.buffer)
        self._count += 1
        self.calls.append(KernelCall(None, [whole], [made.whole()], origin=self.origin))
        return replace(made.whole(), value=None)

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
