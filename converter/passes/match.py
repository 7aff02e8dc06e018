"""Patterns over a graph: how a recogniser says what it looks for.

A pattern is an expression over a value, read from the value towards the inputs of the graph:

    x = Input("x")
    Product(Number(0.5), x, Total(Number(1.0), Op("Erf", Product(Number(0.7071), x))))

`Input(name)` binds any value, the same one wherever the name occurs; `Number` a one-element constant; `Constant(name)` any constant; `Op` a node by operator and
inputs (commutative ones in either order); `Product` and `Total` the factors and summands of nested Mul/Div/Pow and Add/Sub in any order and association;
`OneOf` tries alternatives. `pattern.find(value, Match())` yields every way to match. `Recogniser` is the pass that applies rules (pattern, build) to each node whose
operator a rule starts with; a match counts only if nothing outside it uses what is computed inside.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sardonyx.graph import Graph, Model, Node, Value, merge_origins
from sardonyx.types import DType

from .base import Pass, producer, scalar_of

_COMMUTATIVE = ("Add", "Mul", "Max", "Min")
_HALF = (DType.FLOAT16, DType.BFLOAT16)


@dataclass(frozen=True)
class Match:
    """What was bound so far: names to Values, Nodes and floats; the nodes inside."""

    bound: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def get(self, name: str) -> Any:
        """What is bound to the name, None where the alternative taken has no such name."""
        return self.bound.get(name)

    def bind(self, name: str, value: Any) -> Match | None:
        """With the name bound; None where it is bound to something else."""
        if not name:
            return self
        if name in self.bound:
            same = self.bound[name] is value or (isinstance(value, float) and self.bound[name] == value)
            return self if same else None
        return Match({**self.bound, name: value}, self.nodes)

    def holding(self, *nodes: Node) -> Match:
        """With the nodes inside."""
        return Match(self.bound, self.nodes + tuple(n for n in nodes if n not in self.nodes))


class Pattern:
    """An expression that values may match."""

    #: Operators a matching value's producer may be; None: any value.
    roots: tuple[str, ...] | None = None

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        """Every way the value matches, given what is bound."""
        raise NotImplementedError


@dataclass(frozen=True)
class Input(Pattern):
    """Any value, bound to the name."""

    name: str

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        found = match.bind(self.name, value)
        if found is not None:
            yield found


@dataclass(frozen=True)
class Constant(Pattern):
    """A constant of any size, bound to the name."""

    name: str

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        if value.const is not None:
            yield from Input(self.name).find(value, match)


@dataclass(frozen=True)
class Number(Pattern):
    """A one-element constant: equal to `value` within the rounding of its type, or bound to the name."""

    value: float | None = None
    name: str = ""

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        given = scalar_of(value)
        if given is not None and value.const is not None:
            yield from self.accept(given, value.const.dtype in _HALF, match)

    def accept(self, given: float, half: bool, match: Match) -> Iterator[Match]:
        """Match a number that was computed."""
        if self.value is not None and not abs(given - self.value) <= (4e-3 if half else 2e-6) * abs(self.value):
            return
        found = match.bind(self.name, given)
        if found is not None:
            yield found


class Op(Pattern):
    """A node of one of the operators ("Sqrt", or "Sigmoid|Tanh") whose present inputs match; `name` binds the Node, `where` must hold of it."""

    def __init__(self, types: str, *inputs: Pattern, name: str = "", where: Callable[[Node], bool] = lambda node: True) -> None:
        self.roots = tuple(types.split("|"))
        self.inputs, self.name, self.where = inputs, name, where

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        node = producer(value, *(self.roots or ()))
        if node is None or len([v for v in node.inputs if v is not None]) != len(self.inputs) or not self.where(node):
            return
        named = match.holding(node).bind(self.name, node)
        if named is None:
            return
        given = [v for v in node.inputs if v is not None]
        yield from _find_all(self.inputs, given, named)
        if node.op_type in _COMMUTATIVE and len(given) == 2:
            yield from _find_all(self.inputs, given[::-1], named)


def _find_all(patterns: Sequence[Pattern], values: Sequence[Value], match: Match) -> Iterator[Match]:
    if not patterns:
        yield match
        return
    for found in patterns[0].find(values[0], match):
        yield from _find_all(patterns[1:], values[1:], found)


class OneOf(Pattern):
    """The first alternatives first."""

    def __init__(self, *patterns: Pattern) -> None:
        self.patterns = patterns
        if all(p.roots is not None for p in patterns):
            self.roots = tuple(r for p in patterns for r in p.roots or ())

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        for pattern in self.patterns:
            yield from pattern.find(value, match)


class _Chain(Pattern):
    """Operands of nested nodes of one kind, in any order, with the constants gathered into one number."""

    neutral = 1.0

    def __init__(self, *operands: Pattern) -> None:
        numbers = [p for p in operands if isinstance(p, Number)]
        self.number = numbers[0] if numbers else Number(self.neutral)
        self.operands = [p for p in operands if not isinstance(p, Number)]

    def find(self, value: Value, match: Match) -> Iterator[Match]:
        nodes: list[Node] = []
        numbers: list[Value] = []
        leaves: list[Value] = []
        total = self.gather(value, nodes, numbers, leaves, len(self.operands))
        if not nodes or len(leaves) != len(self.operands):
            return
        half = any(v.const is not None and v.const.dtype in _HALF for v in numbers)
        for found in self.number.accept(total, half, match.holding(*nodes)):
            yield from _find_any_order(self.operands, leaves, found)

    def gather(self, value: Value, nodes: list[Node], numbers: list[Value], leaves: list[Value], limit: int) -> float:
        """Split a value into leaves and a number; appends to the lists."""
        raise NotImplementedError

    def inner(self, value: Value, nodes: list[Node], *names: str) -> Node | None:
        """The node to look into: the outermost, or one whose value is used here only."""
        return producer(value, *names) if not nodes or len(value.uses) == 1 else None


def _find_any_order(patterns: Sequence[Pattern], values: Sequence[Value], match: Match) -> Iterator[Match]:
    if not patterns:
        yield match
        return
    for i, value in enumerate(values):
        for found in patterns[0].find(value, match):
            yield from _find_any_order(patterns[1:], [*values[:i], *values[i + 1:]], found)


class Product(_Chain):
    """Factors: Mul, Div by a number, Neg, and Pow by 2 or 3."""

    roots = ("Mul", "Div", "Pow", "Neg")

    def gather(self, value: Value, nodes: list[Node], numbers: list[Value], leaves: list[Value], limit: int) -> float:
        number = scalar_of(value)
        if number is not None:
            numbers.append(value)
            return number
        node = self.inner(value, nodes, "Mul", "Neg") or self._divided(value, nodes) or self._powered(value, nodes)
        if node is None or len(leaves) > limit:
            leaves.append(value)
            return 1.0
        nodes.append(node)
        first, second = node.inputs[0], node.inputs[-1]
        assert first is not None and second is not None
        if node.op_type == "Neg":
            return -self.gather(first, nodes, numbers, leaves, limit)
        if node.op_type == "Pow":
            exponent = int(scalar_of(second) or 0)
            leaves.extend([first] * exponent)
            return 1.0
        if node.op_type == "Div":
            numbers.append(second)
            return self.gather(first, nodes, numbers, leaves, limit) / (scalar_of(second) or 1.0)
        return self.gather(first, nodes, numbers, leaves, limit) * self.gather(second, nodes, numbers, leaves, limit)

    def _divided(self, value: Value, nodes: list[Node]) -> Node | None:
        node = self.inner(value, nodes, "Div")
        return node if node is not None and scalar_of(node.inputs[1]) not in (None, 0.0) else None

    def _powered(self, value: Value, nodes: list[Node]) -> Node | None:
        node = self.inner(value, nodes, "Pow")
        return node if node is not None and scalar_of(node.inputs[1]) in (2.0, 3.0) else None


class Total(_Chain):
    """Summands: Add, and Sub of a number."""

    neutral = 0.0
    roots = ("Add", "Sub")

    def gather(self, value: Value, nodes: list[Node], numbers: list[Value], leaves: list[Value], limit: int) -> float:
        number = scalar_of(value)
        if number is not None:
            numbers.append(value)
            return number
        node = self.inner(value, nodes, "Add", "Sub")
        if node is None or len(leaves) > limit or (node.op_type == "Sub" and scalar_of(node.inputs[1]) is None):
            leaves.append(value)
            return 0.0
        nodes.append(node)
        first, second = node.inputs
        assert first is not None and second is not None
        if node.op_type == "Sub":
            numbers.append(second)
            return self.gather(first, nodes, numbers, leaves, limit) - (scalar_of(second) or 0.0)
        return self.gather(first, nodes, numbers, leaves, limit) + self.gather(second, nodes, numbers, leaves, limit)


@dataclass(frozen=True)
class Rule:
    """What to look for, and what makes the replacement: build(graph, root node, match) → the new value, or None to decline."""

    pattern: Pattern
    build: Callable[[Graph, Node, Match], Value | None]


class Recogniser(Pass):
    """Applies `rules()` to every node, producers first; the first match that is closed and that `build` accepts is taken."""

    def rules(self) -> list[Rule]:
        """The rules, most specific first."""
        raise NotImplementedError

    def run(self, model: Model) -> int:
        by_root: dict[str, list[Rule]] = {}
        for rule in self.rules():
            assert rule.pattern.roots is not None, "a rule must start with operators"
            for name in dict.fromkeys(rule.pattern.roots):
                by_root.setdefault(name, []).append(rule)
        return sum(self._sweep(graph, by_root) for graph in model.graph.graphs())

    def _sweep(self, graph: Graph, by_root: dict[str, list[Rule]]) -> int:
        count = 0
        for node in list(graph.nodes):
            if not node.domain and any(self._apply(graph, node, rule) for rule in by_root.get(node.op_type, ())):
                count += 1
        return count

    def _apply(self, graph: Graph, root: Node, rule: Rule) -> bool:
        result = root.outputs[0]
        if result is None or not (result.uses or result in self.outputs):
            return False
        for match in rule.pattern.find(result, Match()):
            if not self._closed(root, match):
                continue
            made = rule.build(graph, root, match)
            if made is not None:
                self.replace(graph, result, made)
                self.prune(graph, root)
                return True
        return False

    def _closed(self, root: Node, match: Match) -> bool:
        """Whether the values computed inside, the root's apart, are used inside only."""
        inside = set(match.nodes)
        for node in match.nodes:
            for value in node.outputs if node is not root else node.outputs[1:]:
                if value is not None and (value in self.outputs or any(user not in inside for user, _ in value.uses)):
                    return False
        return True

    def origin(self, match: Match) -> tuple[str, ...]:
        """The origins of all nodes inside, in the graph's direction."""
        return merge_origins(reversed(match.nodes))

    def same_kind(self, a: Value, b: Value) -> bool:
        """Whether two values certainly have one element type and one shape."""
        x, y = self.spec(a), self.spec(b)
        return x.dtype is not None and x.dtype == y.dtype and x.shape is not None and x.shape == y.shape


__all__ = ["Constant", "Input", "Match", "Number", "OneOf", "Op", "Pattern", "Product", "Recogniser", "Rule", "Total"]
