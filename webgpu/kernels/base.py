"""What a kernel is built from: a `Step` (operands, parameters, expressions), be it from a stored program or from the planner's kernel calls; and the table of kernels."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...dim import Dim, Expr, bounds, symbols
from ...expr import Compute, E, Op, compute_type, leaves, substitute
from ...kernels import Kernel
from ...lowering import CannotLower
from ...model.packing import Packing
from ..wgsl.expression import Emitter, Value, whole
from ..wgsl.shader import INDEX, Built, Context, Shader
from ..wgsl.space import Operand, Space, broadcast


@dataclass
class Step:
    """One kernel call. Parameters are Dims, floats, or lists of them; `epilogue` as in `KernelCall`."""

    kind: Kernel
    inputs: list[Operand | None]
    outputs: list[Operand | None]
    params: dict[str, Any] = field(default_factory=dict)
    prologue: E | None = None
    epilogue: list[E] = field(default_factory=list)
    first: int = 0                 # the operand number of the expressions' leaf 0
    label: str = ""

    def input(self, i: int) -> Operand | None:
        """Operand i; None where absent."""
        return self.inputs[i] if i < len(self.inputs) else None

    def there(self, i: int) -> Operand:
        """Operand i, which must be there."""
        found = self.input(i)
        assert found is not None
        return found

    def output(self, i: int = 0) -> Operand:
        """Output i, which must be there."""
        found = self.outputs[i]
        assert found is not None
        return found

    def whole(self, name: str) -> int:
        """A parameter that must be a number when the step is built."""
        value = self.params[name]
        if isinstance(value, Expr):
            raise CannotLower(f"'{name}' is {value}, which only the run knows")
        return int(value)


#: The largest size: 2^31 - 1.
LARGEST = (1 << 31) - 1


def number(size: Dim) -> int:
    """A size that must be a number when the step is built."""
    if isinstance(size, Expr):
        raise CannotLower(f"a size is {size}, which only the run knows")
    return int(size)


#: Packings (core/model/packing.py) that MatMul and Conv read.
READ = frozenset({Packing.NONE, Packing.MATRIX, Packing.MATRIX_T, Packing.CONV, Packing.DEPTHWISE, Packing.NIBBLES, Packing.SCALES})
KERNELS: dict[Kernel, Callable[[Step, Context], list[Built]]] = {}


def kernel(kind: Kernel) -> Callable[[Callable[[Step, Context], list[Built]]], Callable[[Step, Context], list[Built]]]:
    """Decorator: the function builds the dispatches of this kind."""
    def register(function: Callable[[Step, Context], list[Built]]) -> Callable[[Step, Context], list[Built]]:
        KERNELS[kind] = function
        return function
    return register


def build(step: Step, context: Context) -> list[Built]:
    """The dispatches of a step, in order. CannotLower says why there are none."""
    found = KERNELS.get(step.kind)
    if found is None:
        raise CannotLower(f"there is no WGSL for {step.kind.name.lower()} kernels")
    for operand in (*step.inputs, *step.outputs):
        if operand is not None and operand.packing not in READ and (step.kind, operand.packing) != (Kernel.RNN, Packing.MATRICES_T):
            raise CannotLower(f"weights of packing {operand.packing} are not read by this version's WGSL")
    context.label = f"{step.kind.name.lower()} of {step.label}"
    return found(step, context)


# -- expressions in kernels ------------------------------------------------------------------------------------------------------------------------

def elements(operands: Sequence[Operand | None], roots: Sequence[E], first: int) -> tuple[list[int], list[int]]:
    """Operand numbers that expressions read position by position, and those they load from by index."""
    by_position: dict[int, None] = {}
    by_index: dict[int, None] = {}

    def note(node: E) -> None:
        if node.op in (Op.LEAF, Op.LOAD):
            (by_position if node.op is Op.LEAF else by_index)[first + node.data] = None
    for root in roots:
        substitute(root, note)
        assert leaves(root) is not None
    return list(by_position), list(by_index)


def coordinates_used(roots: Sequence[E]) -> set[int]:
    """Axes whose coordinates expressions ask for."""
    found: set[int] = set()
    for root in roots:
        substitute(root, lambda node: found.add(node.data) if node.op is Op.COORD else None)
    return found


def strides_of(operands: Sequence[Operand | None], numbers: Sequence[int], dims: Sequence[Dim]) -> list[tuple[Dim, ...]]:
    """Strides of the numbered operands in a space of `dims`."""
    out = []
    for i in numbers:
        operand = operands[i]
        assert operand is not None
        out.append(broadcast(operand, dims))
    return out


def most(context: Context, size: Dim) -> float:
    """An upper bound of a size. Sizes are i32 on the GPU (bind refuses others), so there is always one."""
    high = bounds(size, context.uppers)[1]
    return float(min(LARGEST if high is None else high, context.caps.get(size, LARGEST)))


def least(context: Context, size: Dim, one: bool = False) -> float:
    """A lower bound of a size; `one`: where no symbol is 0."""
    low = bounds(size, {s.name: (max(1, context.uppers.get(s.name, (0, None))[0]), context.uppers.get(s.name, (0, None))[1]) for s in symbols(size)} if one else context.uppers)[0]
    return 0.0 if low is None else float(low)


def repeated(value: Value, count: float) -> tuple[float, float]:
    """Where the sum of up to `count` such integers lies."""
    return (value.low * count if value.low < 0 else 0), (value.high * count if value.high > 0 else 0)


def emitter(shader: Shader, step: Step, offsets: dict[int, str], coordinate: Callable[[int], str], dims: Sequence[Dim], acc: Value | None = None, first: int | None = None) -> Emitter:
    """An Emitter in a kernel: `offsets[i]` is where operand i's element at this position lies; `coordinate(axis)` the text of a coordinate."""
    cache: dict[int, Value] = {}
    first = step.first if first is None else first

    def leaf(i: int) -> Value:
        if i not in cache:
            cache[i] = shader.load(step.there(first + i), offsets[first + i])
        return cache[i]

    def coord(axis: int) -> Value:
        return whole(coordinate(axis), 0, min(max(most(shader.context, dims[axis]) - 1, 0), (1 << 31) - 1))

    def load(i: int, position: Value) -> Value:
        operand = step.there(first + i)
        if not operand.is_dense:
            raise CannotLower("loads by index from memory that is not row-major")
        count: Dim = 1
        for d in operand.dims:
            count = count * d
        shader.fault(f"{position.text} < 0 || {position.text} >= {shader.size(count)}", INDEX)
        at = shader.let(f"{shader.size(operand.start)} + clamp({position.text}, 0, max({shader.size(count)} - 1, 0))")
        return shader.load(operand, at)

    return Emitter(shader.let, leaf, coord, load, shader.fault, acc)


def compute_rep(operand: Operand) -> str:
    """The WGSL type an operand's compute type has in registers: f32 or i32 (64-bit integers as their low bits)."""
    kind = compute_type(operand.dtype)
    if kind is Compute.F64:
        raise CannotLower("WGSL has no double")
    return "f32" if kind is Compute.F32 else "i32"


def offsets_in(shader: Shader, space: Space, operands: Sequence[Operand], at: Sequence[str], bases: Sequence[str] | None = None) -> list[str]:
    """Named offsets of operands at a position; `bases` instead of their starts."""
    return [shader.let(shader.offset(space, i, at, bases[i] if bases is not None else shader.start(o))) for i, o in enumerate(operands)]
