"""Depthwise convolutions of bytes: one invocation has four neighbouring channels (a word of the input and of the weights, a word of the output where that is bytes) of up to four output positions.

There is nothing to share but the weights' words, so there are no tiles; every tap reads a word and multiplies four numbers, where the template of gemm.py would read, and take apart, two words for
each of them. Channels must lie side by side, whole words of them.
"""
from __future__ import annotations

from dataclasses import replace

from ...dim import product as volume
from ...model.packing import Packing
from ..wgsl.shader import Built, Context, Shader
from ..wgsl.space import Space, even
from .base import most
from .bytes import BYTES
from .gemm import Product, Writer
from .sides import as_sum
from .window import Weights, Window

HEIGHT = 4


def is_depthwise(product: Product) -> bool:
    """Whether a product is one of these."""
    a, b, batch = product.a, product.b, product.spaces[0]
    if not (isinstance(a, Window) and isinstance(b, Weights)) or a.transposed or b.operand.packing != Packing.DEPTHWISE or product.spaces[2].count != 1:
        return False
    x, w = a.operand, b.operand
    others = [s for i, s in enumerate(x.strides) if i != 1 and x.dims[i] != 1]
    return (x.dtype in BYTES and w.dtype in BYTES and x.packed and w.packed and len(batch.dims) == 1 and batch.strides[-2:] == [[1], [1]] and even(batch.dims[0])
            and all(even(size) for size in (x.start, w.start, *others)))


class DepthwiseWriter(Writer):
    """See the head of this module."""

    def __init__(self, product: Product, context: Context) -> None:
        super().__init__(product, context)
        out, (batch, rows, _) = self.operands[0], product.spaces
        self.quads = out.packed and batch.strides[0] == [1] and even(out.start) and all(even(s) for s in rows.strides[0])

    def build(self) -> Built:
        """See `Writer`."""
        s, product = Shader(self.context), self.product
        assert isinstance(product.a, Window) and isinstance(product.b, Weights)
        x, w = replace(product.a, zero=None), product.b
        self.finish(s)
        height = int(min(HEIGHT, max(1, most(self.context, self.m))))
        quads, down, m = product.spaces[0].count // 4, (self.m + (height - 1)) // height, s.param(self.m)
        item = s.let("group * 64 + lane")
        s.add(f"if ({item} >= {s.param(quads * down)}) {{ return; }}")
        channel, row = s.let(f"{item} % {s.param(quads)} * 4"), s.let(f"{item} / {s.param(quads)} * {height}")
        base_x, base_w = self.batch(s, channel)
        lines = [x.line(s, base_x, s.let(f"min({row} + {i}, {m} - 1)")) for i in range(height)]
        zeros = [s.let(as_sum(s, s.load(zero, s.size(zero.start)))) if zero is not None else "" for zero in (product.a.zero, w.zero)]
        for i in range(height):
            s.add(f"var c{i}: vec4<i32>;")
        with s.block(f"for (var t = 0; t < {s.param(volume(product.taps))}; t += 1)"):
            kernel = self.taps(s, "t")
            weight = self._four(s, w, w.tap(s, [base_w], kernel)[0], zeros[1])
            for i, line in enumerate(lines):
                place, there = x.tap(s, line, kernel)
                s.add(f"c{i} += select(vec4<i32>(), {self._four(s, x, place, zeros[0])}, {there}) * {weight};")
        s.add(f"var sums = array<vec4<i32>, {height}>({', '.join(f'c{i}' for i in range(height))});")
        with s.block(f"for (var i = 0; i < min({height}, {m} - {row}); i += 1)"):
            if self.quads:
                s.add(f"finish4(sums[i], {row} + i, {channel});")
            else:
                with s.block("for (var j = 0; j < 4; j += 1)"):
                    self._move(s, f"({channel} + j)")
                    s.add(f"finish(sums[i][j], {row} + i, 0);")
        return s.dispatch((quads * down + 63) // 64)

    def _four(self, s: Shader, side: Window | Weights, place: str, zero: str) -> str:
        """Four channels from element `place`, less the zero point."""
        text = f"sx_{'s' if side.operand.dtype.is_signed_integer else 'u'}8x4({s.binding(side.operand.buffer, 'u32')}[({place}) >> 2u])"
        return s.let(f"{text} - vec4<i32>({zero})" if zero else text, "vec4<i32>")

    def _move(self, s: Shader, channel: str) -> None:
        """Where output and leaves lie for a channel."""
        space: Space = self.product.spaces[0]
        for i, operand in enumerate(self.operands):
            s.add(f"q{i} = {s.offset(space, i, [channel], s.size(operand.start))};")

    def finish4(self, s: Shader) -> None:
        """See `Writer`; its n is the first channel."""
        rows = self.product.spaces[1]
        with s.function("finish4(acc: vec4<i32>, m: i32, channel: i32)"):
            s.add("var word: u32;")
            with s.block("for (var j = 0; j < 4; j += 1)"):
                self._move(s, "(channel + j)")
                s.add("word |= (u32(finished(acc[j], m, 0)) & 255u) << u32(8 * j);")
            self._move(s, "channel")
            s.write_word(self.operands[0], s.offset(rows, 0, s.coordinates(rows, "m"), "q0"), "word")
