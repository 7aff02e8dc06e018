"""Losses: NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..expr import Compute, E, Op, binary, compute_type, const, select
from ..lowering import Lowering, View
from ..types import DType
from .activation import softmax_view
from .common import same_type
from .gather import gathered, index_view
from .precision import widened
from .registry import Spec, operator, require

REDUCTIONS = ("none", "mean", "sum")


def _loss(log_probability: np.ndarray, target: np.ndarray, weight: Any, ignore_index: int | None, reduction: str) -> np.ndarray:
    """-log_probability [N, C, *d] at the target classes [N, *d], weighted, reduced. Samples with the ignored class weigh nothing."""
    require(reduction in REDUCTIONS, f"reduction '{reduction}' is not one of {', '.join(REDUCTIONS)}")
    classes = log_probability.shape[1]
    kept = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    require(np.all(~kept | ((target >= 0) & (target < classes))), f"target classes must be in [0, {classes}), or equal to ignore_index (here {ignore_index})")
    index = np.where(kept, target, 0)
    weights = (np.ones((), log_probability.dtype) if weight is None else widened(weight)[index]) * kept.astype(log_probability.dtype)
    # An ignored sample is 0 even where its log-probability is infinite.
    losses = np.where(kept, -np.take_along_axis(log_probability, index[:, None], 1)[:, 0] * weights, log_probability.dtype.type(0))
    if reduction == "none":
        return losses
    return losses.sum() / weights.sum() if reduction == "mean" else losses.sum()


def _loss_shape(scores: Spec, target: Spec, weight: Spec | None, reduction: str) -> Spec:
    require(reduction in REDUCTIONS, f"reduction '{reduction}' is not one of {', '.join(REDUCTIONS)}")
    dtype = same_type(scores, weight, names="the scores and the weights")
    if reduction != "none":
        return Spec(dtype, ())
    if target.shape is not None:
        return Spec(dtype, target.shape)
    return Spec(dtype, None if scores.shape is None else (scores.shape[0], *scores.shape[2:]))


@operator()
def NegativeLogLikelihoodLoss(input: Any, target: Any, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean") -> Any:
    """-input [N, C, *d] at the classes `target` [N, *d]; `mean` divides by the sum of the weights."""
    return np.asarray(_loss(widened(input), target, weight, ignore_index, reduction)).astype(input.dtype, copy=False)


@NegativeLogLikelihoodLoss.shape
def _(input: Spec, target: Spec, weight: Spec | None = None, *, ignore_index: int | None = None, reduction: str = "mean") -> Spec:
    return _loss_shape(input, target, weight, reduction)


@operator()
def SoftmaxCrossEntropyLoss(scores: Any, labels: Any, weights: Any = None, *, ignore_index: int | None = None, reduction: str = "mean") -> Any:
    """The negative log likelihood of log_softmax(scores) [N, C, *d]; the log-probabilities are the second output."""
    x = widened(scores)
    shifted = x - x.max(1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = _loss(log_prob, labels, weights, ignore_index, reduction)
    return np.asarray(loss).astype(scores.dtype, copy=False), log_prob.astype(scores.dtype, copy=False)


@SoftmaxCrossEntropyLoss.shape
def _(scores: Spec, labels: Spec, weights: Spec | None = None, *, ignore_index: int | None = None, reduction: str = "mean") -> tuple[Spec, Spec]:
    return _loss_shape(scores, labels, weights, reduction), Spec(scores.dtype, scores.shape)


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _loss_view(k: Lowering, log_probability: View, target: View, weight: View | None, ignore_index: int | None, reduction: str) -> View:
    wide = compute_type(log_probability.dtype)
    kept_type = DType.DOUBLE if wide is Compute.F64 else DType.FLOAT
    # A second name keeps the index of ignored samples inside the classes.
    index = index_view(k, target)
    if ignore_index is not None:
        index = k.map(lambda t: select(binary(Op.EQ, t, ignore_index), const(0, t.type), t), index, dtype=index.dtype)
    picked = gathered(k, log_probability, index.unsqueeze(1), 1, 1, (target.shape[0], 1, *target.shape[1:])).squeeze(1)
    weights = None if weight is None else gathered(k, weight, index, 0, 0, target.shape)

    def kept(t: E) -> E:
        return binary(Op.NE, t, ignore_index) if ignore_index is not None else const(1, Compute.I32)

    def share(t: E, *w: E) -> E:
        return select(kept(t), w[0] if w else const(1, wide), const(0, wide))

    def loss(p: E, t: E, *w: E) -> E:
        return select(kept(t), -p * (w[0] if w else 1), const(0, wide))
    given = [] if weights is None else [weights]
    if reduction == "none":
        return k.map(loss, picked, target, *given, dtype=log_probability.dtype)
    losses = k.map(loss, picked, target, *given, dtype=kept_type)
    every = range(target.rank)
    if reduction == "sum":
        return k.reshape(k.reduce(0, losses, every, log_probability.dtype), ())
    if weights is None and ignore_index is None:
        return k.reshape(k.reduce(6, losses, every, log_probability.dtype), ())
    total = k.reduce(0, k.map(share, target, *given, dtype=kept_type), every, kept_type)
    return k.reshape(k.reduce(0, losses, every, log_probability.dtype, None, lambda sum, share: sum / share, after=[total]), ())


@NegativeLogLikelihoodLoss.lower
def _(k: Lowering, input: View, target: View, weight: View | None = None, *, ignore_index: int | None = None, reduction: str = "mean", out: Spec) -> View:
    return _loss_view(k, input, target, weight, ignore_index, reduction)


@SoftmaxCrossEntropyLoss.lower
def _(k: Lowering, scores: View, labels: View, weights: View | None = None, *, ignore_index: int | None = None, reduction: str = "mean", out: Any) -> tuple[View, View]:
    log_probability = softmax_view(k, scores, 1, 1)
    return _loss_view(k, log_probability, labels, weights, ignore_index, reduction), log_probability
