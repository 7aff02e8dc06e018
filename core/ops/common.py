"""Small pieces several operator families share: broadcasting, axes, reading known values, common shape rules."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, Shape, Undecidable, dim_max, dim_min, fresh, product, provably, symbols
from ..types import DType
from .registry import Spec, require


def broadcast_shapes(*shapes: Shape | None) -> Shape | None:
    """NumPy's broadcasting over Dims. A symbolic size against 1 is that size; two different symbolic sizes are taken to be equal or 1: their maximum."""
    if any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    rank = max((len(s) for s in known), default=0)
    out: list[Dim] = []
    for axis in range(-rank, 0):
        sizes = [s[axis] for s in known if len(s) >= -axis]
        out.append(_broadcast_sizes(sizes, known))
    return tuple(out)


def _broadcast_sizes(sizes: Sequence[Dim], shapes: Sequence[Shape]) -> Dim:
    distinct = list(dict.fromkeys(d for d in sizes if d != 1))
    if not distinct:
        return 1
    numbers = [d for d in distinct if isinstance(d, int)]
    if len(numbers) > 1:  # the message is made only where it is needed: printing symbolic sizes takes longer than all the rest
        require(False, f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast: sizes {' and '.join(map(str, numbers))} differ")
    if numbers:
        return numbers[0]  # a symbolic size here must be equal to it or 1
    if len(distinct) == 1:
        return distinct[0]
    made = dim_max(*distinct)  # equal where the model is right, or one of them is 1
    if any(map(data_decide, distinct)):  # unlike a size that the model names, one that data give is often 0, against which 1 is 0 too
        for size in distinct:
            made = made * dim_min(size, 1)
    return made


def data_decide(size: Dim) -> bool:
    """Whether a size speaks of an element of a tensor (`?x[0]`) or of a size that a node makes (`?x.0`: what an If's branches or a Compress leave)."""
    return any(s.name.startswith("?") and (s.name.endswith("]") or s.name.rpartition(".")[2].isdigit()) for s in symbols(size))


def same_type(*specs: Spec | None, names: str = "inputs") -> DType | None:
    """The common dtype of the present specs; InvalidGraph where they differ."""
    found = None
    for spec in specs:
        if spec is None or spec.dtype is None:
            continue
        if found not in (None, spec.dtype):  # as above: no message is made in vain
            require(False, f"{names} must have one element type, not {', '.join(str(s) for s in specs if s is not None)}")
        found = spec.dtype
    return found


def normalize_axis(axis: int, rank: int, name: str = "axis") -> int:
    """A possibly negative axis → 0 ≤ axis < rank."""
    require(-rank <= axis < rank, f"{name} {axis} is out of range for rank {rank}: it must be in [{-rank}, {rank - 1}]")
    return axis % rank


def normalize_axes(axes: Sequence[int], rank: int, name: str = "axes") -> list[int]:
    """As `normalize_axis` for several distinct axes, order kept."""
    out = [normalize_axis(int(a), rank, name) for a in axes]
    require(len(set(out)) == len(out), f"{name} {list(axes)} repeat an axis")
    return out


def known_axes(axes: Spec, rank: int) -> list[int] | None:
    """The value of an `axes` input, normalized; None where it is not known."""
    found = axes.ints
    return None if found is None or not all(isinstance(a, int) for a in found) else normalize_axes(found, rank)  # type: ignore[arg-type]


def like(X: Spec, *_: Spec | None, **__: Any) -> Spec:
    """Shape rule: the output has the first input's dtype and shape."""
    return Spec(X.dtype, X.shape)


def broadcasting(*inputs: Spec, **_: Any) -> Spec:
    """Shape rule: all inputs have one dtype and broadcast."""
    return Spec(same_type(*inputs), broadcast_shapes(*(s.shape for s in inputs)))


def comparing(*inputs: Spec, **_: Any) -> Spec:
    """Shape rule: inputs of one dtype broadcast to bool."""
    same_type(*inputs)
    return Spec(DType.BOOL, broadcast_shapes(*(s.shape for s in inputs)))


def size_of_rank(spec: Spec | None) -> int | None:
    """The length of a 1-D shape-like input where it is a plain int (the rank of what it describes)."""
    if spec is None or spec.shape is None or len(spec.shape) != 1 or not isinstance(spec.shape[0], int):
        return None
    return spec.shape[0]


#: NumPy's limit; a tensor that gives a shape may be declared of any length.
MAX_RANK = 64


def fresh_shape(rank: int | None) -> Shape | None:
    """A shape of which only the rank is known."""
    require(rank is None or rank <= MAX_RANK, f"a shape of {rank} sizes; the highest rank is {MAX_RANK}")
    return None if rank is None else tuple(fresh() for _ in range(rank))


def positive_equal(a: Dim, b: Dim) -> bool:
    """Whether two sizes are certainly equal."""
    return a == b or provably(lambda: a <= b <= a)


def check_equal(a: Dim, b: Dim, message: str) -> None:
    """InvalidGraph where two sizes certainly differ (symbolic doubt passes; the run will tell)."""
    if isinstance(a, int) and isinstance(b, int):
        require(a == b, f"{message}: {a} is not {b}")


def element_count(shape: Shape) -> Dim:
    """Number of elements."""
    return product(shape)


def negative(position: Dim) -> Dim:
    """1 where a whole number is negative, else 0."""
    return -dim_max(dim_min(position, 0), -1)


def as_int64(values: Any) -> np.ndarray:
    """Sizes as the int64 tensor ONNX makes of them (object array where symbolic)."""
    items = list(values)
    if all(isinstance(v, (int, np.integer)) for v in items):
        return np.asarray(items, np.int64)
    out = np.empty(len(items), object)
    out[:] = items
    return out


__all__ = ["Undecidable", "as_int64", "broadcast_shapes", "broadcasting", "check_equal", "comparing", "data_decide", "element_count", "fresh_shape", "known_axes", "like", "negative",
           "normalize_axes", "normalize_axis", "positive_equal", "same_type", "size_of_rank"]
