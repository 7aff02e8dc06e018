"""What callers feed and ask for by mistake: each is refused with the input's name, what it must be, and how to get there; or taken, where its meaning is plain.
(tests/api/test_feeds.py holds the same beside onnxruntime.)"""
from __future__ import annotations

import decimal
import fractions
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import sardonyx
from onnx import TensorProto
from sardonyx.errors import InvalidArgument

from tests.api import models

from .tools import BOOL, FLOAT, INT64, STRING, F, refused, session

X = np.arange(6, dtype=F).reshape(2, 3)


class Sub(np.ndarray):
    """An array of a subclass."""


def read_only(array: np.ndarray) -> np.ndarray:
    made = array.copy()
    made.flags.writeable = False
    return made


@pytest.mark.parametrize(("dtype", "value", "words"), [
    (FLOAT, X.astype(np.float64), ["tensor(double)", ".astype(np.float32)"]), (FLOAT, X.astype(np.float16), ["tensor(float16)"]), (FLOAT, X.astype(np.int64), ["tensor(int64)"]),
    (FLOAT, X.astype(ml_dtypes.bfloat16), ["tensor(bfloat16)"]), (BOOL, np.array([0, 1], np.uint8), ["tensor(uint8)", ".astype(np.bool_)"]),
    (TensorProto.UINT8, np.array([True]), ["tensor(bool)", ".astype(np.uint8)"]),
    (TensorProto.INT8, np.array([1], np.uint8), ["tensor(uint8)"]), (INT64, np.array([True]), ["tensor(bool)"]),
    (INT64, np.array([1], np.int32), ["tensor(int32)", ".astype(np.int64)"]),
    (FLOAT, np.array(["1.5"]), ["tensor(string)", ".astype(np.float32)"]), (FLOAT, np.array([1.5, None], object), ["tensor(string)"]),
    (STRING, X, ["tensor(float)", ".astype(object)"]),
    (FLOAT, np.zeros(2, "M8[s]"), ["datetime64"]), (FLOAT, np.zeros(2, [("a", F)]), ["'a'"]), (FLOAT, np.zeros(2, "V4"), ["V4"]),
    (TensorProto.DOUBLE, np.zeros(2, np.longdouble), ["float128", ".astype(np.float64)"]),
    (FLOAT, np.float64(1), ["tensor(double)"]), (FLOAT, None, ["None"]), (FLOAT, {"a": 1}, ["dict"]), (FLOAT, {1.0}, ["set", "numpy array"]), (FLOAT, range(3), ["range"]),
    (FLOAT, (i for i in range(3)), ["generator"]),
    (FLOAT, object(), ["object"]), (FLOAT, 1j, ["complex"]), (FLOAT, "abc", ["str"]), (FLOAT, b"abc", ["bytes"]), (FLOAT, [1, "a"], ["str"]), (FLOAT, [[1, 2], [3]], ["ragged"]),
    (FLOAT, fractions.Fraction(1, 2), ["Fraction"]),
    (FLOAT, decimal.Decimal("1.5"), ["Decimal"]), (FLOAT, memoryview(X), ["memoryview", "numpy array"]), (TensorProto.UINT8, [256], ["0 to 255", "256"]),
    (TensorProto.INT8, [-129], ["-128 to 127"]), (INT64, [2**63], ["int64"]),
    (INT64, float("nan"), ["nan"]), (INT64, ["a"], ["str"]), (STRING, ["a", ["b"]], ["list", "string"]),
    (FLOAT, sardonyx.OrtValue.ortvalue_from_numpy(X.astype(np.float64)), ["tensor(double)", ".astype(np.float32)"])])
def test_wrong_elements(dtype: int, value: Any, words: list[str]) -> None:
    with refused(InvalidArgument, "'x'", *words) as caught:
        session(models.identity(dtype)).run(None, {"x": value})
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) < 500


