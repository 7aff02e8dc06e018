"""The modules under node: alone, and with 1 and 3 workers on shared memory, bit for bit the same."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sardonyx.providers.interpreter import Interpreter

from tests.engine.models import MODELS, feeds, planned

from .machine import BUILDS
from .node import NODE, Case, run

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


def cases(runs: int, budget: int = 0) -> list[Case]:
    made = []
    for name in MODELS:
        plan, given = planned(name), feeds(name, np.random.default_rng(5))
        want = Interpreter(plan.program, plan.constants).run(given)
        made.append(Case(name, plan.program, plan.constants, given, want, runs, budget))
    return made


@pytest.mark.parametrize("build", BUILDS)
def test_workers(build: str, tmp_path: Path) -> None:
    """Without threads, with shared memory and 0, 1 and 3 workers: all results are the same bytes, run after run, and everything is given back."""
    given = cases(8)
    alone = run(given, tmp_path, build)
    for workers in (0, 1, 3):
        made = run(given, tmp_path, f"{build}-threads", workers)
        for case, a, b in zip(given, alone["cases"], made["cases"], strict=True):
            assert a["same"] and b["same"], case.name
            for want, x, y in zip(case.outputs, a["outputs"], b["outputs"], strict=True):
                assert x.tobytes() == y.tobytes(), f"{case.name}, {workers} workers"
                np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


def test_yields(tmp_path: Path) -> None:
    """A budget of a nanosecond returns after every step, and changes no result."""
    for build, workers in (("simd128", 0), ("simd128-threads", 2)):
        for case, found in zip(cases(2), run(cases(2, 1), tmp_path, build, workers)["cases"], strict=True):
            assert found["yields"] >= len(case.program.steps) // 2
            for want, y in zip(case.outputs, found["outputs"], strict=True):
                np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
