"""Philox and what is drawn with it: the published answers, the kernel against the interpreter, moments, and the same numbers on every executor."""
from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sardonyx.converter.onnx import load_model
from sardonyx.engine.binding import isas
from sardonyx.errors import SardonyxError
from sardonyx.kernels import Kernel
from sardonyx.philox import Draws, draws_of_run, philox
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import EngineExecutor
from sardonyx.providers.interpreter import Interpreter
from sardonyx.providers.reference import ReferenceExecutor
from sardonyx.providers.segmented import SegmentedExecutor
from sardonyx.types import DType

from .one_step import OneStep

#: counter, key → words: the known-answer vectors of the authors' library Random123 (kat_vectors, "philox4x32 10").
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter,key,words", KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(philox(np.array([counter]), key)[0].tolist()) == words


def kernel(rng: np.random.Generator, draws: Draws, shape: tuple[int, ...], dtype: DType, op: int, first: float, factor: float) -> OneStep:
    one = OneStep(rng)
    return one.step(Kernel.RANDOM, [one.operand(draws.seed, broadcast=False)], [one.result(shape, dtype)], {"op": op, "alpha": first, "beta": factor})


def test_the_kernel_makes_the_published_words() -> None:
    """Counters of all zeros, and blocks far along: the words are the upper 24 bits of uniform draws."""
    rng = np.random.default_rng(0)
    found = kernel(rng, Draws(0), (4096,), DType.FLOAT, 0, 0.0, 2.0**24).run()[0]
    assert [int(v) for v in found[:4]] == [w >> 8 for w in KNOWN[0][2]]
    np.testing.assert_array_equal(found[4 * 1000:4 * 1001].astype(np.int64), philox(np.array([[1000, 0, 0, 0]]), (0, 0))[0] >> 8)


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE, DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("op", [0, 1])
def test_against_the_interpreter(dtype: DType, op: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        shape = [(), (1,), (3,), (1025,), (5, 7, 3), (2, 0, 3), (3000,), (40, 61)][seed]
        draws = Draws(int(rng.integers(0, 1 << 63)) * 2 + 1, int(rng.integers(0, 1 << 63)))
        # uniform draws are equal bit for bit; logarithms and angles may differ in a double's last bits, so a rounded result by a step
        kernel(rng, draws, shape, dtype, op, float(rng.uniform(-2, 2)), float(rng.uniform(0.5, 3))).check(rtol=0 if op == 0 else 1e-13 if dtype is DType.DOUBLE else 1.3e-7,
                                                                                                        atol=0 if op == 0 else 1e-13 if dtype is DType.DOUBLE else 1e-9)


def test_moments() -> None:
    draws = Draws(7, 3)
    for double in (False, True):
        u, z = draws.uniform((200000,), double), draws.normal((200000,), double)
        assert 0 <= u.min() and u.max() < 1
        assert abs(u.mean() - 0.5) < 0.004 and abs(u.var() - 1 / 12) < 0.001
        assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01 and abs((z**4).mean() - 3) < 0.1
        ends = np.sort(z)[[int(200000 * q) for q in (0.025, 0.5, 0.975)]]
        np.testing.assert_allclose(ends, [-1.96, 0, 1.96], atol=0.03)
        assert abs(np.corrcoef(z[::2], z[1::2])[0, 1]) < 0.01
    assert not np.array_equal(Draws(7, 4).uniform((8,)), draws.uniform((8,)))


def test_draws_of_a_run() -> None:
    one, two, other = draws_of_run(5), draws_of_run(5), draws_of_run(6)
    first = one(None)
    assert first == two(None) and first != one(None) and first != other(None)
    assert one(2.5) == one(2.5) == other(2.5) != one(2.75)
    assert draws_of_run(None)(None) != draws_of_run(None)(None)
    assert Draws.of(first.seed) == first and Draws.of(Draws(-1, 1 << 63).seed) == Draws((1 << 64) - 1, 1 << 63)


CASES = [
    ("RandomNormal", {"shape": [3, 50], "mean": 1.5, "scale": 2.0}, None), ("RandomUniform", {"shape": [70], "low": -1.0, "high": 4.0}, None),
    ("RandomNormal", {"shape": [9], "dtype": TensorProto.DOUBLE}, None), ("RandomUniform", {"shape": [1], "dtype": TensorProto.FLOAT16}, None),
    ("RandomNormalLike", {"scale": 0.25}, np.zeros((5, 9), np.float32)), ("RandomUniformLike", {"dtype": TensorProto.DOUBLE}, np.zeros((5, 9), np.float32)),
    ("Bernoulli", {}, np.linspace(0, 1, 300, dtype=np.float32)), ("Bernoulli", {"dtype": TensorProto.INT64}, np.full((4, 4), 0.5)),
    ("Multinomial", {"sample_size": 40}, np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-9]], np.float32))),
    ("Multinomial", {"sample_size": 7, "dtype": TensorProto.INT64}, np.zeros((1, 1), np.float32)),
]


