"""Resize: one invocation an output element, over the taps of every resized axis. Positions and weights are computed where they are needed, in f32 (core/ops/resize.py has the formulas); the
product of the axes' weights is summed, where a weight of 0 takes no part. Between elements a position is a whole number and a fraction, which is a quotient with its remainder: weights are
right to the last bits far from the origin too. Antialiasing stretches the taps by 1 / scale; weights that do not sum to 1 are divided by their sum, counted first."""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from ...dim import Dim, ceildiv, dim_max
from ...kernels import Kernel
from ...lowering import CannotLower
from ..wgsl.expression import Value, real
from ..wgsl.shader import Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space
from .base import Step, kernel, offsets_in

NEAREST, LINEAR, CUBIC = range(3)
HALF, SYMMETRIC, PYTORCH, ALIGN, ASYMMETRIC, CROP = range(6)


@kernel(Kernel.RESIZE)
def resize(step: Step, context: Context) -> list[Built]:
    """See the RESIZE record."""
    x, out, mode = step.there(0), step.output(), step.whole("mode")
    if mode != NEAREST and not x.dtype.is_float:
        raise CannotLower("interpolation between integers: f32 does not round its halves as double does")
    moved = [a for a in range(x.rank) if not _stays(step, x, out, a)]
    space = Space.of(out.dims, [out.strides, [0 if a in moved else s for a, s in enumerate(x.strides)]], set(moved))
    s = Shader(context)
    at = s.coordinates(space, each(s, space.count))
    to, source = offsets_in(s, space, [out, x], at)
    axes = [_Axis(s, step, x, out, a, at[w] if (w := space.where[a]) is not None else "0") for a in moved]
    outside = s.let(" || ".join([f"{a.x} < 0.0 || {a.x} > {a.length} - 1.0" for a in axes]), "bool") if axes and step.whole("coordinates") == CROP else "false"
    if mode == NEAREST:
        for a in axes:
            source = s.let(f"{source} + {a.nearest(step.whole('nearest'))} * {s.size(x.strides[a.axis])}")
        found = s.load(x, source)
        if outside != "false":
            aside = step.params["extrapolation"]
            other = s.real(aside) if found.rep == "f32" else f"{found.rep}({int(aside)})"
            found = Value(s.let(f"select({found.text}, {other}, {outside})", found.rep), found.rep, min(found.low, int(aside)), max(found.high, int(aside)))
        s.write(out, to, found)
        return [s.dispatch(groups(s, space.count))]
    s.add("var sum = 0.0;")
    loops = ExitStack()
    weight, place = "1.0", source
    for a in axes:
        tap, share = loops.enter_context(a.taps())
        weight = share if weight == "1.0" else s.let(f"{weight} * {share}", "f32")
        place = s.let(f"{place} + clamp({tap}, 0, {a.size} - 1) * {s.size(x.strides[a.axis])}")
    v = s.load(x, place)
    s.add(f"sum = fma({weight}, {v.text}, sum);")
    loops.close()
    total = s.let(f"select(sum, {s.real(step.params['extrapolation'])}, {outside})", "f32")
    s.write(out, to, real(total))
    return [s.dispatch(groups(s, space.count))]


def _region(step: Step, rank: int, axis: int) -> tuple[float, float]:
    if step.whole("coordinates") != CROP:
        return 0.0, 1.0
    return step.params["roi"][axis], step.params["roi"][rank + axis]


def _stays(step: Step, x: Operand, out: Operand, axis: int) -> bool:
    """Whether nothing happens along the axis."""
    scale = step.params["scales"][axis]
    return x.dims[axis] == out.dims[axis] and (scale == 1 or scale == 0) and _region(step, x.rank, axis) == (0.0, 1.0)


