"""Every operator's shape rule against what the operator makes, on all plain node cases, three ways: static shapes, every input size a symbol, unknown rank.

A rule may say less than it could (an unknown size), never something wrong; with static shapes it must know dtype and rank.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.converter.onnx import load_model
from sardonyx.dim import Expr, substitute, symbol
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.plan.shapes import infer_shapes
from sardonyx.types import DType, TensorType

from .suite import Case, load


def declared(mode: str, name: str, array: np.ndarray, sizes: dict[str, int]) -> TensorType:
    """The type an input is given in a mode."""
    if mode == "unknown rank":
        return TensorType(DType.of(array), None)
    if mode == "static":
        return TensorType(DType.of(array), array.shape)
    dims = []
    for axis, size in enumerate(array.shape):
        sizes[f"{name}_{axis}"] = size
        dims.append(symbol(f"{name}_{axis}"))
    return TensorType(DType.of(array), tuple(dims))


def disagreement(case: Case, mode: str) -> str:
    """What is wrong with the inferred types of the case's outputs, or nothing."""
    inputs, outputs = case.sets[0]
    model = load_model(case.model)
    sizes: dict[str, int] = {}
    for value, given in zip(model.graph.inputs, inputs, strict=False):
        if isinstance(given, np.ndarray) and isinstance(value.type, TensorType):
            value.type = declared(mode, value.name, given, sizes)
    for node in model.graph.walk():
        for made in node.outputs:
            if made is not None:
                made.type = None
    infer_shapes(model)
    for value, expected in zip(model.graph.outputs, outputs, strict=True):
        if isinstance(expected, np.ndarray):
            problem = compare(value.type, expected, sizes, mode)
            if problem:
                return f"{value.name}: {problem}"
    return ""


def compare(inferred: Any, expected: np.ndarray, sizes: dict[str, int], mode: str) -> str:
    """Why an inferred type cannot be the array's, or nothing."""
    if not isinstance(inferred, TensorType):
        return "" if inferred is None or "optional" in str(inferred) else f"a tensor is said to be {inferred}"
    if inferred.dtype is not DType.of(expected):
        return f"dtype {inferred.dtype}, not {expected.dtype}"
    if inferred.shape is None:
        return "rank lost" if mode == "static" else ""
    if len(inferred.shape) != expected.ndim:
        return f"rank {len(inferred.shape)}, not {expected.ndim}"
    for said, size in zip(inferred.shape, expected.shape, strict=True):
        bound = substitute(said, sizes)
        if not isinstance(bound, Expr) and bound != size:
            return f"size {said} is {bound}, not {size}"
    return ""


@pytest.mark.parametrize("mode", ["static", "symbols", "unknown rank"])
def test_rules_agree_with_bodies(mode: str) -> None:
    wrong = {}
    checked = 0
    for case in load():
        if case.kind != "node" or "_expanded" in case.name:
            continue
        try:
            problem = disagreement(case, mode)
        except NotImplementedHere as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        checked += 1
        if problem:
            wrong[case.name] = problem
    assert checked > 1350
    assert not wrong, f"{len(wrong)} of {checked}: {dict(list(wrong.items())[:20])}"
