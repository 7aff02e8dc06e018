"""FFT: discrete Fourier transforms along an axis, in f32.

- Stockham's autosort transform (Van Loan, "Computational Frameworks for the Fast Fourier Transform", 1.7), a dispatch a pass: pass r reads n / r places apart and writes r side by side, nothing is
  reordered at the end. An invocation computes r results in registers, r of 8, 4, 2, 3, 5, 7; of a larger prime (up to LARGEST) one, over r terms. The first pass reads the operand (its
  strides, what is cut off or missing, the half of a spectrum), the last one writes the output; between them lie signals of vec2s. A pass moves every number once: memory is the bound on a GPU.
- A length with a larger prime factor becomes a convolution of a power of two (Bluestein, 1970); the filter is one more signal of the same dispatches.
- Short ones (DIRECT), those with a larger prime and more than 65,535 elements, and lengths that only the run knows, by the definition: one invocation a bin, which sums over the signal.
Angles are fractions of a circle in integers, so no precision is lost to large ones; powers of a root are products of at most three. No barriers: one variant for all adapters.
"""
from __future__ import annotations

import cmath
from collections.abc import Callable
from dataclasses import dataclass

from ...dim import Dim
from ...kernels import Kernel
from ...types import DType
from ..wgsl.expression import real
from ..wgsl.shader import Built, Context, Shader, each, groups
from ..wgsl.space import Operand, Space, Temporary
from .base import Step, kernel, offsets_in

#: Lengths up to which the definition is as quick, and the largest prime that has passes.
DIRECT, LARGEST = 16, 61
#: The longest signal whose squares of positions fit u32.
LONGEST = 65535
SMALL = (8, 4, 2, 3, 5, 7)

#: Cosine and sine of turn / length of a circle, in eighths of it: exact at the quarters, and equal where they should be.
UNIT = """fn unit(turn: i32, length: i32) -> vec2<f32> {
    let quarter = 4 * turn / length;
    let rest = 4 * turn - quarter * length;
    let far = 2 * rest > length;
    let angle = 1.5707964 * (f32(select(rest, length - rest, far)) / f32(length));
    let c = select(sx_cos(angle), sx_sin(angle), far);
    let d = select(sx_sin(angle), sx_cos(angle), far);
    switch (quarter & 3) {
        case 0: { return vec2<f32>(c, d); }
        case 1: { return vec2<f32>(-d, c); }
        case 2: { return vec2<f32>(-c, -d); }
        default: { return vec2<f32>(d, -c); }
    }
}"""
TIMES = "fn times(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> { return vec2<f32>(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }"
#: e^(-πi k² / n).
CHIRP = "fn chirp(k: i32, length: i32) -> vec2<f32> { let w = unit(i32((u32(k) * u32(k)) % u32(2 * length)), 2 * length); return vec2<f32>(w.x, -w.y); }"

#: (a shader, the number of a signal) → text of an element's position → the element, a vec2; or (its position, a value) → None, which stores it.
Reader = Callable[[Shader, str], Callable[[str], str]]
Stored = Callable[[Shader, str], Callable[[str, str], None]]


@kernel(Kernel.FFT)
def fft(step: Step, context: Context) -> list[Built]:
    """See the FFT record."""
    length = step.params["length"]
    if not isinstance(length, int) or length <= DIRECT:
        return _definition(step, context)
    found = Transform.of(step, context, length)
    radices = factors(length)
    room = min(context.limits.binding_bytes, context.limits.buffer_bytes)
    padded = length if radices is not None else 1 << (2 * length - 2).bit_length()
    if radices == [length] or (radices is None and length > LONGEST) or (isinstance(found.rows.count, int) and (found.rows.count + 1) * padded * 8 > room):
        return _definition(step, context)
    if radices is not None:
        return passes(context, found.rows.count, radices, found.read, found.write)
    return _convolved(found, padded)


