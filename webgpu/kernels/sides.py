"""The sides of a product: how a line (row of A, column of B) and a tap become an offset, and whether there is anything to read there. Those of convolutions are window.py's."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...dim import Dim, ceildiv
from ...model.packing import PANEL
from ..wgsl.expression import Value
from ..wgsl.shader import Shader
from ..wgsl.space import Operand


class Side(Protocol):
    """One operand of the product."""

    @property
    def operand(self) -> Operand:
        """What is read."""

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """What is known of a row or column: names that `tap` and `read` get. `batch` is the offset of the batch."""

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """The same at one tap, whose kernel coordinates are given (none for a matrix product)."""

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """Element k of the tap, in the type of the sum."""


@dataclass
class Lines:
    """A matrix: line number · stride + k · step. `zero`: its zero point (an operand with one element, or one a line)."""

    operand: Operand
    stride: Dim
    step: Dim
    zero: Operand | None = None

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """See `Side`."""
        return [s.let(f"{batch} + {number} * {s.size(self.stride)}"), *zero_of(s, self.zero, number)]

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """See `Side`."""
        return line

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """See `Side`."""
        text = as_sum(s, s.load(self.operand, s.let(f"{line[0]} + {k} * {s.size(self.step)}")))
        return f"({text} - {line[1]})" if len(line) > 1 else text


@dataclass
class Panels:
    """Packed weights (core/model/packing.py): [groups][columns / 16][depth][16], of bytes [groups][columns / 16][depth / 4][16][4]. `depth`: the whole sum, `inner`: elements of a tap, which
    come one tap after another. The batch is the group. `zero`: a zero point (an operand with one element, or one a column)."""

    operand: Operand
    taps: Sequence[Dim]
    depth: Dim
    inner: Dim
    zero: Operand | None = None

    @property
    def interleaved(self) -> bool:
        """Whether four neighbours of the sum lie in one word."""
        return self.operand.dtype.bits == 8

    @property
    def panel(self) -> Dim:
        """Elements of 16 columns."""
        return (ceildiv(self.depth, 4) * 4 if self.interleaved else self.depth) * PANEL

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """Where the column begins; the tap's first element; the column's zero point."""
        column = f"({number} & 15) * 4" if self.interleaved else f"({number} & 15)"
        return [s.let(f"{batch} + ({number} >> 4u) * {s.size(self.panel)} + {column}"), "0", *zero_of(s, self.zero, number)]

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """See `Side`."""
        number = kernel[0]
        for size, k in zip(self.taps[1:], kernel[1:], strict=True):
            number = f"({number} * {s.param(size)} + {k})"
        return [line[0], s.let(f"{number} * {s.size(self.inner)}"), *line[2:]]

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """See `Side`."""
        k = k if line[1] == "0" else s.let(f"{line[1]} + {k}")
        place = f"({k} >> 2u) * {PANEL * 4} + ({k} & 3)" if self.interleaved else f"{k} * {PANEL}"
        text = as_sum(s, s.load(self.operand, s.let(f"{line[0]} + {place}")))
        return f"({text} - {line[2]})" if len(line) > 2 else text


def zero_of(s: Shader, zero: Operand | None, number: str) -> list[str]:
    """The zero point of a line, where there is one."""
    if zero is None:
        return []
    one = zero.rank == 0 or all(d == 1 for d in zero.dims)
    place = s.size(zero.start) if one else f"{s.size(zero.start)} + {number} * {s.size(zero.strides[-1])}"
    return [as_sum(s, s.load(zero, s.let(place)))]


def as_sum(s: Shader, value: Value) -> str:
    """The element as the sum's type: u32 words as i32 bits."""
    return value.text if value.rep != "u32" else f"bitcast<i32>({value.text})"
