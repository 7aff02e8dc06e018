"""Feeds and results beside onnxruntime's, in one process: what is accepted, what is refused and how, what comes back."""
from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import sardonyx
from onnx import TensorProto

from . import models

X = np.arange(6, dtype=np.float32).reshape(2, 3)
#: onnxruntime raises plain RuntimeError for Python objects it can make no tensor of; ours is InvalidArgument.
ALLOWED = {"RuntimeError": (ValueError, RuntimeError), "ValueError": (ValueError,), "TypeError": (TypeError,), "AttributeError": (TypeError,)}


@cache
def both(make: Any, *args: Any) -> tuple[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = make(*args)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]), sardonyx.InferenceSession(data, providers=["ReferenceExecutionProvider"])


def outcome(session: Any, names: Any, feed: Any) -> Any:
    try:
        return session.run(names, feed)
    except Exception as error:
        return error


def same(theirs: Any, ours: Any) -> None:
    assert type(ours) is type(theirs), (theirs, ours)
    if isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)
        assert ours.flags.writeable and ours.flags.c_contiguous
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(theirs, ours, strict=True):
            same(a, b)
    else:
        assert ours == theirs


def agree(make: Any, names: Any, feed: Any, *args: Any) -> Any:
    """Both give the same results, or both refuse with the same class."""
    theirs, ours = (outcome(s, names, feed) for s in both(make, *args))
    if not isinstance(theirs, Exception):
        assert not isinstance(ours, Exception), ours
        same(theirs, ours)
    else:
        assert isinstance(ours, Exception), (theirs, ours)
        kind = type(theirs).__name__
        assert isinstance(ours, ALLOWED[kind]) if kind in ALLOWED else type(ours).__name__ == kind, (theirs, ours)
        assert isinstance(ours, sardonyx.errors.SardonyxError)
    return ours


@pytest.mark.parametrize("names", [None, [], ["q"], ["q", "z"], ["q", "q"], ("q",), "q", ["nope"], ["q", "nope"], 5])
def test_output_names(names: Any) -> None:
    agree(models.add_mul, names, {"x": X, "y": X})


@pytest.mark.parametrize("feed", [
    {"x": X}, {}, None, {"x": X, "y": X, "bad": X}, {"x": X, "bad": X}, {1: X, "y": X}, {"x": X, "y": X, "w": np.array([5], np.float32)}, {"x": X, "y": X, "w": np.ones(2, np.float32)},
    {"x": X[0], "y": X}, {"x": np.ones((2, 4), np.float32), "y": X}, {"x": X.T, "y": X.T}, {"x": X, "y": X[:1]}, {"x": np.ones((0, 3), np.float32), "y": np.ones((0, 3), np.float32)},
    {"x": [[1.0, 2, 3]], "y": [[1, 2, 3]]}, {"x": [[1, 2], [3]], "y": X}, {"x": [["a", "b", "c"]], "y": X}, {"x": "abc", "y": X}, {"x": 3.0, "y": X}, {"x": np.array([["a"] * 3]), "y": X},
    {"x": np.asfortranarray(X), "y": np.concatenate([X, X])[::2]}, {"x": object(), "y": X}, {"x": {"a": 1}, "y": X}])
def test_feeds_of_a_plain_model(feed: Any) -> None:
    agree(models.add_mul, ["z", "q"], feed)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "longlong", "ulonglong", "intc",
                                   "complex64", "datetime64[s]", "S3"])
def test_dtypes(dtype: str) -> None:
    ours = agree(models.identity, None, {"x": np.zeros(2, dtype)})
    if isinstance(ours, Exception):
        assert "float" in str(ours) and "'x'" in str(ours) and ".astype(np.float32)" in str(ours)


@pytest.mark.parametrize("value", [[1.5], [1.0], [True], [], ["a"], [np.int64(3)], [2**63], [2**70], [None], [float("nan")] * 0, np.array([3], np.int32)])
def test_lists_for_int64(value: Any) -> None:
    agree(models.identity, None, {"x": value}, TensorProto.INT64, (None,))


@pytest.mark.parametrize("value", [[1], [255], [256], [-1], [1.5]])
def test_lists_for_uint8(value: Any) -> None:
    agree(models.identity, None, {"x": value}, TensorProto.UINT8, (None,))


@pytest.mark.parametrize("value", [[np.ones(2), np.ones(2)], [[1], [2]], [], [[]], ["a"], [1.5, 2], [1e300], [[1, 2], 3]])
def test_lists_for_float(value: Any) -> None:
    with np.errstate(over="ignore"):
        agree(models.identity, None, {"x": value})


@pytest.mark.parametrize("value", [np.array(["a", "bé"]), ["a", "b"], np.array(["a", None], object), np.array([1, 2], object), [1], ["a", 1], np.array([1.0]), np.array([], object)])
def test_strings(value: Any) -> None:
    agree(models.identity, None, {"x": value}, TensorProto.STRING, (None,))


