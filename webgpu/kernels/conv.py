"""Conv: an implicit matrix product. Rows are output positions, columns output channels of a group, the sum runs over kernel positions (taps) and input channels of a group;
nothing is unfolded in memory. Transposed convolutions gather: an output position asks which input positions reach it."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...dim import Dim, ceildiv
from ...dim import product as _product
from ...kernels import Kernel
from ...lowering import CannotLower
from ...model.packing import PANEL, Packing
from ..wgsl.shader import Built, Context, Shader
from ..wgsl.space import Operand, Space, broadcast
from .base import Step, elements, kernel
from .gemm import Panels, Product, Side, as_sum, multiply


@dataclass
class Window:
    """The input side: which input element an output position and a tap mean. `rows`: sizes of N and the output's spatial axes."""

    operand: Operand
    rows: list[Dim]
    params: dict[str, Any]
    transposed: bool
    zero: Operand | None

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """The offset of the image, then for each spatial axis where its window begins."""
        image, *at = s.coordinates(Space(list(self.rows), []), number)
        made = [s.let(f"{batch} + {image} * {s.size(self.operand.strides[0])}")]
        for i, o in enumerate(at):
            pad = s.size(self.params["pads"][i])
            made.append(s.let(f"{o} + {pad}" if self.transposed else f"{o} * {s.size(self.params['strides'][i])} - {pad}"))
        return made

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """The offset of the tap's first channel, and whether it lies inside."""
        offset, inside = line[0], []
        for i, (start, k) in enumerate(zip(line[1:], kernel, strict=True)):
            step, size = s.size(self.params["dilations"][i]), s.size(self.operand.dims[2 + i])
            if self.transposed:
                reach, stride = s.let(f"{start} - {k} * {step}"), s.size(self.params["strides"][i])
                position = s.let(f"{reach} / {stride}")
                inside.append(f"{reach} >= 0 && {position} * {stride} == {reach} && {position} < {size}")
            else:
                position = s.let(f"{start} + {k} * {step}")
                inside.append(f"{position} >= 0 && {position} < {size}")
            offset = f"{offset} + {position} * {s.size(self.operand.strides[2 + i])}"
        there = s.let(" && ".join(inside), "bool")
        return [s.let(f"select(0, {offset}, {there})"), there]

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """Zero outside: padding stands for the zero point."""
        value = as_sum(s, s.load(self.operand, s.let(f"{line[0]} + {k} * {s.size(self.operand.strides[1])}")))
        if self.zero is not None:
            value = f"{value} - {as_sum(s, s.load(self.zero, s.size(self.zero.start)))}"
        return f"select({'0.0' if self.operand.dtype.is_float else '0'}, {value}, {line[1]})"


@dataclass
class Weights:
    """The weight side: W[M, C/group, kernel…], transposed W[C, M/group, kernel…]."""

    operand: Operand
    out_axis: int
    zero: Operand | None
    per_channel: bool

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """See `Side`."""
        made = [s.let(f"{batch} + {number} * {s.size(self.operand.strides[self.out_axis])}")]
        if self.zero is not None:
            made.append(as_sum(s, s.load(self.zero, s.let(f"{s.size(self.zero.start)} + {number}") if self.per_channel else s.size(self.zero.start))))
        return made

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """See `Side`."""
        terms = "".join(f" + {k} * {s.size(stride)}" for k, stride in zip(kernel, self.operand.strides[2:], strict=True))
        return [s.let(line[0] + terms), *line[1:]]

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """See `Side`."""
        value = as_sum(s, s.load(self.operand, s.let(f"{line[0]} + {k} * {s.size(self.operand.strides[1 - self.out_axis])}")))
        return f"({value} - {line[1]})" if len(line) > 1 else value


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
    window = Window(x, [out.dims[a] for a in kept], step.params, transposed, zero_x)
    weights: Side = Panels(w, taps, _product(taps) * depth, depth, zero_w) if w.packing == Packing.CONV else Weights(_depthwise(w) if w.packing else w, 1 if transposed else 0, zero_w, per_channel)
    return Product(step, by_position, (batch, rows, columns), window, weights, taps, depth)


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
