"""The sides of a convolution as a product: windows of the input, and plain weights."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...dim import Dim
from ..wgsl.shader import Shader
from ..wgsl.space import Operand, Space
from .sides import as_sum, zero_of


@dataclass
class Window:
    """The input side: which input element an output position and a tap mean. `rows`: sizes of N and the output's spatial axes. Strides, dilations and pads are uniforms also where they are 0 or 1:
    a model's convolutions of one kind are one pipeline."""

    operand: Operand
    rows: list[Dim]
    params: dict[str, Any]
    transposed: bool
    zero: Operand | None

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """The offset of the image, then for each spatial axis where its window begins; the zero point, where there is one."""
        image, *at = s.coordinates(Space(list(self.rows), []), number)
        made = [s.let(f"{batch} + {image} * {s.size(self.operand.strides[0])}")]
        for i, o in enumerate(at):
            pad = s.param(self.params["pads"][i])
            made.append(s.let(f"{o} + {pad}" if self.transposed else f"{o} * {s.param(self.params['strides'][i])} - {pad}"))
        return [*made, *zero_of(s, self.zero, "0")]

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """The offset of the tap's first channel, and whether it lies inside; the zero point."""
        offset, inside, beyond = line[0], [], 1 + len(kernel)
        for i, (start, k) in enumerate(zip(line[1:beyond], kernel, strict=True)):
            step, size = s.param(self.params["dilations"][i]), s.size(self.operand.dims[2 + i])
            if self.transposed:
                reach, stride = s.let(f"{start} - {k} * {step}"), s.param(self.params["strides"][i])
                position = s.let(f"{reach} / {stride}")
                inside.append(f"({reach} >= 0) & ({position} * {stride} == {reach}) & ({position} < {size})")
            else:
                position = s.let(f"{start} + {k} * {step}")
                inside.append(f"({position} >= 0) & ({position} < {size})")
            offset = f"{offset} + {position} * {s.size(self.operand.strides[2 + i])}"
        there = s.let(" & ".join(inside), "bool")
        return [s.let(f"select(0, {offset}, {there})"), there, *line[beyond:]]

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """Zero outside: padding stands for the zero point."""
        value = as_sum(s, s.load(self.operand, s.let(f"{line[0]} + {k} * {s.size(self.operand.strides[1])}")))
        if len(line) > 2:
            value = f"{value} - {line[2]}"
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
