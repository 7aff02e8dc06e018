"""Packages made by hand, for tests: few programs, every kind of segment; and random ones."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sardonyx.dim import dim_max, dim_min, symbol, symbols
from sardonyx.expr import E, Op, binary, const, encode, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.package import Block, Device, Do, Package, Placed, Port, Segment, Variant
from sardonyx.program import Home, PortRecord, Program, StepRecord, ViewRecord
from sardonyx.types import DType

LEAST = -(1 << 63)
F, I, B = DType.FLOAT, DType.INT64, DType.BOOL
N, M = symbol("n"), symbol("m")
Dims = tuple[Any, ...]


class Hand:
    """A program made step by step: inputs with dims, then Maps into outputs."""

    def __init__(self, *inputs: tuple[DType, Dims], elements: Sequence[tuple[str, int, int]] = ()) -> None:
        self.p = p = Program()
        p.inputs = [PortRecord(p.string(f"x{i}"), dtype, -1, tuple(0 for _ in dims)) for i, (dtype, dims) in enumerate(inputs)]
        for i, (_, dims) in enumerate(inputs):
            for axis, d in enumerate(dims):
                names = symbols(d)
                if len(names) == 1 and str(d) == next(iter(names)).name:
                    p.bind_symbol(str(d), i, axis)
        for name, port, element in elements:
            p.bind_element(name, port, element)
        self.views = [self.view(Home.INPUT, i, dtype, dims) for i, (dtype, dims) in enumerate(inputs)]
        p.inputs = [PortRecord(p.string(f"x{i}"), dtype, self.views[i], tuple(map(p.size, dims))) for i, (dtype, dims) in enumerate(inputs)]

    def view(self, home: Home, at: int, dtype: DType, dims: Dims) -> int:
        """A dense view of a new buffer."""
        p, strides, run = self.p, [], 1
        for d in reversed(dims):
            strides.insert(0, run)
            run = run * d
        p.buffers.append((int(home), at, p.size(run * dtype.numpy.itemsize)))
        return p.view(ViewRecord(len(p.buffers) - 1, dtype, tuple(map(p.size, dims)), tuple(map(p.size, strides)), p.size(0), p.size(run)))

    def part(self, view: int, dims: Dims, start: Any) -> int:
        """A part of a view of rank 1."""
        p, record = self.p, self.p.views[view]
        return p.view(ViewRecord(record.buffer, record.dtype, tuple(map(p.size, dims)), (p.size(1),), p.size(start), record.extent))

    def output(self, dtype: DType, dims: Dims) -> int:
        """A new output's view."""
        number = len(self.p.outputs)
        made = self.view(Home.OUTPUT, number, dtype, dims)
        self.p.outputs.append(PortRecord(self.p.string(f"y{number}"), dtype, made, tuple(map(self.p.size, dims))))
        return made

    def map(self, to: int, expression: E, *inputs: int) -> Hand:
        """A step."""
        p = self.p
        p.codes.append((encode([expression]), 0))
        views = []
        rank = len(p.views[to].dims)
        for v in inputs:  # scalars broadcast
            record = p.views[v]
            views.append(v if len(record.dims) == rank else p.view(ViewRecord(record.buffer, record.dtype, p.views[to].dims, tuple(p.size(0) for _ in range(rank)), record.start, record.extent)))
        p.steps.append(StepRecord(Kernel.MAP, p.string(f"step{len(p.steps)}"), tuple(views), (to,), (), -1, len(p.codes) - 1))
        return self


def f(i: int) -> E:
    """Leaf i as a float."""
    return leaf(i, F)


def plain(expression: E, *types: DType, out: DType | None = None, dims: Dims = (N,)) -> Program:
    """One output, the expression of inputs of equal dims."""
    hand = Hand(*[(t, dims) for t in types])
    return hand.map(hand.output(out or types[0], dims), expression, *hand.views).p


def slicing() -> Program:
    """x[start:start + count] with the elements of an int64[2]."""
    start, count = symbol("start", LEAST), symbol("count", LEAST)
    hand = Hand((F, (N,)), (I, (2,)), elements=(("start", 1, 0), ("count", 1, 1)))
    low = dim_min(dim_max(start, 0), N)
    much = dim_min(dim_max(count, 0), N - low)
    return hand.map(hand.output(F, (much,)), f(0), hand.part(hand.views[0], (much,), low)).p


def joining() -> Program:
    """concat(x, y)."""
    hand = Hand((F, (N,)), (F, (M,)))
    out = hand.output(F, (N + M,))
    return hand.map(hand.part(out, (N,), 0), f(0), hand.views[0]).map(hand.part(out, (M,), N), f(0), hand.views[1]).p


def below(limit: int) -> Program:
    """i < limit."""
    hand = Hand((I, ()))
    return hand.map(hand.output(B, ()), binary(Op.LT, leaf(0, I), const(limit, leaf(0, I).type)), hand.views[0]).p


