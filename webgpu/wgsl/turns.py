"""How many turns the loops of an invocation take, read from their heads as a Dim. Drivers that end loops after so many of them (`LOOPS`) make that a question of right or wrong.

A loop that is entered takes its rounds and one more turn, in which its condition fails; loops inside count for every round. Bounds are intervals of Dims: of numbers, uniforms, `lane`, numbered
loops around, and the `let`s that name sums, products, quotients, remainders, minima and maxima of those. What else decides a bound (elements of memory) is not known here: writers of such loops
say `turns`, or the loop counts as one round, and the shader sees for itself whether its last loop turns as it should (`guessed`).
"""
from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from ...dim import Dim, Expr, Undecidable, bounds, ceildiv, dim_max, dim_min, floordiv

#: (least, greatest); None: not known.
Interval = tuple[Dim | None, Dim | None]
#: Turns of an invocation's loops after which llvmpipe goes on behind them. Measured with LLVM 15: of 30,000 rounds around 4, with the failing turns 6 each, 10,923 are made.
LOOPS = 65535
_UP = re.compile(r"\bfor \(var (\w+) = (.+?); \1 (<=?) (.+?); \1 \+= (\w+)\)")
_HALVED = re.compile(r"\bfor \(var (\w+) = (\d+); \1 > 0; \1 = \1 / 2\)")
_NAMED = re.compile(r"let (\w+)(?:: i32)? = (.+);$")
_LOOP = re.compile(r"^(for|while) \(|^loop\b")


class Turns:
    """Of one shader, statement by statement."""

    def __init__(self, params: Sequence[Dim], invocations: int) -> None:
        self.params = params
        self.total: Dim = 0
        self.guessed = False   # whether there is a loop of whose rounds nothing is known
        self._names: dict[str, str | Interval] = {"lane": (0, invocations - 1)}
        self._functions: dict[str, Dim] = {}
        self._around: list[tuple[Dim, Dim]] = []   # of the functions around the one that is written: (total, rounds)
        self._rounds: Dim = 1                      # of the loops around

    def bound(self, name: str, low: Dim, high: Dim) -> None:
        """A name lies between these."""
        self._names[name] = low, high

    def enter(self) -> None:
        """A function begins."""
        self._around.append((self.total, self._rounds))
        self.total, self._rounds = 0, 1

    def leave(self, name: str) -> None:
        """It ends."""
        if self.total != 0:
            self._functions[name] = self.total
        self.total, self._rounds = self._around.pop()

    def line(self, line: str, rounds: Dim | None = None) -> Dim:
        """A statement, or the head of a block; `rounds`: of its loop, where that is known. Returns the rounds of the loops around before it, to be given to `end` where it was a head."""
        before = self._rounds
        inside = sum((line.count(f"{name}(") * turns for name, turns in self._functions.items() if f"{name}(" in line), start=0)
        if _LOOP.search(line) or rounds is not None:
            made = rounds if rounds is not None else self._read(line)
            if line.endswith("{"):
                self.total += before * (made + 1)
                self._rounds = before * made
            else:
                self.total += before * (made * (1 + inside) + 1)
        else:
            if inside != 0:
                self.total += before * inside
            if found := _NAMED.match(line):
                self._names[found[1]] = found[2]
        return before

    def end(self, rounds: Dim) -> None:
        """A block ends."""
        self._rounds = rounds

    def _read(self, head: str) -> Dim:
        if found := _HALVED.search(head):
            return int(found[2]).bit_length()
        found = _UP.search(head)
        made = self._counted(found) if found is not None else None
        self.guessed |= made is None
        return 1 if made is None else made

    def _counted(self, found: re.Match[str]) -> Dim | None:
        name, first, order, end, step = found.groups()
        try:
            (low, _), (_, high), (by, _) = self._of(first), self._of(end), self._of(step)
            self._names[name] = low, high
            if low is None or high is None:
                return None
            return _positive(ceildiv(high - low + (order == "<="), by if by is not None and bounds(by)[0] not in (None, 0) else 1))
        except (Undecidable, SyntaxError):
            return None

    def _of(self, text: str) -> Interval:
        return self._node(ast.parse(text, mode="eval").body)

    def _node(self, node: ast.expr) -> Interval:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value, node.value
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _called(node.func.id, [self._node(a) for a in node.args])
        if isinstance(node, ast.BinOp):
            return _binary(node.op, self._node(node.left), self._node(node.right))
        return None, None

    def _name(self, name: str) -> Interval:
        if name.startswith("size_"):
            return (self.params[int(name[5:])],) * 2
        held = self._names.get(name, (None, None))
        if isinstance(held, str):
            try:
                held = self._of(held)
            except (SyntaxError, RecursionError):   # WGSL that is no Python: shifts by 2u, bit casts
                held = None, None
            self._names[name] = held
        return held


def _called(name: str, found: list[Interval]) -> Interval:
    if name == "clamp":
        return found[1][0], found[2][1]
    if name not in ("min", "max"):
        return None, None
    known, whole = ([f[i] for f in found if f[i] is not None] for i in ((1, 0) if name == "min" else (0, 1)))
    pick = dim_min if name == "min" else dim_max
    one = pick(*known) if known else None
    all_ = pick(*whole) if len(whole) == len(found) else None
    return (all_, one) if name == "min" else (one, all_)


def _binary(op: ast.operator, a: Interval, b: Interval) -> Interval:
    """Divisors are sizes; a remainder is one of something that is not negative, as everywhere in these kernels."""
    if isinstance(op, ast.Mod):
        return 0, None if b[1] is None else b[1] - 1
    (low, high), (least, most) = a, b
    if isinstance(op, ast.Add):
        return None if low is None or least is None else low + least, None if high is None or most is None else high + most
    if isinstance(op, ast.Sub):
        return None if low is None or most is None else low - most, None if high is None or least is None else high - least
    if low is None or bounds(low)[0] is None or bounds(low)[0] < 0:   # type: ignore[operator]
        return None, None
    if isinstance(op, ast.Mult):
        return (None, None) if least is None or bounds(least)[0] is None or bounds(least)[0] < 0 else (low * least, None if high is None or most is None else high * most)   # type: ignore[operator]
    if isinstance(op, ast.Div):
        return 0, None if high is None else floordiv(high, least) if isinstance(least, int) and least > 0 else high
    return None, None


def _positive(size: Dim) -> Dim:
    low = bounds(size)[0]
    return size if low is not None and low >= 0 else dim_max(size, 0) if isinstance(size, Expr) else 0
