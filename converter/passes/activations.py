"""Recognition of activation functions that exporters spell out in small operators."""
from __future__ import annotations

import math
from typing import Any

from sardonyx.graph import Graph, Node, Value
from sardonyx.types import DType

from .match import Input, Match, Number, OneOf, Op, Product, Recogniser, Rule, Total

x = Input("x")
_FLOATS = (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 2e-5 * abs(b)


class _Activation(Recogniser):
    """One input, one operator: the rules give the pattern, the operator and its attributes."""

    def becomes(self, pattern: Any, op_type: str, **attributes: Any) -> Rule:
        """The rule that rewrites `pattern` to the operator applied to "x"; an attribute given as a name is taken from the match."""
        def build(graph: Graph, root: Node, match: Match) -> Value | None:
            source: Value = match["x"]
            assert root.outputs[0] is not None
            if not self.same_kind(source, root.outputs[0]) or self.dtype(source) not in _FLOATS:
                return None  # a constant of higher rank, say, gave the spelled form another shape
            found = {k: match[v] if v in match.bound else v for k, v in attributes.items()}
            return self.add(graph, op_type, [source], root, self.origin(match), **found)
        return Rule(pattern, build)


class RecogniseGelu(_Activation):
    """1. x · ½ · (1 + erf(x / √2)) becomes Gelu.  2. Its tanh form, with x³ as a power or as products, becomes Gelu(approximate="tanh").

    Factors and summands may stand in any order and association. Rounding: the operator rounds once.
    """

    name = "recognise Gelu"

    def rules(self) -> list[Rule]:
        erf = Op("Erf", Product(Number(math.sqrt(0.5)), x))
        root = Number(math.sqrt(2 / math.pi))
        cubic = OneOf(Product(root, Total(x, Product(Number(0.044715), x, x, x))), Product(root, x, Total(Number(1.0), Product(Number(0.044715), x, x))))
        return [self.becomes(Product(Number(0.5), x, Total(Number(1.0), erf)), "Gelu"),                                                     # 1
                self.becomes(Product(Number(0.5), x, Total(Number(1.0), Op("Tanh", cubic))), "Gelu", approximate="tanh")]                 # 2


class RecogniseActivations(_Activation):
    """1. 1 / (1 + e^−x) becomes Sigmoid.  2. log(1 + e^x) becomes Softplus.  3. clip(x + 3, 0, 6) / 6 and its kin become HardSigmoid.
    4. x · HardSigmoid(x; 1/6, 1/2) and x · clip(x + 3, 0, 6) / 6 become HardSwish.  5. x · sigmoid(α x) becomes Swish (SiLU; α = 1.702: QuickGelu).  6. x · tanh(softplus(x)) becomes Mish.

    Rounding: the operators round once. Where the e^x of 1, 2 and 6 overflows, the spelled form gives inf or NaN and the operator the right value.
    """

    name = "recognise activations"

    def rules(self) -> list[Rule]:
        grown = Total(Number(1.0), Op("Exp", Op("Neg", x)))
        relu6 = Op("Clip", Total(Number(3.0), x), Number(0.0), Number(6.0))
        unit = Op("Clip", Total(Number(0.5), Product(Number(1 / 6), x)), Number(0.0), Number(1.0))
        hard = Op("HardSigmoid", x, where=lambda n: _close(n.attributes.get("alpha", 0.2), 1 / 6) and _close(n.attributes.get("beta", 0.5), 0.5))
        return [
            self.becomes(OneOf(Op("Reciprocal", grown), Op("Div", Number(1.0), grown)), "Sigmoid"),                                         # 1
            self.becomes(Op("Log", Total(Number(1.0), Op("Exp", x))), "Softplus"),                                                        # 2
            self.becomes(OneOf(Product(x, hard), Product(Number(1 / 6), x, relu6), Product(x, unit)), "HardSwish"),                         # 4
            self.becomes(OneOf(Product(Number(1 / 6), relu6), unit), "HardSigmoid", alpha=1 / 6, beta=0.5),                                 # 3
            self.becomes(OneOf(Product(x, Op("Sigmoid", x)), Op("Div", x, grown)), "Swish"),                                                # 5
            self.becomes(Product(x, Op("Sigmoid", Product(Number(name="alpha"), x))), "Swish", alpha="alpha"),
            self.becomes(Product(x, Op("Tanh", Op("Softplus", x))), "Mish"),                                                                # 6
        ]