@pytest.mark.parametrize(("dtype", "value", "expected"), [
    (FLOAT, np.asfortranarray(X), X), (FLOAT, X[:, ::2], X[:, ::2]), (FLOAT, X[::-1], X[::-1]), (FLOAT, np.broadcast_to(F(3), (2, 2)), np.full((2, 2), 3, F)),
    (FLOAT, X.astype(">f4"), X),
    (INT64, np.arange(3, dtype=">i8"), np.arange(3)), (FLOAT, read_only(X), X), (FLOAT, X.view(Sub), X), (FLOAT, np.matrix(X), X), (FLOAT, np.ma.masked_array(X, mask=X > 3), X),
    (FLOAT, np.ones((0, 3), F), np.ones((0, 3), F)),
    (FLOAT, [], np.ones(0, F)), (FLOAT, [[], []], np.ones((2, 0), F)), (INT64, [], np.ones(0, np.int64)), (FLOAT, 1.5, np.array(1.5, F)), (FLOAT, 1, np.array(1, F)),
    (FLOAT, True, np.array(1, F)), (BOOL, True, np.array(True)),
    (FLOAT, F(2), np.array(2, F)), (INT64, [1.0, 2.0], np.array([1, 2])), (FLOAT, ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]], F)), (FLOAT, [X, X], np.stack([X, X])),
    (STRING, "a", np.array("a", object)), (STRING, b"\xff", np.array("\udcff", object)),
    (STRING, np.array(["a\0b\0"], object), np.array(["a\0b\0"], object)), (STRING, [], np.ones(0, object)), (FLOAT, sardonyx.OrtValue.ortvalue_from_numpy(X), X)])
def test_plain_meanings(dtype: int, value: Any, expected: np.ndarray) -> None:
    made, = session(models.identity(dtype)).run(None, {"x": value})
    assert type(made) is np.ndarray and made.dtype == expected.dtype and made.dtype.isnative and made.flags.writeable and made.flags.c_contiguous and made.flags.owndata
    np.testing.assert_array_equal(made, expected)
    assert made.shape == expected.shape


def test_feeds_are_not_written_to() -> None:
    feed = {"x": np.ones(3, F)}
    session(models.scaled()).run(None, feed)[0][:] = 7
    assert feed["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("feed", "words"), [
    ({"x": X}, ["Required inputs (['y'])", "y: float["]), ({}, ["Required inputs (['x', 'y'])"]), ({"x": X, "Y": X}, ["['y']"]),
    ({"x": X, "y": X, "z": X}, ["Invalid input name: z", "The inputs are x: float[batch, 3]"]),
    ({"x": X, "y": X, 5: X}, ["Invalid input name: 5"]), ({"x": X[0], "y": X}, ["Invalid rank for input: x Got: 1 Expected: 2", "array[np.newaxis]"]),
    ({"x": X[None], "y": X}, ["Got: 3 Expected: 2", "float[batch, 3]"]),
    ({"x": np.float32(1), "y": X}, ["Got: 0 Expected: 2"]), ({"x": X.T.copy(), "y": X}, ["Got invalid dimensions for input: x", "index: 1 Got: 2 Expected: 3"]),
    ({"x": X, "y": X, "w": np.ones(2, F)}, ["input: w", "index: 0 Got: 2 Expected: 1"]),
    (None, ["must be a dict", "NoneType"]), ([X, X], ["must be a dict", "list"]), (X, ["must be a dict", "ndarray"])])
def test_wrong_feeds(feed: Any, words: list[str]) -> None:
    with refused(InvalidArgument, *words):
        session(models.add_mul()).run(None, feed)


@pytest.mark.parametrize(("names", "words"), [(["nope"], ["Invalid output name: nope", "The outputs are z, q"]), (["q", "x"], ["Invalid output name: x"]),
    ("q", ["list of names", "'q'"]), (5, ["list of names"]), ([None], ["None"]), ([["q"]], ["q"])])
def test_wrong_output_names(names: Any, words: list[str]) -> None:
    with refused(InvalidArgument, *words):
        session(models.add_mul()).run(names, {"x": X, "y": X})


@pytest.mark.parametrize(("names", "count"), [(None, 2), ([], 2), (["q", "q", "z", "q"], 4), (("z",), 1), (iter(["q"]), 1), ({"q": 1}, 1)])
def test_output_names_that_are_right(names: Any, count: int) -> None:
    results = session(models.add_mul()).run(names, {"x": X, "y": X})
    assert len(results) == count
    for i, result in enumerate(results):
        assert not any(np.shares_memory(result, other) for other in results[i + 1:])


def test_run_options_of_another_type() -> None:
    made = session(models.scaled())
    for options in ("fast", {}, sardonyx.SessionOptions()):
        with refused(InvalidArgument, "run_options must be RunOptions"):
            made.run(None, {"x": np.ones(3, F)}, options)