@pytest.mark.parametrize("value", [np.array(5), [5], np.array([5, 6]), np.array(5, np.int32)])
def test_scalars_have_no_rank_check(value: Any) -> None:
    agree(models.identity, None, {"x": value}, TensorProto.INT64, ())


@pytest.mark.parametrize("value", [[True, False], [1, 0], np.array([1, 0], np.uint8)])
def test_bools(value: Any) -> None:
    agree(models.identity, None, {"x": value}, TensorProto.BOOL, (None,))


@pytest.mark.parametrize("feed", [
    {"s": [X[0], X], "i": np.array(1)}, {"s": [X.astype(np.float64)], "i": np.array(0)}, {"s": X, "i": np.array(0)}, {"s": [X], "i": np.array([0])}, {"s": [X, X[:1]], "i": np.array(-1)}])
def test_sequences(feed: Any) -> None:
    theirs, ours = (outcome(s, None, feed) for s in both(models.sequences))
    assert isinstance(ours, Exception) == isinstance(theirs, Exception), (theirs, ours)
    if not isinstance(theirs, Exception):
        same(theirs, ours)


def test_maps() -> None:
    agree(models.zipmap, None, {"x": X[:, :2].copy()})
    agree(models.vectorizer, None, {"x": {1: 2.0, 2: 3.0}})
    agree(models.vectorizer, None, {"x": {1: 2}})
    agree(models.vectorizer, None, {"x": {"a": 2.0}})
    agree(models.vectorizer, None, {"x": [{1: 2.0}]})


@pytest.mark.parametrize("feed", [{"x": None}, {"x": np.ones(2, np.float32)}, {}, {"x": np.ones(2)}, {"x": np.ones(3, np.float32)}])
def test_optionals(feed: Any) -> None:
    agree(models.optional, None, feed)


def test_more_than_onnxruntime_takes() -> None:
    session = sardonyx.InferenceSession(models.add_mul(), providers=["reference"])
    swapped = X.astype(">f4")
    np.testing.assert_array_equal(session.run(["z"], {"x": swapped, "y": X})[0], 2 * X)
    np.testing.assert_array_equal(session.run(["z"], {"x": ((1, 2, 3),), "y": ((1, 2, 3),)})[0], [[2, 4, 6]])
    text = sardonyx.InferenceSession(models.identity(TensorProto.STRING, (None,)), providers=["reference"])
    assert text.run(None, {"x": np.array([b"a", "bé".encode()])})[0].tolist() == ["a", "bé"]
    assert text.run(None, {"x": np.array(["a"], object)})[0].dtype == object
    scalar = sardonyx.InferenceSession(models.identity(TensorProto.INT64, ()), providers=["reference"])
    assert scalar.run(None, {"x": 5})[0] == 5 and scalar.run(None, {"x": np.int64(5)})[0].shape == ()
    small = sardonyx.InferenceSession(models.identity(TensorProto.BFLOAT16, (None,)), providers=["reference"])
    assert small.run(None, {"x": np.ones(2, ml_dtypes.bfloat16)})[0].dtype == ml_dtypes.bfloat16
    with pytest.raises(sardonyx.errors.InvalidArgument, match="holds a list where a string must be"):
        text.run(None, {"x": ["a", ["b"]]})  # onnxruntime makes the string "['b']" of it
    with pytest.raises(sardonyx.errors.InvalidArgument, match=r"\.view\(ml_dtypes.bfloat16\)"):
        small.run(None, {"x": np.ones(2, np.uint16)})


def test_messages_name_the_thing_and_the_remedy() -> None:
    session = sardonyx.InferenceSession(models.add_mul(), providers=["reference"])
    for feed, words in [({"x": X}, [r"Required inputs (['y'])", "x: float[batch, 3]"]), ({"x": X, "y": X, "b": X}, ["Invalid input name: b", "y: float["]),
                        ({"x": X.astype(float), "y": X}, ["tensor(double)", "tensor(float)", ".astype(np.float32)", "'x'"]),
                        ({"x": X[0], "y": X}, ["Invalid rank for input: x Got: 1 Expected: 2", "float[batch, 3]", "np.newaxis"]),
                        ({"x": X[:, :2], "y": X}, ["Got invalid dimensions for input: x", "index: 1 Got: 2 Expected: 3", "float[batch, 3]"])]:
        with pytest.raises(ValueError) as caught:
            session.run(None, feed)
        for word in words:
            assert word in str(caught.value)


def test_results_share_no_memory() -> None:
    session = sardonyx.InferenceSession(models.constant_output(), providers=["reference"])
    x = np.ones(3, np.float32)
    y, v, again = session.run(["y", "v", "v"], {"x": x})
    for array in (y, v):
        array[:] = 7
    assert x.tolist() == [1, 1, 1] and again.tolist() == [1, 1, 1]
    assert session.run(["v"], {"x": x})[0].tolist() == [1, 1, 1]
    assert y.flags.owndata and v.flags.owndata
