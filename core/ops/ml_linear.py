"""ai.onnx.ml: LinearClassifier, LinearRegressor, SVMClassifier, SVMRegressor."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dim import Dim
from ..expr import Compute, E, Op, binary, cast, const, select, unary
from ..lowering import CannotLower, Lowering, View
from ..types import DType
from .ml_common import (
    as_rows,
    as_type,
    both_classes,
    class_labels,
    known_features,
    label_dtype,
    logistic,
    lower_both_classes,
    lower_choice,
    lower_labels,
    lower_transformed,
    row_count,
    rows_view,
    transformed,
)
from .registry import Spec, operator, require

KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


@operator("ai.onnx.ml")
def LinearRegressor(X: np.ndarray, *, coefficients: Sequence[float] = (), intercepts: Sequence[float] = (), post_transform: str = "NONE", targets: int = 1) -> np.ndarray:
    """X [N, F] times `coefficients` [targets, F], plus `intercepts`; float32 [N, targets]."""
    scores = _linear(as_rows(X), coefficients, intercepts, targets)
    return transformed(scores, post_transform)


@LinearRegressor.shape
def _(X: Spec, *, coefficients: Sequence[float] = (), intercepts: Sequence[float] = (), post_transform: str = "NONE", targets: int = 1) -> Spec:
    return Spec(DType.FLOAT, (row_count(X), targets))


@operator("ai.onnx.ml")
def LinearClassifier(X: np.ndarray, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float],
                     intercepts: Sequence[float] = (), multi_class: int = 0, post_transform: str = "NONE") -> tuple[np.ndarray, np.ndarray]:
    """(labels [N], scores float32 [N, E]). With one score and two labels, the second label is that of a positive score."""
    rows, labels = as_rows(X), class_labels(classlabels_ints, classlabels_strings)
    scores = _linear(rows, coefficients, intercepts, _score_count(rows.shape[1], coefficients, intercepts, len(labels)))
    if scores.shape[1] == 1 and len(labels) == 2:
        score = scores[:, 0]
        return labels[(score > 0).astype(np.int64)], both_classes(score, post_transform, complement=True)
    require(scores.shape[1] == len(labels), f"{len(labels)} class labels do not fit {scores.shape[1]} scores")
    return labels[scores.argmax(1)], transformed(scores, post_transform)


@LinearClassifier.shape
def _(X: Spec, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float],
      intercepts: Sequence[float] = (), multi_class: int = 0, post_transform: str = "NONE") -> tuple[Spec, Spec]:
    rows = row_count(X)
    return Spec(label_dtype(classlabels_ints, classlabels_strings), (rows,)), Spec(DType.FLOAT, (rows, len(classlabels_ints or classlabels_strings)))


def _score_count(features: int, coefficients: Sequence[float], intercepts: Sequence[float], labels: int) -> int:
    return len(intercepts) or (len(coefficients) // features if features else labels)


def _linear(rows: np.ndarray, coefficients: Sequence[float], intercepts: Sequence[float], targets: int) -> np.ndarray:
    require(len(coefficients) == targets * rows.shape[1], f"{len(coefficients)} coefficients do not fit {targets} targets of {rows.shape[1]} features")
    weights = np.asarray(coefficients, np.float32).reshape(targets, rows.shape[1])
    scores = np.asarray(rows, np.float32) @ weights.T
    require(len(intercepts) in (0, targets), f"{len(intercepts)} intercepts do not fit {targets} targets")
    return scores + np.asarray(intercepts, np.float32) if intercepts else scores


# -- support vector machines -------------------------------------------------------------------------------------------------------------------

@operator("ai.onnx.ml")
def SVMRegressor(X: np.ndarray, *, coefficients: Sequence[float] = (), kernel_params: Sequence[float] = (), kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0,
                 post_transform: str = "NONE", rho: Sequence[float] = (), support_vectors: Sequence[float] = ()) -> np.ndarray:
    """Kernel values of X [N, F] with the support vectors, times `coefficients`, plus `rho`; float32 [N, 1]. `one_class`: 1 where positive, else -1."""
    rows = np.asarray(as_rows(X), np.float32)
    weights = np.asarray(coefficients, np.float64)
    offset = np.float64(rho[0] if rho else 0)
    if n_supports > 0:
        scores = _kernel(rows, _vectors(support_vectors, n_supports, rows), kernel_type, kernel_params) @ weights + offset
    else:
        scores = rows @ weights + offset  # a linear model: the coefficients are those of the features
    if one_class:
        scores = np.where(scores > 0, 1, -1)
    return transformed(np.asarray(scores, np.float32)[:, None], post_transform)


@SVMRegressor.shape
def _(X: Spec, *, coefficients: Sequence[float] = (), kernel_params: Sequence[float] = (), kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0,
      post_transform: str = "NONE", rho: Sequence[float] = (), support_vectors: Sequence[float] = ()) -> Spec:
    return Spec(DType.FLOAT, (row_count(X), 1))


@operator("ai.onnx.ml")
def SVMClassifier(X: np.ndarray, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float] = (),
                  kernel_params: Sequence[float] = (), kernel_type: str = "LINEAR", post_transform: str = "NONE", prob_a: Sequence[float] = (), prob_b: Sequence[float] = (),
                  rho: Sequence[float] = (), support_vectors: Sequence[float] = (), vectors_per_class: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(labels [N], float32 scores) by voting of the pairwise machines, as libsvm does. Scores: probabilities [N, classes] with `prob_a` and `prob_b`; without them
    the decision values of the pairs, [N, classes · (classes-1) / 2] (two classes: [N, 2]). Without support vectors: a linear model of each class."""
    rows, labels = np.asarray(as_rows(X), np.float32), class_labels(classlabels_ints, classlabels_strings)
    if not vectors_per_class:
        return _linear_machines(rows, labels, coefficients, rho, post_transform)
    require(len(vectors_per_class) == len(labels), f"vectors_per_class has {len(vectors_per_class)} elements for {len(labels)} classes")
    decisions, votes = _pairwise(rows, coefficients, kernel_params, kernel_type, rho, support_vectors, vectors_per_class)
    chosen = labels[votes.argmax(1)]
    if prob_a:
        return chosen, transformed(_probabilities(decisions, len(labels), prob_a, prob_b), post_transform)
    if decisions.shape[1] == 1:
        return chosen, both_classes(decisions[:, 0], post_transform, complement=post_transform != "NONE")
    return chosen, transformed(decisions, post_transform)


