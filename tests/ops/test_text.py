"""Strings: against onnxruntime where it has the operator, by hand where the dialects of regular expressions differ."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sardonyx.errors import InvalidGraph
from sardonyx.errors import NotImplemented as NotImplementedHere
from sardonyx.ops import lookup


def op(name: str, *inputs: Any, **attributes: Any) -> Any:
    return lookup("", name)(*inputs, **attributes)


def strings(*words: Any) -> np.ndarray:
    return np.array(words, object)


def onnxruntime_s(name: str, x: np.ndarray, outputs: list[int], **attributes: Any) -> list[Any]:
    kind = TensorProto.STRING if x.dtype == object else helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(name, ["x"], [f"o{k}" for k in range(len(outputs))], **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, [None] * x.ndim)],
                              [helper.make_tensor_value_info(f"o{k}", t, None) for k, t in enumerate(outputs)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return list(onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x}))


@settings(max_examples=60, deadline=None)
@example([" a b  ", "", " "], "", 1)
@given(st.lists(st.text("ab, ", max_size=9), min_size=1, max_size=5), st.sampled_from(["", ",", ", ", " "]), st.sampled_from([None, 1, 2]))
def test_string_split(words: list[str], delimiter: str, maxsplit: int | None) -> None:
    options = {"delimiter": delimiter} | ({} if maxsplit is None else {"maxsplit": maxsplit})
    for made, expected in zip(op("StringSplit", strings(*words), **options), onnxruntime_s("StringSplit", strings(*words), [TensorProto.STRING, TensorProto.INT64], **options), strict=True):
        assert made.shape == expected.shape and (made == expected).all(), (words, made, expected)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["TF", "IDF", "TFIDF"]), st.integers(0, 3), st.booleans())
def test_tfidf(seed: int, mode: str, skips: int, text: bool) -> None:
    rng = np.random.default_rng(seed)
    grams = [np.unique(rng.integers(0, 4, (4, n)), axis=0) for n in (1, 2, 3)]
    pool = np.concatenate([g.ravel() for g in grams]).tolist()
    total = sum(map(len, grams))
    X = rng.integers(0, 5, (3, int(rng.integers(0, 9))) if rng.random() < 0.7 else 7)
    low = int(rng.integers(1, 4))
    words = np.array(list("abcde"), object)
    attributes = {"mode": mode, "max_skip_count": skips, "min_gram_length": low, "max_gram_length": int(rng.integers(low, 4)), "ngram_counts": [0, grams[0].size, grams[0].size + grams[1].size],
                  "ngram_indexes": rng.permutation(total).tolist(), "weights": rng.uniform(1, 2, total).tolist(),
                  **({"pool_strings": words[pool].tolist()} if text else {"pool_int64s": pool})}
    X = words[X] if text else X
    made = op("TfIdfVectorizer", X, **attributes)
    expected, = onnxruntime_s("TfIdfVectorizer", X, [TensorProto.FLOAT], **attributes)
    assert made.dtype == expected.dtype and made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_string_normalizer() -> None:
    X = strings("Monday", "tuesday", "MONDAY")
    assert op("StringNormalizer", X, stopwords=["monday"]).tolist() == ["tuesday"]
    assert op("StringNormalizer", X, stopwords=["Monday"], is_case_sensitive=1, case_change_action="UPPER").tolist() == ["TUESDAY", "MONDAY"]
    assert op("StringNormalizer", X[None], stopwords=["monday", "tuesday"]).tolist() == [[""]]
    with pytest.raises(InvalidGraph, match="case_change_action"):
        op("StringNormalizer", X, case_change_action="TITLE")
    with pytest.raises(InvalidGraph, match="shape"):
        op("StringNormalizer", strings(["a"], ["b"]))


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    (r"\d+", ["12"], ["١٢", "", "1a"]), (r"\w*\z", ["ab_1"], ["é"]), (r"[[:alpha:]-]+", ["a-B"], ["a1"]), (r"[^[:digit:]]", ["x"], ["4"]), (r"\Qa.b\E+", ["a.bb", "a.b"], ["axb"]),
    (r"(?P<n>a)(?:b|c)", ["ab", "ac"], ["a"]), (r"(?<n>a)", ["a"], ["b"]), (r"\x{41}\x42", ["AB"], ["ab"]), (r"a|ab", ["a", "ab"], ["abb"]), (r"(?i)aB", ["Ab"], ["ac"]), (r"a$", ["a"], ["a\n"]),
    (r"(?s).", ["\n", "é"], [""]), (r"\(\?=x\)", ["(?=x)"], ["x"]),
])
def test_regular_expressions_are_re2_s(pattern: str, yes: list[str], no: list[str]) -> None:
    X = strings(*yes, *no)
    made = op("RegexFullMatch", X, pattern=pattern)
    assert made.tolist() == [True] * len(yes) + [False] * len(no)
    assert onnxruntime_s("RegexFullMatch", X, [TensorProto.BOOL], pattern=pattern)[0].tolist() == made.tolist()


@pytest.mark.parametrize(("pattern", "error"), [(r"(a)\1", InvalidGraph), (r"a(?=b)", InvalidGraph), (r"(?<!a)b", InvalidGraph), (r"(a", InvalidGraph), (r"[[:nope:]]", InvalidGraph),
                                                (r"\pL", NotImplementedHere), (r"(?U)a+", NotImplementedHere)])
def test_expressions_that_are_refused(pattern: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="pattern"):
        op("RegexFullMatch", strings("a"), pattern=pattern)


def test_concatenation_broadcasts() -> None:
    assert op("StringConcat", strings(["a"], ["b"]), strings("x", "y")).tolist() == [["ax", "ay"], ["bx", "by"]]
    made = op("StringConcat", np.array("a", object), np.array("é", object))
    assert made.shape == () and made.dtype == object and made.item() == "aé"
