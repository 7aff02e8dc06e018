"""Strings: StringConcat, StringNormalizer, StringSplit, RegexFullMatch, TfIdfVectorizer. A string tensor is an object array of `str`."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..dim import fresh
from ..errors import NotImplemented as NotImplementedHere
from ..types import DType
from .common import broadcast_shapes
from .registry import Spec, operator, require


@operator()
def StringConcat(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """X followed by Y, element by element, broadcasting."""
    return np.asarray(np.add(X, Y), object)


@StringConcat.shape
def _(X: Spec, Y: Spec) -> Spec:
    return Spec(DType.STRING, broadcast_shapes(X.shape, Y.shape))


_CASES: dict[str, Callable[[str], str]] = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


@operator()
def StringNormalizer(X: np.ndarray, *, case_change_action: str = "NONE", is_case_sensitive: int = 0, locale: str = "en_US", stopwords: Sequence[str] = ()) -> np.ndarray:
    """X ([C] or [1, C]) without the stop words, then in another case. Where nothing is left: one empty string. Unicode's case rules, whatever the locale."""
    require(X.ndim == 1 or (X.ndim == 2 and X.shape[0] == 1), f"X must have shape [C] or [1, C], not {list(X.shape)}")
    require(case_change_action in _CASES, f"case_change_action is '{case_change_action}'; it must be NONE, LOWER or UPPER")
    change, fold = _CASES[case_change_action], str if is_case_sensitive else str.lower
    stop = {fold(word) for word in stopwords}
    kept = [change(word) for word in X.ravel() if fold(word) not in stop] or [""]
    return _strings(kept).reshape((1,) * (X.ndim - 1) + (-1,))


@StringNormalizer.shape
def _(X: Spec, *, case_change_action: str = "NONE", is_case_sensitive: int = 0, locale: str = "en_US", stopwords: Sequence[str] = ()) -> Spec:
    if X.shape is None:
        return Spec(DType.STRING)
    require(len(X.shape) in (1, 2), f"X must have shape [C] or [1, C], not {X}")
    size = X.shape[-1]
    if stopwords or size == 0 or not isinstance(size, int):
        size = fresh(lower=1)
    return Spec(DType.STRING, (*X.shape[:-1], size))


