"""Sequences (Python lists) and optionals (None or the value)."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, fresh, provably
from ..types import DType, OptionalType, SequenceType, TensorType, ValueType
from .common import normalize_axis
from .registry import Spec, operator, require
from .unify import element_type, join_types, spec_of_type


@operator()
def SequenceConstruct(*inputs: np.ndarray) -> list[Any]:
    """The inputs as a sequence."""
    return list(inputs)


@SequenceConstruct.shape
def _(*inputs: Spec) -> Spec:
    require(inputs, "needs at least one input; use SequenceEmpty for an empty sequence")
    element = inputs[0].as_type
    for spec in inputs[1:]:
        element = join_types(element, spec.as_type)
    return _sequence(element)


@operator()
def SequenceEmpty(*, dtype: int = DType.FLOAT) -> list[Any]:
    """The empty sequence of tensors of `dtype`."""
    return []


@SequenceEmpty.shape
def _(*, dtype: int = DType.FLOAT) -> Spec:
    return _sequence(TensorType(DType(dtype)))


@operator()
def SequenceAt(input_sequence: list[Any], position: np.ndarray) -> Any:
    """The element at `position`, which may be negative."""
    return input_sequence[_position(position, len(input_sequence), len(input_sequence) - 1)]


@SequenceAt.shape
def _(input_sequence: Spec, position: Spec) -> Spec:
    return spec_of_type(element_type(input_sequence))


@operator()
def SequenceInsert(input_sequence: list[Any], tensor: Any, position: np.ndarray | None = None) -> list[Any]:
    """A new sequence with `tensor` before `position` (default: at the end)."""
    count = len(input_sequence)
    place = count if position is None else _position(position, count, count)
    return [*input_sequence[:place], tensor, *input_sequence[place:]]


@SequenceInsert.shape
def _(input_sequence: Spec, tensor: Spec, position: Spec | None = None) -> Spec:
    return _sequence(join_types(element_type(input_sequence), tensor.as_type))


@operator()
def SequenceErase(input_sequence: list[Any], position: np.ndarray | None = None) -> list[Any]:
    """A new sequence without the element at `position` (default: the last)."""
    place = _position(np.int64(-1) if position is None else position, len(input_sequence), len(input_sequence) - 1)
    return [*input_sequence[:place], *input_sequence[place + 1:]]


@SequenceErase.shape
def _(input_sequence: Spec, position: Spec | None = None) -> Spec:
    return _sequence(element_type(input_sequence))


@operator()
def SequenceLength(input_sequence: list[Any]) -> np.ndarray:
    """The number of elements, an int64 scalar."""
    return np.asarray(len(input_sequence), np.int64)


@SequenceLength.shape
def _(input_sequence: Spec) -> Spec:
    return Spec(DType.INT64, ())


@operator()
def SplitToSequence(input: np.ndarray, split: np.ndarray | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Any]:
    """Parts along `axis`: of size `split` (a scalar; the last may be smaller), of the sizes in `split` (1-D), or single slices."""
    axis = normalize_axis(axis, input.ndim)
    size = input.shape[axis]
    if split is None and not keepdims:
        return list(np.moveaxis(input, axis, 0))
    if split is None or split.ndim == 0:
        step = 1 if split is None else int(split)
        require(step > 0, f"split is {step}; it must be positive")
        ends = [min(start + step, size) for start in range(0, size, step)]
    else:
        require(split.ndim == 1 and split.min(initial=0) >= 0 and split.sum() == size, f"the lengths {split.tolist()} in split must sum to {size}, the size of axis {axis}")
        ends = np.cumsum(split).tolist()
    return [part for part in np.split(input, ends, axis)[:len(ends)]]


@SplitToSequence.shape
def _(input: Spec, split: Spec | None = None, *, axis: int = 0, keepdims: int = 1) -> Spec:
    if input.shape is None:
        return _sequence(TensorType(input.dtype))
    axis = normalize_axis(axis, len(input.shape))
    before, after = input.shape[:axis], input.shape[axis + 1:]
    if split is None:
        return _sequence(TensorType(input.dtype, before + ((1,) if keepdims else ()) + after))
    return _sequence(TensorType(input.dtype, (*before, _part_size(input.shape[axis], split), *after)))


def _part_size(size: Dim, split: Spec) -> Dim:
    """The common size of all parts where it is known."""
    sizes = split.ints
    if sizes is None or split.shape is None:
        return fresh()
    if split.shape == ():
        return sizes[0] if provably(lambda: size % sizes[0] == 0) else fresh(upper=sizes[0])
    return sizes[0] if sizes and all(s == sizes[0] for s in sizes) else fresh()


@operator()
def ConcatFromSequence(input_sequence: list[Any], *, axis: int, new_axis: int = 0) -> np.ndarray:
    """The elements joined along `axis`, or stacked along a new one."""
    require(input_sequence, "the sequence is empty; there is nothing to concatenate")
    axis = normalize_axis(axis, input_sequence[0].ndim + bool(new_axis))
    return np.stack(input_sequence, axis) if new_axis else np.concatenate(input_sequence, axis)


@ConcatFromSequence.shape
def _(input_sequence: Spec, *, axis: int, new_axis: int = 0) -> Spec:
    element = element_type(input_sequence)
    require(isinstance(element, TensorType), f"elements must be tensors, not {element}")
    assert isinstance(element, TensorType)
    if element.shape is None:
        return Spec(element.dtype)
    shape = list(element.shape)
    axis = normalize_axis(axis, len(shape) + bool(new_axis))
    shape[axis:axis + (not new_axis)] = [fresh()]
    return Spec(element.dtype, tuple(shape))


@operator()
def Optional(input: Any = None, *, type: ValueType | None = None) -> Any:
    """An optional holding `input`, or the empty optional of element type `type`."""
    require(input is not None or type is not None, "an empty optional needs the attribute 'type'")
    return input


@Optional.shape
def _(input: Spec | None = None, *, type: ValueType | None = None) -> Spec:
    require(input is not None or type is not None, "an empty optional needs the attribute 'type'")
    return Spec(None, type=OptionalType(input.as_type if input is not None else type))  # type: ignore[arg-type]


@operator()
def OptionalHasElement(input: Any = None) -> np.ndarray:
    """Whether there is a value: false for an absent input and an empty optional."""
    return np.asarray(input is not None)


@OptionalHasElement.shape
def _(input: Spec | None = None) -> Spec:
    return Spec(DType.BOOL, ())


@operator()
def OptionalGetElement(input: Any) -> Any:
    """The value in the optional; a tensor or sequence is itself."""
    require(input is not None, "the optional is empty; test it with OptionalHasElement first")
    return input


@OptionalGetElement.shape
def _(input: Spec) -> Spec:
    return spec_of_type(input.type.element) if isinstance(input.type, OptionalType) else Spec(input.dtype, input.shape, input.value, input.type)


def _sequence(element: ValueType) -> Spec:
    return Spec(None, type=SequenceType(element))


def _position(position: Any, count: int, last: int) -> int:
    place = int(np.asarray(position).item())
    require(-count <= place <= last, f"position {place} is out of range [{-count}, {last}] for a sequence of {count} elements")
    return place + count if place < 0 else place
