"""The dispatches of a product: which writer's text, and what becomes of an epilogue with more operands than a dispatch may bind."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...expr import Op, cast, leaf, substitute
from ...types import DType
from ..wgsl.shader import Built, Context, TooManyBindings
from ..wgsl.space import Temporary
from .base import Step
from .blocks import Blocks, BlockWriter
from .bytes import ByteWriter, in_words
from .depthwise import DepthwiseWriter, is_depthwise
from .gemm import Product, Writer
from .map import temporary_map


def multiply(make: Callable[[Step], Product], step: Step, context: Context) -> list[Built]:
    """The dispatches of a step that `make` turns into a Product; an epilogue with more operands than a dispatch may bind becomes a Map of its own."""
    ranges = dict(context.ranges)
    try:
        return [writer(make(step), context).build()]
    except TooManyBindings:
        if not step.epilogue:
            raise
    context.ranges.clear()
    context.ranges.update(ranges)
    out, number = step.output(), len(step.inputs) - step.first
    middle = Temporary.operand(out.dtype if out.dtype.is_float else DType.INT32, out.dims)
    bare = make(replace(step, outputs=[middle], epilogue=[], inputs=step.inputs[:step.first]))
    built = [writer(bare, context).build()]
    low, high = context.ranges.get(middle.buffer, (middle.low, middle.high))
    root = substitute(step.epilogue[0], lambda node: cast(leaf(number, middle.dtype), node.type) if node.op is Op.ACC else None)
    return built + temporary_map(root, [*step.inputs[step.first:], replace(middle, low=low, high=high)], out, context, step.label)


def writer(product: Product, context: Context) -> Writer:
    """What writes the shader of a product: that of bytes.py, depthwise.py or blocks.py where several narrow numbers are read and multiplied at once."""
    if isinstance(product.b, Blocks) and product.b.operand.packing:
        return BlockWriter(product, context)
    if is_depthwise(product):
        return DepthwiseWriter(product, context)
    words = in_words(product)
    return Writer(product, context) if words is None else ByteWriter(words, context)
