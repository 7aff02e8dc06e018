"""Recognition of normalizations over the last axes that exporters spell out in small operators."""
from __future__ import annotations

from typing import Any

import numpy as np
from sardonyx.graph import Graph, Node, Tensor, Value
from sardonyx.types import DType

from .base import constant_of, uniform
from .match import Constant, Input, Match, Number, OneOf, Op, Pattern, Product, Recogniser, Rule, Total

x = Input("x")
_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16)


def _keeps(node: Node) -> bool:
    return bool(node.attributes.get("keepdims", 1))


def _mean(of: Pattern, axes: str) -> Pattern:
    return Op("ReduceMean", of, Constant(axes), where=_keeps)


def _square(of: Pattern) -> Pattern:
    return OneOf(Op("Pow", of, Number(2.0)), Op("Mul", of, of))


def _root(of: Pattern) -> Pattern:
    """√(of + epsilon)."""
    return OneOf(Op("Sqrt", Total(Number(name="epsilon"), of)), Op("Pow", Total(Number(name="epsilon"), of), Number(0.5)))


def _over_root(of: Pattern) -> Pattern:
    """1 / √(of + epsilon)."""
    root = _root(of)
    return OneOf(Op("Reciprocal", root), Op("Div", Number(1.0), root), Op("Pow", Total(Number(name="epsilon"), of), Number(-0.5)))


class _Normalization(Recogniser):
    """What the two normalizations share: the bare form becomes the operator with a scale of ones, which then takes up what follows."""

    op_type = ""

    def bare(self, graph: Graph, root: Node, match: Match) -> Value | None:
        """The operator with a scale of ones."""
        source: Value = match["x"]
        spec = self.spec(source)
        axis = self._first_axis(spec.shape, [match.get("axes"), match.get("axes2")])
        assert root.outputs[0] is not None
        if axis is None or spec.dtype not in _FLOATS or not self.same_kind(source, root.outputs[0]) or not 0 <= match["epsilon"] < 1:
            return None
        assert spec.shape is not None and spec.dtype is not None
        sizes = spec.shape[axis:]
        if not all(isinstance(d, int) for d in sizes):
            return None
        ones = Value(graph.unique_name("ones"), None, Tensor.splat(1, spec.dtype, sizes))  # type: ignore[arg-type]
        return self.add(graph, self.op_type, [source, ones], root, self.origin(match), axis=axis - len(spec.shape), epsilon=match["epsilon"])

    def _first_axis(self, shape: Any, axes: list[Value | None]) -> int | None:
        """The axis from which on everything is reduced, None where the axes are not of that kind."""
        if shape is None:
            return None
        starts = set()
        for value in axes:
            if value is not None:
                known = constant_of(value)
                found = [] if known is None else sorted(int(a) % len(shape) for a in known.ravel())
                starts.add(found[0] if found and found == list(range(found[0], len(shape))) else None)
        return starts.pop() if len(starts) == 1 else None

    def _vector(self, graph: Graph, value: Value, norm: Node) -> Value | None:
        """`value` with the shape of the normalized axes, None where it varies along others or is of another type. Leading axes of a constant may go."""
        scale = norm.inputs[1]
        assert scale is not None and scale.const is not None
        want, spec = scale.const.shape, self.spec(value)
        if spec.dtype != scale.const.dtype or spec.shape is None:
            return None
        if spec.shape == want:
            return value
        if value.const is None or len(value.const.shape) > len(want) and any(d != 1 for d in value.const.shape[:-len(want)]):
            return None
        array = value.const.numpy()
        made = array.reshape(array.shape[-len(want):]) if array.ndim > len(want) else array
        made = np.broadcast_to(made, want)
        return Value(graph.unique_name(value.name), None, Tensor(made if array.size == 1 else np.ascontiguousarray(made), dtype=value.const.dtype))

    def scaled(self, graph: Graph, root: Node, match: Match) -> Value | None:
        """Norm(x, ones) · scale → Norm(x, scale)."""
        norm: Node = match["norm"]
        vector = self._vector(graph, match["vector"], norm)
        if vector is None:
            return None
        return self.add(graph, self.op_type, [norm.inputs[0], vector], root, self.origin(match), **norm.attributes)

    def narrowed(self, graph: Graph, root: Node, match: Match) -> Value | None:
        """Cast(Norm(Cast(x, float), ones), half) → Norm(x, ones), whose statistics are float anyway."""
        norm, source = match["norm"], match["x"]
        assert root.outputs[0] is not None
        if self.dtype(source) not in _FLOATS[1:] or not self.same_kind(source, root.outputs[0]) or norm.attributes.get("stash_type", 1) != 1:
            return None
        ones = Value(graph.unique_name("ones"), None, Tensor.splat(1, self.dtype(source), norm.inputs[1].const.shape))  # type: ignore[arg-type]
        return self.add(graph, self.op_type, [source, ones], root, self.origin(match), **norm.attributes)

    def _is_bare(self, node: Node) -> bool:
        """The operator with a scale of ones and no bias."""
        scale = node.inputs[1]
        return len(node.inputs) == 2 and len(node.outputs) == 1 and scale is not None and scale.const is not None and uniform(scale.const) == 1

    def followers(self) -> list[Rule]:
        """The rules by which a bare operator takes up a scale or a pair of Casts."""
        norm = Op(self.op_type, Input("y"), Input("ones"), name="norm", where=self._is_bare)
        widened = Op(self.op_type, Op("Cast", x), Input("ones"), name="norm", where=self._is_bare)
        return [Rule(Op("Mul", norm, Input("vector")), self.scaled), Rule(Op("Cast", widened), self.narrowed)]