@SVMClassifier.shape
def _(X: Spec, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float] = (),
      kernel_params: Sequence[float] = (), kernel_type: str = "LINEAR", post_transform: str = "NONE", prob_a: Sequence[float] = (), prob_b: Sequence[float] = (),
      rho: Sequence[float] = (), support_vectors: Sequence[float] = (), vectors_per_class: Sequence[int] = ()) -> tuple[Spec, Spec]:
    rows, classes = row_count(X), len(classlabels_ints or classlabels_strings)
    columns = classes if prob_a or not vectors_per_class or classes <= 2 else classes * (classes - 1) // 2
    return Spec(label_dtype(classlabels_ints, classlabels_strings), (rows,)), Spec(DType.FLOAT, (rows, columns))


def _vectors(support_vectors: Sequence[float], count: int, rows: np.ndarray) -> np.ndarray:
    require(len(support_vectors) == count * rows.shape[1], f"support_vectors has {len(support_vectors)} elements for {count} vectors of {rows.shape[1]} features")
    return np.asarray(support_vectors, np.float32).reshape(count, rows.shape[1])


def _kernel(rows: np.ndarray, vectors: np.ndarray, kernel_type: str, kernel_params: Sequence[float]) -> np.ndarray:
    """Kernel values [rows, vectors] in float64 (float32 sums would decide votes near zero by rounding)."""
    require(kernel_type in KERNELS, f"kernel_type is '{kernel_type}'; it must be one of {', '.join(KERNELS)}")
    rows, vectors = rows.astype(np.float64), vectors.astype(np.float64)
    gamma, coef0, degree = (*kernel_params, 0.0, 0.0, 0.0)[:3]
    if kernel_type == "RBF":
        squares = np.square(rows).sum(1)[:, None] + np.square(vectors).sum(1) - 2 * (rows @ vectors.T)
        return np.exp(-gamma * np.maximum(squares, 0))
    products = rows @ vectors.T
    if kernel_type == "POLY":
        return (gamma * products + coef0) ** degree
    return np.tanh(gamma * products + coef0) if kernel_type == "SIGMOID" else products


def _linear_machines(rows: np.ndarray, labels: np.ndarray, coefficients: Sequence[float], rho: Sequence[float], post_transform: str) -> tuple[np.ndarray, np.ndarray]:
    scores = _linear(rows, coefficients, (), len(labels)) + np.float32(rho[0] if rho else 0)  # one offset for all, as onnxruntime
    best, chosen = scores.max(1), scores.argmax(1)
    if len(labels) == 2:
        threshold_passed = best >= 0.5 if min(coefficients) >= 0 else best > 0
        chosen = np.where(threshold_passed, 1, chosen)
    return labels[chosen], transformed(scores, post_transform)


