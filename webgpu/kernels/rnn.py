"""RNN: LSTM, GRU and RNN over time, the whole sequence in one dispatch.

A step of time needs all of the state before it, and only invocations of one workgroup can wait for each other: so a workgroup takes one sequence in one direction, its hidden state lies in
workgroup memory, and its invocations own hidden units (unit j is owned by invocation j mod 64, 128 or 256; its cell state stays in a register). Two barriers a step, three for GRU. The input's
share of the gates is a matrix product before it (gemm.py). What a step costs is reading R, once a sequence, by one processor of the GPU: so a constant R lies in panels of 16 units (recording.py), and
every read of neighbouring invocations is one stretch of memory (where a plain R lies they are rows apart). Where R is not known before, sequences longer than FEW_STEPS begin with a dispatch that
lays it out as vec4s of four terms with neighbouring units side by side.
This is the variant for software adapters too: between two barriers lie a row of multiplications a unit. Where they have subgroups, an LSTM's workgroup is one quad and needs no barrier (LSTM 100×256
on SwiftShader: 0.8 of the time, and compiled in half).

With an 8-bit R (DynamicQuantizeLSTM) the state of all sequences is quantised as one tensor at every step, so a workgroup takes a direction with all its sequences; states lie in memory.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from ...dim import Dim, product
from ...expr import leaf
from ...kernels import ACTIVATIONS, Kernel
from ...lowering import CannotLower
from ...model.packing import PANEL, Packing
from ...types import DType
from ..wgsl.expression import real, whole
from ..wgsl.shader import INDEX, Built, Context, Shader, TooManyBindings, each, groups
from ..wgsl.space import Operand, Temporary, dense, even
from ..wgsl.turns import LOOPS
from .base import Step, kernel, most
from .map import temporary_map
from .matmul import matmul
from .sides import as_sum

LSTM, GRU = 0, 1
GATES = (4, 3, 1)
#: Functions a direction has.
FUNCTIONS = (3, 2, 1)
#: The largest hidden state: two of them fill the 16 KiB of workgroup memory every device has.
WIDEST = 2048
#: Sequences up to this long read R where it lies.
FEW_STEPS = 4

#: Activations as WGSL of x, with alpha and beta.
_WGSL = {
    "Relu": "sx_max(x, 0.0)", "Tanh": "sx_tanh(x)", "Sigmoid": "sx_sigmoid(x)", "Affine": "{a} * x + {b}", "LeakyRelu": "select({a} * x, x, x >= 0.0)",
    "ThresholdedRelu": "select(0.0, x, x >= {a})", "ScaledTanh": "{a} * sx_tanh({b} * x)", "HardSigmoid": "sx_min(sx_max({a} * x + {b}, 0.0), 1.0)",
    "Elu": "select({a} * (sx_exp(sx_min(x, 0.0)) - 1.0), x, x >= 0.0)", "Softsign": "x / (1.0 + abs(x))", "Softplus": "sx_max(x, 0.0) + sx_log1p(sx_exp(-abs(x)))",
}


@kernel(Kernel.RNN)
def rnn(step: Step, context: Context) -> list[Built]:
    """See the RNN record."""
    x, w, cell = step.there(0), step.input(1), step.whole("cell")
    out = next(o for o in step.outputs if o is not None)
    hidden, directions = out.dims[-1], 2 if step.whole("direction") == 2 else 1
    if not isinstance(hidden, int) or hidden > WIDEST:
        raise CannotLower(f"a recurrence of {hidden} hidden units: its state has to fit workgroup memory, {WIDEST} units")
    built: list[Built] = []
    if hidden == 0:
        return built
    width = GATES[cell] * hidden
    if w is None:
        share = replace(x, dims=(x.dims[0], directions, x.dims[1], width), strides=(x.strides[0], x.strides[2] * width, x.strides[1], x.strides[2]))
    else:
        share = Temporary.operand(DType.FLOAT, (x.dims[0], directions, x.dims[1], width))
        left = replace(x, dims=(x.dims[0], 1, *x.dims[1:]), strides=(x.strides[0], 0, *x.strides[1:]))
        built += matmul(Step(Kernel.MATMUL, [left, w.pick([0, 2, 1])], [share], {"zero_a": -1, "zero_b": -1, "bits": 0}, None, [], 2, step.label), context)
    shape = (directions, x.dims[1], hidden)
    if step.input(8) is None:
        try:
            return [*built, *_Rnn(step, context, share, hidden, directions).floats()]
        except TooManyBindings:
            moved, step, _ = _together(step, context, 0)
            return [*built, *moved, *_Rnn(step, context, share, hidden, directions).floats()]
    moved, step, memory = _together(step, context, product(shape))
    states = Operand(memory[0], DType.FLOAT, shape, dense(shape))
    return [*built, *moved, _Rnn(step, context, share, hidden, directions).quantised(states, replace(states, buffer=memory[1], dtype=DType.INT32))]


def _together(step: Step, context: Context, states: Dim) -> tuple[list[Built], Step, list[Temporary]]:
    """The small operands copied into two buffers, floats and integers, for a dispatch may bind 8; before them room for two states in the former, one in the latter."""
    built: list[Built] = []
    inputs, made = list(step.inputs), []
    for dtype, room, numbers in ((DType.FLOAT, 2, (3, 5, 6, 7, 8)), (DType.INT32, 1, (4, 9))):
        there = {i: o for i in numbers if (o := step.input(i)) is not None}
        start: Dim = states * room
        memory = Temporary(dtype, [sum((product(o.dims) for o in there.values()), start)])
        made.append(memory)
        for i, operand in there.items():
            inputs[i] = target = Operand(memory, dtype, operand.dims, dense(operand.dims), start)
            built += temporary_map(leaf(0, operand.dtype), [operand], target, context, step.label)
            start = start + product(operand.dims)
    return built, replace(step, inputs=inputs), made


@dataclass
class _Rnn:
    """`share` [T, D, B, gates · H]: the input's share of the gates."""

    step: Step
    context: Context
    share: Operand
    hidden: int
    directions: int

    def __post_init__(self) -> None:
        self.cell = self.step.whole("cell")
        self.steps, self.batch = self.share.dims[0], self.share.dims[2]
        self.r, self.bias, self.lens, self.peephole = self.step.there(2), self.step.input(3), self.step.input(4), self.step.input(7)
        self.quads = -(-self.hidden // 4)
        self.packed: Temporary | None = None
        self.f: list[str] = []
        if self.bias is not None and self.bias.packing or self.r.packing and self.step.input(8) is None and self.r.packing != Packing.MATRICES_T:
            raise CannotLower("recurrence weights of floats that are packed as another's")

    # -- parts of shaders ------------------------------------------------------------------------------------------------------------------------
    def functions(self, s: Shader) -> None:
        """`f`: names of a direction's activation functions, one of those that are alike; `clip` bounds what enters all but an LSTM's last."""
        count = FUNCTIONS[self.cell]
        chosen: list[Any] = list(self.step.params["activations"])
        clip, known = self.step.params["clip"], dict[Any, str]()
        for i in range(count):
            bound, numbers = clip and not (self.cell == LSTM and i == 2), range(i, count * self.directions, count)
            kind = (bound, *((chosen[n], *(self.step.params[name][n] for name in ("alpha", "beta") if "{" in _WGSL[ACTIVATIONS[int(chosen[n])]])) for n in numbers))
            self.f.append(known.setdefault(kind, f"f{i}"))
            if self.f[i] != f"f{i}":
                continue
            with s.function(f"f{i}(value: f32, d: i32) -> f32"):
                limit = s.real(clip) if bound else ""
                s.add(f"let x = {f'sx_min(sx_max(value, -{limit}), {limit})' if limit else 'value'};")
                for d in range(self.directions):
                    text = _WGSL[ACTIVATIONS[int(chosen[d * count + i])]]
                    a, b = (s.real(self.step.params[name][d * count + i]) for name in ("alpha", "beta")) if "{" in text else ("", "")
                    s.add(f"{f'if (d == {d}) ' if d + 1 < self.directions else ''}{{ return {text.format(a=a, b=b)}; }}")

    def length(self, s: Shader, b: str) -> str:
        """Steps of a sequence."""
        if self.lens is None:
            return s.param(self.steps)
        found = s.load(self.lens, s.let(f"{s.size(self.lens.start)} + {b} * {s.size(self.lens.strides[0])}")).text
        s.fault(f"{found} < 0 || {found} > {s.param(self.steps)}", INDEX)
        return s.let(f"clamp({found}, 0, {s.param(self.steps)})")

    def time(self, s: Shader, n: str, length: str, d: str) -> str:
        """The position in time of step n."""
        return (n, s.let(f"{length} - 1 - {n}"), s.let(f"select({n}, {length} - 1 - {n}, {d} == 1)"))[self.step.whole("direction")]

    def place(self, s: Shader, operand: Operand, *at: str) -> str:
        """The offset of an element."""
        terms = "".join(f" + {where} * {s.size(stride)}" for where, stride in zip(at, operand.strides, strict=True) if where != "0")
        return s.let(s.size(operand.start) + terms)

    def start(self, s: Shader, number: int, d: str, b: str, j: str) -> str:
        """An element of the first state (5: hidden, 6: cell)."""
        given = self.step.input(number)
        return "0.0" if given is None else s.load(given, self.place(s, given, d, b, j)).text

    def entered(self, s: Shader, at: str, gate: int | str, j: str, d: str, *, state: bool = True) -> str:
        """What enters a gate besides the state's product: the input's share (its row begins at `at`) and the biases."""
        text = s.load(self.share, s.let(f"{at} + {self.row(gate, j)} * {s.size(self.share.strides[3])}")).text
        if self.bias is not None:
            for half in range(2 if state else 1):
                text = s.let(f"{text} + {self.state_bias(s, gate, j, d, half)}", "f32")
        return text

    def row(self, gate: int | str, j: str, half: int = 0) -> str:
        """The number of a gate's unit j among all; of the second half of the biases."""
        if isinstance(gate, str):
            return f"(({half * GATES[self.cell]} + {gate}) * {self.hidden} + {j})"
        return f"({(half * GATES[self.cell] + gate) * self.hidden} + {j})"

    def state_bias(self, s: Shader, gate: int | str, j: str, d: str, half: int = 1) -> str:
        """A gate's bias: of the input (half 0) or of the state."""
        if self.bias is None:
            return "0.0"
        return s.load(self.bias, self.place(s, self.bias, d, self.row(gate, j, half))).text

    def lstm(self, s: Shader, gates: Sequence[str], c: str, j: str, d: str) -> tuple[str, str]:
        """(h', c') from what enters i, o, f, c."""
        def peep(which: int, state: str) -> str:
            if self.peephole is None:
                return ""
            return f" + {s.load(self.peephole, self.place(s, self.peephole, d, f'({which * self.hidden} + {j})')).text} * {state}"
        i = s.let(f"{self.f[0]}({gates[0]}{peep(0, c)}, {d})", "f32")
        forget = s.let(f"1.0 - {i}" if self.step.whole("input_forget") else f"{self.f[0]}({gates[2]}{peep(2, c)}, {d})", "f32")
        new = s.let(f"{forget} * {c} + {i} * {self.f[1]}({gates[3]}, {d})", "f32")
        return s.let(f"{self.f[0]}({gates[1]}{peep(1, new)}, {d}) * {self.f[2]}({new}, {d})", "f32"), new

    def put(self, s: Shader, number: int, value: str, *at: str) -> None:
        """An element of an output, where it is wanted."""
        out = self.step.outputs[number] if number < len(self.step.outputs) else None
        if out is not None:
            s.write(out, self.place(s, out, *at), real(value))

    # -- floats ----------------------------------------------------------------------------------------------------------------------------------
    def floats(self) -> list[Built]:
        """A workgroup: one sequence in one direction."""
        if self.cell == LSTM and self.context.cpu and "subgroups" in self.context.features and self.r.packing and self.hidden % 4 == 0 and even(self.r.start) \
                and self.peephole is None and not self.step.whole("input_forget") and not (self.context.counted and self._turns() > LOOPS):
            return [self.quad()]
        packing = [] if self.r.packing else self.pack()
        hidden, lanes = self.hidden, next(n for n in (64, 128, 256) if n >= min(self.hidden, 256))
        own = -(-hidden // lanes)
        s = Shader(self.context, lanes)
        self.functions(s)
        count = self.batch * self.directions
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        b, d = s.let(f"group % {s.param(self.batch)}"), s.let(f"group / {s.param(self.batch)}")
        length = self.length(s, b)
        s.declare(f"var<workgroup> h: array<f32, {self.quads * 4}>;")
        # An invocation with one unit has no loop over them, and variables that drivers need not look up by number.
        one, whole = own == 1, own * lanes == hidden
        c, new_h = ("c", "new_h") if one else ("c[i]", "new_h[i]")
        for name in ("c", "new_h"):
            s.add(f"var {name}: {'f32' if one else f'array<f32, {own}>'};")
        if self.cell == GRU:
            s.declare(f"var<workgroup> reset: array<f32, {self.quads * 4}>;")
        for name in ("h", "reset") if self.cell == GRU else ("h",):
            for behind in range(hidden, self.quads * 4):
                s.add(f"if (lane == 0) {{ {name}[{behind}] = 0.0; }}")

        def units() -> Any:
            return s.block("" if one else f"for (var i = 0; i < {own}; i += 1)")

        def unit() -> tuple[str, Any]:
            j = "lane" if one else s.let(f"lane + i * {lanes}")
            return j, nullcontext() if whole else s.block(f"if ({j} < {hidden})")
        with units():
            j, inside = unit()
            with inside:
                s.add(f"h[{j}] = {self.start(s, 5, d, b, j)};")
                s.add(f"{c} = {self.start(s, 6, d, b, j)};")
        s.add("workgroupBarrier();")
        with s.block(f"for (var n = 0; n < {length}; n += 1)", turns=self.steps):
            t = self.time(s, "n", length, d)
            at = self.place(s, self.share, t, d, b, "0")
            if self.cell == GRU:
                self._gru(s, at, d, units, unit, c, new_h)
            else:
                with units():
                    j, inside = unit()
                    with inside:
                        gates = self.products(s, at, d, j, range(GATES[self.cell]))
                        if self.cell == LSTM:
                            h, new = self.lstm(s, gates, c, j, d)
                            s.add(f"{c} = {new};")
                        else:
                            h = f"{self.f[0]}({gates[0]}, {d})"
                        s.add(f"{new_h} = {h};")
            s.add("workgroupBarrier();")
            with units():
                j, inside = unit()
                with inside:
                    s.add(f"h[{j}] = {new_h};")
                    self.put(s, 0, new_h, t, d, b, j)
            s.add("workgroupBarrier();")
        with units():
            j, inside = unit()
            with inside:
                self.put(s, 1, f"h[{j}]", d, b, j)
                self.put(s, 2, c, d, b, j)
                if self.lens is not None:
                    with s.block(f"for (var n = {length}; n < {s.param(self.steps)}; n += 1)", turns=self.steps):
                        self.put(s, 0, "0.0", "n", d, b, j)
        return [*packing, s.dispatch(count)]

    def _turns(self) -> float:
        """Turns of an invocation's loops in `quad`."""
        quads = self.hidden // 4
        return (most(self.context, self.steps) + 2) * (quads * (quads + 8) + 2) + (0 if self.lens is None else (most(self.context, self.steps) + 1) * (quads + 2))

    def quad(self) -> Built:
        """An LSTM whose workgroup is one quad: an invocation a gate, which adds up four units at once, and then each of the four finishes one of them. States are in the invocations' own memory
        (unit j's in that of j mod 4) and passed on by quadBroadcast. Activation functions stand in a loop over what is given to them: every call is one more copy of their text to compile."""
        quads = self.hidden // 4
        s = Shader(self.context, 4)
        s.subgroups = s.numbered = True
        self.functions(s)
        turns = [self.f[k] for k in (0, 0, 1, 0, 2)]  # i, f, c, o, and the new cell state
        with s.function("activated(x: f32, turn: i32, d: i32) -> f32"):
            for name in dict.fromkeys(turns[2:]):
                if name != turns[0]:
                    s.add(f"if ({' || '.join(f'turn == {t}' for t, other in enumerate(turns) if other == name)}) {{ return {name}(x, d); }}")
            s.add(f"return {turns[0]}(x, d);")
        count = self.batch * self.directions
        s.add(f"if (group >= {s.param(count)}) {{ return; }}")
        b, d, part = s.let(f"group % {s.param(self.batch)}"), s.let(f"group / {s.param(self.batch)}"), s.let("i32(sub & 3u)")
        length = self.length(s, b)
        s.add(f"var h: array<f32, {2 * quads}>;")  # of this step of time and of the next, in turns
        s.add(f"var c: array<f32, {quads}>;")

        def units() -> Any:
            return s.block(f"for (var u = 0; u < {quads}; u += 1)")
        with units():
            j = s.let(f"u * 4 + {part}")
            s.add(f"h[u] = {self.start(s, 5, d, b, j)};")
            s.add(f"c[u] = {self.start(s, 6, d, b, j)};")
        with s.block(f"for (var n = 0; n < {length}; n += 1)", turns=self.steps):
            t = self.time(s, "n", length, d)
            at = self.place(s, self.share, t, d, b, "0")
            now = s.let(f"(n & 1) * {quads}")
            with units():
                self._gates(s, part, d, now)
                j = s.let(f"u * 4 + {part}")
                with s.block("for (var turn = 0; turn < 5; turn += 1)"):
                    s.add("var x = g[turn];")
                    with s.block("if (turn < 4)"):
                        gate = s.let("(0x78 >> u32(turn * 2)) & 3")  # 0, 2, 3, 1
                        s.add(f"x += {self.entered(s, at, gate, j, d)};")
                    with s.block("else"):
                        s.add("x = g[1] * c[u] + g[0] * g[2];")
                        s.add("c[u] = x;")
                    s.add(f"g[turn] = activated(x, turn, {d});")
                new_h = s.let("g[3] * g[4]", "f32")
                s.add(f"h[{quads} - {now} + u] = {new_h};")
                self.put(s, 0, new_h, t, d, b, j)
        with units():
            j = s.let(f"u * 4 + {part}")
            self.put(s, 1, f"h[({length} & 1) * {quads} + u]", d, b, j)
            self.put(s, 2, "c[u]", d, b, j)
        if self.lens is not None:
            with s.block(f"for (var n = {length}; n < {s.param(self.steps)}; n += 1)", turns=self.steps), units():
                self.put(s, 0, "0.0", "n", d, b, s.let(f"u * 4 + {part}"))
        return s.dispatch(count)

    def _gates(self, s: Shader, part: str, d: str, now: str) -> None:
        """`g`: R's products with the state for the invocation's unit of the four `u`, in the order i, f, c, o."""
        cell, panels, number = "f16" if self.r.half else "f32", -(-4 * self.hidden // PANEL), s.let(f"{part} * {self.hidden} + u * 4")
        name = s.binding(self.r.buffer, f"vec4<{cell}>")
        base = s.let(f"({s.size(self.r.start)} + ({d} * {panels} + ({number} >> 4u)) * {self.hidden * PANEL} + ({number} & {PANEL - 1})) >> 2u")
        s.add("var sum = vec4<f32>();")
        with s.block(f"for (var k = 0; k < {self.hidden // 4}; k += 1)"):
            x, row = s.let(f"h[{now} + k]", "f32"), s.let(f"{base} + k * {PANEL}")
            for c in range(4):
                s.add(f"sum = fma(vec4<f32>(quadBroadcast({x}, {c}u)), vec4<f32>({name}[{row} + {c * PANEL // 4}]), sum);")
        s.add("var g: array<f32, 5>;")
        for turn, gate in enumerate((0, 2, 3, 1)):
            s.add(f"g[{turn}] = quadBroadcast(sum, {gate}u)[{part}];")

    def products(self, s: Shader, at: str, d: str, j: str, gates: Sequence[int], source: str = "h", *, entered: bool = True) -> list[str]:
        """What enters the gates of unit j: variables."""
        names, rows = [], []
        for g in gates:
            names.append(s.name("g"))
            s.add(f"var {names[-1]}: f32 = {self.entered(s, at, g, j, d) if entered else '0.0'};")
            rows.append(self.column(s, d, g, j) if self.r.packing else self.weights(s, d, g, j))
        if self.r.packing:
            step = next(n for n in (4, 2, 1) if self.hidden % n == 0)  # turns of the loop cost: four numbers a turn take 0.8 of the time of one a turn on SwiftShader
            with s.block(f"for (var k = 0; k < {self.hidden}; k += {step})"):
                for ahead in range(step):
                    k = f"(k + {ahead})"
                    x = s.let(f"{source}[{k}]", "f32")
                    for name, row in zip(names, rows, strict=True):
                        s.add(f"{name} = fma({x}, {row(k)}, {name});")
            return names
        with s.block(f"for (var q = 0; q < {self.quads}; q += 1)"):
            s.add(f"let x = vec4<f32>({', '.join(f'{source}[q * 4 + {c}]' for c in range(4))});")
            for name, row in zip(names, rows, strict=True):
                s.add(f"{name} += dot(x, {row('q')});")
        return names

    def column(self, s: Shader, d: str, gate: int, j: str) -> Callable[[str], str]:
        """Unit j's row of R in panels [directions, gates · H / 16, H, 16], by its number there."""
        panels, number = -(-GATES[self.cell] * self.hidden // PANEL), s.let(f"{gate * self.hidden} + {j}")
        base = s.let(f"{s.size(self.r.start)} + ({d} * {panels} + ({number} >> 4u)) * {self.hidden * PANEL} + ({number} & {PANEL - 1})")
        return lambda k: s.load(self.r, s.let(f"{base} + {k} * {PANEL}")).text

    def weights(self, s: Shader, d: str, gate: int, j: str) -> Callable[[str], str]:
        """Four neighbours of unit j's row of R, by their number; 0 behind the last."""
        if self.packed is not None:
            base = s.let(f"({d} * {GATES[self.cell]} + {gate}) * {self.quads * self.hidden} + {j}")
            return lambda q: f"{s.binding(self.packed, 'vec4<f32>')}[{base} + {q} * {self.hidden}]"
        row = self.place(s, self.r, d, f"({gate * self.hidden} + {j})", "0")
        return lambda q: self.four(s, row, q)

    def four(self, s: Shader, row: str, q: str) -> str:
        """The same from where R lies."""
        found = []
        for c in range(4):
            k = s.let(f"{q} * 4 + {c}")
            if c == 0 or self.hidden % 4 == 0:
                found.append(s.load(self.r, s.let(f"{row} + {k} * {s.size(self.r.strides[2])}")).text)
            else:
                there = s.load(self.r, s.let(f"{row} + min({k}, {self.hidden - 1}) * {s.size(self.r.strides[2])}")).text
                found.append(f"select(0.0, {there}, {k} < {self.hidden})")
        return s.let(f"vec4<f32>({', '.join(found)})", "vec4<f32>")

    def pack(self) -> list[Built]:
        """R as vec4s [directions, gates, H / 4, H]: neighbouring units, which neighbouring invocations own, side by side."""
        if most(self.context, self.steps) <= FEW_STEPS:
            return []
        gates, quads, hidden = GATES[self.cell], self.quads, self.hidden
        self.packed = Temporary(DType.FLOAT, (self.directions, gates, quads, hidden, 4))
        s, count = Shader(self.context), self.directions * gates * quads * hidden
        item = each(s, count)
        j, q, row = s.let(f"{item} % {hidden}"), s.let(f"{item} / {hidden} % {quads}"), s.let(f"{item} / {hidden * quads}")
        at = self.place(s, self.r, f"({row} / {gates})", f"({row} % {gates} * {hidden} + {j})", "0")
        s.add(f"{s.binding(self.packed, 'vec4<f32>', True)}[{item}] = {self.four(s, at, q)};")
        return [s.dispatch(groups(s, count))]

    def _gru(self, s: Shader, at: str, d: str, units: Any, unit: Any, z: str, new_h: str) -> None:
        """z and r, then the candidate from r · h, or from r times h's product (`linear_before_reset`)."""
        late = bool(self.step.whole("linear_before_reset"))
        with units():
            j, inside = unit()
            with inside:
                gates = self.products(s, at, d, j, (0, 1))
                s.add(f"{z} = {self.f[0]}({gates[0]}, {d});")
                s.add(f"reset[{j}] = {self.f[0]}({gates[1]}, {d}){'' if late else f' * h[{j}]'};")
        s.add("workgroupBarrier();")
        with units():
            j, inside = unit()
            with inside:
                if late:
                    found = self.products(s, at, d, j, (2,), entered=False)[0]
                    entered = f"{self.entered(s, at, 2, j, d, state=False)} + reset[{j}] * ({found} + {self.state_bias(s, 2, j, d)})"
                else:
                    entered = self.products(s, at, d, j, (2,), "reset")[0]
                s.add(f"{new_h} = (1.0 - {z}) * {self.f[1]}({entered}, {d}) + {z} * h[{j}];")

    # -- 8-bit states ----------------------------------------------------------------------------------------------------------------------------
    def quantised(self, h: Operand, q: Operand) -> Built:
        """A workgroup: a direction. LSTM only, as the record says. `h`: memory of the hidden states, the cell states come after them; `q`: of the quantised ones."""
        hidden, lanes = self.hidden, 256
        padded = -(-hidden // 16) * 16
        scales, zeros = self.step.there(8), self.step.input(9)
        s = Shader(self.context, lanes)
        self.functions(s)
        s.add(f"if (group >= {self.directions}) {{ return; }}")
        d = "group"
        count: Dim = self.batch * hidden
        c = replace(h, start=product(h.dims))
        base = s.let(f"{d} * {s.param(count)}")
        for name in ("low", "high"):
            s.declare(f"var<workgroup> {name}: array<f32, {lanes}>;")

        def items(run: str = "lane") -> Any:
            return s.block(f"for (var e = {run}; e < {s.param(count)}; e += {lanes})")

        def wait() -> None:
            s.add("storageBarrier();")
            s.add("workgroupBarrier();")
        with items():
            b, j, second = s.let(f"e / {hidden}"), s.let(f"e % {hidden}"), s.let(f"{base} + {s.param(c.start)} + e")
            s.write(h, f"{base} + e", real(self.start(s, 5, d, b, j)))
            s.write(c, second, real(self.start(s, 6, d, b, j)))
        wait()
        with s.block(f"for (var n = 0; n < {s.param(self.steps)}; n += 1)"):
            s.add("var least = 0.0;")
            s.add("var most = 0.0;")
            with items():
                v = s.load(h, f"{base} + e").text
                s.add(f"least = sx_min(least, {v});")
                s.add(f"most = sx_max(most, {v});")
            s.add("low[lane] = least;")
            s.add("high[lane] = most;")
            s.add("workgroupBarrier();")
            with s.block(f"for (var k = {lanes // 2}; k > 0; k = k / 2)"):
                with s.block("if (lane < k)"):
                    s.add("low[lane] = sx_min(low[lane], low[lane + k]);")
                    s.add("high[lane] = sx_max(high[lane], high[lane + k]);")
                s.add("workgroupBarrier();")
            s.add("let scale = select(1.0, (high[0] - low[0]) / 255.0, high[0] > low[0]);")
            s.add("let zero = clamp(round(-low[0] / scale), 0.0, 255.0);")
            with items():
                v = s.load(h, f"{base} + e").text
                s.write(q, f"{base} + e", whole(s.let(f"i32(clamp(round({v} / scale) + zero, 0.0, 255.0)) - i32(zero)")))
            wait()
            with items():
                self._unit(s, d, base, h, c, q, padded, scales, zeros)
            wait()
        with items():
            b, j, second = s.let(f"e / {hidden}"), s.let(f"e % {hidden}"), s.let(f"{base} + {s.param(c.start)} + e")
            self.put(s, 1, s.load(h, f"{base} + e").text, d, b, j)
            self.put(s, 2, s.load(c, second).text, d, b, j)
        return s.dispatch(self.directions)

    def _unit(self, s: Shader, d: str, base: str, h: Operand, c: Operand, q: Operand, padded: int, scales: Operand, zeros: Operand | None) -> None:
        """One hidden unit of one sequence, one step further."""
        hidden = self.hidden
        b, j, second = s.let(f"e / {hidden}"), s.let(f"e % {hidden}"), s.let(f"{base} + {s.param(c.start)} + e")
        length = self.length(s, b)
        with s.block(f"if (n >= {length})"):
            self.put(s, 0, "0.0", "n", d, b, j)
            s.add("continue;")
        t = self.time(s, "n", length, d)
        at = self.place(s, self.share, t, d, b, "0")
        names, columns, zero = [], [], []
        for g in range(4):
            names.append(s.name("g"))
            s.add(f"var {names[-1]} = 0;")
            columns.append(s.let(f"{d} * {4 * padded} + {g * padded} + {j}"))
            zero.append("0" if zeros is None else as_sum(s, s.load(zeros, self.place(s, zeros, columns[-1]))))
        row = s.let(f"{base} + {b} * {hidden}")
        with s.block(f"for (var k = 0; k < {hidden}; k += 1)"):
            v = s.load(q, f"{row} + k").text
            for g in range(4):
                s.add(f"{names[g]} += {v} * ({as_sum(s, s.load(self.r, self.weight(s, columns[g])))} - {zero[g]});")
        gates = []
        for g in range(4):
            factor = s.load(scales, self.place(s, scales, columns[g])).text
            gates.append(s.let(f"{self.entered(s, at, g, j, d)} + f32({names[g]}) * (scale * {factor})", "f32"))
        new_h, new_c = self.lstm(s, gates, s.load(c, second).text, j, d)
        s.write(h, f"{base} + e", real(new_h))
        s.write(c, second, real(new_c))
        self.put(s, 0, new_h, t, d, b, j)

    def weight(self, s: Shader, column: str) -> str:
        """The offset of R's element (k, column): packed (core/model/packing.py, MATRIX of bytes) or plain [H, columns]."""
        if self.r.packing:
            panel = -(-self.hidden // 4) * 64
            return s.let(f"{s.size(self.r.start)} + ({column} >> 4u) * {panel} + (k >> 2u) * 64 + ({column} & 15) * 4 + (k & 3)")
        return self.place(s, self.r, "k", column)

