"""What the ai.onnx.ml models share: rows of features, class labels, score transforms.

Where the specification is silent (binary models with one score, approximations) the behaviour is onnxruntime's, which every converter is tested with.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dim import Dim, fresh
from ..expr import Compute, E, Op, binary, cast, compute_type, const, coord, select, unary
from ..kernels import Kernel
from ..lowering import CannotLower, Lowering, View
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


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def rows_view(k: Lowering, X: View) -> View:
    """X as [N, F]; a vector is one row."""
    if X.rank not in (1, 2):
        raise CannotLower(f"X has {X.rank} axes; rows of features have one or two")
    return X.unsqueeze(0) if X.rank == 1 else X


def known_features(X: View) -> int:
    """The size of the last axis; CannotLower where it is not known."""
    size = X.shape[-1] if X.rank else 1
    if not isinstance(size, int):
        raise CannotLower(f"the number of features, {size}, is not known before the model runs")
    return size


def as_type(k: Lowering, x: View, dtype: DType) -> View:
    """x converted, where it is not of the type."""
    return x if x.dtype is dtype else k.map(lambda v: cast(v, compute_type(dtype)), x, dtype=dtype)


def probit(p: E) -> E:
    """See `_probit`."""
    a = 0.147
    x = p * 2 - 1
    log = unary(Op.LOG, (1 - x) * (x + 1))
    v = log * 0.5 + 2 / (np.pi * a)
    root = unary(Op.SQRT, unary(Op.SQRT, v * v - log * (1 / a)) - v) * 2 ** 0.5
    return select(binary(Op.LT, x, 0), -root, root)


def lower_transformed(k: Lowering, scores: View, post_transform: str, dtype: DType = DType.FLOAT) -> View:
    """`transformed` as kernels: scores [N, E] → [N, E] of `dtype`."""
    scores = as_type(k, scores, dtype)
    if post_transform == "LOGISTIC":
        return k.map(lambda x: unary(Op.SIGMOID, x), scores, dtype=dtype)
    if post_transform == "PROBIT":
        return k.map(probit, scores, dtype=dtype)
    if post_transform == "SOFTMAX":
        out = k.buffer(dtype, scores.shape).whole()
        k.call(Kernel.SOFTMAX, [scores, None], [out], axis=1, mode=0, scale=1.0)
        return out
    if post_transform == "SOFTMAX_ZERO":
        top = k.reduce(3, scores, (1,), dtype)
        weights = k.map(lambda x, most: select(binary(Op.GT, unary(Op.ABS, x), 1e-7), unary(Op.EXP, x - most), 0), scores, top, dtype=dtype)
        return k.map(lambda w, total: w / total, weights, k.reduce(0, weights, (1,), dtype), dtype=dtype)
    if post_transform != "NONE":
        raise CannotLower(f"post_transform '{post_transform}'")
    return scores


def lower_both_classes(k: Lowering, score: View, post_transform: str, complement: bool) -> View:
    """`both_classes` as kernels: score [N, 1] → [N, 2]."""
    shape = (score.shape[0], 2)

    def pair(x: E) -> E:
        second = binary(Op.EQ, coord(1), 1)
        if post_transform == "LOGISTIC":
            return unary(Op.SIGMOID, select(second, x, -x))
        both = select(second, x, 1 - x if complement else -x)
        return probit(both) if post_transform == "PROBIT" else both
    return k.map(lambda x: pair(cast(x, Compute.F32)), score.expand(shape), dtype=DType.FLOAT, shape=shape)


def lower_labels(k: Lowering, index: View, labels: Sequence[int]) -> View:
    """The labels int64 [N] of class numbers int64 [N, 1]."""
    rows = k.reshape(index, (index.shape[0],))
    if list(labels) == list(range(len(labels))):
        return rows
    out = k.buffer(DType.INT64, rows.shape).whole()
    k.call(Kernel.GATHER, [k.constant(np.asarray(labels, np.int64)), rows], [out], axis=0, mode=0)
    return out


def lower_choice(k: Lowering, score: View, threshold: float, labels: Sequence[int]) -> View:
    """labels[1] where score [N, 1] is over the threshold, else labels[0]: int64 [N]."""
    return k.map(lambda x: select(binary(Op.GT, x, threshold), const(int(labels[1]), Compute.I64), const(int(labels[0]), Compute.I64)), k.reshape(score, (score.shape[0],)), dtype=DType.INT64)
