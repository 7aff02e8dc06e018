"""Products of bytes: four neighbours of the sum are one 32-bit word, and sx_dot4 (wgsl/functions.py: WGSL's dot4I8Packed where the device has it) multiplies and adds all four.

The template is gemm.py's, over words instead of elements: a quarter of the reads of an f32 product. Weights lie in such words (core/model/packing.py); the other side is read as words where its rows
lie so, else four elements become one as they are read. Unsigned bytes are moved by 128 (the highest bit turned), as sx_dot4 takes signed ones, and their zero point with them. Zero points are taken
out of the finished sum, so that the loop does not know them:
    sum (a - p)(b - q) = sum a·b - p · sum b - q · sum a + count · p · q
On software adapters the sums are f32's, exact, in blocks (`ByteWriter._blocks`), and zero points are taken off the bytes as these become floats. Where they have subgroups, quads
share the reading and taking apart of rows (`ByteWriter.quad`): 1024³ in SwiftShader takes 0.7 of the processor's time of blocks of 4 × 8 that share nothing, and compiles in 0.65 of it.
What lies beyond the end of a row or outside an image reads as p, which adds nothing whatever b is. All of it is modulo 2^32, as the sum itself: exact.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...dim import Dim, ceildiv
from ...dim import product as volume
from ...types import DType
from ..wgsl.shader import Built, Context, Shader
from ..wgsl.space import Operand, even
from .base import most
from .gemm import Product, Writer, in_turn
from .sides import Lines, Panels, zero_of
from .tiles import Tile
from .window import Window

BYTES = (DType.INT8, DType.UINT8)
ONES = "0x01010101u"
#: Words of a sum of products of signed bytes, each at most 2^14, that f32 holds exactly (2^24): half of them for each side whose zero point is taken off its bytes.
BLOCK = 256


@dataclass
class Words:
    """A side read a word at a time. `side`: without its zero point, which is `zero`; `depth`: elements of a tap; `whole`: its words lie in memory as they are needed."""

    side: Lines | Panels | Window
    zero: Operand | None
    depth: Dim
    whole: bool
    plain: bool = False    # words as they are: unsigned bytes are not moved

    @property
    def operand(self) -> Operand:
        """See `Side`."""
        return self.side.operand

    @property
    def unsigned(self) -> bool:
        """Whether its bytes are moved by 128."""
        return self.operand.dtype is DType.UINT8

    @property
    def known(self) -> int | None:
        """The moved zero point, where it is known."""
        if self.zero is None:
            return -128 if self.unsigned else 0
        return int(self.zero.low) - (128 if self.unsigned else 0) if self.zero.low == self.zero.high else None

    def point(self, s: Shader, number: str) -> str:
        """The moved zero point of a line. A uniform also where it is known to be 1: no pipeline of its own."""
        if self.known is not None:
            return s.param(self.known)
        text = zero_of(s, self.zero, number)[0]
        return s.let(f"{text} - 128") if self.unsigned else text

    def line(self, s: Shader, batch: str, number: str) -> list[str]:
        """See `Side`; last the word that stands for what is not there."""
        made = self.side.line(s, batch, number)
        if not isinstance(self.side, Window):
            made[0] = self._word(s, made[0])
        if isinstance(self.side, Panels):
            return made
        if self.known is not None:
            return [*made, self._moved(f"bitcast<u32>({s.param(_signed((self.known & 255) * 0x01010101))})", self.plain)]
        return [*made, s.let(self._moved(f"u32({self.point(s, number)} & 255) * {ONES}", self.plain), "u32")]

    def tap(self, s: Shader, line: list[str], kernel: list[str]) -> list[str]:
        """See `Side`."""
        if isinstance(self.side, Panels):
            made = self.side.tap(s, line, kernel)
            return [made[0], self._word(s, made[1]), *made[2:]]
        made = self.side.tap(s, line[:-1], kernel)
        return [self._word(s, made[0]) if isinstance(self.side, Window) else made[0], *made[1:], line[-1]]

    def _word(self, s: Shader, at: str) -> str:
        """The number of the word at an element, where words are read: once a line, not once a step, for shifts by vectors are taken apart by software adapters."""
        return s.let(f"{at} >> 2u") if self.whole else at

    def read(self, s: Shader, line: list[str], k: str) -> str:
        """Word k of the tap."""
        if isinstance(self.side, Panels):
            return self._moved(f"{s.binding(self.operand.buffer, 'u32')}[{line[0]} + {k if line[1] == '0' else f'({line[1]} + {k})'} * 16]", not self.plain)
        word = f"{s.binding(self.operand.buffer, 'u32')}[{line[0]} + {k}]" if self.whole else self._gathered(s, line, k)
        word = self._moved(word, not self.plain)
        return f"select({line[-1]}, {word}, {line[1]})" if isinstance(self.side, Window) else word

    def _moved(self, word: str, wanted: bool) -> str:
        return f"(({word}) ^ 0x80808080u)" if self.unsigned and wanted else word

    def _gathered(self, s: Shader, line: list[str], k: str) -> str:
        """A word of four elements; behind the last one the zero point."""
        step = self.side.step if isinstance(self.side, Lines) else self.operand.strides[1]
        cut = not even(self.depth)
        parts = []
        for i in range(4):
            at = s.let(f"{k} * 4 + {i}")
            element = s.load(self.operand, s.let(f"{line[0]} + {f'min({at}, {s.size(self.depth)} - 1)' if cut else at} * {s.size(step)}")).text
            byte = f"(u32({element}) & 255u)"
            parts.append(s.let(f"select({self._moved(line[-1], not self.plain)} & 255u, {byte}, {at} < {s.size(self.depth)})" if cut else byte, "u32"))
        return s.let(" | ".join(part if i == 0 else f"({part} << {8 * i}u)" for i, part in enumerate(parts)), "u32")


def _floats(s: Shader, text: str, unsigned: bool, zeros: Sequence[str], vector: bool = False) -> list[str]:
    """The four bytes of a word (of four words: `vector`) less their zero point, as floats, by masks: software adapters take shifts of vectors apart. Byte i is where it lies, 2^8i times as much, on
    the side with vectors; on the other 2^-8i times: their products are right. `zeros`: see `_zeros`."""
    def kind(rep: str, text: str) -> str:
        return f"vec4<{rep}>({text})" if vector else f"{rep}({text})" if rep == "f32" else text
    word = s.let(f"bitcast<{'vec4<i32>' if vector else 'i32'}>({text})", "vec4<i32>" if vector else "i32")
    moved = s.let(f"{word} ^ {kind('i32', '-2139062144i' if not unsigned else '(-2147483647i - 1i)')}", "vec4<i32>" if vector else "i32")
    low, high = (word, moved) if unsigned else (moved, word)
    made = [kind("f32", f"{low} & {kind('i32', str(255 << 8 * i))}") for i in range(3)] + [kind("f32", f"{high} & {kind('i32', '-16777216i')}")]
    for i, zero in enumerate(zeros):
        made[i] = f"({made[i]} - {zero})"
    return [s.let(one if vector or not i else f"{one} * {2.0 ** (-16 * i)!r}", "vec4<f32>" if vector else "f32") for i, one in enumerate(made)]


def _zeros(s: Shader, side: Words, points: Sequence[str]) -> list[str]:
    """What `_floats` takes off the bytes of a word: 128 where the bit that tells signs is turned, and the zero point (of four columns: `points` are four)."""
    if side.known == 0:
        return [repr(128.0 * 256 ** i) for i in range(3)]
    rep, four = ("vec4<f32>", f"vec4<f32>(vec4<i32>({', '.join(points)}))") if len(points) > 1 else ("f32", f"f32({points[0]})")
    zero = s.let(four, rep)
    return [*(s.let(f"({zero} + {rep}(128.0)) * {256.0 ** i!r}", rep) for i in range(3)), s.let(f"{zero} * {256.0 ** 3!r}", rep)]


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def in_words(product: Product) -> Product | None:
    """The product over words; None where its sides are not of bytes, or their words would be of several taps."""
    a, b = product.a, product.b
    if a.operand.dtype not in BYTES or b.operand.dtype not in BYTES or product.kind is not None:
        return None
    if not isinstance(a, Lines | Window) or not isinstance(b, Panels | Lines) or (isinstance(a, Window) and not (isinstance(b, Panels) and even(product.depth))):
        return None
    batch = product.spaces[0]
    count = len(batch.strides) - 2
    sides = [Words(replace(side, zero=None), side.zero, product.depth, _whole(side, product.depth, batch.strides[count + i])) for i, side in enumerate((a, b))]
    return replace(product, a=sides[0], b=sides[1], depth=ceildiv(product.depth, 4), unit=4)


def _whole(side: Lines | Panels | Window, depth: Dim, batch: Sequence[Dim]) -> bool:
    o = side.operand
    if isinstance(side, Panels):
        return True
    step, others = (side.step, [side.stride]) if isinstance(side, Lines) else (o.strides[1], [s for i, s in enumerate(o.strides) if i != 1 and o.dims[i] != 1])
    return o.packed and step == 1 and all(even(x) for x in (depth, o.start, *others, *batch))


class ByteWriter(Writer):
    """The template over words of bytes: sums of rows and columns beside the products, for the zero points."""

    def __init__(self, product: Product, context: Context) -> None:
        super().__init__(product, context)
        self.cell = "u32"
        assert isinstance(product.a, Words) and isinstance(product.b, Words)
        self.left, self.right = product.a, product.b
        self.sum_rows, self.sum_columns = self.right.known != 0, self.left.known != 0

    def words(self) -> bool:
        """See `Writer`."""
        return True

    def shared(self) -> bool:
        """See `Writer`."""
        return isinstance(self.right.side, Panels)

    def register(self, tile: Tile) -> Built:
        """See `Writer`; on software adapters as floats, four columns of a row a vector."""
        if not self.context.cpu:
            return super().register(tile)
        s = Shader(self.context)
        self.left.plain = self.right.plain = True
        self.finish(s)
        block = self.block(s, tile, 4)
        sums = self._zeroed(s, len(block.rows), len(block.columns) // 4)
        zeros = self._taken_off(s, block.row_numbers, block.column_numbers)
        self.each_tap(s, block.rows, block.columns, lambda rows, columns: self._blocks(s, rows, columns, zeros, sums, lambda x: [x]))
        self.store(s, [[f"{name}[{j}]" for name in line for j in range(4)] for line in sums], block.row, block.column)
        return s.dispatch(block.groups)

    def quad(self, tile: Tile) -> Built:
        """A quad's invocations take four columns each of a panel's 16, and read and take apart one of four rows each, which they swap: an invocation's sum i is that of row i ^ its number."""
        s = Shader(self.context, 4)
        self.left.plain = self.right.plain = True
        height = -(-int(min(tile.rows, max(1, most(self.context, self.m)))) // 4)
        row, column, part, base_a, base_b, count = self.in_quads(s, 4 * height)
        numbers = [s.let(f"min({row} + {4 * i} + {part}, {s.param(self.m)} - 1)") for i in range(height)]
        columns = [f"{column} + {j}" for j in range(4)]
        sums = self._zeroed(s, 4 * height, 1)
        zeros = self._taken_off(s, numbers, columns)

        def swapped(x: list[str]) -> list[list[str]]:
            return [list(one) for one in zip(*(in_turn(s, one) for one in x), strict=True)]
        self.each_tap(s, [self.left.line(s, base_a, i) for i in numbers], [self.right.line(s, base_b, column)], lambda rows, lines: self._blocks(s, rows, lines * 4, zeros, sums, swapped))
        self.store(s, [[f"{line[0]}[{j}]" for j in range(4)] for line in sums], row, column, f"(i ^ {part})")
        return s.dispatch(count)

    def _zeroed(self, s: Shader, height: int, width: int) -> list[list[str]]:
        """The sums of rows, four columns a vector."""
        sums = [[f"c{i}_{v}" for v in range(width)] for i in range(height)]
        for name in (name for line in sums for name in line):
            s.add(f"var {name}: vec4<i32>;")
        return sums

    def _taken_off(self, s: Shader, rows: Sequence[str], columns: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
        """What `_floats` takes off: of each row, and of each four columns."""
        p = self._points(s, self.left, rows, self.m) if self.left.known != 0 else [""] * len(rows)
        q = self._points(s, self.right, columns, self.n) if self.right.known != 0 else [""] * len(columns)
        return [_zeros(s, self.left, [one]) for one in p], [_zeros(s, self.right, q[j:j + 4]) for j in range(0, len(q), 4)]

    def _blocks(self, s: Shader, rows: list[list[str]], columns: list[list[str]], zeros: tuple[list[list[str]], list[list[str]]], sums: list[list[str]],
                spread: Callable[[list[str]], list[list[str]]]) -> None:
        """A tap on software adapters, so many words at a time that float sums of at most 2^24 are exact. These adapters take the product of four bytes apart for every pair of words; here a word
        is taken apart once, for all it is multiplied with. What they take time over, to run and to compile, is reads: four columns of a panel are one. `spread`: the rows that a row read is for."""
        across = [self._across(s, columns[4 * v:4 * v + 4]) for v in range(len(columns) // 4)]
        steps, block = s.let(s.param(self.length())), BLOCK >> (self.left.known != 0) >> (self.right.known != 0)
        with s.block(f"for (var k0 = 0; k0 < {steps}; k0 += {block})"):
            for name in (name for line in sums for name in line):
                s.add(f"var f{name} = vec4<f32>();")
            s.add(f"let end = min(k0 + {block}, {steps});")
            with s.block("for (var k = k0; k < end; k += 1)", turns=block):
                b = [_floats(s, read(), self.right.unsigned, zero, True) for read, zero in zip(across, zeros[1], strict=True)]
                a = (line for row, zero in zip(rows, zeros[0], strict=True) for line in spread(_floats(s, self.left.read(s, row, "k"), self.left.unsigned, zero)))
                for x, line in zip(a, sums, strict=True):
                    for y, name in zip(b, line, strict=True):
                        s.add(f"f{name} += {' + '.join(f'{p} * {q}' for p, q in zip(x, y, strict=True))};")
            for name in (name for line in sums for name in line):
                s.add(f"{name} += vec4<i32>(f{name});")

    def _across(self, s: Shader, columns: list[list[str]]) -> Callable[[], str]:
        """What reads word k of four neighbouring columns: of a panel at once."""
        side, first = self.right.side, columns[0]
        if not isinstance(side, Panels):
            return lambda: f"vec4<u32>({', '.join(self.right.read(s, column, 'k') for column in columns)})"
        at = s.let(f"{first[0]} >> 2u" if first[1] == "0" else f"({first[0]} >> 2u) + {first[1]} * 4")
        return lambda: f"{s.binding(side.operand.buffer, 'vec4<u32>')}[{at} + k * 4]"

    def multiply_add(self, a: str, b: str, c: str) -> str:
        """See `Writer`."""
        return f"sx_dot4({a}, {b}) + {c}"

    def across(self, a: str, b: str, c: str) -> str:
        """See `Writer`."""
        return f"sx_dot4v({a}, {b}) + {c}"

    def begin(self, s: Shader, rows: int, columns: int, vectors: bool = False) -> None:
        """See `Writer`."""
        for i in range(rows if self.sum_rows else 0):
            s.add(f"var row{i}: i32;")
        for j in range(columns if self.sum_columns else 0):
            s.add(f"var column{j}: {'vec4<i32>' if vectors else 'i32'};")

    def also(self, s: Shader, a: Sequence[str], b: Sequence[str], vectors: bool = False) -> None:
        """See `Writer`."""
        for i, x in enumerate(a if self.sum_rows else ()):
            s.add(f"row{i} += sx_dot4({x}, {ONES});")
        for j, y in enumerate(b if self.sum_columns else ()):
            s.add(f"column{j} += {'sx_dot4v' if vectors else 'sx_dot4'}({ONES}, {y});")

    def settled(self, s: Shader, sums: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], vectors: bool = False, once: str = "") -> None:
        """See `Writer`: zero points are taken out."""
        if not (self.sum_rows or self.sum_columns):
            return
        p = self._points(s, self.left, rows, self.m)
        q = self._points(s, self.right, columns, self.n)
        if vectors:
            q = [s.let(f"vec4<i32>({', '.join(q[j:j + 4])})", "vec4<i32>") for j in range(0, len(q), 4)]
        count = s.param(self.depth())
        for i, line in enumerate(sums):
            for j, name in enumerate(line):
                if self.sum_columns:
                    s.add(f"{name} -= {p[i]} * column{j};")
                if self.sum_rows:
                    s.add(f"{name} -= {q[j]} * row{i};")
                if self.sum_rows and self.sum_columns:
                    both = f"{count} * {p[i]} * {q[j]}"
                    s.add(f"if ({once}) {{ {name} += {both}; }}" if once else f"{name} += {both};")

    def _points(self, s: Shader, side: Words, numbers: Sequence[str], size: Dim) -> list[str]:
        if side.known is not None or (side.zero is not None and all(d == 1 for d in side.zero.dims)):
            return [side.point(s, "0")] * len(numbers)
        return [side.point(s, s.let(f"min({number}, {s.size(size)} - 1)")) for number in numbers]


def is_in_parts(product: Product, context: Context) -> bool:
    """Whether TapWriter writes it better: on software adapters, where taps are no whole words (a first convolution's three channels), and float sums of at most 2^24 are exact."""
    a, b = product.a.operand, product.b
    return (context.cpu and bool(product.taps) and a.dtype in BYTES and isinstance(b, Panels) and b.zero is None and b.operand.dtype is DType.INT8 and product.kind is None
            and most(context, product.depth * volume(product.taps)) <= 2 * BLOCK)


class TapWriter(Writer):
    """The template over single bytes of windows and of panels of words, in quads: as floats."""

    fours = 4

    def shared(self) -> bool:
        """See `Writer`."""
        return True

    def single(self, s: Shader, row: list[str], k: str) -> str:
        """See `Writer`."""
        return f"f32({self.product.a.read(s, row, k)})"

    def four(self, s: Shader, column: list[str], k: str) -> str:
        """See `Writer`: the byte is moved to where a sign is by a factor (shifts of vectors are taken apart)."""
        at = k if column[1] == "0" else s.let(f"{column[1]} + {k}")
        words = f"bitcast<vec4<i32>>({s.binding(self.product.b.operand.buffer, 'vec4<u32>')}[{column[0]} + ({at} >> 2u) * 4])"
        return f"vec4<f32>(({words} * (1 << (24u - u32({at} & 3) * 8u))) & vec4<i32>(-16777216i)) * {2.0 ** -24!r}"
