"""What is known of a value that may be one of several: joining the types of branches, iterations and sequence elements."""
from __future__ import annotations

from collections.abc import Callable, Iterable

from ..dim import Dim, fresh, symbols
from ..types import MapType, OptionalType, SequenceType, TensorType, ValueType
from .registry import Spec, require

DimJoin = Callable[[Dim, Dim], Dim]


def equal_or_fresh(a: Dim, b: Dim) -> Dim:
    """The common size, or a new one."""
    return a if a == b else fresh()


def spec_of_type(type: ValueType | None) -> Spec:
    """The Spec of a value of which only the type is known."""
    if isinstance(type, TensorType):
        return Spec(type.dtype, type.shape)
    return Spec(None, None, type=type)


def is_unknown(type: ValueType) -> bool:
    """True where not even the kind (tensor, sequence …) is certain: nothing was inferred for the value."""
    return isinstance(type, TensorType) and type.dtype is None and type.shape is None


def join_types(a: ValueType, b: ValueType, dim: DimJoin = equal_or_fresh) -> ValueType:
    """The type of a value that is of type `a` or of type `b`; InvalidGraph where no ONNX type holds both. `dim` joins the sizes of one axis."""
    if is_unknown(a) or is_unknown(b):
        return map_shapes(b if is_unknown(a) else a, lambda _: None)
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        require(a.dtype is None or b.dtype is None or a.dtype == b.dtype, f"element types {a} and {b} differ")
        same_rank = a.shape is not None and b.shape is not None and len(a.shape) == len(b.shape)
        return TensorType(a.dtype or b.dtype, tuple(map(dim, a.shape, b.shape)) if same_rank else None)  # type: ignore[arg-type]
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join_types(a.element, b.element, dim))
    if isinstance(a, OptionalType) and isinstance(b, OptionalType):
        return OptionalType(join_types(a.element, b.element, dim))
    if isinstance(a, OptionalType):
        return OptionalType(join_types(a.element, b, dim))  # a value is an optional that has one: bodies of Loop mix the two
    if isinstance(b, OptionalType):
        return OptionalType(join_types(a, b.element, dim))
    require(a == b, f"types {a} and {b} differ")
    return a


def map_shapes(type: ValueType, change: Callable[[tuple[Dim, ...]], tuple[Dim, ...] | None]) -> ValueType:
    """The type with every known tensor shape in it replaced by `change(shape)`."""
    if isinstance(type, TensorType):
        return type if type.shape is None else TensorType(type.dtype, change(type.shape))
    if isinstance(type, SequenceType):
        return SequenceType(map_shapes(type.element, change))
    if isinstance(type, OptionalType):
        return OptionalType(map_shapes(type.element, change))
    if isinstance(type, MapType):
        return MapType(type.key, map_shapes(type.value, change))
    return type


def map_dims(type: ValueType, change: Callable[[Dim], Dim]) -> ValueType:
    """The type with every size in it replaced by `change(size)`."""
    return map_shapes(type, lambda shape: tuple(map(change, shape)))


def anonymous(dim: Dim) -> set[str]:
    """The names of the anonymous symbols in a size."""
    return {s.name for s in symbols(dim) if s.name.startswith("?")}


def anonymous_of(types: Iterable[ValueType | None]) -> set[str]:
    """The names of all anonymous symbols in the types."""
    found: set[str] = set()

    def collect(dim: Dim) -> Dim:
        found.update(anonymous(dim))
        return dim
    for type in types:
        if type is not None:
            map_dims(type, collect)
    return found


def element_type(sequence: Spec) -> ValueType:
    """The type of one element of a sequence, taken out of it: sizes without a name may differ between elements, so each use gets new ones."""
    if sequence.type is None:
        return TensorType(None, None)
    require(isinstance(sequence.type, SequenceType), f"the input must be a sequence, not {sequence}")
    assert isinstance(sequence.type, SequenceType)
    return map_dims(sequence.type.element, lambda d: fresh() if anonymous(d) else d)
