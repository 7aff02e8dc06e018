"""Every executor against the whole backend suite. A case that failed before and passes now, or the other way round, fails the test:
`make conformance` rewrites the lists of known failures and COVERAGE.md after a deliberate change."""
from __future__ import annotations

import numpy as np
import pytest

from .executors import EXECUTORS, known_failures
from .runner import run_suite
from .suite import load

TOTAL = 2033


@pytest.mark.parametrize("executor", [pytest.param(name, marks=[pytest.mark.slow] if name in ("pyodide", "chromium-webgpu", "wgpu") else []) for name in sorted(EXECUTORS)])
def test_backend_suite(executor: str) -> None:
    cases = load()
    assert len(cases) == TOTAL, "the pinned onnx package has 2,033 cases"
    results = run_suite(executor, range(len(cases)))
    failed = {cases[i].name: why for i, why in results.items() if why}
    known = known_failures(executor)
    new = {name: why for name, why in failed.items() if name not in known}
    print(f"{executor}: {len(cases) - len(failed)} of {len(cases)} passed")
    assert not new, f"{len(new)} cases regressed: {dict(list(new.items())[:20])}"
    stale = sorted(name for name in set(known) - set(failed) if not known[name].startswith(("random", "timeout")))  # a draw may match by chance, a quiet machine be quick enough
    assert not stale, f"known failures that pass now (run `make conformance`): {stale}"


def test_sequence_of_scalars_that_onnx_cannot_compare() -> None:
    case = next(c for c in load() if c.name == "test_loop16_seq_none")
    inputs, (expected,) = case.sets[0]
    (made,) = EXECUTORS["reference"](case, inputs)
    assert len(made) == len(expected)
    for got, want in zip(made, expected, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
