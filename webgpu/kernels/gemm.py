"""The product template MatMul, Conv and Attention share: out[batch, m, n] = finish(sum over k of A[batch, m, k] * B[batch, k, n]), where k runs over *taps* (a convolution's kernel
positions; one for a matrix product) and the elements of a tap.

Five variants, one table (tiles.py)
- *register*: each invocation computes a block of up to 8 × 4 straight from memory. No barriers: for software adapters, and where there are at most four columns.
- *quad*: the same for software adapters whose WGSL has subgroups, where B is a packed panel of floats: a workgroup is one quad, whose four invocations share rows and split a panel. Each reads one
  of four neighbours of A's row, and passes it on (quadBroadcast), or, where rows are windows, every fourth row: 8 reads of A for four steps of the sum instead of 32. Reads are what a software
  adapter's time goes to (each invocation of a vector
  looks for its word by itself): SwiftShader takes 0.55 times as long as with *register* (512 × 512 × 512), and no longer over the text.
- *workgroup*: side² invocations share a tile of A and B in workgroup memory, `depth` steps of k at a time; each holds rows × columns sums in vec4 registers. What an invocation copies there
  are the same lines in every round, so their offsets (divisions, for a convolution) are computed once. Tiles of 32 × 32 to 128 × 128; a 128 × 128 tile does 32 multiply-adds for every
  word it reads from memory, and 2 for every word from workgroup memory.
- *split*: few rows (decoding). 16 columns a workgroup, whose weights lie side by side in a packed panel; 4 or 16 invocations share the sum of a column and add their parts up at the end. Every weight
  is read once: the memory's speed is the bound. K-splits follow from sizes, so results repeat.
- *subgroup*: the same where WGSL has subgroups and the weights are a packed panel of floats (or of 4 or 8 bits in blocks, blocks.py). Each of 64 or 128 invocations takes whole lines of the panel:
  one element of A serves 16 columns, which are four reads of a vec4 (of int4: eight elements of A, 16 words). Every subgroup adds its parts up by itself (subgroupAdd), and what the two or four of
  them leave is added in the order of their first invocations: two barriers, and no order of invocations in subgroups is taken for granted. The sum's order depends on the device's subgroups only.
Where both sides lie as f16, so do their tiles in workgroup memory (half of it, exactly: that is what they are); products and sums are f32's, in which products of two f16 are exact. Sums are
not f16's: products beyond 65504 would be infinite, and a block of 16 steps would be off by up to 16 · 2^-11 of the sum of magnitudes.
`A` and `B` are *sides* (sides.py, window.py).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...dim import Dim
from ...dim import product as volume
from ...expr import Compute, compute_type
from ...model.packing import PANEL
from ...types import DType
from ..wgsl.expression import Value, fit, real, whole
from ..wgsl.shader import Built, Context, Shader
from ..wgsl.space import Operand, Space, even
from .base import Step, compute_rep, emitter, most
from .sides import Panels, Side
from .tiles import FEW, Tile, choose, key

#: Invocations of the smallest subgroup WebGPU allows.
SMALLEST = 4


@dataclass
class Product:
    """What is multiplied. `spaces`: batch, rows and columns over [output, leaves…, A, B] (A and B have strides in the batch only). `taps`: the kernel's sizes; `depth`: elements of a tap."""

    step: Step
    leaves: list[int]
    spaces: tuple[Space, Space, Space]
    a: Side
    b: Side
    taps: Sequence[Dim]
    depth: Dim
    kind: Compute | None = None
    unit: int = 1        # elements of the sum in one element of the sides: 4 where they are words of bytes (bytes.py)


@dataclass
class Block:
    """What an invocation that works alone has to do: its first row and column, the numbers of its lines and what is known of them; and how many workgroups there are."""

    row: str
    column: str
    row_numbers: list[str]
    column_numbers: list[str]
    rows: list[list[str]]
    columns: list[list[str]]
    groups: Dim