class _Axis:
    """One resized axis: `x`, where the element lies in the input."""

    def __init__(self, s: Shader, step: Step, x: Operand, out: Operand, axis: int, at: str) -> None:
        self.s, self.step, self.axis = s, step, axis
        self.size, self.sizes = s.param(x.dims[axis]), (x.dims[axis], out.dims[axis])
        self.length, count = s.let(f"f32({self.size})", "f32"), s.let(f"f32({s.param(out.dims[axis])})", "f32")
        given = step.params["scales"][axis]
        self.scale = s.real(given) if given else s.let(f"{count} / {self.length}", "f32")
        self.over, self.under = (self.scale, "1.0") if given else (count, self.length)   # the scale as a quotient of exact numbers
        self.missing = s.real(given - float(np.float32(given))) if given else "0.0"        # of a scale that is a double
        start, end = (s.real(v) for v in _region(step, x.rank, axis)) if step.whole("coordinates") == CROP else ("", "")
        i = s.let(f"f32({at})", "f32")
        exact = f"({self.scale} * {self.length})"
        half = f"({i} + 0.5) / {self.scale} - 0.5"
        alone = f"{count} > 1.0"
        text = {
            HALF: half, SYMMETRIC: f"{self.length} / 2.0 * (1.0 - {count} / {exact}) + {half}", PYTORCH: f"select(0.0, {half}, {alone})", ASYMMETRIC: f"{i} / {self.scale}",
            ALIGN: f"select(0.0, {i} * ({self.length} - 1.0) / ({exact} - 1.0), {alone})",
            CROP: f"select(0.5 * ({start} + {end}) * ({self.length} - 1.0), {start} * ({self.length} - 1.0) + {i} * ({end} - {start}) * ({self.length} - 1.0) / ({exact} - 1.0), {alone})",
        }[step.whole("coordinates")]
        self.x = s.let(text, "f32")
        self.quotient = {
            HALF: (f"({i} + 0.5) * {self.under}", self.over, "0.5"), PYTORCH: (f"({i} + 0.5) * {self.under}", self.over, "0.5"), ASYMMETRIC: (f"{i} * {self.under}", self.over, "0.0"),
            ALIGN: (f"{i} * ({self.length} - 1.0)", f"({exact if given else count} - 1.0)", "0.0"),
        }.get(step.whole("coordinates"), (self.x, "1.0", "0.0"))
        self.alone = step.whole("coordinates") in (PYTORCH, ALIGN)
        self.count = count

    def between(self) -> tuple[str, str]:
        """The position as a whole number and a fraction in [0, 1)."""
        s, (over, under, less) = self.s, self.quotient
        a, b = s.let(over, "f32"), s.let(f"select(1.0, {under}, {self.count} > 1.0)" if self.alone else under, "f32")
        q = s.let(f"{a} / {b}", "f32")
        missing = self.missing if under == self.over else "0.0"
        rest = s.let(f"(fma(-{q}, {b}, {a}) - {q} * {missing}) / {b}", "f32")
        x = s.let(f"{q} - {less}", "f32")
        down = s.let(f"floor({x})", "f32")
        part = s.let(f"({x} - {down}) + {rest}", "f32")
        turn = s.let(f"floor({part})", "f32")
        whole, fraction = s.let(f"i32({down} + {turn})"), s.let(f"{part} - {turn}", "f32")
        if self.alone:
            return s.let(f"select(0, {whole}, {self.count} > 1.0)"), s.let(f"select(0.0, {fraction}, {self.count} > 1.0)", "f32")
        return whole, fraction

    def nearest(self, mode: int) -> str:
        """The index of the nearest element."""
        rounded = (f"ceil({self.x} - 0.5)", f"floor({self.x} + 0.5)", f"floor({self.x})", f"ceil({self.x})")[mode]
        return self.s.let(f"clamp(i32({rounded}), 0, {self.size} - 1)")

    def _reach(self, taps: int) -> Dim:
        """How far stretched taps reach at most."""
        given, (size, count) = self.step.params["scales"][self.axis], self.sizes
        return math.ceil(taps / min(given, 1.0)) if given else ceildiv(taps * size, dim_max(count, 1)) + taps

    @contextmanager
    def taps(self) -> Iterator[tuple[str, str]]:
        """A loop over the taps whose weight is not 0: (index, weight). The index may lie outside."""
        s, step = self.s, self.step
        cubic, antialias, exclude = step.whole("mode") == CUBIC, step.whole("antialias"), step.whole("exclude_outside")
        stretch = s.let(f"min({self.scale}, 1.0)", "f32") if antialias else "1.0"
        reach = s.let(f"i32(ceil({2 if cubic else 1}.0 / {stretch}))") if antialias else "2" if cubic else "1"
        first, fraction = self.between()
        a = s.real(step.params["a"]) if cubic else ""

        def weight(k: str) -> str:
            t = s.let(f"abs((f32({k} - {first}) - {fraction}) * {stretch})", "f32")
            if cubic:
                near, far = f"(({a} + 2.0) * {t} - ({a} + 3.0)) * {t} * {t} + 1.0", f"(({a} * {t} - 5.0 * {a}) * {t} + 8.0 * {a}) * {t} - 4.0 * {a}"
                text = f"select(select(0.0, {far}, {t} < 2.0), {near}, {t} <= 1.0)"
            else:
                text = f"max(0.0, 1.0 - {t})"
            return s.let(f"select({text}, 0.0, {k} < 0 || {k} >= {self.size})" if exclude else text, "f32")

        head = f"for (var {{0}} = {first} + 1 - {reach}; {{0}} <= {first} + {reach}; {{0}} += 1)"
        turns = 2 * (self._reach(2 if cubic else 1) if antialias else 2 if cubic else 1)
        divide, k = "", s.name("k")
        if exclude or antialias:
            total = s.name("t")
            s.add(f"var {total} = 0.0;")
            with s.block(head.format(k), turns=turns):
                s.add(f"{total} += {weight(k)};")
            divide = f" / select({total}, 1.0, {total} == 0.0)"
        with s.block(head.format(k), turns=turns):
            w = s.let(weight(k) + divide, "f32")
            with s.block(f"if ({w} != 0.0)"):
                yield k, w