def lengths() -> Program:
    """int64[2] (i, i) of an int64 scalar: what slicing takes."""
    hand = Hand((I, ()))
    return hand.map(hand.output(I, (2,)), leaf(0, I), hand.views[0]).p


#: The programs every package here has, by name.
POOL = {
    "negate": lambda: plain(unary(Op.NEG, f(0)), F), "add": lambda: plain(binary(Op.ADD, f(0), f(1)), F, F), "half": lambda: plain(binary(Op.MUL, f(0), const(0.5, f(0).type)), F),
    "slice": slicing, "join": joining, "below3": lambda: below(3), "pair": lengths, "negate2": lambda: plain(unary(Op.NEG, f(0)), F, dims=(N, M)),
}
NAMES = list(POOL)


def pool() -> list[Placed]:
    """All of POOL, placed."""
    return [Placed(make(), ()) for make in POOL.values()]


def run(name: str, inputs: Sequence[int], *outputs: int, device: Device = Device.ENGINE) -> Segment:
    """A program segment."""
    return Segment(Do.PROGRAM, tuple(inputs), outputs, device, NAMES.index(name), origin=f"node {name}")


def package(blocks: list[Block], inputs: list[Port], outputs: list[Port], *variants: Variant) -> Package:
    """A package over POOL."""
    return Package(pool(), blocks, list(variants) or [Variant(0)], [], inputs, outputs)


def x(name: str = "x", dtype: DType = F, dims: tuple[int | str, ...] = ("n",)) -> Port:
    return Port(name, dtype, dims)


def chain() -> Package:
    """(x) → x + x halved and negated, x + x, x."""
    return package([Block(4, (0,), (3, 1, 0), [run("add", (0, 0), 1), run("half", (1,), 2), run("negate", (2,), 3)])], [x()], [x("a"), x("b"), x("c")])


def branches() -> Package:
    """(cond, x) → -x or x, joined to x."""
    return package([Block(4, (0, 1), (3,), [Segment(Do.IF, (0, 1), (2,), blocks=(1, 2), origin="the if"), run("join", (2, 1), 3)]),
                    Block(2, (0,), (1,), [run("negate", (0,), 1)]), Block(1, (0,), (0,))], [x("cond", B, ()), x()], [x("y", F, ("",))])


def counting(trip: bool = True, cond: bool = True) -> Package:
    """(trip, cond, x) → Loop: s += x while i < 3 (and i < trip); s, stacked s, and the growing concatenation."""
    body = Block(8, (0, 1, 2, 3, 4), (5, 6, 7, 6), [run("below3", (0,), 5), run("add", (2, 4), 6), run("join", (3, 4), 7)])
    loop = Segment(Do.LOOP, (0 if trip else -1, 1 if cond else -1, 2, 2, 2), (3, 4, 5), blocks=(1,), params=(1, 2, 0, 1, 0, 0), origin="the loop")
    return package([Block(6, (0, 1, 2), (3, 4, 5), [loop]), body], [x("trip", I, ()), x("cond", B, (1,)), x()], [x("s"), x("grown", F, ("",)), x("stack", F, ("", "n"))])


def scanning(axis: int = 0, reverse: int = 0, out_axis: int = 1, out_reverse: int = 0) -> Package:
    """(s, x[k, n] or x[n, k]) → Scan: s += slice; last s, and -s stacked."""
    body = Block(4, (0, 1), (2, 3), [run("add", (0, 1), 2), run("negate", (2,), 3)])
    loop = Segment(Do.LOOP, (-1, -1, 0, 1), (2, 3), blocks=(1,), params=(0, 1, 1, 1, axis, reverse, out_axis, out_reverse), origin="the scan")
    return package([Block(4, (0, 1), (2, 3), [loop]), body], [x("s"), x("x", F, ("", ""))], [x("last"), x("stack", F, ("", ""))])


def nested() -> Package:
    """(x, trip) → a Loop whose body slices x by the iteration, and loops and branches itself."""
    inner = Block(6, (0, 1, 2, 3), (4, 5), [run("below3", (0,), 4), run("add", (2, 3), 5)])
    then, other = Block(2, (0,), (1,), [run("negate", (0,), 1)]), Block(1, (0,), (0,))
    body = Block(10, (0, 1, 2, 3), (1, 8, 9), [
        run("pair", (0,), 4), run("slice", (3, 4), 5),
        Segment(Do.LOOP, (0, -1, 5, 5), (6,), blocks=(2,), params=(1, 1, 0, 0), origin="inner"),
        Segment(Do.IF, (1, 6), (7,), blocks=(3, 4), origin="inner if"), run("join", (2, 7), 8), run("half", (3,), 9)])
    loop = Segment(Do.LOOP, (1, -1, 0, 0), (2, 3), blocks=(1,), params=(1, 1, 0, 1, 0, 0), origin="outer")
    return package([Block(4, (0, 1), (2, 3), [loop]), body, inner, then, other], [x(), x("trip", I, (1,))], [x("y", F, ("",)), x("z", F, ("", "n"))])