def factors(length: int) -> list[int] | None:
    """The radices of a length's passes; None where it has a prime factor above LARGEST."""
    twos = (length & -length).bit_length() - 1
    rest = length >> twos
    found = {0: [], 1: [4, 4], 2: [4]}[twos % 3] if twos > 1 else [2] * twos
    found = [*[8] * ((twos - sum(r.bit_length() - 1 for r in found)) // 3), *found]
    prime = 3
    while rest > 1 and prime <= LARGEST:
        while rest % prime == 0:
            found.append(prime)
            rest //= prime
        prime += 2
    return found if rest == 1 else None


# -- passes ---------------------------------------------------------------------------------------------------------------------------------------

def passes(context: Context, rows: Dim, radices: list[int], read: Reader, write: Stored) -> list[Built]:
    """The transforms of `rows` signals."""
    n, s = 1, 1
    for r in radices:
        n *= r
    memory = [Temporary(DType.FLOAT, [rows, n, 2]) for _ in range(min(2, len(radices) - 1))]
    built = []
    for i, r in enumerate(radices):
        first, last = i == 0, i == len(radices) - 1
        source = read if first else _reader(memory[(i - 1) % 2], n)
        target = write if last else _writer(memory[i % 2], n)
        built.append((_butterfly if r in SMALL else _terms)(context, rows, n, r, s, source, target, last))
        s *= r
    return built


def _reader(memory: Temporary, n: int) -> Reader:
    """Signals of n elements in memory."""
    def read(s: Shader, row: str) -> Callable[[str], str]:
        base = s.let(f"{row} * {s.param(n)}")
        return lambda k: s.let(f"{s.binding(memory, 'vec2<f32>')}[{base} + {k}]", "vec2<f32>")
    return read


def _writer(memory: Temporary, n: int) -> Stored:
    def write(s: Shader, row: str) -> Callable[[str, str], None]:
        base = s.let(f"{row} * {s.param(n)}")
        return lambda k, value: s.add(f"{s.binding(memory, 'vec2<f32>', True)}[{base} + {k}] = {value};")
    return write


def _begin(context: Context) -> Shader:
    s = Shader(context)
    for text in (UNIT, TIMES):
        s.declare(text)
    return s


def _butterfly(context: Context, rows: Dim, n: int, r: int, side: int, read: Reader, write: Stored, last: bool) -> Built:
    """A pass whose invocations compute r results each. `side`: numbers that lie side by side so far; the last pass has no roots to multiply by."""
    s = _begin(context)
    count = rows * (n // r)
    item, apart = each(s, count), s.let(s.param(n // r))
    i, row = s.let(f"{item} % {apart}"), s.let(f"{item} / {apart}")
    take, put = read(s, row), write(s, row)
    x = [take(s.let(f"{i} + {k} * {apart}") if k else i) for k in range(r)]
    y = _small(s, x)
    width = s.let(s.param(side))
    p = s.let(f"{i} / {width}")
    to = s.let(f"{i} + {p} * {r - 1} * {width}")       # s · r · p + q, where i = s · p + q
    if not last:
        w = [""] * r
        w[1] = _root(s, f"{p} * {width}", s.param(n))
        for j in range(2, r):
            w[j] = s.let(f"times({w[j // 2]}, {w[j - j // 2]})", "vec2<f32>")
        y = [y[0], *(f"times({a}, {b})" for a, b in zip(y[1:], w[1:], strict=True))]
    for j, value in enumerate(y):
        put(s.let(f"{to} + {j} * {width}") if j else to, s.let(value, "vec2<f32>"))
    return s.dispatch(groups(s, count))


def _terms(context: Context, rows: Dim, n: int, r: int, side: int, read: Reader, write: Stored, last: bool) -> Built:
    """A pass of any radix whose invocations compute one result each."""
    s = _begin(context)
    count = rows * n
    item, apart, radix, width = each(s, count), s.let(s.param(n // r)), s.let(s.param(r)), s.let(s.param(side))
    i, rest = s.let(f"{item} % {apart}"), s.let(f"{item} / {apart}")
    j, row = s.let(f"{rest} % {radix}"), s.let(f"{rest} / {radix}")
    take, put = read(s, row), write(s, row)
    s.add("var sum = vec2<f32>();")
    with s.block(f"for (var k = 0; k < {radix}; k += 1)"):
        s.add(f"sum += times({take(s.let(f'{i} + k * {apart}'))}, {_root(s, f'{j} * k % {radix}', radix)});")
    p = s.let(f"{i} / {width}")
    put(s.let(f"{i} + ({p} * ({radix} - 1) + {j}) * {width}"), s.let("sum" if last else f"times(sum, {_root(s, f'{p} * {j} * {width}', s.param(n))})", "vec2<f32>"))
    return s.dispatch(groups(s, count))


def _root(s: Shader, turn: str, length: str) -> str:
    """e^(-2πi turn / length)."""
    w = s.let(f"unit({turn}, {length})", "vec2<f32>")
    return s.let(f"vec2<f32>({w}.x, -{w}.y)", "vec2<f32>")


def _small(s: Shader, x: list[str]) -> list[str]:
    """The transform of a few numbers, written out: halves of a power of two, an odd prime by its definition, of which the terms k and r - k are taken together."""
    r = len(x)
    if r == 1:
        return x
    if r % 2 == 0:
        even, odd = _small(s, x[::2]), _small(s, x[1::2])
        odd = [_constant_times(s, cmath.exp(-2j * cmath.pi * k / r), v) for k, v in enumerate(odd)]
        return [s.let(f"{a} {sign} {b}", "vec2<f32>") for sign in "+-" for a, b in zip(even, odd, strict=True)]
    half = range(1, r // 2 + 1)
    sums = {k: s.let(f"{x[k]} + {x[r - k]}", "vec2<f32>") for k in half}
    differences = {k: s.let(f"{x[k]} - {x[r - k]}", "vec2<f32>") for k in half}
    y = [s.let(" + ".join([x[0], *sums.values()]), "vec2<f32>"), *[""] * (r - 1)]
    for j in half:
        w = {k: cmath.exp(-2j * cmath.pi * (j * k % r) / r) for k in half}
        a = s.let(" + ".join([x[0], *(f"{w[k].real:.9f} * {sums[k]}" for k in half)]), "vec2<f32>")
        b = s.let(" + ".join(f"{w[k].imag:.9f} * {differences[k]}" for k in half), "vec2<f32>")        # times i
        y[j], y[r - j] = (s.let(f"vec2<f32>({a}.x {p} {b}.y, {a}.y {q} {b}.x)", "vec2<f32>") for p, q in ("-+", "+-"))
    return y


def _constant_times(s: Shader, w: complex, v: str) -> str:
    if abs(w - 1) < 1e-9:
        return v
    if abs(w + 1j) < 1e-9:
        return s.let(f"vec2<f32>({v}.y, -{v}.x)", "vec2<f32>")
    return s.let(f"times({v}, vec2<f32>({w.real:.9f}, {w.imag:.9f}))", "vec2<f32>")


# -- the ends -------------------------------------------------------------------------------------------------------------------------------------

@dataclass
class Transform:
    """The ends of a step: its signals as passes read and write them. Inverse: real and imaginary parts change places before and after."""

    context: Context
    x: Operand
    out: Operand
    axis: int
    length: int
    inverse: bool
    half: bool
    rows: Space

    @classmethod
    def of(cls, step: Step, context: Context, length: int) -> Transform:
        """Of a step."""
        x, out, axis, inverse = step.there(0), step.output(), step.whole("axis"), bool(step.whole("inverse"))
        lead = [a for a in range(out.rank - 1) if a != axis]
        rows = Space.of([out.dims[a] for a in lead], [[o.strides[a] for a in lead] for o in (out, x)])
        return cls(context, x, out, axis, length, inverse, inverse and bool(step.whole("onesided")), rows)

    def read(self, s: Shader, row: str) -> Callable[[str], str]:
        """See `Reader`: zero behind the signal's end; of half a spectrum, the other half is its conjugate."""
        x = self.x
        source = s.let(s.offset(self.rows, 1, s.coordinates(self.rows, row), s.start(x)))
        length, there = s.param(self.length), s.let(s.param(x.dims[self.axis]))
        stride, parts = s.size(x.strides[self.axis]), s.size(x.strides[-1])

        def element(k: str) -> str:
            at = s.let(f"min({k}, {length} - {k})") if self.half else k
            name = s.name("x")
            s.add(f"var {name} = vec2<f32>();")
            with s.block(f"if ({at} < {there})"):
                place = s.let(f"{source} + {at} * {stride}")
                re, im = s.load(x, place).text, s.load(x, s.let(f"{place} + {parts}")).text if x.dims[-1] == 2 else "0.0"
                if self.half:   # neither the first bin nor, of an even length, the last has an imaginary part
                    im = s.let(f"select(select({im}, -{im}, {k} > {at}), 0.0, {at} == 0 || 2 * {at} == {length})", "f32")
                s.add(f"{name} = vec2<f32>({f'{im}, {re}' if self.inverse else f'{re}, {im}'});")
            return name
        return element

    def write(self, s: Shader, row: str) -> Callable[[str, str], None]:
        """See `Stored`: the bins that are wanted."""
        out = self.out
        base = s.let(s.offset(self.rows, 0, s.coordinates(self.rows, row), s.start(out)))
        wanted, stride, parts = s.let(s.param(out.dims[self.axis])), s.size(out.strides[self.axis]), s.size(out.strides[-1])
        scale = f" / f32({s.param(self.length)})" if self.inverse else ""

        def put(j: str, value: str) -> None:
            re, im = (f"{value}.y", f"{value}.x") if self.inverse else (f"{value}.x", f"{value}.y")
            with s.block(f"if ({j} < {wanted})"):
                place = s.let(f"{base} + {j} * {stride}")
                s.write(out, place, real(s.let(f"{re}{scale}", "f32")))
                if not self.half:
                    s.write(out, s.let(f"{place} + {parts}"), real(s.let(f"{im}{scale}", "f32")))
        return put


def _convolved(found: Transform, n: int) -> list[Built]:
    """Bluestein: X_j = c_j · sum over k of (x_k · c_k) · conj(c_{j-k}), c the chirp: a cyclic convolution of n ≥ 2 · length - 1. The filter is the signal behind the others."""
    length, rows, context = found.length, found.rows.count, found.context
    radices = factors(n)
    assert radices is not None
    spectra = Temporary(DType.FLOAT, [rows + 1, n, 2])

    def chirped(s: Shader, row: str) -> Callable[[str], str]:
        s.declare(CHIRP)
        size, whole, is_filter = s.let(s.param(length)), s.param(n), s.let(f"{row} == {s.param(rows)}", "bool")
        take = found.read(s, s.let(f"select({row}, 0, {is_filter})"))

        def element(k: str) -> str:
            name, at = s.name("z"), s.let(f"min({k}, {whole} - {k})")
            s.add(f"var {name} = vec2<f32>();")
            with s.block(f"if ({is_filter} && {at} < {size})"):
                s.add(f"{name} = chirp({at}, {size}) * vec2<f32>(1.0, -1.0);")
            with s.block(f"if (!{is_filter} && {k} < {size})"):
                s.add(f"{name} = times({take(k)}, chirp({k}, {size}));")
            return name
        return element

    def filtered(s: Shader, row: str) -> Callable[[str], str]:
        mine, filter_ = _reader(spectra, n)(s, row), _reader(spectra, n)(s, s.let(s.param(rows)))
        return lambda k: s.let(f"times({mine(k)}, {filter_(k)}) * vec2<f32>(1.0, -1.0)", "vec2<f32>")     # its conjugate: the transform back is one forth

    def bins(s: Shader, row: str) -> Callable[[str, str], None]:
        s.declare(CHIRP)
        put, size, whole = found.write(s, row), s.let(s.param(length)), s.param(n)

        def element(j: str, value: str) -> None:
            with s.block(f"if ({j} < {size})"):
                put(j, s.let(f"times({value} * vec2<f32>(1.0, -1.0) / f32({whole}), chirp({j}, {size}))", "vec2<f32>"))
        return element
    return passes(context, rows + 1, radices, chirped, _writer(spectra, n)) + passes(context, rows, radices, filtered, bins)


# -- the definition -------------------------------------------------------------------------------------------------------------------------------

def _definition(step: Step, context: Context) -> list[Built]:
    """One invocation a bin, which sums over the signal."""
    x, out, axis = step.there(0), step.output(), step.whole("axis")
    inverse, onesided = step.whole("inverse"), step.whole("onesided")
    half = bool(inverse and onesided)
    lead = out.dims[:-1]
    space = Space.of(lead, [out.strides[:-1], [0 if a == axis else s for a, s in enumerate(x.strides[:-1])]], {axis})
    s = Shader(context)
    s.declare(UNIT)
    at = s.coordinates(space, each(s, space.count))
    to, source = offsets_in(s, space, [out, x], at)
    where = space.where[axis]
    length = s.param(step.params["length"])
    bin_ = "0" if where is None else at[where]
    bins = s.let(f"min({s.param(x.dims[axis])}, {f'{length} / 2 + 1' if half else length})")
    s.add("var re = 0.0;")
    s.add("var im = 0.0;")
    s.add("var turn = 0;")
    with s.block(f"for (var k = 0; k < {bins}; k += 1)"):
        place = s.let(f"{source} + k * {s.size(x.strides[axis])}")
        a = s.load(x, place).text
        b = s.load(x, s.let(f"{place} + {s.size(x.strides[-1])}")).text if x.dims[-1] == 2 else "0.0"
        s.add(f"let w = unit(turn, {length});")
        s.add("let c = w.x;")
        s.add(f"let d = {'' if inverse else '-'}w.y;")
        if half:
            # The bins that are not there are conjugates of those that are: all but the first and, of an even length, the last count twice.
            s.add(f"let twice = select(2.0, 1.0, k == 0 || 2 * k == {length});")
            s.add(f"re += twice * ({a} * c - select({b}, 0.0, k == 0 || 2 * k == {length}) * d);")
        else:
            s.add(f"re += {a} * c - {b} * d;")
            s.add(f"im += {a} * d + {b} * c;")
        s.add(f"turn += {bin_};")
        s.add(f"if (turn >= {length}) {{ turn -= {length}; }}")
    over = f" / f32({length})" if inverse else ""
    s.write(out, to, real(s.let(f"re{over}", "f32")))
    if not half:
        s.write(out, s.let(f"{to} + {s.size(out.strides[-1])}"), real(s.let(f"im{over}", "f32")))
    return [s.dispatch(groups(s, space.count))]
