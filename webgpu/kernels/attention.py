"""Attention in one dispatch: scores, softmax and the product with V, without the matrix of scores in memory (online softmax: Milakov & Gimelshein, arXiv:1805.02867; the tiling of
FlashAttention, Dao et al., arXiv:2205.14135). A query head reads key head h / repeat, so grouped queries are a division. Keys and values in two pieces are put together before, where the
present is wanted there.

A key that a mask of bools or causality hides is not read, neither its value: a cache may be larger than what it holds, and what lies behind is nobody's.

    m' = max(m, s);  l' = l · exp(m - m') + exp(s - m');  o' = o · exp(m - m') + exp(s - m') · v;  Y = o / l

Variants
- *block* (GPU): a workgroup of 64 takes 16 queries of a head; K and V pass through workgroup memory 16 keys at a time (8 where heads are wider than 64). Four invocations share a query: each
  scores a quarter of the tile's keys and holds a quarter of the output's columns in registers.
- *row* (GPU, few queries, as in decoding): a workgroup takes one query; 64 keys at a time are scored one an invocation, then the invocations are columns of V, read side by side.
- *serial* (software adapters, and heads wider than 128): an invocation takes two queries (one where there are few) and 64 columns of V. No barriers.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...dim import Dim, ceildiv
from ...kernels import Kernel
from ...lowering import CannotLower
from ...types import DType
from ..wgsl.expression import real
from ..wgsl.shader import Built, Context, Shader, groups
from ..wgsl.space import Operand, Temporary, even
from ..wgsl.turns import LOOPS
from .base import Step, kernel, most, number
from .map import copy
from .tiles import in_ranges

#: Queries of a block, invocations of a query, the widest head a block takes, columns of V a serial invocation holds.
QUERIES, TEAM, WIDEST, COLUMNS = 16, 4, 128, 64
#: Queries up to which a workgroup takes one.
FEW_QUERIES = 2
LANES = 64
LOWEST = "sx_bits(0xff800000u)"


@kernel(Kernel.ATTENTION)
def attention(step: Step, context: Context) -> list[Built]:
    """See the ATTENTION record."""
    q, k, v, out = step.there(0), step.there(1), step.there(2), step.output()
    if not all(o.dtype.is_float for o in (q, k, v, out)):
        raise CannotLower("attention of integers")
    built: list[Built] = []
    k, v = (_joined(step, context, new, step.input(3 + i), step.outputs[i] if len(step.outputs) > i else None, built) for i, new in ((1, k), (2, v)))
    wide = [d for d in (q.dims[3], v.dims[3]) if not isinstance(d, int) or d > WIDEST]
    serial = context.cpu or bool(wide)

    def write(known: Context) -> Built:
        task = _Attention(step, known, q, k, v, step.input(3), out)
        return task.serial() if serial else task.row() if most(known, q.dims[2]) <= FEW_QUERIES else task.block()
    return built + in_ranges(context, q.dims[2], [1 if serial else FEW_QUERIES] if context.decoding else [], write)


def _joined(step: Step, context: Context, new: Operand, past: Operand | None, present: Operand | None, built: list[Built]) -> Operand:
    """`past` and `new` behind it, in `present` or in memory between the dispatches."""
    if past is None and present is None:
        return new
    held: Dim = 0 if past is None else past.dims[2]
    dims = (*new.dims[:2], held + new.dims[2], new.dims[3])
    made = Temporary.operand(new.dtype, dims) if present is None else present
    for part, at in ((past, 0), (new, held)):
        if part is not None:
            target = replace(made, dims=part.dims, start=made.start + made.strides[2] * at)
            built += copy(Step(Kernel.COPY, [part, None], [target], {"mode": 0}, label=step.label), context)
    return made


@dataclass
class _Attention:
    step: Step
    context: Context
    q: Operand
    k: Operand
    v: Operand
    mask: Operand | None
    out: Operand

    # -- what the variants share ---------------------------------------------------------------------------------------------------------------
    def heads(self, s: Shader, item: str) -> dict[str, str]:
        """Offsets of batch and head number `item` in every operand."""
        h, b = s.let(f"{item} % {s.param(self.q.dims[1])}"), s.let(f"{item} / {s.param(self.q.dims[1])}")
        shared = s.let(f"{h} / {s.param(self.q.dims[1] // self.k.dims[1])}")
        at = {}
        for name, operand, head in (("q", self.q, h), ("k", self.k, shared), ("v", self.v, shared), ("out", self.out, h), ("mask", self.mask, h)):
            if operand is not None:
                steps = self.strides(operand)
                at[name] = s.let(f"{s.size(operand.start)} + {b} * {s.size(steps[0])} + {head} * {s.size(steps[1])}")
        return at

    def strides(self, operand: Operand) -> tuple[Dim, ...]:
        """Strides over four axes; 0 where the mask broadcasts."""
        if operand is not self.mask:
            return operand.strides
        missing = 4 - operand.rank
        return (0,) * missing + tuple(0 if d == 1 and self.score_dims()[missing + i] != 1 else t for i, (d, t) in enumerate(zip(operand.dims, operand.strides, strict=True)))

    def score_dims(self) -> tuple[Dim, ...]:
        """[B, H, S, T]."""
        return (*self.q.dims[:3], self.k.dims[2])

    def score(self, s: Shader, dot: str, at: dict[str, str], query: str, key: str) -> str:
        """A dot product scaled, capped and with the floats of a mask added; both numbers lie within their axes."""
        text = s.let(f"{dot} * {s.real(self.step.params['scale'])}", "f32")
        if self.step.params["softcap"]:
            cap = s.real(self.step.params["softcap"])
            text = s.let(f"sx_tanh({text} / {cap}) * {cap}", "f32")
        if self.mask is not None and self.mask.dtype is not DType.BOOL:
            text = s.let(f"{text} + {self.masked(s, self.mask, at, query, key)}", "f32")
        return text

    def masked(self, s: Shader, mask: Operand, at: dict[str, str], query: str, key: str) -> str:
        """The mask's element."""
        steps = self.strides(mask)
        return s.load(mask, s.let(f"{at['mask']} + {query} * {s.size(steps[2])} + {key} * {s.size(steps[3])}")).text

    def seen(self, s: Shader, at: dict[str, str], query: str, key: str) -> str:
        """Whether a query sees a key, "true" where all see all."""
        tests = []
        if self.mask is not None and self.mask.dtype is DType.BOOL:
            tests.append(f"({self.masked(s, self.mask, at, query, key)} != 0)")
        if self.step.whole("causal"):
            tests.append(f"({key} <= {query} + {s.size(self.step.params['offset'])})")
        return s.let(" & ".join(tests), "bool") if tests else "true"

    @staticmethod
    def counts(score: str) -> str:
        """Whether a score is more than -inf, or NaN. (By its bits: comparisons with NaN are the adapter's business.)"""
        return f"bitcast<u32>({score}) != 0xff800000u"

    def quad(self, s: Shader, operand: Operand, base: str, row: str, column: str, inside: str) -> str:
        """Four neighbouring elements of a row as a vec4, zeros outside."""
        size, step = s.param(operand.dims[3]), s.size(operand.strides[3])
        place = s.let(f"{base} + {row} * {s.size(operand.strides[2])}")
        name = s.name("x")
        s.add(f"var {name} = vec4<f32>();")
        for i in range(4):
            whole = isinstance(operand.dims[3], int) and operand.dims[3] % 4 == 0
            with s.block(f"if ({inside}{'' if whole else f' && {column} + {i} < {size}'})"):
                s.add(f"{name}[{i}] = {s.load(operand, s.let(f'{place} + ({column} + {i}) * {step}')).text};")
        return name

    def store(self, s: Shader, at: dict[str, str], query: str, column: str, value: str, total: str) -> None:
        """One element of the result; a query that sees no key gives 0."""
        place = s.let(f"{at['out']} + {query} * {s.size(self.out.strides[2])} + {column} * {s.size(self.out.strides[3])}")
        s.write(self.out, place, real(s.let(f"{value} / select({total}, 1.0, {total} == 0.0)", "f32")))

    # -- variants ------------------------------------------------------------------------------------------------------------------------------
    def serial(self) -> Built:
        """An invocation: some queries of a head, some columns of V."""
        s = Shader(self.context, LANES)
        count = 1 if most(self.context, self.q.dims[2]) < 4 else 2   # four: 256 sums of private memory, whose declaration alone takes SwiftShader 45 ms to compile
        blocks, slices = ceildiv(self.q.dims[2], count), ceildiv(self.v.dims[3], COLUMNS)
        all_: Dim = self.q.dims[0] * self.q.dims[1] * blocks * slices
        item = s.let(f"group * {LANES} + lane")
        s.add(f"if ({item} >= {s.param(all_)}) {{ return; }}")
        first = s.let(f"{item} % {s.param(blocks)} * {count}")
        rest = s.let(f"{item} / {s.param(blocks)}")
        column = s.let(f"{rest} % {s.param(slices)} * {COLUMNS}")
        at = self.heads(s, s.let(f"{rest} / {s.param(slices)}"))
        columns = s.let(f"min({COLUMNS}, {s.param(self.v.dims[3])} - {column})")
        rows = [s.let(f"min({first} + {i}, {s.param(self.q.dims[2])} - 1)") for i in range(count)]
        starts = [s.let(f"{at['q']} + {r} * {s.size(self.q.strides[2])}") for r in rows]
        s.add(f"var o: array<f32, {COLUMNS * count}>;")
        s.add(f"for (var c = 0; c < {COLUMNS * count}; c += 1) {{ o[c] = 0.0; }}")
        # What happens once a key is a loop over the queries, not as many texts: drivers take long over exp.
        for name in ("highest", "totals", "powers", "factors"):
            s.add(f"var {name}: array<f32, {count}>;")
        each_query = f"for (var i = 0; i < {count}; i += 1)"
        with s.block(each_query):
            s.add(f"highest[i] = {LOWEST};")
        with s.block(f"for (var t = 0; t < {s.param(self.k.dims[2])}; t += 1)"):
            seen = [self.seen(s, at, row, "t") for row in rows]
            if seen[0] != "true":
                s.add(f"if (!({' || '.join(seen)})) {{ continue; }}")
            for i in range(count):
                s.add(f"var d{i} = 0.0;")
            key = s.let(f"{at['k']} + t * {s.size(self.k.strides[2])}")
            for d in self.unrolled(s, "d", s.param(self.q.dims[3]), self.q.dims[3]):
                x = s.load(self.k, s.let(f"{key} + {d} * {s.size(self.k.strides[3])}")).text
                for i in range(count):
                    s.add(f"d{i} = fma({s.read(self.q, s.let(f'{starts[i]} + {d} * {s.size(self.q.strides[3])}')).text}, {x}, d{i});")
            s.add(f"var dots = array<f32, {count}>({', '.join(f'd{i}' for i in range(count))});")
            with s.block(each_query):
                row = s.let(f"min({first} + i, {s.param(self.q.dims[2])} - 1)")
                score, there = self.score(s, "dots[i]", at, row, "t"), self.seen(s, at, row, "t")
                self.online(s, score if there == "true" else s.let(f"select({LOWEST}, {score}, {there})", "f32"), "highest[i]", "totals[i]", "p", "f")
                s.add("powers[i] = p;")
                s.add("factors[i] = f;")
            for i in range(count):
                s.add(f"let p{i} = powers[{i}];")
                s.add(f"let f{i} = factors[{i}];")
            value = s.let(f"{at['v']} + t * {s.size(self.v.strides[2])}")
            for c in self.unrolled(s, "c", columns, self.v.dims[3]):
                x = s.load(self.v, s.let(f"{value} + ({column} + {c}) * {s.size(self.v.strides[3])}")).text
                for i in range(count):
                    place = f"o[{c} * {count} + {i}]"
                    s.add(f"{place} = fma(p{i}, {x}, {place} * f{i});")
        with s.block(f"for (var i = 0; i < min({count}, {s.param(self.q.dims[2])} - {first}); i += 1)"), s.block(f"for (var c = 0; c < {columns}; c += 1)"):
            self.store(s, at, s.let(f"{first} + i"), s.let(f"{column} + c"), f"o[c * {count} + i]", "totals[i]")
        return s.dispatch(groups(s, all_))

    def unrolled(self, s: Shader, name: str, end: str, size: Dim) -> Iterator[str]:
        """The numbers of a loop over (a slice of) a head's elements. Where turns are counted (wgsl/turns.py) and keys too many for one a turn, four: 64 elements a head leave room for 1,700 keys, not
        488. (Not always: it takes llvmpipe twice as long to compile, and as long to run.)"""
        keys, depth, width = self.k.dims[2], self.q.dims[3], self.v.dims[3]
        many = isinstance(keys, int) and isinstance(depth, int) and isinstance(width, int) and keys * (depth + min(COLUMNS, width) + 6) > LOOPS
        unit = 4 if self.context.counted and many and even(size) else 1
        with s.block(f"for (var {name} = 0; {name} < {end}; {name} += {unit})"):
            for j in range(unit):
                yield f"({name} + {j})" if j else name

    def online(self, s: Shader, score: str, m: str, total: str, p: str, factor: str) -> None:
        """One score enters: `p` its power, `factor` what was summed so far is multiplied with."""
        top = s.let(f"sx_max({m}, {score})", "f32")
        safe = s.let(f"select({top}, 0.0, {top} == {LOWEST})", "f32")
        s.add(f"let {factor} = sx_exp({m} - {safe});")
        s.add(f"let {p} = sx_exp({score} - {safe});")
        s.add(f"{m} = {top};")
        s.add(f"{total} = {total} * {factor} + {p};")

    def block(self) -> Built:
        """A workgroup: 16 queries of a head."""
        width, value_width = (-(-number(o.dims[3]) // 4) for o in (self.q, self.v))
        keys = 16 if max(width, value_width) * 4 <= 64 else 8
        own = -(-value_width // TEAM)                    # vec4s of the output an invocation holds
        s = Shader(self.context, LANES)
        blocks = ceildiv(self.q.dims[2], QUERIES)
        all_ = self.q.dims[0] * self.q.dims[1] * blocks
        s.add(f"if (group >= {s.param(all_)}) {{ return; }}")
        first = s.let(f"group % {s.param(blocks)} * {QUERIES}")
        at = self.heads(s, s.let(f"group / {s.param(blocks)}"))
        for name, quads in (("tile_q", QUERIES * width), ("tile_k", keys * max(width, value_width))):
            s.declare(f"var<workgroup> {name}: array<vec4<f32>, {quads}>;")
        s.declare(f"var<workgroup> scores: array<f32, {QUERIES * keys}>;")
        size, length = s.param(self.q.dims[2]), s.param(self.k.dims[2])
        with s.block(f"for (var e = lane; e < {QUERIES * width}; e += {LANES})"):
            row = s.let(f"{first} + e / {width}")
            s.add(f"tile_q[e] = {self.quad(s, self.q, at['q'], row, s.let(f'e % {width} * 4'), f'{row} < {size}')};")
        mine, part = s.let(f"lane / {TEAM}"), s.let(f"lane % {TEAM}")
        query = s.let(f"min({first} + {mine}, {size} - 1)")
        s.add(f"var o: array<vec4<f32>, {own}>;")
        s.add(f"for (var c = 0; c < {own}; c += 1) {{ o[c] = vec4<f32>(); }}")
        s.add(f"var m = {LOWEST};")
        s.add("var total = 0.0;")
        with s.block(f"for (var t0 = 0; t0 < {length}; t0 += {keys})"):
            s.add("workgroupBarrier();")
            self._tile(s, self.k, at["k"], width, keys, length)
            s.add("workgroupBarrier();")
            with s.block(f"for (var j = {part}; j < {keys}; j += {TEAM})"):
                s.add(f"var found = {LOWEST};")
                key = s.let("t0 + j")
                with s.block(f"if ({key} < {length})"), s.block(f"if ({self.seen(s, at, query, key)})"):
                    s.add("var d = 0.0;")
                    s.add(f"for (var c = 0; c < {width}; c += 1) {{ d += dot(tile_q[{mine} * {width} + c], tile_k[j * {width} + c]); }}")
                    s.add(f"found = {self.score(s, 'd', at, query, key)};")
                s.add(f"scores[{mine} * {keys} + j] = found;")
            s.add("workgroupBarrier();")
            self._tile(s, self.v, at["v"], value_width, keys, length)
            s.add("workgroupBarrier();")
            s.add("var top = m;")
            s.add(f"for (var j = 0; j < {keys}; j += 1) {{ top = sx_max(top, scores[{mine} * {keys} + j]); }}")
            s.add(f"let safe = select(top, 0.0, top == {LOWEST});")
            s.add("let factor = sx_exp(m - safe);")
            s.add("m = top;")
            s.add("total = total * factor;")
            s.add(f"for (var c = 0; c < {own}; c += 1) {{ o[c] = o[c] * factor; }}")
            with s.block(f"for (var j = 0; j < {keys}; j += 1)"), s.block(f"if ({self.counts(f'scores[{mine} * {keys} + j]')})"):
                s.add(f"let power = sx_exp(scores[{mine} * {keys} + j] - safe);")
                s.add("total += power;")
                with s.block(f"for (var c = 0; c < {own}; c += 1)"):
                    s.add(f"let place = c * {TEAM} + {part};")
                    s.add(f"if (place < {value_width}) {{ o[c] = fma(vec4<f32>(power), tile_k[j * {value_width} + place], o[c]); }}")
        with s.block(f"if ({first} + {mine} < {size})"), s.block(f"for (var c = 0; c < {own}; c += 1)"):
            column = s.let(f"(c * {TEAM} + {part}) * 4")
            for i in range(4):
                with s.block(f"if ({column} + {i} < {s.param(self.v.dims[3])})"):
                    self.store(s, at, query, s.let(f"{column} + {i}"), f"o[c][{i}]", "total")
        return s.dispatch(all_)

    def _tile(self, s: Shader, operand: Operand, base: str, width: int, keys: int, length: str) -> None:
        """Keys t0 … of K or V to workgroup memory."""
        with s.block(f"for (var e = lane; e < {keys * width}; e += {LANES})"):
            row = s.let(f"t0 + e / {width}")
            s.add(f"tile_k[e] = {self.quad(s, operand, base, row, s.let(f'e % {width} * 4'), f'{row} < {length}')};")

    def row(self) -> Built:
        """A workgroup: one query of a head."""
        width, values = number(self.q.dims[3]), number(self.v.dims[3])
        own = -(-values // LANES)
        s = Shader(self.context, LANES)
        all_ = self.q.dims[0] * self.q.dims[1] * self.q.dims[2]
        s.add(f"if (group >= {s.param(all_)}) {{ return; }}")
        query = s.let(f"group % {s.param(self.q.dims[2])}")
        at = self.heads(s, s.let(f"group / {s.param(self.q.dims[2])}"))
        s.declare(f"var<workgroup> tile_q: array<f32, {width}>;")
        s.declare(f"var<workgroup> scores: array<f32, {LANES}>;")
        start = s.let(f"{at['q']} + {query} * {s.size(self.q.strides[2])}")
        with s.block(f"for (var d = lane; d < {width}; d += {LANES})"):
            s.add(f"tile_q[d] = {s.load(self.q, s.let(f'{start} + d * {s.size(self.q.strides[3])}')).text};")
        s.add(f"var o: array<f32, {own}>;")
        s.add(f"for (var c = 0; c < {own}; c += 1) {{ o[c] = 0.0; }}")
        s.add(f"var m = {LOWEST};")
        s.add("var total = 0.0;")
        length = s.param(self.k.dims[2])
        with s.block(f"for (var t0 = 0; t0 < {length}; t0 += {LANES})"):
            s.add("workgroupBarrier();")
            s.add(f"var found = {LOWEST};")
            key = s.let("t0 + lane")
            with s.block(f"if ({key} < {length})"), s.block(f"if ({self.seen(s, at, query, key)})"):
                s.add("var d = 0.0;")
                place = s.let(f"{at['k']} + {key} * {s.size(self.k.strides[2])}")
                with s.block(f"for (var c = 0; c < {width}; c += 1)"):
                    s.add(f"d = fma(tile_q[c], {s.load(self.k, s.let(f'{place} + c * {s.size(self.k.strides[3])}')).text}, d);")
                s.add(f"found = {self.score(s, 'd', at, query, key)};")
            s.add("scores[lane] = found;")
            s.add("workgroupBarrier();")
            s.add(f"let last = min({LANES}, {length} - t0);")
            s.add(f"var top = {LOWEST};")
            s.add("for (var j = 0; j < last; j += 1) { top = sx_max(top, scores[j]); }")
            with s.block(f"if ({self.counts('top')})"):
                s.add("top = sx_max(top, m);")
                s.add(f"let safe = select(top, 0.0, top == {LOWEST});")
                s.add("let factor = sx_exp(m - safe);")
                s.add("m = top;")
                s.add("total = total * factor;")
                s.add(f"for (var c = 0; c < {own}; c += 1) {{ o[c] = o[c] * factor; }}")
                with s.block("for (var j = 0; j < last; j += 1)"), s.block(f"if ({self.counts('scores[j]')})"):
                    s.add("let power = sx_exp(scores[j] - safe);")
                    s.add("total += power;")
                    place = s.let(f"{at['v']} + (t0 + j) * {s.size(self.v.strides[2])}")
                    with s.block(f"for (var c = 0; c < {own}; c += 1)"):
                        column = s.let(f"c * {LANES} + lane")
                        with s.block(f"if ({column} < {values})"):
                            s.add(f"o[c] = fma(power, {s.load(self.v, s.let(f'{place} + {column} * {s.size(self.v.strides[3])}')).text}, o[c]);")
        with s.block(f"for (var c = 0; c < {own}; c += 1)"):
            column = s.let(f"c * {LANES} + lane")
            with s.block(f"if ({column} < {values})"):
                self.store(s, at, query, column, "o[c]", "total")
        return s.dispatch(all_)