def variants() -> Package:
    """Two plans: up to 4 the half, up to 9 the negative."""
    return package([Block(2, (0,), (1,), [run("half", (0,), 1)]), Block(2, (0,), (1,), [run("negate", (0,), 1)])], [x()], [x("y")],
                   Variant(0, (("n", 0, 4),)), Variant(1, (("n", 3, 9),)))


def devices() -> Package:
    """The middle of three runs on WebGPU."""
    return package([Block(4, (0,), (3,), [run("half", (0,), 1), run("add", (0, 1), 2, device=Device.WEBGPU), run("negate", (2,), 3)])], [x()], [x("y")])


def feeds(rng: np.random.Generator) -> dict[str, tuple[Package, list[list[np.ndarray]]]]:
    """Every package above with inputs for it."""
    def v(*dims: int) -> np.ndarray:
        return rng.normal(size=dims).astype("f4")
    out: dict[str, tuple[Package, list[list[np.ndarray]]]] = {
        "chain": (chain(), [[v(n)] for n in (0, 1, 7, 7, 50000)]), "branches": (branches(), [[np.array(c), v(n)] for c in (True, False) for n in (0, 3, 40000)]),
        "variants": (variants(), [[v(n)] for n in (0, 4, 5, 9)]), "nested": (nested(), [[v(n), np.array([t])] for n in (1, 5, 9) for t in (0, 1, 4, 12)])}
    for trip in (True, False):
        for cond in (True, False):
            out[f"counting {trip} {cond}"] = (counting(trip, cond), [[np.array(t), np.array([c]), v(n)] for t in (-2, 0, 1, 2, 9) for c in (True, False) for n in (0, 3)])
    for axis in (0, 1):
        for reverse in (0, 1):
            out[f"scanning {axis} {reverse}"] = (scanning(axis, reverse, 1 - axis, 1 - reverse), [[v(n), v(*((k, n) if axis == 0 else (n, k)))] for n in (0, 3) for k in (0, 1, 6)])
    return out


def random_package(rng: np.random.Generator) -> Package:
    """A random tree of blocks over float vectors. Everything ends: loops count to at most 3, trips are below 4."""
    blocks: list[Block] = []

    def block(types: list[tuple[DType, int]], wanted: list[tuple[DType, int]], depth: int) -> int:
        number = len(blocks)
        blocks.append(Block(0, (), ()))
        slots = list(types)
        segments: list[Segment] = []

        def pick(dtype: DType, rank: int) -> int:
            found = [i for i, t in enumerate(slots) if t == (dtype, rank)]
            return int(rng.choice(found))

        def new(dtype: DType, rank: int) -> int:
            slots.append((dtype, rank))
            return len(slots) - 1
        for _ in range(int(rng.integers(1, 5))):
            what = int(rng.integers(9 if depth < 4 else 5))
            if what <= 1:
                segments.append(run(str(rng.choice(["negate", "half"])), (pick(F, 1),), new(F, 1)))
            elif what == 2:
                a = pick(F, 1)
                segments.append(run("add", (a, a), new(F, 1)))
            elif what == 3:
                pair = new(I, 1)
                segments.append(run("pair", (pick(I, 0),), pair))
                segments.append(run("slice", (pick(F, 1), pair), new(F, 1)))
            elif what == 4:
                segments.append(run("join", (pick(F, 1), pick(F, 1)), new(F, 1)))
            elif what <= 6:
                captured = [pick(F, 1), pick(I, 0), pick(B, 0)]
                inside = [slots[c] for c in captured]
                branch = [block(inside, [(F, 1), (F, 1)], depth + 1) for _ in range(2)]
                out = (new(F, 1), new(F, 1) if rng.random() < 0.7 else -1)
                segments.append(Segment(Do.IF, (pick(B, 0), *captured), out, blocks=(branch[0], branch[1]), origin="if"))
            else:
                n, captured = int(rng.integers(0, 3)), [pick(F, 1)]
                carried = [pick(F, 1) for _ in range(n)]
                body = block([(I, 0), (B, 0), *[(F, 1)] * (n + 1)], [(B, 0), *[(F, 1)] * n], depth + 1)
                out2 = tuple(new(F, 1) if rng.random() < 0.8 else -1 for _ in range(n))
                segments.append(Segment(Do.LOOP, (pick(I, 0), pick(B, 0) if rng.random() < 0.5 else -1, *carried, *captured), out2, blocks=(body,), params=(1, n, 0, 0), origin="loop"))
        if any(t == (B, 0) for t in wanted) and rng.random() < 0.5:
            slots.append((B, 0))
            segments.append(run("below3", (pick(I, 0),), len(slots) - 1))
        outputs = [pick(*t) for t in wanted]
        blocks[number] = Block(len(slots), tuple(range(len(types))), tuple(outputs), segments)
        return number
    block([(I, 0), (B, 0), (F, 1), (F, 1)], [(F, 1), (F, 1)], 0)
    return package(blocks, [x("t", I, ()), x("c", B, ()), x("a", F, ("a",)), x("b", F, ("b",))], [x("y", F, ("",)), x("z", F, ("",))])
