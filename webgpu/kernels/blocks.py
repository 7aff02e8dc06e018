"""The right-hand side of MatMul with weights of 4 or 8 bits in blocks: a number and its block's scale and zero point become an f32 as it is read. Plain, or packed (core/model/packing.py:
NIBBLES and MATRIX_T of bytes, SCALES)."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...dim import Dim, ceildiv, mod
from ...model.packing import PANEL
from ..wgsl.shader import Shader
from ..wgsl.space import Operand
from .gemm import Writer, in_vectors, sixteen


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
        return f"((f32({number}) - {self._zero(s, line, block)}) * {scale})"

    def _zero(self, s: Shader, line: list[str], block: str) -> str:
        """The zero point of a block as an f32."""
        if self.zeros is None:
            return f"{1 << (self.bits - 1)}.0"
        held = not self.zeros.dtype.is_float and self.bits == 4
        v = s.load(self.zeros, s.let(f"{line[2]} + ({f'{block} >> 1u' if held else block}) * {s.size(self.zeros.strides[1])}"))
        return v.text if v.rep == "f32" else f"f32({self._small(s, v.text, block)})"

    def _small(self, s: Shader, byte: str, position: str) -> str:
        """Number `position` of a byte's."""
        return byte if self.bits == 8 else s.let(f"({byte} >> (u32({position} & 1) * 4u)) & 15")

    @property
    def each(self) -> int:
        """Numbers in a word."""
        return 32 // self.bits

    def word(self, s: Shader, line: list[str], k: str) -> list[str]:
        """Word k of a packed column as vectors of four numbers, each an f32."""
        word = s.let(f"{s.binding(self.operand.buffer, 'u32')}[({line[0]} >> 2u) + {k} * {PANEL}]", "u32")
        block = s.let(f"{k} / {s.param(self.block // self.each)}")
        step: Dim = PANEL if self.scales.packing else self.scales.strides[1]
        scale = s.load(self.scales, s.let(f"{line[1]} + {block} * {s.size(step)}")).text
        zero = self._zero(s, line, block)
        quads = [f"sx_u8x4({word})"] if self.bits == 8 else [f"sx_u4x4({word})", f"sx_u4x4({word} >> 16u)"]
        return [s.let(f"(vec4<f32>({quad}) - {zero}) * {scale}", "vec4<f32>") for quad in quads]


    def panel(self, s: Shader, base: str, panel: str, columns: Sequence[str]) -> list[str]:
        """A panel's first word (of four), its first scale, the first zero point of every column."""
        words = ceildiv(self.operand.dims[1] * self.operand.dims[2], 4) * PANEL
        made = [s.let(f"({base} >> 4u) + {panel} * ({s.size(words)} / 4)"), s.let(f"{s.size(self.scales.start)} + {panel} * {s.size(self.scales.dims[1] * PANEL)}")]
        return made + [s.let(f"{s.size(self.zeros.start)} + {n} * {s.size(self.zeros.strides[0])}") for n in columns if self.zeros is not None]

    def words(self, s: Shader, panel: list[str], k: str) -> tuple[list[list[str]], list[str]]:
        """Word k of a panel's 16 columns: for each column its vectors of four numbers less their zero point, each an f32; and four vec4 of scales."""
        name = s.binding(self.operand.buffer, "vec4<u32>")
        four = [s.let(f"{name}[{panel[0]} + {k} * {PANEL // 4} + {j}]", "vec4<u32>") for j in range(PANEL // 4)]
        block = s.let(f"{k} / {s.param(self.block // self.each)}")
        scales = sixteen(s, self.scales, s.let(f"{panel[1]} + {block} * {PANEL}"))
        columns = []
        for j in range(PANEL):
            word, zero = f"{four[j // 4]}[{j % 4}]", self._zero(s, ["", "", panel[2 + j]] if self.zeros is not None else [], block)
            quads = [f"sx_u8x4({word})"] if self.bits == 8 else [f"sx_u4x4({word})", f"sx_u4x4({word} >> 16u)"]
            columns.append([f"(vec4<f32>({quad}) - {zero})" for quad in quads])
        return columns, scales


class BlockWriter(Writer):
    """The template over packed weights: a word of them, and what its block has, is read once for the four or eight numbers in it. Tiles in workgroup memory are filled number by number."""

    def length(self) -> Dim:
        """See `Writer`: words."""
        right = self.product.b
        assert isinstance(right, Blocks)
        return ceildiv(self.product.depth, right.each)

    def add(self, s: Shader, rows: list[list[str]], columns: list[list[str]], sums: list[list[str]]) -> None:
        """See `Writer`."""
        right = self.product.b
        assert isinstance(right, Blocks)
        depth, weights = s.param(self.product.depth), [right.word(s, c, "k") for c in columns]
        for line, names in zip(rows, sums, strict=True):
            for q, left in enumerate(self._left(s, line, right.each, depth)):
                for weight, name in zip(weights, names, strict=True):
                    s.add(f"{name} += dot({left}, {self._until(weight[q], q, right.each, depth)});")

    def _cut(self, each: int) -> bool:
        """Whether the last word is not whole: behind the last element there may be anything."""
        return bool(mod(self.product.depth, each) != 0)

    def _left(self, s: Shader, line: list[str], each: int, depth: str) -> list[str]:
        """What word k is multiplied with, of a row: vectors of four elements."""
        made, cut = [], self._cut(each)
        for q in range(each // 4):
            four = []
            for e in range(4):
                at = s.let(f"k * {each} + {4 * q + e}")
                x = self.product.a.read(s, line, s.let(f"min({at}, {depth} - 1)") if cut else at)
                four.append(f"select(0.0, {x}, {at} < {depth})" if cut else x)
            made.append(s.let(f"vec4<f32>({', '.join(four)})", "vec4<f32>"))
        return made

    def _until(self, weight: str, q: int, each: int, depth: str) -> str:
        return f"sx_until({weight}, {depth} - k * {each} - {4 * q})" if self._cut(each) else weight

    def lines(self) -> Dim | None:
        """See `Writer`: words of a column."""
        right = self.product.b
        assert isinstance(right, Blocks)
        return self.length() if right.scales.packing and in_vectors(right.scales) else None

    def begin_lines(self, s: Shader, base: str, panel: str) -> list[str]:
        """See `Writer`."""
        right, n = self.product.b, s.param(self.n)
        assert isinstance(right, Blocks)
        return right.panel(s, base, panel, [s.let(f"min({panel} * {PANEL} + {j}, {n} - 1)") for j in range(PANEL)] if right.zeros is not None else [])

    def add_lines(self, s: Shader, rows: Sequence[list[str]], panel: list[str], sums: Sequence[Sequence[str]]) -> None:
        """See `Writer`: a line is a word of each column."""
        right = self.product.b
        assert isinstance(right, Blocks)
        depth, (columns, scales) = s.param(self.product.depth), right.words(s, panel, "k")
        weights = [[s.let(self._until(x, q, right.each, depth), "vec4<f32>") for q, x in enumerate(column)] for column in columns]
        for row, names in zip(rows, sums, strict=True):
            left = self._left(s, row, right.each, depth)
            for j, name in enumerate(names):
                four = [" + ".join(f"dot({x}, {w})" for x, w in zip(left, column, strict=True)) for column in weights[4 * j:4 * j + 4]]
                s.add(f"{name} = fma(vec4<f32>({', '.join(four)}), {scales[j]}, {name});")
