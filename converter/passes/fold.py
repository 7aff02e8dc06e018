"""Constant folding: what does not depend on the inputs is computed at conversion, by the operators' reference bodies."""
from __future__ import annotations

from typing import Any

import numpy as np
from sardonyx.dim import Expr, is_static, product
from sardonyx.graph import Graph, Model, Node, Tensor, Value, merge_origins
from sardonyx.ops import Operator, lookup
from sardonyx.ops.registry import Spec
from sardonyx.plan.shapes import attribute_arguments
from sardonyx.types import DType

from .base import Pass
from .moves import ELEMENTWISE

#: Where all inputs are uniform, so is the output; the value of the first (movement) or of the operator on single elements.
_UNIFORM_MOVES = frozenset(("Expand", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"))


class FoldConstants(Pass):
    """1. A tensor whose value shape inference knows as plain numbers becomes a constant (shape arithmetic of fixed sizes).
    2. A node all of whose inputs are constants is run and its outputs become constants, if they take at most `budget` bytes more than the constants it replaces.
       ConstantOfShape, and elementwise operators and moves of uniform tensors, give uniform tensors, which take one element whatever their shape.
    3. An If whose condition is constant is replaced by the nodes of the branch taken.
    Not folded: random operators, operators on strings, sequences and maps, DequantizeLinear (it would undo quantisation), overridable defaults.
    """

    name = "constant folding"

    def __init__(self, budget: int = 1 << 20) -> None:
        super().__init__()
        self.budget = budget

    def run(self, model: Model) -> int:
        # Inner graphs first: a branch that is taken has been folded when its nodes join the outer graph.
        return sum(self._fold_graph(graph) for graph in reversed(list(model.graph.graphs())))

    def _fold_graph(self, graph: Graph) -> int:
        folded = []
        inlined = 0
        dequantized: set[Value] = set()  # and what is made of it: inference knows small ones, and to fold them would undo quantisation
        for node in list(graph.nodes):
            if node.op_type == "If" and not node.domain:                                                                # 3
                inlined += self._inline_if(graph, node)
                continue
            if node.op_type == "DequantizeLinear" or any(v in dequantized for v in node.inputs):
                dequantized.update(v for v in node.outputs if v is not None)
                continue
            operator = lookup(node.domain, node.op_type)
            if operator.random or operator.host_only or operator.wants - {"n_outputs"} or node.op_type == "Identity":
                continue
            tensors = self._known(node) or self._computed(node, operator)                                               # 1, 2
            if tensors is None:
                continue
            for value, tensor in zip(node.outputs, tensors, strict=False):
                if value is not None:
                    value.producer, value.const = None, tensor
            node.detach()
            folded.append(node)
        if folded:
            graph.remove(*folded)
        return len(folded) + inlined

    def _known(self, node: Node) -> list[Tensor] | None:
        specs = [self.specs.get(v) if v is not None else None for v in node.outputs]
        if len(specs) != 1 or specs[0] is None or specs[0].value is None or not is_static(specs[0].shape):
            return None
        value = np.asarray(specs[0].value)
        if value.dtype == object and any(isinstance(v, Expr) for v in value.ravel()):
            return None
        array = specs[0].constant
        return None if array is None or array.shape != specs[0].shape else [Tensor(array, dtype=specs[0].dtype)]

    def _computed(self, node: Node, operator: Operator) -> list[Tensor] | None:
        if any(v is not None and v.const is None for v in node.inputs):
            return None
        constants = [v.const if v is not None else None for v in node.inputs]
        specs = [self.spec(v) for v in node.outputs if v is not None]
        if any(s.dtype is None or not is_static(s.shape) for s in specs):
            return None
        splat = self._as_splat(node, operator, constants, specs[0])
        if splat is not None:
            return [splat]
        grown = sum(s.dtype.nbytes(product(s.shape)) for s in specs if s.dtype is not None and s.shape is not None)
        freed = sum(_stored(c) for c, v in zip(constants, node.inputs, strict=True) if c is not None and v is not None and self.only_use(v))
        if grown > freed + self.budget:
            return None
        arguments = attribute_arguments(node, operator)
        if "n_outputs" in operator.wants:
            arguments["n_outputs"] = len(node.outputs)
        made = _run(operator, [None if c is None else c.numpy() for c in constants], arguments)
        return None if made is None or any(a is None for a in made) else [Tensor(a, dtype=s.dtype) for a, s in zip(made, specs, strict=False)]

    def _as_splat(self, node: Node, operator: Operator, constants: list[Tensor | None], spec: Spec) -> Tensor | None:
        """The uniform result of uniform inputs; None where it is not certain to be uniform, or too small to matter."""
        assert spec.dtype is not None and spec.shape is not None
        shape: Any = spec.shape
        if len(node.outputs) != 1 or node.domain or product(shape) < 2 or spec.dtype is DType.STRING:
            return None
        if node.op_type == "ConstantOfShape":
            given = node.attributes.get("value")
            return Tensor.splat(given.numpy().reshape(-1)[0] if given is not None else 0, spec.dtype, shape)
        relevant = constants[:1] if node.op_type in _UNIFORM_MOVES else constants
        if node.op_type not in _UNIFORM_MOVES and node.op_type not in ELEMENTWISE or not all(c is None or c.is_splat or c.size == 1 for c in relevant):
            return None
        elements = [None if c is None else c.numpy()[(0,) * len(c.shape)].reshape(()) for c in relevant]
        made = elements if node.op_type in _UNIFORM_MOVES else _run(operator, elements, attribute_arguments(node, operator))
        return None if not made or made[0] is None else Tensor.splat(made[0].reshape(()), spec.dtype, shape)

    def _inline_if(self, graph: Graph, node: Node) -> bool:
        condition = node.inputs[0]
        if condition is None or condition.const is None:
            return False
        branch: Graph = node.attributes["then_branch" if bool(condition.const.numpy().reshape(-1)[0]) else "else_branch"]
        position = graph.nodes.index(node)
        taken = {v.name for n in graph.nodes for v in n.outputs if v is not None}
        for inner in branch.nodes:
            inner.origin = merge_origins([node, inner])
            for value in inner.outputs:
                if value is not None and value.name in taken:  # sibling branches may use the same names
                    value.name = graph.unique_name(value.name)
        graph.nodes[position:position] = branch.nodes
        for old, new in zip(node.outputs, branch.outputs, strict=True):
            if old is not None:
                self.replace(graph, old, new)
        other: Graph = node.attributes["else_branch" if branch is node.attributes["then_branch"] else "then_branch"]
        for inner in other.walk():
            inner.detach()
        node.attributes.clear()
        graph.remove(node)
        return True


def _run(operator: Operator, inputs: list[Any], arguments: dict[str, Any]) -> list[Any] | None:
    """The operator's outputs; None where its body fails: it is wrong at run time as well, and the session reports it with the node's name."""
    try:
        with np.errstate(all="ignore"):
            made = operator(*inputs, **arguments)
    except Exception:  # as at run time, whatever NumPy raises for inputs that do not fit
        return None
    return [None if a is None else np.asarray(a) for a in (made if isinstance(made, tuple) else (made,))]


def _stored(tensor: Tensor) -> int:
    """Bytes the tensor takes in a file."""
    return tensor.nbytes // max(tensor.size, 1) if tensor.is_splat else tensor.nbytes
