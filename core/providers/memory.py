"""The memory limit of a session: a node whose outputs would take more is refused before it runs.

The limit is the session configuration entry `session.memory_limit`, in bytes; "0" means none, and without the entry it is the machine's memory. What
a node will make is asked of its shape rule, on the sizes and the small values at hand: so a huge runtime shape (ConstantOfShape, Expand, Range, Resize)
is an error with a name instead of a machine that swaps. Nodes with nested graphs are left to the nodes in them.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Expr, product
from ..errors import MemoryLimit, SardonyxError
from ..graph import Node
from ..ops import Operator, Spec
from ..ops.common import like
from ..ops.registry import MAX_KNOWN
from ..plan.shapes import run_rule
from ..types import DType
from .limit import MEMORY_LIMIT

_POINTER = 8  # a string takes at least its place in the array


class Guard:
    """One node's check. `check(inputs)` raises MemoryLimit; sizes that passed are remembered, so equal ones cost only the comparison."""

    __slots__ = ("node", "operator", "arguments", "limit", "_passed")

    def __init__(self, node: Node, operator: Operator, arguments: dict[str, Any], limit: int) -> None:
        self.node, self.operator, self.arguments, self.limit = node, operator, arguments, limit
        self._passed: Any = None

    def check(self, inputs: Sequence[Any]) -> None:
        """inputs: what the body will be given (None where absent)."""
        if any(not isinstance(x, np.ndarray) for x in inputs if x is not None):
            return  # sequences and maps: their rules know no sizes
        key = [None if x is None else (x.dtype, x.shape, x.tobytes() if x.size <= MAX_KNOWN and x.dtype != object else b"") for x in inputs]
        if key == self._passed:
            return
        try:
            made = run_rule(self.node, self.operator, [None if x is None else Spec(DType.of(x), x.shape, x if x.size <= MAX_KNOWN else None) for x in inputs], self.arguments)
        except SardonyxError:
            return  # the body says better what is wrong with these inputs
        needed = sum(map(_bytes, made))
        if needed > self.limit:
            raise MemoryLimit(f"{self.node.label}: its output ({', '.join(map(str, made))}) would take {needed:,} bytes and the limit is {self.limit:,}; "
                              f"check the sizes it is given, or raise the limit: SessionOptions.add_session_config_entry('{MEMORY_LIMIT}', '<bytes>')")
        self._passed = key


def guard(node: Node, operator: Operator, arguments: dict[str, Any], limit: int | None) -> Guard | None:
    """The check of a node; None where there is no limit, no rule to ask, or nothing that could grow."""
    rule = operator.shape_rule
    if limit is None or rule is None or rule is like or "infer" in operator.rule_wants:
        return None
    return Guard(node, operator, arguments, limit)


def _bytes(spec: Spec) -> int:
    """Bytes of an output in memory; 0 where its size is known only afterwards, or wrong, which the body says better."""
    sizes = [int(d) for d in spec.shape or () if not isinstance(d, Expr)]
    if spec.dtype is None or spec.shape is None or len(sizes) < len(spec.shape) or min(sizes, default=0) < 0:
        return 0
    return int(product(sizes)) * (_POINTER if spec.dtype is DType.STRING else max(1, spec.dtype.bits // 8))
