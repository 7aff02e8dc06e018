"""What the ai.onnx.ml models share: rows of features, class labels, score transforms.

Where the specification is silent (binary models with one score, approximations) the behaviour is onnxruntime's, which every converter is tested with.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, fresh
from ..types import DType
from .registry import Spec, require

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def as_rows(X: np.ndarray) -> np.ndarray:
    """X as [N, F]; a vector is one row."""
    require(X.ndim in (1, 2), f"X must have shape [N, F] or [F], not {list(X.shape)}")
    return X[None] if X.ndim == 1 else X


def row_count(X: Spec) -> Dim:
    """N of X [N, F] or [F], a new symbol where the rank is not known."""
    require(X.shape is None or len(X.shape) in (1, 2), f"X must have shape [N, F] or [F], not {X}")
    return fresh() if X.shape is None else X.shape[0] if len(X.shape) == 2 else 1


def class_labels(ints: Sequence[int], strings: Sequence[str]) -> np.ndarray:
    """The class labels as an int64 or a string tensor; exactly one of the two attributes must be given."""
    require(bool(ints) != bool(strings), "exactly one of the classlabels attributes (integers or strings) must be given")
    if ints:
        return np.asarray(ints, np.int64)
    labels = np.empty(len(strings), object)
    labels[:] = list(strings)
    return labels


def label_dtype(ints: Sequence[int], strings: Sequence[str]) -> DType:
    """The element type of `class_labels`."""
    require(bool(ints) != bool(strings), "exactly one of the classlabels attributes (integers or strings) must be given")
    return DType.INT64 if ints else DType.STRING


def transformed(scores: np.ndarray, post_transform: str, dtype: Any = np.float32) -> np.ndarray:
    """`post_transform` applied to each row of scores [N, E], computed in `dtype`."""
    require(post_transform in TRANSFORMS, f"post_transform is '{post_transform}'; it must be one of {', '.join(TRANSFORMS)}")
    scores = np.asarray(scores, dtype)
    if post_transform == "LOGISTIC":
        return logistic(scores)
    if post_transform == "PROBIT":
        return _probit(scores)
    if post_transform == "SOFTMAX":
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)
    if post_transform == "SOFTMAX_ZERO":
        # Scores of zero stay zero and take no part in the sum.
        weights = np.where(np.abs(scores) > 1e-7, np.exp(scores - scores.max(1, keepdims=True)), scores.dtype.type(0))
        return weights / weights.sum(1, keepdims=True)
    return scores


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    y = 1 / (1 + np.exp(-np.abs(x)))
    return np.where(x < 0, 1 - y, y)


def _probit(p: np.ndarray) -> np.ndarray:
    """The quantile of the standard normal distribution by S. Winitzki's closed form of the inverse error function (2008), a = 0.147."""
    a = 0.147
    x = 2 * p - 1
    log = np.log((1 - x) * (1 + x))
    v = 2 / (np.pi * a) + log / 2
    return np.copysign(2 ** 0.5 * np.sqrt(np.sqrt(v * v - log / a) - v), x)


def both_classes(score: np.ndarray, post_transform: str, complement: bool) -> np.ndarray:
    """[N, 2] of a binary model's only score [N], the positive class last. The other gets 1 - score where scores are probabilities (`complement`), else -score.

    Of the transforms, LOGISTIC applies to ±score, PROBIT to the pair; the SOFTMAX family leaves it as it is.
    """
    if post_transform == "LOGISTIC":
        return transformed(np.stack([-score, score], 1), "LOGISTIC")
    pair = np.stack([1 - score if complement else -score, score], 1)
    return transformed(pair, "PROBIT" if post_transform == "PROBIT" else "NONE")
