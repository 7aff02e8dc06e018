"""TREES in C: packed forests against the operators' NumPy bodies bit for bit, the interpreter, every instruction set, one and two threads; and tables that lie."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sardonyx.engine.binding import EngineProgram, isas
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel
from sardonyx.ops.ml_tables import tables
from sardonyx.ops.ml_trees import AGGREGATES, LEAF, MEMBER, Forest, _combine, _forest
from sardonyx.types import DType

from .one_step import OneStep


def grown(rng: np.random.Generator, trees: int, depth: int, features: int, targets: int, modes: tuple[int, ...], dtype: Any = np.float32, aggregate: str = "SUM", full: bool = False,
          missing: float = 0.0, special: bool = False) -> Forest:
    """Random trees: inner nodes stop early at random, leaves speak for some targets (`full`: all)."""
    mode, feature, value, true, false, roots = [], [], [], [], [], []
    sets: list[tuple[int, np.ndarray]] = []
    grid = np.round(rng.uniform(-2, 2, 12), 1).astype(dtype)

    def grow(left: int) -> int:
        at = len(mode)
        stop = left == 0 or rng.random() < 0.15
        mode.append(LEAF if stop else int(rng.choice(modes)))
        feature.append(int(rng.integers(features)))
        value.append(rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0]) if special and rng.random() < 0.2 else rng.choice(grid))
        true.append(at)
        false.append(at)
        if mode[at] == MEMBER:
            sets.append((at, np.sort(rng.choice(grid, int(rng.integers(1, 6)), replace=False)).astype(dtype)))
        if not stop:
            true[at], false[at] = grow(left - 1), grow(left - 1)
        return at
    for _ in range(trees):
        roots.append(grow(depth))
    kinds = np.array(mode)
    leaves = np.flatnonzero(kinds == LEAF)
    pairs = [(leaf, t) for leaf in leaves for t in range(targets) if full or rng.random() < 0.5]
    nodes, ids = np.array([p for p, _ in pairs], np.int64), np.array([t for _, t in pairs], np.int64)
    weights = rng.standard_normal(len(pairs)).astype(dtype)
    return _forest(roots, kinds, feature, np.array(value, dtype), np.array(true), np.array(false), rng.random(len(mode)) < missing, nodes, ids, weights, targets, _combine(aggregate), sets)


def points(rng: np.random.Generator, rows: int, features: int, dtype: Any, special: bool) -> np.ndarray:
    x = np.round(rng.uniform(-2.5, 2.5, (rows, features)), 1)
    if special and x.size:
        x = np.where(rng.random(x.shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], x.shape), x)
    return x.astype(dtype)


def step(rng: np.random.Generator, x: np.ndarray, forest: Forest, aggregate: str, has: bool, only: int | None = None) -> OneStep:
    made = tables(forest, x.dtype == np.float64, only, has or aggregate in ("MIN", "MAX"))
    if made.nodes.dtype == np.int64:
        x = x.astype(np.float64)
    one = OneStep(rng)
    given = [one.operand(x, broadcast=False)]
    constants = [made.nodes, made.roots, made.features, made.weights, made.targets, made.members]
    given += [-1 if a is None else one.constant(a) for a in constants]
    shape = (len(x), 1 if only is not None else forest.n_targets)
    results = [one.result(shape, DType.of(made.weights))] + ([one.result(shape, DType.BOOL)] if has else [])
    return one.step(Kernel.TREES, given, results, {"aggregate": AGGREGATES.index(aggregate), "shift": made.shift, "general": made.general})


def same(forest: Forest, x: np.ndarray, one: OneStep, aggregate: str, only: int | None = None) -> None:
    """The kernel on every instruction set, the interpreter and the operator's body."""
    one.check()
    scores, has = forest.scores(x, aggregate)
    found = one.run()
    want = scores if only is None else scores[:, only:only + 1]
    np.testing.assert_array_equal(found[0], want)
    if len(found) > 1:
        np.testing.assert_array_equal(found[1], has)


