"""`python -m tests.bench.roofline`: webgpu/ROOFLINE.md, what the yardstick models cost on a GPU and what stated GPUs should reach. Counting, no timing: the recordings are those a real GPU
gets (default tiles, WebGPU's default limits), bound for the yardsticks' inputs; operations and bytes are plan/costs.py's, of every step.

A step takes the longest of its operations at the GPU's arithmetic peak, its bytes at the memory's peak, and nothing else; every dispatch adds what starting one costs. So the times are
lower bounds. `reach` is what we hold ourselves to: 60 % of the arithmetic peak in products and convolutions, 75 % of the memory's.
"""
from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx.plan.costs import costs
from sardonyx.plan.planner import Plan
from sardonyx.program import Home
from sardonyx.webgpu.kernels.bytes import BYTES
from sardonyx.webgpu.recording import Recording
from sardonyx.webgpu.steps import Sizes
from sardonyx.webgpu.wgsl.storage import word_bytes

from tests.webgpu.paper import recorded

from .workloads import YARDSTICKS, Workload

TARGET = Path(__file__).resolve().parents[2] / "webgpu" / "ROOFLINE.md"
#: What a product or convolution may hope for of the arithmetic peak, and anything of the memory's.
ARITHMETIC, MEMORY = 0.6, 0.75


@dataclass(frozen=True)
class Gpu:
    """TFLOP/s in float32 outside of matrix units (WGSL has none), GB/s, microseconds a dispatch costs inside a pass; `source` of the figures."""

    name: str
    tflops: float
    gbytes: float
    dispatch: float
    source: str


GPUS = (
    Gpu("H100 SXM", 66.9, 3350, 2.0, "NVIDIA's data sheet (FP32 67 TFLOP/s, 3.35 TB/s)"),
    Gpu("Apple M2", 3.6, 100, 3.0, "Apple's announcement (3.6 TFLOP/s, 100 GB/s)"),
    Gpu("phone", 2.0, 67, 8.0, "assumed: 2 TFLOP/s, LPDDR5X-8400 on 64 bits = 67 GB/s"),
)


@dataclass
class Bound:
    """A program of a workload at its sizes."""

    plan: Plan
    recording: Recording
    table: list[int]

    @property
    def dispatches(self) -> list[str]:
        """Labels of those that have something to do."""
        return [d.label for d in self.recording.dispatches if self.table[d.groups] > 0]

    @property
    def weights(self) -> int:
        """Bytes of constants on the GPU."""
        return sum(c.bytes().nbytes for c in self.recording.constants)

    @property
    def slabs(self) -> int:
        """Bytes of a run's memory on the GPU, made for exactly these sizes."""
        return sum(s.bytes(self.table) for s in self.recording.slabs)

    @property
    def live(self) -> int:
        """The largest live set: inputs and outputs, and at the worst step the intermediates that are still needed (8-bit ones as bytes, as they lie where their writers can do it)."""
        program, ends, sizes = self.plan.program, {}, {}
        types: dict[int, Any] = {}
        for view in program.views:
            types.setdefault(view.buffer, view.dtype)
        for number, step in enumerate(program.steps):
            for view in (*step.inputs, *step.outputs):
                if view >= 0 and (home := Home(program.buffers[row := program.views[view].buffer][0])) is not Home.DATA:
                    first, _ = ends.get(row, (number, number))
                    ends[row] = (first, number) if home is Home.ARENA else (-1, len(program.steps))
                    sizes[row] = self.table[program.buffers[row][2]] // types[row].numpy.itemsize * word_bytes(types[row], home is Home.INPUT or (home is Home.ARENA and types[row] in BYTES))
        return max(sum(sizes[r] for r, (first, last) in ends.items() if first <= n <= last) for n in range(len(program.steps)))


def bound(workload: Workload) -> Bound:
    """The workload's one program, bound for its inputs."""
    found = list(recorded(workload.path(), cpu=False))
    assert len(found) == 1, f"{workload.name} is {len(found)} programs"
    plan, recording, sizes = found[0]
    feed = workload.feed()
    inputs = [np.asarray(feed[plan.program.strings[p.name]]) for p in plan.program.inputs]
    return Bound(plan, recording, bind(sizes, inputs))


def bind(sizes: Sizes, inputs: list[np.ndarray]) -> list[int]:
    """The size table for these inputs."""
    return sizes.table.bind([x.shape for x in inputs], inputs)


def row(workload: Workload) -> str:
    """The workload's line of the table."""
    made = bound(workload)
    spent = costs(made.plan.program, made.table)
    operations, moved = sum(c.operations for c in spent), sum(c.bytes for c in spent)
    labels = made.dispatches
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(label.split(" ")[0] for label in labels).most_common())
    cells = [workload.name, f"{len(labels)} ({kinds})",
             f"{operations / 1e9:.3g}", f"{moved / 1e6:.1f}", f"{made.weights / 1e6:.1f}", f"{made.slabs / 1e6:.2f} / {made.live / 1e6:.2f}", f"{operations / moved:.1f}"]
    for gpu in GPUS:
        best = sum(max(c.operations / (gpu.tflops * 1e12), c.bytes / (gpu.gbytes * 1e9)) for c in spent) * 1e3
        reach = sum(max(c.operations / (gpu.tflops * 1e12 * ARITHMETIC), c.bytes / (gpu.gbytes * 1e9 * MEMORY)) for c in spent) * 1e3 + len(labels) * gpu.dispatch / 1e3
        cells.append(f"{best:.3g} / {reach:.3g}")
    return f"| {' | '.join(cells)} |"


def document() -> str:
    """The whole file."""
    lines, left = [], []
    for workload in YARDSTICKS:
        try:
            lines.append(row(workload))
        except Exception as reason:  # what has no recording is said, with the reason
            left.append(f"- {workload.name}: {type(reason).__name__}: {str(reason)[:200]}")
    titles = ["workload", "dispatches", "GFLOP", "MB moved", "MB weights", "MB memory / live", "FLOP/byte", *(f"{g.name}: bound / reach, ms" for g in GPUS)]
    parts = ["# Roofline of the WebGPU provider", "",
             "Written by `python -m tests.bench.roofline` from the recordings a GPU gets. Nothing here was timed: there is no GPU in our CI. `web-demo`'s benchmark page measures yours.", "",
             "MB moved: every operand and result of every kernel once. Memory: what the program's buffers take at these sizes, beside the largest live set. "
             "*bound*: the longer of arithmetic and memory at "
             f"peak, kernel by kernel. *reach*: at {ARITHMETIC:.0%} of the arithmetic and {MEMORY:.0%} of the memory peak, plus the cost of every dispatch; what a tuned kernel set should get.", "",
             f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *lines, "", "GPUs:", "",
             *(f"- {g.name}: {g.tflops} TFLOP/s float32, {g.gbytes} GB/s, {g.dispatch} µs a dispatch (assumed). {g.source}." for g in GPUS)]
    if left:
        parts += ["", "No recording as one program:", "", *left]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())
    sys.stdout.write(TARGET.read_text())
