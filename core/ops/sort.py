"""Operators that order elements: TopK, Unique, NonMaxSuppression."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..dim import Dim, dim_max, dim_min, fresh, product, provably
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .common import normalize_axis
from .registry import Spec, operator, require


def _key(values: np.ndarray) -> np.ndarray:
    """Something NumPy sorts in the order of `values`: types it only knows from ml_dtypes do not sort NaN last by themselves."""
    return values.astype(np.float32) if DType.of(values).is_float and values.dtype.kind != "f" else values


@operator()
def TopK(X: np.ndarray, K: np.ndarray, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The K largest (or smallest) elements along `axis`, in order, and their int64 indices; of equal ones the lower index comes first. NaN counts as largest."""
    axis = normalize_axis(axis, X.ndim)
    count, size = int(K.reshape(-1)[0]), X.shape[axis]
    require(0 <= count <= size, f"K {count} must be in [0, {size}], the size of axis {axis}")
    key = _key(X)
    if largest:
        # Sorting the reversed axis and reversing the result keeps ties in their first order.
        order = size - 1 - np.flip(np.argsort(np.flip(key, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(key, axis, kind="stable")
    indices = order[(slice(None),) * axis + (slice(count),)].astype(np.int64)
    return np.take_along_axis(X, indices, axis), indices


@TopK.shape
def _(X: Spec, K: Spec, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Spec, Spec]:
    if X.shape is None:
        return X.with_shape(None), Spec(DType.INT64)
    axis = normalize_axis(axis, len(X.shape))
    size = X.shape[axis]
    count: Dim = fresh(0, size) if K.ints is None else K.ints[0]
    require(not (isinstance(count, int) and isinstance(size, int)) or 0 <= count <= size, f"K {count} must be in [0, {size}], the size of axis {axis}")
    shape = (*X.shape[:axis], count, *X.shape[axis + 1:])
    return X.with_shape(shape), Spec(DType.INT64, shape)


@operator()
def Unique(X: np.ndarray, *, axis: int | None = None, sorted: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The distinct elements (or slices along `axis`), their first positions, for each element its place among them, and how often each occurs.

    Ascending, slices compared lexicographically, or (sorted=0) by first occurrence. NaNs count as equal, as in numpy.unique.
    """
    if axis is None:
        X, axis = X.reshape(-1), 0
    axis = normalize_axis(axis, X.ndim)
    slices = np.moveaxis(X, axis, 0)
    # Elements become their ranks, so that slices of any type can be compared as rows of integers.
    ranks = np.unique(_key(slices.reshape(-1)), return_inverse=True)[1].reshape(slices.shape[0], -1 if slices.size else 0)
    _, first, inverse, counts = np.unique(ranks, axis=0, return_index=True, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        first, counts, inverse = first[order], counts[order], place[inverse]
    return X.take(first, axis), first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


@Unique.shape
def _(X: Spec, *, axis: int | None = None, sorted: int = 1) -> tuple[Spec, ...]:
    if X.shape is None:
        total, found = fresh(), fresh()
        return X.with_shape((found,) if axis is None else None), *(Spec(DType.INT64, (n,)) for n in (found, total, found))
    axis, shape = (0, (product(X.shape),)) if axis is None else (normalize_axis(axis, len(X.shape)), X.shape)
    size = shape[axis]
    count = fresh(1 if provably(lambda: size >= 1) else 0, size)
    return X.with_shape((*shape[:axis], count, *shape[axis + 1:])), *(Spec(DType.INT64, (n,)) for n in (count, size, count))


@operator()
def NonMaxSuppression(boxes: np.ndarray, scores: np.ndarray, max_output_boxes_per_class: np.ndarray | None = None, iou_threshold: np.ndarray | None = None,
                      score_threshold: np.ndarray | None = None, *, center_point_box: int = 0) -> np.ndarray:
    """Boxes [B, N, 4] and scores [B, C, N] → int64 [count, 3] of (batch, class, box): by batch, then class, then falling score (ties: lower box first).

    Greedy: a box is dropped where its overlap with a better one of the class is over `iou_threshold`. Scores must exceed `score_threshold`: the text says
    "less … are removed", ONNX's reference and onnxruntime both drop equal ones too, and models are tuned on them.
    """
    batches, count, _ = boxes.shape
    require(boxes.shape[2] == 4, f"boxes must be [batch, box, 4], not {list(boxes.shape)}")
    require(scores.ndim == 3 and (scores.shape[0], scores.shape[2]) == (batches, count),
            f"scores {list(scores.shape)} do not fit boxes {list(boxes.shape)}: they must be [{batches}, classes, {count}]")
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class.reshape(-1)[0])
    overlap = np.float32(0) if iou_threshold is None else iou_threshold.reshape(-1)[0]
    require(0 <= overlap <= 1, f"iou_threshold {overlap} must be in [0, 1]")
    selected = []
    for batch in range(batches) if limit > 0 else ():
        low, high = _corners(boxes[batch], center_point_box)
        for kind, score in enumerate(scores[batch]):
            order = np.argsort(-score, kind="stable")
            if score_threshold is not None:
                order = order[score[order] > score_threshold.reshape(-1)[0]]
            kept = _greedy(low, high, order, limit, overlap)
            selected.append(np.stack([np.full(len(kept), batch), np.full(len(kept), kind), kept], 1))
    return np.concatenate([np.zeros((0, 3), np.int64), *selected]).astype(np.int64)


def _corners(boxes: np.ndarray, center_point_box: int) -> tuple[np.ndarray, np.ndarray]:
    """The low and high corners [N, 2] of boxes [N, 4]."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if center_point_box:
        return first - second / 2, first + second / 2
    return np.minimum(first, second), np.maximum(first, second)


def _greedy(low: np.ndarray, high: np.ndarray, order: np.ndarray, limit: int, overlap: np.floating) -> np.ndarray:
    """Take the first of `order`, drop what overlaps it too much, repeat."""
    areas = (high - low).prod(1)
    kept: list[int] = []
    while order.size and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(high[order], high[best]) - np.maximum(low[order], low[best])
        common = np.where((sides > 0).all(1), sides.prod(1), 0)
        union = areas[order] + areas[best] - common
        with np.errstate(all="ignore"):
            drop = (common > 0) & (areas[order] > 0) & (areas[best] > 0) & (union > 0) & (common / union > overlap)
        order = order[~drop]
    return np.array(kept, np.int64)


@NonMaxSuppression.shape
def _(boxes: Spec, scores: Spec, max_output_boxes_per_class: Spec | None = None, iou_threshold: Spec | None = None, score_threshold: Spec | None = None, *,
      center_point_box: int = 0) -> Spec:
    limit = [0] if max_output_boxes_per_class is None else max_output_boxes_per_class.ints
    if limit is not None and isinstance(limit[0], int) and limit[0] <= 0:
        return Spec(DType.INT64, (0, 3))
    if scores.shape is None:
        return Spec(DType.INT64, (fresh(), 3))
    require(len(scores.shape) == 3, f"scores must be [batch, classes, boxes], not {scores}")
    batches, kinds, count = scores.shape
    return Spec(DType.INT64, (fresh(0, batches * kinds * (count if limit is None else dim_min(count, limit[0]))), 3))


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

@TopK.lower
def _(k: Lowering, X: View, K: View, *, axis: int = -1, largest: int = 1, sorted: int = 1, out: Any) -> tuple[View, View]:
    first = out[0] if isinstance(out, list) else out
    values, indices = k.buffer(X.dtype, first.shape).whole(), k.buffer(DType.INT64, first.shape).whole()
    k.call(Kernel.SORT, [X], [values, indices], axis=normalize_axis(axis, X.rank), largest=largest)
    return values, indices


@Unique.lower
def _(k: Lowering, X: View, *, axis: int | None = None, sorted: int = 1, out: Any) -> tuple[View, ...]:
    data, along = (k.reshape(X, (product(X.shape),)), 0) if axis is None else (X, normalize_axis(axis, X.rank))
    rows = data.permute((along, *(i for i in range(data.rank) if i != along)))
    first, inverse, counts = (k.buffer(DType.INT64, rows.shape[:1]).whole() for _ in range(3))
    count = k.buffer(DType.INT64, (1,)).whole()
    k.call(Kernel.COMPACT, [rows], [first, count, inverse, counts], op=1, sorted=sorted)
    found = _count_of(out, along)
    k.decide(found, count)
    first, counts = first.slice(0, 0, found), counts.slice(0, 0, found)
    made = k.buffer(X.dtype, (*data.shape[:along], found, *data.shape[along + 1:])).whole()
    k.call(Kernel.GATHER, [data, first], [made], axis=along, mode=0)
    return made, first, inverse, counts


def _count_of(out: Any, along: int) -> Dim:
    """The size of Unique's result along its axis, from whichever output speaks of it."""
    specs = out if isinstance(out, list) else [out]
    for number, spec in enumerate(specs):
        if spec is not None and number != 2:
            return spec.shape[along if number == 0 else 0]
    return fresh()


@NonMaxSuppression.lower
def _(k: Lowering, boxes: View, scores: View, max_output_boxes_per_class: View | None = None, iou_threshold: View | None = None, score_threshold: View | None = None, *,
      center_point_box: int = 0, out: Spec) -> View:
    assert out.shape is not None
    if max_output_boxes_per_class is None:  # no limit is a limit of 0
        return k.constant(np.zeros((0, 3), np.int64))
    batches, kinds, count = scores.shape
    known = max_output_boxes_per_class.value
    room = count if known is None else dim_min(count, dim_max(np.asarray(known, object).reshape(-1)[0], 0))
    places, total = k.buffer(DType.INT64, (batches * kinds * room, 3)).whole(), k.buffer(DType.INT64, (1,)).whole()
    k.call(Kernel.COMPACT, [boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold], [places, total], op=2, center=center_point_box)
    k.decide(out.shape[0], total)
    return places.slice(0, 0, out.shape[0])
