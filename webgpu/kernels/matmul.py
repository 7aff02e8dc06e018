"""MatMul: batched, broadcast, with zero points, with weights in blocks; the template is gemm.py."""
from __future__ import annotations

from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.shader import Built, Context
from ..wgsl.space import Operand, Space, broadcast
from .base import Step, elements, kernel
from .blocks import Blocks
from .gemm import Product
from .product import multiply
from .sides import Lines, Panels, Side
from .split import columns


@kernel(Kernel.MATMUL)
def matmul(step: Step, context: Context) -> list[Built]:
    """See the MATMUL record."""
    if step.whole("bits"):
        return multiply(blockwise, step, context)
    return [built for part in columns(step, context) for built in multiply(product_of, part, context)]


def blockwise(step: Step) -> Product:
    """A[M, K] times weights in blocks."""
    a, b, out = step.there(0), step.there(1), step.output()
    by_position, loaded = elements(step.inputs, step.epilogue, step.first)
    if loaded:
        raise CannotLower("an epilogue that loads by index")
    strides = [broadcast(o, out.dims) for o in (out, *(step.there(i) for i in by_position))]
    batch = Space.of([], [[] for _ in range(len(strides) + 2)])
    rows, columns_ = (Space.of([out.dims[axis]], [[s[axis]] for s in strides]) for axis in (0, 1))
    zeros = step.whole("block_zeros")
    right = Blocks(b, step.there(step.whole("block_scales")), step.there(zeros) if zeros else None, step.whole("bits"), step.whole("block"))
    return Product(step, by_position, (batch, rows, columns_), Lines(a, a.strides[0], a.strides[1]), right, (), a.dims[1])


def product_of(step: Step) -> Product:
    """A[…, M, K] times B[…, K, N]."""
    a, b, out = step.there(0), step.there(1), step.output()
    by_position, loaded = elements(step.inputs, step.epilogue, step.first)
    if loaded:
        raise CannotLower("an epilogue that loads by index")
    rank = out.rank
    strides = [broadcast(o, out.dims) for o in (out, *(step.there(i) for i in by_position))]
    lead = range(rank - 2)
    batch = Space.of(out.dims[:-2], [*([s[i] for i in lead] for s in strides), *(broadcast(o.pick(range(o.rank - 2)), out.dims[:-2]) for o in (a, b))])
    rows = Space.of([out.dims[-2]], [[s[-2]] for s in strides])
    columns = Space.of([out.dims[-1]], [[s[-1]] for s in strides])
    left = Lines(a, a.strides[-2], a.strides[-1], _zero(step, "zero_a"))
    right: Side = Panels(b, (), a.dims[-1], a.dims[-1], _zero(step, "zero_b")) if b.packing else Lines(b, b.strides[-1], b.strides[-2], _zero(step, "zero_b"))
    return Product(step, by_position, (batch, rows, columns), left, right, (), a.dims[-1])


def _zero(step: Step, name: str) -> Operand | None:
    index = step.whole(name)
    if index < 0:
        return None
    found = step.there(index)
    if found.rank > 1:
        raise CannotLower("zero points with more than one axis")
    return found
