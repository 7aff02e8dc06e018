"""The dispatches of a product: which writer's text, and what becomes of an epilogue with more operands than a dispatch may bind.

A product may be several dispatches for ranges of its rows, of which a run takes one: the others have no workgroups at its sizes, and players leave them out. So one recording has both the tiles for
many rows and the split sum for few, and no new size compiles anything. Sessions that plan have them wherever tiles differ (tiles.py), files only for decoders, whose rows may be many (a prompt) or
one (a token), of products with weights on GPUs.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...dim import Expr, dim_max, dim_min
from ...expr import Op, cast, leaf, substitute
from ...types import DType
from ..wgsl.shader import Built, Context, TooManyBindings
from ..wgsl.space import Temporary
from .base import Step, least, most
from .blocks import Blocks, BlockWriter
from .bytes import ByteWriter, TapWriter, in_words, is_in_parts
from .depthwise import DepthwiseWriter, is_depthwise
from .gemm import Product, Writer
from .map import temporary_map
from .tiles import FEW, REGISTER, Tile, ends_of, in_ranges


def multiply(make: Callable[[Step], Product], step: Step, context: Context) -> list[Built]:
    """The dispatches of a step that `make` turns into a Product; an epilogue with more operands than a dispatch may bind becomes a Map of its own."""
    ranges = dict(context.ranges)
    try:
        return _written(make, step, context)
    except TooManyBindings:
        if not step.epilogue:
            raise
    context.ranges.clear()
    context.ranges.update(ranges)
    out, number = step.output(), len(step.inputs) - step.first
    middle = Temporary.operand(out.dtype if out.dtype.is_float else DType.INT32, out.dims)
    bare = make(replace(step, outputs=[middle], epilogue=[], inputs=step.inputs[:step.first]))
    built = _written(lambda _: bare, step, context)
    low, high = context.ranges.get(middle.buffer, (middle.low, middle.high))
    root = substitute(step.epilogue[0], lambda node: cast(leaf(number, middle.dtype), node.type) if node.op is Op.ACC else None)
    return built + temporary_map(root, [*step.inputs[step.first:], replace(middle, low=low, high=high)], out, context, step.label)


def _written(make: Callable[[Step], Product], step: Step, context: Context) -> list[Built]:
    """One dispatch, or those of the head."""
    many = writer(make(step), context)
    m = many.m
    if context.several:
        return _of_ranges(make, step, context, many)
    if not (context.decoding and isinstance(m, Expr) and least(context, m) <= 1 and min(most(context, m), most(context, many.n)) > FEW and many.product.b.operand.packing and not context.cpu):
        return [many.build()]
    one = writer(make(step), context)
    one.m = 1
    made = [one.build(), many.build()]
    for built, condition in zip(made, (dim_max(0, dim_min(m, 2 - m)), dim_min(1, dim_max(0, m - 1))), strict=True):
        built.groups = built.groups * condition
    return made


def _of_ranges(make: Callable[[Step], Product], step: Step, context: Context, many: Writer) -> list[Built]:
    """A dispatch for every range of rows that wants its own tile."""
    if not isinstance(many.m, Expr) or isinstance(many, DepthwiseWriter):
        return [many.build()]

    def form(known: Context) -> tuple[Tile, float]:
        """What the shader depends on. Few rows are no form of their own where there is little to do on GPUs (windows, short sums), nor for quads: they take half a block's time for one row."""
        rows, tile, whole = most(known, many.m), many.tile(known), many.tile(replace(known, caps={}))
        plain = rows <= FEW and (whole.variant == "quad" if context.cpu else tile == REGISTER)
        return (whole, 0) if plain else (tile, rows if rows <= FEW else 0)
    return in_ranges(context, many.m, ends_of(context, many.product.spaces[0].count, many.m, many.n, form), lambda known: writer(make(step), known).build())


def writer(product: Product, context: Context) -> Writer:
    """What writes the shader of a product: that of bytes.py, depthwise.py or blocks.py where several narrow numbers are read and multiplied at once."""
    if isinstance(product.b, Blocks) and product.b.operand.packing:
        return BlockWriter(product, context)
    if is_depthwise(product):
        return DepthwiseWriter(product, context)
    words = in_words(product)
    if words is not None:
        return ByteWriter(words, context)
    return TapWriter(product, context) if is_in_parts(product, context) else Writer(product, context)