def _pairwise(rows: np.ndarray, coefficients: Sequence[float], kernel_params: Sequence[float], kernel_type: str, rho: Sequence[float],
              support_vectors: Sequence[float], vectors_per_class: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(decision values float32 [N, pairs], votes [N, classes]). `coefficients` is [classes - 1, vectors]: the row of a class against the k-th of the others."""
    classes, count = len(vectors_per_class), sum(vectors_per_class)
    needed = (classes - 1) * count
    require(len(coefficients) >= needed, f"coefficients has {len(coefficients)} elements; {classes} classes with {count} support vectors need {needed}")
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    require(len(rho) >= len(pairs), f"rho has {len(rho)} elements for {len(pairs)} pairs of classes")
    ends = np.cumsum(vectors_per_class)
    of = [slice(end - n, end) for end, n in zip(ends, vectors_per_class, strict=True)]
    values = _kernel(rows, _vectors(support_vectors, count, rows), kernel_type, kernel_params)
    weights = np.asarray(coefficients, np.float64)[:needed].reshape(classes - 1, count)
    decisions = np.empty((len(rows), len(pairs)), np.float32)
    votes = np.zeros((len(rows), classes), np.int64)
    for k, (i, j) in enumerate(pairs):
        decision = values[:, of[i]] @ weights[j - 1, of[i]] + values[:, of[j]] @ weights[i, of[j]] + rho[k]
        decisions[:, k] = decision
        votes[:, i] += decision > 0
        votes[:, j] += decision <= 0
    return decisions, votes


def _probabilities(decisions: np.ndarray, classes: int, prob_a: Sequence[float], prob_b: Sequence[float]) -> np.ndarray:
    """Class probabilities [N, classes] from decision values by Platt's sigmoids, coupled pairwise."""
    require(len(prob_a) == len(prob_b) >= decisions.shape[1], f"prob_a and prob_b must have {decisions.shape[1]} elements each, one for each pair of classes")
    pairs = decisions.shape[1]
    first = 1 - logistic(decisions * np.asarray(prob_a[:pairs], np.float32) + np.asarray(prob_b[:pairs], np.float32))
    first = np.clip(first, np.float32(1e-7), np.float32(1) - np.float32(1e-7))
    r = np.zeros((len(decisions), classes, classes), np.float32)
    i, j = np.triu_indices(classes, 1)
    r[:, i, j], r[:, j, i] = first, 1 - first
    return _coupled(r)


def _coupled(r: np.ndarray) -> np.ndarray:
    """p [N, classes] minimising Σ (r_ji p_i - r_ij p_j)², Σ p = 1: T.-F. Wu, C.-J. Lin, R. C. Weng, "Probability estimates for multi-class classification by pairwise
    coupling" (2004), algorithm 2, with libsvm's 100 rounds and tolerance; rows that have converged rest."""
    count = r.shape[1]
    Q = -np.swapaxes(r, 1, 2) * r
    diagonal = np.square(r).sum(1)  # r has a zero diagonal
    Q[:, np.arange(count), np.arange(count)] = diagonal
    p = np.full(r.shape[:2], 1 / count, np.float32)
    active = np.arange(len(r))
    for _ in range(100):
        q, x = Q[active], p[active]
        Qp = (q @ x[:, :, None])[:, :, 0]
        pQp = (x * Qp).sum(1)
        open_ = np.abs(Qp - pQp[:, None]).max(1, initial=0) >= 0.005 / count
        active, q, x, Qp, pQp = active[open_], q[open_], x[open_], Qp[open_], pQp[open_]
        if not len(active):
            break
        for t in range(count):
            step = (pQp - Qp[:, t]) / q[:, t, t]
            x[:, t] += step
            pQp = (pQp + step * (step * q[:, t, t] + 2 * Qp[:, t])) / np.square(1 + step)
            Qp = (Qp + step[:, None] * q[:, t]) / (1 + step)[:, None]
            x /= (1 + step)[:, None]
        p[active] = x
    return p


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _products(k: Lowering, rows: View, weights: np.ndarray, offset: Sequence[float], dtype: DType) -> View:
    """rows [N, F] · weightsᵀ [F, T] + offset [T] in `dtype`."""
    columns = k.constant(np.ascontiguousarray(weights.T.astype(dtype.numpy)))
    shape = (rows.shape[0], len(weights))
    rows = as_type(k, rows, dtype)
    if not len(offset):
        return k.matmul(rows, columns, dtype, shape)
    return k.matmul(rows, columns, dtype, shape, lambda total, b: total + b, [k.constant(np.asarray(offset, dtype.numpy))])


def _lower_linear(k: Lowering, X: View, coefficients: Sequence[float], intercepts: Sequence[float], targets: int) -> View:
    """See `_linear`."""
    rows = rows_view(k, X)
    features = known_features(rows)
    require(len(coefficients) == targets * features, f"{len(coefficients)} coefficients do not fit {targets} targets of {rows.shape[1]} features")
    return _products(k, rows, np.asarray(coefficients, np.float32).reshape(targets, features), intercepts, DType.FLOAT)


@LinearRegressor.lower
def _(k: Lowering, X: View, *, coefficients: Sequence[float] = (), intercepts: Sequence[float] = (), post_transform: str = "NONE", targets: int = 1, out: Spec) -> View:
    return lower_transformed(k, _lower_linear(k, X, coefficients, intercepts, targets), post_transform)


@LinearClassifier.lower
def _(k: Lowering, X: View, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float], intercepts: Sequence[float] = (),
      multi_class: int = 0, post_transform: str = "NONE", out: list[Spec]) -> tuple[View, View]:
    labels = classlabels_ints
    count = _score_count(known_features(X), coefficients, intercepts, len(labels))
    scores = _lower_linear(k, X, coefficients, intercepts, count)
    if count == 1 and len(labels) == 2:
        return lower_choice(k, scores, 0, labels), lower_both_classes(k, scores, post_transform, complement=True)
    require(count == len(labels), f"{len(labels)} class labels do not fit {count} scores")
    return lower_labels(k, k.reduce(5, scores, (1,), DType.INT64), labels), lower_transformed(k, scores, post_transform)


