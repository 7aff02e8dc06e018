"""Reduce, Softmax and Norm against the interpreter."""
from __future__ import annotations

import numpy as np
from sardonyx.expr import Compute, E, Op, acc, cast, compute_type, const, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.types import DType

from tests.engine.one_step import OneStep, dims, numbers

TYPES = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT32, DType.INT64, DType.UINT64, DType.UINT32, DType.BOOL]
FLOATS = [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16]
BOUND = {Compute.F32: 2e-5, Compute.F64: 1e-12}


def exact(dtype: DType) -> bool:
    return not dtype.is_float


def test_reduce() -> None:
    for seed in range(250):
        rng = np.random.default_rng(seed)
        op, dtype = seed % 7, TYPES[int(rng.integers(len(TYPES)))]
        shape = dims(rng, 5)
        axes = [i for i in range(len(shape)) if rng.random() < 0.5]
        if op in (4, 5):
            if not shape:
                continue
            axes = [int(rng.integers(len(shape)))]
            if shape[axes[0]] == 0:
                continue
        out = tuple(1 if i in axes else d for i, d in enumerate(shape))
        x = numbers(rng, shape, dtype, special=op in (2, 3, 4, 5), low=0.5 if op == 1 else -4, high=1.5 if op == 1 else 4)
        if op == 6 and not dtype.is_float:
            continue  # the mean of integers is lowered as a sum and a division
        made = OneStep(rng)
        view = made.operand(x)
        kind = Compute.I64 if op in (4, 5) else compute_type(dtype)
        target = DType.INT64 if op in (4, 5) else dtype
        epilogue: list[E] = []
        if rng.random() < 0.3:
            value = E(Op.ACC, kind) + E(Op.ACC, kind)
            epilogue = [value]
        y = made.result(out, target)
        made.step(Kernel.REDUCE, [view], [y], {"op": op, "axes": sum(1 << a for a in axes), "last": int(rng.integers(2)) if op in (4, 5) else 0}, epilogue)
        made.check(BOUND.get(compute_type(dtype), 0) * (30 if op == 1 else 1), 3e-4 if compute_type(dtype) is Compute.F32 and op in (0, 6) else 0)


def test_reduce_with_prologue_and_leaves() -> None:
    """Sums of squares, of e^(x - m), of integers made from comparisons; an epilogue with an operand."""
    for seed in range(60):
        rng = np.random.default_rng(500 + seed)
        dtype = FLOATS[seed % 4]
        shape = dims(rng, 4, zero=False)
        axes = [i for i in range(len(shape)) if rng.random() < 0.5]
        out = tuple(1 if i in axes else d for i, d in enumerate(shape))
        x, m = numbers(rng, shape, dtype, special=False), numbers(rng, shape, dtype, special=False)
        made = OneStep(rng)
        views = [made.operand(x), made.operand(m), made.operand(numbers(rng, out, dtype, special=False))]
        a, b = leaf(0, dtype), leaf(1, dtype)
        kind = compute_type(dtype)
        case = seed % 3
        prologue = a * a if case == 0 else unary(Op.EXP, a - b) if case == 1 else cast(cast(a, Compute.I32), Compute.I32)
        target = dtype if case < 2 else DType.INT32
        epilogue = [unary(Op.SQRT, acc(dtype)) + leaf(2, dtype)] if case == 0 else []
        made.step(Kernel.REDUCE, views, [made.result(out, target)], {"op": 0, "axes": sum(1 << d for d in axes)}, epilogue, prologue)
        made.check(BOUND[kind] if case < 2 else 0, 1e-5 if case < 2 else 0)


def test_sum_of_many_floats() -> None:
    """A million floats: far closer than adding one after the other."""
    x = np.random.default_rng(1).random(1_000_003, np.float32)
    for shape, axes, out in (((1_000_003,), 1, (1,)), ((1009, 991), 1, (1, 991))):
        part = x[:int(np.prod(shape))].reshape(shape)
        made = OneStep(np.random.default_rng(2))
        view = made.operand(part, broadcast=False, dense=True)
        made.step(Kernel.REDUCE, [view], [made.result(out, DType.FLOAT, dense=True)], {"op": 0, "axes": axes})
        want = part.astype(np.float64).sum(0, keepdims=True)
        np.testing.assert_allclose(made.run(threads=2)[0].astype(np.float64), want, rtol=3e-7)


