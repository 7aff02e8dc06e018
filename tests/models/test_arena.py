"""Working memory: the arena of every program of the public models and of the yardsticks is at most 1.15 × the largest set of bytes that are alive at once."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sardonyx.converter.options import ConvertOptions
from sardonyx.converter.pipeline import ConvertReport, prepare
from sardonyx.engine.binding import EngineProgram
from sardonyx.plan.planner import Plan
from sardonyx.program import ALIGN, Home, Program
from sardonyx.providers.base import RunContext
from sardonyx.providers.engine import accepts
from sardonyx.providers.segmented import SegmentedExecutor

from ..bench.workloads import BERT, LLAMA, MOBILENET, RESNET
from .inputs import SCRIPTS, play
from .registry import MODELS, fetch

QUICK = ("magika", "ocr-cls", "silero-vad", "silero-vad-op15", "silero-vad-half", "silero-vad-ifless", "tashkeel-rawi", "romanizer-decoder", "surfaces-k-neighbors")


def memory(program: Program, sizes: list[int]) -> tuple[int, int]:
    """(arena, the most bytes alive at a step), in place of each other counted once, each buffer's end rounded up to where another may begin."""
    spans: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(program.steps):
        for view in (*step.inputs, *step.outputs):
            if view >= 0 and program.buffers[row := program.views[view].buffer][0] == Home.ARENA:
                spans[row] = (spans.get(row, (number, number))[0], number)
    most = 0
    for number in range(len(program.steps)):
        end = alive = 0
        for begin, length in sorted((sizes[program.buffers[row][1]], sizes[program.buffers[row][2]]) for row, (first, last) in spans.items() if first <= number <= last):
            stop = begin + -(-length // ALIGN) * ALIGN
            alive += max(0, stop - max(begin, end))
            end = max(end, stop)
        most = max(most, alive)
    return sizes[program.arena] if program.arena >= 0 else 0, most


class _Measured:
    """The engine, and what each of its runs takes."""

    def __init__(self, plan: Plan, found: list[tuple[int, int]]) -> None:
        self.program, self.found, self.engine = plan.program, found, EngineProgram(plan.program, plan.constants, threads=1)

    def run(self, inputs: list[np.ndarray], *, terminated: Callable[[], bool] | None = None) -> list[np.ndarray]:
        """A run."""
        self.found.append(memory(self.program, self.program.bind([x.shape for x in inputs], inputs)))
        return self.engine.run(inputs)


def check(path: Path, script: Callable[[], Any]) -> None:
    """Every program that the script's runs come through."""
    model = prepare(str(path), ConvertOptions(), ConvertReport())
    found: list[tuple[int, int]] = []
    executor = SegmentedExecutor(model, "measured", lambda plan: _Measured(plan, found), accepts=lambda ranges: accepts)
    play(script(), lambda feed: executor.run([np.asarray(feed[v.name]) for v in executor.inputs], range(len(model.graph.outputs)), RunContext()))
    assert found
    assert all(arena <= 1.15 * alive for arena, alive in found), max(found, key=lambda pair: pair[0] / max(pair[1], 1))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SCRIPTS if n in MODELS])
def test_public_models(name: str) -> None:
    check(fetch(name), SCRIPTS[name])


@pytest.mark.parametrize("workload", [MOBILENET, BERT, pytest.param(RESNET, marks=pytest.mark.slow), pytest.param(LLAMA, marks=pytest.mark.slow)], ids=lambda w: w.file)
def test_yardsticks(workload: Any) -> None:
    check(workload.path(), lambda: (feed for feed in (workload.feed(),)))
