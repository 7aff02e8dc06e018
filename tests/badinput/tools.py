"""What the tests of bad input share: opening, and saying which error with which words is expected."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sardonyx
from sardonyx.errors import SardonyxError

from tests.api import models

F, I64 = np.float32, np.int64
MIN, MAX = -(2**63), 2**63 - 1
FLOAT, INT64, STRING, BOOL = models.FLOAT, models.INT64, models.STRING, models.BOOL
node, vi, model = models.node, models.vi, models.model


def session(source: Any, limit: int | None = None) -> Any:
    """A session on the reference operators; `limit`: its session.memory_limit."""
    options = sardonyx.SessionOptions()
    if limit is not None:
        options.add_session_config_entry("session.memory_limit", str(limit))
    return sardonyx.InferenceSession(source, options, providers=["reference"])


def refused(kind: type, *words: str) -> Any:
    """A context in which an error of this class is raised that says all the words; `caught.value` afterwards."""
    return _Refused(kind, words)


class _Refused:
    def __init__(self, kind: type, words: tuple[str, ...]) -> None:
        self.kind, self.words, self.inner = kind, words, pytest.raises(kind)

    def __enter__(self) -> Any:
        return self.inner.__enter__()

    def __exit__(self, *error: Any) -> Any:
        said, passed = error[1], self.inner.__exit__(*error)
        assert isinstance(said, SardonyxError), f"{type(said).__name__} is not one of sardonyx's errors"
        for word in self.words:
            assert word in str(said), f"{word!r} is not in: {said}"
        return passed


def one(op_type: str, constants: dict[str, np.ndarray] | None = None, *, inputs: dict[str, Any] | None = None, out: int | None = FLOAT, outputs: int = 1, domain: str = "", opset: int = 20,
        **attributes: Any) -> bytes:
    """A model of one node. inputs: {name: (type, shape)}, x: float of unknown rank where not given; the constants come after them."""
    given = {"x": (FLOAT, None)} if inputs is None else inputs
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    made = node(op_type, [*given, *(constants or {})], names, domain=domain, **attributes)
    return model([made], [vi(n, t, s) for n, (t, s) in given.items()], [vi("y", out, None)], constants or {}, opset)
