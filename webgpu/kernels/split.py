"""Constants larger than a binding: a kernel that reads one becomes several dispatches, each on a part of it.

A matrix is cut by columns (packed or transposed, columns lie one after the other), a table by rows. What a device binds at once is 128 MiB where nothing better is said, so a vocabulary's
embedding or the first classifier of VGG needs this.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ...dim import Dim, product
from ...lowering import CannotLower
from ...model.packing import PANEL, Packing
from ..wgsl.shader import Context
from ..wgsl.space import Operand, Part
from .base import Step, number


def room(context: Context) -> int:
    """Bytes a binding takes."""
    return min(context.limits.binding_bytes, context.limits.buffer_bytes)


def size_of(operand: Operand) -> int:
    """Bytes of the whole constant, tails of packed ones included; 0 where it is none."""
    if not operand.constant or isinstance(operand.buffer, str) or not all(isinstance(d, int) for d in operand.dims):
        return 0
    if operand.packing in (Packing.MATRIX, Packing.MATRIX_T):
        return -(-number(operand.dims[-1]) // PANEL) * panel(operand) * operand.element_bytes
    return (int(operand.extent) if isinstance(operand.extent, int) and operand.extent else math.prod(map(number, operand.dims))) * operand.element_bytes


def panel(operand: Operand) -> int:
    """Elements of a panel of 16 columns of a packed matrix [K, N]."""
    depth = number(operand.dims[-2])
    return (-(-depth // 4) * 4 if operand.element_bytes == 1 else depth) * PANEL


def columns(step: Step, context: Context) -> Iterator[Step]:
    """A MatMul as several with fewer columns each, where B is too large for one binding."""
    b = step.there(1)
    if context.planning or size_of(b) <= room(context):
        yield step
        return
    by_column = b.rank == 2 and b.strides[-2] == 1 and b.strides[-1] == b.dims[-2] and b.start == 0
    if b.rank != 2 or not (b.packing or by_column):
        raise CannotLower(f"a matrix of {size_of(b):,} bytes that lies by rows; one binding takes {room(context):,}")
    count = number(b.dims[-1])
    each, unit = (panel(b), PANEL) if b.packing else (number(b.dims[-2]), 1)
    most = room(context) // (each * b.element_bytes) * unit
    if most == 0:
        raise CannotLower(f"16 columns of a matrix take {each * b.element_bytes:,} bytes; one binding takes {room(context):,}")
    for first in range(0, count, most):
        n = min(most, count - first)
        part = Part(b.buffer, first // unit * each, -(-n // unit) * each)
        zero = step.whole("zero_b")
        inputs = [step.inputs[0], replace(b, buffer=part, dims=(b.dims[0], n)),
                  *(_sliced(o, first, n, count) if i + 2 >= step.first or i + 2 == zero else o for i, o in enumerate(step.inputs[2:]))]
        yield replace(step, inputs=inputs, outputs=[_sliced(step.output(), first, n, count)])


def _sliced(operand: Operand | None, first: int, n: int, count: int) -> Operand | None:
    """Columns `first` … of an operand that has `count` of them (or one, which all share)."""
    if operand is None or operand.rank == 0 or operand.dims[-1] != count:
        return operand
    start: Dim = operand.start + first * operand.strides[-1]
    return replace(operand, dims=(*operand.dims[:-1], n), start=start)


def rows(table: Operand, axis: int, context: Context) -> list[tuple[Operand, int, int]]:
    """A table as (part, first row, rows); one part where it fits a binding."""
    size = size_of(table)
    if context.planning or size <= room(context):
        return [(table, 0, 0)]
    row = product(table.dims[1:])
    if axis != 0 or not table.is_dense or table.start != 0 or not isinstance(row, int):
        raise CannotLower(f"a table of {size:,} bytes that can not be cut by rows; one binding takes {room(context):,}")
    most = room(context) // (row * table.element_bytes) // 4 * 4
    if most == 0:
        raise CannotLower(f"a row of {row:,} elements; one binding takes {room(context):,} bytes")
    count = number(table.dims[0])
    return [(replace(table, buffer=Part(table.buffer, first * row, min(most, count - first) * row)), first, min(most, count - first)) for first in range(0, count, most)]
