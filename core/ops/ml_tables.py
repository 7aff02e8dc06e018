"""Forests as the tables of the TREES kernel (core/kernels.py, RECORDS): nodes by level within each tree, the two children of a node side by side, all tests turned into few kinds.

x < v is x <= the next number below v; x >= v and x > v are the opposites with the children changed places. Only ==, != and membership need the wide nodes with a mode.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..kernels import LEAF_BITS
from ..lowering import CannotLower

if TYPE_CHECKING:
    from .ml_trees import Forest

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER, LEAF = range(8)
#: A graph of shared nodes becomes trees; beyond this many times its nodes (and a million) it does not.
GROWTH = 4


@dataclass(frozen=True)
class Tables:
    """The operands and parameters of a TREES call. `spoken`: every row has a leaf that speaks for every target."""

    nodes: np.ndarray
    roots: np.ndarray
    features: np.ndarray
    weights: np.ndarray
    targets: np.ndarray | None
    members: np.ndarray | None
    shift: int
    general: int
    spoken: bool


def tables(forest: Forest, double: bool, only: int | None = None, needs_has: bool = False) -> Tables:
    """double: X is computed in F64. only: the one target whose weights count. needs_has: a leaf's silence about a target must stay visible."""
    number, tree, first, depth = _layout(forest)
    mode = forest.mode[number]
    inner = mode != LEAF
    wide = double or forest.value.dtype == np.float64 or bool(np.isin(mode, (EQ, NEQ, MEMBER)).any())
    value, missing = _tests(forest, number, np.float64 if wide else np.float32)
    features, place = np.unique(forest.feature[number[inner]], return_inverse=True)
    feature = np.full(len(number), len(features), np.int64)
    feature[inner] = place.reshape(-1)
    shift = max(int(len(number)).bit_length(), 1)
    if not wide and (shift > 30 or (len(features) + 1) << shift > 1 << 31):
        wide = True
        value, missing = _tests(forest, number, np.float64)
    leaves = number[~inner]
    weights, targets, entry = _weights(forest, leaves, only, needs_has)
    bits = value.view(np.int64 if wide else np.int32).astype(np.int64)
    bits[~inner] = np.int64(LEAF_BITS[wide]) + entry  # NumPy's own integer has 32 bits in Pyodide
    general = bool(missing[inner].any())
    members = None
    if wide:
        kinds = np.select([mode == EQ, mode == NEQ, mode == MEMBER], [1, 2, 3], 0).astype(np.int64)
        general = general or bool(kinds.any())
        if (mode == MEMBER).any():
            members, bits = _members(forest, number, mode, bits)
        word = feature << 36 | np.where(inner, kinds << 33 | missing.astype(np.int64) << 32, 0) | first
    else:
        word = feature << shift | first | np.where(inner & missing, np.int64(1) << 31, 0)
    kind = np.int64 if wide else np.int32
    starts = np.searchsorted(tree, np.arange(len(forest.roots)))
    return Tables(np.stack([bits, word], 1).astype(kind), np.stack([starts, depth], 1).astype(np.int32), features.astype(np.int32), weights, targets, members, 0 if wide else shift, int(general),
                  targets is None or _spoken(forest, number, tree))


def _layout(forest: Forest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For every place of the table: the forest's node, its tree, and the place of its first child (a leaf: its own); and each tree's levels below the root."""
    limit = GROWTH * len(forest.mode) + (1 << 20)
    level, owner = forest.roots, np.arange(len(forest.roots))
    levels, owners, parents = [level], [owner], []
    depth = np.zeros(len(forest.roots), np.int64)
    total = len(level)
    while True:
        inner = np.flatnonzero(forest.mode[level] != LEAF)
        parents.append(inner)
        if not len(inner):
            break
        node = level[inner]
        swapped = np.isin(forest.mode[node], (GTE, GT))
        children = np.stack([np.where(swapped, forest.false[node], forest.true[node]), np.where(swapped, forest.true[node], forest.false[node])], 1)
        level, owner = children.reshape(-1), np.repeat(owner[inner], 2)
        depth[owner] = len(levels)
        levels.append(level)
        owners.append(owner)
        total += len(level)
        if total > min(limit, 1 << 29):
            raise CannotLower(f"the trees share nodes and would be more than {total:,} without")
    order = np.argsort(np.concatenate(owners), kind="stable")
    place = np.empty(total, np.int64)
    place[order] = np.arange(total)
    first = np.arange(total)
    start = 0
    for at, inner in enumerate(parents[:-1]):
        following = start + len(levels[at])
        first[place[start + inner]] = place[following + 2 * np.arange(len(inner))]
        start = following
    return np.concatenate(levels)[order], np.concatenate(owners)[order], first, depth


def _tests(forest: Forest, number: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """(the value x is compared with, whether NaN passes) of each place."""
    mode, given = forest.mode[number], forest.value[number].astype(dtype)
    swapped = np.isin(mode, (GTE, GT))
    below = np.isin(mode, (LT, GTE))
    value = np.where(below, np.nextafter(given, dtype(-np.inf)), given)
    value = np.where(below & (given == -np.inf), dtype(np.nan), value)       # nothing is below: the test fails
    value = np.where(swapped & np.isnan(given), dtype(np.inf), value)        # the comparison is false: the opposite holds
    return np.ascontiguousarray(value, dtype), forest.missing_true[number] != swapped


def _weights(forest: Forest, leaves: np.ndarray, only: int | None, needs_has: bool) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(weights, targets or None, each leaf's number)."""
    targets, weights = forest.targets[leaves], forest.weights[leaves]
    real = targets < forest.n_targets
    if only is not None:
        return np.where(targets == only, weights, 0).sum(1, keepdims=True, dtype=weights.dtype), None, np.arange(len(leaves))
    every = targets.shape[1] == forest.n_targets and bool(real.all())
    if every or (not needs_has and len(leaves) * forest.n_targets <= max(4 * int(real.sum()), 2 * len(leaves))):
        table = np.zeros((len(leaves), forest.n_targets + 1), weights.dtype)
        table[np.arange(len(leaves))[:, None], targets] = weights
        return np.ascontiguousarray(table[:, :-1]), None, np.arange(len(leaves))
    real[:, 0] |= ~real.any(1)                                               # a silent leaf speaks for the target that counts for nothing
    count = real.sum(1)
    ends = np.cumsum(count)
    flat = targets[real]
    flat[ends - 1] = ~flat[ends - 1]
    return weights[real], flat.astype(np.int32), ends - count


def _spoken(forest: Forest, number: np.ndarray, tree: np.ndarray) -> bool:
    """Whether for every target there is a tree all leaves of which speak for it."""
    leaf = forest.mode[number] == LEAF
    leaves, owner = number[leaf], tree[leaf]
    count = np.zeros((len(forest.roots), forest.n_targets + 1), np.int64)
    np.add.at(count, (owner[:, None], forest.targets[leaves]), 1)
    return bool((count[:, :-1] == np.bincount(owner, minlength=len(forest.roots))[:, None]).any(0).all())


def _members(forest: Forest, number: np.ndarray, mode: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(all sets one after the other, bits with (count, first) of each node's set)."""
    width = max(len(forest.members), 1)
    start, end = np.searchsorted(forest.member_keys, number * width), np.searchsorted(forest.member_keys, (number + 1) * width)
    asked = mode == MEMBER
    bits = np.where(asked, (end - start).astype(np.int64) << 32 | start, bits)
    return forest.members[forest.member_keys % width].astype(np.float64), bits
