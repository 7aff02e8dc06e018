"""Sizes as integer expressions: a `Dim` is an int or an `Expr` over named symbols.

An `Expr` is a polynomial with rational coefficients over *atoms* (symbols, floor divisions, remainders, minima, maxima), kept in one
canonical order, so that equal polynomials are equal objects under `==` and `hash`: `(n + 1) * 2 - n == n + 2`. Rational coefficients exist because
exporters compute sizes through float chains (Cast → Mul 0.5 → Floor → Cast): `floor(n * 1/2)` becomes `n // 2`.

How to think: write ordinary arithmetic (`+ - * // % /`), `dim_min`/`dim_max`/`dim_floor`/`dim_ceil`; ask `bounds` and `provably` questions; call
`substitute` to bind. `a == b` asks whether both are the same expression (never symbolic); an undecidable `<` raises, so nothing is guessed.
Every symbol is a size: at least its `lower` (default 0), or, with lower None, any number (what data give as a position). Division assumes a positive divisor, the only one sizes produce.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

Number = int | Fraction


#: An expression has at most this many parts (its weight), counted where it is used twice too; a product at most this many terms before like ones are joined; a factor at
#: most this many bits, an extreme this many undecided cases. Far beyond what models say, and what keeps a short hostile chain (x·x, x + x//2, … repeated) from becoming an endless expression.
MAX_WEIGHT, MAX_TERMS, MAX_BITS, MAX_CASES = 400, 4096, 256, 64


class Symbol:
    """A named size. Names that begin with "?" are anonymous (the model gave none). `upper` may be an expression (dropped where it is a long one); neither bound is identity."""

    __slots__ = ("name", "lower", "upper", "weight")

    def __init__(self, name: str, lower: int | None = 0, upper: Dim | None = None) -> None:
        if _weight(upper) > MAX_WEIGHT // 10:
            upper = None
        self.name, self.lower, self.upper, self.weight = name, lower, upper, 1 + (0 if upper is None else _weight(upper))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Symbol) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    key = property(lambda self: ("", self.name))


class Call:
    """An atom that is not a symbol: `floordiv(a, b)`, `mod(a, b)`, `min(...)`, `max(...)`."""

    __slots__ = ("op", "args", "key", "weight", "_hash")

    def __init__(self, op: str, args: tuple[Dim, ...]) -> None:
        self.op, self.args = op, args
        self.weight = _bounded(1 + sum(map(_weight, args)))
        self.key = (op, ",".join(str(a) for a in args))
        self._hash = hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and other.key == self.key

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self.op == "floordiv":
            return f"{_paren(self.args[0])}//{_paren(self.args[1])}"
        if self.op == "mod":
            return f"{_paren(self.args[0])}%{_paren(self.args[1])}"
        return f"{self.op}({', '.join(map(str, self.args))})"


Atom = Symbol | Call
Monomial = tuple[Atom, ...]


def _paren(value: Dim) -> str:
    text = str(value)
    return text if text.replace("_", "a").replace("?", "a").replace(".", "a").isalnum() else f"({text})"


class Expr:
    """A canonical polynomial. Build it with `symbol(name)` and arithmetic; never empty, never constant (those are ints or Fractions)."""

    __slots__ = ("terms", "weight", "_hash", "_text")
    __array_ufunc__ = None  # numpy scalars defer to our reflected operators

    def __init__(self, terms: tuple[tuple[Monomial, Number], ...]) -> None:
        self.terms = terms
        self.weight = _bounded(len(terms) + sum([atom.weight for monomial, _ in terms for atom in monomial]))
        self._hash = hash(terms)
        self._text = ""

    # -- identity and printing -------------------------------------------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        raise TypeError(f"size '{self}' is symbolic: its truth is not known before the model runs")

    def __str__(self) -> str:
        if self._text:  # printed once: the keys of floor divisions and the order of terms are made of it
            return self._text
        out = ""
        for monomial, factor in self.terms:
            body = "*".join(_paren_atom(a) for a in monomial)
            size = abs(factor)
            text = str(size) if not body else body if size == 1 else f"{size}*{body}"
            out += (" - " if factor < 0 else " + ") + text
        self._text = out[3:] if out.startswith(" + ") else "-" + out[3:]
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self})"

    # -- arithmetic ---------------------------------------------------------------------------------------------------------------------
    def __add__(self, other: Any) -> Any:
        return NotImplemented if not _is_dim(other) else _build(_merge(_terms(self), _terms(other), 1))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return NotImplemented if not _is_dim(other) else _build(_merge(_terms(self), _terms(other), -1))

    def __rsub__(self, other: Any) -> Any:
        return NotImplemented if not _is_dim(other) else _build(_merge(_terms(other), _terms(self), -1))

    def __mul__(self, other: Any) -> Any:
        if type(other) is int:  # most factors are
            return self if other == 1 else _build({m: f * other for m, f in self.terms})
        if not _is_dim(other):
            return NotImplemented
        factor = _terms(other)
        if len(self.terms) * len(factor) > MAX_TERMS:
            raise Undecidable("a size expression is too long")
        out: dict[Monomial, Number] = {}
        for m1, f1 in self.terms:
            for m2, f2 in factor.items():
                monomial = tuple(sorted(m1 + m2, key=_atom_key))
                out[monomial] = out.get(monomial, 0) + f1 * f2
        return _build(out)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __floordiv__(self, other: Any) -> Any:
        return floordiv(self, other) if _is_dim(other) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return floordiv(other, self) if _is_dim(other) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return exact_div(self, other) if _is_dim(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return exact_div(other, self) if _is_dim(other) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return mod(self, other) if _is_dim(other) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return mod(other, self) if _is_dim(other) else NotImplemented

    def __floor__(self) -> Any:
        return dim_floor(self)

    floor = __floor__  # numpy calls .floor() on object elements

    def ceil(self) -> Any:
        return dim_ceil(self)

    __ceil__ = ceil

    # -- order: decided by bounds or refused ---------------------------------------------------------------------------------------------
    def __lt__(self, other: Any) -> bool:
        return _compare(self, other, strict=True)

    def __le__(self, other: Any) -> bool:
        return _compare(self, other, strict=False)

    def __gt__(self, other: Any) -> bool:
        return _compare(other, self, strict=True)

    def __ge__(self, other: Any) -> bool:
        return _compare(other, self, strict=False)


Dim = int | Expr
Shape = tuple[Dim, ...]


class Undecidable(TypeError):
    """A comparison of symbolic sizes that bounds do not settle, or an expression longer than MAX_WEIGHT."""


def _weight(value: Any) -> int:
    return value.weight if isinstance(value, Expr) else 1


def _bounded(weight: int) -> int:
    if weight > MAX_WEIGHT:
        raise Undecidable(f"a size expression has more than {MAX_WEIGHT} parts")
    return weight


def _compare(a: Any, b: Any, strict: bool) -> bool:
    low, high = bounds(a - b)
    if high is not None and (high < 0 or (high == 0 and not strict)):
        return True
    if low is not None and (low > 0 or (low == 0 and strict)):
        return False
    raise Undecidable(f"cannot decide whether {a} {'<' if strict else '<='} {b} before the model runs")


def _is_dim(value: Any) -> bool:
    if isinstance(value, float) or (hasattr(value, "dtype") and getattr(value.dtype, "kind", "") == "f" and value.ndim == 0):
        return math.isfinite(float(value))
    return isinstance(value, (int, Fraction, Expr)) or (hasattr(value, "dtype") and getattr(value.dtype, "kind", "") in "iu" and value.ndim == 0)


def as_exact(value: Any) -> Number:
    """A Python or NumPy number as an int or Fraction; float32 decimals become the short fraction they stand for (0.1 → 1/10)."""
    if isinstance(value, (int, Fraction)):
        return int(value) if value == int(value) else value
    if hasattr(value, "dtype"):
        value = value.item()
    if isinstance(value, float):
        # Exporters write scales as float32 decimals: 0.1 means one tenth, so take the shortest fraction within float32 precision.
        exact = Fraction(value)
        short = exact.limit_denominator(4096)
        value = short if abs(short - exact) <= abs(exact) * Fraction(1, 1 << 23) else exact
    return int(value) if value == int(value) else value


def _terms(value: Any) -> dict[Monomial, Number]:
    if isinstance(value, Expr):
        return dict(value.terms)
    number = as_exact(value)
    return {(): number} if number else {}


def _merge(a: dict[Monomial, Number], b: dict[Monomial, Number], sign: int) -> dict[Monomial, Number]:
    for monomial, factor in b.items():
        a[monomial] = a.get(monomial, 0) + sign * factor
    return a


def _atom_key(atom: Atom) -> Any:
    return atom.key


def _monomial_key(item: tuple[Monomial, Number]) -> Any:
    monomial = item[0]
    return (-len(monomial), [a.key for a in monomial])


def _paren_atom(atom: Atom) -> str:
    return str(atom) if isinstance(atom, Symbol) or atom.op in ("min", "max") else f"({atom})"


def _build(terms: dict[Monomial, Number]) -> Any:
    kept = [(m, f if type(f) is int else int(f) if f == int(f) else f) for m, f in terms.items() if f]
    if len(kept) < 2 and not (kept and kept[0][0]):
        return kept[0][1] if kept else 0
    if any(abs(f.numerator) >> MAX_BITS or f.denominator >> MAX_BITS for _, f in kept):
        raise Undecidable(f"a factor of a size expression has more than {MAX_BITS} bits")
    return Expr(tuple(sorted(kept, key=_monomial_key) if len(kept) > 1 else kept))


def polynomial(terms: Iterable[tuple[Iterable[Atom], Number]]) -> Any:
    """Σ factor · Π atoms in canonical form: how a stored expression is rebuilt. The atoms are taken as they are, nothing within them is simplified."""
    total: dict[Monomial, Number] = {}
    for atoms, factor in terms:
        monomial = tuple(sorted(atoms, key=_atom_key))
        total[monomial] = total.get(monomial, 0) + factor
    return _build(total)


def symbol(name: str, lower: int | None = 0, upper: Dim | None = None) -> Expr:
    """The size called `name` (≥ `lower`, ≤ `upper` where given; None: a number that may be negative, which only becomes part of sizes)."""
    return Expr((((Symbol(name, lower, upper),), 1),))


def _call(op: str, *args: Dim) -> Expr:
    return Expr((((Call(op, args),), 1),))


def exact_div(a: Any, b: Any) -> Any:
    """a / b kept exact: a rational polynomial where b is a number or a single term dividing every term of a; else floor division is refused."""
    if not isinstance(b, Expr):
        number = as_exact(b)
        if number == 0:
            raise ZeroDivisionError(f"size {a} divided by zero")
        return _build({m: Fraction(f) / number for m, f in _terms(a).items()})
    quotient = _cancel(a, b)
    if quotient is None:
        raise Undecidable(f"{a} / {b} is not exact; use floordiv")
    return quotient


def _cancel(a: Any, b: Expr) -> Any:
    """a / b where b is one term that divides every term of a; None otherwise."""
    if a == b:
        return 1
    if len(b.terms) != 1:
        return None
    monomial, factor = b.terms[0]
    out: dict[Monomial, Number] = {}
    for m, f in _terms(a).items():
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        out[tuple(rest)] = Fraction(f) / factor
    return _build(out)


def floordiv(a: Any, b: Any) -> Any:
    """⌊a / b⌋ for a positive divisor b. Whole terms leave the division: `(4*n + 6) // 4` is `n + 1`… where that is exact."""
    if isinstance(b, Expr):
        quotient = _cancel(a, b)
        if quotient is not None:
            return dim_floor(quotient)
        return _call("floordiv", a if isinstance(a, Expr) else as_exact(a), b)  # type: ignore[arg-type]
    divisor = as_exact(b)
    if divisor == 0:
        raise ZeroDivisionError(f"size {a} divided by zero")
    return dim_floor(exact_div(a, divisor))


def dim_floor(value: Any) -> Any:
    """⌊value⌋ of a rational expression. Integer terms come out; the rest becomes one floordiv with an integer numerator."""
    if not isinstance(value, Expr):
        return math.floor(as_exact(value))
    whole: dict[Monomial, Number] = {m: f for m, f in value.terms if isinstance(f, int)}
    rest: dict[Monomial, Number] = {m: f for m, f in value.terms if not isinstance(f, int)}
    constant = rest.pop((), 0)
    if not rest:
        return _build(_merge(whole, {(): math.floor(constant)}, 1))
    # The constant's whole part leaves; its fraction stays in the numerator.
    floor_constant = math.floor(constant)
    rest[()] = constant - floor_constant
    whole[()] = whole.get((), 0) + floor_constant
    denominator = math.lcm(*(Fraction(f).denominator for f in rest.values()))
    numerator = _build({m: f * denominator for m, f in rest.items()})
    whole = {m: f for m, f in whole.items() if f}
    # (x // a) // b == x // (a * b) for positive divisors
    if isinstance(numerator, Expr) and len(numerator.terms) == 1:
        (monomial, factor), = numerator.terms
        if factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Call) and monomial[0].op == "floordiv" and isinstance(monomial[0].args[1], int):
            inner = monomial[0]
            return floordiv(inner.args[0], inner.args[1] * denominator) + _build(whole)
    return _build(_merge(whole, {(Call("floordiv", (numerator, denominator)),): 1}, 1))


def dim_ceil(value: Any) -> Any:
    """⌈value⌉ of a rational expression."""
    if not isinstance(value, Expr):
        return math.ceil(as_exact(value))
    # ⌈p/d⌉ = ⌊(p + d - 1)/d⌋ for whole p: the same form as `ceildiv`, so that both are equal objects
    denominator = math.lcm(*(Fraction(f).denominator for _, f in value.terms))
    return dim_floor(value + Fraction(denominator - 1, denominator))


def ceildiv(a: Any, b: Any) -> Any:
    """⌈a / b⌉ for a positive divisor b."""
    if isinstance(b, Expr):
        return floordiv(a + b - 1, b)
    return floordiv(a + (as_exact(b) - 1), b)


def dim_trunc(value: Any) -> Any:
    """Round towards zero (Cast to an integer type): floor, as sizes are not negative; refuses where the sign is unknown and it matters."""
    if not isinstance(value, Expr):
        return math.trunc(as_exact(value))
    if all(isinstance(f, int) for _, f in value.terms):
        return value
    low, _ = bounds(value)
    if low is not None and low >= 0:
        return dim_floor(value)
    raise Undecidable(f"cannot truncate {value}: its sign is not known")


def mod(a: Any, b: Any) -> Any:
    """a mod b with the sign of b (Python's rule), b positive."""
    if isinstance(b, Expr):
        return a - b * floordiv(a, b) if _cancel(a, b) is not None else _call("mod", a if isinstance(a, Expr) else as_exact(a), b)  # type: ignore[arg-type]
    divisor = as_exact(b)
    if not isinstance(a, Expr):
        return as_exact(a) % divisor
    rest = _build({m: f for m, f in a.terms if not (isinstance(f, int) and f % divisor == 0)})
    return rest % divisor if not isinstance(rest, Expr) else _call("mod", rest, divisor)  # type: ignore[arg-type]


def dim_min(*values: Any) -> Any:
    """The least of the sizes, simplified where bounds decide."""
    return _extreme("min", values)


def dim_max(*values: Any) -> Any:
    """The greatest of the sizes, simplified where bounds decide."""
    return _extreme("max", values)


def _extreme(op: str, values: Iterable[Any]) -> Any:
    pick = min if op == "min" else max
    kept: list[Any] = []
    for value in values:
        value = value if isinstance(value, Expr) else as_exact(value)
        for i, other in enumerate(kept):
            low, high = bounds(value - other)
            if low is not None and low >= 0:        # value >= other
                kept[i] = other if op == "min" else value
                break
            if high is not None and high <= 0:      # value <= other
                kept[i] = value if op == "min" else other
                break
        else:
            kept.append(value)
            if len(kept) > MAX_CASES:
                raise Undecidable(f"{op} of more than {MAX_CASES} sizes")
    numbers = [v for v in kept if not isinstance(v, Expr)]
    symbolic = sorted({v for v in kept if isinstance(v, Expr)}, key=str)
    args: list[Any] = symbolic + ([pick(numbers)] if numbers else [])
    return args[0] if len(args) == 1 else _call(op, *args)


# -- questions -------------------------------------------------------------------------------------------------------------------------------

Interval = tuple[Number | None, Number | None]


def bounds(value: Any, ranges: Mapping[str, tuple[int, int | None]] | None = None) -> Interval:
    """(lower, upper) of a Dim by interval arithmetic; None means unbounded. `ranges` overrides the bounds of symbols by name."""
    if not isinstance(value, Expr):
        number = as_exact(value)
        return number, number
    split = _split_extreme(value)
    if split is not None:
        pick, cases = split
        lows, highs = zip(*(bounds(case, ranges) for case in cases), strict=True)
        return _pick_known(pick, lows, pick is max), _pick_known(pick, highs, pick is min)
    low: Number | None = 0
    high: Number | None = 0
    for monomial, factor in value.terms:
        term_low: Number | None = 1
        term_high: Number | None = 1
        for atom in monomial:
            term_low, term_high = _product((term_low, term_high), _atom_bounds(atom, ranges))
        term_low, term_high = _product((term_low, term_high), (factor, factor))
        low = None if low is None or term_low is None else low + term_low
        high = None if high is None or term_high is None else high + term_high
    return low, high


def _split_extreme(value: Expr) -> tuple[Any, list[Any]] | None:
    """k·min(a, b) + rest is the min (for k < 0 the max) of k·a + rest and k·b + rest: what the interval of min(…) alone forgets, as in s − min(s, 512) ≥ 0."""
    found = [(i, m[0]) for i, (m, _) in enumerate(value.terms) if len(m) == 1 and isinstance(m[0], Call) and m[0].op in ("min", "max")]
    if not 0 < len(found) <= 3:  # the cases multiply
        return None
    index, atom = found[0]
    factor = value.terms[index][1]
    rest = _build(dict(value.terms[:index] + value.terms[index + 1:]))
    return (min if (atom.op == "min") == (factor > 0) else max), [rest + factor * argument for argument in atom.args]


def _pick_known(pick: Any, values: Iterable[Number | None], skip_unknown: bool) -> Number | None:
    """The least or greatest bound; an unknown (infinite) one either never wins or always does."""
    known = [v for v in values if v is not None]
    return None if not known or not skip_unknown and len(known) < len(list(values)) else pick(known)


def _product(a: Interval, b: Interval) -> Interval:
    if a == (0, 0) or b == (0, 0):
        return 0, 0
    if None not in a and None not in b:
        corners = [x * y for x in a for y in b]  # type: ignore[operator]
        return min(corners), max(corners)
    if a[0] is not None and a[0] >= 0 and b[0] is not None and b[0] >= 0:
        return a[0] * b[0], None if a[1] is None or b[1] is None else a[1] * b[1]
    if a[0] is not None and a[0] >= 0 and b[1] is not None and b[1] <= 0:
        return (None if a[1] is None or b[0] is None else a[1] * b[0]), a[0] * b[1]
    if b[0] is not None and b[0] >= 0 and a[1] is not None and a[1] <= 0:
        return _product(b, a)
    return None, None


def _atom_bounds(atom: Atom, ranges: Mapping[str, tuple[int, int | None]] | None) -> Interval:
    if isinstance(atom, Symbol):
        if ranges and atom.name in ranges:
            return ranges[atom.name]
        return atom.lower, None if atom.upper is None else bounds(atom.upper, ranges)[1]
    parts = [bounds(a, ranges) for a in atom.args]
    if atom.op == "min":
        lows, highs = [p[0] for p in parts if p[0] is not None], [p[1] for p in parts if p[1] is not None]
        return (min(lows) if len(lows) == len(parts) else None), (min(highs) if highs else None)
    if atom.op == "max":
        lows, highs = [p[0] for p in parts if p[0] is not None], [p[1] for p in parts if p[1] is not None]
        return (max(lows) if lows else None), (max(highs) if len(highs) == len(parts) else None)
    (low, high), (divisor_low, divisor_high) = parts
    if atom.op == "mod":
        return 0, (None if divisor_high is None else divisor_high - 1)
    smallest = divisor_low if divisor_low and divisor_low > 0 else 1
    if low is not None and low >= 0:
        return (0 if divisor_high is None else math.floor(Fraction(low) / divisor_high)), (None if high is None else math.floor(Fraction(high) / smallest))
    return (None if low is None else math.floor(Fraction(low) / smallest)), (None if high is None else math.floor(Fraction(max(high, 0)) / smallest))


def provably(question: Callable[[], bool]) -> bool:
    """True where `question()` is decided and true: `provably(lambda: a <= b)`."""
    try:
        return bool(question())
    except Undecidable:
        return False


def symbols(value: Any) -> set[Symbol]:
    """The symbols an expression depends on (bounds not included)."""
    found: set[Symbol] = set()
    if isinstance(value, Expr):
        for monomial, _ in value.terms:
            for atom in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    for argument in atom.args:
                        found |= symbols(argument)
    return found


def substitute(value: Any, sizes: Mapping[str, Any]) -> Any:
    """Replace symbols by name with ints or other Dims."""
    if not isinstance(value, Expr):
        return value
    total: Any = 0
    for monomial, factor in value.terms:
        term: Any = factor
        for atom in monomial:
            if isinstance(atom, Symbol):
                part: Any = sizes.get(atom.name, Expr((((atom,), 1),)))
            else:
                part = _APPLY[atom.op](*(substitute(a, sizes) for a in atom.args))
            term = part * term
        total = term + total
    return total if isinstance(total, Expr) else as_exact(total)


_APPLY: dict[str, Callable[..., Any]] = {"floordiv": floordiv, "mod": mod, "min": dim_min, "max": dim_max}


def product(shape: Iterable[Any]) -> Any:
    """The number of elements of a shape."""
    total: Any = 1
    for size in sorted(shape, key=lambda size: isinstance(size, Expr)):  # the numbers first: they multiply fast
        total = total * size
    return total


def is_static(shape: Shape | None) -> bool:
    """True where every size is an int."""
    return shape is not None and all(isinstance(d, int) for d in shape)


def shape_text(shape: Shape | None) -> str:
    """`[batch, 3, 2*h]`; `[...]` for an unknown rank."""
    return "[...]" if shape is None else "[" + ", ".join(str(d) for d in shape) + "]"


# -- sizes that data decide -------------------------------------------------------------------------------------------------------------------

_scope: ContextVar[tuple[str, list[int]] | None] = ContextVar("fresh_scope", default=None)


class fresh_scope:  # noqa: N801 - used as a function; a class, as every node of every inference takes one
    """Within it, `fresh()` names its symbols `?prefix.0`, `?prefix.1` …: deterministic, unique while prefixes are."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __enter__(self) -> None:
        self.token = _scope.set((self.prefix, [0]))

    def __exit__(self, *_: object) -> None:
        _scope.reset(self.token)


def fresh(lower: int = 0, upper: Any = None) -> Expr:
    """A new anonymous size, for a dimension that only data decide (NonZero, Compress, a Reshape by a computed tensor)."""
    if (scope := _scope.get()) is None:
        raise RuntimeError("fresh() outside fresh_scope(): shape inference sets the scope for each node")
    prefix, counter = scope
    counter[0] += 1
    return symbol(f"?{prefix}.{counter[0] - 1}", lower, upper)