def test_extremes_of_everything() -> None:
    """The least and greatest of many floats come from parts: each part's end, NaN anywhere, any strides, an epilogue, a prologue."""
    for seed, (n, step) in enumerate([(65535, 1), (65536, 1), (65537, 1), (98305, 1), (200_001, 2), (200_001, -1), (2_200_007, 1)]):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(n * abs(step)).astype(np.float32)[::step] if step > 0 else rng.standard_normal(n).astype(np.float32)[::-1]
        for op, where in ((2, n - 1), (3, 0), (2, n // 2), (3, 32768), (2, 32767)):
            for value in ((-9.0 if op == 2 else 9.0), np.nan):
                x[where], was = value, x[where]
                made = OneStep(rng)
                view = made.operand(np.ascontiguousarray(x).reshape(1, n, 1), broadcast=False, dense=step == 1)
                prologue = -leaf(0, DType.FLOAT) if seed == 3 else None
                made.step(Kernel.REDUCE, [view], [made.result((1, 1, 1), DType.FLOAT)], {"op": 5 - op if prologue else op, "axes": 7}, [acc(DType.FLOAT) + acc(DType.FLOAT)], prologue)
                got = [made.run(threads=t)[0].reshape(()) for t in (1, 2)]
                want = np.float32((-2 if prologue else 2) * value)
                np.testing.assert_array_equal(got, [want, want])
                x[where] = was


def test_softmax() -> None:
    for seed in range(120):
        rng = np.random.default_rng(3000 + seed)
        dtype, mode = FLOATS[seed % 4], seed // 4 % 3
        shape = dims(rng, 4) or (5,)
        made = OneStep(rng)
        x = numbers(rng, shape, dtype, special=False, low=-30, high=30)
        views = [made.operand(x), made.operand(np.where(rng.random(shape) < 0.2, -np.inf, 0.5).astype(dtype.numpy)) if rng.random() < 0.3 and mode == 0 else -1]
        made.step(Kernel.SOFTMAX, views, [made.result(shape, dtype)], {"axis": int(rng.integers(len(shape))), "mode": mode, "scale": float(rng.choice([1.0, 0.125]))})
        narrow = dtype in (DType.FLOAT16, DType.BFLOAT16)
        made.check(8e-3 if narrow else BOUND[compute_type(dtype)], 1e-6)


def test_softmax_of_infinities() -> None:
    made = OneStep(np.random.default_rng(1))
    x = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf, -np.inf, -np.inf], [1e30, -1e30, 1e30]], np.float32)
    view = made.operand(x, broadcast=False)
    made.step(Kernel.SOFTMAX, [view, -1], [made.result(x.shape, DType.FLOAT)], {"axis": 1, "mode": 0, "scale": 1.0}).check(1e-6)


def test_norm() -> None:
    for seed in range(150):
        rng = np.random.default_rng(4000 + seed)
        dtype, mode = FLOATS[seed % 4], seed // 4 % 3
        shape = dims(rng, 4, zero=mode < 2) or (5,)
        if mode == 2:
            shape = (int(rng.integers(1, 3)), int(rng.choice([4, 6, 12])), *(dims(rng, 2, zero=False) or (9,)))
        made = OneStep(rng)
        axis = 0 if mode == 2 else int(rng.integers(len(shape)))
        groups = int(rng.choice([1, 2, shape[1]])) if mode == 2 else 0
        x = numbers(rng, shape, dtype, special=False)
        views = [made.operand(x)]
        for _ in range(3):
            views.append(made.operand(numbers(rng, shape, dtype, special=False)) if rng.random() < 0.5 else -1)
        outputs = [made.result(shape, dtype)]
        small = tuple(d if i < axis else 1 for i, d in enumerate(shape))
        for i in (1, 2, 3):
            wanted = rng.random() < 0.4 and (i == 3 or mode == 0 or (i == 2 and mode == 1))
            outputs.append(made.result(shape if i == 3 else small, dtype) if wanted else -1)
        made.step(Kernel.NORM, views, outputs, {"mode": mode, "axis": axis, "groups": groups, "epsilon": 1e-2})
        bound = {DType.FLOAT16: 2e-3, DType.BFLOAT16: 2e-2}.get(dtype, 2e-4 if dtype is DType.FLOAT else 1e-10)
        made.check(bound, bound)


def test_norm_of_dense_rows() -> None:
    """Rows as models have them: everything side by side, scale and bias one row for all."""
    for seed, (rows, n) in enumerate([(3, 768), (5, 1), (2, 17), (1, 2500), (4, 33), (0, 8)] * 4):
        rng = np.random.default_rng(4500 + seed)
        mode, scaled, shifted = seed % 2, seed // 2 % 2, seed // 4 % 2
        made = OneStep(rng)
        x = rng.standard_normal((rows, n)).astype(np.float32) + 3
        if rows > 1:
            x[1, n // 2] = np.nan
        row = [np.broadcast_to(rng.standard_normal(n).astype(np.float32), (rows, n)) if wanted else None for wanted in (scaled, shifted)]
        views = [made.operand(x, broadcast=False, dense=True), *(-1 if r is None else made.operand(np.ascontiguousarray(r), broadcast=False, dense=True) for r in row)]
        outputs = [made.result((rows, n), DType.FLOAT, dense=True), made.result((rows, 1), DType.FLOAT, dense=True) if mode == 0 else -1, made.result((rows, 1), DType.FLOAT, dense=True)]
        made.step(Kernel.NORM, views, outputs, {"mode": mode, "axis": 1, "epsilon": 1e-5}).check(2e-4, 2e-5)


def test_mean_of_nothing() -> None:
    for dtype in (DType.FLOAT, DType.DOUBLE):
        made = OneStep(np.random.default_rng(1))
        view = made.operand(np.zeros((3, 0), dtype.numpy), broadcast=False)
        made.step(Kernel.REDUCE, [view], [made.result((3, 1), dtype)], {"op": 6, "axes": 2}).check()


def test_constants_in_epilogue() -> None:
    made = OneStep(np.random.default_rng(1))
    view = made.operand(np.ones((4, 5), np.float32), broadcast=False)
    made.step(Kernel.REDUCE, [view], [made.result((4, 1), DType.FLOAT)], {"op": 0, "axes": 2}, [acc(DType.FLOAT) * const(0.5, Compute.F32)]).check()