def _lower_kernel(k: Lowering, rows: View, support_vectors: Sequence[float], count: int, kernel_type: str, kernel_params: Sequence[float]) -> View:
    """See `_kernel`: DOUBLE [N, vectors]."""
    require(kernel_type in KERNELS, f"kernel_type is '{kernel_type}'; it must be one of {', '.join(KERNELS)}")
    features = known_features(rows)
    require(len(support_vectors) == count * features, f"support_vectors has {len(support_vectors)} elements for {count} vectors of {features} features")
    vectors = np.asarray(support_vectors, np.float32).reshape(count, features).astype(np.float64)
    gamma, coef0, degree = (*map(float, kernel_params), 0.0, 0.0, 0.0)[:3]
    products = _products(k, as_type(k, rows, DType.FLOAT), vectors, (), DType.DOUBLE)
    shape: tuple[Dim, ...] = products.shape

    def after(p: E) -> E:
        scaled = p * gamma + coef0
        return binary(Op.POW, scaled, degree) if kernel_type == "POLY" else unary(Op.TANH, scaled)
    if kernel_type == "RBF":
        squares = k.reduce(0, as_type(k, rows, DType.FLOAT), (1,), DType.DOUBLE, prologue=lambda x: cast(x, Compute.F64) * cast(x, Compute.F64))
        return k.map(lambda p, xx, vv: unary(Op.EXP, binary(Op.MAX, xx + vv - p * 2, 0) * -gamma), products, squares, k.constant(np.square(vectors).sum(1)), dtype=DType.DOUBLE, shape=shape)
    return products if kernel_type == "LINEAR" else k.map(after, products, dtype=DType.DOUBLE)


@SVMRegressor.lower
def _(k: Lowering, X: View, *, coefficients: Sequence[float] = (), kernel_params: Sequence[float] = (), kernel_type: str = "LINEAR", n_supports: int = 0, one_class: int = 0,
      post_transform: str = "NONE", rho: Sequence[float] = (), support_vectors: Sequence[float] = (), out: Spec) -> View:
    rows = as_type(k, rows_view(k, X), DType.FLOAT)
    values = _lower_kernel(k, rows, support_vectors, n_supports, kernel_type, kernel_params) if n_supports > 0 else rows
    width = n_supports if n_supports > 0 else known_features(rows)
    require(len(coefficients) == width, f"coefficients has {len(coefficients)} elements; {width} are needed")
    scores = _products(k, values, np.asarray(coefficients, np.float64).reshape(1, -1), [float(rho[0]) if rho else 0.0], DType.DOUBLE)
    if one_class:
        scores = k.map(lambda s: select(binary(Op.GT, s, 0), const(1, Compute.F32), const(-1, Compute.F32)), scores, dtype=DType.FLOAT)
    return lower_transformed(k, scores, post_transform)