@pytest.mark.parametrize("modes", [(0,), (1,), (2,), (3,), (0, 1, 2, 3), (0, 4, 5), (6,), (0, 1, 2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_modes(modes: tuple[int, ...], dtype: Any) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        trees, targets, rows, features = int(rng.choice([1, 3, 17, 40])), int(rng.choice([1, 2, 5])), int(rng.choice([1, 5, 16, 37, 150])), int(rng.choice([1, 4, 30]))
        aggregate = AGGREGATES[seed % 4]
        forest = grown(rng, trees, int(rng.integers(0, 9)), features, targets, modes, dtype, aggregate, full=seed % 2 == 0, missing=0.5 * (seed % 3), special=seed > 2)
        x = points(rng, rows, features, dtype, seed % 2 == 1)
        same(forest, x, step(rng, x, forest, aggregate, has=seed % 3 == 0), aggregate)


def test_one_target_of_several() -> None:
    rng = np.random.default_rng(1)
    forest = grown(rng, 20, 6, 5, 3, (0,))
    for rows in (1, 16, 100):
        x = points(rng, rows, 5, np.float32, False)
        same(forest, x, step(rng, x, forest, "SUM", False, only=1), "SUM", only=1)


def test_double_features_single_weights() -> None:
    rng = np.random.default_rng(2)
    forest = grown(rng, 9, 5, 4, 2, (0, 1), np.float32)
    x = points(rng, 40, 4, np.float64, True)
    same(forest, x, step(rng, x, forest, "SUM", True), "SUM")


def test_edges() -> None:
    rng = np.random.default_rng(3)
    forest = grown(rng, 5, 3, 4, 2, (0,))
    for rows in (0, 1):
        x = points(rng, rows, 4, np.float32, False)
        same(forest, x, step(rng, x, forest, "SUM", False), "SUM")
    stumps = grown(rng, 33, 0, 1, 2, (0,), full=True)   # leaves only: no feature is used
    same(stumps, x[:, :1], step(rng, x[:, :1], stumps, "AVERAGE", False), "AVERAGE")
    chain = grown(rng, 1, 1, 1, 1, (0,), full=True)
    assert tables(chain, False).roots[0, 1] <= 1


def test_strings_of_nodes() -> None:
    """A degenerate tree: 300 levels, and a hint of its depth that is far too low."""
    n = 300
    mode = np.array([0, LEAF] * n + [LEAF])
    true, false = np.arange(2 * n + 1) + 1, np.arange(2 * n + 1) + 2
    own = np.arange(2 * n + 1)
    true, false = np.where(mode == LEAF, own, true), np.where(mode == LEAF, own, false)
    leaves = np.flatnonzero(mode == LEAF)
    forest = _forest([0], mode, np.zeros(len(mode), int), np.arange(len(mode)).astype(np.float32), true, false, (), leaves, np.zeros(len(leaves), np.int64),
                     np.arange(len(leaves)).astype(np.float32), 1, np.add)
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 700, (50, 1)).astype(np.float32)
    one = step(rng, x, forest, "SUM", False)
    one.constants[1].numpy()[0, 1] = 2
    same(forest, x, one, "SUM")


@pytest.mark.parametrize("place,value,what", [
    ((0, 0, 1), 1 << 20, "a child far away"), ((0, 0, 1), 0, "a child that is the node itself"), ((1, 0, 0), 1 << 20, "a root far away"), ((1, 0, 0), -1, "a negative root"),
    ((2, 0), 99, "a feature far away"), ((2, 0), -1, "a negative feature"), ((0, -1, 0), 1 << 29 | 1 << 20, "a leaf's number far away"), ((4, -1), 0, "a run that does not end"),
    ((4, 0), 77, "a target far away")], ids=lambda v: v if isinstance(v, str) else "")
def test_lying_tables(place: tuple[int, ...], value: int, what: str) -> None:
    rng = np.random.default_rng(5)
    forest = grown(rng, 3, 3, 4, 2, (0,))
    x = points(rng, 20, 4, np.float32, False)
    one = step(rng, x, forest, "SUM", True)
    assert len(one.constants) == 5
    one.run()
    one.constants[place[0]].numpy()[place[1:]] = value
    with pytest.raises(SardonyxError):
        one.run()


def test_tables_must_be_constants() -> None:
    rng = np.random.default_rng(6)
    made = tables(grown(rng, 3, 3, 4, 2, (0,), full=True), False)
    one = OneStep(rng)
    operands = [one.operand(a, broadcast=False, dense=True) for a in (points(rng, 4, 4, np.float32, False), made.nodes, made.roots, made.features, made.weights)]
    one.step(Kernel.TREES, operands, [one.result((4, 2), DType.FLOAT)], {"aggregate": 1, "shift": made.shift})
    for isa in isas():
        with pytest.raises(SardonyxError):
            EngineProgram(one.program, [], isa=isa)
