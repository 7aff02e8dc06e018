"""ai.onnx.ml: TreeEnsemble, TreeEnsembleClassifier, TreeEnsembleRegressor.

All trees of an ensemble become one table of nodes (`Forest`); rows walk all trees at once, one level a step: an array [trees, rows] of node numbers. The operators
differ in how attributes name the nodes and in what is done with the leaves' weights.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from ..expr import Compute, Op, binary, cast, const, select
from ..kernels import Kernel
from ..lowering import Lowering, View
from ..types import DType
from .ml_common import TRANSFORMS, as_rows, as_type, both_classes, class_labels, label_dtype, lower_both_classes, lower_choice, lower_labels, lower_transformed, row_count, rows_view, transformed
from .ml_tables import tables
from .registry import Spec, operator, require

AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF")
MEMBER, LEAF = MODES.index("BRANCH_MEMBER"), MODES.index("LEAF")
_COMPARE: list[Callable[[Any, Any], Any]] = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
#: Elements of one [trees, rows] array: rows are taken in blocks of at most this.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Forest:
    """Nodes 0 … n-1 of all trees. A leaf is its own child. `weights` [n, k] go to the targets `targets` [n, k]; unused places point to the extra target `n_targets`."""

    roots: np.ndarray
    mode: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    true: np.ndarray
    false: np.ndarray
    missing_true: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    n_targets: int
    members: np.ndarray          # sorted distinct members of all sets
    member_keys: np.ndarray      # sorted node · len(members) + place of the member

    def leaves(self, X: np.ndarray) -> np.ndarray:
        """The leaf each row of X [N, F] ends in, in each tree: [trees, N] node numbers."""
        n = len(X)
        at = np.repeat(self.roots[:, None], n, 1).ravel()
        row = np.tile(np.arange(n), len(self.roots))
        walking = np.flatnonzero(self.mode[at] != LEAF)
        while len(walking):
            node = at[walking]
            x = X[row[walking], self.feature[node]]
            node = np.where(self._test(node, x), self.true[node], self.false[node])
            at[walking] = node
            walking = walking[self.mode[node] != LEAF]
        return at.reshape(len(self.roots), n)

    def _test(self, node: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Whether each x takes the true branch of its node. A NaN goes where the node's `missing_true` says."""
        mode = self.mode[node]
        first = mode[0]
        if (mode == first).all():
            passed = self._test_mode(first, node, x)
        else:
            passed = np.empty(len(node), np.bool_)
            for each in np.unique(mode):
                here = mode == each
                passed[here] = self._test_mode(each, node[here], x[here])
        return np.where(np.isnan(x), self.missing_true[node], passed) if x.dtype.kind == "f" else passed

    def _test_mode(self, mode: int, node: np.ndarray, x: np.ndarray) -> np.ndarray:
        if mode != MEMBER:
            return _COMPARE[mode](x, self.value[node])
        if not len(self.member_keys):
            return np.zeros(len(node), np.bool_)
        place = np.searchsorted(self.members, x).clip(max=len(self.members) - 1)
        key = node * len(self.members) + place
        found = np.searchsorted(self.member_keys, key).clip(max=len(self.member_keys) - 1)
        return (self.members[place] == x) & (self.member_keys[found] == key)

    def scores(self, X: np.ndarray, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
        """(scores [N, targets], whether any leaf had a weight for the target) of the rows of X, summed tree by tree in the weights' type."""
        made = [self._block_scores(X[i:i + step], aggregate) for step in [max(1, BLOCK // max(1, len(self.roots)))] for i in range(0, max(len(X), 1), step)]
        return np.concatenate([s for s, _ in made]), np.concatenate([h for _, h in made])

    def _block_scores(self, X: np.ndarray, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
        start = {"MIN": np.inf, "MAX": -np.inf}.get(aggregate, 0)
        combine = {"MIN": np.minimum, "MAX": np.maximum}.get(aggregate, np.add)
        scores = np.full((len(X), self.n_targets + 1), start, self.weights.dtype)
        has = np.zeros(scores.shape, np.bool_)
        rows = np.arange(len(X))[:, None]
        for leaf in self.leaves(X):
            target = self.targets[leaf]  # a leaf names each target once, so these are distinct places
            scores[rows, target] = combine(scores[rows, target], self.weights[leaf])
            has[rows, target] = True
        scores[~has] = 0
        if aggregate == "AVERAGE":
            scores /= len(self.roots)
        return scores[:, :-1], has[:, :-1]


def _forest(roots: Sequence[int] | np.ndarray, mode: np.ndarray, feature: Any, value: np.ndarray, true: np.ndarray, false: np.ndarray, missing_true: Any,
            leaf_nodes: np.ndarray, leaf_targets: np.ndarray, leaf_weights: np.ndarray, n_targets: int, combine: Any, sets: Sequence[tuple[int, np.ndarray]] = ()) -> Forest:
    """Check the table and gather the weights of each leaf, adding (or taking the least or greatest of) those for one target."""
    count = len(mode)
    feature, missing = np.asarray(feature, np.int64), np.zeros(count, np.bool_)
    if len(missing_true):
        missing[:len(missing_true)] = np.asarray(missing_true) != 0
    inner = mode != LEAF
    require(n_targets > 0, f"the number of targets is {n_targets}; it must be positive")
    require(not len(leaf_targets) or (leaf_targets.min() >= 0 and leaf_targets.max() < n_targets), f"a leaf's target is not in [0, {n_targets})")
    require(feature[inner].min(initial=0) >= 0, "a node's feature id is negative")
    for child in (true[inner], false[inner]):
        require(not len(child) or (child.min() >= 0 and child.max() < count), "a node's child does not exist")
    own = np.arange(count)
    true, false = np.where(inner, true, own), np.where(inner, false, own)
    _check_depth(np.asarray(roots, np.int64), inner, true, false)
    targets, weights = _leaf_table(count, leaf_nodes, leaf_targets, leaf_weights, n_targets, combine)
    members = np.unique(np.concatenate([np.asarray(s) for _, s in sets])) if sets else np.zeros(0, value.dtype)
    keys = [node * len(members) + np.searchsorted(members, s) for node, s in sets]
    member_keys = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return Forest(np.asarray(roots, np.int64), mode, feature, value, true, false, missing, targets, weights, n_targets, members, member_keys)


def _check_depth(roots: np.ndarray, inner: np.ndarray, true: np.ndarray, false: np.ndarray) -> None:
    """InvalidGraph where a node is its own descendant: the walk would not end."""
    require(not len(roots) or (roots.min() >= 0 and roots.max() < len(inner)), "a tree's root does not exist")
    level = np.unique(roots)
    for _ in range(len(inner) + 1):
        level = level[inner[level]]
        if not len(level):
            return
        level = np.unique(np.concatenate([true[level], false[level]]))
    require(False, "the nodes of a tree form a cycle")


def _leaf_table(count: int, nodes: np.ndarray, targets: np.ndarray, weights: np.ndarray, n_targets: int, combine: Any) -> tuple[np.ndarray, np.ndarray]:
    """(targets, weights) [count, most weights of one node]; each target once a node, unused places at target `n_targets`."""
    pair, which = np.unique(nodes * n_targets + targets, return_inverse=True)
    start = {np.minimum: np.inf, np.maximum: -np.inf}.get(combine, 0)
    total = np.full(len(pair), start, weights.dtype)
    combine.at(total, which, weights)
    node, target = pair // n_targets, pair % n_targets
    place = np.arange(len(pair)) - np.searchsorted(node, node)  # pairs are sorted by node: the place within its node
    width = int(place.max(initial=0)) + 1
    table, table_weights = np.full((count, width), n_targets, np.int64), np.zeros((count, width), weights.dtype)
    table[node, place], table_weights[node, place] = target, total
    return table, table_weights


def _combine(aggregate: str) -> Any:
    require(aggregate in AGGREGATES, f"aggregate_function is '{aggregate}'; it must be one of {', '.join(AGGREGATES)}")
    return {"MIN": np.minimum, "MAX": np.maximum}.get(aggregate, np.add)


# -- from attributes to forests, once for each set of attributes ---------------------------------------------------------------------------------

_forests: OrderedDict[tuple[Any, ...], tuple[tuple[Any, ...], Forest]] = OrderedDict()
_lock = Lock()


def _prepared(build: Callable[..., Forest], *attributes: Any) -> Forest:
    """build(*attributes), remembered for the last few calls. The key is the identity of lists and arrays, which the entry keeps alive, so that no other object can take it."""
    key = (build, *(a if isinstance(a, (int, str)) else id(a) for a in attributes))
    with _lock:
        found = _forests.get(key)
        if found is not None:
            _forests.move_to_end(key)
            return found[1]
    forest = build(*attributes)
    with _lock:
        _forests[key] = (attributes, forest)
        while len(_forests) > 8:
            _forests.popitem(last=False)
    return forest


def _same_length(**lists: Any) -> None:
    lengths = {name: len(values) for name, values in lists.items()}
    require(len(set(lengths.values())) <= 1, f"attributes must have the same length: {', '.join(f'{n} has {k}' for n, k in lengths.items())}")


def _build_v5(leaf_targetids: Sequence[int], leaf_weights: np.ndarray, membership_values: np.ndarray | None, nodes_falseleafs: Sequence[int], nodes_falsenodeids: Sequence[int],
              nodes_featureids: Sequence[int], nodes_missing_value_tracks_true: Sequence[int], nodes_modes: np.ndarray, nodes_splits: np.ndarray, nodes_trueleafs: Sequence[int],
              nodes_truenodeids: Sequence[int], tree_roots: Sequence[int], n_targets: int, aggregate: str) -> Forest:
    """TreeEnsemble: inner nodes come first in the table, the leaves after them."""
    _same_length(nodes_modes=nodes_modes, nodes_featureids=nodes_featureids, nodes_splits=nodes_splits, nodes_truenodeids=nodes_truenodeids, nodes_falsenodeids=nodes_falsenodeids,
                 nodes_trueleafs=nodes_trueleafs, nodes_falseleafs=nodes_falseleafs)
    _same_length(leaf_targetids=leaf_targetids, leaf_weights=leaf_weights)
    inner, leaves = len(nodes_modes), len(leaf_targetids)
    require(not inner or int(nodes_modes.max()) <= MEMBER, f"nodes_modes has {int(nodes_modes.max(initial=0))}; modes are 0 to {MEMBER}")
    dtype = np.result_type(nodes_splits.dtype, np.float32)  # float16 models compute in float32
    mode = np.concatenate([nodes_modes.astype(np.int64), np.full(leaves, LEAF)])
    value = np.concatenate([nodes_splits.astype(dtype), np.zeros(leaves, dtype)])

    def children(ids: Sequence[int], are_leaves: Sequence[int]) -> np.ndarray:
        return np.concatenate([np.asarray(ids, np.int64) + np.where(np.asarray(are_leaves) != 0, inner, 0), np.zeros(leaves, np.int64)])
    tested = np.flatnonzero(nodes_modes == MEMBER)
    sets: list[tuple[int, np.ndarray]] = []
    if len(tested):
        require(membership_values is not None, "nodes with mode BRANCH_MEMBER need the attribute membership_values")
        given = np.asarray(membership_values).astype(dtype)
        ends = np.flatnonzero(np.isnan(np.append(given, np.nan)))
        require(len(ends) >= len(tested), f"membership_values has {len(ends)} sets for {len(tested)} nodes with mode BRANCH_MEMBER")
        starts = np.concatenate([[0], ends + 1])
        sets = [(int(node), given[starts[i]:ends[i]]) for i, node in enumerate(tested)]
    return _forest(tree_roots, mode, [*nodes_featureids, *[0] * leaves], value, children(nodes_truenodeids, nodes_trueleafs), children(nodes_falsenodeids, nodes_falseleafs),
                   nodes_missing_value_tracks_true, inner + np.arange(leaves), np.asarray(leaf_targetids, np.int64), leaf_weights.astype(dtype), n_targets, _combine(aggregate), sets)


def _build_v3(nodes_treeids: Sequence[int], nodes_nodeids: Sequence[int], nodes_featureids: Sequence[int], nodes_modes: Sequence[str], nodes_values: Any,
              nodes_truenodeids: Sequence[int], nodes_falsenodeids: Sequence[int], nodes_missing_value_tracks_true: Sequence[int],
              leaf_treeids: Sequence[int], leaf_nodeids: Sequence[int], leaf_ids: Sequence[int], leaf_weights: Any, n_targets: int, aggregate: str) -> Forest:
    """TreeEnsembleClassifier and -Regressor: nodes are named (tree id, node id); the first node of a tree is its root."""
    _same_length(nodes_treeids=nodes_treeids, nodes_nodeids=nodes_nodeids, nodes_featureids=nodes_featureids, nodes_modes=nodes_modes, nodes_values=nodes_values,
                 nodes_truenodeids=nodes_truenodeids, nodes_falsenodeids=nodes_falsenodeids)
    _same_length(treeids_of_weights=leaf_treeids, nodeids_of_weights=leaf_nodeids, ids_of_weights=leaf_ids, weights=leaf_weights)
    tree, node = np.asarray(nodes_treeids, np.int64), np.asarray(nodes_nodeids, np.int64)
    names = {name: i for i, name in enumerate(MODES)}
    unknown = sorted(set(nodes_modes) - set(MODES) | ({"BRANCH_MEMBER"} & set(nodes_modes)))
    require(not unknown, f"nodes_modes has {unknown}; known: {', '.join(m for m in MODES if m != 'BRANCH_MEMBER')}")
    mode = np.array([names[m] for m in nodes_modes], np.int64)
    number = _Names(tree, node)
    inner = mode != LEAF
    true, false = (np.where(inner, number.of(tree, np.asarray(ids, np.int64), inner), 0) for ids in (nodes_truenodeids, nodes_falsenodeids))
    roots = np.sort(np.unique(tree, return_index=True)[1])
    value = np.asarray(nodes_values, nodes_values.dtype if isinstance(nodes_values, np.ndarray) else np.float32)
    weights = np.asarray(leaf_weights, leaf_weights.dtype if isinstance(leaf_weights, np.ndarray) else np.float32)
    owners = number.of(np.asarray(leaf_treeids, np.int64), np.asarray(leaf_nodeids, np.int64), np.ones(len(leaf_ids), np.bool_))
    return _forest(roots, mode, nodes_featureids, value, true, false, nodes_missing_value_tracks_true, owners, np.asarray(leaf_ids, np.int64), weights, n_targets,
                   _combine(aggregate))


class _Names:
    """(tree id, node id) → position in the table."""

    def __init__(self, tree: np.ndarray, node: np.ndarray) -> None:
        self.low = min(node.min(initial=0), 0)
        self.span = int(node.max(initial=0) - self.low) + 1
        key = tree * self.span + (node - self.low)
        self.order = np.argsort(key, kind="stable")
        self.keys = key[self.order]
        require((self.keys[1:] != self.keys[:-1]).all(), "a node id appears twice in one tree")

    def of(self, tree: np.ndarray, node: np.ndarray, needed: np.ndarray) -> np.ndarray:
        """The positions; InvalidGraph where a needed one does not exist."""
        if not len(self.keys) or not len(tree):
            require(not len(tree), "the ensemble has weights and no nodes")
            return np.zeros(0, np.int64)
        key = tree * self.span + (node - self.low)
        at = np.searchsorted(self.keys, key).clip(max=len(self.keys) - 1)
        missing = needed & ((self.keys[at] != key) | (node < self.low) | (node >= self.low + self.span))
        require(not missing.any(), f"node {node[missing][:1]} of tree {tree[missing][:1]} does not exist")
        return self.order[at]


def _rows(X: np.ndarray, forest: Forest) -> np.ndarray:
    rows = as_rows(X)
    used = forest.feature[forest.mode != LEAF].max(initial=-1)
    require(used < rows.shape[1], f"the trees test feature {used} and X has {rows.shape[1]}")
    return rows.astype(np.float32) if rows.dtype == np.float16 else rows


# -- operators ---------------------------------------------------------------------------------------------------------------------------------

@operator("ai.onnx.ml")
def TreeEnsemble(X: np.ndarray, *, aggregate_function: int = 1, leaf_targetids: Sequence[int], leaf_weights: np.ndarray, membership_values: np.ndarray | None = None,
                 n_targets: int = 1, nodes_falseleafs: Sequence[int], nodes_falsenodeids: Sequence[int], nodes_featureids: Sequence[int], nodes_hitrates: np.ndarray | None = None,
                 nodes_missing_value_tracks_true: Sequence[int] = (), nodes_modes: np.ndarray, nodes_splits: np.ndarray, nodes_trueleafs: Sequence[int],
                 nodes_truenodeids: Sequence[int], post_transform: int = 0, tree_roots: Sequence[int]) -> np.ndarray:
    """The leaves that the rows of X [N, F] reach, their weights aggregated for each target: [N, n_targets] in X's type."""
    require(0 <= aggregate_function < len(AGGREGATES), f"aggregate_function is {aggregate_function}; it must be 0 to 3")
    require(0 <= post_transform < len(TRANSFORMS), f"post_transform is {post_transform}; it must be 0 to 4")
    aggregate = AGGREGATES[aggregate_function]
    forest = _prepared(_build_v5, leaf_targetids, leaf_weights, membership_values, nodes_falseleafs, nodes_falsenodeids, nodes_featureids, nodes_missing_value_tracks_true,
                       nodes_modes, nodes_splits, nodes_trueleafs, nodes_truenodeids, tree_roots, n_targets, aggregate)
    scores, _ = forest.scores(_rows(X, forest), aggregate)
    return transformed(scores, TRANSFORMS[post_transform], scores.dtype).astype(X.dtype)


@TreeEnsemble.shape
def _(X: Spec, *, n_targets: int = 1, **_: Any) -> Spec:
    return Spec(X.dtype, (row_count(X), n_targets))


@operator("ai.onnx.ml")
def TreeEnsembleRegressor(X: np.ndarray, *, aggregate_function: str = "SUM", base_values: Sequence[float] = (), base_values_as_tensor: np.ndarray | None = None, n_targets: int = 1,
                          nodes_falsenodeids: Sequence[int] = (), nodes_featureids: Sequence[int] = (), nodes_hitrates: Sequence[float] = (),
                          nodes_hitrates_as_tensor: np.ndarray | None = None, nodes_missing_value_tracks_true: Sequence[int] = (), nodes_modes: Sequence[str] = (),
                          nodes_nodeids: Sequence[int] = (), nodes_treeids: Sequence[int] = (), nodes_truenodeids: Sequence[int] = (), nodes_values: Sequence[float] = (),
                          nodes_values_as_tensor: np.ndarray | None = None, post_transform: str = "NONE", target_ids: Sequence[int] = (), target_nodeids: Sequence[int] = (),
                          target_treeids: Sequence[int] = (), target_weights: Sequence[float] = (), target_weights_as_tensor: np.ndarray | None = None) -> np.ndarray:
    """As TreeEnsemble with nodes named by tree and node ids, plus base values; float32 [N, n_targets]."""
    forest = _prepared(_build_v3, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _either(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                       nodes_missing_value_tracks_true, target_treeids, target_nodeids, target_ids, _either(target_weights, target_weights_as_tensor), n_targets,
                       aggregate_function)
    base = _base(base_values, base_values_as_tensor, (0, 1, n_targets))
    scores, _ = forest.scores(_rows(X, forest), aggregate_function)
    return transformed(scores + base if base.size else scores, post_transform)


@TreeEnsembleRegressor.shape
def _(X: Spec, *, n_targets: int = 1, **_: Any) -> Spec:
    return Spec(DType.FLOAT, (row_count(X), n_targets))


@operator("ai.onnx.ml")
def TreeEnsembleClassifier(X: np.ndarray, *, base_values: Sequence[float] = (), base_values_as_tensor: np.ndarray | None = None, class_ids: Sequence[int] = (),
                           class_nodeids: Sequence[int] = (), class_treeids: Sequence[int] = (), class_weights: Sequence[float] = (),
                           class_weights_as_tensor: np.ndarray | None = None, classlabels_int64s: Sequence[int] = (), classlabels_strings: Sequence[str] = (),
                           nodes_falsenodeids: Sequence[int] = (), nodes_featureids: Sequence[int] = (), nodes_hitrates: Sequence[float] = (),
                           nodes_hitrates_as_tensor: np.ndarray | None = None, nodes_missing_value_tracks_true: Sequence[int] = (), nodes_modes: Sequence[str] = (),
                           nodes_nodeids: Sequence[int] = (), nodes_treeids: Sequence[int] = (), nodes_truenodeids: Sequence[int] = (), nodes_values: Sequence[float] = (),
                           nodes_values_as_tensor: np.ndarray | None = None, post_transform: str = "NONE") -> tuple[np.ndarray, np.ndarray]:
    """(label of the greatest summed weight [N], scores float32 [N, classes]).

    Two classes whose leaves all vote for one class id are a binary model with one score, as boosting libraries write it: that score is the positive (second) class's;
    weights without a negative one are probabilities (threshold 0.5, the other score is 1 - score), else margins (threshold 0, -score).
    """
    labels = class_labels(classlabels_int64s, classlabels_strings)
    weights = _either(class_weights, class_weights_as_tensor)
    forest = _prepared(_build_v3, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _either(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                       nodes_missing_value_tracks_true, class_treeids, class_nodeids, class_ids, weights, len(labels), "SUM")
    base = _base(base_values, base_values_as_tensor, (0, 1, 2) if len(labels) <= 2 else (0, len(labels)))
    scores, has = forest.scores(_rows(X, forest), "SUM")
    if len(labels) == 1 and classlabels_int64s:
        scores = scores + base[-1:].sum()
        return (scores[:, 0] > 0).astype(np.int64), transformed(scores, "PROBIT" if post_transform == "PROBIT" else "NONE")
    if len(labels) == 2 and len(base) < 2 and len(set(class_ids)) == 1:
        return _binary(labels, scores, base, class_ids[0], np.min(weights) >= 0, post_transform)
    if base.size == len(labels):
        scores, has = scores + base, np.ones_like(has)
    elif base.size:
        scores = scores + np.append(base, np.zeros(1, base.dtype))
    best = np.where(has, scores, -np.inf).argmax(1)
    return labels[best], transformed(scores, post_transform)


@TreeEnsembleClassifier.shape
def _(X: Spec, *, classlabels_int64s: Sequence[int] = (), classlabels_strings: Sequence[str] = (), **_: Any) -> tuple[Spec, Spec]:
    rows = row_count(X)
    return Spec(label_dtype(classlabels_int64s, classlabels_strings), (rows,)), Spec(DType.FLOAT, (rows, len(classlabels_int64s or classlabels_strings)))


def _binary(labels: np.ndarray, scores: np.ndarray, base: np.ndarray, voted: int, positive: Any, post_transform: str) -> tuple[np.ndarray, np.ndarray]:
    """The binary model with one score. Written as votes for class 1, both scores are kept as they are and a single base value belongs to class 0, which has no votes."""
    score = scores[:, voted]
    if voted == 0 and base.size:
        score = score + base[0]
    chosen = labels[(score > (0.5 if positive else 0)).astype(np.int64)]
    return chosen, transformed(scores, post_transform) if voted else both_classes(np.asarray(score, np.float32), post_transform, complement=bool(positive))


def _either(floats: Sequence[float], tensor: np.ndarray | None) -> Any:
    require(tensor is None or not floats, "an attribute and its _as_tensor form must not both be given")
    return floats if tensor is None else tensor.ravel() if tensor.ndim != 1 else tensor


def _base(floats: Sequence[float], tensor: np.ndarray | None, sizes: Sequence[int]) -> np.ndarray:
    values = np.asarray(_either(floats, tensor), tensor.dtype if tensor is not None else np.float32)
    require(len(values) in sizes, f"base_values has {len(values)} elements; it must have {' or '.join(map(str, sorted(set(sizes))))}")
    return values


# -- lowering ---------------------------------------------------------------------------------------------------------------------------------

def _walk(k: Lowering, X: View, forest: Forest, aggregate: str, only: int | None = None, needs_has: bool = False) -> tuple[View, View | None]:
    """(scores [N, targets] in the weights' type, which targets were spoken for where `needs_has` and rows differ in it)."""
    rows = rows_view(k, X)
    narrow = rows.dtype in (DType.FLOAT, DType.FLOAT16, DType.BFLOAT16)
    made = tables(forest, not narrow, only, needs_has or aggregate in ("MIN", "MAX"))
    rows = rows if narrow and made.nodes.dtype == np.int32 else as_type(k, rows, DType.DOUBLE)
    shape = (rows.shape[0], 1 if only is not None else forest.n_targets)
    scores = k.buffer(DType.of(made.weights), shape).whole()
    has = k.buffer(DType.BOOL, shape).whole() if needs_has and not made.spoken else None
    operands = [k.constant(a) if a is not None else None for a in (made.nodes, made.roots, made.features, made.weights, made.targets, made.members)]
    k.call(Kernel.TREES, [rows, *operands], [scores] if has is None else [scores, has], aggregate=AGGREGATES.index(aggregate), shift=made.shift, general=made.general)
    return scores, has


@TreeEnsemble.lower
def _(k: Lowering, X: View, *, aggregate_function: int = 1, leaf_targetids: Sequence[int], leaf_weights: np.ndarray, membership_values: np.ndarray | None = None,
      n_targets: int = 1, nodes_falseleafs: Sequence[int], nodes_falsenodeids: Sequence[int], nodes_featureids: Sequence[int],
      nodes_missing_value_tracks_true: Sequence[int] = (), nodes_modes: np.ndarray, nodes_splits: np.ndarray, nodes_trueleafs: Sequence[int],
      nodes_truenodeids: Sequence[int], post_transform: int = 0, tree_roots: Sequence[int], out: Spec, **_: Any) -> View:
    aggregate = AGGREGATES[aggregate_function]
    forest = _prepared(_build_v5, leaf_targetids, leaf_weights, membership_values, nodes_falseleafs, nodes_falsenodeids, nodes_featureids, nodes_missing_value_tracks_true,
                       nodes_modes, nodes_splits, nodes_trueleafs, nodes_truenodeids, tree_roots, n_targets, aggregate)
    scores = _walk(k, X, forest, aggregate)[0]
    assert out.dtype is not None
    return as_type(k, lower_transformed(k, scores, TRANSFORMS[post_transform], scores.dtype), out.dtype)


@TreeEnsembleRegressor.lower
def _(k: Lowering, X: View, *, aggregate_function: str = "SUM", base_values: Sequence[float] = (), base_values_as_tensor: np.ndarray | None = None, n_targets: int = 1,
      nodes_falsenodeids: Sequence[int] = (), nodes_featureids: Sequence[int] = (), nodes_missing_value_tracks_true: Sequence[int] = (), nodes_modes: Sequence[str] = (),
      nodes_nodeids: Sequence[int] = (), nodes_treeids: Sequence[int] = (), nodes_truenodeids: Sequence[int] = (), nodes_values: Sequence[float] = (),
      nodes_values_as_tensor: np.ndarray | None = None, post_transform: str = "NONE", target_ids: Sequence[int] = (), target_nodeids: Sequence[int] = (),
      target_treeids: Sequence[int] = (), target_weights: Sequence[float] = (), target_weights_as_tensor: np.ndarray | None = None, **_: Any) -> View:
    forest = _prepared(_build_v3, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _either(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                       nodes_missing_value_tracks_true, target_treeids, target_nodeids, target_ids, _either(target_weights, target_weights_as_tensor), n_targets,
                       aggregate_function)
    base = _base(base_values, base_values_as_tensor, (0, 1, n_targets))
    scores = _walk(k, X, forest, aggregate_function)[0]
    return lower_transformed(k, _plus(k, scores, base), post_transform)


@TreeEnsembleClassifier.lower
def _(k: Lowering, X: View, *, base_values: Sequence[float] = (), base_values_as_tensor: np.ndarray | None = None, class_ids: Sequence[int] = (),
      class_nodeids: Sequence[int] = (), class_treeids: Sequence[int] = (), class_weights: Sequence[float] = (), class_weights_as_tensor: np.ndarray | None = None,
      classlabels_int64s: Sequence[int] = (), nodes_falsenodeids: Sequence[int] = (), nodes_featureids: Sequence[int] = (), nodes_missing_value_tracks_true: Sequence[int] = (),
      nodes_modes: Sequence[str] = (), nodes_nodeids: Sequence[int] = (), nodes_treeids: Sequence[int] = (), nodes_truenodeids: Sequence[int] = (),
      nodes_values: Sequence[float] = (), nodes_values_as_tensor: np.ndarray | None = None, post_transform: str = "NONE", **_: Any) -> tuple[View, View]:
    labels = list(classlabels_int64s)
    weights = _either(class_weights, class_weights_as_tensor)
    forest = _prepared(_build_v3, nodes_treeids, nodes_nodeids, nodes_featureids, nodes_modes, _either(nodes_values, nodes_values_as_tensor), nodes_truenodeids, nodes_falsenodeids,
                       nodes_missing_value_tracks_true, class_treeids, class_nodeids, class_ids, weights, len(labels), "SUM")
    base = _base(base_values, base_values_as_tensor, (0, 1, 2) if len(labels) <= 2 else (0, len(labels)))
    if len(labels) == 1:
        scores = _plus(k, _walk(k, X, forest, "SUM")[0], base[-1:])
        return lower_choice(k, scores, 0, (0, 1)), lower_transformed(k, scores, "PROBIT" if post_transform == "PROBIT" else "NONE")
    if len(labels) == 2 and len(base) < 2 and len(set(class_ids)) == 1:
        return _lower_binary(k, X, forest, labels, base, class_ids[0], bool(np.min(weights) >= 0), post_transform)
    scores, has = _walk(k, X, forest, "SUM", needs_has=base.size != len(labels))
    scores = _plus(k, scores, base if base.size in (0, len(labels)) else np.append(base, np.zeros(1, base.dtype)))
    least = const(-np.inf, Compute.F64 if scores.dtype is DType.DOUBLE else Compute.F32)
    best = k.reduce(5, scores, (1,), DType.INT64) if has is None else k.reduce(5, scores, (1,), DType.INT64, prologue=lambda s, h: select(binary(Op.NE, h, 0), s, least), leaves=[has])
    return lower_labels(k, best, labels), lower_transformed(k, scores, post_transform)


def _plus(k: Lowering, scores: View, base: np.ndarray) -> View:
    """scores + base in the wider of their types."""
    if not base.size:
        return scores
    dtype = DType.DOUBLE if DType.DOUBLE in (scores.dtype, DType.of(base)) else DType.FLOAT
    wide = Compute.F64 if dtype is DType.DOUBLE else Compute.F32
    return k.map(lambda s, b: cast(s, wide) + cast(b, wide), scores, k.constant(base), dtype=dtype, shape=scores.shape)


def _lower_binary(k: Lowering, X: View, forest: Forest, labels: Sequence[int], base: np.ndarray, voted: int, positive: bool, post_transform: str) -> tuple[View, View]:
    """See `_binary`."""
    if voted == 0:
        score = _plus(k, _walk(k, X, forest, "SUM", only=0)[0], base[:1])
        return lower_choice(k, score, 0.5 if positive else 0, labels), lower_both_classes(k, score, post_transform, positive)
    scores = _walk(k, X, forest, "SUM")[0]
    return lower_choice(k, scores.slice(1, voted, 1), 0.5 if positive else 0, labels), lower_transformed(k, scores, post_transform)