@SVMClassifier.lower
def _(k: Lowering, X: View, *, classlabels_ints: Sequence[int] = (), classlabels_strings: Sequence[str] = (), coefficients: Sequence[float] = (), kernel_params: Sequence[float] = (),
      kernel_type: str = "LINEAR", post_transform: str = "NONE", prob_a: Sequence[float] = (), prob_b: Sequence[float] = (), rho: Sequence[float] = (),
      support_vectors: Sequence[float] = (), vectors_per_class: Sequence[int] = (), out: list[Spec]) -> tuple[View, View]:
    labels, rows = classlabels_ints, as_type(k, rows_view(k, X), DType.FLOAT)
    if not vectors_per_class:
        return _lower_linear_machines(k, rows, labels, coefficients, rho, post_transform)
    if prob_a:
        raise CannotLower("probabilities of pairs of classes are coupled by iterating until they agree")
    require(len(vectors_per_class) == len(labels), f"vectors_per_class has {len(vectors_per_class)} elements for {len(labels)} classes")
    decisions, votes = _lower_pairwise(k, rows, coefficients, kernel_params, kernel_type, rho, support_vectors, vectors_per_class)
    chosen = lower_labels(k, k.reduce(5, votes, (1,), DType.INT64), labels)
    if decisions.shape[1] == 1:
        return chosen, lower_both_classes(k, decisions, post_transform, complement=post_transform != "NONE")
    return chosen, lower_transformed(k, decisions, post_transform)


def _lower_linear_machines(k: Lowering, rows: View, labels: Sequence[int], coefficients: Sequence[float], rho: Sequence[float], post_transform: str) -> tuple[View, View]:
    """See `_linear_machines`."""
    scores = _lower_linear(k, rows, coefficients, [rho[0] if rho else 0.0] * len(labels), len(labels))
    chosen = k.reduce(5, scores, (1,), DType.INT64)
    if len(labels) == 2:
        passed, bound = (Op.GE, 0.5) if min(coefficients) >= 0 else (Op.GT, 0.0)
        chosen = k.map(lambda c, best: select(binary(passed, best, bound), 1, c), chosen, k.reduce(3, scores, (1,), DType.FLOAT), dtype=DType.INT64)
    return lower_labels(k, chosen, labels), lower_transformed(k, scores, post_transform)


def _lower_pairwise(k: Lowering, rows: View, coefficients: Sequence[float], kernel_params: Sequence[float], kernel_type: str, rho: Sequence[float],
                    support_vectors: Sequence[float], vectors_per_class: Sequence[int]) -> tuple[View, View]:
    """(decision values float32 [N, pairs], votes [N, classes]): see `_pairwise`. A pair's decision is a row of weights over all vectors, 0 for those of other classes."""
    classes, count = len(vectors_per_class), sum(vectors_per_class)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    require(len(coefficients) >= (classes - 1) * count, f"coefficients has {len(coefficients)} elements; {classes} classes with {count} support vectors need {(classes - 1) * count}")
    require(len(rho) >= len(pairs), f"rho has {len(rho)} elements for {len(pairs)} pairs of classes")
    given = np.asarray(coefficients, np.float64)[:(classes - 1) * count].reshape(classes - 1, count)
    owner = np.repeat(np.arange(classes), vectors_per_class)
    weights, side = np.zeros((len(pairs), count)), np.zeros((classes, len(pairs)), np.int32)
    for p, (i, j) in enumerate(pairs):
        weights[p] = np.where(owner == i, given[j - 1], np.where(owner == j, given[i], 0))
        side[i, p], side[j, p] = 1, -1
    values = _lower_kernel(k, rows, support_vectors, count, kernel_type, kernel_params)
    decisions = _products(k, values, weights, rho[:len(pairs)], DType.DOUBLE)

    def vote(d: E, s: E) -> E:
        first, second = binary(Op.AND, binary(Op.EQ, s, 1), binary(Op.GT, d, 0)), binary(Op.AND, binary(Op.EQ, s, -1), binary(Op.LE, d, 0))
        return binary(Op.OR, first, second)
    votes = k.reduce(0, decisions.unsqueeze(1).expand((rows.shape[0], classes, len(pairs))), (2,), DType.INT32, prologue=vote, leaves=[k.constant(side)])
    return as_type(k, decisions, DType.FLOAT), votes.squeeze(2)
