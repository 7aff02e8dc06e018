"""Small pieces the com.microsoft operators share."""
from __future__ import annotations

from typing import Any

from ..dim import Dim
from .common import fresh_shape
from .registry import Operator, Spec, require


def needed(**inputs: Any) -> None:
    """InvalidGraph where a required input that follows an optional one is absent (the generic check of arity can not know of those)."""
    for name, value in inputs.items():
        require(value is not None, f"required input '{name}' is missing")


def ruled(operator: Operator, *inputs: Spec | None, **attributes: Any) -> Any:
    """What an operator's shape rule makes of the Specs."""
    assert operator.shape_rule is not None
    return operator.shape_rule(*inputs, **attributes)


def sizes(spec: Spec | None, rank: int, name: str) -> tuple[Dim, ...]:
    """The shape of an input that must have `rank`; new sizes where it is not known."""
    if spec is None or spec.shape is None:
        return fresh_shape(rank) or ()
    require(len(spec.shape) == rank, f"{name} {spec} must have rank {rank}")
    return spec.shape
