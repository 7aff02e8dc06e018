"""Conv: an implicit matrix product. Rows are output positions, columns output channels of a group, the sum runs over kernel positions (taps) and input channels of a group;
nothing is unfolded in memory. Where a position needs itself alone (1 × 1), it is a product of matrices. Transposed convolutions gather: an output position asks which input positions reach it."""
from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...dim import Dim, ceildiv
from ...dim import product as _product
from ...kernels import Kernel
from ...lowering import CannotLower
from ...model.packing import PANEL, Packing
from ..wgsl.shader import Built, Context
from ..wgsl.space import Operand, Space, broadcast
from .base import Step, elements, kernel
from .gemm import Product
from .product import multiply
from .sides import Lines, Panels, Side
from .window import Weights, Window


@kernel(Kernel.CONV)
def conv(step: Step, context: Context) -> list[Built]:
    """See the CONV record."""
    return multiply(product_of, step, context)


def product_of(step: Step) -> Product:
    """The convolution as a product; the batch of the product is the group."""
    x, w, out = step.there(0), step.there(1), step.output()
    group, transposed = step.whole("group"), bool(step.whole("transposed"))
    by_position, loaded = elements(step.inputs, step.epilogue, step.first)
    if loaded:
        raise CannotLower("an epilogue that loads by index")
    channels = out.dims[1] // group
    depth = x.dims[1] // group
    strides = [broadcast(o, out.dims) for o in (out, *(step.there(i) for i in by_position))]
    batch = Space.of([group], [*([s[1] * channels] for s in strides), [x.strides[1] * depth], [_group_stride(w, depth, channels, transposed)]])
    kept = [0, *range(2, out.rank)]
    rows = Space.of([out.dims[a] for a in kept], [[s[a] for a in kept] for s in strides], ordered=True)
    columns = Space.of([channels], [[s[1]] for s in strides])
    zero_x, zero_w = (None if (i := step.whole(name)) < 0 else step.there(i) for name in ("zero_x", "zero_w"))
    per_channel = zero_w is not None and any(d != 1 for d in zero_w.dims)
    if per_channel and group != 1:
        raise CannotLower("zero points a channel of a grouped convolution")
    taps = list(w.dims[2:])
    apart = _pointwise(x, out, w, step.params) if not transposed and w.packing != Packing.DEPTHWISE else None
    window: Side = Window(x, [out.dims[a] for a in kept], step.params, transposed, zero_x)
    if apart is not None:
        window, taps = Lines(x, apart, x.strides[1], zero_x), []
    weights: Side = Panels(w, taps, _product(taps) * depth, depth, zero_w) if w.packing == Packing.CONV else Weights(_depthwise(w) if w.packing else w, 1 if transposed else 0, zero_w, per_channel)
    return Product(step, by_position, (batch, rows, columns), window, weights, taps, depth)


def _pointwise(x: Operand, out: Operand, w: Operand, params: dict[str, Any]) -> Dim | None:
    """How far apart the input's positions lie, where output position m needs input position m alone and these lie evenly: then there are no windows, and the convolution is a product of matrices."""
    if any(d != 1 for d in (*w.dims[2:], *params["strides"])) or any(params["pads"]) or x.dims[2:] != out.dims[2:]:
        return None
    kept = [0, *range(2, x.rank)]
    positions = Space.of([x.dims[a] for a in kept], [[x.strides[a] for a in kept]], ordered=True)
    return None if len(positions.dims) > 1 else positions.strides[0][0] if positions.dims else 0


def _group_stride(w: Operand, depth: Dim, channels: Dim, transposed: bool) -> Dim:
    """How far apart the weights of two groups lie."""
    if w.packing == Packing.CONV:
        return ceildiv(channels, PANEL) * Panels(w, (), _product(w.dims[2:]) * depth, depth).panel
    return channels if w.packing else w.strides[0] * (depth if transposed else channels)


def _depthwise(w: Operand) -> Operand:
    """Packed [kernel][C] as strides of W[C, 1, kernel…]."""
    count = w.dims[0]
    steps = [count * _product(w.dims[3 + i:]) for i in range(w.rank - 2)]
    return replace(w, strides=(1, 0, *steps))