class RecogniseLayerNormalization(_Normalization):
    """1. (x − mean) / √(mean((x − mean)²) + ε) over the last axes becomes LayerNormalization; the square, the root and its reciprocal in any of their spellings.
    2. A following Mul and Add by tensors of the normalized shape become its scale and bias.  3. x·m + (bias − mean·m) with m = scale / √(…), as TensorFlow writes it.
    4. Casts to float around it in a half-precision model vanish: the operator's statistics are float.  5. The same from sums, as JAX writes it: mean = Σx · 1/n,
    variance = max(0, Σx² · 1/n − mean²), both reshaped to go along with x.

    Needs the last axes to be of fixed size. Rounding: half-precision models gain precision; 3 and 5 cancel less.
    """

    name = "recognise LayerNormalization"
    op_type = "LayerNormalization"

    def rules(self) -> list[Rule]:
        mean = _mean(x, "axes")
        deviation = Op("Sub", x, mean)
        variance = _mean(_square(deviation), "axes2")
        factor = Product(_over_root(variance), Constant("vector"))
        folded = Op("Add", Op("Mul", x, factor), Op("Sub", Constant("bias"), Op("Mul", mean, factor)))
        biased = Op("Add", Op(self.op_type, Input("y"), Input("scale"), name="norm", where=lambda n: len(n.outputs) == 1), Input("bias"))
        return [Rule(folded, self._folded),                                                                                            # 3
                Rule(self._summed(), self._folded),                                                                                    # 5
                Rule(OneOf(Op("Div", deviation, _root(variance)), Op("Mul", deviation, _over_root(variance))), self.bare),             # 1
                *self.followers(),                                                                                                     # 2, 4
                Rule(biased, self._biased)]

    def _summed(self) -> Pattern:
        mean = Product(Number(name="share"), Op("ReduceSum", x, Constant("axes"), where=lambda n: not _keeps(n)))
        squares = Product(Number(name="share"), Op("ReduceSum", _square(x), Constant("axes2"), where=lambda n: not _keeps(n)))
        difference = Op("Sub", squares, _square(mean))
        variance = OneOf(Op("Max", Number(0.0), difference), difference)
        deviation = Op("Sub", x, Op("Reshape", mean, Constant("shape"), name="kept"))
        return Product(deviation, _over_root(Op("Reshape", variance, Constant("shape2"), name="kept2")), Constant("vector"))

    def _biased(self, graph: Graph, root: Node, match: Match) -> Value | None:
        norm: Node = match["norm"]
        scale = norm.inputs[1]
        assert scale is not None
        if scale.const is None:
            return None
        bias = self._vector(graph, match["bias"], norm)
        return None if bias is None else self.add(graph, self.op_type, [norm.inputs[0], scale, bias], root, self.origin(match), **norm.attributes)

    def _folded(self, graph: Graph, root: Node, match: Match) -> Value | None:
        made = self.bare(graph, root, match) if match.get("share") is None or self._is_mean(match) else None
        if made is None or made.producer is None:
            return None
        norm = made.producer
        vectors = [self._vector(graph, match[name], norm) for name in ("vector", "bias") if match.get(name)]
        if any(v is None for v in vectors):
            graph.remove(norm)
            return None
        norm.set_inputs([norm.inputs[0], *vectors])
        return made

    def _is_mean(self, match: Match) -> bool:
        """Whether `share` is 1 / the number of elements summed, and both sums get back axes of size 1 where they lost them."""
        shape = self.shape(match["x"])
        axis = self._first_axis(shape, [match["axes"], match["axes2"]])
        if axis is None or not all(isinstance(d, int) for d in shape[axis:]):
            return False
        kept = (*shape[:axis], *[1] * (len(shape) - axis))
        return abs(match["share"] * float(np.prod(shape[axis:])) - 1) < 1e-5 and all(self.shape(match[n].outputs[0]) == kept for n in ("kept", "kept2"))


class RecogniseRMSNormalization(_Normalization):
    """1. x / √(mean(x²) + ε) over the last axes becomes RMSNormalization; the square, the root and its reciprocal in any of their spellings.
    2. A following Mul by a tensor of the normalized shape becomes its scale.  3. Casts to float around it in a half-precision model vanish: its statistics are float.

    Needs the last axes to be of fixed size.
    """

    name = "recognise RMSNormalization"
    op_type = "RMSNormalization"

    def rules(self) -> list[Rule]:
        squares = _mean(_square(x), "axes")
        return [Rule(OneOf(Op("Div", x, _root(squares)), Op("Mul", x, _over_root(squares))), self.bare),                               # 1
                *self.followers()]                                                                                                     # 2, 3
