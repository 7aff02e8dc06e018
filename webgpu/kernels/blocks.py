"""The right-hand side of MatMul with weights of 4 or 8 bits in blocks: a number and its block's scale and zero point become an f32 as it is read. Plain, or packed (core/model/packing.py:
NIBBLES and MATRIX_T of bytes, SCALES)."""
from __future__ import annotations

from dataclasses import dataclass

from ...dim import Dim, ceildiv
from ...model.packing import PANEL
from ..wgsl.shader import Shader
from ..wgsl.space import Operand


@dataclass
class Blocks:
    """b[N, blocks, bytes]; see the MATMUL record. `zeros`: uint8, packed as b, or floats [N, blocks]."""

    operand: Operand
    scales: Operand
    zeros: Operand | None
    bits: int
    block: int

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """The column's first element, its first scale, its first zero point, its number."""
        b, packed = self.operand, self.operand.packing
        row = b.dims[1] * b.dims[2]                       # bytes of a column
        inside = f"({number} & 15) * 4"
        base = f"{batch} + ({number} >> 4u) * {s.size(ceildiv(row, 4) * 4 * PANEL)} + {inside}" if packed else f"{batch} + {number} * {s.size(b.strides[0])}"
        made = [s.let(base), self._first(s, self.scales, number), "0"]
        if self.zeros is not None:
            made[2] = s.let(f"{s.size(self.zeros.start)} + {number} * {s.size(self.zeros.strides[0])}")
        return made

    def _first(self, s: Shader, scales: Operand, number: str) -> str:
        if scales.packing:
            return s.let(f"{s.size(scales.start)} + ({number} >> 4u) * {s.size(scales.dims[1] * PANEL)} + ({number} & 15)")
        return s.let(f"{s.size(scales.start)} + {number} * {s.size(scales.strides[0])}")

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """See `Side`: there is one tap."""
        return line

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """See `Side`."""
        b = self.operand
        block = s.let(f"{k} / {s.param(self.block)}")
        byte = k if self.bits == 8 else s.let(f"{k} >> 1u")
        if b.packing:
            place = f"{line[0]} + ({byte} >> 2u) * {PANEL * 4} + ({byte} & 3)"
        else:
            place = f"{line[0]} + {block} * {s.size(b.strides[1])} + {byte} % {s.param(self.block * self.bits // 8)} * {s.size(b.strides[2])}"
        number = self._small(s, s.load(b, s.let(place)).text, k)
        step: Dim = PANEL if self.scales.packing else self.scales.strides[1]
        scale = s.load(self.scales, s.let(f"{line[1]} + {block} * {s.size(step)}")).text
        zero = f"{1 << (self.bits - 1)}.0"
        if self.zeros is not None:
            held = not self.zeros.dtype.is_float and self.bits == 4
            v = s.load(self.zeros, s.let(f"{line[2]} + ({f'{block} >> 1u' if held else block}) * {s.size(self.zeros.strides[1])}"))
            zero = v.text if v.rep == "f32" else f"f32({self._small(s, v.text, block)})"
        return f"((f32({number}) - {zero}) * {scale})"

    def _small(self, s: Shader, byte: str, position: str) -> str:
        """Number `position` of a byte's."""
        return byte if self.bits == 8 else s.let(f"({byte} >> (u32({position} & 1) * 4u)) & 15")
