"""ai.onnx.ml: LinearClassifier, LinearRegressor, SVMClassifier, SVMRegressor."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..types import DType
from .ml_common import as_rows, both_classes, class_labels, label_dtype, logistic, row_count, transformed
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
