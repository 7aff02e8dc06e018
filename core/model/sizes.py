"""Size expressions (`Dim`) as numbers: how `size_words` is written and read.

An entry is one of
    SYMBOL      name, lower, upper + 1         upper: an earlier POLYNOMIAL; 0: none
    FLOORDIV, MOD   a, b                       earlier POLYNOMIALs
    MIN, MAX    a, b, …                        earlier POLYNOMIALs
    POLYNOMIAL  (numerator, denominator, count, atom × count) …   a sum of rational factors times products of earlier atoms
and refers to earlier entries only, so it is a DAG by construction. In a shape, d ≥ 0 is a plain size and d < 0 is entry ~d, a POLYNOMIAL.

Entries are shared, so a short file could spell an expression that is astronomically long when printed. Each entry therefore has a *weight* (about the
characters it prints to) and a depth, both limited. The writer stores what exceeds the limits, or has factors beyond int64, as an anonymous size:
shape inference works it out again.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from ..dim import Atom, Call, Dim, Expr, Symbol, Undecidable, polynomial, symbol
from .format import MAX_ALL_SIZES_WEIGHT, MAX_NESTING, MAX_SIZE_WEIGHT, SizeOp

_OPS = {"floordiv": SizeOp.FLOORDIV, "mod": SizeOp.MOD, "min": SizeOp.MIN, "max": SizeOp.MAX}
_NAMES = {op: name for name, op in _OPS.items()}
_INT64 = 1 << 63


class TooLarge(ValueError):
    """An expression beyond the format's limits."""


class _Limits:
    """Weights and depths of entries, checked as they are added; the same on both sides."""

    def __init__(self) -> None:
        self.weights: list[int] = []
        self.depths: list[int] = []
        self.total = 0

    def add(self, own: int, parts: Sequence[int]) -> None:
        weight = own + sum(self.weights[p] for p in parts)
        depth = 1 + max((self.depths[p] for p in parts), default=0)
        if weight > MAX_SIZE_WEIGHT or depth > 3 * MAX_NESTING or self.total + weight > MAX_ALL_SIZES_WEIGHT:
            raise TooLarge(f"a size expression of weight {weight} and depth {depth} exceeds the format's limits")
        self.weights.append(weight)
        self.depths.append(depth)
        self.total += weight


class SizeWriter:
    """Collects the entries of a model's size expressions."""

    def __init__(self, string: Callable[[str], int]) -> None:
        self.words: list[int] = []
        self.ends: list[int] = []
        self._string = string
        self._limits = _Limits()
        self._known: dict[Any, int] = {}
        self._replaced: dict[Expr, Expr] = {}

    def dim(self, size: Dim) -> int:
        """The number that stands for `size` in `dims`."""
        if not isinstance(size, Expr):
            return int(size)
        try:
            return ~self._polynomial(size)
        except TooLarge:
            if size not in self._replaced:
                self._replaced[size] = symbol(f"?size{len(self._replaced)}")
            return ~self._polynomial(self._replaced[size])

    def _polynomial(self, value: Any) -> int:
        key = ("polynomial", value)
        if key not in self._known:
            words: list[int] = [SizeOp.POLYNOMIAL]
            atoms: list[int] = []
            terms = value.terms if isinstance(value, Expr) else (((), value),)
            for monomial, factor in terms:
                exact = Fraction(factor)
                numbers = [self._atom(atom) for atom in monomial]
                words += [exact.numerator, exact.denominator, len(numbers), *numbers]
                atoms += numbers
            self._known[key] = self._entry(words, _own_weight(len(terms)), atoms)
        return self._known[key]

    def _atom(self, atom: Atom) -> int:
        if atom not in self._known:
            if isinstance(atom, Symbol):
                upper = 0 if atom.upper is None else self._polynomial(atom.upper) + 1
                words = [SizeOp.SYMBOL, self._string(atom.name), atom.lower or 0, upper]
                self._known[atom] = self._entry(words, len(atom.name) + 1, [upper - 1] if upper else [])
            else:
                parts = [self._polynomial(argument) for argument in atom.args]
                self._known[atom] = self._entry([_OPS[atom.op], *parts], _own_weight(1), parts)
        return self._known[atom]

    def _entry(self, words: list[int], own: int, parts: list[int]) -> int:
        if not all(-_INT64 <= w < _INT64 for w in words):
            raise TooLarge("a factor beyond int64")
        self._limits.add(own, parts)
        self.words += words
        self.ends.append(len(self.words))
        return len(self.ends) - 1


def read_sizes(words: list[int], ends: list[int], strings: list[str], fail: Callable[[int, str], Exception]) -> list[Any]:
    """Every entry as what it is: a Symbol, a Call, or the value (Expr, int, Fraction) of a POLYNOMIAL. `fail(entry, text)` makes the error to raise."""
    entries: list[Any] = []
    limits = _Limits()
    start = 0
    for number, end in enumerate(ends):
        try:
            entries.append(_read_entry(words[start:end], entries, strings, limits))
        except (ValueError, IndexError, Undecidable) as error:
            raise fail(number, f"not a size expression ({error})") from None
        start = end
    return entries


def _read_entry(words: list[int], entries: list[Any], strings: list[str], limits: _Limits) -> Any:
    op, *rest = words
    if op == SizeOp.POLYNOMIAL:
        return _read_polynomial(rest, entries, limits)
    if op == SizeOp.SYMBOL:
        name, lower, upper = rest
        text = strings[_checked(name, len(strings))]
        limits.add(len(text) + 1, [_checked(upper - 1, len(entries))] if upper else [])
        return Symbol(text, lower, _whole(_value(entries, upper - 1)) if upper else None)
    if op not in _NAMES:
        raise ValueError(f"unknown operation {op}")
    if len(rest) != 2 and (op in (SizeOp.FLOORDIV, SizeOp.MOD) or len(rest) < 2):
        raise ValueError(f"{len(rest)} arguments")
    arguments = tuple(_value(entries, r) for r in rest)
    if op in (SizeOp.FLOORDIV, SizeOp.MOD) and not isinstance(arguments[1], Expr) and arguments[1] <= 0:
        raise ValueError("division by a number that is not positive")
    limits.add(_own_weight(1), rest)
    return Call(_NAMES[SizeOp(op)], arguments)


def _read_polynomial(words: list[int], entries: list[Any], limits: _Limits) -> Any:
    terms: list[tuple[list[Atom], Fraction]] = []
    parts: list[int] = []
    at = 0
    while at < len(words):
        numerator, denominator, count = words[at:at + 3]
        numbers = words[at + 3:at + 3 + count]
        if denominator <= 0 or count < 0 or len(numbers) != count:
            raise ValueError("a term is cut off or has no positive denominator")
        atoms = [entries[_checked(n, len(entries))] for n in numbers]
        if not all(isinstance(a, (Symbol, Call)) for a in atoms):
            raise ValueError("a factor is not an atom")
        terms.append((atoms, Fraction(numerator, denominator)))
        parts += numbers
        at += 3 + count
    limits.add(_own_weight(len(terms)), parts)
    return polynomial(terms)


def _own_weight(terms: int) -> int:
    return 8 * terms + 8


def _checked(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ValueError(f"refers to {number} of {count}")
    return number


def _value(entries: list[Any], number: int) -> Any:
    value = entries[_checked(number, len(entries))]
    if isinstance(value, (Symbol, Call)):
        raise ValueError(f"entry {number} is not a polynomial")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, Fraction):
        raise ValueError(f"{value} is not a whole number")
    return value
