"""Operands (views of GPU memory) and the spaces of positions kernels walk over.

A `Space` is a list of axes with, for each operand, the stride of every axis. Making one removes what costs divisions per element: axes of size 1 go, axes are put in the order of the
first operand's memory, and neighbours that every operand steps over evenly become one. All of it holds for every size the program may be bound to (equality of Dims), so the
shader is the same for all of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...dim import Dim, mod, product, substitute, symbols
from ...types import DType
from .storage import word_bytes


@dataclass(frozen=True)
class Operand:
    """A view: element (i, j, …) is element start + i·strides[0] + j·strides[1] + … of `buffer` (any key of the executor). `low`, `high`: where its integers lie."""

    buffer: Any
    dtype: DType
    dims: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    start: Dim = 0
    extent: Dim = 0
    packed: bool = False
    low: float = -math.inf
    high: float = math.inf
    packing: int = 0
    constant: bool = False
    half: bool = False     # memory of WGSL's f16, two bytes an element

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def element_bytes(self) -> int:
        """Bytes an element takes."""
        return 2 if self.half else word_bytes(self.dtype, self.packed)

    def pick(self, axes: Sequence[int]) -> Operand:
        """Axes in another order, or fewer of them (at position 0 of the others)."""
        return replace(self, dims=tuple(self.dims[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def spread(self, rank: int, axes: Sequence[int]) -> tuple[Dim, ...]:
        """Strides in a space of `rank` axes, where this operand's axes are `axes`; 0 elsewhere."""
        out: list[Dim] = [0] * rank
        for axis, size, stride in zip(axes, self.dims, self.strides, strict=True):
            out[axis] = 0 if size == 1 else stride
        return tuple(out)

    def split(self, axis: int, outer: Dim, inner: Dim) -> Operand:
        """Axis as two: outer · inner = its size. A broadcast axis stays one."""
        stride = self.strides[axis]
        one = self.dims[axis] == 1
        dims = (*self.dims[:axis], 1 if one else outer, 1 if one else inner, *self.dims[axis + 1:])
        return replace(self, dims=dims, strides=(*self.strides[:axis], stride * inner, stride, *self.strides[axis + 1:]))

    @property
    def is_dense(self) -> bool:
        """Whether element numbers in row-major order are positions from `start`."""
        return all(d == 1 or s == t for d, s, t in zip(self.dims, self.strides, dense(self.dims), strict=True))


@dataclass(frozen=True)
class Pooled:
    """A small constant that lies in a pool with others: a key of memory. `row`: which."""

    pool: str
    row: int


@dataclass(frozen=True)
class Part:
    """Elements `first` … of a constant that is too large for one binding: a key of memory."""

    whole: Any
    first: int
    count: int


class Temporary:
    """Memory between the dispatches of one step."""

    def __init__(self, dtype: DType, dims: Sequence[Dim]) -> None:
        self.dtype, self.count = dtype, product(dims)

    @classmethod
    def operand(cls, dtype: DType, dims: Sequence[Dim], low: float = -math.inf, high: float = math.inf) -> Operand:
        """A new temporary as a dense operand."""
        return Operand(cls(dtype, dims), dtype, tuple(dims), dense(dims), 0, product(dims), False, low, high)


def dense(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major strides."""
    out: list[Dim] = []
    step: Dim = 1
    for size in reversed(dims):
        out.insert(0, step)
        step = step * size
    return tuple(out)


def even(size: Dim) -> bool:
    """Whether a size is a multiple of 4 whatever the run's sizes are."""
    return bool(mod(size, 4) == 0)


def broadcast(operand: Operand, dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """The strides of an operand that broadcasts to `dims`, NumPy's rule."""
    skip = len(dims) - operand.rank
    return tuple(0 if i < skip or (operand.dims[i - skip] == 1 and d != 1) else operand.strides[i - skip] for i, d in enumerate(dims))


@dataclass
class Space:
    """`dims` of the walk and, for each operand, its strides. `where[a]`: the walk's axis that is the original axis a alone, None where a was merged or dropped."""

    dims: list[Dim]
    strides: list[list[Dim]]
    where: dict[int, int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, dims: Sequence[Dim], strides: Sequence[Sequence[Dim]], keep: set[int] | frozenset[int] = frozenset(), ordered: bool = False) -> Space:
        """The simplest space over `dims`; axes in `keep` stay alone, for their coordinates are asked for. `ordered`: positions keep their row-major numbers."""
        axes = [a for a, d in enumerate(dims) if d != 1 or a in keep]
        if strides and not ordered:
            axes.sort(key=lambda a: -_estimate(strides[0][a]))
        made = cls([], [[] for _ in strides], dict.fromkeys(range(len(dims))))
        alone = True
        for axis in axes:
            own = [s[axis] for s in strides]
            if made.dims and axis not in keep and not alone and all(s[-1] == o * dims[axis] for s, o in zip(made.strides, own, strict=True)):
                made.dims[-1] = made.dims[-1] * dims[axis]
                for s, o in zip(made.strides, own, strict=True):
                    s[-1] = o
                made.where = {a: None if w == len(made.dims) - 1 else w for a, w in made.where.items()}
                continue
            alone = axis in keep
            made.where[axis] = len(made.dims)
            made.dims.append(dims[axis])
            for s, o in zip(made.strides, own, strict=True):
                s.append(o)
        return made

    @property
    def count(self) -> Dim:
        """Number of positions."""
        return product(self.dims)


def _estimate(stride: Dim) -> float:
    """A number to order strides by; only speed depends on it."""
    return float(substitute(stride, {s.name: 16 for s in symbols(stride)}))