def model_of(name: str, attributes: dict[str, object], x: np.ndarray | None) -> onnx.ModelProto:
    names = [] if x is None else ["x"]
    graph = helper.make_graph([helper.make_node(name, names, ["y"], **attributes)], "g",
                              [] if x is None else [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)], [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("name,attributes,x", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_a_seed_gives_the_same_numbers_everywhere(name: str, attributes: dict[str, object], x: np.ndarray | None) -> None:
    seeded = model_of(name, {**attributes, "seed": 3.25}, x)
    given = [] if x is None else [x]
    results = []
    for make in (ReferenceExecutor, lambda m: SegmentedExecutor(m, "interpreter", lambda plan: Interpreter(plan.program, plan.constants)), lambda m: EngineExecutor(m, threads=1)):
        executor = make(load_model(seeded))
        results.append([executor.run(given, [0], RunContext(seed=s))[0] for s in (1, 2)])
        if isinstance(executor, SegmentedExecutor):
            assert not executor.latest.fallbacks
    want = results[0][0]
    for found in results:
        for y in found:   # a node's own seed beats the run's
            assert y.dtype == want.dtype and y.shape == want.shape
            np.testing.assert_allclose(np.asarray(y, np.float64), np.asarray(want, np.float64), rtol=0 if want.dtype.kind == "i" else 1e-6 if want.dtype == np.float32 else 1e-3)
    if want.size > 20:
        assert len(np.unique(want)) > 1


@pytest.mark.parametrize("name,attributes,x", CASES[:1] + CASES[4:5] + CASES[6:7])
def test_without_a_seed_runs_differ(name: str, attributes: dict[str, object], x: np.ndarray | None) -> None:
    executor = EngineExecutor(load_model(model_of(name, attributes, x)), threads=1)
    given = [] if x is None else [x]
    a, b, c, d = (executor.run(given, [0], RunContext(seed=s))[0] for s in (None, None, 9, 9))
    assert not np.array_equal(a, b) and np.array_equal(c, d)
    np.testing.assert_allclose(np.asarray(c, np.float64), np.asarray(ReferenceExecutor(load_model(model_of(name, attributes, x))).run(given, [0], RunContext(seed=9))[0], np.float64), rtol=1e-6)


def test_frequencies() -> None:
    y = EngineExecutor(load_model(model_of("Multinomial", {"sample_size": 20000, "seed": 1.0}, CASES[8][2])), threads=1).run([CASES[8][2]], [0], RunContext())[0]
    counts = np.stack([np.bincount(row, minlength=3) for row in y]) / y.shape[1]
    np.testing.assert_allclose(counts, [[0.1, 0.2, 0.7], [0.5, 0.5, 0]], atol=4 * math.sqrt(0.25 / 20000))


@pytest.mark.parametrize("seed,dtype,op", [(np.zeros(3, np.int64), DType.FLOAT, 0), (np.zeros(2, np.int32), DType.FLOAT, 0), (np.zeros(2, np.int64), DType.INT32, 0),
                                           (np.zeros(2, np.int64), DType.FLOAT, 2)])
def test_wrong_records(seed: np.ndarray, dtype: DType, op: int) -> None:
    one = OneStep(np.random.default_rng(0))
    one.step(Kernel.RANDOM, [one.operand(seed, broadcast=False)], [one.result((4,), dtype)], {"op": op})
    for isa in isas():
        with pytest.raises(SardonyxError):
            one.run(isa)
