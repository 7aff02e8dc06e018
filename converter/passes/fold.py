"""Constant folding: what does not depend on the inputs is computed at conversion, by the operators' reference bodies."""
from __future__ import annotations

from typing import Any

import numpy as np

from sardonyx.dim import Expr, is_static, product
from sardonyx.errors import SardonyxError
from sardonyx.graph import Graph, Model, Node, Tensor, Value
from sardonyx.ops import Operator, lookup
from sardonyx.ops.registry import Spec
from sardonyx.plan.shapes import attribute_arguments

from .base import Pass, overridable


class FoldConstants(Pass):
    """1. A tensor whose value shape inference knows as plain numbers becomes a constant (shape arithmetic of fixed sizes).
    2. A node all of whose inputs are constants is run and its outputs become constants, if they take at most `budget` bytes more than the constants it replaces
       (so a ConstantOfShape or an Expand does not blow the file up; ConstantOfShape and Expand of one element become splats, which take no bytes).
    3. An If whose condition is constant is replaced by the nodes of the branch taken.
    Not folded: random operators, operators on strings, sequences and maps, DequantizeLinear (it would undo quantisation), overridable defaults.
    """

    name = "constant folding"

    def __init__(self, budget: int = 1 << 20) -> None:
        super().__init__()
        self.budget = budget

    def run(self, model: Model) -> int:
        self._variable = overridable(model.graph)
        return sum(self._fold_graph(graph) for graph in list(model.graph.graphs()))

    def _fold_graph(self, graph: Graph) -> int:
        count = 0
        for node in list(graph.nodes):
            if node.op_type == "If" and not node.domain and self._inline_if(graph, node):                       # 3
                count += 1
                continue
            operator = lookup(node.domain, node.op_type)
            if operator.random or operator.host_only or operator.wants - {"n_outputs"} or node.op_type in ("DequantizeLinear", "Identity"):
                continue
            tensors = self._known(node) or self._computed(node, operator)                                       # 1, 2
            if tensors is None:
                continue
            for value, tensor in zip(node.outputs, tensors, strict=False):
                if value is not None:
                    _become_constant(graph, value, tensor)
            graph.remove(node)
            count += 1
        return count

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
        constants = [v.const if v is not None and v not in self._variable else None for v in node.inputs]
        if any(c is None for v, c in zip(node.inputs, constants, strict=True) if v is not None):
            return None
        specs = [self.specs.get(v) if v is not None else None for v in node.outputs]
        if node.op_type in ("ConstantOfShape", "Expand") and specs[0] is not None and is_static(specs[0].shape):
            splat = _as_splat(node, constants, specs[0])
            if splat is not None:
                return [splat]
        if any(s is not None and (s.dtype is None or not is_static(s.shape)) for s in specs):
            return None
        grown = sum(s.dtype.nbytes(product(s.shape)) for s in specs if s is not None and s.dtype is not None and s.shape is not None)
        freed = sum(c.nbytes for c, v in zip(constants, node.inputs, strict=True) if c is not None and v is not None and len(v.uses) == 1)
        if grown > freed + self.budget:
            return None
        arguments = attribute_arguments(node, operator)
        if "n_outputs" in operator.wants:
            arguments["n_outputs"] = len(node.outputs)
        try:
            with np.errstate(all="ignore"):
                made: Any = operator(*(None if c is None else c.numpy() for c in constants), **arguments)
        except (SardonyxError, ArithmeticError):
            return None  # wrong at run time as well: the session reports it, with the node's name
        arrays = made if isinstance(made, tuple) else (made,)
        return [Tensor(np.asarray(a)) for a in arrays]

    def _inline_if(self, graph: Graph, node: Node) -> bool:
        condition = node.inputs[0]
        if condition is None or condition.const is None or condition in self._variable:
            return False
        branch: Graph = node.attributes["then_branch" if bool(condition.const.numpy().reshape(-1)[0]) else "else_branch"]
        position = graph.nodes.index(node)
        for inner in branch.nodes:
            inner.origin = tuple(dict.fromkeys((*node.origin, *inner.origin)))
        graph.nodes[position:position] = branch.nodes
        for old, new in zip(node.outputs, branch.outputs, strict=True):
            if old is not None:
                graph.replace_value(old, new)
        other: Graph = node.attributes["else_branch" if branch is node.attributes["then_branch"] else "then_branch"]
        for inner in other.walk():
            inner.detach()
        node.attributes.clear()
        graph.remove(node)
        return True


def _as_splat(node: Node, constants: list[Tensor | None], spec: Spec) -> Tensor | None:
    assert spec.dtype is not None and spec.shape is not None
    if node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        return Tensor.splat(given.numpy().reshape(-1)[0] if given is not None else 0, spec.dtype, spec.shape)  # type: ignore[arg-type]
    source = constants[0]
    if source is None or source.size != 1:
        return None
    return Tensor.splat(source.numpy().reshape(-1)[0], spec.dtype, spec.shape)  # type: ignore[arg-type]


def _become_constant(graph: Graph, value: Value, tensor: Tensor) -> None:
    """The uses of `value` use a constant now; a graph output keeps its Value, which becomes a constant itself."""
    value.producer = None
    value.const = tensor
