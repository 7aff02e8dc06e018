"""Sizes as expressions: canonical form, division, bounds, substitution — against plain integers."""
from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sardonyx.dim import Undecidable, bounds, ceildiv, dim_ceil, dim_floor, dim_max, dim_min, dim_trunc, fresh, fresh_scope, provably, shape_text, substitute, symbol

N, H = symbol("n", 1), symbol("h", 1)


@pytest.mark.parametrize(("expression", "text"), [
    ((N + 1) * 2 - N, "n + 2"),
    (N - N, "0"),
    ((4 * N + 6) // 4, "n + 1"),
    (N * H * 64 // (H * 64), "n"),
    (dim_floor(H * np.float32(0.5)), "(h//2)"),
    (H // 2 // 2, "(h//4)"),
    (N * 3 % 3, "0"),
    (dim_max(N, 1), "n"),
    (dim_min(N, N + 1), "n"),
    (-N + 3, "-n + 3"),
])
def test_canonical_form(expression: object, text: str) -> None:
    assert str(expression) == text


def test_equality_is_structural_and_truth_is_refused() -> None:
    assert (N + H) * (N - H) == N * N - H * H
    assert N != H and N != 3
    with pytest.raises(TypeError, match="symbolic"):
        bool(N)
    with pytest.raises(Undecidable, match="before the model runs"):
        _ = N < H
    assert N > 0 and not provably(lambda: N > 1)
    with pytest.raises(Undecidable):
        dim_trunc((N - H) / 2)


SIZE = st.integers(1, 50)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[object, object]:
    """The same random arithmetic on symbols and on a function of their numbers."""
    if depth == 0 or draw(st.booleans()):
        kind = draw(st.sampled_from(["n", "h", "number"]))
        if kind == "number":
            value = draw(st.integers(0, 9))
            return value, lambda n, h: value
        return (N, lambda n, h: n) if kind == "n" else (H, lambda n, h: h)
    a, fa = draw(expressions(depth=depth - 1))
    name = draw(st.sampled_from(["add", "sub", "mul", "floordiv", "mod", "min", "max", "ceildiv"]))
    if name in ("floordiv", "mod", "ceildiv"):
        d = draw(st.integers(1, 7))
        plain = {"floordiv": lambda x: x // d, "mod": lambda x: x % d, "ceildiv": lambda x: -(-x // d)}[name]
        made = {"floordiv": lambda x: x // d, "mod": lambda x: x % d, "ceildiv": lambda x: ceildiv(x, d)}[name](a)
        return made, lambda n, h: plain(fa(n, h))
    b, fb = draw(expressions(depth=depth - 1))
    symbolic = {"min": dim_min, "max": dim_max}.get(name) or getattr(operator, name)
    plain2 = {"min": min, "max": max}.get(name) or getattr(operator, name)
    return symbolic(a, b), lambda n, h: plain2(fa(n, h), fb(n, h))


@settings(max_examples=400, deadline=None)
@given(expressions(), SIZE, SIZE)
def test_arithmetic_agrees_with_integers(pair: tuple[object, object], n: int, h: int) -> None:
    expression, plain = pair
    value = substitute(expression, {"n": n, "h": h})
    assert value == plain(n, h)  # type: ignore[operator]
    low, high = bounds(expression, {"n": (1, 50), "h": (1, 50)})
    assert low is None or low <= value
    assert high is None or value <= high


@pytest.mark.parametrize("n", range(1, 12))
def test_rounding(n: int) -> None:
    assert substitute(dim_ceil(N / 3), {"n": n}) == -(-n // 3)
    assert substitute(dim_floor(N * 1.5 + 0.25), {"n": n}) == int(n * 1.5 + 0.25)


def test_fresh_sizes_are_named_by_scope() -> None:
    with fresh_scope("nonzero"):
        a, b = fresh(), fresh(upper=N)
    assert shape_text((a, b)) == "[?nonzero.0, ?nonzero.1]"
    assert bounds(b, {"n": (1, 4)}) == (0, 4)
    with pytest.raises(RuntimeError):
        fresh()