class Writer:
    """Writes the shader of a product. `cell`: the WGSL type of an element of a side, `rep`: of a sum."""

    def __init__(self, product: Product, context: Context) -> None:
        self.product, self.context = product, context
        self.m, self.n = product.spaces[1].count, product.spaces[2].count
        self.rep = self.cell = compute_rep(product.a.operand)
        self.operands = [product.step.output(), *(product.step.there(i) for i in product.leaves)]
        # Bytes are written a word at a time: four neighbouring columns.
        self.quads = self.operands[0].packed and self.n != 0 and product.spaces[2].strides[0] == [1] and all(
            even(x) for x in (self.n, self.operands[0].start, *product.spaces[0].strides[0], *product.spaces[1].strides[0]))

    def build(self) -> Built:
        tile = self.tile(self.context)
        made = {"register": self.register, "quad": self.quad, "workgroup": self.workgroup, "split": self.split, "subgroup": self.subgroup}[tile.variant](tile)
        name = key(self.context, self.m, self.n, self.depth(), bool(self.product.taps))
        made.tile = name if self.context.tiles.get(name, tile) == tile else ""   # a tile that is asked for and not possible is not to be measured
        return made

    def tile(self, context: Context) -> Tile:
        """The tile it is written with where that is known."""
        return choose(context, self.product.spaces[0].count, self.m, self.n, self.depth(), bool(self.product.taps), self.lines(), self.shared(), self.words())

    # -- shared pieces -----------------------------------------------------------------------------------------------------------------------
    def batch(self, s: Shader, number: str) -> tuple[str, str]:
        """Offsets of the batch: those of output and leaves go to private variables, those of A and B are returned."""
        space = self.product.spaces[0]
        at = s.coordinates(space, number)
        for i, operand in enumerate(self.operands):
            s.declare(f"var<private> q{i}: i32;")
            s.add(f"q{i} = {s.offset(space, i, at, s.start(operand))};")
        own = [s.let(s.offset(space, len(self.operands) + i, at, s.start(side.operand))) for i, side in enumerate((self.product.a, self.product.b))]
        return own[0], own[1]

    def finish(self, s: Shader) -> None:
        """The function that ends a sum: epilogue and store; `finish4` for four neighbouring columns where the output is bytes."""
        _, rows, columns = self.product.spaces
        step = self.product.step
        with s.function(f"finished(acc: {self.rep}, m: i32, n: i32) -> i32" if self.quads else f"finish(acc: {self.rep}, m: i32, n: i32)"):
            at_m, at_n = s.coordinates(rows, "m"), s.coordinates(columns, "n")
            places = [s.let(s.offset(columns, i, at_n, s.offset(rows, i, at_m, f"q{i}"))) for i in range(len(self.operands))]
            value = self.total("acc")
            if step.epilogue:
                value = emitter(s, step, dict(zip(self.product.leaves, places[1:], strict=True)), lambda axis: "0", step.output().dims, value).emit(step.epilogue[0])
            if self.quads:
                s.add(f"return {s.element(self.operands[0], value)};")
            else:
                s.write(self.operands[0], places[0], value)
        if self.quads:
            self.finish4(s)

    def finish4(self, s: Shader) -> None:
        """The function that ends four sums and stores a word of bytes."""
        _, rows, columns = self.product.spaces
        with s.function(f"finish4(acc: vec4<{self.rep}>, m: i32, n: i32)"):
            s.add("var word: u32;")
            s.add("for (var j = 0; j < 4; j += 1) { word |= (u32(finished(acc[j], m, n + j)) & 255u) << u32(8 * j); }")
            s.write_word(self.operands[0], s.offset(columns, 0, ["n"], s.offset(rows, 0, s.coordinates(rows, "m"), "q0")), "word")

    def store(self, s: Shader, sums: Sequence[Sequence[str]], row: str, column: str, line: str = "i") -> None:
        """End the sums of a block and store them. One epilogue in the text, not one for each of them: drivers take seconds over those. The sums pass through private memory for it, once.
        `line`: which of them are row i's."""
        height, width = len(sums), len(sums[0])
        if self.quads:
            parts = [f"vec4<{self.rep}>({', '.join(line[j:j + 4])})" for line in sums for j in range(0, width, 4)]
        else:
            parts = [name for line in sums for name in line]
        kind, unit = (f"vec4<{self.rep}>", 4) if self.quads else (self.rep, 1)
        s.add(f"var sums = array<{kind}, {len(parts)}>({', '.join(parts)});")
        with s.block(f"for (var i = 0; i < min({height}, {s.param(self.m)} - {row}); i += 1)"), s.block(f"for (var j = 0; j < min({width}, {s.param(self.n)} - {column}); j += {unit})"):
            s.add(f"{'finish4' if self.quads else 'finish'}(sums[({line} * {width} + j) / {unit}], {row} + i, {column} + j);")

    def total(self, text: str) -> Value:
        """The sum with the interval it lies in."""
        if self.rep == "f32":
            return real(text)
        a, b = self.product.a.operand, self.product.b.operand
        count = most(self.context, self.depth())
        corner = (max(abs(a.low), abs(a.high)) + 256) * (max(abs(b.low), abs(b.high)) + 256) * count
        kind = self.product.kind or compute_type(a.dtype)
        return fit(whole(text), -corner, corner, kind is not Compute.I32)

    def steps(self) -> Dim:
        """Length of the sum, in elements of the sides."""
        total = self.product.depth
        for size in self.product.taps:
            total = total * size
        return total

    def depth(self) -> Dim:
        """Length of the sum."""
        return self.steps() * self.product.unit

    @property
    def zero(self) -> str:
        """What a side has beyond the sum's end."""
        return {"f32": "0.0", "i32": "0", "u32": "0u"}[self.cell]

    def multiply_add(self, a: str, b: str, c: str) -> str:
        """a · b + c as a sum; b and c may be vectors."""
        return f"fma({a}, {b}, {c})" if self.rep == "f32" else f"{a} * {b} + {c}"

    def across(self, a: str, b: str, c: str) -> str:
        """`multiply_add` of one a and four columns."""
        return self.multiply_add(f"vec4<{self.rep}>({a})", b, c)

    def begin(self, s: Shader, rows: int, columns: int, vectors: bool = False) -> None:
        """Variables the sums need besides themselves. `vectors`: columns come four at a time."""

    def also(self, s: Shader, a: Sequence[str], b: Sequence[str], vectors: bool = False) -> None:
        """What a step adds to them."""

    def settled(self, s: Shader, sums: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str], vectors: bool = False, once: str = "") -> None:
        """What is left to do to the sums (variables) of the rows and columns of these numbers. `once`: where invocations share a sum, the condition that holds in one of them."""

    def lines(self) -> Dim | None:
        """Lines of 16 columns in a panel of B, where `add_lines` can take them whole."""
        b = self.product.b
        return self.product.depth if isinstance(b, Panels) and not self.product.taps and self.rep == "f32" and b.operand.rank == 2 and in_vectors(b.operand) else None

    def words(self) -> bool:
        """Whether software adapters take WIDE blocks of it: its sides are words of bytes."""
        return False

    def begin_lines(self, s: Shader, base: str, panel: str) -> list[str]:
        """What `add_lines` needs to know of a panel."""
        right = self.product.b
        assert isinstance(right, Panels)
        return [s.let(f"{base} + {panel} * {s.size(right.panel)}")]

    def add_lines(self, s: Shader, rows: Sequence[list[str]], panel: list[str], sums: Sequence[Sequence[str]]) -> None:
        """Line k of a panel: to the sums (four vec4) of every row."""
        weights = sixteen(s, self.product.b.operand, s.let(f"{panel[0]} + k * {PANEL}"))
        for row, names in zip(rows, sums, strict=True):
            x = s.let(self.product.a.read(s, row, "k"), "f32")
            for name, weight in zip(names, weights, strict=True):
                s.add(f"{name} = {self.across(x, weight, name)};")

    def taps(self, s: Shader, number: str) -> list[str]:
        """Kernel coordinates of a tap. Its sizes are uniforms also where they are 1, as in Window: a 1 × 1 convolution with strides is one pipeline with the others."""
        found: list[str] = []
        for size in reversed(self.product.taps[1:]):
            found.insert(0, s.let(f"{number} % {s.param(size)}"))
            number = s.let(f"{number} / {s.param(size)}")
        return [number, *found] if self.product.taps else []

    # -- variants ----------------------------------------------------------------------------------------------------------------------------
    def register(self, tile: Tile) -> Built:
        s = Shader(self.context)
        self.finish(s)
        block = self.block(s, tile)
        sums = [[f"c{i}{j}" for j in range(len(block.columns))] for i in range(len(block.rows))]
        for name in (name for line in sums for name in line):
            s.add(f"var {name}: {self.rep};")
        self.begin(s, len(block.rows), len(block.columns))
        self.walk(s, block)
        self.settled(s, sums, block.row_numbers, block.column_numbers)
        self.store(s, sums, block.row, block.column)
        return s.dispatch(block.groups)

    def block(self, s: Shader, tile: Tile, unit: int = 1) -> Block:
        """The rows and columns of an invocation that works alone. `unit`: columns come so many at a time."""
        height, width = (int(min(size, max(1, most(self.context, x)))) for size, x in ((tile.rows, self.m), (tile.columns, self.n)))
        width = -(-width // unit) * unit
        down, across = (self.m + (height - 1)) // height, (self.n + (width - 1)) // width
        batches = self.product.spaces[0].count
        item = s.let("group * 64 + lane")
        s.add(f"if ({item} >= {s.param(batches * down * across)}) {{ return; }}")
        # Neighbouring invocations take neighbouring columns; where there is but one block of columns, neighbouring batches (the channels of a depthwise convolution).
        if across == 1:
            batch, row, column = s.let(f"{item} % {s.param(batches)}"), s.let(f"{item} / {s.param(batches)} * {height}"), "0"
        else:
            rest = s.let(f"{item} / {s.param(across)}")
            column = s.let(f"{item} % {s.param(across)} * {width}")
            batch, row = s.let(f"{rest} / {s.param(down)}"), s.let(f"{rest} % {s.param(down)} * {height}")
        base_a, base_b = self.batch(s, batch)
        m, n = s.param(self.m), s.param(self.n)
        row_numbers, column_numbers = [s.let(f"min({row} + {i}, {m} - 1)") for i in range(height)], [s.let(f"min({column} + {j}, {n} - 1)") for j in range(width)]
        rows, columns = [self.product.a.line(s, base_a, i) for i in row_numbers], [self.product.b.line(s, base_b, j) for j in column_numbers]
        return Block(row, column, row_numbers, column_numbers, rows, columns, (batches * down * across + 63) // 64)

    def each_tap(self, s: Shader, rows: list[list[str]], columns: list[list[str]], steps: Callable[[list[list[str]], list[list[str]]], None]) -> None:
        """`steps` of what is known of rows and columns, tap by tap."""
        if not self.product.taps:
            steps(rows, columns)
            return
        with s.block(f"for (var t = 0; t < {s.param(volume(self.product.taps))}; t += 1)"):
            kernel = self.taps(s, "t")
            steps([self.product.a.tap(s, r, kernel) for r in rows], [self.product.b.tap(s, c, kernel) for c in columns])

    def walk(self, s: Shader, block: Block) -> None:
        """The sums of a block."""
        self.each_tap(s, block.rows, block.columns, lambda rows, columns: self._inner(s, rows, columns))

    def shared(self) -> bool:
        """Whether `quad` can write it: weights in panels whose columns are read four at a time, and nothing but sums to keep."""
        b = self.product.b
        return self.rep == "f32" and isinstance(b, Panels) and b.zero is None and (b.operand.half or b.operand.dtype is DType.FLOAT)

    def quad(self, tile: Tile) -> Built:
        """No invocation leaves early and no branch depends on one: WGSL wants quads whole."""
        if self.product.taps:
            return self.rows_in_quads(tile)
        s = Shader(self.context, 4)
        height, m = int(min(tile.rows, max(1, most(self.context, self.m)))), s.param(self.m)
        row, column, part, base_a, base_b, count = self.in_quads(s, height)
        rows, columns = [self.product.a.line(s, base_a, s.let(f"min({row} + {i}, {m} - 1)")) for i in range(height)], self.product.b.line(s, base_b, column)
        for i in range(height):
            s.add(f"var c{i} = vec4<f32>();")
        self.each_tap(s, rows, [columns], lambda rows, columns: self._quad_steps(s, rows, columns[0], part))
        self.store(s, [[f"c{i}[{j}]" for j in range(4)] for i in range(height)], row, column)
        return s.dispatch(count)

    def in_quads(self, s: Shader, height: int) -> tuple[str, str, str, str, str, Dim]:
        """A quad's first row, an invocation's first column and its number in the quad; the offsets of the batch in A and B; how many quads there are."""
        s.subgroups = s.numbered = True
        self.finish(s)
        down, across = (self.m + (height - 1)) // height, (self.n + (PANEL - 1)) // PANEL
        count = self.product.spaces[0].count * down * across
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        rest = s.let(f"group / {s.param(across)}")
        column, row = s.let(f"group % {s.param(across)} * {PANEL} + lane * 4"), s.let(f"{rest} % {s.param(down)} * {height}")
        base_a, base_b = self.batch(s, s.let(f"{rest} / {s.param(down)}"))
        return row, column, s.let("i32(sub & 3u)"), base_a, base_b, count

    def rows_in_quads(self, tile: Tile) -> Built:
        """A quad's invocations have every fourth row, and swap what they read: an invocation's sum i is that of row i ^ its number. What is known of a window is long text: here it is there for one
        of four rows."""
        s = Shader(self.context, 4)
        height = -(-int(min(tile.rows, max(1, most(self.context, self.m)))) // 4)
        row, column, part, base_a, base_b, count = self.in_quads(s, 4 * height)
        rows = [self.product.a.line(s, base_a, s.let(f"min({row} + {4 * i} + {part}, {s.param(self.m)} - 1)")) for i in range(height)]
        names = [f"c{i}" for i in range(4 * height)]
        for name in names:
            s.add(f"var {name} = vec4<f32>();")
        self.each_tap(s, rows, [self.product.b.line(s, base_b, column)], lambda rows, columns: self._row_steps(s, rows, columns[0], names))
        self.store(s, [[f"{name}[{j}]" if self.rep == "f32" else f"{self.rep}({name}[{j}])" for j in range(4)] for name in names], row, column, f"(i ^ {part})")
        return s.dispatch(count)

    def _row_steps(self, s: Shader, rows: list[list[str]], column: list[str], sums: list[str]) -> None:
        """The steps of a tap, four at a time where it is whole fours."""
        length, unit = self.length(), 4 if even(self.length()) else 1
        column = [s.let(f"{column[0]} >> {self.fours}u"), *column[1:]]   # once: software adapters take shifts of vectors apart
        with s.block(f"for (var k = 0; k < {s.param(length)}; k += {unit})"):
            for j in range(unit):
                k = s.let(f"k + {j}") if j else "k"
                b = s.let(self.four(s, column, k), "vec4<f32>")
                for i, row in enumerate(rows):
                    for name, x in zip(sums[4 * i:4 * i + 4], in_turn(s, s.let(self.single(s, row, k), "f32")), strict=True):
                        s.add(f"{name} = fma(vec4<f32>({x}), {b}, {name});")

    def single(self, s: Shader, row: list[str], k: str) -> str:
        """Element k of a row as a float."""
        return self.product.a.read(s, row, k)

    #: Elements of a panel that `four` reads at once, as a power of two.
    fours = 2

    def four(self, s: Shader, column: list[str], k: str) -> str:
        """Element k of four neighbouring columns of a panel as floats; the column's place is in reads of four."""
        weights = self.product.b.operand
        text = f"{s.binding(weights.buffer, 'vec4<f16>' if weights.half else 'vec4<f32>')}[{column[0]} + {k if column[1] == '0' else f'({column[1]} + {k})'} * {PANEL // 4}]"
        return f"vec4<f32>({text})" if weights.half else text

    def _quad_steps(self, s: Shader, rows: list[list[str]], columns: list[str], part: str) -> None:
        """The steps of a tap, four at a time; beyond its end there are zeros, on both sides: a zero times an infinity is none. (Selected, not skipped: in a branch all is masked, and
        takes 1.8 times as long.)"""
        depth, weights, whole_fours = s.param(self.length()), self.product.b.operand, even(self.length())
        name, cell = s.binding(weights.buffer, "vec4<f16>" if weights.half else "vec4<f32>"), "f16" if weights.half else "f32"

        def kept(text: str, k: str, zero: str) -> str:
            return text if whole_fours else f"select({zero}, {text}, {k} < {depth})"

        def at(k: str) -> str:
            return s.let(k if whole_fours else f"min({k}, {depth} - 1)")
        first = s.let(f"{columns[0]} >> 2u")   # once: software adapters take shifts of vectors apart
        with s.block(f"for (var k = 0; k < {depth}; k += 4)"):
            place = at(f"k + {part}")
            values = [s.let(kept(self.product.a.read(s, r, place), f"k + {part}", "0.0"), "f32") for r in rows]
            for j in range(4):
                k = at(f"k + {j}") if columns[1] == "0" else s.let(f"{columns[1]} + {at(f'k + {j}')}")
                found = s.let(kept(f"{name}[{first} + {k} * {PANEL // 4}]", f"k + {j}", f"vec4<{cell}>()"), f"vec4<{cell}>")
                four = s.let(f"vec4<f32>({found})", "vec4<f32>") if weights.half else found
                for i, value in enumerate(values):
                    s.add(f"c{i} = fma(vec4<f32>(quadBroadcast({value}, {j}u)), {four}, c{i});")

    def length(self) -> Dim:
        """Steps of a tap, of the variants that read memory as they add."""
        return self.product.depth

    def _inner(self, s: Shader, rows: list[list[str]], columns: list[list[str]]) -> None:
        with s.block(f"for (var k = 0; k < {s.param(self.length())}; k += 1)"):
            self.add(s, rows, columns, [[f"c{i}{j}" for j in range(len(columns))] for i in range(len(rows))])

    def add(self, s: Shader, rows: list[list[str]], columns: list[list[str]], sums: list[list[str]]) -> None:
        """Step k of the sums."""
        a = [s.let(self.product.a.read(s, r, "k"), self.cell) for r in rows]
        b = [s.let(self.product.b.read(s, c, "k"), self.cell) for c in columns]
        self.also(s, a, b)
        for x, line in zip(a, sums, strict=True):
            for y, name in zip(b, line, strict=True):
                s.add(f"{name} = {self.multiply_add(x, y, name)};")

    def workgroup(self, tile: Tile) -> Built:
        side, lanes, depth = tile.side, tile.side**2, tile.depth
        down, across = (self.m + (side * tile.rows - 1)) // (side * tile.rows), (self.n + (side * tile.columns - 1)) // (side * tile.columns)
        s = Shader(self.context, lanes)
        self.finish(s)
        count = self.product.spaces[0].count * down * across
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        rest = s.let(f"group / {s.param(across)}")
        column, row = s.let(f"group % {s.param(across)} * {side * tile.columns}"), s.let(f"{rest} % {s.param(down)} * {side * tile.rows}")
        base_a, base_b = self.batch(s, s.let(f"{rest} / {s.param(down)}"))
        # Neighbours in A are k, neighbours in B are columns: in that order invocations share the copying, each of four lines (one vec4) at a time.
        half = self.cell == "f32" and self.product.a.operand.half and self.product.b.operand.half
        a = _Copy(s, "a", self.cell, half, side * tile.rows // 4, depth, lanes, across=False)
        b = _Copy(s, "b", self.cell, half, side * tile.columns // 4, depth, lanes, across=True)
        a.lines(self.product.a, base_a, row, s.param(self.m))
        b.lines(self.product.b, base_b, column, s.param(self.n))
        y, x = s.let(f"lane / {side}"), s.let(f"lane % {side}")
        vectors = tile.columns // 4
        for i in range(tile.rows):
            for v in range(vectors):
                s.add(f"var c{i}_{v} = vec4<{self.rep}>();")
        self.begin(s, tile.rows, vectors, True)
        total = s.param(self.steps())
        with s.block(f"for (var k0 = 0; k0 < {total}; k0 += {depth})"):
            for copy in (a, b):
                copy.fill(self, total)
            s.add("workgroupBarrier();")
            with s.block(f"for (var k = 0; k < {depth}; k += 1)"):
                left = [s.let(a.element(f"{y} * {tile.rows // 4} + {i}"), f"vec4<{self.cell}>") for i in range(tile.rows // 4)]
                right = [s.let(b.element(f"{x} * {vectors} + {v}"), f"vec4<{self.cell}>") for v in range(vectors)]
                single = [f"{left[i // 4]}[{i % 4}]" for i in range(tile.rows)]
                self.also(s, single, right, True)
                for i in range(tile.rows):
                    for v in range(vectors):
                        s.add(f"c{i}_{v} = {self.across(single[i], right[v], f'c{i}_{v}')};")
            s.add("workgroupBarrier();")
        self.settled(s, [[f"c{i}_{v}" for v in range(vectors)] for i in range(tile.rows)], [f"{row} + {y} * {tile.rows} + {i}" for i in range(tile.rows)],
                     [f"{column} + {x} * {tile.columns} + {j}" for j in range(tile.columns)], True)
        self.store(s, [[f"c{i}_{v}[{j}]" for v in range(vectors) for j in range(4)] for i in range(tile.rows)], s.let(f"{row} + {y} * {tile.rows}"), s.let(f"{column} + {x} * {tile.columns}"))
        return s.dispatch(count)

    def split(self, tile: Tile) -> Built:
        height = int(min(FEW, max(1, most(self.context, self.m))))
        lanes = 16 * tile.side
        s = Shader(self.context, lanes)
        self.quads = False   # an invocation has one column
        self.finish(s)
        across = (self.n + 15) // 16
        count = self.product.spaces[0].count * across
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        base_a, base_b = self.batch(s, s.let(f"group / {s.param(across)}"))
        column = s.let(f"group % {s.param(across)} * 16 + lane % 16")
        m, n = s.param(self.m), s.param(self.n)
        row_numbers, column_number = [s.let(f"min({i}, {m} - 1)") for i in range(height)], s.let(f"min({column}, {n} - 1)")
        rows, columns = [self.product.a.line(s, base_a, i) for i in row_numbers], self.product.b.line(s, base_b, column_number)
        for i in range(height):
            s.add(f"var c{i}: {self.rep};")
        self.begin(s, height, 1)
        with s.block(f"for (var k = lane / 16; k < {s.param(self.length())}; k += {tile.side})"):
            self.add(s, rows, [columns], [[f"c{i}"] for i in range(height)])
        self.settled(s, [[f"c{i}"] for i in range(height)], row_numbers, [column_number], once="lane < 16")
        s.declare(f"var<workgroup> parts: array<{self.rep}, {lanes * height}>;")
        for i in range(height):
            s.add(f"parts[{i * lanes} + lane] = c{i};")
        s.add("workgroupBarrier();")
        with s.block(f"for (var i = lane / 16; i < {m}; i += {tile.side})"), s.block(f"if ({column} < {n})"):
            s.add(f"var sum = parts[i * {lanes} + lane % 16];")
            s.add(f"for (var part = 1; part < {tile.side}; part += 1) {{ sum += parts[i * {lanes} + part * 16 + lane % 16]; }}")
            s.add(f"finish(sum, i, {column});")
        return s.dispatch(count)


    def subgroup(self, tile: Tile) -> Built:
        height, lanes = int(min(FEW, max(1, most(self.context, self.m)))), 16 * tile.side
        s = Shader(self.context, lanes)
        s.subgroups, self.quads = True, False
        self.finish(s)
        across, lines = (self.n + 15) // 16, self.lines()
        assert lines is not None
        count = self.product.spaces[0].count * across
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        base_a, base_b = self.batch(s, s.let(f"group / {s.param(across)}"))
        panel, m, n = s.let(f"group % {s.param(across)}"), s.param(self.m), s.param(self.n)
        rows, held = [self.product.a.line(s, base_a, s.let(f"min({i}, {m} - 1)")) for i in range(height)], self.begin_lines(s, base_b, panel)
        sums = [[f"c{i}_{j}" for j in range(PANEL // 4)] for i in range(height)]
        for name in (name for line in sums for name in line):
            s.add(f"var {name} = vec4<f32>();")
        s.declare(f"var<workgroup> heads: array<atomic<u32>, {lanes // 32}>;")
        s.declare(f"var<workgroup> parts: array<vec4<f32>, {lanes // SMALLEST * height * PANEL // 4}>;")
        s.add(f"if (lane < {lanes // 32}) {{ atomicStore(&heads[lane], 0u); }}")
        with s.block(f"for (var k = lane; k < {s.param(lines)}; k += {lanes})"):
            self.add_lines(s, rows, held, sums)
        # The invocation that comes first in its subgroup leaves a mark where it stands: the marks before it number the subgroup.
        first = s.let("subgroupExclusiveAdd(1u) == 0u", "bool")
        s.add("workgroupBarrier();")
        s.add(f"if ({first}) {{ atomicOr(&heads[lane / 32], 1u << u32(lane % 32)); }}")
        s.add("workgroupBarrier();")
        marks = [s.let(f"atomicLoad(&heads[{i}])", "u32") for i in range(lanes // 32)]
        before = " + ".join(f"countOneBits({mark} & select(select(0u, 0xffffffffu, lane >= {32 * i + 32}), (1u << u32(lane % 32)) - 1u, lane / 32 == {i}))" for i, mark in enumerate(marks))
        slot, slots = s.let(f"i32({before}) * {height * PANEL // 4}"), s.let(f"i32({' + '.join(f'countOneBits({mark})' for mark in marks)})")
        totals = [s.let(f"subgroupAdd({name})", "vec4<f32>") for line in sums for name in line]
        with s.block(f"if ({first})"):
            for i, name in enumerate(totals):
                s.add(f"parts[{slot} + {i}] = {name};")
        s.add("workgroupBarrier();")
        with s.block(f"for (var i = lane; i < {m} * {PANEL}; i += {lanes})"):
            column = s.let(f"{panel} * {PANEL} + i % {PANEL}")
            s.add("var sum = 0.0;")
            s.add(f"for (var part = 0; part < {slots}; part += 1) {{ sum += parts[part * {height * PANEL // 4} + i / 4][i % 4]; }}")
            s.add(f"if ({column} < {n}) {{ finish(sum, i / {PANEL}, {column}); }}")
        return s.dispatch(count)


def in_turn(s: Shader, x: str) -> list[str]:
    """A float of every invocation of a quad, as an invocation sees them: its own, and those of the invocations whose numbers differ by 1, 2 and 3 (in bits)."""
    return [x, *(s.let(f"quadSwap{how}({x})", "f32") for how in ("X", "Y", "Diagonal"))]


def in_vectors(o: Operand) -> bool:
    """Whether `sixteen` reads it."""
    return o.half or o.dtype is DType.FLOAT or (o.dtype is DType.FLOAT16 and o.packed)


def sixteen(s: Shader, o: Operand, at: str) -> list[str]:
    """16 neighbours in a packed constant, from element `at` (a multiple of 16 from the constant's beginning), as four vec4<f32>."""
    if not o.half and o.dtype is DType.FLOAT16:
        words = [s.let(f"{s.binding(o.buffer, 'vec4<u32>')}[({at} >> 3u) + {j}]", "vec4<u32>") for j in range(2)]
        return [s.let(f"vec4<f32>(unpack2x16float({word}.{a}), unpack2x16float({word}.{b}))", "vec4<f32>") for word in words for a, b in ("xy", "zw")]
    name = s.binding(o.buffer, "vec4<f16>" if o.half else "vec4<f32>")
    return [s.let(f"vec4<f32>({name}[({at} >> 2u) + {j}])" if o.half else f"{name}[({at} >> 2u) + {j}]", "vec4<f32>") for j in range(4)]


class _Copy:
    """How a workgroup copies a tile of a side to workgroup memory: [depth][quads] vectors of four lines, of f16 where `half`. `across`: neighbouring invocations take neighbouring lines, else
    neighbouring k."""

    def __init__(self, s: Shader, name: str, rep: str, half: bool, quads: int, depth: int, lanes: int, across: bool) -> None:
        self.s, self.name, self.rep, self.half, self.quads, self.depth = s, name, rep, half, quads, depth
        s.declare(f"var<workgroup> tile_{name}: array<vec4<{'f16' if half else rep}>, {depth * quads}>;")
        inner = quads if across else depth
        assert lanes % inner == 0 and depth * quads % lanes == 0, "invocations keep their lines"
        fast, slow = s.let(f"lane % {inner}"), s.let(f"lane / {inner}")
        step, rounds = lanes // inner, depth * quads // lanes
        others = [s.let(f"{slow} + {i * step}") if i else slow for i in range(rounds)]
        #: (quad, k) of every copy of an invocation.
        self.places = [(fast, k) for k in others] if across else [(quad, fast) for quad in others]
        self.held: dict[str, list[list[str]]] = {}

    def lines(self, which: Side, base: str, first: str, size: str) -> None:
        """What is known of the lines, before the loop."""
        self.which = which
        for quad, _ in self.places:
            if quad not in self.held:
                self.held[quad] = [which.line(self.s, base, self.s.let(f"min({first} + {quad} * 4 + {j}, {size} - 1)")) for j in range(4)]

    def element(self, quad: str) -> str:
        """Four lines at step k."""
        text = f"tile_{self.name}[k * {self.quads} + {quad}]"
        return f"vec4<{self.rep}>({text})" if self.half else text

    def fill(self, writer: Writer, total: str) -> None:
        """A round: steps k0 … of the sum; zero beyond its end."""
        s, taps = self.s, writer.product.taps
        zero = writer.zero
        steps: dict[str, tuple[str, str, list[str]]] = {}
        for quad, place in self.places:
            if place not in steps:
                k = s.let(f"min(k0 + {place}, {total} - 1)")
                inner = s.let(f"{k} % {s.param(writer.product.depth)}") if taps else k
                steps[place] = s.let(f"k0 + {place} < {total}", "bool"), inner, writer.taps(s, s.let(f"{k} / {s.param(writer.product.depth)}")) if taps else []
            inside, inner, kernel = steps[place]
            found = [self.which.tap(s, line, kernel) if taps else line for line in self.held[quad]]
            values = [s.let(f"select({zero}, {self.which.read(s, line, inner)}, {inside})", self.rep) for line in found]
            four = f"vec4<{self.rep}>({', '.join(values)})"
            s.add(f"tile_{self.name}[{place} * {self.quads} + {quad}] = {f'vec4<f16>({four})' if self.half else four};")
