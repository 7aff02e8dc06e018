"""A reduced run of run.py: 2,000 damaged files of each kind, only typed errors, in time and memory."""
from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest

from tests.fuzz import run


@pytest.mark.parametrize("kind", ["sdx", "onnx"])
def test_damaged_files(kind: str) -> None:
    run.watch()
    try:
        prepared = run.mutators(kind)
        outcomes = Counter((outcome if (outcome := run.check(kind, run.case(kind, prepared, 0, n))).split()[0] != "BAD" else f"case {n}: {outcome}") for n in range(2000))
    finally:
        tracemalloc.stop()
    assert not [o for o in outcomes if "BAD" in o], outcomes
    assert outcomes["opened"] + outcomes["ran"] > 100, "the damage should leave some files whole"