@operator()
def StringSplit(X: np.ndarray, *, delimiter: str = "", maxsplit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(Y [*X, most parts] padded with "", Z int64 [*X] numbers of parts). No delimiter: runs of white space split and the ends are stripped.

    An empty string has no parts, as in onnxruntime; the specification does not say.
    """
    limit = -1 if maxsplit is None else maxsplit
    parts = [(s.split(delimiter, limit) if delimiter else s.strip().split(None, limit)) if s else [] for s in X.ravel()]
    counts = np.array([len(p) for p in parts], np.int64)
    width = int(counts.max(initial=0))
    Y = _strings(word for p in parts for word in (*p, *[""] * (width - len(p))))
    return Y.reshape(*X.shape, width), counts.reshape(X.shape)


@StringSplit.shape
def _(X: Spec, *, delimiter: str = "", maxsplit: int | None = None) -> tuple[Spec, Spec]:
    shape = None if X.shape is None else (*X.shape, fresh(upper=None if maxsplit is None else maxsplit + 1))
    return Spec(DType.STRING, shape), Spec(DType.INT64, X.shape)


@operator()
def RegexFullMatch(X: np.ndarray, *, pattern: str | None = None) -> np.ndarray:
    """Whether each string matches the RE2 `pattern` from beginning to end."""
    require(pattern is not None, "the attribute 'pattern' is required")
    assert pattern is not None
    match = _regex(pattern).fullmatch
    return np.array([match(s) is not None for s in X.ravel()], np.bool_).reshape(X.shape)


@RegexFullMatch.shape
def _(X: Spec, *, pattern: str | None = None) -> Spec:
    return Spec(DType.BOOL, X.shape)


_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7F", "blank": r"\t ", "cntrl": r"\x00-\x1F\x7F", "digit": "0-9", "graph": "!-~", "lower": "a-z",
    "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}
_TOKEN = re.compile(r"\\Q(?P<quoted>.*?)(?:\\E|\Z)|\\x\{(?P<code>[0-9A-Fa-f]+)\}|\\(?P<escape>.)|\[:(?P<posix>\^?\w+):\]|\(\?(?P<group>P?[<=!>(]+|[A-Za-z]*U[A-Za-z]*)", re.DOTALL)


@lru_cache(64)
def _regex(pattern: str) -> re.Pattern[str]:
    """The RE2 pattern for Python's `re`. The dialects differ in few tokens (https://github.com/google/re2/wiki/Syntax): \\z, \\Q…\\E, \\x{…}, POSIX classes;
    \\d \\w \\s \\b know ASCII only. What RE2 lacks (look-around, references to groups) is refused, what Python lacks (\\p classes) is NotImplemented."""
    def token(found: re.Match[str]) -> str:
        text = found.group()
        if found["quoted"] is not None:
            return re.escape(found["quoted"])
        if found["code"] is not None:
            return re.escape(chr(int(found["code"], 16)))
        if found["posix"] is not None:
            name = found["posix"]
            require(name in _POSIX, f"pattern {pattern!r}: RE2 has no character class {text}")
            return _POSIX[name]
        if found["escape"] is not None:
            if found["escape"] in "pPC":
                raise NotImplementedHere(f"pattern {pattern!r}: {text} is not supported; write the characters out, e.g. [A-Za-z]")
            require(not found["escape"].isdigit() or found["escape"] == "0", f"pattern {pattern!r}: RE2 has no references to groups ({text})")
            return r"\Z" if found["escape"] == "z" else text
        if found["group"] == "<":
            return "(?P<"
        if found["group"] == "P<":
            return text
        if "U" in found["group"]:
            raise NotImplementedHere(f"pattern {pattern!r}: the flag U (swap greediness) is not supported")
        require(False, f"pattern {pattern!r}: RE2 has no {text}")
        return text
    try:
        return re.compile(_TOKEN.sub(token, pattern), re.ASCII)
    except re.error as error:
        require(False, f"pattern {pattern!r} is not a valid regular expression: {error}")
        raise


@operator()
def TfIdfVectorizer(X: np.ndarray, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: Sequence[int], ngram_indexes: Sequence[int],
                    pool_int64s: Sequence[int] = (), pool_strings: Sequence[str] = (), weights: Sequence[float] = ()) -> np.ndarray:
    """Counts of the pool's n-grams in each row of X ([C] or [N, C], integers or strings), skips 0 … max_skip_count between items; float32 [max index + 1] or [N, …]."""
    require(X.ndim in (1, 2), f"X must have shape [C] or [N, C], not {list(X.shape)}")
    require(mode in ("TF", "IDF", "TFIDF"), f"mode is '{mode}'; it must be TF, IDF or TFIDF")
    require(bool(pool_int64s) != bool(pool_strings), "exactly one of pool_int64s and pool_strings must be given")
    rows, pool = _codes(np.atleast_2d(X), pool_strings or pool_int64s)
    counts = np.zeros((len(rows), len(ngram_indexes)), np.int64)
    first = 0
    for n, (begin, end) in enumerate(zip(ngram_counts, [*ngram_counts[1:], len(pool)], strict=True), 1):
        grams = pool[begin:end].reshape(-1, n)
        if min_gram_length <= n <= max_gram_length and len(grams):
            _count(rows, grams, max_skip_count if n > 1 else 0, counts[:, first:first + len(grams)])
        first += len(grams)
    require(first == len(ngram_indexes), f"ngram_indexes has {len(ngram_indexes)} elements for {first} n-grams in the pool")
    scale = np.asarray(weights if weights and mode != "TF" else np.ones(first), np.float32)
    Y = np.zeros((len(rows), max(ngram_indexes) + 1), np.float32)
    np.add.at(Y.T, np.asarray(ngram_indexes), ((np.minimum(counts, 1) if mode == "IDF" else counts) * scale).T)
    return Y if X.ndim == 2 else Y[0]


@TfIdfVectorizer.shape
def _(X: Spec, *, max_gram_length: int, max_skip_count: int, min_gram_length: int, mode: str, ngram_counts: Sequence[int], ngram_indexes: Sequence[int],
      pool_int64s: Sequence[int] = (), pool_strings: Sequence[str] = (), weights: Sequence[float] = ()) -> Spec:
    require(X.shape is None or len(X.shape) in (1, 2), f"X must have shape [C] or [N, C], not {X}")
    return Spec(DType.FLOAT, None if X.shape is None else (*X.shape[:-1], max(ngram_indexes) + 1))


def _codes(X: np.ndarray, pool: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """X and the pool with items replaced by numbers 0, 1 …; -1 for items that are not in the pool."""
    code = {item: i for i, item in enumerate(dict.fromkeys(pool))}
    flat = np.array([code.get(item, -1) for item in X.ravel().tolist()], np.int64)
    return flat.reshape(X.shape), np.array([code[item] for item in pool], np.int64)


def _count(rows: np.ndarray, grams: np.ndarray, skips: int, counts: np.ndarray) -> None:
    """Add to counts [rows, grams] how often each gram occurs in each row, for every distance 1 … skips + 1 between its items.

    Grams are matched item by item: a prefix that some gram begins with has a number, and (prefix, next item) is looked up among the known pairs.
    """
    base = int(max(grams.max(), rows.max(initial=0))) + 2
    n = grams.shape[1]
    levels = []
    prefix = np.zeros(len(grams), np.int64)
    for k in range(n):
        known, prefix = np.unique(prefix * base + grams[:, k], return_inverse=True)
        levels.append(known)
    gram_of = np.empty(len(levels[-1]), np.int64)
    gram_of[prefix] = np.arange(len(grams))
    for distance in range(1, skips + 2):
        starts = rows.shape[1] - distance * (n - 1)
        if starts <= 0:
            break
        state = np.zeros((len(rows), starts), np.int64)
        for k, known in enumerate(levels):
            item = rows[:, k * distance:k * distance + starts]
            key = np.where((state >= 0) & (item >= 0), state * base + item, -1)
            place = np.searchsorted(known, key).clip(max=len(known) - 1)
            state = np.where(known[place] == key, place, -1)
        row, start = np.nonzero(state >= 0)
        np.add.at(counts, (row, gram_of[state[row, start]]), 1)


def _strings(words: Iterable[str]) -> np.ndarray:
    items = list(words)
    out = np.empty(len(items), object)
    out[:] = items
    return out
