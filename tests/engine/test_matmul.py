"""MATMUL in C against NumPy: ragged shapes, strides, storage types, packed and plain right-hand sides, every ISA of the machine, one and two threads."""
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.expr import Op, acc, leaf, unary
from sardonyx.kernels import Kernel
from sardonyx.model.packing import Packing
from sardonyx.types import DType

from .float_harness import View, machine_isas, packed, run, with_epilogue
from .one_step import OneStep

ISAS = machine_isas()
rng = np.random.default_rng(7)


def values(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (rng.integers(-8, 9, shape) / 4).astype(dtype)  # small multiples of 1/4: every sum below is exact, so results are compared bit for bit


def check(isa: str, a: np.ndarray, b: np.ndarray, given: View | None = None, epilogue: bool = False, dtype: Any = np.float32) -> None:
    wide = np.float64
    expected = np.matmul(a.astype(wide), b.astype(wide))
    expected = with_epilogue(expected) if epilogue else expected
    results = []
    for threads in (1, 2):
        y = np.full(expected.shape, 77, dtype)
        run("matmul", isa, [a, b if given is None else given], [y], [-1, -1], epilogue, threads)
        results.append(y)
    np.testing.assert_array_equal(results[0], expected.astype(dtype))
    assert results[0].tobytes() == results[1].tobytes()


SIZES = [(1, 1, 1), (1, 16, 16), (2, 33, 7), (3, 50, 300), (4, 100, 129), (5, 17, 31), (12, 32, 256), (13, 48, 257), (25, 95, 700), (64, 64, 64), (97, 130, 65), (200, 24, 96), (130, 600, 40)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("m,n,k", SIZES)
def test_packed_and_plain(isa: str, m: int, n: int, k: int) -> None:
    a, b = values(m, k), values(k, n)
    for epilogue in (False, True):
        check(isa, a, b, packed(b, Packing.MATRIX), epilogue)
        check(isa, a, b, None, epilogue)
        check(isa, a, values(n, k).T, None, epilogue)
    check(isa, values(k, m).T, b)


@pytest.mark.parametrize("isa", ISAS)
def test_random_shapes_and_strides(isa: str) -> None:
    for _ in range(60):
        m, n, k = (int(x) for x in rng.integers(1, 90, 3))
        a, b = values(2 * m + 1, 3 * k)[1::2][:m, ::3][:, :k], values(k + 2, n * 2)[2:, ::int(rng.integers(1, 3))][:, :n]
        check(isa, a, b, epilogue=bool(rng.integers(2)))
        check(isa, a[::-1], b[:, ::-1])


@pytest.mark.parametrize("isa", ISAS)
def test_half_storage(isa: str) -> None:
    for left, right in ((np.float16, np.float16), (ml_dtypes.bfloat16, ml_dtypes.bfloat16), (np.float32, np.float16), (np.float16, np.float32)):
        for m, n, k in ((1, 70, 90), (3, 17, 33), (30, 50, 300)):
            a, b = values(m, k, dtype=left), values(k, n, dtype=right)
            check(isa, a, b, packed(b, Packing.MATRIX))
            check(isa, a, b)
            check(isa, a, values(n, k, dtype=right).T)
    a, b = values(9, 40, dtype=np.float16), values(40, 21, dtype=np.float16)
    check(isa, a, b, dtype=np.float16)


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_value_widens(isa: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    for kind in (np.float16, ml_dtypes.bfloat16):
        b = every.view(kind)[None, :]
        with np.errstate(invalid="ignore"):
            expected = b.astype(np.float32)
        for m in (1, 6):
            y = np.empty((m, 1 << 16), np.float32)
            run("matmul", isa, [np.ones((m, 1), np.float32), packed(b, Packing.MATRIX)], [y], [-1, -1])
            np.testing.assert_array_equal(y, np.broadcast_to(expected, y.shape))


@pytest.mark.parametrize("isa", ISAS)
def test_double(isa: str) -> None:
    for m, n, k in ((1, 1, 5), (9, 300, 40), (17, 31, 0), (20, 20, 20)):
        check(isa, values(m, k, dtype=np.float64), values(k, n, dtype=np.float64), dtype=np.float64)
        check(isa, values(2, 1, m, k, dtype=np.float64), values(n, k, dtype=np.float64).T[None, None], epilogue=True, dtype=np.float64)


@pytest.mark.parametrize("isa", ISAS)
def test_batches_broadcast(isa: str) -> None:
    for m, n, k in ((1, 5, 3), (12, 20, 30), (70, 90, 20)):
        check(isa, values(3, 1, m, k), values(1, 4, k, n), epilogue=True)
        check(isa, values(40, m, k), values(40, k, n))
        b = values(k, n)
        check(isa, values(2, 3, m, k), np.broadcast_to(b, (2, 3, k, n)), packed(b, Packing.MATRIX), True)
        check(isa, values(2, 3, m, k), np.broadcast_to(b, (2, 3, k, n)))


@pytest.mark.parametrize("isa", ISAS)
def test_empty(isa: str) -> None:
    for m, n, k in ((0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 20, 0)):
        check(isa, values(m, k), values(k, n), epilogue=True)
    check(isa, values(0, 3, 4), values(0, 4, 5))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity_stay_in_their_row(isa: str) -> None:
    for m in (1, 3, 40):
        a, b = values(m, 50), np.abs(values(50, 37)) + 1
        a[0, 3], a[m - 1, 7] = np.inf, np.nan
        y, z = np.empty((m, 37), np.float32), np.empty((m, 37), np.float32)
        run("matmul", isa, [a, b], [y], [-1, -1])
        run("matmul", isa, [a, packed(b, Packing.MATRIX)], [z], [-1, -1])
        np.testing.assert_array_equal(y, np.matmul(a, b))
        np.testing.assert_array_equal(z, np.matmul(a, b))


@pytest.mark.parametrize("isa", ISAS)
def test_rounding_error_is_that_of_f32(isa: str) -> None:
    a, b = rng.standard_normal((60, 2000)).astype(np.float32), rng.standard_normal((2000, 70)).astype(np.float32)
    for rows in (1, 4, 60):
        y = np.empty((rows, 70), np.float32)
        run("matmul", isa, [a[:rows], packed(b, Packing.MATRIX)], [y], [-1, -1])
        bound = np.abs(a[:rows].astype(np.float64)) @ np.abs(b.astype(np.float64)) * 2000 * 2.0**-24
        assert np.all(np.abs(y - a[:rows].astype(np.float64) @ b.astype(np.float64)) <= bound)


def test_in_the_engine_with_an_epilogue() -> None:
    """Random views, batches and storage types; bias, residual and a function follow the product while it is hot."""
    for m, n, k in ((1, 70, 33), (13, 50, 20), (40, 33, 300), (3, 1, 5)):
        for out in (DType.FLOAT, DType.FLOAT16, DType.DOUBLE):
            made = OneStep(rng)
            given = [made.operand(values(*shape, dtype=t), broadcast=False) for shape, t in (((2, 3, m, k), out.numpy), ((2, 3, k, n), out.numpy))]
            leaves = [made.operand(values(2, 3, m, n, dtype=out.numpy)) for _ in range(2)]
            y = unary(Op.ABS, acc(out) + leaf(0, out)) * leaf(1, out)
            made.step(Kernel.MATMUL, [*given, *leaves], [made.result((2, 3, m, n), out)], {"zero_a": -1, "zero_b": -1}, [y], first_leaf=2)
            made.check(1e-6, 1e-6)


def test_every_run_of_a_few_rows_gives_the_same_bits() -> None:
    """Every other run takes the last columns first."""
    a, b = rng.standard_normal((2, 520)).astype(np.float32), rng.standard_normal((520, 1503)).astype(np.float32)
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", 520])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1503])], [numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    for threads in (1, 2):
        options = sardonyx.SessionOptions()
        options.intra_op_num_threads = threads
        session = sardonyx.InferenceSession(model, options)
        for rows in (1, 2):
            made = [session.run(None, {"a": a[:rows]})[0] for _ in range(4)]
            np.testing.assert_allclose(made[0], a[:rows].astype(np.float64) @ b, rtol=1e-4, atol=1e-4)
            assert len({y.tobytes() for y in made}) == 1
