"""Lowering helpers several operator families share: elementwise operators to Map kernels, sizes and axes from known values."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..dim import Dim
from ..expr import Compute, E, Op, binary, cast, compute_type, unary
from ..lowering import CannotLower, Lowering, View
from .registry import Spec


def elementwise(function: Callable[..., E], compute: Compute | None = None) -> Callable[..., View]:
    """A lowering rule: output = function(one leaf per input, **attributes) over the broadcast shape. Leaves come in the compute type of their dtype, or in `compute`."""
    def rule(k: Lowering, *inputs: View | None, out: Spec, **attributes: Any) -> View:
        views = [v for v in inputs if v is not None]
        assert out.dtype is not None and out.shape is not None

        def body(*leaves: E) -> E:
            return function(*(x if compute is None else cast(x, compute) for x in leaves), **attributes)
        return k.map(body, *views, dtype=out.dtype, shape=out.shape)
    return rule


def op1(op: Op) -> Callable[..., View]:
    """A lowering rule of a one-argument operation."""
    return elementwise(lambda x, **_: unary(op, x))


def op2(op: Op) -> Callable[..., View]:
    """A lowering rule of a two-argument operation."""
    return elementwise(lambda a, b, **_: binary(op, a, b))


def folded(op: Op) -> Callable[..., View]:
    """A lowering rule that folds a variadic operator from the left."""
    def body(first: E, *rest: E, **_: Any) -> E:
        for x in rest:
            first = binary(op, first, x)
        return first
    return elementwise(body)


def numbers(view: View | None, what: str) -> list[Dim]:
    """The known value of a shape-like operand as sizes; CannotLower where only data know it."""
    if view is None or view.value is None:
        raise CannotLower(f"{what} is not known before the model runs")
    return [int(v) if not hasattr(v, "terms") else v for v in view.value.ravel().tolist()]


def whole_number(value: Dim, what: str) -> int:
    """A size that must be a plain number here; CannotLower where it is symbolic."""
    if not isinstance(value, int):
        raise CannotLower(f"{what}: {value} is not known before the model runs")
    return value


def scalar(view: View | None) -> float | None:
    """The number of a one-element constant; None where there is none or it is not constant."""
    if view is None or view.buffer.tensor is None or view.buffer.tensor.size != 1:
        return None
    return float(view.buffer.tensor.numpy().reshape(-1)[0])


def known_number(view: View) -> float | None:
    """The number of a one-element tensor that is constant or known at planning; None where data decide it."""
    return scalar(view) if view.value is None else float(np.asarray(view.value).reshape(-1)[0])


def as_bool(x: E) -> E:
    """x ≠ 0 as I32."""
    return binary(Op.NE, x, 0)


__all__ = ["as_bool", "compute_type", "elementwise", "folded", "known_number", "numbers", "op1", "op2", "scalar", "whole_number"]
